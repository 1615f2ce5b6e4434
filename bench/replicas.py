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
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.processes import a_process
from snaprotd.core.policy import Policy, Retention, Rules
from snaprotd.core.rotation import Rotation
from snaprotd.daemon.life import TICK
from snaprotd.ledger.address import ServerAddress
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.server.opening import open_on_server
from snaprotd.ledger.server.session import Session
from snaprotd.ledger.store import Ledger
from tests.support.databases import Server, server
from tests.support.policies import slots

SEVERAL = 3
RENEWED_EVERY = 10.0
"""Seconds, as by a daemon."""
SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)

Figures = dict[str, Any]


def has_postgresql() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")) or shutil.which("pg_ctl") is not None


def figures(*, servers: int, killed: int) -> Figures:
    """`servers`: how many slots each of them claims; `killed`: how many processes are, to be taken over from, if any.

    Their leases take more than a minute to run out.
    """
    if not has_postgresql():
        return {"missing": "no PostgreSQL is installed here"}
    with server() as database, tempfile.TemporaryDirectory() as folder:
        one, several = (claims_a_second(database, Path(folder), number, servers) for number in (1, SEVERAL))
        trips = asyncio.run(round_trips(database, Path(folder)))
        taken = asyncio.run(taken_over_after(database, Path(folder), killed)) if killed else []
    waited = {"taken_p50": median(taken), "taken_worst": max(taken)} if taken else {}
    return {"one": one, "several": several, **trips, **waited}


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


async def round_trips(database: Server, folder: Path) -> Figures:
    """From this process to the database and back: for a claim by itself, a save by itself, and all renewals at once."""
    ledger = await opened(database.schema(), folder)
    counted, call = [0], Session._call

    async def counting(session: Session, *args: Any, **how: Any) -> Any:
        counted[0] += 1
        return await call(session, *args, **how)

    async def trips(done: Callable[[], Any]) -> int:
        before = counted[0]
        await done()
        return counted[0] - before

    Session._call = counting  # type: ignore[method-assign, assignment]
    try:
        await ledger.claim(a_rotation("first"))
        begun = a_rotation("second")
        return {
            "trips_claim": await trips(lambda: ledger.claim(begun)),
            "trips_save": await trips(lambda: ledger.save(begun)),
            "trips_renewal": await trips(ledger.renew),
        }
    finally:
        Session._call = call  # type: ignore[method-assign]
        await ledger.close()


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
