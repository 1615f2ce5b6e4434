"""Of the servers of a group no two are held off at once, in whatever process."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from snaprotd.commands.jobs.now import rotate_now
from snaprotd.config.file import load
from snaprotd.config.settings import resolve
from snaprotd.core.rotation import Result, Step
from snaprotd.simulator import World
from snaprotd.wiring.access import open_cloud
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, kill, power
from tests.support.virtual_time import START
from tests.support.world_transport import WorldTransport

MINUTE = 60.0

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks")

GROUP = ("stop_first: true", "one_at_a_time: db")


def members(count: int, *keys: str, first: int = 12345) -> list[str]:
    return [entry("10 3 * * *", *GROUP, *keys, server_id=str(first + number)) for number in range(count)]


def times_off(world: World) -> list[tuple[datetime, datetime]]:
    """From when until when each server was not running, in order of time."""
    found = []
    for server in world.servers.values():
        history = [*server.history, (datetime.now(UTC), "the end")]
        off = [at for at, status in history if status == "stopping"]
        on = [at for at, status in history[1:] if status in ("active", "the end")]
        found += [(begin, next(end for end in on if end > begin)) for begin in off]
    return sorted(found)


def none_overlap(world: World) -> bool:
    return all(end <= begin for (_, end), (begin, _) in pairwise(times_off(world)))


async def test_the_servers_of_a_group_have_their_turns_one_after_the_other(tmp_path: Path) -> None:
    world = a_world("db-01", "db-02", "db-03", "web", snapshot_seconds=(120, 120))
    free = entry("10 3 * * *", "stop_first: true", server_id="12348")
    async with daemon_on(configure(tmp_path, *members(3), free), world) as watched:
        await asyncio.sleep(29 * MINUTE)
        assert [one.result for one in watched.ended] == [Result.SUCCESS] * 4
    others = world.servers.pop("12348")
    assert others.history[1][0] < START + timedelta(minutes=11), "it is in no group"
    assert len(times_off(world)) == 3
    assert none_overlap(world)


async def test_two_daemons_on_one_ledger_hold_off_one_server_of_a_group_at_a_time(tmp_path: Path) -> None:
    world = a_world("db-01", "db-02", "db-03", snapshot_seconds=(60, 60))
    (one := tmp_path / "one").mkdir()
    (two := tmp_path / "two").mkdir()
    first = configure(one, *members(2))
    second = configure(two, *members(1, first=12347))
    second.write_text(second.read_text().replace(str(two / "state.db"), str(one / "state.db")))
    async with daemon_on(first, world), daemon_on(second, world, WorldTransport(world)):
        await asyncio.sleep(22 * MINUTE)
    assert len(times_off(world)) == 3
    assert none_overlap(world)


async def test_a_rotation_by_hand_waits_for_its_group_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world("db-01", "db-02", snapshot_seconds=(60, 60))
    reached = partial(open_cloud, transport=WorldTransport(world))
    path = configure(tmp_path, *members(1), entry("@yearly", *GROUP, server_id="12346"))
    settings, shown = load(path, {}), list[str]()
    async with daemon_on(path, world) as watched:
        await watched.reaches(Step.WAIT)
        monkeypatch.setattr("snaprotd.wiring.access.open_cloud", lambda *parts, **more: reached(*parts[:3], **more))
        (ended,) = await rotate_now(
            settings,
            {"VPS_API_TOKEN": world.token},
            resolve(settings, None)[1:],
            description="",
            show=lambda rotation, usual: shown.append(rotation.note),
            say=lambda text, *, is_last=False: None,
        )
    assert ended.result is Result.SUCCESS
    assert "waits in group `db` for s12345" in shown
    assert len(times_off(world)) == 2
    assert none_overlap(world)


async def test_by_hand_nobody_waits_for_a_server_that_no_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon that held it off is dead; whoever names both goes on with the first, and then takes the other's."""
    world = a_world("db-01", "db-02", snapshot_seconds=(60, 60))
    reached = partial(open_cloud, transport=WorldTransport(world))
    path = configure(tmp_path, *members(1), entry("@yearly", *GROUP, server_id="12346"))
    watched, settings = Watched(path, world), load(path, {})
    running = asyncio.create_task(watched.daemon.run())
    await watched.reaches(Step.WAIT)
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)
    monkeypatch.setattr("snaprotd.wiring.access.open_cloud", lambda *parts, **more: reached(*parts[:3], **more))
    quiet: dict[str, Any] = {"description": "", "show": lambda *_, **__: None, "say": lambda *_, **__: None}
    both = resolve(settings, None)
    (refused,) = await rotate_now(settings, {"VPS_API_TOKEN": world.token}, both[1:], **quiet)
    assert refused.refused == "s12345, of group `db`, is off, and nobody starts it: nothing was done"
    assert world.status_of("12345") == "stopped"
    endings = await rotate_now(settings, {"VPS_API_TOKEN": world.token}, both, **quiet)
    assert [one.result for one in endings] == [Result.SUCCESS] * 2
    assert none_overlap(world)


async def test_the_group_stays_taken_while_a_start_is_owed_and_its_slots_are_counted(tmp_path: Path) -> None:
    """Whoever waits too long lapses, and says why."""
    world = a_world("db-01", "db-02", snapshot_seconds=(60, 60), faults=[power("start_never", "start", times=None)])
    world.faults[0].server_id = "12345"
    late = entry("11,20 3 * * *", *GROUP, "missed_within: 15m", server_id="12346")
    async with daemon_on(configure(tmp_path, *members(1), late), world) as watched:
        await asyncio.sleep(23 * MINUTE)
        assert world.status_of("12345") == "stopped"
        assert watched.value("snaprotd_rotations_skipped_total", "s12346", "group") == 1
        (waits,) = [one for one in watched.daemon.board.running.values() if one.server_id == "12346"]
        assert waits.note == "waits in group `db` for s12345"
        await asyncio.sleep(5 * MINUTE)
        (lapsed,) = [one for one in watched.ended if one.server_id == "12346"]
        assert lapsed.result is Result.FAILURE
        assert lapsed.error == ("its slot is older than `missed_within` (15m); it has waited in group `db` for s12345")
        assert watched.value("snaprotd_rotations_skipped_total", "s12346", "group") == 2
        world.faults.clear()
        await asyncio.sleep(7 * MINUTE)
        assert world.status_of("12345") == "active"
    assert len(times_off(world)) == 1


async def test_a_window_that_closes_while_a_server_waits_for_its_group_lets_it_lapse(tmp_path: Path) -> None:
    world = a_world("db-01", "db-02", snapshot_seconds=(900, 900))
    async with daemon_on(configure(tmp_path, *members(2, 'window: "03:00-03:15"')), world) as watched:
        await asyncio.sleep(35 * MINUTE)
        results = {one.result: one.error for one in watched.ended}
    assert results.keys() == {Result.SUCCESS, Result.FAILURE}
    assert str(results[Result.FAILURE]).startswith(
        "outside its window 03:00-03:15, which opens Fri 2025-01-17 03:00 UTC"
    )
    assert len(times_off(world)) == 1
