"""A whole daemon in this process, on virtual time and on a simulated provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from snaprotd.config import file as config
from snaprotd.config.settings import Config
from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Rotation, Step
from snaprotd.daemon.life import Daemon
from snaprotd.simulator import Fault, World
from snaprotd.simulator.world import SimSnapshot
from snaprotd.web.site import application
from tests.support.world_transport import WorldTransport

HEAD = """\
api: {base_url: "https://vps.invalid/api/v1", requests_per_second: 100}
listen: off
own_server: none
"""
"""Whatever the machine is called that the tests run on, it is none of theirs."""

COUNTED = {
    "snaprotd_rotations_total",
    "snaprotd_rotations_skipped_total",
    "snaprotd_missed_slots_total",
    "snaprotd_server_start_failures_total",
}
LEFT_OUT = COUNTED | {
    "snaprotd_snapshots",
    "snaprotd_prune_pending",
    "snaprotd_held",
    "snaprotd_server_missing",
}
"""The metrics of each server that are left out where they are 0 and were never anything else."""

ONE = '[{id: 12345, name: web, schedule: "5 3 * * *", stop_first: true}]'
"""The `servers` of a fleet of one."""


def a_world(*names: str, faults: Sequence[Fault] = (), **options: Any) -> World:
    """An account whose servers have the ids 12345, 12346, ..."""
    world = World(**options)
    for name in names or ("web-01",):
        world.add_server(name)
    world.faults.extend(faults)
    return world


class BusyWorld(World):
    """Knows how many snapshots were in progress at one time, at the most."""

    most = 0

    def take_snapshot(self, *args: Any) -> SimSnapshot:
        made = super().take_snapshot(*args)
        self.most = max(self.most, sum(one.status == "in_progress" for one in self.snapshots.values()))
        return made


def look_around_less(
    monkeypatch: pytest.MonkeyPatch, *, tick: float, leases: float, file: float, account: float | None = None
) -> None:
    """Have daemons look around every so many seconds, so that hours pass quickly."""
    monkeypatch.setattr("snaprotd.daemon.life.TICK", tick)
    monkeypatch.setattr("snaprotd.daemon.life.LEASE_RENEWAL", leases)
    monkeypatch.setattr("snaprotd.daemon.fleet.membership.BEAT_EVERY", leases)
    monkeypatch.setattr("snaprotd.daemon.life.LEDGER_EVERY", tick)
    monkeypatch.setattr("snaprotd.config.reload.EVERY", file)
    if account is not None:
        monkeypatch.setattr("snaprotd.daemon.life.INVENTORY_EVERY", account)


def power(kind: str, action: str, **options: Any) -> Fault:
    """A fault of the requests that switch a server."""
    return Fault(kind=kind, method="POST", path="/servers/*/power/", action=action, **options)


def entry(schedule: str = "10 3 * * *", *keys: str, server_id: str = "12345") -> str:
    """A server of a configuration; the slot is ten minutes after the beginning of a story."""
    return "{" + ", ".join([f"id: {server_id}", f"name: s{server_id}", f'schedule: "{schedule}"', *keys]) + "}"


def write_config(folder: Path, servers: str) -> Path:
    """A configuration file with `servers`, the text of that key's value."""
    path = folder / "config.yaml"
    path.write_text(f"{HEAD}state: {folder / 'state.db'}\nservers: {servers}\n")
    return path


def configure(folder: Path, *entries: str, more: str = "") -> Path:
    """A configuration file with such entries, and `more` below them."""
    return write_config(folder, f"[{', '.join(entries)}]\n{more}")


Line = MutableMapping[str, Any]
"""Of the log, as the fixture `log` has it."""


def logged(log: list[Line], event: str) -> list[Line]:
    return [line for line in log if line["event"] == event]


def settings(folder: Path, servers: str = ONE) -> Config:
    """What such a file says, as the commands read it."""
    return config.load(write_config(folder, servers), {})


class Watched:
    """A daemon that runs, and the rotations that it has ended."""

    def __init__(
        self,
        path: Path,
        world: World,
        *,
        environ: Mapping[str, str] = MappingProxyType({}),
        transport: WorldTransport | None = None,
    ) -> None:
        self.path = path
        self.world = world
        self.ended: list[Rotation] = []
        self.daemon = Daemon(
            config.load(path, {}),
            {"VPS_API_TOKEN": world.token, **environ},
            on_finished=self.ended.append,
            transport=transport or WorldTransport(world),
        )

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of one metric by the values of their labels, the server first."""
        told = b"".join(self.daemon.view.exposition()).decode().splitlines()
        lines = [line for line in told if line.startswith((f"{name}{{", f"{name} "))]  # to read all takes far longer
        families = text_string_to_metric_families("".join(f"{line}\n" for line in lines))
        samples = [sample for family in families for sample in family.samples]
        return {
            tuple(
                value for _, value in sorted(sample.labels.items(), key=lambda label: label[0] != "server")
            ): sample.value
            for sample in samples
        }

    def value(self, name: str, *labels: str) -> float | None:
        """None where it is not known; what is left out as it is 0, and was never anything else, is 0."""
        told = self.series(name)
        return told.get(labels, 0.0 if name in LEFT_OUT and self._is_known(name, labels[0]) else None)

    def _is_known(self, name: str, label: str) -> bool:
        """Whether the server is configured, and listed where that is what tells."""
        if name in COUNTED:
            return (label,) in self.series("snaprotd_server_stopped_by_us")
        return (label, "managed", "completed") in self.series("snaprotd_snapshots")

    async def get(self, address: str) -> httpx.Response:
        """A page of it, as a browser gets it."""
        transport = httpx.ASGITransport(app=application(self.daemon.view))
        async with httpx.AsyncClient(transport=transport, base_url="http://snaprotd.invalid") as client:
            return await client.get(address)

    async def reaches(self, step: Step) -> None:
        """Wait until a rotation is at the step."""
        while not any(one.step is step for one in self.daemon.board.running.values()):  # noqa: ASYNC110
            await asyncio.sleep(1)


async def kill(watched: Watched) -> None:
    """All that the process was doing ends at once, and its timer with it.

    Not within a transaction: the test's own process lives on, and with it the connection that would be left open.
    """
    watched.daemon._schedules.stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    whole = {task for task in others if getattr(task.get_coro(), "__qualname__", "") == "Daemon.run"}
    async with AsyncExitStack() as stack:
        with suppress(LedgerError):
            if whole:  # else it has ended, and closed its ledger
                await stack.enter_async_context(watched.daemon._tools.ledger._transaction())
        for task in others - whole:
            task.cancel()
    await asyncio.gather(*(others - whole), return_exceptions=True)
    for task in whole:
        task.cancel()  # and with it the ledger is closed
    await asyncio.gather(*whole, return_exceptions=True)


@asynccontextmanager
async def daemon_on(path: Path, world: World, transport: WorldTransport | None = None) -> AsyncIterator[Watched]:
    """Run a daemon meanwhile, and end it in order."""
    watched = Watched(path, world, transport=transport)
    running = asyncio.create_task(watched.daemon.run())
    await asyncio.wait(
        [running, started := asyncio.create_task(watched.daemon.started.wait())],
        return_when=asyncio.FIRST_COMPLETED,
    )
    started.cancel()
    try:
        yield watched
    finally:
        watched.daemon.stop()
        await running
