"""When what is waited for is asked about again: when it may have come, and no sooner than it is worth a request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from zlib import crc32

OFTEN = 3
"""The shortest interval is this part of `poll_interval`: a third."""
SHARES = (0.8, 0.9, 1.0)
"""Of the usual time: when a snapshot that its server is off for is asked about, which may be done sooner than most."""
PROBED = 5
"""One rotation in so many asks about a snapshot at the first of `SHARES`, though it never was done so soon."""
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


def when_to_look(took: Iterable[float | None], *, poll_interval: float, slot: str = "") -> tuple[float, ...]:
    """When a snapshot that nobody is off for is looked for, in seconds after it was asked for; () without a past.

    When the quickest were seen done, but for an odd one, and at the usual time; and a short interval before, for what
    is done at its first look may have been so for long. `slot`: the server's, by which some look far sooner: else
    nobody would see that its snapshots have become much faster.
    """
    known = sorted(seconds for seconds in took if seconds is not None and 0 < seconds <= LONGEST)
    if not known:
        return ()
    earliest, quick = SHARES[0] * median(known), known[(len(known) - 1) // 10]
    is_probe = bool(slot) and crc32(slot.encode()) % PROBED == 0
    first = earliest if is_probe else max(earliest, quick - poll_interval / OFTEN)
    return first, *(time for time in (quick, median(known)) if time > first)


def next_poll(
    waited: float, its_usual: float | None, *, poll_interval: float, is_off: bool, looks: Sequence[float] = ()
) -> float:
    """Seconds until a snapshot that was asked for `waited` seconds ago is looked for again.

    `is_off`: its server is off until it is done. Then it is asked about more often towards the end; else nobody waits
    but the next rotation, and it is asked about at its `looks`, in order, and then ever less often.
    """
    if its_usual is None:
        return poll_interval
    shortest = poll_interval / OFTEN
    if not is_off:
        over = min(waited - its_usual, poll_interval)
        return max(shortest, next((time - waited for time in (*looks, its_usual) if time > waited), over))
    first, *_, last = (share * its_usual for share in SHARES)
    if waited >= last:
        return widening(waited - last, poll_interval)
    if waited >= NEARLY * its_usual:
        return shortest
    if waited >= first:
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
