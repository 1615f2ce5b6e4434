"""Crontab text: five fields or an alias, read into the days and times that it names.

cronsim reads the fields and says which days match. Its own walk along the clock is not used: where the clock
is put forward by half an hour the answer depends on where the walk begins, and forward and reverse differ
(`*/15 3 * * *` in Australia/Lord_Howe loses 03:00 and 03:15, one way only); and in the second pass of the
autumn hour it may answer with a time of the first pass, which is over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

from snaprotd.core.schedule.wall import ScheduleError

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

FIELDS = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day-of-month": (1, 31),
    "month": (1, 12),
    "day-of-week": (0, 7),
}

DAY = timedelta(days=1)

SEARCHED = 100 * 366 * DAY
"""How far a walk looks for two days: the rarest, 29 February on one weekday, may take 40 years to return."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crontab:
    """One expression, read."""

    fields: CronSim
    times: tuple[timedelta, ...]
    """The times of day, as distances from midnight on the wall clock, in order."""
    fixed: bool
    """Debian cron's distinction: neither minute nor hour begins with `*`: a time is meant, not a rhythm."""

    def matches(self, day: date) -> bool:
        return day.month in self.fields.months and self.fields.match_day(day)


def check_expression(text: str) -> None:
    """Raises ScheduleError if `text` is no five-field crontab expression or alias, or never fires."""
    crontab = read(text)
    if not any(crontab.matches(day) for day in calendar(date(2000, 1, 1))):
        raise ScheduleError(f"`{text}` never fires")


@lru_cache(maxsize=16384)
def read(text: str) -> Crontab:
    fields = _five_fields(text)
    faults = {name: _fault(name, field) for name, field in zip(FIELDS, fields, strict=True)}
    mistakes = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    if mistakes:
        raise ScheduleError(f"`{text}`: {', '.join(mistakes)}")
    try:
        crontab = CronSim(" ".join(fields), datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError:  # each field is sound by itself: what is left is a day that no month has
        raise ScheduleError(f"`{text}` never fires") from None
    times = (timedelta(hours=h, minutes=m) for h in sorted(crontab.hours) for m in sorted(crontab.minutes))
    fixed = not fields[0].startswith("*") and not fields[1].startswith("*")
    return Crontab(fields=crontab, times=tuple(times), fixed=fixed)


def _five_fields(text: str) -> list[str]:
    if text.startswith("@"):
        return _alias(text).split()
    fields = text.split()
    if len(fields) != len(FIELDS):
        raise ScheduleError(f"`{text}`: {len(fields)} fields, where five are needed: {' '.join(FIELDS)}")
    return fields


def _alias(text: str) -> str:
    if text.lower() == "@reboot":
        raise ScheduleError(f"`{text}` is not supported: a schedule follows the clock; use @daily, say")
    try:
        return ALIASES[text.lower()]
    except KeyError:
        raise ScheduleError(f"`{text}`: unknown alias; there are {' '.join(ALIASES)}") from None


def _fault(name: str, field: str) -> str | None:
    """What is wrong with one field, None if nothing."""
    alone = [field if other == name else "*" for other in FIELDS]
    try:
        CronSim(" ".join(alone), datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError):  # ValueError: int() takes no number of thousands of digits
        return _reason(field, *FIELDS[name])
    return None


def _reason(field: str, low: int, high: int) -> str:
    for number in re.findall(r"(?<![\d/#])\d{1,9}(?!\d)", field):
        if not low <= int(number) <= high:
            return f"{number} is out of range {low}-{high}"
    for first, last in re.findall(r"\b(\d{1,9})-(\d{1,9})\b", field):
        if int(first) > int(last):
            return f"the range {first}-{last} runs backwards"
    return f"'{field[:40]}' is not understood"


def calendar(start: date, step: timedelta = DAY) -> Iterator[date]:
    for count in range(SEARCHED // DAY):
        yield start + count * step
