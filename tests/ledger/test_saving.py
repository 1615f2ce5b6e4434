"""Saves that wait for one turn go out in one transaction, and none of them depends on what becomes of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

from snaprotd.core import power
from snaprotd.core.errors import GroupTaken, HeldSince, LeaseLost, LedgerError
from snaprotd.core.power import Power
from snaprotd.core.rotation import Rotation, Step
from snaprotd.ledger.files.turns import MOST_TOGETHER
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.store import Ledger
from tests.ledger.test_holds import IDS, NOW, about_to_go, snapshot
from tests.ledger.test_store import SLOT, claimed, db, ledgers, rotation, sql
from tests.support.databases import Database, SqliteDatabase

__all__ = ["db"]


class CountingLedger(Ledger):
    """One that counts its transactions that write."""

    written = 0

    @asynccontextmanager
    async def _transaction(self, **how: bool) -> AsyncIterator[Connection]:
        async with super()._transaction(**how) as connection:
            yield connection
        self.written += how.get("writes", True)


async def several(ledger: Ledger, number: int = 10) -> list[Rotation]:
    return [replace(await claimed(ledger, rotation(str(one))), step=Step.WAIT) for one in range(number)]


async def steps_in(ledger: Ledger) -> dict[str, Step]:
    return {one.server_id: one.step for one in await ledger.open_rotations()}


async def saved(ledger: Ledger, rotations: Sequence[Rotation]) -> list[BaseException | None]:
    return await asyncio.gather(*map(ledger.save, rotations), return_exceptions=True)


async def test_what_is_saved_at_once_is_written_in_one_transaction(db: Database) -> None:
    async with ledgers(db, "a", kind=CountingLedger) as (ledger,):
        assert isinstance(ledger, CountingLedger)
        begun = await several(ledger)
        before = ledger.written
        assert await saved(ledger, begun) == [None] * len(begun)
        assert ledger.written == before + 1
        assert await steps_in(ledger) == {one.server_id: Step.WAIT for one in begun}


async def test_who_has_lost_one_rotation_saves_the_others(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun = await several(ours)
        await theirs.take_over(everything=True, server_id="3")
        told = await saved(ours, begun)
        assert [one.server_id for one, its in zip(begun, told, strict=True) if isinstance(its, LeaseLost)] == ["3"]
        assert told.count(None) == len(begun) - 1
        assert {one for one, step in (await steps_in(theirs)).items() if step is not Step.WAIT} == {"3"}


async def test_what_is_held_since_keeps_no_other_from_being_saved(db: Database) -> None:
    async with ledgers(db, "a") as (ledger,):
        await ledger.holds.say(snapshot(), IDS, date(2025, 1, 22), NOW)
        first, second = await several(ledger, 2)
        waiting = (ledger.save(first, deletion=about_to_go()), ledger.save(second))
        held, other = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(held, HeldSince)
        assert other is None
        assert await steps_in(ledger) == {"0": Step.LOOK, "1": Step.WAIT}


async def test_two_of_a_group_that_are_to_be_stopped_at_once_are_not(db: Database) -> None:
    async with ledgers(db, "a") as (ledger,):
        begun = [of_group(one) for one in await several(ledger, 3)]
        told = await asyncio.gather(*(ledger.save(one, over=Power()) for one in begun), return_exceptions=True)
        assert [type(one) for one in told] == [type(None), GroupTaken, GroupTaken]
        assert [one.server_id for one in await ledger.starts.owed()] == ["0"]


def of_group(one: Rotation) -> Rotation:
    policy = replace(one.policy, stop_first=True, one_at_a_time="web")
    return replace(one, rules=replace(one.rules, policy=policy), power=power.promised(Power(), SLOT))


async def test_what_is_to_start_a_server_does_not_wait_for_all_others(db: Database) -> None:
    async with ledgers(db, "a") as (ledger,):
        *others, one = await several(ledger, 2 * MOST_TOGETHER + 2)
        off = replace(one, step=Step.START, power=power.promised(Power(), SLOT))
        assert off.is_to_start
        done: list[str] = []

        async def save(one: Rotation) -> None:
            await ledger.save(one)
            done.append(one.server_id)

        await asyncio.gather(*map(save, [*others, off]))
        assert done.index(off.server_id) <= MOST_TOGETHER


async def test_one_that_the_database_refuses_keeps_no_other_from_being_saved(tmp_path: Path) -> None:
    where = SqliteDatabase(tmp_path / "state.db")
    async with ledgers(where, "a") as (ledger,):
        begun = await several(ledger)
        refusal = "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        sql(where, f"CREATE TRIGGER no BEFORE UPDATE ON rotations WHEN new.server_id = '3' {refusal}")
        told = await saved(ledger, begun)
        assert [one.server_id for one, its in zip(begun, told, strict=True) if isinstance(its, LedgerError)] == ["3"]
        assert {one for one, step in (await steps_in(ledger)).items() if step is not Step.WAIT} == {"3"}


async def test_a_row_that_was_closed_under_its_holder_is_open_again_when_it_is_saved(db: Database) -> None:
    async with ledgers(db, "a") as (ledger,):
        (begun,) = await several(ledger, 1)
        sql(db, "UPDATE rotations SET is_open = false")
        await ledger.save(begun)
        assert await steps_in(ledger) == {"0": Step.WAIT}
