"""Crontab text to slots: what each field means, the two days a year that differ, and what was missed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.core.holds import snapshot_name
from snaprotd.core.schedule import (
    ALIASES,
    COUNTED_AT_MOST,
    Missed,
    MissedSlots,
    Schedule,
    ScheduleError,
    expected_interval,
    last_slot,
    missed_slots,
    next_slot,
    spread_delay,
)
from snaprotd.daemon.slots.timer import SlotTimer, SlotTrigger
from tests.support.searches import examples
from tests.support.virtual_time import START, VirtualLoop

THURSDAY = datetime(2025, 1, 16, 3, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
INSTANT = timedelta(microseconds=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def crontab(*expressions: str, zone: str = "UTC") -> Schedule:
    return Schedule.parse(expressions, zone)


def named(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The rows of a table whose first column is the name of the case."""
    return [pytest.param(*row, id=name) for name, *row in rows]


def slots(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    while slot := next_slot(schedule, after):
        yield slot
        after = slot


def slots_until(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    return list(takewhile(lambda slot: slot <= until, slots(schedule, after)))


def slots_of_day(expression: str, zone: str, day: str) -> list[datetime]:
    """All slots between the midnights of a local day, in UTC."""
    midnight = datetime.fromisoformat(day)
    start = midnight.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    end = (midnight + DAY).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    return slots_until(crontab(expression, zone=zone), start - INSTANT, end - INSTANT)


# --- What an expression means


MEANINGS = [
    ("0 is Sunday", "0 3 * * 0", ["2025-01-19T03:00", "2025-01-26T03:00"]),
    ("7 is Sunday too", "0 3 * * 7", ["2025-01-19T03:00", "2025-01-26T03:00"]),
    ("1-5 is Monday to Friday", "0 4 * * 1-5", ["2025-01-16T04:00", "2025-01-17T04:00", "2025-01-20T04:00"]),
    ("5-7 is Friday to Sunday", "0 4 * * 5-7", ["2025-01-17T04:00", "2025-01-18T04:00", "2025-01-19T04:00"]),
    ("day and weekday are OR-ed", "0 0 20 * 6", ["2025-01-18T00:00", "2025-01-20T00:00", "2025-01-25T00:00"]),
    ("a starred day is AND-ed", "0 0 */2 * 1", ["2025-01-27T00:00", "2025-02-03T00:00", "2025-02-17T00:00"]),
    ("names of days", "0 0 * * mon,Wed", ["2025-01-20T00:00", "2025-01-22T00:00"]),
    (
        "a range of named days",
        "0 0 * * THU-SAT",
        ["2025-01-17T00:00", "2025-01-18T00:00", "2025-01-23T00:00"],
    ),
    ("names of months", "0 0 1 feb,DEC *", ["2025-02-01T00:00", "2025-12-01T00:00"]),
    ("a range of named months", "0 0 1 nov-dec *", ["2025-11-01T00:00", "2025-12-01T00:00"]),
    ("a range of hours", "0 5-6 * * *", ["2025-01-16T05:00", "2025-01-16T06:00", "2025-01-17T05:00"]),
    ("a step", "*/20 * * * *", ["2025-01-16T03:20", "2025-01-16T03:40", "2025-01-16T04:00"]),
    ("a step in a range", "5-59/10 * * * *", ["2025-01-16T03:05", "2025-01-16T03:15", "2025-01-16T03:25"]),
    ("a step of the hour", "0 */6 * * *", ["2025-01-16T06:00", "2025-01-16T12:00", "2025-01-16T18:00"]),
    ("a list", "10,50 3 * * *", ["2025-01-16T03:10", "2025-01-16T03:50", "2025-01-17T03:10"]),
    ("a list of ranges", "0 1-2,22-23 * * *", ["2025-01-16T22:00", "2025-01-16T23:00", "2025-01-17T01:00"]),
    ("the last day of the month", "0 0 L * *", ["2025-01-31T00:00", "2025-02-28T00:00", "2025-03-31T00:00"]),
    ("the last Friday", "0 0 * * 5L", ["2025-01-31T00:00", "2025-02-28T00:00", "2025-03-28T00:00"]),
    ("the first Monday", "0 0 * * MON#1", ["2025-02-03T00:00", "2025-03-03T00:00", "2025-04-07T00:00"]),
    ("the fifth Thursday", "0 0 * * 4#5", ["2025-01-30T00:00", "2025-05-29T00:00", "2025-07-31T00:00"]),
    (
        "the 31st, where there is one",
        "0 0 31 * *",
        ["2025-01-31T00:00", "2025-03-31T00:00", "2025-05-31T00:00"],
    ),
    ("29 February", "0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00"]),
    (
        "29 February across 2100",
        "0 0 29 FEB */7",
        ["2032-02-29T00:00", "2060-02-29T00:00", "2088-02-29T00:00"],
    ),
    ("the fifth Saturday of February", "0 0 * 2 SAT#5", ["2048-02-29T00:00", "2076-02-29T00:00"]),
    ("@hourly", "@hourly", ["2025-01-16T04:00", "2025-01-16T05:00"]),
    ("@daily", "@daily", ["2025-01-17T00:00", "2025-01-18T00:00"]),
    ("@midnight", "@midnight", ["2025-01-17T00:00", "2025-01-18T00:00"]),
    ("@weekly is on Sunday", "@weekly", ["2025-01-19T00:00", "2025-01-26T00:00"]),
    ("@monthly", "@monthly", ["2025-02-01T00:00", "2025-03-01T00:00"]),
    ("@yearly", "@yearly", ["2026-01-01T00:00", "2027-01-01T00:00"]),
    ("@annually", "@annually", ["2026-01-01T00:00", "2027-01-01T00:00"]),
    ("an alias in capitals", "@Daily", ["2025-01-17T00:00", "2025-01-18T00:00"]),
    ("spaces and tabs", "  0\t4  * * * ", ["2025-01-16T04:00", "2025-01-17T04:00"]),
]


@pytest.mark.parametrize(("expression", "expected"), named(MEANINGS))
def test_an_expression_means_what_cron_means(expression: str, expected: list[str]) -> None:
    found = list(islice(slots(crontab(expression), THURSDAY), len(expected)))
    assert found == [utc(text) for text in expected]


@pytest.mark.parametrize(("expression", "expected"), named(MEANINGS))
def test_backwards_the_slots_are_the_same(expression: str, expected: list[str]) -> None:
    found, at = [], utc(expected[-1])
    for _ in expected:
        slot = last_slot(crontab(expression), at)
        assert slot
        found.append(slot)
        at = slot - INSTANT
    assert found[::-1] == [utc(text) for text in expected]


def test_times_are_read_in_the_zone_and_given_in_utc() -> None:
    slot = next_slot(crontab("30 3 * * *", zone="Europe/Berlin"), THURSDAY - DAY)
    assert (slot, slot and slot.tzinfo) == (utc("2025-01-16T02:30"), UTC)


def test_a_slot_is_never_the_instant_asked_about() -> None:
    assert next_slot(crontab("0 3 * * *"), THURSDAY) == THURSDAY + DAY


def test_a_slot_is_found_from_the_instant_before_it() -> None:
    assert next_slot(crontab("0 3 * * *"), THURSDAY - INSTANT) == THURSDAY


def test_the_last_slot_may_be_the_instant_asked_about() -> None:
    assert last_slot(crontab("0 3 * * *"), THURSDAY) == THURSDAY


def test_a_question_may_be_asked_in_any_zone() -> None:
    local = THURSDAY.astimezone(ZoneInfo("Pacific/Auckland"))
    assert next_slot(crontab("0 4 * * *"), local) == THURSDAY + HOUR


def test_several_expressions_are_merged() -> None:
    schedule = crontab("0 4 * * *", "30 3 * * *", "0 12 * * 4")
    assert [f"{slot:%d %H:%M}" for slot in islice(slots(schedule, THURSDAY), 4)] == [
        "16 03:30",
        "16 04:00",
        "16 12:00",
        "17 03:30",
    ]


def test_a_slot_of_two_expressions_is_one_slot() -> None:
    schedule = crontab("0 * * * *", "*/30 * * * *", "0 4 * * *")
    found = list(islice(slots(schedule, THURSDAY), 4))
    assert [later - earlier for earlier, later in pairwise(found)] == [30 * MINUTE] * 3


def test_equal_schedules_are_one_key() -> None:
    assert len({crontab("0  4 * * *"), crontab("0 4 * * * ")}) == 1


# --- What is refused


REFUSED = [
    ("61 * * * *", "`61 * * * *`: minute: 61 is out of range 0-59"),
    ("* 24 * * *", "`* 24 * * *`: hour: 24 is out of range 0-23"),
    ("* * 0 * *", "`* * 0 * *`: day-of-month: 0 is out of range 1-31"),
    ("* * * 1-13 *", "`* * * 1-13 *`: month: 13 is out of range 1-12"),
    ("* * * * 8", "`* * * * 8`: day-of-week: 8 is out of range 0-7"),
    ("60 24 * * *", "`60 24 * * *`: minute: 60 is out of range 0-59, hour: 24 is out of range 0-23"),
    ("30-10 * * * *", "`30-10 * * * *`: minute: the range 30-10 runs backwards"),
    ("x * * * *", "`x * * * *`: minute: 'x' is not understood"),
    ("*/0 * * * *", "`*/0 * * * *`: minute: '*/0' is not understood"),
    ("-5 * * * *", "`-5 * * * *`: minute: '-5' is not understood"),
    ("1, * * * *", "`1, * * * *`: minute: '1,' is not understood"),
    ("1.5 * * * *", "`1.5 * * * *`: minute: '1.5' is not understood"),
    ("0 0 * * MON#6", "`0 0 * * MON#6`: day-of-week: 'MON#6' is not understood"),
    ("0 0 * * FRIDAY", "`0 0 * * FRIDAY`: day-of-week: 'FRIDAY' is not understood"),
    ("0 0 31 2 *", "`0 0 31 2 *` never fires"),
    ("0 0 30 FEB *", "`0 0 30 FEB *` never fires"),
    ("0 0 31 4,6,9,11 *", "`0 0 31 4,6,9,11 *` never fires"),
    ("0 0 */31 * MON#2", "`0 0 */31 * MON#2` never fires"),
    ("* * * *", "`* * * *`: 4 fields, where five are needed: minute hour day-of-month month day-of-week"),
    (
        "0 0 3 * * *",
        "`0 0 3 * * *`: 6 fields, where five are needed: minute hour day-of-month month day-of-week",
    ),
    ("", "``: 0 fields, where five are needed: minute hour day-of-month month day-of-week"),
    ("@nightly", f"`@nightly`: unknown alias; there are {' '.join(ALIASES)}"),
    ("@reboot", "`@reboot` is not supported: a schedule follows the clock; use @daily, say"),
]


@pytest.mark.parametrize(("expression", "text"), REFUSED)
def test_a_bad_expression_is_refused_with_its_reason(expression: str, text: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        crontab(expression)
    assert str(refused.value) == text


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(ScheduleError, match="is not understood"):
        crontab("9" * 5000 + " * * * *")


def test_every_bad_expression_of_a_list_is_named() -> None:
    with pytest.raises(ScheduleError) as refused:
        crontab("@daily", "0 0 31 2 *", "99 * * * *", zone="Mars/Base")
    assert all(text in str(refused.value) for text in ("`0 0 31 2 *`", "`99 * * * *`", "`Mars/Base`"))


def test_a_schedule_without_an_expression_is_refused() -> None:
    with pytest.raises(ScheduleError, match="at least one"):
        crontab()


ZONES_REFUSED = [
    ("Europe/Berln", "`Europe/Berln` is not a known time zone"),
    ("Europe", "`Europe` is not a known time zone"),
    ("", "`` is not a known time zone"),
    ("/etc/localtime", "`/etc/localtime` is not a known time zone"),
    ("../UTC", "`../UTC` is not a known time zone"),
]


@pytest.mark.parametrize(("zone", "text"), ZONES_REFUSED)
def test_an_unknown_time_zone_is_refused(zone: str, text: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        crontab("@daily", zone=zone)
    assert str(refused.value).startswith(text)


@given(st.text(alphabet="0123456789*/,-#LlMONmon @\u0662", max_size=20))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        schedule = crontab(text)
    except ScheduleError:
        return
    assert next_slot(schedule, THURSDAY)


# --- The two days a year that differ


BERLIN, LORD_HOWE = "Europe/Berlin", "Australia/Lord_Howe"
SPRING, AUTUMN = "2027-03-28", "2026-10-25"
HOWE_SPRING, HOWE_AUTUMN = "2026-10-04", "2027-04-04"

CLOCK_CHANGES = [
    ("a time in the gap: once, right after it", "30 2 * * *", BERLIN, SPRING, ["01:00"]),
    ("two times in the gap are one slot", "0,30 2 * * *", BERLIN, SPRING, ["01:00"]),
    ("a time in the gap and one at its end", "30 2,3 * * *", BERLIN, SPRING, ["01:00", "01:30"]),
    ("a time at the end of the gap", "0 3 * * *", BERLIN, SPRING, ["01:00"]),
    ("a rhythm has no slot in the gap", "*/30 2 * * *", BERLIN, SPRING, []),
    ("a time in the repeated hour: the first", "30 2 * * *", BERLIN, AUTUMN, ["00:30"]),
    ("a time after the repeated hour", "0 3 * * *", BERLIN, AUTUMN, ["02:00"]),
    (
        "a rhythm goes on in the repeated hour",
        "*/30 2 * * *",
        BERLIN,
        AUTUMN,
        ["00:00", "00:30", "01:00", "01:30"],
    ),
    ("half an hour's gap: right after it", "10 2 * * *", LORD_HOWE, HOWE_SPRING, ["15:30"]),
    ("half an hour's gap: outside it", "40 2 * * *", LORD_HOWE, HOWE_SPRING, ["15:40"]),
    (
        "half an hour's gap: the rhythm after it",
        "*/15 3 * * *",
        LORD_HOWE,
        HOWE_SPRING,
        ["16:00", "16:15", "16:30", "16:45"],
    ),
    ("half an hour repeated: the first", "40 1 * * *", LORD_HOWE, HOWE_AUTUMN, ["14:40"]),
    ("half an hour repeated: outside it", "10 1 * * *", LORD_HOWE, HOWE_AUTUMN, ["14:10"]),
    (
        "half an hour repeated: the rhythm",
        "*/30 1 * * *",
        LORD_HOWE,
        HOWE_AUTUMN,
        ["14:00", "14:30", "15:00"],
    ),
    ("a gap at midnight: right after it", "0 0 * * *", "Africa/Cairo", "2027-04-30", ["22:00"]),
    ("midnight twice: the first", "15 0 * * *", "America/Havana", "2026-11-01", ["04:15"]),
]


@pytest.mark.parametrize(
    ("expression", "zone", "day", "expected"),
    named(CLOCK_CHANGES),
)
def test_on_the_day_of_a_clock_change(expression: str, zone: str, day: str, expected: list[str]) -> None:
    assert [f"{slot:%H:%M}" for slot in slots_of_day(expression, zone, day)] == expected


@pytest.mark.parametrize(
    ("zone", "day", "count"),
    [
        (BERLIN, SPRING, 23),
        (BERLIN, AUTUMN, 25),
        (BERLIN, "2026-10-26", 24),
        (LORD_HOWE, HOWE_SPRING, 23),
        (LORD_HOWE, HOWE_AUTUMN, 24),
    ],
)
def test_hourly_means_each_hour_the_clock_shows(zone: str, day: str, count: int) -> None:
    assert len(slots_of_day("@hourly", zone, day)) == count


@pytest.mark.parametrize("day", [SPRING, AUTUMN])
@pytest.mark.parametrize("expression", ["* * * * *", "@hourly", "*/15 1-3 * * *", "0,30 1,2,3 * * *"])
def test_no_two_slots_of_a_clock_change_have_one_name(expression: str, day: str) -> None:
    found = slots_of_day(expression, BERLIN, day)
    assert len({snapshot_name("main", slot) for slot in found}) == len(found) > 0


def test_in_the_second_pass_of_the_repeated_hour_no_slot_of_the_first_is_offered() -> None:
    second_pass = utc("2026-10-25T01:15")  # 02:15 for the second time
    assert next_slot(crontab("30 2 * * *", zone=BERLIN), second_pass) == utc("2026-10-26T01:30")


def night(text: str) -> datetime:
    """An instant of the night in which St. John's went back from a minute past midnight to 23:01."""
    return utc(f"2010-11-07T{text}")


OVER_MIDNIGHT = Schedule.parse(["*/30 * * * *"], "America/St_Johns")
TWO_MIDNIGHTS = [night("02:00"), night("02:30"), night("03:00"), night("03:30")]
"""Half past eleven, midnight, and both again."""


def test_a_clock_put_back_over_midnight_has_its_slots_in_the_order_of_instants() -> None:
    assert slots_until(OVER_MIDNIGHT, night("01:30"), night("03:30")) == TWO_MIDNIGHTS


def test_a_clock_put_back_over_midnight_has_the_same_slots_backwards() -> None:
    assert [last_slot(OVER_MIDNIGHT, slot + 9 * MINUTE) for slot in TWO_MIDNIGHTS] == TWO_MIDNIGHTS


@pytest.mark.parametrize(
    ("seen", "now", "run", "skipped"),
    [("02:30", "03:45", 3, 1), ("02:10", "02:40", 1, 0)],
)
def test_over_midnight_put_back_no_missed_slot_is_lost(seen: str, now: str, run: int, skipped: int) -> None:
    since, until = night(seen), night(now)
    found = missed_slots(OVER_MIDNIGHT, seen=since, now=until, policy_missed=Missed.RUN, within=DAY)
    assert found == MissedSlots(run=TWO_MIDNIGHTS[run], skipped=skipped)


# --- Laws


ZONES = [
    "UTC",
    "Asia/Kolkata",
    BERLIN,
    "America/New_York",
    LORD_HOWE,
    "Africa/Cairo",
    "America/Havana",
    "America/Scoresbysund",
    "America/St_Johns",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/Santiago",
]
CHANGES = [
    "2026-10-25T01:00",  # Berlin, Scoresbysund
    "2027-03-28T01:00",
    "2026-11-01T06:00",  # New York, Havana
    "2027-03-14T07:00",
    "2026-10-03T15:30",  # Lord Howe
    "2027-04-03T15:00",
    "2027-04-29T22:00",  # Cairo
    "2026-10-29T21:00",
    "2010-11-07T02:31",  # St. John's went back at a minute past midnight
    "2011-12-30T10:00",  # Apia left out a whole day
    "2027-02-07T02:00",  # Casablanca
    "2027-04-04T03:00",  # Santiago
]
rhythms = st.builds(
    "{} {} {} {} {}".format,
    st.sampled_from(["*", "*/15", "*/7"]),
    st.sampled_from(["*", "*/2", "0", "1", "2", "23", "1-3", "9-17"]),
    st.sampled_from(["*", "1", "L", "28", "*/10"]),
    st.sampled_from(["*", "10", "3,10-11"]),
    st.sampled_from(["*", "0", "1-5", "7L", "SUN#1"]),
)
times = st.builds(
    "{} {} {} {} {}".format,
    st.sampled_from(["0", "30", "0,30", "5-59/10", "17"]),
    st.sampled_from(["0", "1", "2", "2,3", "23", "1-3", "0,12"]),
    st.sampled_from(["*", "1", "L", "28", "*/10"]),
    st.sampled_from(["*", "10", "3,10-11"]),
    st.sampled_from(["*", "0", "1-5", "7L", "SUN#1"]),
)
instants = st.builds(
    lambda change, minutes, micro: utc(change) + timedelta(minutes=minutes, microseconds=micro),
    st.sampled_from(CHANGES),
    st.integers(-3000, 3000) | st.integers(-90, 90),
    st.sampled_from([0, 0, 1, 999_999]),
)
schedules = st.builds(
    Schedule.parse,
    st.lists(rhythms | times | st.sampled_from(sorted(ALIASES)), min_size=1, max_size=3),
    st.sampled_from(ZONES),
)


@given(schedules, instants)
@examples(300)
def test_the_next_slot_is_later_and_none_lies_between(schedule: Schedule, after: datetime) -> None:
    slot = next_slot(schedule, after)
    assert slot
    assert slot > after
    before = last_slot(schedule, slot - INSTANT)
    assert before
    assert before <= after


@given(schedules, instants)
@examples(300)
def test_the_last_slot_is_one_that_going_forward_finds_too(schedule: Schedule, at: datetime) -> None:
    slot = last_slot(schedule, at)
    assert slot
    assert slot <= at
    assert next_slot(schedule, slot - INSTANT) == slot
    following = next_slot(schedule, slot)
    assert following
    assert following > at


@given(schedules, instants, st.integers(0, 4000))
@examples(200)
def test_where_a_walk_begins_makes_no_difference(schedule: Schedule, start: datetime, minutes: int) -> None:
    later = start + timedelta(minutes=minutes)
    reached = start
    for reached in islice(slots(schedule, start), 5000):
        if reached > later:
            break
    assert reached == next_slot(schedule, later)


@given(rhythms, st.sampled_from(ZONES), instants)
@examples(100)
def test_a_rhythm_fires_at_each_minute_at_which_the_clock_on_the_wall_matches(
    expression: str, zone: str, start: datetime
) -> None:
    start = start.replace(second=0, microsecond=0)
    minutes = [start + n * MINUTE for n in range(1, 181)]
    matching = [minute for minute in minutes if shows(expression, minute.astimezone(ZoneInfo(zone)))]
    assert slots_until(crontab(expression, zone=zone), start, minutes[-1]) == matching


def shows(expression: str, local: datetime) -> bool:
    """Whether the expression matches what the clock shows, whatever the zone."""
    wall = local.replace(tzinfo=None, fold=0)
    return next(CronSim(expression, wall - MINUTE)) == wall


@given(rhythms | times, st.sampled_from(["UTC", "Asia/Kolkata", BERLIN, "America/New_York"]), instants)
@examples(200)
def test_where_clocks_change_by_an_hour_in_the_night_cronsim_agrees(
    expression: str, zone: str, after: datetime
) -> None:
    walk = (slot.astimezone(UTC) for slot in CronSim(expression, after.astimezone(ZoneInfo(zone))))
    assert next_slot(crontab(expression, zone=zone), after) == next(slot for slot in walk if slot > after)


# --- What was missed


MISSED = [
    ("nothing missed", "0 3 * * *", "2025-01-15T03:00", Missed.RUN, (None, 0)),
    ("one missed: it runs", "0 3 * * *", "2025-01-15T02:59", Missed.RUN, ("2025-01-15T03:00", 0)),
    ("three missed: the latest runs", "0 3 * * *", "2025-01-12T03:00", Missed.RUN, ("2025-01-15T03:00", 2)),
    ("three missed: all are counted", "0 3 * * *", "2025-01-12T03:00", Missed.SKIP, (None, 3)),
    ("seen in the future", "0 3 * * *", "2025-02-01T00:00", Missed.RUN, (None, 0)),
    ("a slot of now is missed too", "0 2 * * *", "2025-01-16T01:00", Missed.RUN, ("2025-01-16T02:00", 0)),
    ("exactly as old as allowed", "0 2 * * 3", "2025-01-14T00:00", Missed.RUN, ("2025-01-15T02:00", 0)),
    ("older than allowed", "59 1 * * 3", "2025-01-14T00:00", Missed.RUN, (None, 1)),
    ("two schedules' common slot is one", "@hourly", "2025-01-15T23:00", Missed.RUN, ("2025-01-16T02:00", 2)),
    (
        "more than are counted",
        "* * * * *",
        "2024-01-16T00:00",
        Missed.RUN,
        ("2025-01-16T02:00", COUNTED_AT_MOST),
    ),
    ("years of a rare one", "@yearly", "2019-06-01T00:00", Missed.RUN, (None, 6)),
]


@pytest.mark.parametrize(("expression", "seen", "policy", "expected"), named(MISSED))
def test_missed_slots(expression: str, seen: str, policy: Missed, expected: tuple[str | None, int]) -> None:
    schedule = crontab(expression, expression)
    now = utc("2025-01-16T02:00")
    found = missed_slots(schedule, seen=utc(seen), now=now, policy_missed=policy, within=DAY)
    run, skipped = expected
    assert found == MissedSlots(run=utc(run) if run else None, skipped=skipped)


def test_a_slot_whose_delayed_turn_has_not_come_is_not_missed() -> None:
    schedule, now = crontab("0 3 * * *"), THURSDAY + 10 * MINUTE
    found = missed_slots(
        schedule, seen=THURSDAY - HOUR, now=now, policy_missed=Missed.RUN, within=DAY, delay=11 * MINUTE
    )
    assert found == MissedSlots(run=None, skipped=0)


def test_a_slot_whose_delayed_turn_was_missed_runs() -> None:
    schedule, now = crontab("0 3 * * *"), THURSDAY + 11 * MINUTE
    found = missed_slots(
        schedule, seen=THURSDAY - HOUR, now=now, policy_missed=Missed.RUN, within=DAY, delay=11 * MINUTE
    )
    assert found == MissedSlots(run=THURSDAY, skipped=0)


@given(schedules, instants, st.integers(0, 600))
@examples(200)
def test_missed_are_exactly_the_slots_since(schedule: Schedule, seen: datetime, minutes: int) -> None:
    now = seen + timedelta(minutes=minutes)
    passed = slots_until(schedule, seen, now)
    found = missed_slots(schedule, seen=seen, now=now, policy_missed=Missed.RUN, within=DAY)
    assert (found.run, found.skipped) == (passed[-1] if passed else None, max(len(passed) - 1, 0))


# --- The spread


def test_a_servers_share_of_the_spread_is_the_same_in_every_run() -> None:
    shares = [spread_delay(name, 30 * MINUTE).total_seconds() for name in ("12345", "12346", "web-01")]
    assert shares == [629, 371, 81]


@given(st.text(), st.integers(0, 10**6))
def test_a_share_is_whole_seconds_below_the_spread(server_id: str, seconds: int) -> None:
    share = spread_delay(server_id, timedelta(seconds=seconds)).total_seconds()
    assert share == int(share)
    assert 0 <= share < max(seconds, 1)


def test_five_hundred_servers_are_spread_over_the_whole_time() -> None:
    shares = [spread_delay(str(n), 500 * MINUTE) // (50 * MINUTE) for n in range(500)]
    assert all(30 <= shares.count(tenth) <= 70 for tenth in range(10))


# --- The expected interval


INTERVALS = [
    ("* * * * *", MINUTE),
    ("@hourly", HOUR),
    ("30 3 * * *", DAY),
    ("@weekly", 7 * DAY),
    ("@monthly", 31 * DAY),
    ("@yearly", 365 * DAY),
    ("0 0 29 2 *", 1461 * DAY),
    ("*/5 9-17 * * 1-5", 2 * DAY + 15 * HOUR + 5 * MINUTE),
    ("0 0 * 1-6 *", 185 * DAY),
    ("* * 29 2 *", 1460 * DAY + MINUTE),
    ("0 9,12 * * *", 21 * HOUR),
]


@pytest.mark.parametrize(("expression", "interval"), INTERVALS)
def test_the_expected_interval_is_the_longest_wait(expression: str, interval: timedelta) -> None:
    assert expected_interval(crontab(expression, zone=BERLIN), utc("2026-10-20T12:00")) == interval


def test_a_second_expression_shortens_the_expected_interval() -> None:
    assert expected_interval(crontab("0 0 * * *", "0 9 * * *", "0 9 * * 1"), THURSDAY) == 15 * HOUR


@given(st.lists(rhythms | times, min_size=1, max_size=3), instants)
@examples(50)
def test_in_the_year_ahead_no_wait_is_longer_than_expected(expressions: list[str], at: datetime) -> None:
    schedule = crontab(*expressions)
    ahead = list(islice(takewhile(lambda slot: slot < at + 365 * DAY, slots(schedule, at)), 500))
    longest = max((later - earlier for earlier, later in pairwise(ahead)), default=MINUTE)
    assert longest <= expected_interval(schedule, at)


# --- The trigger


def test_creation_fires_nothing_before_the_next_slot() -> None:
    trigger = SlotTrigger(crontab("0 3 * * *"))
    assert trigger.get_next_fire_time(None, THURSDAY + MINUTE) == THURSDAY + DAY


def test_creation_at_the_very_slot_fires_nothing() -> None:
    assert SlotTrigger(crontab("0 3 * * *")).get_next_fire_time(None, THURSDAY) == THURSDAY + DAY


def test_a_slot_that_has_passed_fires_still_if_its_delayed_turn_is_to_come() -> None:
    trigger = SlotTrigger(crontab("0 3 * * *"), delay=20 * MINUTE)
    assert trigger.get_next_fire_time(None, THURSDAY + 19 * MINUTE) == THURSDAY + 20 * MINUTE


def test_a_delayed_turn_that_has_passed_does_not_fire() -> None:
    trigger = SlotTrigger(crontab("0 3 * * *"), delay=20 * MINUTE)
    assert trigger.get_next_fire_time(None, THURSDAY + 20 * MINUTE) == THURSDAY + DAY + 20 * MINUTE


def test_the_slot_of_a_delayed_turn_keeps_its_nominal_time() -> None:
    assert SlotTrigger(crontab("0 3 * * *"), delay=20 * MINUTE).slot_of(THURSDAY + 20 * MINUTE) == THURSDAY


async def test_a_timer_knows_the_next_turn_of_each_server_until_it_is_removed() -> None:
    timer = SlotTimer(lambda server_id, slot: None)
    for server_id, schedule in (("1", crontab("0 3 * * *")), ("2", crontab("0 5 * * *")), ("1", crontab("0 4 * * *"))):
        timer.set(server_id, schedule, 20 * MINUTE, THURSDAY)
    assert timer.next_run("1") == THURSDAY + HOUR + 20 * MINUTE
    assert timer.next_run("2") == THURSDAY + 2 * HOUR + 20 * MINUTE
    timer.remove("1")
    assert timer.next_run("1") is None
    timer.stop()


def test_fire_times_are_in_utc() -> None:
    fire_time = SlotTrigger(crontab("0 3 * * *", zone=BERLIN)).get_next_fire_time(None, THURSDAY)
    assert fire_time
    assert fire_time.tzinfo is UTC


def test_of_many_missed_turns_only_the_latest_comes() -> None:
    trigger = SlotTrigger(crontab("* * * * *"), delay=MINUTE / 2)
    previous, now = THURSDAY + MINUTE / 2, THURSDAY + 180 * DAY
    assert trigger.get_next_fire_time(previous, now) == now - MINUTE / 2


def test_one_missed_turn_comes() -> None:
    trigger = SlotTrigger(crontab("@hourly"))
    assert trigger.get_next_fire_time(THURSDAY, THURSDAY + HOUR + MINUTE) == THURSDAY + HOUR


def test_when_the_clock_went_back_the_turn_after_the_last_one_comes() -> None:
    trigger = SlotTrigger(crontab("@hourly"))
    assert trigger.get_next_fire_time(THURSDAY, THURSDAY - 5 * HOUR) == THURSDAY + HOUR


@given(schedules, instants, instants, st.integers(0, 3600))
@examples(200)
def test_a_turn_never_comes_at_or_before_the_last_one(
    schedule: Schedule, previous: datetime, now: datetime, delay: int
) -> None:
    fire_time = SlotTrigger(schedule, delay=timedelta(seconds=delay)).get_next_fire_time(previous, now)
    assert fire_time
    assert fire_time > previous


def broken_schedule() -> Schedule:
    """One that slipped past the reader: every question about it raises."""
    return Schedule(expressions=("0 0 31 2",), timezone="UTC")


def test_a_trigger_that_fails_ends_with_none_and_tells() -> None:
    told: list[Exception] = []
    assert SlotTrigger(broken_schedule(), on_error=told.append).get_next_fire_time(None, THURSDAY) is None
    assert [type(error) for error in told] == [ScheduleError]


def test_a_trigger_does_not_raise_even_if_telling_fails() -> None:
    def deaf(error: Exception) -> None:
        raise RuntimeError("nobody listens") from error

    assert SlotTrigger(broken_schedule(), on_error=deaf).get_next_fire_time(None, THURSDAY) is None


# --- The trigger in the real scheduler


class CountedTrigger(SlotTrigger):
    """Counts how often the scheduler asks."""

    __slots__ = ("asked",)
    asked: int

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        self.asked += 1
        return super().get_next_fire_time(previous_fire_time, now)


def counted(schedule: Schedule) -> CountedTrigger:
    trigger = CountedTrigger(schedule)
    trigger.asked = 0
    return trigger


@contextmanager
def scheduler() -> Iterator[AsyncIOScheduler]:
    clockwork = AsyncIOScheduler(timezone=UTC, job_defaults={"coalesce": True, "misfire_grace_time": None})
    clockwork.start()
    try:
        yield clockwork
    finally:
        clockwork.shutdown()


def schedule_job(clockwork: AsyncIOScheduler, trigger: SlotTrigger, **options: datetime) -> list[datetime]:
    """The wall-clock times at which the job ran, as they come."""
    ran: list[datetime] = []

    async def note() -> None:
        ran.append(datetime.now(UTC))

    clockwork.add_job(note, trigger, **options)
    return ran


async def set_clock(clockwork: AsyncIOScheduler, by: timedelta) -> None:
    """Set the wall clock only, as a suspend or a step of NTP does, and have the scheduler look."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._traveller.shift(by)
    clockwork.wakeup()
    await asyncio.sleep(1)


def minutes_of(ran: list[datetime]) -> list[str]:
    return [f"{time:%d %H:%M}" for time in ran]


async def test_the_scheduler_fires_at_each_slot() -> None:
    with scheduler() as clockwork:
        ran = schedule_job(clockwork, SlotTrigger(crontab("0 */6 * * *")))
        await asyncio.sleep(86400)
    assert minutes_of(ran) == ["16 06:00", "16 12:00", "16 18:00", "17 00:00"]


async def test_after_six_months_of_suspend_the_scheduler_fires_once_and_asks_little() -> None:
    with scheduler() as clockwork:
        trigger = counted(crontab("* * * * *"))
        ran = schedule_job(clockwork, trigger)
        await asyncio.sleep(60.5)
        assert (len(ran), trigger.asked) == (1, 3)
        await set_clock(clockwork, 180 * DAY)
        assert (len(ran), trigger.asked <= 7) == (2, True)
        await asyncio.sleep(60)
        assert len(ran) == 3


async def test_down_for_three_slots_and_up_again_runs_once_and_then_keeps_time() -> None:
    with scheduler() as clockwork:
        ran = schedule_job(clockwork, SlotTrigger(crontab("@hourly")))
        await set_clock(clockwork, 3 * HOUR + 30 * MINUTE)
        await asyncio.sleep(3600)
    assert minutes_of(ran) == ["16 06:30", "16 07:00"]


async def test_a_clock_set_back_an_hour_fires_no_slot_twice() -> None:
    with scheduler() as clockwork:
        ran = schedule_job(clockwork, SlotTrigger(crontab("30 3 * * *", "30 5 * * *")))
        await asyncio.sleep(1860)
        await set_clock(clockwork, -HOUR)
        await asyncio.sleep(3 * 3600)
    assert minutes_of(ran) == ["16 03:30", "16 05:30"]


async def test_a_clock_set_forward_over_a_slot_and_back_again_fires_it_once() -> None:
    with scheduler() as clockwork:
        ran = schedule_job(clockwork, SlotTrigger(crontab("30 3 * * *")))
        await set_clock(clockwork, HOUR)
        await set_clock(clockwork, -HOUR)
        await asyncio.sleep(7200)
    assert minutes_of(ran) == ["16 04:00"]


async def test_one_failing_trigger_leaves_the_other_servers_jobs_going() -> None:
    told: list[Exception] = []
    with scheduler() as clockwork:
        ran = schedule_job(clockwork, SlotTrigger(crontab("@hourly")))
        broken = SlotTrigger(broken_schedule(), on_error=told.append)
        ran_broken = schedule_job(clockwork, broken, next_run_time=START + MINUTE)
        await asyncio.sleep(2 * 3600 + 1)
    assert (len(ran_broken), len(ran), len(told) > 0) == (1, 2, True)
