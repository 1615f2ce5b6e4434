"""Whether a rotation may begin now, and whether a slot whose rotation has failed is tried again.

What a rotation was held up by meanwhile does not matter, only when its turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from snaprotd.core import creation
from snaprotd.core.model import Snapshot
from snaprotd.core.ownership import taken_for
from snaprotd.core.policy import Kind, Policy, Rules
from snaprotd.core.power import Power
from snaprotd.core.rotation import STEPS, Done, Failed, Result, Rotation, Step, advance, aged, ended
from snaprotd.core.schedule import Missed, ScheduleError, next_opening, next_slot, shut_words
from snaprotd.core.words import shown_duration

LATE = timedelta(seconds=60)
"""A slot that is taken up later than this was missed (the machine slept, say), and its policy's `missed` decides."""

BEFORE_THE_START = STEPS[: STEPS.index(Step.START)]


def why_shut(policy: Policy, at: datetime) -> str:
    """Why nothing may begin at this instant: it is outside the policy's window. Empty where something may."""
    try:
        return shut_words(policy.window, policy.timezone, at)
    except ScheduleError as error:  # of a row that another version wrote
        return f"its window is not understood: {error}"


def why_not_now(rotation: Rotation, at: datetime) -> str:
    """Why the rotation may not send its first stop, create or delete; empty where it may, or has begun."""
    has_made_its_snapshot = rotation.creation.creates > 0 and rotation.snapshot_id is not None
    return "" if rotation.begun or has_made_its_snapshot else why_shut(rotation.policy, at)


def why_too_late(rotation: Rotation, at: datetime) -> str:
    """Why a rotation that has waited, and has not begun, is not to begin any more; empty where it may."""
    within = rotation.policy.missed_within
    too_old = f"its slot is older than `missed_within` ({shown_duration(within)})"
    return why_not_now(rotation, at) or (too_old if at - rotation.slot > within else "")


def resumed(rotation: Rotation, now: datetime) -> Rotation:
    """The rotation as a new process takes it up.

    One that has asked for no snapshot yet follows its policy's `missed_within`, as a slot does that nobody saw: a
    server is not stopped at noon for last night's snapshot of a week ago. What is off because of us is started.
    What it waited for in line (`skipped`) is what it was skipped for, if it is too late by now.
    """
    made_room = rotation.deleted and not rotation.policy.stop_first
    asked = rotation.creation.creates or made_room
    touched = asked or rotation.snapshot_id is not None or rotation.error is not None
    if touched or now - rotation.slot <= rotation.policy.missed_within:
        return rotation if rotation.error is not None else replace(rotation, skipped="")
    done = "the snapshot was asked for" if rotation.held_off else "anything was done"
    return advance(rotation, Failed(f"interrupted before {done}, and resumed too late"))


def called_off(rotation: Rotation, now: datetime) -> Rotation:
    """A rotation that a person has begun and interrupts: one that has asked for nothing yet ends here.

    Nobody goes on with it then. Of any other the next process sees to the rest.
    """
    if rotation.is_finished or rotation.begun or rotation.creation.was_asked or rotation.snapshot_id is not None:
        return rotation
    return ended(advance(advance(rotation, Failed("interrupted before anything was done")), Done()), now)


# -- another attempt ---------------------------------------------------------------------------------------------------


def may_be_retried(rotation: Rotation) -> bool:
    """Whether another attempt at its slot may follow, as far as its own record tells.

    Not while a start is owed that nobody dares to make: a person is asked about that server.
    """
    has_failed = rotation.result is Result.FAILURE and rotation.may_pass and not rotation.power.is_owed
    return has_failed and rotation.kind is not Kind.MANUAL and rotation.attempt <= rotation.policy.retry.times


@dataclass(frozen=True, kw_only=True)
class NextAttempt:
    """When a slot is tried again, or why it is not: one of the two is set."""

    at: datetime | None = None
    why_not: str = ""


def next_attempt(rotation: Rotation, rules: Rules, *, delay: timedelta, now: datetime) -> NextAttempt:
    """What follows on a failure that may pass, under `rules` as they are by now.

    `delay` is the server's share of the policy's `spread`. What is to begin later than `now` is asked again then.
    """
    policy, was = rules.policy, rotation.policy
    due = (rotation.finished_at or now) + policy.retry.after
    if (rules.instance, policy.slots_written) != (rotation.rules.instance, was.slots_written):
        return NextAttempt(why_not="its policy was edited")
    if not may_be_retried(rotation) or rotation.attempt > policy.retry.times:
        return NextAttempt(why_not="its policy wants no other attempt")
    if policy.missed is Missed.SKIP and now > due + LATE:
        return NextAttempt(why_not="its turn was missed")
    begins = next_opening(policy.window, policy.timezone, max(due, now))
    is_late = begins > due + LATE
    following = next_slot(policy.schedule, (rotation.finished_at or now) - delay)
    if following is not None and following + delay <= (begins + policy.retry.after if is_late else begins):
        return NextAttempt(why_not="the next slot comes first")
    if is_late and begins - rotation.slot - delay > policy.missed_within:
        return NextAttempt(why_not="its slot would be older than `missed_within`")
    return NextAttempt(at=begins)


def again(failed: Rotation, begun: Rotation) -> Rotation:
    """The next attempt at the slot of one that has `failed`: `begun` as any other, it looks first at what that left."""
    pause = (begun.started_at - (failed.finished_at or begun.started_at)).total_seconds()
    return replace(
        begun,
        kind=Kind.RETRY,
        attempt=failed.attempt + 1,
        snapshot_name=failed.snapshot_name,
        description=failed.description,
        creation=creation.carried(failed.creation, pause),
    )


# -- a snapshot that came too late -------------------------------------------------------------------------------------


def may_come_late(rotation: Rotation) -> bool:
    """Whether it has failed while its snapshot went on, as far as was seen."""
    made = rotation.creation
    has_given_up = rotation.result is Result.FAILURE and rotation.was_in_progress
    return has_given_up and made.snapshot_id is not None and made.snapshot_id not in made.failed


def watched_to_its_end(rotation: Rotation, mine: Snapshot, since: float) -> Rotation:
    """With how long its snapshot took, which was watched until it was completed, `since` seconds after the end."""
    return replace(rotation, creation=creation.seen(aged(rotation, since).creation, mine, was_watched=True))


def completed_late(rotation: Rotation, snapshots: tuple[Snapshot, ...]) -> Snapshot | None:
    """The snapshot of a rotation that gave up on it, or one before it that had failed, if that is completed by now."""
    made = rotation.creation
    if rotation.result is not Result.FAILURE or rotation.failed_step not in BEFORE_THE_START or not made.was_asked:
        return None
    taken = [taken_for(rotation, snapshots), *(one for one in snapshots if one.is_among(made.failed))]
    whole = (one for one in taken if one is not None and one.is_completed and one.in_ledger is not False)
    return next(whole, None)


def amended(rotation: Rotation, mine: Snapshot, rules: Rules) -> Rotation:
    """The rotation goes on, by `rules`, from where it gave up on the snapshot that is completed by now.

    What is remembered of the server's power is not in it: the ledger has that.
    """
    return replace(
        rotation,
        rules=rules,
        step=Step.WAIT,
        waited=0.0,
        note="",
        creation=creation.seen(rotation.creation, mine),
        power=Power(),
        was_in_progress=False,
        error=None,
        failed_step=None,
        may_pass=False,
        cause="",
        result=None,
        finished_at=None,
    )
