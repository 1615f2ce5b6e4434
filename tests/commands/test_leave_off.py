"""`leave-off` and `ledger owed` as a user runs them: real processes, with a daemon that asks for the start or alone."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.ledger.address import note_in_force
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.support.daemons import power
from tests.support.processes import TOKEN, daemon, provider, run, until, write_config

pytestmark = pytest.mark.real_time

SINCE = datetime(2025, 1, 16, 1, tzinfo=UTC)
SERVERS = 'listen: off\nservers: [{id: 12345, name: web-01, schedule: "@yearly", stop_first: true}]\n'


async def owe(folder: Path, account: str) -> None:
    owed = Power(asked=1, went_off=True, went_off_at=SINCE, held_off_since=SINCE, request_age=3600.0)
    async with await Ledger.open(folder / "state.db", owner="before", lock=False) as ledger:
        await ledger.starts.save(ServerPower(account=account, server_id="12345", label="web-01", power=owed))


async def test_a_start_is_let_go_without_a_daemon_and_history_says_by_whom(tmp_path: Path) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:1/api/v1", SERVERS)
    none_yet = await run("leave-off", "web-01", "--config", str(path))
    assert (none_yet.code, "there is no ledger at" in none_yet.err) == (1, True)
    nothing = await run("ledger", "owed", "--json", "--config", str(path))
    assert (nothing.json, "There is no ledger at" in nothing.err) == ([], True)
    in_words = await run("ledger", "owed", "--config", str(path))
    assert in_words.out == f"There is no ledger at {tmp_path / 'state.db'}: what it would owe is not known.\n"
    await owe(tmp_path, "127.0.0.1:1")
    owed = await run("ledger", "owed", "--config", str(path))
    assert (
        owed.out
        == "12345  since 2025-01-16T01:00:00Z  web-01 was stopped by snaprotd, and was not seen running since\n"
    )
    unknown = await run("leave-off", "web-02", "--config", str(path))
    assert (unknown.code, "no server is named web-02" in unknown.err) == (1, True)
    done = await run("leave-off", "web-01", "--reason", "its disk", "--config", str(path))
    assert (done.code, done.err) == (0, "")
    noted = re.search(r"Noted: (\S+@\S+ at \S+Z: its disk)\n", done.out)
    assert noted is not None, done.out
    again = await run("leave-off", "web-01", "--config", str(path))
    assert (again.code, again.out) == (0, "Nothing is owed to web-01: there was nothing to let go of.\n")
    assert (await run("ledger", "owed", "--config", str(path))).out == "Nothing is owed.\n"
    history = " ".join((await run("history", "web-01", "--config", str(path))).out.split())
    assert f"A start of web-01 was let go by {noted[1]}" in history
    assert (await run("history", "web-01", "--json", "--config", str(path))).json == []


async def test_beside_a_daemon_that_asks_for_the_start_it_asks_no_more(tmp_path: Path) -> None:
    world = World(speed=2000.0, token=TOKEN)
    world.add_server("web-01", status="stopped")
    world.faults.append(power("start_never", "start", times=None))
    async with provider(world) as api:
        path = write_config(tmp_path, api.base_url, SERVERS)
        await owe(tmp_path, api.base_url.split("/")[2])
        async with daemon(path) as life:
            await until(lambda: len(api.asked("start")) > 1, what="a second start request")
            assert (await run("leave-off", "web-01", "--config", str(path))).code == 0
            await life.has_said("nothing is owed to the server any more")
            asked = len(api.asked("start"))
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await until(lambda: len(api.asked("start")) > asked, what="another start request", patience=3)
            assert len(api.asked("start")) == asked
            life.send(signal.SIGTERM)
            assert await life.ended() == 0
    assert world.status_of("12345") == "stopped"


async def test_a_refused_file_does_not_hide_what_is_owed(tmp_path: Path) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:1/api/v1", SERVERS + "bogus: 1\n")
    await owe(tmp_path, "127.0.0.1:1")
    told = await run("ledger", "owed", "--config", str(path))
    assert (told.code, told.out.startswith("12345  since"), "bogus: unknown key" in told.err) == (78, True, True)
    as_json = await run("ledger", "owed", "--json", "--config", str(path))
    assert (as_json.code, [row["server_id"] for row in as_json.json]) == (78, [12345])


async def test_what_is_listed_though_a_ledger_cannot_be_read_is_said_to_be_perhaps_not_all(tmp_path: Path) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:1/api/v1", SERVERS)
    await owe(tmp_path, "127.0.0.1:1")
    note_in_force(tmp_path, [tmp_path / "state.db", tmp_path / "before.db"])
    (tmp_path / "before.db").write_bytes(bytes(range(256)) * 64)
    told = await run("ledger", "owed", "--config", str(path), STATE_DIRECTORY=str(tmp_path))
    assert (told.code, told.out.splitlines()[0][:5]) == (1, "12345")
    assert told.err.startswith(
        f"snaprotd: this may not be all that is owed: the ledger {tmp_path / 'before.db'} cannot"
    )


DAMAGE = {
    "random bytes": None,
    "text that is none": "UPDATE powers SET body = CAST(x'ff00fe' AS TEXT), label = CAST(x'ff' AS TEXT)",
    "a rotation of the wrong types": "INSERT INTO rotations (id, server_id, slot, is_open, body, epoch, lease_until,"
    " started_at) VALUES ('x', '12345', 'x', 1, CAST(x'ff00fe' AS TEXT), 'x', 'x', CAST(x'ff' AS TEXT))",
    "another type": "UPDATE powers SET asked = 'x', released = x'ff'",
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_a_damaged_ledger_holds_is_told_in_a_sentence(tmp_path: Path, damage: str) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:1/api/v1", SERVERS)
    await owe(tmp_path, "127.0.0.1:1")
    ledger = tmp_path / "state.db"
    if (statement := DAMAGE[damage]) is None:
        ledger.write_bytes(bytes(range(256)) * 64)
    else:
        with closing(sqlite3.connect(ledger)) as connection, connection:
            connection.execute(statement)
    for line in ("ledger owed", "ledger owed --json", "history", "leave-off web-01", "leave-off 12345"):
        told = await run(*line.split(), "--config", str(path))
        assert told.code in (0, 1), told.err
        if told.code:
            assert told.err.splitlines()[-1].startswith("snaprotd: the ledger "), told.err
        if damage == "random bytes":  # what is owed has a copy, until it is let go
            assert (told.code == 0) is (line not in ("history", "leave-off 12345")), told.err
