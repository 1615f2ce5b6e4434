"""Three replicas as real processes on a real PostgreSQL, to which all happens that may happen to such.

In the end all is well, and the provider's own record shows that nothing was done twice, and nothing to what is others'.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from tests.support.database_ways import PGBOUNCER, pooler
from tests.support.databases import Server, server
from tests.support.processes import provider
from tests.support.real_harms import befalls, drawn
from tests.support.real_replicas import DATABASE, Account, Site, replicas
from tests.support.real_versions import ADDED, ITS_OPEN, SPOILT, later
from tests.support.searches import IS_LONG
from tests.support.swift import LEASE, USUAL_LEASE, hurry, usual

pytestmark = [pytest.mark.real_time, pytest.mark.search]

NUMBER = 3
UNSEEN = 0.5
"""Seconds for which what is written reaches the standby no more, before the other server is lost."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    name: str
    servers: int
    seed: int
    rounds: int
    begins: Callable[[], None] = hurry
    lease: float = LEASE
    fails_over: bool = False
    """The database's server is lost, with the last that was written; another one is in its place."""
    is_pooled: bool = False
    """There is a PgBouncer in transaction mode before it."""
    waits: bool = True
    """The role has commits be waited for."""


SHORT = [Plot(name="short", servers=12, seed=1, rounds=1)]
LONG = [
    Plot(name="a failover", servers=60, seed=2, rounds=1, fails_over=True),
    Plot(name="in a hurry to commit", servers=60, seed=3, rounds=1, waits=False, is_pooled=PGBOUNCER is not None),
    Plot(name="leases as they are", servers=60, seed=4, rounds=1, begins=usual, lease=USUAL_LEASE),
]


@pytest.mark.parametrize("plot", LONG if IS_LONG else SHORT, ids=lambda plot: plot.name)
async def test_whatever_befalls_replicas_each_slot_is_run_once_and_no_server_stays_off(
    plot: Plot, tmp_path: Path
) -> None:
    account, chance = Account(plot.servers), Random(plot.seed)
    async with database(plot) as it, provider(account) as web:
        site = Site(tmp_path, it.server, account, web, plot.begins)
        await site.sleep_through_a_slot()
        async with replicas(site, NUMBER, lambda: it.socket) as those:
            began = datetime.now(UTC)
            if plot.fails_over:
                await it.fail_over()
                site.server = it.server
            lives = zip(those, drawn(chance, NUMBER, plot.rounds, plot.lease), strict=True)
            await asyncio.gather(it.restart(after=chance.uniform(2, 6)), *(befalls(*one, chance) for one in lives))
            await site.is_well(since=began, but_for="the ledger is an old copy" if plot.fails_over else "-")
            await site.comes_to_rest()
            assert await site.judge() == [], f"see {tmp_path}"
            assert len(account.created) >= plot.servers
            assert [await one.asked_to_end() for one in those] == [0] * NUMBER


@pytest.mark.long_form
async def test_of_two_versions_one_leaves_to_the_other_what_only_that_may_go_on_with(tmp_path: Path) -> None:
    """A rollout in which the one that is new is killed, then one that is old; a step back, and all of it."""
    account = Account(12)
    plot = Plot(name="two versions", servers=12, seed=5, rounds=0)
    async with database(plot) as it, provider(account) as web:
        site = Site(tmp_path, it.server, account, web, hurry)
        await site.sleep_through_a_slot()
        async with replicas(site, NUMBER, lambda: it.socket) as (first, second, third):
            began = datetime.now(UTC)
            for statement in ADDED:
                await asyncio.to_thread(it.server.sql, statement, DATABASE)
            await first.becomes(later)
            await site.has_rows(ITS_OPEN)
            await first.kill()
            await site.has_rows(f"{ITS_OPEN} AND owner IS NULL")
            await site.runs_all_of_them()
            await first.begin()
            await third.kill()
            await asyncio.sleep(LEASE)
            third.begins = later
            await third.begin()
            await third.answers()
            await site.has_rows(ITS_OPEN)
            await third.becomes(hurry)
            assert it.server.sql(SPOILT, DATABASE) == []
            for one in (second, third):
                await one.becomes(later)
            await site.is_well(since=began)
            await site.comes_to_rest()
            assert await site.judge() == [], f"see {tmp_path}"
            assert it.server.sql(SPOILT, DATABASE) == []
            assert [await one.asked_to_end() for one in (first, second, third)] == [0] * NUMBER


class Place:
    """Where the database is by now."""

    def __init__(self, server: Server, standby: Server | None) -> None:
        self.server = server
        self.pooled: Path | None = None
        self._standby = standby

    @property
    def socket(self) -> Path:
        return self.pooled or self.server.socket

    async def restart(self, *, after: float) -> None:
        await asyncio.sleep(after)
        await asyncio.to_thread(self.server.restart)

    async def fail_over(self) -> None:
        """In the midst of all that has just begun."""
        assert self._standby is not None
        self._standby.sql("ALTER SYSTEM SET primary_conninfo = ''")
        self._standby.sql("SELECT pg_reload_conf()")
        await asyncio.sleep(UNSEEN)
        await asyncio.to_thread(self.server.stop)
        await asyncio.to_thread(self._standby.promote)
        self.server = self._standby


@asynccontextmanager
async def database(plot: Plot) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        first = stack.enter_context(server())
        first.sql(f"CREATE DATABASE {DATABASE}")
        if not plot.waits:
            first.sql("ALTER ROLE snaprotd SET synchronous_commit = off")
        place = Place(first, stack.enter_context(first.standby()) if plot.fails_over else None)
        if plot.is_pooled:
            place.pooled = stack.enter_context(pooler(first.socket))
        yield place
