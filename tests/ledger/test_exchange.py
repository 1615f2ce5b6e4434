"""The ledger's files are deleted or exchanged under a process: whatever stands there then, nothing of it is lost."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Step
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import claimed, completed, ledgers, rotation, sql
from tests.support.nouns import a_snapshot
from tests.support.rotations import changed

NOW = datetime(2025, 1, 16, 4, tzinfo=UTC)
HELD = date(2999, 1, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def files(path: Path, *endings: str) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in endings]


def without_log(path: Path) -> None:
    files(path, "-wal")[0].unlink()


def without_memory(path: Path) -> None:
    files(path, "-shm")[0].unlink()


def without_both(path: Path) -> None:
    for one in files(path, "-wal", "-shm"):
        one.unlink()


def without_any(path: Path) -> None:
    for one in files(path, "", "-wal", "-shm"):
        one.unlink()


def emptied(path: Path) -> None:
    without_any(path)
    path.touch()


def without_log_and_then_used(path: Path) -> None:
    """By another process, which makes another log."""
    without_both(path)
    use = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript('CREATE TABLE theirs (x)')"
    subprocess.run([sys.executable, "-c", use, path], check=True, timeout=60)


def an_old_copy(path: Path) -> None:
    """It is moved over the file, whose log stays where it is."""
    shutil.move(path.parent / "old", path)


def an_old_copy_with_all_its_files(path: Path) -> None:
    without_both(path)
    shutil.move(path.parent / "old", path)
    files(path, "-wal")[0].touch()


def something_else(path: Path) -> None:
    without_any(path)
    path.write_bytes(b"this is no ledger" * 1000)


LOSSES = pytest.mark.parametrize(
    "lose",
    [
        without_log,
        without_memory,
        without_both,
        without_any,
        emptied,
        without_log_and_then_used,
        an_old_copy,
        an_old_copy_with_all_its_files,
        something_else,
    ],
)


HELD_ONE = a_snapshot(77, "before the upgrade", NOW)


def kept_copy(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(path.parent / "old"),))


@LOSSES
@pytest.mark.parametrize("noticed", ["by the watch", "by a write"])
async def test_all_that_was_known_is_known_again_and_to_the_next_process(
    path: Path, lose: Callable[[Path], None], noticed: str
) -> None:
    async with ledgers(path, "me") as (ledger,):
        await completed(ledger, rotation(day=-1))
        kept_copy(path)
        await completed(ledger, rotation(day=0))
        await ledger.holds.say(HELD_ONE, {"12345"}, HELD, NOW)
        begun = await claimed(ledger, rotation(day=1))
        said = await ledger.holds.said()
        lose(path)
        begun = changed(begun, step=Step.STOP)
        if noticed == "by a write":
            await ledger.save(begun)
        assert await ledger.mend([begun]) is True
        await ledger.save(begun)
        assert await ledger.mend([begun]) is False
        assert await ledger.holds.said() == said
        assert len(await ledger.history()) == 3
        (told,) = await ledger.events.newest(limit=1)
        assert told.kind == "ledger_exchanged"
        shutil.copytree(path.parent, path.parent / "killed", ignore=lambda *_: ["killed"])
    async with ledgers(path.parent / "killed" / "state.db", "next") as (after,):
        assert await after.open_rotations() == [begun]
        assert await after.holds.said() == said
        assert len(await after.history()) == 3
        assert sql(path, "PRAGMA integrity_check") == [("ok",)]


async def test_what_somebody_put_there_is_kept_beside_it_and_said(path: Path) -> None:
    async with ledgers(path, "me") as (ledger,):
        await completed(ledger)
        kept_copy(path)
        await completed(ledger, rotation(day=1))
        an_old_copy(path)
        await ledger.mend([])
        (told,) = await ledger.events.newest(limit=1)
        (aside,) = path.parent.glob("state.db.exchanged-*Z")
        assert aside.name in told.text
        assert "stop snaprotd first" in told.text
        assert len(sql(aside, "SELECT * FROM rotations")) == 1


@LOSSES
async def test_of_two_processes_one_puts_it_back_and_both_go_on_with_it(
    path: Path, lose: Callable[[Path], None]
) -> None:
    async with ledgers(path, "one", "other") as (one, other):
        kept_copy(path)
        ours, theirs = await claimed(one, rotation("1")), await claimed(other, rotation("2"))
        lose(path)
        assert await one.mend([ours]) is True
        late = await claimed(one, rotation("3"))
        assert await other.mend([theirs]) is True
        for _ in range(2):
            assert (await one.mend([ours, late]), await other.mend([theirs])) == (False, False)
        await one.save(ours)
        await other.save(theirs)
        for ledger in (one, other):
            assert {each.id for each in await ledger.open_rotations()} == {ours.id, theirs.id, late.id}


async def test_a_process_that_is_gone_in_a_moment_puts_nothing_back(path: Path) -> None:
    async with ledgers(path, "me") as (ledger,):
        await claimed(ledger)
        async with await Ledger.open(path, owner="command", lock=False) as command:
            without_both(path)
            with pytest.raises(LedgerError, match="try again"):
                await command.holds.say(HELD_ONE, {"12345"}, HELD, NOW)
            await ledger.mend([])


async def test_a_row_that_is_gone_is_written_again_and_one_that_is_anothers_is_not(path: Path) -> None:
    async with ledgers(path, "me", "they") as (ledger, other):
        begun = await claimed(ledger)
        sql(path, "DELETE FROM rotations")
        await ledger.save(begun)
        assert await other.open_rotations() == [begun]
        ledger.guard(begun.id)


async def test_what_cannot_be_written_again_stays_open_and_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledgers(path, "me") as (ledger,):
        begun = await claimed(ledger)
        without_both(path)
        with monkeypatch.context() as full:
            full.setattr(
                "snaprotd.ledger.files.exchange.seal", lambda _: (_ for _ in ()).throw(OSError(28, "no space"))
            )
            with pytest.raises(LedgerError, match="cannot be written again"):
                await ledger.mend([begun])
            assert await ledger.open_rotations() == [begun]
        assert await ledger.mend([begun]) is True
        await ledger.save(begun)


@pytest.mark.parametrize("lose", [without_log, without_memory, without_both])
async def test_what_a_person_has_said_is_in_the_file_itself_at_once_and_all_else_soon(
    path: Path, lose: Callable[[Path], None]
) -> None:
    """The log is deleted, and everybody is killed before anyone has looked."""
    async with ledgers(path, "me") as (ledger,):
        await completed(ledger)
        await ledger.probe(mark=True)
        async with await Ledger.open(path, owner="command", lock=False) as command:
            await command.holds.say(HELD_ONE, {"12345"}, HELD, NOW)
        lose(path)
        killed = path.parent / "killed"
        shutil.copytree(path.parent, killed, ignore=lambda *_: ["killed"])
    async with ledgers(killed / "state.db", "next") as (after,):
        assert [one.ids for one in await after.holds.said()] == [("77",)]
        assert len(await after.history()) == 1
