"""Which replica claims a slot, and when; what is another's is remembered until it may be claimed here."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from math import inf

import pytest

from snaprotd.daemon.slots.turns import AFTER_A_ROUND, AFTER_PREFERRED, AT_MOST, LOOKED_EVERY, Turns

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
    assert after <= asyncio.get_running_loop().time() - began <= after + LOOKED_EVERY * (not prefers)


@pytest.mark.parametrize(
    ("prefers", "rounds", "after"),
    [
        pytest.param(True, 1, AFTER_A_ROUND, id="all places are taken"),
        pytest.param(False, 1, AFTER_PREFERRED + AFTER_A_ROUND, id="here, and the slot is another's"),
        pytest.param(True, 2, 2 * AFTER_A_ROUND, id="as many wait in line"),
        pytest.param(True, inf, AT_MOST, id="there are none, or nobody knows of it yet"),
    ],
)
async def test_who_has_no_place_leaves_the_slot_to_others_for_a_while(
    prefers: bool, rounds: float, after: float
) -> None:
    turns, began = Turns(prefers=lambda _: prefers, rounds=lambda: rounds), asyncio.get_running_loop().time()
    assert await turns.come("12345", SLOT, waits=True)
    assert after <= asyncio.get_running_loop().time() - began <= after + LOOKED_EVERY * (not prefers)


async def test_a_place_that_is_free_again_is_soon_seen() -> None:
    rounds, began = 1, asyncio.get_running_loop().time()
    turns = Turns(rounds=lambda: rounds)
    waiting = asyncio.create_task(turns.come("12345", SLOT, waits=True))
    await asyncio.sleep(LOOKED_EVERY / 2)
    rounds = 0
    assert await waiting
    assert asyncio.get_running_loop().time() - began == LOOKED_EVERY


async def test_who_has_filled_its_last_place_meanwhile_leaves_the_next_slot_longer() -> None:
    rounds, began = 1, asyncio.get_running_loop().time()
    turns = Turns(rounds=lambda: rounds)
    waiting = asyncio.create_task(turns.come("12345", SLOT, waits=True))
    await asyncio.sleep(1)
    rounds = 2
    assert await waiting
    assert asyncio.get_running_loop().time() - began == 2 * AFTER_A_ROUND


async def test_who_is_to_end_leaves_to_others_what_it_had_no_place_for() -> None:
    turns = Turns(rounds=lambda: 1)
    waiting = asyncio.create_task(turns.come("12345", SLOT, waits=True))
    await asyncio.sleep(1)
    turns.stop()
    assert [await waiting, turns.put_off] == [False, {}]


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
