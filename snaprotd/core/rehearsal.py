"""What a rotation would do, worked out without doing it: for `plan`, for the status page, and for forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from snaprotd.core.model import Snapshot, SnapshotState, snapshot_name
from snaprotd.core.ownership import owner_of
from snaprotd.core.policy import Rules
from snaprotd.core.retention import Decision, plan_retention
from snaprotd.core.room import make_room

NEW = "new"
"""The id of the snapshot that a rehearsed rotation takes."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The decisions on every snapshot there was, and on the new one; newest first. Empty where `blocked`."""

    decisions: tuple[Decision, ...] = ()
    blocked: str = ""
    """Why the rotation would take no snapshot, and who holds the slots."""

    @property
    def kept(self) -> tuple[Snapshot, ...]:
        return tuple(decision.snapshot for decision in self.decisions if not decision.delete)

    @property
    def deleted(self) -> tuple[Decision, ...]:
        return tuple(decision for decision in self.decisions if decision.delete)


def rehearse(snapshots: Sequence[Snapshot], rules: Rules, *, server_id: str, slot: datetime) -> Rehearsal:
    """The rotation of `slot`, as if it ran in that very moment and all of it succeeded.

    Raises ValueError as `plan_retention` does.
    """
    room = make_room(snapshots, rules, now=slot)
    if room.blocked:
        return Rehearsal(blocked=room.blocked)
    taken = Snapshot(
        id=NEW,
        server_id=server_id,
        server_name="",
        name=snapshot_name(rules.instance, slot),
        state=SnapshotState.COMPLETED,
        status=str(SnapshotState.COMPLETED),
        created_at=slot,
    )
    remaining = [one for one in snapshots if one is not room.delete]
    plan = plan_retention([*remaining, taken], rules, now=slot)
    gone: tuple[Decision, ...] = ()
    if room.delete is not None:
        owner = owner_of(room.delete, instance=rules.instance, adopt=rules.policy.adopt)
        gone = (Decision(snapshot=room.delete, owner=owner, delete=True, reason=room.reason),)
    return Rehearsal(decisions=(*plan.decisions, *gone))
