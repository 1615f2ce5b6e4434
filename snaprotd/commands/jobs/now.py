"""What the commands do with the ledger and then end: run one rotation now, read the history."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import Protocol

from snaprotd.commands.jobs.account import ids_of_names, no_policy, refresh, servers_of, usually_off
from snaprotd.config.settings import Config, Target, resolve
from snaprotd.core.admission import resumed, why_shut
from snaprotd.core.errors import CloudError, SnaprotdError, UnknownServer
from snaprotd.core.rotation import Result, Rotation
from snaprotd.daemon.machine import this_machine
from snaprotd.daemon.signals import on_end_asked
from snaprotd.engine.board import Board
from snaprotd.engine.keeper import Keeper
from snaprotd.engine.loop import insist_on_rotation
from snaprotd.engine.rotations import LEASE_RENEWAL, LEDGER_EVERY, Groups, mend_ledger
from snaprotd.engine.run import Run, Tools
from snaprotd.ledger.address import name_of
from snaprotd.ledger.claims import Claimed, ServerBusy
from snaprotd.ledger.store import Ledger
from snaprotd.observe.metrics import Metrics
from snaprotd.provider import NullObserver
from snaprotd.provider.inventory import Inventory
from snaprotd.report.rows import busy_words
from snaprotd.wiring.access import open_cloud
from snaprotd.wiring.assembly import account_of, new_rotation, open_ledger_to_read, open_tools


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


async def look_ahead(
    config: Config, environ: Mapping[str, str], name: str, *, live: bool, looks_at_server: bool
) -> Outlook:
    """What a rotation of the named server would mean now; `live`: without stopping it.

    Whether the server runs is asked only where `looks_at_server`. Raises `UnknownServer`.
    """
    async with AsyncExitStack() as stack:
        target, inventory = _configured(config, name), None
        if target is None or (looks_at_server and target.policy.stop_first and not live):
            cloud = await stack.enter_async_context(open_cloud(config, environ, NullObserver()))
            inventory = Inventory(cloud, called=config.server_ids)
            stack.push_async_callback(inventory.aclose)
            target = target or await _listed(config, inventory, name)
        policy, now = target.policy, datetime.now(UTC)
        schedule, stop_first = replace(policy.schedule, window=()), policy.stop_first and not live
        return Outlook(
            target=replace(target, policy=replace(policy, schedule=schedule, stop_first=stop_first)),
            shut=why_shut(policy, now),
            stops=stop_first and not (inventory is not None and await _is_off(inventory, target.server_id)),
            off_for=(await usually_off(config, [target.server_id])).get(target.server_id) if stop_first else None,
        )


async def _is_off(inventory: Inventory, server_id: str) -> bool:
    try:
        return (await inventory.server(server_id)).is_stopped
    except CloudError:  # the rotation meets it too, and says so
        return False


Show = Callable[[Rotation, float | None], None]
"""Is shown a rotation whenever something has changed, and how many seconds those of its server usually take."""


class ForGood(Protocol):
    """Is told what is to be read by whoever watches; with `is_last` the process ends right after it."""

    def __call__(self, text: str, *, is_last: bool = False) -> None: ...


async def rotate_now(
    config: Config,
    environ: Mapping[str, str],
    target: Target,
    *,
    description: str,
    show: Show,
    say: ForGood,
) -> Rotation:
    """Run one rotation of the server at once; an interrupted one of the same server is finished first.

    `say` is told what a person must read.

    Raises `SnaprotdError` where a rotation of the server is open in another process.
    """
    board = Board()
    async with open_tools(config, environ, board, Metrics(board), this_machine, once=True) as tools:
        _obey_signals(tools, say)
        usual = await _usual_duration(tools.ledger, target.server_id)
        keeper = Keeper(tools, board, serves=lambda _: False)
        keeping = [
            asyncio.create_task(_every(LEASE_RENEWAL, tools.ledger.renew)),
            asyncio.create_task(_every(LEDGER_EVERY, lambda: mend_ledger(tools.ledger, board, keeper))),
        ]

        def show_here(rotation: Rotation) -> None:
            (board.take_down if rotation.is_finished else board.show)(rotation)
            show(rotation, usual)

        try:
            await _finish_interrupted(tools, target, show_here)
            rotation = await _rotate(config, tools, target, description, show_here)
            keeper.keep(tools.ledger.starts.record_of(rotation))
            # Where nobody else has this ledger, nobody else would see a stop strike that has not been seen to.
            await keeper.settle(watched_too=tools.ledger.is_sole_user and not tools.drain.requested.is_set())
            return rotation
        finally:
            await keeper.aclose()
            for task in keeping:
                task.cancel()


async def _usual_duration(ledger: Ledger, server_id: str) -> float | None:
    """The median length of the server's last successful rotations, in seconds; None where there are none."""
    past = await ledger.history(server_id)
    lengths = [
        (one.finished_at - one.started_at).total_seconds()
        for one in past
        if one.result is Result.SUCCESS and one.finished_at is not None
    ]
    return median(lengths) if lengths else None


def _configured(config: Config, name: str) -> Target | None:
    """The server of that name where the file alone tells which one it is."""
    configured = [target for target in resolve(config, None) if name in (target.server_id, target.label)]
    return configured[0] if len(configured) == 1 else None


async def _listed(config: Config, inventory: Inventory, name: str) -> Target:
    """The server of that name in the account. Raises `UnknownServer`."""
    doubt = await refresh(inventory)
    servers = servers_of(inventory)
    targets = resolve(config, servers)
    (server_id,) = ids_of_names([name], targets, servers, doubt)
    found = next((target for target in targets if target.server_id == server_id), None)
    if found is None:
        raise UnknownServer(no_policy(name, config))
    return found


async def _finish_interrupted(tools: Tools, target: Target, show: Callable[[Rotation], None]) -> None:
    everything = tools.ledger.is_sole_user
    for interrupted in await tools.ledger.take_over(everything=everything, server_id=target.server_id):
        await _run(resumed(interrupted, tools.now()), tools, show)


async def _rotate(
    config: Config, tools: Tools, target: Target, description: str, show: Callable[[Rotation], None]
) -> Rotation:
    now = tools.now()
    rotation = new_rotation(config, target, slot=now.replace(microsecond=0), now=now, description=description)
    match await tools.ledger.claim(rotation):
        case Claimed(rotation=ours):
            turn, ours = await Groups(tools).take(ours, show)
            ended = await _run(ours, tools, show)
            turn.give_back()
            return ended
        case ServerBusy(open=busy):
            raise SnaprotdError(busy_words(busy))
        case _:
            raise SnaprotdError(
                f"{target.label} has had a rotation in this very second already: nothing was done. Try again"
            )


async def _run(rotation: Rotation, tools: Tools, show: Callable[[Rotation], None]) -> Rotation:
    ended = await insist_on_rotation(Run(rotation, tools, show))
    if not ended.is_finished:
        await tools.ledger.release(ended.id)
    return ended


async def _every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        with suppress(SnaprotdError):  # the rotation's own next save says what is wrong
            await work()


def _obey_signals(tools: Tools, say: ForGood) -> None:
    """The first Ctrl-C ends in order: a server that is held off is started again. The second ends at once."""

    def begin(_: str) -> None:
        say("asked to end: a server that is held off is started first; once more ends at once")
        tools.drain.requested.set()

    def at_once() -> None:
        off = "ended at once; a server that was held off is OFF until a daemon, or its next start, goes on with it"
        say(off, is_last=True)

    on_end_asked(begin, at_once)
    # The terminal was closed; the work goes on all the same.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
