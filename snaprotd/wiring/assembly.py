"""Puts the parts together from a configuration: for the daemon, and for the commands that do the same work."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from snaprotd.config.settings import Config, Target
from snaprotd.core.errors import ConfigError, Mistake
from snaprotd.core.model import Machine
from snaprotd.core.rotation import Rotation
from snaprotd.engine.board import Board
from snaprotd.engine.events import Observers
from snaprotd.engine.run import Drain, Tools
from snaprotd.ledger.address import why_unusable
from snaprotd.ledger.store import Ledger
from snaprotd.observe.metrics import Metrics
from snaprotd.provider.inventory import Inventory
from snaprotd.wiring.access import Transport, open_cloud, read_token

LEASE_BEYOND_REQUEST = 30.0
"""Seconds by which a lease outlives the longest request: it is renewed several times meanwhile."""


ThisMachine = Callable[[str | None], Machine]
"""What the machine shows of itself at the moment of the call, told the configuration's `own_server`."""


async def open_ledger(config: Config, *, lock: bool = True) -> Ledger:
    """The ledger that `state` names. Raises `LedgerError` where it cannot be used."""
    return await Ledger.open(
        _ledger_path(config), owner=uuid.uuid4().hex, lease=config.api.timeout + LEASE_BEYOND_REQUEST, lock=lock
    )


@asynccontextmanager
async def open_ledger_to_read(config: Config) -> AsyncIterator[Ledger | None]:
    """The ledger beside the daemon that uses it; None where there is none, and none is made.

    Without the folder's lock: a daemon that starts meanwhile may still know that it is alone.
    """
    if not _ledger_path(config).exists():
        yield None
        return
    async with await open_ledger(config, lock=False) as ledger:
        yield ledger


def _ledger_path(config: Config) -> Path:
    if why := why_unusable(config.state):
        raise ConfigError([Mistake(source=str(config.path), path="state", message=why)])
    return Path(config.state)


@asynccontextmanager
async def open_tools(
    config: Config,
    environ: Mapping[str, str],
    board: Board,
    metrics: Metrics,
    this_machine: ThisMachine,
    transport: Transport | None = None,
) -> AsyncIterator[Tools]:
    """All that rotations need. Nothing is changed anywhere by opening them, but for the ledger's own file."""
    async with open_cloud(config, environ, metrics.requests, transport) as cloud, await open_ledger(config) as ledger:
        inventory = Inventory(cloud)
        try:
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


def adjust_tools(tools: Tools, config: Config, environ: Mapping[str, str], this_machine: ThisMachine) -> None:
    """Go on with the same tools under another configuration. Raises `TokenError`, with nothing changed."""
    token = read_token(config, environ)
    tools.cloud.adjust(token=token, requests_per_second=config.api.requests_per_second, timeout=config.api.timeout)
    tools.ledger.lease = config.api.timeout + LEASE_BEYOND_REQUEST
    tools.request_timeout = config.api.timeout
    tools.poll_interval = config.poll_interval
    tools.machine = partial(this_machine, config.own_server)


def new_rotation(config: Config, target: Target, *, slot: datetime, now: datetime, description: str = "") -> Rotation:
    return Rotation.begin(
        id=uuid.uuid4().hex,
        server_id=target.server_id,
        label=target.label,
        slot=slot,
        rules=config.rules_of(target),
        now=now,
        settle=config.api.settle,
        description=description,
    )
