"""Most requests are refused with a long pause, at random, while many servers are off: each of them runs again soon."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from snaprotd.simulator import Fault
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, kill, look_around_less

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

SERVERS = [str(12345 + one) for one in range(12)]
SOON = 1200.0
"""Seconds. Undisturbed it takes 30, and a provider that never answers gets a request a minute. As chance has
it, it takes 60 to 850 here; were each pause kept that is asked for, it would be an hour and more."""


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_around_less(monkeypatch, tick=31.3, leases=14.1, file=600.0, account=301.7)


@dataclass(kw_only=True)
class Often(Fault):
    """Strikes a share of all requests, by chance."""

    share: float = 0.6
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def strikes(self, method: str, path: str, action: str, server_id: str) -> bool:
        return self.chance.random() < self.share


async def test_a_dozen_servers_run_again_soon_where_most_requests_are_refused_for_an_hour(tmp_path: Path) -> None:
    world = a_world(*(f"web-{one}" for one in SERVERS), snapshot_seconds=(86400, 86400))
    entries = [entry("5 3 * * *", "stop_first: true", server_id=one) for one in SERVERS]
    path = configure(tmp_path, *entries, more="max_concurrent: 12\n")
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    while any(world.status_of(one) != "stopped" for one in SERVERS):  # noqa: ASYNC110
        await asyncio.sleep(1)
    await asyncio.sleep(30)  # the snapshots are under way
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)
    for snapshot in world.snapshots.values():
        snapshot.status = "failed"
    world.faults.append(Often(kind="status", status=429, retry_after="3600", times=None))
    async with daemon_on(path, world):
        async with asyncio.timeout(SOON):
            while any(world.status_of(one) != "active" for one in SERVERS):  # noqa: ASYNC110
                await asyncio.sleep(1)
        world.faults.clear()
