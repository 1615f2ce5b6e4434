"""What a loss of power may undo: how far a rotation is; nothing that was asked for, is owed, or has become of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.ledger import SAVES
from snaprotd.core import creation, power
from snaprotd.core.power import Power
from snaprotd.core.rotation import Passed, Result, Rotation, Step
from snaprotd.ledger.leases.progress import tells_only_how_far
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.prepared import Statement
from snaprotd.ledger.store import Ledger
from tests.ledger.test_holds import about_to_go
from tests.ledger.test_store import SLOT, claimed, db, ledgers, rotation
from tests.support.databases import Database, PostgresqlDatabase, SqliteDatabase
from tests.support.harms import lose_power, note_begun, note_committed
from tests.support.rotations import changed, flat

__all__ = ["db"]

WAITS = changed(rotation(), step=Step.WAIT, begun=True, creates=1, create_asked=True, snapshot_id="801", asked_ago=9.0)
PROGRESS: dict[str, Any] = {
    "step": Step.PRUNE,
    "waited": 5.0,
    "note": "the snapshot is in progress",
    "trail": (Passed(step=Step.LOOK, seconds=1.0),),
    "was_in_progress": True,
    "unseen": 1.0,
    "asked_ago": 12.0,
    "taken_at": SLOT,
    "took": 300.0,
}
SAME = {"id", "server_id", "label", "slot", "rules", "started_at", "instance"}
"""What never changes."""


def another(value: Any) -> Any:
    """A value of that type, or one where there was none."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if value is None:
        return 7.0
    return ("7",) if isinstance(value, tuple) else "another"


@pytest.mark.parametrize("name", sorted(flat(WAITS).keys() - SAME))
def test_what_tells_more_than_how_far_it_is_lasts(name: str) -> None:
    value = PROGRESS.get(name, another(flat(WAITS)[name]))
    is_of_power = name in {one.name for one in fields(Power)}
    is_power_at_rest = is_of_power and not changed(WAITS, **{name: value}).power.is_followed
    is_progress = name in PROGRESS or (is_power_at_rest and name not in ("asked", "released"))
    assert tells_only_how_far(changed(WAITS, **{name: value}), WAITS) == is_progress


@pytest.mark.parametrize(
    "before",
    [
        None,
        replace(WAITS, power=power.promised(Power(), SLOT)),
        replace(WAITS, power=replace(power.promised(Power(), SLOT), released=1)),
        replace(WAITS, creation=creation.lost(WAITS.creation)),
    ],
    ids=["nobody knows what was saved", "a start is owed", "an old stop may strike", "a request is open"],
)
def test_where_anything_is_open_all_of_it_lasts(before: Rotation | None) -> None:
    now = WAITS if before is None else before
    assert not tells_only_how_far(now, before)
    assert not tells_only_how_far(replace(WAITS, step=Step.DONE), WAITS)
    assert tells_only_how_far(WAITS, WAITS)


class Lagging(Ledger):
    """One that tells which of its transactions a loss of power may undo."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[bool] = []

    @asynccontextmanager
    async def _transaction(self, **how: bool) -> AsyncIterator[Connection]:
        async with super()._transaction(**how) as connection:
            note_begun(Path(self.name), **how) if self._place.is_local else None
            yield connection
        note_committed(Path(self.name), **how)
        if how.get("writes", True):
            self.told.append(not how.get("lasting", True))


async def test_of_a_rotation_in_whose_way_nothing_is_two_saves_may_be_undone(db: Database) -> None:
    async with ledgers(db, "a", kind=Lagging) as (ledger,):
        assert isinstance(ledger, Lagging)
        one, lagging = await claimed(ledger), []
        for name, change in SAVES.items():
            one = change(one)
            await ledger.save(one)
            lagging += [name] * ledger.told[-1]
    assert lagging == ([] if isinstance(db, PostgresqlDatabase) else ["it is listed", "it is completed"])


async def test_a_deletion_lasts_though_nothing_else_has_changed(tmp_path: Path) -> None:
    async with ledgers(SqliteDatabase(tmp_path / "state.db"), "a", kind=Lagging) as (ledger,):
        assert isinstance(ledger, Lagging)
        one = await claimed(ledger)
        await ledger.save(one)
        await ledger.save(one)
        await ledger.save(one, deletion=about_to_go())
        assert ledger.told[-3:] == [False, True, False]


async def test_what_does_not_last_is_not_waited_for_and_what_comes_after_it_is(tmp_path: Path) -> None:
    async with ledgers(SqliteDatabase(tmp_path / "state.db"), "a") as (ledger,):
        for lasting, synchronous in ((True, 2), (False, 1), (True, 2)):  # FULL, NORMAL
            async with ledger._transaction(lasting=lasting) as connection:
                assert await connection.scalar(Statement("PRAGMA synchronous")) == synchronous


async def test_after_a_loss_of_power_it_goes_on_from_what_was_saved_before(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with ledgers(SqliteDatabase(path), "a", kind=Lagging) as (ledger,):
        begun = replace(await claimed(ledger), creation=WAITS.creation, step=Step.WAIT)
        await ledger.save(begun)
        further = replace(begun, step=Step.PRUNE, note="further")
        await ledger.save(further)
        assert await ledger.open_rotations() == [further]
    assert lose_power(path)
    async with ledgers(SqliteDatabase(path), "b") as (ledger,):
        assert await ledger.take_over(everything=True) == [begun]
        ended = replace(begun, step=Step.DONE, result=Result.SUCCESS, finished_at=SLOT + timedelta(minutes=6))
        await ledger.save(ended)
        assert await ledger.open_rotations() == []
