"""A server that is switched off for its snapshot, while the provider, a person, the disk or the network do their worst.

It runs again in the end and goes on running; the one snapshot of the slot is none of a running server.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.policy import OnStopTimeout, Retention
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Rotation
from snaprotd.engine.loop import run_rotation
from snaprotd.engine.run import Run
from snaprotd.engine.switching import EARLIER_STOP
from snaprotd.engine.tools import Tools
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.prepared import Statement
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, Reply, Request, World
from tests.support.daemons import daemon_on, power, write_config
from tests.support.lives import Story, night
from tests.support.policies import a_policy
from tests.support.promises import Witnessed
from tests.support.searches import size

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

SLOT = night(0)
LATER = 3600.0
"""Seconds after which everything that may come late has come."""


@dataclass(frozen=True)
class Asked:
    """A request that was to change something, when it reached the provider."""

    what: str
    at: datetime
    status: str
    """Of the server, at that moment."""


class Night:
    """A server that is stopped for its snapshot, three old snapshots, and what the provider is asked to do."""

    def __init__(
        self, folder: Path, *faults: Fault, status: str = "active", world: World | None = None, **policy: Any
    ) -> None:
        self.world = world or World()
        self.server_id = self.world.add_server("web-01", status=status)
        for day in (13, 14, 15):
            slot = datetime(2025, 1, day, 3, 30, tzinfo=UTC)
            self.world.add_snapshot(self.server_id, f"snaprotd-main-{slot:%Y%m%dT%H%M%SZ}", created_at=slot)
        self.world.faults.extend(faults)
        wanted = {"stop_first": True, "keep": Retention(last=2), **policy}
        self.story = Story(
            world=self.world, ledger_path=folder / "state.db", policy=a_policy(**wanted), server_id=self.server_id
        )
        self.witnessed = Witnessed(self.story)
        self.story.before_request = self._before
        self.asked: list[Asked] = []
        self.person: Callable[[Request], bool] = lambda _: True
        """Told of each request that arrives, until it answers True: somebody who acts at one moment."""

    def _before(self, request: Request) -> None:
        if self.person(request):
            self.person = lambda _: True
        self.witnessed.before(request)
        if request.method != "GET":
            what = str(request.json.get("action", {"POST": "create", "DELETE": "delete"}[request.method]))
            self.asked.append(Asked(what, self.world.now(), self.status))

    @property
    def status(self) -> str:
        return self.world.status_of(self.server_id)

    @property
    def words(self) -> list[str]:
        return [one.what for one in self.asked]

    @property
    def taken_of(self) -> list[str]:
        """How the server was when each snapshot was taken."""
        return [one.server_status_when_taken for one in self.world.created]

    def times(self, what: str) -> list[datetime]:
        return [one.at for one in self.asked if one.what == what]

    async def rotate(self) -> Rotation:
        """One rotation, to its end, and an hour more."""
        return await self.see_off(await self.end())

    async def end(self) -> Rotation:
        """One rotation, to its end: in a day at the most."""
        async with self.story.life() as tools:
            claim = await tools.ledger.claim(self.story.rotation(SLOT))
            assert isinstance(claim, Claimed)
            async with asyncio.timeout(86400):
                return await run_rotation(Run(claim.rotation, tools, self.story.records.append))

    async def see_off(self, rotation: Rotation, *, was_active: bool = True) -> Rotation:
        await asyncio.sleep(LATER)
        self.witnessed.judge_rotation(rotation, was_active=was_active)
        assert self.witnessed.broken == []
        return rotation


# -- a server that does not start ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        power("start_never", "start", times=20),
        power("status", "start", status=500, times=20),
        power("status", "start", status=400, times=20),
        power("status", "start", status=403, times=20),
        power("cut", "start", times=20),
        power("hang", "start", times=20),
    ],
    ids=["nothing happens", "500", "400", "403", "cut", "hang"],
)
async def test_a_server_that_does_not_start_is_asked_ever_more_slowly_until_it_does(
    tmp_path: Path, fault: Fault
) -> None:
    one = Night(tmp_path, fault)
    one.story.poll_interval = 60.0
    rotation = await one.rotate()
    waits = [(later - earlier).total_seconds() for earlier, later in pairwise(one.times("start"))]
    assert rotation.result == "success"
    assert len(waits) == 20
    assert 120 <= waits[0] < 240
    assert all(later >= earlier - 60 for earlier, later in pairwise(waits))
    assert 240 <= waits[-1] <= 300
    assert one.story.witness.start_failures == 20


async def test_while_a_server_does_not_start_the_metric_says_that_it_is_off_because_of_us(tmp_path: Path) -> None:
    world = World()
    world.add_server("web-01")
    world.faults.append(power("start_never", "start", times=8))
    path = write_config(tmp_path, '[{id: 12345, name: web-01, schedule: "1 3 * * *", stop_first: true}]')
    seen: set[tuple[bool, float | None]] = set()
    async with daemon_on(path, world) as watched:
        for _ in range(180):
            await asyncio.sleep(15)
            is_off = world.status_of("12345") == "stopped"
            seen.add((is_off, watched.value("snaprotd_server_stopped_by_us", "web-01")))
        assert (True, 0) not in seen
        assert {(True, 1), (False, 0)} <= seen
        assert world.status_of("12345") == "active"
        assert watched.value("snaprotd_server_stopped_by_us", "web-01") == 0
        assert watched.value("snaprotd_server_start_failures_total", "web-01") == 8
        assert watched.value("snaprotd_rotations_total", "web-01", "success") == 1


# -- a stop is only a request -------------------------------------------------------------------------------------


async def test_a_server_that_stays_active_for_a_while_after_its_stop_is_waited_for(tmp_path: Path) -> None:
    one = Night(tmp_path, power("slow_power", "stop", delay=90.0))
    assert (await one.rotate()).result == "success"
    assert one.words == ["stop", "create", "start", "delete", "delete"]
    assert one.taken_of == ["stopped"]


@pytest.mark.parametrize(
    ("word", "result", "taken_of", "words"),
    [
        ("abort", "failure", [], ["stop"]),
        ("snapshot_anyway", "success", ["active"], ["stop", "create", "delete", "delete"]),
        ("hard_stop", "success", ["stopped"], ["stop", "hard_stop", "create", "start", "delete", "delete"]),
    ],
)
async def test_for_a_server_that_never_stops_the_policy_says_what_is_done(
    tmp_path: Path, word: str, result: str, taken_of: list[str], words: list[str]
) -> None:
    one = Night(tmp_path, power("stop_never", "stop", times=None), on_stop_timeout=OnStopTimeout(word))
    assert (await one.rotate()).result == result
    assert one.taken_of == taken_of
    assert one.words == words


async def stopped_before(folder: Path, one: Night, *, ago: float) -> Night:
    """An earlier rotation has asked for a stop, which was acknowledged; what became of it nobody has written down."""
    stop = Power(asked=1, held_off_since=SLOT - timedelta(seconds=ago), stop_acknowledged=True, unstruck=True)
    known = replace(stop, stop_age=ago, power_open=ago, request_age=ago)
    async with await Ledger.open(folder / "state.db", owner="before") as ledger:
        await ledger.starts.save(ServerPower(account="", server_id=one.server_id, label="web-01", power=known))
    return one


@pytest.mark.parametrize("ago", [0.0, 60.0, 300.0])
async def test_a_server_is_asked_to_stop_whatever_stop_of_an_earlier_rotation_is_left_over(
    tmp_path: Path, ago: float
) -> None:
    """That one is waited for as long as it may be late, and not until the plug may be pulled."""
    one = await stopped_before(tmp_path, Night(tmp_path, on_stop_timeout=OnStopTimeout.HARD_STOP), ago=ago)
    assert (await one.rotate()).result == "success"
    assert one.words == ["stop", "create", "start", "delete", "delete"]


async def test_the_plug_is_not_pulled_on_a_server_that_could_not_be_asked_to_stop(tmp_path: Path) -> None:
    policy: dict[str, Any] = {"on_stop_timeout": OnStopTimeout.HARD_STOP, "stop_timeout": timedelta(seconds=10)}
    one = await stopped_before(tmp_path, Night(tmp_path, **policy), ago=0.0)
    rotation = await one.rotate()
    assert (rotation.result, rotation.failed_step, one.words) == ("failure", "stop", [])
    assert rotation.error == f"the server could not be asked to stop within 0:00:10: {EARLIER_STOP}"


async def test_a_server_that_does_not_even_stop_the_hard_way_is_left_running(tmp_path: Path) -> None:
    one = Night(tmp_path, power("stop_never", "", times=None), on_stop_timeout=OnStopTimeout.HARD_STOP)
    rotation = await one.rotate()
    assert (rotation.result, rotation.failed_step) == ("failure", "stop")
    assert one.words == ["stop", "hard_stop"]


@pytest.mark.parametrize(
    ("word", "taken_of"), [("abort", []), ("snapshot_anyway", ["active"]), ("hard_stop", ["stopped"])]
)
async def test_a_stop_that_strikes_after_its_time_out_is_made_good(
    tmp_path: Path, word: str, taken_of: list[str]
) -> None:
    one = Night(tmp_path, power("slow_power", "stop", delay=330.0), on_stop_timeout=OnStopTimeout(word))
    await one.rotate()
    assert "stopped" in [status for _, status in one.world.servers[one.server_id].history]
    assert one.taken_of == taken_of
    assert one.words[-1 if not taken_of else -3] == "start"


# -- a person interferes ------------------------------------------------------------------------------------------


def powers_on(one: Night) -> None:
    one.world.set_status(one.server_id, "active")


def presses_start(one: Night) -> None:
    one.world.power(one.world.servers[one.server_id], "start", None)


def becomes(status: str, afterwards: str) -> Callable[[Night], None]:
    """The server is in `status` for longer than a start may take, and in another one `afterwards`."""

    def act(one: Night) -> None:
        one.world.set_status(one.server_id, status)
        one.world.later(900, lambda: one.world.set_status(one.server_id, afterwards))

    return act


@pytest.mark.parametrize(
    "act",
    [
        powers_on,
        presses_start,
        becomes("restoring", "active"),
        becomes("restoring", "stopped"),
        becomes("suspended", "stopped"),
    ],
    ids=["on", "starting", "restored and on", "restored and off", "suspended"],
)
async def test_a_server_that_somebody_uses_before_its_snapshot_is_asked_for_gets_none(
    tmp_path: Path, act: Callable[[Night], None]
) -> None:
    one = Night(tmp_path)

    def person(request: Request) -> bool:
        """Acts when the server has been seen off and the snapshot is about to be asked for."""
        if one.status != "stopped" or not request.path.endswith("/snapshots/"):
            return False
        act(one)
        return True

    one.person = person
    rotation = await one.rotate()
    assert (rotation.result, rotation.failed_step) == ("failure", "snapshot")
    assert one.world.created == []
    assert one.world.deleted == []
    assert {asked.status for asked in one.asked} <= {"active", "stopped"}


async def test_a_server_that_somebody_keeps_on_while_it_is_to_stop_gets_no_snapshot(tmp_path: Path) -> None:
    one = Night(tmp_path)

    def person(_: Request) -> bool:
        if one.status != "stopping":
            return False
        powers_on(one)
        return True

    one.person = person
    assert (await one.rotate()).failed_step == "stop"
    assert one.words == ["stop"]
    assert one.world.deleted == []


@pytest.mark.parametrize("afterwards", ["active", "stopped"])
async def test_a_restore_while_the_snapshot_is_taken_is_waited_for_before_the_start(
    tmp_path: Path, afterwards: str
) -> None:
    one = Night(tmp_path, world=World(snapshot_seconds=(200, 200)))

    def person(_: Request) -> bool:
        if not one.world.created:
            return False
        becomes("restoring", afterwards)(one)
        return True

    one.person = person
    assert (await one.rotate()).result == "success"
    assert "restoring" not in {asked.status for asked in one.asked}
    assert ("start" in one.words) == (afterwards == "stopped")


@pytest.mark.parametrize("status", ["restoring", "suspended"])
async def test_a_server_that_is_being_restored_or_suspended_is_not_touched(tmp_path: Path, status: str) -> None:
    one = Night(tmp_path, status=status)
    rotation = await one.end()
    assert (rotation.result, rotation.failed_step) == ("failure", "look")
    assert rotation.error == f"the server is {status}: it was not touched"  # at once: it is not waited for
    assert one.asked == []
    assert one.status == status


async def test_a_server_that_is_powered_on_while_its_snapshot_is_taken_is_not_started_again(tmp_path: Path) -> None:
    one = Night(tmp_path)

    def person(_: Request) -> bool:
        if not one.world.created:
            return False
        powers_on(one)
        return True

    one.person = person
    assert (await one.rotate()).result == "success"
    assert one.words == ["stop", "create", "delete", "delete"]


@pytest.mark.parametrize(
    ("when", "result", "error"), [("get", "failure", "has vanished"), ("start", "partial", "does not show the new")]
)
async def test_when_somebody_deletes_the_new_snapshot_no_old_one_goes_and_the_server_is_started(
    tmp_path: Path, when: str, result: str, error: str
) -> None:
    """While it is taken, or when it is completed and the server is about to be started."""
    one = Night(tmp_path)

    def person(request: Request) -> bool:
        if not one.world.created or (when == "start") != (request.json.get("action") == "start"):
            return False
        one.world.remove_snapshot(one.world.created[0].id)
        return True

    one.person = person
    rotation = await one.end()
    await asyncio.sleep(LATER)
    assert rotation.result == result
    assert error in (rotation.error or "")
    assert one.witnessed.broken == []
    assert one.words == ["stop", "create", "start"]
    assert (one.status, len(one.world.snapshots_of(one.server_id))) == ("active", 3)


@pytest.mark.parametrize("status", ["stopped", "stopping"])
async def test_a_server_that_others_switched_off_stays_off(tmp_path: Path, status: str) -> None:
    one = Night(tmp_path, status=status)
    one.world.later(60, lambda: one.world.set_status(one.server_id, "stopped"))
    await one.see_off(await one.end(), was_active=False)
    assert one.words == ["create", "delete", "delete"]
    assert one.taken_of == ["stopped"]


# -- requests that are carried out late ---------------------------------------------------------------------------

REQUESTS = {
    "create": Fault(kind="late", method="POST", path="/snapshots/"),
    "stop": power("late", "stop"),
    "hard_stop": power("late", "hard_stop"),
    "start": power("late", "start"),
}


def late(what: str, delay: float) -> Fault:
    fault = REQUESTS[what]
    return Fault(kind=fault.kind, method=fault.method, path=fault.path, action=fault.action, delay=delay)


def kill_after(one: Night, what: str, moments: int) -> None:
    """Kill the process as many moments (requests that come or go, writes) after the first request `what` is lost."""

    def after(request: Request, _: Reply) -> None:
        is_it = request.method == "POST" and request.json.get("action", "create") == what
        if is_it and not one.story.crashes:
            one.story.crashes.add(one.story.moments["all"] + moments)

    one.story.after_request = after


NOT, AT_ONCE, SOON = None, 1, 4
"""Moments after which the process is killed."""
DELAYS, KILLS = (5.0, 30.0, 90.0), (NOT, AT_ONCE, SOON)
SQUARE = [
    (what, delay, KILLS[(row + column + n) % 3])
    for row, what in enumerate(REQUESTS)
    for column, delay in enumerate(DELAYS)
    for n in range(size(1, 3))
]
"""In the short form each request meets each delay once, and each kind of kill once."""


@pytest.mark.search
@pytest.mark.parametrize(("what", "delay", "killed"), SQUARE)
async def test_a_request_that_is_carried_out_late_makes_no_second_snapshot_and_leaves_no_server_off(
    tmp_path: Path, what: str, delay: float, killed: int | None
) -> None:
    never = [power("stop_never", "stop", times=None)] if what == "hard_stop" else []
    one = Night(tmp_path, late(what, delay), *never, on_stop_timeout=OnStopTimeout.HARD_STOP)
    if killed is not None:
        kill_after(one, what, killed)
    rotation = await one.see_off(await one.story.live_through(SLOT))
    assert rotation.result == "success"
    assert len(one.world.late) == 1
    assert len(one.story.crashes) == (killed is not None)
    assert one.taken_of == ["stopped"]
    assert one.words.count("create") == 1
    assert one.status == "active"


@pytest.mark.parametrize("killed", [None, 1, 4], ids=["not killed", "killed at once", "killed soon"])
@pytest.mark.parametrize("word", list(OnStopTimeout))
async def test_a_late_stop_that_strikes_after_its_time_out_is_made_good(
    tmp_path: Path, word: OnStopTimeout, killed: int | None
) -> None:
    timeout = timedelta(seconds=30)
    one = Night(tmp_path, late("stop", 90.0), stop_timeout=timeout, on_stop_timeout=word)
    if killed is not None:
        kill_after(one, "stop", killed)
    rotation = await one.see_off(await one.story.live_through(SLOT))
    assert rotation.result == ("failure" if word is OnStopTimeout.ABORT else "success")
    assert one.status == "active"
    assert "start" in one.words


@pytest.mark.parametrize("kind", ["cut", "hang"])
@pytest.mark.parametrize("what", ["create", "stop", "start"])
async def test_a_request_that_is_never_carried_out_is_made_again_but_not_before_it_has_settled(
    tmp_path: Path, what: str, kind: str
) -> None:
    fault = late(what, 0.0)
    fault.kind = kind
    one = Night(tmp_path, fault)
    assert (await one.rotate()).result == "success"
    first, second = one.times(what)
    if what != "start":  # a second start does no harm
        assert (second - first).total_seconds() >= one.story.settle
    assert one.taken_of == ["stopped"]


# -- a snapshot that never ends, a server that is broken ----------------------------------------------------------


async def test_a_snapshot_that_stays_in_progress_is_told_and_does_not_block_the_next_slot(tmp_path: Path) -> None:
    world = World()
    server_id = world.add_server("web-01")
    world.faults.append(Fault(kind="stuck", method="POST", path="/snapshots/"))
    path = write_config(tmp_path, '[{id: 12345, name: web-01, schedule: "10 3,4 * * *", stop_first: true, keep: 1}]')
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(45 * 60)
        assert watched.value("snaprotd_rotations_total", "web-01", "failure") == 1
        assert world.status_of(server_id) == "active"
        assert "snapshot is in progress" in (watched.ended[0].error or "")
        await asyncio.sleep(3600)
        assert watched.value("snaprotd_rotations_total", "web-01", "success") == 1
        assert watched.value("snaprotd_snapshots", "web-01", "managed", "in_progress") == 1
        assert watched.value("snaprotd_snapshots", "web-01", "managed", "completed") == 1
    assert [one.status for one in world.created] == ["in_progress", "completed"]
    assert world.deleted == []
    assert [status for _, status in world.servers[server_id].history].count("active") == 3


def is_gone(world: World, server_id: str) -> None:
    world.remove_server(server_id)


def has_no_id(world: World, server_id: str) -> None:
    world.servers[server_id].ref = ""


def has_a_snapshot_without_a_name(world: World, server_id: str) -> None:
    world.add_snapshot(server_id, "").name = None  # type: ignore[assignment]


def answers_500(world: World, server_id: str) -> None:
    world.faults.append(Fault(kind="status", server_id=server_id, status=500, times=None))


def never_answers(world: World, server_id: str) -> None:
    world.faults.append(Fault(kind="hang", server_id=server_id, times=None))


def is_full(world: World, server_id: str) -> None:
    for number in range(5):
        world.add_snapshot(server_id, f"by-hand-{number}")


def fails_its_snapshots(world: World, server_id: str) -> None:
    world.faults.append(Fault(kind="status", method="POST", path="/snapshots/", status=400, server_id=server_id))


BAD = [is_gone, has_no_id, has_a_snapshot_without_a_name, answers_500, never_answers, is_full, fails_its_snapshots]
IMPATIENT = "retry: {times: 0}, stop_first: true, start_timeout: 2m, snapshot_timeout: 4m"


@pytest.mark.parametrize(
    ("good", "bad"),
    [pytest.param(size(13, 43), BAD, marks=pytest.mark.search), *((5, [one]) for one in BAD)],
    ids=["seven of many", *(one.__name__ for one in BAD)],
)
async def test_a_bad_server_stops_no_other(tmp_path: Path, good: int, bad: list[Callable[[World, str], None]]) -> None:
    world = World(snapshot_seconds=(60, 90))
    servers = [world.add_server(f"web-{number}") for number in range(good + len(bad))]
    broken = dict(zip(servers[5:], bad, strict=False))
    entries = ", ".join(f'{{id: {one}, schedule: "1 3 * * *", {IMPATIENT}}}' for one in servers)
    path = write_config(tmp_path, f"[{entries}]\nmax_concurrent: 50")
    async with daemon_on(path, world) as watched:
        for server, breaks in broken.items():
            breaks(world, server)
        await asyncio.sleep(1200)
        succeeded = [server for server in servers if watched.value("snaprotd_rotations_total", server, "success")]
        assert succeeded == [server for server in servers if server not in broken]
        for server in broken:
            failed = watched.value("snaprotd_rotations_total", server, "failure")
            running = watched.daemon.board.running.values()
            promised = any(one.server_id == server and one.held_off for one in running)
            assert (failed, promised) in ((1, False), (0, True))  # a start is never given up
        world.faults.clear()
    assert sorted(one.server_id for one in world.created) == sorted(succeeded)
    assert {server.status for server in world.servers.values()} == {"active"}


# -- a disk that cannot be written --------------------------------------------------------------------------------


BAD_DISKS = {
    "read-only": ["PRAGMA query_only = 1"],
    "full": ["PRAGMA max_page_count = 1", "INSERT INTO meta VALUES ('filler', zeroblob(1000000))"],
}


class LedgerOnABadDisk(Ledger):
    """The real ledger, whose SQLite is told before each transaction what the disk is like."""

    disk = ""

    @asynccontextmanager
    async def _transaction(self, **how: bool) -> AsyncIterator[Connection]:
        async with super()._transaction(**how) as connection:
            try:
                for pragma in BAD_DISKS.get(self.disk, ()):
                    await connection.execute(Statement(pragma))
                yield connection
            finally:
                for pragma in ("PRAGMA query_only = 0", f"PRAGMA max_page_count = {1 << 30}"):
                    await connection.execute(Statement(pragma))


class BadNight(Night):
    """A night in which the ledger's disk turns bad, at the claim or right after one of our requests."""

    def __init__(self, folder: Path, disk: str, bad_after: str, **options: Any) -> None:
        super().__init__(folder, **options)
        self.disk = disk
        self.bad_after = bad_after
        self.ledger: LedgerOnABadDisk
        self.turned_bad = asyncio.Event()
        self.story.after_request = self._after

    def _after(self, request: Request, _: Reply) -> None:
        if request.method == "POST" and request.json.get("action", "create") == self.bad_after:
            self.ledger.disk = self.disk
            self.turned_bad.set()

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Tools]:
        async with (
            self.story.life() as tools,
            await LedgerOnABadDisk.open(self.story.ledger_path, owner=uuid.uuid4().hex, lock=False) as ledger,
        ):
            assert isinstance(ledger, LedgerOnABadDisk)
            tools.ledger = self.ledger = ledger
            yield tools

    async def begin(self, tools: Tools) -> asyncio.Task[Rotation]:
        rotation = self.story.rotation(SLOT)
        assert isinstance(await tools.ledger.claim(rotation), Claimed)
        if self.bad_after == "claim":
            self.ledger.disk = self.disk
        return asyncio.create_task(run_rotation(Run(rotation, tools, self.story.records.append)))


DISKS = pytest.mark.parametrize("disk", BAD_DISKS)


@DISKS
async def test_the_disk_of_these_tests_is_as_bad_as_they_say(tmp_path: Path, disk: str) -> None:
    one = BadNight(tmp_path, disk, "claim")
    async with one.life() as tools:
        one.ledger.disk = disk
        with pytest.raises(LedgerError, match=r"readonly|full"):
            await tools.ledger.claim(one.story.rotation(SLOT))
        one.ledger.disk = ""
        assert isinstance(await tools.ledger.claim(one.story.rotation(SLOT)), Claimed)


@DISKS
@pytest.mark.parametrize("stop_first", [True, False])
@pytest.mark.parametrize("seconds", [45, 240])
async def test_a_ledger_that_is_away_before_anything_is_asked_is_waited_for(
    tmp_path: Path, disk: str, stop_first: bool, seconds: float
) -> None:
    """As a database server is that is restarted, or that another one takes the place of."""
    one = BadNight(tmp_path, disk, "claim", stop_first=stop_first)
    async with one.life() as tools:
        running = await one.begin(tools)
        await asyncio.sleep(seconds)
        assert (one.asked, "ledger" in one.story.records[-1].note) == ([], True)
        one.ledger.disk = ""
        assert (await one.see_off(await running)).result == "success"


@DISKS
@pytest.mark.parametrize("stop_first", [True, False])
async def test_a_disk_that_stays_bad_before_the_stop_stops_the_rotation_and_no_server(
    tmp_path: Path, disk: str, stop_first: bool
) -> None:
    one = BadNight(tmp_path, disk, "claim", stop_first=stop_first)
    async with one.life() as tools:
        running = await one.begin(tools)
        await asyncio.sleep(4 * 3600)
        assert one.asked == []
        assert not running.done()  # the failure is still to be written down
        one.ledger.disk = ""
        rotation = await one.see_off(await running)
        assert (rotation.result, await tools.ledger.history()) == ("failure", [rotation])
    assert one.words == []


@DISKS
@pytest.mark.parametrize(
    ("bad_after", "result", "words"),
    [("stop", "failure", ["stop", "start"]), ("create", "partial", ["stop", "create", "start"])],
)
async def test_a_disk_that_turns_bad_while_a_server_is_off_does_not_keep_it_off(
    tmp_path: Path, disk: str, bad_after: str, result: str, words: list[str]
) -> None:
    one = BadNight(tmp_path, disk, bad_after)
    async with one.life() as tools:
        running = await one.begin(tools)
        await asyncio.sleep(1800)
        assert (one.status, one.words) == ("active", words)
        one.ledger.disk = ""
        rotation = await one.see_off(await running)
        assert (rotation.result, await tools.ledger.history()) == (result, [rotation])
    assert one.words == words
    assert one.world.deleted == []


@DISKS
async def test_a_ledger_that_is_away_for_a_moment_while_its_server_is_off_costs_no_snapshot(
    tmp_path: Path, disk: str
) -> None:
    """As where a database server is restarted."""
    one = BadNight(tmp_path, disk, "stop")
    async with one.life() as tools:
        running = await one.begin(tools)
        for _ in range(600):
            await asyncio.sleep(1)
            if "ledger" in one.story.records[-1].note:
                break
        assert one.status != "active"
        await asyncio.sleep(8)
        one.ledger.disk = ""
        assert (await one.see_off(await running)).result == "success"
    assert one.words[:3] == ["stop", "create", "start"]


@DISKS
@pytest.mark.parametrize("bad_after", ["stop", "create"])
async def test_a_start_that_fails_goes_on_although_the_disk_stays_bad(
    tmp_path: Path, disk: str, bad_after: str
) -> None:
    """No lease can be renewed meanwhile; nobody else could take the rotation over either."""
    one = BadNight(tmp_path, disk, bad_after)
    one.world.faults.append(power("start_never", "start", times=6))
    async with one.life() as tools:
        running = await one.begin(tools)
        await asyncio.sleep(2700)
        assert one.status == "active"
        assert one.words.count("start") == 7
        one.ledger.disk = ""
        await one.see_off(await running)


@DISKS
@pytest.mark.parametrize("bad_after", ["stop", "create"])
async def test_a_process_that_dies_on_a_bad_disk_has_left_its_promise_on_it(
    tmp_path: Path, disk: str, bad_after: str
) -> None:
    one = BadNight(tmp_path, disk, bad_after)
    async with one.life() as tools:
        running = await one.begin(tools)
        await one.turned_bad.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert one.status != "active"
    await one.see_off(await one.story.live_through(SLOT))
    assert one.words.count("create") == 1
    assert one.taken_of == ["stopped"]


@DISKS
async def test_a_slot_on_a_bad_disk_is_told_and_runs_when_the_disk_is_well(
    tmp_path: Path, disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", LedgerOnABadDisk)
    world = World()
    world.add_server("web-01")
    path = write_config(tmp_path, '[{id: 12345, name: web-01, schedule: "10 3,4 * * *", stop_first: true}]')
    async with daemon_on(path, world) as watched:
        monkeypatch.setattr(LedgerOnABadDisk, "disk", disk)
        await asyncio.sleep(1800)
        assert watched.value("snaprotd_rotations_total", "web-01", "failure") == 1
        assert [status for _, status in world.servers["12345"].history] == ["active"]
        monkeypatch.setattr(LedgerOnABadDisk, "disk", "")
        await asyncio.sleep(3600)
        assert watched.value("snaprotd_rotations_total", "web-01", "success") == 2
        assert watched.value("snaprotd_missed_slots_total", "web-01", "ran_late") == 1
    assert [one.name for one in world.created] == ["snaprotd-main-20250116T031000Z", "snaprotd-main-20250116T041000Z"]


async def test_a_server_that_its_own_page_never_shows_again_is_started_by_what_a_list_shows(tmp_path: Path) -> None:
    world = World()
    server_id = world.add_server("web-01")
    servers = f'[{{id: {server_id}, name: web-01, schedule: "0 12 1 1 *", stop_first: true, start_timeout: 5m}}]'
    async with daemon_on(write_config(tmp_path, servers), world) as watched:
        await watched.daemon.rotate(server_id)
        while world.status_of(server_id) != "stopped":  # noqa: ASYNC110
            await asyncio.sleep(1)
        world.faults.append(Fault(kind="status", method="GET", path="/servers/*/", status=500, times=None))
        await asyncio.sleep(2 * 3600)
        assert world.status_of(server_id) == "active"
        assert watched.value("snaprotd_server_stopped_by_us", "web-01") == 0
