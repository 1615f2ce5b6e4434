"""Letting go of a start that is owed, and what is owed, as the ledger has it; beside a daemon or without one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from snaprotd.commands.jobs.deeds import deed, who
from snaprotd.commands.jobs.past import id_in
from snaprotd.config.remains import remains_of
from snaprotd.config.settings import Config, notes_directory
from snaprotd.core.errors import LedgerError
from snaprotd.core.promise import ServerPower
from snaprotd.core.telling.entries import Happened
from snaprotd.core.words import Json, in_one_line, listed, zulu
from snaprotd.daemon.last_resort import debts_of, ledgers_named
from snaprotd.ledger.address import is_on_server, ledgers_in_force, name_of
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.salvage import NoLedger
from snaprotd.ledger.store import Ledger
from snaprotd.report.rows import owed_row
from snaprotd.wiring.assembly import account_of, ledger_or_none, ledger_path, open_ledger_to_read, terms_of


async def leave_off(config: Config, name: str, reason: str) -> str | None:
    """Let go of what is owed to the named server: what is noted about that; None where nothing is owed.

    Raises `UnknownServer` for a name that neither the configuration nor the ledger has.
    """
    words = f"{who()} at {zulu(datetime.now(UTC))}"
    if why := in_one_line(reason):
        words += f": {why}"
    own = ledger_path(config).absolute()
    async with _ledger_or_copies(config) as ledger:
        server_id = await id_in(ledger, config, name)
        text = f"let go of the start that is owed to {name}: it stays off"
        entry = deed(Happened.LEAVE_OFF, server_id, text, label=name, reason=why)
        kept = await ledger.starts.let_go(server_id, words, entry=entry)
    for place in ledgers_in_force(notes_directory(config.path, os.environ)):
        if place != own:
            async with ledger_or_none(place, terms_of(config)) as before:
                before.starts.account = account_of(config)
                with suppress(LedgerError):  # that one is told by `snaprotd ledger owed`
                    await before.starts.go_by_noted_ids()
                    kept = await before.starts.let_go(server_id, words) or kept
    return words if kept else None


@asynccontextmanager
async def _ledger_or_copies(config: Config) -> AsyncIterator[Ledger]:
    """The ledger; where it cannot be used, or there is none, what stands in for it and has its copies."""
    where = name_of(config.state)
    why = f"there is no ledger at {where}: no daemon has run with {config.path} here"
    async with AsyncExitStack() as stack:
        ledger: Ledger | None = None
        try:
            ledger = await stack.enter_async_context(open_ledger_to_read(config))
        except LedgerError as error:
            why = str(error)
        ledger = ledger or NoLedger(ledger_path(config), why)
        ledger.starts.account = account_of(config)
        yield ledger


@dataclass(frozen=True, kw_only=True)
class Owed:
    """What ledgers tell of starts that are owed, and which of them do not tell."""

    rows: list[Json]
    """The servers that a start is owed to, or that are watched because of one."""
    told: list[Path]
    missing: list[Path]
    unreadable: list[str]
    """A sentence for each."""


Stop = tuple[str, str, datetime | None]
"""The account and the id of a server, and when it was stopped."""


def _stop_of(debt: ServerPower) -> Stop:
    return debt.account, debt.server_id, debt.power.held_off_since


def read_owed(path: Path, environ: Mapping[str, str], config: Config | None, *, paid: Collection[Stop] = ()) -> Owed:
    """By the ledger of the configuration and those before it, but for the stops that are `paid`; without a
    configuration, by whatever the daemon would find then.

    They are read as the daemon reads them where it cannot begin, whatever their state is. Raises `ConfigError` where
    this version cannot open what `state` names.
    """
    owed = Owed(rows=[], told=[], missing=[], unreadable=[])
    stops = set(paid)  # and of a ledger that was moved the copies may have stayed behind
    for place in _places(path, environ, config):
        try:
            for debt in debts_of(place):
                if _stop_of(debt) not in stops:
                    owed.rows.append(owed_row(debt))
                stops.add(_stop_of(debt))
            owed.told.append(place)
        except LedgerError as error:
            if os.path.lexists(place):
                owed.unreadable.append(str(error))
            else:
                owed.missing.append(place)
    return owed


async def read_owed_of_all(path: Path, environ: Mapping[str, str], config: Config) -> Owed:
    """As `read_owed`, and with what a ledger on a server owes: it is not this host's alone. Raises `ConfigError`."""
    if not is_on_server(config.state):
        return read_owed(path, environ, config)
    rows: list[Json] = []
    paid: list[Stop] = []
    unreadable: list[str] = []
    try:
        async with open_ledger_to_read(config) as ledger:
            if ledger is not None:
                rows = [owed_row(one) for one in await ledger.starts.owed()]
                paid = [
                    _stop_of(one)
                    for one in _copies_of(config)
                    if not (await ledger.starts.joined(one)).power.is_followed
                ]
    except LedgerError as error:
        unreadable = [str(error)]
    found = read_owed(path, environ, config, paid=paid)
    missing = [place for place in found.missing if place != ledger_path(config).absolute()]
    known = {(row["server_id"], row["since"]) for row in found.rows}
    more = [row for row in rows if (row["server_id"], row["since"]) not in known]  # than the copies on this host
    return replace(found, missing=missing, rows=[*found.rows, *more], unreadable=[*found.unreadable, *unreadable])


def _copies_of(config: Config) -> list[ServerPower]:
    """What stands beside a ledger on a server, on this host; nothing where that cannot be read, which is told."""
    with suppress(LedgerError):
        return debts_of(ledger_path(config).absolute())
    return []


def _places(path: Path, environ: Mapping[str, str], config: Config | None) -> list[Path]:
    """The ledgers that may owe something. Raises `ConfigError` where this version cannot open what `state` names."""
    if config is None:
        return ledgers_named(path, remains_of(path), environ)
    before = ledgers_in_force(notes_directory(path, environ))
    return list(dict.fromkeys([ledger_path(config).absolute(), *before]))


async def forsaken(path: Path, environ: Mapping[str, str], config: Config | None, but: Collection[str]) -> str:
    """In a sentence, which servers are owed a start that no process sees to, `but` for these ids; empty for none.

    Told by the ledgers alone, and nobody is asked. Where a process has a ledger open it sees to what that owes, unless
    no rotation of it holds a lease: then it may.
    """
    dead: dict[str, None] = {}
    doubted: dict[str, None] = {}
    for place in _places(path, environ, config):
        is_own = config is not None and place == ledger_path(config).absolute()
        is_others_too = is_own and config is not None and is_on_server(config.state)  # on whichever host they are
        is_free = FolderLock.is_free(place) and not is_others_too
        try:
            owed = [one for one in debts_of(place) if one.power.is_owed and one.server_id not in but]
        except LedgerError:  # that one is told by `snaprotd ledger owed`
            continue
        if owed and is_own and config is not None and not is_free:
            owed = await _without_lease(config, owed)
        if is_free or is_own:
            (dead if is_free else doubted).update(dict.fromkeys(one.label for one in owed))
    if dead:
        return f"a start is owed to {listed([*dead])}, and {_NOBODY}"
    return f"a start is owed to {listed([*doubted])}, and {_NO_ROTATION}" if doubted else ""


_NOBODY = "no process sees to it: `snaprotd ledger owed` says more, and `snaprotd run` goes on with it"
_NO_ROTATION = "no rotation sees to it: `snaprotd ledger owed` and `snaprotd status` say more"


async def _without_lease(config: Config, owed: list[ServerPower]) -> list[ServerPower]:
    """Those of them that the ledger owes too, and of which no process runs a rotation."""
    with suppress(LedgerError):
        async with open_ledger_to_read(config) as ledger:
            if ledger is not None:
                owed = [one for one in owed if (await ledger.starts.joined(one)).power.is_owed]
                return [one for one in owed if not await ledger.starts.seems_elsewhere(one.server_id)]
    return owed
