"""The rotations that this process runs: claimed, at most so many at once, kept under lease, recovered, drained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from snaprotd.core.admission import resumed
from snaprotd.core.errors import LeaseLost, LedgerError
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Rotation, Step
from snaprotd.engine.board import Board
from snaprotd.engine.loop import insist_on_rotation
from snaprotd.engine.run import Run
from snaprotd.engine.starts.keeper import TAKEN_UP_WITHIN, Keeper
from snaprotd.engine.tools import NO_PERMIT, Permit, Permits, Tools, together
from snaprotd.engine.turns.admission import Admission
from snaprotd.engine.turns.groups import Groups
from snaprotd.ledger.claims import Claim, Claimed, Mark
from snaprotd.ledger.store import Ledger

log = structlog.get_logger("snaprotd.rotations")

AHEAD_OF_ALL = 5.0
"""Seconds for which a process that begins does nothing but ask for the starts that are due."""
LOOKED_AT_EVERY = 0.1

LEASE_RENEWAL = 10.0
"""Seconds between two renewals of the leases, at the most."""

LEFT_AFTER = 70.0
"""Seconds for which a replica keeps what another one could do: it reads the account once more in them.

Where the provider was away for all, one is answered again a moment before the others are.
"""

LEDGER_EVERY = 3.0
"""Seconds between two looks whether the ledger is there still, and can be written."""

MARK_EVERY = 14.0
"""Seconds between two marks of life, at the least: each is a write to the disk."""

FINAL_PATIENCE = 600.0
"""Seconds that a process which must end goes on trying to start the servers it holds off."""


async def run_in_turn(
    rotation: Rotation, tools: Tools, show: Callable[[Rotation], None], turn: Permit, permit: Permit
) -> Rotation:
    """Run a rotation that has its group's turn and a permit, and give both back as soon as it needs them no more.

    Neither a server that does not start again nor a snapshot that is stuck keeps others waiting.
    """

    def shown(rotation: Rotation) -> None:
        show(rotation)
        if rotation.step in (Step.PRUNE, Step.DONE):
            turn.give_back()
        if rotation.start_is_overdue or (rotation.step is Step.START and not rotation.is_payable) or run.only_waits:
            permit.give_back()

    run = Run(rotation, tools, shown)
    try:
        return await insist_on_rotation(run)
    finally:
        permit.give_back()
        turn.give_back()


async def mend_ledger(ledger: Ledger, board: Board, keeper: Keeper, *, mark: bool = False) -> bool:
    """See that the ledger's file is there still, and write again what this process holds where it is not: True then.

    Else, with `mark`, leave a mark of life. Raises `LedgerError` where it cannot be written.
    """
    mended = await ledger.mend(list(board.running.values()), mark=mark)
    if mended:
        await keeper.save_all()
    return mended


class Rotations:
    """What this process runs."""

    def __init__(
        self,
        tools: Tools,
        board: Board,
        *,
        max_concurrent: int,
        finished: Callable[[Rotation], None] = lambda _: None,
    ) -> None:
        self._tools = tools
        self._board = board
        self.keeper = Keeper(tools, board, serves=self.serves)
        self.permits = Permits(max_concurrent)
        self._claiming = 0
        """How many are just being claimed, or have not come to ask for their permits."""
        self._groups = Groups(tools)
        self._admission = Admission(tools, board)
        self._tasks: set[asyncio.Task[None]] = set()
        self._written: dict[str, asyncio.Task[None]] = {}
        """The last note that was written down of each rotation that waits in line, by its id."""
        self._finished = finished
        self._marked_at = -MARK_EVERY
        self._stands_back_since: float | None = None
        """Since when others are able to do the work and this process is not, by the loop's clock."""
        self._unusable_since: float | None = None
        """Since when the ledger cannot be read, by the loop's clock."""
        self._untold: list[ServerPower] = []
        """What only copies beside the ledger tell."""

    async def begin(self, rotation: Rotation, mark: Mark | None = None, *, reopens: bool = False) -> Claim:
        """Claim a new rotation, or one that has failed (`reopens`), and run it in the background if it is ours."""
        self._claiming += 1
        try:
            claim = await self._tools.ledger.claim(rotation, mark, reopens=reopens)
            if isinstance(claim, Claimed):
                self._launch(claim.rotation)
                await asyncio.sleep(0)  # it asks for its permit
        finally:
            self._claiming -= 1
        return claim

    def rounds(self) -> float:
        """How often all permits are taken already; 0 where no other process could run what there is none for."""
        fleet = self._board.fleet
        return 0 if fleet is None or len(fleet.living) == 1 else self.permits.rounds(self._claiming)

    async def recover(self, *, everything: bool) -> None:
        """Go on with all that was interrupted, as `take_over` and `take_up` do, before this process does anything else.

        Returns when every start that was due is asked for, as far as that can be within `AHEAD_OF_ALL` seconds.
        """
        try:
            await self.take_over(everything=everything)
            await self.take_up()
        finally:
            await self._until_starts_are_asked()

    async def see_to_what_was_left(self) -> None:
        """By other processes: rotations, and then starts that no rotation sees to. Raises `LedgerError`.

        In this order: a rotation that is taken over may need its server off, and a start would disturb it.
        """
        try:
            await self.take_over()
        finally:
            await self.take_up()

    async def take_over(self, *, everything: bool = False) -> int:
        """Go on with open rotations that no living process holds; answers with their number.

        Servers that are held off come first, and wait for nobody. A process that is to end takes none: it has just
        let go of its own.
        """
        if self._tools.drain.requested.is_set() or self._stands_back:
            return 0
        try:
            taken = await self._tools.ledger.take_over(everything=everything)
        except LedgerError:
            if everything:
                await self._start_without_ledger()
            raise
        for rotation in sorted(taken, key=lambda rotation: not rotation.is_payable):
            log.warning(
                "going on with an interrupted rotation",
                server=rotation.label,
                slot=rotation.slot.isoformat(),
                rotation=rotation.id,
                step=rotation.step,
                held_off=rotation.held_off,
            )
            self._launch(replace(resumed(rotation, self._tools.now()), note=""))
        return len(taken)

    @property
    def _stands_back(self) -> bool:
        return self._board.fleet is not None and self._board.fleet.stands_back

    async def _until_starts_are_asked(self) -> None:
        """Each rotation that holds a server off has looked by then, and waits for something."""
        for _ in range(round(AHEAD_OF_ALL / LOOKED_AT_EVERY)):
            if not any(one.is_payable and not one.note for one in self._board.running.values()):
                return
            await asyncio.sleep(LOOKED_AT_EVERY)

    def serves(self, server_id: str) -> bool:
        """Whether a rotation of this process sees to the server."""
        return any(self._board.runs(one) for one in self._tools.inventory.ids_of(server_id))

    async def _start_without_ledger(self) -> None:
        """Nothing can be taken over in a ledger that cannot be written; what is held off is to run all the same."""
        for rotation in await self._tools.ledger.open_rotations():
            if rotation.held_off:
                log.error("the ledger cannot be written: starting the server", server=rotation.label)
                self.keeper.keep(self._tools.ledger.starts.record_of(rotation), is_abandoned=True)
        await self.take_up()

    async def mend_ledger(self) -> None:
        """See that the ledger is there still, and can be written; write again what it is to hold where it is not.

        Raises `LedgerError` where it cannot be used.
        """
        moment = asyncio.get_running_loop().time()
        mark = moment - self._marked_at >= MARK_EVERY
        mended = await mend_ledger(self._tools.ledger, self._board, self.keeper, mark=mark)
        self._marked_at = moment if mark else self._marked_at
        if mended or self._untold or await self._tools.ledger.starts.take_in():
            await self.take_up()

    def doubt_ledger(self) -> None:
        """Somebody could not use it: the next look is to write."""
        self._marked_at = -MARK_EVERY

    async def take_up(self) -> None:
        """Take care of every server that something is owed to and nobody else sees to. Raises `LedgerError`.

        What only a copy tells is shown as long as it may be that another process is writing it down.
        """
        try:
            before, self._untold = self._untold, await self._tools.ledger.starts.take_in()
        except LedgerError:
            await self._start_by_copies()
            raise
        self._unusable_since = None
        for record in before:
            self._board.clear_debt(record)
        await self.keeper.take_up()
        for record in self._untold:
            if record.power.is_owed and not self.serves(record.server_id):
                self._board.show_debt(record)

    async def _start_by_copies(self) -> None:
        """The ledger cannot be read, for so long that no lease in it is good any more: its copies tell what is owed."""
        now, starts = asyncio.get_running_loop().time(), self._tools.ledger.starts
        self._unusable_since = now if self._unusable_since is None else self._unusable_since
        if now - self._unusable_since < self._tools.ledger.lease + TAKEN_UP_WITHIN:
            return
        for record in await asyncio.to_thread(starts.copies.read):
            if starts.is_ours(record.account) and not self.serves(record.server_id):
                self.keeper.keep(record)

    async def keep_leases(self, every: float) -> None:
        """Renew the leases, for ever. A ledger that cannot be written is tried again.

        Who cannot ask the provider keeps nothing from those who can: a server that is held off is started by them.
        """
        while True:
            await asyncio.sleep(every)
            self._leave_to_others()
            try:
                await self._tools.ledger.renew(list(self._board.running.values()))
            except LedgerError as error:
                log.error("leases could not be renewed", error=str(error))

    def _leave_to_others(self) -> None:
        """Let go of all leases where this process has been unable to do the work for a while, and others are able."""
        moment = asyncio.get_running_loop().time()
        if not self._stands_back:
            self._stands_back_since = None
            return
        if self._stands_back_since is None:
            self._stands_back_since = moment
        if moment - self._stands_back_since >= LEFT_AFTER and self._tools.ledger.step_back():
            log.warning("the provider does not answer this replica, and does answer another: what it ran is left")

    async def drain(self, timeout: float) -> bool:
        """Take no new work, see the servers that are held off started. True if none is left off.

        After `timeout` seconds they are started whatever their snapshots do.
        """
        self._tools.drain.requested.set()
        if not await self._ended_within(timeout):
            log.warning("the drain timed out: starting the servers that are held off", rotations=len(self._tasks))
            self._tools.drain.hurry.set()
            await self._ended_within(FINAL_PATIENCE)
        all_on = not self._tasks and not self.keeper.owes
        for task in self._tasks:
            task.cancel()  # the next start goes on with them
        await self.keeper.aclose()
        return all_on

    async def _ended_within(self, seconds: float) -> bool:
        """Whether all rotations have ended, and nothing is owed by any that ended before."""
        until = asyncio.get_running_loop().time() + seconds
        while self._tasks and (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        left = until - asyncio.get_running_loop().time()
        return not self._tasks and await self.keeper.drain(max(left, 0.0))

    def _launch(self, rotation: Rotation) -> None:
        self._board.show(rotation)
        self.keeper.cede(rotation.server_id)
        task = asyncio.create_task(self._run(rotation), name=f"rotation {rotation.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, rotation: Rotation) -> None:
        lost: Rotation | None = None
        try:
            rotation = await self._run_with_permit(rotation)
            if not rotation.is_finished:
                await self._tools.ledger.release(rotation.id)
        except LeaseLost as error:
            log.warning("this process does not hold the rotation any more", rotation=rotation.id, reason=str(error))
            lost = self._board.running.get(rotation.id, rotation)
        except LedgerError as error:
            log.error("the rotation could not be released", rotation=rotation.id, error=str(error))
        finally:
            self._written.pop(rotation.id, None)
            self._board.take_down(rotation)
            if rotation.is_finished:
                self.keeper.keep(self._tools.ledger.starts.record_of(rotation))
            self._finished(rotation)
        if lost is not None:
            await self.keeper.insist(lost)

    def _show_in_line(self, rotation: Rotation) -> None:
        """Have it be known what it waits for, or that it does no more: to who looks, and to the process after this."""
        before = self._board.running.get(rotation.id)
        self._board.show(rotation)
        if before is None or before.note != rotation.note:
            after = self._written.get(rotation.id)
            self._written[rotation.id] = asyncio.create_task(self._write_down(rotation, after))

    async def _write_down(self, rotation: Rotation, after: asyncio.Task[None] | None) -> None:
        """After the one before it: what is older never comes over what is newer."""
        if after is not None:
            await after
        try:
            await self._tools.ledger.save(rotation)
        except (LedgerError, LeaseLost) as error:
            log.warning("what a rotation waits for could not be saved", rotation=rotation.id, error=str(error))

    async def _run_with_permit(self, rotation: Rotation) -> Rotation:
        """A server that is held off waits for nobody."""
        turn, rotation = await self._groups.take(rotation, self._show_in_line)
        permit = NO_PERMIT if rotation.is_payable else await self.permits.take()
        share, rotation = await self._admission.take(rotation, self._show_in_line)
        if (written := self._written.pop(rotation.id, None)) is not None:
            await written
        return await run_in_turn(rotation, self._tools, self._board.show, turn, together(permit, share))
