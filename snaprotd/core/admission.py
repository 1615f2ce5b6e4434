"""Whether a rotation may begin now: what it was held up by meanwhile does not matter, only when its turn comes."""

from __future__ import annotations

from datetime import datetime

from snaprotd.core.policy import Policy
from snaprotd.core.rotation import Done, Failed, Rotation, advance, ended
from snaprotd.core.schedule import ScheduleError, shut_words
from snaprotd.core.words import shown_duration


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
    """
    made_room = rotation.deleted and not rotation.policy.stop_first
    asked = rotation.creation.creates or made_room
    touched = asked or rotation.snapshot_id is not None or rotation.error is not None
    if touched or now - rotation.slot <= rotation.policy.missed_within:
        return rotation
    done = "the snapshot was asked for" if rotation.held_off else "anything was done"
    return advance(rotation, Failed(f"interrupted before {done}, and resumed too late"))


def called_off(rotation: Rotation, now: datetime) -> Rotation:
    """A rotation that a person has begun and interrupts: one that has asked for nothing yet ends here.

    Nobody goes on with it then. Of any other the next process sees to the rest.
    """
    if rotation.is_finished or rotation.begun or rotation.creation.was_asked or rotation.snapshot_id is not None:
        return rotation
    return ended(advance(advance(rotation, Failed("interrupted before anything was done")), Done()), now)
