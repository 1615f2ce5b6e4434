"""Requests that go out one after the other, with nobody else's queue between them."""

from __future__ import annotations

from collections.abc import Callable


class Series:
    """Requests that one turn has paid for: they go out one after the other, and wait for nobody else's."""

    def __init__(self, requests: int, end: Callable[[], None]) -> None:
        self._left = requests
        self._end = end
        self.is_whole = True
        """None of them had to wait, nor was a pause asked for meanwhile."""

    def end(self) -> None:
        """What is asked from now on has to wait for a turn of its own."""
        if self.is_whole:
            self.is_whole = False
            self._end()

    def spend(self) -> bool:
        """Whether one more may go out at once."""
        self._left -= 1
        if self._left < 0:
            self.end()
        return self.is_whole
