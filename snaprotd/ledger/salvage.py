"""What a ledger still tells of starts that are owed, where it cannot be used as a ledger, and what stands in for it.

Its file is read by SQLite alone, without writing anything: from a full or read-only disk, from a file that a newer
snaprotd wrote, from one whose rows are damaged. Where nothing can be read of it, or it is gone, the copies tell.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from snaprotd.core.errors import LedgerError
from snaprotd.core.promise import ServerPower, Terms, as_one, joined
from snaprotd.ledger.address import demand_ours, files_of, stands_for_server
from snaprotd.ledger.files.copies import Copies
from snaprotd.ledger.files.place import FilePlace
from snaprotd.ledger.promises import Key, read_power
from snaprotd.ledger.rows import UnreadableRow, read_rotation
from snaprotd.ledger.sqlite import Database, decoded
from snaprotd.ledger.store import Ledger

LONGEST = 5.0
"""Seconds for which another user of the file is waited for."""


WAYS = ("mode=ro", "mode=ro&readonly_shm=1", "mode=ro&immutable=1")
"""How the file is opened, until it can be read: as others do; where their shared memory cannot be made, on a full
disk; and where there is none of it at all. Only the last one misses what was written last, before a `kill -9`."""


def salvaged(path: Path) -> list[ServerPower]:
    """The servers to which a start is owed, as far as the file and the copies tell; none where neither has any.

    Raises `LedgerError` where there is no file, or none that can be read at all, and no copy either.
    """
    found: dict[Key, ServerPower] = {}
    why: LedgerError | None = None
    try:
        for record in () if stands_for_server(path) else _all(path):
            found.setdefault((record.account, record.server_id), record)
    except LedgerError as error:
        why = error
    try:
        for copy in Copies(path).read():
            known = found.get((copy.account, copy.server_id), copy)
            power = joined(known.power, copy.power)
            found[copy.account, copy.server_id] = replace(known if power == known.power else copy, power=power)
    except LedgerError as error:
        why = error
    if why is not None and not found:
        raise why
    return [record for record in as_one(found.values()) if record.power.held_off]


def _all(path: Path) -> Iterator[ServerPower]:
    for file in files_of(path):
        demand_ours(file)
    why: Exception | None = None
    for how in WAYS:
        try:
            with closing(_opened(path, how)) as connection:
                records = [*_powers(connection), *_promises_of_rotations(connection)]
        except (sqlite3.Error, UnicodeError) as error:
            why = why or error
            continue
        yield from records
        return
    raise LedgerError(f"the ledger {path} cannot be read: {why}")


def _opened(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True, timeout=LONGEST)
    connection.row_factory = sqlite3.Row
    connection.text_factory = decoded
    return connection


def _has(connection: sqlite3.Connection, table: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (table,)).fetchone() is not None


def _powers(connection: sqlite3.Connection) -> Iterator[ServerPower]:
    if _has(connection, "powers"):
        for row in connection.execute("SELECT * FROM powers"):
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


class NoLedger(Ledger):
    """Stands in where the ledger at `path` cannot be used: whatever is asked of it fails, and says why.

    The copies are kept all the same.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(FilePlace(path, Database(Path(os.devnull)), None), path, owner="", lease=60.0)
        self._why = why

    def _transaction(self, **_: bool) -> NoReturn:
        raise LedgerError(self._why)
