"""How a ledger on a server is opened."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.address import ServerAddress, make_folder
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.server.place import ServerPlace
from snaprotd.ledger.sql.replicas import Replicas
from snaprotd.ledger.store import Ledger


def _locked(beside: Path) -> FolderLock | None:
    """None where nothing can be written on this host: it is not needed, and others have to look at the server."""
    with suppress(OSError, LedgerError):
        make_folder(beside.parent)
        return FolderLock.acquire(beside)
    return None


async def open_on_server(
    address: ServerAddress,
    beside: Path,
    *,
    owner: str,
    lease: float = 60.0,
    lock: bool = True,
    kind: type[Ledger] = Ledger,
) -> Ledger:
    """Open, create or migrate the ledger in PostgreSQL. What is kept of it on this host has names made from `beside`.

    Without `lock`: rather to read. Others on this host do not learn of it then. Raises `LedgerError`.
    """
    folder_lock = _locked(beside) if lock else None
    place = ServerPlace(address, folder_lock, owner=owner)
    try:
        await place.migrate()
    except BaseException:
        await place.close()
        raise
    ledger = await Ledger.ready(kind(place, beside, owner=owner, lease=lease))
    ledger.replicas = Replicas(place)
    return ledger
