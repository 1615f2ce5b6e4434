"""The embedded database below the ledger: how its file is opened."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import aiosqlite
import structlog
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.address import demand_ours, files_of, make_folder, name_of, open_private
from snaprotd.ledger.sql.schema import migrate

log = structlog.get_logger("snaprotd.ledger")

BUSY = 10.0
"""Seconds for which one waits for another user of the file."""
ASK_AGAIN = 0.05
LONGEST_TURN = 60.0
"""Seconds for which a transaction waits for those of its own process."""


class Opened(sqlite3.Connection):
    """SQLite's own. It keeps what is closed open, and locked, as long as a cursor of it has a statement."""

    def __init__(self, *where: Any, **options: Any) -> None:
        super().__init__(*where, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *kind: Any) -> Any:
        made = super().cursor(*kind)
        self._cursors.add(made)
        return made

    def close(self) -> None:
        cursors, self._cursors = list(self._cursors), WeakSet()  # it may be closed twice, and they may not
        for cursor in cursors:
            cursor.close()
        super().close()


class Driver(aiosqlite.Connection):
    """A connection that can be stopped at any moment and however often, and then is closed.

    Where its making is cancelled the driver itself leaves it open until it is collected as garbage. For the answer of
    a thread that has been stopped it would wait for ever, and so would the end of the process.
    """

    def __init__(self, *where: Any, **options: Any) -> None:
        super().__init__(self._open, iter_chunk_size=64)
        self._thread.daemon = True  # as SQLAlchemy has it
        self._how = partial(sqlite3.connect, *where, factory=Opened, **options)
        self._opened: sqlite3.Connection | None = None
        self._stopped: asyncio.Future[Any] | None = None

    def _open(self) -> sqlite3.Connection:
        self._opened = self._how()
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def stop(self) -> asyncio.Future[Any] | None:
        """Have it closed as soon as its thread has done what it was given to do."""
        if self._stopped is None:
            self._tx.put_nowait((None, self._close))
            self._stopped = super().stop()
        return self._stopped and asyncio.shield(self._stopped)  # whoever waits for it may be cancelled


class LedgerEngine(AsyncEngine):
    """The way to a ledger's file, over one connection. Disposed of, it has closed that, even where it was cancelled."""

    def __init__(self, sync_engine: Engine, drivers: list[Driver]) -> None:
        super().__init__(sync_engine)
        self._drivers = drivers

    async def dispose(self, close: bool = True) -> None:
        try:
            await super().dispose(close)
        finally:
            await _all_done(_stop_all(self._drivers))


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


async def open_engine(path: Path, *, alone: bool) -> AsyncEngine:
    """Open, create or migrate the ledger at `path`. `alone`: no other process has it.

    Raises `LedgerError`, with nothing left open.
    """
    engine = sqlite_engine(path)
    try:
        try:
            await _migrate(engine, path)
        except LedgerError as error:
            if not alone or not lacks_shared_memory(error):
                raise
            # The disk is full. What it promises can be read all the same, as long as nobody else uses it.
            log.error("no other process can use the ledger before this one is restarted", error=str(error))
            await engine.dispose()
            engine = sqlite_engine(path, alone=True)
            await _migrate(engine, path)
    except BaseException:
        await engine.dispose()
        raise
    return engine


def file_of(engine: AsyncEngine) -> tuple[int, int] | None:
    """Which file stands at the ledger's path; None where there is none, or an empty one."""
    try:
        status = os.stat(str(engine.url.database))
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None


def written_of(path: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes, of the ledger's file and of its log, when anybody writes to them. They are not opened for it."""
    return tuple(_state_of(one) for one in (path, path.with_name(f"{path.name}-wal")))


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def clear_away(path: Path) -> None:
    """Where the ledger's file is gone or empty: delete what is left beside it, which belongs to nothing any more.

    Whoever has it open keeps what he has open. An empty file goes too: its other users are to see that it was lost. The
    folder is made again where it is gone.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size:
            return
    make_folder(path.parent)
    for left in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        left.unlink(missing_ok=True)


async def _migrate(engine: AsyncEngine, path: Path) -> None:
    async with transaction(engine, name_of(str(path))) as connection:
        await connection.run_sync(migrate)


@asynccontextmanager
async def turn(lock: asyncio.Lock, name: str) -> AsyncIterator[None]:
    """Hold the lock of the ledger called `name`. Raises `LedgerError` where others hold it for too long."""
    try:
        async with asyncio.timeout(LONGEST_TURN):
            await lock.acquire()
    except TimeoutError as error:
        raise LedgerError(f"the ledger {name} has been busy for {LONGEST_TURN:g} s") from error
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def transaction(engine: AsyncEngine, name: str) -> AsyncIterator[AsyncConnection]:
    """A transaction of the ledger called `name`. Raises `LedgerError`."""
    try:
        async with engine.begin() as connection:
            yield connection
    except (SQLAlchemyError, OSError, UnicodeError) as error:  # the last: of a name or a message in a damaged file
        reason = getattr(error, "orig", None) or error
        raise LedgerError(f"the ledger {name} cannot be used: {reason}") from error


def lacks_shared_memory(error: LedgerError) -> bool:
    """SQLite could not make the file that the users of a ledger share as their memory."""
    cause = getattr(error.__cause__, "orig", None)
    return str(getattr(cause, "sqlite_errorname", "")).startswith("SQLITE_IOERR_SHM")


def sqlite_engine(path: Path, *, alone: bool = False) -> AsyncEngine:
    """`alone`: keep everybody else out, and share no memory with them."""
    # As parts, not as text: a path may hold what means something in a URL.
    url = URL.create("sqlite+aiosqlite", database=str(path.absolute()))
    drivers: list[Driver] = []

    async def connect(*where: Any, **options: Any) -> aiosqlite.Connection:
        _stop_all(drivers)  # there is one at a time: what came before was given up
        drivers.append(Driver(*where, **options))
        return await drivers[-1]

    made = create_async_engine(url, pool_size=1, max_overflow=0, connect_args={"async_creator_fn": connect})
    engine = LedgerEngine(made.sync_engine, drivers)

    @event.listens_for(engine.sync_engine, "do_connect")
    def make(*_: object) -> None:
        # SQLite would make it for everybody to read. One that is there is only looked at: whoever closes a descriptor
        # of a file takes away the locks that SQLite has on it in the same process.
        if not os.path.lexists(path):
            with suppress(OSError):  # SQLite fails too, and says why
                os.close(open_private(path))
        for file in files_of(path):
            demand_ours(file)

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: object) -> None:
        # Autocommit in the driver, so that the transactions are those that SQLAlchemy begins.
        connection.isolation_level = None
        connection.run_async(_decode)
        cursor = connection.cursor()
        mode = "EXCLUSIVE" if alone else "NORMAL"
        for pragma in (f"busy_timeout={BUSY * 1000:g}", f"locking_mode={mode}", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        _use_wal(connection, cursor)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that begins by reading and writes later could fail half-way; take the write lock at once.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _stop_all(drivers: list[Driver]) -> list[asyncio.Future[Any]]:
    stopped = [one.stop() for one in drivers]
    drivers.clear()
    return [one for one in stopped if one is not None]


async def _decode(connection: Any) -> None:
    connection.text_factory = decoded


def decoded(text: bytes) -> str:
    """A text that was damaged says what is left of it, and does not hide all the other rows."""
    return text.decode(errors="replace")


def _use_wal(connection: Any, cursor: Any) -> None:
    """Whoever makes the file switches it to WAL. SQLite waits for nobody who does the same: it is asked again.

    https://www.sqlite.org/c3ref/busy_handler.html: where waiting could be a deadlock, it does not wait.
    """
    for attempts_left in range(round(BUSY / ASK_AGAIN), -1, -1):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not attempts_left or not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
        connection.run_async(lambda _: asyncio.sleep(ASK_AGAIN))
