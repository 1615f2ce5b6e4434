"""The two steps that switch a server, off and on again, and what is done where no record of that can be written.

What is promised, and when a promise is kept, is decided in `core.power`; here it is asked for and carried out.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import structlog

from snaprotd.core import power
from snaprotd.core.errors import Busy, CloudError, NotFound, Unclear
from snaprotd.core.model import Server
from snaprotd.core.policy import OnStopTimeout
from snaprotd.core.rotation import Done, Failed, Outcome, Rotation, Waiting, hard_stop_begun, hard_stop_undone
from snaprotd.engine.run import Run, Tools

log = structlog.get_logger("snaprotd.rotation")


async def stop(run: Run) -> Outcome:
    """Switch the server off where the policy says so, with the promise to start it on disk first."""
    rotation = run.rotation
    if not rotation.policy.stop_first:
        return Done()
    server = await run.server()
    run.update_power(power.seen, server, run.tools.now())
    if server.is_stopped:
        return Done()
    if server.is_untouchable:
        return Failed(f"the server is {server.status}")
    if rotation.waited > rotation.policy.stop_timeout.total_seconds():
        return await _stop_timed_out(run, server)
    if not server.is_active:
        return Waiting(f"the server is {server.status}")
    if rotation.power.stop_acknowledged or rotation.power_is_unsettled:
        return Waiting("the server has been asked to stop and is still active")
    await run.save_power(power.promised, run.tools.now())
    return await _ask_to_stop(run, server, "stop", owed=False)


async def _ask_to_stop(run: Run, server: Server, action: str, *, owed: bool) -> Outcome:
    """`owed`: an earlier request may have stopped the server, or may yet, whatever becomes of this one."""
    try:
        await run.tools.cloud.power(server, action, guard=run.guard)
    except Unclear:
        run.update_power(power.lost)
        raise
    except Busy:
        run.update_power(power.not_now, owed=owed)
        raise
    except CloudError:
        run.update_power(power.refused, owed=owed)
        raise
    run.update_power(power.acknowledged)
    return Waiting("the server has been asked to stop")


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
    return Failed(f"the server is still {server.status} after {policy.stop_timeout}{why}")


async def _stop_the_hard_way(run: Run, server: Server) -> Outcome:
    before = run.rotation
    owed = before.power.stop_acknowledged or before.power_is_unsettled
    await run.save(partial(hard_stop_begun, now=run.tools.now()))
    try:
        return await _ask_to_stop(run, server, "hard_stop", owed=owed)
    except Unclear:
        raise
    except CloudError:
        run.update(partial(hard_stop_undone, before=before))
        raise


async def start(run: Run) -> Outcome:
    """Start the server if, and only if, we stopped it; see it active; and stay while a lost stop may yet strike."""
    rotation = run.rotation
    if not rotation.held_off:
        return Done()
    try:
        server = await run.server()
    except NotFound as error:
        return await _is_gone(run, error)
    run.update_power(power.seen, server, run.tools.now())
    if server.is_active:
        return _is_back(run)
    if server.is_untouchable:
        return Waiting(f"the server is {server.status}: it will be started when that is over")
    # A server that hangs between two states for all of `start_timeout` is asked again too.
    if not server.is_stopped and not rotation.start_is_overdue:
        return Waiting(f"the server is {server.status}")
    if not rotation.power.may_be_asked_to_start(run.tools.poll_interval):
        return Waiting(f"the server has been asked to start and is {server.status}")
    return await _ask_to_start(run, server)


async def _is_gone(run: Run, error: NotFound) -> Outcome:
    """A server is only believed to be gone when the provider has said so for `start_timeout`, and lists it no more."""
    missing_for = run.update_power(power.missing).power.missing_for or 0.0
    believed = missing_for > run.rotation.policy.start_timeout.total_seconds()
    if not believed or await _is_listed(run.tools, run.rotation):
        return Waiting(f"the server that is to be started is not found: {error}")
    run.update_power(power.given_up)
    return Failed(f"the server that was to be started is gone: {error}")


async def _is_listed(tools: Tools, rotation: Rotation) -> bool:
    """Whether the account's list has the server, or cannot be relied on and so may have it."""
    try:
        return any(server.id == rotation.server_id for server in await tools.inventory.servers(urgent=True))
    except CloudError as error:
        log.error("the server is not found, and the list that it may be in cannot be read", error=str(error))
        return True


def _is_back(run: Run) -> Outcome:
    rotation = run.rotation
    if rotation.power_is_unsettled:
        return Waiting("the server is active; the answer to a power request was lost, so it is watched a while longer")
    run.update_power(power.released)
    if rotation.power.went_off:
        run.tools.observer.back_on(rotation, rotation.power.off_for)
    return Done()


async def _ask_to_start(run: Run, server: Server) -> Outcome:
    rotation = run.rotation
    if starts := rotation.power.starts:
        run.tools.observer.start_failed(rotation)
        log.error("the server has not started; asking again", status=server.status, attempt=starts + 1)
    still_open = rotation.power.power_open
    await run.save_if_possible(_start_promised)
    try:
        await run.tools.cloud.power(server, "start", guard=run.guard)
    except Unclear:
        run.update_power(power.lost)
        raise
    except CloudError:
        run.update_power(power.start_answered, still_open)
        raise
    run.update_power(power.start_answered, still_open)
    return Waiting("the server has been asked to start")


def _start_promised(rotation: Rotation) -> Rotation:
    return replace(rotation, power=power.start_promised(rotation.power))


# -- without a ledger --------------------------------------------------------------------------------------------------


async def start_server(tools: Tools, rotation: Rotation) -> None:
    """See a server that is held off started, where no record of it can be written. A start too many does no harm."""
    clock = asyncio.get_running_loop().time
    missing_since: float | None = None
    while True:
        try:
            server = await tools.cloud.server(rotation.server_id, urgent=True)
            missing_since = None
            if server.is_active:
                return
            if server.is_stopped:
                await tools.cloud.power(server, "start", guard=lambda: None)
        except CloudError as error:
            log.error("the server that is held off cannot be started yet", server=rotation.label, error=str(error))
            if isinstance(error, NotFound):
                missing_since = clock() if missing_since is None else missing_since
                believed = clock() - missing_since > rotation.policy.start_timeout.total_seconds()
                if believed and not await _is_listed(tools, rotation):
                    return
        await asyncio.sleep(tools.poll_interval)
