"""The ledger: what must survive a crash. Open rotations with their leases, history, how far each schedule was seen.

The database holds the invariants, not this code: one rotation for a server and slot is a unique key, one open
rotation for a server is a partial unique index. A rotation belongs to the process that *claimed* it, under a lease
that the process renews; an expired lease may be taken over by any process. Each take-over raises the epoch, and
every write names the owner and epoch it believes in, so that whoever lost a rotation learns of it at the next write.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from snaprotd.core.errors import LeaseLost, LedgerError
from snaprotd.core.rotation import Result, Rotation
from snaprotd.ledger import statements
from snaprotd.ledger.address import name_of
from snaprotd.ledger.folder_lock import FolderLock
from snaprotd.ledger.rows import UnreadableRow, read_rotation
from snaprotd.ledger.schema import MARKS, ROTATIONS, migrate
from snaprotd.ledger.sqlite import lacks_shared_memory, sqlite_engine
from snaprotd.ledger.statements import instant_of, text_of

log = structlog.get_logger("snaprotd.ledger")

KEPT_HISTORY = 500
"""Rotations of each server that are remembered: a year and more of nightly ones."""


@dataclass(frozen=True)
class Claimed:
    """The slot is ours to run."""

    rotation: Rotation


@dataclass(frozen=True)
class SlotTaken:
    """This server's slot has, or had, a rotation already: nothing is to be done."""


@dataclass(frozen=True)
class ServerBusy:
    """Another rotation of this server is open."""

    open: Rotation


Claim = Claimed | SlotTaken | ServerBusy


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Every slot of the server up to `seen_until` has been dealt with, under the schedule written as `schedule`."""

    server_id: str
    seen_until: datetime
    schedule: str


@dataclass
class _Lease:
    epoch: int
    valid_until: float
    """By this process's own clock, which counts suspended time too."""


def uptime() -> float:
    """Seconds of a clock that no one sets and that counts the time in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Ledger:
    """One process's view of the ledger. `async with await Ledger.open(...)`.

    Every method raises `LedgerError` where the database cannot be read or written, and `LeaseLost` where a
    rotation turns out to belong to somebody else.
    """

    def __init__(self, engine: AsyncEngine, *, owner: str, lease: float, lock: FolderLock | None) -> None:
        self._engine = engine
        self.name = name_of(str(engine.url.database))
        """What it is called wherever it is shown; without what may be secret of its address."""
        self._owner = owner
        self.lease = lease
        """Length of a lease, in seconds."""
        self._lock = lock
        self._held: dict[str, _Lease] = {}

    @classmethod
    async def open(cls, path: Path, *, owner: str, lease: float = 60.0, lock: bool = True) -> Ledger:
        """Open, create or migrate the SQLite ledger at `path`. `lease` is in seconds.

        Raises `LedgerError` where the folder cannot be written, or is in use by a daemon on another host.
        """
        folder_lock = FolderLock.acquire(path) if lock else None
        ledger = cls(sqlite_engine(path), owner=owner, lease=lease, lock=folder_lock)
        try:
            await ledger._migrate(path)
        except BaseException:
            await ledger.close()
            raise
        return ledger

    async def _migrate(self, path: Path) -> None:
        try:
            async with self._transaction() as connection:
                await connection.run_sync(migrate)
        except LedgerError as error:
            if not self.is_sole_user or not lacks_shared_memory(error):
                raise
            # The disk is full. What it promises can be read all the same, as long as nobody else uses it.
            log.error("no other process can use the ledger before this one is restarted", error=str(error))
            await self._engine.dispose()
            self._engine = sqlite_engine(path, alone=True)
            async with self._transaction() as connection:
                await connection.run_sync(migrate)

    async def __aenter__(self) -> Ledger:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    @property
    def is_sole_user(self) -> bool:
        """No other process had the ledger open when this one came: whoever holds a lease in it is dead."""
        return self._lock is not None and self._lock.was_alone

    # -- one rotation ------------------------------------------------------------------------------------------

    async def claim(self, rotation: Rotation, mark: Mark | None = None) -> Claim:
        """Make `rotation` ours, unless its slot is taken or its server is busy; set `mark` in the same transaction."""
        began = uptime()
        async with self._transaction() as connection:
            if mark is not None:
                await connection.execute(statements.SET_MARK, [_mark_row(mark)])
            claimed = await connection.scalar(statements.claim(rotation, self._tenure()))
            if claimed is None:
                return await self._why_not(connection, rotation)
        self._hold(rotation.id, epoch=1, since=began)
        return Claimed(rotation)

    async def _why_not(self, connection: AsyncConnection, rotation: Rotation) -> Claim:
        busy = await connection.execute(statements.busy_with(rotation))
        row = busy.first()
        if row is None:
            return SlotTaken()
        if not (readable := _readable(row.body)):
            raise LedgerError(f"the server's open rotation {row.id} in the ledger cannot be read")
        return ServerBusy(readable[0])

    async def save(self, rotation: Rotation) -> None:
        """Write the rotation and renew its lease. Raises `LeaseLost` if another process holds it now."""
        lease = self._held.get(rotation.id)
        if lease is None:
            raise LeaseLost(f"rotation {rotation.id} is not held by this process")
        began = uptime()
        async with self._transaction() as connection:
            saved = await connection.scalar(statements.save(rotation, self._tenure(), epoch=lease.epoch))
        if saved is None:
            self._held.pop(rotation.id, None)
            raise LeaseLost(f"another process has taken over rotation {rotation.id}")
        self._hold(rotation.id, epoch=lease.epoch, since=began)
        if rotation.is_finished:
            del self._held[rotation.id]

    def guard(self, rotation_id: str, seconds: float = 0.0) -> None:
        """Raise `LeaseLost` unless the lease is good for `seconds` more, by a clock that no one sets."""
        lease = self._held.get(rotation_id)
        if lease is None or uptime() + seconds > lease.valid_until:
            self._held.pop(rotation_id, None)
            raise LeaseLost(f"the lease of rotation {rotation_id} has run out")

    async def release(self, rotation_id: str) -> None:
        """Leave an open rotation to whoever comes next, at once."""
        lease = self._held.pop(rotation_id, None)
        if lease is None:
            return
        async with self._transaction() as connection:
            await connection.execute(statements.release(rotation_id, owner=self._owner, epoch=lease.epoch))

    # -- all of them -------------------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Renew the lease of every rotation this process holds. Those that it has lost are let go."""
        if not self._held:
            return
        began = uptime()
        async with self._transaction() as connection:
            until = time.time() + self.lease
            rows = await connection.execute(statements.renew(self._held, owner=self._owner, lease_until=until))
            ours = {(row.id, row.epoch) for row in rows}
        for rotation_id, lease in list(self._held.items()):
            if (rotation_id, lease.epoch) in ours:
                lease.valid_until = began + self.lease

    async def take_over(self, *, everything: bool = False, server_id: str | None = None) -> list[Rotation]:
        """Make the open rotations ours whose lease has run out, or (`everything`) that are not ours already."""
        began = uptime()
        query = statements.take_over(
            self._tenure(),
            held=self._held,
            server_id=server_id,
            everything=everything,
            now=time.time(),
            lease=self.lease,
        )
        async with self._transaction() as connection:
            rows = (await connection.execute(query)).all()
        taken = [(rotation, row.epoch) for row in rows for rotation in _readable(row.body)]
        for rotation, epoch in taken:
            self._hold(rotation.id, epoch=epoch, since=began)
        return [rotation for rotation, _ in taken]

    async def open_rotations(self) -> list[Rotation]:
        return await self._bodies(select(ROTATIONS.c.body).where(ROTATIONS.c.is_open))

    async def history(self, server_id: str | None = None, *, limit: int = 20) -> list[Rotation]:
        """The latest rotations, newest first, open ones too."""
        return await self._bodies(statements.history(server_id, limit))

    async def forget_old(self, keep: int = KEPT_HISTORY) -> None:
        """Forget the rotations of a server but for the newest `keep`, and the last of each result."""
        async with self._transaction() as connection:
            await connection.execute(statements.forget(keep))

    async def latest(self) -> Mapping[str, Rotation]:
        """For each server its latest rotation that has ended."""
        rotations = await self._bodies(statements.latest())
        return {rotation.server_id: rotation for rotation in rotations}

    async def ended_since(self, instant: datetime) -> list[Rotation]:
        """The rotations that have ended since, whoever ran them; oldest first."""
        ended = select(ROTATIONS.c.body).where(ROTATIONS.c.finished_at >= text_of(instant))
        return await self._bodies(ended.order_by(ROTATIONS.c.finished_at))

    async def last_started(self) -> Mapping[str, datetime]:
        """For each server when its latest rotation began."""
        return await self._latest(select(ROTATIONS.c.server_id, func.max(ROTATIONS.c.started_at)))

    async def last_succeeded(self) -> Mapping[str, datetime]:
        """For each server when its latest successful rotation ended."""
        succeeded = ROTATIONS.c.result == Result.SUCCESS
        return await self._latest(select(ROTATIONS.c.server_id, func.max(ROTATIONS.c.finished_at)).where(succeeded))

    async def _latest(self, query: Any) -> Mapping[str, datetime]:
        async with self._transaction() as connection:
            rows = await connection.execute(query.group_by(ROTATIONS.c.server_id))
            return {server_id: instant_of(text) for server_id, text in rows}

    async def _bodies(self, query: Any) -> list[Rotation]:
        async with self._transaction() as connection:
            return [rotation for body in await connection.scalars(query) for rotation in _readable(body)]

    # -- how far the schedules have been seen ------------------------------------------------------------------

    async def marks(self) -> Mapping[str, Mark]:
        async with self._transaction() as connection:
            rows = (await connection.execute(select(MARKS))).all()
        return {
            row.server_id: Mark(server_id=row.server_id, seen_until=instant_of(row.seen_until), schedule=row.schedule)
            for row in rows
        }

    async def keep_marks(self, server_ids: Collection[str]) -> None:
        """Forget how far the schedules of all other servers were seen: one that comes back begins anew."""
        async with self._transaction() as connection:
            known = set(await connection.scalars(select(MARKS.c.server_id)))
            for gone in known - set(server_ids):
                await connection.execute(delete(MARKS).where(MARKS.c.server_id == gone))

    async def set_marks(self, marks: list[Mark]) -> None:
        if not marks:
            return
        async with self._transaction() as connection:
            await connection.execute(statements.SET_MARK, [_mark_row(mark) for mark in marks])

    # -- inside ------------------------------------------------------------------------------------------------

    def _tenure(self) -> dict[str, Any]:
        # SQLite has no clock but its host's, which is ours. On a database server this is the database's own.
        return {"owner": self._owner, "lease_until": time.time() + self.lease}

    def _hold(self, rotation_id: str, *, epoch: int, since: float) -> None:
        """`since`: the uptime before the lease was written; it may have taken a while."""
        self._held[rotation_id] = _Lease(epoch=epoch, valid_until=since + self.lease)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            raise LedgerError(f"the ledger {self.name} cannot be used: {reason}") from error


def _readable(body: str) -> list[Rotation]:
    """The rotation in a row; none where the row cannot be read, which must not hold up all the others."""
    try:
        return [read_rotation(body)]
    except UnreadableRow as error:
        log.error("a rotation in the ledger cannot be read, and is left out", body=body[:200], error=str(error))
        return []


def _mark_row(mark: Mark) -> dict[str, str]:
    return {"server_id": mark.server_id, "seen_until": text_of(mark.seen_until), "schedule": mark.schedule}
