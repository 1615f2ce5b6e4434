"""Somebody says that there is no such server, or no such snapshot. Whether that is so, only the provider can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from snaprotd.commands.jobs.by_hand import by_hand
from snaprotd.core.errors import CloudError
from snaprotd.core.model import snapshot_name
from snaprotd.core.rotation import Step
from snaprotd.simulator import Fault, World
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, settings
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
            await found.delete()
    assert world.deleted == []
