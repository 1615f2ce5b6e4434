"""Several replicas at work on one ledger: a process each, which claims every slot.

Any may die, be frozen or be cut off. All share one account and one ledger (`tests/support/shared.py`). What befalls
them is drawn, and comes at its time or at the moment of a request; the promises are judged from the provider's side.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter as Tally
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import Any, Literal

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Result, Rotation
from snaprotd.simulator import Reply, Request
from tests.support.crowds import Onlooker
from tests.support.followers import Process
from tests.support.histories import ACCOUNT
from tests.support.lives import OneOfSeveral, Story, night
from tests.support.rotations import changed
from tests.support.shared import SharedDatabase, SharedLedger
from tests.support.truths import slot_in

LEASE_RENEWAL = 10.0
TICK, WHILE_IDLE = 20.0, 240.0
"""Seconds between two looks at the ledger: while something may be at work, and after that."""
MENDED_EVERY = 4
"""So many of them, and more is done for it."""
AT_WORK = timedelta(minutes=20)
"""Since a slot."""
BEFORE = timedelta(minutes=1)
"""So long before the first slot the replicas begin."""
AFTERWARDS = timedelta(minutes=80)
"""After the last slot: by then all is well."""

Harm = Literal["killed", "frozen", "cut off"]


@dataclass(frozen=True, kw_only=True)
class Blow:
    """What befalls one replica."""

    harm: Harm
    replica: int
    at: float | str
    """Seconds after the first slot, or the moment of a request of its own, such as `after create`."""
    lasts: float
    """Seconds."""


SAME_MOMENT = timedelta(seconds=30)
"""Within which another replica may ask for its snapshot of a server that one has looked at, and starts: who is cut off
from the database is told by nobody. A server is rather started than left off."""


class Witness(Onlooker):
    """Judges each request for any of the servers when it is made."""

    crowd: Any

    def before(self, request: Request) -> None:
        action = "create" if request.path.endswith("/snapshots/") else request.json.get("action")
        if request.method == "POST" and action == "create":
            self._judge_window(request)
            self._judge_open(request)
        if action == "start":
            self._judge_start(request.path.split("/")[-3])
        super().before(request)

    def _judge_window(self, request: Request) -> None:
        slot, now = slot_in(str(request.json["name"]), self.crowd.instance), self.crowd.world.now()
        if slot is None or not slot <= now <= slot + self.crowd.window:
            self.say(f"P11: {request.json['name']} was asked for at {now}")

    def _judge_start(self, server: str) -> None:
        """One that takes longer than is waited for is none, nor is what a request made that was carried out twice."""
        patience, now = self.crowd.policy.snapshot_timeout, self.crowd.world.now()
        unseen = SAME_MOMENT if any(blow.harm == "cut off" for blow in self.crowd.blows) else timedelta(0)
        for one in self.crowd.world.snapshots_of(server):
            is_at_work = one.status not in ("completed", "failed") and unseen <= now - one.made_at < patience
            if (
                is_at_work
                and one not in self.crowd.world.doubled
                and slot_in(one.name, self.crowd.instance) is not None
            ):
                self.say(f"P4: {server} was started in the middle of {one.name}")

    def _judge_open(self, request: Request) -> None:
        name, server = str(request.json["name"]), str(request.json["server_id"])
        loop = asyncio.get_running_loop()
        until = self.crowd.open_until.get((server, name), 0.0)
        if until > loop.time():
            self.say(f"P4: {name} of {server} was asked for while another request for it was still open")
        self.crowd.open_until[server, name] = loop.time() + self.crowd.settle

    def after(self, request: Request, reply: Reply) -> None:
        """An answer that is plain ends what is open."""
        is_plain = not reply.effect and reply.status < 500 and reply.status != 409
        if request.method == "POST" and request.path.endswith("/snapshots/") and is_plain:
            self.crowd.open_until.pop((str(request.json["server_id"]), str(request.json["name"])), None)


class Replica(Process):
    """One process, from its beginning to its death or to the end of the story."""

    history: Any

    def __init__(self, history: Replicas, number: int) -> None:
        self.number = number
        self.has_begun = asyncio.Event()
        super().__init__(history, is_second=True)  # type: ignore[arg-type]
        self.board.show_only({one: history.world.servers[one].name for one in history.server_ids})

    def moment(self, which: str) -> None:
        if self.is_dead:
            raise asyncio.CancelledError
        if which in self.history.awaited.get(self.number, {}):
            self.history.strike(self.history.awaited[self.number].pop(which))
            if self.is_dead:
                raise asyncio.CancelledError

    async def gate(self) -> None:
        """Who is dead passes it no more."""
        await self.thawed.wait()
        if self.is_dead:
            await asyncio.Event().wait()

    async def _live(self) -> None:
        self.history.beginning = self.number
        await super()._live()

    async def begins(self, begun: Awaitable[object]) -> None:
        """Return when it has; raise what it has failed by."""
        waits = asyncio.ensure_future(begun)
        await asyncio.wait([waits, self._root], return_when=asyncio.FIRST_COMPLETED)
        if self._root.done():
            self._root.result()

    async def _go_through_nights(self) -> None:
        self.has_begun.set()
        renewals = asyncio.create_task(self.rotations.keep_leases(LEASE_RENEWAL))
        ticks = asyncio.create_task(self._tick())
        self._tasks += [renewals, ticks]
        for slot in self.history.slots:
            await asyncio.sleep(max(0.0, (slot - datetime.now(UTC)).total_seconds()))
            for server_id in self.history.server_ids:
                await self._claim_of(server_id, slot)

    async def _claim_of(self, server_id: str, slot: datetime) -> None:
        """For as long as it could still begin."""
        while datetime.now(UTC) < slot + timedelta(minutes=30):
            with suppress(LedgerError):
                await self.rotations.begin(self.history.rotation_of(server_id, slot))
                return
            await asyncio.sleep(TICK)

    async def _tick(self) -> None:
        for number in count():
            with suppress(LedgerError):
                if not number % MENDED_EVERY:
                    await self.rotations.mend_ledger()
                await self.take_over()
            now = datetime.now(UTC)
            is_busy = self.board.running or any(slot - BEFORE <= now <= slot + AT_WORK for slot in self.history.slots)
            await asyncio.sleep(TICK if is_busy else WHILE_IDLE)

    async def _leave_marks(self) -> None:
        """Its ticks leave them."""

    async def _note_others(self) -> None:
        """Nobody looks at the board."""


@dataclass(kw_only=True)
class Replicas(Story):
    """Some nights of some servers, and what befalls the replicas that look after them."""

    number: int
    server_ids: tuple[str, ...]
    kept: int
    nights: int
    blows: tuple[Blow, ...]
    database: SharedDatabase
    has_folders: bool = True
    """Each replica has a folder that outlives it."""
    window: timedelta = timedelta(hours=1)
    beginning: int = 0
    label: str = ""
    awaited: dict[int, dict[str, Blow]] = field(default_factory=dict)
    open_until: dict[tuple[str, str], float] = field(default_factory=dict)
    replicas: dict[int, Replica] = field(default_factory=dict)
    met: Tally[str] = field(default_factory=Tally)
    hours_apart: int = 2

    @property
    def slots(self) -> list[datetime]:
        return [night(0) + timedelta(hours=self.hours_apart * number) for number in range(self.nights)]

    async def open_ledger(self) -> Any:
        owner = uuid.uuid4().hex
        name = f"of-{self.beginning}" if self.has_folders else f"of-{owner}"
        return await SharedLedger.shared(self.database, self.ledger_path.with_name(name), owner=owner)

    def rotation_of(self, server_id: str, slot: datetime) -> Rotation:
        label = self.world.servers[server_id].name
        return changed(
            self.rotation(slot), id=f"{slot:%Y%m%d%H%M%S}-{server_id}"[:32], server_id=server_id, label=label
        )

    async def live(self) -> list[str]:
        """To the end: the broken promises."""
        witness, loop = Witness(self), asyncio.get_running_loop()  # type: ignore[arg-type]
        for blow in self.blows:
            if isinstance(blow.at, str):
                self.awaited.setdefault(blow.replica, {})[blow.at] = blow
            else:
                loop.call_later((night(0) - datetime.now(UTC)).total_seconds() + blow.at, self.strike, blow)
        await asyncio.sleep((night(0) - BEFORE - datetime.now(UTC)).total_seconds())
        for number in range(self.number):
            await self._begin(number)
        end = self.slots[-1] + AFTERWARDS
        await asyncio.sleep((end - datetime.now(UTC)).total_seconds())
        if "a failover" in self.database.met:
            # A file has no timeline by which a failover is known, so none is waited out here.
            witness.broken = [one for one in witness.broken if not one.startswith("P4")]
            witness.forgives |= {"P4", "P1"} if self.met["killed"] else {"P4"}
        await self._judge(witness)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return witness.broken

    async def _begin(self, number: int) -> None:
        """It is at work when this ends."""
        one = self.replicas[number] = Replica(self, number)
        await one.begins(one.has_begun.wait())

    def strike(self, blow: Blow) -> None:
        loop, one = asyncio.get_running_loop(), self.replicas[blow.replica]
        self.met[blow.harm] += 1
        if blow.harm == "killed":
            one.is_dead = True
            loop.call_later(blow.lasts, lambda: setattr(self, "_next", asyncio.create_task(self._begin(blow.replica))))
        elif blow.harm == "frozen":
            one.thawed.clear()
            loop.call_later(blow.lasts, one.thawed.set)
        else:
            ledger: Any = one.tools.ledger
            ledger.is_cut = True
            loop.call_later(blow.lasts, lambda: setattr(ledger, "is_cut", False))

    async def _judge(self, witness: Witness) -> None:
        witness.judge_power(was_active=True)
        async with await OneOfSeveral.open(self.ledger_path, owner="a reader", lock=False) as ledger:
            ledger.starts.account = ACCOUNT
            told = {(one.server_id, one.slot): one for one in await ledger.history(limit=1000)}
        for server, slot in product(self.server_ids, self.slots):
            name, row = self.rotation_of(server, slot).snapshot_name, told.get((server, slot))
            made = [one for one in self.world.created if (one.server_id, one.name) == (server, name)]
            good = [one for one in made if one not in self.world.doubled and one.status != "failed"]
            if len(good) > 1:
                witness.say(f"P4: {name} of {server}: {len(good)} snapshots of the slot")
            if row is None or not row.is_finished:
                witness.say(f"P4: {name} of {server}: no rotation of the slot, or none that has ended")
            elif not good and (row.result is not Result.FAILURE or not row.error):
                witness.say(f"P7: {name} of {server}: {row.result}, and there is no snapshot")
