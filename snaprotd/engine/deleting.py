"""The two steps that delete snapshots: before the new one is taken, where the server is full, and after it.

Each looks before it deletes, deletes one, and looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from snaprotd.core.asking.evidence import Use
from snaprotd.core.errors import Busy, CalledOff, CloudError, Permanent, Refused
from snaprotd.core.model import Server, Snapshot, SnapshotState
from snaprotd.core.ownership import taken_for
from snaprotd.core.policy import WhenFull
from snaprotd.core.retention import Decision, ForbiddenDeletion, plan_retention, refuse_deletion
from snaprotd.core.room import Room, deletion_failed
from snaprotd.core.room import make_room as room_on
from snaprotd.core.rotation import Done, Failed, Outcome, Rotation, Step, Waiting
from snaprotd.core.telling.entries import Deletion
from snaprotd.engine.run import Run
from snaprotd.engine.switching import untouchable

BUSY_FOR = 300.0
"""Seconds at a step after which a snapshot that is locked is passed over for this rotation."""

PRUNED_WITHIN = timedelta(hours=6)
"""Of the provider's date of the new snapshot: a prune later than that takes it to be no later."""

log = structlog.get_logger("snaprotd.rotation")


async def make_room(run: Run) -> Outcome:
    """Where the server is at the limit, delete as many of ours as it takes, if the policy allows that; else none."""
    rotation = run.rotation
    snapshots = await run.looks.snapshots_to_judge()
    room = _room(rotation, snapshots, run.tools.now())
    if room.free:
        return Done()
    if any(snapshot.is_among(rotation.deleted) for snapshot in snapshots):
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
    server = await _its_server(run)
    return untouchable(server) if server.is_untouchable else await _free_one(run, room.deletions[0], snapshots)


async def _free_one(run: Run, first: Decision, listed: tuple[Snapshot, ...]) -> Outcome:
    last_may_go = run.rotation.policy.when_full is WhenFull.REPLACE_LAST
    error = await _delete(run, first, listed, last_may_go=last_may_go)
    if error and not first.snapshot.is_among(run.rotation.immovable):
        return Failed(f"blocked: {error}")
    return Waiting(f"{error}: another may give way") if error else Waiting("the slot is being freed", soon=True)


async def prune(run: Run) -> Outcome:
    """Delete what retention no longer keeps, one at a time, oldest first, looking before each."""
    rotation = run.rotation
    snapshots = await run.looks.snapshots_to_judge()
    mine = taken_for(rotation, snapshots)
    if mine is None or not mine.is_completed:
        return Waiting("the list does not show the new snapshot as completed: nothing is deleted on such a list")
    untried = _to_prune(rotation, mine, snapshots, run.tools.now())
    if not untried:
        return _complain(run, snapshots)
    server = await _its_server(run)
    if server.is_untouchable:
        return Waiting(f"the server is {server.status}: nothing is deleted meanwhile")
    return await _delete_first(run, untried, snapshots) or _complain(run, snapshots)


async def _delete_first(run: Run, due: list[Decision], listed: tuple[Snapshot, ...]) -> Outcome | None:
    """Delete the first that can be; None where that was all. What else is due is decided by another look.

    One that is busy holds up no other: its refusal has changed nothing in the list.
    """
    busy = []
    for decision in due:
        try:
            error = await _delete(run, decision, listed)
        except Busy as refusal:
            busy.append(refusal)
            continue
        is_all = not error and len(due) == 1
        return None if is_all else Waiting(error or "deleting what is no longer kept", soon=True)
    raise busy[0]


def _complain(run: Run, snapshots: tuple[Snapshot, ...]) -> Outcome:
    """Tell what is there still, though it was deleted by an earlier rotation, or tried a moment ago and not again."""
    rotation = run.rotation
    left = [one.name for one in snapshots if one.is_among((*rotation.ghosts, *rotation.immovable))]
    if left and not rotation.complaint:
        words = f"listed still, though an earlier rotation has deleted it or tried to: {', '.join(left)}"
        run.update(lambda rotation: replace(rotation, complaint=words))
    return Done()


def _to_prune(rotation: Rotation, mine: Snapshot, snapshots: tuple[Snapshot, ...], now: datetime) -> list[Decision]:
    """What is still to go, oldest first.

    The new one stays, whatever dates the others bear: what was just taken is what this rotation is for.
    """
    plan = plan_retention(snapshots, rotation.rules, now=_soonest(mine, now), immovable=rotation.immovable)
    spared = {*rotation.deleted, *rotation.undeletable, *rotation.immovable, mine.id}
    due = [one for one in reversed(plan.decisions) if one.delete and not one.snapshot.is_among(spared)]
    return [one for one in due if not (rotation.one_failed_went and one.snapshot.state is SnapshotState.FAILED)]


def _soonest(mine: Snapshot, now: datetime) -> datetime:
    """The time by which holds are over, for certain: our clock may be ahead, and what was just taken bears a date."""
    return now if mine.created_at is None else min(now, mine.created_at + PRUNED_WITHIN)


def _room(rotation: Rotation, snapshots: tuple[Snapshot, ...], now: datetime) -> Room:
    gone, rules = rotation.one_failed_went, rotation.rules
    return room_on(snapshots, rules, now=now, immovable=rotation.immovable, one_failed_went=gone)


def why_full(rotation: Rotation, snapshots: tuple[Snapshot, ...], now: datetime) -> str:
    """Who holds the slots of a server that was found to be full when its snapshot was due."""
    room, limit = _room(rotation, snapshots, now), rotation.rules.limit
    return room.blocked or f"blocked: {len(snapshots)} of {limit} snapshots: the last free slot was taken"


# -- one deletion ------------------------------------------------------------------------------------------------------


async def _its_server(run: Run) -> Server:
    """The server, which may be being restored, perhaps from one of the very snapshots that are due.

    Raises `Outdated` where another look at the list is needed first.
    """
    run.looks.demand(Use.DELETE, by_server=False, is_to_queue=True)
    return await run.looks.server(use=Use.DELETE)


async def _delete(run: Run, decision: Decision, listed: Sequence[Snapshot], *, last_may_go: bool = False) -> str | None:
    """Delete one snapshot of those `listed` by the look just made; the error in words if that failed.

    Raises `Busy` or `CalledOff` where it may be asked again, `HeldSince` where a person holds it since that look, and
    `ForbiddenDeletion` for one that must stay, whoever has decided that it goes. One that is busy for `BUSY_FOR`
    seconds is not asked for again.
    """
    snapshot, tools = decision.snapshot, run.tools
    try:
        refuse_deletion(snapshot.id, listed, run.rotation.rules, now=tools.now(), last_may_go=last_may_go)
    except ForbiddenDeletion:
        tools.observer.deleted(run.rotation, success=False)
        raise
    run.looks.demand(Use.DELETE, is_to_queue=True)
    deletion = Deletion(snapshot=snapshot, reason=decision.reason, listed=listed)
    await run.save(lambda rotation: replace(rotation, deleting=snapshot.ids), deletion=deletion)
    log.info("deleting a snapshot", snapshot=snapshot.name, snapshot_id=snapshot.id, reason=decision.reason)
    door = partial(run.looks.demand, Use.DELETE)
    try:
        await run.ask(tools.cloud.delete_snapshot(snapshot.id, guard=run.guard, before=door))
    except CloudError as error:
        if isinstance(error, CalledOff) or (isinstance(error, Busy) and run.rotation.waited < BUSY_FOR):
            run.update(lambda rotation: replace(rotation, deleting=()))  # nothing was carried out
            raise
        return _not_deleted(run, snapshot, f"could not delete {snapshot.name}: {error}", error)
    if snapshot.is_among(run.rotation.ghosts):
        return _not_deleted(run, snapshot, f"{snapshot.name} is listed still, though it was deleted before")
    tools.observer.deleted(run.rotation, success=True)
    run.update(lambda rotation: _deleted(rotation, snapshot))
    return None


def _deleted(rotation: Rotation, snapshot: Snapshot) -> Rotation:
    failed = snapshot.state is SnapshotState.FAILED
    return replace(
        rotation,
        deleting=(),
        deleted=(*rotation.deleted, snapshot.id),
        one_failed_went=rotation.one_failed_went or failed,
    )


def _not_deleted(run: Run, snapshot: Snapshot, why: str, error: CloudError | None = None) -> str:
    """Note it; answers with `why`.

    Another may give way where it is certain that this one stays: what was refused has changed nothing, and what failed
    in an earlier rotation too is there still. After a first failure it may be gone in a moment.
    """
    rotation = run.rotation
    refused = isinstance(error, Busy | Permanent) and not isinstance(error, Refused)
    lasting = snapshot.is_among(rotation.stubborn) or (refused and rotation.step is Step.MAKE_ROOM)
    run.tools.observer.deleted(rotation, success=False)
    run.update(
        lambda rotation: deletion_failed(
            rotation, snapshot.id, why, lasting=lasting, cause=error.cause if error else ""
        )
    )
    return why
