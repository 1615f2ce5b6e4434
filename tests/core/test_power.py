"""What is owed to a server's power, transition by transition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.core import power
from snaprotd.core.model import Server
from snaprotd.core.ownership import taken_since
from snaprotd.core.power import GONE_FOR, START_BACKOFF_CAP, Power
from snaprotd.core.promise import UNACCOUNTED, ServerPower, Terms, is_unaccounted_for, merged, taken_up
from tests.support.nouns import a_server, a_snapshot

NOW = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
EARLIER = NOW - timedelta(minutes=7)

APART = 15.0
"""Seconds that two looks must lie apart."""

ASKED = Power(asked=1, held_off_since=EARLIER, power_open=3.0, request_age=3.0, stop_age=3.0, unstruck=True)
"""A stop was promised, and its answer is open."""
TAKEN = replace(ASKED, stop_acknowledged=True)
OFF = replace(TAKEN, went_off=True, went_off_at=EARLIER, unstruck=False, off_for=50.0)
BACK = replace(OFF, came_back=True, running_for=0.0, off_for=420.0)
PAID = replace(BACK, released=1, watched=True, running_for=20.0)
"""The start was paid."""
UNSTRUCK = replace(TAKEN, released=1, watched=True, running_for=20.0, stop_age=80000.0, request_age=80000.0)
"""It was let go as paid, but the stop was never seen to strike."""


GONE = replace(OFF, released=1, stop_acknowledged=False, gone_for=60.0)
"""Its start was given up, for there was no such server."""
UNWATCHED = replace(BACK, watched=True, unwatched=True, running_for=None)
"""It ran, and then nobody saw it for long."""


ACTIVE, STOPPING, STOPPED = (a_server(status=status) for status in ("active", "stopping", "stopped"))


def look(server: Server) -> Callable[[Power], Power]:
    return lambda before: power.seen(before, server, NOW, apart=APART)


def at_now(transition: Callable[[Power, datetime], Power]) -> Callable[[Power], Power]:
    return lambda before: transition(before, NOW)


def changes(before: Power, after: Power) -> dict[str, Any]:
    """What a transition has changed, and to what."""
    names = [field.name for field in fields(Power)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


STOP_PROMISED = {"held_off_since": NOW, "power_open": 0.0, "request_age": 0.0, "stop_age": 0.0, "unstruck": True}
LET_GO = {"released": 1, "stop_acknowledged": False, "power_open": None}
SEEN_OFF = {"went_off": True, "went_off_at": NOW, "unstruck": False}

TRANSITIONS: dict[str, tuple[Power, Callable[[Power], Power], dict[str, Any]]] = {
    "a stop is promised": (Power(), at_now(power.promised), {"asked": 1, **STOP_PROMISED}),
    "a stop is promised anew: what was seen before counts no more": (
        PAID,
        at_now(power.promised),
        {
            "asked": 2,
            **STOP_PROMISED,
            "stop_acknowledged": False,
            "went_off": False,
            "went_off_at": None,
            "came_back": False,
            "running_for": None,
            "watched": False,
            "off_for": 0.0,
        },
    ),
    "the hard stop keeps the number of the promise, and its time is counted from then on": (
        TAKEN,
        at_now(power.promised_harder),
        {"hard_stop": True, "held_off_since": NOW, "power_open": 0.0, "request_age": 0.0, "stop_age": 0.0},
    ),
    "the hard stop is a promise of its own": (
        Power(),
        at_now(power.promised_harder),
        {"asked": 1, **STOP_PROMISED, "hard_stop": True},
    ),
    "the stop is taken": (ASKED, power.acknowledged, {"stop_acknowledged": True}),
    "the answer is lost, or an error: it proves nothing": (
        ASKED,
        power.lost,
        {"power_open": 0.0, "request_age": 0.0, "stop_age": 0.0},
    ),
    "the stop never left": (
        ASKED,
        partial(power.not_sent, owed=False),
        {"released": 1, "held_off_since": None, "power_open": None, "unstruck": False},
    ),
    "what never left does not undo an earlier stop": (TAKEN, partial(power.not_sent, owed=True), {}),
    "the server is busy: the promise stays": (ASKED, partial(power.not_now, owed=False), {"power_open": None}),
    "the server is busy, and an earlier stop is open": (TAKEN, partial(power.not_now, owed=True), {}),
    "the start is put off": (replace(TAKEN, starts=1), power.start_put_off, {"start_age": 300.0}),
    "the stop times out": (TAKEN, power.timed_out, {"power_open": 0.0, "stop_timed_out": True}),
    "where nothing was asked, nothing times out": (Power(), power.timed_out, {}),
    "it is seen still running, once": (TAKEN, look(ACTIVE), {"running_for": 0.0, "running_since": NOW}),
    "it is seen still running, twice but at once": (
        replace(TAKEN, running_for=14.9),
        look(ACTIVE),
        {"running_since": NOW - timedelta(seconds=14.9)},
    ),
    "it is seen still running, twice and a poll apart: it is only watched": (
        replace(TAKEN, running_for=15.0),
        look(ACTIVE),
        {"watched": True, "running_since": NOW - timedelta(seconds=15)},
    ),
    "it is seen on its way: the stop may still strike": (
        TAKEN,
        look(STOPPING),
        {"went_off": True, "went_off_at": NOW},
    ),
    "it is seen off: the stop has struck": (TAKEN, look(STOPPED), SEEN_OFF),
    "of two stops one may still strike": (
        replace(TAKEN, hard_stop=True),
        look(STOPPED),
        {"went_off": True, "went_off_at": NOW},
    ),
    "the last stop has struck, one before it may yet": (
        replace(TAKEN, earlier_age=3600.0),
        look(STOPPED),
        SEEN_OFF,
    ),
    "an old stop strikes, the one that was left": (
        replace(OFF, released=1, earlier_age=3600.0, went_off=False, went_off_at=None),
        look(STOPPED),
        {"asked": 2, "earlier_age": None, "went_off": True, "went_off_at": NOW},
    ),
    "it is seen off again": (OFF, look(STOPPED), {}),
    "it is seen running again, once": (
        OFF,
        look(ACTIVE),
        {"came_back": True, "running_for": 0.0, "running_since": NOW, "off_for": 420.0},
    ),
    "it was counted for longer than the clock says": (
        replace(OFF, off_for=500.0),
        look(ACTIVE),
        {"came_back": True, "running_for": 0.0, "running_since": NOW},
    ),
    "a stale look said that it ran": (BACK, look(STOPPED), {"came_back": False, "running_for": None}),
    "a late stop strikes while it is watched": (
        replace(BACK, watched=True),
        look(STOPPED),
        {"came_back": False, "running_for": None, "watched": False},
    ),
    "off after it was paid is somebody else's wish": (PAID, look(STOPPED), {"running_for": None, "watched": False}),
    "off within a day of a stop that was never seen to strike: it was that stop": (
        UNSTRUCK,
        look(STOPPED),
        {"asked": 2, "running_for": None, "watched": False, **SEEN_OFF},
    ),
    "off later than that is somebody else's wish": (
        replace(UNSTRUCK, stop_age=86400.0),
        look(STOPPED),
        {"running_for": None, "watched": False},
    ),
    "between two states within that day proves nothing": (
        UNSTRUCK,
        look(STOPPING),
        {"running_for": None, "watched": False},
    ),
    "a server that was off before is none of ours": (Power(), look(STOPPED), {}),
    "it is not found, once": (BACK, power.missing, {"missing_for": 0.0, "running_for": None}),
    "it is not found, again": (replace(OFF, missing_for=40.0), power.missing, {}),
    "it is found again": (replace(OFF, missing_for=40.0), look(STOPPED), {"missing_for": None}),
    "a start is promised": (
        replace(BACK, starts=1, start_age=40.0),
        power.start_promised,
        {"starts": 2, "start_age": 0.0, "request_age": 0.0, "running_for": None},
    ),
    "the promise is kept": (
        replace(BACK, watched=True),
        power.released,
        {"released": 1, "stop_acknowledged": False, "power_open": None},
    ),
    "it is let go": (
        TAKEN,
        power.given_up,
        {"released": 1, "stop_acknowledged": False, "power_open": None, "unstruck": False},
    ),
    "what may turn out to be owed is let go: a record that does not know of it is no later one": (
        UNSTRUCK,
        power.given_up,
        {"asked": 2, "released": 2, "stop_acknowledged": False, "power_open": None, "unstruck": False},
    ),
    "there is no server any more": (OFF, power.gone, {"gone_for": 0.0, **LET_GO}),
    "there is no server any more that a person is asked about": (
        replace(OFF, in_doubt=True),
        power.gone,
        {"gone_for": 0.0, **LET_GO},
    ),
    "what was gone comes back, off still": (GONE, look(STOPPED), {"asked": 2, "gone_for": None}),
    "what was gone comes back after a month": (replace(GONE, gone_for=GONE_FOR), look(STOPPED), {}),
    "what was gone comes back between two states": (GONE, look(STOPPING), {}),
    "what was gone comes back and runs, once": (
        GONE,
        look(ACTIVE),
        {"running_for": 0.0, "running_since": NOW, "came_back": True, "off_for": 420.0},
    ),
    "what was gone comes back and runs, twice": (
        replace(GONE, came_back=True, running_for=15.0),
        look(ACTIVE),
        {"running_since": NOW - timedelta(seconds=15), "watched": True, "gone_for": None},
    ),
    "what nobody watched is off": (
        UNWATCHED,
        look(STOPPED),
        {"watched": False, "came_back": False, "in_doubt": True, "off_for": 0.0},
    ),
    "what nobody watched runs, once": (
        UNWATCHED,
        look(ACTIVE),
        {"running_for": 0.0, "running_since": NOW},
    ),
    "what nobody watched runs, twice": (
        replace(UNWATCHED, running_for=15.0),
        look(ACTIVE),
        {"running_since": NOW - timedelta(seconds=15), "unwatched": False},
    ),
    "a server in doubt runs again: for how long it was off because of us nobody knows": (
        replace(OFF, in_doubt=True, off_for=0.0),
        look(ACTIVE),
        {"running_for": 0.0, "running_since": NOW, "came_back": True},
    ),
}


@pytest.mark.parametrize(("before", "happens", "changed"), TRANSITIONS.values(), ids=TRANSITIONS)
def test_a_transition_changes_what_its_name_says_and_nothing_else(
    before: Power, happens: Callable[[Power], Power], changed: dict[str, Any]
) -> None:
    assert changes(before, happens(before)) == changed


SETTLED, LATE = 70.0, 2 * 100.0 + 600.0 + 70.0
"""Seconds for which a request may be late, and a stop that was not seen to strike."""


@pytest.mark.parametrize(
    ("record", "may"),
    [
        (replace(OFF, request_age=SETTLED - 0.1), True),
        (replace(OFF, request_age=SETTLED), False),
        (replace(TAKEN, request_age=SETTLED, stop_age=LATE - 0.1), True),
        (replace(TAKEN, request_age=SETTLED, stop_age=LATE), False),
        (replace(TAKEN, request_age=SETTLED - 0.1, stop_age=LATE), True),
        (Power(), False),
    ],
    ids=["it struck", "it struck long ago", "never struck", "never, long ago", "a start is young", "untouched"],
)
def test_a_stop_that_was_not_seen_to_strike_may_do_so_for_longer(record: Power, may: bool) -> None:
    terms = Terms(settle=40.0, stop_timeout=100.0, start_timeout=600.0)
    kept = ServerPower(account="", server_id="1", label="web", power=record, terms=terms)
    assert kept.may_strike() is may


@pytest.mark.parametrize(("age", "open_still"), [(69.9, True), (70.0, False), (None, False)])
def test_no_other_stop_is_sent_while_one_may_be_carried_out(age: float | None, open_still: bool) -> None:
    assert replace(ASKED, power_open=age).stop_is_open(settle=40.0, start_timeout=600.0) is open_still


@pytest.mark.parametrize("record", [TAKEN, replace(ASKED, stop_timed_out=True)])
def test_a_stop_that_was_acknowledged_or_timed_out_is_waited_for_as_long_as_a_start_may_take(record: Power) -> None:
    assert replace(record, power_open=599.9).stop_is_open(settle=40.0, start_timeout=600.0)
    assert not replace(record, power_open=600.0).stop_is_open(settle=40.0, start_timeout=600.0)
    assert not replace(record, power_open=3.0, unstruck=False).stop_is_open(settle=40.0, start_timeout=600.0)


@pytest.mark.parametrize(
    ("record", "held_off", "owed", "followed"),
    [
        (Power(), False, False, False),
        (ASKED, True, True, True),
        (OFF, True, True, True),
        (BACK, True, True, True),
        (replace(BACK, watched=True), True, False, True),
        (PAID, False, False, False),
        (UNSTRUCK, False, False, True),
        (replace(UNSTRUCK, stop_age=86400.0), False, False, False),
        (GONE, False, False, True),
        (replace(GONE, gone_for=GONE_FOR), False, False, False),
    ],
)
def test_what_is_owed_what_is_watched_and_what_is_over(
    record: Power, held_off: bool, owed: bool, followed: bool
) -> None:
    assert (record.held_off, record.is_owed, record.is_followed) == (held_off, owed, followed)


def test_of_two_records_the_later_stop_counts_and_what_was_paid_stays_paid() -> None:
    again = power.promised(PAID, NOW)
    assert merged(PAID, again) == merged(again, PAID) == again
    assert merged(OFF, PAID) == merged(PAID, OFF) == PAID
    assert merged(replace(again, released=0), PAID).released == 1


def test_who_learns_late_that_an_earlier_stop_was_paid_has_not_seen_more_of_the_present_one() -> None:
    again = power.promised(PAID, NOW)
    off = replace(again, went_off=True, unstruck=False, released=0)
    assert merged(off, again) == replace(off, released=1)


@pytest.mark.parametrize(("starts", "after"), [(0, 0.0), (1, 30.0), (2, 60.0), (3, 120.0), (5, 285.0), (4000, 285.0)])
def test_each_start_waits_twice_as_long_as_the_one_before_it_and_there_is_no_last_one(
    starts: int, after: float
) -> None:
    assert Power(starts=starts, start_age=after).may_be_asked_to_start(15.0)
    assert starts == 0 or not Power(starts=starts, start_age=after - 0.1).may_be_asked_to_start(15.0)
    assert after + 15.0 <= START_BACKOFF_CAP  # the next look is a poll later


def test_where_polls_are_far_apart_two_starts_are_no_farther_apart_than_else() -> None:
    """A server that is off is looked at every minute."""
    assert Power(starts=1, start_age=START_BACKOFF_CAP - 60).may_be_asked_to_start(3600.0)


words = ("active", "stopping", "stopped", "starting", "restoring", "")
happenings = st.one_of(
    st.builds(look, st.sampled_from([a_server(status=word) for word in words])),
    st.sampled_from(
        [
            power.acknowledged,
            power.lost,
            power.timed_out,
            power.start_promised,
            power.start_put_off,
            power.missing,
            partial(power.not_sent, owed=True),
            partial(power.not_now, owed=False),
            at_now(power.promised),
            at_now(power.promised_harder),
        ]
    ),
    st.builds(lambda seconds: lambda record: power.aged(record, seconds), st.floats(0, 1e6)),
)


@given(st.lists(happenings, max_size=30))
def test_law_no_look_and_no_answer_ends_a_promise(happened: list[Callable[[Power], Power]]) -> None:
    record = power.promised(Power(), EARLIER)
    for transition in happened:
        record = transition(record)
        assert record.held_off


@given(st.lists(happenings, max_size=30))
def test_law_nothing_is_only_watched_but_after_two_looks_at_a_running_server_with_nothing_in_between(
    happened: list[Callable[[Power], Power]],
) -> None:
    record = power.promised(Power(), EARLIER)
    for transition in happened:
        before, record = record, transition(record)
        assert not record.watched or before.watched or (before.running_for or 0.0) >= APART


@pytest.mark.parametrize(
    ("stopped_before", "counted", "is_unaccounted"),
    [
        (timedelta(minutes=7), 400.0, False),  # a process was there all the while
        (timedelta(minutes=7), 3.0, True),
        (timedelta(seconds=UNACCOUNTED + 3), 3.0, False),
        (timedelta(days=7), None, False),
    ],
)
def test_time_that_no_process_has_counted(
    stopped_before: timedelta, counted: float | None, is_unaccounted: bool
) -> None:
    record = replace(OFF, held_off_since=NOW - stopped_before, stop_age=counted)
    assert is_unaccounted_for(record, NOW) is is_unaccounted


def test_a_hard_stop_that_was_waited_for_leaves_no_time_uncounted() -> None:
    stopped = power.promised(Power(), NOW)
    waited = 2 * UNACCOUNTED
    later = NOW + timedelta(seconds=waited)
    assert not is_unaccounted_for(power.promised_harder(power.aged(stopped, waited), later), later)


RAN = replace(
    BACK,
    watched=True,
    running_for=20.0,
    running_since=NOW - timedelta(seconds=40),
    request_age=60.0,
    stop_age=300.0,
)
"""As it was written 20 s ago: it ran in two looks, and a request of ours could still strike."""


def at(seconds: float) -> datetime:
    """So long after it was written."""
    return NOW + timedelta(seconds=seconds - 20)


@pytest.mark.parametrize(
    ("record", "now", "seconds", "unwatched"),
    [
        (RAN, at(0), 0, False),
        (RAN, at(-86400), 0, False),  # the clock was set back
        (RAN, at(149), 0, False),
        (RAN, at(150), 0, True),
        (RAN, at(1000), 700, True),
        (replace(RAN, unstruck=True), at(3600), 3300, False),
        (replace(RAN, unstruck=True), at(86399), 86099, False),
        (replace(RAN, unstruck=True), at(86400), 86100, True),
        (replace(RAN, earlier_age=7200.0), at(79499), 79199, False),
        (replace(RAN, earlier_age=7200.0), at(79500), 79200, True),
        (replace(RAN, released=1, unstruck=True), at(3600), 3300, False),
        (replace(RAN, running_since=None), at(86400), 0, False),  # written by an earlier version
        (replace(RAN, watched=False), at(86400), 0, False),  # it is owed
        (OFF, at(86400), 0, False),
    ],
)
def test_what_ran_grows_older_by_the_clock_while_no_process_counts(
    record: Power, now: datetime, seconds: float, unwatched: bool
) -> None:
    after = taken_up(record, now, settle=120.0)
    aged = power.aged(record, seconds)
    assert after == (replace(aged, unwatched=True, running_for=None) if unwatched else aged)


def test_a_doubt_is_kept_until_the_server_runs_or_is_stopped_anew() -> None:
    doubted = power.doubted(OFF)
    assert doubted.is_owed
    assert not doubted.is_payable
    assert merged(OFF, doubted).in_doubt
    assert merged(doubted, OFF).in_doubt
    assert not merged(doubted, power.promised(OFF, NOW)).in_doubt
    assert not power.released(doubted).in_doubt
    assert not power.promised(doubted, NOW).in_doubt


@pytest.mark.parametrize(
    ("name", "known", "tells"),
    [
        ("snaprotd-main-20250116T050000Z", (), True),
        ("snaprotd-main-20250116T050000Z", (datetime(2025, 1, 16, 5, tzinfo=UTC),), False),
        ("snaprotd-other-20250116T050000Z", (), False),
        ("by-hand", (), False),
        ("snaprotd-main-20250116T033300Z", (), False),  # the clock may be so much ahead
        ("snaprotd-main-20250116T032959Z", (), False),
        ("snaprotd-main-20250116T060600Z", (), False),  # it is older than the slot in its name
    ],
)
def test_what_was_taken_after_a_stop_and_is_not_known(name: str, known: tuple[datetime, ...], tells: bool) -> None:
    found = taken_since(NOW, [a_snapshot(1, name, NOW + timedelta(hours=2.5))], instance="main", known=known)
    assert (found is not None) is tells


LEFT = replace(TAKEN, released=1, stop_acknowledged=False, stop_age=7200.0)
"""Nobody waits any more for the stop that never struck."""


def test_a_start_that_is_owed_after_all_says_since_when_though_the_last_stop_never_left() -> None:
    after = partial(power.not_sent, owed=False)(power.aged(power.promised(LEFT, EARLIER), 60.0))
    assert (after.held_off, after.held_off_since, after.is_followed) == (False, None, True), "the one before may strike"
    struck = look(STOPPED)(after)
    assert struck.is_off_because_of_us
    assert struck.held_off_since == NOW - timedelta(seconds=60)
    assert not is_unaccounted_for(struck, NOW)
    slept = power.aged(struck, 60.0)
    assert is_unaccounted_for(slept, NOW + timedelta(seconds=60 + UNACCOUNTED + 1)), "it may be an old copy by then"


@pytest.mark.parametrize(
    ("before", "earlier_age"),
    [
        (LEFT, 7200.0),
        (replace(TAKEN, stop_age=900.0), 900.0),
        (ASKED, ASKED.stop_age),
        (replace(LEFT, stop_age=86400.0), None),
        (replace(OFF, earlier_age=7200.0), 7200.0),
        (replace(OFF, earlier_age=86400.0), None),
    ],
    ids=["left", "acknowledged", "lost, and asked for again", "forgotten", "left before that", "forgotten since"],
)
def test_a_stop_that_never_struck_is_remembered_beside_the_next_one(before: Power, earlier_age: float | None) -> None:
    after = power.promised(before, NOW)
    assert after.earlier_age == earlier_age
    struck = power.released(look(STOPPED)(after))
    assert struck.is_followed == (earlier_age is not None)
