"""A night, foreseen: when each rotation begins, and for how long servers are off."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any

import pytest

from snaprotd.core.asking.budget import Budget, Past
from snaprotd.core.asking.night import Due, Night, off_for, play

USUAL = Budget(rate=5.0, poll_interval=15.0, pages=2)


def due(number: int, **changes: Any) -> Due:
    given: dict[str, Any] = {"server_id": str(number), "at": 0.0, "latest": inf, "stops": True, "past": Past()}
    return Due(**(given | changes))


def night_of(number: int, *, budget: Budget = USUAL, max_concurrent: int = 20, **changes: Any) -> Night:
    return play([due(one, **changes) for one in range(number)], budget, max_concurrent=max_concurrent)


def test_a_night_without_rotations_takes_nothing() -> None:
    night = night_of(0)
    assert (night.seconds, night.requests, night.busiest_minute, night.off, night.latest_begin) == (0, 0, 0, 0, 0)


def test_one_server_is_off_for_little_longer_than_the_provider_needs() -> None:
    night = night_of(1)
    assert night.off == pytest.approx(370, abs=2)
    assert night.off_at_worst == pytest.approx(380, abs=2)
    assert night.seconds == pytest.approx(390, abs=2)


@pytest.mark.parametrize(("servers", "waves"), [(20, 1), (40, 2), (100, 5)])
def test_no_more_are_at_work_than_may_be(servers: int, waves: int) -> None:
    night = night_of(servers)
    assert night.seconds == pytest.approx(waves * 390, rel=0.05)
    ends = sorted((one.at, 1) for one in night.begun) + sorted((one.end, -1) for one in night.begun)
    at_once = 0
    for _, change in sorted(ends):
        at_once += change
        assert at_once <= 20


def test_servers_that_would_be_seen_off_at_one_tick_begin_apart() -> None:
    night = night_of(60, max_concurrent=60)
    begins = sorted(one.at for one in night.begun)
    most = max(sum(at <= other < at + USUAL.burst / 2 for other in begins) for at in begins)
    assert most <= USUAL.most_at_once
    assert night_of(60, max_concurrent=60, stops=False).latest_begin < 60


def test_a_lower_rate_makes_a_night_longer_and_a_downtime_hardly() -> None:
    slow = Budget(rate=1.0, poll_interval=15.0, pages=2)
    night = night_of(60, max_concurrent=60, budget=slow)
    assert night.seconds > 1.5 * night_of(60, max_concurrent=60).seconds
    assert night.off_at_worst < 1.1 * Past().off
    assert night.busiest_minute == 60


def test_the_servers_of_a_group_are_off_one_after_the_other() -> None:
    begun = sorted(night_of(3, group="db").begun, key=lambda one: one.at)
    assert [one.at >= before.end for before, one in pairwise(begun)] == [True, True]


def test_what_would_begin_too_late_is_counted() -> None:
    night = night_of(60, latest=600.0)
    assert night.late == 20
    assert night.latest_begin > 600.0
    assert night_of(60, latest=800.0).late == 0


def test_a_slot_that_comes_while_the_one_before_is_at_work_is_not_run() -> None:
    slots = [due(1, at=float(at)) for at in (0, 300, 900)]
    night = play(slots, USUAL, max_concurrent=20)
    assert (len(night.begun), night.in_flight) == (2, 1)


def test_how_often_is_looked_decides_how_much_longer_than_needed_a_server_is_off() -> None:
    seldom = Budget(rate=5.0, poll_interval=60.0, pages=2)
    assert [at - 360 for at in off_for(Past(), seldom)] == pytest.approx([40.4, 80.8])
