"""What a ledger on PostgreSQL carries, as one replica or several use it: each a process, with the real ledger.

`python -m bench.replicas` is one of them: `claim`, which claims the slots of so many servers, or `hold`, which claims a
rotation and renews its lease until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from bench.extent import Extent
from bench.processes import a_process
from bench.table import Figures, Row
from snaprotd.config.file import load
from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Policy, Retention, Rules
from snaprotd.core.rotation import Result, Rotation
from snaprotd.daemon.life import TICK
from snaprotd.daemon.machine import this_machine
from snaprotd.engine.board import Board
from snaprotd.engine.rotations import Rotations
from snaprotd.ledger.address import ServerAddress
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.server.opening import open_on_server
from snaprotd.ledger.server.session import Session
from snaprotd.ledger.store import Ledger
from snaprotd.observe.metrics import Metrics
from snaprotd.wiring.assembly import new_rotation, open_tools
from tests.support.daemons import a_world
from tests.support.databases import Server, server
from tests.support.policies import slots
from tests.support.virtual_time import START, run_virtually
from tests.support.world_transport import WorldTransport

SEVERAL = 3
RENEWED_EVERY = 10.0
"""Seconds, as by a daemon."""
HERE = 'api: {base_url: "http://127.0.0.1:1/api/v1"}\nlisten: off\nown_server: none\n'
TAKES = 120.0
"""Seconds of a snapshot."""
SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)

ROWS = (
    Row(what="PostgreSQL: claims a second, one replica", key="one", form=".0f"),
    Row(what=f"- {SEVERAL} replicas together", key="several", form=".0f"),
    Row(what="- round trips: a claim", key="trips_claim", form="d"),
    Row(what="- a save", key="trips_save", form="d"),
    Row(what="- a renewal of all leases", key="trips_renewal", form="d"),
    Row(what="- a whole rotation", key="trips_rotation", form="d"),
    Row(what="- the same with `stop_first`", key="trips_rotation_off", form="d"),
    Row(what="- after a kill -9: seconds until another one has the rotation, p50", key="taken_p50", form=".0f"),
    Row(what="- the worst", key="taken_worst", goals={1: 95}, form=".0f"),
)


def has_postgresql() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")) or shutil.which("pg_ctl") is not None


def figures(extent: Extent) -> Figures:
    """Nothing where no PostgreSQL is installed."""
    told: Figures = {1: {}, extent.claims: {}}
    if not has_postgresql():
        return told
    with server() as database, tempfile.TemporaryDirectory() as folder:
        for key, number in (("one", 1), ("several", SEVERAL)):
            told[extent.claims][key] = claims_a_second(database, Path(folder), number, extent.claims)
        told[1] |= asyncio.run(round_trips(database, Path(folder)))
        for key, stops in (("trips_rotation", False), ("trips_rotation_off", True)):
            told[1][key] = run_virtually(trips_of_a_rotation(database.schema(), Path(folder), stop_first=stops))
        if extent.killed:
            taken = asyncio.run(taken_over_after(database, Path(folder), extent.killed))
            told[1] |= {"taken_p50": median(taken), "taken_worst": max(taken)}
    return told


async def opened(url: str, folder: Path) -> Ledger:
    owner = uuid.uuid4().hex
    (folder / owner).mkdir()
    return await open_on_server(ServerAddress(url), folder / owner / "state", owner=owner)


def a_rotation(server_id: str) -> Rotation:
    rules = Rules(policy=Policy(schedule=slots("30 3 * * *"), keep=Retention(last=2)), instance="main", limit=5)
    return Rotation.begin(
        id=uuid.uuid4().hex, server_id=server_id, label=server_id, slot=SLOT, rules=rules, now=SLOT, settle=120.0
    )


def replica(*arguments: str) -> Any:
    return a_process("bench.replicas", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def claims_a_second(database: Server, folder: Path, number: int, servers: int) -> float:
    """Of so many replicas together, which want other servers' slots each, from the first begun to the last done."""
    url = database.schema()
    asyncio.run(_made(url, folder))
    with ExitStack() as stack:
        those = [
            stack.enter_context(replica("claim", url, str(folder), f"{one}-", str(servers))) for one in range(number)
        ]
        for one in those:
            assert one.stdout.readline() == "ready\n"
        for one in those:
            print("go", file=one.stdin, flush=True)
        told = [json.loads(one.stdout.readline()) for one in those]
    seconds: float = max(end for _, end in told) - min(begun for begun, _ in told)
    return number * servers / seconds


async def _made(url: str, folder: Path) -> None:
    await (await opened(url, folder)).close()


class Trips:
    """How often this process has asked the database something and waited for the answer, at the connection."""

    number = 0

    async def of(self, done: Callable[[], Awaitable[object]]) -> int:
        before = self.number
        await done()
        return self.number - before


@contextmanager
def counted() -> Iterator[Trips]:
    trips, call = Trips(), Session._call

    async def counting(session: Session, *args: Any, **how: Any) -> Any:
        trips.number += 1
        return await call(session, *args, **how)

    Session._call = counting  # type: ignore[method-assign, assignment]
    try:
        yield trips
    finally:
        Session._call = call  # type: ignore[method-assign]


async def round_trips(database: Server, folder: Path) -> dict[str, int]:
    """From this process to the database and back: for a claim by itself, a save by itself, and all renewals at once."""
    ledger = await opened(database.schema(), folder)
    with counted() as trips:
        await ledger.claim(a_rotation("first"))
        begun = a_rotation("second")
        told = {
            "trips_claim": await trips.of(lambda: ledger.claim(begun)),
            "trips_save": await trips.of(lambda: ledger.save(begun)),
            "trips_renewal": await trips.of(ledger.renew),
        }
    await ledger.close()
    return told


async def trips_of_a_rotation(url: str, folder: Path, *, stop_first: bool) -> int:
    """From its claim to its end, with one snapshot deleted; nothing else is done meanwhile, and no lease renewed."""
    world, ended = a_world("web-01", snapshot_seconds=(TAKES, TAKES)), asyncio.Event()
    for days in (2, 1):
        slot = START - timedelta(days=days)
        world.add_snapshot("12345", snapshot_name("main", slot), created_at=slot)
    path = folder / f"stops-{stop_first}.yaml"
    stops = str(stop_first).lower()
    path.write_text(
        f'{HERE}state: "{url}"\nservers: [{{id: 12345, schedule: "@daily", keep: 2, stop_first: {stops}}}]\n'
    )
    settings, board = load(path, {}), Board()
    environ = {"VPS_API_TOKEN": world.token, "STATE_DIRECTORY": str(folder)}
    parts = (settings, environ, board, Metrics(board), this_machine, WorldTransport(world))
    async with open_tools(*parts) as tools:
        rotations = Rotations(tools, board, max_concurrent=1, finished=lambda _: ended.set())
        begun = new_rotation(settings, settings.named[0], slot=START, now=START)

        async def rotate() -> None:
            await rotations.begin(begun)
            await ended.wait()

        with counted() as trips:
            number = await trips.of(rotate)
        (last,) = await tools.ledger.history("12345", limit=1)
        assert (last.result, len(last.deleted)) == (Result.SUCCESS, 1), last.error
        await rotations.keeper.aclose()
    return number


async def taken_over_after(database: Server, folder: Path, killed: int) -> list[float]:
    """Seconds from each `kill -9` until another replica, which looks as often as a daemon does, has its rotation."""
    url = database.schema()
    ledger, died, taken = await opened(url, folder), dict[str, float](), dict[str, float]()
    with ExitStack() as stack:
        those = {f"{one}-": stack.enter_context(replica("hold", url, str(folder), f"{one}-")) for one in range(killed)}
        for one in those.values():
            assert await asyncio.to_thread(one.stdout.readline) == "ready\n"

        async def kill(name: str) -> None:
            await asyncio.sleep(random.uniform(1, 2 * RENEWED_EVERY))
            those[name].kill()
            died[name] = time.monotonic()

        kills = asyncio.gather(*map(kill, those))
        while len(taken) < killed:
            taken |= {one.server_id: time.monotonic() for one in await ledger.take_over()}
            await asyncio.sleep(TICK)
        await kills
    await ledger.close()
    return [taken[name] - at for name, at in died.items()]


# -- one of them -------------------------------------------------------------------------------------------------


async def claim(url: str, folder: str, name: str, servers: str) -> None:
    ledger = await opened(url, Path(folder))
    wanted = [a_rotation(f"{name}{number}") for number in range(int(servers))]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    begun = time.time()
    claims = await asyncio.gather(*map(ledger.claim, wanted))
    assert all(isinstance(one, Claimed) for one in claims)
    print(json.dumps([begun, time.time()]), flush=True)


async def hold(url: str, folder: str, name: str) -> None:
    ledger = await opened(url, Path(folder))
    await ledger.claim(a_rotation(name))
    print("ready", flush=True)
    while True:
        await asyncio.sleep(RENEWED_EVERY)
        await ledger.renew()


if __name__ == "__main__":
    asyncio.run(claim(*sys.argv[2:]) if sys.argv[1] == "claim" else hold(*sys.argv[2:]))
