"""No server is off because others are asked about: who would need more requests than there are waits its turn."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from snaprotd.core.rotation import Result, Step
from snaprotd.simulator import Fault, World
from tests.scenarios.test_groups import times_off
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, kill

MINUTE = 60.0

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks")

WAITS = "waits until what is asked about servers that are off leaves requests for it"


def slow(folder: Path, *entries: str, rate: float = 0.06) -> Path:
    """A configuration with so few requests a second that there are enough for one server that is off."""
    path = configure(folder, *entries, more="poll_interval: 60s")
    path.write_text(path.read_text().replace("requests_per_second: 100", f"requests_per_second: {rate}"))
    return path


def stopped(number: int, *keys: str, at: str = "10 3 * * *") -> str:
    return entry(at, "stop_first: true", *keys, server_id=str(12345 + number))


def none_meet(world: World) -> bool:
    """Nobody was asked to stop before the start of who came before had been asked for."""
    told = [[at for at, status in one.history if status in ("stopping", "starting")] for one in world.servers.values()]
    return all(start <= stop for (_, start), (stop, *_) in pairwise(sorted(filter(None, told))))


async def test_who_waits_is_shown_begins_in_its_turn_and_lapses_aloud(tmp_path: Path) -> None:
    world = a_world("web-01", "web-02", "web-03", snapshot_seconds=(120, 120))
    path = slow(tmp_path, stopped(0), stopped(1), stopped(2, "missed_within: 10m", "retry: {times: 0}"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(12 * MINUTE)
        notes = sorted(one.note for one in watched.daemon.board.running.values() if one.step is Step.LOOK)
        assert notes[-2:] == [WAITS, WAITS]
        while "12346" not in {one.server_id for one in watched.daemon.board.running.values() if one.note != WAITS}:  # noqa: ASYNC110
            await asyncio.sleep(1)
        assert world.status_of("12346") == "active", "it is let begin, and no longer shown as waiting"
        await asyncio.sleep(100 * MINUTE)
        ended = {one.server_id: one for one in watched.ended}
        assert [ended[one].result for one in ("12345", "12346")] == [Result.SUCCESS] * 2
        assert ended["12347"].result is Result.FAILURE
        assert ended["12347"].error == f"its slot is older than `missed_within` (10m); it {WAITS}"
        assert watched.value("snaprotd_rotations_skipped_total", "s12347", "rate") == 1
        assert watched.value("snaprotd_rotations_skipped_total", "s12346", "rate") == 0
    assert len(times_off(world)) == 2
    assert none_meet(world)


async def test_what_a_process_that_died_has_left_off_counts(tmp_path: Path) -> None:
    world = a_world("web-01", "web-02", snapshot_seconds=(1200, 1200))
    path = slow(tmp_path, stopped(0, "snapshot_timeout: 2h"), stopped(1, at="25 3 * * *"))
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.reaches(Step.WAIT)
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)
    async with daemon_on(path, world) as after:
        await asyncio.sleep(130 * MINUTE)
        assert [one.result for one in after.ended] == [Result.SUCCESS] * 2
    assert len(times_off(world)) == 2
    assert none_meet(world)


@pytest.mark.parametrize(("minutes", "skipped"), [(5, 0), (40, 1)])
async def test_who_waited_when_the_process_died_is_skipped_for_that_where_it_is_too_late_by_then(
    tmp_path: Path, minutes: int, skipped: int
) -> None:
    world = a_world("web-01", "web-02", snapshot_seconds=(120, 120))
    path = slow(tmp_path, stopped(0), stopped(1, "missed_within: 30m", "retry: {times: 0}"))
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await asyncio.sleep(12 * MINUTE)
    (waits,) = [one["running"] for one in (await watched.daemon.view.status())["servers"] if one["id"] == 12346]
    assert (waits["note"], waits["seconds"]) == (WAITS, 120)
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.sleep(minutes * MINUTE)
    async with daemon_on(path, world) as after:
        await asyncio.sleep(60 * MINUTE)
        ended = {one.server_id: one for one in after.ended}["12346"]
        assert ("resumed too late" in (ended.error or "")) == bool(skipped)
        assert after.value("snaprotd_rotations_skipped_total", "s12346", "rate") == skipped


async def test_a_snapshot_that_is_stuck_keeps_nobody_waiting_for_requests(tmp_path: Path) -> None:
    world = a_world("web-01", "web-02", snapshot_seconds=(120, 120))
    world.faults.append(Fault(kind="stuck", method="POST", path="/snapshots/", server_id="12345"))
    path = slow(tmp_path, stopped(0, "snapshot_timeout: 2h"), stopped(1))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(115 * MINUTE)
        assert [one.result for one in watched.ended if one.server_id == "12346"] == [Result.SUCCESS]
        (first, _), (second, _) = times_off(world)
        assert second - first >= timedelta(minutes=60), "it gave its place back when it was waited for in vain"


async def test_a_provider_that_refuses_everything_for_an_hour_keeps_nobody_waiting_for_ever(tmp_path: Path) -> None:
    world = a_world("web-01", "web-02", "web-03", snapshot_seconds=(120, 120))
    path = slow(tmp_path, stopped(0), stopped(1), stopped(2), rate=5)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(9.9 * MINUTE)
        world.faults.append(Fault(kind="status", status=429, retry_after="600", times=None))
        await asyncio.sleep(60 * MINUTE)
        world.faults.clear()
        await asyncio.sleep(60 * MINUTE)
        done = sorted(one.server_id for one in watched.ended if one.result is Result.SUCCESS)
        assert done == ["12345", "12346", "12347"]


async def test_what_stops_no_server_waits_for_none(tmp_path: Path) -> None:
    world = a_world("web-01", "web-02", "web-03", snapshot_seconds=(120, 120))
    live = [entry(server_id=one) for one in ("12346", "12347")]
    async with daemon_on(slow(tmp_path, stopped(0), *live), world) as watched:
        await asyncio.sleep(11 * MINUTE)
        assert [one.note for one in watched.daemon.board.running.values() if one.note] == []
        await asyncio.sleep(19 * MINUTE)
        assert [one.result for one in watched.ended] == [Result.SUCCESS] * 3
