"""What is owed to servers, as the ledger tells it to rotations and to other processes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snaprotd.core.policy import Rules
from snaprotd.core.rotation import Rotation, Step
from snaprotd.ledger.claims import Claimed
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


@pytest.mark.usefixtures("one_clock")
async def test_a_server_whose_rotation_lives_elsewhere_is_left_to_it_until_a_while_after_its_lease(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    async with await Ledger.open(path, owner="one") as ours, await Ledger.open(path, owner="two") as theirs:
        assert isinstance(await theirs.claim(BEGUN), Claimed)
        await theirs.save(changed(BEGUN, step=Step.WAIT, held_off=True))
        assert await ours.starts.followed() == []
        assert [one.server_id for one in await theirs.starts.followed()] == ["12345"]
        await asyncio.sleep(theirs.lease + 1)
        assert await ours.starts.followed(grace=30.0) == []
        assert [one.server_id for one in await ours.starts.followed()] == ["12345"]
