"""How a full server gets room for one more snapshot, or why it gets none; and what a whole rotation would do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf
from zoneinfo import ZoneInfo

from snaprotd.core.holds import hold_in_words, name_read, snapshot_name
from snaprotd.core.model import DELETE_AGAIN_AFTER, LASTING, Owner, Snapshot, SnapshotState
from snaprotd.core.ownership import Judged, age_order, newest_first
from snaprotd.core.policy import Policy, Rules, WhenFull
from snaprotd.core.retention import TWIN, Decision, demand_sense, kept_by_rules, plan_retention, rules_in_words
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.words import NOT_OURS, duration

NAMES_SHOWN = 5
"""Names listed of each owner where a server is blocked; the rest is counted."""

TURNED_FOR = 900.0
"""Seconds for which a full server waits for one of ours that was completed and is shown otherwise."""

REFUSAL_HOLDS = timedelta(days=7)
"""How long no server is stopped for a snapshot that the provider has refused before, for one and the same reason."""

NEW = "new"
"""The id of the snapshot that a rehearsed rotation takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Whether a server can take one more snapshot. Exactly one of `free`, `deletions`, `waits` and `blocked` is set."""

    free: bool = False
    deletions: tuple[Decision, ...] = ()
    """All that must go for one more, in order, each with its reason: as many as it takes, or none."""
    waits: str = ""
    """Why it cannot be told yet what may go."""
    blocked: str = ""
    """Why nothing may be deleted, and who holds the slots."""


def make_room(
    snapshots: Sequence[Snapshot],
    rules: Rules,
    *,
    now: datetime,
    immovable: Collection[str] = (),
    one_failed_went: bool = False,
    judged: list[Judged] | None = None,
) -> Room:
    """Say whether there is a free slot, else what may be deleted for one, else why nothing may.

    `immovable` are the ids of those that the provider does not delete; `one_failed_went` in this rotation already.
    `judged` as for `plan_retention`.

    Raises ValueError as `plan_retention` does.
    """
    demand_sense(snapshots, rules.policy.keep)
    if len(snapshots) < rules.limit:
        return Room(free=True)
    seen = newest_first(snapshots, rules, now) if judged is None else judged
    excess = sum(not one.is_doubled for one in seen) - rules.limit + 1
    if excess <= 0:
        return Room(free=True)
    if stuck := _stuck(seen, rules.policy.snapshot_timeout, now):
        names, within = ", ".join(one.snapshot.name for one in stuck), rules.policy.snapshot_timeout.total_seconds()
        why = f"{len(stuck)} have not ended within {duration(within)}, so nothing goes for one more: {names}"
        return Room(blocked=f"{_blocked(seen, rules.policy, rules.limit)}; {why}")
    left = [one for one in seen if not one.snapshot.is_among(immovable)]
    chosen: list[Decision] = []
    while len(chosen) < excess:
        scrap_may_go = not one_failed_went and not any(_is_failed(decision) for decision in chosen)
        first = _first_to_go(left, rules, f"full ({len(snapshots)} of {rules.limit} slots)", scrap_may_go=scrap_may_go)
        waits = _why_wait(left) if first is None or not _is_failed(first) else ""
        if waits:
            return Room(waits=waits)
        if first is None:
            return Room(blocked=_blocked(seen, rules.policy, rules.limit))
        chosen.append(first)
        left = [one for one in left if one.snapshot is not first.snapshot]
    return Room(deletions=tuple(chosen))


def _stuck(seen: list[Judged], timeout: timedelta, now: datetime) -> list[Judged]:
    """Those of ours that were begun and do not end, where there are several: whatever is taken joins them.

    Each full server would give up a good one for another such, every night. A single one may be the provider's slip.
    """
    begun = (SnapshotState.IN_PROGRESS, SnapshotState.UNKNOWN)
    waited = [one for one in seen if one.is_ours and one.snapshot.state in begun and not one.snapshot.has_turned]
    stuck = [one for one in waited if (at := _begun_at(one)) is not None and now - at > timeout]
    return stuck if len(stuck) > 1 else []


def _begun_at(one: Judged) -> datetime | None:
    """Where its date cannot be trusted: the slot in its name."""
    if one.doubt is None:
        return one.taken_at
    made = name_read(one.snapshot.name)
    return None if made is None else made.slot


def _is_failed(decision: Decision) -> bool:
    return decision.snapshot.state is SnapshotState.FAILED


def _first_to_go(left: list[Judged], rules: Rules, full: str, *, scrap_may_go: bool) -> Decision | None:
    scrap = [one for one in left if one.is_scrap and scrap_may_go]
    if scrap:
        return _to_go(scrap[-1].snapshot, f"{full}, failed")
    if rules.policy.when_full is WhenFull.REFUSE:
        return None
    twins = [one for one in left if one.is_twin]
    if twins:
        return _to_go(twins[-1].snapshot, f"{full}, {TWIN}")
    found = _replace_ours(left, rules.policy, full)
    if found is None and rules.policy.when_full is WhenFull.REPLACE_LAST:
        found = _replace_our_only_one(left, full)
    return found


def _to_go(snapshot: Snapshot, why: str) -> Decision:
    return Decision(snapshot=snapshot, owner=Owner.MANAGED, delete=True, reason=f"delete: {why}")


def _why_wait(left: list[Judged]) -> str:
    """What must be watched for longer before a completed one goes: another may be the one to go, by what it becomes."""
    for one in left:
        snapshot = one.snapshot
        if one.may_be_scrap and not one.is_scrap:
            return f"{snapshot.name} is listed as `{snapshot.status}`: it goes if that lasts {LASTING / 60:g} min"
        if one.is_ours and snapshot.has_turned and snapshot.unchanged_for < TURNED_FOR:
            return f"{snapshot.name} was completed and is listed as `{snapshot.status}`: nothing is deleted meanwhile"
    return ""


def _replace_ours(seen: list[Judged], policy: Policy, full: str) -> Decision | None:
    """Our oldest, if a newer one remains; but first what retention does not keep anyway (a prune that failed)."""
    ruled = kept_by_rules([one for one in seen if one.is_candidate], policy)
    candidates = [one.snapshot for one in seen if one.is_candidate]
    newest = next((one.snapshot for one in seen if one.is_whole), None)
    if newest is None or candidates in ([], [newest]):
        return None
    surplus = [snapshot for snapshot in candidates if snapshot.id not in ruled]
    chosen = surplus[-1] if surplus else candidates[-1]
    oldest = f"our oldest{_but_for_held(seen)}"
    why = oldest if chosen is candidates[-1] else f"over keep {rules_in_words(policy.keep)}"
    return _to_go(chosen, f"{full}, {why}; {newest.name} remains")


def _but_for_held(seen: list[Judged]) -> str:
    return " that is not held" if any(one.hold is not None for one in seen) else ""


def _replace_our_only_one(seen: list[Judged], full: str) -> Decision | None:
    ours = [one.snapshot for one in seen if one.is_candidate]
    theirs = [one.snapshot for one in seen if not one.is_ours and one.snapshot.is_completed]
    if not ours or not theirs:
        return None
    return _to_go(ours[-1], f"{full}, our only one{_but_for_held(seen)}; {theirs[0].name}, {NOT_OURS}, remains")


def _blocked(seen: list[Judged], policy: Policy, limit: int) -> str:
    oldest_first = sorted(seen, key=lambda one: (one.doubt is not None, age_order(one)))
    foreign = [one for one in oldest_first if not one.is_ours]
    ours = [one for one in oldest_first if one.is_ours]
    only = sum(one.snapshot.is_completed for one in ours) == 1
    groups = []
    if foreign:
        groups.append(f"{len(foreign)} {NOT_OURS}: {_names(foreign, policy.timezone)}")
    if ours:
        groups.append(f"{len(ours)} ours: {_names(ours, policy.timezone, only_completed=only)}")
    if policy.when_full is WhenFull.REFUSE:
        groups.append("when_full is refuse")
    return f"blocked: {len(seen)} of {limit} snapshots, {'; '.join(groups)}"


def _names(group: list[Judged], timezone: str, *, only_completed: bool = False) -> str:
    names = []
    for one in group[:NAMES_SHOWN]:
        notes = [_day(one, timezone)]
        if one.hold is not None:
            notes.append(hold_in_words(one.hold))
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


# -- what a rotation knows of deletions and refusals, its own and those before it --------------------------------------


def deletion_failed(rotation: Rotation, snapshot_id: str, error: str, *, lasting: bool, cause: str = "") -> Rotation:
    """A snapshot that is to go could not be deleted. The rotation goes on with the others.

    `lasting`: its deletion has changed nothing for certain, so that another may give way for it.
    """
    return replace(
        rotation,
        complaint=error,
        cause=cause,
        deleting=(),
        undeletable=(*rotation.undeletable, snapshot_id),
        immovable=(*rotation.immovable, snapshot_id) if lasting else rotation.immovable,
    )


def recalled(rotation: Rotation, earlier: Iterable[Rotation], listed: Collection[Snapshot], now: datetime) -> Rotation:
    """With what the server's `earlier` rotations tell of the snapshots that are `listed`, by any of their ids.

    What was tried a moment ago is not tried again: a deletion takes minutes to show.
    """
    stubborn: dict[str, None] = {}
    ghosts: dict[str, None] = {}
    moment_ago: dict[str, None] = {}
    for one in earlier:
        tried = [left.id for left in listed if left.is_among((*one.deleted, *one.undeletable))]
        stubborn |= dict.fromkeys(tried)
        ghosts |= dict.fromkeys(left.id for left in listed if left.is_among(one.deleted))
        if timedelta(0) <= now - (one.finished_at or now) < DELETE_AGAIN_AFTER:
            moment_ago |= dict.fromkeys(tried)
    return replace(rotation, stubborn=tuple(stubborn), ghosts=tuple(ghosts), immovable=tuple(moment_ago))


def resisting(listed: Iterable[Snapshot], last: Iterable[Rotation], now: datetime) -> tuple[Snapshot, ...]:
    """The snapshots, each with whether the server's `last` rotation could not delete it."""
    stays: set[str] = set()
    for one in last:
        stays |= {*one.undeletable, *one.immovable, *one.stubborn}
        if one.finished_at is not None and now - one.finished_at >= DELETE_AGAIN_AFTER:
            stays |= {*one.deleted}
    return tuple(replace(one, resists=True) if one.is_among(stays) else one for one in listed)


def why_refused_again(rotation: Rotation, earlier: Sequence[Rotation], held: int, now: datetime) -> str:
    """Why the provider would refuse the snapshot once more, so that no server need be stopped for it; else empty.

    `earlier` are the server's rotations, newest first. One refusal that is said to be for the number is enough; of
    others it takes two in a row: a single one may have been a moment's.
    """
    limit = rotation.rules.limit
    left = min(held, limit - 1)  # room is made up to our own limit
    refusals: list[Rotation] = []
    for one in earlier:
        if one.result in (Result.SUCCESS, Result.PARTIAL):
            break
        if one.refused_with is not None and one.refused_with <= left and abs(now - one.started_at) < REFUSAL_HOLDS:
            refusals.append(one)
    said = next((one for one in refusals if one.limit_is_said), None)
    if said is not None:
        return f"blocked: {held} snapshots; {lower_limit_words(said.refused_with or 0, limit)}"
    if len(refusals) < 2:
        return ""
    return f"blocked: refused {len(refusals)} times in a row, and not asked for again for days: {refusals[0].error}"


def lower_limit_words(held: int, limit: int) -> str:
    """What is said where the provider took no further snapshot than those that were held."""
    return (
        f"the provider takes no more than {held} of this server, and not `limit: {limit}`: "
        f"set `limit` to that, and `keep` below it"
    )


# -- a rotation rehearsed: for `plan`, for the status page, and for forecasts ------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
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
    """The rotation of `slot`, as if it ran in that very moment and all of it succeeded but what resists.

    Raises ValueError as `plan_retention` does.
    """
    snapshots = [one if one.is_completed else replace(one, unchanged_for=inf) for one in snapshots]
    stays = [one.id for one in snapshots if one.resists]
    room = make_room(snapshots, rules, now=slot, immovable=stays)
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
    gone = {decision.snapshot.id for decision in room.deletions}
    remaining = [one for one in snapshots if one.id not in gone]
    plan = plan_retention([*remaining, taken], rules, now=slot, immovable=stays)
    return Rehearsal(decisions=(*map(_sparing_the_new, plan.decisions), *room.deletions))


def _sparing_the_new(decision: Decision) -> Decision:
    """A rotation keeps what it has just taken, whatever dates the others bear."""
    is_spared = decision.delete and decision.snapshot.id == NEW
    return replace(decision, delete=False, reason="keep: just taken") if is_spared else decision
