"""What has happened, as the ledger has it. Nothing is asked of the provider."""

from __future__ import annotations

from datetime import datetime

from snaprotd.config.settings import Config, resolve
from snaprotd.core.errors import SnaprotdError, UnknownServer
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Entry
from snaprotd.ledger.address import name_of
from snaprotd.ledger.store import Ledger
from snaprotd.wiring.assembly import account_of, open_ledger_to_read


async def read_history(config: Config, name: str | None, limit: int) -> list[Rotation]:
    """The latest rotations, of one server or of all, newest first. Nothing is asked of the provider.

    Raises `UnknownServer` for a name that neither the configuration nor the ledger has.
    """
    async with open_ledger_to_read(config) as ledger:
        if ledger is None:
            where = name_of(config.state)
            raise SnaprotdError(f"there is no ledger at {where}: no daemon has run with {config.path} here")
        if name is None:
            return await ledger.history(limit=limit)
        return await ledger.history(await id_in(ledger, config, name), limit=limit)


async def read_let_go(config: Config, name: str) -> str:
    """Who let go of a start of the named server last, when and why; empty where nobody has."""
    async with open_ledger_to_read(config) as ledger:
        if ledger is None:
            return ""
        kept = await ledger.starts.kept(account_of(config), await id_in(ledger, config, name))
        return kept.let_go if kept else ""


async def id_in(ledger: Ledger, config: Config, name: str) -> str:
    """A server's id by its id, by our label now, or by the label it had in a rotation."""
    ids = ledger.starts.ids_of(name)
    configured = [one.server_id for one in resolve(config, None) if one.server_id in ids or one.label == name]
    if configured:
        return configured[0]
    latest = [*(await ledger.latest()).values(), *await ledger.open_rotations()]
    known = [(one.server_id, one.label) for one in latest]
    known += [(one.server_id, one.label) for one in await ledger.starts.owed()]
    found = [server_id for server_id, label in known if server_id in ids or label == name]
    if not found:
        raise UnknownServer(f"no server is named {name}, in {config.path} or in the ledger")
    return found[0]


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
