"""What a policy will leave behind, slot by slot: the schedule and the retention of many days ahead, with no server.

The very rules of a rotation decide (`rehearsal`, `retention`, `schedule`). Three things are simpler than in life: a
rotation takes no time, nothing is delayed by `spread`, and a rotation that fails does so after it has made room and
before its snapshot exists. No input, no output, no clock: time begins at an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain

from snaprotd.core.model import Snapshot
from snaprotd.core.policy import Policy, Rules
from snaprotd.core.retention import ROTATIONS_OWN
from snaprotd.forecast.figures import Settling, Summary, summarize, until_settled
from snaprotd.forecast.runs import (
    Assumed,
    Foreseen,
    Phantom,
    apart,
    down_time,
    foreign_snapshot,
    held_snapshot,
    run_all,
    slots_after,
    slots_until,
    turns_of,
)

LONGEST_LOOK = timedelta(days=40 * 366)
"""How far the simulation goes at most, beyond the days asked for, to see how the schedule settles."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """A snapshot from its creation to its deletion."""

    snapshot: Snapshot
    begin: datetime
    end: datetime | None = None
    """None where it is there to the last."""
    reason: str = ""
    """Why it was deleted."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is to be expected of one policy."""

    policy: Policy
    limit: int
    start: datetime
    end: datetime
    assumed: Assumed
    foreign: tuple[Snapshot, ...]
    held: tuple[Snapshot, ...]
    """Those of ours that are held, beside those of the schedule."""
    outages: tuple[tuple[datetime, datetime], ...]
    """In order and apart from each other. The last may end after `end`."""
    runs: tuple[Foreseen, ...]
    """Those in (start, end], by the time at which they ran."""
    summary: Summary

    @property
    def lives(self) -> tuple[Life, ...]:
        """Our snapshots, in the order in which they were taken."""
        lives = {run.taken.id: Life(snapshot=run.taken, begin=run.at) for run in self.runs if run.taken}
        for run in self.runs:
            for decision in run.deleted:
                gone = lives[decision.snapshot.id]
                lives[decision.snapshot.id] = replace(gone, end=run.at, reason=decision.reason)
        return tuple(lives.values())


def expect(rules: Rules, *, start: datetime, assumed: Assumed) -> Forecast:
    """Run a policy from an empty server on. A paused one is run as if it were not.

    Raises TooManyRuns, and ValueError where somebody else's snapshots are more than the limit, or too many are held.
    """
    policy, limit, schedule = rules.policy, rules.limit, rules.policy.schedule
    if assumed.foreign > limit:
        raise ValueError(f"{assumed.foreign} snapshots of somebody else do not fit: the limit is {limit}")
    if assumed.held and assumed.foreign + assumed.held > limit - ROTATIONS_OWN:
        raise ValueError(f"holds leave {ROTATIONS_OWN} of {limit} slots to rotation: {assumed.held} do not")
    end = start + timedelta(days=assumed.days)
    slots = slots_until(schedule, start, end)
    downs = [down_time(schedule, policy, begin, back) for begin, back in apart(start, assumed.outages)]
    server = Phantom(
        # Somebody else's is not what the patterns were meant for.
        rules=replace(rules, policy=replace(policy, adopt=())),
        foreign=tuple(foreign_snapshot(number, start) for number in range(assumed.foreign)),
        held=tuple(held_snapshot(number, start, rules.instance) for number in range(assumed.held)),
    )
    turns = turns_of(chain(slots, slots_after(schedule, end)), downs)
    settling = Settling(policy.keep, policy.timezone)
    longest = LONGEST_LOOK if assumed.fail < 1 else timedelta(0)
    simulated = until_settled(run_all(server, turns, assumed), settling, end, start + longest)
    return Forecast(
        policy=policy,
        limit=limit,
        start=start,
        end=end,
        assumed=assumed,
        foreign=server.foreign,
        held=server.held,
        outages=tuple((down.begin, down.end) for down in downs),
        runs=tuple(run for run in simulated.runs if run.at <= end),
        summary=summarize(simulated, end, limit - assumed.foreign - assumed.held),
    )


def alike(named: Iterable[tuple[str, Policy]]) -> list[tuple[list[str], Policy]]:
    """Policies that have the same forecast, each once, with the names of all its servers."""
    groups: dict[Policy, list[str]] = {}
    for name, policy in named:
        groups.setdefault(_what_counts(policy), []).append(name)
    return [(names, policy) for policy, names in groups.items()]


IGNORED = (
    "spread",
    "adopt",
    "stop_first",
    "stop_timeout",
    "on_stop_timeout",
    "start_timeout",
    "snapshot_timeout",
    "retry",
    "one_at_a_time",
    "hold_manual",
)
"""The keys of a policy that change nothing in a forecast. A key that is not here counts, as any new one does."""


def _what_counts(policy: Policy) -> Policy:
    defaults = Policy(schedule=policy.schedule)
    return replace(policy, **{key: getattr(defaults, key) for key in IGNORED})
