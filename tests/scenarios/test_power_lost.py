"""The machine loses its power at any moment of a rotation, and with it the ledger whatever nobody has waited for.

Of a server that is stopped nobody's waiting is spared: there is nothing to lose.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.policy import Retention
from snaprotd.core.rotation import Result
from snaprotd.simulator import Reply, Request
from tests.scenarios.test_retention import NEW, Scene, is_create, ours
from tests.support.harms import lose_power
from tests.support.lives import OneOfSeveral, Story, night
from tests.support.virtual_time import run_virtually

START = datetime(2025, 1, 16, 3, 29, tzinfo=UTC)


class WithoutPower(Story):
    """Each process begins with what was on the disk for certain when the one before it died."""

    losses = 0
    had_its_id = False
    """The ledger, as the process that died has left it: the snapshot is ours from then on, whatever it is called."""

    async def open_ledger(self) -> OneOfSeveral:
        if self.ledger_path.exists():
            with closing(sqlite3.connect(self.ledger_path)) as its:
                bodies = its.execute("SELECT body FROM rotations").fetchall()
            self.had_its_id = any("snapshot_id" in json.loads(body) for (body,) in bodies)
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


async def night_with_another_name(folder: Path, moment: int) -> WithoutPower:
    """The provider calls the snapshot otherwise than it was asked to, before another process has begun."""
    scene = Scene(folder, keep=Retention(last=2))
    story = WithoutPower(**{**vars(scene.story), "crashes": {moment}})

    def rename() -> None:
        for one in scene.world.created:
            one.name = f"snapshot-{one.id}"

    def after(request: Request, _: Reply) -> None:
        if is_create(request):
            scene.world.later(5.0, rename)

    story.after_request = after
    await asyncio.sleep((night(0) - datetime.now(UTC)).total_seconds())
    ended = await story.live_through(night(0))
    assert ended.result is Result.SUCCESS
    assert len(scene.world.created) == 1 or not story.had_its_id, f"it was asked for again after moment {moment}"
    return story


@pytest.mark.usefixtures("one_clock", "silence", "few_marks")
@pytest.mark.parametrize("story_of", [night_without_power, night_with_another_name])
def test_whenever_the_power_is_lost_the_snapshot_is_taken_once(
    tmp_path: Path, story_of: Callable[[Path, int], Coroutine[Any, Any, WithoutPower]]
) -> None:
    losses = 0
    for moment in count(1):
        folder = tmp_path / str(moment)
        folder.mkdir()
        story = run_virtually(story_of(folder, moment), START)
        losses += story.losses
        if story.moments["all"] < moment:
            break
    assert losses > 0
