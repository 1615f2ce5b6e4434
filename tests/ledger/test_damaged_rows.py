"""Rows whose columns hold what nobody wrote: what is left of them is read, and none of them hides another."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core import power
from snaprotd.core.policy import Rules
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower, Terms
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.salvage import salvaged
from snaprotd.ledger.store import Ledger
from tests.support.policies import a_policy
from tests.support.rotations import changed
from tests.support.virtual_time import START

SLOT = START - timedelta(minutes=10)
OWED = power.promised(Power(), SLOT)

ODD: list[Any] = ["x", "", b"\xff\x00", 1.5, -1, "9" * 400]
"""What SQLite keeps in a column of any type."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def a_record(server_id: str) -> ServerPower:
    return ServerPower(account="vps.invalid", server_id=server_id, label=f"web-{server_id}", power=OWED, terms=Terms())


def a_rotation(server_id: str, **changes: Any) -> Rotation:
    begun = Rotation.begin(
        id=f"of {server_id}",
        server_id=server_id,
        label=f"web-{server_id}",
        slot=SLOT,
        rules=Rules(policy=a_policy()),
        now=SLOT,
        settle=120.0,
    )
    return changed(begun, **changes)


async def opened(path: Path) -> Ledger:
    """By a process of its own."""
    ledger = await Ledger.open(path, owner=uuid.uuid4().hex)
    ledger.starts.account = "vps.invalid"
    return ledger


async def with_two_servers(path: Path) -> None:
    """A start is owed to each; of each a rotation is open and one has ended, and its schedule was seen."""
    async with await opened(path) as ledger:
        for server_id in ("1", "2"):
            ended = a_rotation(server_id, id=f"before {server_id}", slot=SLOT - timedelta(days=1))
            await ledger.claim(ended)
            await ledger.save(changed(ended, step=Step.DONE, result=Result.SUCCESS, finished_at=SLOT))
            await ledger.claim(a_rotation(server_id))
            await ledger.starts.save(a_record(server_id))
            await ledger.set_marks([Mark(server_id=server_id, seen_until=SLOT, schedule="@daily")])


def damage(path: Path, statement: str, value: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, (value,))


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("column", ["asked", "released", "is_followed", "label", "base_url", "let_go", "body"])
async def test_what_is_owed_is_told_whatever_stands_in_a_column(path: Path, column: str, value: Any) -> None:
    await with_two_servers(path)
    for file in path.with_name("owed-by-state.db").iterdir():
        file.unlink()
    damage(path, f"UPDATE powers SET {column} = ? WHERE server_id = '1'", value)
    assert {record.server_id for record in salvaged(path)} == {"1", "2"}
    async with await opened(path) as ledger:
        await ledger.take_over(everything=True)
        assert {record.server_id for record in await ledger.starts.followed()} == {"1", "2"}
        owed = await ledger.starts.owed()
        assert {record.server_id for record in owed} == {"1", "2"}
        for record in owed:
            await ledger.starts.save(replace(record, power=power.given_up(record.power)))
        assert await ledger.starts.followed() == []
    assert salvaged(path) == []


async def test_a_body_says_what_is_owed_where_the_columns_do_not(path: Path) -> None:
    async with await opened(path) as ledger:
        paid = power.given_up(OWED)
        await ledger.starts.save(ServerPower(account="vps.invalid", server_id="1", label="web", power=paid))
    for column in ("asked", "released"):
        damage(path, f"UPDATE powers SET {column} = ?", "x")
    assert salvaged(path) == []


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    "column", ["needs", "epoch", "format", "lease_until", "owner", "started_at", "finished_at", "result", "body"]
)
async def test_a_damaged_row_of_a_rotation_stops_no_other(path: Path, column: str, value: Any) -> None:
    await with_two_servers(path)
    damage(path, f"UPDATE rotations SET {column} = ? WHERE server_id = '1'", value)
    async with await opened(path) as ledger:
        taken = {rotation.server_id for rotation in await ledger.take_over(everything=True)}
        assert "2" in taken
        assert taken | set(ledger.set_aside) == {"1", "2"}
        for read in (ledger.latest, ledger.last_started, ledger.last_succeeded):
            assert "2" in await read()
        assert {one.server_id for one in await ledger.history()} >= {"2"}
        assert {one.server_id for one in await ledger.ended_since(SLOT)} >= {"2"}
        assert await ledger.starts.slots_of("1") >= {SLOT}
        await ledger.forget_old()
        for rotation in await ledger.open_rotations():
            if rotation.server_id in taken:
                await ledger.save(rotation)


@pytest.mark.parametrize("value", [*ODD, "2025-01-16", "0000-00-00T00:00:00Z"])
async def test_a_mark_that_cannot_be_read_is_left_out(path: Path, value: Any) -> None:
    await with_two_servers(path)
    damage(path, "UPDATE marks SET seen_until = ? WHERE server_id = '1'", value)
    async with await opened(path) as ledger:
        marks = await ledger.marks()
        assert marks["2"].seen_until == SLOT
        assert "1" not in marks or marks["1"].seen_until.tzinfo is not None
        await ledger.set_marks([Mark(server_id="1", seen_until=SLOT, schedule="@daily")])


async def test_what_was_set_aside_is_known_to_the_next_process_until_another_rotation_of_its_server(path: Path) -> None:
    await with_two_servers(path)
    damage(path, "UPDATE rotations SET body = ? WHERE id = 'of 1'", "{")
    for _ in range(3):
        async with await opened(path) as ledger:
            assert "1" not in {one.server_id for one in await ledger.take_over(everything=True)}
            assert ledger.set_aside.keys() == {"1"}
            assert "its rotation of 1 in the ledger cannot be understood" in ledger.set_aside["1"]
    async with await opened(path) as daemon:
        await daemon.take_over(everything=True)
        async with await opened(path) as now:
            await now.claim(a_rotation("1", id="next", slot=SLOT + timedelta(days=1)))
        await daemon.take_over()
        assert daemon.set_aside == {}, "whoever has dealt with it"
    async with await opened(path) as ledger:
        await ledger.take_over(everything=True)
        assert ledger.set_aside == {}


async def test_one_that_was_set_aside_under_another_id_of_its_server_is_followed_under_this_one(path: Path) -> None:
    await with_two_servers(path)
    damage(path, "UPDATE rotations SET body = ? WHERE id = 'of 1'", "{")
    async with await opened(path) as ledger:
        ledger.starts.ids_of = lambda one: frozenset({"1", "uuid-1"} if one in ("1", "uuid-1") else {one})
        await ledger.take_over(everything=True)
        assert ledger.set_aside.keys() == {"1"}
        await ledger.claim(a_rotation("uuid-1", id="next", slot=SLOT + timedelta(days=1)))
        assert ledger.set_aside == {}
