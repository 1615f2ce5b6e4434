"""The copy of each promise beside the ledger, and what it still tells when the ledger's file does not."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from snaprotd.core import power
from snaprotd.core.errors import LedgerError
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower, Terms
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.files.copies import Copies
from snaprotd.ledger.promises import row_of
from snaprotd.ledger.salvage import NoLedger, salvaged
from snaprotd.ledger.store import Ledger
from tests.support.daemons import Line, logged
from tests.support.harms import delete_ledger, edit

NOW = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
OWED = ServerPower(
    account="vps.invalid",
    server_id="12345",
    label="web",
    power=power.promised(Power(), NOW),
    terms=Terms(base_url="https://vps.invalid/api/v1", token_file="/etc/snaprotd/token"),
)
NOBODY = 65534
PAID = replace(OWED, power=replace(power.released(OWED.power), unstruck=False))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "owed-by-state.db"


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def blocked(folder: Path) -> None:
    folder.touch()


async def opened(path: Path) -> Ledger:
    return await Ledger.open(path, owner="one")


async def owing(path: Path) -> None:
    async with await opened(path) as ledger:
        await ledger.starts.save(OWED)


def overwritten(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 200)


def without_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(100))


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    delete_ledger(path)
    path.touch()


def made_a_folder(path: Path) -> None:
    delete_ledger(path)
    path.mkdir()


def made_a_pipe(path: Path) -> None:
    delete_ledger(path)
    os.mkfifo(path)


LOSSES = pytest.mark.parametrize(
    "lose", [overwritten, without_header, cut_in_half, emptied, delete_ledger, Path.unlink, made_a_folder, made_a_pipe]
)


@LOSSES
async def test_a_promise_outlives_whatever_becomes_of_the_ledgers_file(
    path: Path, lose: Callable[[Path], None]
) -> None:
    await owing(path)
    lose(path)
    (found,) = salvaged(path)
    assert (found.server_id, found.label, found.terms, found.power.is_payable) == ("12345", "web", OWED.terms, True)


@pytest.mark.parametrize("lose", [emptied, delete_ledger])
async def test_a_new_ledger_owes_at_once_what_the_lost_one_owed(path: Path, lose: Callable[[Path], None]) -> None:
    await owing(path)
    lose(path)
    async with await opened(path) as ledger:
        assert [record.label for record in await ledger.starts.owed()] == ["web"]


async def test_an_old_copy_of_the_ledger_owes_what_was_promised_since(path: Path, tmp_path: Path) -> None:
    async with await opened(path) as ledger:
        await ledger.starts.save(PAID)
    shutil.copy(path, path.with_name("old"))
    async with await opened(path) as ledger:
        await ledger.starts.save(replace(OWED, power=power.promised(PAID.power, NOW)))
    path.with_name("old").replace(path)
    async with await opened(path) as ledger:
        assert [record.power.asked for record in await ledger.starts.owed()] == [2]


async def test_a_copy_is_deleted_when_the_ledger_has_it_that_nothing_is_owed(path: Path, folder: Path) -> None:
    await owing(path)
    assert [file.name[:6] for file in files(folder)] == ["12345-"]
    async with await opened(path) as ledger:
        await ledger.starts.save(PAID)
    assert folder not in files(path.parent)


async def test_what_is_paid_while_the_ledger_cannot_be_written_is_not_owed_by_it_again(path: Path) -> None:
    await owing(path)
    none = NoLedger(path, "a disk that is full")
    with pytest.raises(LedgerError):
        await none.starts.save(PAID)
    await none.close()
    assert salvaged(path) == []
    async with await opened(path) as ledger:
        assert await ledger.starts.owed() == []


async def test_two_processes_that_keep_one_copy_lose_nothing_of_the_later_stop(path: Path) -> None:
    later = replace(OWED, power=power.promised(PAID.power, NOW))
    await Copies(path).keep(later, told=True)
    for record, told in ((OWED, True), (PAID, True), (PAID, False)):
        await Copies(path).keep(record, told=told)
        (copy,) = Copies(path).read()
        assert (copy.power.asked, copy.power.held_off) == (2, True)


async def test_servers_of_two_accounts_with_one_id_have_two_copies(path: Path) -> None:
    for account in ("one.invalid", "two.invalid"):
        await Copies(path).keep(replace(OWED, account=account), told=True)
    assert {copy.account for copy in Copies(path).read()} == {"one.invalid", "two.invalid"}


@pytest.mark.parametrize("server_id", ["../../etc/passwd", "a/b", "x" * 64, "ä" * 64, "", "."])
async def test_an_id_of_any_kind_names_a_file_in_the_folder(path: Path, folder: Path, server_id: str) -> None:
    await Copies(path).keep(replace(OWED, server_id=server_id), told=True)
    assert [copy.server_id for copy in Copies(path).read()] == [server_id]
    assert [file.parent for file in files(folder)] == [folder]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"asked": 1}'])
async def test_a_copy_that_cannot_be_read_is_told_and_hides_no_other(
    path: Path, folder: Path, text: bytes, log: list[Line]
) -> None:
    await Copies(path).keep(OWED, told=True)
    (folder / "0-damaged.json").write_bytes(text)
    assert [copy.server_id for copy in Copies(path).read()] == ["12345"]
    (line,) = logged(log, "the copy of a promise cannot be read: look whether its server runs")
    assert line["file"] == "0-damaged.json"


async def test_a_copy_is_on_the_disk_before_it_stands_in_its_place(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: there.extend(file.name for file in files(folder)))
    await Copies(path).keep(OWED, told=True)
    (name,) = there
    assert f".json.{os.getpid()}." in name
    assert [file.suffix for file in files(folder)] == [".json"]


async def test_a_copy_that_cannot_be_written_keeps_nobody_from_promising(
    path: Path, folder: Path, log: list[Line]
) -> None:
    blocked(folder)
    await owing(path)
    assert [found.label for found in salvaged(path)] == ["web"]
    assert len(logged(log, "a promise has no copy beside the ledger")) == 1


async def test_what_another_process_may_be_writing_again_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so within seconds of the loss; it may need its server off."""
    await owing(path)
    async with await opened(path) as ledger:
        edit(path, "DELETE FROM powers")
        assert [record.label for record in await ledger.starts.take_in()] == ["web"]
        assert [record.label for record in await ledger.starts.take_in()] == ["web"]
        assert await ledger.starts.owed() == []
        monkeypatch.setattr("snaprotd.ledger.starts.TOLD_WITHIN", 0.0)
        assert await ledger.starts.take_in() == []
        assert [record.label for record in await ledger.starts.owed()] == ["web"]


async def test_a_row_that_is_whole_again_is_not_taken_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snaprotd.ledger.starts.TOLD_WITHIN", 0.0)
    await owing(path)
    async with await opened(path) as ledger:
        known = await ledger.starts.kept("vps.invalid", "12345")
        assert await ledger.starts.take_in() == []
        assert await ledger.starts.kept("vps.invalid", "12345") == known


async def test_a_later_stop_counts_though_the_ledger_that_was_put_back_counts_further(path: Path) -> None:
    """The ledger was lost once, and counted from one again; then the old one was put back while a server was off."""
    old = replace(OWED, power=replace(PAID.power, asked=5, released=5))
    async with await opened(path) as ledger:
        await ledger.starts.save(old)
    later = replace(OWED, power=power.promised(Power(), NOW + timedelta(days=1)))
    await Copies(path).keep(later, told=True)
    assert [record.power.is_owed for record in salvaged(path)] == [True]
    async with await opened(path) as ledger:
        assert [(record.power.asked, record.power.released) for record in await ledger.starts.owed()] == [(6, 5)]


async def test_what_only_a_copy_tells_can_be_let_go(path: Path) -> None:
    await Copies(path).keep(OWED, told=False)
    none = NoLedger(path, "there is none")
    none.starts.account = OWED.account
    assert await none.starts.let_go("12345", "by a person") is not None
    with pytest.raises(LedgerError):
        await none.starts.let_go("12345", "by a person")
    await none.close()
    assert salvaged(path) == []
    async with await opened(path) as ledger:
        assert await ledger.starts.owed() == []


def a_fifo(file: Path) -> None:
    os.mkfifo(file)


def a_large_number(file: Path) -> None:
    file.write_text(json.dumps({**row_of(OWED), "asked": 10**30, "server_id": "1", "body": "{"}))


def a_time_without_zone(file: Path) -> None:
    row = row_of(OWED)
    file.write_text(json.dumps({**row, "body": row["body"].replace("Z", "")}))


@pytest.mark.parametrize("put", [a_fifo, a_large_number, a_time_without_zone])
async def test_an_odd_copy_keeps_nobody_from_the_others(path: Path, folder: Path, put: Callable[[Path], None]) -> None:
    await Copies(path).keep(OWED, told=True)
    put(folder / "0-odd.json")
    async with await opened(path) as ledger:
        owed = {record.server_id: record.power for record in await ledger.starts.owed()}
        assert "12345" in owed
        assert all(one.held_off_since is None or one.held_off_since.tzinfo is not None for one in owed.values())


async def test_copies_that_cannot_be_read_are_told_with_the_ledger_that_cannot_be_written(
    path: Path, folder: Path
) -> None:
    await owing(path)
    async with await opened(path) as ledger:
        await ledger.probe()
        (folder / "0-damaged.json").touch()
        with pytest.raises(LedgerError, match="look whether its server runs"):
            await ledger.probe()
        shutil.rmtree(folder)
        blocked(folder)
        with pytest.raises(LedgerError, match="cannot be read"):
            await ledger.probe()
        assert [record.label for record in await ledger.starts.owed()] == ["web"]


@contextmanager
def nobodys() -> Iterator[Path]:
    """A folder of nobody's, whom we are meanwhile: root may write everywhere."""
    was = os.geteuid()
    with TemporaryDirectory() as name:
        if was == 0:
            os.chown(name, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(was)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full, no more of any file can be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_folder_that_turns_unwritable_is_told_though_the_open_database_does_not_notice(path: Path) -> None:
    async with await opened(path) as ledger:
        assert await ledger.probe()  # all is loaded by now: nobody may read no module of root's
    with nobodys() as folder:
        async with await opened(folder / "state.db") as ledger:
            assert await ledger.probe()
            folder.chmod(0o500)
            try:
                with pytest.raises(LedgerError, match=f"{folder} cannot be written: Permission denied"):
                    await ledger.probe()
                await ledger.set_marks([Mark(server_id="1", seen_until=NOW, schedule="@daily")])
            finally:
                folder.chmod(0o700)
            assert await ledger.probe()


def test_a_disk_on_which_no_block_is_left_is_told(path: Path) -> None:
    with files_of_at_most(1000), pytest.raises(LedgerError, match=f"{path.parent} cannot be written"):
        Copies(path).demand()
    Copies(path).demand()
    assert files(path.parent) == []


async def test_a_copy_that_says_what_the_ledger_does_is_not_written_again_by_who_comes_next(
    path: Path, folder: Path
) -> None:
    async with await opened(path) as ledger:
        await ledger.starts.save(OWED)
    (copy,) = files(folder)
    before = copy.stat().st_ino
    async with await opened(path) as ledger:
        await ledger.starts.take_in()
        assert copy.stat().st_ino == before
        await ledger.starts.save(replace(OWED, power=power.lost(power.start_promised(OWED.power))))
        assert copy.stat().st_ino == before, "nothing that counts has changed"
        await ledger.starts.save(replace(OWED, let_go="by hand"))
    assert copy.stat().st_ino != before


async def test_a_copy_that_is_read_often_is_read_anew_where_it_was_changed(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaprotd.ledger.files.copies.A_WHILE", -1e12)
    async with await opened(path) as ledger:
        await ledger.starts.save(OWED)
        copies = ledger.starts.copies
        assert [one.label for one in copies.read()] == ["web"]
        (copy,) = files(folder)
        copy.write_text(json.dumps(row_of(replace(OWED, label="renamed"))))
        assert [one.label for one in copies.read()] == ["renamed"]
        copy.write_text("{")
        with pytest.raises(LedgerError, match="cannot be read"):
            copies.demand()
        copy.unlink()
        assert copies.read() == []
