"""Slots whose last attempt has failed: tried again where that may help, and put right where a snapshot came too late.

What is to be tried again stands in the ledger, as the last row of a server: here is only kept when. So a process that
is killed between two attempts is followed by one that knows, and of two processes one claims the next attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import structlog

from snaprotd.config.settings import Config, Target
from snaprotd.core.admission import (
    again,
    amended,
    completed_late,
    may_be_retried,
    may_come_late,
    next_attempt,
    watched_to_its_end,
)
from snaprotd.core.errors import CloudError, LedgerError
from snaprotd.core.model import Snapshot, SnapshotState
from snaprotd.core.ownership import taken_for
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.schedule import spread_delay
from snaprotd.core.telling.entries import of_lapse
from snaprotd.core.words import zulu
from snaprotd.daemon.slots.turns import Turns
from snaprotd.engine.board import Board
from snaprotd.engine.rotations import Rotations
from snaprotd.engine.tools import Tools, until_tick
from snaprotd.ledger.claims import Claim, Claimed, ServerBusy, SlotTaken
from snaprotd.wiring.assembly import new_rotation

log = structlog.get_logger("snaprotd.schedules")

NOTED = 8
"""Ended rotations of a server that are known for such when they are told of again."""

WATCHED_FOR = 3600.0
"""Seconds for which a snapshot that nobody waits for any more is looked at at each poll; then whole lists must do."""


class Retries:
    def __init__(
        self,
        config: Config,
        tools: Tools,
        *,
        rotations: Rotations,
        board: Board,
        in_background: Callable[[Awaitable[None], str], None],
        turns: Turns,
    ) -> None:
        self._config = config
        self._tools = tools
        self._rotations = rotations
        self._board = board
        self._in_background = in_background
        self._turns = turns
        self._targets: Mapping[str, Target] = {}
        self._last: dict[str, Rotation] = {}
        """For each server its last rotation that has ended, whoever ran it."""
        self._noted: dict[str, tuple[tuple[str, datetime | None], ...]] = {}
        """Which those were, and when they ended; one that was amended has ended twice."""
        self._pending: set[str] = set()
        """The servers of which that is to be followed by another attempt."""
        self._is_looking = False
        self._stopped = False

    def apply(self, config: Config) -> None:
        self._config = config

    def stop(self) -> None:
        """Begin no other attempt."""
        self._stopped = True

    def set_targets(self, targets: Mapping[str, Target]) -> None:
        """These servers are looked after from now on. What the file does not want any more is not tried again."""
        self._targets = targets
        for gone in self._last.keys() - targets.keys():
            del self._last[gone], self._noted[gone]
        self._pending &= targets.keys()
        for server_id in list(self._pending):
            self._judge(targets[server_id])

    def note(self, ended: Rotation, *, is_news: bool = True, may_follow: bool = True) -> None:
        """A rotation has ended; one that is known already changes nothing.

        `is_news`: it is counted here, if another process has not done so. `may_follow`: unless it is followed by
        another attempt, as it is not where the server was not looked after meanwhile.
        """
        target = self._targets.get(ended.server_id)
        if target is None or not ended.is_finished:
            return
        known, this = self._noted.get(target.server_id, ()), (ended.id, ended.finished_at)
        if this in known:
            return
        self._noted[target.server_id] = (*known, this)[-NOTED:]
        self._follow(target, ended)
        self._last[target.server_id] = ended
        if may_be_retried(ended) and not any(_is_next(one, ended) for one in self._board.open_of(target.server_id)):
            self._pending.add(target.server_id)
            self._judge(target, is_news=is_news, may_follow=may_follow)
        if is_news and may_come_late(ended):
            self._in_background(self._watch(ended), f"a snapshot of {target.label} that may come late")

    def _follow(self, target: Target, ended: Rotation) -> None:
        """Another rotation has ended since the one that was to be tried again: if it was not that, there is none."""
        if target.server_id in self._pending and _is_next(ended, self._last[target.server_id]):
            self._pending.discard(target.server_id)
            self._board.of(target.server_id).retry_at = None
        self.lapse(target, "another rotation of the server has ended since")

    def lapse(self, target: Target, why: str, *, is_news: bool = True) -> None:
        """The slot is not tried again, if it was to be: it has failed."""
        if target.server_id not in self._pending:
            return
        self._pending.discard(target.server_id)
        failed, facts = self._last[target.server_id], self._board.of(target.server_id)
        facts.retry_at, facts.last_failure = None, failed.finished_at
        facts.rotations[Result.FAILURE] += is_news and self._turns.prefers(target.server_id)
        self._in_background(self._enter(failed, why), f"the end of a slot of {target.label}")
        slot, told = failed.slot.isoformat(), log.warning if is_news else log.info
        told("the slot is not tried again", server=target.label, slot=slot, attempt=failed.attempt, reason=why)

    async def _enter(self, failed: Rotation, why: str) -> None:
        """Whoever says so first: its entry has a key. Where it cannot be written, it is lost."""
        try:
            await self._tools.ledger.events.write([of_lapse(failed, why, self._tools.now())])
        except LedgerError as error:
            log.error("that a slot is not tried again cannot be noted", slot=failed.slot, error=str(error))

    def _judge(self, target: Target, *, is_news: bool = True, may_follow: bool = True) -> bool:
        """Say when the slot is tried again, under the policy as it is now; True where that is now."""
        now, failed, facts = self._tools.now(), self._last[target.server_id], self._board.of(target.server_id)
        delay = spread_delay(target.server_id, target.policy.spread)
        following = next_attempt(failed, self._config.rules_of(target), delay=delay, now=now)
        if following.at is None or not may_follow:
            self.lapse(target, following.why_not or "the server was not looked after meanwhile", is_news=is_news)
            return False
        if following.at != facts.retry_at:
            facts.retry_at = following.at
            words = {"slot": failed.slot.isoformat(), "attempt": failed.attempt + 1, "at": zulu(following.at)}
            log.warning("the slot is tried again", server=target.label, error=failed.error, **words)
            asyncio.get_running_loop().call_later(max((following.at - now).total_seconds(), 0.0), self.look)
        return following.at <= now

    def look(self) -> None:
        """Begin the attempts whose time has come."""
        if self._pending and not self._stopped and not self._is_looking and self._turns.may_claim():
            self._is_looking = True
            self._in_background(self._begin_all(), "slots that are tried again")

    async def _begin_all(self) -> None:
        try:
            for server_id in list(self._pending):
                target = self._targets.get(server_id)
                if target is not None and server_id in self._pending and self._judge(target):
                    await self._begin_one(target)
        finally:
            self._is_looking = False

    async def _begin_one(self, target: Target) -> None:
        failed, now = self._last[target.server_id], self._tools.now()
        try:
            last = await self._tools.ledger.last_of([target.server_id])
            if last and last[0].id != failed.id:
                self._follow(target, last[0])
                return
            begun = new_rotation(self._config, target, slot=failed.slot, now=now)
            claim = await self._rotations.begin(again(failed, begun))
        except LedgerError as error:
            log.error("the slot cannot be tried again yet", server=target.label, error=str(error))
            return
        self._claimed(target, claim, now)

    def _claimed(self, target: Target, claim: Claim, now: datetime) -> None:
        facts = self._board.of(target.server_id)
        match claim:
            case ServerBusy(open=busy):
                log.info("another rotation is open", server=target.label, rotation=busy.id, step=busy.step)
                return
            case Claimed():
                facts.last_attempt = now
            case SlotTaken():
                log.info("another process tries the slot again", server=target.label)
        self._pending.discard(target.server_id)
        facts.retry_at = None

    # -- what comes too late -----------------------------------------------------------------------------------

    async def _watch(self, ended: Rotation) -> None:
        """See how long a snapshot takes that a rotation has given up: then somebody can be told what is wrong."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < WATCHED_FOR and not self._stopped:
            await asyncio.sleep(until_tick(self._tools.poll_interval))
            target = self._targets.get(ended.server_id)
            if target is None or self._last.get(ended.server_id) is not ended or self._board.open_of(target.server_id):
                return
            try:
                snapshots = await self._tools.inventory.snapshots(ended.server_id)
            except CloudError:
                continue
            mine = taken_for(ended, snapshots)
            if mine is None or mine.state is SnapshotState.IN_PROGRESS:
                continue
            if mine.is_completed:
                self._has_taken(ended, mine, loop.time() - began)
                await self.listed(target, snapshots)
            return

    def _has_taken(self, ended: Rotation, mine: Snapshot, since: float) -> None:
        known = watched_to_its_end(ended, mine, since)
        self._last[ended.server_id] = known
        self._board.of(ended.server_id).note_end(known)

    async def listed(self, target: Target, snapshots: tuple[Snapshot, ...]) -> None:
        """The account shows these snapshots of the server: one that its last rotation gave up may be completed."""
        ended = self._last.get(target.server_id)
        is_waited_for = target.server_id in self._pending or bool(self._board.open_of(target.server_id))
        if ended is None or is_waited_for or self._stopped or not self._wants_the_same(target, ended):
            return
        if (mine := completed_late(ended, snapshots)) is None:
            return
        rules = self._config.rules_of(target)
        try:
            claim = await self._rotations.begin(amended(ended, mine, rules), reopens=True)
        except LedgerError as error:
            log.error("what came too late cannot be noted yet", server=target.label, error=str(error))
            return
        if isinstance(claim, Claimed):
            log.warning("completed after all", server=target.label, slot=ended.slot.isoformat(), snapshot_id=mine.id)

    def _wants_the_same(self, target: Target, ended: Rotation) -> bool:
        """What is pruned then is what that rotation would have pruned."""
        now, then = target.policy, ended.policy
        same = (now.keep, now.adopt, now.when_full) == (then.keep, then.adopt, then.when_full)
        return same and not now.paused and self._config.instance == ended.rules.instance


def _is_next(one: Rotation, failed: Rotation) -> bool:
    """Whether it is a later attempt at the slot of one that has failed."""
    return one.slot == failed.slot and one.attempt > failed.attempt
