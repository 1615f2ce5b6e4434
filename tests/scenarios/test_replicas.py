"""Two and three whole daemons on one PostgreSQL: what they see of each other, and who of them does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.fleet import LIVES_FOR, REPORTER
from snaprotd.core.rotation import Result
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
    """One database, one account, and a file for each host."""

    def __init__(self, folder: Path, server: Server, world: World) -> None:
        self.folder = folder
        self.url = server.schema()
        self.world = world

    def configure(self, host: str, servers: str, *, head: str = HEAD, more: str = "") -> Path:
        path = self.folder / f"{host}.yaml"
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


def cut_off(watched: Watched) -> None:
    """It beats no more, nor does it see the others."""

    async def fails() -> None:
        raise LedgerError("the network is down")

    watched.daemon._membership.look = fails  # type: ignore[method-assign]


async def test_each_sees_the_others_and_that_one_has_left(site: Site) -> None:
    async with site.daemons("a", "b") as daemons:
        await asyncio.sleep(30)
        assert [living(one) for one in daemons] == [2, 2]
        async with site.daemons("c") as more:
            await asyncio.sleep(30)
            assert [living(one) for one in (*daemons, *more)] == [3, 3, 3]
        await asyncio.sleep(20)
        assert [living(one) for one in daemons] == [2, 2]


async def test_each_slot_is_run_once_by_the_replica_that_is_to(site: Site) -> None:
    async with site.daemons("a", "b", "c", servers=entries("*/20 * * * *")) as daemons:
        await asyncio.sleep(35 * 60)
        ran = {watched: {one.server_id for one in watched.ended} for watched in daemons}
        assert sorted(one for its in ran.values() for one in its) == ["12345", "12346", "12347"]
        assert sum(len(watched.ended) for watched in daemons) == 3
        assert all(one.result is Result.SUCCESS for watched in daemons for one in watched.ended)
        assert all(watched.daemon._membership.prefers(one) for watched, its in ran.items() for one in its)
        for watched in daemons:
            skipped = watched.series("snaprotd_rotations_skipped_total")
            assert not any(skipped.values()), skipped
    assert [len(site.world.snapshots_of(str(12345 + one))) for one in range(3)] == [1, 1, 1]


async def test_of_two_configurations_the_one_that_came_into_force_last_is_run(site: Site) -> None:
    """And an older one again, where that comes into force after it; or where nobody is left that has the newer one."""
    async with site.daemons("a", servers=entries("10 * * * *")) as (older,):
        await asyncio.sleep(60)
        async with site.daemons("b", servers=entries("20 * * * *", NAMES[:1])) as (newer,):
            await asyncio.sleep(1500)
            assert (len(older.ended), len(newer.ended)) == (0, 1)
            assert not older.daemon._membership.may_claim
            site.configure("a", entries("30 * * * *", NAMES[:2]))
            older.daemon._watch.ask()
            await asyncio.sleep(900)
            assert ({one.label for one in older.ended}, len(newer.ended)) == ({"web-01", "web-02"}, 1)
            assert not newer.daemon._membership.may_claim


async def test_who_has_an_older_configuration_runs_what_the_newer_one_did_not_live_to_run(site: Site) -> None:
    async with site.daemons("a", servers=entries("10 * * * *")) as (older,):
        await asyncio.sleep(60)
        async with site.daemons("b", servers=entries("50 * * * *", NAMES[:1])):
            await asyncio.sleep(600)
            assert older.ended == []
        await asyncio.sleep(600)
        assert {one.label for one in older.ended} == set(NAMES)


async def test_each_shows_all_of_them_and_who_runs_what_and_one_tells_the_gauges(site: Site) -> None:
    async with site.daemons("a", "b") as daemons:
        await asyncio.sleep(12 * 60)
        reports = [(await one.get("/api/status")).json() for one in daemons]
        runners = {
            one.server_id: w.daemon._membership.me.id for w in daemons for one in w.daemon.board.running.values()
        }
        assert len(runners) == 3
        for report in reports:
            shown = {str(one["id"]): one["running"]["replica"]["id"] for one in report["servers"]}
            assert shown == runners
            assert [sum(one[key] for one in report["replicas"]) for key in ("is_me", "is_reporter", "is_teller")] == [
                1,
                1,
                1,
            ]
        ids = [one["id"] for one in reports[0]["replicas"]]
        assert ids == [one["id"] for one in reports[1]["replicas"]] == sorted(ids)
        page = (await daemons[1].get("/")).text
        assert all(id_[:8] in page for id_ in ids)
        gauges = [one.series("snaprotd_expected_interval_seconds") for one in daemons]
        assert sorted(map(len, gauges)) == [0, 3]
        assert sorted(len(one.series("snaprotd_server_stopped_by_us")) for one in daemons) == [0, 3]
        assert all(len(one.series("snaprotd_rotations_total")) == 9 for one in daemons)
        assert sorted(sum(one.series("snaprotd_replicas").values()) for one in daemons) == [0, 2]
        (reporter,) = [one for one in daemons if one.daemon._membership.has(REPORTER)]
        (other,) = [one for one in daemons if one is not reporter]
        cut_off(reporter)
        await asyncio.sleep(LIVES_FOR + 40)
        assert reporter.series("snaprotd_expected_interval_seconds") == {}
        assert len(other.series("snaprotd_expected_interval_seconds")) == 3
        assert other.value("snaprotd_replicas_lost") == 1
