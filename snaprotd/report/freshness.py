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
from snaprotd.core.words import LONGEST_TEXT, count, duration, in_one_line
from snaprotd.provider.inventory import ServerHoldings
from snaprotd.report.problems import CLOCKS_MAY_DIFFER

MOST_NAMED = 5
"""Servers that one line names."""


class State(IntEnum):
    """What a monitor is told, and the exit code that tells it."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


WORSE = (State.OK, State.WARNING, State.UNKNOWN, State.CRITICAL)
"""Each is worse than those before it: what is not known of one server hides nothing that is of another."""


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
    in_doubt: bool = False
    """The list that shows it cannot be relied on: it may lack the newest, or the server itself."""

    @property
    def state(self) -> State:
        """A server that is gone is critical though snapshots of it are listed still: nothing takes another of it."""
        age = self.age if self.age is not None and self.is_there else float("inf")
        if age < self.warning and age < self.critical:
            return State.OK
        if self.in_doubt:
            return State.UNKNOWN
        return State.CRITICAL if age >= self.critical else State.WARNING

    @property
    def badness(self) -> tuple[int, float]:
        """Sort key: how old it is for its schedule."""
        age = self.age if self.age is not None and self.is_there else float("inf")
        return WORSE.index(self.state), age / max(1.0, self.critical)

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
    config: Config, target: Target, held: ServerHoldings | None, limits: Limits, now: datetime, *, in_doubt: bool
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
        in_doubt=in_doubt,
    )


def told_of(
    config: Config,
    targets: Sequence[Target],
    known: Mapping[str, ServerHoldings],
    limits: Limits,
    now: datetime,
    doubts: Mapping[str, str],
    clock_ahead: float = 0.0,
) -> tuple[State, str]:
    """The state of all these servers in one line. Paused ones are left out: nobody expects a snapshot of theirs.

    What the account's list shows as fresh is fresh. Where it cannot be relied on (`doubts`, by the server's id), nobody
    knows the rest. `clock_ahead`: of the provider's, in seconds, negative is behind it; by the later clock of the two
    is told how old snapshots are, so that a wrong one makes none of them fresh.
    """
    looked_after = [target for target in targets if not target.policy.paused]
    now += timedelta(seconds=max(0.0, -clock_ahead))
    judged = [
        freshness_of(config, one, known.get(one.server_id), limits, now, in_doubt=one.server_id in doubts)
        for one in looked_after
    ]
    paused = f", {len(targets) - len(judged)} paused" if len(judged) < len(targets) else ""
    if not judged:
        return State.UNKNOWN, f"UNKNOWN - no server is looked after{paused}"
    judged.sort(key=lambda one: one.badness, reverse=True)
    doubted = list(dict.fromkeys(doubts[one.server_id] for one in looked_after if one.server_id in doubts))
    state = max(judged[0].state, State.UNKNOWN if doubted else State.OK, key=WORSE.index)
    told = [*_clocks(clock_ahead), *doubted, *_named(judged), _count_of_fresh(judged) + paused]
    return state, f"{state.name} - {'; '.join(map(without_bar, told))} | {_figures(judged)}"


def _clocks(ahead: float) -> list[str]:
    """That ours and the provider's differ, where they do."""
    which = "ahead of" if ahead > 0 else "behind"
    words = f"the clock of this machine is {duration(abs(ahead))} {which} the provider's"
    return [words] if abs(ahead) >= CLOCKS_MAY_DIFFER else []


def _count_of_fresh(judged: Sequence[Freshness]) -> str:
    fresh = sum(one.state is State.OK for one in judged)
    if fresh < len(judged):
        return f"{fresh} of {count(len(judged), 'server')} fresh"
    return f"{count(len(judged), 'server')} fresh, oldest {_hours(judged[0].age or 0.0)}"


def without_bar(text: str, longest: int = LONGEST_TEXT) -> str:
    """In one line, and without what would begin the performance data."""
    return in_one_line(text, longest).replace("|", "/")


def _named(judged: Sequence[Freshness]) -> list[str]:
    """Those that are stale for certain."""
    stale = [one for one in judged if one.state in (State.WARNING, State.CRITICAL)]
    more = len(stale) - MOST_NAMED
    return [one.words for one in stale[:MOST_NAMED]] + ([f"and {more} more"] if more > 0 else [])


def _figures(judged: Sequence[Freshness]) -> str:
    """The performance data: the server that is oldest for its schedule. `U` is their word for what is not known."""
    worst = judged[0]
    age = "U" if worst.age is None or worst.state is State.UNKNOWN else f"{worst.age:.0f}s"
    return f"oldest={age};{worst.warning:.0f};{worst.critical:.0f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"
