"""The ledger's files are deleted or exchanged while a process has them open: what becomes of them.

A process keeps what it has open, whatever stands at the path, and knows all that was committed there. So it writes that
into a whole file, and puts it where the ledger was. What somebody else put there is kept beside it under another name;
but where another process of ours was the first to see what had happened, its file is the ledger from then on. The one
is told from the other by a number in the ledger, which grows each time it is put back.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from snaprotd.ledger.address import Stands, make_folder, open_private, stands_at

PUT_BACK = "put back"
"""The key of that number, in the ledger's notes."""

STANDS_ASIDE = "to restore a copy, stop snaprotd first"
LOG = ("-wal", "-shm")
PATIENCE = 5.0
"""Seconds for which another user of what stands there is waited for."""


@dataclass(frozen=True)
class Exchange:
    """What had happened to the files, and what was done about it."""

    text: str
    is_fellows: bool = False
    """Another process of ours has put it back already."""


def make_room(path: Path) -> Path:
    """An empty file beside the ledger, for what it holds. Raises `OSError`, and `LedgerError` where it is not ours."""
    fresh = path.with_name(f"{path.name}.whole")
    make_folder(path.parent)
    fresh.unlink(missing_ok=True)
    os.close(open_private(fresh))
    return fresh


def seal(fresh: Path) -> None:
    """Count that it is put back, and have it on the disk. Raises what SQLite raises, and `OSError`."""
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        number = _number(connection) + 1
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (PUT_BACK, str(number)))
    descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(path: Path, fresh: Path | None, opened: Stands, now: datetime) -> Exchange:
    """Have `fresh` stand at the ledger's path; None where nothing could be read of what was `opened`.

    Nobody of this process has any of these files open. Raises `OSError`.
    """
    make_folder(path.parent)
    for ending, was, is_now in zip(LOG, opened[1:], stands_at(path)[1:], strict=True):
        if was is not None and was == is_now:  # of the old file: SQLite would take it for a part of any other
            _beside(path, ending).unlink(missing_ok=True)
    there = stands_at(path)[0]
    if there is not None and not path.stat().st_size:
        path.unlink()
        there = None
    if there is None:
        _clear_log(path)
        return _moved(path, fresh, "its file was deleted")
    if there == opened[0]:
        if fresh is not None:
            _clear_log(path)
        return _moved(path, fresh, "the files of its log (-wal, -shm) were deleted or exchanged")
    if fresh is None or _put_back(path) >= _put_back(fresh):
        if fresh is not None:
            fresh.unlink()
        return Exchange("another process has put it back", is_fellows=True)
    aside = _kept_aside(path, now)
    return _moved(path, fresh, f"another file was put in its place, which is kept as {aside.name}: {STANDS_ASIDE}")


def _moved(path: Path, fresh: Path | None, what: str) -> Exchange:
    if fresh is None:
        return Exchange(f"{what}, and nothing of it could be read: it is written again from memory")
    fresh.replace(path)
    with suppress(OSError):  # that it is there is on the disk too
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return Exchange(f"{what}: it was written again, whole, by the process that had it open")


def _kept_aside(path: Path, now: datetime) -> Path:
    """What stands there gets another name, with its log. Until another file is put over it, it stands there too."""
    aside = path.with_name(f"{path.name}.exchanged-{now:%Y%m%dT%H%M%SZ}")
    for ending in ("", *LOG):
        _beside(aside, ending).unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:  # a file system without a second name
        path.rename(aside)
    for ending in LOG:
        with suppress(FileNotFoundError):
            _beside(path, ending).rename(_beside(aside, ending))
    return aside


def _clear_log(path: Path) -> None:
    for ending in LOG:
        _beside(path, ending).unlink(missing_ok=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")


def _put_back(path: Path) -> int:
    """How often the ledger at `path` was put back; -1 where that is no ledger, or cannot be read."""
    try:
        address = f"file:{quote(str(path.absolute()))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=PATIENCE)) as connection:
            return _number(connection)
    except (sqlite3.Error, UnicodeError):
        return -1


def _number(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (PUT_BACK,)).fetchone()
    written = "" if row is None else str(row[0])
    return int(written) if written.isascii() and written.isdigit() and len(written) < 20 else 0
