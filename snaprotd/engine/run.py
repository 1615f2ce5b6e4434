"""What a rotation has at hand while this process runs it: its record, the ledger, the provider."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from math import inf
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from snaprotd.core import power
from snaprotd.core.admission import why_not_now
from snaprotd.core.asking import polls
from snaprotd.core.asking.evidence import Use
from snaprotd.core.creation import Creation
from snaprotd.core.errors import CalledOff, LedgerError, NotSent, OutsideWindow
from snaprotd.core.model import Server
from snaprotd.core.policy import stops_itself
from snaprotd.core.power import Power
from snaprotd.core.promise import Overtaken, merged, taken_up
from snaprotd.core.rotation import Rotation, Step, aged, patience_left
from snaprotd.core.telling.entries import Deletion
from snaprotd.engine.looks import Looks
from snaprotd.engine.tools import Tools, unless_called_off
from snaprotd.engine.unsaved import Unsaved
from snaprotd.provider import Priority

log = structlog.get_logger("snaprotd.rotation")

A_MOMENT = 0.01
"""Seconds for which the ages in a record are good enough to be read."""
CERTAINLY = 1.0
"""Seconds after the end of a step's time in which nobody asks whether it is over yet."""

P = ParamSpec("P")
T = TypeVar("T")
Change = Callable[[Rotation], Rotation]
Transition = Callable[[Power], Power]


class Run:
    """One rotation while this process runs it: the record, and what the steps may do with it.

    `update` changes the record in memory; it is written at the end of the visit. `save` has it on disk before anything
    else is done, but for mere progress. The changes are the pure transitions of the core.
    """

    def __init__(self, rotation: Rotation, tools: Tools, show: Callable[[Rotation], None] = lambda _: None) -> None:
        """`show` is told of each change."""
        self._rotation = _taken_up(rotation, tools.now())
        self._aged_at = asyncio.get_running_loop().time()
        self._unguarded = False
        self.unsaved = Unsaved(rotation if rotation.step is Step.LOOK else None)
        self._promised_at: datetime | None = None
        """When a stop was to be promised last. Whether that was saved may never have been answered."""
        self._call: asyncio.Event | None = None
        self._is_start = False
        self._ends_at: float | None = None
        self._looked_at = self._aged_at
        self._noted: Server | None = None
        self.is_cut_off = False
        """What the ledger has of the server could not be read when that was asked last."""
        self.looks = Looks(self)
        """What was seen, and whether it may be acted on still."""
        self.usual: float | None = None
        """Seconds that the server's snapshots take, as far as is known."""
        self.when_to_look: tuple[float, ...] = ()
        """Seconds after which one that nobody is off for is looked for."""
        self._has_past = False
        """That was read."""
        self.has_just_begun_it = False
        """The answer to the request for the snapshot was that it is in progress: there is no need to look."""
        self.tools = tools
        self._show = show

    @property
    def rotation(self) -> Rotation:
        """The record as of now, within `A_MOMENT`."""
        moment = asyncio.get_running_loop().time()
        return self._rotation if moment - self._aged_at < A_MOMENT else self._as_of(moment)

    def _as_of(self, moment: float) -> Rotation:
        self._rotation = aged(self._rotation, moment - self._aged_at)
        self._aged_at = moment
        return self._rotation

    def update(self, change: Change) -> Rotation:
        """Change the record; it is saved at the end of the visit."""
        self._rotation = change(self._as_of(asyncio.get_running_loop().time()))
        try:
            self._show(self._rotation)
        except Exception:
            log.exception("internal error: who watches a rotation must not end it")
        return self._rotation

    def update_power(
        self, transition: Callable[Concatenate[Power, P], Power], *args: P.args, **kwargs: P.kwargs
    ) -> Rotation:
        return self.update(_of_power(transition, *args, **kwargs))

    def update_creation(
        self, transition: Callable[Concatenate[Creation, P], Creation], *args: P.args, **kwargs: P.kwargs
    ) -> Rotation:
        return self.update(_of_creation(transition, *args, **kwargs))

    @property
    def priority(self) -> Priority:
        """The class of what is asked now: urgent where the server is off until it is answered, as far as was seen."""
        starts, one = self._is_start and self.power.may_be_asked_to_start(self.tools.poll_interval), self._rotation
        return Priority.of_rotation(is_off=one.is_payable, starts=starts, is_new=one.step is Step.LOOK)

    @property
    def patience_left(self) -> float:
        """Seconds after which the step has waited too long for certain."""
        return max(patience_left(self.rotation), 0.0) + CERTAINLY

    @property
    def outlives_a_drain(self) -> bool:
        """A process that is to end waits for it: it hears the call to hurry only.

        Not so while it is to ask again for a stop that was refused; where the process is ending already, the looks
        that prove that its server runs are waited for.
        """
        refused = self._rotation.is_refused_its_stop and not self.tools.drain.requested.is_set()
        return self._rotation.needs_its_process and not refused

    def begin_visit(self, *, is_start: bool) -> None:
        """From now on a drain that was not asked for yet calls off what is still to be asked, but for a start.

        So does the end of the step's time; but a visit has as long as one request may take.
        """
        call = self.tools.drain.call(held_off=self.outlives_a_drain)
        self._call, self._is_start = None if call.is_set() or is_start else call, is_start
        left = max(self.patience_left, self.tools.request_timeout)
        self._ends_at = None if is_start or left == inf else asyncio.get_running_loop().time() + left

    async def save(self, change: Change = lambda rotation: rotation, *, deletion: Deletion | None = None) -> None:
        """Change the record and have it on disk before anything else is done. `deletion`: what is about to be.

        Raises `LedgerError` where that fails, `LeaseLost` where the rotation is no longer ours, `GroupTaken` where that
        would hold off a second server of its group, and `HeldSince` where a person holds that by now.
        """
        before, after = self.rotation, change(self.rotation)
        over, tried = before.power if after.is_owed and not before.is_owed else None, self._promised_at
        if over is not None:
            self._promised_at = after.power.held_off_since
        self.unsaved.saving()
        try:
            await self.tools.ledger.save(after, over=over, deletion=deletion)
        except Overtaken as by:  # who let go of an earlier stop, or watches that; or ourselves, with no answer
            was_sent = tried is None or by.known.held_off_since != tried
            self.update_power(merged, replace(by.known, unstruck=by.known.unstruck and was_sent))
            await self.save(change, deletion=deletion)
            return
        self._unguarded = False
        self.unsaved.saved(after)
        self.update(change)

    async def save_power(
        self, transition: Callable[Concatenate[Power, P], Power], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        await self.save(_of_power(transition, *args, **kwargs))

    async def save_creation(
        self, transition: Callable[Concatenate[Creation, P], Creation], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        await self.save(_of_creation(transition, *args, **kwargs))

    async def save_power_if_possible(self, transition: Transition) -> bool:
        return await self.save_if_possible(_of_power(transition))

    async def save_if_possible(self, change: Change = lambda rotation: rotation) -> bool:
        """As `save`, but go on from memory where the ledger cannot be written; True if it could.

        Its server can be started: where that is a file nobody else can write it either. On a database server another
        process may have taken the rotation over; but of two starts one does nothing, and none leaves the server off.
        """
        try:
            await self.save(change)
        except LedgerError as error:
            self._unguarded = True
            log.error("the ledger cannot be written: going on from memory", error=str(error))
            self.update(change)
            return False
        return True

    # -- as one that a start is owed to -------------------------------------------------------------------------

    @property
    def server_id(self) -> str:
        return self._rotation.server_id

    @property
    def ids(self) -> frozenset[str]:
        return self.tools.ledger.starts.record_of(self._rotation).ids

    @property
    def instance(self) -> str:
        return self._rotation.rules.instance

    @property
    def power(self) -> Power:
        return self.rotation.power

    @property
    def start_is_overdue(self) -> bool:
        return self.rotation.start_is_overdue

    @property
    def start_timeout(self) -> float:
        return self._rotation.policy.start_timeout.total_seconds()

    def look(self, server: Server) -> None:
        """Note what was seen of the server's power. One look is one, however many steps act on it."""
        if server is self._noted:
            return
        self._noted = server
        self._looked_at = asyncio.get_running_loop().time()
        self.update_power(power.seen, server, self.tools.now(), apart=self.tools.poll_interval)

    @property
    def looked_ago(self) -> float:
        """Seconds since the last look at the server's power, or since this process began with the rotation."""
        return asyncio.get_running_loop().time() - self._looked_at

    def start_failed(self) -> None:
        self.tools.observer.start_failed(self._rotation)

    def guard(self) -> None:
        """Called when the bytes of a request are about to go out: raise `LeaseLost` unless it is still ours.

        Raises `CalledOff` where the process is to end, or the step's time has run out while a turn was waited for, and
        `OutsideWindow` where it may not begin now.
        """
        if not self._is_start and (why := why_not_now(self._rotation, self.tools.now())):
            raise OutsideWindow(why)
        if self._call is not None and self._call.is_set():
            raise CalledOff("the process is about to end: the request was not sent")
        if self._ends_at is not None and asyncio.get_running_loop().time() > self._ends_at:
            raise CalledOff(self._rotation.note or "there was no turn for the request")
        if not self._unguarded:
            self.tools.ledger.guard(self._rotation.id, self.tools.request_timeout, as_saved=not self._is_start)

    def guard_stop(self) -> None:
        """As `guard`. Raises `Outdated` where the server was looked at too long ago: it was seen running then."""
        self.guard()
        self.looks.demand(Use.SEND, by_list=False)

    def guard_creation(self) -> None:
        """As `guard_stop`, and so for the list of its snapshots."""
        self.guard()
        self.looks.demand(Use.SEND)

    async def ask(self, request: Awaitable[T]) -> T:
        """The answer to a request that changes something: unless it never left, the rotation has begun."""
        sent = True
        try:
            return await request
        except NotSent:
            sent = False
            raise
        finally:
            if sent:
                self.looks.acted()
                self.update(lambda rotation: replace(rotation, begun=True))

    # -- what was seen, and what may be done by it ----------------------------------------------------------------

    async def look_for(self, server_id: str, *, use: Use = Use.DECIDE) -> Server:
        # What is to be deleted by it has been listed a moment ago, and soon it will be too long ago for that.
        priority = min(self.priority, Priority.ACTION) if use is Use.DELETE else self.priority
        return await self.unless_called_off(self.tools.inventory.server(server_id, priority=priority))

    async def stops_itself(self) -> str:
        """Why the server must not be stopped: this process runs on it. Empty where it may be.

        Asked by what this process has seen of the server: its name and its address hardly change meanwhile.
        """
        policy = self._rotation.policy
        server = await self.looks.server() if policy.stop_first else None
        return stops_itself(policy, server, self.tools.machine()) if server is not None else ""

    @property
    def only_waits(self) -> bool:
        """Its snapshot has taken far longer than the server's do."""
        rotation, timeout = self._rotation, self._rotation.policy.snapshot_timeout.total_seconds()
        return rotation.step is Step.WAIT and polls.only_waits(rotation.waited, self.usual, timeout=timeout)

    async def learn_usual(self) -> None:
        """Read once how long the server's snapshots have taken."""
        if self._has_past:
            return
        with suppress(LedgerError):
            earlier = await self.tools.ledger.history(self.server_id, limit=polls.REMEMBERED)
            took = [one.creation.took for one in earlier]
            self.usual, self._has_past = polls.usual(took), True
            slot = f"{self.server_id} {self._rotation.slot.isoformat()}"
            self.when_to_look = polls.when_to_look(took, poll_interval=self.tools.poll_interval, slot=slot)

    async def is_restored_by_hand(self) -> bool:
        """Whether `snaprotd restore` is at work on the server, which may still be shown as active.

        It refuses to begin while a rotation is open: one that has passed its look need not ask. Raises `LedgerError`.
        """
        return await self.tools.ledger.starts.is_restored(self.ids, self.tools.now())

    async def unless_called_off(self, asked: Awaitable[T]) -> T:
        """The answer to a look. Raises `CalledOff` where the process is to end, or the step's time has run out."""
        late = self._rotation.note or "no answer came"
        return await unless_called_off(asked, call=self._call, ends_at=self._ends_at, late=late)


def _taken_up(rotation: Rotation, now: datetime) -> Rotation:
    """With what is known of the server's power by now; what an earlier rotation switched off is not this one's."""
    known = taken_up(rotation.power, now, settle=rotation.settle)
    is_new = rotation.step is Step.LOOK and not known.is_owed
    return replace(rotation, power=replace(known, off_for=0.0) if is_new else known)


def _of_power(transition: Callable[Concatenate[Power, P], Power], *args: P.args, **kwargs: P.kwargs) -> Change:
    return lambda rotation: replace(rotation, power=transition(rotation.power, *args, **kwargs))


def _of_creation(transition: Callable[Concatenate[Creation, P], Creation], *args: P.args, **kwargs: P.kwargs) -> Change:
    return lambda rotation: replace(rotation, creation=transition(rotation.creation, *args, **kwargs))
