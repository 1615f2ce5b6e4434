"""A fleet as a process left it that was killed while it held servers off: for snapshots, some of which are done since.

    found = await come_back(folder, Fleet(servers=1000, requests_per_second=1000, ...), due=500)
    found.first_start, found.last_start, found.before, found.cpu

From a shell: `python -m tests.support.interrupted servers=1000 due=500`.
"""

from __future__ import annotations

import ast
import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from snaprotd.config import file as config
from snaprotd.config.settings import Config
from snaprotd.core import creation, power
from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Rotation, Step
from snaprotd.ledger.store import Ledger
from snaprotd.provider.vps_org.answers import read_server
from snaprotd.wiring.assembly import account_of, new_rotation
from tests.support.fleet import Fleet, an_account, looking_after, write_config
from tests.support.quick_account import QuickAccount
from tests.support.searches import SCRATCH
from tests.support.virtual_time import START, run_virtually

STOPPED = timedelta(minutes=2)
"""How long before the process begins its servers were stopped."""
KILLED = timedelta(seconds=10)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What the next process did until it had asked for the last start that was due; seconds since it began."""

    starts: list[float]
    before: Mapping[str, int]
    """How often it asked for what else until then, by kind."""
    cpu: float
    """Seconds of this process, simulated account and all."""

    def __str__(self) -> str:
        told = f"{len(self.starts)} starts, asked for after {self.starts[0]:.2f} to {self.starts[-1]:.2f} s"
        return f"{told}, {self.cpu:.2f} s CPU; before the last of them: {dict(self.before)}"


def fleet_of(servers: int, **settings: float) -> Fleet:
    """All of them are off at one time, and the provider takes as many requests as can be configured."""
    told = {"requests_per_second": 1000.0, "latency": 0.01, **settings}
    return Fleet(servers=servers, stop_first=True, max_concurrent=servers, **told)  # type: ignore[arg-type]


def hold_off(account: QuickAccount, *, due: int, now: datetime) -> None:
    """The account as it stands: all servers are off, and the snapshots of those that are `due` are done."""
    stopped = now - STOPPED
    for number, server in enumerate(account.servers.values()):
        server.status, server.off_since = "stopped", stopped.timestamp()
        done_at = now.timestamp() + (-1 if number < due else 3600)
        name = snapshot_name("main", _slot(now))
        account.add_snapshot(server.id, name, made_at=stopped.timestamp(), done_at=done_at)


def _slot(now: datetime) -> datetime:
    return (now - STOPPED).replace(second=0, microsecond=0)


async def leave_open(settings: Config, account: QuickAccount, *, now: datetime) -> None:
    """The ledger as it stands: a rotation of each server waits for its snapshot."""
    slot = _slot(now)
    async with await Ledger.open(Path(settings.state), owner="who was killed") as ledger:
        ledger.starts.account = account_of(settings)
        for target in settings.named:
            begun = new_rotation(settings, target, slot=slot, now=slot, kind=Kind.SCHEDULED)
            await ledger.claim(begun)
            its_snapshot = account.servers[int(target.server_id)].snapshots[-1].id
            await ledger.save(_waiting(begun, str(its_snapshot), now - STOPPED))


def _waiting(begun: Rotation, its_snapshot: str, stopped: datetime) -> Rotation:
    """Where it was when the process was killed."""
    server = read_server({"id": int(begun.server_id), "name": begun.label, "status": "stopped"})
    asked = power.acknowledged(power.promised(begun.power, stopped))
    off = power.seen(asked, server, stopped, apart=15.0)
    made = creation.made(creation.promised(begun.creation, had_others=True), its_snapshot)
    seconds = (STOPPED - KILLED).total_seconds()
    waiting = replace(begun, step=Step.WAIT, begun=True, power=power.aged(off, seconds), was_in_progress=True)
    return replace(waiting, creation=creation.aged(made, seconds), waited=seconds)


async def come_back(folder: Path, fleet: Fleet, *, due: int) -> Recovery:
    """The next process begins, on virtual time; until all starts that are due have been asked for."""
    account = an_account(fleet)
    settings = config.load(write_config(folder, fleet), {})
    began = datetime.now(UTC)
    hold_off(account, due=due, now=began)
    await leave_open(settings, account, now=began)
    ended: list[Rotation] = []
    used = time.process_time()
    async with looking_after(settings, fleet, account, ended) as (_, running):
        while account.counts["start"] < due:
            assert not running.done(), "the daemon has ended"
            assert time.time() < began.timestamp() + 600, f"{account.counts['start']} of {due} starts"
            await asyncio.sleep(0.05)
        used, asked = time.process_time() - used, list(account.journal)
        account.finish(fleet.servers)  # so that the daemon ends
    starts = [one.at - began.timestamp() for one in asked if one.kind == "start"]
    before = Counter(one.kind for one in asked if one.at <= began.timestamp() + starts[-1] and one.kind != "start")
    return Recovery(starts=starts, before=before, cpu=used)


def main(*arguments: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings = {key: ast.literal_eval(value) for key, _, value in (one.partition("=") for one in arguments)}
    due = int(settings.pop("due"))
    with TemporaryDirectory(dir=SCRATCH) as folder:
        print(run_virtually(come_back(Path(folder), fleet_of(**settings), due=due), START))


if __name__ == "__main__":
    main(*sys.argv[1:])
