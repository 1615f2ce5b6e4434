"""The ledger's files are deleted or exchanged while a process has them open: what becomes of them.

A process keeps what it has open, whatever stands at the path, and knows all that was committed there. So it writes that
into a whole file, and puts it where the ledger was. What somebody else put there is kept beside it under another name;
but where another process of ours was the first to see what had happened, its file is the ledger from then on. The one
is told from the other by a number in the ledger, which grows each time it is put back.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from errno import ENOSPC
from pathlib import Path
from urllib.parse import quote

from snaprotd.ledger.address import Stands, make_folder, open_private, stands_at

PUT_BACK = "put back"
"""The key of that number, in the ledger's notes."""

STANDS_ASIDE = "to restore a copy, stop snaprotd first"
WRITTEN_BACK = f"somebody has put an older state into it, {STANDS_ASIDE}; what this process knows is written again"
TABLE_LOST = "a table of it was dropped; what this process knows is written again"
LOG = ("-wal", "-shm")
PATIENCE = 5.0
"""Seconds for which another user of what stands there is waited for."""


@dataclass(frozen=True)
class Exchange:
    """What had happened to the files, and what was done about it."""

    text: str
    is_fellows: bool = False
    """Another process of ours has put it back already."""
    is_old: bool = False
    """What stands there now lacks what was written last."""


def make_room(path: Path) -> Path:
    """An empty file beside the ledger, for what it holds. Raises `OSError`, and `LedgerError` where it is not ours."""
    fresh = path.with_name(f"{path.name}.whole")
    make_folder(path.parent)
    fresh.unlink(missing_ok=True)
    os.close(open_private(fresh))
    return fresh


def seal(fresh: Path, known: int = 0) -> None:
    """Count that it is put back, and have it on the disk; `known` is how often it was before, if an old copy does not
    say. Raises what SQLite raises, and `OSError`.
    """
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        number = max(_number(connection), known) + 1
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
    if fresh is None:
        return _moved(path, None, "another file was put in its place")
    if _put_back(path) >= _put_back(fresh):
        fresh.unlink()
        return Exchange("another process has put it back", is_fellows=True)
    aside = _kept_aside(path, now)
    return _moved(path, fresh, f"another file was put in its place, which is kept as {aside.name}: {STANDS_ASIDE}")


# -- written over ------------------------------------------------------------------------------------------------------


def noted_alone(path: Path) -> Mapping[str, str]:
    """What is noted of the whole ledger in its file, without its log; nothing where that is no ledger."""
    try:
        with closing(_alone(path)) as connection:
            return _noted(connection)
    except (sqlite3.Error, UnicodeError):
        return {}


def is_sound_alone(path: Path) -> bool:
    """Whether the file without its log is a database, whosever: half of what is to stand in it is none."""
    try:
        with closing(_alone(path)) as connection:
            return _is_sound(connection)
    except sqlite3.Error:
        return False


def noted_with_log(path: Path) -> Mapping[str, str]:
    """As `noted_alone`, of the file and its log together; nothing where these are not a whole ledger."""
    try:
        if not path.stat().st_size:
            return {}  # whoever opens it would delete its log
        with closing(_to_read(path)) as connection:
            return _noted(connection) if _is_sound(connection) else {}
    except (sqlite3.Error, UnicodeError, OSError):
        return {}


def whole_of(path: Path, known: int) -> Path | None:
    """A file with all that stands in the ledger's, without its log; None where that is not a whole ledger.

    `known` is for `seal`. Raises `OSError` where it cannot be written.
    """
    fresh = make_room(path)
    try:
        with closing(_alone(path)) as connection:
            if not _is_sound(connection) or not noted_alone(path):
                return None
            connection.execute("VACUUM INTO ?", (str(fresh),))
        seal(fresh, known)
    except (sqlite3.Error, UnicodeError) as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
            raise OSError(ENOSPC, str(error)) from error
        return None
    return fresh


def put_over(path: Path, fresh: Path | None, now: datetime) -> Exchange:
    """Have `fresh` stand where the ledger was written over; where there is none, what stands there is kept aside.

    Another file: whoever writes it over may be at it still. Raises `OSError`.
    """
    what = "its file was written over by somebody"
    if fresh is None:
        aside = _aside(path, now)
        path.replace(aside)
        _move_log(path, aside)
        return replace(_moved(path, None, f"{what}, which is kept as {aside.name}"), is_old=True)
    _clear_log(path)
    _moved(path, fresh, what)
    lost = "what had been written to it since is lost, but for what this process knows: what it does, owes and holds"
    return Exchange(f"{what}, {STANDS_ASIDE}; {lost}", is_old=True)


def _alone(path: Path) -> sqlite3.Connection:
    """Nothing is locked, and no log is read: the file as it is."""
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True, isolation_level=None)


def _to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=PATIENCE)


def _is_sound(connection: sqlite3.Connection) -> bool:
    (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return bool(told == "ok")


def _noted(connection: sqlite3.Connection) -> Mapping[str, str]:
    return {str(key): str(value) for key, value in connection.execute("SELECT key, value FROM meta")}


# -- files -------------------------------------------------------------------------------------------------------------


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
    aside = _aside(path, now)
    for ending in ("", *LOG):
        _beside(aside, ending).unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:  # a file system without a second name
        path.rename(aside)
    _move_log(path, aside)
    return aside


def _aside(path: Path, now: datetime) -> Path:
    return path.with_name(f"{path.name}.exchanged-{now:%Y%m%dT%H%M%SZ}")


def _move_log(path: Path, aside: Path) -> None:
    for ending in LOG:
        with suppress(FileNotFoundError):
            _beside(path, ending).rename(_beside(aside, ending))


def _clear_log(path: Path) -> None:
    for ending in LOG:
        _beside(path, ending).unlink(missing_ok=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")


def _put_back(path: Path) -> int:
    """How often the ledger at `path` was put back; -1 where that is no ledger, or cannot be read."""
    try:
        with closing(_to_read(path)) as connection:
            return _number(connection)
    except (sqlite3.Error, UnicodeError):
        return -1


def _number(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (PUT_BACK,)).fetchone()
    return number_in("" if row is None else str(row[0]))


def number_in(written: str) -> int:
    return int(written) if written.isascii() and written.isdigit() and len(written) < 20 else 0
