"""When the next request may go out: whose turn it is, how fast, and the pauses that the provider asks for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

from snaprotd.core.errors import LONGEST_PAUSE, LONGEST_PAUSE_WHILE_OFF, HeldBack
from snaprotd.provider.apart import About, Apart, Group
from snaprotd.provider.rate import LastHour, Rate, RateInForce
from snaprotd.provider.series import Series

PAUSE_UNTOLD = 5.0
"""Seconds to pause after a 429 without a Retry-After."""
PATIENCE_WHILE_OFF = 2.0
"""Seconds by which each refusal in a row holds up what is urgent for longer."""
ASKED_EVERY = 2.0
"""Seconds after which who waits is asked again whether the request is still wanted."""
A_MOMENT = 1e-3
"""Seconds that are not worth a timer, which may ring a little too early."""
LONGEST_APART = 0.5
"""Seconds between two requests of one series at the most; where the rate is higher it has them as evenly as all."""
PASSED_OVER = 9
"""Turns that others may have before a class that waits, and is not urgent, gets one: it has one in ten for certain."""


class Priority(IntEnum):
    """Which class of the queue a request is in: the first goes first, and within a class who came first."""

    START = 0
    """A start that is due, with the look that it waits for."""
    DOWNTIME = 1
    """What else is asked for a server that is off because of us."""
    ACTION = 2
    """A stop, a snapshot or a deletion: what it was decided by will soon be too old for it."""
    OPEN = 3
    """Of a rotation that has begun."""
    NEW = 4
    """A rotation's first look."""
    INVENTORY = 5
    """The account's own reading, and what people ask."""

    @classmethod
    def of_rotation(cls, *, is_off: bool, starts: bool, is_new: bool) -> Priority:
        """Of what a rotation asks: `is_off` its server because of us, it `starts` it now, it `is_new`."""
        if is_off:
            return cls.START if starts else cls.DOWNTIME
        return cls.NEW if is_new else cls.OPEN

    @property
    def is_urgent(self) -> bool:
        """A server is off until it is answered."""
        return self <= Priority.DOWNTIME


@dataclass(kw_only=True, eq=False)
class _Ticket:
    """Somebody who waits."""

    since: float
    priority: Priority
    requests: int
    granted: asyncio.Future[float]
    has_place: bool = False


_SERIES: ContextVar[tuple[Pace, Series] | None] = ContextVar("_SERIES", default=None)
"""Of the task that asks, and of those that it begins meanwhile."""


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """What one refusal that may be meant for all has done to all."""

    about: About
    at: float
    lowered_to: float
    """The part of the rate that it has left."""
    pause_ends: float
    urgent_pause_ends: float


class Pace:
    """A queue that lets up to `rate` requests a second through, evenly and by priority, and none while a pause lasts.

    Evenly, for a bucket of `rate` permits lets nearly twice as many through in its first second. At most `places`
    requests are open at once. What is not urgent waits for all that is, and has a turn in ten beside what is not.

    A pause holds others up for `LONGEST_PAUSE` seconds at the most. What is urgent (a server is off until it is
    answered) goes before all others, needs no place, and is held up for a moment that grows with each refusal in a row
    to `LONGEST_PAUSE_WHILE_OFF`: a provider that refuses most requests, but not all, keeps no server off for long. The
    longest holds for one pause, and for all that follow one another while a request waits.

    What is refused while all others are answered (`Apart`) holds up itself alone: what its first refusals have done to
    all is taken back.
    """

    def __init__(self, rate: float, *, places: int) -> None:
        self._rate = Rate(configured=rate)
        self._whole, self._part, self._is_shut = rate, 1.0, False
        self._lowered = 0
        self._refused = LastHour()
        self._refused_alone = LastHour()
        self._apart = Apart()
        self._refusals_of_all: list[_Refusal] = []
        self._places = places
        self._granted_at = float("-inf")
        self._paid_until = float("-inf")
        """When what is sent in a series has had its time as well. What is urgent does not wait for that."""
        self._series: set[Series] = set()
        self._paused_until = 0.0
        self._urgent_paused_until = 0.0
        self._refusals = 0
        self._queues: dict[Priority, deque[_Ticket]] = {one: deque() for one in Priority}
        self._passed_over: dict[Priority, int] = {}
        """How many turns others had since, by the classes that wait and are not urgent."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_force(self) -> RateInForce:
        """How fast requests go out now."""
        now = asyncio.get_running_loop().time()
        return RateInForce(
            rate=self._rate.at(now),
            configured=self._rate.configured,
            lowered=self._lowered,
            refused=self._refused.count(now),
            refused_alone=self._refused_alone.count(now),
            held_back=self._apart.held(now),
        )

    def set_rate(self, rate: float) -> None:
        """Another rate is configured."""
        now = asyncio.get_running_loop().time()
        self._whole, self._rate = rate, self._rate.configured_as(rate * self._part, now)
        self._let_through(now)

    def share(self, rate: float, *, heard: float = 1.0) -> None:
        """See `provider.Share`. What is urgent goes out at the pace before, where this process has none."""
        now = asyncio.get_running_loop().time()
        self._is_shut = not rate
        part = rate / self._whole if rate else self._part
        if part != self._part:
            self._part, self._rate = part, self._rate.shared(part / self._part, now)
        self._rate = self._rate.heard(heard, now)
        self._let_through(now)

    @asynccontextmanager
    async def turn_of(
        self, about: About, priority: Priority, *, wanted: Callable[[], None] | None = None, waits: bool
    ) -> AsyncIterator[float]:
        """As `turn`. What is held back waits for that first where it `waits`, else raises `HeldBack`."""
        while (left := self._held_for(about, priority)) > A_MOMENT:
            if not waits:
                why = "is refused by the provider, which answers others"
                raise HeldBack(f"{about.words} {why}: it is asked again in {left:.0f} s", retry_after=left)
            await asyncio.sleep(min(left, ASKED_EVERY))
            if wanted is not None:
                wanted()
        self._apart.tries(about, is_tried=True)
        try:
            async with self.turn(priority, wanted=wanted) as granted_at:
                yield granted_at
        finally:
            self._apart.tries(about, is_tried=False)

    def _held_for(self, about: About, priority: Priority) -> float:
        now, rate = asyncio.get_running_loop().time(), self._rate.configured
        return self._apart.held_for(about, now, rate, urgent=priority.is_urgent)

    @asynccontextmanager
    async def turn(self, priority: Priority, *, wanted: Callable[[], None] | None = None) -> AsyncIterator[float]:
        """Wait for a turn, and hold its place; when it came, by the loop's clock.

        `wanted` is called now and then meanwhile; what it raises ends the wait.
        """
        pace, series = _SERIES.get() or (None, None)
        if series is not None and pace is self and await series.goes_on():
            now = asyncio.get_running_loop().time()
            self._rate = self._rate.sent(now)
            yield now
            return
        ticket = self._stand(priority)
        try:
            yield await _granted(ticket, wanted)
        finally:
            self._leave(ticket)

    @asynccontextmanager
    async def series(
        self, priority: Priority, requests: int, *, wanted: Callable[[], None] | None = None
    ) -> AsyncIterator[Series]:
        """Wait for one turn that pays for so many requests: those that are asked within wait for no other.

        Others wait the longer for the next turn. What is sent beyond that number, or after a pause was asked for, has
        to wait for a turn of its own.
        """
        ticket = self._stand(priority, requests)
        series = Series(requests, lambda: self._leave(ticket))
        try:
            at = await _granted(ticket, wanted)
            series.begin(at, min(1 / self._rate.at(at), LONGEST_APART))
            self._series.add(series)
            before = _SERIES.set((self, series))
            try:
                yield series
            finally:
                _SERIES.reset(before)
        finally:
            self._series.discard(series)
            series.end()

    def _stand(self, priority: Priority, requests: int = 1) -> _Ticket:
        loop = asyncio.get_running_loop()
        ticket = _Ticket(since=loop.time(), priority=priority, requests=requests, granted=loop.create_future())
        self._queues[priority].append(ticket)
        self._let_through(loop.time())
        return ticket

    def _leave(self, ticket: _Ticket) -> None:
        self._places += ticket.has_place
        ticket.has_place = False
        ticket.granted.cancel()
        self._let_through(asyncio.get_running_loop().time())

    def put_off(self, about: About, sent_at: float, seconds: float | None, *, too_many: bool) -> None:
        """What had its turn at `sent_at` was refused for now, for so many `seconds`; None where that was not said.

        `too_many`: because there were too many requests, this one and others.
        """
        now = asyncio.get_running_loop().time()
        if too_many:
            self._refused.note(now)
        if alone := self._apart.refused(about, now, sent_at=sent_at, asked=seconds):
            if too_many:
                self._refused_alone.note(now)
            self._take_back(alone, now)
            return
        before = self._rate.at(now)
        if too_many:
            self._rate = self._rate.refused(now, sent_at=sent_at)
        ends, urgent_ends = self._pause(now, seconds)
        lowered_to = self._rate.at(now) / before
        self._lowered += lowered_to < 1
        one = _Refusal(about=about, at=now, lowered_to=lowered_to, pause_ends=ends, urgent_pause_ends=urgent_ends)
        self._refusals_of_all = [*self._of_late(now), one]

    def _pause(self, now: float, seconds: float | None) -> tuple[float, float]:
        """Let nothing through for so long, and when that ends, for what is urgent too. A longer one stays in force."""
        asked = PAUSE_UNTOLD if seconds is None else seconds
        self._refusals += now >= self._urgent_paused_until  # those that were under way together are one
        patience = min(self._refusals * PATIENCE_WHILE_OFF, LONGEST_PAUSE_WHILE_OFF)
        ends, urgent_ends = now + min(asked, LONGEST_PAUSE), now + min(asked, patience)
        self._paused_until = max(self._paused_until, ends)
        self._urgent_paused_until = max(self._urgent_paused_until, urgent_ends)
        for series in tuple(self._series):
            series.end()
        return ends, urgent_ends

    def _take_back(self, alone: Collection[Group], now: float) -> None:
        """These were refused alone: neither the rate nor a pause is for all."""
        for one in self._of_late(now):
            if not set(alone).isdisjoint(one.about.groups):
                self._rate = self._rate.raised(now, by=one.lowered_to)
        self._refusals_of_all = [one for one in self._of_late(now) if set(alone).isdisjoint(one.about.groups)]
        self._paused_until = max((one.pause_ends for one in self._refusals_of_all), default=0.0)
        self._urgent_paused_until = max((one.urgent_pause_ends for one in self._refusals_of_all), default=0.0)
        self._refusals = min(self._refusals, len(self._refusals_of_all))
        self._let_through(now)

    def _of_late(self, now: float) -> list[_Refusal]:
        """Those whose pause may last."""
        return [one for one in self._refusals_of_all if now - one.at < LONGEST_PAUSE]

    def answered(self, about: About, sent_at: float) -> None:
        """A request was answered, and no pause was asked for: not all are refused any more."""
        self._refusals = 0
        self._apart.answered(about, sent_at=sent_at)
        self._rate = self._rate.let_through(asyncio.get_running_loop().time(), sent_at=sent_at)

    def _let_through(self, moment: float) -> None:
        """Grant every turn that is due, and come back for the next one. A timer may ring late, or a tick too early."""
        now = max(moment, asyncio.get_running_loop().time())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (ticket := self._next(now)) is not None:
            if (due := self._due(ticket, now)) > now:
                self._timer = asyncio.get_running_loop().call_at(due, self._let_through, due)
                return
            self._grant(ticket, now)

    def _next(self, now: float) -> _Ticket | None:
        """Of those that are due the first, else who is due first; None where nobody waits, or all need a place."""
        heads = self._heads()
        is_due = (one for one in heads if self._due(one, now) <= now)
        return next(is_due, None) or min(heads, key=lambda one: self._due(one, now), default=None)

    def _heads(self) -> list[_Ticket]:
        """The first of each class that can have a turn, in the order in which they get it."""
        for queue in self._queues.values():
            while queue and queue[0].granted.done():
                queue.popleft()  # given up
        has_place = self._places > 0 and not self._is_shut
        waiting = [one for one, queue in self._queues.items() if queue and (one.is_urgent or has_place)]
        waiting.sort(key=lambda one: (not one.is_urgent, self._passed_over.get(one, 0) < PASSED_OVER, one))
        return [self._queues[one][0] for one in waiting]

    def _due(self, ticket: _Ticket, now: float) -> float:
        if ticket.priority.is_urgent:
            unpaused = min(self._urgent_paused_until, ticket.since + LONGEST_PAUSE_WHILE_OFF)
        else:
            unpaused = min(self._paused_until, ticket.since + LONGEST_PAUSE)
        last = self._granted_at if ticket.priority.is_urgent else max(self._granted_at, self._paid_until)
        return max(last + self._interval(ticket.priority, now), unpaused)

    def _interval(self, priority: Priority, now: float) -> float:
        """Seconds after the last turn. While nothing is let through, one asks now and then whether that is over."""
        if priority is Priority.START:
            return 1 / self._rate.of_starts(now)
        has_asked = self._rate.is_shut and self._granted_at > self._rate.lowered_at
        patience = PATIENCE_WHILE_OFF if priority.is_urgent else PAUSE_UNTOLD
        return max(1 / self._rate.at(now), patience if has_asked else 0)

    def _grant(self, ticket: _Ticket, now: float) -> None:
        each, has_debt = 1 / self._rate.at(now), self._paid_until > now
        self._paid_until = max(self._paid_until, now) + (ticket.requests - 1 + has_debt) * each
        self._granted_at = now
        self._rate = self._rate.sent(now)
        if not ticket.priority.is_urgent:
            ticket.has_place = True
            self._places -= 1
            waiting = (one for one in self._queues if self._queues[one] and not one.is_urgent)
            others = (one for one in waiting if one is not ticket.priority)
            self._passed_over = {one: self._passed_over.get(one, 0) + ticket.requests for one in others}
        ticket.granted.set_result(now)


async def _granted(ticket: _Ticket, wanted: Callable[[], None] | None) -> float:
    while wanted is not None and not ticket.granted.done():
        done, _ = await asyncio.wait([ticket.granted], timeout=ASKED_EVERY)
        if not done:
            wanted()
    return await ticket.granted
