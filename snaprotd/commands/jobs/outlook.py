"""What is asked of `now`, and what it would mean for each server: before anything is done."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from snaprotd.commands.jobs.account import ids_of_names, no_policy, refresh, servers_of, usually_off
from snaprotd.config.settings import Config, Target, resolve
from snaprotd.core.admission import why_shut
from snaprotd.core.errors import CloudError, SnaprotdError, UnknownServer
from snaprotd.core.holds import HoldFor
from snaprotd.core.rotation import Result
from snaprotd.ledger.address import name_of
from snaprotd.provider import NullObserver
from snaprotd.provider.inventory import Inventory
from snaprotd.report.rows import busy_words
from snaprotd.wiring.access import open_cloud


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What somebody has typed after `now`."""

    servers: tuple[str, ...] = ()
    """By whatever name; none where only those are wanted whose last rotation `failed`."""
    failed: bool = False
    description: str = ""
    live: bool = False
    """Without stopping any."""
    hold: HoldFor | None = None
    """For how long what is taken is held; None where nothing was said of that."""
    yes: bool = False
    """Without a question, and outside the window too."""

    @property
    def is_of_one(self) -> bool:
        """One server was named: the answer is its own, and no list."""
        return len(self.servers) == 1 and not self.failed


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a rotation by hand would mean for a server now."""

    target: Target
    """With the policy as it is by hand: no window holds it, and it stops the server only where that is wanted."""
    shut: str
    """Why the schedule would not begin one now: outside its window. Empty where it would."""
    stops: bool
    """The server runs, as far as is known, and would be switched off."""
    off_for: float | None
    """For about how many seconds, by its last rotations; None where there are none."""


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What is wanted, as far as it can be told."""

    outlooks: tuple[Outlook, ...]
    """Each server once, in the order in which they were named."""
    at_work: tuple[tuple[Target, str], ...] = ()
    """Whose last rotation goes on still, so that nobody knows yet whether it fails; each with why nothing is done."""
    left_out: tuple[str, ...] = ()
    """In sentences, what is not done though somebody may have meant it."""
    doubt: str | None = None
    """What of the account's list cannot be relied on: there may be more servers that were meant."""


async def look_ahead(config: Config, environ: Mapping[str, str], wish: Wish, *, looks_at_servers: bool) -> Prospect:
    """What the rotations that are wished for would mean now.

    Whether servers run is asked only where `looks_at_servers`. Raises `UnknownServer` where a name fits none.
    """
    async with AsyncExitStack() as stack:
        targets, found, inventory = _configured(config, wish), Prospect(outlooks=()), None
        asks = looks_at_servers and not wish.live
        if targets is None or (asks and any(one.policy.stop_first for one in targets)):
            cloud = await stack.enter_async_context(open_cloud(config, environ, NullObserver()))
            inventory = Inventory(cloud, called=config.server_ids)
            stack.push_async_callback(inventory.aclose)
        if targets is None and inventory is not None:
            found, targets = await _listed(config, inventory, wish)
        stopped = [one for one in targets or () if one.policy.stop_first and not wish.live]
        off_for = await usually_off(config, [one.server_id for one in stopped]) if stopped else {}
        running = [*stopped]
        if inventory is not None and asks:
            are_off = await asyncio.gather(*(_is_off(inventory, one.server_id) for one in stopped))
            running = [one for one, is_off in zip(stopped, are_off, strict=True) if not is_off]
        now = datetime.now(UTC)
        outlooks = tuple(
            Outlook(
                target=_by_hand(one, wish),
                shut=why_shut(one.policy, now),
                stops=one in running,
                off_for=off_for.get(one.server_id),
            )
            for one in targets or ()
        )
        return replace(found, outlooks=outlooks)


def _by_hand(target: Target, wish: Wish) -> Target:
    policy = target.policy
    schedule, stop_first = replace(policy.schedule, window=()), policy.stop_first and not wish.live
    return replace(target, policy=replace(policy, schedule=schedule, stop_first=stop_first))


async def _is_off(inventory: Inventory, server_id: str) -> bool:
    try:
        return (await inventory.server(server_id)).is_stopped
    except CloudError:  # the rotation meets it too, and says so
        return False


def _configured(config: Config, wish: Wish) -> list[Target] | None:
    """The one server that was named, where the file alone tells which it is; else None.

    Of several only the account tells whether two of the names are one server's.
    """
    name = wish.servers[0] if wish.is_of_one else ""
    fitting = [target for target in resolve(config, None) if name in (target.server_id, target.label)]
    return fitting if len(fitting) == 1 else None


async def _listed(config: Config, inventory: Inventory, wish: Wish) -> tuple[Prospect, list[Target]]:
    """The wanted servers of the account, and what there is to say about the others. Raises `UnknownServer`."""
    doubt = await refresh(inventory)
    servers = servers_of(inventory)
    targets = resolve(config, servers)
    if wish.failed:
        failed, at_work = await _failed(config, inventory, targets)
        paused = [one.label for one in failed if one.policy.paused]
        said = (f"paused, and left out: {', '.join(paused)}. Name them to have snapshots of them",) if paused else ()
        wanted = [one for one in failed if not one.policy.paused]
        return Prospect(outlooks=(), at_work=tuple(at_work), left_out=said, doubt=doubt), wanted
    by_id = {target.server_id: target for target in targets}
    found: dict[str, Target] = {}
    for server_id in ids_of_names(wish.servers, targets, servers, doubt):
        if server_id not in by_id:
            raise UnknownServer(no_policy(server_id, config))
        found[server_id] = by_id[server_id]
    return Prospect(outlooks=()), list(found.values())


async def _failed(
    config: Config, inventory: Inventory, targets: Sequence[Target]
) -> tuple[list[Target], list[tuple[Target, str]]]:
    """Those whose last rotation failed, or was left open by a process that is gone; and those at which one is at work.

    Raises `SnaprotdError` where nobody knows.
    """
    from snaprotd.commands.jobs.by_hand import is_forsaken  # these libraries take a while to load
    from snaprotd.wiring.assembly import open_ledger_to_read

    failed, at_work = [], []
    async with open_ledger_to_read(config) as ledger:
        if ledger is None:
            raise SnaprotdError(
                f"there is no ledger at {name_of(config.state)}: nobody knows whose last rotation failed. Nothing was "
                "done"
            )
        open_ones = await ledger.open_rotations()
        for target in targets:
            ids = inventory.ids_of(target.server_id)
            busy = next((one for one in open_ones if one.server_id in ids), None)
            if busy is not None and not await is_forsaken(config, ledger, busy):
                at_work.append((target, busy_words(busy)))
            elif busy is not None or any(one.result is Result.FAILURE for one in await ledger.last_of(ids)):
                failed.append(target)
    return failed, at_work
