"""Another database server in the place of the ledger's, which lacks what was written last: a real standby, promoted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from snaprotd.core import creation
from snaprotd.core.errors import CalledOff, LeaseLost, LedgerError
from snaprotd.core.promise import Terms
from snaprotd.core.rotation import Step
from snaprotd.ledger.address import ServerAddress
from snaprotd.ledger.claims import Claimed, SlotTaken
from snaprotd.ledger.leases.changeover import quiet_for
from snaprotd.ledger.server.look import look_at
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import LEASE, claimed, ledgers, rotation, run_out, sql
from tests.ledger.test_store import db as db
from tests.support.databases import Database, PostgresqlDatabase, Server, server
from tests.support.rotations import changed

pytestmark = pytest.mark.usefixtures("one_clock")

QUIET = quiet_for(LEASE, Terms().settle)
ANOTHER = "another server is in the place of the one that had it"


async def gone_over(ledger: Ledger) -> None:
    """Its connection was cut while it was idle: the next transaction finds the other server."""
    await ledger.probe()


async def test_after_a_failover_nothing_begins_until_what_was_lost_can_be_seen_and_what_runs_is_saved_again(
    tmp_path: Path,
) -> None:
    with server() as primary, primary.standby() as standby:
        schema = primary.schema()
        assert [(await look_at(ServerAddress(one._url()))).can_write for one in (primary, standby)] == [True, False]
        db = PostgresqlDatabase(primary.or_else(standby, schema), tmp_path)
        async with ledgers(db, "a", "b") as (ours, theirs):
            kept = await claimed(ours, rotation("1"))
            left = await claimed(theirs, rotation("2"))
            asked = changed(kept, step=Step.SNAPSHOT, creation=creation.promised(kept.creation))
            await ours.save(asked)
            ours.guard(asked.id, as_saved=True)
            await run_out(ours, seconds=10)
            its_schema = schema.rpartition("%3D")[2]
            standby.until_it_has(f"SELECT 1 FROM {its_schema}.rotations WHERE body::json ->> 'creates' = '1'")
            before = ours._place.origin
            assert before
            primary.stop()
            standby.promote()

            await gone_over(ours)
            assert ours._place.origin.split("/")[0] == before.split("/")[0]  # the same cluster on another timeline
            assert ours._place.origin != before
            ours.guard(asked.id)  # a start goes out
            with pytest.raises(CalledOff):
                ours.guard(asked.id, as_saved=True)
            await ours.save(asked)
            ours.guard(asked.id, as_saved=True)

            with pytest.raises(LedgerError, match=ANOTHER):
                await ours.claim(rotation("3"))
            async with ledgers(db, "late") as (late,):  # it has never seen the other one
                with pytest.raises(LedgerError, match=ANOTHER):
                    await late.claim(rotation("3"))
            await run_out(ours, seconds=QUIET - 1)
            with pytest.raises(LedgerError, match=ANOTHER):
                await ours.claim(rotation("3"))
            assert await ours.take_over() == []
            await asyncio.sleep(1)
            assert isinstance(await ours.claim(rotation("3")), Claimed)
            assert await ours.take_over() == [left]
            async with ledgers(db, "new") as (new,):  # somebody has waited
                assert isinstance(await new.claim(rotation("4")), Claimed)


async def test_a_row_that_was_lost_is_there_again_with_the_next_renewal_of_who_holds_it(db: Database) -> None:
    """Else its slot could be claimed again when the waiting is over."""
    async with ledgers(db, "a", "b") as (ours, theirs):
        begun, gone = await claimed(ours, rotation("1")), await claimed(ours, rotation("2"))
        sql(db, "DELETE FROM rotations")
        other = await claimed(theirs, rotation("2"))
        await ours.renew([begun, gone])
        assert await theirs.claim(replace(begun, id="another")) == SlotTaken()
        assert {one.id for one in await theirs.open_rotations()} == {begun.id, other.id}
        await ours.save(begun)
        with pytest.raises(LeaseLost):
            await ours.save(gone)


async def test_a_role_that_may_not_see_the_server_goes_on_without(postgresql: Server, tmp_path: Path) -> None:
    schema = postgresql.schema()
    db = PostgresqlDatabase(schema, tmp_path)
    name = schema.rpartition("%3D")[2]
    db.sql(f"CREATE ROLE {name} LOGIN")
    db.sql(f"GRANT ALL ON SCHEMA {name} TO {name}")
    db.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    url = schema.replace("snaprotd@", f"{name}@")
    try:
        assert not (await look_at(ServerAddress(url))).tells_failover
        assert (await look_at(ServerAddress(schema))).tells_failover
        async with ledgers(PostgresqlDatabase(url, tmp_path), "a") as (ours,):
            begun = await claimed(ours)
            await ours.save(begun)
            ours.guard(begun.id, as_saved=True)
            assert ours._place.origin == ""
    finally:
        db.sql("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
