"""Nothing that changes anything goes out by an old look, however long the queue of requests is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from math import inf
from pathlib import Path

import pytest

from snaprotd.core.asking.evidence import OLDEST_TO_DELETE_BY, OLDEST_TO_SEND_BY
from snaprotd.core.rotation import Result, Step
from snaprotd.simulator import Fault, Reply, Request, World
from tests.support.daemons import a_world, configure, daemon_on, entry, look_around_less
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

MANY, FIVE = 60, 5
MINUTE = 60.0
LATENCY = 0.05


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_around_less(monkeypatch, tick=31.3, leases=14.1, file=600.0, account=301.7)


@dataclass(frozen=True)
class Acted:
    """One request that changed something, and how long before it that server, and its list, were asked for."""

    what: str
    server_id: str
    looked_ago: float
    listed_ago: float


class Ages(WorldTransport):
    """Notes of each changing request by how old a look it goes out."""

    def __init__(self, world: World, *, latency: float = LATENCY) -> None:
        super().__init__(world, latency=latency, before=self._note, after=self._noted)
        self.world = world
        self.acted: list[Acted] = []
        self.times: list[float] = []
        self._looked: dict[str, float] = {}
        self._listed: dict[str, float] = {}

    def _note(self, request: Request) -> None:
        now = asyncio.get_running_loop().time()
        self.times.append(now)
        if request.method == "GET":
            self._look(request, now)
            return
        parts = request.path.strip("/").split("/")
        if request.method == "DELETE":
            what, server_id = "delete", self.world.snapshots[int(parts[-1])].server_id
        elif parts[-1] == "power":
            what, server_id = str(request.json["action"]), parts[-2]
        else:
            what, server_id = "create", str(request.json["server_id"])
        looked, listed = (now - at.get(server_id, -inf) for at in (self._looked, self._listed))
        self.acted.append(Acted(what, server_id, looked, listed))

    def _look(self, request: Request, now: float) -> None:
        kind, *ref = request.path.strip("/").split("/")[2:]
        times = self._looked if kind == "servers" else self._listed
        of = [*ref, *([request.query["server_id"]] if "server_id" in request.query else [])]
        times |= dict.fromkeys(of or self.world.servers, now)

    def _noted(self, request: Request, reply: Reply) -> None:
        """What a subclass does after the answer."""

    def ages(self, *whats: str) -> list[float]:
        """Of the older look, where what is done goes by both."""
        return [
            one.looked_ago if one.what == "stop" else max(one.looked_ago, one.listed_ago)
            for one in self.acted
            if one.what in whats
        ]


def a_fleet(folder: Path, world: World, rate: float, *keys: str, more: str = "max_concurrent: 1000") -> Path:
    """All of the world's servers have their slot ten minutes after the beginning."""
    path = configure(folder, *(entry("10 3 * * *", *keys, server_id=one) for one in world.servers), more=more)
    path.write_text(path.read_text().replace("requests_per_second: 100", f"requests_per_second: {rate:g}"))
    return path


class Person(Ages):
    """Switches a server off by hand each second, of those whose stop has not gone out, once the first stop has."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.by_hand: dict[str, float] = {}
        self.stops: dict[str, float] = {}

    def _noted(self, request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json.get("action") == "stop":
            self.stops.setdefault(self.acted[-1].server_id, self.times[-1])
        left = [one for one in self.world.servers if one not in self.stops and one not in self.by_hand]
        if self.stops and left:
            self.by_hand[left[-1]] = self.times[-1]
            self.world.servers[left[-1]].status = "stopped"


async def test_a_server_that_a_person_has_switched_off_while_its_stop_was_waiting_is_neither_stopped_nor_started(
    tmp_path: Path,
) -> None:
    """A minute of stops are due at once."""
    world = a_world(*(f"web-{one}" for one in range(MANY)), snapshot_seconds=(300, 300))
    person = Person(world)
    async with daemon_on(a_fleet(tmp_path, world, 1.0, "stop_first: true"), world, person) as watched:
        while len(watched.ended) < MANY:  # noqa: ASYNC110
            await asyncio.sleep(5)
    late = {one: person.stops[one] - at for one, at in person.by_hand.items() if one in person.stops}
    assert max(late.values(), default=0.0) <= OLDEST_TO_SEND_BY
    theirs = person.by_hand.keys() - late.keys()
    assert len(theirs) >= MANY / 4
    assert {world.servers[one].status for one in theirs} == {"stopped"}


@pytest.mark.parametrize(
    ("refused", "path", "key"), [("stop", "/servers/*/power/", "stop_first: true"), ("create", "/snapshots/", "")]
)
async def test_what_a_429_holds_up_goes_out_by_a_new_look_and_until_then_nothing_is_asked(
    tmp_path: Path, refused: str, path: str, key: str
) -> None:
    """All are looked at in one request. The first is refused, and the others wait, which were about to go out."""
    world = a_world(*(f"web-{one}" for one in range(FIVE)), snapshot_seconds=(60, 60))
    world.faults.append(Fault(kind="status", status=429, retry_after="600", method="POST", path=path))
    ages = Ages(world)
    async with daemon_on(a_fleet(tmp_path, world, 0.5, *filter(None, [key])), world, ages) as watched:
        while len(watched.ended) < FIVE:  # noqa: ASYNC110
            await asyncio.sleep(5)
    assert len(ages.ages(refused)) == FIVE + 1
    assert max(ages.ages("stop", "create")) <= OLDEST_TO_SEND_BY
    assert max(later - sooner for sooner, later in pairwise(ages.times)) > 5 * MINUTE


# -- deletions ---------------------------------------------------------------------------------------------------------


def with_ours(world: World, *days: int) -> World:
    """Each server has one of ours of each of these days of January."""
    for server_id in world.servers:
        for day in days:
            made = datetime(2025, 1, day, 3, 10, tzinfo=UTC)
            world.add_snapshot(server_id, f"snaprotd-main-202501{day:02}T031000Z", created_at=made)
    return world


SEVERAL = {"prune": ((13, 14, 15), "keep: 1", 3), "make_room": ((11, 12, 13, 14, 15), "keep: 4", 2)}
"""What each server has, what is kept of it, and how many go: one for room, one when the new one is there."""


@pytest.mark.parametrize("rate", [0.2, 1.0])
@pytest.mark.parametrize("servers", [1, 4])
@pytest.mark.parametrize("step", SEVERAL)
async def test_no_deletion_goes_by_an_old_look_whatever_the_rate(
    tmp_path: Path, step: str, servers: int, rate: float
) -> None:
    """A person who deletes the newest at the panel, or begins a restore, is seen up to two seconds before."""
    days, key, going = SEVERAL[step]
    world = with_ours(a_world(*(f"web-{one}" for one in range(servers)), snapshot_seconds=(60, 60)), *days)
    ages = Ages(world)
    async with daemon_on(a_fleet(tmp_path, world, rate, key), world, ages) as watched:
        while len(watched.ended) < servers:  # noqa: ASYNC110
            await asyncio.sleep(5)
    assert [one.result for one in watched.ended] == [Result.SUCCESS] * servers, watched.ended
    deletions = ages.ages("delete")
    assert len(deletions) == servers * going
    assert max(deletions) <= OLDEST_TO_DELETE_BY
    apart = [later - sooner for sooner, later in pairwise(ages.times[:-1])]
    assert sum(apart) / len(apart) >= 0.99 / rate


async def test_a_provider_that_answers_slowly_has_its_deletions_all_the_same(tmp_path: Path) -> None:
    world = with_ours(a_world(snapshot_seconds=(60, 60)), 13, 14, 15)
    ages = Ages(world, latency=2.0)
    async with daemon_on(a_fleet(tmp_path, world, 5.0, "keep: 1"), world, ages) as watched:
        while not watched.ended:  # noqa: ASYNC110
            await asyncio.sleep(5)
    assert [one.result for one in watched.ended] == [Result.SUCCESS]
    assert len(ages.ages("delete")) == 3
    assert max(ages.ages("delete")) <= OLDEST_TO_DELETE_BY + 2 * 4.0


async def test_no_room_is_made_while_the_server_is_restored_perhaps_from_what_would_go(tmp_path: Path) -> None:
    """By hand, at the panel, in the seconds between the look and the deletion."""
    world = with_ours(a_world(snapshot_seconds=(60, 60)), 11, 12, 13, 14, 15)

    class Restores(Ages):
        def _noted(self, request: Request, reply: Reply) -> None:
            if request.path.endswith("/servers/12345/") and not self.acted:
                world.servers["12345"].status = "restoring"

    ages = Restores(world)
    async with daemon_on(a_fleet(tmp_path, world, 0.2, "keep: 4", "retry: {times: 0}"), world, ages) as watched:
        while not watched.ended:  # noqa: ASYNC110
            await asyncio.sleep(5)
    assert ages.acted == []
    assert [(one.result, one.failed_step) for one in watched.ended] == [(Result.FAILURE, Step.MAKE_ROOM)]
    assert "restoring" in str(watched.ended[0].error)
