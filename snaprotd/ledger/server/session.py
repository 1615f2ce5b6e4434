"""One connection to PostgreSQL: no call of it takes longer than it may, whatever the network does.

A call is not trusted to end where it is cancelled, for that asks the server too: who waits walks away from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from snaprotd.ledger.address import ServerAddress
from snaprotd.ledger.sql.prepared import Rows, Statement, row_of

DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]

T = TypeVar("T")

WITHIN = 10.0
"""Seconds that one statement may take, or the connecting."""
SILENCE = (
    TimeoutError,
    psycopg.errors.ConnectionTimeout,
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
)
"""What is raised where nobody has answered for so long; or the server has said that it was, as where somebody else has
a table locked: whoever waits would wait as long."""
PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""After that the system gives up a connection that nobody answers on, so that none is left behind for ever."""


ORIGIN = """
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
"""
"""The cluster and its timeline, which is another one from the very moment of a promotion. What the control file shows
is the old one until the first checkpoint after that."""
MAY_TELL_ORIGIN = """
SELECT coalesce(bool_and(has_function_privilege(to_regprocedure(name), 'EXECUTE')), false) AS may_tell
FROM unnest(ARRAY['pg_control_system()', 'pg_walfile_name(pg_lsn)', 'pg_current_wal_lsn()']) AS name
"""


async def parameters_of(address: ServerAddress) -> dict[str, Any]:
    """What psycopg is told besides the URL. Raises `LedgerError` where the password cannot be read."""
    password = await address.password()
    secret = {} if password is None else {"password": password}
    return {**PATIENCE, "application_name": "snaprotd", "prepare_threshold": None, **secret}


class Session:
    """One connection; its end, where a call has failed or was walked away from, is the end of the session."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._tells_origin: bool | None = None
        self.is_lost = False

    @classmethod
    async def begin(cls, address: ServerAddress) -> Session:
        """Raises what the driver does, `TimeoutError`, or `LedgerError` where the password cannot be read."""
        more = await parameters_of(address)
        connecting = psycopg.AsyncConnection.connect(address.url, autocommit=True, **more)
        return cls(await bounded(connecting, left=_close))

    async def tell(self, text: str) -> None:
        """Carry out plain statements, without a value, in one go."""
        await self._call(self._connection.execute(text))

    async def tell_origin(self, text: str) -> str:
        """As `tell`; and which server's history is written from then on. Empty where that is not told."""
        if self._tells_origin is None:
            (row,) = await self._call(self._asked(MAY_TELL_ORIGIN, {}))
            self._tells_origin = bool(row.may_tell)
        if not self._tells_origin:
            await self.tell(text)
            return ""
        return await self._call(self._last_of(f"{text}{ORIGIN}"))

    async def _last_of(self, text: str) -> str:
        async with self._connection.cursor() as cursor:
            await cursor.execute(text)
            while cursor.nextset():
                pass
            row = await cursor.fetchone()
            return str(row[0]) if row else ""

    async def ask(self, statement: Statement) -> Rows:
        text, values = statement.in_dialect(DIALECT)
        return await self._call(self._asked(text, values))

    async def _asked(self, text: str, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Rows:
        async with self._connection.cursor() as cursor:
            if isinstance(values, Mapping):
                await cursor.execute(text, values)
            elif values:
                await cursor.executemany(text, values)
            else:
                await cursor.execute(text)
            if cursor.description is None:
                return Rows()
            make = row_of(tuple(column.name for column in cursor.description))
            return Rows(map(make, await cursor.fetchall()))

    async def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await bounded(work, left=lambda _: None)
        except psycopg.errors.DatabaseError as error:
            self.is_lost = self.is_lost or self._connection.closed or _is_end(error)
            raise
        except BaseException:
            self.is_lost = True
            raise

    def end(self) -> None:
        """Close it, without a word to the server: what was not committed is undone there."""
        self.is_lost = True
        _close(self._connection)


def _is_end(error: psycopg.Error) -> bool:
    """What was the server to write to is none any more, or is about to end."""
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.errors.ReadOnlySqlTransaction)


def was_cut(error: BaseException) -> bool:
    """The connection was gone before anything was asked on it, or its server is ending: no word on what was asked."""
    if isinstance(error, SILENCE):
        return False
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return (error.sqlstate or _CUT).startswith((_CUT, "57P"))
    return isinstance(error, OSError)


_CUT = "08"
"""PostgreSQL's class of errors of the connection; one that libpq has found to be cut bears no code."""


def _close(connection: psycopg.AsyncConnection[Any]) -> None:
    with suppress(psycopg.Error):
        connection.pgconn.finish()


async def bounded(work: Coroutine[Any, Any, T], *, left: Callable[[T], None], within: float = WITHIN) -> T:
    """What `work` answers. Raises `TimeoutError` where that takes longer; what it answers then is `left`."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=within)
    finally:
        if not task.done():
            _walk_away(task, left)
    if not task.done():
        raise TimeoutError(f"no answer within {within:g} s")
    return task.result()


_LEFT: set[asyncio.Task[Any]] = set()
"""What nobody waits for any more: a task that nobody has is collected."""


def _walk_away(task: asyncio.Task[T], left: Callable[[T], None]) -> None:
    def ended(done: asyncio.Task[T]) -> None:
        _LEFT.discard(done)
        if not done.cancelled() and done.exception() is None:
            left(done.result())

    _LEFT.add(task)
    task.add_done_callback(ended)
    task.cancel()
