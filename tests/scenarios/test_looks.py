"""What a rotation asks the provider for: one look serves all steps that it can serve, and none acts on an old one."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from snaprotd.core.asking.evidence import OLDEST_TO_DELETE_BY
from snaprotd.core.policy import Retention
from snaprotd.core.rotation import Result
from snaprotd.simulator import Fault, Request, World
from tests.scenarios.test_retention import Scene, ours
from tests.support.daemons import daemon_on, write_config
from tests.support.lives import GatedTransport

MINUTE = 60.0


def words(scene: Scene) -> list[str]:
    """The requests of a night, in order."""
    return [_word(request) for _, request in scene.requests]


def _word(request: Request) -> str:
    if request.method == "GET":
        return {"snapshots": "list", "account": "whose"}.get(request.path.split("/")[3], "server")
    return request.method if request.method == "DELETE" else str(request.json.get("action", "create"))


async def test_a_running_server_is_looked_at_once_before_its_snapshot_and_its_list_is_read_once_at_the_end(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, world=World(token="opens-nothing", snapshot_seconds=(70, 70)), keep=Retention(last=1))
    scene.hold_ours(15)
    assert (await scene.night()).result is Result.SUCCESS
    assert words(scene) == ["list", "server", "create", "list", "list", "server", "DELETE"]
    scene.requests.clear()
    assert (await scene.night(1)).result is Result.SUCCESS
    assert words(scene) == ["list", "server", "create", "list", "server", "DELETE"], "it is known when it may be done"


async def test_what_is_stopped_is_looked_at_again_right_before_its_snapshot(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(15)
    assert (await scene.night()).result is Result.SUCCESS
    asked = words(scene)
    assert asked[:4] == ["list", "server", "whose", "stop"]
    assert asked[asked.index("create") - 2 : asked.index("create")] == ["list", "server"]


async def test_no_deletion_goes_out_by_a_list_that_has_become_old_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(13, 14, 15)
    answer = GatedTransport.handle_async_request

    async def slow(self: GatedTransport, request: httpx.Request) -> httpx.Response:
        if "/servers/" in request.url.path:
            await asyncio.sleep(OLDEST_TO_DELETE_BY + 1)
        return await answer(self, request)

    monkeypatch.setattr(GatedTransport, "handle_async_request", slow)
    assert (await scene.night()).result is Result.SUCCESS
    assert scene.deleted == [ours(13), ours(14), ours(15)]
    asked = [(moment, _word(request)) for moment, request in scene.requests]
    gaps = [later - sooner for (sooner, one), (later, next_) in pairwise(asked) if (one, next_) == ("list", "DELETE")]
    assert len(gaps) == 3, asked
    assert max(gaps) <= OLDEST_TO_DELETE_BY


async def test_what_is_held_up_on_its_way_out_is_decided_on_a_newer_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, world=World(token="opens-nothing", snapshot_seconds=(70, 70)), keep=Retention(last=1))
    scene.hold_ours(15)
    answer, held_up = GatedTransport.handle_async_request, list[str]()

    async def slow(self: GatedTransport, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE" and not held_up:
            held_up.append(request.url.path)
            await asyncio.sleep(OLDEST_TO_DELETE_BY + 1)  # to connect, say: its bytes have not gone out yet
        return await answer(self, request)

    monkeypatch.setattr(GatedTransport, "handle_async_request", slow)
    assert (await scene.night()).result is Result.SUCCESS
    assert len(held_up) == 1
    assert words(scene)[-3:] == ["list", "server", "DELETE"]


async def test_a_snapshot_that_is_stuck_keeps_no_other_server_from_its_turn(tmp_path: Path, silence: None) -> None:
    world = World(token="opens-nothing", snapshot_seconds=(90, 120))
    ids = [world.add_server(name) for name in ("web-01", "web-02")]
    world.faults = [Fault(kind="stuck", server_id=ids[0], method="POST", path="/snapshots/", times=None)]
    entries = ", ".join(f"{{id: {one}, schedule: '{minute} 3 * * *'}}" for one, minute in zip(ids, (1, 2), strict=True))
    path = write_config(tmp_path, f"[{entries}]\nmax_concurrent: 1")
    async with daemon_on(path, world):
        await asyncio.sleep(20 * MINUTE)
    (of_the_other,) = world.snapshots_of(ids[1])
    assert str(of_the_other.created_at) < "2025-01-16T03:18"
