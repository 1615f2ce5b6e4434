"""Histories: some nights of a server, processes that are killed, frozen and harmed, and a day after the last night."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from snaprotd.core.errors import ConfigError, LedgerError, SnaprotdError
from snaprotd.core.rotation import Rotation
from snaprotd.daemon.last_resort import pay_what_is_owed
from tests.support.followers import DAY, Process
from tests.support.harms import (
    BEFORE_THE_DAEMON,
    FORGETS_THE_SLOT,
    Harm,
    befall,
    disk_is_read_only,
    is_owed_on,
    is_promise_known,
    put_right,
    told_by,
)
from tests.support.lives import Story, night
from tests.support.promises import Witnessed
from tests.support.world_transport import WorldTransport

HOUR = 3600.0
LOOK_EVERY = 293.0
"""Seconds between two looks at the server and at what is said of it."""
NOTICED_WITHIN = 4 * HOUR
"""Seconds in which a process looks at a server that an old stop may still switch off, several times over."""


@dataclass(kw_only=True)
class History(Story):
    """Nights of one server, and what befalls the processes that live through them."""

    nights: int = 1
    hours_apart: int = 24
    was_active: bool = True
    harms: tuple[Harm, ...] = ()
    """After each death, in turn."""
    frozen_at: int | None = None
    """The number of the gate at which a process is frozen, of all that are passed; then a second process is started."""
    thaws_after: float | None = None
    """Seconds; None: never."""
    ledger_deleted_at: int | None = None
    """The number of the write after which the ledger is deleted under a living process."""

    label: str = "web-01"
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: dict[datetime, Rotation | None] = field(default_factory=dict)
    """What became of each slot; None where nothing tells of its rotation any more."""
    over_at: float | None = None
    """When the day after the last night ends, by the loop's clock."""
    is_ledger_missing: bool = False
    is_judged: bool = True
    """The promise to start the server can be known to whoever comes next."""
    met: set[str] = field(default_factory=set)
    """What has befallen it."""

    def __post_init__(self) -> None:
        self.witnessed = Witnessed(self)
        self.living: Process | None = None
        self._harms = iter(self.harms)
        self._off_since: float | None = None

    @property
    def slots(self) -> list[datetime]:
        """A night apart, or some hours."""
        return [night(0) + timedelta(hours=self.hours_apart * number) for number in range(self.nights)]

    def note_end(self, slot: datetime, rotation: Rotation | None) -> None:
        self.ended[slot] = rotation
        if rotation is not None:
            asyncio.get_running_loop().call_later(HOUR, self.witnessed.judge_result, rotation)

    # -- the course of it --------------------------------------------------------------------------------------

    async def live(self) -> list[str]:
        """To the end of the day after the last night: the broken promises."""
        loop = asyncio.get_running_loop()
        self.living = Process(self)
        look = loop.call_later(LOOK_EVERY, self._look)
        while self.over_at is None or loop.time() < self.over_at:
            async with asyncio.timeout(10 * DAY):
                await self.wake.wait()
            self.wake.clear()
            if self.living.is_dead:
                await self._go_on_after_a_death()
            elif self.living.is_frozen:
                self._go_on_beside_a_frozen_one()
        self.witnessed.judge_power(was_active=self.was_active, is_known=self.is_judged)
        self._looking.cancel() if self._looking else look.cancel()
        await self._end_everything()
        return self.witnessed.broken

    _looking: asyncio.TimerHandle | None = None

    async def _go_on_after_a_death(self) -> None:
        self.living = None
        await self._end_everything()
        harm = next(self._harms, Harm.NONE)
        self.met.add(harm)
        before = told_by(self.ledger_path)
        befall(self.ledger_path, harm)
        self.is_judged = self.is_judged and is_promise_known(before, told_by(self.ledger_path))
        if harm in FORGETS_THE_SLOT:
            self.witnessed.forgives.add("P4")
        await asyncio.sleep(10)  # the service is started again
        if harm in BEFORE_THE_DAEMON:
            await self._pay_before_the_daemon(harm)
        self.living = Process(self, is_disk_full=harm is Harm.DISK_FULL)

    async def _pay_before_the_daemon(self, harm: Harm) -> None:
        """The daemon cannot begin; an hour later a person has put it right."""
        is_read_only = harm is Harm.DISK_READ_ONLY
        why: SnaprotdError = LedgerError("the disk is read-only") if is_read_only else ConfigError([])
        owed = is_owed_on(self.ledger_path)
        transport = WorldTransport(self.world, before=self.before_request)
        environ = {"VPS_API_TOKEN": self.world.token}
        with disk_is_read_only(self.ledger_path, really=is_read_only):
            async with asyncio.timeout(DAY):
                paid = await pay_what_is_owed([self.ledger_path], environ, why, transport=transport)
        if owed and self.is_judged:
            self.witnessed.judge_last_resort(paid=paid, was_active=self.was_active)
        await asyncio.sleep(HOUR)
        put_right(self.ledger_path, harm)

    def _go_on_beside_a_frozen_one(self) -> None:
        frozen, self.living = self.living, Process(self, is_second=True)
        self.met.add("frozen")
        if frozen is not None and self.thaws_after is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self.thaws_after, frozen.thawed.set)
            loop.call_later(self.thaws_after + HOUR, self._end_the_thawed, frozen)

    def _end_the_thawed(self, process: Process) -> None:
        self._ending = asyncio.create_task(self._leave_to_the_other(process))

    async def _leave_to_the_other(self, process: Process) -> None:
        """What it followed the other one takes up, as a daemon does at its next tick."""
        await process.end()
        if self.living is not None and not self.living.is_dead:
            with suppress(LedgerError):
                await self.living.take_over()

    @staticmethod
    async def _end_everything() -> None:
        """The dead process's tasks end with it."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # -- what is looked at -------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Whether a server that is off because of us is told by the process that lives."""
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(LOOK_EVERY, self._look)
        process, status = self.living, self.world.status_of(self.server_id)
        if process is None or status != "stopped" or not self.was_active:
            self._off_since = None
            if process is not None:
                process.shown_off = 0
            return
        self._off_since = loop.time() if self._off_since is None else self._off_since
        if not self.is_judged or self.is_ledger_missing or process.is_frozen:
            return
        is_late = loop.time() - self._off_since > NOTICED_WITHIN
        if (is_late or process.shown_off > 2) and process.says_that_all_is_well:
            self.witnessed.say(f"P8: the server is off because of us, and nothing tells of it at {datetime.now(UTC)}")
