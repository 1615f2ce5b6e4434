"""So many a second: who comes when there is no turn left waits for one."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import OrderedDict
from functools import partial
from operator import itemgetter


class Turns:
    """Turns at a rate, with some in store. Those who wait get theirs in order, or the newest first.

    Newest first is where a flood is not to keep everybody waiting who comes after it.
    """

    def __init__(self, *, rate: float, store: int, newest_first: bool = False) -> None:
        self._rate = rate
        self._store = store
        self._newest_first = newest_first
        self._left = float(store)
        self._counted_at = 0.0
        self._waiting: list[asyncio.Future[bool]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Nobody has taken a turn for so long that nothing is to be remembered."""
        self._count()
        return not self._waiting and self._left >= self._store

    def queue(self) -> asyncio.Future[bool]:
        """Done with True when it is one's turn; who goes before that is to call `leave`."""
        ticket: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not self._waiting and self._take():
            ticket.set_result(True)
        else:
            self._waiting.append(ticket)
            self._arm()
        return ticket

    def leave(self, ticket: asyncio.Future[bool]) -> None:
        """Give up waiting: the ticket is done with False."""
        if not ticket.done():
            ticket.set_result(False)
            self._waiting.remove(ticket)

    def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        self._left = min(self._store, self._left + (now - self._counted_at) * self._rate)
        self._counted_at = now

    def _take(self) -> bool:
        self._count()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _arm(self) -> None:
        if self._timer is None and self._waiting:
            delay = max(0.0, (1 - self._left) / self._rate)
            self._timer = asyncio.get_running_loop().call_later(delay, self._call)

    def _call(self) -> None:
        self._timer = None
        while self._waiting and self._take():
            ticket = self._waiting.pop(-1 if self._newest_first else 0)
            if not ticket.done():  # its task may have been cancelled
                ticket.set_result(True)
        self._arm()


_Ticket = tuple[float, asyncio.Future[bool]]
"""When who waits came, and what is done when it is his turn."""


class OneAtATime:
    """What is long to make is made for one visitor after the other: for each peer in turn, of his own the newest first.

    The newest is he who came last: of a flood, many have their turn to ask after him.
    """

    def __init__(self) -> None:
        self._is_making = False
        self._waiting: OrderedDict[str, list[_Ticket]] = OrderedDict()
        """Of each peer, in the order in which they have their turns; of one, in that in which they came."""

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def queue(self, peer: str, came: float) -> asyncio.Future[bool]:
        """Done with True when it is one's turn, which ends with `end`; who goes before that is to call `leave`.

        `came`: when, by the loop's clock.
        """
        ticket: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._is_making:
            insort(self._waiting.setdefault(peer, []), (came, ticket), key=itemgetter(0))
        else:
            self._is_making = True
            ticket.set_result(True)
        return ticket

    def leave(self, ticket: asyncio.Future[bool]) -> None:
        """Give up waiting: the ticket is done with False."""
        if not ticket.done():
            ticket.set_result(False)
            left = {peer: [one for one in tickets if one[1] is not ticket] for peer, tickets in self._waiting.items()}
            self._waiting = OrderedDict((peer, tickets) for peer, tickets in left.items() if tickets)

    def end(self) -> None:
        """One has it made: the next one's turn."""
        self._is_making = False
        while self._waiting and not self._is_making:
            peer, tickets = self._waiting.popitem(last=False)
            _, ticket = tickets.pop()
            if tickets:
                self._waiting[peer] = tickets
            if not ticket.done():  # its task may have been cancelled
                self._is_making = True
                ticket.set_result(True)


MOST_PEERS = 1024
"""Of whom it is remembered how much they have asked. Who comes from more addresses than that is held by the bounds on
connections."""


class TurnsOfPeers:
    """Turns for each peer by itself: behind a proxy, and on a Unix socket, many are one, so the newest goes first."""

    def __init__(self, *, rate: float, store: int) -> None:
        self._make = partial(Turns, rate=rate, store=store, newest_first=True)
        self._peers: OrderedDict[str, Turns] = OrderedDict()

    @property
    def waiting(self) -> int:
        """All who wait, of all peers."""
        return sum(turns.waiting for turns in self._peers.values())

    def of(self, peer: str) -> Turns:
        turns = self._peers.pop(peer, None) or self._make()
        self._peers[peer] = turns
        if len(self._peers) > MOST_PEERS:
            for other in [other for other, turns in self._peers.items() if turns.is_full]:
                del self._peers[other]
            while len(self._peers) > MOST_PEERS:
                self._peers.popitem(last=False)
        return turns
