"""Where a ledger is, what it is called wherever that is shown, and which ones were in force. Loads no database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import structlog

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
    url = urlsplit(state)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def why_unusable(state: str) -> str:
    """Why this version cannot open the ledger that `state` names; empty where it can."""
    return "PostgreSQL is not supported by this version: name a file" if "://" in state else ""


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
    fresh = folder / f"{IN_FORCE}.new"
    try:
        with fresh.open("w") as file:
            file.writelines(f"{path}\n" for path in absolute)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / IN_FORCE)
    except OSError as error:
        log.warning("which ledger is in force cannot be noted", folder=str(folder), error=str(error))
