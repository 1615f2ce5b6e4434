"""The rows of the replicas in a ledger on PostgreSQL; none are in a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.fleet import FORGOTTEN_AFTER, LIVES_FOR, REPORTER, Replica
from snaprotd.core.fleet.looks import Fleet, looked
from snaprotd.core.telling.troubles import Told
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import ledgers
from tests.support.databases import PostgresqlDatabase, Server, SqliteDatabase

pytestmark = pytest.mark.usefixtures("one_clock")


@pytest.fixture
def db(postgresql: Server, tmp_path: Path) -> PostgresqlDatabase:
    return PostgresqlDatabase(postgresql.schema(), tmp_path)


@dataclass
class One:
    """A replica, with what it has seen last."""

    ledger: Ledger
    me: Replica
    fleet: Fleet | None = None

    async def beat(self) -> Fleet:
        def look(rows: Sequence[Replica], roles: Mapping[str, str], newest: int, now: float) -> Fleet:
            return looked(self.fleet, self.me, rows, roles, newest=newest, now=now)

        assert self.ledger.replicas is not None
        self.fleet = await self.ledger.replicas.beat(look)
        return self.fleet


@asynccontextmanager
async def replicas(db: PostgresqlDatabase) -> AsyncIterator[tuple[One, One]]:
    async with ledgers(db, "a", "b") as both:
        a, b = (
            One(ledger, Replica(id=id_, beat=0, version="1", config="x", generation=0, host="h"))
            for ledger, id_ in zip(both, "ab", strict=True)
        )
        yield a, b


def ids(fleet: Fleet) -> list[str]:
    return [one.id for one in fleet.living]


async def test_each_sees_the_other_and_one_has_the_role(db: PostgresqlDatabase) -> None:
    async with replicas(db) as (a, b):
        seen = [await a.beat(), await b.beat(), await a.beat()]
    assert [ids(one) for one in seen] == [["a"], ["a", "b"], ["a", "b"]]
    assert [one.has(REPORTER) for one in seen] == [True, False, True]
    assert db.sql("SELECT id, beat, generation FROM replicas ORDER BY id") == [("a", 2, 1), ("b", 1, 1)]
    assert db.sql("SELECT holder, epoch FROM roles WHERE name = 'reporter'") == [("a", 1)]


async def test_what_stood_still_lives_no_more_and_its_role_is_taken_once(db: PostgresqlDatabase) -> None:
    async with replicas(db) as (a, b):
        await a.beat()
        await b.beat()
        await asyncio.sleep(LIVES_FOR)
        taken = await b.beat()
        back = await a.beat()
    assert (ids(taken), taken.has(REPORTER)) == (["b"], True)
    assert (ids(back), back.has(REPORTER)) == (["a", "b"], False)
    assert db.sql("SELECT holder, epoch FROM roles WHERE name = 'reporter'") == [("b", 2)]


async def test_who_leaves_in_order_is_gone_at_once(db: PostgresqlDatabase) -> None:
    async with replicas(db) as (a, b):
        await a.beat()
        await b.beat()
        assert a.ledger.replicas is not None
        await a.ledger.replicas.leave("a")
        left = await b.beat()
    assert (ids(left), left.has(REPORTER)) == (["b"], True)


async def test_the_row_of_one_that_never_came_back_is_deleted_by_another(db: PostgresqlDatabase) -> None:
    async with replicas(db) as (a, b):
        await a.beat()
        await b.beat()
        await asyncio.sleep(FORGOTTEN_AFTER)
        await b.beat()
        assert db.sql("SELECT id FROM replicas") == [("b",)]
        back = await a.beat()
    assert ids(back) == ["a", "b"]


async def test_a_generation_is_never_given_twice(db: PostgresqlDatabase) -> None:
    async with replicas(db) as (a, b):
        await a.beat()
        a.me = replace(a.me, config="y")
        assert (await a.beat()).me.generation == 2
        assert a.ledger.replicas is not None
        await a.ledger.replicas.leave("a")
        assert (await b.beat()).me.generation == 3


async def test_what_another_says_of_itself_may_be_anything(db: PostgresqlDatabase) -> None:
    async with replicas(db) as (a, b):
        await a.beat()
        db.sql("UPDATE replicas SET body = '[[', host = ?", "ho\nst")
        seen = await b.beat()
    assert [(one.host, one.body) for one in seen.living if one.id == "a"] == [("ho\ufffdst", {})]


async def test_a_file_has_no_replicas(tmp_path: Path) -> None:
    async with await SqliteDatabase(tmp_path / "state.db").open("a") as ledger:
        assert ledger.replicas is None


async def test_what_is_copied_says_nothing_of_processes(db: PostgresqlDatabase, tmp_path: Path) -> None:
    async with replicas(db) as (a, b):
        await a.beat()
        contents = await b.ledger.contents()
    assert not contents.keys() & {"replicas", "roles"}
    file = SqliteDatabase(tmp_path / "state.db")
    async with await file.open("c") as ledger:
        await ledger.fill(contents)
    assert file.sql("SELECT * FROM replicas") == []


async def test_who_does_not_tell_any_more_writes_over_nothing_that_was_told(db: PostgresqlDatabase) -> None:
    """As one that was frozen does, before it has looked again."""
    async with replicas(db) as (a, b):
        a.ledger.desk.teller, b.ledger.desk.teller = "a", "b"
        await a.beat()
        await a.ledger.desk.keep(Told(), 1, entries=[], letters=[])
        await b.beat()
        await asyncio.sleep(LIVES_FOR)
        await b.beat()
        await b.ledger.desk.keep(Told(), 2, entries=[], letters=[])
        with pytest.raises(LedgerError, match="another replica tells people by now"):
            await a.ledger.desk.keep(Told(), 1, entries=[], letters=[])
        kept = await b.ledger.desk.read()
    assert kept is not None
    assert kept.cursor == 2
