"""What all rotations of a process share: the provider, the ledger, who is told, the word that the process is to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from snaprotd.core.model import Machine
from snaprotd.core.rotation import Rotation
from snaprotd.ledger.store import Ledger
from snaprotd.provider import Provider
from snaprotd.provider.inventory import Inventory


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


def until_tick(poll_interval: float, *, after: float = 0.0) -> float:
    """Seconds to the next of the ticks at which everything is polled, so that all share one list request.

    Or from `after` so many seconds.
    """
    return poll_interval - (asyncio.get_running_loop().time() + after) % poll_interval


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
