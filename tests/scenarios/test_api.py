"""Whole rotations against a provider that answers short, late, wrongly, twice, in another shape, or not at all."""

from __future__ import annotations

import asyncio
import io
import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from snaprotd import logs
from snaprotd.core.policy import OnStopTimeout, Retention
from snaprotd.core.rotation import Result, Step
from snaprotd.simulator import Fault, Reply, Request, SimSnapshot, World, api
from tests.scenarios.test_retention import CREATE, LIST, NEW, Scene, at, error_of, is_create, ours
from tests.support import daemons
from tests.support.daemons import daemon_on, write_config
from tests.support.lives import night
from tests.support.world_transport import WorldTransport

SETTLE = 120.0
"""Seconds for which a request whose answer was lost may still be carried out."""


def is_list(request: Request) -> bool:
    return request.method == "GET" and request.path.endswith("/snapshots/")


def times_of(scene: Scene, wanted: Callable[[Request], bool]) -> list[float]:
    return [moment for moment, request in scene.requests if wanted(request)]


def daemon_traffic(monkeypatch: pytest.MonkeyPatch, on_request: Callable[[Request], None]) -> None:
    """Have `on_request` told of every request of the next daemon, before the provider acts on it."""
    monkeypatch.setattr(daemons, "WorldTransport", partial(WorldTransport, before=on_request))


def one_server(**more: Any) -> World:
    world = World(token="opens-nothing", snapshot_seconds=(90, 120), **more)
    world.add_server("web-01")
    return world


# -- lists that are not whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("short", "cannot be relied on: it is incomplete, 4 of 6 entries"),
        ("foreign_next", "the list at /api/v1/snapshots/ is incomplete: the next page points to another host"),
        ("redirect", "(a redirect, not followed: check api.base_url)"),
    ],
)
async def test_on_a_list_that_is_not_whole_nothing_is_taken_and_nothing_deleted_night_after_night(
    tmp_path: Path, kind: str, words: str
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(12, 13, 14, 15)
    scene.faulty(kind, **LIST)
    for number in range(2):
        rotation = await scene.night(number)
        assert rotation.result is Result.FAILURE
        assert error_of(rotation).endswith(words)
    assert scene.asked == []
    assert {request.origin for _, request in scene.requests} == {"https://vps.invalid"}
    assert len(scene.requests) < 200


@pytest.mark.parametrize("kind", ["short", "foreign_next"])
async def test_a_list_that_is_whole_again_after_a_moment_costs_nothing_but_time(tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path, keep=Retention(last=4))
    scene.hold_ours(12, 13, 14, 15)
    scene.faulty(kind, times=5, **LIST)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["create", f"delete {ours(12)}"]


def in_small_pages(request: Request) -> None:
    """The provider gives no more than two entries on a page, whatever is asked for."""
    if is_list(request):
        assert isinstance(request.query, dict)
        request.query["page_size"] = "2"


async def test_a_list_of_three_pages_is_read_to_its_end_before_anything_is_decided(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(12, 13, 14, 15)
    scene.hold("by-hand")
    scene.on_request = in_small_pages
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == [f"delete {ours(12)}", "create", f"delete {ours(13)}"]
    assert any(request.query.get("page") == "3" for _, request in scene.requests)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 404},
        {"kind": "html"},
        {"kind": "cut"},
        {"kind": "truncated"},
        {"kind": "empty"},
        {"kind": "foreign_next"},
    ],
)
async def test_nothing_is_decided_while_the_last_of_three_pages_is_missing(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    scene = Scene(tmp_path, stop_first=True, keep=Retention(last=1))
    scene.hold_ours(12, 13, 14, 15)
    scene.hold("by-hand")

    def on_request(request: Request) -> None:
        in_small_pages(request)
        scene.world.faults[:] = [Fault(**fault)] if request.query.get("page") == "3" else []

    scene.on_request = on_request
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert rotation.failed_step is Step.LOOK
    assert scene.asked == []
    assert {request.origin for _, request in scene.requests} == {"https://vps.invalid"}


async def test_a_list_that_has_lost_its_last_page_while_it_was_read_is_read_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(12, 13, 14)

    def on_request(request: Request) -> None:
        in_small_pages(request)
        if request.query.get("page") == "2" and ours(12) in scene.held():
            del scene.world.snapshots[min(scene.world.snapshots)]

    scene.on_request = on_request
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.held() == [ours(13), ours(14), NEW]


async def test_a_snapshot_that_appears_between_two_pages_is_not_overlooked(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(12, 13, 14, 15)

    def on_request(request: Request) -> None:
        in_small_pages(request)
        if request.query.get("page") == "2" and "by-hand" not in scene.held():
            scene.hold("by-hand")

    scene.on_request = on_request
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == [f"delete {ours(12)}", "create", f"delete {ours(13)}"]


@pytest.mark.parametrize("kind", ["short", "foreign_next"])
async def test_where_the_list_of_the_account_is_not_whole_each_server_is_asked_for_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    entries = ", ".join(f"{{id: {12345 + number}, schedule: '1 3 * * *', keep: 1}}" for number in range(6))
    path = write_config(tmp_path, f"[{entries}]")
    world = World(snapshot_seconds=(90, 120))
    for number in range(6):
        server_id = world.add_server(f"web-{number}")
        world.add_snapshot(server_id, ours(15), created_at=at(15))

    def on_request(request: Request) -> None:
        world.faults[:] = [Fault(kind=kind)] if is_list(request) and "server_id" not in request.query else []

    daemon_traffic(monkeypatch, on_request)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(600)
        assert watched.value("snaprotd_inventory_last_success_timestamp_seconds") is not None
    assert [rotation.result for rotation in watched.ended] == [Result.SUCCESS] * 6
    assert len(world.created) == 6
    assert [one.snapshot.name for one in world.deleted] == [ours(15)] * 6


# -- answers that are none -------------------------------------------------------------------------------------

NO_ANSWERS = [
    ({"kind": "html"}, "unreadable", "cannot be read: HTML instead of JSON"),
    ({"kind": "html", "status": 502}, "502", "vps.invalid answered 502 to GET /api/v1/snapshots/"),
    ({"kind": "truncated"}, "connection", "without sending complete message body"),
    ({"kind": "huge"}, "unreadable", "cannot be read: it has more than 16777216 bytes"),
    ({"kind": "hang"}, "timeout", "no answer to GET /api/v1/snapshots/ from vps.invalid within 30 s"),
]


@pytest.mark.parametrize(("fault", "reason", "words"), NO_ANSWERS)
async def test_an_answer_that_is_no_list_is_counted_and_stops_the_rotation_without_a_change(
    tmp_path: Path, fault: dict[str, Any], reason: str, words: str
) -> None:
    keys = "keep: 1, stop_first: true, retry: {times: 0}, snapshot_timeout: 2m"
    path = write_config(tmp_path, f"[{{id: 12345, name: web-01, schedule: '1 3 * * *', {keys}}}]")
    world = one_server()
    for day in (13, 14, 15):
        world.add_snapshot("12345", ours(day), created_at=at(day))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(50)
        world.faults.append(Fault(**fault, times=None, **LIST))
        await asyncio.sleep(850)
        assert (watched.value("snaprotd_api_retries_total", reason) or 0) > 0
        assert watched.value("snaprotd_rotations_total", "web-01", "failure") == 1
        assert watched.value("snaprotd_snapshots", "web-01", "managed", "completed") == 3
    assert error_of(watched.ended[0]).endswith(words)
    assert watched.ended[0].failed_step is Step.LOOK
    assert world.created == []
    assert world.deleted == []
    assert world.status_of("12345") == "active"
    assert [status for _, status in world.servers["12345"].history] == ["active"]


async def test_an_empty_list_after_one_that_was_not_is_not_believed_while_it_lasts_a_moment(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(12, 13, 14, 15)
    scene.hold("by-hand")
    scene.faulty("empty", times=1, skip=1, **LIST)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == [f"delete {ours(12)}", "create", f"delete {ours(13)}"]


async def test_an_empty_list_that_stays_leads_to_no_deletion_and_to_one_request_for_a_snapshot(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(13, 14, 15)
    scene.faulty("empty", skip=1, **LIST)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation) == f"{NEW} has vanished"
    assert scene.asked == ["create"]


async def test_an_account_that_looks_empty_for_a_moment_keeps_its_numbers(tmp_path: Path) -> None:
    path = write_config(tmp_path, "[{id: 12345, name: web-01, schedule: '0 12 * * *'}]")
    world = one_server()
    world.add_snapshot("12345", ours(15), created_at=at(15))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(50)
        listed_at = watched.value("snaprotd_inventory_last_success_timestamp_seconds")
        world.faults.append(Fault(kind="empty", times=None, method="GET"))
        await asyncio.sleep(30)
        assert watched.value("snaprotd_inventory_last_success_timestamp_seconds") == listed_at
        assert watched.value("snaprotd_snapshots", "web-01", "managed", "completed") == 1
        world.faults.clear()
        await asyncio.sleep(60)
        assert watched.value("snaprotd_inventory_last_success_timestamp_seconds") != listed_at


# -- a create whose answer was lost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "lost"},
        {"kind": "hang_done"},
        {"kind": "truncated"},
        {"kind": "trickle", "delay": 60.0},
        {"kind": "status", "status": 500, "done": True},
        {"kind": "status", "status": 503, "done": True, "retry_after": "20"},
        {"kind": "status", "status": 504, "done": True},
        {"kind": "status", "status": 400, "done": True},
        {"kind": "html", "done": True},
        {"kind": "html", "status": 502, "done": True},
        {"kind": "huge", "done": True},
    ],
)
async def test_a_snapshot_whose_answer_was_lost_is_found_by_its_name_and_asked_for_once(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(15)
    scene.faulty(**fault, times=1, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert rotation.snapshot_id == str(scene.world.created[0].id)
    assert scene.asked == ["stop", "create", "start", f"delete {ours(15)}"]


@pytest.mark.parametrize("delay", [1.0, 45.0, 90.0, 119.0])
async def test_a_create_that_is_carried_out_late_is_waited_for_and_not_repeated(tmp_path: Path, delay: float) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.story.poll_interval = 15.0
    scene.hold_ours(15)
    scene.faulty("late", times=1, delay=delay, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["stop", "create", "start", f"delete {ours(15)}"]


@pytest.mark.parametrize(
    "fault", [{"kind": "cut"}, {"kind": "status", "status": 500}, {"kind": "html", "status": 502}, {"kind": "hang"}]
)
async def test_a_create_that_came_to_nothing_is_repeated_only_when_it_can_no_longer_be_carried_out(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.story.poll_interval = 15.0
    scene.hold_ours(15)
    scene.faulty(**fault, times=1, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["stop", "create", "create", "start", f"delete {ours(15)}"]
    first, second = times_of(scene, is_create)
    assert second - first > SETTLE


# -- a snapshot that is not listed at once ---------------------------------------------------------------------


@pytest.mark.parametrize("delay", [5.0, 120.0, 200.0])
async def test_a_snapshot_that_is_listed_late_is_waited_for_and_not_taken_again(tmp_path: Path, delay: float) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.story.poll_interval = 15.0
    scene.hold_ours(15)
    scene.faulty("late_listing", times=1, delay=delay, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["stop", "create", "start", f"delete {ours(15)}"]


@pytest.mark.parametrize("delay", [5.0, 60.0, 120.0])
async def test_a_snapshot_that_is_listed_late_after_its_answer_was_lost_is_not_taken_again(
    tmp_path: Path, delay: float
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.story.poll_interval = 15.0
    scene.hold_ours(15)
    scene.faulty("lost", times=1, **CREATE)

    def hide(request: Request, _: Reply) -> None:
        if is_create(request):
            scene.world.created[-1].listed_from = datetime.now(UTC) + timedelta(seconds=delay)

    scene.story.after_request = hide
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["stop", "create", "start", f"delete {ours(15)}"]


class WorldWithSlowLists(World):
    """A provider whose list shows a snapshot twenty seconds after it was made."""

    def take_snapshot(self, server_id: str, name: str, description: str, fault: Fault | None) -> SimSnapshot:
        made = super().take_snapshot(server_id, name, description, fault)
        made.listed_from = self.now() + timedelta(seconds=20)
        return made


async def test_a_snapshot_made_at_the_last_moment_and_listed_a_moment_later_is_not_taken_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, world=WorldWithSlowLists(token="opens-nothing"), keep=Retention(last=1))
    scene.story.poll_interval = 5.0
    scene.hold_ours(15)
    scene.faulty("late", times=1, delay=SETTLE - 1, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["create", f"delete {ours(15)}"]


# -- the one status for two mistakes ---------------------------------------------------------------------------


def somebody_is_faster(scene: Scene) -> None:
    """Somebody takes the last free slot right before our first create."""

    def on_request(request: Request) -> None:
        if is_create(request) and "faster" not in scene.held():
            scene.hold("faster", created_at=night(0))

    scene.on_request = on_request


async def test_where_somebody_took_the_last_slot_nothing_is_deleted_in_haste_and_the_next_night_makes_room(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(12, 13, 14, 15)
    somebody_is_faster(scene)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation) == "blocked: 5 of 5 snapshots: the last free slot was taken"
    assert scene.asked == ["stop", "create", "start"]
    scene.asked.clear()
    rotation = await scene.night(1)
    assert rotation.result is Result.SUCCESS
    assert scene.asked == [f"delete {ours(12)}", "stop", "create", "start", f"delete {ours(13)}"]


async def test_where_somebody_took_the_last_slot_and_nothing_may_go_the_user_is_told_who_holds_them(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold("a", "b", "c", "d", created_at=datetime(2025, 1, 2, tzinfo=UTC))
    somebody_is_faster(scene)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation) == (
        "blocked: 5 of 5 snapshots, 5 not made by snaprotd: a (2025-01-02), b (2025-01-02), c (2025-01-02), "
        "d (2025-01-02), faster (2025-01-16)"
    )
    assert scene.asked == ["stop", "create", "start"]


async def test_a_create_that_is_refused_with_slots_free_is_not_repeated_and_the_server_is_back_at_once(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(12, 13, 14)
    scene.faulty("status", status=400, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation) == "vps.invalid answered 400 to POST /api/v1/snapshots/: simulated 400"
    assert scene.asked == ["stop", "create", "start"]
    (refused,) = times_of(scene, is_create)
    (started,) = times_of(scene, lambda request: request.json.get("action") == "start")
    assert started - refused < 5
    assert len([moment for moment in times_of(scene, is_list) if moment > refused]) == 1


# -- the rate --------------------------------------------------------------------------------------------------

MANY = 200
RATE = 5
POLL = 120.0


class Traffic:
    """The requests of a daemon with their times, and a provider that says now and then that it is too much."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.requests: list[tuple[float, Request]] = []
        self.refusals: list[tuple[str, Callable[[], str]]] = []
        """What is to be answered with 429 next: a method, and the Retry-After of that moment."""
        self.refused: list[float] = []

    def __call__(self, request: Request) -> None:
        now = asyncio.get_running_loop().time()
        self.requests.append((now, request))
        if self.refusals and self.refusals[0][0] == request.method:
            _, retry_after = self.refusals.pop(0)
            self.world.faults.append(Fault(kind="status", status=429, retry_after=retry_after()))
            self.refused.append(now)

    def pauses(self) -> list[float]:
        """Seconds from each refusal to the next request."""
        return [min(at for at, _ in self.requests if at > moment) - moment for moment in self.refused]

    def lists(self, since: float, until: float) -> int:
        """How often the account's list was read from its beginning."""
        return sum(
            since <= at < until and is_list(request) and "page" not in request.query for at, request in self.requests
        )


@pytest.mark.search
@pytest.mark.long_form
async def test_two_hundred_rotations_at_once_stay_within_the_rate_and_share_one_list_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = ", ".join(f"{{id: {12345 + number}, schedule: '1 3 * * *', keep: 1}}" for number in range(MANY))
    path = write_config(tmp_path, f"[{entries}]\nmax_concurrent: {MANY}\npoll_interval: {POLL:.0f}s")
    path.write_text(path.read_text().replace("requests_per_second: 100", f"requests_per_second: {RATE}"))
    world = World(snapshot_seconds=(700, 710))
    for number in range(MANY):
        world.add_snapshot(world.add_server(f"web-{number:03}"), ours(15), created_at=at(15))
    traffic = Traffic(world)
    daemon_traffic(monkeypatch, traffic)
    async with daemon_on(path, world) as watched:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(75)
        traffic.refusals.append(("POST", lambda: "12"))
        await asyncio.sleep(270)
        calm = loop.time()
        await asyncio.sleep(3 * POLL)
        lists = traffic.lists(calm, loop.time())
        traffic.refusals += [("GET", lambda: "40"), ("GET", lambda: http_date(35)), ("GET", lambda: "")]
        await asyncio.sleep(700)
    assert [rotation.result for rotation in watched.ended] == [Result.SUCCESS] * MANY
    assert len(world.created) == len(world.deleted) == MANY
    moments = [at for at, _ in traffic.requests]
    assert min(later - earlier for earlier, later in zip(moments, moments[RATE:], strict=False)) > 0.999
    in_seconds, longer, by_date, untold = traffic.pauses()
    assert in_seconds >= 12
    assert longer >= 40
    assert by_date >= 34
    assert untold >= 5
    assert lists <= 3 + 1, "one for each poll, and one for the reading of the account"


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


# -- deletions -------------------------------------------------------------------------------------------------


async def test_what_is_still_listed_after_its_deletion_is_not_deleted_again_and_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(13, 14, 15)
    scene.faulty("slow_delete", delay=3600.0, method="DELETE")
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["create", f"delete {ours(13)}", f"delete {ours(14)}", f"delete {ours(15)}"]
    assert rotation.deleted == ("801", "802", "803")


@pytest.mark.parametrize("delay", [90.0, 600.0])
async def test_a_slot_that_is_being_freed_is_not_used_before_the_list_shows_it_free(
    tmp_path: Path, delay: float
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(12, 13, 14, 15)
    scene.hold("by-hand")
    scene.faulty("slow_delete", times=1, delay=delay, method="DELETE")
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == [f"delete {ours(12)}", "stop", "create", "start", f"delete {ours(13)}"]
    freed, _ = times_of(scene, lambda request: request.method == "DELETE")
    (stopped,) = times_of(scene, lambda request: request.json.get("action") == "stop")
    assert stopped - freed >= delay


async def test_a_slot_that_is_never_freed_costs_one_snapshot_and_no_downtime(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(12, 13, 14, 15)
    scene.hold("by-hand")
    scene.faulty("slow_delete", delay=86000.0, method="DELETE")
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation).endswith("the deleted snapshot is still listed: its slot is not free yet")
    assert scene.asked == [f"delete {ours(12)}"]


async def test_a_snapshot_that_somebody_else_deleted_meanwhile_is_no_failure(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(14, 15)

    def on_request(request: Request) -> None:
        if request.method == "DELETE":
            scene.world.remove_snapshot(int(request.path.split("/")[-2]))

    scene.on_request = on_request
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["create", f"delete {ours(14)}", f"delete {ours(15)}"]
    assert scene.story.witness.deletions == [True, True]


@pytest.mark.parametrize("kind", ["lost", "hang_done", "late"])
async def test_a_deletion_whose_answer_was_lost_is_no_failure(tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(15)
    scene.faulty(kind, times=1, delay=5.0, method="DELETE")
    rotation = await scene.night()
    await asyncio.sleep(10)
    assert rotation.result is Result.SUCCESS
    assert scene.held() == [NEW]


@pytest.mark.parametrize("status", [500, 403])
async def test_a_deletion_that_is_refused_is_tried_once_a_night_and_told(tmp_path: Path, status: int) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(14, 15)
    scene.faulty("status", status=status, method="DELETE")
    rotation = await scene.night()
    assert rotation.result is Result.PARTIAL
    assert error_of(rotation).startswith("could not delete snaprotd-main-2025011")
    assert f"vps.invalid answered {status} to DELETE /api/v1/snapshots/80" in error_of(rotation)
    assert set(scene.deleted) == {ours(14), ours(15)}
    assert len(scene.deleted) <= 4
    assert scene.held() == [ours(14), ours(15), NEW]
    assert scene.story.witness.deletions == [False, False]


# -- locked for a moment ---------------------------------------------------------------------------------------

LOCKED: dict[str, dict[str, Any]] = {
    "create": CREATE,
    "stop": {"method": "POST", "path": "/servers/*/power/", "action": "stop"},
    "start": {"method": "POST", "path": "/servers/*/power/", "action": "start"},
    "delete": {"method": "DELETE", "path": "/snapshots/*"},
}


def locked_scene(tmp_path: Path, what: str, status: int, *, times: int | None, **more: Any) -> Scene:
    scene = Scene(tmp_path, stop_first=True, keep=Retention(last=1), **more)
    scene.hold_ours(15)
    scene.faulty("status", status=status, times=times, **LOCKED[what])
    return scene


def is_stop(request: Request) -> bool:
    return request.json.get("action") == "stop"


def is_delete(request: Request) -> bool:
    return request.method == "DELETE"


def power_of(scene: Scene) -> str:
    return scene.world.servers[scene.server_id].status


@pytest.mark.parametrize("status", [409, 423])
@pytest.mark.parametrize("what", ["create", "stop", "start", "delete"])
async def test_what_is_locked_for_a_moment_is_asked_again_and_the_snapshot_is_taken(
    tmp_path: Path, what: str, status: int
) -> None:
    scene = locked_scene(tmp_path, what, status, times=1)
    rotation = await scene.night()
    assert (rotation.result, rotation.error) == (Result.SUCCESS, None)
    assert (scene.held(), power_of(scene)) == ([NEW], "active")
    asked = [one.split()[0] for one in scene.asked]
    assert asked == sorted(["stop", "create", "start", "delete", what], key=["stop", "create", "start", "delete"].index)
    assert len(scene.world.created) == 1


@pytest.mark.parametrize("what", ["stop", "delete"])
async def test_what_is_locked_is_asked_again_at_the_next_poll_and_not_before(tmp_path: Path, what: str) -> None:
    scene = locked_scene(tmp_path, what, 423, times=2)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    first, second, third = times_of(scene, is_delete if what == "delete" else is_stop)
    assert 1 < second - first <= 60, "polls are at common ticks"
    assert third - second == pytest.approx(60, abs=2)


@pytest.mark.parametrize("status", [409, 423])
async def test_a_server_that_is_never_free_to_be_stopped_fails_the_slot_in_the_providers_words(
    tmp_path: Path, status: int
) -> None:
    scene = locked_scene(tmp_path, "stop", status, times=None)
    rotation = await scene.night()
    assert (rotation.result, rotation.failed_step) == (Result.FAILURE, Step.STOP)
    assert error_of(rotation).startswith("the server is still active after 0:05:00: vps.invalid answered ")
    assert error_of(rotation).endswith(f"simulated {status}")
    assert rotation.trail[2].seconds == pytest.approx(rotation.policy.stop_timeout.total_seconds(), abs=61)
    assert (set(scene.asked), power_of(scene), rotation.is_owed) == ({"stop"}, "active", False)


async def test_a_server_that_is_never_free_to_be_switched_off_hard_fails_in_the_providers_words(tmp_path: Path) -> None:
    scene = locked_scene(tmp_path, "stop", 423, times=None, on_stop_timeout=OnStopTimeout.HARD_STOP)
    scene.faulty("status", status=423, **{**LOCKED["stop"], "action": "hard_stop"})
    rotation = await scene.night()
    assert (rotation.result, rotation.failed_step) == (Result.FAILURE, Step.STOP)
    assert error_of(rotation).endswith("simulated 423")
    assert (set(scene.asked), power_of(scene), rotation.is_owed) == ({"stop", "hard_stop"}, "active", False)


async def test_a_server_that_is_never_free_for_a_snapshot_is_started_and_fails_in_the_providers_words(
    tmp_path: Path,
) -> None:
    scene = locked_scene(tmp_path, "create", 423, times=None)
    rotation = await scene.night()
    assert (rotation.result, rotation.failed_step) == (Result.FAILURE, Step.SNAPSHOT)
    assert error_of(rotation).startswith("gave up after 18")
    assert error_of(rotation).endswith("vps.invalid answered 423 to POST /api/v1/snapshots/: simulated 423")
    assert (scene.held(), power_of(scene)) == ([ours(15)], "active")


async def test_a_snapshot_that_is_locked_for_ever_is_told_in_the_providers_words_and_holds_up_no_other(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(13, 14, 15)
    scene.faulty("status", status=423, method="DELETE", path="/snapshots/801/")
    rotation = await scene.night()
    assert (rotation.result, rotation.failed_step) == (Result.PARTIAL, Step.PRUNE)
    assert error_of(rotation).endswith("vps.invalid answered 423 to DELETE /api/v1/snapshots/801/: simulated 423")
    assert scene.held() == [ours(13), NEW]


async def test_a_full_server_whose_oldest_is_locked_for_a_moment_gets_its_snapshot(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=4))
    scene.hold_ours(11, 12, 13, 14, 15)
    scene.faulty("status", status=423, times=2, method="DELETE")
    rotation = await scene.night()
    assert (rotation.result, rotation.error) == (Result.SUCCESS, None)
    assert NEW in scene.held()


@pytest.mark.parametrize("status", [409, 423])
async def test_a_stop_that_was_carried_out_and_answered_as_locked_leaves_no_server_off(
    tmp_path: Path, status: int
) -> None:
    """A proxy that sends a request twice gets the second answer: it is stopping already."""
    scene = locked_scene(tmp_path, "stop", status, times=1)
    scene.world.faults[-1].done = True
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert (scene.held(), power_of(scene)) == ([NEW], "active")


async def test_a_create_that_was_carried_out_and_answered_as_there_already_is_looked_for(tmp_path: Path) -> None:
    scene = locked_scene(tmp_path, "create", 409, times=1)
    scene.world.faults[-1].done = True
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked.count("create") == len(scene.world.created) == 1


# -- answers of another shape ----------------------------------------------------------------------------------


def bend(monkeypatch: pytest.MonkeyPatch, what: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change every `_snapshot` or `_server` that the simulated provider shows."""
    shown = getattr(api, what)

    def bent(*of: Any) -> dict[str, Any]:
        entry: dict[str, Any] = shown(*of)
        change(entry)
        return entry

    monkeypatch.setattr(api, what, bent)


@pytest.mark.parametrize(
    ("missing", "words", "asked"),
    [
        ("id", "it has a snapshot of server 12345 without an id", []),
        ("name", "it has snapshot 802 of server 12345 without a name", []),
        ("server", "it has a snapshot without a server", []),
        ("status", f"{NEW} ended as ``", ["create"]),
        ("created_at", None, ["create"]),
        ("size_mb", None, ["create", f"delete {ours(14)}", f"delete {ours(15)}"]),
        ("description", None, ["create", f"delete {ours(14)}", f"delete {ours(15)}"]),
    ],
)
async def test_a_field_that_snapshots_no_longer_have_is_done_without_or_nothing_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, words: str | None, asked: list[str]
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(14, 15)
    bend(monkeypatch, "_snapshot", lambda entry: entry.pop(missing))
    rotation = await scene.night()
    assert rotation.result is (Result.FAILURE if words else Result.SUCCESS)
    assert words is None or words in error_of(rotation)
    assert scene.asked == asked


@pytest.mark.parametrize("missing", ["id", "name", "server"])
async def test_one_snapshot_that_cannot_be_read_stops_the_deletions_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(13, 14, 15)
    bend(monkeypatch, "_snapshot", lambda entry: entry.pop(missing) if entry["id"] == 801 else None)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert "cannot be relied on: it has " in error_of(rotation)
    assert scene.asked == []


@pytest.mark.parametrize("missing", ["id", "server", "name", "status"])
async def test_an_answer_to_a_create_that_lacks_a_field_does_not_lead_to_a_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(15)
    shown = api._create_snapshot

    def create(*of: Any) -> Reply:
        with monkeypatch.context() as meanwhile:
            bend(meanwhile, "_snapshot", lambda entry: entry.pop(missing))
            return shown(*of)

    routes = tuple((method, shape, create if act is shown else act) for method, shape, act in api.ROUTES)
    monkeypatch.setattr(api, "ROUTES", routes)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["create", f"delete {ours(15)}"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [("id", "a server without an id"), ("status", "the server is "), ("name", None), ("hostname", None)],
)
async def test_a_field_that_servers_no_longer_have_is_done_without_or_the_server_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, words: str | None
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    bend(monkeypatch, "_server", lambda entry: entry.pop(missing))
    rotation = await scene.night()
    assert rotation.result is (Result.FAILURE if words else Result.SUCCESS)
    assert words is None or error_of(rotation).endswith(words)
    assert scene.asked == ([] if words else ["stop", "create", "start"])


@pytest.mark.parametrize("word", ["hibernating", "ACTIVE", "error"])
async def test_a_server_in_a_state_we_do_not_know_is_not_touched(tmp_path: Path, word: str) -> None:
    path = write_config(
        tmp_path,
        "[{id: 12345, name: web-01, schedule: '1 3 * * *', stop_first: true, snapshot_timeout: 2m, start_timeout: 1m}]",
    )
    world = one_server()
    world.set_status("12345", word)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(400)
    assert error_of(watched.ended[0]).endswith(f"the server is {word}")
    assert world.created == []
    assert world.status_of("12345") == word


async def test_a_new_word_for_a_stopped_server_leaves_it_running_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    bend(monkeypatch, "_server", lambda entry: entry.update(status=entry["status"].replace("stopped", "powered_off")))
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation) == "the server is still powered_off after 0:05:00"
    assert scene.asked == ["stop", "start"]
    assert scene.world.status_of(scene.server_id) == "active"


async def test_a_new_word_for_a_snapshot_is_seen_in_the_metrics_and_the_snapshot_is_kept(tmp_path: Path) -> None:
    path = write_config(tmp_path, "[{id: 12345, name: web-01, schedule: '1 3 * * *', keep: 1}]")
    world = one_server()
    world.add_snapshot("12345", ours(14), status="archived", created_at=at(14))
    world.add_snapshot("12345", ours(15), created_at=at(15))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(600)
        assert watched.value("snaprotd_snapshots", "web-01", "managed", "unknown") == 1
        assert watched.value("snaprotd_snapshots", "web-01", "managed", "completed") == 1
    assert [one.snapshot.name for one in world.deleted] == [ours(15)]


def worlds() -> dict[str, World]:
    text = World(token="opens-nothing", snapshot_seconds=(90, 120))
    text.add_server("web-01", ref="srv-12345")
    digits = World(token="opens-nothing", snapshot_seconds=(90, 120))
    digits.add_server("web-01", ref="12345")
    kinds = {kind: one_server(id_kind=kind) for kind in ("integer", "uuid", "uuid_key")}
    return {**kinds, "text": text, "digits as text": digits}


@pytest.mark.parametrize("kind", ["integer", "uuid", "uuid_key", "text", "digits as text"])
async def test_a_server_of_any_kind_of_id_is_rotated_and_its_id_sent_back_as_it_came(tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path, world=worlds()[kind], keep=Retention(last=1), stop_first=True)
    scene.hold_ours(14, 15)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == ["stop", "create", "start", f"delete {ours(14)}", f"delete {ours(15)}"]
    (sent,) = [request.json["server_id"] for _, request in scene.requests if is_create(request)]
    ref = scene.world.servers[scene.server_id].ref
    assert (sent, type(sent)) == (ref, type(ref))


@pytest.mark.parametrize("kind", [str, lambda number: str(uuid.UUID(int=number))], ids=["text", "uuid"])
async def test_snapshots_whose_ids_are_text_are_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[int], str]
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(14, 15)
    known = api._known_snapshot
    by_text = {kind(number): str(number) for number in range(801, 820)}
    bend(monkeypatch, "_snapshot", lambda entry: entry.update(id=kind(entry["id"])))
    monkeypatch.setattr(api, "_known_snapshot", lambda world, text: known(world, by_text[text]))
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert rotation.deleted == (kind(801), kind(802))
    assert scene.held() == [NEW]


# -- the token -------------------------------------------------------------------------------------------------

BEFORE, AFTER = "the-word-before", "the-word-after"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, as it would be on standard error."""
    stream, root = io.StringIO(), logging.getLogger()
    earlier, level, settings = root.handlers[:], root.level, structlog.get_config()
    logs.configure(stream=stream, level="DEBUG")
    yield stream
    root.handlers[:] = earlier
    root.setLevel(level)
    structlog.configure(**settings)


def with_token_file(folder: Path, servers: str) -> tuple[Path, Path]:
    """A configuration that names a token file, and that file."""
    path, token = write_config(folder, servers), folder / "token"
    path.write_text(path.read_text().replace("api: {", f"api: {{token_file: {token}, "))
    token.write_text(BEFORE)
    token.chmod(0o600)
    return path, token


def world_with_token() -> World:
    world = World(token=BEFORE, snapshot_seconds=(90, 120))
    world.add_snapshot(world.add_server("web-01"), ours(15), created_at=at(15))
    return world


def is_shown(watched: daemons.Watched, log: io.StringIO, folder: Path) -> list[str]:
    """Where one of the tokens is to be seen."""
    places = {
        "log": log.getvalue(),
        "metrics": b"".join(watched.daemon.view.exposition()).decode(),
        "records": repr(watched.ended),
        "configuration": repr(watched.daemon.view.config),
        "remarks": "".join(watched.daemon.view.remarks()),
        **{path.name: path.read_bytes().decode("latin-1") for path in folder.glob("state.db*")},
    }
    return [place for place, text in places.items() if BEFORE in text or AFTER in text]


async def test_a_rotation_goes_on_by_itself_when_the_token_is_replaced_under_it(
    tmp_path: Path, log: io.StringIO
) -> None:
    path, token = with_token_file(
        tmp_path, "[{id: 12345, name: web-01, schedule: '1 3 * * *', keep: 1, stop_first: true}]"
    )
    world = world_with_token()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(120)
        assert world.status_of("12345") == "stopped"
        world.token = AFTER
        await asyncio.sleep(300)
        assert world.status_of("12345") == "stopped"
        assert watched.value("snaprotd_server_stopped_by_us", "web-01") == 1
        assert (watched.value("snaprotd_api_auth_failures_total") or 0) > 0
        token.write_text(AFTER)
        await asyncio.sleep(300)
        assert is_shown(watched, log, tmp_path) == []
    assert [rotation.result for rotation in watched.ended] == [Result.SUCCESS]
    assert world.status_of("12345") == "active"
    assert [one.snapshot.name for one in world.deleted] == [ours(15)]
    assert f"the token of the token file {token} is not accepted" in log.getvalue()


async def test_a_server_that_is_off_is_started_once_there_is_a_token_again_however_long_that_takes(
    tmp_path: Path, log: io.StringIO
) -> None:
    path, token = with_token_file(
        tmp_path, "[{id: 12345, name: web-01, schedule: '1 3 * * *', keep: 1, stop_first: true, snapshot_timeout: 2m}]"
    )
    world = world_with_token()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(120)
        world.token = AFTER
        await asyncio.sleep(1800)
        assert world.status_of("12345") == "stopped"
        token.write_text(AFTER)
        await asyncio.sleep(400)
        assert world.status_of("12345") == "active"
        assert is_shown(watched, log, tmp_path) == []
    assert [rotation.result for rotation in watched.ended] == [Result.FAILURE]
    assert world.deleted == []


async def test_without_a_valid_token_no_server_is_touched_and_with_one_the_next_slot_is_run(
    tmp_path: Path, log: io.StringIO
) -> None:
    path, token = with_token_file(
        tmp_path, "[{id: 12345, name: web-01, schedule: '*/10 * * * *', keep: 1, stop_first: true}]"
    )
    world = world_with_token()
    world.token = AFTER
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(620)
        assert [rotation.failed_step for rotation in watched.ended] == [Step.LOOK]
        assert error_of(watched.ended[0]).endswith(
            f"Invalid token. (the token of the token file {token} is not accepted)"
        )
        assert [status for _, status in world.servers["12345"].history] == ["active"]
        token.write_text(AFTER)
        await asyncio.sleep(800)
        assert is_shown(watched, log, tmp_path) == []
    assert [rotation.result for rotation in watched.ended] == [Result.FAILURE, Result.SUCCESS]


async def test_a_token_that_the_provider_repeats_in_its_errors_is_shown_nowhere(
    tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, token = with_token_file(tmp_path, "[{id: 12345, name: web-01, schedule: '*/10 * * * *'}]")
    world = world_with_token()
    route = api._route

    def repeating(world: World, request: Request, fault: Fault | None) -> Reply:
        try:
            return route(world, request, fault)
        except api._Error as error:
            raise api._Error(error.status, {"detail": f"what is {request.headers['authorization']}?"}) from None

    monkeypatch.setattr(api, "_route", repeating)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(30)
        world.token = "another-word"
        await asyncio.sleep(600)
        token.write_text(AFTER)
        await asyncio.sleep(600)
        assert is_shown(watched, log, tmp_path) == []
    assert len(watched.ended) == 2
    assert all("what is Bearer [token]?" in error_of(rotation) for rotation in watched.ended)


async def test_that_we_stumble_over_the_account_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(tmp_path, "[{id: 12345, name: web-01, schedule: '0 12 * * *'}]")
    stumbles = False

    def on_request(_: Request) -> None:
        if stumbles:
            raise ZeroDivisionError

    daemon_traffic(monkeypatch, on_request)
    async with daemon_on(path, one_server()) as watched:
        await asyncio.sleep(50)
        stumbles = True
        await asyncio.sleep(120)
        report = await watched.daemon.view.status()
        assert report["inventory"]["error"] == "internal error (ZeroDivisionError): see the log"
        stumbles = False
        await asyncio.sleep(120)
        assert (await watched.daemon.view.status())["inventory"]["error"] is None


async def test_the_traceback_of_a_mistake_of_ours_shows_no_token(
    tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = with_token_file(tmp_path, "[{id: 12345, name: web-01, schedule: '1 3 * * *'}]")

    def on_request(request: Request) -> None:
        if "server_id" in request.query:
            raise ZeroDivisionError(request.headers["authorization"])

    daemon_traffic(monkeypatch, on_request)
    async with daemon_on(path, world_with_token()) as watched:
        await asyncio.sleep(120)
        assert is_shown(watched, log, tmp_path) == []
    assert "ZeroDivisionError" in log.getvalue()
    assert '"filename"' in log.getvalue()
    assert error_of(watched.ended[0]).startswith("internal error")
