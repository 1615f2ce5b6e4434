"""Where a ledger is, what it is called wherever that is shown, and which ones were in force. Loads no database.

And whose its files are: no other local user may have us write into theirs, nor leave us one that we believe.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.core.words import kind_of_file, without_user

log = structlog.get_logger("snaprotd.ledger")

IN_FORCE = "ledgers-in-force"
"""The file in `$STATE_DIRECTORY` that names, a line each, the ledgers that may owe a start: the one in force and those
before it. A configuration that names another `state` says nothing of them."""

MOST_LISTED = 1024 * 1024
"""Bytes of that file that are read."""


def name_of(state: str) -> str:
    """What the ledger of the key `state` is called: its file in full, or its address without a user and password."""
    if "://" not in state:
        return os.path.abspath(state)
    if (shown := without_user(state)) is not None:
        return shown
    scheme, _, rest = state.partition("://")
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"


def is_on_server(state: str) -> bool:
    """Whether it is on a database server, and no file."""
    return "://" in state


ON_SERVER = "on-server-"
"""How the name begins that stands here for a ledger on a server. There is no such file, but what is beside it."""


def stands_for_server(place: Path) -> bool:
    """Whether no file of a ledger is to be looked for there."""
    return place.name.startswith(ON_SERVER) and not place.exists()


def called(place: Path) -> str:
    """What a ledger that was in force is called where people are told of it."""
    return f"one on a server, by what is kept at {place}*" if stands_for_server(place) else str(place)


def why_unusable(state: str) -> str:
    """Why the ledger that `state` names cannot be opened here; empty where it can."""
    if not is_on_server(state) or find_spec("psycopg"):
        return ""
    return 'the driver for PostgreSQL is not installed: pip install "snaprotd[postgresql]"'


async def _no_password() -> str | None:
    return None


@dataclass(frozen=True)
class ServerAddress:
    """How a ledger on a server is reached."""

    url: str = field(repr=False)
    """As libpq reads it (https://www.postgresql.org/docs/current/libpq-connect.html); it may hold a password."""
    password: Callable[[], Awaitable[str | None]] = field(default=_no_password, repr=False)
    """As of now. None where libpq finds one itself, in its own files or its environment, or needs none. Raises
    `LedgerError` where it cannot be read."""


def ledgers_in_force(folder: Path | None) -> list[Path]:
    """The ledgers that may owe a start, the last in force first; none where nobody has noted any."""
    listed = b""
    with suppress(OSError):
        if folder is not None:
            with (folder / IN_FORCE).open("rb") as file:
                listed = file.read(MOST_LISTED)
    lines = listed.decode(errors="replace").splitlines()
    return [Path(line) for line in dict.fromkeys(lines) if os.path.isabs(line)]


def note_in_force(folder: Path | None, places: Sequence[Path]) -> None:
    """Have `ledgers_in_force` answer with these. Where that cannot be written it is told, and stays as it was."""
    absolute = list(dict.fromkeys(path.absolute() for path in places))
    if folder is None or ledgers_in_force(folder) == absolute:
        return
    try:
        write_anew(folder / IN_FORCE, "".join(f"{path}\n" for path in absolute))
    except OSError as error:
        log.warning("which ledger is in force cannot be noted", folder=str(folder), error=str(error))


# -- what stands there -------------------------------------------------------------------------------------------------


Stands = tuple[tuple[int, int] | None, ...]
"""Which files stand at a ledger's path: itself, its log and the memory that its users share."""


def stands_at(path: Path) -> Stands:
    """Which files those are now. They are not opened for it."""
    return tuple(_which(path.with_name(f"{path.name}{ending}")) for ending in ("", "-wal", "-shm"))


def _which(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def written_of(path: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes, of the ledger's file and of its log, when anybody writes to them. They are not opened for it."""
    return tuple(state_of(one) for one in (path, path.with_name(f"{path.name}-wal")))


def state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes of a file when it is written. None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


# -- whose they are ------------------------------------------------------------------------------------------------


def open_private(path: Path) -> int:
    """A descriptor of the file at `path`, which is made for its owner alone where there is none.

    Raises `LedgerError` where what stands there is not ours, `OSError` where it cannot be opened.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        demand_ours(path)
        descriptor = os.open(path, flags)
        _close_unless_ours(path, descriptor)
    else:
        _hand_over(descriptor, path.parent)
    return descriptor


def files_of(ledger: Path) -> list[Path]:
    """A database's file, and those that SQLite takes for a part of it, whoever has put them there."""
    return [ledger.with_name(f"{ledger.name}{ending}") for ending in ("", "-wal", "-shm", "-journal")]


def demand_ours(path: Path) -> None:
    """Raise `LedgerError` where something stands at `path` that is not a file of ours. It is not opened."""
    try:
        _refuse_anothers(path, os.lstat(path))
    except FileNotFoundError:
        return


def _close_unless_ours(path: Path, descriptor: int) -> None:
    try:
        _refuse_anothers(path, os.fstat(descriptor))  # it may be another one by now
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_anothers(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise LedgerError(f"{path} is a symbolic link, which anybody may have put there: `state` must name the file")
    if kind := kind_of_file(status.st_mode):
        raise LedgerError(f"{path} is {kind}, not a file: `state` must name a file")
    us = os.geteuid()
    if status.st_uid not in (us, 0) and (us != 0 or status.st_uid != os.stat(path.parent).st_uid):
        raise LedgerError(
            f"{path} belongs to user {status.st_uid}, and snaprotd runs as user {us}: it is not touched. Name another "
            f"`state`, or see whose it is, and run chown {us} {path}"
        )


def make_folder(folder: Path) -> None:
    """Make it where it is missing, and those above it, for its owner alone. Raises `OSError`."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _hand_over(descriptor, folder.parent)
    finally:
        os.close(descriptor)


def write_anew(path: Path, text: str) -> None:
    """Put a file with this text in the place of the one at `path`, whole or not at all. Raises `OSError`."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_native_id()}")
    fresh.unlink(missing_ok=True)  # of a process that had our number, and was killed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(fresh, flags, 0o600)
    try:
        with open(descriptor, "w") as file:
            _hand_over(file.fileno(), path.parent)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):  # on a full disk it is in the way
            fresh.unlink()
        raise


def _hand_over(descriptor: int, folder: Path) -> None:
    """What root makes in the folder of the daemon's user is the daemon's, which could not use it otherwise."""
    if os.geteuid() == 0:
        owner = os.stat(folder)
        with suppress(PermissionError):  # root of a container, or over a network, may give nothing away
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
