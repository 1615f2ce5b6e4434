"""Snapshots of ours that are no longer at the provider, though snaprotd has not deleted them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from snaprotd.config.settings import Target
from snaprotd.core.errors import LedgerError
from snaprotd.core.model import Owner, Snapshot
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.telling.entries import Entry, Happened, of_vanished
from snaprotd.core.telling.vanished import Sighting, Vanished, missing_of, seen_after
from snaprotd.engine.board import Board
from snaprotd.ledger.store import Ledger
from snaprotd.provider.inventory import Inventory
from snaprotd.report.assessment import Assessment

log = structlog.get_logger("snaprotd.account")

CERTAIN_AFTER = 120.0
"""Seconds between the first whole list that lacks a snapshot and the one after which it is gone."""
REMEMBERED_FOR = timedelta(days=30)
AT_ONCE = 200
"""Servers of which is noted in one go what was seen: of thousands that takes a while."""


class _Look(NamedTuple):
    target: Target
    assessment: Assessment


class VanishedWatch:
    """Asked after each whole list of the account that can be relied on."""

    def __init__(
        self,
        inventory: Inventory,
        ledger: Ledger,
        board: Board,
        assessment: Callable[[Target], Assessment | None],
        now: Callable[[], datetime],
    ) -> None:
        self._inventory = inventory
        self._ledger = ledger
        self._board = board
        self._assessment = assessment
        self._now = now
        self._unread: set[str] | None = None
        """The servers of which the ledger has what was seen, and was not asked for it; None before all."""
        self._seen: dict[str, tuple[Sighting, ...]] = {}
        """As the ledger has it."""
        self._missing: dict[tuple[str, str], float] = {}
        """Since when lists are without one, by its server's id and its name, by the loop's clock."""
        self._looked_up: set[str] = set()
        """Servers of which rotations have told what was taken last: lists have shown nothing of it."""

    async def look(self, targets: Iterable[Target]) -> None:
        """The account was just listed."""
        try:
            await self._look(list(targets))
        except LedgerError as error:
            log.error("which snapshots were seen cannot be noted", error=str(error))

    async def _look(self, targets: Sequence[Target]) -> None:
        if self._unread is None:
            self._unread = await self._ledger.seen.server_ids()
            await self._recall()
        for start in range(0, len(targets), AT_ONCE):
            await asyncio.sleep(0)
            some = targets[start : start + AT_ONCE]
            if asked := self._unread & {target.server_id for target in some}:
                self._seen |= await self._ledger.seen.of(asked)
                self._unread -= asked
            await self._note(some)
        if gone := (self._seen.keys() | self._unread) - {target.server_id for target in targets}:
            await self._ledger.seen.note({}, gone=gone)
            self._seen = {one: kept for one, kept in self._seen.items() if one not in gone}
            self._unread -= gone

    async def _note(self, targets: Sequence[Target]) -> None:
        """What was seen of these servers goes into the ledger."""
        seen, changed = self._seen, dict[str, tuple[Sighting, ...]]()
        vanished: list[Entry] = []
        for target in targets:
            if (assessment := self._assessment(target)) is not None and self._is_there(target):
                if assessment.newest is None and target.server_id not in seen:
                    await self._look_up(target.server_id)
                lost, entries = await self._lost(_Look(target, assessment))
                before = seen.get(target.server_id, ())
                after = seen_after(before, _ours(assessment), lost)
                vanished += entries
                if after != before and set(after) != set(before):
                    changed[target.server_id] = after
                elif after:
                    seen[target.server_id] = after  # the same, of the list's own texts: a fleet has no room for two
        if changed or vanished:
            await self._ledger.seen.note(changed, vanished=vanished)
            seen |= changed
            self._show(vanished)

    async def _look_up(self, server_id: str) -> None:
        """What a rotation has taken last, in a ledger from before lists were noted: it may be all that there was."""
        if server_id in self._looked_up:
            return
        if taken := _taken_last(await self._ledger.history(server_id)):
            await self._ledger.seen.note({server_id: taken})
            self._seen[server_id] = taken
        self._looked_up.add(server_id)

    def _is_there(self, target: Target) -> bool:
        """A server that is gone itself is another trouble, and is told by itself."""
        held = self._inventory.known.get(target.server_id)
        return held is not None and held.server is not None

    async def _lost(self, look: _Look) -> tuple[list[Sighting], list[Entry]]:
        """Those that are gone for certain, and an entry for each that snaprotd has not deleted."""
        server_id, listed = look.target.server_id, [one.snapshot for one in look.assessment.plan.decisions]
        missing = missing_of(self._seen.get(server_id, ()), listed)
        moment, names = asyncio.get_running_loop().time(), {one.name for one in missing}
        known = {key: since for key, since in self._missing.items() if key[0] != server_id or key[1] in names}
        self._missing = known | {(server_id, one): known.get((server_id, one), moment) for one in names}
        lost = [one for one in missing if moment - self._missing[server_id, one.name] >= CERTAIN_AFTER]
        if not lost:
            return [], []
        deleted, now = await self._deleted_by_us(server_id, lost), self._now()
        kept = await self._ledger.seen.of([server_id])  # an old copy of a ledger has forgotten by now
        told = [one for one in lost if deleted.isdisjoint(one.ids) and one in kept.get(server_id, ())]
        return lost, [_entry(look.target, one, now) for one in told]

    async def _deleted_by_us(self, server_id: str, lost: Sequence[Sighting]) -> set[str]:
        """The ids whose deletion was asked for by a rotation, or by a person with `snaprotd delete`."""
        server_ids = self._inventory.ids_of(server_id)
        rotations = await self._ledger.told_of(server_ids, [its_id for one in lost for its_id in one.ids])
        by_rotations = {its_id for one in rotations for its_id in (*one.deleting, *one.deleted, *one.undeletable)}
        return by_rotations | await self._ledger.seen.deleted_by_hand(server_ids, self._now() - REMEMBERED_FOR)

    async def _recall(self) -> None:
        """What had vanished before this process began."""
        since = self._now() - REMEMBERED_FOR
        entries = await self._ledger.events.newest(kinds=[Happened.VANISHED], since=since, limit=1000)
        self._show(entries, is_news=False)

    def _show(self, entries: Collection[Entry], *, is_news: bool = True) -> None:
        for entry in entries:
            facts, gone = self._board.of(entry.server_id or ""), Vanished.of(entry)
            facts.vanished = (*(one for one in facts.vanished if one.name != gone.name), gone)
            if is_news:
                log.error("a snapshot of ours has vanished", server_id=entry.server_id, snapshot=gone.name, id=gone.id)


def _ours(assessment: Assessment) -> list[Snapshot]:
    decisions = assessment.plan.decisions
    return [one.snapshot for one in decisions if one.owner is Owner.MANAGED and one.snapshot.is_completed]


def _taken_last(newest_first: Iterable[Rotation]) -> tuple[Sighting, ...]:
    for one in newest_first:
        if one.result in (Result.SUCCESS, Result.PARTIAL) and one.snapshot_id is not None:
            return (Sighting(ids=(one.snapshot_id,), name=one.snapshot_name, taken=one.slot),)
    return ()


def _entry(target: Target, one: Sighting, now: datetime) -> Entry:
    return of_vanished(target.server_id, target.label, id_=one.ids[0], name=one.name, taken=one.taken, at=now)
