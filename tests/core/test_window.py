"""Windows: what they are written as, when they are open, also over midnight and on the two days a year that differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.core.schedule import (
    Missed,
    MissedSlots,
    Schedule,
    ScheduleError,
    Share,
    begins_in_its_window,
    check_window,
    expected_interval,
    is_open,
    last_slot,
    missed_slots,
    next_opening,
    next_slot,
    share_in_window,
    shut_words,
)
from snaprotd.core.schedule.wall import instants
from snaprotd.core.schedule.window import shows
from tests.support.searches import examples

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
THURSDAY = datetime(2025, 1, 16, 3, 0, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def scheduled(expression: str, *window: str, zone: str = "UTC") -> Schedule:
    return Schedule(expressions=(expression,), timezone=zone, window=window)


# -- how it is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("01:00", '`01:00` is no window: write from when to when, as in "01:00-06:00" or "sat-sun 00:00-24:00"'),
        ("", '`` is no window: write from when to when, as in "01:00-06:00" or "sat-sun 00:00-24:00"'),
        ("1-6", '`1-6` is no window: write from when to when, as in "01:00-06:00" or "sat-sun 00:00-24:00"'),
        ("25:00-26:00", "`25:00` is no time of day: there are 00:00 to 24:00"),
        ("01:60-02:00", "`01:60` is no time of day: there are 00:00 to 24:00"),
        ("22:00-24:01", "`24:01` is no time of day: there are 00:00 to 24:00"),
        ("24:00-06:00", "`24:00-06:00`: 24:00 is the end of a day: a window begins at 00:00 of the next"),
        ("06:00-06:00", "`06:00-06:00` begins when it ends: write 00:00-24:00 for the whole day"),
        ("sum 01:00-06:00", "`sum` is no day of the week: did you mean `sun`?"),
        ("xyz 01:00-06:00", "`xyz` is no day of the week: there are mon tue wed thu fri sat sun"),
        ("saturday 01:00-06:00", "`saturday` is no day of the week: did you mean `sat`?"),
        ("mon- 01:00-06:00", "`` is no day of the week: there are mon tue wed thu fri sat sun"),
    ],
)
def test_what_is_no_window_is_refused_with_what_is_wrong_with_it(text: str, mistake: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        check_window(text)
    assert str(caught.value) == mistake


@pytest.mark.parametrize(
    ("window", "open_at", "shut_at"),
    [
        ("01:00-06:00", ["2025-01-16T01:00", "2025-01-16T05:59"], ["2025-01-16T00:59", "2025-01-16T06:00"]),
        ("1:00 - 6:00", ["2025-01-16T01:00"], ["2025-01-16T06:00"]),
        ("00:00-24:00", ["2025-01-16T00:00", "2025-01-16T12:00", "2025-01-16T23:59"], []),
        ("sat-sun 00:00-24:00", ["2025-01-18T00:00", "2025-01-19T23:59"], ["2025-01-17T23:59", "2025-01-20T00:00"]),
        ("MON,wed 01:00-02:00", ["2025-01-20T01:30", "2025-01-22T01:30"], ["2025-01-21T01:30", "2025-01-19T01:30"]),
        # Over the end of the week.
        ("fri-mon 12:00-13:00", ["2025-01-17T12:00", "2025-01-20T12:00"], ["2025-01-16T12:00", "2025-01-21T12:00"]),
        # Over midnight: the day that is named is that of its beginning.
        ("22:00-04:00", ["2025-01-16T22:00", "2025-01-17T03:59"], ["2025-01-16T21:59", "2025-01-17T04:00"]),
        ("fri 22:00-04:00", ["2025-01-17T22:00", "2025-01-18T03:59"], ["2025-01-17T03:00", "2025-01-18T22:00"]),
        ("sun 22:00-00:00", ["2025-01-19T22:00", "2025-01-19T23:59"], ["2025-01-20T00:00", "2025-01-18T22:00"]),
        ("sun 12:00-11:00", ["2025-01-19T12:00", "2025-01-20T10:59"], ["2025-01-19T11:59", "2025-01-20T11:00"]),
    ],
)
def test_a_window_is_open_from_its_beginning_until_just_before_its_end(
    window: str, open_at: list[str], shut_at: list[str]
) -> None:
    told = {at: is_open((window,), "UTC", utc(at)) for at in (*open_at, *shut_at)}
    assert told == dict.fromkeys(open_at, True) | dict.fromkeys(shut_at, False)


def test_of_a_list_any_window_may_be_open() -> None:
    window = ("01:00-02:00", "sat 12:00-13:00")
    hours = [hour for hour in range(48) if is_open(window, "UTC", utc("2025-01-17T00:30") + hour * HOUR)]
    assert hours == [1, 25, 36]


def test_without_a_window_it_is_always_open() -> None:
    assert is_open((), "UTC", THURSDAY)
    assert next_opening((), "UTC", THURSDAY) == THURSDAY
    assert shut_words((), "UTC", THURSDAY) == ""


# -- the two days a year that differ -------------------------------------------------------------------------------

SPRING, AUTUMN = "2025-03-30", "2025-10-26"
"""Of Europe/Berlin: 02:00 to 03:00 is skipped at 01:00 UTC; 02:00 to 03:00 is shown twice, from 00:00 to 02:00 UTC."""


@pytest.mark.parametrize(
    ("day", "window", "opens", "closes"),
    [
        (SPRING, "01:00-06:00", "00:00", "04:00"),
        (SPRING, "03:00-06:00", "01:00", "04:00"),
        # It begins in the gap: right after it.
        (SPRING, "02:30-06:00", "01:00", "04:00"),
        # It ends in the gap, or with it: what the gap took follows after it.
        (SPRING, "01:00-02:30", "00:00", "01:30"),
        (SPRING, "01:00-03:00", "00:00", "02:00"),
        # All of it lies in the gap.
        (SPRING, "02:00-03:00", "01:00", "02:00"),
        (SPRING, "02:15-02:45", "01:00", "01:45"),
        (SPRING, "01:00-02:00", "00:00", "01:00"),
        (AUTUMN, "01:00-06:00", "2025-10-25T23:00", "05:00"),
        # A bound that is shown twice counts the first time.
        (AUTUMN, "02:30-06:00", "00:30", "05:00"),
        (AUTUMN, "01:00-02:30", "2025-10-25T23:00", "00:30"),
        (AUTUMN, "02:00-03:00", "00:00", "02:00"),
        (AUTUMN, "01:00-02:00", "2025-10-25T23:00", "00:00"),
        (AUTUMN, "03:00-06:00", "02:00", "05:00"),
    ],
)
def test_a_window_on_the_days_on_which_the_clock_is_set(day: str, window: str, opens: str, closes: str) -> None:
    opening, closing = (utc(one if "T" in one else f"{day}T{one}") for one in (opens, closes))
    told = [
        is_open((window,), "Europe/Berlin", at + apart) for at in (opening, closing) for apart in (-MINUTE, 0 * DAY)
    ]
    assert told == [False, True, True, False]
    assert next_opening((window,), "Europe/Berlin", opening - 3 * HOUR) == opening


@pytest.mark.parametrize(
    ("day", "window", "opens", "closes"),
    [
        (SPRING, "22:00-04:00", "2025-03-29T21:00", "2025-03-30T02:00"),
        (AUTUMN, "22:00-04:00", "2025-10-25T20:00", "2025-10-26T03:00"),
        (SPRING, "22:00-02:30", "2025-03-29T21:00", "2025-03-30T01:30"),
        (AUTUMN, "22:00-02:30", "2025-10-25T20:00", "2025-10-26T00:30"),
    ],
)
def test_a_window_over_the_midnight_before_the_clock_is_set(day: str, window: str, opens: str, closes: str) -> None:
    assert next_opening((window,), "Europe/Berlin", utc(f"{day}T00:00") - 6 * HOUR) == utc(opens)
    assert [is_open((window,), "Europe/Berlin", utc(closes) - apart) for apart in (MINUTE, 0 * DAY)] == [True, False]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Beirut"])
@pytest.mark.parametrize("window", [("00:00-24:00",), ("00:00-12:00", "12:00-24:00"), ("22:00-21:59", "20:00-23:00")])
def test_a_window_of_the_whole_day_has_no_hole_on_any_day(zone: str, window: tuple[str, ...]) -> None:
    at = utc("2016-01-01T00:00")
    assert all(is_open(window, zone, at + 30 * count * MINUTE) for count in range(366 * 48))


@given(
    zone=st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Beirut", "UTC"]),
    day=st.dates(datetime(2016, 1, 1, tzinfo=UTC).date(), datetime(2018, 12, 31, tzinfo=UTC).date())
    | st.sampled_from([datetime.fromisoformat(one).date() for one in ("2017-03-26", "2017-10-29", "2017-10-15")]),
    bounds=st.tuples(st.integers(0, 287), st.integers(0, 287)).filter(lambda both: both[0] != both[1]),
    minute=st.integers(0, 1439),
)
@examples(150)
def test_law_a_fixed_slot_that_lies_in_the_window_on_the_wall_does_so_on_every_day(
    zone: str, day: datetime, bounds: tuple[int, int], minute: int
) -> None:
    begin, end = (f"{5 * bound // 60:02}:{5 * bound % 60:02}" for bound in bounds)
    window = (f"{begin}-{end}",)
    if shows(window, day.weekday(), minute * MINUTE):
        wall = datetime(day.year, day.month, day.day) + minute * MINUTE  # noqa: DTZ001 - on the wall
        (slot,) = instants(wall, ZoneInfo(zone), fixed=True)
        assert is_open(window, zone, slot)
        assert next_opening(window, zone, slot - DAY) <= slot


# -- slots ---------------------------------------------------------------------------------------------------------


def test_what_lies_outside_the_window_is_no_slot() -> None:
    schedule = scheduled("0 */2 * * *", "01:00-06:00")
    slots, at = [], THURSDAY
    while (at := next_slot(schedule, at) or at) < utc("2025-01-18T03:00"):
        slots.append(f"{at:%d %H}")
    assert slots == ["16 04", "17 02", "17 04", "18 02"]
    assert last_slot(schedule, utc("2025-01-16T23:00")) == utc("2025-01-16T04:00")


def test_a_slot_of_the_gap_that_comes_right_after_it_lies_in_its_window_still() -> None:
    schedule = scheduled("30 2 * * *", "01:00-03:00", zone="Europe/Berlin")
    assert next_slot(schedule, utc("2025-03-30T00:00")) == utc("2025-03-30T01:00")


def test_the_longest_time_between_two_slots_is_that_in_the_window() -> None:
    assert expected_interval(scheduled("@hourly", "01:00-06:00"), THURSDAY) == 20 * HOUR
    assert expected_interval(scheduled("30 3 * * *", "sat-sun 00:00-24:00"), THURSDAY) == 6 * DAY
    assert expected_interval(scheduled("30 3 * * *"), THURSDAY) == DAY


def test_of_missed_slots_the_latest_in_the_window_is_run_and_none_outside_is_counted() -> None:
    schedule = scheduled("@hourly", "01:00-06:00")
    now = utc("2025-01-16T09:30")
    missed = missed_slots(schedule, seen=now - DAY, now=now, policy_missed=Missed.RUN, within=DAY)
    assert missed == MissedSlots(run=utc("2025-01-16T05:00"), skipped=4)


@pytest.mark.parametrize(
    ("schedule", "fires"),
    [
        (scheduled("30 3 * * *", "01:00-06:00"), True),
        (scheduled("30 7 * * *", "01:00-06:00"), False),
        (scheduled("30 3 * * mon", "sat-sun 00:00-24:00"), False),
        (scheduled("30 3 * * mon", "sun 22:00-04:00"), True),
        (scheduled("* * * * mon-fri", "sat-sun 00:00-24:00"), False),
        # 29 February on a Saturday: 2020 was such a year, and 2048 will be.
        (scheduled("0 0 29 2 *", "sat 00:00-01:00"), True),
        (scheduled("0 0 29 2 *"), True),
    ],
    ids=str,
)
def test_whether_a_schedule_has_any_slot_in_its_window(schedule: Schedule, fires: bool) -> None:
    assert begins_in_its_window(schedule) is fires


def test_how_many_slots_lie_in_the_window_and_how_many_their_delay_takes_out_of_it() -> None:
    hourly = scheduled("@hourly", "01:00-06:00")
    assert share_in_window(hourly) == Share(slots=9600, inside=2000, begun=2000)
    assert share_in_window(hourly, 70 * MINUTE) == Share(slots=9600, inside=2000, begun=1600)
    assert share_in_window(scheduled("@daily")) == Share(slots=400, inside=400, begun=400)


def test_why_nothing_may_begin_is_said_with_when_it_may() -> None:
    told = shut_words(("01:00-06:00", "sat 12:00-13:00"), "Europe/Berlin", utc("2025-01-16T09:00"))
    assert told == ("outside its window 01:00-06:00, sat 12:00-13:00, which opens Fri 2025-01-17 01:00 CET")
