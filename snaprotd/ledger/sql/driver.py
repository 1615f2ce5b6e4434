"""SQLite behind a thread of its own, and what is done there in one go."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from snaprotd.ledger.sql.dialects import SQLITE
from snaprotd.ledger.sql.prepared import Rows, Statement, row_of

T = TypeVar("T")


class Driver(aiosqlite.Connection):
    """A connection that can be stopped at any moment and however often, and then is closed.

    Where its making is cancelled the driver itself leaves it open until it is collected as garbage. For the answer of
    a thread that has been stopped it would wait for ever, and so would the end of the process.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(self._open, iter_chunk_size=64)
        self._thread.daemon = True
        # Autocommit in the driver, so that the transactions are ours.
        self._how = partial(sqlite3.connect, path, isolation_level=None, check_same_thread=False)
        self._opened: sqlite3.Connection | None = None
        self._stopped: asyncio.Future[Any] | None = None

    def _open(self) -> sqlite3.Connection:
        self._opened = self._how()
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Have its thread do this, after what it was given before."""
        if self._stopped is not None or self._opened is None:
            raise sqlite3.ProgrammingError("the connection is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((done, partial(work, self._opened)))
        return done

    def stop(self) -> asyncio.Future[Any] | None:
        """Have it closed as soon as its thread has done what it was given to do."""
        if self._stopped is None:
            self._tx.put_nowait((None, self._close))
            self._stopped = super().stop()
        return self._stopped and asyncio.shield(self._stopped)  # whoever waits for it may be cancelled


def carried_out(statements: Sequence[Statement], connection: sqlite3.Connection) -> Rows:
    """In one go, the rows of the last; and nothing of it stays open: what has a statement is not closed."""
    with closing(connection.cursor()) as cursor:
        for one in statements:
            text, values = one.in_dialect(SQLITE)
            if isinstance(values, Mapping) or not values:
                cursor.execute(text, values)
            else:
                cursor.executemany(text, values)
        if cursor.description is None:
            return Rows()
        make = row_of(tuple(column[0] for column in cursor.description))
        return Rows(map(make, cursor.fetchall()))


def each_carried_out(
    before: Sequence[Statement], statements: Sequence[Statement], connection: sqlite3.Connection
) -> list[Rows]:
    """As `carried_out`, but the rows of each, after what comes `before` them."""
    carried_out(before, connection)
    return [carried_out([one], connection) for one in statements]
