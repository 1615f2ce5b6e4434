"""The daemon's life: recover, schedule, watch, stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import structlog

from snaprotd import retention
from snaprotd.assembly import new_rotation, open_tools
from snaprotd.cloud import Doubtful, Transport
from snaprotd.config import Config, Target, resolve
from snaprotd.errors import CloudError, LedgerError
from snaprotd.ledger import Claimed, Mark, ServerBusy
from snaprotd.metrics import Holdings, Metrics, ServerFacts
from snaprotd.model import Policy
from snaprotd.rotation import Result, Rotation
from snaprotd.rotations import Rotations
from snaprotd.schedule import Schedule, expected_interval, missed_slots, spread_delay
from snaprotd.steps import Tools
from snaprotd.timer import SlotTimer
from snaprotd.web import serving

log = structlog.get_logger("snaprotd.daemon")

TICK = 15.0
"""Seconds between two looks at the wall clock, which may have been set, and at rotations that nobody holds."""

LATE = timedelta(seconds=60)
"""A slot that is taken up later than this was missed (the machine slept, say), and its policy's `missed` decides."""

INVENTORY_EVERY = 60.0
"""Seconds between two readings of the whole account, at the least four polls."""


class Daemon:
    """One daemon, from `run` to its end. It is its own `View` for the web pages."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        *,
        on_finished: Callable[[Rotation], None] = lambda _: None,
        transport: Transport | None = None,
    ) -> None:
        self.config = config
        self._transport = transport
        self._on_finished = on_finished
        self.metrics = Metrics()
        self.url: str | None = None
        self.started = asyncio.Event()
        self._environ = environ
        self._stop = asyncio.Event()
        self._targets: dict[str, Target] = {}
        self._seen: dict[str, datetime] = {}
        """For each server the slot up to which all is dealt with."""
        self._timer = SlotTimer(self._due)
        self._ticked_at: float | None = None
        self._ticked_wall: datetime | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._tools: Tools
        self._rotations: Rotations

    # -- life --------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until `stop`; the exit code. Raises `SnaprotdError` where it cannot even begin."""
        async with AsyncExitStack() as stack:
            self._tools = await stack.enter_async_context(
                open_tools(self.config, self._environ, self.metrics, self._transport)
            )
            self._rotations = Rotations(
                self._tools, self.metrics, max_concurrent=self.config.max_concurrent, finished=self._finished
            )
            self.url = await stack.enter_async_context(serving(self, self.config.listen))
            await self._begin()
            self.started.set()
            log.info("running", servers=len(self._targets), listen=self.url, state=self.config.state)
            await self._stop.wait()
            return await self._end()

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stop.set()

    def obey_signals(self) -> None:
        """SIGTERM and SIGINT: an orderly end; a second one ends at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number)

    def _asked_to_end(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)
        log.info("asked to end: taking no new work", signal=signal.Signals(number).name)
        self.stop()

    async def _begin(self) -> None:
        self._note_config()
        await self._rotations.take_over(everything=self._tools.ledger.is_sole_user)
        await self._set_targets(resolve(self.config, None), at_start=True)
        self._timer.start()
        lease = self.config.api.timeout
        for name, work in {
            "tick": _every(TICK, self._tick),
            "inventory": _every(max(INVENTORY_EVERY, 4 * self.config.poll_interval), self._read_inventory),
            "leases": self._rotations.keep_leases(min(lease / 2, 10.0)),
        }.items():
            self._in_background(work, name)

    async def _end(self) -> int:
        self._timer.stop()
        all_on = await self._rotations.drain(self.config.drain_timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not all_on:
            log.error("ended while servers are held off; the next start goes on with them")
        return 0 if all_on else 1

    def _in_background(self, work: Awaitable[None], name: str) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._background_ended(ended, name))

    def _background_ended(self, task: asyncio.Future[None], name: str) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("internal error", task=name, exc_info=task.exception())

    # -- what is configured --------------------------------------------------------------------------------------

    def _note_config(self) -> None:
        self.metrics.config_ok.set(1)
        self.metrics.config_loaded_at.set(datetime.now(UTC).timestamp())
        self.metrics.limit.set(self.config.limit)

    async def _set_targets(self, targets: Sequence[Target], *, at_start: bool) -> None:
        """Make these the servers that are looked after. A slot missed before is run only for one known `at_start`."""
        ledger = self._tools.ledger
        marks, attempts, successes = (
            await ledger.marks(),
            await ledger.last_slots(),
            await ledger.last_slots(result=Result.SUCCESS),
        )
        for gone in self._targets.keys() - {target.server_id for target in targets}:
            self._timer.remove(gone)
            self._seen.pop(gone, None)
        known, self._targets = self._targets, {target.server_id: target for target in targets}
        self.metrics.keep_only(target.label for target in targets)
        for target in targets:
            facts = self.metrics.facts(target.label, target.server_id)
            facts.last_attempt = attempts.get(target.server_id)
            facts.last_success = successes.get(target.server_id)
            if known.get(target.server_id) != target:
                await self._admit(target, marks.get(target.server_id), at_start=at_start)

    async def _admit(self, target: Target, mark: Mark | None, *, at_start: bool) -> None:
        """Begin to tell of a server's slots: those from now on, and before them what was missed, if anything was."""
        now, schedule, delay = self._now(), _schedule(target.policy), _delay(target)
        same = mark is not None and mark.schedule == _written(target.policy)
        self._seen[target.server_id] = mark.seen_until if at_start and same and mark else now - delay
        self._timer.set(target.server_id, schedule, delay, since=now)
        facts = self._facts(target)
        facts.next_run = self._timer.next_run(target.server_id)
        facts.expected_interval = expected_interval(schedule, now).total_seconds()
        await self._catch_up(target, now)

    # -- slots ---------------------------------------------------------------------------------------------------

    def _due(self, server_id: str, slot: datetime) -> None:
        """The timer's call: hand the slot on and return."""
        target = self._targets.get(server_id)
        if target is None or self._stop.is_set():
            return
        now = self._now()
        late = now - slot - _delay(target)
        self.metrics.lateness.observe(max(0.0, late.total_seconds()))
        work = self._catch_up(target, now) if late > LATE else self._take_up(target, slot, seen_until=slot)
        self._in_background(work, f"slot {slot} of {target.label}")

    async def _catch_up(self, target: Target, now: datetime) -> None:
        """Deal with the slots that nobody saw: at most one is run, the others are counted."""
        delay, facts = _delay(target), self._facts(target)
        missed = missed_slots(
            _schedule(target.policy),
            seen=self._seen[target.server_id],
            now=now,
            policy_missed=target.policy.missed,
            within=target.policy.missed_within,
            delay=delay,
        )
        if missed.skipped:
            facts.missed["skipped"] += missed.skipped
            log.warning("slots were missed", server=target.label, skipped=missed.skipped, running=str(missed.run))
        if missed.run is None:
            self._seen[target.server_id] = now - delay
            await self._set_mark(self._mark(target, now - delay))
        else:
            facts.missed["ran_late"] += 1
            await self._take_up(target, missed.run, seen_until=now - delay)

    async def _take_up(self, target: Target, slot: datetime, *, seen_until: datetime) -> None:
        """Run a rotation for the slot, unless the policy is paused or the server has one open already."""
        facts = self._facts(target)
        self._seen[target.server_id] = seen_until
        mark = self._mark(target, seen_until)
        if target.policy.paused:
            facts.skipped["paused"] += 1
            await self._set_mark(mark)
            return
        now = self._now()
        try:
            claim = await self._rotations.claim(new_rotation(self.config, target, slot=slot, now=now), mark)
        except LedgerError as error:
            facts.rotations[Result.FAILURE] += 1
            log.error("the slot could not be claimed", server=target.label, slot=slot.isoformat(), error=str(error))
            return
        match claim:
            case Claimed():
                facts.last_attempt = now
            case ServerBusy(open=busy):
                facts.skipped["in_flight"] += 1
                log.warning("skipped: the server's last rotation is still open", server=target.label, step=busy.step)

    async def _set_mark(self, mark: Mark) -> None:
        try:
            await self._tools.ledger.set_marks([mark])
        except LedgerError as error:
            log.error("the schedule's mark could not be saved", error=str(error))

    def _mark(self, target: Target, seen_until: datetime) -> Mark:
        return Mark(server_id=target.server_id, seen_until=seen_until, schedule=_written(target.policy))

    # -- what is watched -----------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        now = self._now()
        if self._ticked_wall is not None and now < self._ticked_wall - LATE:
            self._clock_was_set_back(now)
        self._timer.wakeup()
        self._ticked_at, self._ticked_wall = asyncio.get_running_loop().time(), now
        self.metrics.scheduler_ticked_at.set(now.timestamp())
        for server_id, target in self._targets.items():
            self._facts(target).next_run = self._timer.next_run(server_id)
        if not self._stop.is_set():
            await self._rotations.take_over()

    def _clock_was_set_back(self, now: datetime) -> None:
        """The timer would sleep until the far time that the clock showed. A slot that was run is in the ledger."""
        log.warning("the wall clock was set back", now=now.isoformat())
        for target in self._targets.values():
            self._seen[target.server_id] = min(self._seen[target.server_id], now - _delay(target))
            self._timer.set(target.server_id, _schedule(target.policy), _delay(target), since=now)

    async def _read_inventory(self) -> None:
        try:
            await self._tools.inventory.refresh()
        except CloudError as error:
            log.error("the account could not be listed", error=str(error))
            if not isinstance(error, Doubtful):
                return  # in doubt, what could be read is known all the same: one bad entry stops nobody else
        servers = [held.server for held in self._tools.inventory.known.values() if held.server is not None]
        targets = resolve(self.config, servers)
        if {target.server_id for target in targets} != self._targets.keys():
            first = self.metrics.inventory_listed_at is None
            await self._set_targets(targets, at_start=first)
        self.metrics.inventory_listed_at = self._tools.inventory.last_success
        for count, target in enumerate(targets):
            self._assess(target)
            if count % 100 == 0:
                await asyncio.sleep(0)

    async def rotate(self, server_id: str) -> None:
        """Begin a rotation of a configured server at once, as if its slot had come this second."""
        now = self._now().replace(microsecond=0)
        await self._take_up(self._targets[server_id], now, seen_until=self._seen[server_id])

    def _finished(self, rotation: Rotation) -> None:
        self._on_finished(rotation)
        target = self._targets.get(rotation.server_id)
        if target is not None:
            self._assess(target)

    def _assess(self, target: Target) -> None:
        """Bring the metrics of one server in line with what was last listed of it."""
        held = self._tools.inventory.known.get(target.server_id)
        if held is None:
            return
        facts = self._facts(target)
        facts.server_name = held.server.name if held.server else facts.server_name
        now, instance = self._now(), self.config.instance
        plan, room = retention.outlook(
            held.snapshots, target.policy, instance=instance, limit=self.config.limit, now=now
        )
        newest = retention.newest_completed(held.snapshots, instance=instance, adopt=target.policy.adopt, now=now)
        facts.holdings = Holdings(
            counts=Tally((decision.owner, decision.snapshot.state) for decision in plan.decisions),
            newest_completed=newest.created_at if newest else None,
            newest_size_mb=newest.size_mb if newest else None,
            blocked=bool(room.blocked),
            prune_pending=len(plan.deletions),
        )

    def _facts(self, target: Target) -> ServerFacts:
        return self.metrics.facts(target.label, target.server_id)

    def _now(self) -> datetime:
        return self._tools.now()

    # -- the web's view ------------------------------------------------------------------------------------------

    def exposition(self) -> bytes:
        return self.metrics.exposition()

    def ailments(self) -> Sequence[str]:
        if self._ticked_at is None:
            return []
        silent = asyncio.get_running_loop().time() - self._ticked_at
        return [f"the scheduler has not looked at its clock for {silent:.0f} s"] if silent > 4 * TICK else []

    def unready(self) -> Sequence[str]:
        missing = []
        if not self.started.is_set():
            missing.append("the configuration is not in force yet")
        if self._tools.inventory.last_success is None:
            missing.append("the provider's API has not been reached yet")
        return missing


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` now and then every so often, for ever, whatever becomes of one turn of it."""
    while True:
        try:
            await work()
        except LedgerError as error:
            log.error("the ledger cannot be used", error=str(error))
        except Exception:
            log.exception("internal error", work=getattr(work, "__name__", ""))
        await asyncio.sleep(seconds)


def _schedule(policy: Policy) -> Schedule:
    return Schedule(expressions=policy.schedule, timezone=policy.timezone)


def _delay(target: Target) -> timedelta:
    return spread_delay(target.server_id, target.policy.spread)


def _written(policy: Policy) -> str:
    """What must not have changed for a missed slot to be run: nothing fires because a policy was edited or unpaused."""
    return f"{policy.timezone} {' | '.join(policy.schedule)}{' paused' if policy.paused else ''}"
