"""Answers of any shape, to the real client, the pages and whole rotations: nothing ends, leaks, grows or is deleted."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from random import Random

import pytest

from snaprotd.simulator import World
from tests.attacks.bending import TOKEN, BentTransport
from tests.support import searches
from tests.support.daemons import Line, Watched, configure, daemon_on, entry
from tests.support.virtual_time import START

PAGES = ("/", "/servers/12345", "/api/status", "/api/status?server=12345", "/readyz", "/healthz", "/metrics")
PIECES = [TOKEN[at : at + 8].lower() for at in range(len(TOKEN) - 7)]
GROWTH = 64 * 1024 * 1024
"""Bytes that a fuzzed process may be larger in the end."""


def a_world() -> World:
    world = World(token=TOKEN, page_size=3, snapshot_seconds=(90, 120))
    for name in ("web-01", "db-01"):
        server_id = world.add_server(name)
        world.add_snapshot(server_id, "by-hand", created_at=START)
        world.add_snapshot(server_id, "snaprotd-main-20250115T030000Z", created_at=START.replace(day=15))
    return world


def resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def left_their_place(log: list[Line]) -> list[Line]:
    return [line for line in log if "internal error" in line["event"] or line.get("exc_info")]


async def look_at(watched: Watched, bound: str) -> None:
    """Every view of the daemon, as a browser gets it."""
    for address in PAGES:
        page = await watched.get(address)
        assert page.status_code in (200, 503 if address == "/readyz" else 200), (bound, address, page.text[:300])
        shown = page.text.lower()
        assert not any(piece in shown for piece in PIECES), (bound, address)
        assert all(sign.isprintable() or sign == "\n" for sign in page.text), (bound, address)


@pytest.mark.search
@pytest.mark.usefixtures("few_ticks")
async def test_whatever_the_lists_say_every_view_answers_and_nothing_is_changed(
    tmp_path: Path, log: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaprotd.daemon.life.INVENTORY_EVERY", 5.0)
    world = a_world()
    transport, cases = BentTransport(world), searches.histories(60, 1500)
    yearly = [entry("0 0 1 1 *", server_id=one) for one in ("12345", "12346")]
    before = 0
    async with daemon_on(configure(tmp_path, *yearly), world, transport) as watched:
        for case in range(cases):
            transport.random = Random(case)
            await asyncio.sleep(30)
            await look_at(watched, f"case {case}")
            before = before or (resident() if case == cases // 5 else 0)
            assert left_their_place(log) == [], f"case {case}"
            log.clear()
        assert len(transport.asked) >= cases
        assert set(transport.asked) == {"GET"}
        assert resident() - before < GROWTH
        transport.random = None
        await asyncio.sleep(1000)
        assert watched.daemon._account.error is None
    assert world.deleted == []


@pytest.mark.search
@pytest.mark.usefixtures("few_ticks")
@pytest.mark.parametrize("chunk", range(searches.histories(1, 3)))
async def test_whatever_a_rotation_is_answered_it_deletes_nothing_and_its_server_runs_in_the_end(
    tmp_path: Path, log: list[Line], chunk: int
) -> None:
    for case in range(searches.size(2, 16)):
        world = a_world()
        transport = BentTransport(world)
        folder = tmp_path / f"{case}"
        folder.mkdir()
        random = Random(1000 * chunk + case)
        async with daemon_on(
            configure(folder, entry("10 3 * * *", "stop_first: true", "keep: 4")), world, transport
        ) as one:
            await asyncio.sleep(random.choice([0, 590, 620, 700]))
            transport.random = random
            await asyncio.sleep(random.choice([30, 300, 900]))
            transport.random = None
            await asyncio.sleep(3000)
            await look_at(one, f"case {chunk}, {case}")
        assert world.status_of("12345") == "active", (chunk, case)
        assert world.deleted == [], (chunk, case)
        assert len(world.snapshots_of("12345")) <= 3, (chunk, case)
        assert left_their_place(log) == [], (chunk, case)
        log.clear()
