"""The machine loses its power at any moment of a rotation, and with it the ledger whatever nobody has waited for.

Of a server that is stopped nobody's waiting is spared: there is nothing to lose.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.policy import Retention
from snaprotd.core.rotation import Result
from tests.scenarios.test_retention import NEW, Scene, ours
from tests.support.harms import lose_power
from tests.support.lives import OneOfSeveral, Story, night
from tests.support.virtual_time import run_virtually

START = datetime(2025, 1, 16, 3, 29, tzinfo=UTC)


class WithoutPower(Story):
    """Each process begins with what was on the disk for certain when the one before it died."""

    losses = 0

    async def open_ledger(self) -> OneOfSeveral:
        self.losses += lose_power(self.ledger_path)
        ledger = await super().open_ledger()
        assert isinstance(ledger, OneOfSeveral)
        return ledger


async def night_without_power(folder: Path, moment: int) -> WithoutPower:
    scene = Scene(folder, keep=Retention(last=2))
    scene.hold_ours(14, 15)
    known: dict[str, Any] = vars(scene.story)
    story = scene.witnessed.story = WithoutPower(**{**known, "crashes": {moment}})
    await asyncio.sleep((night(0) - datetime.now(UTC)).total_seconds())
    ended = await story.live_through(night(0))
    scene.witnessed.judge_rotation(ended, was_active=True)
    assert scene.witnessed.broken == []
    assert ended.result is Result.SUCCESS
    assert scene.held() == [ours(15), NEW]
    assert [one.name for one in scene.world.created] == [NEW]
    assert scene.deleted == [ours(14)]
    return story


@pytest.mark.usefixtures("one_clock", "silence", "few_marks")
def test_whenever_the_power_is_lost_the_snapshot_is_taken_once(tmp_path: Path) -> None:
    losses = 0
    for moment in count(1):
        folder = tmp_path / str(moment)
        folder.mkdir()
        story = run_virtually(night_without_power(folder, moment), START)
        losses += story.losses
        if story.moments["all"] < moment:
            break
    assert losses > 0
