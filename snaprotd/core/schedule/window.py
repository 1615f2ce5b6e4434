"""Windows: the times of a week in which a rotation may begin, on the clock of one time zone.

A bound is a fixed time, with cron's meaning on the two days a year that differ: shown twice it counts the first time,
skipped it counts right after the gap. What a gap takes from the end of a window follows after it, so that a slot which
is moved there lies in its window still.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from snaprotd.core.schedule.wall import ScheduleError, first_shown, instants

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_DAY, _MINUTE = timedelta(days=1), timedelta(minutes=1)
_EXAMPLE = 'as in "01:00-06:00" or "sat-sun 00:00-24:00"'


@dataclass(frozen=True, kw_only=True)
class _Span:
    """From one time of day to another, on some days of the week."""

    days: frozenset[int]
    """Those that it begins on; Monday is 0."""
    begin: timedelta
    """From midnight."""
    end: timedelta
    """From that same midnight: more than a day where it goes over the next one."""


def check_window(text: str) -> None:
    """Raises ScheduleError if `text` is no window such as `01:00-06:00` or `sat-sun 00:00-24:00`."""
    _read(text)


@lru_cache(maxsize=4096)
def _read(text: str) -> _Span:
    found = re.fullmatch(r"\s*(?:([^\d\s:]\S*)\s+)?(\d{1,2}:\d{2})\s*-\s*(\d{1,2}:\d{2})\s*", text)
    if found is None:
        raise ScheduleError(f"`{text[:60]}` is no window: write from when to when, {_EXAMPLE}")
    days, begin, end = found[1], _time_of_day(found[2]), _time_of_day(found[3])
    if begin == _DAY:
        raise ScheduleError(f"`{text}`: 24:00 is the end of a day: a window begins at 00:00 of the next")
    if begin == end:
        raise ScheduleError(f"`{text}` begins when it ends: write 00:00-24:00 for the whole day")
    return _Span(days=_days(days), begin=begin, end=end if end > begin else end + _DAY)


def _time_of_day(text: str) -> timedelta:
    hour, minute = map(int, text.split(":"))
    distance = timedelta(hours=hour, minutes=minute)
    if minute > 59 or distance > _DAY:
        raise ScheduleError(f"`{text}` is no time of day: there are 00:00 to 24:00")
    return distance


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin = _weekday(first)
        found.update((begin + count) % 7 for count in range((_weekday(last) - begin) % 7 + 1 if dash else 1))
    return frozenset(found)


def _weekday(text: str) -> int:
    try:
        return DAYS.index(text.lower())
    except ValueError:
        close = difflib.get_close_matches(text.lower()[:3], DAYS, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"there are {' '.join(DAYS)}"
        raise ScheduleError(f"`{text[:20]}` is no day of the week: {hint}") from None


# -- on the wall -------------------------------------------------------------------------------------------------------


def shows(window: tuple[str, ...], weekday: int, distance: timedelta) -> bool:
    """Whether a clock that shows `distance` from the midnight of a day with this number is in the window."""
    weekday, distance = (weekday + distance // _DAY) % 7, distance % _DAY
    return not window or any(
        (weekday in span.days and span.begin <= distance < span.end)
        or ((weekday - 1) % 7 in span.days and distance + _DAY < span.end)
        for span in map(_read, window)
    )


# -- instants ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _spans(window: tuple[str, ...], timezone: str, day: date) -> tuple[tuple[datetime, datetime], ...]:
    """Opening and closing of what begins on this day, in UTC."""
    zone, midnight = ZoneInfo(timezone), datetime.combine(day, time())
    return tuple(
        (_fixed(midnight + span.begin, zone), _closing(midnight + span.end, zone))
        for span in map(_read, window)
        if day.weekday() in span.days
    )


def _fixed(wall: datetime, zone: ZoneInfo) -> datetime:
    return instants(wall, zone, fixed=True)[0]


def _closing(wall: datetime, zone: ZoneInfo) -> datetime:
    return max(_fixed(wall, zone), first_shown(wall - _MINUTE, zone) + _MINUTE)


def _around(window: tuple[str, ...], timezone: str, at: datetime, days: int) -> Iterator[tuple[datetime, datetime]]:
    """What begins from two days before `at` on: a window may last a day, and a clock be put back over midnight."""
    today = at.astimezone(ZoneInfo(timezone)).date()
    for count in range(-2, days):
        yield from _spans(window, timezone, today + count * _DAY)


def is_open(window: tuple[str, ...], timezone: str, at: datetime) -> bool:
    """Whether something may begin at this instant; always so without a window."""
    return not window or any(opening <= at < closing for opening, closing in _around(window, timezone, at, 2))


def next_opening(window: tuple[str, ...], timezone: str, at: datetime) -> datetime:
    """The first instant from `at` on at which something may begin."""
    if is_open(window, timezone, at):
        return at
    return min(opening for opening, _ in _around(window, timezone, at, 10) if opening > at)


def shut_words(window: tuple[str, ...], timezone: str, at: datetime) -> str:
    """Why nothing may begin at this instant; empty where it may."""
    if is_open(window, timezone, at):
        return ""
    opens = next_opening(window, timezone, at).astimezone(ZoneInfo(timezone))
    return f"outside its window {', '.join(window)}, which opens {opens:%a %Y-%m-%d %H:%M %Z}"
