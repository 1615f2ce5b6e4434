"""The nouns of snaprotd: what a policy, a server and a snapshot are. No input, no output, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

PROVIDER_LIMIT = 5
"""Snapshots a server may hold at VPS.org, whoever made them (the provider's published figure)."""

SLOT_FORMAT = "%Y%m%dT%H%M%SZ"


class WhenFull(StrEnum):
    """What a rotation may do where the server has no free slot before it begins."""

    REPLACE = "replace"
    """Delete our oldest first, if a newer completed one of ours remains."""
    REPLACE_LAST = "replace_last"
    """Delete even our last one, if somebody else's completed snapshot remains."""
    REFUSE = "refuse"
    """Delete nothing, fail as blocked."""


class OnStopTimeout(StrEnum):
    """What a rotation does with a server that does not switch off within `stop_timeout`."""

    ABORT = "abort"
    SNAPSHOT_ANYWAY = "snapshot_anyway"
    HARD_STOP = "hard_stop"


class Missed(StrEnum):
    """What becomes of a slot that passed while no daemon was running."""

    RUN = "run"
    SKIP = "skip"


class Owner(StrEnum):
    """Whose a snapshot is, told by its name alone: the provider knows no labels."""

    MANAGED = "managed"
    FOREIGN = "foreign"


class SnapshotState(StrEnum):
    """The provider's status words, as the four things they can mean to us."""

    COMPLETED = "completed"
    IN_PROGRESS = "in_progress"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How many snapshots each rule keeps. A snapshot is kept if any rule keeps it."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    @property
    def total(self) -> int:
        """The most snapshots these rules can keep at one time."""
        return self.last + self.hourly + self.daily + self.weekly + self.monthly + self.yearly


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is to happen to one server, every key resolved. The values here are the documented defaults."""

    schedule: tuple[str, ...]
    """Five-field crontab expressions or @aliases; a slot of any of them is a slot."""
    timezone: str = "UTC"
    spread: timedelta = timedelta(0)
    keep: Retention = field(default_factory=lambda: Retention(last=4))
    adopt: tuple[str, ...] = ()
    """Shell patterns on the names of snapshots that are ours to rotate besides our own."""
    when_full: WhenFull = WhenFull.REPLACE
    stop_first: bool = False
    stop_timeout: timedelta = timedelta(minutes=5)
    on_stop_timeout: OnStopTimeout = OnStopTimeout.ABORT
    start_timeout: timedelta = timedelta(minutes=10)
    snapshot_timeout: timedelta = timedelta(minutes=30)
    missed: Missed = Missed.RUN
    missed_within: timedelta = timedelta(hours=24)
    paused: bool = False


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as the provider shows it."""

    id: str
    """The id as text: the provider uses integers in one place and UUIDs in another, so it is opaque."""
    ref: int | str
    """The id exactly as the provider gave it, to be sent back."""
    name: str
    status: str

    @property
    def is_active(self) -> bool:
        return self.status == "active"

    @property
    def is_stopped(self) -> bool:
        return self.status == "stopped"

    @property
    def is_untouchable(self) -> bool:
        """Being restored, or suspended by the provider: nothing may be asked of it."""
        return self.status in ("restoring", "suspended")


_STATES = {
    "completed": SnapshotState.COMPLETED,
    "in_progress": SnapshotState.IN_PROGRESS,
    "failed": SnapshotState.FAILED,
    "error": SnapshotState.FAILED,
}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot as the provider lists it."""

    id: str
    server_id: str
    server_name: str
    name: str
    status: str
    """The provider's own word."""
    size_mb: int | None = None
    created_at: datetime | None = None
    """An instant with its zone, or None where the provider's text could not be read as one."""
    description: str = ""

    @property
    def state(self) -> SnapshotState:
        return _STATES.get(self.status, SnapshotState.UNKNOWN)

    @property
    def is_completed(self) -> bool:
        return self.state is SnapshotState.COMPLETED


def snapshot_name(instance: str, slot: datetime) -> str:
    """The name of the one snapshot of `slot`, e.g. `snaprotd-main-20250116T033000Z`."""
    return f"snaprotd-{instance}-{slot.astimezone(UTC):{SLOT_FORMAT}}"
