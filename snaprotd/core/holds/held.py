"""What is held until when: by its name, and by what a person has said of it since, which the ledger has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from snaprotd.core.holds.names import FOREVER, hold_named, is_named, name_read
from snaprotd.core.model import Snapshot

RELEASED = date.min
"""In place of the last day of a hold: there is none, whatever the name says."""


@dataclass(frozen=True)
class HoldFor:
    """For how long somebody has asked to hold a snapshot."""

    length: timedelta | None
    """None for ever; of no length for not at all."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """What a person has said last of one snapshot."""

    ids: tuple[str, ...]
    """The ids of the snapshot at that time."""
    name: str
    until: date
    """The last day, in UTC; `FOREVER`, or `RELEASED`."""

    def is_of(self, snapshot: Snapshot) -> bool:
        """Whether it was said of this one. What takes a hold away must fit by name too: an id may be given again.

        Where no id is of the form of those that it had then, its name must do to hold it.
        """
        if snapshot.is_among(self.ids):
            return self.until != RELEASED or is_named(snapshot, self.name)
        forms = {one.isdigit() for one in self.ids}
        is_renumbered = all(one.isdigit() not in forms for one in snapshot.ids)
        return self.until != RELEASED and is_renumbered and is_named(snapshot, self.name)


def last_day(now: datetime, length: timedelta | None) -> date | None:
    """The last day of a hold of this length that begins now; None for one of no length, for ever without any."""
    if length is None:
        return FOREVER
    try:
        return (now.astimezone(UTC) + length).date() if length > timedelta(0) else None
    except OverflowError:
        return FOREVER


def hold_of(snapshot: Snapshot, now: datetime) -> date | None:
    """The last day for which a snapshot of ours is held; None where it is not held, or not any more.

    A hold is over when both clocks say so, ours and the provider's: either may be ahead.
    """
    until = hold_named(snapshot.name) if snapshot.hold is None else snapshot.hold
    soonest = now if snapshot.listed_at is None else min(now, snapshot.listed_at)
    return until if until is not None and soonest.astimezone(UTC).date() <= until else None


def told_by_ledger(said: Iterable[Hold], promised: Iterable[date | None], snapshot: Snapshot) -> date | None:
    """What the ledger tells of a snapshot's hold beside its name; None where it tells nothing.

    A person's word counts before what was `promised` when it was asked for. That may be more than the name says by
    now, which a provider may have cut short; and where the name says less, or nothing that makes sense, it counts.
    """
    if words := [one.until for one in said if one.is_of(snapshot)]:
        return max(words)
    known = [until for until in promised if until is not None]
    made = name_read(snapshot.name)
    return max([*known, *([made.hold] if made and made.hold else [])]) if known else None


def end_of(until: date) -> float:
    """When a hold ends, in seconds since the epoch; infinity where it does not."""
    if until == FOREVER:
        return float("inf")
    return (datetime(until.year, until.month, until.day, tzinfo=UTC) + timedelta(days=1)).timestamp()


def hold_in_words(until: date) -> str:
    """`held until 2025-01-22`, or `held for ever`."""
    return "held for ever" if until == FOREVER else f"held until {until:%Y-%m-%d}"
