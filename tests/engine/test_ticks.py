"""All that is polled is polled at the same ticks, and at each of them once."""

from __future__ import annotations

import asyncio

import pytest

from snaprotd.engine.tools import until_tick

INTERVAL = 15.0


@pytest.mark.parametrize(
    ("early", "after", "wait"),
    [
        (0.0, 0.0, INTERVAL),
        (6.0, 0.0, 6.0),
        (6.0, 7.0, 14.0),
        (1e-9, 0.0, INTERVAL),  # the timer rang a little too early: this is the tick
        (3.0, 3.0 - 1e-9, 1e-9),
    ],
)
async def test_the_next_tick_is_never_the_one_that_is_now(early: float, after: float, wait: float) -> None:
    await asyncio.sleep(INTERVAL - asyncio.get_running_loop().time() % INTERVAL + INTERVAL - early)
    assert until_tick(INTERVAL, after=after) == pytest.approx(wait, abs=1e-6)
