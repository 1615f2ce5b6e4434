"""What the provider shows: servers and snapshots. No input, no output, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

PROVIDER_LIMIT = 5
"""Snapshots a server may hold at VPS.org, whoever made them (the provider's published figure)."""

SLOT_FORMAT = "%Y%m%dT%H%M%SZ"


class Owner(StrEnum):
    """Whose a snapshot is, told by its name alone: the provider knows no labels."""

    MANAGED = "managed"
    FOREIGN = "foreign"


class ServerState(StrEnum):
    """A provider's status words for a server, as the things they can mean to us."""

    RUNNING = "running"
    STOPPED = "stopped"
    RESTORING = "restoring"
    SUSPENDED = "suspended"
    BETWEEN = "between"
    """On its way from one to another, or in a state that we do not know."""


class SnapshotState(StrEnum):
    """A provider's status words for a snapshot, as the four things they can mean to us."""

    COMPLETED = "completed"
    IN_PROGRESS = "in_progress"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as the provider shows it."""

    id: str
    """The id as text: the provider uses integers in one place and UUIDs in another, so it is opaque."""
    ref: int | str
    """The id exactly as the provider gave it, to be sent back."""
    name: str
    state: ServerState
    status: str
    """The provider's own word, to be shown."""

    @property
    def is_active(self) -> bool:
        return self.state is ServerState.RUNNING

    @property
    def is_stopped(self) -> bool:
        return self.state is ServerState.STOPPED

    @property
    def is_untouchable(self) -> bool:
        """Being restored, or suspended by the provider: nothing may be asked of it."""
        return self.state in (ServerState.RESTORING, ServerState.SUSPENDED)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot as the provider lists it."""

    id: str
    server_id: str
    server_name: str
    name: str
    state: SnapshotState
    status: str
    """The provider's own word, to be shown."""
    size_mb: int | None = None
    created_at: datetime | None = None
    """An instant with its zone, or None where the provider's text could not be read as one."""
    description: str = ""

    @property
    def is_completed(self) -> bool:
        return self.state is SnapshotState.COMPLETED


def snapshot_name(instance: str, slot: datetime) -> str:
    """The name of the one snapshot of `slot`, e.g. `snaprotd-main-20250116T033000Z`."""
    return f"snaprotd-{instance}-{slot.astimezone(UTC):{SLOT_FORMAT}}"
