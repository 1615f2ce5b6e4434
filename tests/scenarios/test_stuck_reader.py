"""Real processes whose standard error nobody reads: a pipe that is full from the start, a terminal that was stopped.

Nobody waits for the reader: no rotation, no page, no end. What is dropped for it is counted, and told when it is back.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import termios
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.support.pipes import StuckPipe
from tests.support.processes import (
    TOKEN,
    Daemon,
    Hold,
    Provider,
    first_of,
    provider,
    recorded,
    running,
    until,
    write_config,
)
from tests.support.troubles import running_unread

pytestmark = pytest.mark.real_time

SPEED = 500.0
OFF_AND_ON = ["active", "stopping", "stopped", "starting", "active"]


@pytest.fixture
def pipe() -> Iterator[StuckPipe]:
    with closing(StuckPipe()) as pipe:
        yield pipe


class Night:
    """A server that is switched off for its snapshot, at a slot that was missed an hour ago, or by `now`."""

    def __init__(self, folder: Path, web: Provider) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{listen}"
        self.slot = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
        cron = f"{self.slot.minute} {self.slot.hour} * * *"
        entry = {"id": 12345, "name": "web", "schedule": cron, "stop_first": True}
        self.provider = web
        self.config = write_config(folder, web.base_url, f"listen: {listen}\nservers: {json.dumps([entry])}\n")
        self.ledger = folder / "state.db"
        self.output = folder / "out"

    async def sleep_through_the_slot(self) -> None:
        mark = Mark(
            server_id="12345",
            seen_until=self.slot - timedelta(hours=1),
            schedule=f"UTC {self.slot.minute} {self.slot.hour} * * * +0s",
        )
        async with await Ledger.open(self.ledger, owner=uuid.uuid4().hex) as ledger:
            await ledger.set_marks([mark])

    async def ends(self) -> None:
        """The rotation ends, the server is on, and was off for it."""
        await until(lambda: self.result() is not None, what="the end of the rotation")
        self.judge()

    def result(self) -> Any:
        rotations = recorded(self.ledger)
        return rotations[0]["result"] if rotations else None

    def judge(self) -> None:
        assert self.result() == "success"
        assert [status for _, status in self.provider.world.servers["12345"].history] == OFF_AND_ON
        assert [one.status for one in self.provider.world.created] == ["completed"]

    async def get(self, address: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"{self.url}{address}")

    async def dropped(self) -> int:
        lines = (await self.get("/metrics")).text.splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith("snaprotd_log_dropped_total ")]
        return int(float(value))


@pytest.fixture
def world() -> World:
    world = World(speed=SPEED, token=TOKEN)
    world.add_server("web")
    return world


@asynccontextmanager
async def daemon(folder: Path, world: World, pipe: StuckPipe) -> AsyncIterator[tuple[Night, Daemon]]:
    async with provider(world) as web:
        night = Night(folder, web)
        await night.sleep_through_the_slot()
        arguments = ("run", "--config", str(night.config))
        async with running_unread(*arguments, output=night.output, errors=pipe.theirs) as life:
            yield night, life


@asynccontextmanager
async def now(folder: Path, world: World, errors: int) -> AsyncIterator[tuple[Night, Daemon]]:
    async with provider(world) as web:
        night = Night(folder, web)
        arguments = ("now", "web", "--json", "--config", str(night.config))
        async with running_unread(*arguments, output=night.output, errors=errors) as life:
            yield night, life


async def test_a_daemon_that_nobody_reads_rotates_answers_and_ends(
    tmp_path: Path, world: World, pipe: StuckPipe
) -> None:
    async with daemon(tmp_path, world, pipe) as (night, life):
        await night.ends()
        assert (await night.get("/healthz")).status_code == 200
        assert await night.dropped() > 0
        life.send(signal.SIGTERM)
        assert await life.ended() == 0
        assert pipe.said == ""


async def test_a_reader_who_comes_back_is_told_how_many_lines_were_dropped(
    tmp_path: Path, world: World, pipe: StuckPipe
) -> None:
    async with daemon(tmp_path, world, pipe) as (night, life):
        await night.ends()
        pipe.come_back()
        await until(lambda: "log lines were dropped" in pipe.said, what="the number of the lines that were dropped")
        life.send(signal.SIGTERM)
        assert await life.ended() == 0
        lines = [json.loads(line) for line in pipe.read().splitlines()]
    told = [line for line in lines if line["event"] == "log lines were dropped"]
    assert (told[0]["level"], told[0]["count"] > 0) == ("warning", True)
    assert lines[0]["event"] != "log lines were dropped"
    assert lines[-1]["event"] == "ended in order; the next start goes on with what is open"


async def test_now_goes_on_to_its_end_though_nobody_reads_how_it_stands(
    tmp_path: Path, world: World, pipe: StuckPipe
) -> None:
    async with now(tmp_path, world, pipe.theirs) as (night, life):
        assert await life.ended() == 0
        night.judge()
        assert json.loads(life.said)["result"] == "success"


async def test_now_goes_on_to_its_end_in_a_terminal_that_was_stopped(tmp_path: Path, world: World) -> None:
    ours, theirs = os.openpty()
    try:
        termios.tcflow(theirs, termios.TCOOFF)  # as Ctrl-S does
        async with now(tmp_path, world, theirs) as (night, life):
            assert await life.ended() == 0
            night.judge()
            assert json.loads(life.said)["result"] == "success"
    finally:
        os.close(theirs)
        os.close(ours)


async def test_now_that_nobody_reads_can_be_ended_at_once(tmp_path: Path, world: World, pipe: StuckPipe) -> None:
    async with now(tmp_path, world, pipe.theirs) as (night, life):
        hold = Hold(number=1, when="before", fits=lambda what: what == "create")
        night.provider.holds = [hold]
        await first_of(hold.struck.wait(), life.ended())
        assert life.returncode is None, life.said
        life.send(signal.SIGINT)
        life.send(signal.SIGTERM)
        assert await life.ended() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        hold.release(drop=True)


async def test_what_is_said_right_before_an_end_at_once_is_written(tmp_path: Path, world: World) -> None:
    hold = Hold(number=1, when="before", fits=lambda what: what == "create")
    async with provider(world) as web:
        night = Night(tmp_path, web)
        web.holds = [hold]
        async with running("now", "web", "--config", str(night.config), output=night.output) as life:
            await first_of(hold.struck.wait(), life.ended())
            life.send(signal.SIGINT)
            await life.has_said("asked to end")
            life.send(signal.SIGINT)
            assert await life.ended() == 128 + signal.SIGINT
            assert "ended at once; a server that was held off is OFF" in life.said
        hold.release(drop=True)
