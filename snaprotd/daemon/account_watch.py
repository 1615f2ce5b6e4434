"""What the account holds, read every so often: servers that a `match` names, those that do not exist, the metrics."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from datetime import datetime
from functools import lru_cache
from typing import Protocol

import structlog

from snaprotd.config.file import uncollected
from snaprotd.config.settings import Config, Target, resolve
from snaprotd.core.asking.budget import RARELY, reading_interval
from snaprotd.core.errors import CloudError, LedgerError, Permanent, told_in_log
from snaprotd.core.model import DOUBT, Owner, Server, SnapshotState
from snaprotd.core.telling.dropped import Matched
from snaprotd.daemon.dropped import DroppedWatch
from snaprotd.daemon.slots.schedules import Schedules
from snaprotd.daemon.vanished import VanishedWatch
from snaprotd.engine.board import Board, Holdings
from snaprotd.engine.recollections import Recollections
from snaprotd.ledger.store import Ledger
from snaprotd.provider import Doubtful
from snaprotd.provider.inventory import Inventory
from snaprotd.report.assessment import Assessment, Assessments
from snaprotd.report.problems import CLOCKS_MAY_DIFFER

HISTORY_EVERY = 86400.0
"""Seconds between two times that old rotations are forgotten."""

log = structlog.get_logger("snaprotd.account")

SILENT_AFTER = 2
"""Readings of the account in a row without an answer after which the provider counts as not answering."""

GONE_AFTER = 300.0
"""Seconds for which a server that is no longer listed is looked after still: it may have left the list for a moment.

Three times as long as a large account is left alone between two readings, where that is longer.
"""


AT_ONCE, MANY = 10, 1000
"""Servers whose snapshots are judged in one go; and from which number on what is known of them is kept from the garbage
collector: it has hardly any circles, and to look through it stops the loop for a third of a second."""


class LookAfter(Protocol):
    """Is called where `targets` has changed; `at_start` says whether this is the first discovery since the start."""

    async def __call__(self, *, at_start: bool) -> None: ...


class AccountWatch:
    def __init__(
        self,
        config: Config,
        *,
        inventory: Inventory,
        ledger: Ledger,
        schedules: Schedules,
        board: Board,
        look_after: LookAfter,
        first_listed: Callable[[], Awaitable[None]],
        now: Callable[[], datetime],
    ) -> None:
        self._config = config
        self.failure: CloudError | None = None
        """Why the account could not be listed the last time, or None."""
        self.was_asked = False
        """It was asked for at least once: before that no failure is no good news."""
        self.is_listed = False
        """The last list could be relied on, and all that follows from it is known."""
        self._has_answered = False
        self._inventory = inventory
        self._ledger = ledger
        self._schedules = schedules
        self._board = board
        board.is_on_time = lambda: abs(inventory.clock_ahead()) < CLOCKS_MAY_DIFFER
        self._look_after = look_after
        self._first_listed = first_listed
        self._now = now
        self._assessments = Assessments()
        self._read_at = 0.0
        """When the last reading ended, by the loop's clock."""
        self._unanswered = 0
        """Readings in a row that were refused, or not answered at all."""
        self._gone_after = GONE_AFTER
        self._discovered_at: float | None = None
        self._missing: frozenset[str] = frozenset()
        self._doubled: frozenset[str] = frozenset()
        self._doubted: frozenset[str] = frozenset()
        self._recollections = Recollections(inventory, ledger, now)
        self._dropped = DroppedWatch(inventory, ledger, now)
        self._vanished = VanishedWatch(inventory, ledger, board, self.assessment, now)
        self._forget_at = asyncio.get_running_loop().time() + DOUBT
        self._listed: dict[str, tuple[Server, float]] = {}
        """Each server of the account, and when it was last listed."""

    @property
    def has_answered(self) -> bool:
        """The provider has shown its servers, even if some of them could not be relied on, and has refused nothing.

        What it holds of thousands of them is known a while later.
        """
        return self._has_answered or (self.failure is None and bool(self._inventory.seen_servers))

    @property
    def error(self) -> str | None:
        """That, in words."""
        return None if self.failure is None else str(self.failure)

    def clock_ahead(self) -> float:
        """As the inventory's."""
        return self._inventory.clock_ahead()

    def apply(self, config: Config) -> None:
        self._config = config

    def taking_in(self) -> AbstractContextManager[None]:
        """What is known of the servers is put together for the first time: the garbage collector waits for its end."""
        return uncollected(when=not self.was_asked, stays=lambda: len(self._schedules.targets) >= MANY)

    def is_to_read(self, shortest: float, rate: float, *, is_at_work: bool = False) -> bool:
        """Whether it is time to read the account, which is asked every `shortest` seconds: a large one is read less.

        `rate`: requests a second, as in force. `is_at_work`: as many rotations run as may.
        """
        longest = min(self._config.discover_interval, RARELY)
        usually, at_work = (
            reading_interval(self._inventory.pages, rate, shortest=shortest, longest=longest, is_at_work=one)
            for one in (False, True)
        )
        every = at_work if is_at_work else usually
        self._gone_after = max(GONE_AFTER, 3 * at_work)
        left = self._read_at + every - asyncio.get_running_loop().time()
        return not self.is_listed or bool(self.in_doubt) or left < shortest / 2

    async def read(self) -> None:
        """List the whole account, and bring everything in line with it. A failure is logged and kept."""
        try:
            with self.taking_in():
                await self._read()
        finally:
            self._read_at = asyncio.get_running_loop().time()

    async def _read(self) -> None:
        failure = self.failure = await self._refresh()
        self.is_listed = self.is_listed and failure is None
        self._tell_doubts()
        self.was_asked = True
        is_silent = failure is not None and not isinstance(failure, Doubtful)
        self._unanswered = self._unanswered + 1 if is_silent else 0
        self._board.is_answered = self._unanswered < SILENT_AFTER
        if failure is not None:
            log.error("the account could not be listed", error=str(failure))
            if not isinstance(failure, Doubtful):
                return  # in doubt, what could be read is known all the same: one bad entry stops nobody else
        self._has_answered = True
        await asyncio.sleep(0)  # of thousands of servers, each of these takes a while
        targets = self.targets()
        await self._note_ids()
        await self._recollections.refresh(self._config.instance)
        if failure is None:
            await self._forget_old()
        await self._discover(complete=failure is None)
        self._board.inventory_listed_at = self._inventory.last_success
        for count, target in enumerate(list(self._schedules.targets.values())):
            self.note_holdings(target)
            if failure is None and (held := self._recollections.held(target.server_id)) is not None:
                await self._schedules.retries.listed(target, held.snapshots)
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
        if failure is None:
            self.is_listed = True
            await self._vanished.look(self._schedules.targets.values())
            await self._dropped.look(self._config, targets, self._schedules.targets.values())
            self._board.dropped = {server_id: one.label for server_id, one in self.dropped.items()}

    @property
    def dropped(self) -> Mapping[str, Matched]:
        """The servers that a `match` had found and none finds any more, by id, as long as that is news."""
        return self._dropped.dropped

    def left(self, those: Set[str], *, patience: float) -> Set[str]:
        """Those of these servers that are not looked after any more, for certain. See `DroppedWatch.left`."""
        return self._dropped.left(those, patience=patience)

    @property
    def in_doubt(self) -> Mapping[str, str]:
        """The servers whose lists could not be relied on the last time, and why, where the account could be listed."""
        return self._inventory.in_doubt

    def _tell_doubts(self) -> None:
        for server_id in self.in_doubt.keys() - self._doubted:
            log.error("the list of a server's snapshots is in doubt", id=server_id, error=self.in_doubt[server_id])
        self._doubted = frozenset(self.in_doubt)

    async def _note_ids(self) -> None:
        try:
            await self._ledger.starts.note_ids()
        except LedgerError as error:
            log.error("by which ids servers are known could not be noted", error=str(error))

    async def _refresh(self) -> CloudError | None:
        try:
            await self._inventory.refresh()
        except CloudError as error:
            return error
        except Exception as error:
            log.exception("internal error")
            return Permanent(told_in_log(error))
        return None

    async def _forget_old(self) -> None:
        """Forget old rotations, once a day, but for those whose snapshots exist: by its row one is known for sure.

        Not on the first lists: one that has lost everything is believed by a process that has seen no other.
        """
        moment = asyncio.get_running_loop().time()
        if moment < self._forget_at or (rows := self._recollections.rows()) is None:
            return
        try:
            await self._ledger.forget_old(rows)
            await self._ledger.events.forget_old(self._now())
        except LedgerError as error:
            log.error("old rotations could not be deleted", error=str(error))
        self._forget_at = moment + HISTORY_EVERY

    def servers(self) -> list[Server]:
        """The account's servers, as last listed."""
        return list(self._inventory.seen_servers.values())

    def targets(self) -> Sequence[Target]:
        """The servers to look after. What was listed once stays until lists have been without it for a while."""
        moment = asyncio.get_running_loop().time()
        before, self._listed = self._listed, {server.id: (server, moment) for server in self.servers()}
        unlisted = {one: seen for one, seen in before.items() if one not in self._listed}
        unlisted = {one: seen for one, seen in unlisted.items() if moment - seen[1] < self._gone_after}
        known = {text for server in self.servers() for text in (server.name, *server.ids)} if unlisted else set()
        left = [one for one, _ in unlisted.values() if known.isdisjoint((one.name, *one.ids))]
        self._listed |= unlisted
        return resolve(self._config, [*self.servers(), *left])

    async def _discover(self, *, complete: bool) -> None:
        """Find the servers that a `match` names, every so often; and those that are named and do not exist."""
        moment = asyncio.get_running_loop().time()
        first = self._discovered_at is None
        if not first and moment - (self._discovered_at or 0) < self._config.discover_interval:
            return
        targets = self.targets()
        await asyncio.sleep(0)
        if {_identity(target) for target in targets} != set(map(_identity, self._schedules.targets.values())):
            await self._look_after(at_start=first)
        if complete:
            if first:
                await self._first_listed()
            self._discovered_at = moment
            await asyncio.sleep(0)
            self._note_missing(self.targets())
            await asyncio.sleep(0)
            await self.forget_others()

    async def forget_others(self) -> None:
        """Nothing runs because a server came back into the configuration: its schedule is seen from then on."""
        if self._discovered_at is None:
            return  # the servers that a `match` names are not all known yet
        try:
            ids = {its for target in self._schedules.targets for its in self._inventory.ids_of(target)}
            await self._ledger.keep_marks(ids)
        except LedgerError as error:
            log.error("the marks of servers that are gone could not be deleted", error=str(error))

    def _note_missing(self, targets: Sequence[Target]) -> None:
        existing = {server.id for server in self.servers()}
        missing = frozenset(target.label for target in targets if target.server_id not in existing)
        for label in missing - self._missing:
            log.error("the account has no such server", server=label)
        self._missing = missing
        doubled = self._config.server_ids - {target.server_id for target in targets}
        for other in doubled - self._doubled:
            log.error("another id of a server that is configured already: its entry is left out", id=other)
        self._doubled = doubled
        for target in targets:
            self._schedules.facts(target).missing = target.label in missing

    def assessment(self, target: Target) -> Assessment | None:
        """What the server's snapshots mean; None before they have been listed, or where the list makes no sense."""
        held = self._recollections.held(target.server_id)
        if held is None:
            return None
        try:
            return self._assessments.of(self._config, target, held, self._now())
        except ValueError as error:
            log.error("the server's snapshots cannot be judged", server=target.label, error=str(error))
            return None

    def note_holdings(self, target: Target) -> None:
        """Bring the metrics of one server in line with what was last listed of it."""
        held = self._inventory.known.get(target.server_id)
        assessment = self.assessment(target)
        facts = self._schedules.facts(target)
        if held is None or assessment is None:
            facts.holdings = None  # not known, rather than as it was once
            return
        facts.server_name = held.server.name if held.server else facts.server_name
        newest = assessment.newest
        facts.holdings = Holdings(
            counts=_counted(tuple(sorted((one.owner, one.snapshot.state) for one in assessment.plan.decisions))),
            newest_completed=newest.created_at if newest else None,
            newest_size_mb=newest.size_mb if newest else None,
            blocked=bool(assessment.room.blocked),
            prune_pending=len(assessment.plan.deletions),
            holds=assessment.holds,
        )


@lru_cache(maxsize=1024)
def _counted(snapshots: tuple[tuple[Owner, SnapshotState], ...]) -> Mapping[tuple[Owner, SnapshotState], int]:
    """Of thousands of servers that hold alike it is one."""
    return Tally(snapshots)


def _identity(target: Target) -> tuple[str, str]:
    return (target.server_id, target.label)
