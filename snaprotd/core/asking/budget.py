"""How many servers may be off at once, so that none of them waits for what is asked about the others.

What a server that is off waits for comes at two *moments*: its snapshot is asked for once it is seen off, and its start
once that is seen done. Both are seen at common ticks, so that many moments may be one burst. As many may be as the rate
leaves requests for; where there would be more, who has not begun yet waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from snaprotd.core.asking.polls import OFTEN, REMEMBERED, usual
from snaprotd.core.rotation import STEPS, Rotation, Step

POWER_TAKES = 30.0
"""Seconds that a stop or a start takes, where no past one of the server tells."""
SNAPSHOT_TAKES = 300.0
"""The same for a snapshot: the provider says three to ten minutes."""
CLOSE = 5.0
"""Seconds, at the least, within which moments are one burst."""
SHARE_OF_BURSTS = 0.5
"""The part of the rate that a burst may take: what is seen at one tick is asked for in half the time to the next."""
SHARE = 0.8
"""The part of the rate that may go to servers that are off; the rest is for whatever else is asked."""
SHARE_OF_READING = 0.1
"""The part of the rate that the reading of the whole account may take: as much as its class has for certain."""
SHARE_OF_READING_AT_WORK = 0.02
"""The same while as many rotations run as may: they look for themselves, and others wait for them."""
RARELY = 300.0
"""Seconds between two readings of the largest account."""
OWN = 3
"""Requests for each server that no other shares: its stop, its snapshot, its start."""
LOOKS = 8
"""Requests that a moment takes besides where each server is looked at singly: about five until it is seen off, or on,
and three until its snapshot is seen done."""
AGAIN = 2
"""Times that a list of all is read until it is whole: it changes between its pages while snapshots begin and end."""

BEFORE_THE_STOP = STEPS[: STEPS.index(Step.STOP)]


class Past:
    """How long a server's snapshots and stops take, as its rotations tell; as is assumed where they do not."""

    def __init__(self, earlier: Iterable[Rotation] = ()) -> None:
        """`earlier`: the newest first."""
        known = list(earlier)[:REMEMBERED]
        snapshot = usual(one.creation.took for one in known)
        stops = (each.seconds for one in known if one.power.off_for > 0 for each in one.trail if each.step is Step.STOP)
        self.is_known = snapshot is not None
        """Of its snapshots."""
        self.snapshot = SNAPSHOT_TAKES if snapshot is None else snapshot
        self.power = usual(stops) or POWER_TAKES

    @property
    def off(self) -> float:
        """Seconds for which the provider needs the server to be off."""
        return self.snapshot + 2 * self.power


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What there are requests for."""

    rate: float
    """Requests a second, as in force."""
    poll_interval: float
    pages: int
    """Of the lists of all servers and of all snapshots: one that all share takes so many requests."""

    @property
    def burst(self) -> float:
        """Seconds between two ticks at which servers that are off are looked at."""
        return max(self.poll_interval / OFTEN, CLOSE)

    @property
    def most_at_once(self) -> int:
        """How many moments may be one burst; one at the least. All share a list, or each is looked at singly."""
        there_are = SHARE_OF_BURSTS * self.rate * self.burst
        return max(int(max(there_are - self.pages, there_are / (1 + LOOKS))), 1)

    def most_off(self, seconds: float) -> int:
        """How many servers may be off at one time, each for so long; one at the least."""
        there_are = SHARE * self.rate * seconds
        shared = AGAIN * self.pages / self.burst * seconds
        return max(int(max((there_are - shared) / OWN, there_are / (OWN + 2 * LOOKS))), 1)


def pages_of(servers: int, snapshots: int, page_size: int) -> int:
    """Of the lists of all servers and of all snapshots of an account."""
    return -(-servers // page_size) - (-snapshots // page_size)


def read_every(pages: int, rate: float, *, is_at_work: bool = False) -> float:
    """Seconds between two readings of a whole account, whose lists have so many pages, at so many requests a second.

    `is_at_work`: as many rotations run as may.
    """
    return pages / ((SHARE_OF_READING_AT_WORK if is_at_work else SHARE_OF_READING) * rate)


def reading_interval(
    pages: int, rate: float, *, shortest: float, longest: float = RARELY, is_at_work: bool = False
) -> float:
    """As `read_every`, but no more than `longest`, and never less than `shortest`: a small account's."""
    return max(shortest, min(read_every(pages, rate, is_at_work=is_at_work), longest))


def moments(rotation: Rotation, past: Past, now: datetime) -> tuple[float, ...]:
    """In how many seconds its snapshot, and then its start, will have to be asked for; none where that has passed.

    What has been waited for longer than it takes is expected in as long again.
    """
    step, waited = rotation.step, rotation.waited
    if step in BEFORE_THE_STOP:
        create = waited + past.power
    elif step is Step.STOP:
        create = abs(past.power - waited)
    elif step is Step.SNAPSHOT:
        create = 0.0
    elif step is Step.WAIT:
        return (abs(past.snapshot - rotation.creation.asked_for(now)),)
    else:
        return ()
    return create, create + past.snapshot


def fits(new: Sequence[float], begun: Collection[Sequence[float]], *, most: int, most_off: int, within: float) -> bool:
    """Whether a server may be stopped whose moments are `new`, beside those that have `begun`.

    No more than `most` moments, of others and its own, lie `within` so many seconds, and no more than `most_off`
    servers are off at one time. Where none of those waits for anything any more it always fits in.
    """
    waiting = [one for one in begun if one]
    if len(waiting) >= most_off:
        return False
    theirs = [moment for one in waiting for moment in one]
    return all(sum(abs(moment - other) < within / 2 for other in theirs) < most for moment in new)
