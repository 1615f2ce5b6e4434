"""What a look is good for, and when the next one is worth a request."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, inf, nan

import pytest

from snaprotd.core.asking.evidence import (
    OLDEST_TO_DELETE_BY,
    OLDEST_TO_SEND_BY,
    Evidence,
    Use,
    serves,
)
from snaprotd.core.asking.polls import OFTEN, PROBED, next_look, next_poll, only_waits, usual, when_to_look, widening

POLL = 15.0


@pytest.mark.parametrize(
    ("use", "age", "is_outrun", "enough"),
    [
        (Use.DECIDE, 0.0, False, True),
        (Use.DECIDE, POLL, False, True),
        (Use.DECIDE, POLL + 0.1, False, False),
        (Use.DECIDE, 0.0, True, False),
        (Use.SEND, OLDEST_TO_SEND_BY, False, True),
        (Use.SEND, OLDEST_TO_SEND_BY + 0.1, False, False),
        (Use.SEND, 0.0, True, False),
        (Use.SEND, -1.0, False, False),
        (Use.DELETE, 0.0, False, True),
        (Use.DELETE, OLDEST_TO_DELETE_BY, False, True),
        (Use.DELETE, OLDEST_TO_DELETE_BY + 0.1, False, False),
        (Use.DELETE, POLL, False, False),
        (Use.DELETE, 0.0, True, False),
        (Use.DECIDE, -1.0, False, False),
        (Use.DELETE, -1.0, False, False),
    ],
)
def test_a_step_acts_on_what_was_seen_a_moment_ago_and_not_after_anything_of_ours_has_gone_out(
    use: Use, age: float, is_outrun: bool, enough: bool
) -> None:
    assert serves(Evidence(shown=(), age=age, is_outrun=is_outrun), use, poll_interval=POLL) is enough


def test_what_is_put_into_the_queue_has_half_of_the_time_left_however_long_a_poll_is() -> None:
    half = OLDEST_TO_SEND_BY / 2
    assert serves(Evidence(shown=(), age=half), Use.DECIDE, poll_interval=600.0)
    assert not serves(Evidence(shown=(), age=half + 0.1), Use.DECIDE, poll_interval=600.0)


@pytest.mark.parametrize(("use", "oldest"), [(Use.SEND, OLDEST_TO_SEND_BY), (Use.DELETE, OLDEST_TO_DELETE_BY)])
def test_what_is_to_queue_has_a_part_of_its_time_for_that_and_what_was_asked_in_its_turn_may_have_taken_long(
    use: Use, oldest: float
) -> None:
    def enough(age: float, *, took: float = 0.0, is_to_queue: bool = False) -> bool:
        return serves(Evidence(shown=(), age=age, took=took), use, poll_interval=POLL, is_to_queue=is_to_queue)

    part = {Use.SEND: 0.5, Use.DELETE: 0.75}[use] * oldest
    assert enough(part, is_to_queue=True)
    assert not enough(part + 0.1, is_to_queue=True)
    assert enough(oldest + 6, took=6.0)
    assert not enough(oldest + 6.1, took=6.0)
    assert not serves(Evidence(shown=(), age=0.0, took=6.0, is_outrun=True), use, poll_interval=POLL)


@pytest.mark.parametrize(
    ("took", "expected"),
    [
        ((), None),
        ((None, None), None),
        ((0.0, -3.0), None),
        ((inf, 1e308, nan), None),
        ((300.0,), 300.0),
        ((None, 280.0, 300.0, 4000.0), 300.0),
    ],
)
def test_the_usual_time_is_the_median_of_what_was_watched_to_its_end(
    took: tuple[float | None, ...], expected: float | None
) -> None:
    assert usual(took) == expected


@pytest.mark.parametrize(
    ("took", "expected"),
    [
        ((), ()),
        ((None, nan, -1.0), ()),
        ((302.5,), (297.5, 302.5, 302.5)),
        ((300.0,) * 15, (295.0, 300.0, 300.0)),
        ((100.0, *(300.0,) * 14), (295.0, 300.0, 300.0)),  # one that was far faster is no rule
        ((280.0, 281.0, *(300.0,) * 13), (276.0, 281.0, 300.0)),
        ((100.0, 100.0, *(300.0,) * 13), (240.0, 300.0)),
        ((10.0,), (8.0, 10.0, 10.0)),
    ],
)
def test_one_that_nobody_is_off_for_is_first_looked_for_just_before_all_but_few_were_seen_done(
    took: tuple[float | None, ...], expected: tuple[float, ...]
) -> None:
    assert when_to_look(took, poll_interval=POLL) == expected


def test_some_look_far_sooner_so_that_snapshots_that_have_become_faster_are_seen() -> None:
    slots = [f"12345 2025-01-{day:02}T03:00" for day in range(1, 32)]
    first = [when_to_look((300.0,) * 15, poll_interval=POLL, slot=slot)[0] for slot in slots]
    assert set(first) == {240.0, 295.0}
    assert 1 / (2 * PROBED) < first.count(240.0) / len(first) < 2 / PROBED


@pytest.mark.parametrize("takes", [100.0, 200.0, 280.0, 299.9, 310.0, 400.0])
def test_how_long_they_take_is_learnt_again_where_that_has_changed_and_is_hardly_overestimated(takes: float) -> None:
    """Seen at its first look it was done before, by nobody knows how much: that must not add up from night to night."""
    took = [300.0] * 15
    for night in range(200):
        looks = when_to_look(took, poll_interval=POLL, slot=f"12345 {night}")
        seen = next(one for one in polls(usual(took), until=900, looks=looks, tick=POLL / OFTEN) if one >= takes)
        took = [seen, *took[:14]]
    learnt = usual(took)
    assert learnt is not None
    assert takes <= learnt <= takes + 2 * POLL / OFTEN


def polls(
    its_usual: float | None,
    *,
    until: float,
    is_off: bool = False,
    looks: tuple[float, ...] = (),
    tick: float = 0.1,
) -> list[float]:
    """When a snapshot is looked for that is asked for at 0, up to that time."""
    times, now = list[float](), 0.0
    while now < until:
        now += next_poll(now, its_usual, poll_interval=POLL, is_off=is_off, looks=looks)
        now = ceil(round(now / tick, 3)) * tick
        times.append(round(now, 1))
    return times


@pytest.mark.parametrize(
    ("waited", "seen_for", "wait"),
    [
        (0, None, 0),
        (40, None, 5),
        (3600, None, POLL - 5),
        (40, 0.0, POLL),
        (40, 12.0, 3),
        (40, 15.0, 0),
        (40, 90.0, 0),  # the look that makes it certain was refused for more than a minute
    ],
)
def test_a_server_is_looked_at_again_at_a_tick_that_is_yet_to_come(
    waited: float, seen_for: float | None, wait: float
) -> None:
    assert next_look(waited, seen_for, poll_interval=POLL) == wait


def test_without_a_past_there_is_a_look_at_each_poll() -> None:
    assert polls(None, until=60) == [15, 30, 45, 60]


def test_with_a_past_the_first_look_is_when_it_may_be_done_and_then_they_come_ever_less_often() -> None:
    assert polls(300.0, until=340, looks=(295.0,)) == [295, 300, 305, 310, 320, 335, 350]
    assert polls(300.0, until=310, looks=(240.0,)) == [240, 300, 305, 310]
    assert polls(300.0, until=310, looks=(299.0,)) == [299, 304, 309, 318]
    assert polls(300.0, until=310) == [300, 305, 310]


def test_while_the_server_is_off_nothing_is_waited_for_long_once_it_may_be_done() -> None:
    times = polls(300.0, until=400, is_off=True)
    assert times[0] == 240
    gaps = [later - sooner for sooner, later in pairwise(times) if sooner <= 330]
    assert max(gaps) <= POLL / 2
    assert {later - sooner for sooner, later in pairwise(times) if 285 <= sooner <= 310} == {POLL / 3}


def test_no_look_comes_sooner_than_the_shortest_interval_whatever_its_usual_time() -> None:
    for its_usual in (0.5, 3.0, 14.0):
        times = polls(its_usual, until=60)
        assert min(later - sooner for sooner, later in pairwise(times)) >= POLL / 3 - 0.1


@pytest.mark.parametrize(
    ("waited", "seconds"), [(0.0, 5.0), (19.0, 5.0), (40.0, 10.0), (60.0, 15.0), (1e9, 15.0), (-5.0, 5.0)]
)
def test_an_interval_widens_with_what_was_waited_up_to_the_longest(waited: float, seconds: float) -> None:
    assert widening(waited, POLL) == seconds


@pytest.mark.parametrize(
    ("waited", "its_usual", "expected"),
    [
        (600.0, 300.0, False),
        (601.0, 300.0, True),
        (900.0, None, False),
        (901.0, None, True),
        (1801.0, 1200.0, True),
        (1700.0, 1200.0, False),
    ],
)
def test_what_only_waits_far_beyond_its_usual_time_keeps_nobody_from_beginning(
    waited: float, its_usual: float | None, expected: bool
) -> None:
    assert only_waits(waited, its_usual, timeout=1800.0) is expected
