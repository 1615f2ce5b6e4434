"""What has happened, as persons are told it: who did what, when, and what came of it."""

from __future__ import annotations

import io
import json
import re
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
from snaprotd.simulator import World
from tests.support.processes import TOKEN, provider, run, write_config

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
