"""A daemon whose ledger is on PostgreSQL does what one does whose ledger is a file."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.server.session import Session
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.scenarios.test_another_ledger import Moved
from tests.support.daemons import HEAD, Line, daemon_on
from tests.support.databases import Server
from tests.support.virtual_time import START
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks", "few_marks")


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


async def test_cut_off_from_its_database_a_daemon_only_starts_what_is_off_and_goes_on_when_that_is_back(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot comes meanwhile, and what was held off has a snapshot to delete."""
    world = World(snapshot_seconds=(900, 900))
    off, due = world.add_server("off"), world.add_server("due")
    old = world.add_snapshot(off, "snaprotd-main-20250114T031000Z", created_at=START - timedelta(days=2))
    servers = f"""
  - {{id: {off}, name: web-off, schedule: "10 3,5 * * *", stop_first: true, keep: 1, adopt: ["{old.name}"]}}
  - {{id: {due}, name: web-due, schedule: "20 3 * * *", stop_first: true}}
"""
    async with daemon_on(write_config(tmp_path, postgresql.schema(), servers), world) as watched:
        await asyncio.sleep(15 * 60)
        assert world.status_of(off) == "stopped"
        assert (await watched.get("/readyz")).status_code == 200
        with monkeypatch.context() as away:
            away.setattr(Session, "begin", nobody_answers)
            away.setattr(Session, "_call", nobody_answers)
            await asyncio.sleep(60)
            ready = await watched.get("/readyz")
            assert (ready.status_code, "the network is gone" in ready.text) == (503, True)
            await asyncio.sleep(29 * 60)
            assert world.status_of(off) == "active"
            assert [status for _, status in world.servers[due].history] == ["active"]
            assert (len(world.created), world.deleted) == (1, [])
        await asyncio.sleep(60)
        assert (await watched.get("/readyz")).status_code == 200
        await asyncio.sleep(2 * 3600)
        assert [one.server_id for one in world.created] == [off, due, off]
        ends = [(one.server_id, one.result) for one in watched.ended if one.is_finished]
        assert ends == [(off, Result.PARTIAL), (due, Result.SUCCESS), (off, Result.SUCCESS)]
        assert old.id in {one.snapshot.id for one in world.deleted}  # by the slot after it
        assert world.status_of(due) == "active"


@pytest.mark.parametrize("on_stop_timeout", ["abort", "hard_stop"])
async def test_who_could_not_promise_a_start_for_as_long_as_a_stop_may_take_says_so_and_stops_nothing_the_hard_way(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_stop_timeout: str
) -> None:
    world, asked, cut = World(), list[str](), set[Step]()
    server = world.add_server("web")
    keys = f"stop_first: true, stop_timeout: 2m, on_stop_timeout: {on_stop_timeout}"
    path = write_config(tmp_path, postgresql.schema(), f'[{{id: {server}, schedule: "10 3 * * *", {keys}}}]')
    save = Ledger.save

    async def saved(ledger: Ledger, rotation: Rotation, **how: Any) -> None:
        """The network goes as the promise of a start is to be written."""
        if rotation.is_owed and not cut:
            cut.add(rotation.step)
            away.setattr(Session, "begin", nobody_answers)
            away.setattr(Session, "_call", nobody_answers)
        await save(ledger, rotation, **how)

    transport = WorldTransport(world, before=lambda request: asked.append(request.method))
    with monkeypatch.context() as away:
        monkeypatch.setattr(Ledger, "save", saved)
        async with daemon_on(path, world, transport) as watched:
            await asyncio.sleep(15 * 60)
            assert cut == {Step.STOP}
            away.undo()
            await asyncio.sleep(10 * 60)
            (ended,) = watched.ended
    assert set(asked) == {"GET"}
    assert ended.error is not None
    assert ended.error.startswith("the server could not be asked to stop within 0:02:00: the ledger postgresql://")


async def test_what_a_ledger_on_a_server_owed_is_paid_and_nobody_looks_for_its_file(
    tmp_path: Path, postgresql: Server, log: list[Line]
) -> None:
    one, url = Moved(tmp_path), postgresql.schema()
    one.path.write_text(one.path.read_text().replace(str(one.old), f'"{url}"'))
    await one.is_left_off()
    (old,) = one.listed
    log.clear()
    one.path.write_text(one.path.read_text().replace(f'"{url}"', str(one.new)))
    await one.begin()
    await one.until(lambda: one.status == "active", 120)
    assert await one.end() == 0
    told = [str(line) for line in log if Path(old).name in str(line)]
    assert len(told) == 1
    assert f"one on a server, by what is kept at {old}*" in told[0]
    assert not [line for line in log if line["log_level"] == "error"]


async def nobody_answers(*values: Any, **_: Any) -> NoReturn:
    for one in values:
        if isinstance(one, Session):
            one.is_lost = True
        elif asyncio.iscoroutine(one):
            one.close()
    raise psycopg.OperationalError("the network is gone")
