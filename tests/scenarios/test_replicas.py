"""Two and three whole daemons on one PostgreSQL: what they see of each other, and who of them does what."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations
from pathlib import Path

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.fleet import LIVES_FOR, REPORTER
from snaprotd.core.rotation import Result
from snaprotd.provider.apart import About
from snaprotd.provider.rate import LOWERED_TO
from snaprotd.provider.vps_org.client import VpsOrg
from snaprotd.simulator import Request, World
from tests.support.daemons import HEAD, Watched, a_world, daemon_on
from tests.support.databases import Server
from tests.support.world_transport import WorldTransport

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


async def test_what_the_newer_one_has_run_is_not_skipped_where_the_next_slot_is_at_work(site: Site) -> None:
    async with site.daemons("a", "b", servers=entries("10,30 * * * *")) as daemons:
        await asyncio.sleep(32 * 60)
        slots = [one.slot for watched in daemons for one in watched.ended]
        assert len(slots) == 3
        assert sum(len(watched.daemon.board.running) for watched in daemons) == 3
        for watched in daemons:
            schedules = watched.daemon._schedules
            schedules._turns.put_off = {str(12345 + one): (slots[0], slots[0]) for one in range(3)}
            schedules.look_at_clock()
        await asyncio.sleep(10 * 60)
        for watched in daemons:
            skipped = watched.series("snaprotd_rotations_skipped_total")
            assert not any(skipped.values()), skipped
        assert sum(len(watched.ended) for watched in daemons) == 6


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
        assert sorted(sum(one.series("snaprotd_replicas").values()) for one in daemons) == [0, 2]
        (reporter,) = [one for one in daemons if one.daemon._membership.has(REPORTER)]
        (other,) = [one for one in daemons if one is not reporter]
        cut_off(reporter)
        await asyncio.sleep(LIVES_FOR + 40)
        assert reporter.series("snaprotd_expected_interval_seconds") == {}
        assert len(other.series("snaprotd_expected_interval_seconds")) == 3
        assert other.value("snaprotd_replicas_lost") == 1


class Counting(WorldTransport):
    """When each request of any process arrived, but for the one by which it knows its account as it begins."""

    def __init__(self, world: World, times: list[float]) -> None:
        def before(request: Request) -> None:
            if not request.path.endswith("/account/me/"):
                times.append(asyncio.get_running_loop().time())

        super().__init__(world, before=before)


def busiest_second(times: Sequence[float]) -> int:
    return max(bisect_left(times, one + 1 - 1e-6) - index for index, one in enumerate(times))


async def test_all_together_ask_no_faster_than_one_would_while_one_joins_and_one_ends(
    postgresql: Server, tmp_path: Path
) -> None:
    names = [f"web-{number:02}" for number in range(12)]
    site = Site(tmp_path, postgresql, a_world(*names))
    head = HEAD.replace("requests_per_second: 100", "requests_per_second: 5")
    times: list[float] = []
    at_work: list[int] = []

    async def watch(daemons: list[Watched]) -> None:
        while True:
            at_work.append(sum(one.daemon._rotations.permits._taken for one in daemons))
            await asyncio.sleep(5)

    async with AsyncExitStack() as stack:
        daemons = []
        servers = entries("*/10 * * * *", names)
        for host in "abc":
            path = site.configure(host, servers, head=head, more="max_concurrent: 8\n")
            daemons.append(await stack.enter_async_context(daemon_on(path, site.world, Counting(site.world, times))))
        await asyncio.sleep(30)
        watching = asyncio.create_task(watch(daemons))
        assert [one.daemon._tools.cloud.rate.configured for one in daemons] in permutations_of(2, 2, 1)
        await asyncio.sleep(12 * 60)
        watching.cancel()
        path = site.configure("d", servers, head=head, more="max_concurrent: 8\n")
        async with daemon_on(path, site.world, Counting(site.world, times)):
            await asyncio.sleep(5 * 60)
        await asyncio.sleep(5 * 60)
    assert 0 < max(at_work) <= 8
    assert busiest_second(times) <= 5
    assert len(times) > 100


def permutations_of(*numbers: float) -> list[list[float]]:
    return [list(one) for one in permutations(numbers)]


async def test_what_one_learns_of_the_rate_the_others_know(site: Site) -> None:
    async with site.daemons("a", "b") as daemons:
        await asyncio.sleep(30)
        one, other = (watched.daemon._tools.cloud for watched in daemons)
        about, now = About(kind="GET /servers/", subject="*"), asyncio.get_running_loop().time()
        assert isinstance(one, VpsOrg)
        one._line._pace.put_off(about, now - 0.1, 0, too_many=True)
        assert one.rate.rate == pytest.approx(LOWERED_TO * 50)
        assert other.rate.rate == 50
        await asyncio.sleep(30)
        assert other.rate.rate == pytest.approx(LOWERED_TO * 50, abs=4)
        await asyncio.sleep(600)
        assert [cloud.rate.rate for cloud in (one, other)] == [50, 50], "neither holds the other down"


async def test_a_group_is_one_at_a_time_over_all_replicas(site: Site) -> None:
    one_at_a_time = ', stop_first: true, one_at_a_time: "db"'
    async with site.daemons("a", "b", "c", servers=entries("5 3 * * *", more=one_at_a_time)) as daemons:
        most = 0
        for _ in range(180):
            await asyncio.sleep(10)
            most = max(most, sum(site.world.status_of(str(12345 + one)) != "active" for one in range(3)))
        ended = [one for watched in daemons for one in watched.ended]
        assert sorted(one.label for one in ended) == sorted(NAMES)
    assert most == 1
