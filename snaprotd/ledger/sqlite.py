"""The embedded database below the ledger: how its file is opened."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from sqlite3 import OperationalError
from typing import Any

import structlog
from sqlalchemy import URL, Connection, event
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
    engine = create_async_engine(url, pool_size=1, max_overflow=0)

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
        _stops_once(connection.driver_connection)
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


def _stops_once(driver: Any) -> None:
    """Where a transaction is called off, SQLAlchemy stops the driver's thread, and then the driver does once more.

    Of a thread that has ended it would wait for the answer for ever, and so would the end of the process: there is one
    answer for both.
    """
    driver.stop = cache(driver.stop)


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
        except OperationalError as error:
            if not attempts_left or not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
        connection.run_async(lambda _: asyncio.sleep(ASK_AGAIN))
