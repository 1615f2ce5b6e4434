"""A slot whose rotation has failed is tried again: by the same daemon or the next, and never with a second snapshot."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.model import snapshot_name
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry
from tests.support.virtual_time import START

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks")

SLOT = START.replace(minute=10)
NAME = snapshot_name("main", SLOT)


def create(kind: str, **more: Any) -> Fault:
    return Fault(kind=kind, method="POST", path="/snapshots/", **more)


async def until(clock: str) -> None:
    hour, minute = map(int, clock.split(":"))
    await asyncio.sleep((START.replace(hour=hour, minute=minute) - datetime.now(UTC)).total_seconds())


async def rows(folder: Path) -> list[tuple[int, str, str | None, str]]:
    """Of each attempt its number, its kind, its result and when it was begun, oldest first."""
    async with await Ledger.open(folder / "state.db", owner="look", lock=False) as ledger:
        found = await ledger.history(limit=50)
    return [(one.attempt, one.kind, one.result, f"{one.started_at:%H:%M}") for one in reversed(found)]


def told(watched: Watched, name: str, *labels: str) -> float | None:
    return watched.value(f"snaprotd_{name}_total", *labels)


async def test_a_failed_slot_is_tried_again_and_counts_as_what_its_last_attempt_was(tmp_path: Path) -> None:
    world = a_world(faults=[create("ends")])
    async with daemon_on(configure(tmp_path, entry()), world) as watched:
        await until("03:30")
        assert told(watched, "rotations", "s12345", "failure") == 0
        assert watched.value("snaprotd_last_failure_timestamp_seconds", "s12345") is None
        await until("03:59")
        assert told(watched, "rotations", "s12345", "success") == 1
        assert told(watched, "rotations", "s12345", "failure") == 0
        assert watched.series("snaprotd_attempts_total")["scheduled", "failure"] == 1
        assert watched.series("snaprotd_attempts_total")["retry", "success"] == 1
    assert await rows(tmp_path) == [(1, "scheduled", "failure", "03:10"), (2, "retry", "success", "03:44")]
