"""Another program keeps the ledger from being written: that is told soon, with its name, and nobody waits in a row."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.store import Ledger
from tests.ledger.test_copies import files_of_at_most
from tests.ledger.test_store import claimed, ledgers, rotation

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """By this process, as if it were another."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def locked_by_another(path: Path) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        yield other.pid
        other.stdin.close()


async def test_of_many_that_want_to_write_one_waits_and_the_others_learn_it_from_him(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start is among them."""
    monkeypatch.setattr("snaprotd.ledger.sqlite.BUSY", 1.0)
    monkeypatch.setattr("snaprotd.ledger.sqlite.A_MOMENT", 0.01)
    async with ledgers(path, "me") as (ledger,):
        begun = [await claimed(ledger, rotation(str(number))) for number in range(20)]
        with locked(path):
            since = time.perf_counter()
            answers = await asyncio.gather(*map(ledger.save, begun), return_exceptions=True)
            assert time.perf_counter() - since < 15  # each for itself would be twenty
            assert {type(one) for one in answers} == {LedgerError}
        await asyncio.gather(*map(ledger.save, begun))
        with locked(path):  # and the next time one waits again
            since = time.perf_counter()
            with pytest.raises(LedgerError):
                await ledger.save(begun[0])
            assert time.perf_counter() - since > 0.9


async def test_who_keeps_it_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snaprotd.ledger.sqlite.BUSY", 0.05)
    async with ledgers(path, "me") as (ledger,):
        with locked_by_another(path) as number:
            with pytest.raises(LedgerError, match=rf"kept from being written by python\S* \(process {number}\)"):
                await ledger.claim(rotation())
            with pytest.raises(LedgerError, match=f"process {number}"):
                await ledger.probe()
        with locked(path), pytest.raises(LedgerError, match="by another program"):
            await ledger.claim(rotation())
        assert isinstance(await ledger.claim(rotation()), Claimed)


async def test_who_only_reads_waits_for_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`snaprotd history` ended with exit code 1."""
    monkeypatch.setattr("snaprotd.ledger.sqlite.BUSY", 0.05)
    async with ledgers(path, "me") as (ledger,):
        begun = await claimed(ledger)
        with locked(path):
            async with await Ledger.open(path, owner="command", lock=False) as command:
                assert await command.history() == [begun]


async def test_a_ledger_that_was_opened_on_a_full_disk_is_shared_when_there_is_space(path: Path) -> None:
    """SQLite cannot make the memory that processes share: until there is space, one has the ledger for itself."""
    async with await Ledger.open(path, owner="before") as ledger:
        await ledger.probe()
    with files_of_at_most(16_384):
        alone = await Ledger.open(path, owner="daemon")
    async with alone:
        with pytest.raises(LedgerError, match="locked"):
            await Ledger.open(path, owner="command")
        assert await alone.probe(mark=True)
        async with await Ledger.open(path, owner="command") as other:
            assert await other.history("12345") == []
            assert await other.probe(mark=True)
            assert await alone.probe(mark=True)
