"""Which snapshots of one server are kept and which are deleted, each with its reason; and how a full server gets room.

Only a *candidate* is ever kept or deleted by a rule: a snapshot of ours that is completed and whose date can be
trusted. All others stay, but for our own failed ones, which restore nothing and hold a slot. The rules of the long
form overlap as restic's do: each looks at all candidates, and a snapshot stays if any rule keeps it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from zoneinfo import ZoneInfo

from snaprotd.core.model import SLOT_FORMAT, Owner, Policy, Retention, Snapshot, SnapshotState, WhenFull

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the provider's clock may be ahead of ours before a date counts as one in the future."""

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""A date before this is a placeholder (the year 1, the Unix epoch), not the day a snapshot was taken."""

NAMES_SHOWN = 5
"""Names listed of each owner where a server is blocked; the rest is counted."""

PERIODS = {
    "hourly": "%Y-%m-%d %Hh",
    "daily": "%Y-%m-%d",
    "weekly": "%G-W%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}
"""The period rules of `Retention`, and how each names a period. What has one name is one period, so the hour that is
repeated when daylight saving ends is one too. Weeks are ISO weeks."""

_NAME = re.compile(r"snaprotd-([a-z0-9_]{1,32})-([0-9]{8}T[0-9]{6}Z)")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one snapshot, and why, in the words shown to the user."""

    snapshot: Snapshot
    owner: Owner
    delete: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class RetentionPlan:
    """A decision for every snapshot of a server, newest first; those without a date to trust come last."""

    decisions: tuple[Decision, ...]

    @property
    def deletions(self) -> tuple[Snapshot, ...]:
        """What is to be deleted, oldest first."""
        return tuple(decision.snapshot for decision in reversed(self.decisions) if decision.delete)


@dataclass(frozen=True, kw_only=True)
class Room:
    """Whether a server can take one more snapshot. Exactly one of `free`, `delete` and `blocked` is set."""

    free: bool = False
    delete: Snapshot | None = None
    """The one snapshot that may go to make room, with its `reason`."""
    reason: str = ""
    blocked: str = ""
    """Why nothing may be deleted, and who holds the slots."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A snapshot with what was found out about it."""

    snapshot: Snapshot
    owner: Owner
    doubt: str | None
    """What is wrong with its date, or None."""

    @property
    def is_ours(self) -> bool:
        return self.owner is Owner.MANAGED

    @property
    def is_candidate(self) -> bool:
        return self.is_ours and self.snapshot.is_completed and self.doubt is None

    @property
    def is_scrap(self) -> bool:
        """Our own failed one. With a date that cannot be trusted even that is left alone."""
        return self.is_ours and self.snapshot.state is SnapshotState.FAILED and self.doubt is None


@dataclass(frozen=True, kw_only=True)
class _Share:
    """How many slots our completed snapshots may take, and who holds the others."""

    capacity: int
    holders: str


def owner_of(snapshot: Snapshot, *, instance: str, adopt: tuple[str, ...]) -> Owner:
    """Tell whose a snapshot is by its name.

    A pattern of `adopt`, however wide, never takes what another instance made: two daemons on one account
    must not delete each other's.
    """
    maker = _maker(snapshot.name)
    if maker is not None:
        return Owner.MANAGED if maker == instance else Owner.FOREIGN
    adopted = any(fnmatchcase(snapshot.name, pattern) for pattern in adopt)
    return Owner.MANAGED if adopted else Owner.FOREIGN


def plan_retention(
    snapshots: Sequence[Snapshot], policy: Policy, *, instance: str, limit: int, now: datetime
) -> RetentionPlan:
    """Decide what becomes of each snapshot of one server. `now` serves only to tell a date in the future.

    Raises ValueError where the list or the rules make no sense: nothing is to be deleted then.
    """
    _demand_sense(snapshots, policy.keep)
    seen = _newest_first(snapshots, instance=instance, adopt=policy.adopt, now=now)
    candidates = [one.snapshot for one in seen if one.is_candidate]
    share = _share(seen, limit)
    ruled = _kept_by_rules(candidates, policy)
    kept = [snapshot.id for snapshot in candidates if snapshot.id in ruled][: share.capacity]

    decisions = []
    for one in seen:
        if not one.is_candidate:
            delete, why = one.is_scrap, _why_no_candidate(one)
        elif one.snapshot.id in kept:
            delete, why = False, ", ".join(ruled[one.snapshot.id])
        else:
            delete, why = True, _why_over(one.snapshot, policy.keep, ruled, share)
        reason = f"{'delete' if delete else 'keep'}: {why}"
        decisions.append(Decision(snapshot=one.snapshot, owner=one.owner, delete=delete, reason=reason))
    return RetentionPlan(decisions=tuple(decisions))


def make_room(snapshots: Sequence[Snapshot], policy: Policy, *, instance: str, limit: int, now: datetime) -> Room:
    """Say whether there is a free slot, else the one snapshot that may be deleted for one, else why there is none.

    Raises ValueError as `plan_retention` does.
    """
    _demand_sense(snapshots, policy.keep)
    if len(snapshots) < limit:
        return Room(free=True)
    seen = _newest_first(snapshots, instance=instance, adopt=policy.adopt, now=now)
    full = f"full ({len(snapshots)} of {limit} slots)"
    scrap = [one.snapshot for one in seen if one.is_scrap]
    if scrap:
        return Room(delete=scrap[-1], reason=f"delete: {full}, failed")
    room = None
    if policy.when_full is not WhenFull.REFUSE:
        room = _replace_ours(seen, policy, full)
    if room is None and policy.when_full is WhenFull.REPLACE_LAST:
        room = _replace_our_only_one(seen, full)
    return room or Room(blocked=_blocked(seen, policy, limit))


def outlook(
    snapshots: Sequence[Snapshot], policy: Policy, *, instance: str, limit: int, now: datetime
) -> tuple[RetentionPlan, Room]:
    """What a rotation would find if it ran now: its plan, and whether there is room."""
    return (
        plan_retention(snapshots, policy, instance=instance, limit=limit, now=now),
        make_room(snapshots, policy, instance=instance, limit=limit, now=now),
    )


def newest_completed(
    snapshots: Sequence[Snapshot], *, instance: str, adopt: tuple[str, ...], now: datetime
) -> Snapshot | None:
    """Return our newest completed snapshot whose date can be trusted, or None."""
    seen = _newest_first(snapshots, instance=instance, adopt=adopt, now=now)
    return next((one.snapshot for one in seen if one.is_candidate), None)


# What is there


@lru_cache(maxsize=4096)
def _maker(name: str) -> str | None:
    """The instance whose daemon gave this name, or None where none did."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        datetime.strptime(match[2], SLOT_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return match[1]


def _demand_sense(snapshots: Sequence[Snapshot], keep: Retention) -> None:
    servers = {snapshot.server_id for snapshot in snapshots}
    if len(servers) > 1:
        raise ValueError(f"snapshots of several servers in one list: {', '.join(sorted(servers))}")
    times = Counter(snapshot.id for snapshot in snapshots)
    repeated = sorted(one for one, count in times.items() if count > 1)
    if repeated:
        raise ValueError(f"snapshot {', '.join(repeated)} of server {servers.pop()} is listed more than once")
    if keep.total < 1 or min(vars(keep).values()) < 0:
        raise ValueError(f"a retention that keeps nothing, or less: {keep}")


def _newest_first(
    snapshots: Sequence[Snapshot], *, instance: str, adopt: tuple[str, ...], now: datetime
) -> list[_Seen]:
    """Everything that is there, newest first, what has no date to trust last."""
    latest = now.astimezone(UTC) + CLOCK_TOLERANCE
    seen = [
        _Seen(snapshot=one, owner=owner_of(one, instance=instance, adopt=adopt), doubt=_doubt(one.created_at, latest))
        for one in snapshots
    ]
    return sorted(seen, key=_age, reverse=True)


def _doubt(created_at: datetime | None, latest: datetime) -> str | None:
    if created_at is None or created_at.utcoffset() is None:
        return "created_at cannot be read"
    text = created_at.isoformat().replace("+00:00", "Z")
    if created_at < EARLIEST:
        return f"created_at {text} cannot be right"
    if created_at > latest:
        return f"created_at {text} lies in the future"
    return None


def _age(one: _Seen) -> tuple[bool, datetime, tuple[bool, int, str, str]]:
    """Sort key, oldest first: by instant, then by id.

    Python compares two times of one zone by their clock faces, which is wrong in the repeated hour: hence UTC.
    """
    created_at = one.snapshot.created_at
    if one.doubt is not None or created_at is None:
        return False, EARLIEST, _id_order(one.snapshot.id)
    return True, created_at.astimezone(UTC), _id_order(one.snapshot.id)


def _id_order(text: str) -> tuple[bool, int, str, str]:
    """Sort key: ids of digits by their number, before all others, which go by their text."""
    if not (text.isascii() and text.isdigit()):
        return True, 0, text, text
    significant = text.lstrip("0")
    return False, len(significant), significant, text


def _share(seen: list[_Seen], limit: int) -> _Share:
    """One slot stays free, others' snapshots hold theirs, and so do those of ours that may not be deleted.

    An unfinished one that is newer than our newest completed one is the one just being taken: it has the free slot.
    """
    foreign = sum(not one.is_ours for one in seen)
    newest = next((place for place, one in enumerate(seen) if one.is_candidate), 0)
    unfinished = sum(one.is_ours and not one.is_candidate and not one.is_scrap for one in seen[newest:])
    holders = f"one of {limit} slots stays free"
    if foreign and unfinished:
        holders = f"others hold {foreign} and unfinished ones {unfinished} of {limit} slots"
    elif foreign or unfinished:
        holders = f"{'others' if foreign else 'unfinished ones'} hold {foreign + unfinished} of {limit} slots"
    return _Share(capacity=max(1, limit - 1 - foreign - unfinished), holders=holders)


# What the rules keep


def _kept_by_rules(candidates: list[Snapshot], policy: Policy) -> dict[str, list[str]]:
    """For each snapshot that a rule keeps: its id, and what each such rule says. `candidates` are newest first."""
    keep = policy.keep
    ruled: dict[str, list[str]] = {}
    for place, snapshot in enumerate(candidates[: keep.last], start=1):
        ruled.setdefault(snapshot.id, []).append(f"last {place} of {keep.last}")
    for rule, form in PERIODS.items():
        if not getattr(keep, rule):
            continue
        newest = _newest_of_each_period(candidates, form, policy.timezone)
        for period, snapshot in list(newest.items())[: getattr(keep, rule)]:
            ruled.setdefault(snapshot.id, []).append(f"{rule} {period}")
    return ruled


def _newest_of_each_period(candidates: list[Snapshot], form: str, timezone: str) -> dict[str, Snapshot]:
    zone = ZoneInfo(timezone)
    newest: dict[str, Snapshot] = {}
    for snapshot in candidates:
        if snapshot.created_at is not None:
            newest.setdefault(snapshot.created_at.astimezone(zone).strftime(form), snapshot)
    return newest


def _rules_in_words(keep: Retention) -> str:
    """`4` where only the newest are kept, else `last 2, weekly 2`."""
    if keep.last == keep.total:
        return str(keep.last)
    return ", ".join(f"{rule} {count}" for rule, count in vars(keep).items() if count)


def _why_over(snapshot: Snapshot, keep: Retention, ruled: dict[str, list[str]], share: _Share) -> str:
    words = _rules_in_words(keep)
    if keep.last == keep.total and share.capacity < keep.last:
        why = f"keep {words}, less {keep.last - share.capacity}: {share.holders}"
        return f"over keep {share.capacity} ({why})"
    if snapshot.id in ruled:
        why = f"{words} would keep {len(ruled)}, less {len(ruled) - share.capacity}: {share.holders}"
        return f"over keep {share.capacity} ({why})"
    return f"over keep {words}"


def _why_no_candidate(one: _Seen) -> str:
    if not one.is_ours:
        return "not made by snaprotd"
    if one.snapshot.state is SnapshotState.IN_PROGRESS:
        return "in progress"
    if one.snapshot.state is SnapshotState.UNKNOWN:
        return f"status `{one.snapshot.status}` not understood"
    return one.doubt or "failed"


# A full server


def _replace_ours(seen: list[_Seen], policy: Policy, full: str) -> Room | None:
    """Our oldest, if a newer one remains; but first what retention does not keep anyway (a prune that failed)."""
    candidates = [one.snapshot for one in seen if one.is_candidate]
    if len(candidates) < 2:
        return None
    ruled = _kept_by_rules(candidates, policy)
    surplus = [snapshot for snapshot in candidates if snapshot.id not in ruled]
    chosen = surplus[-1] if surplus else candidates[-1]
    why = "our oldest" if chosen is candidates[-1] else f"over keep {_rules_in_words(policy.keep)}"
    return Room(delete=chosen, reason=f"delete: {full}, {why}; {candidates[0].name} remains")


def _replace_our_only_one(seen: list[_Seen], full: str) -> Room | None:
    ours = [one.snapshot for one in seen if one.is_candidate]
    theirs = [one.snapshot for one in seen if not one.is_ours and one.snapshot.is_completed]
    if not ours or not theirs:
        return None
    why = f"our only one; {theirs[0].name}, not made by snaprotd, remains"
    return Room(delete=ours[-1], reason=f"delete: {full}, {why}")


def _blocked(seen: list[_Seen], policy: Policy, limit: int) -> str:
    oldest_first = sorted(seen, key=lambda one: (one.doubt is not None, _age(one)))
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


def _names(group: list[_Seen], timezone: str, *, only_completed: bool = False) -> str:
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


def _day(one: _Seen, timezone: str) -> str:
    if one.doubt is not None or one.snapshot.created_at is None:
        return "date unknown"
    return f"{one.snapshot.created_at.astimezone(ZoneInfo(timezone)):%Y-%m-%d}"
