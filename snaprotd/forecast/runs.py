"""The runs of a forecast: whose turn it is through outages, and what each run leaves on a server that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import count
from random import Random

from snaprotd.core.holds import FOREVER, snapshot_name
from snaprotd.core.model import Owner, Snapshot, SnapshotState
from snaprotd.core.policy import Policy, Rules
from snaprotd.core.retention import Decision
from snaprotd.core.room import NEW, make_room, rehearse
from snaprotd.core.schedule import Schedule, missed_slots, next_opening, next_slot
from snaprotd.core.words import UNITS

MOST_RUNS = 100_000
"""More are not simulated: ten years of @hourly are fewer."""


SERVER = "forecast"
"""The id of the server that there is not."""

_LENGTH = r"([0-9]{1,5}(?:\.[0-9]{1,3})?)([hdw])"


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
        begin, end = float(found[1]) * UNITS[found[2]], float(found[3]) * UNITS[found[4]]
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
    held: int = 0
    """Those of ours that are held all the time."""


class Fate(StrEnum):
    """What becomes of a slot."""

    TAKEN = "taken"
    FAILED = "failed"
    MISSED = "missed"
    BLOCKED = "blocked"


@dataclass(frozen=True, kw_only=True)
class Foreseen:
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


# -- whose turn it is, and when ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Down:
    """An outage, and the slot that is made up for when it ends."""

    begin: datetime
    end: datetime
    late: datetime | None
    late_at: datetime
    """When that runs: not before its window opens."""


@dataclass(frozen=True, kw_only=True)
class _Turn:
    slot: datetime
    at: datetime
    is_missed: bool = False


def slots_after(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    slot = next_slot(schedule, after)
    while slot is not None:
        yield slot
        slot = next_slot(schedule, slot)


def slots_until(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    found: list[datetime] = []
    for slot in slots_after(schedule, start):
        if slot > end:
            break
        found.append(slot)
        if len(found) > MOST_RUNS:
            written = " | ".join(schedule.expressions)
            days = (end - start).days
            raise TooManyRuns(f"`{written}` has more than {MOST_RUNS:,} slots in {days} days: ask for fewer days")
    return found


def apart(start: datetime, outages: Iterable[Outage]) -> list[tuple[datetime, datetime]]:
    """Begin and end of each outage, in order; those that touch are one."""
    apart: list[tuple[datetime, datetime]] = []
    for outage in sorted(outages, key=lambda one: one.begin):
        begin, end = start + outage.begin, start + outage.end
        if apart and begin <= apart[-1][1]:
            begin, earlier_end = apart.pop()
            end = max(end, earlier_end)
        apart.append((begin, end))
    return apart


def down_time(schedule: Schedule, policy: Policy, begin: datetime, end: datetime) -> _Down:
    missed = missed_slots(schedule, seen=begin, now=end, policy_missed=policy.missed, within=policy.missed_within)
    late, late_at = missed.run, next_opening(schedule.window, schedule.timezone, end)
    if late is not None and late_at > end:
        following = next_slot(schedule, end)
        has_lapsed = late_at - late > policy.missed_within or (following is not None and following <= late_at)
        late = None if has_lapsed else late
    return _Down(begin=begin, end=end, late=late, late_at=late_at)


def turns_of(slots: Iterable[datetime], downs: Sequence[_Down]) -> Iterator[_Turn]:
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
        yield _Turn(slot=down.late, at=down.late_at)


# -- the server that there is not --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Phantom:
    rules: Rules
    foreign: tuple[Snapshot, ...]
    held: tuple[Snapshot, ...] = ()

    def with_what_stays(self, others: tuple[Snapshot, ...]) -> tuple[Snapshot, ...]:
        """Those of the schedule, and what no rotation deletes."""
        return (*others, *self.foreign, *self.held)


def foreign_snapshot(number: int, start: datetime) -> Snapshot:
    made = start - timedelta(days=number + 1)
    name = f"by-hand-{number + 1}"
    return _snapshot(name, name, made)


def held_snapshot(number: int, start: datetime, instance: str) -> Snapshot:
    made = start - timedelta(days=number + 1)
    name = snapshot_name(instance, made, FOREVER)
    return _snapshot(name, name, made)


def _snapshot(its_id: str, name: str, made: datetime) -> Snapshot:
    return Snapshot(
        id=its_id,
        server_id=SERVER,
        server_name="",
        name=name,
        state=SnapshotState.COMPLETED,
        status=str(SnapshotState.COMPLETED),
        created_at=made,
    )


def run_all(server: Phantom, turns: Iterable[_Turn], assumed: Assumed) -> Iterator[Foreseen]:
    dice = Random(assumed.seed)  # noqa: S311 - nothing secret
    held: tuple[Snapshot, ...] = ()
    for number, turn in zip(count(1), turns, strict=False):
        fails = dice.random() < assumed.fail  # drawn for every slot, so that the same ones fail under any policy
        if turn.is_missed:
            run = Foreseen(slot=turn.slot, at=turn.at, fate=Fate.MISSED, held=held)
        elif fails:
            run = _failed(server, turn, held)
        else:
            run = _rotated(server, turn, held, str(number))
        held = run.held
        yield run


def _rotated(server: Phantom, turn: _Turn, held: tuple[Snapshot, ...], its_id: str) -> Foreseen:
    rehearsal = rehearse(server.with_what_stays(held), server.rules, server_id=SERVER, slot=turn.at)
    if rehearsal.blocked:
        return Foreseen(slot=turn.slot, at=turn.at, fate=Fate.BLOCKED, held=held, blocked=rehearsal.blocked)
    taken = _snapshot(its_id, snapshot_name(server.rules.instance, turn.slot), turn.at)
    kept = (one.snapshot for one in rehearsal.decisions if one.owner is Owner.MANAGED and not one.delete)
    ours = (one for one in kept if one not in server.held)
    return Foreseen(
        slot=turn.slot,
        at=turn.at,
        fate=Fate.TAKEN,
        taken=taken,
        deleted=rehearsal.deleted,
        held=tuple(taken if one.id == NEW else one for one in ours),
    )


def _failed(server: Phantom, turn: _Turn, held: tuple[Snapshot, ...]) -> Foreseen:
    room = make_room(server.with_what_stays(held), server.rules, now=turn.at)
    if room.blocked:
        return Foreseen(slot=turn.slot, at=turn.at, fate=Fate.BLOCKED, held=held, blocked=room.blocked)
    gone = {decision.snapshot.id for decision in room.deletions}
    left = tuple(one for one in held if one.id not in gone)
    return Foreseen(slot=turn.slot, at=turn.at, fate=Fate.FAILED, deleted=room.deletions, held=left)
