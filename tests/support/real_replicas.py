"""Replicas as real processes on a real PostgreSQL, what befalls them, and what must be true in the end.

Each has a configuration, a folder and a network to the database of its own, as on a host. The provider is in the test's
own process; it is asked what has really happened.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from snaprotd.ledger.address import ServerAddress
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.server.opening import open_on_server
from snaprotd.simulator import Fault, World
from snaprotd.simulator.world import SimSnapshot
from tests.support.database_ways import Network, network
from tests.support.databases import Server
from tests.support.processes import TOKEN, Daemon, Provider, daemon, forked, run
from tests.support.truths import slot_in

DATABASE = "chaos"
SPEED = 200.0
"""A snapshot takes one to three seconds, and each switch of the power a tenth of one."""
LIMIT, KEPT = 4, 2
SCHEDULE, SPREAD = "* * * * *", "50s"
RETRY = {"times": 10, "after": "1s"}
ALL_WELL_WITHIN = 420.0
"""Seconds after the last harm: more than a stop may take. On a machine that is quiet they are a few."""


class Account(World):
    """Sees what must never be, when it happens."""

    def __init__(self, servers: int) -> None:
        super().__init__(speed=SPEED, token=TOKEN, limit=2 * LIMIT)
        self.broken: list[str] = []
        self.ids = [self.add_server(f"web-{number:02}") for number in range(servers)]
        old = datetime.now(UTC) - timedelta(days=2)
        self.foreign = [self.add_snapshot(one, "before-the-upgrade", created_at=old) for one in self.ids[::2]]
        self.foreign += [
            self.add_snapshot(one, f"snaprotd-other-{old:%Y%m%dT%H%M%SZ}", created_at=old) for one in self.ids[::6]
        ]

    def take_snapshot(self, server_id: str, name: str, description: str, fault: Fault | None) -> SimSnapshot:
        if any((one.server_id, one.name) == (server_id, name) for one in self.created):
            self.broken.append(f"{name} of {server_id} was taken twice")
        if len(self.snapshots_of(server_id)) >= LIMIT:
            self.broken.append(f"{server_id} had {LIMIT} snapshots when {name} was taken")
        return super().take_snapshot(server_id, name, description, fault)

    def delete(self, snapshot: SimSnapshot, fault: Fault | None) -> None:
        if not any(snapshot is one for one in self.created):
            self.broken.append(f"{snapshot.name} of {snapshot.server_id} is not ours, and was deleted")
        others = self.completed(snapshot.server_id)
        if not any(one.made_at > snapshot.made_at for one in others):
            self.broken.append(f"{snapshot.name} of {snapshot.server_id} was the newest, and was deleted")
        super().delete(snapshot, fault)

    def completed(self, server_id: str) -> list[SimSnapshot]:
        """Ours, of that server."""
        held = self.snapshots_of(server_id)
        return [one for one in held if one.status == "completed" and slot_in(one.name, "main") is not None]

    @property
    def off(self) -> list[str]:
        return [f"{one} is {self.status_of(one)}" for one in self.ids if self.status_of(one) != "active"]

    def renewed_since(self, moment: datetime) -> bool:
        """Each server has a snapshot that is newer."""
        return all(any(one.made_at > moment for one in self.completed(server)) for server in self.ids)


class RealReplica:
    """One of several, from a start to the next one."""

    def __init__(self, site: Site, name: str, way: Network) -> None:
        self.site = site
        self.name = name
        self.way = way
        self.folder = site.folder / name
        self.folder.mkdir()
        self.config = self.folder / "config.yaml"
        self.begins = site.begins
        """What its next process calls first."""
        self._stack = AsyncExitStack()
        self._life: Daemon | None = None

    @property
    def life(self) -> Daemon:
        """The one that is, or was last."""
        assert self._life is not None
        return self._life

    def configure(self, **policy: Any) -> None:
        text = self.site.configuration(f"127.0.0.1:{self.way.port}", f"unix:{self.folder / 'http'}", **policy)
        self.config.with_suffix(".new").write_text(text)
        self.config.with_suffix(".new").replace(self.config)

    async def begin(self) -> None:
        start = partial(forked, begins=self.begins)
        environ = {"STATE_DIRECTORY": str(self.folder), "SNAPROTD_LOG_LEVEL": "INFO"}
        self._life = await self._stack.enter_async_context(daemon(self.config, start=start, **environ))

    async def is_at_work(self) -> None:
        await self.life.has_said('"running"')

    async def answers(self) -> None:
        """Wait until this life's pages do: what it says is in one log with what those before it said."""
        async with asyncio.timeout(ALL_WELL_WITHIN):
            while await self.report() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def begin_again(self) -> None:
        """Where it has ended by itself, as it does when the database is away as it begins: what a supervisor does."""
        if self.life.returncode is not None:
            await self.end()
            await self.begin()

    async def end(self) -> None:
        await self._stack.aclose()

    async def asked_to_end(self) -> int:
        """Its exit code, when it has."""
        self.life.send(signal.SIGTERM)
        code = await self.life.ended()
        await self.end()
        return code

    async def kill(self) -> None:
        await self.life.kill()
        await self.end()

    async def becomes(self, begins: Callable[[], object]) -> None:
        """Another version, or the same as it was: asked to end, and begun when it has."""
        assert await self.asked_to_end() == 0
        self.begins = begins
        await self.begin()
        await self.answers()

    async def report(self) -> Any:
        """Its `/api/status`; None where it does not answer."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.folder / "http"))
        try:
            async with httpx.AsyncClient(transport=transport, timeout=10) as client:
                return (await client.get("http://localhost/api/status")).json()
        except (httpx.HTTPError, ValueError):
            return None


class Site:
    """The account, the database, and the replicas."""

    def __init__(
        self, folder: Path, server: Server, account: Account, web: Provider, begins: Callable[[], object]
    ) -> None:
        """`begins`: what each process of a replica calls first."""
        self.folder = folder
        self.server = server
        self.account = account
        self.begins = begins
        self.replicas: list[RealReplica] = []
        self._web = web

    @property
    def labels(self) -> list[str]:
        return [one.name for one in self.account.servers.values()]

    def configuration(self, database: str, listen: str, **policy: Any) -> str:
        return json.dumps(
            {
                "api": {"base_url": self._web.base_url, "requests_per_second": 200, "timeout": "1s", "settle": "1s"},
                "state": f"postgresql://snaprotd@{database}/{DATABASE}?sslmode=disable",
                "listen": listen,
                "own_server": "none",
                "limit": LIMIT,
                "max_concurrent": len(self.account.ids),
                "poll_interval": "300ms",
                "discover_interval": "1s",
                "drain_timeout": "20s",
                "defaults": {"schedule": SCHEDULE, "spread": SPREAD, "keep": KEPT, "retry": RETRY, **policy},
                "servers": [
                    {"id": int(one), "name": self.account.servers[one].name, "stop_first": not number % 3}
                    for number, one in enumerate(self.account.ids)
                ],
            }
        )

    async def sleep_through_a_slot(self) -> None:
        """The ledger as a replica left it two minutes ago: each server has one to catch up on."""
        seen = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=2)
        written = f"UTC {SCHEDULE} +{SPREAD}"
        marks = [Mark(server_id=one, seen_until=seen, schedule=written) for one in self.account.ids]
        address = ServerAddress(self.server._url(DATABASE))
        async with await open_on_server(address, self.folder / "before", owner=uuid.uuid4().hex) as ledger:
            await ledger.set_marks(marks)

    # -- in the end --------------------------------------------------------------------------------------------

    async def is_well(self, *, since: datetime, but_for: str = "-") -> None:
        """Wait until each server has a newer snapshot, and each replica has said so of each and of itself once.

        `but_for`: what it may say all the same. Slots go on meanwhile: one server or another is always at work.
        """
        left = {(one.name, label) for one in self.replicas for label in [None, *self.labels]}
        deadline = time.monotonic() + ALL_WELL_WITHIN
        while left or not self.account.renewed_since(since):
            amiss: list[str] = []
            for one in self.replicas:
                await one.begin_again()
                report = await one.report()
                if report is not None and len(report["replicas"]) == len(self.replicas):
                    problems = [told for told in report["problems"] if but_for not in told["text"]]
                    amiss += [f"{one.name}: {told['text']}" for told in problems]
                    left -= {(one.name, label) for label in [None, *self.labels]} - {
                        (one.name, told["server"]) for told in problems
                    }
            assert time.monotonic() < deadline, f"see {self.folder}: not well are {sorted(left, key=str)}: {amiss}"
            await asyncio.sleep(0.5)

    async def comes_to_rest(self) -> None:
        """Nothing more is begun, and what has begun ends."""
        for one in self.replicas:
            one.configure(paused=True)
            one.life.send(signal.SIGHUP)
        deadline = time.monotonic() + ALL_WELL_WITHIN
        while left := [*self._open(), *self.account.off]:
            assert time.monotonic() < deadline, f"see {self.folder}: open, or off, are still {left}"
            await asyncio.sleep(0.5)

    def _open(self) -> list[str]:
        return [row for (row,) in self.server.sql("SELECT rotations::text FROM rotations WHERE is_open", DATABASE)]

    async def has_rows(self, query: str) -> None:
        """Wait until the ledger answers it with any."""
        deadline = time.monotonic() + ALL_WELL_WITHIN
        while not await asyncio.to_thread(self.server.sql, query, DATABASE):
            assert time.monotonic() < deadline, f"see {self.folder}: none were found"
            await asyncio.sleep(0.05)

    async def runs_all_of_them(self) -> None:
        """Wait until no server is off for somebody who is dead: each was seen running in one moment or another."""
        deadline, left = time.monotonic() + ALL_WELL_WITHIN, set(self.account.ids)
        while left := {one for one in left if self.account.status_of(one) != "active"}:
            assert time.monotonic() < deadline, f"see {self.folder}: off are still {left}"
            await asyncio.sleep(0.05)

    async def history(self) -> list[tuple[str, datetime, int, str]]:
        """Server, slot, attempt and result of each rotation that has ended, as the command shows them."""
        ended = await run("history", "--limit", "10000", "--json", "--config", str(self.replicas[0].config))
        assert ended.code == 0, ended.err
        return [
            (str(one["server_id"]), datetime.fromisoformat(one["slot"]), one["attempt"], one["result"])
            for one in ended.json
        ]

    async def judge(self) -> list[str]:
        """The broken promises, when all has ended."""
        account, told = self.account, await self.history()
        gone = [one for one in account.foreign if one.id not in account.snapshots]
        made = {(one.server_id, slot_in(one.name, "main")) for one in account.created}
        run, good = {one[:2] for one in told}, [one[:2] for one in told if one[3] != "failure"]
        return [
            *account.broken,
            *account.off,
            *(f"{one.name} of {one.server_id} is gone" for one in gone),
            *(f"told twice: {one}" for one, times in Counter(one[:3] for one in told).items() if times > 1),
            *(f"run twice: {one}" for one, times in Counter(good).items() if times > 1),
            *(f"not in the history, and taken: {one}" for one in made - run),
            *(f"no failure, and not taken: {one}" for one in set(good) - made),
        ]


@asynccontextmanager
async def replicas(site: Site, number: int, socket: Callable[[], Path]) -> AsyncIterator[list[RealReplica]]:
    """So many, at work."""
    async with AsyncExitStack() as stack:
        for name in "abcdefgh"[:number]:
            one = RealReplica(site, name, await stack.enter_async_context(network(socket)))
            stack.push_async_callback(one.end)
            one.configure()
            site.replicas.append(one)
            await one.begin()
        for one in site.replicas:
            await one.is_at_work()
        yield site.replicas
