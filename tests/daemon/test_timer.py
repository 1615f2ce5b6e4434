"""The timer: servers of the same schedule share one job, and each is told what one of its own would tell it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from snaprotd.core.schedule import Schedule
from snaprotd.daemon.slots.timer import SlotTimer
from tests.support.virtual_time import START, VirtualLoop

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
HOURLY = Schedule.parse(["0 * * * *"], "UTC")
NIGHTLY = Schedule.parse(["30 3 * * *"], "UTC")
EVERY_TEN = Schedule.parse(["*/10 * * * *"], "UTC")
NONE = timedelta(0)

Told = list[tuple[str, datetime]]


@contextmanager
def a_timer() -> Iterator[tuple[SlotTimer, Told]]:
    """One that runs, and what it has told so far."""
    told: Told = []
    timer = SlotTimer(lambda server_id, slot: told.append((server_id, slot)))
    timer.start()
    try:
        yield timer, told
    finally:
        timer.stop()


def shift(by: timedelta) -> None:
    """Set the wall clock only."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._traveller.shift(by)


def jobs_of(timer: SlotTimer) -> int:
    return len(timer._scheduler.get_jobs())


async def test_servers_of_the_same_schedule_and_delay_share_one_job() -> None:
    with a_timer() as (timer, told):
        for number in range(300):
            timer.set(str(number), HOURLY, MINUTE * (number % 3), START + MINUTE * (number % 3))
        assert jobs_of(timer) == 3
        await asyncio.sleep(3600 * 2 + 300)
        for number in range(300):
            timer.remove(str(number))
        assert jobs_of(timer) == 0
    assert sorted(told) == sorted((str(one), START + HOUR * hour) for one in range(300) for hour in (1, 2))


async def test_who_comes_later_is_not_told_of_a_slot_from_before_for_which_others_wait() -> None:
    with a_timer() as (timer, told):
        timer.set("known", HOURLY, 20 * MINUTE, START + 20 * MINUTE)
        await asyncio.sleep(3600 + 600)  # the slot has passed, and its turn is yet to come
        timer.set("new", HOURLY, 20 * MINUTE, datetime.now(UTC) + 20 * MINUTE)
        assert timer.next_run("known") == START + HOUR + 20 * MINUTE
        assert timer.next_run("new") == START + 2 * HOUR + 20 * MINUTE
        await asyncio.sleep(1800)
        assert told == [("known", START + HOUR)]
        assert timer.next_run("known") == timer.next_run("new") == START + 2 * HOUR + 20 * MINUTE
        await asyncio.sleep(3600)
    assert sorted(told[1:]) == [("known", START + 2 * HOUR), ("new", START + 2 * HOUR)]


async def test_a_turn_that_has_passed_is_told_to_who_asks_for_it_and_to_nobody_twice() -> None:
    with a_timer() as (timer, told):
        timer.set("1", HOURLY, NONE, START)
        await asyncio.sleep(3600 + 60)
        timer.set("2", HOURLY, NONE, START)
        await asyncio.sleep(1)
    assert told == [("1", START + HOUR), ("2", START + HOUR)]


async def test_a_new_schedule_takes_the_place_of_the_one_before_also_where_others_keep_that() -> None:
    with a_timer() as (timer, told):
        for server_id in ("1", "2"):
            timer.set(server_id, HOURLY, NONE, START)
        timer.set("1", NIGHTLY, NONE, START)
        await asyncio.sleep(3600 + 1)
        timer.remove("2")
        assert (jobs_of(timer), timer.next_run("2")) == (1, None)
        await asyncio.sleep(3600)
    assert told == [("1", START + HOUR / 2), ("2", START + HOUR)]


async def test_a_server_that_is_told_an_error_leaves_the_others_of_its_schedule_told() -> None:
    told = []

    def due(server_id: str, slot: datetime) -> None:
        if server_id == "1":
            raise RuntimeError("a mistake of ours")
        told.append(server_id)

    timer = SlotTimer(due)
    for server_id in ("0", "1", "2"):
        timer.set(server_id, HOURLY, NONE, START)
    timer.start()
    await asyncio.sleep(2 * 3600 + 1)
    timer.stop()
    assert told == ["0", "2"] * 2


async def test_a_schedule_that_cannot_be_told_leaves_the_one_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    with a_timer() as (timer, told):
        timer.set("1", HOURLY, NONE, START)
        timer.set("1", Schedule(expressions=("0 0 31 2",), timezone="UTC"), NONE, START)
        await asyncio.sleep(3600 + 1)
    assert told == [("1", START + HOUR)]


@pytest.mark.parametrize("seed", range(6))
async def test_a_server_is_told_what_a_timer_of_its_own_would_tell_it(seed: int) -> None:
    """Whatever comes and goes beside it, and however the clock is set."""
    chance, servers = random.Random(seed), [str(one) for one in range(6)]
    own = {server_id: a_timer() for server_id in servers}
    alone = {server_id: timer.__enter__() for server_id, timer in own.items()}
    with a_timer() as (shared, told):
        for _ in range(60):
            server_id, now = chance.choice(servers), datetime.now(UTC)
            timers = (shared, alone[server_id][0])
            match chance.choice(("set", "set", "set", "remove", "clock", "wait")):
                case "set":
                    schedule, delay = chance.choice((HOURLY, NIGHTLY, EVERY_TEN)), chance.choice((NONE, 15 * MINUTE))
                    since = now + chance.choice((-90, -1, 0, 0, 15)) * MINUTE
                    for timer in timers:
                        timer.set(server_id, schedule, delay, since)
                case "remove":
                    for timer in timers:
                        timer.remove(server_id)
                case "clock":
                    shift(chance.choice((-61, -9, 9, 61)) * MINUTE)
                    for timer in (shared, *(timer for timer, _ in alone.values())):
                        timer.wakeup()
            await asyncio.sleep(chance.choice((1, 60, 1200, 5000)))
            next_runs = {one: timer.next_run(one) for one, (timer, _) in alone.items()}
            assert {one: shared.next_run(one) for one in servers} == next_runs
    for one in own.values():
        one.__exit__(None, None, None)
    assert len(told) > 10
    for server_id, (_, told_alone) in alone.items():
        assert [one for one in told if one[0] == server_id] == told_alone
