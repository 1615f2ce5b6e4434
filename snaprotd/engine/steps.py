"""What each step of a rotation does.

Every step looks before it acts, so that any step may be visited twice, by this process or by the next one. "It is
so already" is success. What a request must not outrun is on disk before the request goes out: the promise to start
a server again, and the intent to create a snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import structlog

from snaprotd.core import retention
from snaprotd.core.errors import CloudError, NotFound, Permanent, Temporary, Unclear
from snaprotd.core.model import OnStopTimeout, Server, Snapshot, SnapshotState
from snaprotd.core.rotation import MAX_CREATES, Done, Failed, Outcome, Passed, Rotation, Step, Waiting
from snaprotd.engine.run import Run, Tools

START_BACKOFF_CAP = 300.0
"""Seconds between two start requests at the most. There is no last one."""

log = structlog.get_logger("snaprotd.rotation")


async def look(run: Run) -> Outcome:
    """Is there anything to do, and may the server be touched at all?"""
    rotation = run.rotation
    snapshots = await run.snapshots()
    mine = _mine(rotation, snapshots)
    if mine is not None:
        run.learn(snapshot_id=mine.id, unseen=0.0)
        return Done()
    server = await run.server()
    if server.is_untouchable:
        return Failed(f"the server is {server.status}: it was not touched")
    if not (server.is_active or server.is_stopped):
        return Waiting(f"the server is {server.status}")
    return _wait_for_others(run, snapshots) or Done()


async def make_room(run: Run) -> Outcome:
    """Where the server is at the limit, delete one snapshot of ours if the policy allows it."""
    rotation = run.rotation
    snapshots = await run.snapshots()
    room = retention.make_room(
        snapshots, rotation.policy, instance=rotation.instance, limit=rotation.limit, now=run.tools.now()
    )
    if room.free:
        return Done()
    if any(snapshot.id in rotation.deleted for snapshot in snapshots):
        return Waiting("the deleted snapshot is still listed: its slot is not free yet")
    if rotation.deleted:
        return Failed(f"blocked: still {len(snapshots)} of {rotation.limit} snapshots after one was deleted")
    if room.delete is None:
        return Failed(room.blocked or "blocked: no free slot")
    error = await run.delete(room.delete, room.reason)
    return Failed(f"blocked: {error}") if error else Waiting("the slot is being freed", soon=True)


async def stop(run: Run) -> Outcome:
    """Switch the server off where the policy says so, with the promise to start it on disk first."""
    rotation = run.rotation
    if not rotation.policy.stop_first:
        return Done()
    server = await run.server()
    _note_power(run, server)
    if server.is_stopped:
        return Done()
    if server.is_untouchable:
        return Failed(f"the server is {server.status}")
    if rotation.waited > rotation.policy.stop_timeout.total_seconds():
        return await _stop_timed_out(run, server)
    if not server.is_active:
        return Waiting(f"the server is {server.status}")
    if rotation.stop_acknowledged or rotation.power_is_unsettled:
        return Waiting("the server has been asked to stop and is still active")
    fresh = {"went_off": False, "went_off_at": None, "came_back": False}  # whatever an earlier process has seen
    await run.remember(held_off=True, held_off_since=run.tools.now(), power_open=0.0, **fresh)
    return await _ask_to_stop(run, server, "stop", owed=False)


def _note_power(run: Run, server: Server) -> None:
    """Remember that the server was seen off, or on its way, after we had asked for that; and that it runs again."""
    if run.rotation.held_off and not server.is_active:
        since = run.rotation.went_off_at or run.tools.now()
        run.learn(went_off=True, came_back=False, went_off_at=since)
    elif run.rotation.went_off and not run.rotation.came_back:
        run.learn(came_back=True, off_for=_off_for(run))
    if server.is_stopped and run.rotation.stop_acknowledged and not run.rotation.hard_stop:
        # The stop that was acknowledged has struck, and no other is under way. Of two, one still may be.
        run.learn(stop_acknowledged=False, power_open=None)


def _off_for(run: Run) -> float:
    """Seconds that the server was off, with those in which no process was there to count them."""
    rotation = run.rotation
    if rotation.went_off_at is None:
        return rotation.off_for
    return max(rotation.off_for, (run.tools.now() - rotation.went_off_at).total_seconds())


async def _ask_to_stop(run: Run, server: Server, action: str, *, owed: bool) -> Outcome:
    """`owed`: an earlier request may have stopped the server, or may yet, whatever becomes of this one."""
    try:
        await run.tools.cloud.power(server, action, guard=run.guard)
    except Unclear:
        run.learn(power_open=0.0)
        raise
    except CloudError:
        if not owed:
            run.learn(held_off=False, held_off_since=None, power_open=None)  # nothing was carried out
        raise
    run.learn(stop_acknowledged=True)
    return Waiting("the server has been asked to stop")


async def _stop_timed_out(run: Run, server: Server) -> Outcome:
    rotation = run.rotation
    words = f"the server is still {server.status} after {rotation.policy.stop_timeout}"
    if rotation.policy.on_stop_timeout is OnStopTimeout.HARD_STOP and not rotation.hard_stop:
        await run.remember(
            held_off=True,
            held_off_since=rotation.held_off_since or run.tools.now(),
            hard_stop=True,
            power_open=0.0,
            trail=(*rotation.trail, Passed(step=Step.STOP, seconds=round(rotation.waited, 3))),
            waited=0.0,
        )
        owed = rotation.stop_acknowledged or rotation.power_is_unsettled
        try:
            return await _ask_to_stop(run, server, "hard_stop", owed=owed)
        except Unclear:
            raise
        except CloudError:
            run.learn(hard_stop=False, trail=rotation.trail, waited=rotation.waited)  # not carried out: ask again
            raise
    if rotation.held_off:
        run.learn(power_open=0.0, stop_timed_out=True)  # it may still go off after we have turned away: watch it
    if rotation.policy.on_stop_timeout is OnStopTimeout.SNAPSHOT_ANYWAY:
        log.warning("taking the snapshot of a server that did not stop", status=server.status)
        run.learn(running_allowed=True)
        return Done()
    return Failed(words)


async def snapshot(run: Run) -> Outcome:
    """Ask for the snapshot, once. While the fate of a request is open, look for its snapshot and send no other."""
    rotation = run.rotation
    snapshots = await run.snapshots()
    mine = _mine(rotation, snapshots)
    if mine is not None:
        run.learn(snapshot_id=mine.id, create_open=None, unseen=0.0)
        return Done()
    if rotation.create_is_unsettled:
        return Waiting("the answer to the request for the snapshot was lost: looking for it")
    if rotation.creates >= MAX_CREATES:
        return Failed(f"asked {rotation.creates} times for the snapshot, no answer and no snapshot")
    if len(snapshots) >= rotation.limit:
        return Failed(_full(rotation, snapshots, run.tools.now()))
    server = await run.server()
    return _unfit(rotation, server) or await _create(run, server)


async def _create(run: Run, server: Server) -> Outcome:
    rotation = run.rotation
    await run.remember(create_open=0.0, creates=rotation.creates + 1)
    try:
        made = await run.tools.cloud.create_snapshot(
            server, rotation.snapshot_name, rotation.description, guard=run.guard
        )
    except Unclear:
        run.learn(create_open=0.0)
        raise
    except Temporary:
        run.learn(create_open=None, creates=rotation.creates)  # certainly not carried out
        raise
    except Permanent as refusal:
        run.learn(create_open=None)
        return await _refused(run, refusal)
    run.learn(snapshot_id=made.id, create_open=None, unseen=0.0)
    return Done()


async def _refused(run: Run, refusal: Permanent) -> Outcome:
    """One status, 400, stands for bad parameters and for a full server: look which it was. Never ask again."""
    rotation = run.rotation
    if refusal.status != 400:
        return Failed(str(refusal))
    try:
        snapshots = await run.snapshots()
    except CloudError:
        return Failed(str(refusal))
    mine = _mine(rotation, snapshots)
    if mine is not None:
        run.learn(snapshot_id=mine.id, unseen=0.0)
        return Done()
    if len(snapshots) >= rotation.limit:
        return Failed(_full(rotation, snapshots, run.tools.now()))
    return Failed(str(refusal))


def _unfit(rotation: Rotation, server: Server) -> Outcome | None:
    """Why the server cannot be snapshotted as it is, or None."""
    if server.is_untouchable:
        return Failed(f"the server is {server.status}")
    if not rotation.policy.stop_first or rotation.running_allowed or server.is_stopped:
        return None
    if server.is_active:
        return Failed("somebody has started the server while it was to be off: no snapshot was taken")
    return Waiting(f"the server is {server.status}")


async def wait(run: Run) -> Outcome:
    """Watch the snapshot until it is completed. Any other end is a failure."""
    mine = _mine(run.rotation, await run.snapshots())
    rotation = run.rotation
    if mine is None:
        if rotation.unseen > 2 * rotation.settle:
            return Failed(f"{rotation.snapshot_name} has vanished")
        return Waiting("the snapshot is not listed")
    run.learn(unseen=0.0, snapshot_id=mine.id)
    if mine.is_completed:
        return Done()
    if mine.state is not SnapshotState.IN_PROGRESS:
        return Failed(f"{rotation.snapshot_name} ended as `{mine.status}`")
    return Waiting("the snapshot is in progress")


async def start(run: Run) -> Outcome:
    """Start the server if, and only if, we stopped it; see it active; and stay while a lost stop may yet strike."""
    rotation = run.rotation
    if not rotation.held_off:
        return Done()
    try:
        server = await run.server()
    except NotFound as error:
        return _is_gone(run, error)
    _note_power(run, server)
    if server.is_active:
        return _is_back(run)
    if server.is_untouchable:
        return Waiting(f"the server is {server.status}: it will be started when that is over")
    # A server that hangs between two states for all of `start_timeout` is asked again too.
    if not server.is_stopped and not start_is_overdue(rotation):
        return Waiting(f"the server is {server.status}")
    if rotation.starts and rotation.start_age < _start_backoff(rotation, run.tools.poll_interval):
        return Waiting(f"the server has been asked to start and is {server.status}")
    return await _ask_to_start(run, server)


def start_is_overdue(rotation: Rotation) -> bool:
    """It has stood at its start for longer than `start_timeout`.

    Not so where a process that is about to end starts a server ahead of its turn: the age is that of another step.
    """
    return rotation.step is Step.START and rotation.waited > rotation.policy.start_timeout.total_seconds()


def _is_gone(run: Run, error: NotFound) -> Outcome:
    """A server is only believed to be gone when the provider has said so for all of `start_timeout`."""
    if not start_is_overdue(run.rotation):
        return Waiting(f"the server that is to be started is not found: {error}")
    run.learn(held_off=False)
    return Failed(f"the server that was to be started is gone: {error}")


def _is_back(run: Run) -> Outcome:
    rotation = run.rotation
    if rotation.power_is_unsettled:
        return Waiting("the server is active; the answer to a power request was lost, so it is watched a while longer")
    run.learn(held_off=False, stop_acknowledged=False, power_open=None)
    if rotation.went_off:
        run.tools.observer.back_on(rotation, rotation.off_for)
    return Done()


async def _ask_to_start(run: Run, server: Server) -> Outcome:
    rotation = run.rotation
    if rotation.starts:
        run.tools.observer.start_failed(rotation)
        log.error("the server has not started; asking again", status=server.status, attempt=rotation.starts + 1)
    still_open = rotation.power_open
    await run.remember_if_possible(starts=rotation.starts + 1, start_age=0.0, power_open=0.0)
    try:
        await run.tools.cloud.power(server, "start", guard=run.guard)
    except Unclear:
        run.learn(power_open=0.0)
        raise
    except CloudError:
        run.learn(power_open=still_open)
        raise
    run.learn(power_open=still_open)
    return Waiting("the server has been asked to start")


def _start_backoff(rotation: Rotation, poll_interval: float) -> float:
    return min(poll_interval * 2.0 ** min(rotation.starts, 30), START_BACKOFF_CAP)


async def prune(run: Run) -> Outcome:
    """Delete what retention no longer keeps, one at a time, oldest first, looking before each."""
    rotation = run.rotation
    snapshots = await run.snapshots()
    mine = _mine(rotation, snapshots)
    if mine is None or not mine.is_completed:
        return Waiting("the list does not show the new snapshot as completed: nothing is deleted on such a list")
    plan = retention.plan_retention(
        snapshots, rotation.policy, instance=rotation.instance, limit=rotation.limit, now=run.tools.now()
    )
    due = [decision for decision in reversed(plan.decisions) if decision.delete]
    # The new one stays, whatever dates the others bear: what was just taken is what this rotation is for.
    due = [decision for decision in due if decision.snapshot.id not in (*rotation.deleted, mine.id)]
    untried = [decision for decision in due if decision.snapshot.id not in rotation.undeletable]
    if untried:
        server = await run.server()
        if server.is_untouchable:  # perhaps from one of the very snapshots that are due
            return Waiting(f"the server is {server.status}: nothing is deleted meanwhile")
        error = await run.delete(untried[0].snapshot, untried[0].reason)
        if error:
            run.learn(error=error, failed_step=Step.PRUNE)
        return Waiting("deleting what is no longer kept", soon=True)
    return Done()


STEPS: Mapping[Step, Callable[[Run], Awaitable[Outcome]]] = {
    Step.LOOK: look,
    Step.MAKE_ROOM: make_room,
    Step.STOP: stop,
    Step.SNAPSHOT: snapshot,
    Step.WAIT: wait,
    Step.START: start,
    Step.PRUNE: prune,
}


def _mine(rotation: Rotation, snapshots: tuple[Snapshot, ...]) -> Snapshot | None:
    """This slot's snapshot: by its name, which is ours alone."""
    return next((one for one in snapshots if one.name == rotation.snapshot_name), None)


def _wait_for_others(run: Run, snapshots: tuple[Snapshot, ...]) -> Outcome | None:
    """Wait while another snapshot of the server is in progress, but not for one that is stuck."""
    rotation = run.rotation
    timeout = rotation.policy.snapshot_timeout
    for other in snapshots:
        stuck = other.created_at is not None and run.tools.now() - other.created_at > timeout
        if other.state is SnapshotState.IN_PROGRESS and not stuck and rotation.waited <= timeout.total_seconds():
            return Waiting(f"{other.name} is in progress")
    return None


def _full(rotation: Rotation, snapshots: tuple[Snapshot, ...], now: datetime) -> str:
    room = retention.make_room(snapshots, rotation.policy, instance=rotation.instance, limit=rotation.limit, now=now)
    return room.blocked or f"blocked: {len(snapshots)} of {rotation.limit} snapshots: the last free slot was taken"


# -- without a ledger ----------------------------------------------------------------------------------------


async def start_server(tools: Tools, rotation: Rotation) -> None:
    """See a server that is held off started, where no record of it can be written. A start too many does no harm."""
    clock = asyncio.get_running_loop().time
    believe_gone_at = clock() + rotation.policy.start_timeout.total_seconds()
    while True:
        try:
            server = await tools.cloud.server(rotation.server_id)
            if server.is_active:
                return
            if server.is_stopped:
                await tools.cloud.power(server, "start", guard=lambda: None)
        except CloudError as error:
            log.error("the server that is held off cannot be started yet", server=rotation.label, error=str(error))
            if isinstance(error, NotFound) and clock() > believe_gone_at:
                return
        await asyncio.sleep(tools.poll_interval)
