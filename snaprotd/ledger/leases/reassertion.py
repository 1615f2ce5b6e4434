"""What a renewal sees to besides the lease: that the ledger has what its holder has promised.

A database that has lost its last commits, as after a failover, tells of a state that is a moment older. Whoever holds a
rotation knows more, and writes it again. It never writes over what is as new as that or newer.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Rotation
from snaprotd.ledger import promises
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.starts import Starts

log = structlog.get_logger("snaprotd.ledger")


async def owe_again(connection: Connection, starts: Starts, rotations: Sequence[Rotation]) -> None:
    """Have the ledger owe what these rotations, which are ours, have promised to their servers."""
    records = [starts.record_of(one) for one in rotations if one.power.asked]
    if not records:
        return
    counted = await promises.counted(connection, starts.account, {one for record in records for one in record.ids})
    for record in records:
        if all(_is_behind(counted[one], record) for one in record.ids if one in counted):
            log.error("the ledger has lost what is owed to a server: it is written again", server=record.label)
            await promises.put(connection, record)


def _is_behind(counts: tuple[Any, Any], record: ServerPower) -> bool:
    """A row that was damaged is behind too."""
    asked, released = counts
    whole = isinstance(asked, int) and isinstance(released, int)
    return not whole or asked < record.power.asked or (asked == record.power.asked and released < record.power.released)


async def ask_again(
    connection: Connection, rotations: Sequence[Rotation], write: Callable[[Rotation], Awaitable[object]]
) -> None:
    """`write` each of these, which are ours, whose row knows nothing of the request for its snapshot that is open."""
    intents = {one.id: one for one in rotations if one.creation.create_open is not None}
    if not intents:
        return
    for row in await connection.execute(statements.bodies_of(intents)):
        rotation = intents[row.id]
        if _creates_in(row.body) < rotation.creation.creates:
            log.error("the ledger has lost that a snapshot was asked for: it is written again", server=rotation.label)
            await write(rotation)


def _creates_in(body: Any) -> int:
    """The requests that a row tells of; none where it was damaged."""
    try:
        creates = json.loads(body).get("creates", 0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return -1
    return creates if isinstance(creates, int) else -1
