"""Slots that come at a bad moment: while the clock was wrong, the ledger busy, the server out of the list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.claims import Claim, Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Reply, Request, World
from tests.support.daemons import Line, Watched, a_world, configure, daemon_on, entry, logged
from tests.support.virtual_time import START, true_time
from tests.support.world_transport import WorldTransport

MINUTE, HOUR = 60.0, 3600.0

pytestmark = pytest.mark.usefixtures("one_clock")


async def remember(folder: Path, seen_until: datetime, schedule: str = "UTC 10 3 * * * +0s") -> None:
    async with await Ledger.open(folder / "state.db", owner="before") as ledger:
        await ledger.set_marks([Mark(server_id="12345", seen_until=seen_until, schedule=schedule)])


# -- the clock was ahead once ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_ticks")
@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=400)])
async def test_a_mark_of_the_schedule_from_the_future_counts_as_now(
    tmp_path: Path, ahead: timedelta, log: list[Line]
) -> None:
    await remember(tmp_path, START + ahead)
    world, path = a_world(), configure(tmp_path, entry())
    for night in (0, 1):
        async with daemon_on(path, world) as watched:
            due = START + timedelta(days=night, minutes=10)
            assert watched.value("snaprotd_next_run_timestamp_seconds", "s12345") == due.timestamp()
            await asyncio.sleep((due - datetime.now(UTC)).total_seconds() + 15 * MINUTE)
            assert len(watched.ended) == 1
        if night == 0:
            await asyncio.sleep(23 * HOUR + 45 * MINUTE - 20 * MINUTE)
    assert len(world.created) == 2
    assert len(logged(log, "the mark of the schedule lies in the future: it counts as now")) == 1


# -- the clock is not the provider's -----------------------------------------------------------------------------------


def dated(world: World) -> WorldTransport:
    """Each answer says what the provider's clock shows."""

    def bend(_: Request, reply: Reply) -> Reply:
        return replace(reply, headers={**reply.headers, "Date": format_datetime(world.clock(), usegmt=True)})

    return WorldTransport(world, bend=bend)


async def clocks_told(watched: Watched) -> list[str]:
    problems = (await watched.daemon.view.status())["problems"]
    return [one["text"] for one in problems if "clock" in one["text"]]


@pytest.mark.usefixtures("few_ticks")
@pytest.mark.parametrize(
    ("ahead", "which", "when", "set_right_after"),
    [(260.0, "ahead of", "early", 5.1), (260.0, "ahead of", "early", 8.0), (-260.0, "behind", "late", 12.0)],
    ids=["before the slot is run", "and the slot comes once more", "over the slot"],
)
async def test_a_clock_that_is_minutes_wrong_is_told_and_no_slot_is_lost_or_run_twice_when_it_is_set_right(
    tmp_path: Path, ahead: float, which: str, when: str, set_right_after: float
) -> None:
    clock: Any = asyncio.get_running_loop()
    world = a_world(clock=true_time)
    clock.set_wall_clock(ahead)
    async with daemon_on(configure(tmp_path, entry("10 * * * *")), world, dated(world)) as watched:
        await asyncio.sleep(set_right_after * MINUTE)
        (told,) = await clocks_told(watched)
        assert told.startswith(f"the clock of this machine is 4 min {which} the provider's: ")
        assert told.endswith(f"slots come that much too {when}")
        clock.set_wall_clock(0.0)
        await asyncio.sleep(2 * MINUTE)
        assert await clocks_told(watched) == []
        await asyncio.sleep(70 * MINUTE)
    assert [one.name for one in world.created] == [f"snaprotd-main-20250116T0{hour}1000Z" for hour in (3, 4)]


# -- the ledger was busy ---------------------------------------------------------------------------------------


@contextmanager
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody makes a copy of the ledger: nothing can be claimed."""

    async def claim(*_: object, **__: object) -> Claim:
        raise LedgerError("the ledger cannot be used: database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "claim", claim)
        yield


@pytest.mark.parametrize("keys", [[], ["missed: skip"], ["spread: 5m"]])
async def test_a_slot_that_comes_while_the_ledger_is_busy_is_run_when_it_can_be_written(
    tmp_path: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch, log: list[Line]
) -> None:
    world = a_world()
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", *keys)), world) as watched:
        due = datetime.fromtimestamp(watched.value("snaprotd_next_run_timestamp_seconds", "s12345") or 0, UTC)
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds() - 5)
        with busy(monkeypatch):
            await asyncio.sleep(25)
            assert world.created == []
        await asyncio.sleep(20 * MINUTE)
        assert [one.slot for one in watched.ended] == [START + timedelta(minutes=10)]
    assert len(logged(log, "the slot could not be claimed")) == 1
    assert [one.name for one in world.created] == ["snaprotd-main-20250116T031000Z"]


async def test_of_the_slots_of_a_busy_hour_the_last_is_run_and_the_others_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = a_world()
    async with daemon_on(configure(tmp_path, entry("*/20 * * * *")), world) as watched:
        await asyncio.sleep(10 * MINUTE)
        with busy(monkeypatch):
            await asyncio.sleep(HOUR)
        await asyncio.sleep(9 * MINUTE)
        assert watched.value("snaprotd_missed_slots_total", "s12345", "skipped") == 2
        assert watched.value("snaprotd_missed_slots_total", "s12345", "ran_late") == 1
    assert [one.name for one in world.created] == ["snaprotd-main-20250116T040000Z"]


# -- the server left the list ----------------------------------------------------------------------------------


async def leave_for(world: World, seconds: float) -> None:
    gone = world.servers.pop("12345")
    await asyncio.sleep(seconds)
    world.servers["12345"] = gone


@pytest.mark.parametrize(("away_from", "away_for"), [(9.5, 30.0), (4.9, 60.0), (9.0, 50.0)])
async def test_a_server_that_leaves_the_list_for_half_a_minute_keeps_its_slot(
    tmp_path: Path, away_from: float, away_for: float
) -> None:
    world = a_world("web-01", "db-01")
    matching = '{match: "web-*", schedule: "10 3 * * *"}'
    async with daemon_on(configure(tmp_path, matching, more="discover_interval: 15s"), world) as watched:
        await asyncio.sleep(away_from * MINUTE)
        await leave_for(world, away_for)
        await asyncio.sleep(30 * MINUTE)
        assert [one.slot for one in watched.ended] == [START + timedelta(minutes=10)]
        assert watched.value("snaprotd_next_run_timestamp_seconds", "web-01") is not None


async def test_a_server_that_is_gone_for_good_is_looked_after_no_longer(tmp_path: Path) -> None:
    world = a_world("web-01", "db-01")
    matching = '{match: "web-*", schedule: "@yearly"}'
    async with daemon_on(configure(tmp_path, matching, more="discover_interval: 1m"), world) as watched:
        await asyncio.sleep(5 * MINUTE)
        del world.servers["12345"]
        await asyncio.sleep(8 * MINUTE)
        assert watched.series("snaprotd_server_info") == {}
