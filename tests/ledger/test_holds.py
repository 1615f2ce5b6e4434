"""What persons say of holding snapshots: it is read where it counts, and nobody is told of a hold in vain."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.core.errors import DeletionUnderWay, HeldSince
from snaprotd.core.holds import FOREVER, RELEASED, hold_of, snapshot_name
from snaprotd.core.model import Snapshot
from snaprotd.core.rotation import Rotation, Step
from snaprotd.core.telling.entries import Deletion
from snaprotd.ledger.rows import needs_of
from snaprotd.ledger.sql.schema import SCHEMA_VERSION
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import SLOT, claimed, finished, ledgers, rotation, sql
from tests.support.nouns import a_snapshot

NOW = datetime(2025, 1, 17, 12, 0, tzinfo=UTC)
UNTIL = date(2025, 1, 22)
IDS = ("12345",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def about_to_go() -> Deletion:
    return Deletion(snapshot=snapshot(), reason="over keep 4", listed=[snapshot()])


def snapshot(its_id: str = "801", hold: date | None = None) -> Snapshot:
    return a_snapshot(its_id, snapshot_name("main", SLOT, hold), SLOT)


async def held(ledger: Ledger, one: Snapshot) -> date | None:
    """Until when a rotation that looks now finds it to be held."""
    (marked,) = (await ledger.recall(IDS, [one], NOW)).marked([one], "main")
    return hold_of(marked, NOW)


async def test_the_last_word_counts_whoever_said_it(path: Path) -> None:
    async with ledgers(path, "a", "b") as (ours, theirs):
        for until, told in ((UNTIL, UNTIL), (FOREVER, FOREVER), (RELEASED, None), (UNTIL, UNTIL)):
            await ours.holds.say(snapshot(), IDS, until, NOW)
            assert await held(theirs, snapshot()) == told
        await ours.holds.say(snapshot("802", FOREVER), IDS, RELEASED, NOW)
        assert await held(theirs, snapshot("802", FOREVER)) is None
        assert await held(theirs, snapshot("803", FOREVER)) == FOREVER
        assert {hold.ids for hold in await theirs.holds.said()} == {("801",), ("802",)}


async def test_it_is_known_by_any_id_that_it_had_then(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        await ours.holds.say(replace(snapshot("u-1"), also=("801",), server_id="u-server"), IDS, UNTIL, NOW)
        for one in (snapshot("801"), snapshot("u-1"), replace(snapshot("u-2"), also=("u-1",))):
            assert await held(ours, one) == UNTIL


async def test_the_last_word_counts_though_all_ids_have_changed_their_form(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        await ours.holds.say(snapshot(), IDS, UNTIL, NOW)
        assert await held(ours, snapshot("u-1")) == UNTIL
        await ours.holds.say(snapshot("u-1"), IDS, RELEASED, NOW)
        assert await held(ours, snapshot("u-1")) is None


async def test_what_was_damaged_holds_for_ever(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        await ours.holds.say(snapshot(), IDS, RELEASED, NOW)
        sql(path, "UPDATE holds SET until = 'soon', ids = '{'")
        assert await held(ours, snapshot()) == FOREVER


async def test_no_intent_to_delete_is_saved_of_what_is_held_since_the_look(path: Path) -> None:
    async with ledgers(path, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        await theirs.holds.say(snapshot(), IDS, date(9999, 12, 30), NOW)
        with pytest.raises(HeldSince, match="is held until 9999-12-30 since a moment ago: it is not deleted"):
            await ours.save(
                replace(begun, deleting=("801",)),
                deletion=about_to_go(),
            )
        assert [one.deleting for one in await ours.open_rotations()] == [()]
        await theirs.holds.say(snapshot(), IDS, RELEASED, NOW)
        await ours.save(
            replace(begun, deleting=("801",)),
            deletion=about_to_go(),
        )
        assert [one.deleting for one in await ours.open_rotations()] == [("801",)]


MINUTE = timedelta(minutes=1)
BEGUN = rotation(step=Step.PRUNE)


@pytest.mark.parametrize(
    ("row", "may_be_gone"),
    [
        (replace(BEGUN, deleting=("801",)), True),
        (replace(BEGUN, deleted=("801",)), True),
        (finished(replace(BEGUN, undeletable=("801",)), at=NOW - MINUTE), True),
        (finished(replace(BEGUN, undeletable=("801",)), at=NOW - 9 * MINUTE), False),
        (replace(BEGUN, deleting=("802",)), False),
        (BEGUN, False),
    ],
)
async def test_what_may_be_gone_in_a_moment_is_not_held(path: Path, row: Rotation, may_be_gone: bool) -> None:
    async with ledgers(path, "a", "b") as (ours, theirs):
        await claimed(ours, BEGUN)
        await ours.save(row)
        if may_be_gone:
            with pytest.raises(DeletionUnderWay, match="has just asked for the deletion of snaprotd-main-2025"):
                await theirs.holds.say(snapshot(), IDS, UNTIL, NOW)
        else:
            await theirs.holds.say(snapshot(), IDS, UNTIL, NOW)
        assert await held(theirs, snapshot()) == (None if may_be_gone else UNTIL)
        await theirs.holds.say(snapshot(), IDS, RELEASED, NOW)


async def test_an_older_ledger_goes_on_and_once_something_is_held_no_older_version_uses_it(path: Path) -> None:
    async with ledgers(path, "a") as (ours,):
        begun = await claimed(ours)
    sql(path, "DROP TABLE holds")
    sql(path, "UPDATE meta SET value = '2' WHERE key = 'schema'")
    async with ledgers(path, "b") as (ours,):
        assert await ours.take_over(everything=True) == [begun]
        assert sql(path, "SELECT value FROM meta WHERE key IN ('schema', 'readable_by') ORDER BY key DESC") == [
            (str(SCHEMA_VERSION),),
            ("2",),
        ]
        await ours.holds.say(snapshot(), IDS, UNTIL, NOW)
    sql(path, "DROP TABLE events")
    sql(path, "UPDATE meta SET value = '3' WHERE key = 'schema'")
    async with ledgers(path, "c"):
        pass
    assert sql(path, "SELECT value FROM meta WHERE key = 'readable_by'") == [("3",)]


async def test_a_rotation_whose_snapshot_is_held_by_name_needs_a_version_that_knows_such_names(path: Path) -> None:
    by_name = replace(rotation(), snapshot_name=snapshot_name("main", SLOT, UNTIL))
    async with ledgers(path, "a") as (ours,):
        await claimed(ours, by_name)
        assert (needs_of(by_name), needs_of(rotation())) == (2, 1)
        assert sql(path, "SELECT needs FROM rotations") == [(2,)]


async def test_a_name_that_was_cut_short_does_not_end_the_hold_that_its_row_has(path: Path) -> None:
    made = rotation(snapshot_id="801", creates=1, create_asked=True)
    async with ledgers(path, "a") as (ours,):
        await claimed(ours, replace(made, snapshot_name=snapshot_name("main", SLOT, UNTIL)))
        assert await held(ours, snapshot()) == UNTIL
        sql(path, "UPDATE rotations SET body = ?", json.dumps({"creates": 1, "snapshot_id": "801"}))
        assert await held(ours, snapshot()) is None
