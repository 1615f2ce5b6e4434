"""What is owed to servers, as the ledger tells it to rotations and to other processes."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.core import power
from snaprotd.core.policy import Rules
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.claims import Claimed, SlotTaken
from snaprotd.ledger.leases.others import MARGIN
from snaprotd.ledger.salvage import salvaged
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.store import Ledger
from tests.support.policies import a_policy
from tests.support.rotations import changed

SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
BEGUN = Rotation.begin(
    id="r1", server_id="12345", label="web", slot=SLOT, rules=Rules(policy=a_policy()), now=SLOT, settle=40.0
)


async def test_a_rotation_begins_with_what_is_remembered_of_its_servers_power(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        record = ledger.starts.record_of(changed(BEGUN, held_off=True, stop_age=7.0))
        await ledger.starts.save(record)
        claim = await ledger.claim(BEGUN)
        assert isinstance(claim, Claimed)
        assert claim.rotation.power == record.power


async def test_what_a_rotation_promises_is_kept_with_its_server_and_in_a_copy(tmp_path: Path) -> None:
    promised = changed(BEGUN, held_off=True)
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        assert isinstance(await ledger.claim(BEGUN), Claimed)
        await ledger.save(promised)
        assert await ledger.starts.owed() == [ledger.starts.record_of(promised)]
        assert ledger.starts.copies.read() == [ledger.starts.record_of(promised)]


async def test_all_who_wait_to_read_a_servers_power_have_one_turn_together(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        record = ledger.starts.record_of(changed(BEGUN, held_off=True, stop_age=7.0))
        await ledger.starts.save(record)
        transaction, turns = ledger.starts._transaction, []

        def counted(**how: bool) -> AbstractAsyncContextManager[Connection]:
            turns.append(how)
            return transaction(**how)

        ledger.starts._transaction = counted
        asked = [asyncio.create_task(ledger.starts.kept("", one)) for one in ("12345", "12346") * 20]
        given_up = asyncio.create_task(ledger.starts.kept("", "12345"))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await asyncio.gather(*asked) == [record, None] * 20
        assert turns == [{"writes": False, "urgent": True}]
        assert await ledger.starts.kept("", "12345") == record, "and whoever comes later has another"
        assert len(turns) == 2


# -- one server by several ids -----------------------------------------------------------------------------------------

TEXT = "0b9c-u"
BOTH = frozenset({"12345", TEXT})


def by_both(ledger: Ledger) -> None:
    """As where both ids are known for one server's."""
    ledger.starts.account = "vps.invalid"
    ledger.starts.ids_of = lambda one: BOTH if one in BOTH else frozenset({one})


async def test_what_is_owed_under_one_id_of_a_server_is_owed_once_and_paid_under_another(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with await Ledger.open(path, owner="one") as ledger:
        await ledger.starts.save(stopped(1))
        by_both(ledger)
        claim = await ledger.claim(replace(BEGUN, server_id=TEXT))
        assert isinstance(claim, Claimed)
        assert claim.rotation.power.is_owed
        await ledger.save(replace(claim.rotation, power=power.promised(claim.rotation.power, SLOT)))
        (owed,) = await ledger.starts.owed()
        (copy,) = ledger.starts.copies.read()
        assert owed.ids == copy.ids == BOTH
        (kept,) = salvaged(path)
        await ledger.starts.save(replace(kept, power=replace(power.released(kept.power), unstruck=False)))
        assert await ledger.starts.owed() == await ledger.starts.followed() == []
        assert ledger.starts.copies.read() == salvaged(path) == []


async def test_the_ids_of_a_server_outlive_the_process_that_learnt_them(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        ledger.starts.learn_ids(BOTH)
        await ledger.starts.note_ids()
        await ledger.starts.save(stopped(1).known_by({"777"}))
    async with await Ledger.open(tmp_path / "state.db", owner="two") as ledger:
        assert set(await ledger.starts.ids_noted()) == {BOTH, frozenset({"12345", "777"})}
        await ledger.starts.go_by_noted_ids()
        assert ledger.starts.ids_of(TEXT) == BOTH


async def test_a_slot_that_was_run_under_one_id_of_a_server_is_taken_under_another(tmp_path: Path) -> None:
    ended = replace(BEGUN, step=Step.DONE, result=Result.SUCCESS, finished_at=SLOT)
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        assert isinstance(await ledger.claim(BEGUN), Claimed)
        await ledger.save(ended)
        by_both(ledger)
        assert isinstance(await ledger.claim(replace(BEGUN, id="r2", server_id=TEXT)), SlotTaken)
        assert [one.id for one in await ledger.history(TEXT)] == ["r1"]


# -- one record, told by several ---------------------------------------------------------------------------------------


def stopped(number: int, *, paid: int = 0, at: datetime = SLOT, account: str = "vps.invalid") -> ServerPower:
    """The record after so many stops, the last of them at that time; so many were paid."""
    told = Power(asked=number, released=paid, held_off_since=at)
    return ServerPower(account=account, server_id="12345", label="web", power=told)


@pytest.mark.parametrize(
    ("first", "then", "merged"),
    [
        (stopped(2, paid=1), stopped(1, paid=1), stopped(2, paid=1)),
        (stopped(1, paid=1), stopped(2), stopped(2, paid=1)),
        (stopped(2, paid=2), stopped(2, paid=1), stopped(2, paid=2)),
    ],
    ids=["an older stop", "a later stop, by who has not heard of the payment", "the same stop, unpaid still"],
)
async def test_of_two_records_in_one_row_the_later_stop_counts_and_what_was_paid_stays_paid(
    tmp_path: Path, first: ServerPower, then: ServerPower, merged: ServerPower
) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        await ledger.starts.save(first)
        await ledger.starts.save(then)
        assert await ledger.starts.kept("vps.invalid", "12345") == merged


@pytest.mark.parametrize(("earlier", "inherited"), [(timedelta(hours=1), False), (timedelta(hours=-1), True)])
async def test_what_another_ledger_owes_is_owed_unless_this_one_knows_of_a_later_stop(
    tmp_path: Path, earlier: timedelta, inherited: bool
) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        ledger.starts.account = "vps.invalid"
        await ledger.starts.save(stopped(4, paid=4))
        await ledger.starts.inherit(stopped(1, at=SLOT - earlier))
        assert len(await ledger.starts.owed()) == inherited


async def test_the_server_of_another_account_is_not_looked_for_in_this_one(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        await ledger.starts.save(stopped(1))
        ledger.starts.account = "another.invalid"
        assert await ledger.starts.followed() == []
        ledger.starts.account = "vps.invalid"
        assert await ledger.starts.followed() == [stopped(1)]


@pytest.mark.parametrize("damage", ["released = 'x', is_followed = 0", "asked = 'x', body = 'x'"])
async def test_a_row_of_which_no_part_says_that_nothing_is_owed_owes_a_start(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.db"
    async with await Ledger.open(path, owner="one") as ledger:
        ledger.starts.account = "vps.invalid"
        await ledger.starts.save(stopped(1))
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE powers SET {damage}")
        (record,) = await ledger.starts.followed()
        assert record.power.held_off


# -- who sees to it ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_clock")
async def test_a_server_whose_rotation_lives_elsewhere_is_left_to_it_until_a_while_after_its_lease(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    async with await Ledger.open(path, owner="one") as ours, await Ledger.open(path, owner="two") as theirs:
        assert isinstance(await theirs.claim(BEGUN), Claimed)
        await theirs.save(changed(BEGUN, step=Step.WAIT, held_off=True))
        await asyncio.sleep(10 * theirs.lease)
        assert await ours.starts.followed() == []
        assert [one.server_id for one in await theirs.starts.followed()] == ["12345"]
        await asyncio.sleep(theirs.lease + MARGIN)
        assert await ours.starts.followed(grace=30.0) == []
        assert [one.server_id for one in await ours.starts.followed()] == ["12345"]
        await asyncio.sleep(30.0)
        assert [one.server_id for one in await ours.starts.followed(grace=30.0)] == ["12345"]


FIRST = power.promised(Power(), SLOT)
SEEN_OFF = replace(FIRST, went_off=True, went_off_at=SLOT + timedelta(seconds=20), stop_age=20.0)
SECOND = power.promised(replace(FIRST, released=1), SLOT + timedelta(hours=6))


@pytest.mark.parametrize(
    ("ours", "there", "lacks", "after"),
    [
        (SEEN_OFF, None, True, SEEN_OFF),
        (SEEN_OFF, Power(), True, SEEN_OFF),
        (SECOND, SEEN_OFF, True, SECOND),
        (SECOND, power.released(SEEN_OFF), True, SECOND),
        (FIRST, SEEN_OFF, False, SEEN_OFF),
        (SEEN_OFF, SECOND, False, SECOND),
        (SEEN_OFF, power.released(SEEN_OFF), False, power.released(SEEN_OFF)),
        (power.released(SEEN_OFF), SEEN_OFF, True, power.released(SEEN_OFF)),
        (replace(FIRST, held_off_since=SLOT + timedelta(hours=6)), power.released(SEEN_OFF), True, None),
    ],
    ids=[
        "nothing is there",
        "nothing of a stop is there",
        "an earlier stop is owed there",
        "an earlier stop was paid there",
        "the same stop is there, and more was seen of it",
        "a later stop is there",
        "it was paid there, or let go",
        "it was paid here",
        "it counts from one again, and a later stop is ours",
    ],
)
async def test_what_a_process_knows_to_be_owed_is_owed_and_nothing_older_comes_over_what_others_know(
    tmp_path: Path, ours: Power, there: Power | None, lacks: bool, after: Power | None
) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        record = ledger.starts.record_of(replace(BEGUN, power=ours))
        if there is not None:
            await ledger.starts.save(replace(record, power=there))
        assert await ledger.starts.insist(record) is lacks
        kept = await ledger.starts.kept("", BEGUN.server_id)
        assert kept is not None
        if after is not None:
            assert kept.power == after
        else:
            assert (kept.power.asked, kept.power.released, kept.power.held_off_since) == (2, 1, ours.held_off_since)


async def test_who_writes_late_that_an_earlier_stop_was_paid_keeps_out_nothing_that_is_seen_of_the_present_one(
    tmp_path: Path,
) -> None:
    """As after an outage of the database, in which each replica has seen that; then one of them stops the server."""
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        await ledger.claim(replace(BEGUN, power=FIRST))
        begun = replace(BEGUN, power=power.promised(FIRST, SLOT))
        await ledger.save(begun)
        await ledger.starts.save(ledger.starts.record_of(replace(BEGUN, power=power.released(FIRST))))
        off = replace(begun.power, went_off=True, unstruck=False)
        await ledger.save(replace(begun, power=off))
        kept = await ledger.starts.kept("", BEGUN.server_id)
        assert kept is not None
        assert kept.power == replace(off, released=1)
        (copy,) = ledger.starts.copies.read()
        assert copy.power == kept.power


async def test_who_restores_a_server_a_second_time_does_not_end_the_mark_of_the_first(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="me", lock=False) as ledger:
        now = datetime(2025, 1, 16, 12, tzinfo=UTC)
        assert await ledger.starts.begin_restore(["12345"], now)
        assert not await ledger.starts.begin_restore(["12345"], now + timedelta(minutes=1))
        assert await ledger.starts.begin_restore(["12345"], now + timedelta(hours=2))
