"""Whether there is something fresh to restore from: one line and a number, as monitoring systems read them.

The form is that of the Monitoring Plugins' guidelines, which Nagios, Icinga and Zabbix share: a word, what it is about,
and behind a bar the performance data `label=value;warning;critical`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from snaprotd.config.settings import Config, Target
from snaprotd.core.ownership import newest_completed
from snaprotd.core.schedule import expected_interval
from snaprotd.core.words import LONGEST_TEXT, count, in_one_line
from snaprotd.provider.inventory import ServerHoldings

MOST_NAMED = 5
"""Servers that one line names."""


class State(IntEnum):
    """What a monitor is told, and the exit code that tells it."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class TooOld:
    """An age from which on a snapshot is too old: a time, or so many times the interval that its schedule has."""

    age: timedelta | None = None
    intervals: float = 0.0

    def of(self, target: Target, now: datetime) -> float:
        """In seconds, for one server."""
        if self.age is not None:
            return self.age.total_seconds()
        return expected_interval(target.policy.schedule, now).total_seconds() * self.intervals


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From when on it is a warning, and from when on critical."""

    warning: TooOld
    critical: TooOld


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """How old our newest completed snapshot of one server is."""

    label: str
    age: float | None
    """Seconds; None where there is nothing to restore from."""
    warning: float
    critical: float
    is_there: bool = True
    """The account has the server."""

    @property
    def state(self) -> State:
        """A server that is gone is critical though snapshots of it are listed still: nothing takes another of it."""
        if not self.is_there or self.age is None or self.age >= self.critical:
            return State.CRITICAL
        return State.WARNING if self.age >= self.warning else State.OK

    @property
    def badness(self) -> tuple[State, float]:
        """Sort key: how old it is for its schedule."""
        age = self.age if self.age is not None and self.is_there else float("inf")
        return self.state, age / max(1.0, self.critical)

    @property
    def words(self) -> str:
        label = in_one_line(self.label)
        if not self.is_there:
            return f"{label} is not in the account"
        if self.age is None:
            return f"{label} has no completed snapshot of ours"
        limit = self.critical if self.state is State.CRITICAL else self.warning
        return f"{label} {_hours(self.age)} (limit {_hours(limit)})"


def freshness_of(
    config: Config, target: Target, held: ServerHoldings | None, limits: Limits, now: datetime
) -> Freshness:
    """By the date that the provider gives; one that cannot be trusted, in the future say, makes nothing fresh."""
    newest = newest_completed(held.snapshots, config.rules_of(target), now) if held is not None else None
    at = newest.created_at if newest is not None else None
    return Freshness(
        label=target.label,
        age=max(0.0, (now - at).total_seconds()) if at is not None else None,
        warning=limits.warning.of(target, now),
        critical=limits.critical.of(target, now),
        is_there=held is not None and held.server is not None,
    )


def told_of(
    config: Config,
    targets: Sequence[Target],
    known: Mapping[str, ServerHoldings],
    limits: Limits,
    now: datetime,
    doubt: str | None,
) -> tuple[State, str]:
    """The state of all these servers in one line. Paused ones are left out: nobody expects a snapshot of theirs.

    What the account's list shows as fresh is fresh. Where it cannot be relied on (`doubt`), nobody knows the rest.
    """
    judged = [
        freshness_of(config, target, known.get(target.server_id), limits, now)
        for target in targets
        if not target.policy.paused
    ]
    paused = f", {len(targets) - len(judged)} paused" if len(judged) < len(targets) else ""
    if not judged:
        return State.UNKNOWN, f"UNKNOWN - no server is looked after{paused}"
    judged.sort(key=lambda one: one.badness, reverse=True)
    stale = [one for one in judged if one.state is not State.OK]
    state = State.UNKNOWN if doubt is not None else judged[0].state
    fresh = f"{len(judged) - len(stale)} of {count(len(judged), 'server')} fresh"
    if not stale:
        fresh = f"{count(len(judged), 'server')} fresh, oldest {_hours(judged[0].age or 0.0)}"
    told = [*([doubt] if doubt else []), *_named(stale), fresh + paused]
    return state, f"{state.name} - {'; '.join(map(without_bar, told))} | {_figures(judged)}"


def without_bar(text: str, longest: int = LONGEST_TEXT) -> str:
    """In one line, and without what would begin the performance data."""
    return in_one_line(text, longest).replace("|", "/")


def _named(stale: Sequence[Freshness]) -> list[str]:
    more = len(stale) - MOST_NAMED
    return [one.words for one in stale[:MOST_NAMED]] + ([f"and {more} more"] if more > 0 else [])


def _figures(judged: Sequence[Freshness]) -> str:
    """The performance data: the server that is oldest for its schedule. `U` is their word for what is not known."""
    worst = judged[0]
    age = "U" if worst.age is None else f"{worst.age:.0f}s"
    return f"oldest={age};{worst.warning:.0f};{worst.critical:.0f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"
