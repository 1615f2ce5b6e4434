"""Histories: some nights of a server, processes that are killed, frozen and harmed, and the day after the last night.

A *process* here is what a daemon does with its rotations: it takes over what is open, takes up what is owed, claims
each slot, renews its leases, looks at the clock and at the account. It is without a schedule, a file and a page: those
belong to whole daemons (`tests/support/promised.py`), which take twenty times as long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from snaprotd.core.errors import CloudError, ConfigError, LedgerError, SnaprotdError
from snaprotd.core.promise import Terms
from snaprotd.core.rotation import Rotation
from snaprotd.daemon.last_resort import pay_what_is_owed
from snaprotd.engine.board import Board
from snaprotd.engine.rotations import Rotations
from snaprotd.engine.run import Tools
from snaprotd.observe.collector import ServerCollector
from snaprotd.simulator import Reply, Request
from tests.support.harms import (
    BEFORE_THE_DAEMON,
    FORGETS_THE_SLOT,
    Harm,
    befall,
    delete_ledger,
    disk_is_read_only,
    is_owed_on,
    is_promise_known,
    put_right,
    told_by,
)
from tests.support.lives import Story, night
from tests.support.promises import Witnessed
from tests.support.world_transport import WorldTransport

HOUR, DAY = 3600.0, 86400.0
LOOK_EVERY = 293.0
"""Seconds between two looks at the server and at what is said of it."""
TICK = 61.0
"""Seconds between two looks at the account, while something is owed or runs."""
FOLLOWED_EVERY = 3000.0
"""The same, while nothing is owed, and an old stop may turn out to have struck."""
NOTICED_WITHIN = 4 * HOUR
"""Seconds in which a process looks at a server that an old stop may still switch off, several times over."""
FULL_FOR = 1200.0
"""Seconds for which a disk stays full."""
BASE_URL = "https://vps.invalid/api/v1"


class Process:
    """One process of a history."""

    def __init__(self, history: History, *, is_second: bool = False, is_disk_full: bool = False) -> None:
        """`is_second`: another one, which is frozen, has the ledger open."""
        self.history = history
        self.is_mortal = not is_second
        self.board = Board()
        self.board.show_only({history.server_id: history.label})
        self.rotations: Rotations
        self.tools: Tools
        self.is_dead = False
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.shown_off = 0
        """Answers in which it was told that the server is off, since that was so."""
        self.error = False
        """It could not read the account the last time, or could not use the ledger."""
        self._is_second = is_second
        self._is_disk_full = is_disk_full
        self._ending = asyncio.Event()
        self._root = asyncio.create_task(self._live())

    @property
    def is_frozen(self) -> bool:
        return not self.thawed.is_set()

    @property
    def says_that_all_is_well(self) -> bool:
        """Neither a metric nor an error tells of a server that is off because of us."""
        (family,) = [
            one for one in ServerCollector(self.board).collect() if one.name == "snaprotd_server_stopped_by_us"
        ]
        return not self.error and not any(sample.value for sample in family.samples)

    # -- how it may end ----------------------------------------------------------------------------------------

    def moment(self, which: str) -> None:
        """Where it may be killed."""
        if self.is_dead:
            raise asyncio.CancelledError
        history = self.history
        if not self.is_mortal:
            return
        history.moments.update([which, "all"])
        if {history.moments["all"], (which, history.moments[which])} & history.crashes:
            self.is_dead = True
            history.wake.set()
            raise asyncio.CancelledError
        if which == "after write" and history.moments[which] == history.ledger_deleted_at:
            delete_ledger(history.ledger_path)
            history.is_ledger_missing = True
            self._tasks.append(asyncio.create_task(self._mend()))

    async def gate(self) -> None:
        """Where it may be frozen."""
        history = self.history
        if self.is_mortal and history.frozen_at is not None:
            history.moments["gate"] += 1
            if history.moments["gate"] == history.frozen_at:
                self.thawed.clear()
                self.is_mortal = False
                history.wake.set()
        await self.thawed.wait()

    def told(self, request: Request, reply: Reply) -> None:
        """What it is told of the server."""
        if request.method == "GET" and "/servers/" in request.path and reply.status == 200 and not reply.effect:
            self.shown_off += b'"status": "stopped"' in reply.body

    async def end(self) -> None:
        """In order: its rotations are drained first."""
        self._ending.set()
        with suppress(asyncio.CancelledError):
            await self._root

    # -- what it does ------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        history = self.history
        async with history.life(self.moment, self.gate, self.told) as tools:
            self.tools = tools
            ledger: Any = tools.ledger
            ledger.is_disk_full = self._is_disk_full
            asyncio.get_running_loop().call_later(FULL_FOR, self._free_the_disk)
            ledger.starts.account = "vps.invalid"
            ledger.starts.terms = Terms(base_url=BASE_URL, settle=history.settle, poll_interval=history.poll_interval)
            self.rotations = Rotations(tools, self.board, max_concurrent=5)
            self._tasks: list[asyncio.Task[None]] = []
            for work in (self._watch_account(), self._go_through_nights()):
                self._tasks.append(asyncio.create_task(_as_long_as_it_lives(work)))
            await self._ending.wait()
            await self.rotations.drain(600)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _recover(self) -> None:
        """As a daemon does at its start; where the disk is full it tries again at its ticks."""
        while True:
            try:
                await self.tools.ledger.starts.take_in(at_once=not self._is_second)
                await self.take_over(everything=not self._is_second)
                await self._take_in_later()
                if self._is_second:
                    self._tasks.append(asyncio.create_task(_as_long_as_it_lives(self._take_over_later())))
                return
            except LedgerError:
                await asyncio.sleep(TICK)

    def _free_the_disk(self) -> None:
        ledger: Any = self.tools.ledger
        ledger.is_disk_full = False

    async def take_over(self, *, everything: bool = False) -> None:
        await self.rotations.take_over(everything=everything)
        await self.rotations.take_up()

    async def _watch_account(self) -> None:
        keeper = self.rotations.keeper
        self.tools.inventory.listed = keeper.follow
        waited = 0.0
        while True:
            await asyncio.sleep(TICK)
            waited += TICK
            is_at_work = keeper.has_promises or self.board.running
            if not keeper.is_following or waited < (TICK if is_at_work else FOLLOWED_EVERY):
                continue
            waited = 0.0
            try:
                await self.tools.inventory.refresh()
                self.error = False
            except CloudError:
                self.error = True

    async def _mend(self) -> None:
        """A daemon looks every three seconds whether its ledger is there still."""
        await asyncio.sleep(3)
        await self.rotations.mend_ledger()
        self.history.is_ledger_missing = False
        await self._take_in_later()

    async def _take_over_later(self) -> None:
        """A daemon's ticks, until the lease of the frozen one has run out and what it followed is taken up."""
        for _ in range(2):
            await asyncio.sleep(TICK)
            with suppress(LedgerError):
                await self.take_over()

    async def _take_in_later(self) -> None:
        """What only a copy tells is left to others for a while, and taken in at a later tick."""
        if await self.tools.ledger.starts.take_in():
            await asyncio.sleep(TICK)
            await self.rotations.take_up()

    async def _go_through_nights(self) -> None:
        history = self.history
        await self._recover()
        for slot in history.slots:
            await asyncio.sleep(max(0.0, (slot - datetime.now(UTC)).total_seconds()))
            if slot not in history.ended:
                await self._rotate(slot)
        if history.over_at is None:
            history.over_at = asyncio.get_running_loop().time() + DAY
            asyncio.get_running_loop().call_later(DAY, history.wake.set)

    async def _rotate(self, slot: datetime) -> None:
        """Have the slot's rotation, whoever runs it, to its end: or to where nothing tells of it any more."""
        await self._claim(slot)
        for turn in count(1):
            await asyncio.sleep(10)
            await self._keep_leases()
            if self.board.running or turn % 6:
                continue
            with suppress(LedgerError):
                if await self._is_over(slot):
                    return
                await self.take_over()  # as a daemon does at each tick

    async def _is_over(self, slot: datetime) -> bool:
        """Whether the slot's rotation has ended, or nobody will go on with it."""
        found = [one for one in await self.tools.ledger.history(limit=50) if one.slot == slot]
        if found and found[0].is_finished:
            self.history.note_end(slot, found[0])
        elif not any(one.slot == slot for one in await self.tools.ledger.open_rotations()):
            self.history.note_end(slot, None)
        return slot in self.history.ended

    async def _keep_leases(self) -> None:
        """As a daemon does, but only where one is about to run out."""
        held: Any = self.tools.ledger._held
        if any(lease.valid_until - asyncio.get_running_loop().time() < 34 for lease in held.values()):
            with suppress(LedgerError):
                await self.tools.ledger.renew()

    async def _claim(self, slot: datetime) -> None:
        while not self.board.running:
            try:
                await self.rotations.begin(self.history.rotation(slot))
                return
            except LedgerError:
                await asyncio.sleep(TICK)


async def _as_long_as_it_lives(work: Coroutine[Any, Any, None]) -> None:
    with suppress(asyncio.CancelledError):
        await work


@dataclass(kw_only=True)
class History(Story):
    """Nights of one server, and what befalls the processes that live through them."""

    nights: int = 1
    hours_apart: int = 24
    was_active: bool = True
    harms: tuple[Harm, ...] = ()
    """After each death, in turn."""
    frozen_at: int | None = None
    """The number of the gate at which a process is frozen, of all that are passed; then a second process is started."""
    thaws_after: float | None = None
    """Seconds; None: never."""
    ledger_deleted_at: int | None = None
    """The number of the write after which the ledger is deleted under a living process."""

    label: str = "web-01"
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: dict[datetime, Rotation | None] = field(default_factory=dict)
    """What became of each slot; None where nothing tells of its rotation any more."""
    over_at: float | None = None
    """When the day after the last night ends, by the loop's clock."""
    is_ledger_missing: bool = False
    is_judged: bool = True
    """The promise to start the server can be known to whoever comes next."""
    met: set[str] = field(default_factory=set)
    """What has befallen it."""

    def __post_init__(self) -> None:
        self.witnessed = Witnessed(self)
        self.living: Process | None = None
        self._harms = iter(self.harms)
        self._off_since: float | None = None

    @property
    def slots(self) -> list[datetime]:
        """A night apart, or some hours."""
        return [night(0) + timedelta(hours=self.hours_apart * number) for number in range(self.nights)]

    def note_end(self, slot: datetime, rotation: Rotation | None) -> None:
        self.ended[slot] = rotation
        if rotation is not None:
            asyncio.get_running_loop().call_later(HOUR, self.witnessed.judge_result, rotation)

    # -- the course of it --------------------------------------------------------------------------------------

    async def live(self) -> list[str]:
        """To the end of the day after the last night: the broken promises."""
        loop = asyncio.get_running_loop()
        self.living = Process(self)
        look = loop.call_later(LOOK_EVERY, self._look)
        while self.over_at is None or loop.time() < self.over_at:
            async with asyncio.timeout(10 * DAY):
                await self.wake.wait()
            self.wake.clear()
            if self.living.is_dead:
                await self._go_on_after_a_death()
            elif self.living.is_frozen:
                self._go_on_beside_a_frozen_one()
        self.witnessed.judge_power(was_active=self.was_active, is_known=self.is_judged)
        self._looking.cancel() if self._looking else look.cancel()
        await self._end_everything()
        return self.witnessed.broken

    _looking: asyncio.TimerHandle | None = None

    async def _go_on_after_a_death(self) -> None:
        self.living = None
        await self._end_everything()
        harm = next(self._harms, Harm.NONE)
        self.met.add(harm)
        before = told_by(self.ledger_path)
        befall(self.ledger_path, harm)
        self.is_judged = self.is_judged and is_promise_known(before, told_by(self.ledger_path))
        if harm in FORGETS_THE_SLOT:
            self.witnessed.forgives.add("P4")
        await asyncio.sleep(10)  # the service is started again
        if harm in BEFORE_THE_DAEMON:
            await self._pay_before_the_daemon(harm)
        self.living = Process(self, is_disk_full=harm is Harm.DISK_FULL)

    async def _pay_before_the_daemon(self, harm: Harm) -> None:
        """The daemon cannot begin; an hour later a person has put it right."""
        is_read_only = harm is Harm.DISK_READ_ONLY
        why: SnaprotdError = LedgerError("the disk is read-only") if is_read_only else ConfigError([])
        owed = is_owed_on(self.ledger_path)
        transport = WorldTransport(self.world, before=self.before_request)
        environ = {"VPS_API_TOKEN": self.world.token}
        with disk_is_read_only(self.ledger_path, really=is_read_only):
            async with asyncio.timeout(DAY):
                paid = await pay_what_is_owed([self.ledger_path], environ, why, transport=transport)
        if owed and self.is_judged:
            self.witnessed.judge_last_resort(paid=paid, was_active=self.was_active)
        await asyncio.sleep(HOUR)
        put_right(self.ledger_path, harm)

    def _go_on_beside_a_frozen_one(self) -> None:
        frozen, self.living = self.living, Process(self, is_second=True)
        self.met.add("frozen")
        if frozen is not None and self.thaws_after is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self.thaws_after, frozen.thawed.set)
            loop.call_later(self.thaws_after + HOUR, self._end_the_thawed, frozen)

    def _end_the_thawed(self, process: Process) -> None:
        self._ending = asyncio.create_task(self._leave_to_the_other(process))

    async def _leave_to_the_other(self, process: Process) -> None:
        """What it followed the other one takes up, as a daemon does at its next tick."""
        await process.end()
        if self.living is not None and not self.living.is_dead:
            with suppress(LedgerError):
                await self.living.take_over()

    @staticmethod
    async def _end_everything() -> None:
        """The dead process's tasks end with it."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # -- what is looked at -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Whether a server that is off because of us is told by the process that lives."""
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(LOOK_EVERY, self._look)
        process, status = self.living, self.world.status_of(self.server_id)
        if process is None or status != "stopped" or not self.was_active:
            self._off_since = None
            if process is not None:
                process.shown_off = 0
            return
        self._off_since = loop.time() if self._off_since is None else self._off_since
        if not self.is_judged or self.is_ledger_missing or process.is_frozen:
            return
        is_late = loop.time() - self._off_since > NOTICED_WITHIN
        if (is_late or process.shown_off > 2) and process.says_that_all_is_well:
            self.witnessed.say(f"P8: the server is off because of us, and nothing tells of it at {datetime.now(UTC)}")
