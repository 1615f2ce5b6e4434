"""What has happened, as persons are told it: who did what, when, and what came of it."""

from __future__ import annotations

import io
import json
import re
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from rich.console import Console

from snaprotd.commands.past import Since
from snaprotd.commands.text.tables import events_text
from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.simulator import Fault, World
from tests.support.processes import TOKEN, forked, provider, run, until, write_config

SERVERS = 'listen: off\nservers: [{id: 12345, name: web-01, schedule: "@yearly"}]\n'


@pytest.mark.real_time
async def test_what_persons_did_is_told_with_who_they_were(tmp_path: Path) -> None:
    world = World(token=TOKEN, speed=600)
    world.add_server("web-01")
    theirs = world.add_snapshot("12345", "before-the-upgrade")
    async with provider(world) as api:
        path = str(write_config(tmp_path, api.base_url, SERVERS))

        async def asked(*words: str, code: int = 0) -> str:
            ended = await run(*words, "--config", path)
            assert ended.code == code, ended
            return ended.out + ended.err

        assert "not recorded" in await asked("delete", str(theirs.id), "--yes")  # no ledger yet
        await asked("now", "web-01", "--hold", "none")
        (ours,) = world.snapshots_of("12345")
        await asked("hold", str(ours.id), "--for", "7d")
        await asked("unhold", str(ours.id))
        await asked("restore", str(ours.id), "--yes")
        await asked("delete", str(ours.id), "--yes")
        told = json.loads(await asked("history", "web-01", "--events", "--json"))
        assert [(one["kind"], one["details"].get("state")) for one in reversed(told)] == [
            ("rotation", None),
            ("hold", None),
            ("unhold", None),
            ("restore", "begun"),
            ("restore", "done"),
            ("delete", "begun"),
            ("delete", "done"),
        ]
        assert all(("@" in (one["by"] or "")) == (one["kind"] != "rotation") for one in told)
        assert json.loads(await asked("history", "--events", "--since", "2999-01-01", "--json")) == []
        assert f"deletion of {ours.name} ({ours.id}): done" in await asked("history", "--events", "--limit", "1")
        with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
            connection.execute("CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
        last = world.add_snapshot("12345", "another")
        assert "this is not recorded" in await asked("delete", str(last.id), "--yes")
        assert world.snapshots_of("12345") == []


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("word", "said"), [("restore", "no rotation of it begins within an hour"), ("delete", "was not seen")]
)
async def test_what_a_person_leaves_before_its_end_is_said_and_stands_in_the_events(
    tmp_path: Path, word: str, said: str
) -> None:
    world = World(token=TOKEN, speed=600)
    world.add_server("web-01")
    theirs = world.add_snapshot("12345", "before-the-upgrade")
    world.faults = [Fault(kind="hang_done", method="DELETE", times=None)]
    async with provider(world) as api:
        path = str(write_config(tmp_path, api.base_url, SERVERS))
        assert (await run("now", "web-01", "--hold", "none", "--config", path)).code == 0
        world.speed = 1
        async with forked(word, str(theirs.id), "--yes", "--config", path, output=tmp_path / "said") as command:
            if word == "restore":
                await until(lambda: world.status_of("12345") == "restoring", what="the restore")
            else:
                await until(lambda: theirs.id not in world.snapshots, what="the deletion")
            command.send(signal.SIGINT)
            assert await command.ended() == 130
            assert said in command.said
        told = json.loads((await run("history", "--events", "--json", "--config", path)).out)
        assert [one["details"]["state"] for one in told if one["kind"] == word] == ["left", "begun"]


@pytest.mark.real_time
@pytest.mark.parametrize("damaged", ["sqlite_schema", "rotations"])
async def test_a_ledger_that_is_damaged_keeps_nobody_from_what_it_may_be_needed_for(
    tmp_path: Path, damaged: str
) -> None:
    world = World(token=TOKEN, speed=600)
    world.add_server("web-01")
    theirs = world.add_snapshot("12345", "before-the-upgrade")
    async with provider(world) as api:
        path = str(write_config(tmp_path, api.base_url, SERVERS))
        assert (await run("now", "web-01", "--hold", "none", "--config", path)).code == 0
        ledger = tmp_path / "state.db"
        with closing(sqlite3.connect(ledger)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (size,) = connection.execute("PRAGMA page_size").fetchone()
            query = "SELECT rootpage FROM sqlite_schema WHERE tbl_name = ?"
            pages = [page for (page,) in connection.execute(query, [damaged])] or [1]
        with ledger.open("r+b") as file:
            for page in pages:
                file.seek(size * (page - 1))
                file.write(b"?" * size)
        restored = await run("restore", str(theirs.id), "--yes", "--config", path)
        assert (restored.code, restored.out.splitlines()[-1]) == (
            0,
            "web-01 is active, restored from before-the-upgrade.",
        )
        assert re.search(rf"WARNING: the ledger {ledger}[^?]*: it is\s+not known whether a rotation", restored.out)
        deleted = await run("delete", str(theirs.id), "--yes", "--config", path)
        assert deleted.code == 0
        unrecorded = f"this is not recorded, and `snaprotd history --events` will not show it: the ledger {ledger}"
        is_lost = damaged == "sqlite_schema"
        assert [unrecorded in told for told in (restored.err, deleted.err)] == [is_lost, is_lost]
        held = await run("hold", str(world.snapshots_of("12345")[0].id), "--config", path)
        assert (held.code, f"the ledger {ledger}" in held.err) == (1, True)
    assert theirs.id not in world.snapshots


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2025-01-16", datetime(2025, 1, 16, tzinfo=UTC)),
        ("2025-01-16T03:30:00Z", datetime(2025, 1, 16, 3, 30, tzinfo=UTC)),
        ("2025-01-16T03:30", datetime(2025, 1, 16, 3, 30, tzinfo=UTC)),
        ("2025-01-16T03:30:00+02:00", datetime(2025, 1, 16, 1, 30, tzinfo=UTC)),
    ],
)
def test_since_is_a_date(text: str, at: datetime) -> None:
    assert Since().convert(text, None, None) == at


def test_since_is_a_length_of_time() -> None:
    assert datetime.now(UTC) - Since().convert("7d", None, None) - timedelta(days=7) < timedelta(minutes=1)
    assert Since().convert("99999999d", None, None).year == 1970


@pytest.mark.parametrize("text", ["", "yesterday", "-1d", "7", "2025-13-01", "2025-1-1"])
def test_what_is_neither_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is neither a duration such as 7d nor a date"):
        Since().convert(text, None, None)


def test_in_80_columns_a_sentence_is_broken_and_when_what_and_who_are_whole() -> None:
    said = "deletion of snaprotd-main-20261127T022019Z-until-20261130 (802): " + "done " * 20
    entry = Entry(
        at=datetime(2026, 11, 27, 2, 20, 32, tzinfo=UTC),
        kind=Happened.DELETE,
        text=said,
        server_id="12345",
        by="operator@example",
        details={"label": "web-01"},
    )
    shown = io.StringIO()
    Console(file=shown, width=80).print(events_text([entry]))
    assert re.search(
        r"^2026-11-27 02:20:32  web-01  delete  operator@example  deletion", shown.getvalue(), re.MULTILINE
    )
    assert shown.getvalue().count("done") == 20
