"""What is owed to a server's power, transition by transition."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.core import power
from snaprotd.core.power import START_BACKOFF_CAP, Power
from tests.support.nouns import a_server

NOW = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
EARLIER = NOW - timedelta(minutes=7)

ASKED = Power(held_off=True, held_off_since=EARLIER, power_open=3.0)
"""A stop was promised, and its answer is open."""
TAKEN = replace(ASKED, stop_acknowledged=True)
OFF = replace(TAKEN, went_off=True, went_off_at=EARLIER, stop_acknowledged=False, power_open=None, off_for=50.0)


ACTIVE, STOPPING, STOPPED = (a_server(status=status) for status in ("active", "stopping", "stopped"))


def changes(before: Power, after: Power) -> dict[str, Any]:
    """What a transition has changed, and to what."""
    names = [field.name for field in fields(Power)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


TRANSITIONS: dict[str, tuple[Power, Power, dict[str, Any]]] = {
    "a stop is promised": (
        Power(),
        power.promised(Power(), NOW),
        {"held_off": True, "held_off_since": NOW, "power_open": 0.0},
    ),
    "a stop is promised anew: what was seen before counts no more": (
        replace(OFF, came_back=True),
        power.promised(replace(OFF, came_back=True), NOW),
        {"held_off_since": NOW, "power_open": 0.0, "went_off": False, "went_off_at": None, "came_back": False},
    ),
    "the hard stop keeps the time of the first promise": (
        TAKEN,
        power.promised_harder(TAKEN, NOW),
        {"hard_stop": True, "power_open": 0.0},
    ),
    "the hard stop is a promise of its own": (
        Power(),
        power.promised_harder(Power(), NOW),
        {"held_off": True, "held_off_since": NOW, "hard_stop": True, "power_open": 0.0},
    ),
    "there is no such server, says the provider": (OFF, power.missing(OFF), {"missing_for": 0.0}),
    "it says so again: the first time counts": (
        replace(OFF, missing_for=40.0),
        power.missing(replace(OFF, missing_for=40.0)),
        {},
    ),
    "what was missing is seen, off as before": (
        replace(OFF, missing_for=40.0),
        power.seen(replace(OFF, missing_for=40.0), STOPPED, NOW),
        {"missing_for": None},
    ),
    "the stop is taken": (ASKED, power.acknowledged(ASKED), {"stop_acknowledged": True}),
    "the answer is lost": (ASKED, power.lost(ASKED), {"power_open": 0.0}),
    "the stop is refused": (
        ASKED,
        power.refused(ASKED, owed=False),
        {"held_off": False, "held_off_since": None, "power_open": None},
    ),
    "the server is busy: the promise stays": (ASKED, power.not_now(ASKED, owed=False), {"power_open": None}),
    "the server is busy, and an earlier stop is open": (TAKEN, power.not_now(TAKEN, owed=True), {}),
    "a refusal does not undo an earlier stop": (TAKEN, power.refused(TAKEN, owed=True), {}),
    "the hard stop is undone": (
        replace(TAKEN, hard_stop=True),
        power.hard_stop_undone(replace(TAKEN, hard_stop=True)),
        {"hard_stop": False},
    ),
    "the stop times out": (TAKEN, power.timed_out(TAKEN), {"power_open": 0.0, "stop_timed_out": True}),
    "where nothing was asked, nothing times out": (Power(), power.timed_out(Power()), {}),
    "it is seen still running": (TAKEN, power.seen(TAKEN, ACTIVE, NOW), {}),
    "it is seen on its way": (TAKEN, power.seen(TAKEN, STOPPING, NOW), {"went_off": True, "went_off_at": NOW}),
    "it is seen off: the stop has struck": (
        TAKEN,
        power.seen(TAKEN, STOPPED, NOW),
        {"went_off": True, "went_off_at": NOW, "stop_acknowledged": False, "power_open": None},
    ),
    "of two stops one may still strike": (
        replace(TAKEN, hard_stop=True),
        power.seen(replace(TAKEN, hard_stop=True), STOPPED, NOW),
        {"went_off": True, "went_off_at": NOW},
    ),
    "it is seen off again": (OFF, power.seen(OFF, STOPPED, NOW), {}),
    "it is seen running again": (OFF, power.seen(OFF, ACTIVE, NOW), {"came_back": True, "off_for": 420.0}),
    "it was counted for longer than the clock says": (
        replace(OFF, off_for=500.0),
        power.seen(replace(OFF, off_for=500.0), ACTIVE, NOW),
        {"came_back": True},
    ),
    "a late stop strikes": (
        replace(OFF, came_back=True),
        power.seen(replace(OFF, came_back=True), STOPPED, NOW),
        {"came_back": False},
    ),
    "a server that was off before is none of ours": (Power(), power.seen(Power(), STOPPED, NOW), {}),
    "a start is promised": (
        replace(OFF, starts=1, start_age=40.0),
        power.start_promised(replace(OFF, starts=1, start_age=40.0)),
        {"starts": 2, "start_age": 0.0, "power_open": 0.0},
    ),
    "a start is answered: what was open before is open still": (
        replace(OFF, power_open=0.0),
        power.start_answered(replace(OFF, power_open=0.0), 90.0),
        {"power_open": 90.0},
    ),
    "the promise is kept": (
        replace(TAKEN, came_back=True),
        power.released(replace(TAKEN, came_back=True)),
        {"held_off": False, "stop_acknowledged": False, "power_open": None},
    ),
    "there is no server any more": (OFF, power.given_up(OFF), {"held_off": False}),
}


@pytest.mark.parametrize(("before", "after", "changed"), TRANSITIONS.values(), ids=TRANSITIONS)
def test_a_transition_changes_what_its_name_says_and_nothing_else(
    before: Power, after: Power, changed: dict[str, Any]
) -> None:
    assert changes(before, after) == changed


@pytest.mark.parametrize(
    ("record", "age", "open_still"),
    [
        (Power(), 49.9, True),
        (Power(), 50.0, False),
        (Power(stop_acknowledged=True), 599.9, True),
        (Power(stop_acknowledged=True), 600.0, False),
        (Power(stop_timed_out=True), 599.9, True),
    ],
)
def test_an_acknowledged_stop_may_strike_for_longer_than_a_lost_one(
    record: Power, age: float, open_still: bool
) -> None:
    assert replace(record, power_open=age).is_unsettled(settle=40.0, start_timeout=600.0) is open_still


def test_a_short_start_timeout_does_not_shorten_what_a_lost_request_is_given() -> None:
    assert Power(stop_acknowledged=True, power_open=49.9).is_unsettled(settle=40.0, start_timeout=1.0)


@pytest.mark.parametrize(("starts", "after"), [(0, 0.0), (1, 30.0), (2, 60.0), (3, 120.0), (5, 300.0), (4000, 300.0)])
def test_each_start_waits_twice_as_long_as_the_one_before_it_and_there_is_no_last_one(
    starts: int, after: float
) -> None:
    assert Power(starts=starts, start_age=after).may_be_asked_to_start(15.0)
    assert starts == 0 or not Power(starts=starts, start_age=after - 0.1).may_be_asked_to_start(15.0)
    assert after <= START_BACKOFF_CAP


looks = st.sampled_from(
    [ACTIVE, STOPPING, STOPPED, *(a_server(status=status) for status in ("starting", "restoring", ""))]
)
happenings = st.one_of(
    st.builds(lambda one: lambda record: power.seen(record, one, NOW), looks),
    st.sampled_from(
        [power.acknowledged, power.lost, power.timed_out, power.start_promised, power.hard_stop_undone],
    ),
    st.builds(lambda seconds: lambda record: power.aged(record, seconds), st.floats(0, 1e6)),
    st.just(lambda record: power.refused(record, owed=True)),
    st.just(lambda record: power.promised(record, NOW)),
    st.just(lambda record: power.promised_harder(record, NOW)),
    st.just(lambda record: power.start_answered(record, None)),
)


@given(st.lists(happenings, max_size=30))
def test_law_no_look_and_no_answer_ends_a_promise(happened: list[Any]) -> None:
    record = power.promised(Power(), EARLIER)
    for transition in happened:
        record = transition(record)
        assert record.held_off
