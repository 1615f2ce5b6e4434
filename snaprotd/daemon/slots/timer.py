"""The clock of the daemon: APScheduler, used as a timer and for nothing else; and what is done again and again.

Its jobs hand (server, time) on and return at once. Its own ways with late jobs and with coroutine jobs are not
used: by default it drops a job that is a second late, and it cancels running ones when it is shut down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from snaprotd.core.errors import LedgerError
from snaprotd.core.schedule import Schedule, last_slot, next_slot

log = structlog.get_logger("snaprotd.timer")

Due = Callable[[str, datetime], None]
"""Told a server's id and the slot that has come."""


class SlotTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires `delay` after each slot, in UTC. For a job with `coalesce=True` and `misfire_grace_time=None`.

    After a suspend APScheduler asks for every missed time, one by one: this answers with the latest at once.
    It never raises, which would end the jobs of all servers: it tells `on_error` and ends its own job (None).
    """

    __slots__ = ("delay", "following", "on_error", "schedule", "told_until")

    def __init__(
        self,
        schedule: Schedule,
        *,
        delay: timedelta = timedelta(0),
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.schedule = schedule
        self.delay = delay
        self.on_error = on_error
        self.following: datetime | None = None
        """The latest answer: when it fires next."""
        self.told_until: dict[str, datetime] = {}
        """The servers that it fires for, each with the instant up to which it has been told of all, or is not to be."""

    def slot_of(self, fire_time: datetime) -> datetime:
        """The slot, by its nominal time, of a time at which this fired."""
        return fire_time.astimezone(UTC) - self.delay

    def first_after(self, since: datetime) -> datetime | None:
        """The first time to fire after `since`. May raise."""
        slot = next_slot(self.schedule, self.slot_of(since))
        return None if slot is None else slot + self.delay

    def tell(self, fire_time: datetime) -> list[str]:
        """The servers that this time is for; they are told."""
        told = [one for one, until in self.told_until.items() if until < fire_time]
        self.told_until |= dict.fromkeys(told, fire_time)
        return told

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The next time to fire; without a previous one the first after `now`: creation runs nothing."""
        self.following = self._following(previous_fire_time, now)
        return self.following

    def _following(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        try:
            first = self.first_after(now if previous_fire_time is None else previous_fire_time)
            if first is None or previous_fire_time is None:
                return first
            latest = last_slot(self.schedule, self.slot_of(now))
            return first if latest is None else max(first, latest + self.delay)
        except Exception as error:
            if self.on_error:
                with suppress(Exception):
                    self.on_error(error)
            return None


class _HandOn(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types
    """An executor that starts nothing: it tells `due`, and no job is ever "running"."""

    def __init__(self, due: Due) -> None:
        super().__init__()
        self._due = due

    def submit_job(self, job: Any, run_times: list[datetime]) -> None:
        trigger, fire_time = job.trigger, run_times[-1]
        for server_id in trigger.tell(fire_time):
            try:
                self._due(server_id, trigger.slot_of(fire_time))
            except Exception:
                log.exception("internal error: this server's slot is not taken up", server_id=server_id)

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        raise NotImplementedError("submit_job does it all")


class SlotTimer:
    """Tells `due` of each server's slots, `delay` after each of them.

    Servers of the same schedule and delay share one job: of ten thousand that takes a second, and megabytes.
    """

    def __init__(self, due: Due) -> None:
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            executors={"default": _HandOn(due)},
            job_defaults={"misfire_grace_time": None, "coalesce": True},
        )
        self._triggers: dict[tuple[Schedule, timedelta], SlotTrigger] = {}
        self._trigger_of: dict[str, SlotTrigger] = {}
        self._scheduler.start(paused=True)  # as long as it has not begun at all, it looks for a job among all

    def start(self) -> None:
        self._scheduler.resume()

    def stop(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def wakeup(self) -> None:
        """Look at the wall clock now: it may have been set since the timer was."""
        if self._scheduler.running:
            self._scheduler.wakeup()

    def set(self, server_id: str, schedule: Schedule, delay: timedelta, since: datetime) -> None:
        """Tell of every slot of `schedule` whose turn comes after `since`, even if that is past already."""
        trigger = self._triggers.get((schedule, delay)) or _trigger(schedule, delay)
        try:
            first = trigger.first_after(since)
        except Exception as error:
            _ended([server_id], error)
            return
        if first is None:
            return
        if self._trigger_of.get(server_id) is not trigger:
            self.remove(server_id)
        self._triggers[schedule, delay] = self._trigger_of[server_id] = trigger
        trigger.told_until[server_id] = since
        if trigger.following is None or first < trigger.following:
            trigger.following = first
            job = {"id": _job_of(trigger), "name": str(schedule), "replace_existing": True}
            self._scheduler.add_job(_nothing, trigger, next_run_time=first, **job)

    def remove(self, server_id: str) -> None:
        trigger = self._trigger_of.pop(server_id, None)
        if trigger is None:
            return
        del trigger.told_until[server_id]
        if not trigger.told_until:
            del self._triggers[trigger.schedule, trigger.delay]
            if self._scheduler.get_job(_job_of(trigger)) is not None:
                self._scheduler.remove_job(_job_of(trigger))

    def next_run(self, server_id: str) -> datetime | None:
        """Asked of thousands, again and again; to ask the scheduler, under its lock, takes twenty times as long."""
        trigger = self._trigger_of.get(server_id)
        if trigger is None or trigger.following is None:
            return None
        since = trigger.told_until[server_id]
        if since < trigger.following:
            return trigger.following
        with suppress(Exception):  # others wait for a time from before; what goes wrong is told when its turn comes
            return trigger.first_after(since)
        return None


def _trigger(schedule: Schedule, delay: timedelta) -> SlotTrigger:
    trigger = SlotTrigger(schedule, delay=delay)
    trigger.on_error = partial(_ended, trigger.told_until)
    return trigger


def _job_of(trigger: SlotTrigger) -> str:
    return f"{trigger.schedule} +{trigger.delay}"


def _nothing() -> None:
    """What APScheduler is told to call, and never does."""


def _ended(server_ids: Iterable[str], error: Exception) -> None:
    for server_id in server_ids:
        log.error(
            "this server's schedule has ended: its next slot could not be told", server_id=server_id, error=str(error)
        )


async def for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`, which never ends, and begin it again if a mistake of ours ends it."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("internal error", work=getattr(work, "__name__", ""))
        await asyncio.sleep(1.0)


async def every(interval: Callable[[], float], work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` now and then every so often, for ever, whatever becomes of one turn of it."""
    while True:
        try:
            await work()
        except LedgerError as error:
            log.error("the ledger cannot be used", error=str(error))
        except Exception:
            log.exception("internal error", work=getattr(work, "__name__", ""))
        await asyncio.sleep(interval())
