"""One snapshot a slot, and each of them known for ours: whatever ids, names and lists the provider answers with."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.core.holds import snapshot_name
from snaprotd.core.rotation import Result
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.support.daemons import Line, Watched, a_world, configure, daemon_on, entry, kill, logged
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks")

MINUTE = 60.0
FIRST = datetime(2025, 1, 16, 3, 10, tzinfo=UTC)
NAME = snapshot_name("main", FIRST)

Entry = dict[str, Any]


class Bent(WorldTransport):
    """The provider, each of whose entries is changed on its way to us; it takes a `u-` before an id, too."""

    def __init__(self, world: World, bend: Callable[[Entry], Entry]) -> None:
        super().__init__(world)
        self._bend = bend

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = (await request.aread()).replace(b'"u-', b'"')
        url = str(request.url).replace("u-", "")
        plain = httpx.Request(request.method, url, headers=request.headers, content=body, extensions=request.extensions)
        answer = await super().handle_async_request(plain)
        content = await answer.aread()
        if not content or answer.status_code >= 400:
            return answer
        told = json.loads(content)
        if "results" in told:
            told = {**told, "results": [*map(self._bend, told["results"])]}
        elif "id" in told:
            told = self._bend(told)
        return httpx.Response(answer.status_code, json=told, request=request)


def quickly(folder: Path, *entries: str, settle: str = "5s") -> Path:
    """A configuration under which a lost answer is soon given up."""
    path = configure(folder, *entries)
    path.write_text(path.read_text().replace("api: {", f"api: {{settle: {settle}, "))
    return path


def create(kind: str, **more: Any) -> Fault:
    return Fault(kind=kind, method="POST", path="/snapshots/", **more)


def emptied(world: World, seconds: float) -> None:
    """The list of snapshots is whole and empty for so long."""
    fault = Fault(kind="empty", method="GET", path="/snapshots/", times=None)
    world.faults.append(fault)
    world.later(seconds, lambda: world.faults.remove(fault))


def a_world_with_one() -> World:
    world = a_world()
    last = FIRST - timedelta(days=1)
    world.add_snapshot("12345", snapshot_name("main", last), created_at=last)
    return world


# -- ids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("servers", "names"), [(1, "number"), (5, "both"), (5, "uuid")], ids=["singly", "at once", "at once by uuid"]
)
async def test_a_server_that_is_configured_by_its_uuid_gets_one_snapshot_a_slot(
    tmp_path: Path, servers: int, names: str
) -> None:
    def bend(one: Entry) -> Entry:
        if "server" not in one:
            return {**one, "uuid": f"u-{one['id']}"}
        number = one["server"]["id"]
        both = {"id": number, "uuid": f"u-{number}"}
        return {**one, "server": {"both": both, "number": number, "uuid": both["uuid"]}[names]}

    world = a_world(*(f"web-{number}" for number in range(servers)), snapshot_seconds=(60, 90))
    ids = [f"u-{number}" for number in world.servers]
    path = configure(tmp_path, *(entry("*/10 * * * *", "keep: 1", server_id=one) for one in ids))
    async with daemon_on(path, world, Bent(world, bend)) as watched:
        await asyncio.sleep(25 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS] * 2 * servers
        assert watched.value("snaprotd_snapshots", "su-12345", "managed", "completed") == 1
    assert len(world.created) == 2 * servers
    assert len(world.deleted) == servers


async def test_two_ids_of_one_server_in_the_file_are_one_server_and_it_is_said(tmp_path: Path, log: list[Line]) -> None:
    world = a_world()
    path = configure(tmp_path, entry(), entry(server_id="u-12345"))
    way = Bent(world, lambda one: one if "server" in one else {**one, "uuid": f"u-{one['id']}"})
    async with daemon_on(path, world, way) as watched:
        await asyncio.sleep(25 * MINUTE)
        assert len(watched.ended) == 1
        report = await watched.daemon.view.status()
    assert report["state"] == "attention"
    assert [one["text"].partition(" is the same")[0] for one in report["problems"]] in (
        ["su-12345 (u-12345) in the configuration"],
        ["s12345 (12345) in the configuration"],
    )
    assert len(world.created) == 1
    (told,) = logged(log, "another id of a server that is configured already: its entry is left out")
    assert told["id"] in ("12345", "u-12345")


async def test_two_files_that_name_one_server_by_different_ids_have_one_rotation_of_it_on_one_ledger(
    tmp_path: Path,
) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    paths = []
    for number in ("12345", "u-12345"):
        (tmp_path / number).mkdir()
        paths.append(configure(tmp_path / number, entry("1 3 * * *", server_id=number)))
        paths[-1].write_text(paths[-1].read_text().replace(str(tmp_path / number / "state.db"), str(tmp_path / "db")))

    def way() -> Bent:
        return Bent(world, lambda one: one if "server" in one else {**one, "uuid": f"u-{one['id']}"})

    async with daemon_on(paths[0], world, way()) as one, daemon_on(paths[1], world, way()) as other:
        await asyncio.sleep(4 * MINUTE)
        assert [ended.result for ended in (*one.ended, *other.ended)] == [Result.SUCCESS]
    assert len(world.created) == 1


@pytest.mark.parametrize("rename", [str.lower, lambda name: name[:20]], ids=["lower case", "cut"])
async def test_the_id_that_was_given_back_is_ours_whatever_its_name_and_is_rotated(
    tmp_path: Path, rename: Callable[[str], str]
) -> None:
    def bend(one: Entry) -> Entry:
        return {**one, "name": rename(one["name"]), "server": "12345"} if "server" in one else one

    world = a_world(snapshot_seconds=(60, 90))
    async with daemon_on(configure(tmp_path, entry("*/10 * * * *", "keep: 1")), world, Bent(world, bend)) as watched:
        await asyncio.sleep(25 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS] * 2
        assert watched.value("snaprotd_snapshots", "s12345", "managed", "completed") == 1
    assert len(world.created) == 2
    assert len(world.deleted) == 1


async def test_ids_that_all_change_their_form_make_nothing_of_ours_a_strangers(tmp_path: Path) -> None:
    """A person deletes one of ours meanwhile, and another host has taken one of its slot: that is no reason."""

    def renumbered(one: Entry) -> Entry:
        return {**one, "id": f"u-{one['id']}"} if "server" in one else one

    world = a_world(snapshot_seconds=(60, 90))
    path = configure(tmp_path, entry("*/4 * * * *", "keep: 3"))
    async with daemon_on(path, world):
        await asyncio.sleep(15 * MINUTE)
    first, second, third = (one.id for one in world.created)
    gone = world.snapshots[second]
    world.remove_snapshot(second)
    others = world.add_snapshot("12345", gone.name, created_at=gone.made_at + timedelta(seconds=30))
    async with daemon_on(path, world, Bent(world, renumbered)) as watched:
        await asyncio.sleep(4 * MINUTE)
        assert watched.value("snaprotd_snapshots", "s12345", "managed", "completed") == 3
        assert watched.value("snaprotd_snapshots", "s12345", "foreign", "completed") == 1
        await asyncio.sleep(4 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS] * 2
    assert [one.snapshot.id for one in world.deleted] == [first]
    assert {third, others.id} <= set(world.snapshots)


async def test_an_id_that_is_given_again_makes_no_persons_snapshot_ours(tmp_path: Path, log: list[Line]) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    async with daemon_on(configure(tmp_path, entry("*/4 * * * *", "keep: 1")), world) as watched:
        await asyncio.sleep(7 * MINUTE)
        (ours,) = world.created
        world.remove_snapshot(ours.id)
        theirs = world.add_snapshot("12345", "before-upgrade", created_at=datetime.now(UTC))
        del world.snapshots[theirs.id]
        theirs.id = ours.id
        world.snapshots[ours.id] = theirs
        await asyncio.sleep(8 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS] * 3
    assert world.snapshots[ours.id] is theirs
    assert logged(log, "a snapshot has the id that one of ours had, and was taken at another time: it is not ours")


# -- one request -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["html", "truncated"])
async def test_after_a_201_there_is_no_second_request_however_long_the_list_shows_nothing(
    tmp_path: Path, kind: str
) -> None:
    more = {"status": 201, "done": True} if kind == "html" else {}
    world = a_world(faults=[create(kind, **more)], snapshot_seconds=(60, 90))
    async with daemon_on(quickly(tmp_path, entry()), world) as watched:
        await asyncio.sleep(10 * MINUTE)
        emptied(world, 10 * MINUTE)
        await asyncio.sleep(30 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS]
    assert len(world.created) == 1


async def test_an_id_that_was_listed_before_is_not_the_new_one(tmp_path: Path) -> None:
    """A cache on the way may answer a create with yesterday's answer."""
    world = a_world_with_one()
    yesterday = next(iter(world.snapshots))

    def bend(one: Entry) -> Entry:
        return {**one, "id": yesterday} if "message" in one else one

    async with daemon_on(quickly(tmp_path, entry("10 3 * * *", "keep: 1")), world, Bent(world, bend)) as watched:
        await asyncio.sleep(25 * MINUTE)
        (ended,) = watched.ended
    assert ended.result is Result.SUCCESS
    assert ended.snapshot_id == str(world.created[0].id) != str(yesterday)
    assert [one.snapshot.id for one in world.deleted] == [yesterday]


async def test_an_id_that_the_list_never_shows_gives_way_to_the_name(tmp_path: Path) -> None:
    """The answer may have the id of the provider's task, and not the snapshot's."""
    world = a_world()
    way = Bent(world, lambda one: {**one, "id": 99999} if "message" in one else one)
    async with daemon_on(quickly(tmp_path, entry()), world, way) as watched:
        await asyncio.sleep(25 * MINUTE)
        (ended,) = watched.ended
    assert (ended.result, ended.snapshot_id) == (Result.SUCCESS, str(world.created[0].id))
    assert len(world.created) == 1


@pytest.mark.parametrize("dies", [False, True], ids=["one process", "restarted meanwhile"])
async def test_while_the_list_has_lost_everything_nothing_is_asked_for_again(tmp_path: Path, dies: bool) -> None:
    world = a_world_with_one()
    world.faults.append(create("status", status=502, done=True))
    path = quickly(tmp_path, entry())
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    while not world.created:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    emptied(world, 80 if not dies else 10 * MINUTE)
    if dies:
        await asyncio.sleep(1)
        await kill(watched)
        running.cancel()
        watched = Watched(path, world)
        running = asyncio.create_task(watched.daemon.run())
    await asyncio.sleep(25 * MINUTE)
    assert [ended.result for ended in watched.ended] == [Result.SUCCESS]
    assert len(world.created) == 1
    watched.daemon.stop()
    await running


async def test_a_list_that_stays_empty_is_believed_in_the_end(tmp_path: Path) -> None:
    """A person has deleted all there was, and the request was not carried out."""
    world = a_world_with_one()
    world.faults.append(create("status", status=502))
    async with daemon_on(quickly(tmp_path, entry()), world) as watched:
        await asyncio.sleep(10 * MINUTE - 2)
        while watched.daemon.board.running == {}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        world.remove_snapshot(next(iter(world.snapshots)))
        await asyncio.sleep(14 * MINUTE)
        assert world.created == []
        await asyncio.sleep(15 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS]
    assert len(world.created) == 1


@pytest.mark.parametrize("status", [400, 409])
async def test_a_create_that_a_proxy_sent_twice_is_looked_for_and_adopted(tmp_path: Path, status: int) -> None:
    world = a_world(faults=[create("status", status=status, done=True)])
    async with daemon_on(quickly(tmp_path, entry()), world) as watched:
        await asyncio.sleep(20 * MINUTE)
        (ended,) = watched.ended
    assert (ended.result, ended.snapshot_id) == (Result.SUCCESS, str(world.created[0].id))
    assert len(world.created) == 1


# -- names -------------------------------------------------------------------------------------------------------------


async def problems_of(watched: Watched) -> list[str]:
    report = (await watched.get("/api/status")).json()
    return [problem["text"] for problem in report["problems"]]


async def test_two_hosts_with_one_instance_tell_of_each_other_and_delete_only_their_own(
    tmp_path: Path, log: list[Line]
) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    paths = []
    for host in ("old", "new"):
        (tmp_path / host).mkdir()
        paths.append(configure(tmp_path / host, entry("*/10 * * * *", "keep: 1", "stop_first: true")))
    async with daemon_on(paths[0], world) as old, daemon_on(paths[1], world) as new:
        await asyncio.sleep(17 * MINUTE)
        first, second = (str(one.id) for one in world.created)
        for watched in (old, new):
            (told,) = [text for text in await problems_of(watched) if "another snaprotd" in text]
            assert f"{NAME} (id {first})" in told
            assert f"{NAME} (id {second})" in told
            assert "the instance `main`" in told
        await asyncio.sleep(8 * MINUTE)
        mine = {one.snapshot_id for one in old.ended}
        theirs = {one.snapshot_id for one in new.ended}
        assert mine.isdisjoint(theirs)
        assert {gone for one in old.ended for gone in one.deleted} <= mine
        assert {gone for one in new.ended for gone in one.deleted} <= theirs
    assert {line["snapshot_id"] for line in log if "bears our name" in line["event"]} >= {first, second}


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "the request was lost"])
async def test_a_name_that_is_older_than_its_slot_does_not_take_the_slot(tmp_path: Path, lost: bool) -> None:
    world = a_world(faults=[create("status", status=502)] if lost else [])
    fake = world.add_snapshot("12345", NAME, created_at=FIRST - timedelta(days=30))
    async with daemon_on(quickly(tmp_path, entry("10 3 * * *", "keep: 1")), world) as watched:
        await asyncio.sleep(25 * MINUTE)
        (ended,) = watched.ended
        assert (ended.result, ended.snapshot_id) == (Result.SUCCESS, str(world.created[0].id))
        told = await problems_of(watched)
        assert any(f"{NAME} (id {fake.id})" in text for text in told)
    assert world.deleted == []


async def test_a_name_of_a_time_in_which_the_ledger_was_kept_is_ours_by_its_row_only(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(60, 90))
    path = configure(tmp_path, entry("*/10 * * * *", "keep: 1"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(5 * MINUTE)
        slot = datetime.now(UTC) - timedelta(minutes=2)
        fake = world.add_snapshot("12345", snapshot_name("main", slot), created_at=slot)
        await asyncio.sleep(20 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS] * 2
    assert fake.id in world.snapshots
    assert len(world.deleted) == 1


async def test_the_first_list_of_a_process_has_no_row_of_a_snapshot_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have lost everything for some minutes, and no other list was seen to tell."""
    monkeypatch.setattr("snaprotd.daemon.account_watch.DOUBT", 4 * MINUTE)
    forget = Ledger.forget_old
    monkeypatch.setattr(Ledger, "forget_old", lambda self, spared: forget(self, spared, keep=1))
    world = a_world(snapshot_seconds=(60, 90))
    path = configure(tmp_path, entry("2,5 3 * * *", "keep: 2"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(8 * MINUTE)
        ours = {one.id for one in watched.ended}
    emptied(world, 2 * MINUTE)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(6 * MINUTE)
        assert watched.value("snaprotd_snapshots", "s12345", "managed", "completed") == 2
    async with await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        assert {one.id for one in await ledger.history()} == ours


def put_back(folder: Path, copy: bytes | None) -> None:
    for one in folder.glob("state.db*"):
        one.unlink()
    if copy is not None:
        (folder / "state.db").write_bytes(copy)


async def test_no_snapshot_is_disowned_by_an_upgrade_a_lost_ledger_or_an_old_copy(tmp_path: Path) -> None:
    """What is kept of lives begins anew, or has a gap: names are believed, and the rotation goes on."""
    world = a_world(snapshot_seconds=(60, 90))
    path = configure(tmp_path, entry("*/10 * * * *", "keep: 2"))
    async with daemon_on(path, world):
        await asyncio.sleep(15 * MINUTE)
    copy = (tmp_path / "state.db").read_bytes()
    async with daemon_on(path, world):
        await asyncio.sleep(20 * MINUTE)
    for before in (copy, None):
        put_back(tmp_path, before)
        await asyncio.sleep(5 * MINUTE)
        async with daemon_on(path, world) as watched:
            await asyncio.sleep(15 * MINUTE)
            assert watched.value("snaprotd_snapshots", "s12345", "managed", "completed") == 2
            assert watched.value("snaprotd_snapshots", "s12345", "foreign", "completed") == 0
            (problem,) = await problems_of(watched)
            assert problem.startswith(
                "the ledger is an old copy" if before else "the ledger is a new one, or a very old"
            )
    assert len(world.snapshots) == 2
    assert len({one.name for one in world.created}) == len(world.created) >= 5


def copied(ledger: Path) -> bytes:
    """As a backup would have it, under a daemon that runs."""
    copy = ledger.with_name("copy")
    with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    try:
        return copy.read_bytes()
    finally:
        copy.unlink()


@pytest.mark.parametrize("when", ["before the slot", "before the request"])
async def test_a_copy_of_the_ledger_of_half_a_minute_ago_takes_no_second_snapshot_of_the_slot(
    tmp_path: Path, when: str
) -> None:
    world = a_world(snapshot_seconds=(60, 90), stop_seconds=10.0)
    path = configure(tmp_path, entry("2 3 * * *", f"stop_first: {str(when == 'before the request').lower()}"))
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await asyncio.sleep(115)
    while when == "before the request" and not watched.daemon.board.running:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    copy, began = copied(tmp_path / "state.db"), datetime.now(UTC)
    while not world.created:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    await asyncio.sleep(1)
    await kill(watched)
    running.cancel()
    assert datetime.now(UTC) - began < timedelta(seconds=50)
    put_back(tmp_path, copy)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(4 * MINUTE)
        assert [ended.result for ended in watched.ended] == [Result.SUCCESS]
        assert watched.value("snaprotd_snapshots", "s12345", "managed", "completed") == 1
        assert not [text for text in await problems_of(watched) if "bears our name" in text]
    assert len(world.created) == 1
    assert world.status_of("12345") == "active"
