"""A process of a history: what a daemon does with its rotations, until it is killed, frozen or ended.

It takes over what is open, takes up what is owed, claims each slot, renews its leases, looks at the clock and at the
account. It is without a schedule, a file and a page: those belong to whole daemons (`tests/support/promised.py`), which
take twenty times as long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from snaprotd.core.admission import again, may_be_retried, next_attempt
from snaprotd.core.errors import CloudError, LedgerError
from snaprotd.core.promise import Terms
from snaprotd.core.rotation import Rotation
from snaprotd.engine.board import Board
from snaprotd.engine.rotations import Rotations
from snaprotd.engine.tools import Tools
from snaprotd.observe.series import ServerSeries
from snaprotd.simulator import Reply, Request
from tests.support.harms import delete_ledger

if TYPE_CHECKING:
    from tests.support.histories import History

DAY = 86400.0
TICK = 61.0
"""Seconds between two looks at the account, while something is owed or runs."""
FOLLOWED_EVERY = 3000.0
"""The same, while nothing is owed, and an old stop may turn out to have struck."""
MARKED_EVERY = 4 * 3600.0
MARKS_APART = timedelta(hours=5)
"""Between two marks of one life, where that is patched: a daemon leaves one every few seconds."""
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
        return not self.error and "} 1\n" not in ServerSeries(self.board).stopped(self.board.servers)

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
            history.hear({})
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
            for work in (self._leave_marks(), self._watch_account(), self._go_through_nights()):
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

    async def _leave_marks(self) -> None:
        """By which a ledger knows when there was somebody who would have noted what was taken."""
        while True:
            pause = MARKED_EVERY
            try:
                await self.tools.ledger.probe()
            except LedgerError:
                pause = TICK
            await asyncio.sleep(pause)

    async def _watch_account(self) -> None:
        keeper = self.rotations.keeper
        self.tools.inventory.listed = keeper.follow
        waited = 0.0
        while True:
            await asyncio.sleep(TICK)
            waited += TICK
            if self._is_second:
                await self._note_others()
            is_at_work = keeper.has_promises or self.board.running
            if not keeper.is_following or waited < (TICK if is_at_work else FOLLOWED_EVERY):
                continue
            waited = 0.0
            try:
                await self.tools.inventory.refresh()
                self.error = False
            except CloudError:
                self.error = True

    async def _note_others(self) -> None:
        """What the other process is at, which may have thawed, is told by this one too."""
        with suppress(LedgerError):
            found = await self.tools.ledger.open_rotations()
            self.board.elsewhere = {one.id: one for one in found if one.id not in self.board.running}

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
            due: datetime | None = slot
            while due is not None:
                await asyncio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds()))
                if slot not in history.ended or due > slot:
                    await self._rotate(slot)
                due = self._tried_again_at(slot)
        history.nights_are_over()

    def _tried_again_at(self, slot: datetime) -> datetime | None:
        """As a daemon decides it, by the slot's last attempt."""
        last, now = self.history.ended.get(slot), datetime.now(UTC)
        if last is None or not may_be_retried(last):
            return None
        return next_attempt(last, self.history.rules, delay=timedelta(0), now=now).at

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
        last = max(found, key=lambda one: one.attempt, default=None)
        if last is not None and last.is_finished:
            self.history.note_end(slot, last)
            return True
        if not any(one.slot == slot for one in await self.tools.ledger.open_rotations()):
            self.history.note_end(slot, None)
            return True
        return False

    async def _keep_leases(self) -> None:
        """As a daemon does, but only where one is about to run out."""
        held: Any = self.tools.ledger._held
        if any(lease.valid_until - asyncio.get_running_loop().time() < 34 for lease in held.values()):
            with suppress(LedgerError):
                await self.tools.ledger.renew()

    async def _claim(self, slot: datetime) -> None:
        while not self.board.running:
            try:
                await self.rotations.begin(self._attempt_at(slot))
                return
            except LedgerError:
                await asyncio.sleep(TICK)

    def _attempt_at(self, slot: datetime) -> Rotation:
        begun, last = self.history.rotation(slot), self.history.ended.get(slot)
        if last is None:
            return begun
        following = again(last, begun)
        return replace(following, id=f"{following.attempt}-{begun.id}"[:32])


async def _as_long_as_it_lives(work: Coroutine[Any, Any, None]) -> None:
    with suppress(asyncio.CancelledError):
        await work
