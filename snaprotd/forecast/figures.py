"""A forecast in figures: when its schedule has settled, and what is held from then on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from snaprotd.core.model import Snapshot
from snaprotd.core.policy import Retention
from snaprotd.core.retention import PERIODS
from snaprotd.forecast.runs import MOST_RUNS, Fate, Foreseen

_LONGEST = {
    "last": timedelta(0),
    "hourly": timedelta(hours=1),
    "daily": timedelta(days=1),
    "weekly": timedelta(weeks=1),
    "monthly": timedelta(days=31),
    "yearly": timedelta(days=366),
}
"""How long a period of each rule may be: after so long every phase of it has been seen once."""


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


# -- how long to look --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """The runs asked for, and those after them that it took to see how the schedule settles."""

    runs: list[Foreseen]
    until: datetime
    """How long what the last one left was looked at."""
    settled_at: datetime | None


class Settling:
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

    def look(self, run: Foreseen) -> None:
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


def until_settled(runs: Iterable[Foreseen], settling: Settling, end: datetime, latest: datetime) -> Simulated:
    seen: list[Foreseen] = []
    until = end
    for run in runs:
        if run.at > end and (settling.is_seen_through(until) or _is_vain(run, len(seen), latest)):
            break
        settling.look(run)
        seen.append(run)
        until = max(run.at, end)
    return Simulated(runs=seen, until=until, settled_at=settling.since)


def _is_vain(run: Foreseen, so_far: int, latest: datetime) -> bool:
    """Whether it is no use to go on. What is blocked once stays so."""
    return run.fate is Fate.BLOCKED or so_far > MOST_RUNS or run.at > latest


# -- in figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Span:
    """The time between two runs, in which nothing changes but the age of what is held."""

    begin: datetime
    end: datetime
    held: tuple[Snapshot, ...]


def _spans(runs: Sequence[Foreseen], until: datetime) -> list[_Span]:
    """The time from the first snapshot on."""
    first = next((place for place, run in enumerate(runs) if run.taken), len(runs))
    ends = [run.at for run in runs[first + 1 :]]
    return [
        _Span(begin=run.at, end=max(run.at, end), held=run.held)
        for run, end in zip(runs[first:], (*ends, until), strict=False)
    ]


def summarize(simulated: Simulated, end: datetime, slots: int) -> Summary:
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


def _at_once(run: Foreseen, slots: int) -> int:
    """Our snapshots when the new one was there and the old ones still were; on a full server one went before."""
    return min(len(run.held) + len(run.deleted), slots)
