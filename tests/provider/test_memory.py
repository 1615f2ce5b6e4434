"""What earlier lists showed of a snapshot."""

from __future__ import annotations

import asyncio

from snaprotd.provider.memory import Memory
from tests.support.nouns import a_snapshot


async def test_how_long_a_state_has_lasted_is_counted_from_when_it_began() -> None:
    memory = Memory()
    seen = []
    for status, seconds in (("in_progress", 600), ("in_progress", 0), ("failed", 300), ("failed", 0), ("error", 0)):
        (one,) = memory.marked("12345", (a_snapshot(7, "snaprotd-main-20250116T033000Z", None, status=status),))
        seen.append((status, one.unchanged_for))
        await asyncio.sleep(seconds)
    assert seen == [("in_progress", 0), ("in_progress", 600), ("failed", 0), ("failed", 300), ("error", 0)]
