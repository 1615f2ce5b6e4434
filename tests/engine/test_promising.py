"""A stop is promised under a number that nobody has used meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snaprotd.core import power
from snaprotd.core.errors import LedgerError
from snaprotd.core.policy import Rules
from snaprotd.core.power import Power
from snaprotd.core.rotation import Rotation
from snaprotd.engine.run import Run
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.store import Ledger
from tests.support.policies import a_policy

SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
NOW = SLOT + timedelta(minutes=5)
BEGUN = Rotation.begin(
    id="r1", server_id="12345", label="web", slot=SLOT, rules=Rules(policy=a_policy()), now=SLOT, settle=40.0
)
FOLLOWED = Power(asked=1, released=1, unstruck=True, stop_age=60.0, held_off_since=SLOT)
"""Its start was paid, and its stop never seen to strike: it is still looked after."""


async def claimed(ledger: Ledger) -> Run:
    """A rotation of a server of which an earlier stop is still followed."""
    await ledger.starts.save(ledger.starts.record_of(replace(BEGUN, power=FOLLOWED)))
    claim = await ledger.claim(BEGUN)
    assert isinstance(claim, Claimed)
    return run_of(claim.rotation, ledger)


def run_of(rotation: Rotation, ledger: Ledger) -> Run:
    tools: Any = SimpleNamespace(ledger=ledger, now=lambda: NOW)
    return Run(rotation, tools)


async def test_who_lets_go_of_an_earlier_stop_between_claim_and_stop_does_not_let_go_of_the_one_to_come(
    tmp_path: Path,
) -> None:
    """The process may die right after the stop: the next one pays what the ledger owes."""
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        run = await claimed(ledger)
        assert await ledger.starts.let_go("12345", "by root, at noon")
        await run.save_power(power.promised, NOW)
        (owed,) = await ledger.starts.owed()
        assert owed.power.asked > owed.power.released
        assert run.power.asked == owed.power.asked
        assert run.rotation.is_owed
        assert not owed.lets_go_of(run.power)


async def test_who_pays_an_earlier_stop_between_claim_and_stop_does_not_pay_the_one_to_come(tmp_path: Path) -> None:
    """Another replica saw the server off, owed its start anew, and saw that paid after the stop of this one."""
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        run = await claimed(ledger)
        debt = replace(FOLLOWED, asked=2, went_off=True)
        await ledger.starts.save(ledger.starts.record_of(replace(BEGUN, power=debt)))
        await run.save_power(power.promised, NOW)
        await ledger.starts.save(ledger.starts.record_of(replace(BEGUN, power=power.released(debt))))
        (owed,) = await ledger.starts.owed()
        assert owed.power.asked == run.power.asked == 3
        assert owed.power.released == 2


async def test_what_was_promised_with_no_answer_is_no_stop_that_may_strike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a server that somebody switches off within the day would be started."""
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        await ledger.claim(BEGUN)
        run, save = run_of(BEGUN, ledger), ledger.save

        async def no_answer(rotation: Rotation, **how: Any) -> None:
            await save(rotation, **how)
            raise LedgerError("the connection was lost")

        monkeypatch.setattr(ledger, "save", no_answer)
        with pytest.raises(LedgerError):
            await run.save_power(power.promised, NOW)
        monkeypatch.setattr(ledger, "save", save)
        await run.save_power(power.promised, NOW + timedelta(seconds=15))
        (owed,) = await ledger.starts.owed()
        assert owed.power.held_off
        assert owed.power.unstruck
        assert owed.power.earlier_age is None


async def test_a_rotation_whose_server_is_held_off_already_promises_as_before(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        run = await claimed(ledger)
        await run.save_power(power.promised, NOW)
        await run.save_power(power.promised_harder, NOW)
        (owed,) = await ledger.starts.owed()
        assert owed.power.asked == run.power.asked == 2
        assert owed.power.hard_stop


async def test_a_harder_stop_of_a_server_that_ran_in_two_looks_is_of_the_same_number(tmp_path: Path) -> None:
    """It is only watched by then, and its promise stands."""
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        run = await claimed(ledger)
        await run.save_power(power.promised, NOW)
        run.update_power(lambda known: replace(known, watched=True))
        await run.save_power(power.promised_harder, NOW)
        (owed,) = await ledger.starts.owed()
        assert owed.power.asked == run.power.asked == 2
