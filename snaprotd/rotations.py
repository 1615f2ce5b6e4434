"""The rotations that this process runs: claimed, at most so many at once, kept under lease, recovered, drained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext

import structlog

from snaprotd.errors import LeaseLost, LedgerError
from snaprotd.ledger import Claim, Claimed, Mark
from snaprotd.metrics import Metrics
from snaprotd.rotation import Rotation, resumed
from snaprotd.steps import Run, Tools, run_rotation

log = structlog.get_logger("snaprotd.rotations")

FINAL_PATIENCE = 600.0
"""Seconds that a process which must end goes on trying to start the servers it holds off."""


class Permits:
    """A semaphore whose number can change while it is in use."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._taken = 0
        self._changed = asyncio.Condition()

    async def set_number(self, number: int) -> None:
        """Who holds a permit keeps it; fewer are given until there are few enough."""
        async with self._changed:
            self._number = number
            self._changed.notify_all()

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._taken < self._number)
            self._taken += 1

    async def __aexit__(self, *_: object) -> None:
        async with self._changed:
            self._taken -= 1
            self._changed.notify()


class Rotations:
    """What this process runs."""

    def __init__(
        self,
        tools: Tools,
        metrics: Metrics,
        *,
        max_concurrent: int,
        finished: Callable[[Rotation], None] = lambda _: None,
    ) -> None:
        self._tools = tools
        self._metrics = metrics
        self.permits = Permits(max_concurrent)
        self._tasks: set[asyncio.Task[None]] = set()
        self._finished = finished

    async def claim(self, rotation: Rotation, mark: Mark | None = None) -> Claim:
        """Claim a new rotation and, if it is ours, run it in the background."""
        claim = await self._tools.ledger.claim(rotation, mark)
        if isinstance(claim, Claimed):
            self._launch(rotation)
        return claim

    async def take_over(self, *, everything: bool = False) -> int:
        """Go on with open rotations that no living process holds; answers with their number.

        Servers that are held off come first, and wait for nobody.
        """
        taken = await self._tools.ledger.take_over(everything=everything)
        for rotation in sorted(taken, key=lambda rotation: not rotation.held_off):
            log.warning(
                "going on with an interrupted rotation",
                server=rotation.label,
                rotation=rotation.id,
                step=rotation.step,
                held_off=rotation.held_off,
            )
            self._launch(resumed(rotation, self._tools.now()))
        return len(taken)

    async def keep_leases(self, every: float) -> None:
        """Renew the leases, for ever. A ledger that cannot be written is tried again."""
        while True:
            await asyncio.sleep(every)
            try:
                await self._tools.ledger.renew()
            except LedgerError as error:
                log.error("leases could not be renewed", error=str(error))

    async def drain(self, timeout: float) -> bool:
        """Take no new work, see the servers that are held off started. True if none is left off.

        After `timeout` seconds they are started whatever their snapshots do.
        """
        self._tools.drain.requested.set()
        if await self._ended_within(timeout):
            return True
        log.warning("the drain timed out: starting the servers that are held off", rotations=len(self._tasks))
        self._tools.drain.hurry.set()
        return await self._ended_within(FINAL_PATIENCE)

    async def _ended_within(self, seconds: float) -> bool:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        return not self._tasks

    def _launch(self, rotation: Rotation) -> None:
        self._metrics.watch(rotation)
        task = asyncio.create_task(self._run(rotation), name=f"rotation {rotation.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, rotation: Rotation) -> None:
        urgent = rotation.held_off
        try:
            async with nullcontext() if urgent else self.permits:
                rotation = await self._insist(rotation)
            if not rotation.is_finished:
                await self._tools.ledger.release(rotation.id)
        except LeaseLost as error:
            log.warning("another process goes on with this rotation", rotation=rotation.id, reason=str(error))
        except LedgerError as error:
            log.error("the rotation could not be released", rotation=rotation.id, error=str(error))
        finally:
            self._metrics.unwatch(rotation)
            self._finished(rotation)

    async def _insist(self, rotation: Rotation) -> Rotation:
        """Run the rotation; a mistake in the loop itself must not leave a server off either."""
        run = Run(rotation, self._tools, self._metrics.watch)
        while True:
            try:
                return await run_rotation(run)
            except LeaseLost:
                raise
            except Exception:
                log.exception("internal error in a rotation", rotation=rotation.id)
                await asyncio.sleep(self._tools.poll_interval)
