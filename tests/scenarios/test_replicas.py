"""Two and three whole daemons on one PostgreSQL: what they see of each other, and who of them does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from snaprotd.simulator import World
from tests.support.daemons import HEAD, Watched, a_world, daemon_on
from tests.support.databases import Server

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_ticks", "few_marks")

NAMES = ("web-01", "web-02", "web-03")


def entries(schedule: str = "10 3 * * *", names: Sequence[str] = NAMES, more: str = "") -> str:
    each = [
        f'{{id: {12345 + number}, name: {name}, schedule: "{schedule}"{more}}}' for number, name in enumerate(names)
    ]
    return f"[{', '.join(each)}]"


class Site:
    """One database, one account, and a folder for each host."""

    def __init__(self, folder: Path, server: Server, world: World) -> None:
        self.folder = folder
        self.url = server.schema()
        self.world = world

    def configure(self, host: str, servers: str, *, head: str = HEAD, more: str = "") -> Path:
        path = self.folder / host / "config.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{head}state: "{self.url}"\n{more}servers: {servers}\n')
        return path

    @asynccontextmanager
    async def daemons(self, *hosts: str, servers: str = "", more: str = "") -> AsyncIterator[list[Watched]]:
        async with AsyncExitStack() as stack:
            paths = [self.configure(host, servers or entries(), more=more) for host in hosts]
            yield [await stack.enter_async_context(daemon_on(path, self.world)) for path in paths]


@pytest.fixture
def site(tmp_path: Path, postgresql: Server) -> Site:
    return Site(tmp_path, postgresql, a_world(*NAMES))


def living(watched: Watched) -> int:
    fleet = watched.daemon._membership.fleet
    return 0 if fleet is None else len(fleet.living)


async def test_each_sees_the_others_and_that_one_has_left(site: Site) -> None:
    async with site.daemons("a", "b") as daemons:
        await asyncio.sleep(30)
        assert [living(one) for one in daemons] == [2, 2]
        async with site.daemons("c") as more:
            await asyncio.sleep(30)
            assert [living(one) for one in (*daemons, *more)] == [3, 3, 3]
        await asyncio.sleep(20)
        assert [living(one) for one in daemons] == [2, 2]
