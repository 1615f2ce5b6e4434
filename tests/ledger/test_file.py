"""The ledger's file: how it is made and opened, every way to be refused, and who has it open."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from snaprotd.core.creation import Creation
from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Rotation, Step
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.rows import written_rotation
from snaprotd.ledger.sql.prepared import Statement
from snaprotd.ledger.sql.schema import SCHEMA_VERSION
from snaprotd.ledger.sqlite import PAGE
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import claimed, finished, ledgers, mark, rotation, sql

pytestmark = pytest.mark.usefixtures("one_clock")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


# -- the file ------------------------------------------------------------------------------------------------------


async def test_only_where_somebody_has_written_a_ledger_is_asked_for_its_tables(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time keeps every other process from writing."""
    async with ledgers(path, "me") as (ledger,):
        assert await ledger.mend([]) is False
        with monkeypatch.context() as idle:
            idle.setattr(ledger, "_transaction", lambda: pytest.fail("nobody has written"))
            assert await ledger.mend([]) is False
        sql(path, "DROP TABLE holds")
        assert await ledger.mend([]) is True


async def test_what_is_committed_is_on_disk(path: Path) -> None:
    async with ledgers(path, "a") as (ours,), ours._transaction() as connection:
        pragmas = {
            name: (await connection.execute(Statement(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5_000, "foreign_keys": 1}


async def test_a_ledger_that_is_opened_again_is_as_it_was_left(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        begun = await claimed(ours)
    async with ledgers(path, "b") as (theirs,):
        assert await theirs.history() == [begun]
    assert sql(path, "SELECT value FROM meta WHERE key = 'schema'") == [(str(SCHEMA_VERSION),)]


async def test_a_ledger_that_another_process_is_just_making_is_waited_for(path: Path) -> None:
    """SQLite itself does not wait before it switches a file to WAL."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE made_first (x)")
        other.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(2, other.execute, "COMMIT")
        async with await Ledger.open(path, owner="one") as ledger:
            assert await ledger.history() == []


async def test_a_ledger_that_another_process_never_lets_go_of_is_told(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE made_first (x)")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="database is locked"):
            await Ledger.open(path, owner="one")


async def test_many_processes_may_create_one_ledger_at_the_same_moment(path: Path) -> None:
    opened = await asyncio.gather(*(Ledger.open(path, owner=str(number)) for number in range(12)))
    for ledger in opened:
        await ledger.close()
    assert [ledger.is_sole_user for ledger in opened].count(True) == 1
    assert sql(path, "SELECT value FROM meta WHERE key = 'schema'") == [(str(SCHEMA_VERSION),)]


@pytest.mark.parametrize("value", ["one", "-1", "1.0", "1e0", "\u00b9"])
async def test_a_schema_that_is_no_number_is_refused(path: Path, value: str) -> None:
    async with ledgers(path, "a"):
        pass
    sql(path, "UPDATE meta SET value = ?", value)
    with pytest.raises(LedgerError) as refusal:
        await Ledger.open(path, owner="b")
    assert str(refusal.value) == (
        f"the ledger has schema `{value}`, which is no number: this is no ledger of snaprotd's"
    )
    with held(path) as lock:
        assert lock.was_alone


ODD_NAMES = ["we?ird.db", "100%25.db", "a%2Fb", "a#b&c=d", ":memory:", "a b.db", "\u00fc.db", "file:x"]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_ledger_is_the_file_of_just_that_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with ledgers(Path(name), "a") as (ours,):
        asked = replace(await claimed(ours), creation=Creation(creates=1, create_open=0.0))
        await ours.save(asked)
    assert set(os.listdir(tmp_path)) == {name, f"{name}.lock", f"counted-by-{name}"}
    async with ledgers(tmp_path / name, "b") as (theirs,):
        assert await theirs.history() == [asked]


async def test_two_ledgers_whose_names_differ_after_a_question_mark_are_two(tmp_path: Path) -> None:
    async with ledgers(tmp_path / "a?1", "a") as (one,), ledgers(tmp_path / "a?2", "b") as (other,):
        await claimed(one)
        assert await other.history() == []
        assert other.is_sole_user


@pytest.mark.parametrize("name", [".", "..", "/", "sub", "sub/", "sub/."])
async def test_a_folder_is_refused_with_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    folder = Path(name)
    with pytest.raises(LedgerError) as refusal:
        await Ledger.open(folder, owner="a")
    assert str(refusal.value) == f"{folder} is a folder: `state` must name a file, such as {folder / 'state.db'}"
    assert os.listdir(tmp_path) == ["sub"]


async def test_a_ledger_of_a_newer_version_is_refused_with_what_to_do_and_left_alone(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        await claimed(ours)
    sql(path, "UPDATE meta SET value = ?", str(SCHEMA_VERSION + 1))  # of `readable_by`, too
    sql(path, "DROP TABLE marks")
    with pytest.raises(LedgerError) as refusal:
        await Ledger.open(path, owner="b")
    assert str(refusal.value) == (
        f"the ledger has schema {SCHEMA_VERSION + 1}, this snaprotd knows up to {SCHEMA_VERSION}: "
        "it was written by a newer snaprotd; upgrade, or point `state` to another file"
    )
    assert sql(path, "SELECT name FROM sqlite_master WHERE name = 'marks'") == []
    with held(path) as lock:
        assert lock.was_alone


async def test_a_ledger_of_a_newer_version_that_only_added_to_it_is_used_as_it_is(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        begun = await claimed(ours)
    sql(path, "UPDATE meta SET value = '99' WHERE key = 'schema'")
    sql(path, "CREATE TABLE later (x)")
    async with ledgers(path, "b") as (theirs,):
        assert await theirs.history() == [begun]
    assert sql(path, "SELECT value FROM meta WHERE key = 'schema'") == [("99",)]


FIRST = """
CREATE TABLE meta (key VARCHAR(64) NOT NULL PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO meta VALUES ('schema', '1');
CREATE TABLE rotations (
  id VARCHAR(32) NOT NULL PRIMARY KEY, server_id VARCHAR(64) NOT NULL, slot VARCHAR(32) NOT NULL,
  is_open BOOLEAN NOT NULL,
  result VARCHAR(16), body TEXT NOT NULL, owner VARCHAR(64), epoch INTEGER NOT NULL, lease_until FLOAT NOT NULL,
  started_at VARCHAR(32) NOT NULL, finished_at VARCHAR(32),
  CONSTRAINT one_rotation_for_a_slot UNIQUE (server_id, slot));
CREATE UNIQUE INDEX one_open_rotation_for_a_server ON rotations (server_id) WHERE is_open;
CREATE INDEX rotations_by_time ON rotations (started_at);
CREATE INDEX rotations_by_end ON rotations (finished_at);
CREATE TABLE marks (
  server_id VARCHAR(64) NOT NULL PRIMARY KEY, seen_until VARCHAR(32) NOT NULL, schedule TEXT NOT NULL);
"""
"""The tables of the first version, as it made them."""


async def test_a_ledger_of_the_first_version_keeps_every_row_and_every_promise(path: Path) -> None:
    held, over = rotation(held_off=True, step=Step.WAIT), finished(rotation(day=-1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(FIRST)
        for one in (held, over):
            times = (one.started_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), one.finished_at and one.finished_at.isoformat())
            connection.execute(
                "INSERT INTO rotations VALUES (?, ?, ?, ?, NULL, ?, 'dead', 3, 0.0, ?, ?)",
                (one.id, "12345", one.slot.isoformat(), one is held, written_rotation(one), *times),
            )
        connection.execute("INSERT INTO marks VALUES ('12345', '2025-01-16T03:30:00.000000Z', 'UTC')")
    async with ledgers(path, "a") as (ours,):
        ours.starts.account = "admin.vps.org"
        await ours.starts.adopt()
        assert await ours.take_over(everything=True) == [held]
        assert held.held_off
        assert len(await ours.history()) == 2
        assert set(await ours.marks()) == {"12345"}
    assert sql(path, "SELECT DISTINCT account FROM rotations") == [("admin.vps.org",)]


def rubbish(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 500)


def another_programs(path: Path) -> None:
    sql(path, "CREATE TABLE meta (id INTEGER)")


def cut_short(path: Path) -> None:
    sql(path, "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (rubbish, "file is not a database"),
        (another_programs, "no such column: meta.value"),
        (cut_short, "database disk image is malformed"),
    ],
)
async def test_a_file_that_is_no_ledger_is_refused_in_one_sentence(
    path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(path)
    before = set(threading.enumerate())
    with pytest.raises(LedgerError) as refusal:
        await Ledger.open(path, owner="a")
    for database in set(threading.enumerate()) - before:
        await asyncio.to_thread(database.join)  # it has a last word for the loop, even if it could open nothing
    assert str(refusal.value) == f"the ledger {path} cannot be used: {reason}"
    with held(path) as lock:
        assert lock.was_alone


async def test_a_folder_that_does_not_exist_is_refused_with_what_to_do(path: Path) -> None:
    nowhere = path / "no" / "state.db"
    with pytest.raises(LedgerError) as refusal:
        await Ledger.open(nowhere, owner="a")
    assert str(refusal.value) == (
        f"cannot open {nowhere}.lock: No such file or directory. `state` must name a file in a folder that exists "
        f"and that user {os.getuid()} may write to"
    )


@contextmanager
def without_privileges() -> Iterator[None]:
    """As somebody who may not write where the mode says so: nobody, where the tests are run by root."""
    us = os.geteuid()
    os.seteuid(us or 65534)
    try:
        yield
    finally:
        os.seteuid(us)


async def test_a_folder_that_may_not_be_written_is_refused_with_what_to_do(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        with without_privileges(), pytest.raises(LedgerError, match=r"Permission denied\. `state` must name a file in"):
            await Ledger.open(path, owner="a")
    finally:
        path.parent.chmod(0o700)


async def test_a_full_disk_is_told_of_and_nothing_is_lost_by_it(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        begun = await claimed(ours)
        with no_room_on_disk(), pytest.raises(LedgerError, match=f"the ledger {path} cannot be used: "):
            await ours.save(replace(begun, note="x" * 100_000))
        assert await ours.history() == [begun]
        await ours.save(replace(begun, note="room again"))
        assert await ours.open_rotations() == [replace(begun, note="room again")]


async def test_a_full_disk_keeps_nobody_from_reading_what_was_promised(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        begun = await claimed(ours, rotation(held_off=True))
    with no_room_on_disk(), capture_logs() as said:
        async with ledgers(path, "b") as (theirs,):
            assert theirs.is_sole_user
            assert await theirs.open_rotations() == [begun]
            with pytest.raises(LedgerError):
                await theirs.take_over(everything=True)
    assert [one["log_level"] for one in said] == ["error"]
    async with ledgers(path, "c", "d") as (third, fourth):
        assert await third.take_over(everything=True) == [begun]
        assert await fourth.open_rotations() == [begun]


@contextmanager
def no_room_on_disk() -> Iterator[None]:
    """No file of this process grows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


USES: dict[str, Callable[[Ledger, Rotation], Awaitable[Any]]] = {
    "claim": lambda ledger, _: ledger.claim(rotation("2")),
    "save": lambda ledger, begun: ledger.save(begun),
    "release": lambda ledger, begun: ledger.release(begun.id),
    "renew": lambda ledger, _: ledger.renew(),
    "take_over": lambda ledger, _: ledger.take_over(),
    "open_rotations": lambda ledger, _: ledger.open_rotations(),
    "history": lambda ledger, _: ledger.history(),
    "latest": lambda ledger, _: ledger.latest(),
    "last_started": lambda ledger, _: ledger.last_started(),
    "last_succeeded": lambda ledger, _: ledger.last_succeeded(),
    "marks": lambda ledger, _: ledger.marks(),
    "set_marks": lambda ledger, _: ledger.set_marks([mark()]),
    "keep_marks": lambda ledger, _: ledger.keep_marks(()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_ledger_that_breaks_while_it_is_open_is_told_of(
    path: Path, use: Callable[[Ledger, Rotation], Awaitable[Any]]
) -> None:
    async with ledgers(path, "a") as (ours,):
        begun = await claimed(ours)
        sql(path, "DROP TABLE rotations")
        sql(path, "DROP TABLE marks")
        with pytest.raises(LedgerError, match=f"the ledger {path} cannot be used: no such table"):
            await use(ours, begun)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_ledger_that_is_busy_for_too_long_is_told_of(
    path: Path, use: Callable[[Ledger, Rotation], Awaitable[Any]]
) -> None:
    async with ledgers(path, "a") as (ours,):
        begun = await claimed(ours)
        ready = asyncio.Event()

        async def occupy() -> None:
            async with ours._transaction():
                ready.set()
                await asyncio.sleep(90)

        occupying = asyncio.create_task(occupy())
        await ready.wait()
        with pytest.raises(LedgerError, match=f"the ledger {path} has been busy for 60 s"):
            await use(ours, begun)
        await occupying
        assert await ours.open_rotations() == [begun]


# -- the lock beside it ----------------------------------------------------------------------------------------------


@contextmanager
def held(path: Path) -> Iterator[FolderLock]:
    lock = FolderLock.acquire(path)
    try:
        yield lock
    finally:
        lock.release()


def lock_file(path: Path) -> Path:
    return path.with_name("state.db.lock")


async def test_who_opens_a_ledger_knows_whether_anybody_else_has_it_open(path: Path) -> None:
    async with ledgers(path, "a", "b", "c") as three:
        assert [ledger.is_sole_user for ledger in three] == [True, False, False]
    async with ledgers(path, "d") as (alone,):
        assert alone.is_sole_user


async def test_a_ledger_without_a_lock_is_never_taken_for_its_only_user(path: Path) -> None:
    async with await Ledger.open(path, owner="a", lock=False) as unlocked:
        assert not unlocked.is_sole_user
        assert not lock_file(path).exists()


def test_whoever_is_left_of_two_still_holds_the_lock(path: Path) -> None:
    with held(path) as first:
        second = FolderLock.acquire(path)
    assert (first.was_alone, second.was_alone) == (True, False)
    with held(path) as third:
        assert not third.was_alone
    second.release()
    with held(path) as fourth:
        assert fourth.was_alone


HOLD = """
import sys
from itertools import pairwise
from pathlib import Path
from snaprotd.ledger.files.folder_lock import FolderLock
print(FolderLock.acquire(Path(sys.argv[1])).was_alone, flush=True)
sys.stdin.read()
"""


@pytest.mark.real_time
def test_a_killed_process_holds_the_lock_no_longer(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "True\n"
            with held(path) as beside:
                assert not beside.was_alone
        finally:
            other.kill()
        other.wait()
    with held(path) as alone:
        assert alone.was_alone


def test_the_lock_tells_who_holds_it_and_nobody_else_may_write_it(path: Path) -> None:
    with held(path) as lock:
        said = json.loads(lock_file(path).read_text())
        assert said["pid"] == os.getpid()
        assert said.keys() == {"boot", "host", "pid"}
        assert lock_file(path).stat().st_mode & 0o777 == 0o600
        assert not os.get_inheritable(lock.descriptor)


ELSEWHERE = json.dumps({"boot": "8c1d-of-another-machine", "host": "db-2", "pid": 4711})


async def test_a_ledger_that_is_open_on_another_host_is_refused_with_what_to_do(path: Path) -> None:
    with held(path):
        lock_file(path).write_text(ELSEWHERE)
        with pytest.raises(LedgerError) as refusal:
            await Ledger.open(path, owner="a")
        assert lock_file(path).read_text() == ELSEWHERE
    assert str(refusal.value) == (
        f"{lock_file(path)} is held by snaprotd on another host (db-2, process 4711): "
        "an SQLite ledger must not be shared between hosts. Stop that one, or give this one its own `state`"
    )
    with held(path) as after_it:
        assert after_it.was_alone


def test_a_ledger_that_was_left_by_another_host_is_ours_now(path: Path) -> None:
    lock_file(path).write_text(ELSEWHERE * 5)
    with held(path) as lock:
        assert lock.was_alone
        assert json.loads(lock_file(path).read_text())["pid"] == os.getpid()
        with held(path) as beside:
            assert not beside.was_alone


@pytest.mark.parametrize("said", ["", "rubbish", "[]", "null", "{}", '{"boot": null}', '{"host": "db-2"}'])
def test_a_lock_that_does_not_say_who_holds_it_is_shared(path: Path, said: str) -> None:
    with held(path):
        lock_file(path).write_text(said)
        with held(path) as beside:
            assert not beside.was_alone


def test_where_there_are_no_locks_nobody_is_taken_for_the_only_user(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with held(path) as lock:
        assert not lock.was_alone


def test_a_living_process_is_known_though_somebody_removed_its_lock_file(path: Path) -> None:
    code = f"from pathlib import Path; from snaprotd.ledger.files.folder_lock import FolderLock as L; \
lock = L.acquire(Path({str(path)!r})); print(lock.was_alone, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == b"True\n"
        path.with_name(f"{path.name}.lock").unlink()
        with held(path) as lock:
            assert not lock.was_alone
        living.kill()
    with held(path) as lock:
        assert lock.was_alone


async def test_a_new_file_has_small_pages_and_one_that_is_there_keeps_its_own(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA page_size=4096")
        connection.execute("CREATE TABLE anything (it)")
    for path, size in ((old, 4096), (new, PAGE)):
        async with await Ledger.open(path, owner="a") as ledger:
            await claimed(ledger)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA page_size").fetchone() == (size,)
