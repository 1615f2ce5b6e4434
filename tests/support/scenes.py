"""A fleet in which something of everything happens: for the browser, the screenshots and the commands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from snaprotd.core.holds import snapshot_name
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.support.processes import TOKEN, Daemon, Provider, daemon, provider, until, write_config

NIGHTLY = {"schedule": "30 3 * * *", "keep": 3, "timezone": "Europe/Berlin"}


@dataclass(frozen=True)
class Fleet:
    """A running daemon, its provider, and the address of its page."""

    provider: Provider
    daemon: Daemon
    config: Path
    url: str


def night(now: datetime, days_ago: int) -> datetime:
    """Half past two in the night so many nights ago; a night is over at four."""
    last = (now - timedelta(hours=4)).replace(hour=2, minute=30, second=0, microsecond=0)
    return last - timedelta(days=days_ago)


def build_world(*, servers: int = 8, speed: float = 1.0) -> tuple[World, list[dict[str, Any]]]:
    """An account, and the entries of the configuration for it."""
    now = datetime.now(UTC)
    world = World(speed=speed, token=TOKEN)
    entries: list[dict[str, Any]] = []
    for number in range(servers):
        name = ("web", "db", "mail", "app")[number % 4] + f"-{number // 4 + 1:02}"
        server_id = world.add_server(name)
        entries.append({"id": int(server_id), "name": name, **NIGHTLY})
        for days in range(1, 4):
            made = night(now, days - 1)
            world.add_snapshot(server_id, snapshot_name("main", made), created_at=made, size_mb=4000 + 37 * number)
    return world, entries


def give_troubles(world: World, entries: list[dict[str, Any]]) -> None:
    """One kind for each of the first servers."""
    now = datetime.now(UTC)
    ids = [str(entry["id"]) for entry in entries]
    # The first is off for its snapshot just now, and its snapshot takes for ever.
    entries[0] |= {"stop_first": True}
    world.faults.append(Fault(kind="stuck", method="POST", path="/snapshots/", server_id=ids[0]))
    # The second is full of others' snapshots.
    for one in world.snapshots_of(ids[1]):
        world.remove_snapshot(one.id)
    for number in range(5):
        world.add_snapshot(ids[1], f"before-upgrade-{number + 1}", created_at=now - timedelta(days=20 * number + 3))
    # The third has an old one only.
    for one in world.snapshots_of(ids[2]):
        world.remove_snapshot(one.id)
    long_ago = now - timedelta(days=9)
    world.add_snapshot(ids[2], snapshot_name("main", long_ago), created_at=long_ago, size_mb=4074)
    entries[3] |= {"paused": True}
    # The fifth holds one of somebody else's, and one too many of ours.
    world.add_snapshot(ids[4], "pre-migration-snapshot", created_at=now - timedelta(days=45))
    # The sixth's snapshot ends as failed, and is not tried again.
    entries[5] |= {"retry": {"times": 0}}
    world.faults.append(Fault(kind="ends", method="POST", path="/snapshots/", server_id=ids[5]))


async def sleep_through(ledger: Path, entries: list[dict[str, Any]]) -> None:
    """The ledger as a daemon left it that has not seen the slot of an hour ago: these servers are rotated at once."""
    slot = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
    written = f"{slot.minute} {slot.hour} * * *"
    marks = []
    for entry in entries:
        entry |= {"schedule": written, "timezone": "UTC"}
        marks.append(
            Mark(server_id=str(entry["id"]), seen_until=slot - timedelta(hours=1), schedule=f"UTC {written} +0s")
        )
    async with await Ledger.open(ledger, owner="yesterday") as opened:
        await opened.set_marks(marks)


@asynccontextmanager
async def fleet(folder: Path, *, servers: int = 8, troubled: bool = True) -> AsyncIterator[Fleet]:
    """The daemon with its page, when it has listed the account."""
    world, entries = build_world(servers=servers)
    if troubled:
        give_troubles(world, entries)
    world.stop_seconds = world.start_seconds = 0.2
    world.snapshot_seconds = (0.5, 1.0)
    if troubled:
        await sleep_through(folder / "state.db", [entries[0], entries[5], entries[6]])
    async with provider(world) as api:
        text = f"listen: 127.0.0.1:0\nservers: {json.dumps(entries)}\n"
        path = write_config(folder, api.base_url, text)
        async with daemon(path) as running:
            await until(lambda: "running" in running.said and '"listen"' in running.said, what="the daemon's address")
            line = next(line for line in running.said.splitlines() if '"listen"' in line)
            yield Fleet(provider=api, daemon=running, config=path, url=json.loads(line)["listen"])


@asynccontextmanager
async def at_work(folder: Path) -> AsyncIterator[Fleet]:
    """The troubled fleet, when two of its rotations have ended and the third waits: so it stays."""
    async with fleet(folder) as told:
        await until(lambda: told.daemon.said.count('"rotation finished"') >= 2, what="two rotations")
        await until(lambda: "the snapshot is in progress" in told.daemon.said, what="the third to wait")
        yield told
