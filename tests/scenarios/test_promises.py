"""A server that we stopped is running a day later, whatever the provider's answers were worth, and whoever died.

Each story is looked at every few minutes at first, then every half hour: nothing says that all is well while a server
is off because of us.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Step
from snaprotd.daemon.last_resort import pay_what_is_owed
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, Reply, Request, World
from tests.support.daemons import Watched, kill, look_around_less, power, write_config
from tests.support.searches import size, the_rest
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
LOOK_EVERY = 211.0
"""Seconds between two looks at the server and the page; longer than the account's list takes to show a change."""
ONCE = "5 3 16 1 *"
"""The one slot of a story: none comes a day later."""


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon looks around less often, for days that pass quickly."""
    look_around_less(monkeypatch, tick=61.3, leases=24.1, file=3600.0, account=121.7)


class Way(WorldTransport):
    """The way to the provider, and what lies on it: replicas that lag behind, proxies that send twice."""

    def __init__(self, world: World) -> None:
        super().__init__(world, before=self._before)
        self.world = world
        self.lags_at: int | None = None
        """After `stopped` was read, so many readings of the server are right, and the next shows what was before."""
        self.lags_for = 0.0
        """So are all others, for so many seconds."""
        self.doubled: dict[str, float] = {}
        """What is carried out once more, so many seconds after the server was asked to start; but a start, after it."""
        self.posts: list[str] = []
        self._lagged_since: float | None = None

    def _before(self, request: Request) -> None:
        if request.method != "POST" or not request.path.endswith("/power/"):
            return
        action = str(request.json["action"])
        self.posts.append(action)
        if action == "start":
            for what, delay in self.doubled.items():
                self.world.later(delay, lambda what=what: self._strike(what))  # type: ignore[misc]
            self.doubled = {}

    def _strike(self, action: str) -> None:
        self.world._switch(self.world.servers["12345"], action)

    async def _travel(self, request: httpx.Request, reply: Reply) -> httpx.Response:
        if (
            request.method == "GET"
            and "/servers/" in request.url.path
            and reply.status == 200
            and self._is_stale(reply)
        ):
            text = reply.body.replace(b'"status": "stopped"', b'"status": "active"')
            reply = replace(reply, body=text)
        return await super()._travel(request, reply)

    def _is_stale(self, reply: Reply) -> bool:
        if self.lags_at is None or b'"status": "stopped"' not in reply.body:
            return False
        moment = asyncio.get_running_loop().time()
        if self._lagged_since is not None:
            return moment - self._lagged_since < self.lags_for
        if self.lags_at == 0:
            self._lagged_since = moment
            return True
        self.lags_at -= 1
        return False


class Promise:
    """One server that is switched off for its snapshot at five past three, and daemons that look after it."""

    def __init__(self, folder: Path, *faults: Fault, schedule: str = ONCE, more: str = "", **keys: str) -> None:
        self.folder = folder
        self.world = World(snapshot_seconds=(100, 100))
        self.world.add_server("web-01")
        self.world.faults.extend(faults)
        self.way = Way(self.world)
        self.environ: dict[str, str] = {}
        policy = "".join(f", {key}: {value}" for key, value in keys.items())
        entry = f'{{id: 12345, name: web, schedule: "{schedule}", stop_first: true{policy}}}'
        self.path = write_config(folder, f"[{entry}]\ndiscover_interval: 1h\n{more}")
        self.watched: Watched
        self._running: asyncio.Task[int] | None = None

    @property
    def status(self) -> str:
        return self.world.status_of("12345")

    @property
    def history(self) -> list[str]:
        return [status for _, status in self.world.servers["12345"].history]

    async def begin(self) -> Watched:
        self.watched = Watched(self.path, self.world, environ=self.environ, transport=self.way)
        self._running = asyncio.create_task(self.watched.daemon.run())
        started = asyncio.create_task(self.watched.daemon.started.wait())
        await asyncio.wait([self._running, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        return self.watched

    async def end(self) -> int:
        assert self._running is not None
        self.watched.daemon.stop()
        return await self._running

    async def kill(self) -> None:
        await kill(self.watched)

    async def until(self, holds: Callable[[], bool], seconds: float = HOUR) -> None:
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(1)

    async def report(self) -> Any:
        return json.loads((await self.watched.get("/api/status")).content)

    async def pass_time(self, seconds: float, *, every: float = LOOK_EVERY) -> None:
        """Look every few minutes: what is off because of us is told, but for the time that it takes to notice."""
        loop = asyncio.get_running_loop()
        until, unnoticed = loop.time() + seconds, 0
        while loop.time() < until:
            await asyncio.sleep(min(every, until - loop.time()))
            report = await self.report()
            told = report["state"] != "ok" or report["servers"][0]["stopped_by_us_since"] is not None
            metric = self.watched.value("snaprotd_server_stopped_by_us", "web")
            is_known = told and (self.status != "stopped" or metric == 1)
            unnoticed = 0 if is_known or self.status == "active" else unnoticed + 1
            assert unnoticed < 2, (self.status, metric, report)

    async def pass_long(self, seconds: float) -> None:
        """The first hour as `pass_time`, the rest as `pass_hours`."""
        await self.pass_time(min(seconds, HOUR))
        await self.pass_hours(seconds - min(seconds, HOUR))

    async def pass_hours(self, seconds: float) -> None:
        """As `pass_time`; the daemon and the test look around less often still."""
        with pytest.MonkeyPatch.context() as patch:
            look_around_less(patch, tick=1801.3, leases=1801.1, file=3600.0, account=1801.7)
            await self.pass_time(seconds, every=1900.0)


@asynccontextmanager
async def looked_after(one: Promise) -> AsyncIterator[Promise]:
    """A daemon, and the server a day after the test's own part of the story."""
    await one.begin()
    yield one
    await one.pass_time(HOUR)
    await one.pass_hours(DAY - HOUR)
    assert one.status == "active"
    assert one.watched.value("snaprotd_server_stopped_by_us", "web") == 0
    assert await one.end() == 0
    assert one.status == "active"


# -- a read that is older than the one before it -------------------------------------------------------------------


LAGS = (0.0, 14.0)
"""Seconds: once, and for less than a poll."""


@pytest.mark.parametrize(
    ("lags_at", "lags_for"),
    [*((at, LAGS[at % 2]) for at in range(9)), *the_rest(*((at, LAGS[1 - at % 2]) for at in range(9)))],
)
async def test_a_stale_read_of_a_running_server_releases_nobody_from_the_start(
    tmp_path: Path, lags_at: int, lags_for: float
) -> None:
    """At the stop, before the snapshot, while it is taken, at the start."""
    one = Promise(tmp_path)
    one.way.lags_at, one.way.lags_for = lags_at, lags_for
    async with looked_after(one):
        pass
    assert [ended.result for ended in one.watched.ended] == ["success"]
    assert one.way.posts.count("stop") == 1


# -- an error answer to a power request proves nothing -------------------------------------------------------------

ERRORS = (400, 401, 403, 404, 409, 500)
EACH = size(2, 1)
"""In the short form a search has every second of the errors, and the one after it has the others."""


def after_the_fact(action: str, status: int) -> Fault:
    return power("status", action, status=status, done=True)


@pytest.mark.parametrize("status", ERRORS)
async def test_a_stop_that_was_carried_out_and_answered_with_an_error_is_made_good(tmp_path: Path, status: int) -> None:
    one = Promise(tmp_path, after_the_fact("stop", status))
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history)


@pytest.mark.search
@pytest.mark.parametrize("status", ERRORS[::EACH])
async def test_a_stop_that_was_answered_with_an_error_and_strikes_later_is_made_good(
    tmp_path: Path, status: int
) -> None:
    one = Promise(tmp_path, power("status", "stop", status=status))
    async with looked_after(one):
        await one.until(lambda: "stop" in one.way.posts)
        one.world.later(100, lambda: one.way._strike("stop"))
        await one.until(lambda: "stopped" in one.history)


class SeveredWay(Way):
    """The first stop goes out; for every other one there is no connection."""

    def _before(self, request: Request) -> None:
        asked = len(self.posts)
        super()._before(request)
        if "stop" in self.posts[:asked] and self.posts[asked:] == ["stop"]:
            raise httpx.ConnectError("severed")


@pytest.mark.parametrize("status", [409, 423, 429])
async def test_a_stop_that_could_not_be_sent_does_not_undo_one_that_was_refused_and_strikes_later(
    tmp_path: Path, status: int
) -> None:
    one = Promise(tmp_path, power("status", "stop", status=status))
    one.way = SeveredWay(one.world)
    async with looked_after(one):
        await one.until(lambda: one.way.posts.count("stop") > 1)
        one.world.later(HOUR, lambda: one.way._strike("stop"))
        await one.until(lambda: "stopped" in one.history, 2 * HOUR)
    assert one.way.posts.count("start") >= 1


@pytest.mark.search
@pytest.mark.parametrize("status", ERRORS[EACH - 1 :: EACH])
async def test_a_start_that_was_answered_with_an_error_is_asked_for_until_the_server_runs(
    tmp_path: Path, status: int
) -> None:
    one = Promise(tmp_path, after_the_fact("start", status), power("status", "start", status=status, times=3))
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history)


@pytest.mark.search
@pytest.mark.parametrize("status", ERRORS[::EACH])
async def test_a_hard_stop_that_was_carried_out_and_answered_with_an_error_is_made_good(
    tmp_path: Path, status: int
) -> None:
    never = power("stop_never", "stop", times=None)
    one = Promise(tmp_path, never, after_the_fact("hard_stop", status), on_stop_timeout="hard_stop")
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history)


FIRST, THEN = (
    ((200, 140.0), (400, 60.0), (403, 60.0), (409, 60.0)),
    ((200, 60.0), (401, 60.0), (404, 60.0), (500, 60.0)),
)
TWICE = [*(("stop", *how) for how in FIRST), *(("hard_stop", *how) for how in THEN)]
THE_OTHERS = [*(("stop", *how) for how in THEN), *(("hard_stop", *how) for how in FIRST)]


@pytest.mark.parametrize(("action", "status", "strikes_after"), TWICE + the_rest(*THE_OTHERS))
async def test_a_stop_that_a_proxy_sent_twice_may_strike_after_the_start_and_is_made_good(
    tmp_path: Path, action: str, status: int, strikes_after: float
) -> None:
    faults = [] if status == 200 else [after_the_fact(action, status)]
    keys = {"on_stop_timeout": "hard_stop"} if action == "hard_stop" else {}
    if action == "hard_stop":
        faults.append(power("stop_never", "stop", times=None))
    one = Promise(tmp_path, *faults, **keys)
    one.way.doubled = {action: strikes_after}
    async with looked_after(one):
        await one.until(lambda: one.history.count("stopped") == 2)


@pytest.mark.search
@pytest.mark.parametrize("status", [200, *ERRORS[EACH - 1 :: EACH]])
async def test_a_start_that_a_proxy_sent_twice_changes_nothing(tmp_path: Path, status: int) -> None:
    one = Promise(tmp_path, *([] if status == 200 else [after_the_fact("start", status)]))
    one.way.doubled = {"start": 60.0}
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history)
    assert [ended.result for ended in one.watched.ended] == ["success"]


# -- a stop that strikes long after ---------------------------------------------------------------------------------

JUST_AFTER = 300.0 + 600.0 + 45.0
"""After `stop_timeout` and `start_timeout`."""

LATE = pytest.mark.parametrize("delay", [JUST_AFTER, 5 * HOUR, 23 * HOUR], ids=["45 s", "5 h", "23 h"])


@LATE
async def test_an_acknowledged_stop_that_strikes_when_nobody_waits_for_it_is_made_good(
    tmp_path: Path, delay: float
) -> None:
    one = Promise(tmp_path, power("slow_power", "stop", delay=delay))
    async with looked_after(one):
        await one.pass_long(delay + HOUR)
        assert one.history == ["active", "stopping", "stopped", "starting", "active"]


@pytest.mark.parametrize(
    ("delay", "killed"),
    [
        *((JUST_AFTER, True), (5 * HOUR, False), (23 * HOUR, True)),
        *the_rest((JUST_AFTER, False), (5 * HOUR, True), (23 * HOUR, False)),
    ],
)
async def test_an_acknowledged_stop_that_strikes_under_another_process_is_made_good(
    tmp_path: Path, delay: float, killed: bool
) -> None:
    one = Promise(tmp_path, power("slow_power", "stop", delay=delay))
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.pass_time(min(delay - 30, 40 * MINUTE))
    await (one.kill() if killed else one.end())
    await asyncio.sleep(20)
    async with looked_after(one):
        await one.pass_long(delay + HOUR)
        assert one.history == ["active", "stopping", "stopped", "starting", "active"]


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
async def test_an_acknowledged_stop_that_strikes_while_no_process_runs_is_made_good(
    tmp_path: Path, killed: bool
) -> None:
    one = Promise(tmp_path, power("slow_power", "stop", delay=5 * HOUR))
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.pass_time(HOUR)
    await (one.kill() if killed else one.end())
    await asyncio.sleep(5 * HOUR)
    assert one.status == "stopping"  # the simulated server goes on from where it was last looked at
    await asyncio.sleep(3 * HOUR)
    assert one.status == "stopped"
    async with looked_after(one):
        await one.pass_time(HOUR)


async def test_a_server_that_is_off_by_an_old_stop_is_in_the_metric_until_it_runs(tmp_path: Path) -> None:
    never = power("start_never", "start", times=None)
    one = Promise(tmp_path, power("slow_power", "stop", delay=5 * HOUR), never)
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history, 6 * HOUR)
        await asyncio.sleep(10 * MINUTE)
        assert one.watched.value("snaprotd_server_stopped_by_us", "web") == 1
        one.world.faults.remove(never)


@pytest.mark.parametrize("restarts", [False, True], ids=["one process", "a process a day"])
async def test_a_stop_that_never_struck_is_forgotten_after_a_day_and_a_person_may_switch_the_server_off(
    tmp_path: Path, restarts: bool
) -> None:
    one = Promise(tmp_path, power("stop_never", "stop"))
    await one.begin()
    for _ in range(3):
        await one.pass_time(HOUR)
        await one.pass_hours(DAY - HOUR)
        if restarts:
            assert await one.end() == 0
            await one.begin()
    one.world.set_status("12345", "stopped")
    await asyncio.sleep(HOUR)
    assert one.status == "stopped"
    assert one.way.posts == ["stop"]
    assert await one.end() == 0


async def test_what_a_person_switches_off_after_the_start_was_paid_stays_off(tmp_path: Path) -> None:
    one = Promise(tmp_path)
    await one.begin()
    await one.pass_time(30 * MINUTE)
    assert [ended.result for ended in one.watched.ended] == ["success"]
    one.world.set_status("12345", "stopped")
    await asyncio.sleep(2 * HOUR)
    await one.end()
    await one.begin()
    await asyncio.sleep(2 * HOUR)
    assert one.status == "stopped"
    assert one.way.posts == ["stop", "start"]
    assert await one.end() == 0


# -- the record of a rotation is lost, and its process with it --------------------------------------------------------


def edit(ledger: Path, *statements: str) -> None:
    """As a person does it, or a disk."""
    with closing(sqlite3.connect(ledger)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


HARM = {
    "damaged": "UPDATE rotations SET body = substr(body, 1, 40) WHERE is_open",
    "newer": "UPDATE rotations SET needs = 99 WHERE is_open",
    "deleted": "DELETE FROM rotations WHERE is_open",
    "the record of its power damaged": "UPDATE powers SET body = 'x'",
    "both damaged": "UPDATE rotations SET body = 'x'; UPDATE powers SET body = 'x'",
}
MORE_HARM = {
    "empty": "UPDATE rotations SET body = '{}' WHERE is_open",
    "all deleted": "DELETE FROM rotations",
    "the record of its power deleted": "DELETE FROM powers",
}


@pytest.mark.parametrize("harm", [*HARM, *the_rest(*((name,) for name in MORE_HARM))])
async def test_a_row_that_is_damaged_newer_or_gone_leaves_no_server_off_and_stops_no_slot(
    tmp_path: Path, harm: str
) -> None:
    statements = (HARM | MORE_HARM)[harm].split("; ")
    one = Promise(tmp_path, schedule="5 3,9,15,21 16 1 *")
    one.world.snapshot_seconds = (900, 900)
    await one.begin()
    await one.until(lambda: "stopped" in one.history, 4 * HOUR)
    await asyncio.sleep(60)
    await one.kill()
    edit(tmp_path / "state.db", *statements)
    taken = len(one.world.created)
    async with looked_after(one):
        await one.until(lambda: one.history[-1] == "active", 40 * MINUTE)
    assert len(one.world.created) - taken >= 3
    assert [ended.result for ended in one.watched.ended][-3:] == ["success"] * 3


@pytest.mark.parametrize("readable_by", [2, 99])
async def test_a_ledger_of_a_newer_version_leaves_no_server_off(tmp_path: Path, readable_by: int) -> None:
    """Where it may not be used it is told, after the server was started."""
    one = Promise(tmp_path)
    one.world.snapshot_seconds = (900, 900)
    await one.begin()
    await one.until(lambda: "stopped" in one.history)
    await one.kill()
    ledger = tmp_path / "state.db"
    edit(ledger, "UPDATE meta SET value = 99 WHERE key = 'schema'")
    edit(ledger, f"UPDATE meta SET value = {readable_by} WHERE key = 'readable_by'")
    if readable_by == 2:
        async with looked_after(one):
            return
    with pytest.raises(LedgerError, match="newer") as refused:
        await Watched(one.path, one.world, transport=one.way).daemon.run()
    paid = await pay_what_is_owed([ledger], {"VPS_API_TOKEN": one.world.token}, refused.value, transport=one.way)
    assert paid
    assert one.status == "active"
    assert one.way.posts == ["stop", "start"]


async def test_what_is_owed_in_one_account_outlives_a_while_with_another_one(tmp_path: Path) -> None:
    """The file names another account for an hour, with the same ledger; nothing of the first is asked there."""
    one = Promise(tmp_path)
    one.world.snapshot_seconds = (900, 900)
    await one.begin()
    await one.until(lambda: "stopped" in one.history)
    await one.kill()
    own_file, own_way = one.path.read_text(), one.way
    other = World()
    other.add_server("other", ref=999)
    one.path.write_text(own_file.replace("vps.invalid", "other.invalid").replace("12345", "999"))
    one.way = Way(other)
    await one.begin()
    await asyncio.sleep(HOUR)
    await one.end()
    assert one.way.posts == []
    one.path.write_text(own_file)
    one.way = own_way
    async with looked_after(one):
        await one.until(lambda: one.status == "active")


# -- resumed too late -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [[], [power("stop_never", "stop")], [power("hang", "stop")]],
    ids=["switched on meanwhile", "never carried out", "never answered"],
)
async def test_a_server_that_runs_is_not_stopped_for_a_slot_that_is_long_past(
    tmp_path: Path, faults: list[Fault]
) -> None:
    one = Promise(tmp_path, *map(replace, faults))
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.kill()
    await asyncio.sleep(2 * DAY)
    one.world.set_status("12345", "active")
    async with looked_after(one):
        pass
    assert one.way.posts == ["stop"]
    assert one.world.created == []
    (ended,) = one.watched.ended
    assert ended.result == "failure"
    assert "resumed too late" in (ended.error or "")


async def test_a_server_that_is_still_off_days_later_is_started(tmp_path: Path) -> None:
    one = Promise(tmp_path)
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.kill()
    await asyncio.sleep(2 * DAY)
    assert one.status == "stopped"
    async with looked_after(one):
        await one.until(lambda: one.history[-1] == "active", 10 * MINUTE)
    assert one.way.posts == ["stop", "start"]
    assert "resumed too late" in (one.watched.ended[0].error or "")


# -- frozen past its lease -------------------------------------------------------------------------------------------


class Freezer:
    """Stands between a process and everything outside it: while it is shut, nothing of it goes on."""

    def __init__(self) -> None:
        self.thawed = asyncio.Event()
        self.thawed.set()


class FrozenWay(Way):
    def __init__(self, world: World, freezer: Freezer) -> None:
        super().__init__(world)
        self._freezer = freezer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._freezer.thawed.wait()
        answer = await super().handle_async_request(request)
        await self._freezer.thawed.wait()
        return answer


def freezable(ledger: Ledger, freezer: Freezer) -> None:
    """So that its transactions begin and end only while the process is not frozen."""
    within = ledger._transaction

    @asynccontextmanager
    async def transaction() -> AsyncIterator[AsyncConnection]:
        await freezer.thawed.wait()
        async with within() as connection:
            yield connection
        await freezer.thawed.wait()

    ledger._transaction = transaction  # type: ignore[method-assign]


MEANWHILE, LONG_AFTER = 5 * MINUTE, 2 * HOUR
"""Seconds: while the other process works, and when it has ended its rotation."""


@pytest.mark.parametrize(
    ("step", "thaws_after"),
    [
        *((Step.STOP, MEANWHILE), (Step.WAIT, LONG_AFTER), (Step.START, MEANWHILE)),
        *the_rest((Step.STOP, LONG_AFTER), (Step.WAIT, MEANWHILE), (Step.START, LONG_AFTER)),
    ],
)
async def test_a_process_that_was_frozen_with_a_server_off_finds_it_started_and_does_nothing_of_its_own(
    tmp_path: Path, step: Step, thaws_after: float
) -> None:
    one = Promise(tmp_path)
    one.world.snapshot_seconds = (600, 600)
    freezer = Freezer()
    one.way = FrozenWay(one.world, freezer)
    first = await one.begin()
    first_way, first_running = one.way, one._running
    freezable(first.daemon._tools.ledger, freezer)
    await first.reaches(step)
    freezer.thawed.clear()
    asked_before = list(first_way.posts)
    one.way = Way(one.world)
    async with looked_after(one):
        await asyncio.sleep(thaws_after)
        freezer.thawed.set()
        await asyncio.sleep(HOUR)
        first.daemon.stop()
        assert first_running is not None
        assert await first_running == 0
    assert set(first_way.posts[len(asked_before) :]) <= {"start"}
    assert len(one.world.created) == 1
    assert [*first_way.posts, *one.way.posts].count("stop") == 1
