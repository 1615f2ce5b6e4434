"""A replica whose clock is not the provider's, beside one whose clock is: that one runs what is due, and says so."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from snaprotd.simulator import Reply, Request, World
from tests.scenarios.test_replicas import NAMES, Site, entries
from tests.support.daemons import a_world, daemon_on
from tests.support.databases import Server
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_marks")

HOURLY = entries("10 * * * *")


class ShownAs(WorldTransport):
    """To this replica the provider's clock is so much behind its own."""

    def __init__(self, world: World, behind: timedelta) -> None:
        self.behind = behind
        super().__init__(world, bend=self._dated)

    def _dated(self, _: Request, reply: Reply) -> Reply:
        date = format_datetime((self._world.clock() - self.behind).astimezone(UTC), usegmt=True)
        return replace(reply, headers={**reply.headers, "Date": date})


@pytest.fixture
def site(tmp_path: Path, postgresql: Server) -> Site:
    return Site(tmp_path, postgresql, a_world(*NAMES))


@pytest.mark.parametrize("behind", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
async def test_who_has_the_wrong_time_begins_nothing_and_the_other_one_says_so(site: Site, behind: timedelta) -> None:
    line = ShownAs(site.world, behind)
    async with AsyncExitStack() as stack:
        wrong = await stack.enter_async_context(daemon_on(site.configure("a", HOURLY), site.world, line))
        right = await stack.enter_async_context(daemon_on(site.configure("b", HOURLY), site.world))
        await asyncio.sleep(125 * 60)
        assert (len(wrong.ended), len(right.ended)) == (0, 6)
        report = await right.daemon.view.status()
        (problem,) = report["problems"]
        assert "begins no rotations: its clock is wrong" in problem["text"]
        assert {one["is_me"]: one["begins_rotations"] for one in report["replicas"]} == {False: False, True: True}
        line.behind = timedelta(0)
        await asyncio.sleep(60 * 60)
        assert len(wrong.ended) + len(right.ended) == 9
        assert (await right.daemon.view.status())["problems"] == []
    assert [len(site.world.snapshots_of(str(12345 + one))) for one in range(3)] == [3, 3, 3]


async def test_where_none_has_the_right_time_they_go_on(site: Site) -> None:
    """It may be the provider's that is wrong."""
    async with AsyncExitStack() as stack:
        daemons = [
            await stack.enter_async_context(
                daemon_on(site.configure(host, HOURLY), site.world, ShownAs(site.world, timedelta(hours=1)))
            )
            for host in "ab"
        ]
        await asyncio.sleep(65 * 60)
        assert sum(len(watched.ended) for watched in daemons) == 3
