"""What a process costs that looks after many servers, on which nothing is to be done.

`python -m bench.many [SERVERS] [WHAT...]` prints the figures as JSON; `WHAT` are names of `PARTS`, all of them if none
is named. The servers have three policies, and each has one success in the history.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from bench.processes import PATIENCE, PYTHON, StandIn, a_process, cpu_of, stand_in, until
from snaprotd.config import file as config
from snaprotd.core.creation import Creation
from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Result, Step
from snaprotd.ledger.store import Ledger
from snaprotd.wiring.assembly import account_of, new_rotation
from tests.support.processes import environment
from tests.support.quick_account import FIRST_SERVER, TOKEN

ZONE = "Europe/Berlin"
ONE = "f" * 32
"""The id of the first rotation."""
Figures = dict[str, Any]


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
    def stands(self) -> Path:
        return self.folder / "stands"

    def configure(self, *, keep: int = 4, discover: str = "5m") -> None:
        local = self.slot.astimezone(ZoneInfo(ZONE))
        at = f"{local.minute} {local.hour}"
        policies = {
            "nightly": {"schedule": f"{at} * * *", "spread": "30m"},
            "weekly": {"schedule": f"{at} * * {local.isoweekday()}", "stop_first": True},
            "monthly": {"schedule": f"{at} {local.day} * *"},
        }
        names = list(policies)
        text = {
            "api": {"base_url": self.provider.base_url, "requests_per_second": 1000},
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


# -- the daemon ----------------------------------------------------------------------------------------------------


@contextmanager
def a_daemon(place: Place) -> Iterator[subprocess.Popen[str]]:
    """One that is ready; its loop is watched."""
    place.stands.write_text("")
    with (place.folder / "log").open("w") as said:
        environ = environment(VPS_API_TOKEN=TOKEN)
        command = ("bench.watched", str(place.stands), "run", "--config", str(place.config))
        with a_process(*command, stderr=said, env=environ) as process:
            yield process


def is_ready(place: Place) -> bool:
    try:
        return place.ask("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def resident(process: subprocess.Popen[str]) -> float:
    """Megabytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def measured(place: Place, process: subprocess.Popen[str]) -> Iterator[Figures]:
    """Fills in, at the end, the processor that was used, and the longest time that the loop stood, in milliseconds."""
    told: Figures = {}
    began, used = time.time(), cpu_of(process)
    yield told
    time.sleep(0.1)
    told["cpu_s"] = round(cpu_of(process) - used, 2)
    told["stood_ms"] = stood(place, began)


def stood(place: Place, since: float) -> int:
    """As much of it as the process was at work itself: the machine is shared."""
    stands = [json.loads(line) for line in place.stands.read_text().splitlines()]
    return round(1000 * max((min(wall, used) for at, wall, used in stands if at >= since), default=0.0))


def start(place: Place, process: subprocess.Popen[str]) -> Figures:
    began = time.time()
    until(lambda: is_ready(place), what="the daemon to be ready", every=0.5)
    told = {"seconds": round(time.time() - began, 1), "cpu_s": round(cpu_of(process), 2), "stood_ms": stood(place, 0)}
    time.sleep(5)
    return {
        **told,
        "cpu_and_5_s": round(cpu_of(process), 2),
        "stood_and_5_s": stood(place, 0),
        "mb": round(resident(process)),
    }


def scrape(place: Place, process: subprocess.Popen[str]) -> Figures:
    with measured(place, process) as told:
        text = place.ask("/metrics").content
    told["bytes"] = len(text)
    told["gzip"] = len(gzip.compress(text, 4))
    time.sleep(11 * told["cpu_s"] + 1)
    with measured(place, process) as again:
        place.ask("/metrics")
    return {**told, **{f"again_{key}": value for key, value in again.items()}}


def page(place: Place, process: subprocess.Popen[str]) -> Figures:
    time.sleep(2)
    with measured(place, process) as told:
        place.ask("/")
    time.sleep(2)
    with measured(place, process) as status:
        told["status_bytes"] = len(place.ask("/api/status").content)
    return {**told, **{f"status_{key}": value for key, value in status.items()}, "mb": round(resident(process))}


def commands(place: Place, process: subprocess.Popen[str]) -> Figures:
    told: Figures = {}
    for words in (["list"], ["list", "--json"], ["status"], ["history"]):
        environ = environment(VPS_API_TOKEN=TOKEN)
        before = os.times()
        done = subprocess.run(
            [*PYTHON, "snaprotd", *words, "--config", str(place.config)],
            capture_output=True,
            env=environ,
            timeout=PATIENCE,
            check=False,
        )
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        told[" ".join(words)] = [round(used, 2), done.returncode, len(done.stdout), done.stderr.decode()[:200]]
    return told


def reload(place: Place, process: subprocess.Popen[str]) -> Figures:
    with measured(place, process) as told:
        said = place.folder / "log"
        before = said.read_text().count("was read again and is in force")
        place.configure(keep=3)
        until(lambda: said.read_text().count("was read again and is in force") > before, what="the new configuration")
        time.sleep(1)
    return told


def idle(place: Place, process: subprocess.Popen[str], seconds: float = 120.0) -> Figures:
    time.sleep(5)
    with measured(place, process) as told:
        time.sleep(seconds)
    return {**told, "percent": round(100 * told["cpu_s"] / seconds, 2)}


PARTS: Mapping[str, Callable[[Place, subprocess.Popen[str]], Figures]] = {
    "start": start,
    "scrape": scrape,
    "page": page,
    "commands": commands,
    "reload": reload,
    "idle": idle,
}


def main(*arguments: str) -> None:
    servers = int(arguments[0]) if arguments else 10_000
    parts = arguments[1:] or tuple(PARTS)
    with a_place(servers) as place, a_daemon(place) as process:
        for name in dict.fromkeys(["start", *parts]):
            print(json.dumps({name: PARTS[name](place, process)}), flush=True)
        if "wait" in os.environ:
            print(place.folder, process.pid, place.config, flush=True)
            time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
