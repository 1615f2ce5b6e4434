"""A ledger as a whole: copied to PostgreSQL and back, shown, and its database looked at by `check --online`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from snaprotd.commands.jobs.leave_off import forsaken, read_owed_of_all
from snaprotd.commands.jobs.ledgers import copy, findings_of_database, overview
from snaprotd.config import file as config
from snaprotd.config.settings import Config
from snaprotd.core.errors import LedgerError
from snaprotd.core.holds import FOREVER
from snaprotd.core.power import over, promised
from snaprotd.ledger.leases.others import MARGIN
from snaprotd.ledger.sql.copying import without_leases
from snaprotd.wiring.assembly import open_ledger
from tests.ledger.test_store import claimed, completed, mark, rotation
from tests.support.daemons import Line
from tests.support.databases import PostgresqlDatabase, Server
from tests.support.nouns import a_snapshot
from tests.support.virtual_time import START

pytestmark = pytest.mark.usefixtures("one_clock")


@pytest.fixture
def server(postgresql: Server, tmp_path: Path) -> PostgresqlDatabase:
    return PostgresqlDatabase(postgresql.schema(), tmp_path)


def settings(folder: Path, state: str, more: str = "") -> Config:
    path = folder / "config.yaml"
    path.write_text(f'state: "{state}"\n{more}servers: [{{id: 12345, schedule: "@daily"}}]\n')
    return config.load(path, {"STATE_DIRECTORY": str(folder)})


async def filled(config: Config) -> None:
    """With something in nearly every table."""
    async with await open_ledger(config, {}) as ledger:
        await completed(ledger, rotation(day=-1))
        begun = await claimed(ledger, rotation())
        await ledger.save(replace(begun, power=promised(begun.power, START)))
        await ledger.set_marks([mark()])
        await ledger.holds.say(a_snapshot("7", "before", START), ["12345"], FOREVER, START)
        await ledger.probe()


async def test_a_copy_holds_all_of_it_in_both_directions(server: PostgresqlDatabase, tmp_path: Path) -> None:
    first, last = tmp_path / "state.db", tmp_path / "again.db"
    own = settings(tmp_path, str(first))
    await filled(own)
    there = await copy(own, {}, str(first), server.url)
    await asyncio.sleep(61)
    assert await copy(own, {}, server.url, str(last)) == there
    held = []
    for one in (first, last):
        async with await open_ledger(replace(own, ledger=one), {}) as ledger:
            rows = without_leases(await ledger.contents()).values()
            found = [row for its in rows for row in its if row.get("key") != "marks"]
            held.append(
                (sorted(map(str, found)), await ledger.history(), await ledger.starts.owed(), await ledger.holds.said())
            )
    assert held[0] == held[1]
    assert there["rotations"] == 2
    assert len(held[0][2]) == len(held[0][3]) == 1


async def test_what_a_dead_process_held_is_gone_on_with_at_once_in_the_copy_where_it_is_dead_for_certain(
    server: PostgresqlDatabase, tmp_path: Path
) -> None:
    """Whoever is alone with a file knows that; nobody knows it of a server."""
    own = settings(tmp_path, str(tmp_path / "state.db"))
    await filled(own)
    await copy(own, {}, own.state, server.url)
    async with await open_ledger(replace(own, state=server.url), {}) as ledger:
        assert [one.server_id for one in await ledger.take_over()] == ["12345"]
    await asyncio.sleep(61)
    await copy(own, {}, server.url, str(tmp_path / "again.db"))
    async with await open_ledger(replace(own, ledger=tmp_path / "again.db"), {}) as ledger:
        assert await ledger.take_over() == []
        await asyncio.sleep(ledger.lease + MARGIN)
        assert [one.server_id for one in await ledger.take_over()] == ["12345"]


async def test_where_a_ledger_was_before_the_promises_beside_it_are_joined_with_the_copy(
    server: PostgresqlDatabase, tmp_path: Path, log: list[Line]
) -> None:
    """One that is over by now does not keep the copy out, nor is it owed again."""
    own, moved = settings(tmp_path, str(tmp_path / "state.db")), tmp_path / "owed-by-state.db"
    await filled(own)
    await copy(own, {}, own.state, server.url)
    assert len([*moved.iterdir()]) == 1
    async with await open_ledger(replace(own, state=server.url, ledger=tmp_path / "on-server"), {}) as ledger:
        (begun,) = await ledger.take_over()
        await ledger.save(replace(begun, power=over(begun.power)))
    (tmp_path / "state.db").rename(tmp_path / "old.db")
    await asyncio.sleep(61)
    await copy(own, {}, server.url, own.state)
    async with await open_ledger(own, {}) as ledger:
        assert await ledger.starts.owed() == []
    assert [line["event"] for line in log if line["event"].startswith("the ledger lacks")] == []
    assert not moved.exists()


async def test_an_event_of_the_copy_has_an_id_of_its_own(server: PostgresqlDatabase, tmp_path: Path) -> None:
    own = settings(tmp_path, str(tmp_path / "state.db"))
    await filled(own)
    await copy(own, {}, own.state, server.url)
    async with await open_ledger(replace(own, state=server.url), {}) as ledger:
        before, _ = await ledger.events.after(0, limit=100)
        await completed(ledger, rotation("another"))
        after, _ = await ledger.events.after(0, limit=100)
    assert [one.id for one in after[: len(before)]] == [one.id for one in before]
    assert after[-1].id > before[-1].id


async def test_what_is_in_use_or_holds_anything_is_refused(server: PostgresqlDatabase, tmp_path: Path) -> None:
    own = settings(tmp_path, str(tmp_path / "state.db"))
    await filled(own)
    async with await open_ledger(own, {}):
        with pytest.raises(LedgerError, match=r"state\.db is in use: stop what uses it, and try again in a minute$"):
            await copy(own, {}, own.state, server.url)
    await copy(own, {}, own.state, server.url)
    await asyncio.sleep(61)
    with pytest.raises(LedgerError, match=r"is not empty \(.*2 in rotations.*\): nothing was copied into it$"):
        await copy(own, {}, own.state, server.url)
    with pytest.raises(LedgerError, match="is both"):
        await copy(own, {}, own.state, own.state)
    with pytest.raises(LedgerError, match="there is no ledger at"):
        await copy(own, {}, str(tmp_path / "none.db"), str(tmp_path / "new.db"))
    async with await server.open("living") as ledger:
        await ledger.probe()
        with pytest.raises(LedgerError, match=r"^the ledger postgresql://.* is in use: stop"):
            await copy(own, {}, server.url, str(tmp_path / "new.db"))
    assert not (tmp_path / "new.db").exists(), "an empty one would be taken for a ledger"


async def test_it_is_shown_with_who_has_rotations_open(server: PostgresqlDatabase, tmp_path: Path) -> None:
    async with await server.open("living") as ledger:
        await claimed(ledger)
        shown = await overview(settings(tmp_path, server.url))
    assert [(one.owner, one.rotations) for one in shown.holders] == [("living", 1)]
    assert shown.rows["rotations"] == 1
    assert shown.size > 10_000


async def test_what_another_host_owes_is_owed_too_and_a_server_that_does_not_answer_is_no_good_news(
    server: PostgresqlDatabase, tmp_path: Path
) -> None:
    (host := tmp_path / "host").mkdir()
    own = settings(host, server.url)
    assert (await read_owed_of_all(own.path, {}, own)).missing == []
    async with await server.open("another host") as ledger:
        begun = await claimed(ledger, rotation())
        await ledger.save(replace(begun, power=promised(begun.power, START)))
    found = await read_owed_of_all(own.path, {}, own)
    assert ([row["server_id"] for row in found.rows], found.missing, found.unreadable) == ([12345], [], [])
    gone = settings(host, "postgresql://127.0.0.1:1/x")
    found = await read_owed_of_all(gone.path, {}, gone)
    assert (found.rows, found.missing) == ([], [])
    assert "refused" in found.unreadable[0]


async def test_what_this_host_alone_takes_to_be_owed_was_paid_by_others_since(
    server: PostgresqlDatabase, tmp_path: Path
) -> None:
    """Its daemon is dead, and left its copies of what was owed then."""
    (host := tmp_path / "host").mkdir()
    own = settings(host, server.url)
    async with await open_ledger(own, {}) as ledger:
        begun = await claimed(ledger, rotation())
        await ledger.save(replace(begun, power=promised(begun.power, START)))
    await asyncio.sleep(2 * ledger.lease)
    assert [row["server_id"] for row in (await read_owed_of_all(own.path, {}, own)).rows] == [12345]
    assert begun.label in await forsaken(own.path, {}, own, [])
    copies = {path: path.read_text() for path in host.rglob("*.json")}
    async with await open_ledger(own, {}) as ledger:
        (owed,) = await ledger.starts.owed()
        await ledger.starts.save(replace(owed, power=over(owed.power)))
    for path, text in copies.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert (await read_owed_of_all(own.path, {}, own)).rows == []
    assert await forsaken(own.path, {}, own, []) == ""


# -- its database ------------------------------------------------------------------------------------------------------


async def texts(config: Config, environ: Mapping[str, str] | None = None) -> list[tuple[bool, bool, str]]:
    found = await findings_of_database(config, environ or {})
    return [(one.ok, one.note, one.text.partition(": ")[2] or one.text) for one in found]


async def test_a_file_has_no_database_to_look_at(tmp_path: Path) -> None:
    assert await texts(settings(tmp_path, str(tmp_path / "state.db"))) == []


async def test_a_good_one_is_told_with_what_its_commits_wait_for(server: PostgresqlDatabase, tmp_path: Path) -> None:
    told = await texts(settings(tmp_path, server.url))
    assert [(ok, note) for ok, note, _ in told] == [(True, False), (True, True)]
    assert told[0][2].endswith("answers, and can be written")
    assert "`synchronous_standby_names`" in told[1][2]
    assert server.sql("SELECT 1 FROM pg_tables WHERE schemaname = current_schema()") == []  # nothing was made


async def test_one_that_cannot_be_used_is_a_problem(server: PostgresqlDatabase, tmp_path: Path) -> None:
    ((ok, _, text),) = await texts(settings(tmp_path, f"{server.url}%20-csearch_path%3Dnowhere"))
    assert (ok, text) == (False, "the role may not create tables there, and no ledger is there yet")
    ((ok, _, text),) = await texts(settings(tmp_path, "postgresql://127.0.0.1:1/x"))
    assert (ok, "refused" in text) == (False, True)


async def test_a_role_whose_transactions_are_to_be_read_only_may_write_all_the_same(
    server: PostgresqlDatabase, tmp_path: Path
) -> None:
    """Those of a daemon say that they write."""
    (first, *_) = await texts(settings(tmp_path, f"{server.url}%20-cdefault_transaction_read_only%3Don"))
    assert first[0]
    assert first[2].endswith("answers, and can be written")


async def test_a_role_that_may_not_use_a_table_is_told_what_to_be_granted(
    server: PostgresqlDatabase, tmp_path: Path
) -> None:
    async with await server.open("a"):
        pass
    schema = server.url.rpartition("%3D")[2]
    server.sql(f"CREATE ROLE {schema} LOGIN")
    server.sql(f"GRANT ALL ON SCHEMA {schema} TO {schema}")
    server.sql(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {schema}")
    its = settings(tmp_path, server.url.replace("snaprotd@", f"{schema}@"))
    assert (await texts(its))[0][0]
    server.sql(f"REVOKE DELETE ON rotations FROM {schema}")
    ((ok, _, text),) = await texts(its)
    assert (ok, "grant the role SELECT, INSERT, UPDATE and DELETE" in text) == (False, True)


# -- its password ------------------------------------------------------------------------------------------------------


async def test_the_password_is_read_anew_for_each_connection_and_shown_nowhere(
    server: PostgresqlDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, used = tmp_path / "database-password", []
    connect = psycopg.AsyncConnection.connect

    async def connected(url: str, **more: object) -> psycopg.AsyncConnection[object]:
        used.append(more.pop("password"))
        return await connect(url, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("snaprotd.ledger.server.session.psycopg.AsyncConnection.connect", connected)
    own = settings(tmp_path, server.url, f"state_password_file: {file}\n")
    for password in ("first-made-up-word", "second-made-up-word"):
        file.write_text(f"{password}\n")
        file.chmod(0o600)
        assert (await texts(own))[0][0]
    assert used == ["first-made-up-word", "second-made-up-word"]
    assert "made-up" not in repr(own)

    def refused(*_: object, **__: object) -> psycopg.Connection[object]:
        raise psycopg.OperationalError("FATAL: password second-made-up-word is wrong")

    monkeypatch.setattr("snaprotd.ledger.server.place.psycopg.connect", refused)
    with pytest.raises(LedgerError) as told:
        await open_ledger(own, {})
    assert "second-made-up-word" not in str(told.value)
    file.unlink()
    ((ok, _, text),) = await texts(settings(tmp_path, server.url, f"state_password_file: {file}\n"))
    assert (ok, text.endswith("database-password cannot be read: No such file or directory")) == (False, True)
