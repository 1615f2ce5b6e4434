"""Whose a rotation is, by what is seen of its row: no clock of another process, and no wall clock, has a say in it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import time_machine
from sqlalchemy import text
from structlog.testing import capture_logs

from snaprotd.core import creation, power
from snaprotd.core.errors import LeaseLost
from snaprotd.core.rotation import Rotation, Step
from snaprotd.ledger.leases.observed import Observed
from snaprotd.ledger.leases.others import LONGEST, MARGIN, UNTOLD, Others
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import LEASE, SLOT, claimed, ledgers, rotation, run_out, sql
from tests.ledger.test_store import db as db
from tests.support.databases import Database, SqliteDatabase
from tests.support.rotations import changed
from tests.support.searches import histories
from tests.support.virtual_time import run_virtually

pytestmark = pytest.mark.usefixtures("one_clock")


@dataclass(frozen=True)
class Row:
    id: str = "1"
    owner: str | None = "a"
    epoch: int = 1
    renewals: int = 0
    lease_until: float = 100.0


SAME, FIRST = Row(), [(Row(), 0.0, 0.0)]
STOOD: dict[str, tuple[list[tuple[Row, float, float]], float]] = {
    "at first sight": (FIRST, 0.0),
    "at once after it": ([*FIRST, (SAME, 0.0, 0.0)], 0.0),
    "a while after it": ([*FIRST, (SAME, 50.0, 50.0)], 50.0),
    "over several looks": ([*FIRST, (SAME, 20.0, 20.0), (SAME, 50.0, 50.0)], 50.0),
    "the first answer was slow": ([(SAME, 0.0, 70.0), (SAME, 71.0, 71.0)], 1.0),
    "the last answer was slow": ([*FIRST, (SAME, 10.0, 90.0)], 10.0),
    "both at one time": ([(SAME, 0.0, 30.0), (SAME, 10.0, 20.0)], 0.0),
    "an earlier answer came later": ([*FIRST, (SAME, 40.0, 41.0), (SAME, 30.0, 60.0)], 40.0),
    "renewed": ([*FIRST, (Row(renewals=1), 50.0, 51.0)], 0.0),
    "renewed, and stood since": ([*FIRST, (Row(renewals=1), 50.0, 51.0), (Row(renewals=1), 70.0, 70.0)], 19.0),
    "renewed by an older version": ([*FIRST, (Row(lease_until=110.0), 50.0, 50.0)], 0.0),
    "renewed by a clock that was set back": ([*FIRST, (Row(lease_until=1.0), 50.0, 50.0)], 0.0),
    "taken over": ([*FIRST, (Row(epoch=2), 50.0, 50.0)], 0.0),
    "another's": ([*FIRST, (Row(owner="b"), 50.0, 50.0)], 0.0),
    "gone meanwhile": ([*FIRST, (Row(id="2"), 50.0, 50.0), (SAME, 60.0, 60.0)], 0.0),
}


@pytest.mark.parametrize("which", STOOD)
def test_a_row_has_stood_from_the_end_of_the_look_that_first_showed_it_so_to_the_beginning_of_the_last(
    which: str,
) -> None:
    looks, stood = STOOD[which]
    observed = Observed()
    for row, began, ended in looks:
        observed.see([row], began=began, ended=ended)
    assert observed.stood("1") == stood


def test_of_what_was_never_seen_nothing_is_known() -> None:
    assert Observed().stood("1") == 0.0


# -- whose lease counts ------------------------------------------------------------------------------------------------


async def taken_after(ledger: Ledger, begun: Rotation, seconds: float) -> None:
    """Not half a second sooner."""
    await run_out(ledger, seconds=seconds - 0.5)
    assert await ledger.take_over() == []
    await asyncio.sleep(0.5)
    assert await ledger.take_over() == [begun]


@pytest.mark.parametrize(("its", "ours", "counts"), [(60.0, 60.0, 60.0), (600.0, 60.0, 600.0), (40.0, 120.0, 120.0)])
async def test_of_two_lengths_of_a_lease_the_longer_one_counts(
    db: Database, its: float, ours: float, counts: float
) -> None:
    """Two configurations may give a request different times, and each reload may."""
    async with await db.open("a", lease=its) as theirs, await db.open("b", lease=ours) as ledger:
        await taken_after(ledger, await claimed(theirs), counts + MARGIN)


async def test_what_was_seen_on_another_server_of_the_database_counts_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been renewed there, and that may be lost."""
    async with ledgers(SqliteDatabase(tmp_path / "state.db"), "a", "b") as (ours, theirs):
        monkeypatch.setattr(ours._place, "origin", "the first one")
        begun = await claimed(theirs, rotation("1"))
        await run_out(ours, seconds=LEASE + MARGIN)
        assert not await ours.starts.is_elsewhere(begun.server_id)
        monkeypatch.setattr(ours._place, "origin", "the next one")
        assert await ours.starts.is_elsewhere(begun.server_id)
        await run_out(ours, seconds=LEASE + MARGIN)
        assert not await ours.starts.is_elsewhere(begun.server_id)


@pytest.mark.parametrize("written", [0.0, -1.0, 2 * LONGEST])
async def test_a_length_that_is_not_told_or_cannot_be_is_taken_for_the_usual_one(db: Database, written: float) -> None:
    async with await db.open("a") as theirs, await db.open("b", lease=31.0) as ours:
        begun = await claimed(theirs)
        sql(db, "UPDATE rotations SET lease = ?", written)
        await taken_after(ours, begun, UNTOLD + MARGIN)


async def test_who_is_given_a_shorter_lease_keeps_to_it_and_the_longer_one_is_waited_for(db: Database) -> None:
    async with ledgers(db, "a", "b") as (theirs, ours):
        theirs.lease = 300.0
        begun = await claimed(theirs)
        theirs.lease = ours.lease = 31.0
        await taken_after(ours, begun, 300.0 + MARGIN)


async def test_an_older_version_that_renews_by_the_end_of_its_lease_alone_is_alive(db: Database) -> None:
    async with ledgers(db, "older", "b") as (theirs, ours):
        begun = await claimed(theirs)
        for _ in range(30):
            sql(db, "UPDATE rotations SET lease_until = lease_until + 10, lease = 0")
            await run_out(ours, seconds=10)
        await taken_after(ours, begun, LEASE + MARGIN - 10)


@pytest.mark.parametrize("renewal", ["renewals = renewals + 1", "epoch = epoch + 1", "lease_until = lease_until + 1"])
async def test_what_is_renewed_just_before_it_would_be_taken_over_stays_as_it_is(
    db: Database, renewal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database decides that, and not what was read of it; and nothing is set aside that only came too late."""
    async with ledgers(db, "a", "b") as (theirs, ours):
        begun = await claimed(theirs)
        await run_out(ours)
        seen, looks = Others.abandoned, count(1)

        async def renewed_since(self: Others, connection: Any, account: str, **how: Any) -> list[Any]:
            found = await seen(self, connection, account, **how)
            if next(looks) == 2:
                assert found
                await connection.execute(text(f"UPDATE rotations SET {renewal}"))
            return found

        monkeypatch.setattr(Others, "abandoned", renewed_since)
        assert await ours.take_over() == []
        monkeypatch.setattr(Others, "abandoned", seen)
        assert sql(db, "SELECT owner FROM rotations WHERE is_open") == [("a",)]
        assert not ours.set_aside
        await taken_after(ours, begun, LEASE + MARGIN)


async def test_a_clock_that_runs_fast_takes_nothing_from_the_living(db: Database) -> None:
    loop = asyncio.get_running_loop()
    async with ledgers(db, "a", "b") as (theirs, ours):
        ours.starts.others._uptime = lambda: 1.05 * loop.time()
        begun = await claimed(theirs)
        await run_out(ours, seconds=LEASE - 0.5)
        assert await ours.take_over() == []
        theirs.guard(begun.id)


# -- what an older version left ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_told", [True, False], ids=["of version 4", "of a version that nothing tells"])
async def test_a_ledger_whose_rows_do_not_count_renewals_is_brought_to_do_so(db: Database, is_told: bool) -> None:
    async with ledgers(db, "a") as (theirs,):
        begun = await claimed(theirs)
    for column in ("renewals", "lease"):
        sql(db, f"ALTER TABLE rotations DROP COLUMN {column}")
    sql(db, "UPDATE meta SET value = '4' WHERE key = 'schema'" if is_told else "DROP TABLE meta")
    async with ledgers(db, "b") as (ours,):
        assert sql(db, "SELECT renewals, lease FROM rotations") == [(0, 0.0)]
        await taken_after(ours, begun, LEASE + MARGIN)
        assert sql(db, "SELECT renewals, lease FROM rotations") == [(1, LEASE)]


# -- what a renewal sees to besides ------------------------------------------------------------------------------------


def held_off(begun: Rotation) -> Rotation:
    return changed(begun, step=Step.STOP, power=power.promised(begun.power, SLOT))


@pytest.mark.parametrize(
    "lost",
    ["DELETE FROM powers", "UPDATE powers SET asked = 0, released = 0, is_followed = ?", "UPDATE powers SET asked = 0"],
)
async def test_a_promise_that_the_database_has_lost_is_there_again_with_the_next_renewal(
    db: Database, lost: str
) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = held_off(await claimed(ours))
        await ours.save(begun)
        told = sql(db, "SELECT body FROM powers")
        sql(db, lost, *([False] if "?" in lost else []))
        await ours.renew([begun])
        assert sql(db, "SELECT asked, released, body FROM powers") == [(1, 0, *told[0])]
        assert [one.server_id for one in await ours.starts.owed()] == [begun.server_id]


async def test_that_a_promise_was_kept_is_there_again_too(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = held_off(await claimed(ours))
        await ours.save(begun)
        rows = sql(db, "SELECT asked, released, body FROM powers")
        paid = changed(begun, power=power.released(begun.power))
        await ours.save(paid)
        sql(db, "UPDATE powers SET asked = ?, released = ?, body = ?", *rows[0])
        await ours.renew([paid])
        assert await ours.starts.owed() == []


async def test_a_renewal_writes_nothing_over_what_is_newer(db: Database) -> None:
    """What a process shows of its rotations may be a moment old; and somebody may have let go of the start."""
    async with ledgers(db, "a") as (ours,):
        old = await claimed(ours)
        new = changed(held_off(old), creation=creation.promised(old.creation))
        await ours.save(new)
        await ours.starts.let_go(old.server_id, "a person")
        rows = [sql(db, f"SELECT * FROM {table}") for table in ("powers",)], sql(db, "SELECT body FROM rotations")
        with capture_logs() as said:
            for one in (old, held_off(old), new):
                await ours.renew([one])
        assert said == []
        assert rows == ([sql(db, "SELECT * FROM powers")], sql(db, "SELECT body FROM rotations"))


async def test_a_request_that_the_database_has_lost_is_there_again_with_the_next_renewal(db: Database) -> None:
    """Whoever takes over would else ask for another snapshot."""
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        before = sql(db, "SELECT body FROM rotations")[0][0]
        asked = changed(begun, step=Step.SNAPSHOT, creation=creation.promised(begun.creation))
        await ours.save(asked)
        for lost in (before, "damaged"):
            sql(db, "UPDATE rotations SET body = ?", lost)
            await ours.renew([asked])
            assert await ours.open_rotations() == [asked]


async def test_what_is_another_ones_by_now_is_left_as_he_has_it(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        promised = changed(held_off(begun), creation=creation.promised(begun.creation))
        await theirs.take_over(everything=True)
        await ours.renew([promised])
        assert sql(db, "SELECT asked FROM powers") == []
        assert await theirs.open_rotations() == [begun]


# -- two processes, and clocks that run as they like -------------------------------------------------------------------

TICK = 15.0
RENEWAL = 10.0


@dataclass
class Schedule:
    """What becomes of one process that holds a rotation beside another one, drawn from a number."""

    number: int
    drawn: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.drawn = random.Random(self.number)

    def jump(self) -> timedelta:
        """Of the wall clock that one of them goes by, for one call."""
        by = self.drawn.choice([0.0, 0.0, 31.0, -31.0, 61.0, -61.0, 3600.0, -3600.0, 4e8])
        return timedelta(seconds=by)


async def live_and_die(ledger: Ledger, begun: Rotation, schedule: Schedule) -> float:
    """Renew it as a daemon does, now and then late or frozen, until it dies; when that was."""
    loop, dies_at = asyncio.get_running_loop(), schedule.drawn.uniform(0, 600)
    until = loop.time() + dies_at
    last = loop.time()
    while (left := until - loop.time()) > 0:
        await asyncio.sleep(min(left, RENEWAL + schedule.drawn.choice([0.0, 0.0, 0.0, 20.0, 49.0])))
        with wall_clock(schedule.jump()):
            try:
                ledger.guard(begun.id)
                last = loop.time()
                await ledger.renew()
            except LeaseLost:
                return last
    return last


def wall_clock(set_by: timedelta) -> time_machine.travel:
    return time_machine.travel(datetime.now(UTC) + set_by, tick=False)


async def play(folder: Path, number: int, rate: float) -> None:
    """The one that looks has a clock that runs at `rate`, and a wall clock that jumps."""
    schedule, loop = Schedule(number), asyncio.get_running_loop()
    database = SqliteDatabase(folder / f"{number}.db")
    async with await database.open("a", lease=LEASE) as theirs, await database.open("b", lease=LEASE) as ours:
        ours.starts.others._uptime = lambda: rate * loop.time()
        begun = await claimed(theirs, rotation())
        living = asyncio.create_task(live_and_die(theirs, begun, schedule))
        while True:
            await asyncio.sleep(TICK)
            with wall_clock(schedule.jump()):
                taken = await ours.take_over()
            if taken:
                break
            if living.done():  # nobody waits for longer than that
                assert loop.time() - living.result() <= (LEASE + MARGIN) / rate + 2 * TICK
        with pytest.raises(LeaseLost):  # whoever has it still sends nothing more
            theirs.guard(begun.id)
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


@pytest.mark.search
@pytest.mark.parametrize("rate", [0.95, 1.0, 1.05])
def test_nothing_is_taken_from_the_living_and_everything_soon_from_the_dead_whatever_the_clocks_say(
    tmp_path: Path, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaprotd.ledger.store.uptime", lambda: asyncio.get_running_loop().time())

    async def play_all() -> None:
        for number in range(histories(12, 100)):
            await play(tmp_path, number, rate)

    run_virtually(play_all())
