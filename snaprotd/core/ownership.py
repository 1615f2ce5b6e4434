"""Whose each snapshot of a server is, and whether its date can be trusted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache

from snaprotd.core.model import SLOT_FORMAT, Owner, Snapshot, SnapshotState
from snaprotd.core.policy import Rules

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the provider's clock may be ahead of ours before a date counts as one in the future."""

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""A date before this is a placeholder (the year 1, the Unix epoch), not the day a snapshot was taken."""

_NAME = re.compile(r"snaprotd-([a-z0-9_]{1,32})-([0-9]{8}T[0-9]{6}Z)")


@dataclass(frozen=True, kw_only=True)
class Judged:
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
        """Our own one that has failed for good. With a date that cannot be trusted even that is left alone."""
        return self.is_ours and self.snapshot.is_failed_for_good and self.doubt is None

    @property
    def may_be_scrap(self) -> bool:
        """As `is_scrap`, but it may have to be watched for longer."""
        failed = self.snapshot.state is SnapshotState.FAILED and not self.snapshot.has_turned
        return self.is_ours and failed and self.doubt is None


def owner_of(snapshot: Snapshot, *, instance: str, adopt: tuple[str, ...]) -> Owner:
    """Tell whose a snapshot is by its name.

    A pattern of `adopt`, however wide, never takes what another instance made: two daemons on one account
    must not delete each other's.
    """
    made = _made(snapshot.name)
    if made is not None:
        return Owner.MANAGED if made.instance == instance else Owner.FOREIGN
    adopted = any(fnmatchcase(snapshot.name, pattern) for pattern in adopt)
    return Owner.MANAGED if adopted else Owner.FOREIGN


def taken_since(
    since: datetime, snapshots: Iterable[Snapshot], *, instance: str, known: Collection[datetime]
) -> Snapshot | None:
    """The newest snapshot of ours by its name whose slot lies after `since` and is none of those that are `known`."""
    slots = {one: made.slot for one in snapshots if (made := _made(one.name)) and made.instance == instance}
    later = [one for one, slot in slots.items() if slot > since + CLOCK_TOLERANCE and slot not in known]
    return max(later, key=lambda one: slots[one], default=None)


@dataclass(frozen=True)
class _Made:
    """What a name says that a daemon has given."""

    instance: str
    slot: datetime


@lru_cache(maxsize=4096)
def _made(name: str) -> _Made | None:
    """What the name says; None where no daemon has given it."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return _Made(match[1], datetime.strptime(match[2], SLOT_FORMAT).replace(tzinfo=UTC))
    except ValueError:
        return None


def newest_first(snapshots: Sequence[Snapshot], rules: Rules, now: datetime) -> list[Judged]:
    """Everything that is there, newest first, what has no date to trust last."""
    latest, instance, adopt = now.astimezone(UTC) + CLOCK_TOLERANCE, rules.instance, rules.policy.adopt
    seen = [
        Judged(snapshot=one, owner=owner_of(one, instance=instance, adopt=adopt), doubt=_doubt(one.created_at, latest))
        for one in snapshots
    ]
    return sorted(seen, key=age_order, reverse=True)


def _doubt(created_at: datetime | None, latest: datetime) -> str | None:
    if created_at is None or created_at.utcoffset() is None:
        return "created_at cannot be read"
    text = created_at.isoformat().replace("+00:00", "Z")
    if created_at < EARLIEST:
        return f"created_at {text} cannot be right"
    if created_at > latest:
        return f"created_at {text} lies in the future"
    return None


def age_order(one: Judged) -> tuple[bool, datetime, tuple[bool, int, str, str]]:
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


def newest_completed(snapshots: Sequence[Snapshot], rules: Rules, now: datetime) -> Snapshot | None:
    """Return our newest completed snapshot whose date can be trusted, or None."""
    seen = newest_first(snapshots, rules, now)
    return next((one.snapshot for one in seen if one.is_candidate), None)
