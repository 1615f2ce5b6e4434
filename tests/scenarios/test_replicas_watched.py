"""A replica that still watches a server which another one holds off by now."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

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
