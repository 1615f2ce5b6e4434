"""What a policy will leave behind, slot by slot: the schedule and the retention of many days ahead, with no server.

The very rules of a rotation decide (`rehearsal`, `retention`, `schedule`). Three things are simpler than in life: a
rotation takes no time, nothing is delayed by `spread`, and a rotation that fails does so after it has made room and
before its snapshot exists. No input, no output, no clock: time begins at an argument.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import chain, count
from random import Random
from zoneinfo import ZoneInfo

from snaprotd.model import PROVIDER_LIMIT, Owner, Policy, Retention, Snapshot, snapshot_name
from snaprotd.rehearsal import NEW, rehearse
from snaprotd.retention import PERIODS, Decision, make_room
from snaprotd.schedule import Schedule, missed_slots, next_slot

MOST_RUNS = 100_000
"""More are not simulated: ten years of @hourly are fewer."""

LONGEST_LOOK = timedelta(days=40 * 366)
"""How far the simulation goes at most, beyond the days asked for, to see how the schedule settles."""

SERVER = "forecast"
"""The id of the server that there is not."""

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_LENGTH = r"([0-9]{1,5}(?:\.[0-9]{1,3})?)([hdw])"

_LONGEST = {
    "last": timedelta(0),
    "hourly": timedelta(hours=1),
    "daily": timedelta(days=1),
    "weekly": timedelta(weeks=1),
    "monthly": timedelta(days=31),
    "yearly": timedelta(days=366),
}
"""How long a period of each rule may be: after so long every phase of it has been seen once."""


class TooManyRuns(ValueError):
    """The schedule has more than `MOST_RUNS` slots in the days asked for. The text is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A time in which no daemon runs, by its distance from the start."""

    begin: timedelta
    end: timedelta

    @classmethod
    def parse(cls, text: str) -> Outage:
        """Read `3d..9d`. Raises ValueError with a sentence for the user."""
        found = re.fullmatch(rf"{_LENGTH}\.\.{_LENGTH}", text.strip())
        if found is None:
            raise ValueError(
                f"`{text}` is no outage: write its begin and its end, counted from now in hours, days or weeks, "
                "as in 3d..9d, 12h..36h or 1w..2w"
            )
        begin, end = float(found[1]) * _UNITS[found[2]], float(found[3]) * _UNITS[found[4]]
        if begin >= end:
            raise ValueError(f"`{text}` is no outage: its end has to be later than its begin, as in 3d..9d")
        return cls(begin=begin, end=end)


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What is supposed to happen besides the policy."""

    days: int = 90
    outages: tuple[Outage, ...] = ()
    fail: float = 0.0
    """The share of rotations that fail, 0 to 1."""
    seed: int = 1
    """Decides which ones. The same slots fail under any `keep`; a larger share adds to them."""
    foreign: int = 0
    """Snapshots of somebody else that are on the server all the time."""


class Fate(StrEnum):
    """What becomes of a slot."""

    TAKEN = "taken"
    FAILED = "failed"
    MISSED = "missed"
    BLOCKED = "blocked"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One slot, and how things are after it."""

    slot: datetime
    at: datetime
    """When its rotation ran: later than the slot where it was missed and is made up for."""
    fate: Fate
    taken: Snapshot | None = None
    deleted: tuple[Decision, ...] = ()
    held: tuple[Snapshot, ...] = ()
    """The restore points: our snapshots, newest first."""
    blocked: str = ""
    """Why no snapshot could be taken, and who holds the slots."""

    @property
    def is_late(self) -> bool:
        return self.at != self.slot


@dataclass(frozen=True, kw_only=True)
class Life:
    """A snapshot from its creation to its deletion."""

    snapshot: Snapshot
    begin: datetime
    end: datetime | None = None
    """None where it is there to the last."""
    reason: str = ""
    """Why it was deleted."""


@dataclass(frozen=True, kw_only=True)
class Extreme:
    """The age of a restore point when it was at its worst or best, and when that was."""

    age: timedelta
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A forecast in figures.

    How much is held and how far back one can go is told of the time after the schedule has settled: from then on
    each rule has had as many periods as it counts, so that more runs add nothing new. Where the days asked for are
    too few for that, the simulation went on; where it never settles, they are told from the first snapshot on.
    """

    taken: int
    failed: int
    missed: int
    blocked: int
    late: int
    """Of those taken, failed and blocked: how many ran after their slot."""
    first_at: datetime | None
    """When the first snapshot was taken."""
    settled_at: datetime | None
    held_least: int
    held_most: int
    newest_worst: Extreme | None
    """The oldest that the newest restore point ever was, from the first one on. None where there never was one."""
    reach_least: Extreme | None
    """The age of the oldest restore point, where one can go back least far."""
    reach_most: Extreme | None
    free_between: int
    """Slots that are free between rotations, at least."""
    free_while_taking: int
    """Slots that are free while a new snapshot is there and the old ones still are, at least."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is to be expected of one policy."""

    policy: Policy
    limit: int
    start: datetime
    end: datetime
    assumed: Assumed
    foreign: tuple[Snapshot, ...]
    outages: tuple[tuple[datetime, datetime], ...]
    """In order and apart from each other. The last may end after `end`."""
    runs: tuple[Run, ...]
    """Those in (start, end], by the time at which they ran."""
    summary: Summary

    @property
    def lives(self) -> tuple[Life, ...]:
        """Our snapshots, in the order in which they were taken."""
        lives = {run.taken.id: Life(snapshot=run.taken, begin=run.at) for run in self.runs if run.taken}
        for run in self.runs:
            for decision in run.deleted:
                gone = lives[decision.snapshot.id]
                lives[decision.snapshot.id] = replace(gone, end=run.at, reason=decision.reason)
        return tuple(lives.values())


def expect(
    policy: Policy, *, start: datetime, assumed: Assumed, instance: str = "main", limit: int = PROVIDER_LIMIT
) -> Forecast:
    """Run the policy from an empty server on. A paused one is run as if it were not.

    Raises TooManyRuns, and ValueError where somebody else's snapshots are more than the limit.
    """
    if assumed.foreign > limit:
        raise ValueError(f"{assumed.foreign} snapshots of somebody else do not fit: the limit is {limit}")
    end = start + timedelta(days=assumed.days)
    schedule = Schedule(expressions=policy.schedule, timezone=policy.timezone)
    slots = _slots_until(schedule, start, end)
    downs = [_down(schedule, policy, begin, back) for begin, back in _apart(start, assumed.outages)]
    server = _Server(
        policy=replace(policy, adopt=()),  # somebody else's is not what the patterns were meant for
        instance=instance,
        limit=limit,
        foreign=tuple(_foreign(number, start) for number in range(assumed.foreign)),
    )
    turns = _turns(chain(slots, _slots(schedule, end)), downs)
    settling = _Settling(policy.keep, policy.timezone)
    longest = LONGEST_LOOK if assumed.fail < 1 else timedelta(0)
    simulated = _until_settled(_runs(server, turns, assumed), settling, end, start + longest)
    return Forecast(
        policy=policy,
        limit=limit,
        start=start,
        end=end,
        assumed=assumed,
        foreign=server.foreign,
        outages=tuple((down.begin, down.end) for down in downs),
        runs=tuple(run for run in simulated.runs if run.at <= end),
        summary=_summary(simulated, end, limit - assumed.foreign),
    )


def alike(named: Iterable[tuple[str, Policy]]) -> list[tuple[list[str], Policy]]:
    """Policies that have the same forecast, each once, with the names of all its servers."""
    groups: dict[Policy, list[str]] = {}
    for name, policy in named:
        groups.setdefault(_what_counts(policy), []).append(name)
    return [(names, policy) for policy, names in groups.items()]


def _what_counts(policy: Policy) -> Policy:
    return Policy(
        schedule=policy.schedule,
        timezone=policy.timezone,
        keep=policy.keep,
        when_full=policy.when_full,
        missed=policy.missed,
        missed_within=policy.missed_within,
        paused=policy.paused,
    )


# -- whose turn it is, and when ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Down:
    """An outage, and the slot that is made up for when it ends."""

    begin: datetime
    end: datetime
    late: datetime | None


@dataclass(frozen=True, kw_only=True)
class _Turn:
    slot: datetime
    at: datetime
    is_missed: bool = False


def _slots(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    slot = next_slot(schedule, after)
    while slot is not None:
        yield slot
        slot = next_slot(schedule, slot)


def _slots_until(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    found: list[datetime] = []
    for slot in _slots(schedule, start):
        if slot > end:
            break
        found.append(slot)
        if len(found) > MOST_RUNS:
            written = " | ".join(schedule.expressions)
            days = (end - start).days
            raise TooManyRuns(f"`{written}` has more than {MOST_RUNS:,} slots in {days} days: ask for fewer days")
    return found


def _apart(start: datetime, outages: Iterable[Outage]) -> list[tuple[datetime, datetime]]:
    """Begin and end of each outage, in order; those that touch are one."""
    apart: list[tuple[datetime, datetime]] = []
    for outage in sorted(outages, key=lambda one: one.begin):
        begin, end = start + outage.begin, start + outage.end
        if apart and begin <= apart[-1][1]:
            begin, earlier_end = apart.pop()
            end = max(end, earlier_end)
        apart.append((begin, end))
    return apart


def _down(schedule: Schedule, policy: Policy, begin: datetime, end: datetime) -> _Down:
    missed = missed_slots(schedule, seen=begin, now=end, policy_missed=policy.missed, within=policy.missed_within)
    return _Down(begin=begin, end=end, late=missed.run)


def _turns(slots: Iterable[datetime], downs: Sequence[_Down]) -> Iterator[_Turn]:
    """Every slot, in the order of what happens. One that is made up for comes when its outage ends."""
    ahead = list(downs)
    for slot in slots:
        while ahead and ahead[0].end < slot:
            yield from _made_up_for(ahead.pop(0))
        if not ahead or slot <= ahead[0].begin:
            yield _Turn(slot=slot, at=slot)
        elif slot != ahead[0].late:
            yield _Turn(slot=slot, at=slot, is_missed=True)
    for down in ahead:
        yield from _made_up_for(down)


def _made_up_for(down: _Down) -> Iterator[_Turn]:
    if down.late is not None:
        yield _Turn(slot=down.late, at=down.end)


# -- the server that there is not --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Server:
    policy: Policy
    instance: str
    limit: int
    foreign: tuple[Snapshot, ...]


def _foreign(number: int, start: datetime) -> Snapshot:
    made = start - timedelta(days=number + 1)
    name = f"by-hand-{number + 1}"
    return _snapshot(name, name, made)


def _snapshot(its_id: str, name: str, made: datetime) -> Snapshot:
    return Snapshot(id=its_id, server_id=SERVER, server_name="", name=name, status="completed", created_at=made)


def _runs(server: _Server, turns: Iterable[_Turn], assumed: Assumed) -> Iterator[Run]:
    dice = Random(assumed.seed)  # noqa: S311 - nothing secret
    held: tuple[Snapshot, ...] = ()
    for number, turn in zip(count(1), turns, strict=False):
        fails = dice.random() < assumed.fail  # drawn for every slot, so that the same ones fail under any policy
        if turn.is_missed:
            run = Run(slot=turn.slot, at=turn.at, fate=Fate.MISSED, held=held)
        elif fails:
            run = _failed(server, turn, held)
        else:
            run = _rotated(server, turn, held, str(number))
        held = run.held
        yield run


def _rotated(server: _Server, turn: _Turn, held: tuple[Snapshot, ...], its_id: str) -> Run:
    rehearsal = rehearse(
        (*held, *server.foreign),
        server.policy,
        server_id=SERVER,
        instance=server.instance,
        limit=server.limit,
        slot=turn.at,
    )
    if rehearsal.blocked:
        return Run(slot=turn.slot, at=turn.at, fate=Fate.BLOCKED, held=held, blocked=rehearsal.blocked)
    taken = _snapshot(its_id, snapshot_name(server.instance, turn.slot), turn.at)
    ours = (one.snapshot for one in rehearsal.decisions if one.owner is Owner.MANAGED and not one.delete)
    return Run(
        slot=turn.slot,
        at=turn.at,
        fate=Fate.TAKEN,
        taken=taken,
        deleted=rehearsal.deleted,
        held=tuple(taken if one.id == NEW else one for one in ours),
    )


def _failed(server: _Server, turn: _Turn, held: tuple[Snapshot, ...]) -> Run:
    room = make_room((*held, *server.foreign), server.policy, instance=server.instance, limit=server.limit, now=turn.at)
    if room.blocked:
        return Run(slot=turn.slot, at=turn.at, fate=Fate.BLOCKED, held=held, blocked=room.blocked)
    deleted: tuple[Decision, ...] = ()
    if room.delete is not None:
        deleted = (Decision(snapshot=room.delete, owner=Owner.MANAGED, delete=True, reason=room.reason),)
    left = tuple(one for one in held if one is not room.delete)
    return Run(slot=turn.slot, at=turn.at, fate=Fate.FAILED, deleted=deleted, held=left)


# -- how long to look --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Simulated:
    """The runs asked for, and those after them that it took to see how the schedule settles."""

    runs: list[Run]
    until: datetime
    """How long what the last one left was looked at."""
    settled_at: datetime | None


class _Settling:
    """Watches whether each rule has had as many periods with a snapshot as it counts."""

    def __init__(self, keep: Retention, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)
        self._wanted: dict[str, int] = {rule: number for rule, number in vars(keep).items() if number}
        self._seen: dict[str, set[str]] = {rule: set() for rule in self._wanted}
        # The newest of one period is the newest of all: such a rule has no phases.
        phases = (_LONGEST[rule] for rule, number in self._wanted.items() if number > 1)
        self._phases = max(phases, default=timedelta(0))
        self._later = 0
        self.since: datetime | None = None

    def look(self, run: Run) -> None:
        if run.taken is None:
            return
        if self.since is not None:
            self._later += 1
            return
        local = run.at.astimezone(self._zone)
        for rule, periods in self._seen.items():
            periods.add(local.strftime(PERIODS[rule]) if rule in PERIODS else run.taken.id)
        if all(len(self._seen[rule]) >= number for rule, number in self._wanted.items()):
            self.since = run.at

    def is_seen_through(self, moment: datetime) -> bool:
        """Whether the longest rule has passed through all its phases since, and another snapshot was taken."""
        return self.since is not None and self._later > 0 and moment > self.since + self._phases


def _until_settled(runs: Iterable[Run], settling: _Settling, end: datetime, latest: datetime) -> _Simulated:
    seen: list[Run] = []
    until = end
    for run in runs:
        if run.at > end and (settling.is_seen_through(until) or _is_vain(run, len(seen), latest)):
            break
        settling.look(run)
        seen.append(run)
        until = max(run.at, end)
    return _Simulated(runs=seen, until=until, settled_at=settling.since)


def _is_vain(run: Run, so_far: int, latest: datetime) -> bool:
    """Whether it is no use to go on. What is blocked once stays so."""
    return run.fate is Fate.BLOCKED or so_far > MOST_RUNS or run.at > latest


# -- in figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Span:
    """The time between two runs, in which nothing changes but the age of what is held."""

    begin: datetime
    end: datetime
    held: tuple[Snapshot, ...]


def _spans(runs: Sequence[Run], until: datetime) -> list[_Span]:
    """The time from the first snapshot on."""
    first = next((place for place, run in enumerate(runs) if run.taken), len(runs))
    ends = [run.at for run in runs[first + 1 :]]
    return [
        _Span(begin=run.at, end=max(run.at, end), held=run.held)
        for run, end in zip(runs[first:], (*ends, until), strict=False)
    ]


def _summary(simulated: _Simulated, end: datetime, slots: int) -> Summary:
    """`slots`: how many are not taken by others."""
    shown = [run for run in simulated.runs if run.at <= end]
    in_days = _spans(shown, end)
    settled = simulated.settled_at
    if settled is None:
        telling = in_days
    else:
        telling = [span for span in _spans(simulated.runs, simulated.until) if span.begin >= settled]
    fates = Counter(run.fate for run in shown)
    counts = [len(span.held) for span in telling]
    return Summary(
        taken=fates[Fate.TAKEN],
        failed=fates[Fate.FAILED],
        missed=fates[Fate.MISSED],
        blocked=fates[Fate.BLOCKED],
        late=sum(run.is_late for run in shown),
        first_at=next((run.at for run in simulated.runs if run.taken), None),
        settled_at=settled,
        held_least=min(counts, default=0),
        held_most=max(counts, default=0),
        newest_worst=_oldest_age(_newest(span) for span in in_days),
        reach_least=_least_age(_reach(span, span.begin) for span in telling),
        reach_most=_oldest_age(_reach(span, span.end) for span in telling),
        free_between=slots - max((len(run.held) for run in simulated.runs), default=0),
        free_while_taking=slots - max((_at_once(run, slots) for run in simulated.runs), default=0),
    )


def _newest(span: _Span) -> Extreme | None:
    return _aged(span.held[0], span.end) if span.held else None


def _reach(span: _Span, at: datetime) -> Extreme:
    """How far back one can go. Not at all, where nothing is left."""
    return (span.held and _aged(span.held[-1], at)) or Extreme(age=timedelta(0), at=at)


def _aged(snapshot: Snapshot, at: datetime) -> Extreme:
    assert snapshot.created_at is not None
    return Extreme(age=at - snapshot.created_at, at=at)


def _oldest_age(ages: Iterable[Extreme | None]) -> Extreme | None:
    return max((one for one in ages if one), key=lambda one: one.age, default=None)


def _least_age(ages: Iterable[Extreme]) -> Extreme | None:
    return min(ages, key=lambda one: one.age, default=None)


def _at_once(run: Run, slots: int) -> int:
    """Our snapshots when the new one was there and the old ones still were; on a full server one went before."""
    return min(len(run.held) + len(run.deleted), slots)
