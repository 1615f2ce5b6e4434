"""Histories: some nights of a server, processes that are killed, frozen and harmed, and a day after the last night."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import cycle
from typing import Any, ClassVar

from snaprotd.core.errors import ConfigError, DeletionUnderWay, LedgerError, SnaprotdError
from snaprotd.core.rotation import Rotation
from snaprotd.daemon.last_resort import pay_what_is_owed
from snaprotd.simulator import SimSnapshot, World
from tests.support.followers import DAY, Process
from tests.support.harms import (
    BEFORE_THE_DAEMON,
    FORGETS_THE_SLOT,
    LOSES_HOLDS,
    Harm,
    befall,
    disk_is_read_only,
    is_ledger,
    is_owed_on,
    is_promise_known,
    lose_power,
    put_right,
    told_by,
)
from tests.support.lies import Liar, Lie
from tests.support.lives import MortalLedger, Story, night
from tests.support.nouns import a_snapshot
from tests.support.promises import Witnessed
from tests.support.truths import Whose, slot_in, whose
from tests.support.virtual_time import VirtualLoop, true_time
from tests.support.world_transport import WorldTransport

HOUR = 3600.0
LOOK_EVERY = 293.0
"""Seconds between two looks at the server and at what is said of it."""
LOOKED_WITHIN = 60.0
"""Seconds: more than pass between a look and the last of what is decided by it."""
ACCOUNT = "vps.invalid"
NOTICED_WITHIN = 4 * HOUR
"""Seconds in which a process looks at a server that an old stop may still switch off, several times over."""


@dataclass(frozen=True, kw_only=True)
class Other:
    """A snapshot that somebody else takes, and calls as we call ours, or another instance its own."""

    at: float
    """Seconds after the first slot."""
    named_for: float
    """The time in its name, in the same seconds."""
    instance: str
    status: str


@dataclass(frozen=True, kw_only=True)
class Word:
    """What a person says of holding a snapshot, by a command that writes it into the ledger."""

    at: float
    """Seconds after the first slot."""
    which: int
    """Of those that are ours and completed then, the newest first."""
    until: date
    """The last day, or `RELEASED`."""


class OffTimeWorld(World):
    """A provider whose clock is wrong for a while, and then right again: so are the dates of what is taken."""

    ahead = 0.0
    """Seconds by which it is wrong now."""

    def is_wrong(self, ahead: float, *, since: float, lasts: float) -> None:
        """Its clock is wrong by `ahead`, from `since` on for `lasts`: seconds, counted from now."""
        self.later(max(0.0, since), lambda: setattr(self, "ahead", ahead))
        self.later(max(0.0, since) + lasts, lambda: setattr(self, "ahead", 0.0))

    def take_snapshot(self, *request: Any) -> SimSnapshot:
        made = super().take_snapshot(*request)
        made.created_at = (made.made_at + timedelta(seconds=self.ahead)).isoformat()
        return made


@dataclass(kw_only=True)
class History(Story):
    """Nights of one server, and what befalls the processes that live through them."""

    process: ClassVar[type[Process]] = Process
    judged_by: ClassVar[Any] = Witnessed
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

    lies: tuple[Lie, ...] = ()
    others: tuple[Other, ...] = ()
    words: tuple[Word, ...] = ()
    clocks: tuple[float, ...] = ()
    """By how many seconds our clock is wrong, after each death in turn."""

    label: str = "web-01"
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: dict[datetime, Rotation | None] = field(default_factory=dict)
    """What became of each slot; None where nothing tells of its rotation any more."""
    is_over: bool = False
    """The day after the last night has ended."""
    is_ledger_missing: bool = False
    is_judged: bool = True
    """The promise to start the server can be known to whoever comes next."""
    met: set[str] = field(default_factory=set)
    """What has befallen it."""

    def __post_init__(self) -> None:
        self.witnessed = self.judged_by(self)
        self.living: Process | None = None
        self._harms, self._loses_power = iter(self.harms), cycle((True, False))
        self._off_since: float | None = None
        self._end: asyncio.TimerHandle | None = None
        self._clocks = iter(self.clocks)
        self._lives: list[tuple[datetime, datetime]] = []
        self.has_forgotten = self.ledger_deleted_at is not None
        self.liar = Liar(self.lies, self.world, night(0))
        self.bend = self.liar.bend
        for other in self.others:
            self.world.later((night(0) - self.world.clock()).total_seconds() + other.at, partial(self._take, other))
        self._speaking: set[asyncio.Task[None]] = set()
        self._unheard: tuple[dict[int, date], float] = ({}, -LOOKED_WITHIN)
        """What was said before the last word, and when that was, by the loop's clock."""

    @property
    def slots(self) -> list[datetime]:
        """A night apart, or some hours."""
        return [night(0) + timedelta(hours=self.hours_apart * number) for number in range(self.nights)]

    def _take(self, other: Other) -> None:
        if len(self.world.snapshots_of(self.server_id)) >= self.world.limit:
            return
        name = f"snaprotd-{other.instance}-{night(0) + timedelta(seconds=other.named_for):%Y%m%dT%H%M%SZ}"
        now = self.world.clock()
        taken = self.world.add_snapshot(self.server_id, name, status=other.status, created_at=now)
        self.taken_by_others.add(taken.id)
        self.met.add("others")

    def can_tell_apart(self, one: SimSnapshot) -> bool:
        """Where the slot in its name is of a time when we were there, and no request of that slot lost its answer."""
        slot = slot_in(one.name, self.instance)
        if slot is None or one.name in self.witnessed.unclear:
            return False
        if self.has_forgotten or "our clock" in self.met:
            return False
        return any(begin <= slot <= end for begin, end in self._lived())

    async def _speak(self, word: Word) -> None:
        """Say it beside whatever process there is, as one that begins for it and ends."""
        await asyncio.sleep(max(0.0, (night(0) - true_time()).total_seconds() + word.at))
        ours = [one for one in self.world.snapshots_of(self.server_id) if whose(self, one) is Whose.OURS]
        completed = sorted((one for one in ours if one.status == "completed"), key=lambda one: one.made_at)
        if word.which >= len(completed) or not is_ledger(self.ledger_path):
            return
        one = completed[-1 - word.which]
        meant = a_snapshot(one.id, one.name, one.made_at, server_id=one.server_id, status=one.status)
        try:
            async with await MortalLedger.open(self.ledger_path, owner="a person", lock=False) as ledger:
                ledger.starts.account = ACCOUNT
                await ledger.holds.say(meant, [one.server_id], word.until, datetime.now(UTC))
        except (DeletionUnderWay, LedgerError):
            return
        self.hear(self.said | {one.id: word.until})
        self.met.add("a word")

    def hear(self, said: dict[int, date]) -> None:
        """That is what stands in the ledger now. A look that was just made may not have it."""
        self._unheard = (self.said, asyncio.get_running_loop().time())
        self.said = said

    def sayings(self) -> list[dict[int, date]]:
        before, at = self._unheard
        return [self.said, before] if asyncio.get_running_loop().time() - at < LOOKED_WITHIN else [self.said]

    def _may_seem_an_old_copy(self) -> bool:
        """Something that bears our name is newer than a stop, and nobody was there for a while: a person is asked."""
        others = [one.named_for for one in self.others if one.instance == self.instance]
        was_away = bool({*BEFORE_THE_DAEMON, Harm.DISK_FULL, "frozen", "our clock"} & self.met) or self.has_forgotten
        return "others" in self.met and max(others, default=0) > 0 and was_away

    def _lived(self) -> list[tuple[datetime, datetime]]:
        is_alive = self.living is not None and not self.living.is_dead
        if is_alive and self._lives:
            self._lives[-1] = (self._lives[-1][0], self.world.clock())
        return self._lives

    def _begin_life(self, **options: bool) -> Process:
        now = self.world.clock()
        goes_on = bool(self._lives) and now - self._lives[-1][1] < timedelta(minutes=1)
        self._lives.append((self._lives.pop()[0], now) if goes_on else (now, now))
        return self.process(self, **options)

    def at_work(self) -> Rotation | None:
        running = self.living.board.running if self.living is not None and "our clock" not in self.met else {}
        return next(iter(running.values()), None)

    def shows_nothing(self) -> bool:
        return self.liar.hides_all or super().shows_nothing()

    def hides_names(self) -> bool:
        return self.liar.hides_names

    def doubtful(self) -> int:
        return self.liar.doubtful

    def note_end(self, slot: datetime, rotation: Rotation | None) -> None:
        self.ended[slot] = rotation
        if rotation is not None:
            asyncio.get_running_loop().call_later(HOUR, self.witnessed.judge_result, rotation)

    def nights_are_over(self) -> None:
        """A day later the history is. Its end is a mark and no time: a timer may be due a hair before its own."""
        if self._end is None:
            self._end = asyncio.get_running_loop().call_later(DAY, self._be_over)

    def _be_over(self) -> None:
        self.is_over = True
        self.wake.set()

    # -- the course of it --------------------------------------------------------------------------------------

    async def live(self) -> list[str]:
        """To the end of the day after the last night: the broken promises."""
        loop = asyncio.get_running_loop()
        self._speaking = {asyncio.create_task(self._speak(word)) for word in self.words}
        self.living = self._begin_life()
        look = loop.call_later(LOOK_EVERY, self._look)
        while not self.is_over:
            async with asyncio.timeout(10 * DAY):
                await self.wake.wait()
            self.wake.clear()
            if self.living.is_dead:
                await self._go_on_after_a_death()
            elif self.living.is_frozen:
                self._go_on_beside_a_frozen_one()
        self.witnessed.judge_what_is_gone()
        is_known = self.is_judged and not self._may_seem_an_old_copy()
        self.witnessed.judge_power(was_active=self.was_active, is_known=is_known)
        self._looking.cancel() if self._looking else look.cancel()
        await self._end_everything()
        await asyncio.gather(*self._speaking)
        return list(self.witnessed.broken)

    _looking: asyncio.TimerHandle | None = None

    async def _go_on_after_a_death(self) -> None:
        self._lived()
        self.living, harm = None, next(self._harms, Harm.NONE)
        await self._end_everything()
        self.met.add(harm)
        if next(self._loses_power):
            lose_power(self.ledger_path)
        before = told_by(self.ledger_path)
        befall(self.ledger_path, harm)
        if harm in LOSES_HOLDS:
            self.hear({})
        self.is_judged = self.is_judged and is_promise_known(before, told_by(self.ledger_path))
        if harm in FORGETS_THE_SLOT:
            self.witnessed.forgives.add("P4")
            self.has_forgotten = True
        self._set_clock(next(self._clocks, 0.0))
        await asyncio.sleep(10)  # the service is started again
        if harm in BEFORE_THE_DAEMON:
            await self._pay_before_the_daemon(harm)
        self.living = self._begin_life(is_disk_full=harm is Harm.DISK_FULL)

    def _set_clock(self, ahead: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        if ahead != loop.ahead:
            loop.set_wall_clock(ahead)
            self.met.add("our clock")

    async def _pay_before_the_daemon(self, harm: Harm) -> None:
        """The daemon cannot begin; an hour later a person has put it right."""
        is_read_only = harm is Harm.DISK_READ_ONLY
        why: SnaprotdError = LedgerError("the disk is read-only") if is_read_only else ConfigError([])
        owed = is_owed_on(self.ledger_path)
        transport = WorldTransport(self.world, before=self.before_request, bend=self.bend)
        environ = {"VPS_API_TOKEN": self.world.token}
        with disk_is_read_only(self.ledger_path, really=is_read_only):
            async with asyncio.timeout(DAY):
                paid = await pay_what_is_owed([self.ledger_path], environ, why, transport=transport)
        if owed and self.is_judged:
            self.witnessed.judge_last_resort(paid=paid, was_active=self.was_active)
        await asyncio.sleep(HOUR)
        put_right(self.ledger_path, harm)

    def _go_on_beside_a_frozen_one(self) -> None:
        frozen, self.living = self.living, self._begin_life(is_second=True)
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

    async def _end_everything(self) -> None:
        """The dead process's tasks end with it."""
        others = asyncio.all_tasks() - {asyncio.current_task()} - self._speaking
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
