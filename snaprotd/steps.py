"""What each step of a rotation does, and the loop that saves after every one of them.

Every step looks before it acts, so that any step may be visited twice, by this process or by the next one. "It is
so already" is success. What a request must not outrun is on disk before the request goes out: the promise to start
a server again, and the intent to create a snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from snaprotd import retention
from snaprotd.cloud import Cloud
from snaprotd.errors import CloudError, LeaseLost, LedgerError, NotFound, Permanent, Temporary, Unclear
from snaprotd.inventory import Inventory
from snaprotd.ledger import Ledger
from snaprotd.model import OnStopTimeout, Server, Snapshot, SnapshotState
from snaprotd.rotation import (
    MAX_CREATES,
    Done,
    Failed,
    Outcome,
    Passed,
    Result,
    Rotation,
    Step,
    Waiting,
    advance,
    aged,
    judge,
)

START_BACKOFF_CAP = 300.0
"""Seconds between two start requests at the most. There is no last one."""

log = structlog.get_logger("snaprotd.rotation")


class Observer(Protocol):
    """Who is told of what a rotation does: the metrics."""

    def start_failed(self, rotation: Rotation) -> None: ...

    def deleted(self, rotation: Rotation, *, success: bool) -> None: ...

    def back_on(self, rotation: Rotation, seconds: float) -> None: ...

    def finished(self, rotation: Rotation) -> None: ...


class Drain:
    """How a process that wants to end tells its rotations."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """Take no new step, unless a server is held off."""
        self.hurry = asyncio.Event()
        """Start the servers that are held off, whatever their snapshots do."""

    async def sleep(self, seconds: float, *, held_off: bool) -> None:
        """Sleep, but wake when what is asked of a rotation changes."""
        awaited = self.hurry if held_off else self.requested
        if awaited.is_set():
            await asyncio.sleep(seconds if held_off else 0)
            return
        try:
            async with asyncio.timeout(seconds):
                await awaited.wait()
        except TimeoutError:
            return


@dataclass(kw_only=True)
class Tools:
    """What every rotation of a process shares."""

    cloud: Cloud
    inventory: Inventory
    ledger: Ledger
    observer: Observer
    drain: Drain
    poll_interval: float
    request_timeout: float = 30.0
    """The longest that one whole request may take, in seconds: a lease must be good for as long."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class Run:
    """One rotation while this process runs it: the record, and what the steps may do with it."""

    def __init__(self, rotation: Rotation, tools: Tools, watch: Callable[[Rotation], None] = lambda _: None) -> None:
        self._rotation = rotation
        self._aged_at = asyncio.get_running_loop().time()
        self._unguarded = False
        self.tools = tools
        self._watch = watch

    @property
    def rotation(self) -> Rotation:
        """The record as of now."""
        moment = asyncio.get_running_loop().time()
        self._rotation = aged(self._rotation, moment - self._aged_at)
        self._aged_at = moment
        return self._rotation

    def learn(self, **changes: Any) -> Rotation:
        """Change the record; it is saved at the end of the visit."""
        self._rotation = replace(self.rotation, **changes)
        try:
            self._watch(self._rotation)
        except Exception:
            log.exception("internal error: who watches a rotation must not end it")
        return self._rotation

    async def remember(self, **changes: Any) -> None:
        """Change the record and have it on disk before anything else is done.

        Raises `LedgerError` where that fails, and `LeaseLost` where the rotation is no longer ours.
        """
        intended = replace(self.rotation, **changes)
        await self.tools.ledger.save(intended)
        self._unguarded = False
        self.learn(**changes)

    async def remember_if_possible(self, **changes: Any) -> bool:
        """As `remember`, but go on from memory where the ledger cannot be written; True if it could.

        Nobody else can write that ledger either, so nobody has taken the rotation over: its server can be started.
        """
        try:
            await self.remember(**changes)
        except LedgerError as error:
            self._unguarded = True
            log.error("the ledger cannot be written: going on from memory", error=str(error))
            self.learn(**changes)
            return False
        return True

    def guard(self) -> None:
        """Called when the bytes of a request are about to go out: raise `LeaseLost` unless it is still ours."""
        if not self._unguarded:
            self.tools.ledger.guard(self._rotation.id, self.tools.request_timeout)

    async def server(self) -> Server:
        return await self.tools.inventory.server(self._rotation.server_id)

    async def snapshots(self) -> tuple[Snapshot, ...]:
        return await self.tools.inventory.snapshots(self._rotation.server_id)

    async def delete(self, snapshot: Snapshot, reason: str) -> str | None:
        """Delete one snapshot; the error in words if that failed."""
        await self.remember()
        log.info("deleting a snapshot", snapshot=snapshot.name, snapshot_id=snapshot.id, reason=reason)
        try:
            await self.tools.cloud.delete_snapshot(snapshot.id, guard=self.guard)
        except CloudError as error:
            self.tools.observer.deleted(self._rotation, success=False)
            self.learn(undeletable=(*self._rotation.undeletable, snapshot.id))
            return f"could not delete {snapshot.name}: {error}"
        self.tools.observer.deleted(self._rotation, success=True)
        self.learn(deleted=(*self._rotation.deleted, snapshot.id))
        return None


# -- the steps -------------------------------------------------------------------------------------------------


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


# -- the loop --------------------------------------------------------------------------------------------------


async def run_rotation(run: Run) -> Rotation:
    """Run a rotation to its end, or to where a drain stops it. Answers with the record as it then is.

    Raises `LeaseLost` when another process has taken the rotation over; nothing more is sent then.
    """
    with structlog.contextvars.bound_contextvars(**_context(run.rotation)):
        while not run.rotation.is_finished and not _stopped_by_drain(run):
            await _visit_and_save(run)
        return run.rotation


async def _visit_and_save(run: Run) -> None:
    step = run.rotation.step
    structlog.contextvars.bind_contextvars(step=str(step))
    if run.tools.drain.hurry.is_set() and step is not Step.START:
        # The process is about to end: start the server ahead of its turn. The step itself is for the next process.
        outcome = await _visit(run, start)
    else:
        outcome = await _visit(run, STEPS[step])
        before = run.rotation
        run.learn(**_changes(before, advance(before, outcome), run.tools.now()))
        _tell(before, run.rotation, outcome)
    await _save(run)
    if run.rotation.step is step and not isinstance(outcome, Done):
        await run.tools.drain.sleep(_pause(outcome, run.tools.poll_interval), held_off=run.rotation.held_off)


async def _visit(run: Run, step: Callable[[Run], Awaitable[Outcome]]) -> Outcome:
    """One visit of a step, with every foreseen error turned into an outcome."""
    try:
        return await step(run)
    except LeaseLost:
        raise
    except CloudError as error:
        return judge(run.rotation, error)
    except LedgerError as error:
        return Failed(str(error))
    except Exception as error:
        # A mistake of ours must not leave a server off, nor end the other rotations.
        log.exception("internal error")
        # Without the error's own text, which may hold anything; the log has it, and takes secrets out.
        return judge(run.rotation, Permanent(f"internal error ({type(error).__name__}): see the log"))


async def _save(run: Run) -> None:
    """Save the record. Only its end must be on disk before we go on: each request that counts saves for itself."""
    if run.rotation.is_finished:
        run.tools.observer.finished(run.rotation)
    while not await run.remember_if_possible() and run.rotation.is_finished:
        if run.tools.drain.requested.is_set():
            return
        await asyncio.sleep(run.tools.poll_interval)


async def insist_on_rotation(run: Run) -> Rotation:
    """As `run_rotation`; a mistake of ours in the loop itself must not leave a server off either."""
    while True:
        try:
            return await run_rotation(run)
        except LeaseLost:
            raise
        except Exception:
            log.exception("internal error in a rotation", rotation=run.rotation.id)
            await asyncio.sleep(run.tools.poll_interval)


def _stopped_by_drain(run: Run) -> bool:
    drain = run.tools.drain
    return drain.requested.is_set() and not run.rotation.held_off


def _pause(outcome: Outcome, poll_interval: float) -> float:
    """Seconds to the next visit. All rotations poll at the same ticks, so that they share one list request."""
    to_tick = poll_interval - asyncio.get_running_loop().time() % poll_interval
    match outcome:
        case Waiting(soon=True):
            return 0.0
        case Waiting(retry_after=float(seconds)):
            return max(to_tick, seconds)
    return to_tick


def _changes(before: Rotation, after: Rotation, now: datetime) -> dict[str, Any]:
    changed = {
        f.name: getattr(after, f.name) for f in fields(after) if getattr(after, f.name) != getattr(before, f.name)
    }
    return {**changed, "finished_at": now} if after.is_finished else changed


def _tell(before: Rotation, after: Rotation, outcome: Outcome) -> None:
    """The log line of a visit; a wait is told once for each reason."""
    match outcome:
        case Failed(error=error):
            log.error("step failed", error=error)
        case Waiting(reason=reason) if reason != before.note:
            log.info("waiting", reason=reason)
        case Done():
            log.info("step done")
    if after.is_finished:
        write = log.info if after.result is Result.SUCCESS else log.error
        write("rotation finished", result=str(after.result), error=after.error, failed_step=after.failed_step)


def _context(rotation: Rotation) -> dict[str, str]:
    return {"server": rotation.label, "slot": rotation.slot.isoformat(), "rotation": rotation.id}
