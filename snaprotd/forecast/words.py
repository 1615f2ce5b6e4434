"""A forecast in sentences: what people read first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from zoneinfo import ZoneInfo

from snaprotd.core.policy import Retention
from snaprotd.core.words import clock, count, duration
from snaprotd.forecast.expect import Forecast
from snaprotd.forecast.figures import Summary
from snaprotd.forecast.runs import Fate

Named = tuple[Sequence[str], Forecast]
"""A forecast with the names of the servers whose policy it is about."""

NAMES_SHOWN = 5

DAY = timedelta(days=1)


def title_of(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def rules_of(forecast: Forecast) -> str:
    """The schedule and the retention, e.g. `30 3 * * * (Europe/Berlin), keep last 2, weekly 2`."""
    policy = forecast.policy
    when = f"{' | '.join(policy.schedule.expressions)} ({policy.timezone})"
    within = f", within {', '.join(policy.window)}" if policy.window else ""
    return f"{when}{within}, keep {_keep(policy.keep)}"


def _keep(keep: Retention) -> str:
    if keep.last == keep.total:
        return str(keep.last)
    return ", ".join(f"{rule} {number}" for rule, number in vars(keep).items() if number)


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """Something to be expected, for people."""

    text: str
    is_alarm: bool = False


def sentences(forecast: Forecast) -> list[Sentence]:
    """The forecast in a few sentences, the most important first."""
    told = [_about_points(forecast), _about_ages(forecast), _about_runs(forecast), _about_slots(forecast)]
    if forecast.policy.paused:
        told.insert(0, "The policy is paused: this is what it does once it no longer is.")
    shown = [Sentence(text=one) for one in told if one]
    return [*_alarms(forecast), *shown]


def _alarms(forecast: Forecast) -> list[Sentence]:
    first = next((run for run in forecast.runs if run.fate is Fate.BLOCKED), None)
    if first is not None:
        ours = f" and {len(first.held)} ours" if first.held else ""
        why = f"{len(forecast.foreign)} of the {forecast.limit} slots hold others' snapshots{ours}"
        never = f"nothing may be deleted (when_full is {forecast.policy.when_full})"
        text = f"From {moment_of(forecast, first.at)} on every run is blocked: {why}, and {never}."
        return [Sentence(text=text, is_alarm=True)]
    if forecast.runs and not forecast.summary.taken:
        return [Sentence(text="Not one run takes a snapshot.", is_alarm=True)]
    return []


def _about_points(forecast: Forecast) -> str:
    summary, days = forecast.summary, count(forecast.assumed.days, "day")
    least, most = summary.held_least, summary.held_most
    points = count(most, "restore point") if least == most else f"{least} to {most} restore points"
    points += _why_fewer(forecast)
    if summary.first_at is None:
        return f"There is no restore point within {days}."
    if summary.settled_at is None:
        why = "" if summary.blocked else ", too few runs to fill the rules"
        return f"There {'is' if most == 1 else 'are'} {points} within {days}{why}."
    since = _day(forecast, summary.settled_at)
    if summary.first_at > forecast.end:
        first = _day(forecast, summary.first_at)
        return (
            f"There is no restore point within {days}: the first comes on {first}. From {since} on you have {points}."
        )
    if summary.settled_at > forecast.end:
        return f"The rules are filled only on {since}, after these {days}; from then on you have {points}."
    return f"From {since} on you have {points}."


def _why_fewer(forecast: Forecast) -> str:
    """Why there are never as many restore points as the counts of `keep` add up to, where that is so."""
    summary, wanted = forecast.summary, forecast.policy.keep.total
    if summary.settled_at is None or summary.held_most >= wanted:
        return ""
    others, held = len(forecast.foreign), len(forecast.held)
    crowded = others + held > 0 and summary.held_most >= max(forecast.limit - 1 - others - held, 1)
    holders = [f"others hold {count(others, 'slot')}"] if others else []
    holders += [f"held ones take {count(held, 'slot')}"] if held else []
    why = " and ".join(holders) if crowded else "rules overlap"
    return f" (not the {wanted} that `keep` adds up to: {why})"


def _about_ages(forecast: Forecast) -> str:
    summary = forecast.summary
    reach = []
    if summary.settled_at and summary.reach_least:
        when, age = moment_of(forecast, summary.reach_least.at), summary.reach_least.age
        reach.append(f"{_at_least(age) if age else 'only to the run just made'} at worst (on {when})")
    if summary.reach_most:
        reach.append(f"{_at_most(summary.reach_most.age)} at best")
    told = [f"You can go back {' and '.join(reach)}"] if reach else []
    if summary.newest_worst:
        when = f", on {moment_of(forecast, summary.newest_worst.at)}" if _has_gaps(summary) else ""
        told.append(f"the newest is at most {_at_most(summary.newest_worst.age)} old{when}")
    return f"{'; '.join(told)}." if told else ""


def _has_gaps(summary: Summary) -> bool:
    return bool(summary.failed or summary.missed or summary.blocked)


def _about_runs(forecast: Forecast) -> str:
    summary = forecast.summary
    told = {
        "failed": summary.failed,
        "blocked": summary.blocked,
        "missed while the daemon was down": summary.missed,
        "made up for late": summary.late,
    }
    parts = [f"{number} {what}" for what, number in told.items() if number]
    taken = count(summary.taken, "snapshot") if summary.taken else "no snapshot"
    return f"Of {count(len(forecast.runs), 'run')}: {', '.join((f'{taken} taken', *parts))}." if parts else ""


def _about_slots(forecast: Forecast) -> str:
    between, during = forecast.summary.free_between, forecast.summary.free_while_taking
    if forecast.summary.first_at is None:
        return ""
    if not between:
        return f"None of the {forecast.limit} slots is free."
    free = f"{between} of the {forecast.limit} slots {'is' if between == 1 else 'are'} free"
    return f"Between runs {free}; while a snapshot is taken, {during or 'none'}."


def local_time(forecast: Forecast, at: datetime) -> datetime:
    return at.astimezone(ZoneInfo(forecast.policy.timezone))


def _day(forecast: Forecast, at: datetime) -> str:
    return f"{local_time(forecast, at):%a %Y-%m-%d}"


def moment_of(forecast: Forecast, at: datetime) -> str:
    return clock(at.isoformat(), forecast.policy.timezone)


def _at_least(age: timedelta) -> str:
    return duration(age.total_seconds())


def _at_most(age: timedelta) -> str:
    """As `duration`, but rounded up; a week stays `7 d` where the clock was put back in it."""
    seconds = age.total_seconds()
    unit = next((size for size, below in ((1, 120), (60, 7200), (3600, 172800)) if seconds < below), 86400)
    return duration(ceil((seconds - (3600 if unit == 86400 else 0)) / unit) * unit)
