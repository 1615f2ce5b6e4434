"""Which slots are taken up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.daemons import ONE, a_world, daemon_on, write_config


async def test_a_slot_that_the_timer_tells_of_after_the_stop_is_not_taken_up(tmp_path: Path) -> None:
    async with daemon_on(write_config(tmp_path, ONE), a_world()) as watched:
        schedules = watched.daemon._schedules
        tell = schedules._timer._scheduler._lookup_executor("default")._due  # as the timer has it since it was made
        schedules.stop()
        tell("12345", watched.daemon._tools.now())
        await asyncio.sleep(1)
        assert watched.daemon.board.running == {}
    assert watched.world.created == []
