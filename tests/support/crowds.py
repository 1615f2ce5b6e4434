"""Crowds: histories of several servers that are stopped for their snapshots, where there are few requests a second.

Some wait in line for others, and the provider may let less through than is configured. What befalls the processes is
drawn as for one server (`tests/support/histories.py`); what is promised to each server is less exactly judged.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any, ClassVar

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Result, Rotation
from snaprotd.engine.turns.admission import WAITS
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Reply, Request, SimSnapshot
from tests.support.followers import TICK, Process
from tests.support.histories import ACCOUNT, History
from tests.support.rotations import changed
from tests.support.truths import slot_in


class Onlooker:
    """Sees every request for any of the servers, and judges it when it is made."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.broken: list[str] = []
        self.forgives: set[str] = set()
        self.unclear: set[str] = set()
        crowd.before_request = self.before
        crowd.after_request = self.after

    def say(self, broken: str) -> None:
        if broken.partition(":")[0] not in self.forgives:
            self.broken.append(broken)

    def before(self, request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/snapshots/"):
            server, name = str(request.json["server_id"]), str(request.json["name"])
            if self._made(server, name):
                self.say(f"P4: {name} of {server} was asked for again although it had been made")
        if request.method == "DELETE":
            self._delete(request.path.split("/")[-2])

    def after(self, request: Request, reply: Reply) -> None:
        """Nothing is judged by the answer."""

    def _made(self, server: str, name: str) -> list[SimSnapshot]:
        mine = [one for one in self.crowd.world.created if (one.server_id, one.name) == (server, name)]
        return [one for one in mine if one.status != "failed" and one not in self.crowd.world.doubled]

    def _delete(self, snapshot_id: str) -> None:
        victim = self.crowd.world.snapshots.get(int(snapshot_id))
        if victim is None or victim.listed_until is not None:
            return  # gone already: a repeated request
        if slot_in(victim.name, self.crowd.instance) is None:
            self.say(f"P2: {victim.name} is not ours and was deleted")
        if victim.status not in ("completed", "failed"):
            self.say(f"P5: {victim.name} was deleted while {victim.status}")
        held = [one for one in self.crowd.world.snapshots_of(victim.server_id) if one.status == "completed"]
        newest = max(held, key=lambda one: (one.made_at, one.id), default=None)
        if victim is newest:
            self.say(f"P3: {victim.name} of {victim.server_id}, the newest, was deleted")
        if victim.status == "completed" and len(held) <= self.crowd.kept:
            self.say(f"P6: {victim.name} of {victim.server_id} was deleted, and {len(held)} are there")

    # -- what a history asks for -----------------------------------------------------------------------------------

    def judge_what_is_gone(self) -> None:
        """All that went was judged as it went."""

    def judge_result(self, rotation: Rotation) -> None:
        """What a rotation says of itself, and what it made."""
        made = self._made(rotation.server_id, rotation.snapshot_name)
        if len(made) > 1:
            self.say(f"P4: {len(made)} snapshots of {rotation.server_id} for one slot")
        is_done = any(one.status == "completed" for one in made)
        if rotation.result in (Result.SUCCESS, Result.PARTIAL) and not is_done:
            self.say(f"P7: {rotation.result}, and {rotation.snapshot_name} of {rotation.server_id} is not completed")
        if rotation.result is not Result.SUCCESS and not rotation.error:
            self.say("P7: a failure without a reason")

    def judge_power(self, *, was_active: bool, is_known: bool = True) -> None:
        for server in self.crowd.server_ids:
            if (status := self.crowd.world.status_of(server)) != "active":
                self.say(f"P1: server {server} was running and is {status}")

    def judge_last_resort(self, *, paid: bool, was_active: bool) -> None:
        self.judge_power(was_active=was_active)
        if not paid:
            self.say("P1: the process ended, and not all was paid")


class CrowdProcess(Process):
    """Has all of them rotated at each slot."""

    history: Crowd

    def __init__(self, history: Crowd, *, is_second: bool = False, is_disk_full: bool = False) -> None:
        super().__init__(history, is_second=is_second, is_disk_full=is_disk_full)
        self.board.show_only({one: history.world.servers[one].name for one in history.server_ids})

    async def _go_through_nights(self) -> None:
        await self._recover()
        for slot in self.history.slots:
            await asyncio.sleep(max(0.0, (slot - datetime.now(UTC)).total_seconds()))
            if slot not in self.history.ended:
                for server_id in self.history.server_ids:
                    await self._claim_of(server_id, slot)
                await self._until_all_have_ended()
                self.history.ended[slot] = None
        self.history.nights_are_over()

    async def _claim_of(self, server_id: str, slot: datetime) -> None:
        while True:
            try:
                await self.rotations.begin(self.history.rotation_of(server_id, slot))
                return
            except LedgerError:
                await asyncio.sleep(TICK)

    async def _until_all_have_ended(self) -> None:
        for turn in count(1):
            await asyncio.sleep(10)
            self.history.waited |= {one.server_id for one in self.board.running.values() if one.note == WAITS}
            await self._keep_leases()
            if self.board.running or turn % 6:
                continue
            with suppress(LedgerError):
                if not await self.tools.ledger.open_rotations():
                    return
                await self.take_over()


@dataclass(kw_only=True)
class Crowd(History):
    """Nights of several servers, which all have their slot at one time."""

    process: ClassVar[type[Process]] = CrowdProcess
    judged_by: ClassVar[Any] = Onlooker
    server_ids: tuple[str, ...]
    kept: int
    waited: set[str] = field(default_factory=set)
    """Those that were shown to wait for requests."""

    def rotation(self, slot: datetime, **changes: Any) -> Rotation:
        return self.rotation_of(self.server_id, slot)

    def rotation_of(self, server_id: str, slot: datetime) -> Rotation:
        label = self.world.servers[server_id].name
        name = f"{slot:%Y%m%d%H%M%S}-{server_id}"[:32]
        return changed(super().rotation(slot), id=name, server_id=server_id, label=label)

    def _look(self) -> None:
        """Which of several servers a metric tells of is for other tests."""

    async def live(self) -> list[str]:
        """And then what the ledger tells of it."""
        was_smooth = not self.world.faults and self.frozen_at is None
        await super().live()
        async with await Ledger.open(self.ledger_path, owner="a reader", lock=False) as ledger:
            ledger.starts.account = ACCOUNT
            told = await ledger.history(limit=1000)
            still_open = await ledger.open_rotations()
        for one in still_open:
            self.witnessed.say(f"P9: a day later the rotation of {one.label} is at {one.step}: {one.note}")
        for one in told:
            self.witnessed.judge_result(one)
            if one.skipped == "rate":
                self.witnessed.say(f"P9: {one.label} has waited for its turn for ever: {one.error}")
        if not self.has_forgotten:
            self._judge_number(told)
        if was_smooth and {*self.met} <= {""}:
            for one in told:
                if one.result is not Result.SUCCESS:
                    self.witnessed.say(f"P9: nothing went wrong, and {one.label} ended as {one.result}: {one.error}")
        return list(self.witnessed.broken)

    def _judge_number(self, told: list[Rotation]) -> None:
        of_each = Tally(one.server_id for one in told)
        for server in self.server_ids:
            if of_each[server] != self.nights:
                self.witnessed.say(f"P9: {of_each[server]} rotations of {server} in {self.nights} nights")
