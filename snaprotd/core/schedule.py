"""Crontab text to slots: the instants, in UTC, at which a rotation is due.

A schedule *is* a set of instants, defined by `_instants`; every question asked here (the next slot, the last
one, those that were missed) is a look at that one set, so two answers cannot contradict each other.

cronsim reads the fields and says which days match. Its own walk along the clock is not used: where the clock
is put forward by half an hour the answer depends on where the walk begins, and forward and reverse differ
(`*/15 3 * * *` in Australia/Lord_Howe loses 03:00 and 03:15, one way only); and in the second pass of the
autumn hour it may answer with a time of the first pass, which is over.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import zoneinfo
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

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

DEFAULT_TIMEZONE = "UTC"

COUNTED_AT_MOST = 1000
"""Missed slots are counted up to here: after a year of `* * * * *` the exact figure is worth nothing."""

_DAY = timedelta(days=1)
_SEARCHED = 100 * 366 * _DAY
"""How far a walk looks for two days: the rarest, 29 February on one weekday, may take 40 years to return."""
_HORIZON = 400 * _DAY


class Missed(StrEnum):
    """What becomes of a slot that passed while no daemon was running."""

    RUN = "run"
    SKIP = "skip"


class ScheduleError(ValueError):
    """A schedule that is refused; the text says which expression and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Crontab expressions, read on the clock of one time zone. A slot of any of them is a slot."""

    expressions: tuple[str, ...]
    """Five-field crontab text, or aliases such as `@daily`."""
    timezone: str = DEFAULT_TIMEZONE

    @staticmethod
    def parse(expressions: Iterable[str], timezone: str) -> Schedule:
        """Check every expression and the time zone. Raises ScheduleError, with all that is wrong."""
        texts = tuple(" ".join(text.split()) for text in expressions)
        mistakes = [] if texts else ["no expression: a schedule needs at least one"]
        for check, text in ((check_timezone, timezone), *((check_expression, text) for text in texts)):
            try:
                check(text)
            except ScheduleError as error:
                mistakes.append(str(error))
        if mistakes:
            raise ScheduleError("; ".join(mistakes))
        return Schedule(expressions=texts, timezone=timezone)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Crontab:
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
    crontab = _read(text)
    if not any(crontab.matches(day) for day in _calendar(date(2000, 1, 1))):
        raise ScheduleError(f"`{text}` never fires")


def check_timezone(name: str) -> None:
    """Raises ScheduleError if `name` is no IANA time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: `Europe` is a directory
        close = difflib.get_close_matches(name, zoneinfo.available_timezones(), n=1)
        hint = f", did you mean `{close[0]}`?" if close else ": use an IANA name such as Europe/Berlin"
        raise ScheduleError(f"`{name}` is not a known time zone{hint}") from None


@lru_cache(maxsize=16384)
def _read(text: str) -> _Crontab:
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
    return _Crontab(fields=crontab, times=tuple(times), fixed=fixed)


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


def _instants(wall: datetime, zone: ZoneInfo, *, fixed: bool) -> tuple[datetime, ...]:
    """The instants at which the clock on the wall shows `wall`, as far as they are slots.

    The clock is put back and shows it twice: a fixed time counts the first time, a rhythm goes on. The clock
    is put forward over it: a fixed time counts right after the gap, a rhythm has no slot. (Debian's cron(8).)
    """
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first > second:  # PEP 495: only in a gap
        return (_end_of_gap(second, zone),) if fixed else ()
    return (first,) if fixed or first == second else (first, second)


def _end_of_gap(before: datetime, zone: ZoneInfo) -> datetime:
    """The first minute after `before` at which the offset of `zone` is another."""
    old = before.astimezone(zone).utcoffset()
    while before.astimezone(zone).utcoffset() == old:
        before += timedelta(minutes=1)
    return before


def _calendar(start: date, step: timedelta = _DAY) -> Iterator[date]:
    for count in range(_SEARCHED // _DAY):
        yield start + count * step


def _crontabs(schedule: Schedule, day: date) -> tuple[_Crontab, ...]:
    """Those expressions that have slots on `day`."""
    return tuple(crontab for crontab in map(_read, schedule.expressions) if crontab.matches(day))


def _days(schedule: Schedule, start: date, step: timedelta = _DAY) -> Iterator[date]:
    """The days on the wall calendar with slots, from `start` on, forward or (step -1 day) back.

    Where a clock is put back over midnight, a day is shown again after the next has begun. So whoever looks
    for one slot begins a day early, and looks at one day more than the first on which there is one.
    """
    return (day for day in _calendar(start, step) if _crontabs(schedule, day))


@lru_cache(maxsize=256)
def _slots_of(schedule: Schedule, day: date) -> tuple[datetime, ...]:
    """The slots of the times on the wall of `day`, in order."""
    zone, midnight = ZoneInfo(schedule.timezone), datetime.combine(day, time())
    slots = {
        instant
        for crontab in _crontabs(schedule, day)
        for distance in crontab.times
        for instant in _instants(midnight + distance, zone, fixed=crontab.fixed)
    }
    return tuple(sorted(slots))


def _slots_between(schedule: Schedule, day: date, after: datetime, until: datetime) -> tuple[datetime, ...]:
    """The slots of `day` in (after, until], in order."""
    slots = _slots_of(schedule, day)
    return slots[bisect_right(slots, after) : bisect_right(slots, until)]


def _day_of(instant: datetime, schedule: Schedule) -> date:
    return instant.astimezone(ZoneInfo(schedule.timezone)).date()


def next_slot(schedule: Schedule, after: datetime) -> datetime | None:
    """The earliest slot strictly after `after`, in UTC."""
    found: list[datetime] = []
    for day in _days(schedule, _day_of(after, schedule) - _DAY):
        settled = bool(found)
        slots = _slots_of(schedule, day)
        index = bisect_right(slots, after)
        found.extend(slots[index : index + 1])
        if settled:
            break
    return min(found, default=None)


def last_slot(schedule: Schedule, at: datetime) -> datetime | None:
    """The latest slot at or before `at`, in UTC."""
    found: list[datetime] = []
    for day in _days(schedule, _day_of(at, schedule) + _DAY, -_DAY):
        settled = bool(found)
        slots = _slots_of(schedule, day)
        index = bisect_right(slots, at)
        found.extend(slots[max(index - 1, 0) : index])
        if settled:
            break
    return max(found, default=None)


@dataclass(frozen=True, kw_only=True)
class MissedSlots:
    """What is to be done about slots that passed unseen: run one, count the others."""

    run: datetime | None
    skipped: int
    """At most `COUNTED_AT_MOST`."""


def missed_slots(
    schedule: Schedule,
    *,
    seen: datetime,
    now: datetime,
    policy_missed: Missed,
    within: timedelta,
    delay: timedelta = timedelta(0),
) -> MissedSlots:
    """Judge the slots in (seen, now - delay]: those whose turn has come, `delay` after the slot, unseen.

    `seen` is on the scale of the slots, not of the delayed runs: every slot up to it has been dealt with. The
    latest slot runs if the policy says so and it is no older than `within`.
    """
    until = now - delay
    missed: set[datetime] = set()
    for day in _days(schedule, _day_of(until, schedule) + _DAY, -_DAY):
        if day < _day_of(seen, schedule) - _DAY or len(missed) > COUNTED_AT_MOST:
            break
        missed.update(_slots_between(schedule, day, seen, until))
    latest = max(missed, default=None)
    runs = latest is not None and policy_missed is Missed.RUN and now - latest <= within
    return MissedSlots(run=latest if runs else None, skipped=min(len(missed) - runs, COUNTED_AT_MOST))


def spread_delay(server_id: str, spread: timedelta) -> timedelta:
    """The server's fixed share of `spread`, in whole seconds, 0 <= delay < spread: the same in every run."""
    share = int.from_bytes(hashlib.sha256(server_id.encode()).digest()[:8], "big")
    return timedelta(seconds=(share * int(spread.total_seconds())) >> 64)


def expected_interval(schedule: Schedule, at: datetime) -> timedelta:
    """The longest time to wait between two neighbouring slots: the weekend, for `0 9-17 * * 1-5`.

    It looks at the 400 days from the first of the month of `at`, and at two days with slots at least, however
    far apart. Distances are those on the wall clock: a daily schedule has 24 hours, at a time change too.
    """
    return _longest_gap(schedule, _day_of(at, schedule).replace(day=1))


@lru_cache(maxsize=4096)
def _longest_gap(schedule: Schedule, start: date) -> timedelta:
    longest = timedelta(0)
    for day, following in pairwise(_days(schedule, start)):
        times = _times_of(_crontabs(schedule, day))
        overnight = (following - day) + _times_of(_crontabs(schedule, following))[0] - times[-1]
        longest = max(longest, overnight, _longest_step(times))
        if following - start > _HORIZON:
            break
    return longest


@lru_cache(maxsize=256)
def _times_of(crontabs: tuple[_Crontab, ...]) -> tuple[timedelta, ...]:
    return tuple(sorted({distance for crontab in crontabs for distance in crontab.times}))


@lru_cache(maxsize=256)
def _longest_step(times: tuple[timedelta, ...]) -> timedelta:
    return max((later - earlier for earlier, later in pairwise(times)), default=timedelta(0))
