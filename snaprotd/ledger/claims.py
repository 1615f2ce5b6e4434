"""What becomes of a claim, how long it holds, how far a schedule was seen, and what a ledger holds in all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from snaprotd.core.rotation import Rotation


@dataclass(frozen=True)
class Claimed:
    """The slot is ours to run."""

    rotation: Rotation


@dataclass(frozen=True)
class SlotTaken:
    """This server's slot has, or had, a rotation already: nothing is to be done."""


@dataclass(frozen=True)
class ServerBusy:
    """Another rotation of this server is open."""

    open: Rotation


Claim = Claimed | SlotTaken | ServerBusy


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Every slot of the server up to `seen_until` has been dealt with, under the schedule written as `schedule`."""

    server_id: str
    seen_until: datetime
    schedule: str


@dataclass
class Lease:
    epoch: int
    valid_until: float
    """By this process's own clock, which counts suspended time too."""
    origin: str = ""
    """Of the transaction in which the rotation was saved last: see `Place`."""
    saved: Rotation | None = None
    """As it was saved last under this lease; None where it was not, or nobody knows."""


def uptime() -> float:
    """Seconds of a clock that no one sets and that counts the time in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that has open rotations."""

    owner: str
    rotations: int
    until: float
    """When the last of its leases runs out, in seconds since the epoch."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    name: str
    schema: int
    size: int
    """In bytes."""
    rows: Mapping[str, int]
    """Of each table."""
    holders: tuple[Holder, ...]
