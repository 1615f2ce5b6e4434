"""How often a rotation is written: when it has something to tell, and not at each look."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.rotation import Result, Rotation
from snaprotd.ledger.store import Ledger
from tests.support.daemons import a_world, configure, daemon_on, entry

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks")

TAKES = 600.0
"""Seconds of a snapshot, which is looked at every quarter of a minute."""
SETTLE = 120.0
MOST = 14
"""Of a rotation with a stop: its requests, and what their answers tell."""


async def test_a_rotation_is_written_when_it_has_something_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, save = list[Rotation](), Ledger.save

    async def counted(ledger: Ledger, rotation: Rotation, **how: Any) -> None:
        written.append(rotation)
        await save(ledger, rotation, **how)

    monkeypatch.setattr(Ledger, "save", counted)
    world = a_world(snapshot_seconds=(TAKES, TAKES))
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", "stop_first: true")), world) as watched:
        await asyncio.sleep(2 * TAKES + 600.0)
    assert [one.result for one in watched.ended] == [Result.SUCCESS]
    assert len(written) <= MOST + TAKES / (SETTLE / 4)
