"""What each step of a rotation does, but for the two that switch the server (`switching`).

Every step looks before it acts, so that any step may be visited twice, by this process or by the next one. "It is
so already" is success. What a request must not outrun is on disk before the request goes out: the promise to start
a server again, and the intent to create a snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog

from snaprotd.core import creation
from snaprotd.core.errors import Busy, CloudError, Full, Permanent, Temporary, Unclear
from snaprotd.core.model import Server, Snapshot, SnapshotState
from snaprotd.core.policy import WhenFull
from snaprotd.core.retention import Decision, plan_retention
from snaprotd.core.room import Room, lower_limit_words, recalled, why_refused_again
from snaprotd.core.room import make_room as room_on
from snaprotd.core.rotation import (
    MAX_CREATES,
    Done,
    Failed,
    Outcome,
    Rotation,
    Step,
    Waiting,
)
from snaprotd.engine.run import Run
from snaprotd.engine.switching import start, stop

LOOK_AGAIN = 45.0
"""Seconds between two looks at a server that is held off while its snapshot is taken: one a minute, at the polls."""

REMEMBERED = 100
"""Earlier rotations of a server that are asked whether the provider refuses its snapshots."""

log = structlog.get_logger("snaprotd.rotation")


async def look(run: Run) -> Outcome:
    """Is there anything to do, and may the server be touched at all?"""
    snapshots = await run.snapshots()
    rotation = run.rotation
    mine = _mine(rotation, snapshots)
    if mine is not None:
        run.update_creation(creation.seen, mine.id)
        return await _recall(run, snapshots)
    server = await run.server()
    if why := await run.stops_itself():
        return Failed(why)
    if server.is_untouchable:
        return Failed(f"the server is {server.status}: it was not touched")
    if not (server.is_active or server.is_stopped):
        return Waiting(f"the server is {server.status}")
    if waiting := _wait_for_others(run, snapshots):
        return waiting
    if rotation.policy.stop_first and (why := await _refused_before(run, len(snapshots))):
        return Failed(why)
    return await _recall(run, snapshots)


async def _refused_before(run: Run, held: int) -> str:
    """Why the server would be stopped and started for nothing; empty where that is not known."""
    earlier = await run.tools.ledger.history(run.rotation.server_id, limit=REMEMBERED)
    others = [one for one in earlier if one.id != run.rotation.id]
    return why_refused_again(run.rotation, others, held, run.tools.now())


async def _recall(run: Run, snapshots: tuple[Snapshot, ...]) -> Outcome:
    """What earlier rotations have deleted, or tried to, and is there still."""
    names = {one.id: one.name for one in snapshots}
    earlier = await run.tools.ledger.told_of(run.rotation.server_id, list(names))
    others = [one for one in earlier if one.id != run.rotation.id]
    rotation = run.update(partial(recalled, earlier=others, listed=list(names), now=run.tools.now()))
    for ghost in rotation.ghosts:
        log.error("listed still, though its deletion was answered as done", snapshot=names[ghost], snapshot_id=ghost)
    return Done()


async def make_room(run: Run) -> Outcome:
    """Where the server is at the limit, delete as many of ours as it takes, if the policy allows that; else none."""
    rotation = run.rotation
    snapshots = await run.snapshots_to_judge()
    room = _room(rotation, snapshots, run.tools.now())
    if room.free:
        return Done()
    if any(snapshot.id in rotation.deleted for snapshot in snapshots):
        return Waiting("the deleted snapshot is still listed: its slot is not free yet")
    gone = len(rotation.deleted)
    if rotation.to_free and gone >= rotation.to_free:
        number = "one was" if gone == 1 else f"{gone} were"
        return Failed(f"blocked: still {len(snapshots)} of {rotation.rules.limit} snapshots after {number} deleted")
    if room.waits:
        return Waiting(room.waits)
    if not room.deletions:
        return Failed(f"blocked: {rotation.complaint}" if rotation.complaint else room.blocked)
    if not rotation.to_free:
        run.update(lambda rotation: replace(rotation, to_free=len(room.deletions)))
    return await _free_one(run, room.deletions[0], snapshots)


async def _free_one(run: Run, first: Decision, listed: tuple[Snapshot, ...]) -> Outcome:
    last_may_go = run.rotation.policy.when_full is WhenFull.REPLACE_LAST
    error = await run.delete(first.snapshot, first.reason, listed=listed, last_may_go=last_may_go)
    if error and first.snapshot.id not in run.rotation.immovable:
        return Failed(f"blocked: {error}")
    return Waiting(f"{error}: another may give way") if error else Waiting("the slot is being freed", soon=True)


async def stop_another(run: Run) -> Outcome:
    """As `stop`, but never the machine that we run on: the look may be another process's, on another machine."""
    why = await run.stops_itself()
    return Failed(why) if why else await stop(run)


async def snapshot(run: Run) -> Outcome:
    """Ask for the snapshot, once. While the fate of a request is open, look for its snapshot and send no other."""
    rotation = run.rotation
    snapshots = await run.snapshots()
    mine = _mine(rotation, snapshots)
    if mine is not None:
        run.update_creation(creation.made, mine.id)
        return Done()
    if rotation.create_is_unsettled:
        return Waiting("the answer to the request for the snapshot was lost: looking for it")
    creates = rotation.creation.creates
    if creates >= MAX_CREATES:
        return Failed(f"asked {creates} times for the snapshot, no answer and no snapshot")
    if len(snapshots) >= rotation.rules.limit:
        return Failed(_full(rotation, snapshots, run.tools.now()))
    server = await run.server()
    run.look(server)
    return _unfit(run.rotation, server) or await _create(run, server)


async def _create(run: Run, server: Server) -> Outcome:
    rotation = run.rotation
    await run.save_creation(creation.promised)
    try:
        made = await run.tools.cloud.create_snapshot(
            server, rotation.snapshot_name, rotation.description, guard=run.guard
        )
    except Unclear:
        run.update_creation(creation.lost)
        raise
    except Temporary:
        run.update_creation(creation.not_sent)
        raise
    except Full as refusal:
        run.update_creation(creation.refused)
        return await _refused(run, refusal)
    except Permanent:
        run.update_creation(creation.refused)
        raise
    run.update_creation(creation.made, made.id)
    run.update(lambda rotation: replace(rotation, was_in_progress=made.state is SnapshotState.IN_PROGRESS))
    return Done()


async def _refused(run: Run, refusal: Full) -> Outcome:
    """One answer stands for bad parameters and for a full server: look which it was. Never ask again."""
    rotation = run.rotation
    try:
        snapshots = await run.snapshots()
    except CloudError:
        return Failed(str(refusal))
    mine = _mine(rotation, snapshots)
    if mine is not None:
        run.update_creation(creation.made, mine.id)
        return Done()
    held, limit = len(snapshots), rotation.rules.limit
    if held >= limit:
        return Failed(_full(rotation, snapshots, run.tools.now()))
    is_said = refusal.is_said or held >= run.tools.cloud.capabilities.snapshot_limit
    run.update(lambda rotation: replace(rotation, refused_with=held, limit_is_said=is_said))
    return Failed(f"{refusal}; {lower_limit_words(held, limit)}" if is_said and held else str(refusal))


def _unfit(rotation: Rotation, server: Server) -> Outcome | None:
    """Why the server cannot be snapshotted as it is, or None."""
    if server.is_untouchable:
        return Failed(f"the server is {server.status}")
    if not rotation.policy.stop_first or rotation.running_allowed or server.is_stopped:
        return None
    if server.is_active and rotation.power.watched:
        return Failed("somebody has started the server while it was to be off: no snapshot was taken")
    return Waiting(f"the server is {server.status}")


async def wait(run: Run) -> Outcome:
    """Watch the snapshot until it is completed; any other end is a failure. And the server: somebody may start it."""
    await _look_at_server(run)
    mine = _mine(run.rotation, await run.snapshots())
    rotation = run.rotation
    if mine is None:
        if rotation.creation.unseen > 2 * rotation.settle:
            return Failed(f"{rotation.snapshot_name} has vanished")
        return Waiting("the snapshot is not listed")
    run.update_creation(creation.seen, mine.id)
    if mine.is_completed:
        return Done()
    if mine.state is SnapshotState.IN_PROGRESS:
        run.update(lambda rotation: replace(rotation, was_in_progress=True))
        return Waiting("the snapshot is in progress")
    if mine.state is SnapshotState.UNKNOWN and mine.status and not rotation.was_in_progress:
        return Waiting(f"the snapshot is `{mine.status}`")
    return Failed(f"{rotation.snapshot_name} ended as `{mine.status}`")


async def _look_at_server(run: Run) -> None:
    """See, once a minute, whether the server that is held off still is: a person may have started it."""
    power = run.rotation.power
    if power.is_payable and (power.running_for is not None or run.looked_ago >= LOOK_AGAIN):
        try:
            run.look(await run.server())
        except CloudError as error:
            log.warning("the server that is held off cannot be looked at", error=str(error))


async def prune(run: Run) -> Outcome:
    """Delete what retention no longer keeps, one at a time, oldest first, looking before each."""
    rotation = run.rotation
    snapshots = await run.snapshots_to_judge()
    mine = _mine(rotation, snapshots)
    if mine is None or not mine.is_completed:
        return Waiting("the list does not show the new snapshot as completed: nothing is deleted on such a list")
    untried = _to_prune(rotation, mine, snapshots, run.tools.now())
    if not untried:
        return _complain(run, snapshots)
    server = await run.server()
    if server.is_untouchable:  # perhaps from one of the very snapshots that are due
        return Waiting(f"the server is {server.status}: nothing is deleted meanwhile")
    return await _delete_first(run, untried, snapshots)


async def _delete_first(run: Run, due: list[Decision], listed: tuple[Snapshot, ...]) -> Outcome:
    """Delete the first that can be. One that is busy holds up no other: its refusal has changed nothing in the list."""
    busy = []
    for decision in due:
        try:
            error = await run.delete(decision.snapshot, decision.reason, listed=listed)
        except Busy as refusal:
            busy.append(refusal)
            continue
        return Waiting(error or "deleting what is no longer kept", soon=True)
    raise busy[0]


def _complain(run: Run, snapshots: tuple[Snapshot, ...]) -> Outcome:
    """Tell what is there still, though it was deleted by an earlier rotation, or tried a moment ago and not again."""
    rotation = run.rotation
    left = [one.name for one in snapshots if one.id in (*rotation.ghosts, *rotation.immovable)]
    if left and not rotation.complaint:
        words = f"listed still, though an earlier rotation has deleted it or tried to: {', '.join(left)}"
        run.update(lambda rotation: replace(rotation, complaint=words))
    return Done()


def _to_prune(rotation: Rotation, mine: Snapshot, snapshots: tuple[Snapshot, ...], now: datetime) -> list[Decision]:
    """What is still to go, oldest first.

    The new one stays, whatever dates the others bear: what was just taken is what this rotation is for.
    """
    plan = plan_retention(snapshots, rotation.rules, now=now, immovable=rotation.immovable)
    spared = {*rotation.deleted, *rotation.undeletable, *rotation.immovable, mine.id}
    due = [one for one in reversed(plan.decisions) if one.delete and one.snapshot.id not in spared]
    return [one for one in due if not (rotation.one_failed_went and one.snapshot.state is SnapshotState.FAILED)]


ACTIONS: Mapping[Step, Callable[[Run], Awaitable[Outcome]]] = {
    Step.LOOK: look,
    Step.MAKE_ROOM: make_room,
    Step.STOP: stop_another,
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


def _room(rotation: Rotation, snapshots: tuple[Snapshot, ...], now: datetime) -> Room:
    gone, rules = rotation.one_failed_went, rotation.rules
    return room_on(snapshots, rules, now=now, immovable=rotation.immovable, one_failed_went=gone)


def _full(rotation: Rotation, snapshots: tuple[Snapshot, ...], now: datetime) -> str:
    room, limit = _room(rotation, snapshots, now), rotation.rules.limit
    return room.blocked or f"blocked: {len(snapshots)} of {limit} snapshots: the last free slot was taken"
