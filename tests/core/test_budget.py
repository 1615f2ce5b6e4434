"""How many servers may be off at once, by the requests that there are for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from snaprotd.core.asking.budget import (
    POWER_TAKES,
    SNAPSHOT_TAKES,
    Budget,
    Past,
    fits,
    moments,
    read_every,
    reading_interval,
)
from snaprotd.core.policy import Policy, Rules
from snaprotd.core.rotation import Passed, Rotation, Step
from snaprotd.core.schedule import Schedule
from tests.support.rotations import changed

NOW = datetime(2025, 1, 16, 2, 30, tzinfo=UTC)

ROTATION = Rotation.begin(
    id="one",
    server_id="12345",
    label="web-01",
    slot=NOW,
    rules=Rules(policy=Policy(schedule=Schedule(expressions=("@daily",)), stop_first=True)),
    now=NOW,
    settle=120.0,
)


def at(step: Step, waited: float = 0.0, *, asked_ago: float | None = None) -> Rotation:
    return changed(ROTATION, step=step, waited=waited, asked_ago=asked_ago)


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        (at(Step.LOOK), (30.0, 330.0)),
        (at(Step.LOOK, 600), (630.0, 930.0)),  # somebody else's snapshot is in progress: who knows for how long
        (at(Step.MAKE_ROOM), (30.0, 330.0)),
        (at(Step.STOP), (30.0, 330.0)),
        (at(Step.STOP, 25), (5.0, 305.0)),
        (at(Step.STOP, 90), (60.0, 360.0)),
        (at(Step.SNAPSHOT), (0.0, 300.0)),
        (at(Step.WAIT, 100, asked_ago=100), (200.0,)),
        (at(Step.WAIT, 0, asked_ago=100), (200.0,)),  # of another process before
        (at(Step.WAIT, 900, asked_ago=900), (600.0,)),
        (at(Step.START), ()),
        (at(Step.PRUNE), ()),
        (at(Step.DONE), ()),
    ],
)
def test_a_server_that_is_off_waits_for_two_moments(rotation: Rotation, expected: tuple[float, ...]) -> None:
    assert moments(rotation, Past(), NOW) == expected


def test_how_long_it_takes_is_known_from_its_own_past() -> None:
    stopped = (Passed(step=Step.LOOK, seconds=1.0), Passed(step=Step.STOP, seconds=61.0))
    earlier = [changed(ROTATION, took=took, trail=stopped, off_for=500.0) for took in (700.0, 400.0, None, 600.0)]
    past = Past(earlier)
    assert (past.snapshot, past.power, past.off, past.is_known) == (600.0, 61.0, 722.0, True)
    assert moments(at(Step.LOOK), past, NOW) == (61.0, 661.0)


@pytest.mark.parametrize("earlier", [[], [ROTATION], [changed(ROTATION, trail=(Passed(step=Step.STOP, seconds=0.1),))]])
def test_where_no_rotation_has_stopped_it_that_is_assumed(earlier: list[Rotation]) -> None:
    past = Past(earlier)
    assert (past.snapshot, past.power, past.is_known) == (SNAPSHOT_TAKES, POWER_TAKES, False)


@pytest.mark.parametrize(
    ("rate", "pages", "at_once", "off"),
    [
        (5.0, 2, 10, 384),
        (5.0, 8, 4, 96),
        (3.0, 2, 5, 192),
        (5.0, 400, 1, 75),  # of thousands of servers each is looked at singly
        (0.2, 2, 1, 3),
        (0.01, 2, 1, 1),
        (1000.0, 8, 2492, 95616),
    ],
)
def test_there_is_room_for_what_the_rate_leaves_requests_for_and_always_for_one(
    rate: float, pages: int, at_once: int, off: int
) -> None:
    budget = Budget(rate=rate, poll_interval=15.0, pages=pages)
    assert (budget.most_at_once, budget.most_off(360.0)) == (at_once, off)


@pytest.mark.parametrize(("poll_interval", "seconds"), [(15.0, 5.0), (60.0, 20.0), (1.0, 5.0)])
def test_what_is_seen_at_one_tick_is_one_burst(poll_interval: float, seconds: float) -> None:
    assert Budget(rate=5.0, poll_interval=poll_interval, pages=2).burst == seconds


@pytest.mark.parametrize(
    ("begun", "fits_in"),
    [
        ([], True),
        ([(30.0, 330.0)], True),
        ([(30.0, 330.0)] * 2, False),
        ([(32.4, 332.4), (27.6, 327.6)], False),
        ([(32.5, 332.5), (27.5, 327.5)], True),
        ([(29.0,), (31.0,)], False),  # their starts, beside its snapshot
        ([(329.0,), (331.0,)], False),
        ([(330.0,), (30.0,)], True),
        ([(0.0,)] * 3, True),
        ([(0.0,)] * 4, False),  # so many are off
        ([()] * 9, True),  # those run again
    ],
)
def test_one_that_would_meet_others_at_a_moment_waits(begun: list[tuple[float, ...]], fits_in: bool) -> None:
    assert fits((30.0, 330.0), begun, most=2, most_off=4, within=5.0) is fits_in


def test_a_clock_that_was_set_back_makes_no_moment_of_the_past() -> None:
    """By its date the snapshot is still to be asked for."""
    taken = replace(at(Step.WAIT, asked_ago=10.0).creation, taken_at=NOW + timedelta(days=1))
    assert moments(replace(at(Step.WAIT), creation=taken), Past(), NOW) == (290.0,)


@pytest.mark.parametrize(("pages", "rate", "seconds"), [(2, 5.0, 4.0), (40, 5.0, 80.0), (400, 5.0, 800.0)])
def test_the_reading_of_the_whole_account_takes_a_tenth_of_the_rate(pages: int, rate: float, seconds: float) -> None:
    assert read_every(pages, rate) == pytest.approx(seconds)
    assert read_every(pages, rate, is_at_work=True) == pytest.approx(5 * seconds)


@pytest.mark.parametrize(
    ("pages", "is_at_work", "seconds"),
    [(2, True, 60), (12, False, 60), (12, True, 120), (40, True, 300), (400, True, 300)],
)
def test_it_is_never_more_than_five_minutes_after_the_last_whatever_is_at_work(
    pages: int, is_at_work: bool, seconds: float
) -> None:
    assert reading_interval(pages, 5.0, shortest=60.0, is_at_work=is_at_work) == pytest.approx(seconds)
