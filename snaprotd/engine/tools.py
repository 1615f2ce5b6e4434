"""What the rotations of a process share: provider, ledger, who is told, the word that it is to end, leave to run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Protocol, TypeVar

from snaprotd.core.errors import CalledOff
from snaprotd.core.model import Machine
from snaprotd.core.rotation import Rotation
from snaprotd.ledger.store import Ledger
from snaprotd.provider import Provider
from snaprotd.provider.inventory import Inventory

T = TypeVar("T")


class Observer(Protocol):
    """Who is told of what a rotation does. It must not raise."""

    def start_failed(self, rotation: Rotation) -> None:
        """A start request did not bring the server up; another one follows."""

    def deleted(self, rotation: Rotation, *, success: bool) -> None:
        """A snapshot was deleted, or could not be."""

    def back_on(self, server_id: str, seconds: float) -> None:
        """The server runs again, after it was held off for so long."""

    def finished(self, rotation: Rotation) -> None:
        """The rotation has ended."""


class Observers:
    """Tells several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def start_failed(self, rotation: Rotation) -> None:
        for one in self._observers:
            one.start_failed(rotation)

    def deleted(self, rotation: Rotation, *, success: bool) -> None:
        for one in self._observers:
            one.deleted(rotation, success=success)

    def back_on(self, server_id: str, seconds: float) -> None:
        for one in self._observers:
            one.back_on(server_id, seconds)

    def finished(self, rotation: Rotation) -> None:
        for one in self._observers:
            one.finished(rotation)


class Drain:
    """How a process that wants to end tells its rotations."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """Take no new step, unless a server is held off."""
        self.hurry = asyncio.Event()
        """Start the servers that are held off, whatever their snapshots do."""

    def call(self, *, held_off: bool) -> asyncio.Event:
        """What is heard by a rotation that holds its server off, or by one that does not."""
        return self.hurry if held_off else self.requested

    async def sleep(self, seconds: float, *, held_off: bool) -> None:
        """Sleep, but wake when what is asked of a rotation changes."""
        awaited = self.call(held_off=held_off)
        if awaited.is_set():
            await asyncio.sleep(seconds if held_off else 0)
            return
        try:
            async with asyncio.timeout(seconds):
                await awaited.wait()
        except TimeoutError:
            return


THIS_TICK = 1e-3
"""The part of `poll_interval` by which a timer may ring too early for its tick."""


def until_tick(poll_interval: float, *, after: float = 0.0) -> float:
    """Seconds to the next of the ticks at which everything is polled, so that all share one list request.

    Or from `after` so many seconds. Never so few that it is this tick still, by a timer that rang too early: who was
    not answered at once would come back at once.
    """
    left = poll_interval - (asyncio.get_running_loop().time() + after) % poll_interval
    return left if after + left > poll_interval * THIS_TICK else left + poll_interval


@dataclass(kw_only=True)
class Tools:
    """What every rotation of a process shares."""

    cloud: Provider
    inventory: Inventory
    ledger: Ledger
    observer: Observer
    drain: Drain
    machine: Callable[[], Machine]
    """The machine that this process runs on, as it is now."""
    poll_interval: float
    request_timeout: float = 30.0
    """The longest that one whole request may take, in seconds: a lease must be good for as long."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    knows_its_account: bool = True
    """The token is the one of the account whose servers these are, as far as a configuration can say so."""


# -- leave to run ------------------------------------------------------------------------------------------------------


class Permit:
    """Leave to run, until it is given back; to give it back twice does no harm."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def give_back(self) -> None:
        if self._give_back is not None:
            self._give_back()
            self._give_back = None


NO_PERMIT = Permit(lambda: None)


def together(*permits: Permit) -> Permit:
    """All of them, given back at once."""

    def give_back() -> None:
        for one in permits:
            one.give_back()

    return Permit(give_back)


class Permits:
    """So many rotations at once, in the order in which they came. The number can change while permits are out."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_all_taken(self) -> bool:
        """Who comes has to wait for one."""
        return self._taken >= self._number

    def rounds(self, coming: int) -> float:
        """How often all of them are taken already, by who has one, waits for one, or is coming."""
        return (self._taken + len(self._waiting) + coming) // self._number if self._number else inf

    def set_number(self, number: int) -> None:
        """Who holds a permit keeps it; fewer are given until there are few enough."""
        self._number = number
        self._hand_on()

    async def take(self) -> Permit:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hand_on()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it has just been handed one
                self._back()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        return Permit(self._back)

    async def take_within(self, seconds: float) -> Permit | None:
        """As `take`; None where none was free for so long."""
        try:
            async with asyncio.timeout(seconds):
                return await self.take()
        except TimeoutError:
            return None

    def _back(self) -> None:
        self._taken -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting and self._taken < self._number:
            if not (turn := self._waiting.popleft()).done():
                self._taken += 1
                turn.set_result(None)


async def unless_called_off(asked: Awaitable[T], *, call: asyncio.Event | None, ends_at: float | None, late: str) -> T:
    """What was asked for. Raises `CalledOff` at the `call`, and with `late` at `ends_at`, by the loop's clock."""
    look, called = asyncio.ensure_future(asked), asyncio.ensure_future((call or asyncio.Event()).wait())
    left = None if ends_at is None else ends_at - asyncio.get_running_loop().time()
    try:
        await asyncio.wait([look, called], return_when=asyncio.FIRST_COMPLETED, timeout=left)
        if look.done():
            return look.result()
        raise CalledOff("the process is about to end" if called.done() else late)
    finally:
        called.cancel()
        if not look.cancel() and not look.cancelled():
            look.exception()  # seen, even if who asked was cancelled in the very moment of the answer
