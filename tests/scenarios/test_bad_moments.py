"""Whole rotations to which something happens in the one moment in which one of their guards counts."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.policy import OnStopTimeout, Retention
from snaprotd.core.rotation import Result
from snaprotd.engine.loop import run_rotation
from snaprotd.engine.run import Run
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.rows import read_rotation
from snaprotd.simulator import Request, World
from tests.scenarios.test_retention import NEW, Scene, is_create, ours
from tests.support.daemons import power
from tests.support.lives import night
from tests.support.rotations import flat

pytestmark = pytest.mark.usefixtures("one_clock", "silence")


def on_disk(scene: Scene) -> dict[str, Any]:
    """The rotation as whoever comes next would find it."""
    with closing(sqlite3.connect(scene.story.ledger_path)) as ledger:
        ((body,),) = ledger.execute("SELECT body FROM rotations").fetchall()
    return flat(read_rotation(body)) | {"held_off": json.loads(body)["held_off"]}


# -- before a request goes out -----------------------------------------------------------------------------------------


async def test_what_a_request_may_do_is_on_disk_before_it_goes_out(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stop_first=True, on_stop_timeout=OnStopTimeout.HARD_STOP)
    scene.world.faults.append(power("stop_never", "stop", times=1))
    known: dict[str, dict[str, Any]] = {}

    def on_request(request: Request) -> None:
        if request.method == "POST":
            known[str(request.json.get("action", "create"))] = on_disk(scene)

    scene.on_request = on_request
    await scene.night()
    assert [*known] == ["stop", "hard_stop", "create", "start"]
    assert [known[what]["held_off"] for what in known] == [True] * 4
    assert [known[what]["hard_stop"] for what in known] == [False, True, True, True]
    assert [known[what]["creates"] for what in known] == [0, 0, 1, 1]
    assert [known[what]["starts"] for what in known] == [0, 0, 0, 1]


async def test_while_another_snapshot_is_in_progress_the_server_is_neither_stopped_nor_asked_for_one(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold("by-hand", status="in_progress", created_at=night(0) - timedelta(minutes=1))
    (other,) = scene.world.snapshots_of(scene.server_id)
    statuses = []

    def completed() -> None:
        other.status = "completed"

    def on_request(request: Request) -> None:
        if request.method == "POST":
            statuses.append(other.status)

    scene.on_request = on_request
    scene.world.later((night(0) - datetime.now(UTC)).total_seconds() + 300, completed)
    assert (await scene.night()).result is Result.SUCCESS
    assert statuses == ["completed"] * 3


async def test_where_somebody_takes_the_last_slot_no_snapshot_is_asked_for_that_would_be_refused(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(12, 13, 14, 15)

    def on_request(request: Request) -> None:
        if request.json.get("action") == "stop":
            scene.hold("by-hand")

    scene.on_request = on_request
    assert (await scene.night()).error == "blocked: 5 of 5 snapshots: the last free slot was taken"
    assert scene.asked == ["stop", "start"]


# -- while a server is off ---------------------------------------------------------------------------------------------


async def test_a_server_is_no_longer_off_when_somebody_starts_it_though_its_snapshot_goes_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path, world=World(snapshot_seconds=(1500, 1500)), stop_first=True)

    def on_request(request: Request) -> None:
        if is_create(request):
            scene.world.later(120, lambda: scene.world.set_status(scene.server_id, "active"))

    scene.on_request = on_request
    assert (await scene.night()).result is Result.SUCCESS
    (seconds,) = scene.story.witness.downtimes
    assert seconds < 600


async def test_a_rotation_does_not_end_before_its_server_was_seen_running_twice(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stop_first=True)
    seen = []

    def on_request(request: Request) -> None:
        is_look = request.method == "GET" and "/servers/" in request.path
        if is_look and scene.asked[-1:] == ["start"] and not scene.story.witness.finished_rotations:
            seen.append(scene.world.status_of(scene.server_id))

    scene.on_request = on_request
    assert (await scene.night()).result is Result.SUCCESS
    assert seen[-2:] == ["active"] * 2


# -- before a snapshot is deleted --------------------------------------------------------------------------------------


async def test_where_the_slot_that_was_freed_is_taken_by_somebody_no_other_one_goes(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(11, 12, 13, 14, 15)

    def on_request(request: Request) -> None:
        if request.method == "DELETE":
            scene.hold("by-hand")

    scene.on_request = on_request
    assert (await scene.night()).error == "blocked: still 5 of 5 snapshots after one was deleted"
    assert scene.deleted == [ours(11)]


async def test_nothing_is_pruned_while_the_server_is_restored_perhaps_from_what_is_due(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(12, 13, 14)
    statuses = []

    def on_request(request: Request) -> None:
        if is_create(request):
            scene.world.later(60, lambda: scene.world.set_status(scene.server_id, "restoring"))
            scene.world.later(500, lambda: scene.world.set_status(scene.server_id, "active"))
        if request.method == "DELETE":
            statuses.append(scene.world.status_of(scene.server_id))

    scene.on_request = on_request
    assert (await scene.night()).result is Result.SUCCESS
    assert statuses == ["active"] * 3


async def test_what_was_just_taken_stays_though_an_older_one_is_dated_minutes_ahead(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold(ours(15), created_at=night(0) + timedelta(minutes=4))
    assert (await scene.night()).result is Result.SUCCESS
    assert scene.held() == [ours(15), NEW]


async def test_nothing_is_pruned_where_the_new_one_is_completed_no_more(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(12, 13, 14)
    scene.witnessed.forgives.add("P7")  # the rotation has seen it completed

    def on_request(request: Request) -> None:
        if request.json.get("action") == "start":
            scene.world.created[-1].status = "failed"

    scene.on_request = on_request
    assert (await scene.night()).result is Result.PARTIAL
    assert scene.deleted == []


# -- before a process ends ---------------------------------------------------------------------------------------------


async def test_a_process_that_is_to_end_does_not_wait_for_a_ledger_that_cannot_be_written(tmp_path: Path) -> None:
    story = Scene(tmp_path).story
    async with story.life() as tools:
        ledger: Any = tools.ledger

        def fill_the_disk(request: Request, _: object) -> None:
            ledger.is_disk_full = ledger.is_disk_full or is_create(request)

        story.after_request = fill_the_disk
        claim = await ledger.claim(story.rotation(night(0)))
        assert isinstance(claim, Claimed)
        run = Run(claim.rotation, tools)
        running = asyncio.create_task(run_rotation(run))
        await asyncio.sleep(1800)
        assert run.rotation.is_finished
        assert not running.done()
        tools.drain.requested.set()
        async with asyncio.timeout(60):
            assert (await running).result is Result.SUCCESS
