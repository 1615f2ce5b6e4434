"""Stories for rotations: a simulated provider, and processes that live and die on it.

A `Story` holds what outlives a process (the provider, the ledger's file). A *life* is one process: the real client,
inventory, ledger and rotation loop. It may be killed before or after any request and any write of the ledger; from
that moment nothing of it reaches the provider or the disk any more.
"""

from __future__ import annotations

import asyncio
import errno
import os
import uuid
from collections import Counter as Tally
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from snaprotd.core.errors import CloudError, LeaseLost
from snaprotd.core.model import Machine
from snaprotd.core.policy import Policy, Rules
from snaprotd.core.rotation import Rotation
from snaprotd.engine.board import Board
from snaprotd.engine.loop import run_rotation
from snaprotd.engine.run import Run
from snaprotd.engine.starts.keeper import Keeper
from snaprotd.engine.tools import Drain, Tools
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.prepared import Statement
from snaprotd.ledger.store import Ledger
from snaprotd.provider.inventory import Inventory
from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org.client import VpsOrg
from snaprotd.simulator import Reply, Request, SimSnapshot, World
from snaprotd.wiring.assembly import know_ids
from tests.support.harms import note_begun, note_committed
from tests.support.limits import Limit
from tests.support.rotations import changed
from tests.support.world_transport import WorldTransport

FEW_ATTEMPTS = 2
"""The client repeats a request once only: the stories are about more than that."""


class Witness:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.start_failures = 0
        self.deletions: list[bool] = []
        self.finished_rotations: list[Rotation] = []
        self.downtimes: list[float] = []

    def start_failed(self, rotation: Rotation) -> None:
        self.start_failures += 1

    def deleted(self, rotation: Rotation, *, success: bool) -> None:
        self.deletions.append(success)

    def back_on(self, server_id: str, seconds: float) -> None:
        self.downtimes.append(seconds)

    def finished(self, rotation: Rotation) -> None:
        self.finished_rotations.append(rotation)


Gate = Callable[[], Awaitable[None]]
"""What a process asks of the world outside goes through it, and so do the answers: shut, the process is frozen."""


async def _open() -> None:
    """The gate of a process that nobody freezes."""


class MortalLedger(Ledger):
    """The real ledger, told of a crash before each transaction and after it."""

    moment: Callable[[str], None] = staticmethod(lambda _: None)
    gate: Gate = staticmethod(_open)
    is_disk_full = False
    """Then it can be read, and nothing that was written is kept."""

    @asynccontextmanager
    async def _transaction(self, **how: bool) -> AsyncIterator[Connection]:
        await self._is_let_through()
        self.moment("before write")
        async with super()._transaction(**how) as connection:
            note_begun(Path(self.name), **how)
            before = await self._changes(connection)
            yield connection
            if await self._changes(connection) != before:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        note_committed(Path(self.name), **how)
        self.moment("after write")
        await self._is_let_through()

    async def _is_let_through(self) -> None:
        await self.gate()

    async def _changes(self, connection: Connection) -> int:
        """Rows changed so far, as far as that matters."""
        if not self.is_disk_full:
            return 0
        return int((await connection.execute(Statement("SELECT total_changes()"))).scalar())


class OneOfSeveral(MortalLedger):
    """Of those that are several processes in a history."""

    is_sole_user = False
    """The lock tells processes apart, and they are one."""


class GatedTransport(WorldTransport):
    """The way to the provider of a process that can be frozen: before it begins to send, or before it is answered."""

    gate: Gate = staticmethod(_open)
    limit: Limit | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self.gate()
        if self.limit is not None and not self.limit.lets_through(asyncio.get_running_loop().time()):
            await asyncio.sleep(self.latency)
            return httpx.Response(429, json={"detail": "Request was throttled."}, request=request)
        answer = await super().handle_async_request(request)
        await self.gate()
        return answer


@dataclass
class Story:
    """A provider, a ledger, and one server with its policy."""

    world: World
    ledger_path: Path
    policy: Policy
    server_id: str
    instance: str = "main"
    limit: int = 5
    settle: float = 120.0
    poll_interval: float = 15.0
    rate: float = 1000.0
    """Requests a second that are configured."""
    limit_to_rate: Limit | None = None
    """How many of them are let through; None for all."""
    crashes: set[int | tuple[str, int]] = field(default_factory=set)
    """The moments at which the process dies, counted over all lives: the 40th of all, or the 2nd `after create`."""
    machine: Machine = field(default_factory=Machine)
    """The one that the processes run on."""
    witness: Witness = field(default_factory=Witness)
    moments: Tally[str] = field(default_factory=Tally)
    before_request: Callable[[Request], None] = lambda _: None
    after_request: Callable[[Request, Reply], None] = lambda _, __: None
    bend: Callable[[Request, Reply], Reply] = lambda _, reply: reply
    """What processes are told in place of the world's own answers."""
    records: list[Rotation] = field(default_factory=list)
    taken_by_others: set[int] = field(default_factory=set)
    """The ids of what other people have taken since the story began."""
    said: dict[int, date] = field(default_factory=dict)
    """What a person has said last of snapshots by a command, which stands in the ledger: their last days, by id."""
    has_forgotten: bool = False
    """The ledger has lost rows that it had."""

    def rotation(self, slot: datetime, **changes: Any) -> Rotation:
        begun = Rotation.begin(
            id=f"{slot:%Y%m%d%H%M%S}-{self.server_id}"[:32],
            server_id=self.server_id,
            label=self.world.servers[self.server_id].name,
            slot=slot,
            rules=self.rules,
            now=datetime.now(UTC),
            settle=self.settle,
        )
        return changed(begun, **changes)

    def can_tell_apart(self, one: SimSnapshot) -> bool:
        """Whether a process can know that `one`, which bears a name of ours, was taken by somebody else."""
        return True

    def sayings(self) -> list[dict[int, date]]:
        """What was said of holds, as a look may have it that was made just now."""
        return [self.said]

    def shows_nothing(self) -> bool:
        """Whether the lists of snapshots are empty now."""
        return not self.world.listed(self.server_id)

    def doubtful(self) -> int:
        """How many of our snapshots may not be shown as they are: each holds a slot, and another gives way."""
        return 0

    def hides_names(self) -> bool:
        """Whether what was taken at our request is listed under a name by which nobody would know it."""
        return False

    def at_work(self) -> Rotation | None:
        """The rotation that is open, where its first requests are to be judged by their time."""
        return None

    @property
    def rules(self) -> Rules:
        return Rules(policy=self.policy, instance=self.instance, limit=self.limit)

    @asynccontextmanager
    async def life(
        self,
        moment: Callable[[str], None] = lambda _: None,
        gate: Gate = _open,
        told: Callable[[Request, Reply], None] = lambda _, __: None,
    ) -> AsyncIterator[Tools]:
        """A process's tools; `moment` is called, and told which, wherever the process may be killed.

        `told` hears every answer that this process gets.
        """

        def before(request: Request) -> None:
            moment(f"before {_kind(request)}")
            self.before_request(request)

        def after(request: Request, reply: Reply) -> None:
            self.after_request(request, reply)
            told(request, reply)
            moment(f"after {_kind(request)}")

        transport = GatedTransport(self.world, before=before, after=after, bend=self.bend)
        transport.gate, transport.limit = gate, self.limit_to_rate
        token = token_source(None, {"VPS_API_TOKEN": self.world.token})
        cloud = VpsOrg(
            base_url="https://vps.invalid/api/v1",
            token=token,
            requests_per_second=self.rate,
            attempts=FEW_ATTEMPTS,
            transport=transport,
        )
        async with AsyncExitStack() as at_the_end:  # whatever moment it is killed at, none of it stays open
            at_the_end.push_async_callback(cloud.aclose)
            ledger: Any = await self.open_ledger()
            at_the_end.push_async_callback(ledger.close)
            inventory = Inventory(cloud)
            at_the_end.push_async_callback(_let_go, inventory)
            await know_ids(ledger, inventory)
            ledger.moment, ledger.gate = moment, gate
            try:
                yield Tools(
                    cloud=cloud,
                    inventory=inventory,
                    ledger=ledger,
                    observer=self.witness,
                    drain=Drain(),
                    machine=lambda: self.machine,
                    poll_interval=self.poll_interval,
                )
            finally:
                ledger.moment, ledger.gate = lambda _: None, _open

    async def open_ledger(self) -> Any:
        """As a process of its own."""
        return await OneOfSeveral.open(self.ledger_path, owner=uuid.uuid4().hex)

    async def rotate(self, slot: datetime, **changes: Any) -> Rotation:
        """One rotation in one life, from its claim to its end."""
        async with self.life() as tools:
            rotation = self.rotation(slot, **changes)
            claim = await tools.ledger.claim(rotation)
            assert isinstance(claim, Claimed), claim
            ended = await run_rotation(Run(claim.rotation, tools, self.records.append))
            await self.see_to_starts(tools)
            return ended

    async def see_to_starts(self, tools: Tools) -> None:
        """What a daemon does after a rotation: it looks at its servers every so often, for as long as that matters."""
        keeper = Keeper(tools, Board(), serves=lambda _: False)
        await keeper.take_up()
        try:
            while keeper.is_following:
                await asyncio.sleep(60.0 if keeper.has_promises else 1800.0)
                with suppress(CloudError):
                    keeper.follow({self.server_id: await tools.inventory.server(self.server_id)})
        finally:
            await keeper.aclose()

    async def live_through(self, slot: datetime) -> Rotation:
        """The rotation of `slot`, however many lives it takes."""
        while True:
            ended = await self._one_life(slot)
            if ended is not None:
                return ended
            await asyncio.sleep(10)  # the service is started again

    async def _one_life(self, slot: datetime) -> Rotation | None:
        dead = False
        whole = asyncio.current_task()
        main: asyncio.Task[Rotation]

        def moment(which: str) -> None:
            nonlocal dead
            self.moments.update([which, "all"])
            if {self.moments["all"], (which, self.moments[which])} & self.crashes:
                dead = True
            if dead:
                raise asyncio.CancelledError

        async def process() -> Rotation:
            async with self.life(moment) as tools:
                for interrupted in await tools.ledger.take_over(everything=True):
                    await run_rotation(Run(interrupted, tools, self.records.append))
                claim = await tools.ledger.claim(self.rotation(slot))
                if isinstance(claim, Claimed):
                    await run_rotation(Run(claim.rotation, tools, self.records.append))
                await self.see_to_starts(tools)
                (last,) = [one for one in await tools.ledger.history(limit=50) if one.slot == slot]
                return last

        main = asyncio.create_task(process())
        try:
            return await main
        except asyncio.CancelledError:
            await self._bury(whole, main)
            return None
        except LeaseLost:
            return None

    @staticmethod
    async def _bury(*spared: asyncio.Task[Any] | None) -> None:
        """The dead process's other tasks end with it."""
        others = [task for task in asyncio.all_tasks() if task not in spared]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _let_go(inventory: Inventory) -> None:
    with suppress(BaseException):
        await inventory.aclose()


def _kind(request: Request) -> str:
    if request.method == "POST":
        return str(request.json.get("action", "create"))
    return request.method.lower()


def night(number: int) -> datetime:
    """The slot of the numbered night."""
    return datetime(2025, 1, 16, 3, 30, tzinfo=UTC) + timedelta(days=number)
