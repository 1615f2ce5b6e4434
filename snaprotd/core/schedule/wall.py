"""From the clock on the wall to instants: what a time of day means on the two days a year that differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

DEFAULT_TIMEZONE = "UTC"


class ScheduleError(ValueError):
    """A schedule or a window that is refused; the text says which one and what is wrong with it."""


def check_timezone(name: str) -> None:
    """Raises ScheduleError if `name` is no IANA time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: `Europe` is a directory
        raise ScheduleError(f"`{name}` is not a known time zone") from None


def instants(wall: datetime, zone: ZoneInfo, *, fixed: bool) -> tuple[datetime, ...]:
    """The instants at which the clock on the wall shows `wall`, as far as they count.

    The clock is put back and shows it twice: a fixed time counts the first time, a rhythm goes on. The clock
    is put forward over it: a fixed time counts right after the gap, a rhythm not at all. (Debian's cron(8).)
    """
    first, second = first_shown(wall, zone), wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first > second:  # PEP 495: only in a gap
        return (_end_of_gap(second, zone),) if fixed else ()
    return (first,) if fixed or first == second else (first, second)


def first_shown(wall: datetime, zone: ZoneInfo) -> datetime:
    """When the clock shows `wall` for the first time; in a gap, when it would if it had not been put forward."""
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _end_of_gap(before: datetime, zone: ZoneInfo) -> datetime:
    """The first minute after `before` at which the offset of `zone` is another."""
    old = before.astimezone(zone).utcoffset()
    while before.astimezone(zone).utcoffset() == old:
        before += timedelta(minutes=1)
    return before
