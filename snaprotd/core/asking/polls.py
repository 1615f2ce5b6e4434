"""When what is waited for is asked about again: when it may have come, and no sooner than it is worth a request."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

OFTEN = 3
"""The shortest interval is this part of `poll_interval`: a third."""
SHARES = (0.8, 0.9, 1.0)
"""Of the usual time: when a snapshot is asked about that may be done sooner than most."""
NEARLY = 0.95
"""Of the usual time: from then on a snapshot that its server is off for is asked about as often as can be."""
WIDENS = 4
"""An interval grows to this part of the time that was waited before it."""
FAR_BEYOND = 2
"""Times the usual one."""
LONGEST = 86400.0
"""Seconds: a row that tells of more is damaged, or tells nothing of the next snapshot."""
REMEMBERED = 15
"""Rotations whose snapshots tell how long the next one will take."""


def usual(took: Iterable[float | None]) -> float | None:
    """How long the snapshots of a server take, in seconds; None where no past one was watched to its end."""
    known = [seconds for seconds in took if seconds is not None and 0 < seconds <= LONGEST]
    return median(known) if known else None


def next_poll(waited: float, its_usual: float | None, *, poll_interval: float, is_off: bool) -> float:
    """Seconds until a snapshot that was asked for `waited` seconds ago is looked for again.

    `is_off`: its server is off until it is done. Then it is asked about more often towards the end.
    """
    if its_usual is None:
        return poll_interval
    shortest = poll_interval / OFTEN
    first, *_, last = (share * its_usual for share in SHARES)
    if waited >= last:
        return widening(waited - last, poll_interval)
    if is_off and waited >= NEARLY * its_usual:
        return shortest
    if is_off and waited >= first:
        return widening(waited - first, poll_interval / 2)
    return max(shortest, next(share * its_usual - waited for share in SHARES if share * its_usual > waited))


def next_look(waited: float, seen_for: float | None, *, poll_interval: float) -> float:
    """Seconds for which a server that is to run needs no look, after that there may be one at the next tick.

    `waited`: seconds for which it has been waited for; `seen_for`: seconds since it was first seen running, which one
    more look makes certain. Never below 0, however late that look is: there is a tick between two looks.
    """
    if seen_for is not None:
        return max(0.0, poll_interval - seen_for)
    return widening(waited, poll_interval) - poll_interval / OFTEN  # the tick before that, not the one after


def only_waits(waited: float, its_usual: float | None, *, timeout: float) -> bool:
    """Whether a snapshot has been waited for so far beyond its usual time that it keeps nobody from beginning any more.

    `timeout`: its policy's, in seconds, half of which it has where no past is known.
    """
    return waited > (timeout / 2 if its_usual is None else min(FAR_BEYOND * its_usual, timeout))


def widening(waited: float, longest: float) -> float:
    """Seconds of an interval that begins short, and grows with what was waited to `longest`, which is `poll_interval`
    or a part of it.
    """
    return min(max(longest / OFTEN, waited / WIDENS), longest)
