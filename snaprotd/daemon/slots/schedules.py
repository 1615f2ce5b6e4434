"""The servers that are looked after, and what becomes of each of their slots: run, run late, skipped, counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import structlog

from snaprotd.config.settings import Config, Target
from snaprotd.core.admission import LATE, why_shut
from snaprotd.core.errors import LedgerError
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Result
from snaprotd.core.schedule import expected_interval, missed_slots, next_opening, spread_delay
from snaprotd.daemon.ledger_watch import Remembered
from snaprotd.daemon.slots.marks import Marks
from snaprotd.daemon.slots.retries import Retries
from snaprotd.daemon.slots.timer import SlotTimer
from snaprotd.daemon.slots.turns import Slot, Turns
from snaprotd.engine.board import Board, ServerFacts
from snaprotd.engine.rotations import Rotations
from snaprotd.engine.tools import Tools
from snaprotd.ledger.claims import Claimed, Mark, ServerBusy
from snaprotd.observe.metrics import DaemonMetrics
from snaprotd.wiring.assembly import new_rotation

log = structlog.get_logger("snaprotd.schedules")

AT_ONCE = 20
"""Servers that are taken up before others have a turn: thousands take seconds, and a start may wait meanwhile."""

INSTANT = timedelta(microseconds=1)


class Schedules:
    def __init__(
        self,
        config: Config,
        tools: Tools,
        *,
        rotations: Rotations,
        board: Board,
        metrics: DaemonMetrics,
        in_background: Callable[[Awaitable[None], str], None],
        turns: Turns,
    ) -> None:
        self._config = config
        self.targets: dict[str, Target] = {}
        self._rotations = rotations
        self.retries = Retries(
            config, tools, rotations=rotations, board=board, in_background=in_background, turns=turns
        )
        self._board = board
        self._metrics = metrics
        self._now = tools.now
        self._in_background = in_background
        self._timer = SlotTimer(self._due)
        self._turns = turns
        self._marks = Marks(tools.ledger, tools.now, may_write=lambda: turns.may_claim())
        self._unclaimed: dict[str, Slot] = {}
        """The slots that could not be claimed, or wait for their window; each with how far all is dealt with then."""
        self._is_claiming = False
        self._looked_at: datetime | None = None
        self._stopped = False

    def apply(self, config: Config) -> None:
        self._config = config
        self.retries.apply(config)

    def start(self) -> None:
        self._timer.start()

    def stop(self) -> None:
        """Take up no further slot."""
        self._stopped = True
        self.retries.stop()
        self._turns.stop()
        self._timer.stop()

    # -- which servers -------------------------------------------------------------------------------------------

    async def set_targets(self, targets: Sequence[Target], remembered: Remembered, *, at_start: bool) -> None:
        """Look after these servers from now on.

        `at_start`: they were looked after by the process before this one too, so that what was missed meanwhile
        may be run. Otherwise nothing runs before its next slot: not for being new, edited, or unpaused.
        """
        marks: list[Mark] = []
        before, self.targets = self._renamed(), {target.server_id: target for target in targets}
        self._board.show_only({target.server_id: target.label for target in targets})
        for number, gone in enumerate(before.keys() - self.targets.keys()):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            self._timer.remove(gone)
            self._marks.seen.pop(gone, None)
            self._unclaimed.pop(gone, None)
        self.retries.set_targets(self.targets)
        remembered = await remembered.under(self._board.called)
        for number, target in enumerate(targets):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            facts = self.facts(target)
            facts.last_attempt = remembered.attempts.get(target.server_id)
            facts.last_success = remembered.successes.get(target.server_id)
            if (latest := remembered.latest.get(target.server_id)) is not None:
                facts.note_end(latest)
                self.retries.note(latest, is_news=False, may_follow=at_start or target.server_id in before)
            old = before.get(target.server_id)
            if old is None or old.policy.slots_written != target.policy.slots_written:
                self._lapse(target, "its policy was edited")
                try:
                    marks += await self._admit(target, remembered.marks.get(target.server_id), at_start=at_start)
                except Exception:
                    log.exception("internal error: this server's schedule is not told", server=target.label)
            elif old.server_id != target.server_id:
                seen = self._marks.seen[target.server_id]
                self._set_timer(target, since=max(self._now(), seen + _delay(target)))
                marks.append(self._marks.of(target, seen))
        await self._marks.set(marks)
        self._tell_next_runs()

    def _renamed(self) -> dict[str, Target]:
        """The targets by the ids by which they are called now; their schedules go on as they were."""
        called = self._board.called
        for one in [one for one in self.targets if called(one) != one]:
            self._timer.remove(one)
            if one in self._marks.seen:
                self._marks.seen[called(one)] = self._marks.seen.pop(one)
            if one in self._unclaimed:
                self._unclaimed[called(one)] = self._unclaimed.pop(one)
        return {called(one): target for one, target in self.targets.items()}

    async def _admit(self, target: Target, mark: Mark | None, *, at_start: bool) -> list[Mark]:
        """Begin to tell of a server's slots: those from now on, and before them what was missed, if anything was.

        Answers with the marks that are to be set.
        """
        now, delay = self._now(), _delay(target)
        known = at_start and mark is not None and mark.schedule == target.policy.slots_written
        # A policy that is new sees no slot before it, however long its turn is delayed.
        seen = mark.seen_until if known and mark else now
        if seen > now:
            log.warning("the mark of the schedule lies in the future: it counts as now", server=target.label, mark=seen)
        self._marks.seen[target.server_id] = min(seen, now)
        self._set_timer(target, since=max(now, self._marks.seen[target.server_id] + delay))
        return await self._catch_up(target, now)

    def _set_timer(self, target: Target, *, since: datetime) -> None:
        self._timer.set(target.server_id, target.policy.schedule, _delay(target), since)
        interval = expected_interval(target.policy.schedule, since)
        self.facts(target).expected_interval = None if target.policy.paused else interval.total_seconds()

    # -- their slots ---------------------------------------------------------------------------------------------

    def _due(self, server_id: str, slot: datetime) -> None:
        """The timer's call: hand the slot on and return."""
        target = self.targets.get(server_id)
        if target is None or self._stopped:
            return
        now = self._now()
        late = now - slot - _delay(target)
        self._metrics.taken_up(late.total_seconds())
        self.retries.lapse(target, "the next slot has come")
        if late <= LATE:
            self._lapse(target, "the next slot has come", is_lost=False)
        self._unclaimed.pop(server_id, None)  # else it is found, and counted, among those that were missed
        work = self._take_up_late(target, now) if late > LATE else self.take_up(target, slot, seen_until=slot)
        self._in_background(work, f"slot {slot} of {target.label}")

    async def _take_up_late(self, target: Target, now: datetime) -> None:
        self._marks.seen[target.server_id] = await self._marks.seen_by_any(target)
        await self._marks.set(await self._catch_up(target, now))

    async def _catch_up(self, target: Target, now: datetime) -> list[Mark]:
        """Deal with the slots that nobody saw: at most one is run, the others are counted.

        Answers with the mark that is to be set then, unless a rotation was claimed with it.
        """
        delay, facts = _delay(target), self.facts(target)
        missed = missed_slots(
            target.policy.schedule,
            seen=self._marks.seen[target.server_id],
            now=now,
            policy_missed=target.policy.missed,
            within=target.policy.missed_within,
            delay=delay,
        )
        if missed.skipped:
            facts.note_missed(missed.skipped, now)
            self._marks.note_missed(target, missed.skipped, (), "nobody saw them in time", is_lost=missed.run is None)
            log.warning("slots were missed", server=target.label, skipped=missed.skipped, running=str(missed.run))
        if missed.run is None:
            return [self._marks.of(target, max(self._marks.seen[target.server_id], now - delay))]
        await self.take_up(target, missed.run, seen_until=now - delay, late=True)
        await self._marks.set([])
        return []

    async def take_up(
        self, target: Target, slot: datetime, *, seen_until: datetime | None = None, late: bool = False
    ) -> None:
        """Run a rotation for the slot, unless the policy is paused or the server has one open already.

        All slots up to `seen_until` are dealt with then; None where the slot is none of the schedule's.
        """
        facts, mark, seen = self.facts(target), None, self._marks.seen.get(target.server_id)
        if seen_until is not None:
            mark = self._marks.of(target, seen_until)
            is_ours = await self._turns.come(target.server_id, (slot, seen_until), waits=not late)
            wanted = self.targets.get(self._board.called(target.server_id))  # by now
            if not is_ours or wanted is None:
                self._unclaimed.pop(target.server_id, None)
                return
            if wanted.policy.paused:
                facts.skipped["paused"] += self._turns.prefers(target.server_id)
                await self._marks.set([self._marks.of(target, seen_until)])
                return
            if why := why_shut(target.policy, self._now()):
                await self._shut_out(target, slot, seen_until, why, late=late)
                return
        now = self._now()
        of_the_schedule = Kind.LATE if late else Kind.SCHEDULED
        kind = Kind.MANUAL if seen_until is None else of_the_schedule
        try:
            claim = await self._rotations.begin(new_rotation(self._config, target, slot=slot, now=now, kind=kind), mark)
        except LedgerError as error:
            if seen_until is not None and seen is not None:
                self._marks.seen[target.server_id] = seen
                if self._is_unclaimed(target, slot, seen_until):
                    return  # told already
            facts.rotations[Result.FAILURE] += 1
            facts.last_failure = now
            log.error("the slot could not be claimed", server=target.label, slot=slot.isoformat(), error=str(error))
            return
        self._unclaimed.pop(target.server_id, None)
        match claim:
            case Claimed():
                facts.last_attempt = now
                facts.missed["ran_late"] += late
            case ServerBusy(open=busy) if busy.slot != slot:  # else another replica runs it
                shown = self._board.running.get(busy.id, busy)
                facts.skipped[shown.skipped or "in_flight"] += 1
                open_at = {"step": shown.step, "note": shown.note}
                log.warning("skipped: the server's last rotation is still open", server=target.label, **open_at)

    async def _shut_out(self, target: Target, slot: datetime, seen_until: datetime, why: str, *, late: bool) -> None:
        """Its window is closed: a slot that was missed waits for it, unless it would be too old then; others pass."""
        facts, policy = self.facts(target), target.policy
        opens = next_opening(policy.window, policy.timezone, self._now())
        if not late:
            facts.skipped["window"] += self._turns.prefers(target.server_id)
            log.warning("skipped: the slot has its turn outside its window", server=target.label, reason=why)
        elif opens - slot - _delay(target) > policy.missed_within:
            facts.note_missed(1, self._now())
            self._marks.note_missed(target, 1, [slot], "it is too old before its window opens")
            log.warning("a missed slot has lapsed before its window opens", server=target.label, reason=why)
        else:
            mark = self._marks.of(target, slot - INSTANT)  # a process that follows this one finds it again
            if not self._is_unclaimed(target, slot, seen_until):
                log.warning("a missed slot waits for its window", server=target.label, reason=why)
                await self._marks.set([mark])
            return
        self._unclaimed.pop(target.server_id, None)
        await self._marks.set([self._marks.of(target, seen_until)])

    def _lapse(self, target: Target, why: str, *, is_lost: bool = True) -> None:
        """What waits to be claimed is not run. `is_lost`: nor is anything else now."""
        if (waiting := self._unclaimed.pop(target.server_id, None)) is not None:
            self.facts(target).note_missed(1, self._now())
            self._marks.note_missed(target, 1, [waiting[0]], why, is_lost=is_lost)
            log.warning("a missed slot is not run", server=target.label, slot=waiting[0].isoformat(), reason=why)

    def _is_unclaimed(self, target: Target, slot: datetime, seen_until: datetime) -> bool:
        """Whether it was known already that the slot is to be claimed as soon as that can be."""
        known = self._unclaimed.get(target.server_id)
        self._unclaimed[target.server_id] = (slot, seen_until)
        return known == (slot, seen_until)

    async def _claim_again(self) -> None:
        """Run the slots that could not be claimed, as soon as they can, or count them where that is too late."""
        try:
            for server_id, (slot, seen_until) in list(self._unclaimed.items()):
                if (target := self.targets.get(server_id)) is not None:
                    await self._claim_late(target, slot, seen_until)
        finally:
            self._is_claiming = False

    async def _resume(self, slots: dict[str, Slot]) -> None:
        """Those that a replica with a newer configuration was to run: by the claim, where it has not."""
        for server_id, (slot, seen_until) in slots.items():
            target = self.targets.get(server_id)
            late = timedelta(0) if target is None else self._now() - slot - _delay(target)
            if target is not None and timedelta(0) <= late <= target.policy.missed_within:  # else it is yet to come
                await self.take_up(target, slot, seen_until=seen_until, late=True)

    async def _claim_late(self, target: Target, slot: datetime, seen_until: datetime) -> None:
        late = self._now() - slot - _delay(target)
        if late <= target.policy.missed_within:
            await self.take_up(target, slot, seen_until=seen_until, late=late > LATE)
            return
        self._lapse(target, "it is older than `missed_within`")
        await self._marks.set([self._marks.of(target, seen_until)])

    # -- the clock -----------------------------------------------------------------------------------------------

    def look_at_clock(self) -> None:
        """Notice that the wall clock was set since the last look, either way."""
        now = self._now()
        if self._looked_at is not None and now < self._looked_at - LATE:
            log.warning("the wall clock was set back", now=now.isoformat())
            seen = {one: min(self._marks.seen[one], now - _delay(target)) for one, target in self.targets.items()}
            marks = [self._marks.of(target, seen[one]) for one, target in self.targets.items()]
            self._in_background(self._marks.set(marks), "marks of a clock that was set back")
            for target in self.targets.values():
                # The timer would sleep until the far time that the clock showed. What was run is in the ledger.
                try:
                    self._set_timer(target, since=now)
                except Exception:
                    log.exception("internal error: this server's schedule is not told", server=target.label)
        self._looked_at = now
        if self._unclaimed and not self._stopped and not self._is_claiming:
            self._is_claiming = True
            self._in_background(self._claim_again(), "slots that the ledger was busy at")
        if not self._stopped and (resumed := self._turns.resumed()):
            self._in_background(self._resume(resumed), "slots of replicas that are gone")
        self.retries.look()
        self._timer.wakeup()
        self._metrics.ticked(now)
        self._tell_next_runs()

    def _tell_next_runs(self) -> None:
        for target in self.targets.values():
            if (facts := self._board.servers.get(target.label)) is not None:
                facts.next_run = None if target.policy.paused else self._next_run(target, facts.retry_at)

    def _next_run(self, target: Target, retry_at: datetime | None) -> datetime | None:
        policy, scheduled = target.policy, self._timer.next_run(target.server_id)
        if retry_at is None and target.server_id not in self._unclaimed:
            return scheduled
        is_waiting = target.server_id in self._unclaimed
        opens = next_opening(policy.window, policy.timezone, self._now()) if is_waiting else None
        return min((one for one in (scheduled, retry_at, opens) if one is not None), default=None)

    def facts(self, target: Target) -> ServerFacts:
        return self._board.of(target.server_id)


def _delay(target: Target) -> timedelta:
    return spread_delay(target.server_id, target.policy.spread)
