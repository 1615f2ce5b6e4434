"""What is to happen to a server: its policy, and the rules that its snapshots go by."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from snaprotd.core.model import NO_SERVER, PROVIDER_LIMIT, Machine, Server
from snaprotd.core.schedule import Missed, Schedule


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


class Kind(StrEnum):
    """Why an attempt at a slot was begun."""

    SCHEDULED = "scheduled"
    LATE = "late"
    """Its slot was missed, or could not be claimed in time."""
    RETRY = "retry"
    MANUAL = "manual"
    """By a person: its slot is the second in which it was begun."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a slot whose rotation has failed is tried again, and how long after each failure."""

    times: int = 2
    after: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is to happen to one server, every key resolved. The values here are the documented defaults."""

    schedule: Schedule
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
    retry: Retry = field(default_factory=Retry)
    paused: bool = False
    hold_manual: timedelta = timedelta(days=3)
    """For how long what is taken by hand is held; none where it is 0."""
    one_at_a_time: str | None = None
    """The group of servers of which no two are held off at once; None where it is in none."""

    @property
    def timezone(self) -> str:
        """Of the schedule, and of the periods that retention counts in."""
        return self.schedule.timezone

    @property
    def slots_written(self) -> str:
        """What must not have changed for a slot to be run late or again: nothing fires because a policy was edited."""
        paused = " paused" if self.paused else ""
        within = f" within {', '.join(self.window)}" if self.window else ""
        expressions, spread = " | ".join(self.schedule.expressions), self.spread.total_seconds()
        return f"{self.timezone} {expressions} +{spread:.0f}s{within}{paused}"

    @property
    def group(self) -> str:
        """The group in which a rotation takes its turn; empty for none, as where it stops nothing."""
        return (self.one_at_a_time or "") if self.stop_first else ""

    @property
    def window(self) -> tuple[str, ...]:
        """Of the schedule: nothing begins outside it."""
        return self.schedule.window


def stops_itself(policy: Policy, server: Server, machine: Machine) -> str:
    """Why no rotation may begin: it would stop the machine that it runs on. Empty where it would not."""
    sign = machine.sign_in(server) if policy.stop_first else ""
    return (
        f"this looks like the machine that snaprotd runs on ({sign}): it would stop itself; run it elsewhere, or set "
        f"own_server: {NO_SERVER}"
        if sign
        else ""
    )


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decides over the snapshots of one server: its policy, whose names are ours, and how many there may be."""

    policy: Policy
    instance: str = "main"
    limit: int = PROVIDER_LIMIT
    """Snapshots that the server may hold, whoever made them."""
