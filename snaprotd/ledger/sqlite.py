"""The embedded database below the ledger: how its file is opened."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.address import Stands, demand_ours, files_of, name_of, open_private, stands_at
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.driver import Driver, carried_out, each_carried_out
from snaprotd.ledger.sql.prepared import Rows, Statement
from snaprotd.ledger.sql.schema import is_current, migrate

log = structlog.get_logger("snaprotd.ledger")

BUSY = 5.0
"""Seconds for which one waits for another user of the file."""
A_MOMENT = 0.1
"""The same, as long as another has kept it locked for longer than that: many may want to write, and starts do."""
ASK_AGAIN = 0.05
PAGE = 1024
"""Bytes, of a file that is made now: where a value changes a whole page is written, of its row and of each index.

A file system may write four of them where one has changed: that it leaves the other three as they were, whatever
happens meanwhile, is relied on (https://www.sqlite.org/psow.html).
"""
PRAGMAS = (
    f"page_size={PAGE}",
    "synchronous=FULL",
    "foreign_keys=ON",
    "temp_store=MEMORY",
    "wal_autocheckpoint=0",
)
"""What is written stays in the log until `settle`: half of it in the file, as on a full disk, is no ledger alone."""


class SqliteConnection(Connection):
    def __init__(self, driver: Driver, *, before: Sequence[Statement] = ()) -> None:
        """`before`: what is carried out with the first statement, in one go."""
        self._driver = driver
        self._before = before

    async def execute_each(self, statements: Sequence[Statement]) -> list[Rows]:
        """In one go."""
        before, self._before = self._before, ()
        return await self._driver.submit(partial(each_carried_out, before, statements))


class Database:
    """The way to a ledger's file, over one connection, which is made where it is needed.

    Disposed of, it has closed that, even where it was cancelled.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """`alone`: keep everybody else out, and share no memory with them."""
        self.path = path
        self._alone = alone
        self._drivers: list[Driver] = []
        """There is one at a time: what came before was given up."""
        self._ready: Driver | None = None
        self._is_gone = False
        self._is_locked = False
        self.stands: Stands | None = None
        """Which files it has open, or had last; None where it was never used."""

    @property
    def is_open(self) -> bool:
        return self._ready is not None

    @property
    def keeps_others_out(self) -> bool:
        """No other process can use it."""
        return self._alone

    @asynccontextmanager
    async def begin(self, *, writes: bool = True, lasting: bool = True) -> AsyncIterator[Connection]:
        """A transaction, which is undone where it does not come to its end.

        One that begins by reading and writes later could fail half-way: it takes the write lock at once. One that only
        reads keeps nobody from writing, and waits for nobody who does.

        One that is not `lasting` is on the disk with the next one that is, or with `settle`.
        """
        driver = await self._connected()
        try:
            if writes:
                await self._begin_to_write(driver, _BEGIN_TO_LAST if lasting else _BEGIN_TO_LAG)
                yield SqliteConnection(driver)
            else:
                yield SqliteConnection(driver, before=[_BEGIN_TO_READ])
            await driver.submit(_committed)
        except BaseException:
            await self._undo(driver)
            raise

    async def _begin_to_write(self, driver: Driver, begin: Sequence[Statement]) -> None:
        was_locked = self._is_locked
        try:
            await driver.submit(partial(carried_out, [_patience(A_MOMENT), *begin] if was_locked else begin))
        except sqlite3.OperationalError as error:
            self._is_locked = is_lock(error)
            raise
        self._is_locked = False
        if was_locked:
            await driver.submit(partial(carried_out, [_patience(BUSY)]))

    async def migrate(self, *, to_read: bool = False) -> None:
        """Bring its tables to this version's. Raises what that raises. `to_read`: they are, if nobody need write."""
        driver = await self._connected()
        try:
            await driver.submit(partial(_migrated, to_read=to_read))
        except BaseException:
            await self._undo(driver)
            raise

    async def copy_to(self, file: Path) -> None:
        """Write all that it shows into an empty file, from the files that it has open, wherever those are by now."""
        if self._ready is None:
            raise sqlite3.ProgrammingError("it is not open")
        await self._ready.submit(partial(carried_out, [Statement("VACUUM INTO :file", {"file": str(file)})]))

    async def settle(self) -> bool:
        """Have all that is in its log stand in its main file too. False where some of it is in use there."""
        if self._ready is None:
            return False
        (told,) = await self._ready.submit(partial(carried_out, [Statement("PRAGMA wal_checkpoint(PASSIVE)")]))
        return bool(told.busy == 0 and told.log == told.checkpointed)

    async def dispose(self, *, for_good: bool = False) -> None:
        """Close it. It is opened again where it is used again, but `for_good`."""
        self._ready, self._is_gone = None, for_good
        await _all_done(self._stop_all())

    async def _undo(self, driver: Driver) -> None:
        """Where nobody waits for it any more it is done all the same, before anything else."""
        try:
            await asyncio.shield(driver.submit(_rolled_back))
        except sqlite3.Error:
            self._ready = None  # whatever it is, nothing is left of it in another connection

    async def _connected(self) -> Driver:
        if self._is_gone:
            raise sqlite3.ProgrammingError("it is closed")
        if self._ready is None:
            self._stop_all()
            _make_private(self.path)
            driver = Driver(self.path.absolute())
            self._drivers.append(driver)
            await driver
            await self._configure(driver)
            self._ready, self.stands = driver, stands_at(self.path)
        return self._ready

    async def _configure(self, driver: Driver) -> None:
        mode = "EXCLUSIVE" if self._alone else "NORMAL"
        await driver.submit(_decode)
        await driver.submit(partial(carried_out, [_patience(BUSY)]))
        for pragma in (f"locking_mode={mode}", *PRAGMAS):
            await driver.submit(partial(carried_out, [Statement(f"PRAGMA {pragma}")]))
        await _use_wal(driver)
        await driver.submit(partial(carried_out, [_OPENS_THE_LOG]))

    def _stop_all(self) -> list[asyncio.Future[Any]]:
        stopped = [one.stop() for one in self._drivers]
        self._drivers.clear()
        return [one for one in stopped if one is not None]


_BEGIN_TO_READ = Statement("BEGIN")
_BEGIN_TO_LAST, _BEGIN_TO_LAG = (
    [Statement(f"PRAGMA synchronous={how}"), Statement("BEGIN IMMEDIATE")] for how in ("FULL", "NORMAL")
)
"""https://www.sqlite.org/pragma.html#pragma_synchronous: with NORMAL a commit to the log is not waited for, and nothing
gets out of order: what is synced later has all that was written before it."""
_OPENS_THE_LOG = Statement("SELECT count(*) FROM sqlite_master")


def _committed(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # else it was to read, and has read nothing
        connection.execute("COMMIT")


def _rolled_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _patience(seconds: float) -> Statement:
    return Statement(f"PRAGMA busy_timeout={seconds * 1000:g}")


def _migrated(connection: sqlite3.Connection, *, to_read: bool) -> None:
    """By SQLAlchemy, which knows the tables."""
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    with engine.connect() as its:
        if to_read and is_current(its):
            return
        its.exec_driver_sql("BEGIN IMMEDIATE")
        migrate(its)
        its.commit()


async def _all_done(stopped: list[asyncio.Future[Any]]) -> None:
    """Not to be cancelled: a thread that is left behind would speak to a loop that is closed. SQLite has a time-out."""
    cancelled: asyncio.CancelledError | None = None
    while waiting := [one for one in stopped if not one.done()]:
        try:
            await asyncio.wait(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def open_database(path: Path, *, alone: bool, to_read: bool = False) -> Database:
    """Open, create or migrate the ledger at `path`. `alone`: no other process has it.

    `to_read`: where that is all, it need not be possible to write.

    Raises `LedgerError`, with nothing left open.
    """
    database = Database(path)
    try:
        try:
            await _migrate(database, to_read=to_read)
        except LedgerError as error:
            if not alone or not lacks_shared_memory(error):
                raise
            # The disk is full. What it promises can be read all the same, as long as nobody else uses it.
            log.error("no other process can use the ledger before there is space", error=str(error))
            await database.dispose()
            database = Database(path, alone=True)
            await _migrate(database)
    except BaseException:
        await database.dispose()
        raise
    return database


async def _migrate(database: Database, *, to_read: bool = False) -> None:
    with told(name_of(str(database.path))):
        await database.migrate(to_read=to_read)


@asynccontextmanager
async def transaction(
    database: Database, name: str, *, writes: bool = True, lasting: bool = True
) -> AsyncIterator[Connection]:
    """A transaction of the ledger called `name`. Raises `LedgerError`."""
    with told(name):
        async with database.begin(writes=writes, lasting=lasting) as connection:
            yield connection


@contextmanager
def told(name: str) -> Iterator[None]:
    """What goes wrong with the ledger called `name` is a `LedgerError`."""
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError, OSError, UnicodeError) as error:
        reason = getattr(error, "orig", None) or error  # the last: of a name or a message in a damaged file
        raise LedgerError(f"the ledger {name} cannot be used: {reason}") from error


def lacks_shared_memory(error: LedgerError) -> bool:
    """SQLite could not make the file that the users of a ledger share as their memory."""
    cause = getattr(error.__cause__, "orig", error.__cause__)
    return str(getattr(cause, "sqlite_errorname", "")).startswith("SQLITE_IOERR_SHM")


def is_lock(error: BaseException | None) -> bool:
    """Another one keeps it locked."""
    return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")


def is_damage(error: BaseException) -> bool:
    """What stands in the file is no database, or not a whole one."""
    return str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _make_private(path: Path) -> None:
    """SQLite would make it for everybody to read. One that is there is only looked at: whoever closes a descriptor of a
    file takes away the locks that SQLite has on it in the same process.
    """
    if not os.path.lexists(path):
        with suppress(OSError):  # SQLite fails too, and says why
            os.close(open_private(path))
    for file in files_of(path):
        demand_ours(file)


def _decode(connection: sqlite3.Connection) -> None:
    connection.text_factory = decoded


def decoded(text: bytes) -> str:
    """A text that was damaged says what is left of it, and does not hide all the other rows."""
    return text.decode(errors="replace")


async def _use_wal(driver: Driver) -> None:
    """Whoever makes the file switches it to WAL. SQLite waits for nobody who does the same: it is asked again.

    https://www.sqlite.org/c3ref/busy_handler.html: where waiting could be a deadlock, it does not wait.
    """
    for attempts_left in range(round(BUSY / ASK_AGAIN), -1, -1):
        try:
            await driver.submit(partial(carried_out, [Statement("PRAGMA journal_mode=WAL")]))
            return
        except sqlite3.OperationalError as error:
            if not attempts_left or not is_lock(error):
                raise
        await asyncio.sleep(ASK_AGAIN)
