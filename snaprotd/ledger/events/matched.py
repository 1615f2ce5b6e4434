"""Which servers a `match` has found: what was looked after stands here for the process that follows this one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.core.telling.dropped import Matched
from snaprotd.core.telling.entries import Entry
from snaprotd.ledger.events.record import WithEvents
from snaprotd.ledger.sql.prepared import Prepared
from snaprotd.ledger.sql.schema import MATCHED
from snaprotd.ledger.sql.statements import in_turns

log = structlog.get_logger("snaprotd.ledger")

AT_ONCE = 500
"""Rows of one statement."""

_MATCHED = TypeAdapter(Matched)


def _noted() -> Any:
    insertion = upsert(MATCHED)
    return insertion.on_conflict_do_update(
        index_elements=["account", "server_id"], set_={"body": insertion.excluded.body}
    )


_NOTE = Prepared(_noted, "account", "server_id", "body")


class MatchedServers(WithEvents):
    """Those of the account."""

    async def all(self) -> dict[str, Matched]:
        """By the id by which each was called. One that cannot be read is told, and left out."""
        query = select(MATCHED.c.server_id, MATCHED.c.body).where(MATCHED.c.account == self._account())
        async with self._transaction(writes=False) as connection:
            rows = await connection.execute(query)
        return dict(await in_turns(rows, lambda row: [(str(row.server_id), one) for one in _read(row.body)]))

    async def note(self, found: Mapping[str, Matched], *, gone: Collection[str], entries: Sequence[Entry]) -> None:
        """These were `found`, or dropped; those that are `gone` are forgotten; `entries` tell of it."""
        account = self._account()
        rows = [
            {"account": account, "server_id": server_id, "body": _MATCHED.dump_json(one).decode()}
            for server_id, one in found.items()
        ]
        ids = list(gone)
        async with self._transaction() as connection:
            await self._events.add(connection, entries)
            for start in range(0, len(ids), AT_ONCE):
                of_these = MATCHED.c.server_id.in_(ids[start : start + AT_ONCE])
                await connection.execute(delete(MATCHED).where(MATCHED.c.account == account, of_these))
            if rows:
                await connection.execute(_NOTE.for_each(rows))


def _read(body: Any) -> list[Matched]:
    try:
        one = _MATCHED.validate_json(body)
        if one.ids and (one.dropped_at is None or one.dropped_at.tzinfo is not None):
            return [one]
        problem = "no id, or a time without its zone"
    except ValueError as error:
        problem = str(error)[:200]
    log.error("a server that a `match` has found cannot be read from the ledger: it is left out", error=problem)
    return []
