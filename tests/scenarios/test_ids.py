"""A server is one server by any of its ids, whichever of them the file, the provider and the ledger have of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.core.rotation import Result, Step
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, kill
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks")

MINUTE = 60.0
NUMBER, TEXT, LATER, OTHERS = "12345", "0b9c-u", "777", "dead-u"

Entry = dict[str, Any]


class TwoIds(WorldTransport):
    """The provider, whose server has a number and a text for its id; `knows` are those that it takes.

    `shows` makes of an entry what is shown of a server, and `names` how a snapshot names it.
    """

    def __init__(self, world: World, *, of_snapshots: tuple[str, ...] = (NUMBER, TEXT)) -> None:
        super().__init__(world)
        self.world = world
        self.knows: tuple[str, ...] = (NUMBER, TEXT)
        self.of_snapshots = of_snapshots
        """The ids that the filter of the list of snapshots takes."""
        self.shows: Callable[[Entry], Entry] = lambda one: {**one, "uuid": TEXT}
        self.names: Callable[[Entry], object] = lambda server: {"id": server["id"]}
        self.others: list[Entry] = []
        """Entries of further servers."""
        self.switched: list[str] = []
        """The ids by which a server was stopped or started."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.strip("/").split("/")[2:]
        if path[:1] == ["servers"] and len(path) > 1:
            return await self._one(request, path)
        if path == ["snapshots"] and request.method == "POST":
            body = json.loads(await request.aread())
            if str(body["server_id"]) not in self.knows:
                return _not_found(request)
            return await self._passed_on(request, json.dumps({**body, "server_id": int(NUMBER)}).encode())
        by = request.url.params.get("server_id")
        if by is not None and by not in self.of_snapshots:
            return httpx.Response(200, json={"count": 0, "results": []}, request=request)
        return await self._passed_on(request)

    async def _one(self, request: httpx.Request, path: list[str]) -> httpx.Response:
        if path[2:] == ["power"] and request.method == "POST":
            self.switched.append(path[1])
        for other in self.others:
            if path[1] in (str(other.get("id")), other.get("uuid")):
                return httpx.Response(200, json=other, request=request)
        return await self._passed_on(request) if path[1] in self.knows else _not_found(request)

    async def _passed_on(self, request: httpx.Request, body: bytes | None = None) -> httpx.Response:
        url = request.url
        for one in self.knows:
            url = httpx.URL(str(url).replace(f"/servers/{one}/", f"/servers/{NUMBER}/"))
        if "server_id" in url.params:
            url = url.copy_set_param("server_id", NUMBER)
        content = await request.aread() if body is None else body
        plain = httpx.Request(request.method, url, headers=request.headers, content=content)
        plain.extensions = request.extensions
        answer = await super().handle_async_request(plain)
        told = json.loads(content) if (content := await answer.aread()) and answer.status_code < 400 else None
        if told is None:
            return answer
        if "results" in told:
            results = [*map(self._bent, told["results"])]
            results += self.others if "/servers/" in str(url) else []
            told = {**told, "count": len(results), "results": results}
        return httpx.Response(answer.status_code, json=self._bent(told), request=request)

    def _bent(self, one: Entry) -> Entry:
        if "server" in one and "name" in one:
            return {**one, "server": self.names(one["server"])}
        return self.shows(one) if "hostname" in one else one

    def retire_number(self, *, number: str | None = None) -> None:
        """From now on the server is known by its text alone, or by another number besides."""
        self.knows = (TEXT, number) if number else (TEXT,)
        self.of_snapshots = self.knows
        self.shows = lambda one: {**one, "id": int(number), "uuid": TEXT} if number else _by_text(one)
        self.names = lambda _: {"uuid": TEXT}


def _by_text(one: Entry) -> Entry:
    return {"uuid": TEXT, **{key: value for key, value in one.items() if key != "id"}}


def _not_found(request: httpx.Request) -> httpx.Response:
    return httpx.Response(404, json={"detail": "Not found."}, request=request)


def stopping(server_id: str = NUMBER, schedule: str = "10 3 * * *", *keys: str) -> str:
    return entry(schedule, "stop_first: true", *keys, server_id=server_id)


async def is_killed_while_off(path: Path, world: World, way: TwoIds) -> None:
    """A daemon lives until it waits for a snapshot."""
    watched = Watched(path, world, transport=way)
    running = asyncio.create_task(watched.daemon.run())
    await watched.reaches(Step.WAIT)
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)
    assert world.status_of(NUMBER) == "stopped"


async def until_runs(world: World) -> None:
    async with asyncio.timeout(3600):
        while world.status_of(NUMBER) != "active":  # noqa: ASYNC110
            await asyncio.sleep(5)


# -- a start is owed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [None, LATER], ids=["none", "another number"])
@pytest.mark.parametrize("is_killed", [False, True], ids=["alive", "killed"])
async def test_a_server_whose_number_is_retired_while_it_is_off_is_started_by_its_other_id(
    tmp_path: Path, number: str | None, is_killed: bool
) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    path, way = configure(tmp_path, stopping()), TwoIds(world)
    if is_killed:
        await is_killed_while_off(path, world, way)
        way.retire_number(number=number)
    async with daemon_on(path, world, way) as watched:
        if not is_killed:
            await watched.reaches(Step.WAIT)
            way.retire_number(number=number)
        await until_runs(world)
    assert way.switched[0] == NUMBER
    assert set(way.switched[1:]) <= {TEXT, number}


async def test_whoever_got_the_number_of_a_server_that_is_off_is_neither_started_nor_stopped(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    way = TwoIds(world)
    async with daemon_on(configure(tmp_path, stopping(NUMBER, "*/20 * * * *")), world, way) as watched:
        await watched.reaches(Step.WAIT)
        way.retire_number()
        way.others = [{"id": int(NUMBER), "uuid": OTHERS, "name": "other", "hostname": "other", "status": "stopped"}]
        await until_runs(world)
        way.others[0]["status"] = "active"
        switched = len(way.switched)
        await asyncio.sleep(25 * MINUTE)
        assert len(way.switched) == switched, "the next slot has stopped a server that nobody meant"
        assert "is the id of another server" in str(watched.ended[-1].error)
        (told,) = (await watched.get("/api/status")).json()["servers"]
        assert told["state"] == "alarm"
    assert set(way.switched) == {NUMBER, TEXT}
    assert way.switched.count(NUMBER) == 1


async def test_whoever_has_the_number_of_a_server_that_is_gone_is_not_started_for_it(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    way = TwoIds(world)
    async with daemon_on(configure(tmp_path, stopping()), world, way) as watched:
        await watched.reaches(Step.WAIT)
        world.remove_server(NUMBER)
        way.others = [{"id": int(NUMBER), "uuid": OTHERS, "name": "other", "hostname": "other", "status": "stopped"}]
        await asyncio.sleep(60 * MINUTE)
        assert "is gone" in str(watched.ended[-1].error)
    assert way.switched == [NUMBER]


async def test_a_start_that_is_owed_to_a_server_that_no_id_finds_is_an_alarm(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    way = TwoIds(world)
    async with daemon_on(configure(tmp_path, stopping()), world, way) as watched:
        await watched.reaches(Step.WAIT)
        way.knows = ()
        await watched.reaches(Step.START)
        await asyncio.sleep(MINUTE)
        report = (await watched.get("/api/status")).json()
        assert report["state"] == "alarm"
        assert any("none of the ids" in one["text"] for one in report["problems"])
        way.knows = (NUMBER, TEXT)
        await until_runs(world)


# -- the file and the provider call it differently ---------------------------------------------------------------------


@pytest.mark.parametrize("taken", [NUMBER, TEXT])
@pytest.mark.parametrize("named", [NUMBER, TEXT])
async def test_a_server_is_rotated_by_the_one_id_though_lists_go_by_the_other(
    tmp_path: Path, named: str, taken: str
) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    way = TwoIds(world, of_snapshots=(taken,))
    if taken == TEXT:
        way.names = lambda _: {"uuid": TEXT}
    path = configure(tmp_path, stopping(named, "*/10 * * * *", "keep: 1"))
    async with daemon_on(path, world, way) as watched:
        await asyncio.sleep(25 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS] * 2
        assert watched.value("snaprotd_snapshots", f"s{named}", "managed", "completed") == 1
    assert len(world.deleted) == 1


# -- the id in the file is edited --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(NUMBER, TEXT), (TEXT, NUMBER)])
async def test_an_id_that_is_edited_in_flight_loses_nothing_and_runs_no_slot_twice(
    tmp_path: Path, before: str, after: str
) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    way = TwoIds(world, of_snapshots=(NUMBER,))

    def write(server_id: str) -> Path:
        return configure(tmp_path, stopping(server_id, "*/10 * * * *").replace(f"s{server_id}", "web"))

    async with daemon_on(write(before), world, way) as watched:
        await watched.reaches(Step.WAIT)
        write(after)
        await asyncio.sleep(3 * MINUTE)
        report = (await watched.get("/api/status")).json()
        assert [one["last"]["result"] for one in report["servers"]] == ["success"]
        assert report["departed"] == []
        await asyncio.sleep(12 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS] * 2
        assert watched.value("snaprotd_snapshots", "web", "managed", "completed") == 2
    assert len(world.created) == 2


async def test_an_id_that_is_edited_while_a_server_is_off_and_nobody_lives_is_no_new_server(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    way = TwoIds(world, of_snapshots=(NUMBER,))
    await is_killed_while_off(configure(tmp_path, stopping(NUMBER, "*/10 * * * *")), world, way)
    path = configure(tmp_path, stopping(TEXT, "*/10 * * * *"))
    async with daemon_on(path, world, way) as watched:
        await until_runs(world)
        await asyncio.sleep(2 * MINUTE)
        (told,) = (await watched.get("/api/status")).json()["servers"]
        assert (told["state"], told["last"]["result"], told["slots"]["managed"]) == ("ok", "success", 1)
        async with await Ledger.open(tmp_path / "state.db", owner="reader", lock=False) as ledger:
            await ledger.starts.go_by_noted_ids()
            assert [one.server_id for one in await ledger.history(TEXT)] == [NUMBER]
            marks = await ledger.marks()
            assert min(marks.values(), key=lambda mark: mark.seen_until).seen_until > world.now() - timedelta(hours=1)
    assert len(world.created) == 1
