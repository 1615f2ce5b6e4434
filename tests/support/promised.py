"""A whole daemon that has promised to start a server again, and the server and the page looked at every few minutes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, Reply, Request, World
from tests.support.daemons import Watched, kill, look_around_less, write_config
from tests.support.world_transport import WorldTransport

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
LOOK_EVERY = 211.0
"""Seconds between two looks at the server and the page; longer than the account's list takes to show a change."""
ONCE = "5 3 16 1 *"
"""The one slot of a story: none comes a day later."""


def have_few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
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


class Stopped:
    """One server that is switched off for its snapshot."""

    def __init__(
        self, folder: Path, *faults: Fault, schedule: str, seconds: float, more: str = "", **keys: str
    ) -> None:
        """`seconds` is how long a snapshot takes; `keys` are its policy's, `more` stands below it in the file."""
        self.folder = folder
        self.world = World(snapshot_seconds=(seconds, seconds))
        self.world.add_server("web-01")
        self.world.faults.extend(faults)
        policy = "".join(f", {key}: {value}" for key, value in keys.items())
        entry = f'{{id: 12345, name: web, schedule: "{schedule}", stop_first: true{policy}}}'
        self.path = write_config(folder, f"[{entry}]\n{more}")

    @property
    def status(self) -> str:
        return self.world.status_of("12345")

    @property
    def history(self) -> list[str]:
        """What the server has been, from the first on."""
        return [status for _, status in self.world.servers["12345"].history]


class Promise(Stopped):
    """A server that is switched off at five past three, and daemons that look after it."""

    def __init__(self, folder: Path, *faults: Fault, schedule: str = ONCE, more: str = "", **keys: str) -> None:
        more = f"discover_interval: 1h\n{more}"
        keys = {"retry": "{times: 0}"} | keys  # one attempt: what is promised for each is what counts here
        super().__init__(folder, *faults, schedule=schedule, seconds=100, more=more, **keys)
        self.way = Way(self.world)
        self.environ: dict[str, str] = {}
        self.watched: Watched
        self._running: asyncio.Task[int] | None = None

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
            unnoticed = 0 if self.status == "active" or await self._is_told() else unnoticed + 1
            assert unnoticed < 2, (self.status, await self.report())

    async def _is_told(self) -> bool:
        """Whether people can see that the server does not run."""
        report = await self.report()
        told = report["state"] != "ok" or report["servers"][0]["stopped_by_us_since"] is not None
        return told and (self.status != "stopped" or self.watched.value("snaprotd_server_stopped_by_us", "web") == 1)

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


class Freezer:
    """Stands between a process and everything outside it: while it is shut, nothing of it goes on."""

    def __init__(self) -> None:
        self.thawed = asyncio.Event()
        self.thawed.set()


class FrozenWay(Way):
    def __init__(self, world: World, freezer: Freezer) -> None:
        super().__init__(world)
        self.freezer = freezer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self.freezer.thawed.wait()
        answer = await super().handle_async_request(request)
        await self.freezer.thawed.wait()
        return answer


def freezable(ledger: Ledger, freezer: Freezer) -> None:
    """So that its transactions begin and end only while the process is not frozen."""
    within = ledger._transaction

    @asynccontextmanager
    async def transaction(**how: bool) -> AsyncIterator[Connection]:
        await freezer.thawed.wait()
        async with within(**how) as connection:
            yield connection
        await freezer.thawed.wait()

    ledger._transaction = transaction  # type: ignore[method-assign]
    ledger._saving._transaction = transaction  # which was given it when it was made
