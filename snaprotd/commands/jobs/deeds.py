"""What persons do by commands, as the ledger has it: who, what, to which snapshot or server, and what came of it."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from snaprotd.core.errors import LedgerError
from snaprotd.core.model import Snapshot
from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.core.words import plain_id, zulu
from snaprotd.ledger.store import Ledger


def who() -> str:
    """Whoever runs the command: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "somebody"
    return f"{user}@{platform.node()}"


def deed(kind: Happened, server_id: str, text: str, **details: Any) -> Entry:
    """An entry for what whoever runs the command does to a server."""
    return Entry(at=datetime.now(UTC), kind=kind, text=text, server_id=server_id, by=who(), details=details)


def deed_to(kind: Happened, snapshot: Snapshot, label: str, text: str, **more: Any) -> Entry:
    """The same of a snapshot."""
    about = {"label": label, "snapshot": snapshot.name, "snapshot_id": plain_id(snapshot.id), "ids": snapshot.ids}
    return deed(kind, snapshot.server_id, text, **about, taken=zulu(snapshot.created_at), **more)


async def record(ledger: Ledger | str, entry: Entry, say: Callable[[str], None]) -> None:
    """Write it down. Where that cannot be, it is said, and whatever is to be done is done.

    In place of a ledger that is not there, or cannot be used, stands why it is not.
    """
    try:
        if isinstance(ledger, str):
            raise LedgerError(ledger)
        await ledger.events.write([entry])
    except LedgerError as error:
        say(f"this is not recorded, and `snaprotd history --events` will not show it: {error}")
