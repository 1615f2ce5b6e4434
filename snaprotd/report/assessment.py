"""What the snapshots of one server mean under its policy, worked out once for each list of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from snaprotd.config.settings import Config, Target
from snaprotd.core.holds import bears_our_name, hold_of, is_alike
from snaprotd.core.model import Owner, Snapshot, SnapshotState
from snaprotd.core.ownership import Judged, newest_first, owner_of
from snaprotd.core.policy import Policy, Rules
from snaprotd.core.retention import Decision, RetentionPlan, plan_retention, why_not_held
from snaprotd.core.room import Rehearsal, Room, make_room, rehearse, resisting
from snaprotd.core.rotation import Rotation
from snaprotd.core.words import OTHER_LETTERS, STRANGER
from snaprotd.provider.inventory import ServerHoldings

STALE = timedelta(hours=1)
"""A date lies in the future only until it does not: so often the same list is judged anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    plan: RetentionPlan
    """What a prune would do now."""
    room: Room
    rehearsal: Rehearsal
    """What a whole rotation would do now."""
    newest: Snapshot | None
    """Our newest completed snapshot."""
    holds: tuple[date, ...] = ()
    """Of each one that is held its last day, in UTC."""
    strange_names: str = ""
    """What is to be told of those that bear our name and are not ours, or not all of them; empty where nothing is."""


def is_ours(config: Config, target: Target, snapshot: Snapshot) -> bool:
    """Whether rotations may delete it, by the policy of its server."""
    return owner_of(snapshot, instance=config.instance, adopt=target.policy.adopt) is Owner.MANAGED


def why_not_to_hold(
    config: Config, target: Target, listed: Sequence[Snapshot], now: datetime, ids: Collection[str] = ()
) -> str:
    """Why one more of the server's snapshots may not be held, or the one with these `ids`; empty where it may."""
    return why_not_held(listed, config.rules_of(target), now=now, held=ids)


def as_left(held: ServerHoldings, last: Iterable[Rotation], now: datetime) -> ServerHoldings:
    """What is held, with what the server's `last` rotation could not delete."""
    return replace(held, snapshots=resisting(held.snapshots, last, now))


def assess(config: Config, target: Target, held: ServerHoldings, now: datetime) -> Assessment:
    """Raises ValueError where the list makes no sense."""
    snapshots, rules = held.snapshots, config.rules_of(target)
    judged = newest_first(snapshots, rules, now)
    plan = _planned(snapshots, rules, now, judged)
    stays = [one.id for one in snapshots if one.resists]
    return Assessment(
        plan=plan,
        room=make_room(snapshots, rules, now=now, immovable=stays, judged=judged),
        rehearsal=rehearse(snapshots, rules, server_id=target.server_id, slot=now),
        newest=next((one.snapshot for one in judged if one.is_whole), None),
        holds=tuple(_holds(plan, now)),
        strange_names=_strange_names(plan, config.instance),
    )


def _holds(plan: RetentionPlan, now: datetime) -> Iterator[date]:
    for one in plan.decisions:
        until = hold_of(one.snapshot, now)
        if one.owner is Owner.MANAGED and until is not None:
            yield until


def _planned(snapshots: Sequence[Snapshot], rules: Rules, now: datetime, judged: list[Judged]) -> RetentionPlan:
    """One that resists is tried again, and another gives way where that fails: both are named."""
    plan = plan_retention(snapshots, rules, now=now, judged=judged)
    again = {one.snapshot.id: one for one in plan.decisions if one.delete and one.snapshot.resists}
    if not again:
        return plan
    other = plan_retention(snapshots, rules, now=now, immovable=list(again), judged=judged)
    told = [again.get(one.snapshot.id, one) for one in other.decisions]
    return RetentionPlan(decisions=tuple(_resisting(one) if one.snapshot.id in again else one for one in told))


def _resisting(decision: Decision) -> Decision:
    return replace(decision, reason=f"{decision.reason}; the last rotation could not delete it")


def _strange_names(plan: RetentionPlan, instance: str) -> str:
    """Only another snaprotd of our instance can have taken a second one of a slot, or one while our ledger was kept.

    But where one of ours has failed, its slot was tried again.
    """
    named = [one for one in plan.decisions if bears_our_name(one.snapshot.name, instance)]
    counted = [one for one in named if not _was_tried_again(one.snapshot)]
    borne = Counter(one.snapshot.name for one in counted)
    doubles = [one for one in counted if borne[one.snapshot.name] > 1 or one.snapshot.in_ledger is False]
    strange = [one for one in named if one.owner is Owner.FOREIGN and one not in doubles]
    another = (
        f"another snaprotd with the instance `{instance}` works on this account, or a request was carried out twice"
    )
    alike = [one for one in plan.decisions if one.owner is Owner.FOREIGN and is_alike(one.snapshot.name, instance)]
    found = {another: doubles, STRANGER: strange, OTHER_LETTERS: alike}
    return "; ".join(f"{words}: {_listed(told)}" for words, told in found.items() if told)


def _was_tried_again(snapshot: Snapshot) -> bool:
    return snapshot.state is SnapshotState.FAILED and snapshot.in_ledger is not False


def _listed(decisions: Iterable[Decision]) -> str:
    return ", ".join(f"{one.snapshot.name} (id {one.snapshot.id})" for one in decisions)


@dataclass(frozen=True, slots=True)
class _Entry:
    held: ServerHoldings
    policy: Policy
    at: datetime
    assessment: Assessment


def _day(at: datetime) -> date:
    """At its end holds end."""
    return at.astimezone(UTC).date()


class Assessments:
    """The latest assessment of each server. A fleet of thousands is shown many times between two lists."""

    def __init__(self) -> None:
        self._latest: dict[str, _Entry] = {}

    def of(self, config: Config, target: Target, held: ServerHoldings, now: datetime) -> Assessment:
        entry = self._latest.get(target.server_id)
        fits = entry is not None and entry.held.snapshots is held.snapshots and entry.policy is target.policy
        if entry is None or not fits or abs(now - entry.at) > STALE or _day(now) != _day(entry.at):
            entry = _Entry(held, target.policy, now, assess(config, target, held, now))
            self._latest[target.server_id] = entry
        return entry.assessment
