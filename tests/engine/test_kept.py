"""A server in care of a process, beside others that see to the same one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snaprotd.core import power
from snaprotd.core.policy import Rules
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Rotation
from snaprotd.engine.starts.kept import Kept
from snaprotd.ledger.store import Ledger
from tests.support.policies import a_policy
from tests.support.rotations import changed

SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
BEGUN = Rotation.begin(
    id="r1", server_id="12345", label="web", slot=SLOT, rules=Rules(policy=a_policy()), now=SLOT, settle=40.0
)


def care_of(ledger: Ledger, record: ServerPower) -> Kept:
    tools: Any = SimpleNamespace(
        ledger=ledger,
        inventory=SimpleNamespace(ids_of=lambda one: frozenset({one})),
        poll_interval=15.0,
        now=lambda: SLOT,
    )
    return Kept(record, tools)


async def test_what_another_process_has_paid_is_no_number_of_a_promise_to_come(tmp_path: Path) -> None:
    """Who hears of it late writes it down late: beside the next stop, which another one has promised by then."""
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        owed = ledger.starts.record_of(changed(BEGUN, held_off=True, stop_age=7.0))
        await ledger.starts.save(owed)
        watching = care_of(ledger, owed)
        await ledger.starts.save(replace(owed, power=power.given_up(owed.power)))
        assert await watching.is_let_go()
        assert not watching.power.is_followed
        next_one = power.promised(owed.power, SLOT + timedelta(minutes=1))
        await ledger.starts.save(replace(owed, power=next_one))
        await watching.save_power_if_possible()
        (record,) = await ledger.starts.owed()
        assert record.power.asked == next_one.asked
        assert not record.lets_go_of(next_one)


def test_a_start_is_let_go_of_by_who_knew_of_its_stop() -> None:
    """A person may have let go of the one before, under the number of this one, in the moment in which it began."""
    before = Power(asked=1, released=1, held_off_since=SLOT)
    let_go = ServerPower(account="", server_id="12345", label="web", power=power.given_up(before))
    assert let_go.lets_go_of(replace(before, asked=2))
    assert not let_go.lets_go_of(replace(before, asked=2, held_off_since=SLOT + timedelta(minutes=1)))
