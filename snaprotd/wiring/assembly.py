"""Puts the parts together from a configuration: for the daemon, and for the commands that do the same work."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from snaprotd.config.remains import NOTHING, Remains
from snaprotd.config.settings import OLD_STATE, Config, Target, default_state, notes_directory
from snaprotd.config.trust import WHY_NOT_THERE
from snaprotd.core.asking.settling import lease_for
from snaprotd.core.errors import ConfigError, LedgerError, Mistake
from snaprotd.core.model import Machine
from snaprotd.core.policy import Kind
from snaprotd.core.promise import Terms
from snaprotd.core.rotation import Rotation
from snaprotd.engine.board import Board
from snaprotd.engine.tools import Drain, Observers, Tools
from snaprotd.ledger.address import (
    ServerAddress,
    is_on_server,
    ledgers_in_force,
    make_folder,
    name_of,
    note_in_force,
    stands_for_server,
    why_unusable,
)
from snaprotd.ledger.salvage import NoLedger
from snaprotd.ledger.store import Ledger
from snaprotd.provider.inventory import Inventory
from snaprotd.wiring.whose import demand_own_account

if TYPE_CHECKING:
    from snaprotd.observe.metrics import Metrics
    from snaprotd.provider.token import TokenSource
    from snaprotd.wiring.access import Transport

log = structlog.get_logger("snaprotd")


ThisMachine = Callable[[str | None], Machine]
"""What the machine shows of itself at the moment of the call, told the configuration's `own_server`."""


async def open_ledger(
    config: Config, environ: Mapping[str, str] = os.environ, *, lock: bool = True, kind: type[Ledger] | None = None
) -> Ledger:
    """The ledger that `state` names; `kind`, where it is a file of another one. Raises `LedgerError` where it cannot be
    used.
    """
    lease, owner = lease_for(config.api.timeout), uuid.uuid4().hex
    if is_on_server(config.state):
        from snaprotd.ledger.server.opening import open_on_server  # its driver may not be installed
        from snaprotd.wiring.channels import password_of

        address = ServerAddress(config.state, password_of(config, environ))
        ledger = await open_on_server(address, ledger_path(config), owner=owner, lease=lease, lock=lock)
    else:
        ledger = await (kind or Ledger).open(ledger_path(config), owner=owner, lease=lease, lock=lock)
    ledger.starts.account, ledger.starts.terms = account_of(config), terms_of(config)
    return ledger


@asynccontextmanager
async def open_ledger_to_read(config: Config) -> AsyncIterator[Ledger | None]:
    """The ledger beside the daemon that uses it; None where there is none, and none is made.

    Without the folder's lock: a daemon that starts meanwhile may still know that it is alone.
    """
    if not (is_on_server(config.state) or _exists(ledger_path(config))):
        yield None
        return
    async with await open_ledger(config, lock=False) as ledger:
        with suppress(LedgerError):
            await ledger.starts.go_by_noted_ids()
        try:
            yield ledger
        except (ValueError, TypeError, KeyError) as error:  # of what its rows should hold, it holds something else
            raise LedgerError(f"the ledger {name_of(config.state)} is damaged: {error}") from error


def ledger_path(config: Config) -> Path:
    """The file of the ledger, or what goes for it on this host. Raises `ConfigError` where it cannot be opened here."""
    if why := why_unusable(config.state):
        raise ConfigError([Mistake(source=str(config.path), path="state", message=why)])
    return config.ledger


@asynccontextmanager
async def open_tools(
    config: Config,
    environ: Mapping[str, str],
    board: Board,
    metrics: Metrics,
    this_machine: ThisMachine,
    transport: Transport | None = None,
    *,
    once: bool = False,
) -> AsyncIterator[Tools]:
    """All that rotations need. Nothing is changed anywhere by opening them, but for the ledger's own file.

    `once`: for a command, which ends by itself.
    """
    from snaprotd.wiring.access import open_cloud  # its library takes a while to load

    _see_to_default_place(config, environ)
    async with (
        open_cloud(config, environ, metrics.requests, transport, once=once) as cloud,
        await open_ledger(config, environ) as ledger,
    ):
        # Before anything is promised: a file that names another ledger must not hide what this one will owe.
        folder = notes_directory(config.path, environ)
        with suppress(OSError):  # to note it fails too, and says why
            if folder is not None:
                make_folder(folder)
        note_in_force(folder, [config.ledger, *ledgers_in_force(folder)])
        metrics.requests.follow(lambda: cloud.rate.rate)
        inventory = Inventory(cloud, called=config.server_ids)
        await know_ids(ledger, inventory)
        cloud.identities.learnt = ledger.starts.learn_ids
        try:
            await demand_own_account(ledger, inventory)
            await _adopt(ledger)
            yield Tools(
                cloud=cloud,
                inventory=inventory,
                ledger=ledger,
                observer=Observers(board, metrics.rotations),
                drain=Drain(),
                machine=partial(this_machine, config.own_server),
                poll_interval=config.poll_interval,
                request_timeout=config.api.timeout,
            )
        finally:
            await inventory.aclose()


def _see_to_default_place(config: Config, environ: Mapping[str, str]) -> None:
    """Make the folder of a default place. That of any other is for whoever names it."""
    if config.state == OLD_STATE:
        log.warning(WHY_NOT_THERE, ledger=name_of(config.state))
    elif config.state == default_state(environ):
        with suppress(OSError):  # to open the ledger fails too, and says why
            make_folder(config.ledger.parent)


async def _adopt(ledger: Ledger) -> None:
    try:
        await ledger.starts.adopt()
    except LedgerError as error:
        log.error("the ledger cannot be written", error=str(error))  # what is owed is started all the same


@asynccontextmanager
async def tools_by_terms(
    terms: Terms,
    path: Path,
    environ: Mapping[str, str],
    transport: Transport | None = None,
    remains: Remains = NOTHING,
) -> AsyncIterator[Tools]:
    """What it takes to pay a start without a configuration. Raises `TokenError` where no token can be found now.

    `remains` are those of the file, where there is one: it may name the token.

    The ledger at `path` is written where that can be; where not, nothing is lost but the record of what is done here.
    """
    from snaprotd.wiring.access import cloud_by_terms  # as above

    async with (
        cloud_by_terms(terms, environ, transport, remains) as cloud,
        ledger_or_none(path, terms) as ledger,
    ):
        ledger.starts.account = account_at(terms.base_url)
        inventory = Inventory(cloud)
        await know_ids(ledger, inventory)
        try:
            yield Tools(
                cloud=cloud,
                inventory=inventory,
                ledger=ledger,
                observer=Observers(),
                drain=Drain(),
                poll_interval=terms.poll_interval,
                request_timeout=terms.request_timeout,
                machine=Machine,
                knows_its_account=False,
            )
        finally:
            await inventory.aclose()


@asynccontextmanager
async def ledger_or_none(path: Path, terms: Terms) -> AsyncIterator[Ledger]:
    """A ledger that is not the configuration's; one that fails at whatever is asked, where it cannot be written.

    None is made where there is none: it may be on a volume that is not there just now.
    """
    lease = lease_for(terms.request_timeout)
    if stands_for_server(path):
        yield NoLedger(path, "the ledger is on a server, which is not asked here: its promises on this host are kept")
        return
    try:
        if not _exists(path):
            raise LedgerError(f"there is no ledger at {path}")
        ledger = await Ledger.open(path, owner=uuid.uuid4().hex, lease=lease)
    except LedgerError as error:
        log.error("a ledger cannot be written: going on from memory", ledger=str(path), error=str(error))
        yield NoLedger(path, str(error))
        return
    async with ledger:
        yield ledger


async def know_ids(ledger: Ledger, inventory: Inventory) -> None:
    """Have both know by which ids servers were ever known, and go by the same from now on."""
    with suppress(LedgerError):  # what is owed is started all the same
        inventory.remember(await ledger.starts.ids_noted())
    ledger.starts.ids_of = inventory.ids_of


def _exists(path: Path) -> bool:
    return path.exists()


def account_of(config: Config) -> str:
    """Whose servers they are, in the ledger: the provider's host."""
    return account_at(config.api.base_url)


def account_at(base_url: str) -> str:
    """Whose servers they are that are reached at this address: its host, however it is written."""
    url = urlsplit(base_url)
    is_usual = url.port in (None, {"http": 80, "https": 443}.get(url.scheme))
    return (url.hostname or "") if is_usual else f"{url.hostname}:{url.port}"


def terms_of(config: Config) -> Terms:
    """What is kept beside a promise, so that it can be paid without any configuration."""
    return Terms(
        base_url=config.api.base_url,
        token_file=str(config.api.token_file or ""),
        request_timeout=config.api.timeout,
        settle=config.api.settle,
        poll_interval=config.poll_interval,
        instance=config.instance,
    )


def adjust_tools(tools: Tools, config: Config, token: TokenSource, this_machine: ThisMachine) -> None:
    """Go on with the same tools under another configuration, and with the token that it names."""
    tools.cloud.adjust(token=token, requests_per_second=config.api.requests_per_second, timeout=config.api.timeout)
    tools.inventory.forget_owner()
    tools.inventory.call(config.server_ids)
    tools.ledger.lease = lease_for(config.api.timeout)
    tools.ledger.starts.terms = terms_of(config)
    tools.request_timeout = config.api.timeout
    tools.poll_interval = config.poll_interval
    tools.machine = partial(this_machine, config.own_server)


def new_rotation(
    config: Config,
    target: Target,
    *,
    slot: datetime,
    now: datetime,
    description: str = "",
    kind: Kind = Kind.MANUAL,
    hold: date | None = None,
) -> Rotation:
    """`hold`: the last day, in UTC, for which no rotation deletes its snapshot."""
    return Rotation.begin(
        id=uuid.uuid4().hex,
        server_id=target.server_id,
        label=target.label,
        slot=slot,
        rules=config.rules_of(target),
        now=now,
        settle=config.api.settle,
        description=description,
        kind=kind,
        hold=hold,
    )
