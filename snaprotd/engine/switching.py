"""How a server is switched off and on again: two steps of a rotation, and what the keeper of starts shares with them.

What is promised, and when a promise is kept, is decided in `core.power`; here it is asked for and carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog

from snaprotd.core import power
from snaprotd.core.admission import why_too_late
from snaprotd.core.asking.evidence import Use
from snaprotd.core.errors import (
    UNTOUCHABLE,
    Anothers,
    Busy,
    CalledOff,
    CloudError,
    GroupTaken,
    HeldBack,
    LedgerError,
    NotFound,
    NotSent,
    Temporary,
    Unclear,
)
from snaprotd.core.model import Server, ServerState, Snapshot, is_one_server
from snaprotd.core.ownership import taken_since
from snaprotd.core.policy import OnStopTimeout
from snaprotd.core.power import Power
from snaprotd.core.promise import is_unaccounted_for
from snaprotd.core.rotation import Done, Failed, Outcome, Passed, Rotation, Step, Waiting
from snaprotd.engine.run import Run, Transition
from snaprotd.engine.tools import Tools
from snaprotd.provider import Priority

LONGEST_LOOK = 30.0
"""Seconds that a start waits to learn whether the ledger that owes it is an old copy."""

log = structlog.get_logger("snaprotd.rotation")


async def stop(run: Run) -> Outcome:
    """Switch the server off where the policy says so, with the promise to start it on disk first."""
    rotation = run.rotation
    if not rotation.policy.stop_first:
        return Done()
    server = await run.looks.server()
    run.look(server)
    if server.is_stopped:
        return Done()
    if server.is_untouchable:
        return untouchable(server)
    # What waits for its turn has not been asked for: for how long that may be is for the patience of the step.
    if rotation.waited > rotation.policy.stop_timeout.total_seconds() and not run.looks.is_late:
        return await _stop_timed_out(run, server)
    if not server.is_active:
        return Waiting(f"the server is {server.status}")
    if rotation.power.awaits_stop and (rotation.power.stop_acknowledged or rotation.stop_is_open):
        return Waiting("the server has been asked to stop and is still active")
    whose = await run.tools.inventory.owner()
    run.looks.demand(Use.SEND, by_list=False, is_to_queue=True)
    try:
        await run.save_power(power.promised, run.tools.now(), whose=whose)
    except GroupTaken as taken:  # by another process, since this one has had its turn
        return _wait_for_group(run, taken)
    return await _ask_to_stop(run, server, "stop", before=rotation, owed=False)


def _wait_for_group(run: Run, taken: GroupTaken) -> Outcome:
    """It waits for another server, not for its own: its time at the step is counted anew."""
    if why := why_too_late(run.rotation, run.tools.now()):
        run.update(lambda rotation: replace(rotation, skipped="group"))
        return Failed(f"{taken}; {why}")
    run.update(lambda rotation: replace(rotation, waited=0.0))
    return Waiting(str(taken))


async def _ask_to_stop(run: Run, server: Server, action: str, *, before: Rotation, owed: bool) -> Outcome:
    """`owed`: an earlier request may have stopped the server, or may yet, whatever becomes of this one.

    Only a request that never left is undone, where it was the first. An error answer proves nothing: a proxy may have
    sent it twice.
    """
    try:
        await run.ask(run.tools.cloud.power(server, action, guard=run.guard_stop))
    except NotSent:
        run.update_power(power.not_now if before.held_off else power.not_sent, owed=owed)
        raise
    except CloudError as error:
        if _is_for_now(error):
            run.update_power(power.not_now, owed=owed)
        else:
            run.update_power(power.lost)
        raise
    run.update_power(power.acknowledged)
    return Waiting("the server has been asked to stop")


def _is_for_now(error: CloudError) -> bool:
    """It was not carried out, by the answer, and may be asked for again."""
    return isinstance(error, Temporary) and not isinstance(error, Unclear)


async def _stop_timed_out(run: Run, server: Server) -> Outcome:
    rotation, policy = run.rotation, run.rotation.policy
    if policy.on_stop_timeout is OnStopTimeout.HARD_STOP and not rotation.power.hard_stop:
        return await _stop_the_hard_way(run, server)
    run.update_power(power.timed_out)
    if policy.on_stop_timeout is OnStopTimeout.SNAPSHOT_ANYWAY:
        log.warning("taking the snapshot of a server that did not stop", status=server.status)
        run.update(lambda rotation: replace(rotation, running_allowed=True))
        return Done()
    # Where nothing is open every request was answered that it is not carried out now: the provider says why.
    why = f": {rotation.note}" if rotation.held_off and rotation.power.power_open is None else ""
    return Failed(f"the server is still {server.status} after {policy.stop_timeout}{why}", may_pass=True)


def untouchable(server: Server, more: str = "") -> Failed:
    """Nothing may be asked of the server now. A restore passes; what the provider has suspended is for a person."""
    may_pass = server.state is ServerState.RESTORING
    return Failed(f"the server is {server.status}{more}", may_pass=may_pass, cause=UNTOUCHABLE)


def hard_stop_begun(rotation: Rotation, now: datetime) -> Rotation:
    """The stop has timed out, and the hard one is about to be asked for: its time is counted anew."""
    return replace(
        rotation,
        power=power.promised_harder(rotation.power, now),
        trail=(*rotation.trail, Passed(step=Step.STOP, seconds=round(rotation.waited, 3))),
        waited=0.0,
    )


def hard_stop_undone(rotation: Rotation, before: Rotation) -> Rotation:
    """The hard stop was not carried out: as `before` it, so that it is asked for again."""
    undone = replace(rotation.power, hard_stop=False)
    return replace(rotation, power=undone, trail=before.trail, waited=before.waited)


async def _stop_the_hard_way(run: Run, server: Server) -> Outcome:
    before = run.rotation
    owed = before.power.awaits_stop and (before.power.stop_acknowledged or before.stop_is_open)
    run.looks.demand(Use.SEND, by_list=False, is_to_queue=True)
    await run.save(partial(hard_stop_begun, now=run.tools.now()))
    try:
        return await _ask_to_stop(run, server, "hard_stop", before=before, owed=owed)
    except CloudError as error:
        if _is_for_now(error):
            run.update(partial(hard_stop_undone, before=before))
        raise


async def start(run: Run) -> Outcome:
    """See the server running, where a start is owed, and wait for a stop of ours that has not been seen to strike.

    Then the keeper goes on watching it, until nothing of ours can switch it off any more; nobody waits for that.
    """
    await run.learn_power()
    outcome = await pay(run) if run.rotation.held_off else Done()
    if isinstance(outcome, Done) and run.rotation.power.awaits_stop:
        if run.rotation.stop_is_open:
            return Waiting("the server is active; a stop may yet be carried out, so it is watched a while longer")
        run.update_power(power.waited_out)
    if isinstance(outcome, Done) and run.rotation.power.in_doubt and run.rotation.error is None:
        return Failed("the server is off, and is not started: somebody else may have switched it off")
    if isinstance(outcome, Done) and run.rotation.held_off and run.rotation.power.came_back:
        run.tools.observer.back_on(run.server_id, run.rotation.power.off_for)
    return outcome


# -- paying a start ----------------------------------------------------------------------------------------------------


class Debtor(Protocol):
    """A server that a start is owed to, and what may be done with it: a rotation that runs, or the keeper's own."""

    tools: Tools

    @property
    def server_id(self) -> str: ...

    @property
    def ids(self) -> Collection[str]:
        """Every id that it was ever known by."""

    @property
    def instance(self) -> str:
        """Whose snapshots of it are ours."""

    @property
    def power(self) -> Power:
        """The record as of now."""

    @property
    def start_is_overdue(self) -> bool:
        """It has been waited for longer than `start_timeout`."""

    @property
    def start_timeout(self) -> float: ...

    def look(self, server: Server) -> None:
        """Note what was seen."""

    def update_power(self, transition: Transition) -> object:
        """Change the record in memory."""

    async def save_power_if_possible(self, transition: Transition) -> bool:
        """Change the record, on disk before anything else is done, if that can be."""

    def guard(self) -> None: ...

    def start_failed(self) -> None: ...

    async def look_for(self, server_id: str) -> Server:
        """The server that has this id now. Raises as `Provider.server` does."""


async def pay(debtor: Debtor) -> Outcome:
    """One visit to a server that a start is owed to: look, and ask for the start where it is off."""
    try:
        server = await found(debtor)
    except NotFound as error:
        listed = await _listed_or_gone(debtor, error)
        if not isinstance(listed, Server):
            return listed
        server = listed
    except CloudError as error:
        server = await _as_listed(debtor, error)
    debtor.look(server)
    if server.is_active:
        return Done() if debtor.power.watched else Waiting("the server is active; one more look makes it certain")
    if debtor.power.in_doubt:
        return Done()
    if server.is_untouchable:
        return Waiting(f"the server is {server.status}: it will be started when that is over")
    # A server that hangs between two states for all of `start_timeout` is asked again too.
    if not server.is_stopped and not debtor.start_is_overdue:
        return Waiting(f"the server is {server.status}")
    if not debtor.power.may_be_asked_to_start(debtor.tools.poll_interval):
        return Waiting(f"the server has been asked to start and is {server.status}")
    if (newer := await _newer_than_the_debt(debtor)) is not None:
        debtor.update_power(power.doubted)
        log.error("not started: a newer snapshot of ours is not in the ledger; is it an old copy?", snapshot=newer.name)
        return Done()
    return await _ask_to_start(debtor, server)


async def _newer_than_the_debt(debtor: Debtor) -> Snapshot | None:
    """A snapshot of ours that was taken after the server was stopped, and that the ledger does not know.

    Somebody has put an old copy of the ledger back, then: who knows whether the server is still off because of us. What
    cannot be read says nothing, and the start is not kept waiting for it.
    """
    since = debtor.power.held_off_since
    if since is None or not debtor.instance or not is_unaccounted_for(debtor.power, debtor.tools.now()):
        return None
    try:
        async with asyncio.timeout(LONGEST_LOOK):
            snapshots = await debtor.tools.inventory.snapshots(debtor.server_id, priority=Priority.START)
            known = await debtor.tools.ledger.starts.slots_of(debtor.server_id)
    except (CloudError, LedgerError, TimeoutError) as error:
        log.warning("whether the ledger is an old copy cannot be told: the server is started", error=str(error))
        return None
    return taken_since(since, snapshots, instance=debtor.instance, known=known)


async def found(debtor: Debtor) -> Server:
    """The server, by whichever of its ids the account has it now: one of them may have been retired since its stop.

    First by those that are no numbers: a number may be another server's by now, which is none of our business.
    Raises `NotFound` where the account has it by none of them.
    """
    doubt: CloudError | None = None
    missing: CloudError | None = None
    for one in sorted(debtor.ids, key=lambda its: (its.isdigit(), its)):
        try:
            server = await debtor.look_for(one)
        except (NotFound, Anothers) as error:
            missing = error
        except CloudError as error:
            doubt = error
        else:
            if is_one_server(debtor.ids, (*server.ids, *server.beside)):
                return server
            missing = NotFound(f"{one} is the id of another server now")
    raise doubt or NotFound(str(missing))


async def _as_listed(debtor: Debtor, error: CloudError) -> Server:
    """The server as a list shows it, where the provider refuses to show it alone, or has failed to for `start_timeout`.

    Raises `error` where it is none of that, or the list does not tell either.
    """
    if isinstance(error, CalledOff) or not (isinstance(error, HeldBack) or debtor.start_is_overdue):
        raise error
    try:
        listed = await debtor.tools.inventory.find(debtor.ids)
    except CloudError as another:
        raise error from another
    if listed is None:
        raise error
    return listed


async def _listed_or_gone(debtor: Debtor, error: NotFound) -> Server | Outcome:
    """A server is gone when the provider has said so for all of `start_timeout`, and a whole list is without it.

    Not so where another account may be the one that was asked: the token may be another one's now. As the list shows
    it, it is started.
    """
    debtor.update_power(power.missing)
    since = debtor.power.missing_for
    if since is None or since < debtor.start_timeout:
        return Waiting(f"the server that is to be started is not found: {error}")
    if not await _is_of_this_account(debtor):
        return Waiting(f"the server that is to be started is not found, and the token is another account's: {error}")
    if (listed := await debtor.tools.inventory.find(debtor.ids)) is not None:
        return listed
    debtor.update_power(power.gone)
    return Failed(f"the server that was to be started is gone: {error}")


async def _is_of_this_account(debtor: Debtor) -> bool:
    """The account that is asked now is the one in which the server was stopped."""
    if not debtor.power.whose:
        return debtor.tools.knows_its_account
    return (await debtor.tools.cloud.token_owner(priority=Priority.DOWNTIME)).email == debtor.power.whose


async def _ask_to_start(debtor: Debtor, server: Server) -> Outcome:
    if starts := debtor.power.starts:
        debtor.start_failed()
        log.error("the server has not started; asking again", status=server.status, attempt=starts + 1)
    await debtor.save_power_if_possible(power.start_promised)
    try:
        await debtor.tools.cloud.power(server, "start", guard=debtor.guard)
    except Temporary as error:
        if _is_for_now(error) and not isinstance(error, Busy):
            debtor.update_power(power.start_put_off)
        raise
    return Waiting("the server has been asked to start")
