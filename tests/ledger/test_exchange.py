"""The ledger's files are deleted or exchanged under a process: whatever stands there then, nothing of it is lost."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Step
from snaprotd.core.telling.entries import Deletion, Happened
from snaprotd.ledger.address import stands_at
from snaprotd.ledger.files.exchange import noted_alone
from snaprotd.ledger.store import Ledger
from tests.ledger.test_copies import files_of_at_most
from tests.ledger.test_store import claimed, completed, finished, ledgers, rotation, sql
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
    by_another(path, "CREATE TABLE theirs (x)")


def by_another(path: Path, statement: str) -> None:
    use = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"
    subprocess.run([sys.executable, "-c", use, path, statement], check=True, timeout=60)


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


WITHOUT_LOG = pytest.mark.parametrize("lose", [without_log, without_memory, without_both])


def killed(path: Path) -> Path:
    """What is left where everybody is killed now."""
    left = path.parent / "killed"
    shutil.copytree(path.parent, left, ignore=lambda *_: ["killed"])
    return left / "state.db"


@WITHOUT_LOG
async def test_what_a_person_has_said_is_in_the_file_itself_at_once(path: Path, lose: Callable[[Path], None]) -> None:
    """The log is deleted, and everybody is killed before anyone has looked."""
    async with ledgers(path, "me") as (ledger,):
        await completed(ledger)
        async with await Ledger.open(path, owner="command", lock=False) as command:
            await command.holds.say(HELD_ONE, {"12345"}, HELD, NOW)
        lose(path)
        left = killed(path)
    async with ledgers(left, "next") as (after,):
        assert [one.ids for one in await after.holds.said()] == [("77",)]


@WITHOUT_LOG
async def test_all_else_is_in_it_with_the_next_mark_of_life(path: Path, lose: Callable[[Path], None]) -> None:
    async with ledgers(path, "me") as (ledger,):
        await completed(ledger)
        await ledger.probe(mark=True)
        lose(path)
        left = killed(path)
    async with ledgers(left, "next") as (after,):
        assert len(await after.history()) == 1


# -- written over ------------------------------------------------------------------------------------------------------


def written_over(path: Path) -> None:
    """`cp old state.db`: the same file, and what it holds is another's."""
    path.write_bytes((path.parent / "old").read_bytes())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:8192])


def nothing_left(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_bytes(b"this is no ledger" * 4000)


OVERWRITTEN = pytest.mark.parametrize("lose", [written_over, cut, nothing_left, garbled])


@OVERWRITTEN
async def test_a_file_that_is_written_over_is_noticed_and_what_goes_on_now_stands_in_it_again(
    path: Path, lose: Callable[[Path], None]
) -> None:
    async with ledgers(path, "me") as (ledger,):
        await completed(ledger, rotation(day=-1))
        await ledger.mend([], mark=True)
        kept_copy(path)
        await asyncio.sleep(20)
        await ledger.holds.say(HELD_ONE, {"12345"}, HELD, NOW)
        await completed(ledger, rotation(day=0))
        begun = changed(await claimed(ledger, rotation(day=1)), step=Step.STOP)
        assert await ledger.mend([begun], mark=True) is False
        await ledger.save(begun)
        lose(path)
        assert await ledger.mend([begun]) is True
        assert await ledger.mend([begun], mark=True) is False
        await ledger.save(begun)
        (told,) = await ledger.events.newest(limit=1)
        assert "written over" in told.text
        left = killed(path)
    async with ledgers(left, "next") as (after,):
        assert await after.open_rotations() == [begun]
        assert [one.ids for one in await after.holds.said()] == [("77",)]
        assert sql(left, "PRAGMA integrity_check") == [("ok",)]


@OVERWRITTEN
async def test_of_two_processes_one_writes_it_again_and_both_go_on_with_it(
    path: Path, lose: Callable[[Path], None]
) -> None:
    async with ledgers(path, "one", "other") as (one, other):
        await one.mend([], mark=True)
        kept_copy(path)
        await asyncio.sleep(20)
        ours, theirs = await claimed(one, rotation("1")), await claimed(other, rotation("2"))
        await one.mend([ours], mark=True)
        await other.mend([theirs], mark=True)
        lose(path)
        assert await one.mend([ours]) is True
        assert await other.mend([theirs]) is True
        for _ in range(2):
            assert (await one.mend([ours], mark=True), await other.mend([theirs], mark=True)) == (False, False)
        await one.save(ours)
        await other.save(theirs)
        assert {each.id for each in await one.open_rotations()} == {ours.id, theirs.id}


def room_for_three_pages(path: Path) -> AbstractContextManager[None]:
    return files_of_at_most(path.stat().st_size + 3 * 4096)


async def test_half_of_what_was_to_be_written_where_the_disk_is_full_is_nobodys_doing_and_nothing_is_lost(
    path: Path,
) -> None:
    """What stands in the file is no ledger then, alone: all that is missing stands in its log."""
    async with ledgers(path, "me") as (ledger,):
        large = changed(await claimed(ledger, rotation("1")), note="x" * 600_000)
        await ledger.save(large)
        await ledger.mend([], mark=True)
        await completed(ledger, rotation("2"))
        small = changed(await claimed(ledger, rotation("3")), note="y" * 200_000)
        await ledger.save(small)
        for _ in range(3):
            with room_for_three_pages(path), suppress(LedgerError):
                await ledger.mend([], mark=True)
                raise AssertionError("there was room")
            assert not any("exchanged" in one.name for one in path.parent.iterdir())
            assert len(await ledger.history()) == 3
        left = killed(path)
        assert await ledger.mend([], mark=True) is False
        assert await ledger.mend([]) is False
        assert await ledger.events.newest(kinds=[Happened.LEDGER_EXCHANGED], limit=1) == []
        assert noted_alone(path)
    async with ledgers(left, "next") as (after,):
        assert await after.open_rotations() == [large, small]
        assert len(await after.history()) == 3


def brought_in(path: Path) -> None:
    """By another process, as far as the disk has room."""
    with room_for_three_pages(path), closing(sqlite3.connect(path)) as theirs, suppress(sqlite3.Error):
        theirs.execute("PRAGMA wal_checkpoint(PASSIVE)")


async def test_half_of_what_another_process_was_to_write_is_nobodys_doing_either(path: Path) -> None:
    async with ledgers(path, "me") as (ledger,):
        large = changed(await claimed(ledger, rotation("1")), note="x" * 600_000)
        await ledger.save(large)
        await ledger.mend([], mark=True)
        small = changed(await claimed(ledger, rotation("3")), note="y" * 200_000)
        await ledger.save(small)
        brought_in(path)
        assert noted_alone(path) == {}
        assert await ledger.mend([]) is False
        assert await ledger.open_rotations() == [large, small]
        assert await ledger.mend([], mark=True) is False
        assert noted_alone(path)


async def test_an_open_row_of_an_old_copy_is_over_where_another_rotation_of_its_server_runs(path: Path) -> None:
    async with ledgers(path, "me") as (ledger,):
        before = await claimed(ledger, rotation(day=0))
        await ledger.mend([before], mark=True)
        kept_copy(path)
        await asyncio.sleep(120)
        await ledger.save(finished(before))
        begun = await claimed(ledger, rotation(day=1))
        await ledger.mend([begun], mark=True)
        written_over(path)
        await ledger.mend([begun])
        await ledger.save(begun)
        assert await ledger.open_rotations() == [begun]


async def test_to_look_into_the_file_lets_go_of_no_lock(path: Path) -> None:
    """Who closes a file lets go of all locks that his process has on it. Then its next user would delete the log."""
    async with ledgers(path, "me") as (ledger,):
        await ledger.mend([], mark=True)
        await claimed(ledger)
        sql(path, "PRAGMA wal_checkpoint")
        await ledger.mend([])
        log = stands_at(path)[1]
        by_another(path, "SELECT * FROM meta")
        assert stands_at(path)[1] == log


# -- put back through SQLite itself ------------------------------------------------------------------------------------


def restored(path: Path) -> None:
    """`sqlite3 state.db ".restore old"`: in a transaction, while the daemon has it open."""
    with closing(sqlite3.connect(path.parent / "old")) as old, closing(sqlite3.connect(path)) as ledger:
        old.backup(ledger)


def backed_up(path: Path) -> None:
    with closing(sqlite3.connect(path)) as ledger, closing(sqlite3.connect(path.parent / "old")) as old:
        ledger.backup(old)


@pytest.mark.parametrize("mark", [True, False])
async def test_what_is_restored_by_sqlite_under_a_process_is_noticed_and_holds_stay(path: Path, mark: bool) -> None:
    async with ledgers(path, "me") as (ledger,):
        begun = await claimed(ledger)
        assert await ledger.mend([begun], mark=True) is False
        backed_up(path)
        await ledger.holds.say(HELD_ONE, {"12345"}, HELD, NOW)
        assert await ledger.mend([begun], mark=True) is False
        restored(path)
        with pytest.raises(LedgerError, match="put back to an older state"):
            await ledger.save(begun, deletion=Deletion(snapshot=HELD_ONE, reason="", listed=(HELD_ONE,)))
        assert await ledger.mend([begun], mark=mark) is True
        assert [one.ids for one in await ledger.holds.said()] == [("77",)]
        assert await ledger.open_rotations() == [begun]
        told, _ = await ledger.events.after(0, limit=9)
        assert told[-1].kind == Happened.LEDGER_EXCHANGED
        assert await ledger.mend([begun], mark=True) is False
        assert await ledger.mend([begun], mark=False) is False


async def test_clocks_that_step_back_make_no_ledger_an_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ledgers(path, "one", "other") as (one, other):
        await claimed(one)
        for back in (0.0, 7.0, 3.0, 0.0, 500.0, 2.0, 86400.0, 0.0):
            monkeypatch.setattr("snaprotd.ledger.files.copies.time.time", lambda back=back: NOW.timestamp() - back)
            for ledger in (other, one):
                assert await ledger.mend([], mark=True) is False
                assert await ledger.mend([], mark=False) is False
