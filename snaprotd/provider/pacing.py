"""When the next request may go out: our own rate, our own connections, and the pauses that the provider asks for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from snaprotd.core.errors import LONGEST_PAUSE, LONGEST_PAUSE_WHILE_OFF

PAUSE_UNTOLD = 5.0
"""Seconds to pause after a 429 without a Retry-After."""
PATIENCE_WHILE_OFF = 2.0
"""Seconds by which each refusal in a row holds up what is urgent for longer."""
ASKED_EVERY = 2.0
"""Seconds after which who waits is asked again whether the request is still wanted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ticket:
    """Somebody who waits."""

    since: float
    urgent: bool
    granted: asyncio.Future[None]

    @property
    def had_its_turn(self) -> bool:
        return self.granted.done() and not self.granted.cancelled()


class Pace:
    """A queue that lets `rate` requests a second through, evenly and in order, and none while a pause lasts.

    Evenly, for a bucket of `rate` permits lets nearly twice as many through in its first second. At most `places`
    requests are open at once.

    A pause holds others up for `LONGEST_PAUSE` seconds at the most. What is urgent (a server is off until it is
    answered) goes before all others, needs no place, and is held up for a moment that grows with each refusal in a row
    to `LONGEST_PAUSE_WHILE_OFF`: a provider that refuses most requests, but not all, keeps no server off for long. The
    longest holds for one pause, and for all that follow one another while a request waits.
    """

    def __init__(self, rate: float, *, places: int) -> None:
        self._interval = 1 / rate
        self._places = places
        self._free_at = 0.0
        self._paused_until = 0.0
        self._urgent_paused_until = 0.0
        self._refusals = 0
        self._urgent: deque[_Ticket] = deque()
        self._others: deque[_Ticket] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def set_rate(self, rate: float) -> None:
        self._interval = 1 / rate

    @asynccontextmanager
    async def turn(self, *, urgent: bool = False, wanted: Callable[[], None] | None = None) -> AsyncIterator[float]:
        """Wait for a turn, and hold its place; the seconds that the wait took.

        `wanted` is called now and then meanwhile; what it raises ends the wait.
        """
        loop = asyncio.get_running_loop()
        ticket = _Ticket(since=loop.time(), urgent=urgent, granted=loop.create_future())
        (self._urgent if urgent else self._others).append(ticket)
        self._let_through(loop.time())
        try:
            await _granted(ticket, wanted)
            yield loop.time() - ticket.since
        finally:
            if ticket.had_its_turn and not urgent:
                self._places += 1
            ticket.granted.cancel()
            self._let_through(loop.time())

    def pause(self, seconds: float | None) -> None:
        """Let nothing through for so long; None where the provider did not say. A longer pause stays in force."""
        now, asked = asyncio.get_running_loop().time(), PAUSE_UNTOLD if seconds is None else seconds
        self._refusals += now >= self._urgent_paused_until  # those that were under way together are one
        patience = min(self._refusals * PATIENCE_WHILE_OFF, LONGEST_PAUSE_WHILE_OFF)
        self._paused_until = max(self._paused_until, now + min(asked, LONGEST_PAUSE))
        self._urgent_paused_until = max(self._urgent_paused_until, now + min(asked, patience))

    def answered(self) -> None:
        """A request was answered, and no pause was asked for: not all are refused any more."""
        self._refusals = 0

    def _let_through(self, moment: float) -> None:
        """Grant every turn that is due, and come back for the next one. A timer may ring late, or a tick too early."""
        now = max(moment, asyncio.get_running_loop().time())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (ticket := self._next()) is not None:
            if (due := self._due(ticket)) > now:
                self._timer = asyncio.get_running_loop().call_at(due, self._let_through, due)
                return
            self._grant(ticket, now)

    def _next(self) -> _Ticket | None:
        """Whose turn it is; None where nobody waits, or all that wait need a place."""
        for queue in (self._urgent, self._others):
            while queue and queue[0].granted.done():
                queue.popleft()  # given up
        if self._urgent:
            return self._urgent[0]
        return self._others[0] if self._others and self._places > 0 else None

    def _due(self, ticket: _Ticket) -> float:
        if ticket.urgent:
            return max(self._free_at, min(self._urgent_paused_until, ticket.since + LONGEST_PAUSE_WHILE_OFF))
        return max(self._free_at, min(self._paused_until, ticket.since + LONGEST_PAUSE))

    def _grant(self, ticket: _Ticket, now: float) -> None:
        self._free_at = now + self._interval
        self._places -= 0 if ticket.urgent else 1
        ticket.granted.set_result(None)


async def _granted(ticket: _Ticket, wanted: Callable[[], None] | None) -> None:
    if wanted is None:
        await ticket.granted
        return
    while not ticket.granted.done():
        done, _ = await asyncio.wait([ticket.granted], timeout=ASKED_EVERY)
        if not done:
            wanted()
