"""What a rotation has at hand while this process runs it: its record, the ledger, the provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from snaprotd.core.errors import CloudError, LedgerError
from snaprotd.core.model import Server, Snapshot
from snaprotd.core.rotation import Rotation, aged
from snaprotd.ledger.store import Ledger
from snaprotd.provider.inventory import Inventory
from snaprotd.provider.vps_org.client import Cloud

log = structlog.get_logger("snaprotd.rotation")


class Observer(Protocol):
    """Who is told of what a rotation does: the metrics."""

    def start_failed(self, rotation: Rotation) -> None: ...

    def deleted(self, rotation: Rotation, *, success: bool) -> None: ...

    def back_on(self, rotation: Rotation, seconds: float) -> None: ...

    def finished(self, rotation: Rotation) -> None: ...


class Drain:
    """How a process that wants to end tells its rotations."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """Take no new step, unless a server is held off."""
        self.hurry = asyncio.Event()
        """Start the servers that are held off, whatever their snapshots do."""

    async def sleep(self, seconds: float, *, held_off: bool) -> None:
        """Sleep, but wake when what is asked of a rotation changes."""
        awaited = self.hurry if held_off else self.requested
        if awaited.is_set():
            await asyncio.sleep(seconds if held_off else 0)
            return
        try:
            async with asyncio.timeout(seconds):
                await awaited.wait()
        except TimeoutError:
            return


@dataclass(kw_only=True)
class Tools:
    """What every rotation of a process shares."""

    cloud: Cloud
    inventory: Inventory
    ledger: Ledger
    observer: Observer
    drain: Drain
    poll_interval: float
    request_timeout: float = 30.0
    """The longest that one whole request may take, in seconds: a lease must be good for as long."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class Run:
    """One rotation while this process runs it: the record, and what the steps may do with it."""

    def __init__(self, rotation: Rotation, tools: Tools, watch: Callable[[Rotation], None] = lambda _: None) -> None:
        self._rotation = rotation
        self._aged_at = asyncio.get_running_loop().time()
        self._unguarded = False
        self.tools = tools
        self._watch = watch

    @property
    def rotation(self) -> Rotation:
        """The record as of now."""
        moment = asyncio.get_running_loop().time()
        self._rotation = aged(self._rotation, moment - self._aged_at)
        self._aged_at = moment
        return self._rotation

    def learn(self, **changes: Any) -> Rotation:
        """Change the record; it is saved at the end of the visit."""
        self._rotation = replace(self.rotation, **changes)
        try:
            self._watch(self._rotation)
        except Exception:
            log.exception("internal error: who watches a rotation must not end it")
        return self._rotation

    async def remember(self, **changes: Any) -> None:
        """Change the record and have it on disk before anything else is done.

        Raises `LedgerError` where that fails, and `LeaseLost` where the rotation is no longer ours.
        """
        intended = replace(self.rotation, **changes)
        await self.tools.ledger.save(intended)
        self._unguarded = False
        self.learn(**changes)

    async def remember_if_possible(self, **changes: Any) -> bool:
        """As `remember`, but go on from memory where the ledger cannot be written; True if it could.

        Nobody else can write that ledger either, so nobody has taken the rotation over: its server can be started.
        """
        try:
            await self.remember(**changes)
        except LedgerError as error:
            self._unguarded = True
            log.error("the ledger cannot be written: going on from memory", error=str(error))
            self.learn(**changes)
            return False
        return True

    def guard(self) -> None:
        """Called when the bytes of a request are about to go out: raise `LeaseLost` unless it is still ours."""
        if not self._unguarded:
            self.tools.ledger.guard(self._rotation.id, self.tools.request_timeout)

    async def server(self) -> Server:
        return await self.tools.inventory.server(self._rotation.server_id)

    async def snapshots(self) -> tuple[Snapshot, ...]:
        return await self.tools.inventory.snapshots(self._rotation.server_id)

    async def delete(self, snapshot: Snapshot, reason: str) -> str | None:
        """Delete one snapshot; the error in words if that failed."""
        await self.remember()
        log.info("deleting a snapshot", snapshot=snapshot.name, snapshot_id=snapshot.id, reason=reason)
        try:
            await self.tools.cloud.delete_snapshot(snapshot.id, guard=self.guard)
        except CloudError as error:
            self.tools.observer.deleted(self._rotation, success=False)
            self.learn(undeletable=(*self._rotation.undeletable, snapshot.id))
            return f"could not delete {snapshot.name}: {error}"
        self.tools.observer.deleted(self._rotation, success=True)
        self.learn(deleted=(*self._rotation.deleted, snapshot.id))
        return None
