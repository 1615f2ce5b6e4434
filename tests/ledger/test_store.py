"""The ledger on each database that it may stand on: claims and their races, leases, what is remembered."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import is_dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from snaprotd.core.errors import LeaseLost, LedgerError
from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Rules
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.core.words import printable
from snaprotd.ledger.claims import Claimed, Mark, ServerBusy, SlotTaken, uptime
from snaprotd.ledger.leases.others import MARGIN
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.support.daemons import daemon_on, write_config
from tests.support.databases import KINDS, REFUSED, Database, PostgresqlDatabase, SqliteDatabase
from tests.support.nouns import a_snapshot
from tests.support.policies import a_policy
from tests.support.rotations import changed
from tests.support.searches import examples
from tests.support.virtual_time import run_virtually

LEASE = 60.0
SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = a_policy()


@pytest.fixture(autouse=True)
def _leases_follow_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snaprotd.ledger.store.uptime", lambda: asyncio.get_running_loop().time())


@pytest.fixture(params=KINDS)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "state.db")
    return PostgresqlDatabase(request.getfixturevalue("postgresql").schema(), tmp_path)


@asynccontextmanager
async def ledgers(where: Database | Path, *owners: str, kind: type[Ledger] = Ledger) -> AsyncIterator[list[Ledger]]:
    """The ledger as several processes see it."""
    database = _database(where)
    async with AsyncExitStack() as stack:
        opened = [await database.open(owner, lease=LEASE, kind=kind) for owner in owners]
        yield [await stack.enter_async_context(one) for one in opened]


def _database(where: Database | Path) -> Database:
    return SqliteDatabase(where) if isinstance(where, Path) else where


def rotation(server: str = "12345", day: int = 0, **changes: Any) -> Rotation:
    """The rotation of one server's slot on a day; each has an id of its own."""
    slot = SLOT + day * DAY
    new = Rotation.begin(
        id=uuid.uuid4().hex,
        server_id=server,
        label=f"web-{server}",
        slot=slot,
        rules=Rules(policy=POLICY),
        now=slot,
        settle=120.0,
    )
    return changed(new, **changes)


def finished(begun: Rotation, result: Result = Result.SUCCESS, at: datetime = SLOT + timedelta(hours=1)) -> Rotation:
    return replace(begun, step=Step.DONE, result=result, finished_at=at)


async def claimed(ledger: Ledger, begun: Rotation | None = None) -> Rotation:
    """A rotation, new unless it is given, that is now the ledger's."""
    begun = begun or rotation()
    assert await ledger.claim(begun) == Claimed(begun)
    return begun


async def completed(ledger: Ledger, begun: Rotation | None = None, **end: Any) -> Rotation:
    done = finished(await claimed(ledger, begun), **end)
    await ledger.save(done)
    return done


def sql(where: Database | Path, statement: str, *values: object) -> list[Any]:
    """One statement by another program, committed."""
    return _database(where).sql(statement, *values)


# -- claims ----------------------------------------------------------------------------------------------------


async def test_of_many_claims_of_one_slot_exactly_one_gets_it(db: Database) -> None:
    async with ledgers(db, "a", "b", "c") as three:
        claims = await asyncio.gather(*(three[number % 3].claim(rotation()) for number in range(30)))
        assert Counter(map(type, claims)) == {Claimed: 1, SlotTaken: 29}
        (winner,) = [claim.rotation for claim in claims if isinstance(claim, Claimed)]
        assert await three[0].history() == [winner]


async def test_a_slot_that_was_run_is_taken_whatever_its_server_is_at_by_now(db: Database) -> None:
    """Who comes late to it, as the next one is at work, has not been kept from anything."""
    async with ledgers(db, "a", "b") as (ours, theirs):
        await completed(ours, rotation(day=0))
        at_work = await claimed(ours, rotation(day=1))
        assert await theirs.claim(rotation(day=0)) == SlotTaken()
        assert await theirs.claim(rotation(day=2)) == ServerBusy(at_work)


async def test_only_what_has_failed_is_opened_again_and_by_one_process_only(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        succeeded, failed = rotation("1"), rotation("2")
        await completed(ours, succeeded)
        await completed(ours, failed, result=Result.FAILURE)
        assert await ours.claim(succeeded, reopens=True) == SlotTaken()
        assert await theirs.claim(failed, reopens=True) == Claimed(failed)
        assert await ours.claim(failed, reopens=True) == SlotTaken()
        assert [one.id for one in await ours.open_rotations()] == [failed.id]


async def test_of_two_slots_of_one_server_one_is_claimed_and_the_other_told_of_it(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        claims = await asyncio.gather(ours.claim(rotation(day=0)), theirs.claim(rotation(day=1)))
    (winner,) = [claim.rotation for claim in claims if isinstance(claim, Claimed)]
    assert [claim for claim in claims if not isinstance(claim, Claimed)] == [ServerBusy(winner)]


async def test_of_two_slots_of_one_server_that_are_claimed_in_one_turn_the_other_is_told_of_the_first(
    db: Database,
) -> None:
    async with ledgers(db, "a") as (ours,):
        first, second = await asyncio.gather(ours.claim(rotation(day=0)), ours.claim(rotation(day=1)))
    assert isinstance(first, Claimed)
    assert second == ServerBusy(first.rotation)


async def test_a_busy_server_is_told_of_as_it_was_last_saved(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        open_one = changed(await claimed(ours), step=Step.STOP, held_off=True, note="asked to stop")
        await ours.save(open_one)
        assert await theirs.claim(rotation(day=1)) == ServerBusy(open_one)
        assert await ours.claim(rotation(day=1)) == ServerBusy(open_one)


@pytest.mark.parametrize("result", Result)
async def test_a_slot_is_taken_for_ever_however_its_rotation_ended(db: Database, result: Result) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        await completed(ours, result=result)
        assert await ours.claim(rotation()) == SlotTaken()
        assert await theirs.claim(rotation()) == SlotTaken()
        assert isinstance(await theirs.claim(rotation(day=1)), Claimed)


async def test_what_has_failed_goes_on_once_whoever_asks_for_it(db: Database) -> None:
    async with ledgers(db, "one", "other") as (one, other):
        failed = await completed(one, result=Result.FAILURE)
        amended = replace(failed, step=Step.WAIT, result=None, finished_at=None)
        assert await other.claim(amended, reopens=True) == Claimed(amended)
        assert await one.claim(amended, reopens=True) == SlotTaken()
        assert await other.claim(amended, reopens=True) == SlotTaken(), "it is open"
        with pytest.raises(LeaseLost):
            await one.save(amended)
        await other.save(finished(amended))
        assert await one.claim(amended, reopens=True) == SlotTaken(), "it has not failed"


async def test_who_goes_on_with_what_has_failed_shuts_out_a_process_that_holds_it_still(db: Database) -> None:
    """Its own last word was written, and the answer lost."""
    async with ledgers(db, "same", "same") as (one, other):
        begun = await claimed(one)
        sql(db, "UPDATE rotations SET is_open = false, result = 'failure'")
        assert isinstance(await other.claim(begun, reopens=True), Claimed)
        with pytest.raises(LeaseLost):
            await one.save(begun)


@pytest.mark.parametrize("result", [Result.SUCCESS, Result.PARTIAL])
async def test_what_has_succeeded_or_another_slot_never_goes_on(db: Database, result: Result) -> None:
    async with ledgers(db, "me") as (ledger,):
        done = await completed(ledger, result=result)
        other = await completed(ledger, rotation(day=1), result=Result.FAILURE)
        assert await ledger.claim(replace(done, step=Step.WAIT, result=None), reopens=True) == SlotTaken()
        wrong = replace(other, id=uuid.uuid4().hex, step=Step.WAIT, result=None)
        assert await ledger.claim(wrong, reopens=True) == SlotTaken()
        assert await ledger.open_rotations() == []


async def test_a_slot_of_long_ago_is_taken_whatever_came_after_it(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        for day in range(3):
            await completed(ours, rotation(day=day))
        assert await ours.claim(rotation(day=0)) == SlotTaken()


async def test_one_slot_of_two_servers_is_two_slots(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        await claimed(ours, rotation("1"))
        await claimed(ours, rotation("2"))


async def test_a_slot_is_the_same_instant_in_every_zone(db: Database) -> None:
    elsewhere = SLOT.astimezone(timezone(timedelta(hours=2)))
    async with ledgers(db, "a") as (ours,):
        await completed(ours)
        assert await ours.claim(rotation(slot=elsewhere)) == SlotTaken()


async def test_the_database_itself_refuses_a_second_open_rotation_of_a_server(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        await claimed(ours)
    copy = (
        "INSERT INTO rotations (id, server_id, slot, is_open, body, epoch, lease_until, started_at) "
        "SELECT 'copy', server_id, ?, ?, body, epoch, lease_until, started_at FROM rotations"
    )
    (slot,) = sql(db, "SELECT slot FROM rotations")[0]
    with pytest.raises(REFUSED, match=r"rotations\.account, rotations\.server_id$|one_open_rotation_for_a_server"):
        sql(db, copy, "2025-01-17", True)
    with pytest.raises(REFUSED, match=r"(?i)unique constraint"):
        sql(db, copy, slot, False)
    sql(db, copy, "2025-01-17", False)


# -- leases ----------------------------------------------------------------------------------------------------


async def run_out(*lookers: Ledger, seconds: float = LEASE + MARGIN) -> None:
    """They look at what is open, and see nothing change for so long."""
    for one in lookers:
        assert await one.take_over() == []
    await asyncio.sleep(seconds)


async def test_a_lease_is_respected_until_it_has_run_out_in_the_eyes_of_who_takes_over(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        await asyncio.sleep(10 * LEASE)
        await run_out(theirs, seconds=LEASE + MARGIN - 0.5)
        assert await theirs.take_over() == []
        await asyncio.sleep(0.5)
        assert await theirs.take_over() == [begun]
        assert await theirs.take_over() == []
        await run_out(ours, seconds=LEASE + MARGIN - 0.5)
        assert await ours.take_over() == []


async def save(ledger: Ledger, begun: Rotation) -> None:
    await ledger.save(begun)


async def renew(ledger: Ledger, _: Rotation) -> None:
    await ledger.renew()


Renewal = Callable[[Ledger, Rotation], Coroutine[Any, Any, None]]
renewals = pytest.mark.parametrize("renewal", [save, renew])


@renewals
async def test_a_lease_is_good_for_its_whole_length_after_a_renewal(db: Database, renewal: Renewal) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        await run_out(theirs, seconds=50)
        await renewal(ours, begun)
        await run_out(theirs, seconds=LEASE - 1)
        ours.guard(begun.id)
        assert await theirs.take_over() == []
        await asyncio.sleep(1 + MARGIN)
        assert await theirs.take_over() == [begun]


async def test_who_takes_over_goes_on_with_what_was_saved_last(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        before = changed(await claimed(ours), step=Step.WAIT, held_off=True, snapshot_id="77")
        await ours.save(before)
        await run_out(theirs)
        assert await theirs.take_over() == [before]
        theirs.guard(before.id)
        await theirs.save(finished(before))
        assert await ours.history() == [finished(before)]


async def test_each_take_over_raises_the_epoch(db: Database) -> None:
    async with ledgers(db, "a", "b") as both:
        begun = await claimed(both[0])
        for number in range(1, 4):
            assert sql(db, "SELECT owner, epoch FROM rotations") == [("ba"[number % 2], number)]
            await run_out(both[number % 2])
            with pytest.raises(LeaseLost):
                both[(number + 1) % 2].guard(begun.id)
            assert await both[number % 2].take_over() == [begun]


async def test_a_frozen_owner_learns_at_its_next_write_that_it_has_lost(db: Database) -> None:
    async with ledgers(db, "a", "b") as (frozen, theirs):
        begun = await claimed(frozen)
        await run_out(theirs)
        assert await theirs.take_over() == [begun]
        with pytest.raises(LeaseLost, match="another process has taken over"):
            await frozen.save(replace(begun, note="from the dead"))
        with pytest.raises(LeaseLost, match="not held by this process"):
            await frozen.save(begun)
        assert await theirs.history() == [begun]
        await theirs.save(replace(begun, note="alive"))


async def test_a_frozen_owner_sends_nothing_when_it_wakes(db: Database) -> None:
    async with ledgers(db, "a", "b") as (frozen, theirs):
        begun = await claimed(frozen)
        await run_out(theirs)
        assert await theirs.take_over() == [begun]
        with pytest.raises(LeaseLost, match="has run out"):
            frozen.guard(begun.id)


@renewals
async def test_an_owner_of_the_same_name_but_of_an_older_epoch_has_lost(db: Database, renewal: Renewal) -> None:
    async with ledgers(db, "a", "b", "a") as (old, between, new):
        begun = await claimed(old)
        assert await between.take_over(everything=True) == [begun]
        assert await new.take_over(everything=True) == [begun]
        await asyncio.sleep(50)
        if renewal is save:
            with pytest.raises(LeaseLost):
                await old.save(begun)
        else:
            await old.renew()
        await asyncio.sleep(LEASE - 49)
        with pytest.raises(LeaseLost):
            old.guard(begun.id)


async def test_a_lost_lease_is_not_renewed(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        await theirs.take_over(everything=True)
        await run_out(ours, seconds=50)
        await ours.renew()
        await asyncio.sleep(LEASE + MARGIN - 50)
        with pytest.raises(LeaseLost):
            ours.guard(begun.id)
        with pytest.raises(LeaseLost):
            theirs.guard(begun.id)
        assert await ours.take_over() == [begun]


@pytest.mark.parametrize("needed", [0.0, 30.0, 59.0])
async def test_a_guard_lets_nothing_out_that_may_outlast_the_lease(db: Database, needed: float) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        await asyncio.sleep(LEASE - needed)
        ours.guard(begun.id, needed)
        await asyncio.sleep(0.5)
        with pytest.raises(LeaseLost, match=f"the lease of rotation {begun.id} has run out"):
            ours.guard(begun.id, needed)


async def test_a_guard_knows_only_what_is_held(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        done = await completed(ours)
        for unknown in (done.id, "never-heard-of"):
            with pytest.raises(LeaseLost):
                ours.guard(unknown)


class SlowLedger(Ledger):
    """A ledger on a disk that takes 20 s for whatever it may write, or as long as it is told."""

    seconds = 20.0

    @asynccontextmanager
    async def _transaction(self, **how: bool) -> AsyncIterator[Connection]:
        async with super()._transaction(**how) as connection:
            yield connection
        if how.get("writes", True):
            await asyncio.sleep(self.seconds)


async def test_a_renewal_counts_from_where_it_began_however_long_it_took(db: Database) -> None:
    async with ledgers(db, "a", kind=SlowLedger) as (slow,):
        begun = await claimed(slow)
        await slow.renew()
        await asyncio.sleep(LEASE - 20)
        slow.guard(begun.id)
        await asyncio.sleep(1)
        with pytest.raises(LeaseLost):
            slow.guard(begun.id)


async def claim(ledger: Ledger, begun: Rotation) -> None:
    assert isinstance(await ledger.claim(begun), Claimed)


async def take_over(ledger: Ledger, begun: Rotation) -> None:
    assert await ledger.take_over() == [begun]


@pytest.mark.parametrize("write", [claim, save, take_over])
async def test_a_lease_counts_from_where_its_write_began_however_long_it_took(db: Database, write: Renewal) -> None:
    begun = rotation()
    async with (
        ledgers(db, "a", "b") as (former, late),
        await db.open("c", lease=LEASE, kind=SlowLedger) as slow,
    ):
        assert isinstance(slow, SlowLedger)
        slow.seconds = 0.0
        if write is save:
            await slow.claim(begun)
        if write is take_over:
            await former.claim(begun)
            await former.release(begun.id)
        slow.seconds = LEASE + 30
        writing = asyncio.create_task(write(slow, begun))
        await asyncio.sleep(1)
        await run_out(late)
        assert await late.take_over() == [begun]
        await writing
        with pytest.raises(LeaseLost):
            slow.guard(begun.id)
        late.guard(begun.id)


async def test_what_a_guard_has_let_go_is_renewed_no_more_and_goes_to_whoever_comes_next(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun, kept = await claimed(ours, rotation("1")), await claimed(ours, rotation("2"))
        await run_out(theirs)
        with pytest.raises(LeaseLost):
            ours.guard(begun.id)
        await ours.renew()
        assert await theirs.take_over() == [begun]
        await ours.save(kept)


async def test_what_a_guard_has_let_go_is_taken_up_again_by_a_process_that_is_alone(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        await run_out(ours)
        with pytest.raises(LeaseLost):
            ours.guard(begun.id)
        await ours.renew()
        assert await ours.take_over() == [begun]
        ours.guard(begun.id)


class Suspended(Ledger):
    """The ledger of a machine that sleeps for an hour between the record of a start and its request."""

    slept = 0.0

    @classmethod
    def uptime(cls) -> float:
        return asyncio.get_running_loop().time() + cls.slept

    async def save(self, rotation: Rotation, **how: Any) -> None:
        await super().save(rotation, **how)
        if rotation.step is Step.START and rotation.power.starts == 1:
            type(self).slept = 3600.0


async def test_a_daemon_that_was_suspended_before_a_start_went_out_starts_the_server_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Suspended, "slept", 0.0)
    monkeypatch.setattr("snaprotd.ledger.store.uptime", Suspended.uptime)
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", Suspended)
    world = World()
    server_id = world.add_server("web-01")
    servers = f'[{{id: {server_id}, name: web-01, schedule: "10 3 * * *", stop_first: true}}]'
    async with daemon_on(write_config(tmp_path, servers), world) as watched:
        await asyncio.sleep(3600)
        assert Suspended.slept
        assert world.status_of(server_id) == "active"
        assert watched.value("snaprotd_server_stopped_by_us", "web-01") == 0
        assert [one.result for one in watched.ended if one.is_finished] == [Result.SUCCESS]


async def test_what_is_released_goes_to_the_next_at_once(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        await ours.release(begun.id)
        with pytest.raises(LeaseLost):
            ours.guard(begun.id)
        with pytest.raises(LeaseLost):
            await ours.save(begun)
        await ours.renew()
        assert await theirs.take_over() == [begun]


async def test_what_is_released_may_be_taken_up_again_by_the_same_process(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        await ours.release(begun.id)
        assert await ours.take_over() == [begun]
        await ours.save(begun)


async def test_what_is_not_held_cannot_be_released(db: Database) -> None:
    async with ledgers(db, "a", "b", "a", "c") as (old, between, new, other):
        begun = await claimed(old)
        await other.release(begun.id)
        await between.take_over(everything=True)
        await new.take_over(everything=True)
        for without in (old, between):
            await without.release(begun.id)
            assert await other.take_over() == []
        await new.save(begun)


async def test_everything_is_taken_over_from_the_living_too_but_not_from_oneself(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        mine, yours = await claimed(ours, rotation("1")), await claimed(theirs, rotation("2"))
        free = await claimed(theirs, rotation("3"))
        await theirs.release(free.id)
        await completed(theirs, rotation("4"))
        taken = await ours.take_over(everything=True)
        assert {one.id for one in taken} == {yours.id, free.id}
        assert await ours.take_over(everything=True) == []
        with pytest.raises(LeaseLost):
            await theirs.save(yours)
        await ours.save(mine)


async def test_what_is_finished_is_nobodys_to_take_over(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        await completed(ours)
        await asyncio.sleep(10 * LEASE)
        assert await theirs.take_over() == await theirs.take_over(everything=True) == []


async def test_one_server_alone_may_be_taken_over(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        await claimed(ours, rotation("1"))
        two = await claimed(ours, rotation("2"))
        await run_out(theirs)
        assert await theirs.take_over(server_id="2") == [two]


async def test_a_process_does_not_take_over_what_it_holds_though_it_came_late_with_the_renewal(
    db: Database,
) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        await run_out(ours)
        assert await ours.take_over() == []
        await ours.save(begun)


# -- clocks that are set ---------------------------------------------------------------------------------------


@contextmanager
def wall_clock(set_by: timedelta) -> Iterator[None]:
    with time_machine.travel(datetime.now(UTC) + set_by, tick=False):
        yield


@pytest.mark.parametrize("jump", [-400 * DAY, timedelta(seconds=1 - LEASE), timedelta(seconds=LEASE + 1), 400 * DAY])
async def test_however_a_wall_clock_is_set_the_living_lose_nothing_and_the_dead_at_the_same_time(
    db: Database, jump: timedelta
) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun = await claimed(ours)
        await run_out(theirs, seconds=20)
        with wall_clock(jump):
            assert await theirs.take_over() == []
            await ours.renew()
            await run_out(theirs, seconds=LEASE + MARGIN - 0.5)
            assert await theirs.take_over() == []
        await asyncio.sleep(0.5)
        with wall_clock(-jump):
            assert await theirs.take_over() == [begun]


async def test_a_guard_does_not_care_how_the_wall_clock_is_set(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        for jump in (-400 * DAY, DAY):
            with wall_clock(jump):
                ours.guard(begun.id, LEASE)
        await asyncio.sleep(LEASE + 1)
        with wall_clock(-DAY), pytest.raises(LeaseLost):
            ours.guard(begun.id)


def test_the_clock_of_a_guard_cannot_be_set() -> None:
    before = uptime()
    with time_machine.travel(datetime(2040, 1, 1, tzinfo=UTC)):
        assert 0 <= uptime() - before < 3600


async def test_a_lease_runs_out_while_the_machine_is_suspended(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    suspended = 0.0

    def seconds_of(clock: int) -> float:
        return 1000.0 + (suspended if clock == time.CLOCK_BOOTTIME else 0.0)

    async with ledgers(db, "a") as (ours,):
        monkeypatch.setattr("snaprotd.ledger.claims.time.clock_gettime", seconds_of)
        monkeypatch.setattr("snaprotd.ledger.store.uptime", uptime)
        begun = await claimed(ours)
        ours.guard(begun.id)
        suspended = LEASE + 1
        with pytest.raises(LeaseLost):
            ours.guard(begun.id)


# -- how far the schedules were seen -----------------------------------------------------------------------------


def mark(server: str = "12345", day: int = 0, schedule: str = "UTC 30 3 * * * +0s") -> Mark:
    return Mark(server_id=server, seen_until=SLOT + day * DAY, schedule=schedule)


async def test_marks_are_read_as_they_were_set(db: Database) -> None:
    odd = Mark(
        server_id="2", seen_until=datetime(2025, 7, 1, 1, 2, 3, 456789, timezone(timedelta(hours=-7))), schedule=""
    )
    async with ledgers(db, "a") as (ours,):
        assert await ours.marks() == {}
        await ours.set_marks([])
        await ours.set_marks([mark("1"), odd])
    async with ledgers(db, "b") as (theirs,):
        assert await theirs.marks() == {"1": mark("1"), "2": odd}


async def test_a_mark_never_goes_back_but_its_schedule_is_the_last_that_was_said(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        await ours.set_marks([mark(day=-2)])
        await theirs.set_marks([mark(day=-4, schedule="another")])
        assert await ours.marks() == {"12345": mark(day=-2, schedule="another")}
        await theirs.set_marks([mark(day=-1)])
        assert await ours.marks() == {"12345": mark(day=-1)}


async def test_a_mark_goes_back_from_a_time_that_is_still_to_come(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        await ours.set_marks([mark(day=400)])
        await ours.set_marks([mark(day=-1)])
        assert await ours.marks() == {"12345": mark(day=-1)}


async def test_thousands_of_rows_are_read_in_turns(db: Database) -> None:
    read, turns = 0, []

    def counted(row: int) -> list[int]:
        nonlocal read
        read += 1
        return [row]

    async def others() -> None:
        while True:
            turns.append(read)
            await asyncio.sleep(0)

    watching = asyncio.create_task(others())
    assert await statements.in_turns(range(1000), counted) == list(range(1000))
    watching.cancel()
    assert max(later - before for before, later in pairwise(turns)) <= 100


async def test_the_marks_of_all_other_servers_are_forgotten(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        await ours.set_marks([mark("1"), mark("2"), mark("3")])
        await theirs.keep_marks({"2", "never-heard-of"})
        assert await ours.marks() == {"2": mark("2")}
        await ours.keep_marks(())
        assert await theirs.marks() == {}


async def test_a_claim_sets_its_mark(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        assert isinstance(await ours.claim(rotation(), mark()), Claimed)
        assert await ours.marks() == {"12345": mark()}


async def test_a_slot_that_is_taken_or_passed_over_is_dealt_with_too(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        await claimed(ours)
        assert isinstance(await theirs.claim(rotation(), mark()), SlotTaken)
        assert await theirs.marks() == {"12345": mark()}
        assert isinstance(await theirs.claim(rotation(day=1), mark(day=1)), ServerBusy)
        assert await theirs.marks() == {"12345": mark(day=1)}


async def test_a_claim_that_could_not_be_written_leaves_no_mark(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        sql(db, "ALTER TABLE rotations RENAME TO elsewhere")
        with pytest.raises(LedgerError):
            await ours.claim(rotation(), mark())
        assert await ours.marks() == {}


# -- what is remembered ------------------------------------------------------------------------------------------


async def test_history_is_newest_first_with_open_ones_too(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        done = [await completed(ours, rotation(day=day)) for day in (3, 1, 2)]
        now_open = await claimed(theirs, rotation(day=4))
        assert await ours.history() == [now_open, done[0], done[2], done[1]]


async def test_history_goes_by_the_instant_and_not_by_its_text(db: Database) -> None:
    east = timezone(timedelta(hours=9))
    times = [SLOT, SLOT + timedelta(microseconds=1), (SLOT + timedelta(seconds=1)).astimezone(east), SLOT + DAY]
    async with ledgers(db, "a") as (ours,):
        for number, started_at in enumerate(times):
            await claimed(ours, rotation(str(number), started_at=started_at))
        assert [one.started_at for one in await ours.history()] == times[::-1]


async def test_history_of_one_moment_is_in_the_same_order_each_time(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        for name in "cab":
            await claimed(ours, rotation(name, id=name))
        assert [one.id for one in await ours.history()] == ["a", "b", "c"]


async def test_history_is_of_one_server_where_that_is_asked_and_no_longer_than_asked(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        for day in range(25):
            await completed(ours, rotation("1", day))
        await completed(ours, rotation("2", 30))
        assert [one.slot for one in await ours.history("1", limit=2)] == [SLOT + 24 * DAY, SLOT + 23 * DAY]
        assert len(await ours.history()) == 20
        assert len(await ours.history(limit=100)) == 26
        assert [one.server_id for one in await ours.history(limit=2)] == ["2", "1"]
        assert await ours.history("3") == []


async def test_open_rotations_are_all_that_have_not_ended_whoever_holds_them(db: Database) -> None:
    async with ledgers(db, "a", "b") as (ours, theirs):
        mine, yours = await claimed(ours, rotation("1")), await claimed(theirs, rotation("2"))
        free = await claimed(theirs, rotation("3"))
        await theirs.release(free.id)
        await completed(ours, rotation("4"))
        assert {one.id for one in await ours.open_rotations()} == {mine.id, yours.id, free.id}


async def test_when_each_server_began_and_succeeded_last(db: Database) -> None:
    def hour(number: int) -> datetime:
        return SLOT + timedelta(hours=number)

    async with ledgers(db, "a") as (ours,):
        assert await ours.last_started() == await ours.last_succeeded() == {}
        await asyncio.sleep(5 * DAY.total_seconds())
        await completed(ours, rotation("1", 0), at=hour(1))
        await completed(ours, rotation("1", 1), at=hour(25))
        await completed(ours, rotation("1", 2), at=hour(49))
        await completed(ours, rotation("1", 3), result=Result.FAILURE, at=hour(73))
        await completed(ours, rotation("2", 0), result=Result.PARTIAL)
        await claimed(ours, rotation("3", 4))
        assert await ours.last_started() == {"1": hour(72), "2": SLOT, "3": hour(96)}
        assert await ours.last_succeeded() == {"1": hour(49)}


async def test_when_a_server_succeeded_last_lies_neither_in_the_future_nor_where_a_clock_that_was_ahead_said(
    db: Database,
) -> None:
    """Else an alert on it would be silent until then, and until the process after the next had begun."""
    clock: Any = asyncio.get_running_loop()
    async with ledgers(db, "a") as (ours,):
        await asyncio.sleep(DAY.total_seconds())
        await completed(ours, rotation("1", 0), at=SLOT)
        await completed(ours, rotation("1", 1), at=SLOT + 3 * DAY)
        assert await ours.last_succeeded() == {"1": SLOT}
        await completed(ours, rotation("1", 2), at=SLOT + DAY / 2)
        clock.set_wall_clock(4 * DAY.total_seconds())
        assert await ours.last_succeeded() == {"1": SLOT + DAY / 2}
        assert await ours.last_started() == {"1": SLOT + 2 * DAY}


async def test_what_is_asked_of_many_servers_at_once_is_what_is_asked_of_each(db: Database) -> None:
    """By any of a server's ids; what stands in a row under another name, or in the row of another server, too."""
    async with ledgers(db, "a") as (ours,):
        for server in ("1", "u-2", "3"):
            for day in (0, 1):
                made = rotation(server, day, snapshot_id=f"{server}-{day}", creates=1)
                await completed(ours, made, at=SLOT + (day or 4) * DAY)
        await claimed(ours, rotation("3", 2))
        names = [snapshot_name("main", SLOT + day * DAY) for day in range(3)]
        own = [[a_snapshot(f"{server}-{day}", names[day], SLOT) for day in range(3)] for server in ("1", "u-2", "3")]
        theirs = [a_snapshot("3-0", "renamed", SLOT), a_snapshot("1-0", "a person's", SLOT)]
        ids = [["1"], ["2", "u-2"], ["3"], ["4"], ["5"]]
        shown = list(zip(ids, [own[0], own[1], theirs, own[0], []], strict=True))
        await ours.holds.say(theirs[1], ["3"], SLOT.date(), SLOT)
        found = await ours.recall_each(shown, SLOT)
        assert [(len(one.traces), len(one.holds)) for one in found] == [(2, 1), (2, 0), (1, 1), (0, 1), (0, 0)]
        assert found == [await ours.recall(*one, SLOT) for one in shown]
        last = await ours.last_of_each(ids)
        assert [[one.snapshot_id for one in its] for its in last] == [["1-1"], ["u-2-1"], ["3-1"], [], []]
        assert last == [await ours.last_of(one) for one in ids]


instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    float: st.floats(0, 1e9),
    int: st.integers(0, 2**40),
    str: st.text(max_size=10).map(printable),  # what others said is made so where it is written
    datetime: instants,
    timedelta: st.timedeltas(timedelta(0), timedelta(days=4000)),
}


def any_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotation, through all that it is made of."""
    if hint in PLAIN:
        return PLAIN[hint]
    if is_dataclass(hint):
        return st.builds(hint, **{name: any_of(inner) for name, inner in get_type_hints(hint).items()})  # type: ignore[arg-type]
    if get_origin(hint) is UnionType:
        return st.one_of(*map(any_of, get_args(hint)))
    if get_origin(hint) is tuple:
        return st.lists(any_of(get_args(hint)[0]), max_size=3).map(tuple)
    return st.from_type(hint)


@examples(25)
@given(st.lists(any_of(Rotation), min_size=1, max_size=8))
def test_law_every_field_of_a_rotation_is_read_as_it_was_written(several: list[Rotation]) -> None:
    written = {str(number): replace(one, id=str(number), server_id=str(number)) for number, one in enumerate(several)}

    async def story(db: Database) -> None:
        async with ledgers(db, "a") as (ours,):
            for one in written.values():
                await claimed(ours, one)
        async with ledgers(db, "b") as (theirs,):
            assert {one.id: one for one in await theirs.history()} == written
            taken = {one.id: one for one in await theirs.take_over(everything=True)}
            assert taken == {key: one for key, one in written.items() if not one.is_finished}

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("snaprotd.ledger.store.uptime", lambda: asyncio.get_running_loop().time())
        run_virtually(story(SqliteDatabase(Path(folder) / "state.db")))


async def test_a_record_of_another_version_is_read_with_the_defaults_of_what_it_lacks(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours, rotation(held_off=True))
        body = json.loads(sql(db, "SELECT body FROM rotations")[0][0])
        del body["attempt"]
        sql(db, "UPDATE rotations SET body = ?", json.dumps({**body, "once_was": 1}))
        assert await ours.open_rotations() == [begun]


unreadable = pytest.mark.parametrize("body", ["{}", "", "no JSON", '{"id": "1"}', "[]"])


@unreadable
@pytest.mark.parametrize("use", ["history", "open_rotations"])
async def test_a_row_that_cannot_be_read_is_left_out_and_told_of(db: Database, body: str, use: str) -> None:
    async with ledgers(db, "a") as (ours,):
        good = await claimed(ours, rotation("good"))
        await claimed(ours, rotation("bad"))
    sql(db, "UPDATE rotations SET body = ? WHERE server_id = 'bad'", body)
    await asyncio.sleep(LEASE + 1)
    async with ledgers(db, "b") as (theirs,):
        with capture_logs() as said:
            assert await getattr(theirs, use)() == [good]
    assert [(one["log_level"], one["body"]) for one in said] == [("error", body)]


@unreadable
async def test_a_row_that_cannot_be_understood_is_never_taken_over_and_does_not_stop_the_next_slot(
    db: Database, body: str
) -> None:
    async with ledgers(db, "a") as (ours,):
        good = await claimed(ours, rotation("good"))
        bad = await claimed(ours, rotation("bad"))
    sql(db, "UPDATE rotations SET body = ? WHERE server_id = 'bad'", body)
    async with ledgers(db, "b") as (theirs,):
        await run_out(theirs)
        assert await theirs.take_over() == [good]
        assert sql(db, "SELECT owner, epoch, body FROM rotations WHERE server_id = 'bad'") == [("a", 1, body)]
        assert bad.id in theirs.set_aside["bad"]
        await claimed(theirs, rotation("bad", day=1))


async def test_what_a_newer_version_wrote_into_a_row_survives_a_save(db: Database) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        body = json.loads(sql(db, "SELECT body FROM rotations")[0][0])
    sql(db, "UPDATE rotations SET body = ?", json.dumps({**body, "hooks": ["thaw"]}))
    async with ledgers(db, "b") as (theirs,):
        await run_out(theirs)
        assert await theirs.take_over() == [begun]
        await theirs.save(changed(begun, step=Step.STOP))
    saved = json.loads(sql(db, "SELECT body FROM rotations")[0][0])
    assert (saved["hooks"], saved["step"]) == (["thaw"], "stop")


@unreadable
async def test_the_end_of_a_server_whose_row_cannot_be_read_hides_no_other(db: Database, body: str) -> None:
    async with ledgers(db, "a") as (ours,):
        good = await completed(ours, rotation("good"))
        await completed(ours, rotation("bad"))
        sql(db, "UPDATE rotations SET body = ? WHERE server_id = 'bad'", body)
        assert await ours.latest() == {"good": good}


@unreadable
async def test_a_server_whose_open_row_cannot_be_read_is_refused_in_one_sentence(db: Database, body: str) -> None:
    async with ledgers(db, "a") as (ours,):
        begun = await claimed(ours)
        sql(db, "UPDATE rotations SET body = ?", body)
        with pytest.raises(LedgerError) as refusal:
            await ours.claim(rotation(day=1))
        assert str(refusal.value) == f"the server's open rotation {begun.id} in the ledger cannot be read"
        assert await ours.claim(rotation()) == SlotTaken()
        assert isinstance(await ours.claim(rotation("another")), Claimed)
