"""What the commands do once and then end: read the account, check it, run one rotation now."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from snaprotd import retention
from snaprotd.assembly import new_rotation, open_cloud, open_tools
from snaprotd.cloud import NullObserver
from snaprotd.config import Config, Target, resolve
from snaprotd.errors import SnaprotdError
from snaprotd.inventory import Inventory, ServerHoldings
from snaprotd.ledger import Claimed, Ledger, ServerBusy
from snaprotd.metrics import Metrics
from snaprotd.model import Server
from snaprotd.reports import ids_of
from snaprotd.rotation import Rotation, resumed
from snaprotd.steps import Run, Tools, run_rotation

LEASE_RENEWAL = 10.0
"""Seconds between two renewals of the lease while a rotation runs."""


class UnknownServerError(SnaprotdError):
    """A server named on the command line does not exist, or the name fits several."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What the account holds, as one command saw it."""

    targets: tuple[Target, ...]
    known: Mapping[str, ServerHoldings]
    wanted: tuple[str, ...]
    """The ids of the servers that were named, or of all that are configured."""
    now: datetime

    def exists(self, server_id: str) -> bool:
        return server_id in self.known and self.known[server_id].server is not None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `check --online`."""

    ok: bool
    text: str


async def read_account(config: Config, environ: Mapping[str, str], names: Sequence[str]) -> Account:
    """List the whole account once. Raises `UnknownServerError` for a name that fits no server, or several."""
    async with open_cloud(config, environ, NullObserver()) as cloud:
        inventory = Inventory(cloud)
        await inventory.refresh()
        return _account(config, inventory, names)


def _account(config: Config, inventory: Inventory, names: Sequence[str]) -> Account:
    servers = _servers(inventory)
    targets = resolve(config, servers)
    return Account(
        targets=targets,
        known=inventory.known,
        wanted=tuple(_ids(names, targets, servers)),
        now=datetime.now(UTC),
    )


def _servers(inventory: Inventory) -> list[Server]:
    return [held.server for held in inventory.known.values() if held.server is not None]


def _ids(names: Sequence[str], targets: Sequence[Target], servers: Sequence[Server]) -> list[str]:
    ids = ids_of(names, targets, servers)
    if isinstance(ids, str):
        raise UnknownServerError(f"{ids}. `snaprotd list` shows the servers that are configured")
    return ids


async def check_online(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """Ask the API about everything that the configuration relies on. Only GET requests."""
    async with open_cloud(config, environ, NullObserver()) as cloud:
        account = await cloud.account()
        permissions = ", ".join(account.permissions) if account.permissions is not None else "not told"
        token = Finding(ok=True, text=f"token {account.token_name} of {account.email}; permissions: {permissions}")
        inventory = Inventory(cloud)
        await inventory.refresh()
        now = datetime.now(UTC)
        targets = resolve(config, _servers(inventory))
        return [token, *(_finding(config, one, inventory.known.get(one.server_id), now) for one in targets)]


def _finding(config: Config, target: Target, held: ServerHoldings | None, now: datetime) -> Finding:
    if held is None or held.server is None:
        return Finding(ok=False, text=f"{target.label}: the account has no server {target.server_id}")
    room = retention.make_room(held.snapshots, target.policy, instance=config.instance, limit=config.limit, now=now)
    slots = f"{max(0, config.limit - len(held.snapshots))} of {config.limit} slots free"
    text = f"{target.label}: {held.server.name} is {held.server.status}, {slots}"
    return Finding(ok=not room.blocked, text=f"{text}; {room.blocked}" if room.blocked else text)


async def rotate_now(
    config: Config, environ: Mapping[str, str], name: str, description: str, watch: Callable[[Rotation], None]
) -> Rotation:
    """Run one rotation of the named server at once; an interrupted one of the same server is finished first.

    Raises `UnknownServerError`, and `SnaprotdError` where a rotation of the server is open in another process.
    """
    async with open_tools(config, environ, Metrics()) as tools:
        _obey_signals(tools)
        target = await _target(config, tools, name)
        leases = asyncio.create_task(_keep_leases(tools.ledger))
        try:
            await _finish_interrupted(tools, target, watch)
            return await _rotate(config, tools, target, description, watch)
        finally:
            leases.cancel()


async def _target(config: Config, tools: Tools, name: str) -> Target:
    configured = [target for target in resolve(config, None) if name in (target.server_id, target.label)]
    if len(configured) == 1:
        return configured[0]
    await tools.inventory.refresh()
    servers = _servers(tools.inventory)
    targets = resolve(config, servers)
    (server_id,) = _ids([name], targets, servers)
    found = next((target for target in targets if target.server_id == server_id), None)
    if found is None:
        raise UnknownServerError(f"the server {name} has no policy: add it under `servers` in {config.path}")
    return found


async def _finish_interrupted(tools: Tools, target: Target, watch: Callable[[Rotation], None]) -> None:
    everything = tools.ledger.is_sole_user
    for interrupted in await tools.ledger.take_over(everything=everything, server_id=target.server_id):
        await _run(resumed(interrupted, tools.now()), tools, watch)


async def _rotate(
    config: Config, tools: Tools, target: Target, description: str, watch: Callable[[Rotation], None]
) -> Rotation:
    now = tools.now()
    rotation = new_rotation(config, target, slot=now.replace(microsecond=0), now=now, description=description)
    match await tools.ledger.claim(rotation):
        case Claimed():
            return await _run(rotation, tools, watch)
        case ServerBusy(open=busy):
            raise SnaprotdError(
                f"a rotation of {target.label} is open already (slot {busy.slot:%Y-%m-%d %H:%M:%SZ}, at step "
                f"{busy.step}): nothing was done. Try again when it has ended; the daemon's log shows its progress"
            )
        case _:
            raise SnaprotdError(f"{target.label} has a rotation of this very second already: nothing was done")


async def _run(rotation: Rotation, tools: Tools, watch: Callable[[Rotation], None]) -> Rotation:
    ended = await run_rotation(Run(rotation, tools, watch))
    if not ended.is_finished:
        await tools.ledger.release(ended.id)
    return ended


async def _keep_leases(ledger: Ledger) -> None:
    while True:
        await asyncio.sleep(LEASE_RENEWAL)
        try:
            await ledger.renew()
        except SnaprotdError:
            continue  # the rotation's own next save says what is wrong


def _obey_signals(tools: Tools) -> None:
    """The first Ctrl-C ends in order: a server that is held off is started again. The second ends at once."""

    def asked_to_end(number: int) -> None:
        if tools.drain.requested.is_set():
            os._exit(128 + number)
        tools.drain.requested.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_end, number)
