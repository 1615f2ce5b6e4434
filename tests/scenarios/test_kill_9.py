"""kill -9 at every request of a rotation, against the real process, a real socket and a real ledger."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.support.processes import (
    TOKEN,
    Daemon,
    Hold,
    Provider,
    daemon,
    first_of,
    provider,
    recorded,
    running,
    until,
    write_config,
)
from tests.support.searches import size

pytestmark = pytest.mark.real_time

SPEED = 2000.0
SETTLE = 0.3
"""Seconds, of the real clock, as in the configuration."""
SETTLED = 1.5 * SETTLE
"""Seconds after which a lost request has been carried out, if ever."""
OLD = ("snaprotd-main-20250101T000000Z", "snaprotd-main-20250102T000000Z")
SOON = 10.0
"""Seconds in which a process that has just been started is at work again; 30 are promised."""


class Night:
    """A server whose slot was missed an hour ago, so that its rotation begins with the process."""

    def __init__(self, folder: Path, web: Provider, server_id: str) -> None:
        self.folder = folder
        self.provider = web
        self.server_id = server_id
        self.ledger = folder / "state.db"
        # A fixed time of the day: the next slot is 23 hours away, whenever the test runs.
        self.slot = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
        self.config = self._configuration()

    @property
    def world(self) -> World:
        return self.provider.world

    @property
    def snapshot_name(self) -> str:
        return f"snaprotd-main-{self.slot:%Y%m%dT%H%M%SZ}"

    def _configuration(self) -> Path:
        server = {
            "id": int(self.server_id),
            "name": "web",
            "schedule": f"{self.slot.minute} {self.slot.hour} * * *",
            "keep": 2,
            "stop_first": True,
        }
        text = f"listen: off\nservers: {json.dumps([server])}\n"
        return write_config(self.folder, self.provider.base_url, text)

    async def sleep_through_the_slot(self) -> None:
        """The ledger as a daemon left it two hours ago."""
        seen = Mark(
            server_id=self.server_id,
            seen_until=self.slot - timedelta(hours=1),
            schedule=f"UTC {self.slot.minute} {self.slot.hour} * * * +0s",
        )
        async with await Ledger.open(self.ledger, owner=uuid.uuid4().hex) as ledger:
            await ledger.set_marks([seen])

    def rotation(self) -> dict[str, Any] | None:
        rotations = recorded(self.ledger)
        assert len(rotations) <= 1, rotations
        return rotations[0] if rotations else None

    def has_ended(self) -> bool:
        self.world.now()
        rotation = self.rotation()
        return rotation is not None and rotation["step"] == "done"

    async def end(self) -> None:
        await until(self.has_ended, what="the end of the rotation in the ledger")

    async def life_until(self, hold: Hold, *, drop: bool = False, release: bool = True) -> bool:
        """One life that is killed while `hold` holds a request; False if the rotation ended before there was one."""
        self.provider.holds = [hold]
        async with daemon(self.config) as life:
            await first_of(hold.struck.wait(), self.end(), life.ended())
            assert life.returncode is None, life.said
            await life.kill()
        if release:
            hold.release(drop=drop)
        return hold.struck.is_set()

    async def last_life(self) -> None:
        """A life that goes on to the end, and what must be true then and when all that is late has come."""
        async with daemon(self.config) as life:
            await first_of(self.end(), life.ended())
            assert life.returncode is None, life.said
            self.judge()
            await asyncio.sleep(SETTLED)
            self.judge()

    def spoil_answers(self, kind: str) -> None:
        """The answer to each of the requests that change something on the way to the snapshot and back is lost."""
        delay = SPEED * SETTLE / 2
        power = "/servers/*/power/"
        self.world.faults += [
            Fault(kind=kind, method="POST", path=power, action="stop", delay=delay),
            Fault(kind=kind, method="POST", path="/snapshots/", delay=delay),
            Fault(kind=kind, method="POST", path=power, action="start", delay=delay),
        ]

    def judge(self) -> None:
        rotation = self.rotation()
        assert rotation is not None
        assert (rotation["result"], rotation["error"]) == ("success", None)
        made = [one.name for one in self.world.created]
        assert made == [self.snapshot_name]
        assert self.world.status_of(self.server_id) == "active"
        held = [(one.name, one.status) for one in self.world.snapshots_of(self.server_id)]
        assert held == [(OLD[1], "completed"), (self.snapshot_name, "completed")]
        assert self.world.created[0].server_status_when_taken == "stopped"


@asynccontextmanager
async def night(folder: Path) -> AsyncIterator[Night]:
    world = World(speed=SPEED, token=TOKEN, snapshot_seconds=(300, 500))
    server_id = world.add_server("web-01")
    for day, name in enumerate(OLD, start=1):
        world.add_snapshot(server_id, name, created_at=datetime(2025, 1, day, tzinfo=UTC))
    async with provider(world) as web:
        told = Night(folder, web, server_id)
        await told.sleep_through_the_slot()
        yield told


def changes(what: str) -> bool:
    return what != "get"


# -- at every request ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plot:
    """What goes wrong in each of a row of nights; only the number of the request differs between them."""

    when: str
    """`after`: the request is carried out, and nobody is there any more to be answered. `before`: it never arrives."""
    again: bool
    """The second life is killed too, soon after it has begun."""
    answers: str
    """To the stop, the create and the start: `arrive`, `lost`, or `late`: carried out after the connection was cut."""


PLOTS = [
    Plot(when=when, again=again, answers=answers)
    for when, again, answers in product(("before", "after"), (False, True), ("arrive", "lost", "late"))
]
LOOKS = 6
"""Requests of a rotation before its first change. Killed at an earlier one than the last of them, nothing differs: that
is told once, while all answers arrive."""
STRIDE = size(6, 1)
"""In the short form a plot has every sixth request, and the next plot those beside them: each request has two, one of
them `before`."""
SIDE_BY_SIDE = size(2, 8)
"""Nights told at the same time: some of each is waiting."""


@pytest.mark.search
@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: f"{plot.when}{'-twice' * plot.again}-{plot.answers}")
async def test_killed_at_any_request_the_next_process_ends_the_rotation_once(plot: Plot, tmp_path: Path) -> None:
    is_plain = plot.answers == "arrive" and not plot.again
    first = 1 if is_plain else LOOKS
    numbers = count(first + (PLOTS.index(plot) - first) % STRIDE, STRIDE)
    reached: list[bool] = []

    async def tell_on() -> None:
        while all(reached):
            number = next(numbers)
            reached.append(await _tell(plot, _folder(tmp_path, number), number))

    await asyncio.gather(*(tell_on() for _ in range(SIDE_BY_SIDE)))
    assert STRIDE * sum(reached) > LOOKS, "hardly a request was ever held"


async def _tell(plot: Plot, folder: Path, number: int) -> bool:
    """One night, killed at its `number`-th request; False if it had ended before that."""
    async with night(folder) as told:
        if plot.answers != "arrive":
            told.spoil_answers(plot.answers)
        fired = await told.life_until(Hold(number=number, when=plot.when), drop=True)
        if plot.again:
            await told.life_until(Hold(number=3))
        await told.last_life()
        return fired


def _folder(parent: Path, number: int) -> Path:
    folder = parent / str(number)
    folder.mkdir()
    return folder


async def test_there_are_four_changes_in_a_rotation_and_looks_before_the_first(tmp_path: Path) -> None:
    """Every one of them is among the requests above."""
    async with night(tmp_path) as told:
        await told.last_life()
        asked = [one.what for one in told.provider.journal]
        assert [what for what in asked if changes(what)] == ["stop", "create", "start", "delete"]
        assert asked.index("stop") >= LOOKS


@pytest.mark.parametrize("number", range(1, 5))
async def test_killed_while_a_change_is_sent_that_is_carried_out_later_nothing_is_done_twice(
    number: int, tmp_path: Path
) -> None:
    """The provider takes its time over the dead process's request: until the next process asks something."""
    async with night(tmp_path) as told:
        hold = Hold(number=number, when="before", fits=changes)
        assert await told.life_until(hold, release=False)
        told.provider.on_request = lambda _: hold.release()
        await told.last_life()


# -- how soon ------------------------------------------------------------------------------------------------------


async def test_a_server_that_was_off_when_the_process_was_killed_is_soon_on_again(tmp_path: Path) -> None:
    async with night(tmp_path) as told:
        assert await told.life_until(Hold(number=1, fits=lambda what: what == "create"))
        killed = datetime.now(UTC)
        assert told.world.status_of(told.server_id) == "stopped"
        await told.last_life()
        back = next(at for at, status in told.world.servers[told.server_id].history if at > killed)
        assert (back - killed).total_seconds() < SOON


# -- asked to end --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def held_at(told: Night, hold: Hold) -> AsyncIterator[Daemon]:
    told.provider.holds = [hold]
    async with daemon(told.config) as life:
        await first_of(hold.struck.wait(), life.ended())
        assert life.returncode is None, life.said
        yield life


def is_create(what: str) -> bool:
    return what == "create"


async def test_sigterm_while_the_server_is_off_ends_with_0_and_the_server_on_and_the_next_start_does_the_rest(
    tmp_path: Path,
) -> None:
    async with night(tmp_path) as told:
        hold = Hold(number=1, fits=is_create)
        async with held_at(told, hold) as life:
            life.send(signal.SIGTERM)
            await life.has_said("asked to end")
            hold.release()
            assert await life.ended() == 0
        assert told.world.status_of(told.server_id) == "active"
        await told.last_life()


async def test_sigterm_before_the_stop_ends_at_once_with_0_and_the_server_untouched(tmp_path: Path) -> None:
    async with night(tmp_path) as told:
        hold = Hold(number=1, when="before")
        async with held_at(told, hold) as life:
            life.send(signal.SIGTERM)
            await life.has_said("asked to end")
            hold.release()
            assert await life.ended() == 0
        assert not [one for one in told.provider.journal if changes(one.what)]
        await told.last_life()


async def test_a_second_sigterm_ends_at_once_and_the_next_start_brings_the_server_back(tmp_path: Path) -> None:
    async with night(tmp_path) as told:
        hold = Hold(number=1, fits=is_create)
        async with held_at(told, hold) as life:
            life.send(signal.SIGTERM)
            await life.has_said("asked to end")
            life.send(signal.SIGTERM)
            assert await life.ended() == 128 + signal.SIGTERM
            assert told.world.status_of(told.server_id) == "stopped"
        hold.release()
        await told.last_life()


async def test_sigterm_while_nothing_is_done_ends_with_0(tmp_path: Path) -> None:
    """As a shell starts it, Python and all."""
    async with night(tmp_path) as told, daemon(told.config, start=running) as life:
        await told.end()
        life.send(signal.SIGTERM)
        assert await life.ended() == 0
