"""A configuration of many servers on which nothing is to be done, the account that they are in, and their ledger.

The servers have three policies, and each has four snapshots and one success in the history.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from bench.processes import FASTEST, PATIENCE, StandIn, stand_in
from snaprotd.config import file as config
from snaprotd.core.creation import Creation
from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Result, Step
from snaprotd.ledger.store import Ledger
from snaprotd.wiring.assembly import account_of, new_rotation
from tests.support.quick_account import FIRST_SERVER

ZONE = "Europe/Berlin"
ONE = "f" * 32
"""The id of the first rotation."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One configuration, its ledger, and where its daemon is."""

    folder: Path
    port: int
    servers: int
    provider: StandIn
    slot: datetime
    """Of the one success: each policy had a slot then, and has none in the hours to come."""

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def ledger(self) -> Path:
        return self.folder / "state.db"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def stands(self) -> Path:
        """Where `bench.watched` writes."""
        return self.folder / "stands"

    def configure(self, *, keep: int = 4, rate: int = FASTEST, discover: str = "5m") -> None:
        """`rate`: requests a second; `discover`: the time from one reading of the account to the next."""
        local = self.slot.astimezone(ZoneInfo(ZONE))
        at = f"{local.minute} {local.hour}"
        policies = {
            "nightly": {"schedule": f"{at} * * *", "spread": "30m"},
            "weekly": {"schedule": f"{at} * * {local.isoweekday()}", "stop_first": True},
            "monthly": {"schedule": f"{at} {local.day} * *"},
        }
        names = list(policies)
        text = {
            "api": {"base_url": self.provider.base_url, "requests_per_second": rate},
            "state": str(self.ledger),
            "discover_interval": discover,
            "listen": f"127.0.0.1:{self.port}",
            "own_server": "none",
            "defaults": {"keep": keep, "timezone": ZONE},
            "policies": policies,
        }
        lines = [f"{key}: {json.dumps(value)}" for key, value in text.items()]
        lines += ["servers:"]
        for number in range(self.servers):
            its = {"id": FIRST_SERVER + number, "name": f"web-{number:05}", "policy": names[number % 3]}
            lines.append(f"  - {{{', '.join(f'{key}: {value}' for key, value in its.items())}}}")
        made = self.config.with_suffix(".new")
        made.write_text("\n".join(lines) + "\n")
        made.rename(self.config)

    def ask(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE, trust_env=False)

    def is_ready(self) -> bool:
        try:
            return self.ask("/readyz").status_code == 200
        except httpx.HTTPError:
            return False


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as held:
        return int(held.getsockname()[1])


@contextmanager
def a_place(servers: int) -> Iterator[Place]:
    slot = (datetime.now(UTC) - timedelta(hours=2)).replace(second=0, microsecond=0)
    with tempfile.TemporaryDirectory() as folder, stand_in(servers=servers) as provider:
        place = Place(folder=Path(folder), port=free_port(), servers=servers, provider=provider, slot=slot)
        place.configure()
        made = provider.told("snapshots", json.dumps([snapshot_name("main", slot), slot.timestamp()]))
        asyncio.run(_succeed_once(place, str(made[0])))
        _copy(place.ledger, servers, made)
        yield place


async def _succeed_once(place: Place, snapshot: str) -> None:
    """The rotation of the first server."""
    settings = config.load(place.config, {})
    async with await Ledger.open(place.ledger, owner="the day before") as ledger:
        ledger.starts.account = account_of(settings)
        first = new_rotation(settings, settings.named[0], slot=place.slot, now=place.slot, kind=Kind.SCHEDULED)
        begun = replace(first, id=ONE)
        await ledger.claim(begun)
        end = place.slot + timedelta(minutes=6)
        made = Creation(creates=1, took=300.0, snapshot_id=snapshot)
        await ledger.save(replace(begun, step=Step.DONE, result=Result.SUCCESS, finished_at=end, creation=made))


def _copy(ledger: Path, servers: int, snapshots: list[int]) -> None:
    """The same rotation, with its event, for each of the other servers."""
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.row_factory = sqlite3.Row
        for table in ("rotations", "events"):
            row = dict(connection.execute(f"SELECT * FROM {table}").fetchone())
            for number in range(1, servers):
                its = _as_of(row, number, str(snapshots[0]), str(snapshots[number]))
                marks = ", ".join("?" * len(its))
                connection.execute(f"INSERT INTO {table} ({', '.join(its)}) VALUES ({marks})", list(its.values()))


def _as_of(row: Mapping[str, Any], number: int, old: str, new: str) -> dict[str, Any]:
    words = {
        ONE: f"{number:032x}",
        f'"{FIRST_SERVER}"': f'"{FIRST_SERVER + number}"',
        "web-00000": f"web-{number:05}",
        f'"snapshot_id":"{old}"': f'"snapshot_id":"{new}"',
    }

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            for before, after in words.items():
                value = value.replace(before, after)
        return value

    its = {key: changed(value) for key, value in row.items() if not (key == "id" and isinstance(value, int))}
    return {**its, "server_id": str(FIRST_SERVER + number)}
