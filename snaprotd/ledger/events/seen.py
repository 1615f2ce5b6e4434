"""Which completed snapshots of ours were seen last of each server: what is missing then has vanished."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.core.telling.vanished import Sighting
from snaprotd.ledger.events.record import WithEvents
from snaprotd.ledger.sql.prepared import Prepared
from snaprotd.ledger.sql.schema import SEEN
from snaprotd.ledger.sql.statements import in_turns

log = structlog.get_logger("snaprotd.ledger")

_SIGHTINGS = TypeAdapter(tuple[Sighting, ...])


def _noted() -> Any:
    insertion = upsert(SEEN)
    return insertion.on_conflict_do_update(
        index_elements=["account", "server_id"], set_={"snapshots": insertion.excluded.snapshots}
    )


_NOTE = Prepared(_noted, "account", "server_id", "snapshots")
BY_HAND = 200
"""Deletions by persons that are looked through."""


class Seen(WithEvents):
    """Which snapshots of the account's servers were seen."""

    async def all(self) -> dict[str, tuple[Sighting, ...]]:
        """By the server's id."""
        query = select(SEEN.c.server_id, SEEN.c.snapshots).where(SEEN.c.account == self._account())
        async with self._transaction(writes=False) as connection:
            rows = await connection.execute(query)
        return dict(await in_turns(rows, lambda row: [(str(row.server_id), _read(row.snapshots))]))

    async def of(self, server_id: str) -> tuple[Sighting, ...]:
        """Those of one server."""
        of_this = (SEEN.c.account == self._account(), SEEN.c.server_id == server_id)
        async with self._transaction(writes=False) as connection:
            found = await connection.scalar(select(SEEN.c.snapshots).where(*of_this))
        return () if found is None else _read(found)

    async def note(
        self, seen: Mapping[str, Sequence[Sighting]], *, gone: Collection[str] = (), vanished: Sequence[Entry] = ()
    ) -> None:
        """These were seen of these servers, others have `vanished`, and servers that are `gone` are forgotten."""
        rows = [
            {
                "account": self._account(),
                "server_id": server_id,
                "snapshots": _SIGHTINGS.dump_json(tuple(ones)).decode(),
            }
            for server_id, ones in seen.items()
        ]
        async with self._transaction() as connection:
            await self._events.add(connection, vanished)
            if rows:
                await connection.execute(_NOTE.for_each(rows))
            if gone:
                of_these = (SEEN.c.account == self._account(), SEEN.c.server_id.in_(list(gone)))
                await connection.execute(delete(SEEN).where(*of_these))

    async def deleted_by_hand(self, server_ids: Collection[str], since: datetime) -> set[str]:
        """The ids of the snapshots of a server that persons have deleted with `snaprotd delete`, or may have."""
        entries = await self._events.newest(server_ids=server_ids, kinds=[Happened.DELETE], since=since, limit=BY_HAND)
        return deleted_ids(entries)


def deleted_ids(newest_first: Iterable[Entry]) -> set[str]:
    """What was begun and was refused was not deleted by that: whoever deletes it later is somebody else."""
    deleted, refused = set[str](), set[frozenset[str]]()
    for entry in newest_first:
        listed = entry.details.get("ids")
        ids = frozenset(map(str, listed)) if isinstance(listed, list) else frozenset[str]()
        if entry.details.get("is_refused") is True:
            refused.add(ids)
        elif ids in refused and entry.details.get("state") == "begun":
            refused.remove(ids)
        else:
            deleted |= ids
    return deleted


def _read(text: Any) -> tuple[Sighting, ...]:
    """None where it cannot be read: nothing is missed of that server until it was seen again."""
    try:
        return tuple(_SIGHTINGS.validate_json(text))
    except ValueError as error:
        log.error("which snapshots were seen last cannot be read", error=str(error)[:200])
        return ()
