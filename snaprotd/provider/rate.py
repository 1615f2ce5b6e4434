"""How many requests a second the provider lets through: learnt from what it refuses, and never more than configured."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import inf

LOWERED_TO = 0.7
"""The part of the rate in force that is left after a refusal."""
CLIMB = 400.0
"""Seconds in which it would climb from nothing to what is configured: slowly, so that what feels its way up is refused
hardly once in a hundred requests."""
UNUSED = 1 / 3
"""The part of its climb that it makes while it is not used: what was met in one burst is not forgotten by the next."""
SLOWEST = 0.2
"""Requests a second that are left whatever is refused: slower is of no use, since a refusal is a pause of its own."""
SHARE_OF_STARTS = 0.5
"""The part of what is configured below which the starts of servers do not go."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Requests a second. Every time is in seconds of one monotonic clock.

    What is refused lowers it by a factor, and time raises it by a sum, most while it is used. A limit that was just met
    is met by many at once: what was under way already when the rate was lowered does not lower it again, nor does a
    provider that lets nothing at all through since. How fast it lets through is not known from that, and for how long
    it does not is for the pauses.
    """

    configured: float
    lowered_to: float = inf
    lowered_at: float = -inf
    climbs_since: float | None = -inf
    """When something that was sent after the rate was lowered was let through; None before that."""

    def at(self, now: float) -> float:
        """The rate in force."""
        if self.climbs_since is None or self.lowered_to >= self.configured:
            return min(self.configured, self.lowered_to)
        since = now - self.climbs_since
        used = min(since, 1 / self.lowered_to)
        climbed = (used + (since - used) * UNUSED) * self.configured / CLIMB
        return min(self.configured, self.lowered_to + climbed)

    @property
    def is_shut(self) -> bool:
        """Nothing that was sent since it was lowered has been let through yet."""
        return self.climbs_since is None

    def of_starts(self, now: float) -> float:
        """The rate for a start that is due: a server is off until it went out."""
        return max(self.at(now), self.configured * SHARE_OF_STARTS)

    def sent(self, now: float) -> Rate:
        """A request goes out: it was used since the one before."""
        if self.climbs_since is None or self.lowered_to >= self.configured:
            return self
        return replace(self, lowered_to=self.at(now), climbs_since=now)

    def refused(self, now: float, *, sent_at: float) -> Rate:
        """A request was refused because there were too many."""
        if sent_at <= self.lowered_at or self.is_shut:
            return self
        lowered = max(self.at(now) * LOWERED_TO, min(SLOWEST, self.configured))
        return replace(self, lowered_to=lowered, lowered_at=now, climbs_since=None)

    def raised(self, now: float, *, by: float) -> Rate:
        """It should not have been lowered to that part of what it was."""
        rate = self.at(now) / by
        if rate >= self.configured:
            return Rate(configured=self.configured)
        return replace(self, lowered_to=rate, climbs_since=None if self.is_shut else now)

    def let_through(self, now: float, *, sent_at: float) -> Rate:
        """A request was answered as any other."""
        if not self.is_shut or sent_at <= self.lowered_at:
            return self
        return replace(self, climbs_since=now)

    def shared(self, factor: float, now: float) -> Rate:
        """It is dealt out otherwise among those who ask: what was learnt of the provider is so too."""
        if self.at(now) >= self.configured:
            return Rate(configured=self.configured * factor)
        since = self.climbs_since if self.climbs_since is None else now
        return replace(self, configured=self.configured * factor, lowered_to=self.at(now) * factor, climbs_since=since)

    def heard(self, part: float, now: float) -> Rate:
        """Another one that asks for the same account was refused, and asks at that part of what is configured now."""
        if part * self.configured >= self.at(now):
            return self
        since = self.climbs_since if self.climbs_since is None else now
        return replace(self, lowered_to=part * self.configured, climbs_since=since)

    def configured_as(self, configured: float, now: float) -> Rate:
        """Another rate is configured: what was learnt of the provider stays."""
        if self.at(now) >= self.configured:
            return Rate(configured=configured)
        since = self.climbs_since if self.climbs_since is None else now
        return replace(self, configured=configured, lowered_to=self.at(now), climbs_since=since)


@dataclass(frozen=True, kw_only=True)
class RateInForce:
    """What is to be shown of it."""

    rate: float
    """Requests a second, as of now."""
    configured: float
    refused: int
    """Requests that the provider has refused in the last hour because there were too many."""
    refused_alone: int = 0
    """Of these, what was refused while all others were answered."""
    lowered: int = 0
    """How often it was lowered since the process began."""
    held_back: tuple[str, ...] = ()
    """Which requests are refused so by now, in words: each is asked again at a pace of its own."""


class LastHour:
    """How often something has happened in the last hour, to the minute."""

    def __init__(self) -> None:
        self._by_minute: Counter[int] = Counter()

    def note(self, now: float) -> None:
        self._by_minute[int(now // 60)] += 1
        self._forget(now)

    def count(self, now: float) -> int:
        self._forget(now)
        return self._by_minute.total()

    def _forget(self, now: float) -> None:
        for minute in [one for one in self._by_minute if one <= now // 60 - 60]:
            del self._by_minute[minute]
