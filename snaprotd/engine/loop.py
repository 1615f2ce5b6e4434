"""The loop of a rotation: visit its step, save the record, and again; until it ends, or a drain stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from math import inf

import structlog

from snaprotd.core.admission import why_not_now
from snaprotd.core.asking.polls import OFTEN, next_look, next_poll
from snaprotd.core.errors import (
    LONGEST_PAUSE,
    LONGEST_PAUSE_WHILE_OFF,
    CalledOff,
    CloudError,
    LeaseLost,
    LedgerError,
    Outdated,
    OutsideWindow,
    Permanent,
    told_in_log,
)
from snaprotd.core.rotation import STEPS, Done, Failed, Outcome, Result, Rotation, Step, Waiting, advance, ended, judge
from snaprotd.engine.run import Run
from snaprotd.engine.steps import ACTIONS
from snaprotd.engine.switching import start
from snaprotd.engine.tools import until_tick

MOMENT_WHILE_OFF = 20.0
"""Seconds for which a rotation whose server is off waits for a ledger that is away: a database may be restarted."""

BEFORE_ITS_SNAPSHOT = STEPS[: STEPS.index(Step.WAIT)]

log = structlog.get_logger("snaprotd.rotation")


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
    longest = inf
    if _starts_ahead_of_its_turn(run):
        # The process is about to end. The step itself is for the next process.
        outcome = await _visit(run, start)
    else:
        outcome = _shut_out(run) or await _visit(run, ACTIONS[step])
        before = run.rotation
        run.update(lambda rotation: ended(advance(rotation, outcome), run.tools.now()))
        _tell(before, run.rotation, outcome)
        longest = run.patience_left
    if not isinstance(outcome, Done) and not (isinstance(outcome, Waiting) and outcome.soon):
        run.looks.outrun()
    if _is_to_be_saved(run, outcome):
        await _save(run)
    if run.rotation.step is step and not isinstance(outcome, Done):
        pause = await _pause(run, outcome)
        await run.tools.drain.sleep(min(pause, longest), held_off=run.outlives_a_drain)


def _is_to_be_saved(run: Run, outcome: Outcome) -> bool:
    """Not so where what comes next is a start that is due, whose promise is saved before it: all the rest with that.

    Nor where it is a visit that asks nobody and is saved. Whoever goes on from what was saved before looks again. Nor
    where there is no more to tell than that time has gone.
    """
    is_told_next = run.has_just_begun_it and not run.tools.drain.requested.is_set()
    if isinstance(outcome, Done) and (run.rotation.is_to_start or is_told_next):
        return False
    was_called_off = isinstance(outcome, Waiting) and outcome.soon  # it may be what was saved last that counts no more
    return was_called_off or run.unsaved.is_worth_it(run.rotation, goes_on=isinstance(outcome, Done))


async def _visit(run: Run, step: Callable[[Run], Awaitable[Outcome]]) -> Outcome:
    """One visit of a step, with every foreseen error turned into an outcome."""
    run.begin_visit(is_start=step is start)
    try:
        async with nullcontext() if step is start else run.looks.turn():
            return await step(run)
    except LeaseLost:
        raise
    except OutsideWindow as shut:
        return _outside(run, str(shut))
    except Outdated as late:
        return Waiting(run.rotation.note or str(late), soon=late.soon)  # why it waits is what it was told before
    except CalledOff as call:
        run.looks.outrun()  # what was decided by it may not be so any more, as of one that is held by now
        return Waiting(str(call), soon=True, cause=call.cause)
    except CloudError as error:
        return judge(run.rotation, error)
    except LedgerError as error:  # it may be back in a moment; a server that is off does not wait for longer
        is_for_long = run.unsaved.note_no_ledger() >= MOMENT_WHILE_OFF
        return Failed(str(error)) if run.rotation.is_owed and is_for_long else Waiting(str(error))
    except Exception as error:
        # A mistake of ours must not leave a server off, nor end the other rotations.
        log.exception("internal error")
        return judge(run.rotation, Permanent(told_in_log(error)))


def _shut_out(run: Run) -> Outcome | None:
    """That it may not begin now, where it has not asked for anything yet: then there is no need to look."""
    rotation = run.rotation
    why = why_not_now(rotation, run.tools.now())
    is_idle = rotation.step in BEFORE_ITS_SNAPSHOT and not rotation.creation.was_asked
    return _outside(run, why) if why and is_idle else None


def _outside(run: Run, why: str) -> Outcome:
    if run.rotation.step in BEFORE_ITS_SNAPSHOT:
        run.update(lambda rotation: replace(rotation, skipped="window"))
    return Failed(why)


async def _save(run: Run) -> None:
    """Save the record. Only its end must be on disk before we go on: each request that counts saves for itself."""
    if run.rotation.is_finished:
        run.tools.observer.finished(run.rotation)
    while not await run.save_if_possible() and run.rotation.is_finished:
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


def _starts_ahead_of_its_turn(run: Run) -> bool:
    """The process is about to end: the server is to be seen running, and nothing else is asked for any more."""
    drain = run.tools.drain
    if run.rotation.step is Step.START:
        return False
    return drain.hurry.is_set() or (drain.requested.is_set() and run.rotation.is_refused_its_stop)


def _stopped_by_drain(run: Run) -> bool:
    drain = run.tools.drain
    return drain.requested.is_set() and not run.rotation.needs_its_process


async def _pause(run: Run, outcome: Outcome) -> float:
    """Seconds to the next visit.

    What the provider asks for is heard, but it is no order: not for a day, and while a server is off the queue of
    requests alone decides how long they wait.
    """
    to_tick = await _until_worth_a_visit(run)
    match outcome:
        case Waiting(soon=True):
            return 0.0
        case Waiting(retry_after=float(seconds)) if not run.priority.is_urgent:
            return max(to_tick, min(seconds, LONGEST_PAUSE))
    return min(to_tick, LONGEST_PAUSE_WHILE_OFF) if run.priority.is_urgent else to_tick


async def _until_worth_a_visit(run: Run) -> float:
    """Seconds to the tick at which what it waits for may have come: all that wait for one tick share its requests."""
    rotation, poll_interval = run.rotation, run.tools.poll_interval
    wanted, tick = poll_interval, poll_interval / OFTEN
    if rotation.step is Step.WAIT:
        await run.learn_usual()  # and no sooner: what is done already is to be started first
        waited = rotation.creation.asked_for(run.tools.now())
        is_off = run.priority.is_urgent
        wanted = next_poll(waited, run.usual, poll_interval=poll_interval, is_off=is_off, looks=run.when_to_look)
        if run.priority.is_urgent and wanted < poll_interval:  # the tick that is nearest: the last answer took a while
            wanted -= tick / 2
    elif run.priority.is_urgent and not rotation.is_refused_its_stop:
        wanted = next_look(rotation.waited, rotation.power.running_for, poll_interval=poll_interval)
    if wanted == poll_interval:
        return until_tick(poll_interval)
    return wanted + until_tick(tick, after=wanted)


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
    told = {"server": rotation.label, "slot": rotation.slot.isoformat(), "rotation": rotation.id}
    return {**told, "kind": str(rotation.kind), "attempt": str(rotation.attempt)}
