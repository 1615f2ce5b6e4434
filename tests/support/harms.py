"""What befalls the ledger and the disk between two processes, and what is promised all the same."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Rotation
from snaprotd.ledger.files.copies import Copies
from snaprotd.ledger.rows import UnreadableRow, read_rotation
from snaprotd.ledger.salvage import salvaged


class Harm(StrEnum):
    """What happens while no process lives, after one was killed."""

    NONE = ""
    ROW_DAMAGED = "the row of the rotation is damaged"
    ROW_NEWER = "the row of the rotation asks for a newer snaprotd"
    ROW_DELETED = "the row of the rotation is deleted"
    ROWS_DELETED = "all rows of rotations are deleted"
    POWER_DAMAGED = "the row of the server's power is damaged"
    POWER_DELETED = "the row of the server's power is deleted"
    BOTH_DAMAGED = "both rows are damaged"
    BOTH_DELETED = "both rows are deleted"
    LEDGER_DELETED = "the ledger is deleted"
    LEDGER_OVERWRITTEN = "the ledger is written over"
    COPIES_DELETED = "the copies of promises are deleted"
    FILE_REFUSED = "the configuration is refused at the restart"
    DISK_READ_ONLY = "the disk is read-only at the restart"
    DISK_FULL = "the disk is full at the restart, and for a while"


EDITS: dict[Harm, tuple[str, ...]] = {
    Harm.ROW_DAMAGED: ("UPDATE rotations SET body = substr(body, 1, 40) WHERE is_open",),
    Harm.ROW_NEWER: ("UPDATE rotations SET needs = 99 WHERE is_open",),
    Harm.ROW_DELETED: ("DELETE FROM rotations WHERE is_open",),
    Harm.ROWS_DELETED: ("DELETE FROM rotations",),
    Harm.POWER_DAMAGED: ("UPDATE powers SET body = 'x'",),
    Harm.POWER_DELETED: ("DELETE FROM powers",),
    Harm.BOTH_DAMAGED: ("UPDATE rotations SET body = 'x'", "UPDATE powers SET body = 'x'"),
    Harm.BOTH_DELETED: ("DELETE FROM rotations", "DELETE FROM powers"),
}
"""As a person does it, or a disk."""

FORGETS_THE_SLOT = frozenset(
    {
        Harm.ROW_DAMAGED,
        Harm.ROW_NEWER,
        Harm.ROW_DELETED,
        Harm.ROWS_DELETED,
        Harm.BOTH_DAMAGED,
        Harm.BOTH_DELETED,
        Harm.LEDGER_DELETED,
        Harm.LEDGER_OVERWRITTEN,
    }
)
"""After these nobody knows what was asked for in a slot: whether a snapshot is asked for once only is not judged."""

LOSES_HOLDS = frozenset({Harm.LEDGER_DELETED, Harm.LEDGER_OVERWRITTEN})
"""What persons have said of holds stands in the ledger alone."""

BEFORE_THE_DAEMON = frozenset({Harm.FILE_REFUSED, Harm.DISK_READ_ONLY, Harm.LEDGER_OVERWRITTEN})
"""With these the daemon cannot begin: what is owed is paid first, and then the process ends."""


def edit(ledger: Path, *statements: str) -> None:
    with closing(sqlite3.connect(ledger)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def delete_ledger(ledger: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a ledger's own columns, or the copy beside it, still tell of the server."""

    is_followed: bool = False
    """Something is owed to it, or an old stop may turn out to have struck."""
    is_open: bool = False
    """A rotation of it is open that tells the same. One that was just claimed does not, before it is saved."""


def is_ledger(path: Path) -> bool:
    """There is one, and its tables are made."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.DatabaseError):
        return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'powers'").fetchone() is not None
    return False


def told_by(ledger: Path) -> Told:
    copied = any(copy.power.is_followed for copy in Copies(ledger).read())
    if not is_ledger(ledger):
        return Told(is_followed=copied)
    with closing(sqlite3.connect(ledger)) as connection:
        (followed,) = connection.execute("SELECT count(*) FROM powers WHERE is_followed").fetchone()
        bodies = [body for (body,) in connection.execute("SELECT body FROM rotations WHERE is_open AND needs <= 1")]
    return Told(
        is_followed=bool(followed) or copied,
        is_open=any(one.power.is_followed for one in map(_rotation, bodies) if one),
    )


def _rotation(body: str) -> Rotation | None:
    try:
        return read_rotation(body)
    except UnreadableRow:
        return None


_ON_DISK: dict[Path, dict[str, bytes]] = {}
"""Of ledgers to which something was written that nobody waits for: its files, as they are on the disk for certain."""


def note_begun(ledger: Path, *, writes: bool = True, lasting: bool = True, **_: bool) -> None:
    """A transaction has begun. Unless it is `lasting` what it writes may be lost, if no lasting one comes after it."""
    if writes and not lasting and ledger not in _ON_DISK:
        files = (ledger.with_name(ledger.name + suffix) for suffix in ("", "-wal"))
        _ON_DISK[ledger] = {one.name: one.read_bytes() for one in files if one.exists()}


def note_committed(ledger: Path, *, writes: bool = True, lasting: bool = True, **_: bool) -> None:
    """Where it is `lasting` it is on the disk, with all that was written before it."""
    if writes and lasting:
        _ON_DISK.pop(ledger, None)


def lose_power(ledger: Path) -> bool:
    """The machine has lost its power, and the ledger what was not waited for. Whether there was any of that."""
    on_disk = _ON_DISK.pop(ledger, None)
    if on_disk is None or not ledger.exists():
        return False
    delete_ledger(ledger)
    for name, content in on_disk.items():
        ledger.with_name(name).write_bytes(content)
    return True


def befall(ledger: Path, harm: Harm) -> None:
    """Do to the ledger what `harm` says; the disk and the configuration are for the next process to meet."""
    _ON_DISK.pop(ledger, None)
    if harm is Harm.LEDGER_DELETED:
        delete_ledger(ledger)
    elif harm is Harm.LEDGER_OVERWRITTEN:
        delete_ledger(ledger)
        ledger.write_bytes(b"no ledger" * 1000)
    elif harm is Harm.COPIES_DELETED:
        shutil.rmtree(ledger.with_name(f"owed-by-{ledger.name}"), ignore_errors=True)
    elif harm in EDITS and is_ledger(ledger):
        edit(ledger, *EDITS[harm])


def put_right(ledger: Path, harm: Harm) -> None:
    """What a person does when the process has said why it cannot begin."""
    if harm is Harm.LEDGER_OVERWRITTEN:
        delete_ledger(ledger)


def is_promise_known(before: Told, after: Told) -> bool:
    """Whether the promise to start the server again outlives a harm, done while no process lived.

    It is written three times: in the row of the server's power, whose columns tell it where the body cannot be read, in
    that of the open rotation, and in a file beside the ledger. What one of them still tells is kept.
    """
    was_told = before.is_followed or before.is_open
    return not was_told or after.is_followed or after.is_open


def is_owed_on(ledger: Path) -> bool:
    """A start is owed by what can be read of the ledger without using it."""
    try:
        return bool(salvaged(ledger))
    except LedgerError:
        return False


@contextmanager
def disk_is_read_only(ledger: Path, *, really: bool = True) -> Iterator[None]:
    """The ledger cannot be opened as one meanwhile, as on such a disk; it can be read. (A test may be run by root.)"""
    lock = ledger.with_name(ledger.name + ".lock")
    if really:
        lock.unlink(missing_ok=True)
        lock.mkdir()
    try:
        yield
    finally:
        if really:
            lock.rmdir()


LOST = (
    "UPDATE rotations SET owner = 'somebody', epoch = epoch + 1, lease_until = {} WHERE is_open",
    "UPDATE rotations SET body = json_set(body, '$.asked', 0, '$.held_off', json('false')) WHERE is_open",
    "UPDATE rotations SET body = json_set(body, '$.went_off', json('false'), '$.step', 'look') WHERE is_open",
    "UPDATE rotations SET body = json_set(body, '$.unstruck', json('false')) WHERE is_open",
    "DELETE FROM powers",
)


def lose_the_promise(folder: Path, lease: str = "0") -> None:
    """As a database looks that has lost its last commits: another process has begun the slot anew, and owes nothing.

    `lease`: until when that holds it, in SQL. No copy beside the ledger tells of the stop either.
    """
    edit(folder / "state.db", *(one.format(lease) for one in LOST))
    shutil.rmtree(folder / "owed-by-state.db")
