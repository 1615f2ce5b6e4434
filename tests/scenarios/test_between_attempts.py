"""Between two attempts at a slot, and after the last: the file is edited, snapshots change, the process dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.holds import snapshot_name
from snaprotd.core.rotation import Step
from snaprotd.engine.rotations import Rotations
from snaprotd.engine.steps import ACTIONS
from snaprotd.simulator import Request, World
from tests.scenarios.test_retries import FAILED, NAME, SLOT, SOON, create, rows, told, until
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, kill, look_around_less
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "fewer_ticks", "silence")


@pytest.fixture
def fewer_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_around_less(monkeypatch, tick=61.3, leases=29.1, file=21.3, account=61.7)


def with_an_old_one(**options: Any) -> World:
    """The account has yesterday's snapshot, which goes with `keep: 1` when the slot has its own."""
    world, yesterday = a_world("one", "two", **options), SLOT - timedelta(days=1)
    world.add_snapshot("12345", snapshot_name("main", yesterday), created_at=yesterday)
    return world


def names(world: World) -> list[str]:
    return [one.name for one in world.snapshots_of("12345")]


# -- the file is edited ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edited", "failures"),
    [
        (entry("10 3 * * *", 'window: "03:00-03:12"'), 1),
        (entry("10 3 * * *", "retry: {times: 0}"), 1),
        (entry("10 3 * * *", "paused: true", SOON), 1),
        (entry(server_id="12346"), None),
    ],
    ids=["its window is closed", "no retries", "paused", "another server"],
)
async def test_what_the_file_does_not_want_any_more_is_asked_for_by_nobody_and_told_once(
    tmp_path: Path, edited: str, failures: int | None
) -> None:
    """Whoever edits the file while the next attempt is a minute away."""
    world, changes = with_an_old_one(faults=[create("ends")]), list[str]()

    def asked(request: Request) -> None:
        if request.method != "GET":
            changes.append(f"{datetime.now(UTC):%H:%M} {request.method}")

    path = configure(tmp_path, entry("10 3 * * *", SOON))
    async with daemon_on(path, world, WorldTransport(world, before=asked)) as watched:
        await until("03:18")
        assert (watched.ended[0].result, watched.ended[0].may_pass) == ("failure", True)
        configure(tmp_path, edited)
        await until("04:05")
        assert told(watched, "rotations", "s12345", "failure") == failures
    assert changes == ["03:10 POST"]
    assert await rows(tmp_path) == [FAILED]


@pytest.mark.parametrize("edited", ["paused: true", "keep: 2"])
async def test_what_comes_too_late_is_pruned_for_only_as_its_own_rotation_would_have(
    tmp_path: Path, edited: str
) -> None:
    world, keys = with_an_old_one(snapshot_seconds=(900, 900)), ("snapshot_timeout: 1m", "retry: {times: 0}")
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", "keep: 1", *keys)), world):
        await until("03:15")
        configure(tmp_path, entry("10 3 * * *", edited, *keys))
        await until("03:40")
    assert world.deleted == []
    assert len(names(world)) == 2


# -- what became of the first one --------------------------------------------------------------------------------------


async def test_the_first_one_that_is_whole_after_the_second_attempt_has_failed_too_is_the_slots(
    tmp_path: Path,
) -> None:
    world = with_an_old_one(faults=[create("ends", times=2)])
    path = configure(tmp_path, entry("10 3 * * *", "retry: {times: 1, after: 5m}", "keep: 1"))
    async with daemon_on(path, world) as watched:
        await until("03:45")
        assert [one.result for one in watched.ended] == ["failure", "failure"]
        world.created[0].status = "completed"
        await until("03:55")
        assert (await watched.daemon.view.status())["problems"] == []
    assert [one[1:3] for one in await rows(tmp_path)] == [("scheduled", "failure"), ("retry", "success")]
    assert len(world.created) == 2
    assert [one.id for one in world.snapshots_of("12345") if one.status == "completed"] == [world.created[0].id]


async def test_the_first_one_that_is_whole_after_the_second_attempt_has_succeeded_is_one_restore_point_with_it(
    tmp_path: Path,
) -> None:
    world = with_an_old_one(faults=[create("ends")])
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", SOON, "keep: 3")), world) as watched:
        await until("03:19")
        world.created[0].size_mb = None
        await until("03:45")
        assert [one.result for one in watched.ended] == ["failure", "success"]
        first, second = world.created
        if first in world.snapshots_of("12345"):
            first.status = "completed"
        await watched.daemon.rotate("12345")
        await until("04:05")
        assert watched.ended[-1].result == "success"
    assert second in world.snapshots_of("12345")
    assert names(world).count(NAME) == 1


async def test_one_that_failed_beside_the_one_that_was_taken_in_its_place_is_nobody_elses_work(tmp_path: Path) -> None:
    world = a_world(faults=[create("ends")], snapshot_seconds=(200, 200))
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", "retry: {after: 1m}")), world) as watched:
        await until("03:16")
        while len(names(world)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(5)
        await asyncio.sleep(100)
        assert names(world) == [NAME, NAME]
        told_now = [one["text"] for one in (await watched.daemon.view.status())["problems"]]
    assert [text for text in told_now if "bears our name" in text] == []


# -- the process dies --------------------------------------------------------------------------------------------------

Stop = Callable[[], Awaitable[None]]


def before_the_write(monkeypatch: pytest.MonkeyPatch, stop: Stop) -> None:
    begin = Rotations.begin

    async def stopped(self: Rotations, *args: Any, reopens: bool = False) -> Any:
        if reopens:
            await stop()
        return await begin(self, *args, reopens=reopens)

    monkeypatch.setattr(Rotations, "begin", stopped)


def after_the_write(monkeypatch: pytest.MonkeyPatch, stop: Stop) -> None:
    begin = Rotations.begin

    async def stopped(self: Rotations, *args: Any, reopens: bool = False) -> Any:
        if reopens:
            await self._tools.ledger.claim(*args, reopens=True)
            await stop()
        return await begin(self, *args, reopens=reopens)

    monkeypatch.setattr(Rotations, "begin", stopped)


def before_the_prune(monkeypatch: pytest.MonkeyPatch, stop: Stop) -> None:
    async def stopped(_: object) -> None:
        await stop()

    monkeypatch.setattr("snaprotd.engine.loop.ACTIONS", {**ACTIONS, Step.PRUNE: stopped})


@pytest.mark.parametrize("moment", [before_the_write, after_the_write, before_the_prune])
async def test_who_is_killed_while_a_late_snapshot_is_noted_is_followed_by_one_that_makes_it_right(
    tmp_path: Path, moment: Callable[[pytest.MonkeyPatch, Stop], None]
) -> None:
    world, dies = with_an_old_one(snapshot_seconds=(900, 900)), asyncio.Event()
    (old,) = world.snapshots_of("12345")
    path = configure(tmp_path, entry("10 3 * * *", "keep: 1", "snapshot_timeout: 1m", "retry: {times: 0}"))

    async def stop() -> None:
        dies.set()
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patched:
        moment(patched, stop)
        watched = Watched(path, world)
        running = asyncio.create_task(watched.daemon.run())
        await asyncio.wait_for(dies.wait(), 3600)
        assert [one.snapshot for one in world.deleted] == []
        await kill(watched)
        await asyncio.gather(running, return_exceptions=True)
    async with daemon_on(path, world) as later:
        await asyncio.sleep(300)
        assert (await later.daemon.view.status())["state"] != "alarm"
    assert [one[:3] for one in await rows(tmp_path)] == [(1, "scheduled", "success")]
    assert [one.snapshot for one in world.deleted] == [old]
    assert names(world) == [one.name for one in world.created] == [NAME]
