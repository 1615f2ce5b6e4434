"""Whose each snapshot of a server is, and whether its date can be trusted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase

from snaprotd.core.holds import bears_our_name, hold_of, is_alike, is_named, maker_of, name_read, says_so_itself
from snaprotd.core.model import EARLIEST, Owner, Snapshot, SnapshotState
from snaprotd.core.policy import Rules
from snaprotd.core.rotation import Rotation
from snaprotd.core.words import NOT_OURS, OTHER_LETTERS, STRANGER

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the provider's clock may be ahead of ours before a date counts as one in the future."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A snapshot with what was found out about it."""

    snapshot: Snapshot
    owner: Owner
    doubt: str | None
    """What is wrong with its date, or None."""
    taken_at: datetime | None
    """When it was taken: not before the slot for which our ledger knows it, whatever the provider's clock said."""
    hold: date | None = None
    """The last day, in UTC, for which it is held: no rotation deletes it before. None where it is not, or not ours."""
    is_twin: bool = False
    """A newer completed one of ours has the same name: they are one restore point."""
    is_doubled: bool = False
    """It may be another one of the list, under an id of another form: it holds no slot for certain."""
    why_not_ours: str = ""
    """What is told of one that is not ours; empty where it is."""

    @property
    def is_ours(self) -> bool:
        return self.owner is Owner.MANAGED

    @property
    def is_whole(self) -> bool:
        """A restore point of ours, held or not."""
        return self.is_ours and self.snapshot.is_completed and self.doubt is None and not self.is_twin

    @property
    def is_candidate(self) -> bool:
        """Whether rules decide over it: what is held stays, and is no period's newest."""
        return self.is_whole and self.hold is None

    @property
    def is_scrap(self) -> bool:
        """Our own one that has failed for good. With a date that cannot be trusted even that is left alone."""
        return self.may_be_scrap and self.snapshot.is_failed_for_good

    @property
    def may_be_scrap(self) -> bool:
        """As `is_scrap`, but it may have to be watched for longer."""
        failed = self.snapshot.state is SnapshotState.FAILED and not self.snapshot.has_turned
        return self.is_ours and failed and self.doubt is None and self.hold is None


def owner_of(snapshot: Snapshot, *, instance: str, adopt: tuple[str, ...]) -> Owner:
    """Tell whose a snapshot is: by the ledger where it knows that, else by its name.

    A pattern of `adopt`, however wide, never takes what another instance made: two daemons on one account
    must not delete each other's. What is named as ours are, and is not ours, it takes only where it says so itself: it
    may be what another host took, and `*` was written for the names that people give.
    """
    if (maker := maker_of(snapshot.name)) is not None and maker != instance:
        return Owner.FOREIGN
    believed = bears_our_name(snapshot.name, instance) and not _is_older_than_its_slot(snapshot)
    if snapshot.in_ledger or (snapshot.in_ledger is None and believed):
        return Owner.MANAGED
    meant = adopt if maker is None else tuple(filter(says_so_itself, adopt))
    adopted = any(fnmatchcase(snapshot.name, pattern) for pattern in meant)
    return Owner.MANAGED if adopted else Owner.FOREIGN


def _is_older_than_its_slot(snapshot: Snapshot) -> bool:
    """It was there before the slot in its name: it cannot have been taken for it."""
    made, at = name_read(snapshot.name), snapshot.created_at
    if made is None or at is None or at.utcoffset() is None or at < EARLIEST:
        return False
    return at < made.slot - CLOCK_TOLERANCE


def taken_since(
    since: datetime, snapshots: Iterable[Snapshot], *, instance: str, known: Collection[datetime]
) -> Snapshot | None:
    """The newest snapshot of ours by its name whose slot lies after `since` and is none of those that are `known`."""
    ours = [one for one in snapshots if bears_our_name(one.name, instance) and not _is_older_than_its_slot(one)]
    slots = {one: made.slot for one in ours if (made := name_read(one.name))}
    later = [one for one, slot in slots.items() if slot > since + CLOCK_TOLERANCE and slot not in known]
    return max(later, key=lambda one: slots[one], default=None)


def taken_for(rotation: Rotation, snapshots: tuple[Snapshot, ...]) -> Snapshot | None:
    """The snapshot of a rotation's slot: the one whose id the provider has given, whatever its name.

    By its name where no id is known, or where the list has not shown that id for `settle` seconds.
    """
    made = rotation.creation
    by_id = next((one for one in snapshots if made.snapshot_id in one.ids), None)
    if by_id is not None or (made.snapshot_id is not None and made.unseen <= rotation.settle):
        return by_id
    return next((one for one in snapshots if _may_be_mine(rotation, one)), None)


def _may_be_mine(rotation: Rotation, one: Snapshot) -> bool:
    """Whether one that bears the slot's name was taken for it: after its request, else as far as it is ours at all."""
    has_failed = one.is_among(rotation.creation.failed) and not one.is_completed
    if has_failed or not is_named(one, rotation.snapshot_name):
        return False
    if rotation.creation.was_asked:
        return not one.is_among(rotation.creation.passed_over)
    return owner_of(one, instance=rotation.rules.instance, adopt=()) is Owner.MANAGED


def others_of_that_name(rotation: Rotation, snapshots: tuple[Snapshot, ...]) -> list[Snapshot]:
    """Those that bear the name of a rotation's snapshot and were not taken for it."""
    return [one for one in snapshots if is_named(one, rotation.snapshot_name) and not _may_be_mine(rotation, one)]


def newest_first(snapshots: Sequence[Snapshot], rules: Rules, now: datetime) -> list[Judged]:
    """Everything that is there, newest first, what has no date to trust last."""
    latest = now.astimezone(UTC) + CLOCK_TOLERANCE
    judged = [_judged(one, rules, now, latest) for one in snapshots]
    return _with_twins(sorted(judged, key=age_order, reverse=True), rules)


def _judged(snapshot: Snapshot, rules: Rules, now: datetime, latest: datetime) -> Judged:
    owner = owner_of(snapshot, instance=rules.instance, adopt=rules.policy.adopt)
    why = _why_not_ours(snapshot, rules.instance) if owner is Owner.FOREIGN else ""
    doubt, taken_at = _doubt(snapshot.created_at, latest), _taken_at(snapshot, latest)
    hold = hold_of(snapshot, now) if owner is Owner.MANAGED else None
    return Judged(snapshot=snapshot, owner=owner, doubt=doubt, taken_at=taken_at, hold=hold, why_not_ours=why)


def _taken_at(snapshot: Snapshot, latest: datetime) -> datetime | None:
    """A slot that lies in the future tells that our own clock was wrong."""
    made = name_read(snapshot.name)
    is_behind = snapshot.in_ledger and made is not None and made.slot <= latest and _is_older_than_its_slot(snapshot)
    return made.slot if made is not None and is_behind else snapshot.created_at


def _why_not_ours(snapshot: Snapshot, instance: str) -> str:
    if bears_our_name(snapshot.name, instance):
        return STRANGER
    if is_alike(snapshot.name, instance):
        return f"{NOT_OURS}: {OTHER_LETTERS}"
    if (made := name_read(snapshot.name)) is not None:
        return f'{NOT_OURS} as instance "{instance}", but as "{made.instance}"'
    if maker_of(snapshot.name) is not None:
        return f"{NOT_OURS}: what its name says of a hold makes no sense"
    return f"{NOT_OURS}: it has the id that one of ours had" if snapshot.in_ledger is False else NOT_OURS


def _with_twins(seen: list[Judged], rules: Rules) -> list[Judged]:
    """Of those that have one slot of ours only the newest counts, and what is held: names of others repeat by intent.

    One of the very same moment, under an id of another form, may be that one itself, listed twice.
    """
    named: dict[datetime, Snapshot] = {}
    judged = []
    for one in seen:
        made = name_read(one.snapshot.name) if bears_our_name(one.snapshot.name, rules.instance) else None
        newer = named.setdefault(made.slot, one.snapshot) if made and one.is_whole else one.snapshot
        if newer is one.snapshot:
            judged.append(one)
        elif newer.created_at == one.snapshot.created_at and newer.id.isdigit() is not one.snapshot.id.isdigit():
            judged.append(replace(one, doubt=f"it may be {newer.id}, listed under another id", is_doubled=True))
        else:
            judged.append(replace(one, is_twin=one.hold is None))
    return judged


def _doubt(created_at: datetime | None, latest: datetime) -> str | None:
    if created_at is None or created_at.utcoffset() is None:
        return "created_at cannot be read"
    if created_at < EARLIEST:
        return f"created_at {_written(created_at)} cannot be right"
    if created_at > latest:
        return f"created_at {_written(created_at)} lies in the future"
    return None


def _written(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def age_order(one: Judged) -> tuple[bool, datetime, tuple[bool, int, str, str]]:
    """Sort key, oldest first: by instant, then by id.

    Python compares two times of one zone by their clock faces, which is wrong in the repeated hour: hence UTC.
    """
    taken_at = one.taken_at
    if one.doubt is not None or taken_at is None:
        return False, EARLIEST, _id_order(one.snapshot.id)
    return True, taken_at.astimezone(UTC), _id_order(one.snapshot.id)


def _id_order(text: str) -> tuple[bool, int, str, str]:
    """Sort key: ids of digits by their number, before all others, which go by their text."""
    if not (text.isascii() and text.isdigit()):
        return True, 0, text, text
    significant = text.lstrip("0")
    return False, len(significant), significant, text


def newest_completed(snapshots: Sequence[Snapshot], rules: Rules, now: datetime) -> Snapshot | None:
    """Return our newest completed snapshot whose date can be trusted, or None."""
    seen = newest_first(snapshots, rules, now)
    return next((one.snapshot for one in seen if one.is_whole), None)
