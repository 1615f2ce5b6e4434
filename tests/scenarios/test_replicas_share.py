"""Several daemons on one PostgreSQL share what may run at one time: none stands in line for one while another idles."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.core.rotation import Result
from snaprotd.daemon.slots.turns import LOOKED_EVERY
from tests.scenarios.test_replicas import Site, entries
from tests.support.daemons import BusyWorld, a_world
from tests.support.databases import Server
from tests.support.virtual_time import START

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_ticks", "few_marks")

SLOT = START + timedelta(minutes=10)
SNAPSHOT = 600.0
SKIPPED = "snaprotd_rotations_skipped_total"


@pytest.mark.parametrize(
    ("most", "servers", "rounds"),
    [
        pytest.param(2, 2, 1, id="one of them has no share"),
        pytest.param(3, 3, 1, id="a place each"),
        pytest.param(3, 6, 2, id="twice as many as places"),
    ],
)
async def test_a_slot_is_claimed_by_who_has_a_place_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, postgresql: Server, most: int, servers: int, rounds: int
) -> None:
    """By chance one replica is to begin all of them."""
    monkeypatch.setattr("snaprotd.core.fleet.looks.preferred", lambda server_id, ids: max(ids))
    names = [f"web-{number}" for number in range(servers)]
    world = BusyWorld(snapshot_seconds=(SNAPSHOT, SNAPSHOT))
    for name in names:
        world.add_server(name)
    site = Site(tmp_path, postgresql, world)
    more = f"max_concurrent: {most}\n"
    async with site.daemons("a", "b", "c", servers=entries(names=names), more=more) as daemons:
        await asyncio.sleep(3600)
        ended = [one for watched in daemons for one in watched.ended]
        assert sorted(one.label for one in ended) == names
        assert {one.result for one in ended} == {Result.SUCCESS}
        assert world.most == most
        took = max(one.finished_at - SLOT for one in ended if one.finished_at is not None)
        assert took < timedelta(seconds=rounds * (SNAPSHOT + 60))
        assert not any(value for watched in daemons for value in watched.series(SKIPPED).values())


@pytest.mark.parametrize("wish", ["", "paused"])
async def test_a_server_that_is_not_wanted_any_more_before_there_is_a_place_for_it_is_not_rotated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, postgresql: Server, wish: str
) -> None:
    monkeypatch.setattr("snaprotd.core.fleet.looks.preferred", lambda server_id, ids: max(ids))
    names = [f"web-{number}" for number in range(4)]
    site = Site(tmp_path, postgresql, a_world(*names, snapshot_seconds=(SNAPSHOT, SNAPSHOT)))
    more = "max_concurrent: 2\n"
    async with site.daemons("a", "b", servers=entries(names=names), more=more) as daemons:
        await asyncio.sleep((SLOT - datetime.now(UTC)).total_seconds() + LOOKED_EVERY)
        for watched, host in zip(daemons, ("a", "b"), strict=True):
            kept = entries(names=names, more=", paused: true") if wish else entries("10 4 * * *", names=["web-9"])
            site.configure(host, kept, more=more)
            watched.daemon._watch.ask()
        await asyncio.sleep(1800)
        assert len(site.world.created) == 1
