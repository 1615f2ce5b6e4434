"""Which replica claims a slot, and when; what is another's is remembered until it may be claimed here."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from snaprotd.daemon.slots.turns import AFTER_PREFERRED, Turns

AT = datetime(2025, 1, 16, 3, 10, tzinfo=UTC)
SLOT = (AT, AT)


@pytest.mark.parametrize(
    ("prefers", "waits", "after"),
    [
        pytest.param(True, True, 0.0, id="the one that is to"),
        pytest.param(False, True, AFTER_PREFERRED, id="another one leaves it a moment"),
        pytest.param(False, False, 0.0, id="a slot that was missed is late enough"),
    ],
)
async def test_who_is_to_claim_a_slot_goes_first(prefers: bool, waits: bool, after: float) -> None:
    turns, began = Turns(prefers=lambda _: prefers), asyncio.get_running_loop().time()
    assert await turns.come("12345", SLOT, waits=waits)
    assert asyncio.get_running_loop().time() - began == after


async def test_what_is_anothers_is_put_off_until_it_may_be_claimed_here() -> None:
    may = False
    turns = Turns(may_claim=lambda: may)
    assert not await turns.come("12345", SLOT, waits=True)
    assert turns.resumed() == {}
    may = True
    assert [turns.resumed(), turns.resumed()] == [{"12345": SLOT}, {}]


async def test_a_newer_configuration_that_comes_while_it_waits_has_the_slot() -> None:
    may = True
    turns = Turns(may_claim=lambda: may, prefers=lambda _: False)
    waiting = asyncio.create_task(turns.come("12345", SLOT, waits=True))
    await asyncio.sleep(AFTER_PREFERRED / 2)
    may = False
    assert not await waiting
