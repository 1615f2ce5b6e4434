"""How far the schedule of each server was seen, here and in the ledger; and the slots that are not run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog

from snaprotd.config.settings import Target
from snaprotd.core.errors import LedgerError
from snaprotd.core.telling.entries import Entry, of_missed
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger

log = structlog.get_logger("snaprotd.schedules")

MOST_MISSED = 1000


class Marks:
    def __init__(self, ledger: Ledger, now: Callable[[], datetime], *, may_write: Callable[[], bool]) -> None:
        """`may_write`: no replica has a newer configuration, whose schedules the marks are of."""
        self._ledger = ledger
        self._now = now
        self._may_write = may_write
        self.seen: dict[str, datetime] = {}
        """For each server the slot up to which all is dealt with."""
        self._missed: list[Entry] = []
        """Slots that are not run, which the ledger does not have yet."""
        self._read: asyncio.Future[Mapping[str, Mark]] | None = None

    def of(self, target: Target, seen_until: datetime) -> Mark:
        self.seen[target.server_id] = seen_until
        return Mark(server_id=target.server_id, seen_until=seen_until, schedule=target.policy.slots_written)

    def note_missed(
        self, target: Target, number: int, slots: Sequence[datetime], why: str, *, is_lost: bool = True
    ) -> None:
        who, now, is_lost = (target.server_id, target.label), self._now(), is_lost and not target.policy.paused
        self._missed.append(of_missed(*who, number=number, slots=slots, why=why, is_lost=is_lost, at=now))

    async def set(self, marks: list[Mark]) -> None:
        """Write them down, and what was missed."""
        missed, self._missed = self._missed, []
        if not self._may_write():
            return
        try:
            await self._ledger.set_marks(marks, missed)
        except LedgerError as error:
            self._missed = [*missed, *self._missed][-MOST_MISSED:]
            log.error("how far the schedules were seen could not be saved", servers=len(marks), error=str(error))

    async def seen_by_any(self, target: Target) -> datetime:
        """By any replica: what passed while this one was frozen, another has dealt with."""
        seen = self.seen[target.server_id]
        if self._ledger.replicas is None:
            return seen
        if self._read is None or self._read.done():  # thousands ask at once
            self._read = asyncio.ensure_future(self._ledger.marks())
        try:
            mark = (await self._read).get(target.server_id)
        except LedgerError:
            return seen
        is_known = mark is not None and mark.schedule == target.policy.slots_written
        return max(seen, min(mark.seen_until, self._now())) if mark is not None and is_known else seen
