"""What the ledger knows of snapshots: by which of its rows each is ours, and when it was there to know."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from snaprotd.core.creation import Creation
from snaprotd.core.holds import snapshot_name
from snaprotd.core.model import Snapshot
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.files.copies import Lives
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import SLOT, rotation, sql
from tests.support.nouns import a_snapshot

DAY = timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def taken(day: int, **changes: Any) -> Rotation:
    """A rotation that has taken snapshot 800 and so many."""
    made = rotation(day=day, snapshot_id=str(800 + day), creates=1, create_asked=True, **changes)
    return replace(made, id=f"t{day}")


def shown(day: int, name: str = "") -> Snapshot:
    return a_snapshot(800 + day, name or snapshot_name("main", SLOT + day * DAY), SLOT + day * DAY)


async def test_the_row_of_a_snapshot_that_exists_is_never_forgotten(path: Path) -> None:
    async with await Ledger.open(path, owner="a") as ledger:
        for day in range(8):
            await ledger.claim(taken(day))
            await ledger.save(replace(taken(day), step=Step.DONE, result=Result.SUCCESS, finished_at=SLOT + day * DAY))
        exist = [shown(0), shown(1, "renamed"), shown(2)]
        rows = (await ledger.recall(["12345"], exist, SLOT)).rows_of(exist, "main")
        assert rows == {"t0", "t1", "t2"}
        await ledger.forget_old(rows, keep=3)
        assert {one.id for one in await ledger.history(limit=50)} == {"t0", "t1", "t2", "t5", "t6", "t7"}


async def test_what_a_row_tells_of_its_snapshot_is_recalled(path: Path) -> None:
    async with await Ledger.open(path, owner="a") as ledger:
        await ledger.claim(taken(0))
        (told,) = (await ledger.recall(["u-1", "12345"], [shown(0)], SLOT)).traces
        assert (told.snapshot_id, told.has_more, told.is_open) == ("800", False, True)
        await ledger.save(taken(0, passed_over=("7",)))
        (told,) = (await ledger.recall(["12345"], [shown(0, "renamed")], SLOT)).traces
        assert told.passed_over == {"7"}
        for ids, listed in ((["12345"], [shown(1)]), (["777"], [shown(0)]), (["12345"], [])):
            assert (await ledger.recall(ids, listed, SLOT)).traces == ()


@pytest.mark.parametrize("body", ["not JSON", "[]", '{"creates": "many"}'])
async def test_a_damaged_row_may_have_taken_whatever_bears_its_slot(path: Path, body: str) -> None:
    async with await Ledger.open(path, owner="a") as ledger:
        await ledger.claim(taken(0))
        await ledger.probe()
        sql(path, "UPDATE rotations SET body = ?", body)
        (marked,) = (await ledger.recall(["12345"], [shown(0)], SLOT)).marked([shown(0)], "main")
        assert marked.in_ledger


async def test_a_look_whether_the_ledger_can_be_written_leaves_a_mark_of_life(path: Path) -> None:
    async with await Ledger.open(path, owner="a") as ledger:
        assert (await ledger.recall([], [], datetime.now(UTC))).lives == ()
        for _ in range(3):
            await ledger.probe()
            await asyncio.sleep(15)
        (life,) = (await ledger.recall([], [], datetime.now(UTC))).lives
        assert life.end - life.begin >= timedelta(seconds=44)
        sql(path, "UPDATE meta SET value = 'damaged' WHERE key = 'lives'")
        assert (await ledger.recall([], [], datetime.now(UTC))).lives == ()
        await ledger.probe()
        assert len((await ledger.recall([], [], datetime.now(UTC))).lives) == 1


# -- dates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [None, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
async def test_a_date_that_cannot_be_is_the_one_that_an_earlier_list_showed(path: Path, told: datetime | None) -> None:
    made = taken(0, taken_at=SLOT)
    async with await Ledger.open(path, owner="a") as ledger:
        await ledger.claim(made)
        await ledger.save(replace(made, step=Step.DONE, result=Result.SUCCESS, finished_at=SLOT))
        odd, others = replace(shown(0), created_at=told), replace(shown(0), id="7", created_at=told)
        renamed = replace(odd, name="renamed")
        for one, known in ((odd, SLOT), (others, told), (renamed, told), (shown(0), SLOT)):
            (marked,) = (await ledger.recall(["12345"], [one], SLOT)).marked([one], "main")
            assert marked.created_at == known


# -- an old copy -------------------------------------------------------------------------------------------------------


def copied(path: Path, name: str) -> Path:
    copy = path.with_name(name)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def put_back(copy: Path, path: Path) -> None:
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()
    copy.rename(path)


async def alive_twenty_seconds_later(path: Path) -> bool:
    """Whether a ledger that is opened then was there all the time."""
    await asyncio.sleep(20)
    async with await Ledger.open(path, owner="b") as ledger:
        before = (await ledger.recall([], [], datetime.now(UTC))).lives
        await ledger.probe()
        after = (await ledger.recall([], [], datetime.now(UTC))).lives
    assert len(before) == len(after)
    return len(after) == 1


async def test_a_copy_that_lacks_a_claim_or_a_request_is_cut_off_where_it_was_taken(path: Path) -> None:
    async with await Ledger.open(path, owner="a") as ledger:
        await ledger.probe()
        before = copied(path, "before")
        await ledger.claim(replace(taken(0), creation=Creation()))
        claimed = copied(path, "claimed")
        await ledger.save(replace(taken(0), creation=Creation(creates=1, create_open=0.0)))
        asked = copied(path, "asked")
        await ledger.save(taken(0))
    put_back(asked, path)
    assert await alive_twenty_seconds_later(path)
    for lacking in (before, claimed):
        put_back(lacking, path)
        assert not await alive_twenty_seconds_later(path)


@pytest.mark.parametrize("left", [None, b"", b"\xff\xfe", b"9" * 5000, b"-3"])
async def test_without_what_is_counted_beside_it_a_ledger_is_believed_as_it_is(path: Path, left: bytes | None) -> None:
    async with await Ledger.open(path, owner="a") as ledger:
        await ledger.probe()
        begun = rotation(day=0)
        await ledger.claim(begun)
        await ledger.save(replace(begun, creation=Creation(creates=1, create_open=0.0)))
    beside = path.with_name("counted-by-state.db")
    assert beside.read_text() == "2"
    beside.unlink() if left is None else beside.write_bytes(left)
    assert await alive_twenty_seconds_later(path)


async def test_a_process_knows_what_it_has_counted_where_all_that_is_beside_the_ledger_is_old_too(path: Path) -> None:
    async with await Ledger.open(path, owner="a") as ledger:
        await ledger.probe()
        old = copied(path, "old")
        await ledger.claim(rotation(day=0))
        path.with_name("counted-by-state.db").unlink(missing_ok=True)
        with closing(sqlite3.connect(old)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
        await ledger.probe()
        assert len((await ledger.recall([], [], datetime.now(UTC))).lives) == 2


async def test_what_is_counted_at_once_is_noted_beside_the_ledger_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    monkeypatch.setattr("snaprotd.ledger.files.copies.write_anew", lambda _, text, **__: noted.append(text))
    lives = Lives(path, cast(Events, None))
    await asyncio.gather(*(lives.note(count) for count in range(1, 101)))
    assert noted == ["1", "100"]


async def test_a_mere_claim_is_counted_and_noted_with_the_request_that_comes_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    monkeypatch.setattr("snaprotd.ledger.files.copies.write_anew", lambda _, text: noted.append(text))
    async with await Ledger.open(path, owner="a") as ledger:
        begun = rotation(day=0)
        await ledger.claim(begun)
        assert noted == []
        await ledger.save(replace(begun, creation=Creation(creates=1, create_open=0.0)))
    assert noted == ["2"]


async def test_a_note_that_failed_is_made_for_the_next_one_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []

    def fail(_: Path, text: str, **__: bool) -> None:
        noted.append(text)
        raise OSError

    monkeypatch.setattr("snaprotd.ledger.files.copies.write_anew", fail)
    lives = Lives(path, cast(Events, None))
    await asyncio.gather(*(lives.note(count) for count in (1, 2, 3)))
    assert noted == ["1", "3", "3"]


async def test_where_it_cannot_be_counted_beside_the_ledger_that_holds_nothing_up(path: Path) -> None:
    path.with_name("counted-by-state.db").mkdir()
    async with await Ledger.open(path, owner="a") as ledger:
        await ledger.claim(rotation(day=0))
        assert len(await ledger.open_rotations()) == 1
