"""Two versions on one ledger, beside each other or one after the other: what one leaves to the other and carries.

The later one is played by SQL: it has columns, tables and fields that this one does not know, and rows that ask for it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from snaprotd.core import power
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.claims import Claimed, ServerBusy, SlotTaken
from snaprotd.ledger.rows import FORMAT, unknown_in
from tests.ledger.test_rows import BODY, LATER
from tests.ledger.test_store import DAY, LEASE, SLOT, claimed, completed, ledgers, rotation, run_out, sql
from tests.support.rotations import changed

pytestmark = pytest.mark.usefixtures("one_clock")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


NEWER = f"UPDATE rotations SET needs = {FORMAT + 1} WHERE is_open"
ALL_OF_IT = "SELECT id, needs, is_open, result, body, epoch, started_at, finished_at FROM rotations ORDER BY rowid"


async def left_by_a_newer_one(path: Path) -> Rotation:
    """A rotation that only a newer snaprotd may go on with, whose process is dead."""
    async with ledgers(path, "newer") as (theirs,):
        begun = await claimed(theirs)
    sql(path, NEWER)
    return begun


async def test_what_only_a_newer_version_may_go_on_with_is_left_alone_and_shown(path: Path) -> None:
    begun = await left_by_a_newer_one(path)
    before = sql(path, ALL_OF_IT)
    async with ledgers(path, "older") as (ours,):
        await run_out(ours)
        with capture_logs() as said:
            assert await ours.take_over() == []
            assert await ours.take_over() == []
        assert [one["rotation"] for one in said if "left to a newer" in one["event"]] == [begun.id]
        assert sql(path, ALL_OF_IT) == before
        words = (
            f"its rotation {begun.id} in the ledger was begun by a newer snaprotd, and is left to one until the next"
        )
        words += " slot"
        assert dict(ours.set_aside) == {begun.server_id: words}
        assert await ours.open_rotations() == []
    async with ledgers(path, "older again") as (ours,):
        assert await ours.take_over() == []
        assert dict(ours.set_aside) == {begun.server_id: words}


async def test_a_newer_one_that_lives_keeps_what_is_its_own(path: Path) -> None:
    async with ledgers(path, "newer", "older") as (theirs, ours):
        begun = await claimed(theirs)
        sql(path, NEWER)
        await asyncio.sleep(LEASE / 2)
        assert await ours.take_over() == []
        assert dict(ours.set_aside) == {}
        assert sql(path, "SELECT owner FROM rotations") == [("newer",)]
        assert await ours.claim(rotation(day=1)) == ServerBusy(begun)


async def test_a_newer_one_goes_on_at_once_with_what_was_left_to_it_and_it_is_shown_no_more(path: Path) -> None:
    begun = await left_by_a_newer_one(path)
    async with ledgers(path, "older", "newer") as (ours, theirs):
        await run_out(ours)
        assert await ours.take_over() == []
        sql(path, f"UPDATE rotations SET needs = {FORMAT}")  # for who knows more
        assert await theirs.take_over() == [begun]
        sql(path, NEWER)
        assert await ours.take_over() == []
        assert dict(ours.set_aside) == {}
        assert sql(path, "SELECT owner, epoch FROM rotations") == [("newer", 2)]


async def test_who_is_alone_leaves_it_too_and_need_not_wait_for_the_lease_of_the_dead(path: Path) -> None:
    begun = await left_by_a_newer_one(path)
    before = sql(path, ALL_OF_IT)
    async with ledgers(path, "older") as (ours,):
        assert await ours.take_over(everything=True) == []
        assert sql(path, ALL_OF_IT) == before
        assert begun.server_id in ours.set_aside
        assert not await ours.starts.is_elsewhere(begun.server_id)


async def test_what_was_left_gives_way_to_the_next_slot_of_its_server_and_not_to_its_own(path: Path) -> None:
    begun = await left_by_a_newer_one(path)
    async with ledgers(path, "older") as (ours,):
        await ours.take_over(everything=True)
        assert await ours.claim(rotation()) == SlotTaken()
        assert await ours.claim(rotation(attempt=2)) == ServerBusy(begun)
        await claimed(ours, rotation("another", day=1))
        assert sql(path, "SELECT count(*) FROM rotations WHERE is_open AND needs > 2") == [(1,)]
        body = sql(path, "SELECT body FROM rotations WHERE id = ?", begun.id)
        with capture_logs() as said:
            await claimed(ours, rotation(day=1))
        assert [one["rotations"] for one in said] == [[begun.id]]
        assert dict(ours.set_aside) == {}
        assert sql(path, "SELECT is_open, result, body FROM rotations WHERE id = ?", begun.id) == [(0, None, *body[0])]
    async with ledgers(path, "newer") as (theirs,):
        assert {one.slot for one in await theirs.take_over(everything=True)} == {SLOT + DAY}


async def test_what_has_failed_under_a_newer_version_is_not_opened_again(path: Path) -> None:
    async with ledgers(path, "newer") as (theirs,):
        failed = await completed(theirs, result=Result.FAILURE)
    sql(path, f"UPDATE rotations SET needs = {FORMAT + 1}")
    async with ledgers(path, "older") as (ours,):
        assert await ours.claim(failed, reopens=True) == SlotTaken()
        sql(path, f"UPDATE rotations SET needs = {FORMAT}")
        assert await ours.claim(failed, reopens=True) == Claimed(failed)


# -- what this version does not know -----------------------------------------------------------------------------------


UNKNOWN: dict[str, Any] = {
    "hooks": ["thaw"],
    "quiesce": {"since": None, "by": "a guest's agent"},
    "policy": {
        "before": "freeze",
        "window_of_month": None,
        "keep": {"centuries": 1},
        "retry": {"until": "PT6H"},
    },
}
"""Fields that a later version may write into a row, each at another depth."""


def deepened(known: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = {name: deepened(known[name], value) for name, value in more.items() if isinstance(known.get(name), dict)}
    return {**known, **more, **both}


async def test_the_row_of_a_later_version_goes_through_the_hands_of_this_one_and_back(path: Path) -> None:
    """Claimed there, taken over, saved and ended here; each column and each field of it is there still."""
    async with ledgers(path, "later") as (theirs,):
        begun = await claimed(theirs)
        await theirs.save(changed(begun, step=Step.STOP, power=power.promised(begun.power, SLOT)))
    sql(path, "ALTER TABLE rotations ADD COLUMN renewals_of_theirs INTEGER NOT NULL DEFAULT 7")
    sql(path, "CREATE TABLE shelves (name TEXT)")
    sql(path, "UPDATE meta SET value = '99' WHERE key = 'schema'")
    body = json.loads(sql(path, "SELECT body FROM rotations")[0][0])
    later = deepened(body, {**UNKNOWN, "policy": {**LATER, **UNKNOWN["policy"]}})
    sql(path, "UPDATE rotations SET body = ?, renewals_of_theirs = 8", json.dumps(later))
    kept = deepened(json.loads(sql(path, "SELECT body FROM powers")[0][0]), UNKNOWN_OF_POWER)
    sql(path, "UPDATE powers SET body = ?", json.dumps(kept))

    async with ledgers(path, "ours") as (ours,):
        (taken,) = await ours.take_over(everything=True)
        assert (taken.id, taken.step) == (begun.id, Step.STOP)
        await ours.save(changed(taken, step=Step.WAIT))
        await ours.save(changed(taken, step=Step.START, power=power.released(taken.power)))
        await ours.release(taken.id)
        (taken,) = await ours.take_over()
        await ours.save(replace(taken, step=Step.DONE, result=Result.SUCCESS, finished_at=SLOT + DAY))
        assert isinstance(await ours.claim(rotation(day=1)), Claimed)

    back = json.loads(sql(path, "SELECT body FROM rotations ORDER BY rowid")[0][0])
    assert unknown_in(json.dumps(back)) == UNKNOWN
    assert (back["step"], back["released"]) == ("done", 1)
    assert {name: back["policy"][name] for name in LATER} == {name: later["policy"][name] for name in LATER}
    assert sql(path, "SELECT renewals_of_theirs FROM rotations ORDER BY rowid") == [(8,), (7,)]
    owed = json.loads(sql(path, "SELECT body FROM powers")[0][0])
    assert owed["power"]["released"] == 1
    assert owed["frozen"] == UNKNOWN_OF_POWER["frozen"]
    assert owed["power"]["quiesced_for"] == 2.5
    assert sql(path, "SELECT value FROM meta WHERE key = 'schema'") == [("99",)]


UNKNOWN_OF_POWER: dict[str, Any] = {"frozen": {"by": "them"}, "power": {"quiesced_for": 2.5}}


@pytest.mark.parametrize("more", [{}, UNKNOWN, {"policy": {"keep": {"last": 3}}}, {"policy": {"retry": None}}])
def test_unknown_is_what_no_field_of_ours_is_called(more: dict[str, Any]) -> None:
    assert unknown_in(json.dumps(deepened(BODY, more))) == (UNKNOWN if more is UNKNOWN else {})
