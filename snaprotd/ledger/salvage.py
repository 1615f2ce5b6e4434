"""What a ledger's file still tells of starts that are owed, where it cannot be used as a ledger.

Read by SQLite alone, without writing anything: from a full or read-only disk, from a file that a newer snaprotd wrote,
from one whose rows are damaged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from snaprotd.core.errors import LedgerError
from snaprotd.core.promise import ServerPower, Terms
from snaprotd.ledger.promises import read_power
from snaprotd.ledger.rows import UnreadableRow, read_rotation

LONGEST = 5.0
"""Seconds for which another user of the file is waited for."""


WAYS = ("mode=ro", "mode=ro&readonly_shm=1", "mode=ro&immutable=1")
"""How the file is opened, until it can be read: as others do; where their shared memory cannot be made, on a full
disk; and where there is none of it at all. Only the last one misses what was written last, before a `kill -9`."""


def salvaged(path: Path) -> list[ServerPower]:
    """The servers to which a start is owed, as far as the file tells; none where it has no such table.

    Raises `LedgerError` where there is no file, or none that can be read at all.
    """
    found: dict[tuple[str, str], ServerPower] = {}
    for record in _all(path):
        key = (record.account, record.server_id)
        if key not in found:
            found[key] = record
    return [record for record in found.values() if record.power.held_off]


def _all(path: Path) -> Iterator[ServerPower]:
    why: Exception | None = None
    for how in WAYS:
        try:
            with closing(_opened(path, how)) as connection:
                records = [*_powers(connection), *_promises_of_rotations(connection)]
        except sqlite3.Error as error:
            why = why or error
            continue
        yield from records
        return
    raise LedgerError(f"the ledger {path} cannot be read: {why}")


def _opened(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True, timeout=LONGEST)
    connection.row_factory = sqlite3.Row
    return connection


def _has(connection: sqlite3.Connection, table: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (table,)).fetchone() is not None


def _powers(connection: sqlite3.Connection) -> Iterator[ServerPower]:
    if _has(connection, "powers"):
        for row in connection.execute("SELECT * FROM powers WHERE asked > released"):
            yield read_power(dict(row))


def _promises_of_rotations(connection: sqlite3.Connection) -> Iterator[ServerPower]:
    """What was promised before servers had records of their own."""
    if _has(connection, "powers") or not _has(connection, "rotations"):
        return
    for row in connection.execute("SELECT body FROM rotations WHERE is_open"):
        try:
            rotation = read_rotation(row["body"])
        except UnreadableRow:
            continue
        yield ServerPower(
            account="",
            server_id=rotation.server_id,
            label=rotation.label,
            power=rotation.power,
            terms=Terms(settle=rotation.settle),
        )
