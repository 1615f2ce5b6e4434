"""The ledger's file is deleted or replaced while a daemon uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from snaprotd.core.rotation import Step
from snaprotd.ledger.salvage import salvaged
from tests.support.daemons import Line, Watched, a_world, configure, daemon_on, entry, kill, logged

pytestmark = pytest.mark.usefixtures("one_clock")

MINUTE, HOUR = 60.0, 3600.0


def deleted(path: Path) -> None:
    for one in path.parent.glob("state.db*"):
        one.unlink()


def replaced(path: Path) -> None:
    deleted(path)
    path.write_bytes(b"")


@pytest.mark.parametrize("lose", [deleted, replaced])
async def test_a_promise_is_written_again_within_seconds_and_kept_by_the_next_process(
    tmp_path: Path, log: list[Line], lose: Callable[[Path], None]
) -> None:
    world = a_world(snapshot_seconds=(900, 900))
    path = configure(tmp_path, entry("10 3 * * *", "stop_first: true"))
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.reaches(Step.WAIT)
    lose(tmp_path / "state.db")
    await asyncio.sleep(3.5)
    assert len(logged(log, "the ledger's file was deleted or replaced: it is written again from memory")) == 1
    assert [record.server_id for record in salvaged(tmp_path / "state.db")] == ["12345"]
    await kill(watched)
    running.cancel()
    assert world.status_of("12345") == "stopped"
    async with daemon_on(path, world) as after:
        await asyncio.sleep(40 * MINUTE)
        assert world.status_of("12345") == "active"
        assert [ended.result for ended in after.ended] == ["success"]
    assert len(world.created) == 1


@pytest.mark.usefixtures("few_ticks", "silence")
@pytest.mark.parametrize("lose", [deleted, replaced])
async def test_a_rotation_goes_on_over_the_loss_of_its_ledger_and_the_next_slots_run(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    world = a_world()
    path = configure(tmp_path, entry("10 * * * *", "stop_first: true"))
    async with daemon_on(path, world) as watched:
        await watched.reaches(Step.WAIT)
        lose(tmp_path / "state.db")
        await asyncio.sleep(40 * MINUTE)
        assert world.status_of("12345") == "active"
        assert [ended.result for ended in watched.ended] == ["success"]
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
        await asyncio.sleep(2 * HOUR)
        assert [ended.result for ended in watched.ended] == ["success"] * 3
    assert len(world.created) == 3
    assert world.status_of("12345") == "active"
