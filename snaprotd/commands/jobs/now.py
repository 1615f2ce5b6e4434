"""What the commands do with the ledger and then end: run rotations now."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from statistics import median
from typing import Protocol

from snaprotd.commands.jobs.holding import hold_of_new
from snaprotd.config.settings import Config, Target
from snaprotd.core.admission import called_off, resumed
from snaprotd.core.errors import LeaseLost, SnaprotdError
from snaprotd.core.holds import HoldFor
from snaprotd.core.rotation import Result, Rotation
from snaprotd.daemon.machine import this_machine
from snaprotd.daemon.signals import on_end_asked
from snaprotd.engine.board import Board
from snaprotd.engine.rotations import LEASE_RENEWAL, LEDGER_EVERY, mend_ledger, run_in_turn
from snaprotd.engine.starts.keeper import Keeper
from snaprotd.engine.tools import NO_PERMIT, Permit, Permits, Tools, together
from snaprotd.engine.turns.admission import Admission
from snaprotd.engine.turns.groups import Groups
from snaprotd.ledger.claims import Claimed, ServerBusy
from snaprotd.ledger.leases.others import MARGIN
from snaprotd.ledger.store import Ledger
from snaprotd.observe.metrics import Metrics
from snaprotd.report.rows import busy_words
from snaprotd.wiring.assembly import new_rotation, open_tools

LOOKED_AT_EVERY = 5.0
LOOKED_BEYOND = MARGIN + 2 * LOOKED_AT_EVERY
"""Seconds."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What became of one server's rotation by hand."""

    target: Target
    rotation: Rotation | None = None
    refused: str = ""
    """Why there was none, or why it is another process's now, in a sentence."""

    @property
    def result(self) -> Result:
        """One that was interrupted, or never began, is a failure."""
        return (self.rotation and self.rotation.result) or Result.FAILURE


class Show(Protocol):
    """Is shown a rotation whenever something has changed, and how many seconds those of its server usually take."""

    def __call__(self, rotation: Rotation, usual: float | None) -> None: ...


class ForGood(Protocol):
    """Is told what is to be read by whoever watches; with `is_last` the process ends right after it."""

    def __call__(self, text: str, *, is_last: bool = False) -> None: ...


async def rotate_now(
    config: Config,
    environ: Mapping[str, str],
    targets: Sequence[Target],
    *,
    description: str,
    show: Show,
    say: ForGood,
    hold: HoldFor | None = None,
    mends: bool = False,
    ended: Callable[[Ending], None] = lambda _: None,
) -> list[Ending]:
    """Run one rotation of each server, `max_concurrent` at a time; what is interrupted of a server is finished first.

    `say` is told what a person must read, and `ended` of each end as it comes. `hold`: for how long somebody wants what
    is taken to be held; where nobody has said so, as the policy does. `mends`: a server is left as it is where what was
    interrupted of it succeeds.
    """
    board = Board()
    async with open_tools(config, environ, board, Metrics(board), this_machine, once=True) as tools:
        _obey_signals(tools, say)
        keeper = Keeper(tools, board, serves=lambda _: False, leases="ask")
        until = partial(hold_of_new, config, tools, wanted=hold, say=say)
        by_hand = _ByHand(config, tools, board, keeper, description, show, until, mends=mends)
        keeping = [
            asyncio.create_task(_every(LEASE_RENEWAL, lambda: tools.ledger.renew(list(board.running.values())))),
            asyncio.create_task(_every(LEDGER_EVERY, lambda: mend_ledger(tools.ledger, board, keeper))),
        ]

        async def see_to(target: Target) -> Ending:
            ending = await by_hand.rotate(target)
            ended(ending)
            return ending

        try:
            endings = await asyncio.gather(*map(see_to, targets), return_exceptions=True)
            # Where nobody else has this ledger, nobody else would see a stop strike that has not been seen to.
            await keeper.settle(watched_too=tools.ledger.is_sole_user and not tools.drain.requested.is_set())
            return [_unless_raised(one) for one in endings]
        finally:
            await keeper.aclose()
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)


def _unless_raised(ending: Ending | BaseException) -> Ending:
    """A mistake of ours with one server is told when all others have ended."""
    if isinstance(ending, BaseException):
        raise ending
    return ending


class _ByHand:
    """The rotations by hand of this process. One is claimed when its turn comes: what never begins leaves no trace."""

    def __init__(
        self,
        config: Config,
        tools: Tools,
        board: Board,
        keeper: Keeper,
        description: str,
        show: Show,
        until: Callable[[Target], Awaitable[date | None]],
        *,
        mends: bool,
    ) -> None:
        """`until` answers with the last day for which what is taken is held; `mends` as for `rotate_now`."""
        self._config = config
        self._tools = tools
        self._board = board
        self._keeper = keeper
        self._description = description
        self._show = show
        self._until = until
        self._mends = mends
        self._permits = Permits(config.max_concurrent)
        self._groups = Groups(tools, is_seen_to=self._may_be_started)
        self._admission = Admission(tools, board)

    def _may_be_started(self) -> bool:
        """Whether somebody may see to the starts that are owed: another process, or this one."""
        here = self._keeper.owes or any(one.is_owed for one in self._board.running.values())
        return here or not self._tools.ledger.is_sole_user

    async def rotate(self, target: Target) -> Ending:
        try:
            return Ending(target=target, rotation=await self._rotate(target))
        except SnaprotdError as error:
            return Ending(target=target, refused=str(error))

    async def _rotate(self, target: Target) -> Rotation:
        """Raises `SnaprotdError` where nothing was done."""
        usual = await _usual_duration(self._tools.ledger, target.server_id)
        show = partial(self._show, usual=usual)
        for interrupted in await self._interrupted(target, show):
            finished = await self._finish(resumed(interrupted, self._tools.now()), show)
            if self._mends and finished.result is not Result.FAILURE:
                return finished
        turn, waiting = await self._groups.take(self._new(target), show)
        permit = await self._permits.take()
        try:
            share, waiting = await self._admission.take(waiting, show)
            permit = together(permit, share)
            if waiting.error is not None:
                raise SnaprotdError(f"{waiting.error}: nothing was done")
            return await self._run(await self._claimed(target), show, turn, permit, called_off)
        finally:
            permit.give_back()
            turn.give_back()

    async def _interrupted(self, target: Target, show: Callable[[Rotation], None]) -> list[Rotation]:
        """What is interrupted of the server, and ours from now on.

        Who has just come cannot know whether another process is alive that has a rotation of it. Where its lease seems
        to be over, that is looked at for as long as one lasts.
        """
        ledger, drain, loop = self._tools.ledger, self._tools.drain.requested, asyncio.get_running_loop()
        until = loop.time() + ledger.lease + LOOKED_BEYOND
        while True:
            taken = await ledger.take_over(everything=ledger.is_sole_user, server_id=target.server_id)
            if taken or drain.is_set() or loop.time() >= until:
                return taken
            starts = ledger.starts
            if not await starts.is_elsewhere(target.server_id) or await starts.seems_elsewhere(target.server_id):
                return []
            show(replace(self._new(target), note="waits to see whether the process is alive that began the last one"))
            await asyncio.sleep(LOOKED_AT_EVERY)

    async def _finish(self, interrupted: Rotation, show: Callable[[Rotation], None]) -> Rotation:
        """A server that is held off waits for nobody."""
        turn, interrupted = await self._groups.take(interrupted, show)
        permit = NO_PERMIT if interrupted.is_payable else await self._permits.take()
        share, interrupted = await self._admission.take(interrupted, show)
        return await self._run(interrupted, show, turn, together(permit, share))

    def _new(self, target: Target, hold: date | None = None) -> Rotation:
        now = self._tools.now()
        slot = now.replace(microsecond=0)
        return new_rotation(self._config, target, slot=slot, now=now, description=self._description, hold=hold)

    async def _claimed(self, target: Target) -> Rotation:
        if self._tools.drain.requested.is_set():
            raise SnaprotdError("it was asked to end before this one began: nothing was done")
        new = self._new(target, await self._until(target))
        match await self._tools.ledger.claim(new):
            case Claimed(rotation=ours):
                return ours
            case ServerBusy(open=busy):
                raise SnaprotdError(busy_words(busy))
            case _:
                raise SnaprotdError(
                    f"{target.label} has had a rotation in this very second already: nothing was done. Try again"
                )

    async def _run(
        self,
        rotation: Rotation,
        show: Callable[[Rotation], None],
        turn: Permit,
        permit: Permit,
        interrupted: Callable[[Rotation, datetime], Rotation] = lambda rotation, _: rotation,
    ) -> Rotation:
        """`interrupted` is what becomes of it where this process is to end before it has ended."""

        def show_here(rotation: Rotation) -> None:
            (self._board.take_down if rotation.is_finished else self._board.show)(rotation)
            show(rotation)

        self._keeper.cede(rotation.server_id)
        try:
            ended = await run_in_turn(rotation, self._tools, show_here, turn, permit)
        except LeaseLost:
            await self._keeper.insist(self._board.running.get(rotation.id, rotation))
            raise
        finally:
            self._board.take_down(rotation)
        self._keeper.keep(self._tools.ledger.starts.record_of(ended))
        if not ended.is_finished:
            ended = interrupted(ended, self._tools.now())
            if ended.is_finished:
                await self._tools.ledger.save(ended)
            await self._tools.ledger.release(ended.id)
        return ended


async def _usual_duration(ledger: Ledger, server_id: str) -> float | None:
    """The median length of the server's last successful rotations, in seconds; None where there are none."""
    past = await ledger.history(server_id)
    lengths = [
        (one.finished_at - one.started_at).total_seconds()
        for one in past
        if one.result is Result.SUCCESS and one.finished_at is not None
    ]
    return median(lengths) if lengths else None


async def _every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        with suppress(SnaprotdError):  # the rotation's own next save says what is wrong
            await work()


def _obey_signals(tools: Tools, say: ForGood) -> None:
    """The first Ctrl-C ends in order: a server that is held off is started again. The second ends at once."""

    def begin(_: str) -> None:
        say("asked to end: a server that is held off is started first, and nothing new begins; once more ends at once")
        tools.drain.requested.set()

    def at_once() -> None:
        off = "ended at once; a server that was held off is OFF until a daemon, or its next start, goes on with it"
        say(off, is_last=True)

    on_end_asked(begin, at_once)
    # The terminal was closed; the work goes on all the same.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
