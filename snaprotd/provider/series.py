"""Requests that go out one after the other, with nobody else's queue between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Series:
    """Requests that one turn has paid for: they go out one after the other, and wait for nobody else's."""

    def __init__(self, requests: int, end: Callable[[], None]) -> None:
        self._left = requests
        self._end = end
        self._due = self._apart = 0.0
        self.is_whole = True
        """None of them had to wait, nor was a pause asked for meanwhile."""

    def begin(self, at: float, apart: float) -> None:
        """The first may go out then, by the loop's clock, and each other `apart` seconds after the one before."""
        self._due, self._apart = at, apart

    def end(self) -> None:
        """What is asked from now on has to wait for a turn of its own."""
        if self.is_whole:
            self.is_whole = False
            self._end()

    async def goes_on(self) -> bool:
        """Wait until one more may go out; False where it has to wait for a turn of its own."""
        self._left -= 1
        if self._left < 0:
            self.end()
        wait = self._due - asyncio.get_running_loop().time()
        self._due += self._apart
        if self.is_whole:
            await asyncio.sleep(max(wait, 0.0))
        return self.is_whole
