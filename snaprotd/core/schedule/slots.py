"""From crontab text to slots: the instants, in UTC, at which a rotation is due.

A schedule *is* a set of instants, defined by `wall.instants`; every question asked here (the next slot, the last
one, those that were missed) is a look at that one set, so two answers cannot contradict each other.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from snaprotd.core.schedule.crontab import DAY, SEARCHED, Crontab, calendar, check_expression, read
from snaprotd.core.schedule.wall import DEFAULT_TIMEZONE, ScheduleError, check_timezone, instants
from snaprotd.core.schedule.window import is_open, shows

COUNTED_AT_MOST = 1000
"""Missed slots are counted up to here: after a year of `* * * * *` the exact figure is worth nothing."""

_HORIZON = 400 * DAY


class Missed(StrEnum):
    """What becomes of a slot that passed while no daemon was running."""

    RUN = "run"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Crontab expressions, read on the clock of one time zone. A slot of any of them is a slot."""

    expressions: tuple[str, ...]
    """Five-field crontab text, or aliases such as `@daily`."""
    timezone: str = DEFAULT_TIMEZONE
    window: tuple[str, ...] = ()
    """Spans of the week such as `01:00-06:00`: what lies outside all of them is no slot. Always open without any."""

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


def _crontabs(schedule: Schedule, day: date) -> tuple[Crontab, ...]:
    """Those expressions that have times on `day`, inside the window or not."""
    return tuple(crontab for crontab in map(read, schedule.expressions) if crontab.matches(day))


def _times(schedule: Schedule, day: date) -> tuple[timedelta, ...]:
    """The times of `day` on the wall that lie in the window, as distances from midnight, in order."""
    crontabs = _crontabs(schedule, day)
    return _times_in(schedule.window, crontabs, day.weekday()) if crontabs else ()


@lru_cache(maxsize=1024)
def _times_in(window: tuple[str, ...], crontabs: tuple[Crontab, ...], weekday: int) -> tuple[timedelta, ...]:
    times = {distance for crontab in crontabs for distance in crontab.times}
    return tuple(sorted(one for one in times if shows(window, weekday, one)))


def _days(schedule: Schedule, start: date, step: timedelta = DAY) -> Iterator[date]:
    """The days on the wall calendar with slots, from `start` on, forward or (step -1 day) back.

    Where a clock is put back over midnight, a day is shown again after the next has begun. So whoever looks
    for one slot begins a day early, and looks at one day more than the first on which there is one.
    """
    day = _day_with_slots(schedule, start, step)
    while day is not None and abs(day - start) < SEARCHED:
        yield day
        day = _day_with_slots(schedule, day + step, step)


@lru_cache(maxsize=4096)
def _day_with_slots(schedule: Schedule, start: date, step: timedelta) -> date | None:
    """The first of them from `start` on. Thousands of servers have a few schedules: each day is looked at once."""
    return next((day for day in calendar(start, step) if _times(schedule, day)), None)


@lru_cache(maxsize=256)
def _slots_of(schedule: Schedule, day: date) -> tuple[datetime, ...]:
    """The slots of the times on the wall of `day`, in order."""
    zone, midnight = ZoneInfo(schedule.timezone), datetime.combine(day, time())
    slots = {
        instant
        for crontab in _crontabs(schedule, day)
        for distance in crontab.times
        for instant in instants(midnight + distance, zone, fixed=crontab.fixed)
    }
    return tuple(sorted(slot for slot in slots if is_open(schedule.window, schedule.timezone, slot)))


def _slots_between(schedule: Schedule, day: date, after: datetime, until: datetime) -> tuple[datetime, ...]:
    """The slots of `day` in (after, until], in order."""
    slots = _slots_of(schedule, day)
    return slots[bisect_right(slots, after) : bisect_right(slots, until)]


def _day_of(instant: datetime, schedule: Schedule) -> date:
    return instant.astimezone(ZoneInfo(schedule.timezone)).date()


def next_slot(schedule: Schedule, after: datetime) -> datetime | None:
    """The earliest slot strictly after `after`, in UTC."""
    found: list[datetime] = []
    for day in _days(schedule, _day_of(after, schedule) - DAY):
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
    for day in _days(schedule, _day_of(at, schedule) + DAY, -DAY):
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
    for day in _days(schedule, _day_of(until, schedule) + DAY, -DAY):
        if day < _day_of(seen, schedule) - DAY or len(missed) > COUNTED_AT_MOST:
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
        times = _times(schedule, day)
        overnight = (following - day) + _times(schedule, following)[0] - times[-1]
        longest = max(longest, overnight, _longest_step(times))
        if following - start > _HORIZON:
            break
    return longest


@lru_cache(maxsize=256)
def _longest_step(times: tuple[timedelta, ...]) -> timedelta:
    return max((later - earlier for earlier, later in pairwise(times)), default=timedelta(0))


# -- what a window leaves of a schedule --------------------------------------------------------------------------------

_ANY_DAY = date(2000, 1, 1)


@lru_cache(maxsize=4096)
def begins_in_its_window(schedule: Schedule, delay: timedelta = timedelta(0)) -> bool:
    """Whether the schedule ever has a slot in its window that begins there, `delay` later."""
    return any(
        shows(schedule.window, day.weekday(), one + delay)
        for day in _days(schedule, _ANY_DAY)
        for one in _times(schedule, day)
    )


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a window leaves of a schedule, in 400 days of the calendar on the wall."""

    slots: int
    """Those that the schedule has without a window."""
    inside: int
    """Those of them that lie in the window."""
    begun: int
    """Those of these that begin in it, after their delay."""


def share_in_window(schedule: Schedule, delay: timedelta = timedelta(0)) -> Share:
    """What the window leaves of the schedule, where each slot begins `delay` later."""
    days = [_ANY_DAY + number * DAY for number in range(_HORIZON // DAY)]
    counts = [
        _counts_of_day(schedule.window, crontabs, day.weekday(), delay)
        for day in days
        if (crontabs := _crontabs(schedule, day))
    ]
    slots, inside, begun = (sum(column) for column in zip((0, 0, 0), *counts, strict=True))
    return Share(slots=slots, inside=inside, begun=begun)


@lru_cache(maxsize=1024)
def _counts_of_day(
    window: tuple[str, ...], crontabs: tuple[Crontab, ...], weekday: int, delay: timedelta
) -> tuple[int, int, int]:
    slots, inside = _times_in((), crontabs, weekday), _times_in(window, crontabs, weekday)
    return len(slots), len(inside), sum(shows(window, weekday, one + delay) for one in inside)
