"""A replica that reaches the database and not the provider: the others do its work, and start what it holds off."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from snaprotd.core.rotation import Result
from snaprotd.simulator import Request, World
from tests.scenarios.test_replicas import NAMES, Site, entries
from tests.support.daemons import Watched, a_world, daemon_on
from tests.support.databases import Server
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_marks")


class Line(WorldTransport):
    """Between one replica and the provider."""

    def __init__(self, world: World) -> None:
        self.is_cut = False
        super().__init__(world, before=self._refuse)

    def _refuse(self, _: Request) -> None:
        if self.is_cut:
            raise httpx.ConnectError("no route to the provider")


@pytest.fixture
def site(tmp_path: Path, postgresql: Server) -> Site:
    return Site(tmp_path, postgresql, a_world(*NAMES))


async def two_of(site: Site, stack: AsyncExitStack, servers: str) -> tuple[list[Watched], list[Line]]:
    lines = [Line(site.world), Line(site.world)]
    paths = [site.configure(host, servers) for host in "ab"]
    daemons = [
        await stack.enter_async_context(daemon_on(path, site.world, line))
        for path, line in zip(paths, lines, strict=True)
    ]
    return daemons, lines


def is_on(site: Site) -> bool:
    return all(site.world.status_of(str(12345 + one)) == "active" for one in range(3))


def held_off(watched: Watched) -> set[str]:
    return {one.server_id for one in watched.daemon.board.running.values() if one.held_off}


async def test_what_it_holds_off_is_started_by_another(site: Site) -> None:
    async with AsyncExitStack() as stack:
        daemons, lines = await two_of(site, stack, entries(more=", stop_first: true"))
        while not (holding := [number for number in range(2) if held_off(daemons[number])]):  # noqa: ASYNC110
            await asyncio.sleep(1)
        cut = holding[0]
        held = held_off(daemons[cut])
        lines[cut].is_cut = True
        await asyncio.sleep(25 * 60)
        assert is_on(site)
        ended = {one.server_id: one.result for one in daemons[1 - cut].ended}
        assert held <= set(ended)
        assert set(ended.values()) == {Result.SUCCESS}
        lines[cut].is_cut = False
        await asyncio.sleep(10 * 60)
        assert is_on(site)
    assert [len(site.world.snapshots_of(str(12345 + one))) for one in range(3)] == [1, 1, 1]


async def test_slots_come_to_those_whom_the_provider_answers(site: Site) -> None:
    """And to it again when it is answered; where it is the only one, or none is, it goes on trying."""
    async with AsyncExitStack() as stack:
        daemons, lines = await two_of(site, stack, entries("10 * * * *"))
        await asyncio.sleep(60)
        lines[0].is_cut = True
        await asyncio.sleep(20 * 60)
        assert (len(daemons[0].ended), len(daemons[1].ended)) == (0, 3)
        assert all(one.result is Result.SUCCESS for one in daemons[1].ended)
        lines[0].is_cut = False
        lines[1].is_cut = True
        await asyncio.sleep(60 * 60)
        assert (len(daemons[0].ended), len(daemons[1].ended)) == (3, 3)
        assert all(one.result is Result.SUCCESS for one in daemons[0].ended)
        for watched in daemons:
            skipped = watched.series("snaprotd_rotations_skipped_total")
            assert not any(skipped.values()), skipped
    assert [len(site.world.snapshots_of(str(12345 + one))) for one in range(3)] == [2, 2, 2]


async def test_where_none_is_answered_nobody_leaves_anything(site: Site) -> None:
    async with AsyncExitStack() as stack:
        daemons, lines = await two_of(site, stack, entries(more=", stop_first: true"))
        while is_on(site):  # noqa: ASYNC110
            await asyncio.sleep(1)
        await asyncio.sleep(20)
        for line in lines:
            line.is_cut = True
        ran = [set(watched.daemon.board.running) for watched in daemons]
        await asyncio.sleep(5 * 60)
        assert [set(watched.daemon.board.running) for watched in daemons] == ran
        for line in lines:
            line.is_cut = False
        await asyncio.sleep(25 * 60)
        assert is_on(site)
        assert [{one.id for one in watched.ended} for watched in daemons] == ran
