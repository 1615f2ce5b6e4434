"""The table of events: written in the transaction that makes each of them true, read by whoever asks what happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Select, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Deletion, Entry, Happened, of_deletion, of_end
from snaprotd.core.words import printable
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.prepared import Prepared, of_account
from snaprotd.ledger.sql.schema import EVENTS
from snaprotd.logs import redactor

log = structlog.get_logger("snaprotd.ledger")

KEPT_FOR = timedelta(days=400)
KEPT = 50_000
"""Events that are kept of those that nobody has caused, and as many of those that persons have."""
LONGEST = 2000
"""Letters of a text."""


def told_by(rotation: Rotation, deletion: Deletion | None) -> list[Entry]:
    """The events that a save of the rotation makes true."""
    asked = [] if deletion is None else [of_deletion(rotation, deletion, datetime.now(UTC))]
    return [*asked, of_end(rotation)] if rotation.is_finished else asked


_LAST = Prepared(lambda: select(func.max(EVENTS.c.id)))
_OURS = of_account(EVENTS)
_AFTER = Prepared(
    lambda: select(EVENTS).where(_OURS, EVENTS.c.id > bindparam("after")).order_by(EVENTS.c.id).limit(bindparam("most"))
)
_ADD = Prepared(
    lambda: upsert(EVENTS).on_conflict_do_nothing(index_elements=["key"]),
    *(column.name for column in EVENTS.c if column.name != "id"),
)


class Events:
    """Every method raises `LedgerError` where the database cannot be read or written."""

    def __init__(
        self, transaction: Callable[..., AbstractAsyncContextManager[Connection]], account: Callable[[], str]
    ) -> None:
        self._transaction = transaction
        self._account = account

    async def write(self, entries: Sequence[Entry]) -> None:
        """Write down what no other transaction makes true."""
        if entries:
            async with self._transaction() as connection:
                await self.add(connection, entries)

    async def add(self, connection: Connection, entries: Iterable[Entry]) -> None:
        """As `write`, in a transaction that is open."""
        if rows := [self._row(entry) for entry in entries]:
            await connection.execute(_ADD.for_each(rows))

    def _row(self, entry: Entry) -> dict[str, Any]:
        return {
            "account": self._account(),
            "at": statements.text_of(entry.at),
            "kind": str(entry.kind),
            "server_id": entry.server_id,
            "by": entry.by and printable(entry.by),
            "text": _fit(entry.text),
            "details": json.dumps(_clean(entry.details), ensure_ascii=False, separators=(",", ":")),
            "key": entry.key or None,
        }

    async def after(self, id_: int, *, limit: int) -> tuple[list[Entry], int]:
        """Those that were written after this one, the oldest first; and the id up to which that is all.

        That is less than `id_` where the ledger was lost, and has begun to count anew.
        """
        query = _AFTER(its_account=self._account(), after=id_, most=limit)
        async with self._transaction(writes=False) as connection:
            rows = await connection.execute(query)
            last = rows[-1].id if rows else await connection.scalar(_LAST())
        return _entries(rows), int(last or 0)

    async def newest(
        self,
        *,
        server_ids: Collection[str] | None = None,
        kinds: Collection[Happened] | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Entry]:
        """The newest of them, the newest first."""
        query, columns = self._ours(), EVENTS.c
        if server_ids is not None:
            query = query.where(columns.server_id.in_(list(server_ids)))
        if kinds is not None:
            query = query.where(columns.kind.in_([str(kind) for kind in kinds]))
        if since is not None:
            query = query.where(columns.at >= statements.text_of(since))
        async with self._transaction(writes=False) as connection:
            return _entries(await connection.execute(query.order_by(columns.id.desc()).limit(limit)))

    async def forget_old(self, now: datetime) -> None:
        """Forget those that are too old or too many. What persons have done is counted by itself: it is rare."""
        columns = EVENTS.c
        async with self._transaction() as connection:
            await connection.execute(delete(EVENTS).where(columns.at < statements.text_of(now - KEPT_FOR)))
            for theirs in (columns.by.is_(None), columns.by.is_not(None)):
                query = select(columns.id).where(theirs).order_by(columns.id.desc()).offset(KEPT).limit(1)
                if (newest_to_go := await connection.scalar(query)) is not None:
                    await connection.execute(delete(EVENTS).where(theirs, columns.id <= newest_to_go))

    def _ours(self) -> Select[Any]:
        return select(EVENTS).where(EVENTS.c.account.in_(("", self._account())))


class WithEvents:
    """A table of an account's, and the events that are written with it, in one transaction.

    Every method raises `LedgerError` where the database cannot be read or written.
    """

    def __init__(
        self,
        transaction: Callable[..., AbstractAsyncContextManager[Connection]],
        account: Callable[[], str],
        events: Events,
    ) -> None:
        self._transaction = transaction
        self._account = account
        self._events = events


def _fit(text: str) -> str:
    return printable(redactor.clean(text), LONGEST)


def _clean(value: Any) -> Any:
    """Plain values of JSON, without secrets in what somebody else may have said."""
    if isinstance(value, str):
        return _fit(value)
    if isinstance(value, Mapping):
        return {str(key): _clean(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(one) for one in value]
    return value


def _entries(rows: Iterable[Any]) -> list[Entry]:
    return [entry for row in rows for entry in _entry(row)]


def _entry(row: Any) -> list[Entry]:
    """None where it cannot be read, which was told."""
    at = statements.instant_of(row.at)
    try:
        kind, details = Happened(row.kind), json.loads(row.details)
    except (ValueError, TypeError, RecursionError):
        log.error("an event in the ledger cannot be read, and is left out", id=row.id)
        return []
    if at is None or not isinstance(details, dict):
        return []
    text, by = str(row.text), None if row.by is None else str(row.by)
    server_id = None if row.server_id is None else str(row.server_id)
    return [Entry(id=row.id, at=at, kind=kind, text=text, server_id=server_id, by=by, details=details)]
