"""A process that ends while its ledger is at work ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from snaprotd.ledger.store import Ledger

PATIENCE = 5.0


async def read_on(ledger: Ledger) -> None:
    while True:
        await ledger.marks()


async def life(path: Path, moments: int) -> None:
    """Something is read again and again, and is called off after so many turns of the loop."""
    ledger = await Ledger.open(path, owner="me", lock=False)
    reading = asyncio.create_task(read_on(ledger))
    for _ in range(moments):
        await asyncio.sleep(0)
    reading.cancel()
    await ledger.close()


def does_end(loop: asyncio.AbstractEventLoop) -> bool:
    """As `asyncio.run` ends, but not for ever."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    _, stuck = loop.run_until_complete(asyncio.wait(left, timeout=PATIENCE)) if left else ((), ())
    loop.run_until_complete(asyncio.sleep(0.01))  # its thread has a word to say still
    loop.close()
    return not stuck


@pytest.mark.real_time
def test_a_process_ends_whatever_its_ledger_was_doing(tmp_path: Path) -> None:
    """A `now` that had long done its work stayed for ever, one in ten times."""
    for moments in range(1, 40):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(life(tmp_path / "state.db", moments))
        assert does_end(loop), f"called off after {moments} turns of the loop"
