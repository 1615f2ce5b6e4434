"""The ledger's file is deleted or replaced, while a daemon uses it or while nobody lives."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.core import power
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Step
from snaprotd.core.telling.entries import Happened
from snaprotd.ledger.files.copies import Copies
from snaprotd.ledger.files.exchange import TABLE_LOST
from snaprotd.ledger.salvage import salvaged
from tests.support.daemons import Line, Watched, a_world, configure, daemon_on, entry, kill
from tests.support.harms import edit
from tests.support.promised import Promise, looked_after

pytestmark = pytest.mark.usefixtures("one_clock")

EXCHANGED = re.compile("the ledger's files? (were exchanged or lost|was written over)")
MINUTE, HOUR = 60.0, 3600.0


def deleted(path: Path) -> None:
    for one in path.parent.glob("state.db*"):
        one.unlink()


def replaced(path: Path) -> None:
    deleted(path)
    path.write_bytes(b"")


def without_log(path: Path) -> None:
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink()


def old_copy(path: Path) -> None:
    """As it was before anything had happened, and a while after."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(path.parent / "old"),))
    edit(path.parent / "old", "DELETE FROM rotations", "DELETE FROM powers", "DELETE FROM events")
    shutil.move(path.parent / "old", path)


def written_over(path: Path) -> None:
    """The same file, with what stood in it a while ago."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(path.parent / "old"),))
    edit(path.parent / "old", "DELETE FROM rotations", "DELETE FROM powers", "DELETE FROM meta WHERE key = 'lives'")
    path.write_bytes((path.parent / "old").read_bytes())


LOSSES = pytest.mark.parametrize("lose", [deleted, replaced, without_log, old_copy, written_over])


@LOSSES
async def test_a_promise_is_written_again_within_seconds_and_kept_by_the_next_process(
    tmp_path: Path, log: list[Line], lose: Callable[[Path], None]
) -> None:
    world = a_world(snapshot_seconds=(900, 900))
    path = configure(tmp_path, entry("10 3 * * *", "stop_first: true"))
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.reaches(Step.WAIT)
    lose(tmp_path / "state.db")
    await asyncio.sleep(3.5)
    assert len([line for line in log if EXCHANGED.search(line["event"])]) == 1
    assert [record.server_id for record in salvaged(tmp_path / "state.db")] == ["12345"]
    await kill(watched)
    running.cancel()
    assert world.status_of("12345") == "stopped"
    async with daemon_on(path, world) as after:
        await asyncio.sleep(40 * MINUTE)
        assert world.status_of("12345") == "active"
        assert [ended.result for ended in after.ended] == ["success"]
    assert len(world.created) == 1


@pytest.mark.usefixtures("few_ticks", "silence")
@LOSSES
async def test_a_rotation_goes_on_over_the_loss_of_its_ledger_and_the_next_slots_run(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    world = a_world()
    path = configure(tmp_path, entry("10 * * * *", "stop_first: true"))
    async with daemon_on(path, world) as watched:
        await watched.reaches(Step.WAIT)
        lose(tmp_path / "state.db")
        await asyncio.sleep(40 * MINUTE)
        assert world.status_of("12345") == "active"
        assert [ended.result for ended in watched.ended] == ["success"]
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
        await asyncio.sleep(2 * HOUR)
        assert [ended.result for ended in watched.ended] == ["success"] * 3
        ledger = watched.daemon._tools.ledger
        assert [one.result for one in await ledger.history()] == ["success"] * 3
        assert [one.kind for one in await ledger.events.newest(limit=9)].count(Happened.LEDGER_EXCHANGED) == 1
    assert len(world.created) == 3
    assert world.status_of("12345") == "active"


# -- while nobody lives ------------------------------------------------------------------------------------------------


async def left_off(one: Promise) -> None:
    watched = await one.begin()
    await watched.reaches(Step.WAIT)
    await one.kill()
    assert one.status == "stopped"


@pytest.mark.usefixtures("few_ticks", "silence")
@pytest.mark.parametrize("lose", [deleted, replaced])
async def test_what_the_lost_ledger_owed_the_new_one_owes(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    one = Promise(tmp_path)
    await left_off(one)
    lose(tmp_path / "state.db")
    async with looked_after(one):
        await one.until(lambda: one.status == "active", 120)


@pytest.mark.usefixtures("silence")
async def test_what_only_a_copy_tells_is_shown_and_paid_by_a_daemon_that_lives(tmp_path: Path) -> None:
    """The ledger was deleted under it, and so is the process that had stopped the server."""
    one = Promise(tmp_path)
    watched = await one.begin()
    ledger = watched.daemon._tools.ledger
    one.world._switch(one.world.servers["12345"], "stop")
    await asyncio.sleep(2 * MINUTE)
    owed = power.promised(Power(), datetime.now(UTC))
    record = ServerPower(account=ledger.starts.account, server_id="12345", label="web", power=owed)
    await Copies(tmp_path / "state.db").keep(record, told=True)
    await asyncio.sleep(4)
    assert (await one.report())["state"] == "alarm"
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 1
    await one.until(lambda: one.status == "active", 2 * MINUTE)
    await asyncio.sleep(10 * MINUTE)
    assert await one.end() == 0
    assert Copies(tmp_path / "state.db").read() == []


async def left_off_and_forgotten(folder: Path) -> Promise:
    """Five minutes ago, and nothing is left of the ledger, nor of the copies beside it."""
    one = Promise(folder)
    await left_off(one)
    deleted(folder / "state.db")
    shutil.rmtree(folder / "owed-by-state.db")
    await asyncio.sleep(5 * MINUTE)
    return one


@pytest.mark.usefixtures("few_ticks", "silence")
async def test_where_nothing_is_left_of_a_ledger_a_person_is_asked_why_the_server_is_off(tmp_path: Path) -> None:
    one = await left_off_and_forgotten(tmp_path)
    one.way.posts.clear()
    watched = await one.begin()
    await asyncio.sleep(10 * MINUTE)
    report = await one.report()
    assert report["state"] == "alarm"
    assert any("perhaps because of us" in problem["text"] for problem in report["problems"])
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 1
    assert (one.status, one.way.posts) == ("stopped", [])
    await answered(one)
    assert [one["server"] for one in (await one.report())["problems"]] == [None], "that it was lost is told for a day"
    await one.end()


@pytest.mark.usefixtures("few_ticks", "silence")
async def test_a_person_is_asked_while_a_rotation_of_the_server_runs_too(tmp_path: Path) -> None:
    """It takes its snapshot of a server that is off, and starts nothing: all would seem to be well meanwhile."""
    one = await left_off_and_forgotten(tmp_path)
    one.world.snapshot_seconds = (600.0, 600.0)
    watched = await one.begin()
    await watched.daemon.rotate("12345")
    await watched.reaches(Step.WAIT)
    await asyncio.sleep(3 * MINUTE)
    assert [one.step for one in watched.daemon.board.running.values()] == [Step.WAIT]
    assert any("perhaps because of us" in problem["text"] for problem in (await one.report())["problems"])
    await asyncio.sleep(10 * MINUTE)
    assert any("perhaps because of us" in problem["text"] for problem in (await one.report())["problems"])
    await answered(one)
    assert [one["server"] for one in (await one.report())["problems"]] == [None]
    await one.end()


async def answered(one: Promise) -> None:
    """A person starts the server in the provider's panel."""
    one.world._switch(one.world.servers["12345"], "start")
    await asyncio.sleep(10 * MINUTE)
    assert one.status == "active"


@pytest.mark.usefixtures("few_ticks", "silence")
@pytest.mark.parametrize("age", [timedelta(days=2), None], ids=["an old snapshot", "none"])
async def test_a_server_that_is_off_by_itself_is_nobodys_question(tmp_path: Path, age: timedelta | None) -> None:
    one = Promise(tmp_path)
    one.world._switch(one.world.servers["12345"], "stop")
    if age is not None:
        slot = datetime.now(UTC) - age
        one.world.add_snapshot("12345", f"snaprotd-main-{slot:%Y%m%dT%H%M%SZ}")
    watched = await one.begin()
    await asyncio.sleep(10 * MINUTE)
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 0
    await one.end()


# -- what else happens to it under a daemon ----------------------------------------------------------------------------


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("table", ["powers", "rotations", "marks"])
async def test_a_table_that_was_dropped_is_made_again_with_what_is_known(tmp_path: Path, table: str) -> None:
    world = a_world(snapshot_seconds=(900, 900))
    path = configure(tmp_path, entry("10 3 * * *", "stop_first: true"))
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.reaches(Step.WAIT)
    edit(tmp_path / "state.db", f"DROP TABLE {table}")
    await asyncio.sleep(3.5)
    assert [record.server_id for record in salvaged(tmp_path / "state.db")] == ["12345"]
    ledger = watched.daemon._tools.ledger
    assert len(await ledger.open_rotations()) == 1
    assert [one.text for one in await ledger.events.newest(limit=1)] == [f"the ledger: {TABLE_LOST}"]
    await kill(watched)
    running.cancel()
    async with daemon_on(path, world) as after:
        await asyncio.sleep(40 * MINUTE)
        assert world.status_of("12345") == "active"
        assert [ended.result for ended in after.ended] == ["success"]
