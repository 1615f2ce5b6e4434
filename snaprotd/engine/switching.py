"""How a server is switched off and on again: two steps of a rotation.

What is promised, and when a promise is kept, is decided in `core.power`; here it is asked for and carried out.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog

from snaprotd.core import power
from snaprotd.core.admission import why_too_late
from snaprotd.core.asking.evidence import Use
from snaprotd.core.errors import UNTOUCHABLE, CloudError, GroupTaken, LedgerError, NotSent
from snaprotd.core.model import Server, ServerState
from snaprotd.core.policy import OnStopTimeout
from snaprotd.core.rotation import Done, Failed, Outcome, Passed, Rotation, Step, Waiting
from snaprotd.engine.run import Run
from snaprotd.engine.starts.paying import is_for_now, let_go, pay

log = structlog.get_logger("snaprotd.rotation")

EARLIER_STOP = "the server is still active, and a stop of an earlier rotation may yet strike"


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
    if _is_waited_for(rotation):
        is_own = _is_its_own(rotation)
        return Waiting("the server has been asked to stop and is still active" if is_own else EARLIER_STOP)
    whose = await run.tools.inventory.owner()
    run.looks.demand(Use.SEND, by_list=False, is_to_queue=True)
    try:
        await run.save(partial(stop_promised, now=run.tools.now(), whose=whose))
    except GroupTaken as taken:  # by another process, since this one has had its turn
        return _wait_for_group(run, taken)
    return await _ask_to_stop(run, server, "stop", before=rotation, owed=False)


def stop_promised(rotation: Rotation, now: datetime, whose: str) -> Rotation:
    """A stop of its own is about to be asked for, in this account."""
    promised = power.promised(rotation.power, now, whose=whose)
    return replace(rotation, power=promised, stop_number=promised.asked)


def _is_waited_for(rotation: Rotation) -> bool:
    """The last stop may yet strike; that of an earlier rotation only as long as one whose answer was lost may."""
    if not rotation.power.awaits_stop:
        return False
    if _is_its_own(rotation):
        return rotation.power.stop_acknowledged or rotation.stop_is_open
    return rotation.power.stop_is_open(settle=rotation.settle, start_timeout=0.0)


def _is_its_own(rotation: Rotation) -> bool:
    """The last stop: one of an earlier rotation may have struck long ago, and have been written down by nobody."""
    return rotation.stop_number == rotation.power.asked > 0


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
        if is_for_now(error):
            run.update_power(power.not_now, owed=owed)
        else:
            run.update_power(power.lost)
        raise
    run.update_power(power.acknowledged)
    return Waiting("the server has been asked to stop")


async def _stop_timed_out(run: Run, server: Server) -> Outcome:
    rotation, policy = run.rotation, run.rotation.policy
    # Else no promise could be saved, no request has left, or an earlier rotation's stop was waited for.
    was_asked = (rotation.held_off and _is_its_own(rotation)) or not server.is_active
    if policy.on_stop_timeout is OnStopTimeout.HARD_STOP and not rotation.power.hard_stop and was_asked:
        return await _stop_the_hard_way(run, server)
    run.update_power(power.timed_out)
    if policy.on_stop_timeout is OnStopTimeout.SNAPSHOT_ANYWAY:
        log.warning("taking the snapshot of a server that did not stop", status=server.status)
        run.update(lambda rotation: replace(rotation, running_allowed=True))
        return Done()
    if not was_asked:
        why = f"could not be asked to stop within {policy.stop_timeout}: {rotation.note}"
        return Failed(f"the server {why}", may_pass=True)
    # Where nothing is open every request was answered that it is not carried out now: the provider says why.
    why = f": {rotation.note}" if rotation.held_off and rotation.power.power_open is None else ""
    return Failed(f"the server is still {server.status} after {policy.stop_timeout}{why}", may_pass=True)


def untouchable(server: Server, more: str = "") -> Failed:
    """Nothing may be asked of the server now. A restore passes; what the provider has suspended is for a person."""
    may_pass = server.state is ServerState.RESTORING
    return Failed(f"the server is {server.status}{more}", may_pass=may_pass, cause=UNTOUCHABLE)


def hard_stop_begun(rotation: Rotation, now: datetime) -> Rotation:
    """The stop has timed out, and the hard one is about to be asked for: its time is counted anew."""
    harder = power.promised_harder(rotation.power, now)
    return replace(
        rotation,
        power=harder,
        stop_number=harder.asked,
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
        if is_for_now(error):
            run.update(partial(hard_stop_undone, before=before))
        raise


async def start(run: Run) -> Outcome:
    """See the server running, where a start is owed, and wait for a stop of ours that has not been seen to strike.

    Then the keeper goes on watching it, until nothing of ours can switch it off any more; nobody waits for that.
    """
    if run.rotation.held_off:
        await _learn_whether_it_is_owed(run)
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


async def _learn_whether_it_is_owed(run: Run) -> None:
    try:
        if await let_go(run, run.tools.ledger.starts.account) is not None:
            run.update_power(power.over)
    except LedgerError as error:
        log.error("the ledger cannot be read: going on from memory", error=str(error))
