"""How a ledger on a server is opened."""

from __future__ import annotations

from pathlib import Path

from snaprotd.ledger.address import ServerAddress
from snaprotd.ledger.server.place import ServerPlace
from snaprotd.ledger.store import Ledger


async def open_on_server(
    address: ServerAddress, beside: Path, *, owner: str, lease: float = 60.0, kind: type[Ledger] = Ledger
) -> Ledger:
    """Open, create or migrate the ledger in PostgreSQL. What is kept of it on this host has names made from `beside`.

    Raises `LedgerError`.
    """
    place = ServerPlace(address, owner=owner)
    await place.migrate()
    return await Ledger.ready(kind(place, beside, owner=owner, lease=lease))
