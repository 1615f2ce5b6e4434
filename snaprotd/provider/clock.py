"""How our wall clock stands to the provider's: slots are told by ours, and only another can tell that it is wrong."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime

AGREEING = 5
"""Answers in a row that say so: one may have come from a cache, with the date of another day."""
CURRENT = 900.0
"""Seconds after which an answer tells nothing any more."""
DATES_ARE_ROUND = 1.0
"""Seconds by which the date of an answer (RFC 9110, 6.6.1) may lie before it."""


class OtherClock:
    """The provider's, by the dates of its answers."""

    def __init__(self) -> None:
        self._ahead: deque[tuple[float, float]] = deque(maxlen=AGREEING)
        """By how many seconds ours was ahead at the least, each with the loop's time."""

    def note(self, date: datetime | None, *, sent: datetime, received: datetime) -> None:
        """Of one answer: its date, and what our clock showed before its request and after it."""
        if date is None:
            return
        most, least = (received - date).total_seconds(), (sent - date).total_seconds() - DATES_ARE_ROUND
        self._ahead.append((asyncio.get_running_loop().time(), max(least, min(0.0, most))))

    def ahead(self, *, agreeing: int = AGREEING) -> float:
        """By how many seconds ours is ahead, negative where it is behind: as little as the last answers allow for.

        Zero where they do not agree, or fewer than `agreeing` have come for a while.
        """
        since = asyncio.get_running_loop().time() - CURRENT
        told = [ahead for at, ahead in self._ahead if at >= since]
        if len(told) < agreeing:
            return 0.0
        return max(0.0, min(told)) or min(0.0, max(told))
