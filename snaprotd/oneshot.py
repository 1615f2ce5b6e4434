"""What the commands do once and then end: read the account, check it, run one rotation now."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from snaprotd import retention
from snaprotd.assembly import new_rotation, open_cloud, open_ledger_to_read, open_tools
from snaprotd.cloud import Doubtful, NullObserver
from snaprotd.config import Config, Target, resolve
from snaprotd.errors import SnaprotdError
from snaprotd.inventory import Inventory, ServerHoldings
from snaprotd.ledger import Claimed, Ledger, ServerBusy
from snaprotd.loop import insist_on_rotation
from snaprotd.metrics import Metrics
from snaprotd.model import Server
from snaprotd.reports import ids_of, untouchable_words
from snaprotd.rotation import Result, Rotation, resumed
from snaprotd.run import Run, Tools

LEASE_RENEWAL = 10.0
"""Seconds between two renewals of the lease while a rotation runs."""


READING = frozenset({"read", "read_only", "read-only", "readonly"})
"""Permissions that change nothing. The provider does not publish its words; what is not known is taken for enough."""


class UnknownServerError(SnaprotdError):
    """A server named on the command line does not exist, or the name fits several."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What the account holds, as one command saw it."""

    targets: tuple[Target, ...]
    known: Mapping[str, ServerHoldings]
    servers: Mapping[str, Server]
    """The account's servers by their ids."""
    wanted: tuple[str, ...]
    """The ids of the servers that were named, or of all that are configured."""
    now: datetime
    doubt: str | None
    """What of the account's list cannot be relied on; the rest of it is as good as ever."""

    def wanted_targets(self, config: Config) -> list[Target]:
        """The targets that were named. Raises `UnknownServerError` where one of those has no policy."""
        found = [target for target in self.targets if target.server_id in self.wanted]
        for server_id in set(self.wanted) - {target.server_id for target in found}:
            raise UnknownServerError(_no_policy(server_id, config))
        return found

    @property
    def headings(self) -> dict[str, str]:
        """The servers that were asked for and are there: our name, else the account's, by id."""
        labels = {target.server_id: target.label for target in self.targets}
        there = [one for one in self.wanted if one in self.servers and one in self.known]
        return {one: labels.get(one) or self.servers[one].name or one for one in there}

    @property
    def complaints(self) -> list[str]:
        """What of that which was asked for is not there, or cannot be relied on."""
        if self.doubt is not None:
            return [self.doubt]
        return [f"the account has no server {one}" for one in self.wanted if one not in self.servers]

    @property
    def is_whole(self) -> bool:
        return not self.complaints


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `check --online`."""

    ok: bool
    text: str
    note: bool = False
    """Worth knowing, and nothing wrong."""


async def read_account(config: Config, environ: Mapping[str, str], names: Sequence[str]) -> Account:
    """List the whole account once. Raises `UnknownServerError` for a name that fits no server, or several."""
    async with open_cloud(config, environ, NullObserver()) as cloud:
        inventory = Inventory(cloud)
        doubt = await _refresh(inventory)
        return _account(config, inventory, names, doubt)


async def _refresh(inventory: Inventory) -> str | None:
    """List the account. One bad entry in it stops nobody: it is answered as a sentence."""
    try:
        await inventory.refresh()
    except Doubtful as doubt:
        return str(doubt)
    return None


def _account(config: Config, inventory: Inventory, names: Sequence[str], doubt: str | None) -> Account:
    servers = _servers(inventory)
    targets = resolve(config, servers)
    return Account(
        targets=targets,
        known=inventory.known,
        servers=inventory.seen_servers,
        wanted=tuple(_ids(names, targets, servers, doubt)),
        now=datetime.now(UTC),
        doubt=doubt,
    )


def _servers(inventory: Inventory) -> list[Server]:
    return list(inventory.seen_servers.values())


def _ids(names: Sequence[str], targets: Sequence[Target], servers: Sequence[Server], doubt: str | None) -> list[str]:
    ids = ids_of(names, targets, servers)
    if isinstance(ids, str) and doubt is not None:
        raise UnknownServerError(f"{ids}, in what could be read: {doubt}")
    if isinstance(ids, str):
        raise UnknownServerError(f"{ids}. `snaprotd plan` shows the servers that are configured")
    return ids


async def check_online(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """Ask the API about everything that the configuration relies on. Only GET requests."""
    async with open_cloud(config, environ, NullObserver()) as cloud:
        account = await cloud.account()
        permissions = ", ".join(account.permissions) if account.permissions is not None else "not told"
        words = {word.rpartition(":")[2].strip() for word in account.permissions or ()}
        may_change = not words or not words <= READING
        token = Finding(
            ok=may_change,
            text=f"token {account.token_name} of {account.email}; permissions: {permissions}"
            + ("" if may_change else "; that is not enough to take snapshots, or to stop and start servers"),
        )
        inventory = Inventory(cloud)
        doubt = await _refresh(inventory)
        now = datetime.now(UTC)
        targets = resolve(config, _servers(inventory))
        return [
            token,
            *([Finding(ok=False, text=doubt)] if doubt else _unmatched(config, targets)),
            *(_finding(config, one, inventory, now, doubtful=doubt is not None) for one in targets),
            *_uncovered(targets, _servers(inventory)),
        ]


def _uncovered(targets: Sequence[Target], servers: Sequence[Server]) -> list[Finding]:
    covered = {target.server_id for target in targets}
    return [
        Finding(ok=True, note=True, text=f"{one.name} ({one.id}) is in no entry: no snapshots are taken of it")
        for one in servers
        if one.id not in covered
    ]


def _unmatched(config: Config, targets: Sequence[Target]) -> list[Finding]:
    """A pattern that names no server is no mistake in the file, but hardly what was meant."""
    used = {id(target.entry) for target in targets}
    return [
        Finding(ok=False, text=f"match {entry.match}: no server of the account has such a name")
        for entry in config.entries
        if entry.match is not None and id(entry) not in used
    ]


def _finding(config: Config, target: Target, inventory: Inventory, now: datetime, *, doubtful: bool) -> Finding:
    server, held = inventory.seen_servers.get(target.server_id), inventory.known.get(target.server_id)
    if server is None:
        text = "not in what could be read" if doubtful else f"the account has no server {target.server_id}"
        return Finding(ok=False, text=f"{target.label}: {text}")
    if held is None:
        return Finding(ok=False, text=f"{target.label}: {server.name} is {server.status}, its snapshots are not known")
    room = retention.make_room(held.snapshots, target.policy, instance=config.instance, limit=config.limit, now=now)
    slots = f"{max(0, config.limit - len(held.snapshots))} of {config.limit} slots free"
    text = f"{target.label}: {server.name} is {server.status}, {slots}"
    blocked = room.blocked or untouchable_words(server)
    return Finding(ok=not blocked, text=f"{text}; {blocked}" if blocked else text)


async def read_history(config: Config, name: str | None, limit: int) -> list[Rotation]:
    """The latest rotations, of one server or of all, newest first. Nothing is asked of the provider.

    Raises `UnknownServerError` for a name that neither the configuration nor the ledger has.
    """
    async with open_ledger_to_read(config) as ledger:
        if ledger is None:
            raise SnaprotdError(f"there is no ledger at {config.state}: no daemon has run with {config.path} here")
        if name is None:
            return await ledger.history(limit=limit)
        return await ledger.history(await _id_in(ledger, config, name), limit=limit)


async def _id_in(ledger: Ledger, config: Config, name: str) -> str:
    """A server's id by its id, by our label now, or by the label it had in a rotation."""
    configured = [one.server_id for one in resolve(config, None) if name in (one.server_id, one.label)]
    latest = [*(await ledger.latest()).values(), *await ledger.open_rotations()]
    found = configured or [one.server_id for one in latest if name in (one.server_id, one.label)]
    if not found:
        raise UnknownServerError(f"no server is named {name}, in {config.path} or in the ledger")
    return found[0]


Watch = Callable[[Rotation, float | None], None]
"""Is shown a rotation whenever something has changed, and how many seconds those of its server usually take."""


async def rotate_now(
    config: Config,
    environ: Mapping[str, str],
    name: str,
    *,
    description: str,
    watch: Watch,
    say: Callable[[str], None],
) -> Rotation:
    """Run one rotation of the named server at once; an interrupted one of the same server is finished first.

    Raises `UnknownServerError`, and `SnaprotdError` where a rotation of the server is open in another process.
    """
    async with open_tools(config, environ, Metrics()) as tools:
        _obey_signals(tools, say)
        target = await _target(config, tools, name)
        usual = await _usual_duration(tools.ledger, target.server_id)
        leases = asyncio.create_task(_keep_leases(tools.ledger))
        try:
            await _finish_interrupted(tools, target, lambda rotation: watch(rotation, usual))
            return await _rotate(config, tools, target, description, lambda rotation: watch(rotation, usual))
        finally:
            leases.cancel()


async def _usual_duration(ledger: Ledger, server_id: str) -> float | None:
    """The median length of the server's last successful rotations, in seconds; None where there are none."""
    past = await ledger.history(server_id)
    lengths = [
        (one.finished_at - one.started_at).total_seconds()
        for one in past
        if one.result is Result.SUCCESS and one.finished_at is not None
    ]
    return median(lengths) if lengths else None


async def _target(config: Config, tools: Tools, name: str) -> Target:
    configured = [target for target in resolve(config, None) if name in (target.server_id, target.label)]
    if len(configured) == 1:
        return configured[0]
    doubt = await _refresh(tools.inventory)
    servers = _servers(tools.inventory)
    targets = resolve(config, servers)
    (server_id,) = _ids([name], targets, servers, doubt)
    found = next((target for target in targets if target.server_id == server_id), None)
    if found is None:
        raise UnknownServerError(_no_policy(name, config))
    return found


def _no_policy(name: str, config: Config) -> str:
    return f"the server {name} has no policy: add it under `servers` in {config.path}"


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
                f"{busy.step}): nothing was done. Try again when it has ended; `snaprotd status` shows its progress"
            )
        case _:
            raise SnaprotdError(
                f"{target.label} has had a rotation in this very second already: nothing was done. Try again"
            )


async def _run(rotation: Rotation, tools: Tools, watch: Callable[[Rotation], None]) -> Rotation:
    ended = await insist_on_rotation(Run(rotation, tools, watch))
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


def _obey_signals(tools: Tools, say: Callable[[str], None]) -> None:
    """The first Ctrl-C ends in order: a server that is held off is started again. The second ends at once."""

    def asked_to_end(number: int) -> None:
        if tools.drain.requested.is_set():
            say("ended at once; a server that was held off is OFF until a daemon, or its next start, goes on with it")
            os._exit(128 + number)
        say("asked to end: a server that is held off is started first; once more ends at once")
        tools.drain.requested.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_end, number)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the terminal was closed; the work goes on all the same
