"""Who is let in, and for how long: nobody who comes to the pages may keep the daemon from its work.

Connections are bounded well below the descriptors, and of those who do nothing the one gives way that has done so for
the longest, of the peer that has the most. Whoever asks more than his turns waits; a probe does not.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.server import ServerState

from snaprotd.web.hosts import peer_of
from snaprotd.web.protection import Protection
from snaprotd.web.turns import OneAtATime, Turns, TurnsOfPeers
from snaprotd.web.visit import Visit

log = structlog.get_logger("snaprotd.web")

MOST_INSIDE = 512
"""Connections at one time, where there are descriptors enough; of those we may have a quarter goes to visitors."""
MOST_DESCRIPTORS = 8192
COMING = 1000.0
"""Connections a second, each good for one probe. More are left to the kernel for a moment."""
HANDSHAKES = 100.0
"""A second: each takes a millisecond or two of the loop."""
REQUESTS = 20.0
"""Of one peer, a second, with a hundred in store: a page is four."""
GUESSES = 1.0
"""Of one peer: passwords a second that were not right before, with ten in store."""
MOST_UNREAD = 64 * 1024 * 1024
"""Bytes of answers that were not read yet, all together; what several read counts once."""

LOOK_EVERY = 1.0
ENDING = 5.0
"""Seconds for answers that are being given when the daemon ends."""


def raise_descriptors() -> None:
    """As many files as we are allowed to, within reason: the soft limit is for programs that use select()."""
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_inside() -> int:
    """A quarter of the descriptors: the rest is for the provider, the ledger and the pages' own files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_INSIDE if soft == resource.RLIM_INFINITY else max(4, min(MOST_INSIDE, soft // 4))


class Door:
    """Lets visitors in, from `open` to `close`."""

    def __init__(self, application: Starlette, protection: Protection, names: Callable[[], tuple[str, ...] | None]):
        """`names` are those that the header Host may have; None where it is not looked at."""
        self.protection = protection
        self.names = names
        self.most = most_inside()
        self.inside: set[Visit] = set()
        self._handshakes = Turns(rate=HANDSHAKES, store=50, newest_first=True)
        self.requests = TurnsOfPeers(rate=REQUESTS, store=100)
        self.guesses = TurnsOfPeers(rate=GUESSES, store=10)
        self.making = OneAtATime()
        self.state = ServerState()
        self.settings = uvicorn.Config(
            application,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=3600,  # the visit itself ends sooner
        )
        self.settings.load()
        self._tasks: set[asyncio.Future[None]] = set()

    @property
    def is_crowded(self) -> bool:
        """So few places are left that each answer is the last of its connection."""
        return len(self.inside) * 4 > self.most * 3

    @property
    def is_overrun(self) -> bool:
        """So many wait that no more may: the places that are left are for probes."""
        return (self.requests.waiting + self.guesses.waiting + self.making.waiting) * 4 > self.most * 3

    def open(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        for work in (self._admit(listening), self._look()):
            self._keep(asyncio.ensure_future(work))

    async def close(self) -> None:
        """Those who are being answered get their answer, within `ENDING`."""
        for task in tuple(self._tasks):
            task.cancel()
        for visit in tuple(self.inside):
            visit.see_off()
        if self.state.tasks:
            await asyncio.wait(self.state.tasks, timeout=ENDING)
        for visit in tuple(self.inside):
            visit.turn_out()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def protect(self, protection: Protection) -> None:
        """From now on by another certificate or other users, also for those who are in already."""
        self.protection = protection
        for visit in tuple(self.inside):
            visit.see_off()

    def _keep(self, task: asyncio.Future[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _admit(self, listening: socket.socket) -> None:
        comings = Turns(rate=COMING, store=100)
        while True:
            await comings.queue()
            try:
                connection, address = await asyncio.get_running_loop().sock_accept(listening)
            except OSError as error:  # gone again before it was let in, or there are no descriptors left
                log.debug("a visitor cannot be let in", error=str(error))
                await asyncio.sleep(LOOK_EVERY)
                continue
            try:
                while len(self.inside) >= self.most and not self._make_place():  # noqa: ASYNC110 - time passes, no event
                    await asyncio.sleep(0.01)
            except BaseException:
                connection.close()
                raise
            self._let_in(connection, peer_of(address[0]) if isinstance(address, tuple) else "")
            for _ in range(4):  # what it has said by now is read before it may have to give way
                await asyncio.sleep(0)

    def _let_in(self, connection: socket.socket, peer: str) -> None:
        visit = Visit(self, peer)
        self.inside.add(visit)
        visit.coming = asyncio.ensure_future(self._greet(visit, connection))
        self._keep(visit.coming)

    async def _greet(self, visit: Visit, connection: socket.socket) -> None:
        """Up to the end of the handshake, where there is one."""
        tls = self.protection.tls
        times = {"ssl_handshake_timeout": 10.0, "ssl_shutdown_timeout": 5.0} if tls else {}
        try:
            if tls:
                await _spoken(connection)
                await self._handshakes.queue()
            await asyncio.get_running_loop().connect_accepted_socket(lambda: visit, connection, ssl=tls, **times)
        except (OSError, asyncio.CancelledError):
            self.inside.discard(visit)
            connection.close()

    def _make_place(self) -> bool:
        """Somebody goes who asks for nothing, else who does not read his answer; False where there is none."""
        several = Counter(visit.peer for visit in self.inside)
        idle = [visit for visit in self.inside if visit.is_idle] or [one for one in self.inside if one.is_blocked]
        if not idle:
            return False
        max(idle, key=lambda visit: (several[visit.peer], -visit.since)).turn_out()
        return True

    def bound_unread(self) -> None:
        """Before another answer is made: where those that are being given take too much memory, the oldest goes."""
        reading = sorted((visit for visit in self.inside if visit.unread), key=lambda visit: -visit.since)
        while sum({what: size for visit in reading for what, size in visit.holds.items()}.values()) > MOST_UNREAD:
            reading.pop().turn_out()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for visit in tuple(self.inside):
                if visit.is_overdue(loop.time()):
                    visit.turn_out()


async def _spoken(connection: socket.socket) -> None:
    """When its first bytes are there: who says nothing takes nobody's turn."""
    loop, spoken = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, spoken.set)
    try:
        await spoken.wait()
    finally:
        loop.remove_reader(connection)
