"""The server ran when it was seen last, and then no process lived. It is off: by us, or by somebody else?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snaprotd.commands.jobs.now import rotate_now
from snaprotd.config import file as config
from snaprotd.config.settings import Config, resolve
from snaprotd.core.rotation import Rotation
from snaprotd.wiring.access import open_cloud
from tests.support.daemons import power
from tests.support.promised import DAY, HOUR, MINUTE, Promise, have_few_ticks
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "silence")


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    have_few_ticks(monkeypatch)


class Left(Promise):
    """A server that a daemon has started again, and is only watched when that daemon is killed."""

    async def is_left(self) -> None:
        watched = await self.begin()
        await self.until(lambda: bool(watched.ended))
        assert self.status == "active"
        await self.kill()
        self.way.posts.clear()

    def switch(self, action: str) -> None:
        """A person does it; or what was sent twice strikes."""
        self.world._switch(self.world.servers["12345"], action)

    async def problems(self) -> list[str]:
        return [one["text"] for one in (await self.report())["problems"]]


WHO = "by somebody's wish since"


@pytest.mark.parametrize("after", [6 * MINUTE, DAY])
async def test_what_is_found_off_when_nothing_of_ours_could_strike_any_more_is_asked_about(
    tmp_path: Path, after: float
) -> None:
    one = Left(tmp_path)
    await one.is_left()
    await asyncio.sleep(after - MINUTE)
    one.switch("stop")
    await asyncio.sleep(MINUTE)
    await one.begin()
    await asyncio.sleep(HOUR)
    assert (one.status, one.way.posts) == ("stopped", [])
    assert any(WHO in text for text in await one.problems())
    assert (await one.report())["state"] == "alarm"
    one.switch("start")
    await asyncio.sleep(HOUR)
    assert not any(WHO in text for text in await one.problems())
    one.switch("stop")  # it was paid: whoever does this is none of ours
    await asyncio.sleep(HOUR)
    assert (one.status, one.way.posts) == ("stopped", [])
    await one.end()


async def test_one_look_that_may_be_stale_pays_nothing(tmp_path: Path) -> None:
    one = Left(tmp_path)
    await one.is_left()
    one.switch("stop")
    await asyncio.sleep(DAY)
    one.way.lags_at, one.way.lags_for = 0, MINUTE
    await one.begin()
    await asyncio.sleep(HOUR)
    assert any(WHO in text for text in await one.problems())
    await one.end()


async def test_what_is_found_off_before_was_our_stop_that_was_sent_twice(tmp_path: Path) -> None:
    one = Left(tmp_path)
    await one.is_left()
    one.switch("stop")
    await asyncio.sleep(MINUTE)
    await one.begin()
    await one.until(lambda: one.status == "active", 5 * MINUTE)
    assert one.way.posts == ["start"]
    await one.end()


async def test_what_is_found_running_is_paid_and_off_after_that_is_none_of_ours(tmp_path: Path) -> None:
    one = Left(tmp_path)
    await one.is_left()
    await asyncio.sleep(DAY)
    await one.begin()
    await one.pass_time(HOUR / 2)
    one.switch("stop")
    await asyncio.sleep(HOUR)
    assert (one.status, one.way.posts, await one.problems()) == ("stopped", [], [])
    await one.end()


@pytest.mark.parametrize(("hours", "is_started"), [(20, True), (30, False)])
async def test_a_stop_that_was_never_seen_to_strike_is_ours_for_a_day_of_the_clock(
    tmp_path: Path, hours: int, is_started: bool
) -> None:
    one = Left(tmp_path, power("stop_never", "stop", times=None))
    await one.is_left()
    await asyncio.sleep(hours * HOUR)
    one.switch("stop")
    await asyncio.sleep(MINUTE)
    await one.begin()
    await asyncio.sleep(HOUR / 2)
    assert (one.status == "active", one.way.posts == ["start"]) == (is_started, is_started)
    assert any(WHO in text for text in await one.problems()) is not is_started
    await one.end()


# -- `now`, alone on its ledger ---------------------------------------------------------------------------------------


@pytest.fixture
def commands_go(monkeypatch: pytest.MonkeyPatch) -> Callable[[Promise], None]:
    """Have `now` in this process take the way of the story."""

    def go(one: Promise) -> None:
        monkeypatch.setattr("snaprotd.wiring.access.open_cloud", partial(_open, one.way))

    return go


def _open(way: WorldTransport, config: Config, environ: Any, observer: Any, _: Any, **more: Any) -> Any:
    return open_cloud(config, environ, observer, way, **more)


async def run_now(one: Promise) -> Rotation:
    environ = {"VPS_API_TOKEN": one.world.token}
    settings = config.load(one.path, {})
    (ending,) = await rotate_now(
        *(settings, environ, resolve(settings, None)),
        description="",
        show=lambda rotation, usual: None,
        say=lambda text, *, is_last=False: None,
    )
    assert ending.rotation is not None, ending.refused
    return ending.rotation


async def test_now_does_not_stay_where_its_stop_has_struck(
    tmp_path: Path, commands_go: Callable[[Promise], None]
) -> None:
    one = Promise(tmp_path)
    commands_go(one)
    began = asyncio.get_running_loop().time()
    assert (await run_now(one)).result == "success"
    back, status = one.world.servers["12345"].history[-1]
    assert status == "active"
    assert (one.world.now() - back).total_seconds() <= 3 * 15
    assert asyncio.get_running_loop().time() - began < 5 * MINUTE


async def test_now_that_is_alone_stays_where_its_stop_was_never_seen_to_strike(
    tmp_path: Path, commands_go: Callable[[Promise], None]
) -> None:
    """The provider has acknowledged it, and carries it out when the rotation has long ended."""
    one = Promise(tmp_path, power("slow_power", "stop", delay=18 * MINUTE))
    commands_go(one)
    assert (await run_now(one)).result == "failure"
    assert one.history == ["active", "stopping", "stopped", "starting", "active"]


async def test_a_rotation_of_a_server_that_is_off_in_doubt_is_no_success_and_tells_no_downtime(
    tmp_path: Path, commands_go: Callable[[Promise], None]
) -> None:
    one = Left(tmp_path)
    commands_go(one)
    await one.is_left()
    one.switch("stop")
    await asyncio.sleep(DAY)
    ended = await run_now(one)
    assert (ended.result, ended.failed_step, round(ended.power.off_for)) == ("failure", "start", 0)
    assert "somebody else may have switched it off" in (ended.error or "")
    assert ended.snapshot_id is not None
    assert one.way.posts == []


async def test_what_an_earlier_rotation_switched_off_is_no_downtime_of_the_next_one(
    tmp_path: Path, commands_go: Callable[[Promise], None]
) -> None:
    one = Left(tmp_path)
    commands_go(one)
    await one.is_left()
    await one.begin()
    await asyncio.sleep(HOUR)
    await one.end()
    one.switch("stop")
    await asyncio.sleep(HOUR)
    ended = await run_now(one)
    assert (ended.result, ended.power.off_for, one.status) == ("success", 0.0, "stopped")
