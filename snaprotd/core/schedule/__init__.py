"""When: crontab text (`crontab`), its slots (`slots`), the times of a week in which anything may begin (`window`)."""

from __future__ import annotations

from snaprotd.core.schedule.crontab import ALIASES, check_expression
from snaprotd.core.schedule.slots import (
    COUNTED_AT_MOST,
    Missed,
    MissedSlots,
    Schedule,
    Share,
    begins_in_its_window,
    expected_interval,
    last_slot,
    missed_slots,
    next_slot,
    share_in_window,
    spread_delay,
)
from snaprotd.core.schedule.wall import DEFAULT_TIMEZONE, ScheduleError, check_timezone
from snaprotd.core.schedule.window import check_window, is_open, next_opening, shut_words

__all__ = [
    "ALIASES",
    "COUNTED_AT_MOST",
    "DEFAULT_TIMEZONE",
    "Missed",
    "MissedSlots",
    "Schedule",
    "ScheduleError",
    "Share",
    "begins_in_its_window",
    "check_expression",
    "check_timezone",
    "check_window",
    "expected_interval",
    "is_open",
    "last_slot",
    "missed_slots",
    "next_opening",
    "next_slot",
    "share_in_window",
    "shut_words",
    "spread_delay",
]
