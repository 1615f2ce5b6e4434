"""A whole daemon in this process, on virtual time and on a simulated provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from prometheus_client.parser import text_string_to_metric_families

from snaprotd import config
from snaprotd.daemon import Daemon
from snaprotd.rotation import Rotation
from snaprotd.simulator import World
from tests.support.world_transport import WorldTransport

HEAD = """\
api: {base_url: "https://vps.invalid/api/v1", requests_per_second: 100}
listen: off
"""


def write_config(folder: Path, servers: str) -> Path:
    """A configuration file with `servers`, the text of that key's value."""
    path = folder / "config.yaml"
    path.write_text(f"{HEAD}state: {folder / 'state.db'}\nservers: {servers}\n")
    return path


class Watched:
    """A daemon that runs, and the rotations that it has ended."""

    def __init__(self, path: Path, world: World, *, environ: Mapping[str, str] = MappingProxyType({})) -> None:
        self.path = path
        self.world = world
        self.ended: list[Rotation] = []
        self.daemon = Daemon(
            config.load(path, {}),
            {"VPS_API_TOKEN": world.token, **environ},
            on_finished=self.ended.append,
            transport=WorldTransport(world),
        )

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of one metric by the values of their labels, the server first."""
        families = text_string_to_metric_families(self.daemon.exposition().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {
            tuple(
                value for _, value in sorted(sample.labels.items(), key=lambda label: label[0] != "server")
            ): sample.value
            for sample in samples
        }

    def value(self, name: str, *labels: str) -> float | None:
        return self.series(name).get(labels)


@asynccontextmanager
async def daemon_on(path: Path, world: World) -> AsyncIterator[Watched]:
    """Run a daemon meanwhile, and end it in order."""
    watched = Watched(path, world)
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
