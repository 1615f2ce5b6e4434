"""The demo: a simulated provider, a daemon on it, and what the daemon does, as it happens."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from snaprotd import logs
from snaprotd.commands.text.terminal import show
from snaprotd.config.file import load
from snaprotd.core.errors import SnaprotdError
from snaprotd.core.rotation import STEPS, Result, Rotation, Step
from snaprotd.daemon.life import Daemon
from snaprotd.daemon.signals import on_end_asked
from snaprotd.simulator import Fault, ServedApi, World, sample_world, serve

SHOWN_STEPS = tuple(step for step in STEPS if step is not Step.DONE)


async def simulate_until_stopped(
    *, port: int, servers: int, speed: float, faults: list[Fault], say: Callable[[str], None]
) -> int:
    """Serve the simulated API until it is interrupted."""
    world = sample_world(servers=servers, speed=speed)
    world.faults.extend(faults)
    stopped = asyncio.Event()
    on_end_asked(lambda _: stopped.set())
    async with _served(world, port) as api:
        say(f"the simulated VPS.org API: {api.base_url} (token {world.token}, {speed:g} times as fast)")
        say("a configuration for it:")
        say(f"  api: {{base_url: {api.base_url}}}   # and VPS_API_TOKEN={world.token}")
        say("  own_server: none   # whatever this machine is called")
        await stopped.wait()
    return 0


@asynccontextmanager
async def _served(world: World, port: int) -> AsyncIterator[ServedApi]:
    try:
        async with serve(world, port=port) as api:
            yield api
    except OSError as error:
        raise SnaprotdError(
            f"cannot listen on port {port}: {os.strerror(error.errno or 0)}. Choose another with --port, or 0 for any"
        ) from error


async def run_demo(*, servers: int, rounds: int | None, speed: float, pause: timedelta) -> int:
    """Run the demo; 0 if every rotation was a success. It ends after `rounds`, else when it is interrupted."""
    console = Console()
    world = sample_world(servers=servers, speed=speed)
    logs.never_wait()
    logs.configure(level="ERROR")
    with tempfile.TemporaryDirectory(prefix="snaprotd-demo-") as folder:
        async with serve(world) as api:
            demo = _Demo(world, Path(folder), api.base_url, console)
            return await demo.run(rounds, pause)


class _Demo:
    def __init__(self, world: World, folder: Path, base_url: str, console: Console) -> None:
        path = folder / "demo.yaml"
        path.write_text(_configuration(world, folder, base_url))
        self._daemon = Daemon(load(path, {}), {"VPS_API_TOKEN": world.token}, on_finished=self._note)
        self._world = world
        self._console = console
        self._ended: dict[str, list[Rotation]] = defaultdict(list)
        self._news = asyncio.Event()
        self._said: dict[str, str] = {}

    async def run(self, rounds: int | None, pause: timedelta) -> int:
        daemon = asyncio.create_task(self._daemon.run())
        started = asyncio.create_task(self._daemon.started.wait())
        await asyncio.wait([daemon, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if not daemon.done():
            self._daemon.obey_signals()
            self._console.print(
                f"Status page: {self._daemon.view.url}/   metrics: {self._daemon.view.url}/metrics", highlight=False
            )
            await self._watch(daemon, rounds, pause)
        await daemon
        show(self._summary())
        results = [rotation.result for ended in self._ended.values() for rotation in ended]
        return 0 if all(result is Result.SUCCESS for result in results) else 1

    async def _watch(self, daemon: asyncio.Task[int], rounds: int | None, pause: timedelta) -> None:
        work = asyncio.gather(*(self._rounds(server_id, rounds, pause) for server_id in self._world.servers))
        if self._console.is_terminal:
            with Live(self._table(), console=self._console, refresh_per_second=8, transient=False) as live:
                await self._until_either(work, daemon, lambda: live.update(self._table()))
        else:
            await self._until_either(work, daemon, self._say_changes)
        self._daemon.stop()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    async def _until_either(
        self, work: asyncio.Future[list[None]], daemon: asyncio.Task[int], show: Callable[[], None]
    ) -> None:
        while not work.done() and not daemon.done():
            show()
            await asyncio.sleep(0.1)
        show()

    async def _rounds(self, server_id: str, rounds: int | None, pause: timedelta) -> None:
        ended = self._ended[server_id]
        while rounds is None or len(ended) < rounds:
            before = len(ended)
            await self._daemon.rotate(server_id)
            while len(ended) == before:
                self._news.clear()
                await self._news.wait()
            await asyncio.sleep(pause.total_seconds())

    def _note(self, rotation: Rotation) -> None:
        if not rotation.is_finished:
            return  # the demo was interrupted
        self._ended[rotation.server_id].append(rotation)
        self._news.set()

    def _table(self) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("server", "power", "step", "", "rotations", "snapshots"):
            table.add_column(column)
        running = {rotation.server_id: rotation for rotation in self._daemon.board.running.values()}
        for server_id, server in self._world.servers.items():
            rotation = running.get(server_id)
            held = "●" * len(self._world.snapshots_of(server_id))
            table.add_row(
                server.name,
                server.status,
                _progress(rotation),
                rotation.note if rotation else "",
                str(len(self._ended[server_id])),
                held + "○" * (self._world.limit - len(held)),
            )
        return table

    def _say_changes(self) -> None:
        """Without a terminal: a line for each step that is reached."""
        for rotation in list(self._daemon.board.running.values()):
            if self._said.get(rotation.id) != rotation.step:
                self._said[rotation.id] = rotation.step
                click.echo(f"{rotation.label}: {rotation.step}")

    def _summary(self) -> Table:
        table = Table(title="What was done", title_justify="left", box=None, header_style="bold", pad_edge=False)
        for column in ("server", "power", "success", "failed", "deleted", "off", "holds"):
            table.add_column(column, overflow="fold")
        for server_id, server in self._world.servers.items():
            ended = self._ended[server_id]
            good = sum(rotation.result is Result.SUCCESS for rotation in ended)
            table.add_row(
                server.name,
                server.status,
                str(good),
                str(len(ended) - good),
                str(sum(len(rotation.deleted) for rotation in ended)),
                f"{sum(rotation.power.off_for for rotation in ended):.0f} s",
                ", ".join(snapshot.name for snapshot in self._world.snapshots_of(server_id)),
            )
        return table


def _progress(rotation: Rotation | None) -> str:
    if rotation is None:
        return ""
    at = SHOWN_STEPS.index(rotation.step) if rotation.step in SHOWN_STEPS else len(SHOWN_STEPS)
    return f"{'━' * at}{'╸' if at < len(SHOWN_STEPS) else ''}{' ' * (len(SHOWN_STEPS) - at)} {rotation.step}"


def _configuration(world: World, folder: Path, base_url: str) -> str:
    """The demo's own YAML. JSON is YAML, and needs no care with quotes."""
    policy = {"schedule": "30 3 * * *", "keep": {"last": 2}}
    servers = [
        {"id": server.id, "name": server.name, **policy, "stop_first": number % 2 == 0}
        for number, server in enumerate(world.servers.values())
    ]
    scaled = {key: f"{max(seconds / world.speed, LEAST):.3f}s" for key, seconds in _TIMES.items()}
    return json.dumps(
        {
            "api": {"base_url": base_url, "requests_per_second": 50, "settle": scaled["settle"]},
            "state": str(folder / "state.db"),
            "listen": "127.0.0.1:0",
            "own_server": "none",
            "poll_interval": scaled["poll_interval"],
            "servers": servers,
        }
    )


LEAST = 0.1
"""Seconds: the least `poll_interval` that a configuration may have."""

_TIMES = {"settle": 120.0, "poll_interval": 15.0}
"""The defaults, in seconds: the demo runs as many times as fast as its provider."""
