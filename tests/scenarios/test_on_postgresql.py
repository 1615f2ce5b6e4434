"""A daemon whose ledger is on PostgreSQL does what one does whose ledger is a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from snaprotd.core.rotation import Result
from snaprotd.simulator import World
from tests.support.daemons import HEAD, daemon_on
from tests.support.databases import Server

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_ticks", "few_marks")


def write_config(folder: Path, url: str, servers: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(f'{HEAD}state: "{url}"\nservers: {servers}\n')
    return path


async def test_what_one_process_has_left_the_next_one_goes_on_from(postgresql: Server, tmp_path: Path) -> None:
    world = World()
    server_id = world.add_server("web-01")
    servers = f'[{{id: {server_id}, name: web-01, schedule: "10 * * * *", stop_first: true, keep: 1}}]'
    path = write_config(tmp_path, postgresql.schema(), servers)
    taken = set()
    for _ in range(2):
        async with daemon_on(path, world) as watched:
            await asyncio.sleep(3600)
            assert [one.result for one in watched.ended if one.is_finished] == [Result.SUCCESS]
            assert world.status_of(server_id) == "active"
        (left,) = world.snapshots_of(server_id)
        taken.add(left.id)
    assert len(taken) == 2
