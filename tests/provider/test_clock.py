"""What the dates of answers tell of our own clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from snaprotd.provider.clock import AGREEING, CURRENT, OtherClock
from tests.support.virtual_time import START


def note(clock: OtherClock, ahead: float, *, took: float = 0.0, times: int = 1) -> None:
    """Answers that were dated at their end; our clock was ahead by so many seconds."""
    for _ in range(times):
        ours = START + timedelta(seconds=ahead)
        clock.note(START, sent=ours - timedelta(seconds=took), received=ours)


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_what_the_last_answers_agree_in_is_told(ahead: float) -> None:
    clock = OtherClock()
    note(clock, ahead, times=AGREEING - 1)
    assert clock.ahead() == 0.0
    note(clock, ahead)
    assert clock.ahead() == pytest.approx(ahead, abs=1.0)


async def test_one_answer_with_the_date_of_another_day_says_nothing() -> None:
    clock = OtherClock()
    note(clock, 0.0, times=AGREEING)
    note(clock, 86400.0)
    assert clock.ahead() == 0.0
    note(clock, -86400.0, times=AGREEING - 1)
    assert clock.ahead() == 0.0


async def test_the_first_answer_by_a_clock_that_was_set_right_ends_it() -> None:
    clock = OtherClock()
    note(clock, 240.0, times=2 * AGREEING)
    note(clock, 0.3)
    assert clock.ahead() == 0.0


@pytest.mark.parametrize("ahead", [25.0, 0.0])
async def test_what_the_time_of_an_answer_explains_is_no_difference(ahead: float) -> None:
    clock = OtherClock()
    note(clock, ahead, took=25.0, times=AGREEING)
    assert clock.ahead() == 0.0


async def test_nothing_is_told_by_dates_that_are_old_or_missing() -> None:
    clock = OtherClock()
    note(clock, 240.0, times=AGREEING)
    clock.note(None, sent=START, received=START)
    assert clock.ahead() > 200.0
    await asyncio.sleep(CURRENT + 1)
    assert clock.ahead() == 0.0


async def test_dates_of_the_first_and_the_last_year_can_be_reckoned_with() -> None:
    clock = OtherClock()
    for year in (1, 9999):
        for _ in range(AGREEING):
            clock.note(datetime(year, 1, 1, tzinfo=UTC), sent=START, received=START)
        assert abs(clock.ahead()) > 1e9
