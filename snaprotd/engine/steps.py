"""What each step of a rotation does, but for those that switch the server (`switching`) or delete (`deleting`).

Every step looks before it acts, so that any step may be visited twice, by this process or by the next one. "It is
so already" is success. What a request must not outrun is on disk before the request goes out: the promise to start
a server again, and the intent to create a snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

import structlog

from snaprotd.core import creation
from snaprotd.core.asking.evidence import Use
from snaprotd.core.errors import OWN_SERVER, Accepted, CloudError, Full, Permanent, Temporary, Unclear
from snaprotd.core.holds import length_in_doubt
from snaprotd.core.model import Server, Snapshot, SnapshotState
from snaprotd.core.ownership import others_of_that_name, taken_for
from snaprotd.core.room import lower_limit_words, recalled, why_refused_again
from snaprotd.core.rotation import (
    MAX_CREATES,
    Done,
    Failed,
    Outcome,
    Rotation,
    Step,
    Waiting,
)
from snaprotd.core.words import STRANGER
from snaprotd.engine.deleting import make_room, prune, why_full
from snaprotd.engine.run import Run
from snaprotd.engine.switching import start, stop, untouchable
from snaprotd.provider import Priority

LOOK_AGAIN = 45.0
"""Seconds between two looks at a server that is held off while its snapshot is taken: one a minute, at the polls."""

REMEMBERED = 100
"""Earlier rotations of a server that are asked whether the provider refuses its snapshots."""

log = structlog.get_logger("snaprotd.rotation")


async def look(run: Run) -> Outcome:
    """Is there anything to do, and may the server be touched at all?"""
    snapshots = await run.looks.snapshots_to_judge()
    if await run.is_restored_by_hand():
        return Failed("the server is being restored, by `snaprotd restore`: it was not touched", may_pass=True)
    if run.rotation.attempt > 1 and (left := _left_by_an_earlier_attempt(run, snapshots)) is not None:
        return left
    rotation = run.rotation
    mine = taken_for(rotation, snapshots)
    if mine is not None:
        run.update_creation(creation.seen, mine)
        return await _recall(run, snapshots)
    _tell_strangers(rotation, snapshots)
    server = await run.looks.server()
    if why := await run.stops_itself():
        return Failed(why, cause=OWN_SERVER)
    if server.is_untouchable:
        return untouchable(server, ": it was not touched")
    if not (server.is_active or server.is_stopped):
        return Waiting(f"the server is {server.status}")
    if waiting := _wait_for_others(run, snapshots):
        return waiting
    if rotation.policy.stop_first and (why := await _refused_before(run, len(snapshots))):
        return Failed(why)
    return await _recall(run, snapshots)


def _tell_strangers(rotation: Rotation, snapshots: tuple[Snapshot, ...]) -> None:
    for other in others_of_that_name(rotation, snapshots):
        if not other.is_among(rotation.creation.failed):
            log.error(f"passed over: a snapshot {STRANGER}", snapshot=other.name, snapshot_id=other.id)


def _left_by_an_earlier_attempt(run: Run, snapshots: tuple[Snapshot, ...]) -> Outcome | None:
    """What keeps this attempt from asking for another snapshot: the slot has one, or may yet have; None where nothing.

    One that has failed is passed by when two attempts have seen it so, or lists for as long as it takes to be deleted.
    """
    rotation = run.rotation
    mine, made = taken_for(rotation, snapshots), rotation.creation
    if mine is None:
        return _vanished(rotation) if made.snapshot_id is not None else _why_not_asked(rotation, snapshots)
    if mine.is_completed:
        return None
    is_certain = mine.is_failed_for_good or (mine.is_among(made.failed) and not mine.has_turned)
    if mine.state is SnapshotState.FAILED and is_certain:
        run.update_creation(creation.passed_by, mine)
        log.error("an earlier attempt's snapshot has failed: another is asked for", snapshot_id=mine.id)
        return None
    run.update_creation(creation.seen, mine)
    run.update(lambda rotation: replace(rotation, was_in_progress=mine.state is SnapshotState.IN_PROGRESS))
    return Waiting(f"{mine.name}, of an earlier attempt, is `{mine.status}`")


def _vanished(rotation: Rotation) -> Outcome:
    """A snapshot that the list does not show any more: somebody may have deleted it, so it is not taken again."""
    if rotation.creation.unseen > 2 * rotation.settle:
        return Failed(f"{rotation.snapshot_name} has vanished")
    return Waiting("the snapshot is not listed")


async def _refused_before(run: Run, held: int) -> str:
    """Why the server would be stopped and started for nothing; empty where that is not known."""
    earlier = await run.tools.ledger.history(run.rotation.server_id, limit=REMEMBERED)
    others = [one for one in earlier if one.id != run.rotation.id]
    return why_refused_again(run.rotation, others, held, run.tools.now())


async def _recall(run: Run, snapshots: tuple[Snapshot, ...]) -> Outcome:
    """What earlier rotations have deleted, or tried to, and is there still."""
    ids = [its_id for one in snapshots for its_id in one.ids]
    earlier = await run.tools.ledger.told_of(run.tools.inventory.ids_of(run.server_id), ids)
    others = [one for one in earlier if one.id != run.rotation.id]
    rotation = run.update(partial(recalled, earlier=others, listed=snapshots, now=run.tools.now()))
    for ghost in (one for one in snapshots if one.is_among(rotation.ghosts)):
        log.error("listed still, though its deletion was answered as done", snapshot=ghost.name, snapshot_id=ghost.id)
    return Done()


async def stop_another(run: Run) -> Outcome:
    """As `stop`, but never the machine that we run on: the look may be another process's, on another machine."""
    why = await run.stops_itself()
    return Failed(why, cause=OWN_SERVER) if why else await stop(run)


async def snapshot(run: Run) -> Outcome:
    """Ask for the snapshot, once. While the fate of a request is open, look for its snapshot and send no other."""
    rotation = run.rotation
    # What was asked for is known without the ledger, which may be unusable by now.
    snapshots = await (run.looks.snapshots() if rotation.creation.was_asked else run.looks.snapshots_to_judge())
    mine = taken_for(rotation, snapshots)
    if mine is not None:
        run.update_creation(creation.made, mine.id)
        return Done()
    if (why := _why_not_asked(rotation, snapshots)) is not None:
        return why
    if len(snapshots) >= rotation.rules.limit:
        return Failed(why_full(rotation, snapshots, run.tools.now()))
    # Whom we have switched off somebody may have switched on since.
    server = await run.looks.server(anew=rotation.policy.stop_first)
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
        return Failed(f"asked {made.creates} times for the snapshot, no answer and no snapshot", may_pass=True)
    return None


async def _create(run: Run, server: Server, listed: tuple[Snapshot, ...]) -> Outcome:
    rotation = run.rotation
    run.looks.demand(Use.SEND, is_to_queue=True)
    others = tuple(its_id for one in others_of_that_name(rotation, listed) for its_id in one.ids)
    await run.save_creation(creation.promised, had_others=bool(listed), passed_over=others)
    guard, priority = run.guard_creation, min(run.priority, Priority.ACTION)
    words = rotation.snapshot_name, rotation.description
    try:
        made = await run.ask(run.tools.cloud.create_snapshot(server, *words, guard=guard, priority=priority))
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
    if any(made.is_among(one.ids) for one in listed):
        run.update_creation(creation.accepted)
        return Waiting(f"the answer to the request for the snapshot has the id of another one, {made.id}")
    run.update_creation(creation.made, made.id)
    run.update(lambda rotation: replace(rotation, was_in_progress=made.state is SnapshotState.IN_PROGRESS))
    run.has_just_begun_it = run.rotation.was_in_progress
    return Done()


async def _refused(run: Run, refusal: Full) -> Outcome:
    """One answer stands for bad parameters and for a full server: look which it was. Never ask again."""
    rotation = run.rotation
    try:
        snapshots = await run.looks.snapshots()
    except CloudError:
        return Failed(str(refusal))
    mine = taken_for(rotation, snapshots)
    if mine is not None:
        run.update_creation(creation.made, mine.id)
        return Done()
    held, limit = len(snapshots), rotation.rules.limit
    if held >= limit:
        return Failed(why_full(rotation, snapshots, run.tools.now()))
    is_said = refusal.is_said or held >= run.tools.cloud.capabilities.snapshot_limit
    run.update(lambda rotation: replace(rotation, refused_with=held, limit_is_said=is_said))
    why = f"; {lower_limit_words(held, limit)}" if is_said and held else length_in_doubt(rotation.snapshot_name)
    return Failed(f"{refusal}{why}")


def _unfit(rotation: Rotation, server: Server) -> Outcome | None:
    """Why the server cannot be snapshotted as it is, or None."""
    if server.is_untouchable:
        return untouchable(server)
    if not rotation.policy.stop_first or rotation.running_allowed or server.is_stopped:
        return None
    if server.is_active and rotation.power.watched:
        return Failed("somebody has started the server while it was to be off: no snapshot was taken")
    return Waiting(f"the server is {server.status}")


async def wait(run: Run) -> Outcome:
    """Watch the snapshot until it is completed; any other end is a failure. And the server: somebody may start it."""
    if run.has_just_begun_it:
        run.has_just_begun_it = False
        return Waiting("the snapshot is in progress")
    await _look_at_server(run)
    mine = taken_for(run.rotation, await run.looks.snapshots())
    rotation = run.rotation
    if mine is None:
        return _vanished(rotation)
    run.update_creation(creation.seen, mine, was_watched=rotation.was_in_progress)
    if mine.is_completed:
        return Done()
    if mine.state is SnapshotState.IN_PROGRESS:
        run.update(lambda rotation: replace(rotation, was_in_progress=True))
        return Waiting("the snapshot is in progress")
    if mine.state is SnapshotState.UNKNOWN and mine.status and not rotation.was_in_progress:
        return Waiting(f"the snapshot is `{mine.status}`")
    if mine.state is SnapshotState.FAILED:
        run.update_creation(creation.ended_failed, mine)
    return Failed(f"{rotation.snapshot_name} ended as `{mine.status}`", may_pass=True)


async def _look_at_server(run: Run) -> None:
    """See, once a minute, whether the server that is held off still is: a person may have started it."""
    power = run.rotation.power
    if power.is_payable and (power.running_for is not None or run.looked_ago >= LOOK_AGAIN):
        try:
            run.look(await run.looks.server())
        except CloudError as error:
            log.warning("the server that is held off cannot be looked at", error=str(error))


ACTIONS: Mapping[Step, Callable[[Run], Awaitable[Outcome]]] = {
    Step.LOOK: look,
    Step.MAKE_ROOM: make_room,
    Step.STOP: stop_another,
    Step.SNAPSHOT: snapshot,
    Step.WAIT: wait,
    Step.START: start,
    Step.PRUNE: prune,
}


def _wait_for_others(run: Run, snapshots: tuple[Snapshot, ...]) -> Outcome | None:
    """Wait while another snapshot of the server is in progress, but not for one that is stuck."""
    rotation = run.rotation
    timeout = rotation.policy.snapshot_timeout
    for other in snapshots:
        stuck = other.created_at is not None and run.tools.now() - other.created_at > timeout
        if other.state is SnapshotState.IN_PROGRESS and not stuck and rotation.waited <= timeout.total_seconds():
            return Waiting(f"{other.name} is in progress")
    return None
