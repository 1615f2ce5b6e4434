"""The rows of the replicas that share a ledger on a server, and of what one of them does for all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Table, bindparam, case, delete, select
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.core.fleet import Replica
from snaprotd.core.fleet.looks import Fleet
from snaprotd.core.words import printable
from snaprotd.ledger.claims import uptime
from snaprotd.ledger.sql.connection import Connection, Place
from snaprotd.ledger.sql.prepared import Prepared
from snaprotd.ledger.sql.schema import REPLICAS, ROLES

GENERATION = "generation"
"""The name of the role's row that has the highest one for its epoch."""


def _overwriting(table: Table, key: str) -> Any:
    insertion = upsert(table)
    new = {name: insertion.excluded[name] for name in table.c.keys() if name != key}  # noqa: SIM118
    return insertion.on_conflict_do_update(index_elements=[key], set_=new)


def _upsert_role() -> Any:
    insertion = upsert(ROLES)
    is_held = ROLES.c.holder == insertion.excluded.holder
    epoch = case((is_held, ROLES.c.epoch), else_=ROLES.c.epoch + 1)
    return insertion.on_conflict_do_update(
        index_elements=["name"], set_={"holder": insertion.excluded.holder, "epoch": epoch}
    )


_REPLICAS = Prepared(lambda: select(REPLICAS))
_ROLES = Prepared(lambda: select(ROLES))
_BEAT = Prepared(lambda: _overwriting(REPLICAS, "id"), *REPLICAS.c.keys())
_TAKE = Prepared(_upsert_role, *ROLES.c.keys())
_RAISE = Prepared(lambda: _overwriting(ROLES, "name"), *ROLES.c.keys())
_STANDS = (REPLICAS.c.id == bindparam("row"), REPLICAS.c.beat == bindparam("as_of"))
_FORGET = Prepared(lambda: delete(REPLICAS).where(*_STANDS))
_LEAVE = Prepared(lambda: delete(REPLICAS).where(REPLICAS.c.id == bindparam("row")))
_GIVE_UP = Prepared(lambda: delete(ROLES).where(ROLES.c.holder == bindparam("row"), ROLES.c.name != GENERATION))
_HOLDER = Prepared(lambda: select(ROLES.c.holder).where(ROLES.c.name == bindparam("role")))

Look = Callable[[Sequence[Replica], Mapping[str, str], int, float], Fleet]
"""What becomes of a look: told the rows, who has which role, the highest generation, and our uptime."""


class Replicas:
    """Every method raises `LedgerError` where the database cannot be read or written."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def beat(self, look: Look) -> Fleet:
        """Look at all rows, and write what comes of it, in one transaction: who sees the beat was seen by it."""
        async with self._place.begin() as connection:
            rows = await connection.execute(_REPLICAS())
            roles = {row.name: row for row in await connection.execute(_ROLES())}
            newest = roles[GENERATION].epoch if GENERATION in roles else 0
            holders = {name: row.holder for name, row in roles.items() if name != GENERATION}
            fleet = look([_replica(row) for row in rows], holders, newest, uptime())
            await connection.execute(_BEAT(**_row(fleet.me)))
            mine = [name for name, holder in fleet.roles.items() if holder == fleet.me.id]
            for name in mine:
                if holders.get(name) != fleet.me.id:
                    await connection.execute(_TAKE(name=name, holder=fleet.me.id, epoch=1))
            if fleet.newest > newest:
                await connection.execute(_RAISE(name=GENERATION, holder=fleet.me.id, epoch=fleet.newest))
            if gone := fleet.forgotten:
                await connection.execute(_FORGET.for_each({"row": one.id, "as_of": one.beat} for one in gone))
        return fleet

    async def leave(self, id_: str) -> None:
        """In order: the others need not wait until it stands still."""
        async with self._place.begin() as connection:
            await connection.execute(_LEAVE(row=id_))
            await connection.execute(_GIVE_UP(row=id_))


async def holder_of(role: str, connection: Connection) -> str:
    """Who has it; empty for nobody."""
    return str(await connection.scalar(_HOLDER(role=role)) or "")


def _row(one: Replica) -> dict[str, Any]:
    words = {"version": one.version, "config": one.config, "host": printable(one.host, 255)}
    body = json.dumps(one.body, ensure_ascii=False, separators=(",", ":"))
    return {"id": one.id, "beat": one.beat, "generation": one.generation, **words, "body": body}


def _replica(row: Any) -> Replica:
    """What else it says counts as nothing where that cannot be read."""
    try:
        body = json.loads(row.body)
    except (ValueError, TypeError, RecursionError):
        body = None
    words = {"version": printable(row.version), "config": printable(row.config), "host": printable(row.host)}
    return Replica(
        id=row.id,
        beat=row.beat,
        generation=row.generation,
        body=body if isinstance(body, dict) else {},
        **words,
    )
