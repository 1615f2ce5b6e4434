"""How often a daemon reads the whole account: a large one takes no more of the rate than is for that."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.rotation import Step
from snaprotd.daemon.account_watch import AccountWatch
from snaprotd.simulator import Fault, World
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry
from tests.support.limits import Limited

MINUTE = 60.0
SELDOM = "0 12 1 7 *"

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_ticks")


def slow(folder: Path, *entries: str) -> Path:
    """A configuration under which two pages are worth 200 seconds of the account's part of the rate."""
    path = configure(folder, *entries)
    path.write_text(path.read_text().replace("requests_per_second: 100", "requests_per_second: 0.1"))
    return path


def configure_at(rate: float, folder: Path, *entries: str) -> Path:
    path = configure(folder, *(entries or [entry(SELDOM)]))
    path.write_text(path.read_text().replace("requests_per_second: 100", f"requests_per_second: {rate}"))
    return path


def two_pages() -> World:
    """Of servers, and of snapshots."""
    world = a_world("web-01", "web-02")
    world.add_snapshot("12345", "by-hand", created_at=datetime(2025, 1, 15, tzinfo=UTC))
    return world


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many there were."""
    number = 0
    read = AccountWatch.read

    async def counted(watch: AccountWatch) -> None:
        nonlocal number
        number += 1
        await read(watch)

    monkeypatch.setattr(AccountWatch, "read", counted)
    return lambda: number


async def test_an_account_that_takes_most_of_the_rate_is_read_less_often(
    tmp_path: Path, readings: Callable[[], int]
) -> None:
    world = a_world()
    world.add_snapshot("12345", "by-hand", created_at=datetime(2025, 1, 15, tzinfo=UTC))
    async with daemon_on(slow(tmp_path, entry(SELDOM)), world):
        await asyncio.sleep(60 * MINUTE)
        assert 14 <= readings() <= 20


async def test_a_small_one_is_read_each_time(tmp_path: Path, readings: Callable[[], int]) -> None:
    async with daemon_on(configure(tmp_path, entry(SELDOM)), a_world()):
        await asyncio.sleep(60 * MINUTE)
        assert readings() >= 57


async def test_one_that_could_not_be_read_is_asked_again_as_soon_as_a_small_one(
    tmp_path: Path, readings: Callable[[], int]
) -> None:
    world = a_world()
    async with daemon_on(slow(tmp_path, entry(SELDOM)), world) as watched:
        await asyncio.sleep(10 * MINUTE)
        world.faults.append(Fault(kind="short", method="GET", path="/servers/", times=None))
        before = readings()
        await asyncio.sleep(60 * MINUTE)
        assert readings() - before >= 35
        assert watched.daemon.view.ailments() == []


async def test_it_is_ready_when_the_servers_are_listed_unless_what_they_hold_is_refused_then(tmp_path: Path) -> None:
    """The snapshots of thousands of servers take a while."""
    silence = Fault(kind="hang", method="GET", path="/snapshots/", times=None)
    async with daemon_on(configure(tmp_path, entry(SELDOM)), a_world(faults=[silence])) as watched:
        await asyncio.sleep(5)
        assert watched.daemon.view.unready() == []
        await asyncio.sleep(10 * MINUTE)
        assert watched.daemon.view.unready() == ["the provider's API has not been reached yet"]
        silence.times = 0
        await asyncio.sleep(5 * MINUTE)
        assert watched.daemon.view.unready() == []


async def test_the_garbage_collector_waits_for_the_end_of_the_first_reading_alone(tmp_path: Path) -> None:
    was_on: list[bool] = []

    def noted(_: Any) -> None:
        was_on.append(gc.isenabled())

    async with daemon_on(configure(tmp_path, entry(SELDOM)), a_world()) as watched:
        watched.daemon._tools.inventory.listed = noted
        await asyncio.sleep(10 * MINUTE)
    assert was_on[0] is False
    assert len(was_on) > 3
    assert all(was_on[1:])


async def test_what_may_be_off_because_of_us_is_followed_however_large_the_account_is(
    tmp_path: Path, readings: Callable[[], int]
) -> None:
    """A stop that strikes late, after its rotation has ended, is noticed as soon as in a small account."""
    world = a_world(snapshot_seconds=(60, 60))
    path = slow(tmp_path, entry("10 3 * * *", "stop_first: true"))
    limited = Limited(world, None)
    async with daemon_on(path, world, limited) as watched:
        await watched.reaches(Step.PRUNE)
        await _follows(watched, True)
        before, began = readings(), asyncio.get_running_loop().time()
        await _follows(watched, False)
        followed_for = asyncio.get_running_loop().time() - began
        assert readings() - before >= followed_for / 110  # a reading takes 20 s of that rate
    assert world.status_of("12345") == "active"


async def test_while_as_many_rotations_run_as_may_it_is_read_rarely_but_every_five_minutes(
    tmp_path: Path, readings: Callable[[], int]
) -> None:
    async with daemon_on(configure_at(0.2, tmp_path), two_pages()) as watched:
        await asyncio.sleep(60 * MINUTE)
        assert 28 <= (usually := readings()) <= 40
        watched.daemon._rotations.permits.set_number(0)
        await asyncio.sleep(60 * MINUTE)
        assert 10 <= readings() - usually <= 13


async def test_when_they_have_ended_a_server_that_one_list_is_without_is_looked_after_still(
    tmp_path: Path, readings: Callable[[], int]
) -> None:
    """It was last listed when the account was read rarely, and that is long ago by what holds now."""
    world = two_pages()
    async with daemon_on(configure_at(0.2, tmp_path, f'{{match: "web-*", schedule: "{SELDOM}"}}'), world) as watched:
        permits, schedules = watched.daemon._rotations.permits, watched.daemon._schedules
        permits.set_number(0)
        await asyncio.sleep(30 * MINUTE)
        await _read(readings)
        await asyncio.sleep(MINUTE)
        del world.servers["12346"]
        await asyncio.sleep(4 * MINUTE)
        permits.set_number(20)
        await _read(readings)
        await asyncio.sleep(MINUTE)
        assert schedules.targets.keys() == {"12345", "12346"}


async def _read(readings: Callable[[], int]) -> None:
    before = readings()
    while readings() == before:  # noqa: ASYNC110
        await asyncio.sleep(1)


async def _follows(watched: Watched, wanted: bool) -> None:
    while watched.daemon._rotations.keeper.is_following is not wanted:  # noqa: ASYNC110
        await asyncio.sleep(1)
