"""What has happened, as the ledger has it. Nothing is asked of the provider."""

from __future__ import annotations

from datetime import datetime

from snaprotd.commands.jobs.now import id_in
from snaprotd.config.settings import Config
from snaprotd.core.errors import SnaprotdError
from snaprotd.core.telling.entries import Entry
from snaprotd.ledger.address import name_of
from snaprotd.wiring.assembly import open_ledger_to_read


async def read_events(config: Config, name: str | None, since: datetime | None, limit: int) -> list[Entry]:
    """The newest events, of one server or of all, the newest first.

    Raises `UnknownServer` for a name that neither the configuration nor the ledger has.
    """
    async with open_ledger_to_read(config) as ledger:
        if ledger is None:
            where = name_of(config.state)
            raise SnaprotdError(f"there is no ledger at {where}: no daemon has run with {config.path} here")
        ids = None if name is None else ledger.starts.ids_of(await id_in(ledger, config, name))
        return await ledger.events.newest(server_ids=ids, since=since, limit=limit)
