"""What nights of a fleet cost, exactly: requests, rounds of lists, and how long servers are off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, Night, foreseen, live_through
from tests.support.interrupted import come_back, fleet_of
from tests.support.searches import the_rest

MARGIN = 1.05
"""Over what was measured when a bound was set."""


FORESEEN_WITHIN = {"seconds": 0.2, "requests": 0.6, "busiest": 0.8, "off": 0.05}
"""The parts by which a night may be longer or shorter than `plan --capacity` foresees, and so on."""


def assert_all_is_well(night: Night) -> None:
    assert night.succeeded == night.fleet.rotations, night
    assert night.left_off == 0
    plan = foreseen(night.fleet)
    assert night.seconds == pytest.approx(plan.seconds, rel=FORESEEN_WITHIN["seconds"])
    assert night.downtime_median == pytest.approx(plan.off, rel=FORESEEN_WITHIN["off"])
    assert night.downtime_worst <= plan.off_at_worst * (1 + FORESEEN_WITHIN["off"])


def assert_requests_were_foreseen(night: Night) -> None:
    """Of each rotation are as many assumed, which holds for fleets at work at about the usual rate."""
    plan, asked = foreseen(night.fleet), Counter(int((one.at - night.asked[0].at) // 60) for one in night.asked)
    assert len(night.asked) == pytest.approx(plan.requests, rel=FORESEEN_WITHIN["requests"])
    assert max(asked.values()) == pytest.approx(plan.busiest_minute, rel=FORESEEN_WITHIN["busiest"])


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("servers", [25, *the_rest((100,))])
async def test_a_night_in_which_all_are_at_work_at_once_asks_for_little_more_than_it_must(
    tmp_path: Path, servers: int
) -> None:
    fleet = Fleet(servers=servers, max_concurrent=1000, requests_per_second=1000, nights=2)
    night = await live_through(tmp_path, fleet)
    assert_all_is_well(night)
    assert night.times_least <= 1.3
    assert night.rounds <= 9 * MARGIN
    assert night.seconds <= 312 * MARGIN


USUAL = [(40, 4.4, 1.05), *the_rest((300, 8.0, 1.04))]
"""Servers; requests of each, of which the goal is 9 for a thousand; and parts of the least time, of which it is 1.05.

A thousand take 8.56 and 1.03, in five minutes of processor: `python -m tests.support.fleet servers=1000 has_past=True
apart=20000.0`. Of them a hundred, whose account is as large, are a test below.
"""


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize(("servers", "requests", "parts"), USUAL)
async def test_a_night_at_the_usual_rate_is_over_in_time_and_asks_little_of_each(
    tmp_path: Path, servers: int, requests: float, parts: float
) -> None:
    night = await live_through(tmp_path, Fleet(servers=servers, has_past=True))
    assert_all_is_well(night)
    if servers < 100:  # of more the account is read by so many pages that its own reading is most of a minute
        assert_requests_were_foreseen(night)
    assert night.per_rotation <= requests * MARGIN
    assert night.seconds <= parts * servers * 300 / 20 * MARGIN


ALL_AT_ONCE = [
    Fleet(servers=40, has_past=True, stop_first=True),
    Fleet(servers=30, has_past=True, stop_first=True, max_concurrent=30),
    *the_rest(
        (Fleet(servers=60, has_past=True, stop_first=True, max_concurrent=60),),
        (Fleet(servers=100, has_past=True, stop_first=True, max_concurrent=100),),
    ),
]


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("fleet", ALL_AT_ONCE)
async def test_servers_that_are_stopped_for_it_are_off_hardly_longer_than_the_provider_needs(
    tmp_path: Path, fleet: Fleet
) -> None:
    night = await live_through(tmp_path, fleet)
    assert_all_is_well(night)
    assert len(night.downtimes) == fleet.servers
    assert night.downtime_median <= 1.1 * fleet.need
    assert night.downtime_worst <= fleet.need + 20
    assert night.per_rotation <= (20 if fleet.servers < 100 else 22) * MARGIN
    assert_requests_were_foreseen(night)


SLOWER = [Fleet(servers=30, has_past=True, stop_first=True, allowed=3)]


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("fleet", SLOWER)
async def test_a_provider_that_is_slower_than_was_configured_keeps_no_server_off_for_long(
    tmp_path: Path, fleet: Fleet
) -> None:
    night = await live_through(tmp_path, fleet)
    assert_all_is_well(night)
    assert night.downtime_median <= 1.1 * fleet.need
    assert night.downtime_worst <= fleet.need + 20
    assert night.refused_after_a_minute <= 1 / 50


@pytest.mark.usefixtures("silence")
async def test_a_few_that_are_due_in_a_large_account_do_not_have_all_of_it_read_for_them(tmp_path: Path) -> None:
    night = await live_through(tmp_path, Fleet(servers=150, due=5, has_past=True))
    assert_all_is_well(night)
    assert night.per_rotation <= 13.6 * MARGIN  # the account's own reading is in it


@pytest.mark.usefixtures("silence")
@pytest.mark.search
@pytest.mark.long_form
async def test_nor_do_more_of_a_far_larger_one(tmp_path: Path) -> None:
    night = await live_through(tmp_path, Fleet(servers=1000, due=100, has_past=True))
    assert_all_is_well(night)
    assert night.per_rotation <= 8.85 * MARGIN


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("servers", [60, *the_rest((1000,))])
async def test_who_follows_a_process_that_was_killed_asks_for_the_starts_that_are_due_before_anything_else(
    tmp_path: Path, servers: int
) -> None:
    found = await come_back(tmp_path, fleet_of(servers), due=servers // 2)
    # The servers are also listed for the account's own reading, which has begun by then.
    pages = {"servers": 2 * -(-servers // 100), "snapshots": -(-4 * servers // 100)}
    # Whose token it is, and the lists that show which are due and are off still: the first that look need not wait.
    assert found.before.keys() <= {"account", "server", *pages}
    assert found.before["server"] <= 3
    assert all(found.before[kind] <= number for kind, number in pages.items())
    assert found.starts[-1] <= 5  # the goal
