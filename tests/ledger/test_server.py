"""A ledger on PostgreSQL: answers that are lost, a network that is silent, and a role that waits for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.telling import Kind, Letter, Message
from snaprotd.core.telling.troubles import Told
from snaprotd.ledger.address import ServerAddress
from snaprotd.ledger.claims import Claimed, SlotTaken
from snaprotd.ledger.server import place as places
from snaprotd.ledger.server import session as sessions
from snaprotd.ledger.server.opening import open_on_server
from snaprotd.ledger.server.session import Session
from snaprotd.ledger.sql.prepared import Statement
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import claimed, ledgers, rotation
from tests.support.databases import PostgresqlDatabase, Server

pytestmark = pytest.mark.usefixtures("one_clock")


@pytest.fixture
def db(postgresql: Server, tmp_path: Path) -> PostgresqlDatabase:
    return PostgresqlDatabase(postgresql.schema(), tmp_path)


Tell = Callable[[Session, str], Awaitable[None]]


@asynccontextmanager
async def commits_that(fail: Callable[[Session, Tell], Awaitable[None]], *, times: int = 1) -> AsyncIterator[None]:
    """The next commits end so."""
    tell, left = Session.tell, times

    async def told(self: Session, text: str) -> None:
        nonlocal left
        if text == "COMMIT" and left:
            left -= 1
            await fail(self, tell)
        else:
            await tell(self, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "tell", told)
        yield


async def answer_is_lost(session: Session, tell: Tell) -> None:
    await tell(session, "COMMIT")
    session.end()
    raise psycopg.OperationalError("server closed the connection unexpectedly")


async def request_is_lost(session: Session, tell: Tell) -> None:
    session.end()
    raise psycopg.OperationalError("server closed the connection unexpectedly")


async def test_a_commit_whose_answer_is_lost_is_found_to_be_written(db: PostgresqlDatabase) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        async with commits_that(answer_is_lost):
            begun = await claimed(ours)
        await ours.save(begun)
        assert await theirs.claim(rotation()) == SlotTaken()


async def test_a_commit_that_was_lost_is_not_taken_for_written(db: PostgresqlDatabase) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        async with commits_that(request_is_lost):
            with pytest.raises(LedgerError, match=r"was not written: server closed the connection unexpectedly$"):
                await ours.claim(rotation())
        assert isinstance(await theirs.claim(rotation()), Claimed)


async def test_of_a_commit_that_nobody_can_be_asked_about_nothing_is_concluded(
    db: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledgers(db, "a") as (ours,):
        await claimed(ours, rotation("before"))
        async with commits_that(answer_is_lost):

            async def refused(_: object) -> Session:
                raise psycopg.OperationalError("connection refused\nIs the server running?")

            with monkeypatch.context() as away:
                away.setattr(Session, "begin", refused)
                with pytest.raises(LedgerError, match=r"may have been written or not: connection refused$"):
                    await ours.claim(rotation())
        await claimed(ours, rotation("another"))


@contextmanager
def silent() -> Iterator[None]:
    """Nobody answers on any connection."""

    async def never(*_: Any, **__: Any) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(3600)  # as a driver does that asks the server to cancel it

    with pytest.MonkeyPatch.context() as dark:
        dark.setattr(psycopg.AsyncConnection, "execute", never)
        yield


async def test_a_call_that_is_never_answered_is_walked_away_from(db: PostgresqlDatabase) -> None:
    loop = asyncio.get_running_loop()
    async with ledgers(db, "a") as (ours,):
        await claimed(ours)
        began = loop.time()
        with silent(), pytest.raises(LedgerError, match=r"cannot be used: no answer within 10 s$"):
            await ours.history()
        assert loop.time() - began == sessions.WITHIN
        await asyncio.sleep(places.RESTS)
        assert len(await ours.history()) == 1


async def test_one_silence_is_for_all_who_wait_meanwhile_and_who_comes_right_after_it(db: PostgresqlDatabase) -> None:
    """Else the tenth server that is off waits for a hundred seconds until it is started from memory."""
    loop = asyncio.get_running_loop()
    async with ledgers(db, "a") as (ours,):
        began = loop.time()
        with silent():
            found = await asyncio.gather(*(ours.history() for _ in range(10)), return_exceptions=True)
            assert loop.time() - began == sessions.WITHIN
            assert [type(one) for one in found] == [LedgerError] * 10
            with pytest.raises(LedgerError, match="no answer within 10 s"):
                await ours.history()
            assert loop.time() - began == sessions.WITHIN
        await asyncio.sleep(places.RESTS)
        assert await ours.history() == []


async def test_a_table_that_somebody_else_has_locked_is_waited_for_once_by_all(
    db: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the server counts its time-outs, whose clock is no virtual one: less of them here."""
    monkeypatch.setattr(places, "_TO_READ", places._TO_READ.replace("'10s'", "'100ms'"))
    async with ledgers(db, "a") as (ours,):
        with psycopg.connect(db.url) as theirs:
            theirs.execute("LOCK TABLE rotations IN ACCESS EXCLUSIVE MODE")
            found = await asyncio.gather(*(ours.history() for _ in range(10)), return_exceptions=True)
            assert {str(one).partition(": ")[2] for one in found} == {"canceling statement due to statement timeout"}
            with monkeypatch.context() as asked:
                asked.setattr(Session, "ask", None)  # nothing is, right after it
                with pytest.raises(LedgerError, match="statement timeout"):
                    await ours.history()
        await asyncio.sleep(places.RESTS)
        assert await ours.history() == []


@pytest.mark.parametrize("table", ["powers", "rotations"])
async def test_a_right_that_was_taken_away_is_told_though_other_tables_can_be_written(
    db: PostgresqlDatabase, tmp_path: Path, table: str
) -> None:
    role, schema = f"weak_{table}", db.sql("SELECT current_schema()")[0][0]
    async with ledgers(db, "a"):  # which makes the tables
        db.sql(f"CREATE ROLE {role} LOGIN")
        db.sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        db.sql(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
        db.sql(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
    async with ledgers(PostgresqlDatabase(db.url.replace("snaprotd@", f"{role}@"), tmp_path), "b") as (ours,):
        assert await ours.probe()
        db.sql(f"REVOKE UPDATE ON {table} FROM {role}")
        with pytest.raises(LedgerError, match="may not read and write all of its tables: grant it"):
            await ours.probe()


async def test_a_silence_at_a_commit_is_for_all_who_wait_too(db: PostgresqlDatabase) -> None:
    waiting: list[asyncio.Task[object]] = []

    async def never(*_: object) -> None:
        waiting.append(asyncio.create_task(ours.history()))
        await asyncio.sleep(0)
        raise TimeoutError("no answer within 10 s")

    async with ledgers(db, "a") as (ours,), commits_that(never):
        with pytest.raises(LedgerError, match="was not written: no answer"):
            await ours.claim(rotation())
        with pytest.raises(LedgerError, match="no answer within 10 s"):
            await waiting[0]


async def test_a_connection_that_was_cut_while_nobody_used_it_costs_nobody_anything(db: PostgresqlDatabase) -> None:
    """As where the server was restarted, or a firewall has forgotten it."""
    async with ledgers(db, "a") as (ours,):
        await claimed(ours)
        for number in range(3):
            others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            assert db.sql(f"{others} AND application_name = 'snaprotd' AND query LIKE '%COMMIT%'") == [(True,)]
            await claimed(ours, rotation(f"another-{number}"))


@pytest.mark.parametrize("tables", ["rotations", "meta", "meta, marks, rotations, powers, events, holds, letters"])
async def test_tables_that_are_lost_are_made_again_with_what_is_known(db: PostgresqlDatabase, tables: str) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        assert not await ours.mend([begun], mark=True)
        db.sql(f"DROP TABLE {tables}")
        assert await ours.mend([begun], mark=True)
        assert [one.id for one in await ours.history()] == [begun.id]
        await ours.save(begun)


async def setting(ledger: Ledger, name: str) -> str:
    async with ledger._transaction() as connection:
        return str(await connection.scalar(Statement(f"SHOW {name}")))


@pytest.mark.parametrize(("of_role", "in_force"), [("off", "on"), ("remote_apply", "remote_apply"), ("on", "on")])
async def test_a_commit_is_waited_for_whatever_the_role_says(
    db: PostgresqlDatabase, tmp_path: Path, of_role: str, in_force: str
) -> None:
    url = f"{db.url}%20-csynchronous_commit%3D{of_role}%20-cdefault_transaction_isolation%3Dserializable"
    async with await open_on_server(ServerAddress(url), tmp_path / "state", owner="a") as ours:
        assert await setting(ours, "synchronous_commit") == in_force
        assert await setting(ours, "transaction_isolation") == "read committed"


async def test_where_it_may_not_be_written_any_more_another_way_is_taken_to_it(
    db: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has become a standby: `target_session_attrs` finds the one that has taken its place."""
    async with ledgers(db, "a") as (ours,):
        await claimed(ours)
        first = ours._place._session  # type: ignore[attr-defined]
        with monkeypatch.context() as standby:

            async def refused(*_: Any, **__: Any) -> None:
                raise psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction")

            standby.setattr(psycopg.AsyncCursor, "execute", refused)
            with pytest.raises(LedgerError, match="read-only"):
                await ours.claim(rotation("another"))
        await claimed(ours, rotation("another"))
        assert ours._place._session is not first  # type: ignore[attr-defined]


async def test_who_is_frozen_in_a_transaction_keeps_others_waiting_for_seconds_only(
    db: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the server counts them, whose clock is no virtual one: less of them here."""
    monkeypatch.setattr(places, "_TO_WRITE", places._TO_WRITE.replace("'5s'", "'100ms'"))
    async with ledgers(db, "frozen", "b") as (frozen, theirs):

        async def freezes() -> None:
            async with frozen._transaction() as connection:
                await connection.scalar(Statement("SELECT 1"))
                await claimed(theirs)
                await connection.scalar(Statement("SELECT 1"))

        with pytest.raises(LedgerError, match="idle-in-transaction timeout"):
            await freezes()
        await claimed(frozen, rotation("another"))


async def test_a_channel_with_a_long_path_has_its_letters_kept_and_one_of_an_older_ledger_too(
    db: PostgresqlDatabase,
) -> None:
    async with ledgers(db, "a", "b"):
        pass
    db.sql("ALTER TABLE letters ALTER COLUMN channel TYPE varchar(64)")
    db.sql("UPDATE meta SET value = '4' WHERE key = 'schema'")
    at = datetime(2025, 1, 16, 3, tzinfo=UTC)
    message = Message(id="m", at=at, kind=Kind.FAILURE, severity="alarm", server=None, text="t", do="d")
    letter = Letter(channel=f"webhook /{'very-' * 30}long", message=message, since=at)
    async with ledgers(db, "a", "b") as (ours, theirs):
        await ours.desk.keep(Told(), 0, entries=[], letters=[letter])
        kept = await theirs.desk.read()
    assert kept is not None
    assert [one.channel for one in kept.letters] == [letter.channel]
