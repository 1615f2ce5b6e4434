"""What the account holds, read once: for the commands that only look, and to check a configuration against it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median

import structlog

from snaprotd.config.settings import Config, Target, resolve
from snaprotd.core.errors import ConfigError, LedgerError, UnknownServer
from snaprotd.core.model import Machine, Server
from snaprotd.core.rotation import Rotation
from snaprotd.daemon.machine import this_machine
from snaprotd.ledger.address import is_on_server
from snaprotd.provider import Doubtful, NullObserver, Provider
from snaprotd.provider.inventory import Inventory, ServerHoldings
from snaprotd.report.assessment import as_left
from snaprotd.report.capacity import Capacity, capacity_of, warning_of
from snaprotd.report.findings import Finding, Found, findings_of, token_finding
from snaprotd.report.rows import ids_of, night_words
from snaprotd.wiring.access import open_cloud

log = structlog.get_logger("snaprotd")


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
    in_doubt: Mapping[str, str]
    """The servers whose own lists cannot be relied on, and why."""
    machine: Machine
    page_size: int
    """Entries on one page of its lists."""
    clock_ahead: float
    """Seconds by which this machine's clock is ahead of the provider's, by its answers; negative where it is behind."""

    def wanted_targets(self, config: Config) -> list[Target]:
        """The targets that were named. Raises `UnknownServer` where one of those has no policy."""
        wanted = set(self.wanted)
        found = [target for target in self.targets if target.server_id in wanted]
        for server_id in wanted - {target.server_id for target in found}:
            raise UnknownServer(no_policy(server_id, config))
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
        doubted = [doubt for one in self.wanted if (doubt := self.doubt_of(one)) is not None]
        return [*doubted, *(f"the account has no server {one}" for one in self.wanted if one not in self.servers)]

    def doubt_of(self, server_id: str) -> str | None:
        """What cannot be relied on of what is known of a server."""
        why = self.in_doubt.get(server_id)
        if self.doubt is not None or why is None:
            return self.doubt
        label = next((target.label for target in self.targets if target.server_id == server_id), server_id)
        return f"server {label}: {why}"

    @property
    def is_whole(self) -> bool:
        return not self.complaints


async def read_account(
    config: Config, environ: Mapping[str, str], names: Sequence[str], *, is_to_judge: bool = True
) -> Account:
    """List the whole account once. Raises `UnknownServer` for a name that fits no server, or several.

    `is_to_judge`: with what the last rotations could not delete.
    """
    async with open_cloud(config, environ, NullObserver()) as cloud:
        inventory = Inventory(cloud, called=config.server_ids, foresees=True)
        doubt = await refresh(inventory)
        account = _account(config, inventory, names, doubt, cloud)
        known = await _as_the_ledger_knows(config, inventory, account.wanted, is_to_judge=is_to_judge)
        return replace(account, known=known)


async def _as_the_ledger_knows(
    config: Config, inventory: Inventory, server_ids: Iterable[str], *, is_to_judge: bool = True
) -> Mapping[str, ServerHoldings]:
    """What is known of the account, with what the ledger knows of these servers' snapshots.

    Where there is no ledger to be read here, names alone tell whose they are.
    """
    known, now = dict(inventory.known), datetime.now(UTC)
    its_ids = {one: inventory.ids_of(one) for one in server_ids if one in known}
    try:
        if not is_on_server(config.state) and not await asyncio.to_thread(config.ledger.exists):
            return known
        from snaprotd.wiring.assembly import open_ledger_to_read  # its library takes a while to load

        async with open_ledger_to_read(config) as ledger:
            if ledger is None:
                return known
            shown = [(ids, known[one].snapshots) for one, ids in its_ids.items()]
            found = await ledger.recall_each(shown, now)
            last = await ledger.last_of_each(list(its_ids.values())) if is_to_judge else [[] for _ in its_ids]
    except (LedgerError, ConfigError, OSError) as error:
        log.warning("the ledger cannot be read: whose snapshots are is told by their names alone", error=str(error))
        return known
    for one, recalled, ended in zip(its_ids, found, last, strict=True):
        held = known[one]
        marked = recalled.marked(held.snapshots, config.instance)
        known[one] = as_left(replace(held, snapshots=marked), ended, now)
    return known


async def usually_off(config: Config, server_ids: Collection[str]) -> dict[str, float]:
    """The median of the times for which their last rotations held servers off, in seconds, where that is known."""
    from snaprotd.wiring.assembly import open_ledger_to_read  # its library takes a while to load

    found = {}
    with suppress(LedgerError, ConfigError):
        async with open_ledger_to_read(config) as ledger:
            for server_id in server_ids if ledger is not None else ():
                past = await ledger.history(server_id) if ledger is not None else []
                if times := [one.power.off_for for one in past if one.power.off_for > 0]:
                    found[server_id] = median(times)
    return found


async def read_capacity(
    config: Config, targets: Sequence[Target], known: Mapping[str, ServerHoldings], page_size: int
) -> Capacity | None:
    """What the fullest night of the week ahead takes, by the last rotations where a ledger can be read here.

    None where no slot lies ahead.
    """
    from snaprotd.wiring.assembly import open_ledger_to_read  # its library takes a while to load

    latest: Mapping[str, Rotation] = {}
    with suppress(LedgerError, ConfigError):
        async with open_ledger_to_read(config) as ledger:
            latest = await ledger.latest() if ledger is not None else {}
    snapshots = sum(len(held.snapshots) for held in known.values())
    sizes = {"servers": len(known), "snapshots": snapshots, "page_size": page_size}
    return await asyncio.to_thread(capacity_of, config, targets, latest, **sizes, now=datetime.now(UTC))


async def nights_of(config: Config, targets: Sequence[Target]) -> dict[str, str]:
    """Of each group what its turns mean for the length of a night, in words."""
    members: dict[str, list[Target]] = {}
    for target in targets:
        if target.policy.group:
            members.setdefault(target.policy.group, []).append(target)
    off = await usually_off(config, [one.server_id for group in members.values() for one in group]) if members else {}
    return {
        group: night_words(group, [off.get(one.server_id) for one in servers]) for group, servers in members.items()
    }


async def refresh(inventory: Inventory) -> str | None:
    """List the account. One bad entry in it stops nobody: it is answered as a sentence."""
    try:
        await inventory.refresh()
    except Doubtful as doubt:
        return str(doubt)
    return None


def _account(config: Config, inventory: Inventory, names: Sequence[str], doubt: str | None, cloud: Provider) -> Account:
    servers = servers_of(inventory)
    targets = resolve(config, servers)
    return Account(
        targets=targets,
        known=inventory.known,
        servers=inventory.seen_servers,
        wanted=tuple(ids_of_names(names, targets, servers, doubt)),
        now=datetime.now(UTC),
        doubt=doubt,
        in_doubt=inventory.in_doubt,
        machine=this_machine(config.own_server),
        page_size=cloud.capabilities.page_size,
        clock_ahead=cloud.clock.ahead(agreeing=1),
    )


def servers_of(inventory: Inventory) -> list[Server]:
    return list(inventory.seen_servers.values())


def ids_of_names(
    names: Sequence[str], targets: Sequence[Target], servers: Sequence[Server], doubt: str | None
) -> list[str]:
    ids = ids_of(names, targets, servers)
    if isinstance(ids, str) and doubt is not None:
        raise UnknownServer(f"{ids}, in what could be read: {doubt}")
    if isinstance(ids, str):
        raise UnknownServer(f"{ids}. `snaprotd plan` shows the servers that are configured")
    return ids


async def check_online(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """Ask the API about everything that the configuration relies on. Only GET requests."""
    async with open_cloud(config, environ, NullObserver()) as cloud:
        owner = await cloud.token_owner()
        inventory = Inventory(cloud, called=config.server_ids, foresees=True)
        doubt = await refresh(inventory)
        targets = resolve(config, servers_of(inventory))
        found = Found(
            config=config,
            targets=targets,
            servers=inventory.seen_servers,
            known=await _as_the_ledger_knows(config, inventory, [target.server_id for target in targets]),
            doubt=doubt,
            in_doubt=inventory.in_doubt,
            now=datetime.now(UTC),
            machine=this_machine(config.own_server),
            published_limit=cloud.capabilities.snapshot_limit,
        )
        token = token_finding(name=owner.token_name, email=owner.email, permissions=owner.permissions)
        capacity = await read_capacity(config, targets, inventory.known, cloud.capabilities.page_size)
        warnings = [Finding(ok=True, note=True, text=text) for text in [warning_of(capacity)] if text]
        return [token, *findings_of(found), *warnings]


def no_policy(name: str, config: Config) -> str:
    return f"the server {name} has no policy: add it under `servers` in {config.path}"
