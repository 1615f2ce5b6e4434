"""When the next request may go out: our own rate, and the pauses that the provider asks for."""

from __future__ import annotations

import asyncio

LONGEST_PAUSE = 900.0
"""Seconds that everything pauses at the most for one 429, whatever its Retry-After says."""
PAUSE_UNTOLD = 5.0
"""Seconds to pause after a 429 without a Retry-After."""


class Pace:
    """A queue that lets `rate` requests a second through, evenly and in order, and none while a pause lasts.

    Evenly, for a bucket of `rate` permits lets nearly twice as many through in its first second.
    """

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._free_at = 0.0
        self._paused_until = 0.0

    def set_rate(self, rate: float) -> None:
        self._interval = 1 / rate

    async def turn(self) -> float:
        """Wait for a turn; the seconds that it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            turn = max(loop.time(), self._free_at, self._paused_until)
            self._free_at = turn + self._interval
            await asyncio.sleep(turn - loop.time())
            # A pause may have begun meanwhile. Who slept through its begin queues again: its end is no reason to go
            # out all at once.
            if self._paused_until <= turn:
                return loop.time() - began

    def pause(self, seconds: float | None) -> None:
        """Let nothing through for so long; None where the provider did not say. A longer pause stays in force."""
        length = min(PAUSE_UNTOLD if seconds is None else seconds, LONGEST_PAUSE)
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + length)
