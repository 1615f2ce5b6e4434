"""The tests' own clock: if it lied, they all would."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import aiosqlite

from tests.support.virtual_time import START


async def test_a_day_passes_at_once_and_the_wall_clock_follows() -> None:
    real = time.perf_counter()
    await asyncio.sleep(86400)
    assert datetime.now(UTC) - START == timedelta(days=1)
    assert time.perf_counter() - real < 5


async def test_time_stands_still_while_the_database_works() -> None:
    async with aiosqlite.connect(":memory:") as db:
        timer = asyncio.create_task(asyncio.sleep(3600))
        before = asyncio.get_running_loop().time()
        for _ in range(50):
            await db.execute("select 1")
        assert asyncio.get_running_loop().time() == before
        timer.cancel()


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    woken: list[int] = []

    async def sleeper(seconds: int) -> None:
        await asyncio.sleep(seconds)
        woken.append(seconds)

    await asyncio.gather(*(sleeper(n) for n in (30, 10, 20)))
    assert woken == [10, 20, 30]
