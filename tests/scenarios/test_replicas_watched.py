"""What a replica sees of a server that another one sees to, and what it says of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from snaprotd.core.rotation import Step
from snaprotd.daemon.life import TICK
from tests.scenarios.test_replicas import Site, entries
from tests.support.daemons import Line, a_world
from tests.support.databases import Server

pytestmark = pytest.mark.usefixtures("one_clock", "few_marks")

ALARMS = ("not started: no process saw the server", "a start is owed to the server, and no rotation sees to it")


async def test_a_server_that_is_off_for_another_one_is_nobody_elses_trouble(
    tmp_path: Path, postgresql: Server, log: list[Line]
) -> None:
    site = Site(tmp_path, postgresql, a_world("web-01"))
    servers = entries("10,17 3 * * *", ["web-01"], ", stop_first: true")
    async with site.daemons("a", "b", servers=servers) as daemons:
        while not (ran := [one for one in daemons if one.ended]):  # noqa: ASYNC110
            await asyncio.sleep(1)
        (other,) = [one for one in daemons if one not in ran]
        ran[0].daemon._schedules._turns.prefers = lambda _: False
        other.daemon._schedules._turns.prefers = lambda _: True
        await asyncio.sleep(15 * 60)
        assert len(other.ended) == 1
    assert [line["event"] for line in log if line["event"].startswith(ALARMS)] == []


async def test_how_long_another_one_has_been_at_a_step_is_told_as_far_as_it_was_seen(
    tmp_path: Path, postgresql: Server, silence: None
) -> None:
    """From one save of it to the next too, and nothing before that is known."""
    site = Site(tmp_path, postgresql, a_world("web-01", snapshot_seconds=(600, 600)))
    async with site.daemons("a", "b", servers=entries(names=["web-01"])) as daemons:
        while not (runs := [one for one in daemons if one.daemon.board.running]):  # noqa: ASYNC110
            await asyncio.sleep(1)
        (other,) = [one for one in daemons if one not in runs]
        await runs[0].reaches(Step.WAIT)
        began, told = asyncio.get_running_loop().time(), []
        assert ", for 0 s" not in (await other.get("/")).text
        for _ in range(8):
            await asyncio.sleep(60)
            running = (await other.get("/api/status")).json()["servers"][0]["running"]
            assert running["step"] == "wait"
            told.append(running["seconds"])
            assert 0 <= asyncio.get_running_loop().time() - began - told[-1] <= TICK
        assert all(55 <= after - before <= 65 for before, after in pairwise(told))
