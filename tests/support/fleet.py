"""Nights of a fleet in virtual time: a whole daemon, the real client, and an account that answers fast.

    night = await live_through(folder, Fleet(servers=100, stop_first=True))
    night.per_rotation, night.times_least, night.rounds, night.downtime_median, night.seconds, night.kinds

From a shell, with any field of `Fleet`, and as JSON after `--json`: `python -m tests.support.fleet servers=100 due=10`.

Every figure but `cpu` is the same on any machine for the same code and the same PYTHONHASHSEED, which orders sets.
"""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import formatdate
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import structlog

from snaprotd.config import file as config
from snaprotd.config.settings import Config
from snaprotd.core.asking.budget import Budget, Past
from snaprotd.core.asking.night import Due, play
from snaprotd.core.asking.night import Night as Foreseen
from snaprotd.core.creation import Creation
from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Kind
from snaprotd.core.power import Power
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.daemon.life import Daemon
from snaprotd.ledger.store import Ledger
from snaprotd.wiring.assembly import new_rotation
from tests.support.quick_account import FIRST_SERVER, LONGEST_PAGE, TOKEN, Asked, QuickAccount
from tests.support.searches import SCRATCH
from tests.support.virtual_time import START, run_virtually

ORIGIN = "http://127.0.0.1:8000"
"""Where nobody listens: the account stands in as a transport."""

FIRST_SLOT = START + timedelta(minutes=10)
LOOKS = {
    "snaprotd.daemon.life.LEDGER_EVERY": 15.0,
    "snaprotd.daemon.life.LEASE_RENEWAL": 14.0,
    "snaprotd.config.reload.EVERY": 60.0,
}
"""Seconds between looks at the disk, which ask the provider for nothing: made less often they cost half of a night."""

KEPT = 3
"""Snapshots of each server from before, and as many are kept: each rotation deletes one."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What is measured. Times in seconds."""

    servers: int
    due: int | None = None
    """How many of them are rotated; None for all."""
    stop_first: bool = False
    requests_per_second: float = 5.0
    max_concurrent: int = 20
    poll_interval: float = 15.0
    snapshot_seconds: float = 300.0
    power_seconds: float = 30.0
    """For each of a stop and a start."""
    allowed: float | None = None
    """Requests a second that the provider lets through."""
    latency: float = 0.1
    has_past: bool = False
    """The ledger knows of each server that is due how long a snapshot of it took, as after a first night."""
    nights: int = 1
    """The last of them is measured: the servers have as many more as a past."""
    apart: float = 7200.0
    """From one night to the next, which must be over by then."""

    @property
    def rotations(self) -> int:
        return self.servers if self.due is None else self.due

    @property
    def need(self) -> float:
        """For how long a server must be off, as the provider works."""
        return self.snapshot_seconds + 2 * self.power_seconds

    @property
    def least(self) -> float:
        """Requests that the night cannot do without, however it is planned; they are no goal, but what goals count in.

        Of each rotation a create and a delete, with `stop_first` a stop and a start. Of all that are at work at one
        time, together: one look at servers and snapshots, one poll that sees the end, and with `stop_first` one look
        each that sees them off and on again. A list that all share has its pages, or a request for each of them.
        """
        waves = [self.max_concurrent] * (self.rotations // self.max_concurrent)
        waves += [rest] if (rest := self.rotations % self.max_concurrent) else []
        looks = sum(self._shared(wave, self.servers) * (3 if self.stop_first else 1) for wave in waves)
        lists = sum(self._shared(wave, KEPT * self.servers) * 2 for wave in waves)
        return self.rotations * (4 if self.stop_first else 2) + looks + lists

    def _shared(self, asking: int, entries: int) -> int:
        return min(asking, -(-entries // LONGEST_PAGE))


@dataclass(frozen=True, kw_only=True)
class Night:
    """What it took, from its slot until the last rotation had ended."""

    fleet: Fleet
    seconds: float
    asked: list[Asked] = field(repr=False)
    downtimes: list[float] = field(repr=False)
    ended: list[Rotation] = field(repr=False)
    left_off: int
    cpu: float
    """Seconds of this process, simulated account and all."""

    @property
    def succeeded(self) -> int:
        return sum(one.result is Result.SUCCESS for one in self.ended)

    @property
    def kinds(self) -> dict[str, int]:
        return dict(Counter(one.kind for one in self.asked).most_common())

    @property
    def refused(self) -> int:
        """With 429."""
        return sum(one.status == 429 for one in self.asked)

    @property
    def refused_after_a_minute(self) -> float:
        """The share of what was asked later than that."""
        later = [one for one in self.asked if one.at > self.asked[0].at + 60]
        return sum(one.status == 429 for one in later) / max(len(later), 1)

    @property
    def per_rotation(self) -> float:
        return len(self.asked) / self.fleet.rotations

    @property
    def times_least(self) -> float:
        return len(self.asked) / self.fleet.least

    @property
    def rounds(self) -> int:
        """Times that a list of all snapshots was begun."""
        return sum(one.kind == "snapshots" and one.is_first for one in self.asked)

    @property
    def downtime_median(self) -> float:
        return median(self.downtimes) if self.downtimes else 0.0

    @property
    def downtime_worst(self) -> float:
        return max(self.downtimes, default=0.0)

    @property
    def figures(self) -> dict[str, Any]:
        """All of them, by name."""
        return {**asdict(self.fleet), "least": self.fleet.least, **{name: getattr(self, name) for name in FIGURES}}

    def __str__(self) -> str:
        off = f", off {self.downtime_median:.0f} s, worst {self.downtime_worst:.0f} s" if self.downtimes else ""
        return (
            f"{self.succeeded} of {self.fleet.rotations} rotations in {self.seconds:.0f} s{off}: "
            f"{self.per_rotation:.2f} requests each, {self.times_least:.2f} of the least, {self.rounds} rounds, "
            f"{self.refused} refused, {1000 * self.cpu / self.fleet.rotations:.0f} ms CPU each; {self.kinds}"
        )


FIGURES = (
    *("succeeded", "seconds", "per_rotation", "times_least", "rounds", "kinds", "refused", "refused_after_a_minute"),
    *("downtime_median", "downtime_worst", "left_off", "cpu"),
)


def foreseen(fleet: Fleet) -> Foreseen:
    """The night as `plan --capacity` foresees it."""
    pages = fleet._shared(fleet.servers, fleet.servers) + fleet._shared(fleet.servers, KEPT * fleet.servers)
    rate = min(fleet.requests_per_second, fleet.allowed or fleet.requests_per_second)
    budget = Budget(rate=rate, poll_interval=fleet.poll_interval, pages=pages)
    past = Past()
    past.snapshot, past.power = fleet.snapshot_seconds, fleet.power_seconds
    due = [
        Due(server_id=str(number), at=0.0, latest=inf, stops=fleet.stop_first, past=past)
        for number in range(fleet.rotations)
    ]
    return play(due, budget, max_concurrent=fleet.max_concurrent)


class AccountTransport(httpx.AsyncBaseTransport):
    """The account as a transport of httpx: the real client, without a socket, on virtual time."""

    def __init__(self, account: QuickAccount, latency: float) -> None:
        self._account = account
        self._latency = latency

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        await request.extensions["trace"]("http11.send_request_headers.started", {"request": _Sent(request)})
        await asyncio.sleep(self._latency / 2)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        answer = self._account.ask(request.method, request.url.raw_path.decode(), body, token=token)
        headers = {"Date": formatdate(self._account.clock(), usegmt=True), **answer.headers}
        await asyncio.sleep(self._latency / 2)
        return httpx.Response(answer.status, headers=headers, stream=httpx.ByteStream(answer.body), request=request)


class _Sent:
    """What httpcore's trace tells of the request that it is about to send."""

    def __init__(self, request: httpx.Request) -> None:
        self.method = request.method.encode()


def an_account(fleet: Fleet) -> QuickAccount:
    """As it stands before the first night: each server has as many snapshots of ours as are kept, from days before."""
    account = QuickAccount(
        fleet.servers,
        origin=ORIGIN,
        snapshot_seconds=fleet.snapshot_seconds,
        power_seconds=fleet.power_seconds,
        allowed=fleet.allowed,
    )
    for days in range(KEPT, 0, -1):
        slot = FIRST_SLOT - timedelta(days=days)
        for server in account.servers:
            made = slot.timestamp()
            account.add_snapshot(server, snapshot_name("main", slot), made_at=made, done_at=made + 300)
    return account


def write_config(folder: Path, fleet: Fleet) -> Path:
    """The configuration of the fleet: who is due has a slot in each night, the others have theirs at other times."""
    path = folder / "config.yaml"
    path.write_text("\n".join(_lines(folder, fleet)))
    return path


def _lines(folder: Path, fleet: Fleet) -> Iterator[str]:
    yield f'api: {{base_url: "{ORIGIN}/api/v1", requests_per_second: {fleet.requests_per_second}}}'
    yield f"state: {folder / 'state.db'}"
    yield f"poll_interval: {fleet.poll_interval:g}s"
    yield f"max_concurrent: {fleet.max_concurrent}"
    yield "listen: off"
    yield "own_server: none"
    yield f"defaults: {{keep: {KEPT}, timezone: UTC, stop_first: {str(fleet.stop_first).lower()}}}"
    yield "servers:"
    nights = ", ".join(f'"{slot.minute} {slot.hour} {slot.day} * *"' for slot in _slots(fleet))
    for number in range(fleet.servers):
        schedule = f"[{nights}]" if number < fleet.rotations else '"0 12 1 7 *"'
        yield f"  - {{id: {FIRST_SERVER + number}, schedule: {schedule}}}"


def _slots(fleet: Fleet) -> list[datetime]:
    return [FIRST_SLOT + number * timedelta(seconds=fleet.apart) for number in range(fleet.nights)]


async def write_past(settings: Config, fleet: Fleet) -> None:
    """A rotation of each server that is due, from the day before: its snapshot was seen done a moment after it was."""
    slot = FIRST_SLOT - timedelta(days=1)
    made = Creation(creates=1, took=fleet.snapshot_seconds + fleet.poll_interval / 6)
    power = Power(off_for=fleet.need if fleet.stop_first else 0.0)
    async with await Ledger.open(Path(settings.state), owner="the day before") as ledger:
        for target in settings.named[: fleet.rotations]:
            begun = new_rotation(settings, target, slot=slot, now=slot, kind=Kind.SCHEDULED)
            await ledger.claim(begun)
            end = slot + timedelta(seconds=fleet.need)
            done = replace(begun, step=Step.DONE, result=Result.SUCCESS, finished_at=end)
            await ledger.save(replace(done, creation=made, power=power))


async def live_through(folder: Path, fleet: Fleet) -> Night:
    """Run a daemon on the fleet, through its nights, on virtual time that stands at `START`; the last night's figures.

    To measure without a log is left to whoever calls: hours of it take longer to write than the hours.
    """
    random.seed(fleet.servers)  # of what the client adds to a pause by chance
    account = an_account(fleet)
    ended: list[Rotation] = []
    settings = config.load(write_config(folder, fleet), {})
    if fleet.has_past:
        await write_past(settings, fleet)
    async with looking_after(settings, fleet, account, ended) as (_, running):
        for slot in _slots(fleet):
            night = await _live_through(slot, fleet, account, ended, running)
    return night


@asynccontextmanager
async def looking_after(
    settings: Config, fleet: Fleet, account: QuickAccount, ended: list[Rotation]
) -> AsyncIterator[tuple[Daemon, asyncio.Task[int]]]:
    """A daemon at work on the account, which adds to `ended` what has."""
    transport = AccountTransport(account, fleet.latency)
    daemon = Daemon(settings, {"VPS_API_TOKEN": TOKEN}, on_finished=ended.append, transport=transport)
    with pytest.MonkeyPatch.context() as patch:
        for what, seconds in LOOKS.items():
            patch.setattr(what, seconds)
        patch.setattr("snaprotd.ledger.store.uptime", asyncio.get_running_loop().time)
        running = asyncio.create_task(daemon.run())
        try:
            yield daemon, running
        finally:
            daemon.stop()
            await running


async def _live_through(
    slot: datetime, fleet: Fleet, account: QuickAccount, ended: list[Rotation], running: asyncio.Task[int]
) -> Night:
    """One night."""
    await asyncio.sleep(slot.timestamp() - time.time())
    account.journal, account.downtimes, began = [], [], time.process_time()
    while len(mine := [one for one in ended if (one.slot, one.attempt) == (slot, 1)]) < fleet.rotations:
        assert not running.done(), "the daemon has ended"
        assert time.time() < slot.timestamp() + fleet.apart, f"{len(mine)} of {fleet.rotations} rotations have ended"
        await asyncio.sleep(1)
    assert not [one for one in account.journal if one.kind == "other"], "the account knows too little of the API"
    return Night(
        fleet=fleet,
        seconds=time.time() - slot.timestamp(),
        asked=account.journal,
        downtimes=[seconds for _, seconds in account.downtimes],
        ended=mine,
        left_off=len(account.off_now()),
        cpu=time.process_time() - began,
    )


def main(*arguments: str) -> None:
    """Print the figures of one night; the words are fields of `Fleet` with their values."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    as_json, words = "--json" in arguments, [one for one in arguments if one != "--json"]
    settings = {key: ast.literal_eval(value) for key, _, value in (one.partition("=") for one in words)}
    with TemporaryDirectory(dir=SCRATCH) as folder:
        night = run_virtually(live_through(Path(folder), Fleet(**settings)))
    print(json.dumps(night.figures) if as_json else night)


if __name__ == "__main__":
    main(*sys.argv[1:])
