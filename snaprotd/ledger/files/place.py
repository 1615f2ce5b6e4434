"""The place of a ledger: its file as one process uses it, one transaction after the other, and puts it back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.address import Stands, name_of, stands_at, state_of, written_of
from snaprotd.ledger.files import exchange
from snaprotd.ledger.files.exchange import Exchange
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.files.holder import who_writes
from snaprotd.ledger.files.turns import Turns
from snaprotd.ledger.sql.connection import Connection, Place
from snaprotd.ledger.sqlite import Database, is_damage, is_lock, open_database, told, transaction

log = structlog.get_logger("snaprotd.ledger")


LOOKS = 5
WRITTEN_WITHIN = 0.2
"""Seconds between looks at a file that another process may be at work on."""


@dataclass(frozen=True)
class _Standing:
    """How far a ledger has come, by what it says itself."""

    count: int
    marks: int
    put_back: int

    def goes_on_from(self, before: _Standing | None) -> bool:
        """Whether it may be what became of that one. By counts: no clock is trusted for it."""
        return before is None or (self.count >= before.count and self.marks >= before.marks)


def _standing(noted: Mapping[str, str]) -> _Standing | None:
    """None where nothing was ever noted: that is no ledger."""
    count, marks, put_back = (exchange.number_in(noted.get(key, "")) for key in ("count", "marks", exchange.PUT_BACK))
    return _Standing(count, marks, put_back) if "lives" in noted else None


class FilePlace(Place):
    """Raises `LedgerError` wherever the file cannot be used."""

    is_local = True

    def __init__(self, path: Path, database: Database, lock: FolderLock | None) -> None:
        """`lock`: None for a process that is gone in a moment. It puts nothing back."""
        self.path = path
        self.name = name_of(str(path))
        """What it is called wherever it is shown; without what may be secret of its address."""
        self.origin = ""
        self._database = database
        self._lock = lock
        self._turns = Turns(self.name)
        self._whole: Path | None = None
        """What is to be put back still."""
        self._looked_at: object = None
        """How its files were when all was found to be well."""
        self._settled: object = None
        """How the file was when all that was written stood in it; None where that is not known."""
        self._stood: _Standing | None = None
        """And what it told of itself."""
        self.exchanges: list[Exchange] = []
        """What has happened to it, for whoever is to write again what it may lack."""

    @asynccontextmanager
    async def begin(
        self, *, writes: bool = True, urgent: bool = False, lasting: bool = True
    ) -> AsyncIterator[Connection]:
        """A transaction. One at a time: the file may be opened anew between two of them. `urgent`: as for `Turns`."""
        async with self._turns.take(urgent=urgent):
            if writes and not self._is_ours:
                await self._put_back()
            try:
                async with transaction(self._database, self.name, writes=writes, lasting=lasting) as begun:
                    yield begun
            except LedgerError as error:
                if not is_lock(error.__cause__):
                    raise
                who = await asyncio.to_thread(who_writes, self.path) or "another program"
                raise LedgerError(
                    f"the ledger {self.name} is kept from being written by {who}: database is locked"
                ) from error

    async def see_to(self) -> None:
        """Put it back where it was exchanged, or written over."""
        if self._is_ours and self._settled in (None, state_of(self.path)):
            return
        async with self._turns.take():
            if not self._is_ours:
                await self._put_back()
            elif await self._was_written_over():
                await self._put_over()

    async def open_anew(self) -> None:
        """With the tables that it lacks."""
        async with self._turns.take():
            await self._database.dispose()  # before the next one is opened: they would share the memory of the users
            await self._open()

    async def share(self) -> None:
        """Let others use it too, where the disk was too full for that when it was opened."""
        if self._database.keeps_others_out:
            async with self._turns.take():
                await self._database.dispose()
                self._database = await open_database(self.path, alone=True)
                self._settled = None

    async def settle(self) -> None:
        """Have all that was written stand in the file itself, and not in its log alone, which may be deleted."""
        async with self._turns.take():
            self._settled = None  # half of it may stand there then, as on a full disk
            with told(self.name):
                is_settled = await self._database.settle()
            if is_settled:
                noted = await asyncio.to_thread(exchange.noted_alone, self.path)
                self._settled, self._stood = state_of(self.path), _standing(noted) or self._stood

    async def count_on(self, connection: Connection) -> None:
        """SQLite has seen them."""

    async def close(self) -> None:
        try:
            await self._database.dispose(for_good=True)
        finally:
            if self._lock is not None:
                self._lock.release()

    @property
    def is_sole_user(self) -> bool:
        """No other process had the ledger open when this one came."""
        return self._lock is not None and self._lock.was_alone

    @property
    def was_written(self) -> bool:
        """Whether anybody has, since `looked`."""
        return written_of(self.path) != self._looked_at

    def looked(self) -> None:
        self._looked_at = written_of(self.path)

    @property
    def _is_ours(self) -> bool:
        """What stands there is what this process has open; where it has nothing open just now, what it had."""
        opened, there = self._database.stands, stands_at(self.path)
        return opened is None or (opened == there if self._database.is_open else opened[0] == there[0])

    async def _was_written_over(self) -> bool:
        """What it says of itself is no ledger's, or was true once. Another process of ours may be at work on it."""
        for _ in range(LOOKS):
            state, noted = state_of(self.path), await asyncio.to_thread(exchange.noted_alone, self.path)
            found = _standing(noted)
            if found is not None and found.goes_on_from(self._stood):
                self._settled, self._stood = state, found
                return False
            if found is None and await self._is_half_written():
                self._settled = None  # until all of it stands there
                return False
            await asyncio.sleep(WRITTEN_WITHIN)
        return True

    async def _is_half_written(self) -> bool:
        """By a process that had no more room on the disk: with its log it is whole, and goes on."""
        if await asyncio.to_thread(exchange.is_sound_alone, self.path):
            return False
        found = _standing(await asyncio.to_thread(exchange.noted_with_log, self.path))
        return found is not None and found.goes_on_from(self._stood)

    async def _put_over(self) -> None:
        if self._lock is None:
            raise LedgerError(f"the ledger {self.name} is being put back, for its file was written over: try again")
        async with self._lock.alone():
            if not self._is_ours:
                await self._put_back_alone(self._database.stands or stands_at(self.path))
                return
            known = 0 if self._stood is None else self._stood.put_back
            with told(self.name):
                fresh = await asyncio.to_thread(exchange.whole_of, self.path, known)
            fresh = fresh or await self._written_whole()  # else it stays as it is: its log may be all that is left
            await self._database.dispose()
            with told(self.name):
                found = await asyncio.to_thread(exchange.put_over, self.path, fresh, datetime.now(UTC))
            self.exchanges.append(found)
            log.error("the ledger's file was written over by somebody", ledger=self.name, what=found.text)
            await self._open()

    async def _put_back(self) -> None:
        opened = self._database.stands
        if self._lock is None or opened is None:
            raise LedgerError(f"the ledger {self.name} is being put back, for its files were exchanged: try again")
        async with self._lock.alone():
            await self._put_back_alone(opened)

    async def _put_back_alone(self, opened: Stands) -> None:
        self._whole = self._whole or await self._written_whole()
        await self._database.dispose()
        with told(self.name):
            where = (self.path, self._whole, opened, datetime.now(UTC))
            found = await asyncio.to_thread(exchange.put_in_place, *where)
        self._whole = None
        self.exchanges.append(found)
        write = log.warning if found.is_fellows else log.error
        write("the ledger's files were exchanged or lost under this process", ledger=self.name, what=found.text)
        await self._open()

    async def _written_whole(self) -> Path | None:
        """A file with all that this process has open; None where that cannot be read, or it has nothing open.

        Raises `LedgerError` where it cannot be written: then it stays open, and nothing is lost as long as we live.
        """
        try:
            fresh = await asyncio.to_thread(exchange.make_room, self.path)
            await self._database.copy_to(fresh)
            await asyncio.to_thread(exchange.seal, fresh)
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.ProgrammingError) or is_damage(error):
                return None
            what = f"the files of the ledger {self.name} were deleted, exchanged or written over"
            raise LedgerError(f"{what}, and it cannot be written again: {error}") from error
        return fresh

    async def _open(self) -> None:
        self._database = await open_database(self.path, alone=False)
        self._settled, self._stood = None, None
