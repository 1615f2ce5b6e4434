"""Visitors starve the start: 1,000 idle connections, half requests, a flood of /healthz, 256 open files.

A real process holds a server off, and they come. The server is started all the same, and probes are answered.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.support.processes import ROOT, TOKEN, Daemon, Hold, provider, running, until, write_config

pytestmark = pytest.mark.real_time

OF_FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 256))
from snaprotd.__main__ import main
main()
"""

PROBES_WAIT = 5.0
"""Seconds that the health checks of the image and of the pod wait."""

NO_LATER_THAN = 2.0
"""Seconds by which a flood may delay a start."""

A_BUSY_MACHINE = 60.0
"""Seconds in which whatever is only prepared is ready for certain."""


@asynccontextmanager
async def visitors(port: int, *kinds: str) -> AsyncIterator[None]:
    """They have come, and go on until the end; see `tests.support.flood`."""
    flood = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.flood", str(port), *kinds), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert flood.stdout is not None
    try:
        async with asyncio.timeout(A_BUSY_MACHINE):
            assert await flood.stdout.readline() == b"flooding\n"
        yield
    finally:
        flood.send_signal(signal.SIGTERM)
        await flood.communicate()


async def is_alive(port: int) -> bool:
    """Whether a health check goes on believing that we live: one in three gets its answer in time."""
    for _ in range(3):
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False, timeout=PROBES_WAIT) as client:
                return (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
    return False


async def a_slot_was_missed(folder: Path, slot: datetime) -> None:
    seen = slot - timedelta(hours=1)
    mark = Mark(server_id="12345", seen_until=seen, schedule=f"UTC {slot.minute} {slot.hour} * * * +0s")
    async with await Ledger.open(folder / "state.db", owner="yesterday") as ledger:
        await ledger.set_marks([mark])


@asynccontextmanager
async def holding_a_server_off(folder: Path, port: int) -> AsyncIterator[tuple[World, Hold, Daemon]]:
    """A daemon of few files that has switched a server off, and waits for its snapshot until the hold is released."""
    world = World(speed=2000.0, token=TOKEN)
    world.add_server("web-01")
    slot = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
    server = {"id": 12345, "schedule": f"{slot.minute} {slot.hour} * * *", "stop_first": True}
    await a_slot_was_missed(folder, slot)
    async with provider(world) as web:
        text = f"listen: 127.0.0.1:{port}\nservers: {json.dumps([server])}\n"
        config = write_config(folder, web.base_url, text, timeout="20s")
        web.holds = [hold := Hold(number=1, fits=lambda what: what == "create")]
        arguments = ("run", "--config", str(config))
        async with running(*arguments, output=folder / "log", program=("-c", OF_FEW_FILES)) as life:
            async with asyncio.timeout(A_BUSY_MACHINE):
                await hold.struck.wait()
            yield world, hold, life


async def off_for(world: World, hold: Hold) -> float:
    """Seconds from the answer that lets the daemon go on until the server is started."""
    begun = time.monotonic()
    hold.release(drop=True)  # so that all that follows needs new connections to the provider
    await until(lambda: world.status_of("12345") in ("starting", "active"), what="the start")
    return time.monotonic() - begun


async def test_visitors_do_not_starve_the_start(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    (quietly := tmp_path / "quiet").mkdir()
    (flooded_too := tmp_path / "flooded").mkdir()
    async with holding_a_server_off(quietly, port) as (world, hold, _):
        quiet = await off_for(world, hold)
    async with holding_a_server_off(flooded_too, port) as (world, hold, life):
        async with visitors(port, "idle=500", "half=500", "/healthz=400", "/metrics=50", "/api/status=50", "junk=50"):
            assert await is_alive(port)
            flooded = await off_for(world, hold)
            assert await is_alive(port)
        life.send(signal.SIGTERM)
        assert await life.ended() == 0
        assert "Too many open files" not in life.said
        assert "internal error" not in life.said
    assert flooded < quiet + NO_LATER_THAN
