"""How a full server gets room for one more snapshot, or why it gets none; and what a whole rotation would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from snaprotd.core.model import Snapshot, SnapshotState, snapshot_name
from snaprotd.core.ownership import Judged, age_order, newest_first, owner_of
from snaprotd.core.policy import Policy, Rules, WhenFull
from snaprotd.core.retention import TWIN, Decision, demand_sense, kept_by_rules, plan_retention, rules_in_words

NAMES_SHOWN = 5
"""Names listed of each owner where a server is blocked; the rest is counted."""

NEW = "new"
"""The id of the snapshot that a rehearsed rotation takes."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Whether a server can take one more snapshot. Exactly one of `free`, `delete` and `blocked` is set."""

    free: bool = False
    delete: Snapshot | None = None
    """The one snapshot that may go to make room, with its `reason`."""
    reason: str = ""
    blocked: str = ""
    """Why nothing may be deleted, and who holds the slots."""


def make_room(snapshots: Sequence[Snapshot], rules: Rules, *, now: datetime) -> Room:
    """Say whether there is a free slot, else the one snapshot that may be deleted for one, else why there is none.

    Raises ValueError as `plan_retention` does.
    """
    policy, limit = rules.policy, rules.limit
    demand_sense(snapshots, policy.keep)
    if len(snapshots) < limit:
        return Room(free=True)
    seen = newest_first(snapshots, rules, now)
    full = f"full ({len(snapshots)} of {limit} slots)"
    scrap = [one.snapshot for one in seen if one.is_scrap]
    if scrap:
        return Room(delete=scrap[-1], reason=f"delete: {full}, failed")
    room = None
    twins = [one.snapshot for one in seen if one.is_twin]
    if twins and policy.when_full is not WhenFull.REFUSE:
        return Room(delete=twins[-1], reason=f"delete: {full}, {TWIN}")
    if policy.when_full is not WhenFull.REFUSE:
        room = _replace_ours(seen, policy, full)
    if room is None and policy.when_full is WhenFull.REPLACE_LAST:
        room = _replace_our_only_one(seen, full)
    return room or Room(blocked=_blocked(seen, policy, limit))


def _replace_ours(seen: list[Judged], policy: Policy, full: str) -> Room | None:
    """Our oldest, if a newer one remains; but first what retention does not keep anyway (a prune that failed)."""
    candidates = [one.snapshot for one in seen if one.is_candidate]
    if len(candidates) < 2:
        return None
    ruled = kept_by_rules(candidates, policy)
    surplus = [snapshot for snapshot in candidates if snapshot.id not in ruled]
    chosen = surplus[-1] if surplus else candidates[-1]
    why = "our oldest" if chosen is candidates[-1] else f"over keep {rules_in_words(policy.keep)}"
    return Room(delete=chosen, reason=f"delete: {full}, {why}; {candidates[0].name} remains")


def _replace_our_only_one(seen: list[Judged], full: str) -> Room | None:
    ours = [one.snapshot for one in seen if one.is_candidate]
    theirs = [one.snapshot for one in seen if not one.is_ours and one.snapshot.is_completed]
    if not ours or not theirs:
        return None
    why = f"our only one; {theirs[0].name}, not made by snaprotd, remains"
    return Room(delete=ours[-1], reason=f"delete: {full}, {why}")


def _blocked(seen: list[Judged], policy: Policy, limit: int) -> str:
    oldest_first = sorted(seen, key=lambda one: (one.doubt is not None, age_order(one)))
    foreign = [one for one in oldest_first if not one.is_ours]
    ours = [one for one in oldest_first if one.is_ours]
    only = sum(one.snapshot.is_completed for one in ours) == 1
    groups = []
    if foreign:
        groups.append(f"{len(foreign)} not made by snaprotd: {_names(foreign, policy.timezone)}")
    if ours:
        groups.append(f"{len(ours)} ours: {_names(ours, policy.timezone, only_completed=only)}")
    if policy.when_full is WhenFull.REFUSE:
        groups.append("when_full is refuse")
    return f"blocked: {len(seen)} of {limit} snapshots, {'; '.join(groups)}"


def _names(group: list[Judged], timezone: str, *, only_completed: bool = False) -> str:
    names = []
    for one in group[:NAMES_SHOWN]:
        notes = [_day(one, timezone)]
        if one.is_ours and not one.snapshot.is_completed:
            notes.append(one.snapshot.status.replace("_", " "))
        elif only_completed:
            notes.append("the only completed one")
        names.append(f"{one.snapshot.name} ({', '.join(notes)})")
    if len(group) > NAMES_SHOWN:
        names[-1] += f" and {len(group) - NAMES_SHOWN} more"
    return ", ".join(names)


def _day(one: Judged, timezone: str) -> str:
    if one.doubt is not None or one.snapshot.created_at is None:
        return "date unknown"
    return f"{one.snapshot.created_at.astimezone(ZoneInfo(timezone)):%Y-%m-%d}"


# -- a rotation rehearsed: for `plan`, for the status page, and for forecasts ------------------------------------------


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
