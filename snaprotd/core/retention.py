"""Which snapshots of one server are kept and which are deleted, each with its reason.

Only a *candidate* is ever kept or deleted by a rule: a snapshot of ours that is completed, whose date can be trusted,
and that is not held. All others stay, but for our own failed ones, which restore nothing and hold a slot: of those that
have stayed so, one goes in a rotation. The rules of the long form overlap as restic's do: each looks at all candidates,
and a snapshot stays if any rule keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from snaprotd.core.holds import hold_in_words
from snaprotd.core.model import LASTING, Owner, Snapshot, SnapshotState
from snaprotd.core.ownership import Judged, newest_first
from snaprotd.core.policy import Policy, Retention, Rules
from snaprotd.core.words import NOT_OURS
from snaprotd.core.words import listed as in_a_row

PERIODS = {
    "hourly": "%Y-%m-%d %Hh",
    "daily": "%Y-%m-%d",
    "weekly": "%G-W%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}
"""The period rules of `Retention`, and how each names a period. What has one name is one period, so the hour that is
repeated when daylight saving ends is one too. Weeks are ISO weeks."""


TWIN = "the same restore point as a newer one of this name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What becomes of one snapshot, and why, in the words shown to the user."""

    snapshot: Snapshot
    owner: Owner
    delete: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionPlan:
    """A decision for every snapshot of a server, newest first; those without a date to trust come last."""

    decisions: tuple[Decision, ...]

    @property
    def deletions(self) -> tuple[Snapshot, ...]:
        """What is to be deleted, oldest first."""
        return tuple(decision.snapshot for decision in reversed(self.decisions) if decision.delete)


@dataclass(frozen=True, kw_only=True)
class _Share:
    """How many slots our completed snapshots may take, and who holds the others."""

    capacity: int
    holders: str


def plan_retention(
    snapshots: Sequence[Snapshot],
    rules: Rules,
    *,
    now: datetime,
    immovable: Collection[str] = (),
    judged: list[Judged] | None = None,
) -> RetentionPlan:
    """Decide what becomes of each snapshot of one server. `now` serves only to tell a date in the future.

    `immovable` are the ids of those that the provider does not delete: they hold their slots, and another gives way.
    `judged`: what `newest_first` makes of these snapshots, where that is known.

    Raises ValueError where the list or the rules make no sense: nothing is to be deleted then.
    """
    policy = rules.policy
    demand_sense(snapshots, policy.keep)
    seen = newest_first(snapshots, rules, now) if judged is None else judged
    candidates = [one for one in seen if one.is_candidate and not one.snapshot.is_among(immovable)]
    share = _share(seen, rules.limit, immovable)
    scrap = [one for one in seen if one.is_scrap and not one.snapshot.is_among(immovable)][-1:]
    ruled = kept_by_rules(candidates, policy)
    kept = [one.snapshot.id for one in candidates if one.snapshot.id in ruled][: share.capacity]

    decisions = []
    for one in seen:
        if one.hold is not None:
            delete, why = False, _held_words(one)
        elif one.is_ours and one.snapshot.is_among(immovable):
            delete, why = False, "it cannot be deleted"
        elif one.is_twin:
            delete, why = True, TWIN
        elif not one.is_candidate:
            delete, why = one in scrap, "failed" if one in scrap else _why_no_candidate(one)
        elif one.snapshot.id in kept:
            delete, why = False, ", ".join(ruled[one.snapshot.id])
        else:
            delete, why = True, _why_over(one.snapshot, policy.keep, ruled, share)
        reason = _kept_once(f"{'delete' if delete else 'keep'}: {why}")
        decisions.append(Decision(snapshot=one.snapshot, owner=one.owner, delete=delete, reason=reason))
    return RetentionPlan(decisions=tuple(decisions))


@lru_cache(maxsize=4096)
def _kept_once(reason: str) -> str:
    """The same text, where it was made before: it is kept with each snapshot of thousands of servers."""
    return reason


def demand_sense(snapshots: Sequence[Snapshot], keep: Retention) -> None:
    """Raises ValueError where the list, or what is to be kept of it, makes no sense."""
    servers = {snapshot.server_id for snapshot in snapshots}
    if len(servers) > 1:
        raise ValueError(f"snapshots of several servers in one list: {', '.join(sorted(servers))}")
    ids = [snapshot.id for snapshot in snapshots]
    repeated = [] if len(set(ids)) == len(ids) else sorted(one for one, times in Counter(ids).items() if times > 1)
    if repeated:
        raise ValueError(f"snapshot {', '.join(repeated)} of server {servers.pop()} is listed more than once")
    if keep.total < 1 or min(vars(keep).values()) < 0:
        raise ValueError(f"a retention that keeps nothing, or less: {keep}")


def _share(seen: list[Judged], limit: int, immovable: Collection[str]) -> _Share:
    """One slot stays free, others' snapshots hold theirs, and so do those of ours that may not be deleted.

    An unfinished one that is newer than our newest completed one is the one just being taken: it has the free slot. One
    that failed, or that was completed and is shown otherwise now, costs no other its place: the first goes, and the
    second may be whole again in a moment.
    """
    whole = [one for one in seen if one.is_whole]
    foreign = sum(not one.is_ours for one in seen)
    held = sum(one.hold is not None for one in whole)
    newest = seen.index(whole[0]) if whole else 0
    unfinished = sum(_is_unfinished(one) for one in seen[newest:])
    resisting = [one for one in seen if one.snapshot.is_among(immovable)]
    stuck = sum(one.is_candidate or one.is_twin for one in resisting)
    capacity = max(1, limit - 1 - foreign - unfinished - held - stuck)
    return _Share(capacity=capacity, holders=_holders(limit, foreign, unfinished, held, stuck))


def _holders(limit: int, foreign: int, unfinished: int, held: int, stuck: int) -> str:
    taken = {"others": foreign, "unfinished ones": unfinished, "held ones": held}
    parts = [f"{who} {'' if place else 'hold '}{number}" for place, (who, number) in enumerate(_some(taken))]
    slots = f"{in_a_row(parts)} of {limit} slots" if parts else ""
    if stuck:
        return ", ".join(filter(None, (slots, f"{stuck} cannot be deleted")))
    return slots or f"one of {limit} slots stays free"


def _some(numbers: dict[str, int]) -> list[tuple[str, int]]:
    return [(what, number) for what, number in numbers.items() if number]


def _is_unfinished(one: Judged) -> bool:
    settled = one.is_whole or one.is_twin or one.is_doubled or one.may_be_scrap or one.snapshot.has_turned
    return one.is_ours and not settled


# What the rules keep


def kept_by_rules(candidates: list[Judged], policy: Policy) -> dict[str, list[str]]:
    """For each snapshot that a rule keeps: its id, and what each such rule says. `candidates` are newest first."""
    keep = policy.keep
    ruled: dict[str, list[str]] = {}
    for place, one in enumerate(candidates[: keep.last], start=1):
        ruled.setdefault(one.snapshot.id, []).append(f"last {place} of {keep.last}")
    for rule, form in PERIODS.items():
        if not getattr(keep, rule):
            continue
        newest = _newest_of_each_period(candidates, form, policy.timezone)
        for period, snapshot in list(newest.items())[: getattr(keep, rule)]:
            ruled.setdefault(snapshot.id, []).append(f"{rule} {period}")
    return ruled


def _newest_of_each_period(candidates: list[Judged], form: str, timezone: str) -> dict[str, Snapshot]:
    zone = ZoneInfo(timezone)
    newest: dict[str, Snapshot] = {}
    for one in candidates:
        if one.taken_at is not None:
            newest.setdefault(one.taken_at.astimezone(zone).strftime(form), one.snapshot)
    return newest


def rules_in_words(keep: Retention) -> str:
    """`4` where only the newest are kept, else `last 2, weekly 2`."""
    if keep.last == keep.total:
        return str(keep.last)
    return ", ".join(f"{rule} {count}" for rule, count in vars(keep).items() if count)


def _why_over(snapshot: Snapshot, keep: Retention, ruled: dict[str, list[str]], share: _Share) -> str:
    words = rules_in_words(keep)
    if keep.last == keep.total and share.capacity < keep.last:
        why = f"keep {words}, less {keep.last - share.capacity}: {share.holders}"
        return f"over keep {share.capacity} ({why})"
    if snapshot.id in ruled:
        why = f"{words} would keep {len(ruled)}, less {len(ruled) - share.capacity}: {share.holders}"
        return f"over keep {share.capacity} ({why})"
    return f"over keep {words}"


def _held_words(one: Judged) -> str:
    words = hold_in_words(one.hold) if one.hold is not None else ""
    return words if one.snapshot.is_completed else f"{words}, listed as `{one.snapshot.status}`"


def _why_no_candidate(one: Judged) -> str:
    if not one.is_ours:
        return one.why_not_ours
    if one.snapshot.state is SnapshotState.IN_PROGRESS:
        return "in progress"
    if one.snapshot.has_turned:
        return f"listed as `{one.snapshot.status}`, and was completed"
    if one.snapshot.state is SnapshotState.UNKNOWN:
        return f"status `{one.snapshot.status}` not understood"
    why = "one failed goes in a rotation" if one.is_scrap else f"it goes once that has lasted {LASTING / 60:g} min"
    return one.doubt or f"failed; {why}"


# How many may be held

ROTATIONS_OWN = 2
"""Slots that stay for rotation: one that it keeps, and one that is free for the next."""


def why_not_held(snapshots: Sequence[Snapshot], rules: Rules, *, now: datetime, held: Collection[str] = ()) -> str:
    """Why one more may not be held: rotation would be left with fewer than two slots. Empty where one may.

    `held` are the ids of the one that is to be, where it exists. The answer names the ids of what could be let go.
    """
    seen = [one for one in newest_first(snapshots, rules, now) if not one.is_doubled]
    theirs = [one.snapshot for one in seen if not one.is_ours]
    ours = [one for one in seen if one.hold is not None and not one.snapshot.is_among(held)]
    if len(theirs) + len(ours) + 1 <= rules.limit - ROTATIONS_OWN:
        return ""
    taken = _some({"held": len(ours), NOT_OURS: len(theirs)})
    there = f"{in_a_row([f'{number} {what}' for what, number in taken])}: " if taken else ""
    ways = []
    if ours:
        ids = ", ".join(f"{one.snapshot.id} ({_held_words(one)})" for one in reversed(ours))
        ways.append(f"`snaprotd unhold` can let go of {ids}")
    if theirs:
        ways.append(f"`snaprotd delete` deletes {', '.join(one.id for one in reversed(theirs))}")
    rest = f": {'; '.join(ways)}" if ways else ""
    return f"{there}one more that is held would leave rotation fewer than {ROTATIONS_OWN} of {rules.limit} slots{rest}"


# The last door


class ForbiddenDeletion(Exception):
    """A deletion that no rule allows was about to go out: a mistake of ours, wherever it was made."""


def refuse_deletion(
    snapshot_id: str, listed: Sequence[Snapshot], rules: Rules, *, now: datetime, last_may_go: bool = False
) -> None:
    """The last door before a snapshot is deleted. It trusts nobody's decision, and judges by the look just made.

    `last_may_go`: room is to be made under `when_full: replace_last`, so our newest may go where a completed one of
    somebody else's remains. Raises `ForbiddenDeletion`.
    """
    judged = newest_first(listed, rules, now)
    one = next((one for one in judged if one.snapshot.id == snapshot_id), None)
    reason = "it is not in the list" if one is None else _why_forbidden(one, judged, last_may_go=last_may_go)
    if reason:
        raise ForbiddenDeletion(f"snapshot {snapshot_id} must not be deleted: {reason}")


def _why_forbidden(one: Judged, judged: Sequence[Judged], *, last_may_go: bool) -> str:
    """Why a snapshot must stay, or an empty text."""
    if not one.is_ours:
        return "it is not ours"
    if one.hold is not None:
        return f"it is {_held_words(one)}"
    if not (one.is_candidate or one.is_scrap or one.is_twin):
        return one.doubt or f"it is {one.snapshot.status or 'without a status'}"
    newest = next((other for other in judged if other.is_whole), None)
    theirs = any(other.snapshot.is_completed for other in judged if not other.is_ours)
    if one is newest and not (last_may_go and theirs):
        return "it is our newest completed one"
    return ""
