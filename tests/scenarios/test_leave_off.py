"""A person lets go of a start that is owed: with no daemon, beside one that asks for it, and while a rotation runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from snaprotd.commands.jobs.leave_off import leave_off, read_owed
from snaprotd.commands.jobs.past import read_let_go
from snaprotd.commands.text.tables import history_text, now_text
from snaprotd.config import file as config
from snaprotd.core.power import Power, promised
from snaprotd.core.promise import ServerPower
from snaprotd.ledger.address import note_in_force
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.support.daemons import Line, a_world, configure, daemon_on, entry, logged, power

pytestmark = pytest.mark.usefixtures("one_clock", "log")

MINUTE = 60.0
ACCOUNT, SERVER = "vps.invalid", "12345"
SINCE = datetime(2025, 1, 16, 1, tzinfo=UTC)
OWED = ServerPower(
    account=ACCOUNT,
    server_id=SERVER,
    label="s12345",
    power=Power(asked=1, went_off=True, went_off_at=SINCE, held_off_since=SINCE, request_age=3600.0),
)


def the_file(folder: Path, schedule: str = "@yearly") -> Path:
    return configure(folder, entry(schedule, "stop_first: true"))


async def owe(folder: Path, record: ServerPower = OWED) -> None:
    async with await Ledger.open(folder / "state.db", owner="before", lock=False) as ledger:
        await ledger.starts.save(record)


async def kept(folder: Path) -> ServerPower:
    async with await Ledger.open(folder / "state.db", owner="reader", lock=False) as ledger:
        record = await ledger.starts.kept(ACCOUNT, SERVER)
    assert record is not None
    return record


async def let_go(path: Path, reason: str = "") -> str | None:
    return await leave_off(config.load(path, {}), "s12345", reason)


def starts(world: World) -> bool:
    return world.status_of(SERVER) == "active"


def in_words(shown: RenderableType) -> str:
    text = StringIO()
    Console(file=text, width=300).print(shown)
    return text.getvalue().rstrip()


async def test_beside_a_daemon_that_asks_for_the_start_it_asks_no_more(tmp_path: Path, log: list[Line]) -> None:
    world = a_world()
    world.set_status(SERVER, "stopped")
    world.faults.append(power("start_never", "start", times=3))
    await owe(tmp_path)
    path = the_file(tmp_path)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(MINUTE)
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 1
        noted = await let_go(path, "its disk\nis being replaced")
        assert noted is not None
        assert noted.endswith(": its disk is being replaced")
        await asyncio.sleep(30 * MINUTE)
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
        assert (await watched.daemon.view.status())["servers"][0]["stopped_by_us_since"] is None
    assert not starts(world)
    (line,) = logged(log, "nothing is owed to the server any more")
    assert line["let_go"] == noted
    record = await kept(tmp_path)
    assert (record.power.is_followed, record.let_go) == (False, noted)
    async with daemon_on(path, world):
        await asyncio.sleep(10 * MINUTE)
    assert not starts(world)
    assert await read_let_go(config.load(path, {}), "s12345") == noted
    assert await let_go(path) is None


async def test_a_rotation_that_is_open_ends_without_a_start(tmp_path: Path) -> None:
    world = a_world()
    path = the_file(tmp_path)
    async with daemon_on(path, world) as watched:
        await watched.daemon.rotate(SERVER)
        await asyncio.sleep(2 * MINUTE)
        assert world.status_of(SERVER) == "stopped"
        noted = await let_go(path, "because")
        await asyncio.sleep(30 * MINUTE)
        (rotation,) = watched.ended
        assert rotation.result == "success"
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
    assert not starts(world)
    assert (await kept(tmp_path)).let_go == noted
    assert ", was last seen off, after " in in_words(now_text(rotation))
    assert "off since 03:00, as last seen" in in_words(history_text([rotation]))


async def test_a_rotation_that_is_open_and_starts_it_tells_for_how_long_it_was_off(tmp_path: Path) -> None:
    async with daemon_on(the_file(tmp_path), a_world()) as watched:
        await watched.daemon.rotate(SERVER)
        await asyncio.sleep(30 * MINUTE)
        (rotation,) = watched.ended
    assert ", was off for " in in_words(now_text(rotation))


async def test_a_rotation_that_asks_for_the_start_in_vain_ends_too(tmp_path: Path) -> None:
    world = a_world()
    world.faults.append(power("start_never", "start", times=None))
    path = the_file(tmp_path)
    async with daemon_on(path, world) as watched:
        await watched.daemon.rotate(SERVER)
        await asyncio.sleep(30 * MINUTE)
        assert watched.ended == []
        await let_go(path)
        await asyncio.sleep(10 * MINUTE)
        assert len(watched.ended) == 1
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
    assert not starts(world)


async def test_of_a_server_that_is_only_watched_no_start_is_owed_when_it_is_switched_off_later(tmp_path: Path) -> None:
    """It runs again, and a request of ours might still strike: who has let go of it may switch it off at once."""
    world = a_world()
    path = the_file(tmp_path)
    async with daemon_on(path, world) as watched:
        await watched.daemon.rotate(SERVER)
        while not watched.ended:  # noqa: ASYNC110
            await asyncio.sleep(5)
        assert (await kept(tmp_path)).power.held_off
        assert await let_go(path) is not None
        await asyncio.sleep(20)
        world.set_status(SERVER, "stopped")
        await asyncio.sleep(30 * MINUTE)
    assert not starts(world)


async def test_the_next_stop_owes_a_start_again_and_who_let_go_before_is_still_known(tmp_path: Path) -> None:
    world = a_world()
    world.set_status(SERVER, "stopped")
    await owe(tmp_path)
    path = the_file(tmp_path)
    noted = await let_go(path, "for now")
    record = await kept(tmp_path)
    await owe(
        tmp_path, ServerPower(account=ACCOUNT, server_id=SERVER, label="s12345", power=promised(record.power, SINCE))
    )
    after = await kept(tmp_path)
    assert (after.power.is_owed, after.let_go) == (True, noted)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(10 * MINUTE)
        assert noted
        assert noted in (await watched.get(f"/servers/{SERVER}")).text
        assert (await watched.get(f"/api/status?server={SERVER}")).json()["let_go"] == noted
    assert starts(world)


WHY = "s12345 was stopped by snaprotd, and was not seen running since"
ROW = {"server_id": 12345, "since": "2025-01-16T01:00:00Z", "why": WHY}


async def test_what_is_owed_is_listed_until_it_is_let_go(tmp_path: Path) -> None:
    path = the_file(tmp_path)
    settings = config.load(path, {})
    assert read_owed(path, {}, settings).missing == [tmp_path / "state.db"]
    await owe(tmp_path)
    assert read_owed(path, {}, settings).rows == [ROW]
    await let_go(path)
    assert read_owed(path, {}, settings).rows == []


async def test_a_server_that_is_only_watched_is_listed_too(tmp_path: Path) -> None:
    path = the_file(tmp_path)
    await owe(tmp_path, replace(OWED, power=replace(OWED.power, watched=True, came_back=True)))
    (row,) = read_owed(path, {}, config.load(path, {})).rows
    assert row.keys() == ROW.keys()
    assert "runs again, and is only watched" in row["why"]


async def test_what_ledgers_owe_that_the_configuration_does_not_name_is_listed(tmp_path: Path) -> None:
    """One that was in force before a good file; and whatever the daemon would find without one."""
    await owe(tmp_path)
    note_in_force(tmp_path, [tmp_path / "state.db"])
    path = tmp_path / "new.yaml"
    path.write_text(the_file(tmp_path).read_text().replace("state.db", "new.db"))
    environ = {"STATE_DIRECTORY": str(tmp_path)}
    found = read_owed(path, environ, config.load(path, environ))
    assert (found.rows, found.missing) == ([ROW], [tmp_path / "new.db"])
    assert read_owed(tmp_path / "none.yaml", environ, None).rows == [ROW]


async def test_a_ledger_that_cannot_be_read_is_told_and_is_not_taken_for_one_that_owes_nothing(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(bytes(range(256)) * 64)
    path = the_file(tmp_path)
    found = read_owed(path, {}, config.load(path, {}))
    assert (found.rows, found.told, found.missing, len(found.unreadable)) == ([], [], [], 1)


async def test_a_write_by_who_does_not_know_of_it_does_not_undo_it(tmp_path: Path) -> None:
    await owe(tmp_path)
    noted = await let_go(the_file(tmp_path))
    await owe(tmp_path)
    record = await kept(tmp_path)
    assert (record.power.is_owed, record.let_go) == (False, noted)
    later = ServerPower(account=ACCOUNT, server_id=SERVER, label="s12345", power=Power(asked=1, released=1))
    await owe(tmp_path, later)
    assert (await kept(tmp_path)).let_go == noted
