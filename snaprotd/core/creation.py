"""The one snapshot of a rotation: whether it was asked for, what is open about that, and which one it is.

And the other way round: what the ledger knows of a snapshot that bears our name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from snaprotd.core.asking.settling import settled_after
from snaprotd.core.holds import Hold, identity_in, told_by_ledger
from snaprotd.core.model import DOUBT, EARLIEST, Snapshot

A_LOOK = 1.0
"""Seconds: how long ago a snapshot was seen begins anew with each look, and a visit itself takes a moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Creation:
    """What is remembered of a snapshot that is to be made. Ages are in seconds."""

    creates: int = 0
    """Requests for the snapshot sent."""
    create_open: float | None = None
    """Age of the last of them, while it is not known whether it was, or will be, carried out."""
    snapshot_id: str | None = None
    unseen: float = 0.0
    """How long ago the snapshot was asked for or last seen in the list."""
    create_asked: bool = False
    """A request for it has been about to go out, whatever became of it: one of its name may be its doing."""
    accepted: bool = False
    """The provider has said that it takes the snapshot, and which one that is was lost."""
    passed_over: tuple[str, ...] = ()
    """The ids that bore its name before anything was asked for: none of them is it."""
    taken_at: datetime | None = None
    """When it was taken, as the list last said."""
    had_others: bool = False
    """The list showed snapshots of the server when this one was asked for."""
    failed: tuple[str, ...] = ()
    """The ids of those that were taken for the slot and ended as failed: none of them is it, unless it is completed."""
    asked_ago: float | None = None
    """How long ago the last request for it was promised."""
    took: float | None = None
    """How long it took, as far as it was watched to the end."""

    @property
    def was_asked(self) -> bool:
        return self.create_asked or self.creates > 0

    def asked_for(self, now: datetime) -> float:
        """How many seconds ago it was asked for, at the most: by its date, what no process counted counts too."""
        by_its_date = 0.0 if self.taken_at is None else (now - self.taken_at).total_seconds()
        return max(self.asked_ago or 0.0, by_its_date)

    def is_hidden(self, listed: int) -> bool:
        """A list of `listed` snapshots has lost all that it held when this one was asked for, and this one with them.

        It is not believed until it has had time to mend.
        """
        return self.had_others and not listed and self.create_open is not None and self.create_open < DOUBT

    def is_unsettled(self, settle: float) -> bool:
        """A request for the snapshot may still be carried out: look for it, and send no other. `settle` in seconds."""
        return self.create_open is not None and self.create_open < settled_after(settle)


def aged(creation: Creation, seconds: float) -> Creation:
    """After `seconds` more of a monotonic clock."""
    return replace(
        creation,
        unseen=creation.unseen + seconds,
        create_open=None if creation.create_open is None else creation.create_open + seconds,
        asked_ago=None if creation.asked_ago is None else creation.asked_ago + seconds,
    )


def promised(creation: Creation, *, had_others: bool = False, passed_over: tuple[str, ...] = ()) -> Creation:
    """The snapshot is about to be asked for; what bears its name by now is another one."""
    asked = replace(creation, create_open=0.0, creates=creation.creates + 1, create_asked=True, asked_ago=0.0)
    others = tuple(dict.fromkeys((*creation.passed_over, *passed_over)))
    return replace(asked, had_others=had_others or creation.had_others, passed_over=others)


def accepted(creation: Creation) -> Creation:
    """It will be there, by the provider's word: look for it, and never ask again."""
    return replace(creation, create_open=0.0, accepted=True)


def lost(creation: Creation) -> Creation:
    """The answer was lost: the request may have been carried out, or may yet be."""
    return replace(creation, create_open=0.0)


def not_sent(creation: Creation) -> Creation:
    """The request was certainly not carried out, and may be sent again."""
    return replace(creation, create_open=None, creates=creation.creates - 1)


def refused(creation: Creation) -> Creation:
    """The provider will not make it."""
    return replace(creation, create_open=None)


def made(creation: Creation, snapshot_id: str) -> Creation:
    """The snapshot is there, or the provider has said that it will be."""
    return replace(creation, snapshot_id=snapshot_id, create_open=None, unseen=0.0)


def seen(creation: Creation, snapshot: Snapshot, *, was_watched: bool = False) -> Creation:
    """The list shows it. `was_watched`: in progress, in the list before this one."""
    taken_at = snapshot.created_at or creation.taken_at
    has_ended = was_watched and snapshot.is_completed and creation.took is None
    took = creation.asked_ago if has_ended else creation.took
    return replace(creation, snapshot_id=snapshot.id, taken_at=taken_at, unseen=0.0, took=took)


def ended_failed(creation: Creation, snapshot: Snapshot) -> Creation:
    """It has failed, as far as one list can tell: if a later one says so still, another is taken in its place."""
    return replace(creation, failed=tuple(dict.fromkeys((*creation.failed, *snapshot.ids))))


def passed_by(creation: Creation, snapshot: Snapshot) -> Creation:
    """It has failed, and is not waited for any more: another one is the slot's, unless this is completed before."""
    return replace(ended_failed(creation, snapshot), snapshot_id=None, taken_at=None, create_open=None, accepted=False)


def carried(creation: Creation, pause: float) -> Creation:
    """What the next attempt at the slot has of it, `pause` seconds after: all but how often it was asked for."""
    older = None if creation.asked_ago is None else creation.asked_ago + max(pause, 0.0)
    return replace(creation, creates=0, create_asked=creation.was_asked, asked_ago=older)


# -- what the ledger knows ---------------------------------------------------------------------------------------------

PAUSE_IN_LIFE = timedelta(minutes=1)
"""Between two marks of one life: some looks at the clock, each of which leaves a mark."""

CLOCKS_APART = timedelta(hours=1)
"""By how much the provider's clock may be ahead of ours where an id is recognised that came back under another name."""

ONE_MOMENT = timedelta(minutes=1)
"""What two lists may have between them for the time at which one snapshot was taken."""

ONE_SECOND = timedelta(seconds=1)

LIVES_KEPT = 100
"""Lives of a ledger that are remembered. What is older is believed by its name, as what was before the first."""


@dataclass(frozen=True)
class Life:
    """A time in which whatever was taken stands in the ledger."""

    begin: datetime
    end: datetime


def mark_of_life(lives: tuple[Life, ...], now: datetime) -> tuple[Life, ...]:
    """The lives, with a mark at `now`.

    What lies in the future was written by a clock that was ahead: it is no time in which we were there.
    """
    past = [one if one.end <= now else Life(one.begin, now) for one in lives if one.begin <= now]
    if past and now - past[-1].end <= PAUSE_IN_LIFE:
        return (*past[:-1], Life(past[-1].begin, now))
    return (*past, Life(now, now))[-LIVES_KEPT:]


def cut_off(lives: tuple[Life, ...], now: datetime) -> tuple[Life, ...]:
    """The lives of an old copy that was put back: what was taken after its last mark, before `now`, it cannot know."""
    return (*lives, Life(now, now))[-LIVES_KEPT:]


def alive_until(lives: tuple[Life, ...], now: datetime) -> tuple[Life, ...]:
    """The lives as of `now`, at which the last one may go on."""
    goes_on = bool(lives) and now - lives[-1].end <= PAUSE_IN_LIFE
    return mark_of_life(lives, now) if goes_on else lives


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What a rotation's row tells of the snapshot of its slot."""

    row: str
    """The rotation's id."""
    slot: datetime
    is_open: bool = False
    snapshot_id: str | None = None
    has_more: bool = True
    """A request for it may have made one whose id the row does not have."""
    passed_over: frozenset[str] = frozenset()
    """The ids that bore the name before anything was asked for."""
    ended_at: datetime | None = None
    has_succeeded: bool = False
    """It has seen that snapshot as completed."""
    taken_at: datetime | None = None
    """When that snapshot was taken, as the list has said."""
    hold: date | None = None
    """The last day for which that snapshot was to be held when it was asked for."""

    def names(self, snapshot: Snapshot, slot: datetime | None) -> bool:
        """Whether it is about that snapshot, whose name, if it is one of ours, tells `slot`."""
        if self.snapshot_id in snapshot.ids:
            return slot == self.slot or self._is_as_old_as(snapshot)
        return self.has_more and slot is not None and slot == self.slot and not snapshot.is_among(self.passed_over)

    def _is_as_old_as(self, snapshot: Snapshot) -> bool:
        """Of one with our id and another name: a person may have renamed it, or the provider have given an id again."""
        if (apart := _apart(self.taken_at, snapshot.created_at)) is not None:
            return apart <= ONE_MOMENT
        if self.ended_at is not None and not self.has_succeeded and self.taken_at is None:
            return False  # no list has shown ours: another one has the id now
        at = snapshot.created_at
        return self.ended_at is None or at is None or at <= self.ended_at + CLOCKS_APART

    def may_be_renumbered(self, snapshot: Snapshot, slot: datetime | None) -> bool:
        """Whether ids tell nothing, for none of the snapshot's is of the form of ours, and all the rest agrees.

        One that has an id of that form, and not ours, is another one: ours may have been deleted long ago.
        """
        mine, apart = self.snapshot_id, _apart(self.taken_at, snapshot.created_at)
        if mine is None or slot != self.slot or apart is None or apart >= ONE_SECOND:
            return False
        return all(one.isdigit() is not mine.isdigit() for one in snapshot.ids)

    def knows_whole(self, snapshot: Snapshot) -> bool:
        """Whether it has seen that very snapshot, which it is about, as completed."""
        return self.has_succeeded and (self.snapshot_id in snapshot.ids or not self.has_more)

    def knows_better_than(self, snapshot: Snapshot, slot: datetime | None) -> bool:
        """Whether an earlier list has shown when it was taken, and this one shows no date, or one that cannot be."""
        known, at = self.taken_at, snapshot.created_at
        is_it = slot == self.slot and self.snapshot_id in snapshot.ids
        if not is_it or known is None or known.utcoffset() is None or known < EARLIEST:
            return False
        if at is None or at.utcoffset() is None or at < EARLIEST:
            return True
        return self.ended_at is not None and known <= self.ended_at + CLOCKS_APART < at


def _apart(one: datetime | None, other: datetime | None) -> timedelta | None:
    """None where either is not known, or is no instant."""
    if one is None or other is None or one.utcoffset() is None or other.utcoffset() is None:
        return None
    return abs(one - other)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recollection:
    """What the ledger knows of the snapshots of one server."""

    traces: tuple[Trace, ...] = ()
    lives: tuple[Life, ...] = ()
    holds: tuple[Hold, ...] = ()
    """What persons have said of holding some of them."""

    def marked(self, snapshots: Iterable[Snapshot], instance: str) -> tuple[Snapshot, ...]:
        """The snapshots, each with whether the ledger names it, and whether it knows it as completed."""
        slots = [(one, _slot_told(one.name, instance)) for one in snapshots]
        told = [(trace, self._named_by(trace, slots)) for trace in self.traces]

        def about(one: Snapshot) -> list[Trace]:
            return [trace for trace, named in told if any(one is its for its in named)]

        return tuple(self._marked(one, slot, about(one)) for one, slot in slots)

    def _named_by(self, trace: Trace, slots: Sequence[tuple[Snapshot, datetime | None]]) -> list[Snapshot]:
        """Those that the row is about, of these with the slots that their names tell."""
        if named := [one for one, slot in slots if trace.names(one, slot)]:
            return named
        again = [one for one, slot in slots if trace.may_be_renumbered(one, slot)]
        return again if len(again) == 1 else []

    def _marked(self, one: Snapshot, slot: datetime | None, about_it: list[Trace]) -> Snapshot:
        in_ledger = True if about_it else self._knows(one, slot)
        hold = told_by_ledger(self.holds, [trace.hold for trace in about_it], one)
        taken_at = next((trace.taken_at for trace in about_it if trace.knows_better_than(one, slot)), one.created_at)
        was_whole = not one.is_completed and (one.was_completed or any(its.knows_whole(one) for its in about_it))
        if taken_at is one.created_at and (in_ledger, was_whole, hold) == (one.in_ledger, one.was_completed, one.hold):
            return one  # as of most that no row is about
        return replace(one, in_ledger=in_ledger, was_completed=was_whole, created_at=taken_at, hold=hold)

    def rows_of(self, snapshots: Iterable[Snapshot], instance: str) -> set[str]:
        """The ids of the rows that name one of these."""
        slots = [(one, _slot_told(one.name, instance)) for one in snapshots]
        return {trace.row for trace in self.traces if self._named_by(trace, slots)}

    def _knows(self, snapshot: Snapshot, slot: datetime | None) -> bool | None:
        """Of one that no row is about: False where one should be."""
        if slot is None and any(trace.snapshot_id in snapshot.ids for trace in self.traces):
            return False
        life = next((life for life in self.lives if slot is not None and life.begin <= slot <= life.end), None)
        if life is None:
            return None
        # A rotation that began in an earlier life may have gone on in one of which this ledger, a copy, has nothing.
        is_cut = life is not self.lives[-1] and any(trace.is_open and trace.slot == slot for trace in self.traces)
        return None if is_cut else False


def _slot_told(name: str, instance: str) -> datetime | None:
    """The slot that a name of ours tells."""
    made = identity_in(name)
    return made.slot if made is not None and made.instance == instance else None
