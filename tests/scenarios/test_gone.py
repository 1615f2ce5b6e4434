"""Somebody says that there is no such server, or no such snapshot. Whether that is so, only the provider can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.commands.jobs.by_hand import by_hand
from snaprotd.commands.jobs.leave_off import leave_off
from snaprotd.config import file as config
from snaprotd.core.errors import CloudError
from snaprotd.core.holds import snapshot_name
from snaprotd.core.rotation import Step
from snaprotd.simulator import Fault, World
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, power, settings
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_ticks")

MINUTE, HOUR = 60.0, 3600.0


def nightly(*keys: str) -> str:
    """A server that is switched off for its snapshot, ten minutes after the beginning of the story."""
    return entry("10 3 * * *", "stop_first: true", "start_timeout: 5m", *keys)


def proxy_without_the_page(**options: object) -> Fault:
    """A proxy on the way knows no such page."""
    return Fault(**{"kind": "html", "status": 404, "times": None, **options})  # type: ignore[arg-type]


async def held_off(watched: Watched, world: World) -> None:
    await watched.reaches(Step.WAIT)
    assert world.status_of("12345") == "stopped"


async def test_a_proxy_that_finds_nothing_for_an_hour_makes_no_server_gone(tmp_path: Path) -> None:
    world = a_world()
    async with daemon_on(configure(tmp_path, nightly()), world) as watched:
        await held_off(watched, world)
        world.faults.append(proxy_without_the_page())
        await asyncio.sleep(HOUR)
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 1
        world.faults.clear()
        await asyncio.sleep(10 * MINUTE)
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
    assert world.status_of("12345") == "active"


async def test_a_deletion_that_a_proxy_answers_is_a_failure_and_the_snapshot_goes_the_next_time(tmp_path: Path) -> None:
    world = a_world()
    old = snapshot_name("main", slot := datetime(2025, 1, 15, 3, 10, tzinfo=UTC))
    world.add_snapshot("12345", old, created_at=slot)
    world.faults.append(proxy_without_the_page(method="DELETE"))
    async with daemon_on(configure(tmp_path, entry("10 * * * *", "keep: 1")), world) as watched:
        await asyncio.sleep(HOUR)
        assert [one.result for one in watched.ended] == ["partial"]
        assert "(not the provider's own words" in str(watched.ended[0].error)
        assert (watched.ended[0].deleted, world.deleted) == ((), [])
        world.faults.clear()
        await asyncio.sleep(HOUR)
        assert [one.result for one in watched.ended] == ["partial", "success"]
        assert old in [one.snapshot.name for one in world.deleted]


@pytest.mark.parametrize("path", ["/servers/*/", "/snapshots/*/"])
async def test_a_person_is_told_that_a_proxy_has_answered(
    tmp_path: Path, commands_reach: Callable[[httpx.AsyncBaseTransport], None], path: str
) -> None:
    """Neither is the account said to be without the server, nor the snapshot to be deleted."""
    world = a_world()
    snapshot = world.add_snapshot("12345", "by-hand", created_at=datetime(2025, 1, 15, tzinfo=UTC))
    commands_reach(WorldTransport(world))
    world.faults.append(proxy_without_the_page(path=path))
    with pytest.raises(CloudError, match="not the provider's own words"):
        async with by_hand(settings(tmp_path), {"VPS_API_TOKEN": world.token}, str(snapshot.id)) as found:
            await found.delete(print)
    assert world.deleted == []


# -- a server that is off, and may be gone ----------------------------------------------------------------------------

LOOK: dict[str, Any] = {"method": "GET", "path": "/servers/12345/"}


async def test_a_404_after_a_long_time_of_errors_does_not_make_a_server_gone(tmp_path: Path) -> None:
    """How long it has stood at its start says nothing of how long the provider has not found it.

    For a moment the list is without it as well, as when a replica lags behind.
    """
    world = a_world("web-01", "web-02")
    async with daemon_on(configure(tmp_path, nightly()), world) as watched:
        world.faults.append(power("start_never", "start"))
        await watched.reaches(Step.START)
        assert world.status_of("12345") == "stopped"
        world.faults.append(failing := Fault(kind="status", status=500, times=None))
        await asyncio.sleep(20 * MINUTE)
        unlisted = world.servers.pop("12345")
        failing.times = 0
        await asyncio.sleep(MINUTE)
        world.servers["12345"] = unlisted
        await asyncio.sleep(10 * MINUTE)
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
    assert world.status_of("12345") == "active"


async def test_a_server_that_is_listed_is_not_gone_whatever_is_answered_to_a_look(tmp_path: Path) -> None:
    world = a_world("web-01", "web-02")
    async with daemon_on(configure(tmp_path, nightly()), world) as watched:
        await held_off(watched, world)
        world.faults.append(Fault(kind="status", status=404, times=None, **LOOK))
        await asyncio.sleep(HOUR)
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 1
        assert watched.ended == []  # nothing is given up
        world.faults.clear()
        await asyncio.sleep(10 * MINUTE)
    assert world.status_of("12345") == "active"


@pytest.mark.parametrize("kind", ["short", "empty", "status"])
async def test_a_list_that_cannot_be_relied_on_makes_no_server_gone(tmp_path: Path, kind: str) -> None:
    world = a_world("web-01", "web-02")
    async with daemon_on(configure(tmp_path, nightly()), world) as watched:
        await held_off(watched, world)
        listed = world.servers.pop("12345")  # the page of the list that it stood on, and the look, fail together
        world.faults.append(Fault(kind=kind, path="/servers/", times=None))
        await asyncio.sleep(30 * MINUTE if kind != "empty" else 6 * MINUTE)
        world.servers["12345"] = listed
        world.faults.clear()
        await asyncio.sleep(30 * MINUTE)
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
    assert world.status_of("12345") == "active"


async def test_a_server_that_is_gone_ends_the_rotation_that_owed_its_start_but_not_before_its_time(
    tmp_path: Path,
) -> None:
    """`start_timeout` is counted from the first 404, however long the start has been waited for by then."""
    world = a_world("web-01", "web-02")
    async with daemon_on(configure(tmp_path, nightly()), world) as watched:
        world.faults.append(power("start_never", "start", times=None))
        await watched.reaches(Step.START)
        await asyncio.sleep(20 * MINUTE)
        world.remove_server("12345")
        await asyncio.sleep(4 * MINUTE)
        assert watched.ended == []
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 1
        await asyncio.sleep(10 * MINUTE)
        assert [one.held_off for one in watched.ended] == [False]
        assert [one.result for one in watched.ended] == ["failure"]


async def test_an_answer_in_between_makes_the_time_begin_anew_for_which_a_server_was_not_found(tmp_path: Path) -> None:
    """A replica that lags behind answers now and then; for hours there are more 404s than anything else."""
    world = a_world("web-01", "web-02")
    async with daemon_on(configure(tmp_path, nightly()), world) as watched:
        world.faults.append(power("start_never", "start", times=None))
        await watched.reaches(Step.START)
        lagging = world.servers["12345"]
        for _ in range(10):
            world.servers.pop("12345")
            await asyncio.sleep(4 * MINUTE)
            world.servers["12345"] = lagging
            await asyncio.sleep(MINUTE)
        assert watched.ended == []
        world.faults.clear()
        await asyncio.sleep(10 * MINUTE)
        assert [one.error for one in watched.ended] == [None]
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
    assert world.status_of("12345") == "active"


# -- a server that was gone, and comes back --------------------------------------------------------------------------


class Vanishing:
    """A server that vanishes while it is off because of us, until its start is given up; another one stays."""

    def __init__(self, folder: Path) -> None:
        self.world = a_world("web-01", "web-02")
        self.path = configure(folder, nightly())

    @property
    def status(self) -> str:
        return self.world.status_of("12345")

    @asynccontextmanager
    async def is_given_up(self) -> AsyncIterator[Watched]:
        """With the daemon that has given it up."""
        async with daemon_on(self.path, self.world) as watched:
            await held_off(watched, self.world)
            self.left = self.world.servers.pop("12345")
            await asyncio.sleep(20 * MINUTE)
            assert [one.result for one in watched.ended] == ["failure"]
            assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
            yield watched

    def comes_back(self) -> None:
        self.world.servers["12345"] = self.left


async def test_a_server_that_comes_back_still_off_is_started(tmp_path: Path) -> None:
    one = Vanishing(tmp_path)
    async with one.is_given_up():
        await asyncio.sleep(3 * HOUR)
        one.comes_back()
        await asyncio.sleep(10 * MINUTE)
        assert one.status == "active"


async def test_a_server_that_comes_back_under_another_process_is_started_too(tmp_path: Path) -> None:
    one = Vanishing(tmp_path)
    async with one.is_given_up():
        pass
    await asyncio.sleep(24 * HOUR)
    one.comes_back()
    async with daemon_on(one.path, one.world):
        await asyncio.sleep(10 * MINUTE)
        assert one.status == "active"


async def test_a_server_that_comes_back_and_runs_is_paid(tmp_path: Path) -> None:
    """Two looks tell so: who switches it off after that is none of ours."""
    one = Vanishing(tmp_path)
    async with one.is_given_up():
        one.comes_back()
        one.world.set_status("12345", "active")
        await asyncio.sleep(10 * MINUTE)
        one.world.set_status("12345", "stopped")
        await asyncio.sleep(HOUR)
        assert one.status == "stopped"


async def test_a_server_that_comes_back_when_its_start_was_let_go_stays_off(tmp_path: Path) -> None:
    one = Vanishing(tmp_path)
    async with one.is_given_up():
        assert await leave_off(config.load(one.path, {}), "s12345", "it was deleted")
    one.comes_back()
    async with daemon_on(one.path, one.world):
        await asyncio.sleep(HOUR)
        assert one.status == "stopped"
