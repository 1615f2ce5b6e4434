"""A slot whose rotation has failed is tried again: by the same daemon or the next, and never with a second snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Result, Step
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.support.daemons import (
    Line,
    Watched,
    a_world,
    configure,
    daemon_on,
    entry,
    kill,
    logged,
    look_around_less,
    power,
)
from tests.support.rotations import changed
from tests.support.virtual_time import START

pytestmark = pytest.mark.usefixtures("one_clock", "fewer_ticks")


@pytest.fixture
def fewer_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours pass between attempts."""
    look_around_less(monkeypatch, tick=121.3, leases=29.1, file=61.3, account=101.7)


SLOT = START.replace(minute=10)
NAME = snapshot_name("main", SLOT)
ONE_RETRY, SOON = "retry: {times: 1}", "retry: {times: 1, after: 5m}"
SELDOM = "poll_interval: 1m\n"

FAILED, AGAIN = (1, "scheduled", "failure", "03:10"), (2, "retry", "success")


def create(kind: str, **more: Any) -> Fault:
    return Fault(kind=kind, method="POST", path="/snapshots/", **more)


async def until(clock: str) -> None:
    hour, minute = map(int, clock.split(":"))
    await asyncio.sleep((START.replace(hour=hour, minute=minute) - datetime.now(UTC)).total_seconds())


async def rows(folder: Path) -> list[tuple[int, str, str | None, str]]:
    """Of each attempt its number, its kind, its result and when it was begun, oldest first."""
    async with await Ledger.open(folder / "state.db", owner="look", lock=False) as ledger:
        found = await ledger.history(limit=50)
    return [(one.attempt, str(one.kind), one.result, f"{one.started_at:%H:%M}") for one in reversed(found)]


def told(watched: Watched, name: str, *labels: str) -> float | None:
    return watched.value(f"snaprotd_{name}_total", *labels)


def names_of(world: World, status: str) -> list[str]:
    return [one.name for one in world.snapshots_of("12345") if one.status == status]


# -- when --------------------------------------------------------------------------------------------------------------


async def test_a_failed_slot_is_tried_again_and_counts_as_what_its_last_attempt_was(tmp_path: Path) -> None:
    async with daemon_on(configure(tmp_path, entry()), a_world(faults=[create("ends")])) as watched:
        await until("03:30")
        assert told(watched, "rotations", "s12345", "failure") == 0
        assert watched.value("snaprotd_last_failure_timestamp_seconds", "s12345") is None
        problem, _ = (await watched.daemon.view.status())["problems"]  # and that there is no snapshot yet
        assert problem["severity"] == "attention"
        assert problem["text"].endswith(
            f"at step wait: {NAME} ended as `failed`; tried again at Thu 2025-01-16 03:44 UTC"
        )
        await until("03:59")
        assert (await watched.daemon.view.status())["problems"] == []
        assert [told(watched, "rotations", "s12345", one) for one in ("success", "failure")] == [1, 0]
        attempts = watched.series("snaprotd_attempts_total")
        assert (attempts["scheduled", "failure"], attempts["retry", "success"]) == (1, 1)
    assert await rows(tmp_path) == [FAILED, (*AGAIN, "03:44")]


async def test_a_slot_has_failed_when_its_last_attempt_has(tmp_path: Path) -> None:
    world = a_world(faults=[create("ends", times=None)])
    path = configure(tmp_path, entry("10 3 * * *", "retry: {after: 5m}"), more=SELDOM)
    async with daemon_on(path, world) as watched:
        await until("03:50")
        assert told(watched, "rotations", "s12345", "failure") == 1
        assert (ended := watched.ended[-1].finished_at) is not None
        assert watched.value("snaprotd_last_failure_timestamp_seconds", "s12345") == ended.timestamp()
        assert (await watched.daemon.view.status())["state"] == "alarm"
    assert [one[:3] for one in await rows(tmp_path)] == [FAILED[:3], (2, "retry", "failure"), (3, "retry", "failure")]


async def test_what_ended_by_a_clock_that_was_ahead_hides_no_failure_and_no_other_attempt(tmp_path: Path) -> None:
    clock: Any = asyncio.get_running_loop()
    clock.set_wall_clock(36 * 3600.0)
    world, path = a_world(), configure(tmp_path, entry("10 * * * *", SOON))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(1800)
        clock.set_wall_clock(0.0)
        world.faults.append(create("ends", times=None))
        await until("03:58")
    async with daemon_on(path, world) as watched:
        assert (await watched.daemon.view.status())["servers"][0]["last"]["result"] == "success"
        await until("04:17")
        assert (await watched.daemon.view.status())["state"] == "attention"
        await until("04:50")
        assert (await watched.daemon.view.status())["state"] == "alarm"
    assert [one[:3] for one in await rows(tmp_path)] == [
        FAILED[:3],
        (2, "retry", "failure"),
        (1, "scheduled", "success"),
    ]


def full_of_others(world: World) -> None:
    for number in range(5):
        world.add_snapshot("12345", f"by-hand-{number}", created_at=START - timedelta(days=1))


def refused_as_wrong(world: World) -> None:
    world.faults.append(create("status", status=400, times=None))


def gone(world: World) -> None:
    world.servers.clear()


def refused_token(world: World) -> None:
    world.faults.append(create("status", status=401, times=2))


def silent(world: World) -> None:
    world.faults.append(create("status", status=503, times=3))


def does_not_stop(world: World) -> None:
    world.faults.append(power("stop_never", "stop"))


def in_progress_for_ever(world: World) -> None:
    world.faults.append(create("stuck"))


@pytest.mark.parametrize(
    ("befalls", "is_tried_again"),
    [
        (refused_token, True),
        (silent, True),
        (does_not_stop, True),
        (in_progress_for_ever, True),
        (full_of_others, False),
        (refused_as_wrong, False),
        (gone, False),
    ],
)
async def test_only_what_may_pass_is_tried_again(
    tmp_path: Path, befalls: Callable[[World], None], is_tried_again: bool
) -> None:
    world = a_world()
    befalls(world)
    path = configure(tmp_path, entry("10 3 * * *", "stop_first: true", SOON, "snapshot_timeout: 11m"), more=SELDOM)
    async with daemon_on(path, world) as watched:
        await until("03:55")
        assert len(watched.ended) == 1 + is_tried_again
        assert watched.ended[0].may_pass is is_tried_again
        assert not watched.daemon.board.held_off
        assert told(watched, "rotations", "s12345", "failure") == (watched.ended[-1].result == "failure")


async def test_no_attempt_begins_outside_the_window(tmp_path: Path) -> None:
    path = configure(tmp_path, entry("10 3 * * *", 'window: "03:00-03:40"'))
    async with daemon_on(path, a_world(faults=[create("ends")])) as watched:
        await until("03:20")
        assert told(watched, "rotations", "s12345", "failure") == 1
        await until("03:55")
    assert await rows(tmp_path) == [FAILED]


# -- the next process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("back_at", "begun"), [("03:20", "03:44"), ("03:50", "03:50")])
async def test_who_is_killed_between_two_attempts_is_followed_by_one_that_tries_again(
    tmp_path: Path, back_at: str, begun: str
) -> None:
    world, path = a_world(faults=[create("ends")]), configure(tmp_path, entry())
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await until("03:17")
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)
    await until(back_at)
    async with daemon_on(path, world) as later:
        await until("04:05")
        assert told(later, "rotations", "s12345", "failure") == 0
    assert await rows(tmp_path) == [FAILED, (*AGAIN, begun)]


async def test_of_two_processes_one_tries_again(tmp_path: Path) -> None:
    world, path = a_world(faults=[create("ends")]), configure(tmp_path, entry(), more=SELDOM)
    async with daemon_on(path, world) as one, daemon_on(path, world) as other:
        await until("04:05")
        assert [told(each, "rotations", "s12345", "failure") for each in (one, other)] == [0, 0]
    assert await rows(tmp_path) == [FAILED, (*AGAIN, "03:44")]
    assert len(world.created) == 2


# -- what the file wants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entries",
    [
        [entry("10 3 * * *", "paused: true")],
        [entry("11 3 * * *")],
        [entry("10 3 * * *", "retry: {times: 0}")],
        [entry("10 3 * * *", server_id="12346")],
    ],
    ids=["paused", "another schedule", "no retries", "another server"],
)
@pytest.mark.parametrize("restarts", [False, True])
async def test_nothing_is_tried_again_that_the_file_does_not_want(
    tmp_path: Path, entries: list[str], restarts: bool
) -> None:
    world, path = a_world("one", "two", faults=[create("ends")]), configure(tmp_path, entry())
    async with daemon_on(path, world) as watched:
        await until("03:20")
        if not restarts:
            configure(tmp_path, *entries)
            await until("03:58")
            assert told(watched, "rotations", "s12345", "failure") in (1, None)
    if restarts:
        configure(tmp_path, *entries)
        async with daemon_on(path, world) as watched:
            await until("03:58")
            assert watched.value("snaprotd_last_failure_timestamp_seconds", "s12345") or "12346" in entries[0]
    assert await rows(tmp_path) == [FAILED]


async def test_what_another_process_has_ended_a_moment_ago_takes_the_place_of_the_next_attempt(tmp_path: Path) -> None:
    world, path = a_world(faults=[create("ends")]), configure(tmp_path, entry())
    async with daemon_on(path, world) as watched:
        await until("03:20")
        due = watched.value("snaprotd_next_run_timestamp_seconds", "s12345") or 0.0
        await asyncio.sleep(due - datetime.now(UTC).timestamp() - 1)
        (failed,) = watched.ended
        async with await Ledger.open(tmp_path / "state.db", owner="a person", lock=False) as ledger:
            theirs = changed(failed, id="theirs", slot=SLOT + timedelta(minutes=7), kind=Kind.MANUAL)
            await ledger.claim(changed(theirs, step=Step.LOOK, result=None, finished_at=None))
            await ledger.save(changed(theirs, result=Result.SUCCESS, finished_at=datetime.now(UTC)))
        await until("03:58")
    assert {*await rows(tmp_path)} == {FAILED, (1, "manual", "success", "03:10")}


async def test_a_server_that_comes_back_into_the_file_is_not_tried_again(tmp_path: Path) -> None:
    world, path = a_world("one", "two", faults=[create("ends")]), configure(tmp_path, entry())
    async with daemon_on(path, world) as watched:
        await until("03:20")
        configure(tmp_path, entry(server_id="12346"))
        await until("03:25")
        configure(tmp_path, entry())
        await until("03:58")
        assert watched.value("snaprotd_last_failure_timestamp_seconds", "s12345") is not None
    assert await rows(tmp_path) == [FAILED]


# -- one snapshot a slot -----------------------------------------------------------------------------------------------

SLOW = ("snapshot_timeout: 1m", ONE_RETRY)


async def test_what_is_completed_after_all_is_adopted_and_prunes(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(300, 300))
    old = world.add_snapshot(
        "12345", snapshot_name("main", SLOT - timedelta(days=1)), created_at=SLOT - timedelta(days=1)
    )
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", *SLOW, "keep: 1")), world) as watched:
        await until("04:00")
        assert [one.result for one in watched.ended] == ["failure", "success"]
        assert watched.ended[1].deleted == (str(old.id),)
    assert await rows(tmp_path) == [FAILED, (*AGAIN, "03:41")]
    assert [one.name for one in world.snapshots_of("12345")] == [one.name for one in world.created] == [NAME]


async def test_what_is_still_in_progress_is_waited_for_while_the_server_runs(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(2400, 2400))
    path = configure(tmp_path, entry("10 3 * * *", *SLOW, "stop_first: true"))
    async with daemon_on(path, world) as watched:
        await until("03:45")
        assert world.status_of("12345") == "active"
        await until("04:10")
        assert [one.result for one in watched.ended] == ["failure", "success"]
    assert len(world.created) == 1


async def test_what_was_accepted_and_is_not_listed_yet_is_not_asked_for_again(tmp_path: Path) -> None:
    """Neither by the attempt whose answer was lost, nor by the next one: for forty minutes no list shows it."""
    unlisted = Fault(kind="empty", method="GET", path="/snapshots/", times=None)
    world = a_world(faults=[create("truncated"), unlisted])
    world.later(3000, lambda: world.faults.remove(unlisted))
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", *SLOW)), world) as watched:
        await until("04:05")
        assert [one.result for one in watched.ended] == ["failure", "success"]
    assert len(world.created) == 1


async def test_a_failed_one_makes_room_for_the_next_and_no_good_one_goes(tmp_path: Path, log: list[Line]) -> None:
    world = a_world(faults=[create("ends")])
    for days in range(1, 5):
        taken = SLOT - timedelta(days=days)
        world.add_snapshot("12345", snapshot_name("main", taken), created_at=taken)
    async with daemon_on(configure(tmp_path, entry()), world) as watched:
        await until("04:15")
        assert [one.result for one in watched.ended] == ["failure", "success"]
    assert len(names_of(world, "completed")) == 4
    gone = [one.snapshot.status for one in world.deleted]
    assert gone == ["failed", "completed"]
    assert not logged(log, "passed over: a snapshot bears our name, not in the ledger")


async def test_one_that_was_shown_as_failed_for_a_while_is_the_slots(tmp_path: Path) -> None:
    world = a_world(faults=[create("ends")])
    async with daemon_on(configure(tmp_path, entry()), world) as watched:
        await until("03:30")
        (one,) = world.created
        one.status = "completed"
        await until("04:00")
        assert watched.ended[-1].result == "success"
    assert len(world.created) == 1


async def test_one_that_is_shown_as_failed_for_a_moment_after_it_was_given_up_is_the_slots(tmp_path: Path) -> None:
    world = a_world(faults=[create("stuck")])
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", *SLOW)), world) as watched:
        await until("03:40")
        (one,) = world.created
        one.status = "failed"
        await until("03:43")
        one.status = "completed"
        await until("04:00")
        assert watched.ended[-1].result == "success"
    assert len(world.created) == 1


async def test_who_is_killed_in_the_second_attempt_is_followed_by_one_that_goes_on_with_it(tmp_path: Path) -> None:
    world, path = a_world(faults=[create("ends")]), configure(tmp_path, entry())
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await until("03:46")
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)
    async with daemon_on(path, world) as later:
        await until("04:15")
        assert (await later.daemon.view.status())["state"] == "ok"
        assert told(later, "rotations", "s12345", "failure") == 0
    assert await rows(tmp_path) == [FAILED, (*AGAIN, "03:44")]
    assert len(world.created) == 2


# -- too late ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_snapshot_that_comes_after_the_last_attempt_amends_its_result_and_prunes(
    tmp_path: Path, restarts: bool
) -> None:
    world = a_world(snapshot_seconds=(41, 41))
    old = world.add_snapshot(
        "12345", snapshot_name("main", SLOT - timedelta(days=1)), created_at=SLOT - timedelta(days=1)
    )
    keys = ("snapshot_timeout: 10s", "retry: {times: 0}", "keep: 1", 'window: "03:00-03:11"')
    path = configure(tmp_path, entry("10 3 * * *", *keys), more="poll_interval: 1s\n")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep((SLOT - datetime.now(UTC)).total_seconds() + 20)
        assert told(watched, "rotations", "s12345", "failure") == 1
        if not restarts:
            await until("03:13")
            (problem,) = (await watched.daemon.view.status())["problems"]
            assert problem["text"] == "snapshots of s12345 take 41 s, snapshot_timeout is 10 s"
            assert told(watched, "rotations", "s12345", "success") == 1
    async with daemon_on(path, world) as later:
        await until("03:15")
        assert (await later.daemon.view.status())["state"] != "alarm"
    assert await rows(tmp_path) == [(1, "scheduled", "success", "03:10")]
    assert [one.name for one in world.snapshots_of("12345")] == [one.name for one in world.created] == [NAME]
    assert [one.snapshot for one in world.deleted] == [old]


async def test_a_snapshot_that_comes_too_late_prunes_nothing_by_rules_that_were_edited_since(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(300, 300))
    for days in (1, 2):
        before = SLOT - timedelta(days=days)
        world.add_snapshot("12345", snapshot_name("main", before), created_at=before)
    keys = ("snapshot_timeout: 10s", "retry: {times: 0}")
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", *keys, "keep: 3"), more="poll_interval: 1s\n"), world):
        await asyncio.sleep((SLOT - datetime.now(UTC)).total_seconds() + 20)
        configure(tmp_path, entry("10 3 * * *", *keys, "keep: 1"), more="poll_interval: 1s\n")
        await until("03:25")
    assert await rows(tmp_path) == [(1, "scheduled", "failure", "03:10")]
    assert (len(world.created), world.deleted) == (1, [])
