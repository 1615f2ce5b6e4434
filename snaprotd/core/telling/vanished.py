"""Snapshots of ours that were there once: which of them lists do not show any more. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from snaprotd.core.model import Snapshot
from snaprotd.core.telling.entries import Entry

ALARMING_FOR = timedelta(days=1)
"""For how long one that has vanished is an alarm, though there is a newer one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """A completed snapshot of ours, as a list has shown it."""

    ids: tuple[str, ...]
    name: str
    taken: datetime | None = None

    @classmethod
    def of(cls, snapshot: Snapshot) -> Sighting:
        return cls(ids=snapshot.ids, name=snapshot.name, taken=snapshot.created_at)

    def is_in(self, listed: Iterable[Snapshot]) -> bool:
        """By any of its ids, or by its name where all of them were changed."""
        return any(one.name == self.name or one.is_among(self.ids) for one in listed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vanished:
    """One that is gone, and was not deleted by snaprotd as far as the ledger tells."""

    id: str
    name: str
    taken: datetime | None
    told_at: datetime

    @classmethod
    def of(cls, entry: Entry) -> Vanished:
        """As an entry tells of it."""
        details, taken = entry.details, None
        with suppress(ValueError, TypeError):
            taken = datetime.fromisoformat(details.get("taken") or "")
        id_, name = str(details.get("snapshot_id")), str(details.get("snapshot"))
        return cls(id=id_, name=name, taken=taken, told_at=entry.at)

    def is_alarming(self, newest: datetime | None, now: datetime) -> bool:
        """`newest`: when the newest completed one that is there was taken."""
        return now - self.told_at < ALARMING_FOR or newest is None or newest < self.told_at


def missing_of(seen: Sequence[Sighting], listed: Collection[Snapshot]) -> list[Sighting]:
    """Those that a list does not show, in any state or under any id."""
    names = {one.name for one in listed}  # nearly all are there by name
    return [one for one in seen if one.name not in names and not one.is_in(listed)]


def seen_after(seen: Sequence[Sighting], ours: Iterable[Snapshot], lost: Collection[Sighting]) -> tuple[Sighting, ...]:
    """What was seen by now: `ours` that are completed, and what was seen before, without what is `lost` for certain."""
    new = [Sighting.of(one) for one in ours]
    gone = {one.name for one in (*new, *lost)}
    return (*(one for one in seen if one.name not in gone), *new)
