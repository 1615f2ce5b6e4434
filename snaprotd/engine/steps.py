"""What each step of a rotation does, but for the two that switch the server (`switching`).

Every step looks before it acts, so that any step may be visited twice, by this process or by the next one. "It is
so already" is success. What a request must not outrun is on disk before the request goes out: the promise to start
a server again, and the intent to create a snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial

import structlog

from snaprotd.core import creation
from snaprotd.core.errors import Accepted, Busy, CloudError, Full, Permanent, Temporary, Unclear
from snaprotd.core.model import Owner, Server, Snapshot, SnapshotState, is_named
from snaprotd.core.ownership import owner_of
from snaprotd.core.policy import WhenFull
from snaprotd.core.retention import Decision, plan_retention
from snaprotd.core.room import make_room as room_on
from snaprotd.core.rotation import (
    MAX_CREATES,
    Done,
    Failed,
    Outcome,
    Rotation,
    Step,
    Waiting,
    prune_failed,
)
from snaprotd.core.words import STRANGER
from snaprotd.engine.run import Run
from snaprotd.engine.switching import start, stop

LOOK_AGAIN = 45.0
"""Seconds between two looks at a server that is held off while its snapshot is taken: one a minute, at the polls."""

log = structlog.get_logger("snaprotd.rotation")


async def look(run: Run) -> Outcome:
    """Is there anything to do, and may the server be touched at all?"""
    snapshots = await run.snapshots_to_judge()
    mine = _mine(run.rotation, snapshots)
    if mine is not None:
        run.update_creation(creation.seen, mine.id)
        return Done()
    for other in _others_of_that_name(run.rotation, snapshots):
        log.error(f"passed over: a snapshot {STRANGER}", snapshot=other.name, snapshot_id=other.id)
    server = await run.server()
    if why := await run.stops_itself():
        return Failed(why)
    if server.is_untouchable:
        return Failed(f"the server is {server.status}: it was not touched")
    if not (server.is_active or server.is_stopped):
        return Waiting(f"the server is {server.status}")
    return _wait_for_others(run, snapshots) or Done()


async def make_room(run: Run) -> Outcome:
    """Where the server is at the limit, delete one snapshot of ours if the policy allows it."""
    rotation = run.rotation
    snapshots = await run.snapshots_to_judge()
    room = room_on(snapshots, rotation.rules, now=run.tools.now())
    if room.free:
        return Done()
    if any(snapshot.id in rotation.deleted for snapshot in snapshots):
        return Waiting("the deleted snapshot is still listed: its slot is not free yet")
    if rotation.deleted:
        return Failed(f"blocked: still {len(snapshots)} of {rotation.rules.limit} snapshots after one was deleted")
    if room.delete is None:
        return Failed(room.blocked or "blocked: no free slot")
    last_may_go = rotation.policy.when_full is WhenFull.REPLACE_LAST
    error = await run.delete(room.delete, room.reason, listed=snapshots, last_may_go=last_may_go)
    return Failed(f"blocked: {error}") if error else Waiting("the slot is being freed", soon=True)


async def stop_another(run: Run) -> Outcome:
    """As `stop`, but never the machine that we run on: the look may be another process's, on another machine."""
    why = await run.stops_itself()
    return Failed(why) if why else await stop(run)


async def snapshot(run: Run) -> Outcome:
    """Ask for the snapshot, once. While the fate of a request is open, look for its snapshot and send no other."""
    rotation = run.rotation
    # What was asked for is known without the ledger, which may be unusable by now.
    snapshots = await (run.snapshots() if rotation.creation.was_asked else run.snapshots_to_judge())
    mine = _mine(rotation, snapshots)
    if mine is not None:
        run.update_creation(creation.made, mine.id)
        return Done()
    if (why := _why_not_asked(rotation, snapshots)) is not None:
        return why
    if len(snapshots) >= rotation.rules.limit:
        return Failed(_full(rotation, snapshots, run.tools.now()))
    server = await run.server()
    run.look(server)
    return _unfit(run.rotation, server) or await _create(run, server, snapshots)


def _why_not_asked(rotation: Rotation, snapshots: tuple[Snapshot, ...]) -> Outcome | None:
    """Why no request for the snapshot may go out, or None."""
    made = rotation.creation
    if rotation.create_is_unsettled:
        return Waiting("the answer to the request for the snapshot was lost: looking for it")
    if made.accepted:
        return Waiting("the provider has said that it takes the snapshot: looking for it")
    if made.is_hidden(len(snapshots)):
        return Waiting("the list has lost all snapshots since this one was asked for: it is not believed yet")
    if made.creates >= MAX_CREATES:
        return Failed(f"asked {made.creates} times for the snapshot, no answer and no snapshot")
    return None


async def _create(run: Run, server: Server, listed: tuple[Snapshot, ...]) -> Outcome:
    rotation = run.rotation
    others = tuple(one.id for one in _others_of_that_name(rotation, listed))
    await run.save_creation(creation.promised, had_others=bool(listed), passed_over=others)
    try:
        made = await run.tools.cloud.create_snapshot(
            server, rotation.snapshot_name, rotation.description, guard=run.guard, urgent=run.is_urgent
        )
    except Accepted:
        run.update_creation(creation.accepted)
        raise
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
    if made.id in {one.id for one in listed}:
        run.update_creation(creation.accepted)
        return Waiting(f"the answer to the request for the snapshot has the id of another one, {made.id}")
    run.update_creation(creation.made, made.id)
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
    if len(snapshots) >= rotation.rules.limit:
        return Failed(_full(rotation, snapshots, run.tools.now()))
    return Failed(str(refusal))


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
    if mine.state is not SnapshotState.IN_PROGRESS:
        return Failed(f"{rotation.snapshot_name} ended as `{mine.status}`")
    return Waiting("the snapshot is in progress")


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
        return Done()
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
        if error:
            run.update(partial(prune_failed, error=error))
        return Waiting("deleting what is no longer kept", soon=True)
    raise busy[0]


def _to_prune(rotation: Rotation, mine: Snapshot, snapshots: tuple[Snapshot, ...], now: datetime) -> list[Decision]:
    """What is still to go, oldest first.

    The new one stays, whatever dates the others bear: what was just taken is what this rotation is for.
    """
    plan = plan_retention(snapshots, rotation.rules, now=now)
    spared = {*rotation.deleted, *rotation.undeletable, mine.id}
    return [decision for decision in reversed(plan.decisions) if decision.delete and decision.snapshot.id not in spared]


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
    """This slot's snapshot: the one whose id the provider has given, whatever its name.

    By its name where no id is known, or where the list has not shown that id for `settle` seconds.
    """
    made = rotation.creation
    by_id = next((one for one in snapshots if made.snapshot_id in (one.id, *one.also)), None)
    if by_id is not None or (made.snapshot_id is not None and made.unseen <= rotation.settle):
        return by_id
    return next((one for one in snapshots if _may_be_mine(rotation, one)), None)


def _may_be_mine(rotation: Rotation, one: Snapshot) -> bool:
    """Whether one that bears the slot's name was taken for it: after its request, else as far as it is ours at all."""
    if not is_named(one, rotation.snapshot_name):
        return False
    if rotation.creation.was_asked:
        return one.id not in rotation.creation.passed_over
    return owner_of(one, instance=rotation.rules.instance, adopt=()) is Owner.MANAGED


def _others_of_that_name(rotation: Rotation, snapshots: tuple[Snapshot, ...]) -> list[Snapshot]:
    return [one for one in snapshots if is_named(one, rotation.snapshot_name) and not _may_be_mine(rotation, one)]


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
    room, limit = room_on(snapshots, rotation.rules, now=now), rotation.rules.limit
    return room.blocked or f"blocked: {len(snapshots)} of {limit} snapshots: the last free slot was taken"
