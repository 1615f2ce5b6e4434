"""The daemon's life: recover, schedule, watch, reload, stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import structlog

from snaprotd.config.reload import ConfigWatch
from snaprotd.config.settings import Config, Target
from snaprotd.core.errors import ConfigError, LedgerError, SnaprotdError
from snaprotd.core.rotation import Rotation
from snaprotd.core.words import Json, count
from snaprotd.daemon.account_watch import AccountWatch
from snaprotd.daemon.schedules import Remembered, Schedules
from snaprotd.daemon.sd_notify import ServiceNotifier
from snaprotd.engine.rotations import Rotations
from snaprotd.engine.run import Tools
from snaprotd.logs import redactor
from snaprotd.observe.metrics import Metrics
from snaprotd.provider.vps_org.client import Transport
from snaprotd.report.status import Situation, report_head, server_report, status_report
from snaprotd.web.site import serving
from snaprotd.wiring.assembly import adjust_tools, open_tools

log = structlog.get_logger("snaprotd.daemon")

TICK = 15.0
"""Seconds between two looks at the wall clock, which may have been set, and at rotations that nobody holds."""

INVENTORY_EVERY = 60.0
"""Seconds between two readings of the whole account, at the least four polls, at the most `discover_interval`."""

REPORT_GOOD_FOR = 1.0
"""Seconds. A report on thousands of servers takes a while to make, and every open page asks for one."""

HISTORY_EVERY = 86400.0
"""Seconds between two times that old rotations are forgotten."""

LEASE_RENEWAL = 10.0
"""Seconds between two renewals of the leases, at the most."""


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
        self.metrics = Metrics()
        self.url: str | None = None
        self.started = asyncio.Event()
        self._environ = environ
        self._transport = transport
        self._on_finished = on_finished
        self._stop = asyncio.Event()
        self._changing_targets = asyncio.Lock()
        self._tasks: set[asyncio.Future[None]] = set()
        self._ticked_at: float | None = None
        self._refused: SnaprotdError | None = None
        self._report: Json | None = None
        self._reported_at = 0.0
        self._started_at = self._loaded_at = self._noted_until = datetime.now(UTC)
        self._systemd = ServiceNotifier(environ)
        self._watch = ConfigWatch(
            config,
            environ,
            accept=self._accept,
            refuse=self._refuse,
            begin=self._systemd.reloading,
            end=lambda: self._systemd.ready(self._in_words()),
        )
        self._tools: Tools
        self._rotations: Rotations
        self._schedules: Schedules
        self._account: AccountWatch

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
            self._schedules = Schedules(
                self.config,
                ledger=self._tools.ledger,
                rotations=self._rotations,
                metrics=self.metrics,
                now=self._tools.now,
                in_background=self._in_background,
            )
            self._account = AccountWatch(
                self.config,
                inventory=self._tools.inventory,
                ledger=self._tools.ledger,
                schedules=self._schedules,
                metrics=self.metrics,
                look_after=self._look_after,
                now=self._tools.now,
            )
            await self._recover()
            try:
                self.url = await stack.enter_async_context(serving(self, self.config.listen))
                await self._begin()
            except BaseException:
                await self._end()  # what was taken over may hold servers off
                raise
            self._systemd.ready(self._in_words())
            log.info("running", servers=len(self._schedules.targets), listen=self.url)
            await self._stop.wait()
            return await self._end()

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stop.set()

    def obey_signals(self) -> None:
        """SIGTERM and SIGINT: an orderly end; a second one ends at once. SIGHUP: read the configuration again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number)
        loop.add_signal_handler(signal.SIGHUP, self._watch.ask)

    def _asked_to_end(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)
        log.info("asked to end: taking no new work", signal=signal.Signals(number).name)
        self.stop()

    async def _recover(self) -> None:
        """Go on with what was interrupted, before anything else can fail."""
        try:
            await self._rotations.take_over(everything=self._tools.ledger.is_sole_user)
        except LedgerError as error:
            log.error("interrupted rotations cannot be taken over yet", error=str(error))

    async def _begin(self) -> None:
        self._note_config()
        await self._look_after(at_start=True)
        self._schedules.start()
        self.started.set()
        for name, work in {
            "tick": _every(lambda: TICK, self._tick),
            "history": _every(lambda: HISTORY_EVERY, self._tools.ledger.forget_old),
            "inventory": _every(self._inventory_interval, self._account.read),
            "leases": _for_ever(lambda: self._rotations.keep_leases(min(self.config.api.timeout / 2, LEASE_RENEWAL))),
            "reload": _for_ever(self._watch.watch),
            "watchdog": self._systemd.feed_watchdog(lambda: not self.ailments()),
        }.items():
            self._in_background(work, name)

    def _inventory_interval(self) -> float:
        return min(max(INVENTORY_EVERY, 4 * self.config.poll_interval), self.config.discover_interval)

    async def _end(self) -> int:
        self._schedules.stop()
        self._systemd.stopping(self._in_words())
        all_on = await self._rotations.drain(self.config.drain_timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if all_on and self.started.is_set():
            log.info("ended in order; the next start goes on with what is open")
        if not all_on:
            log.error("ended while servers are held off; the next start goes on with them")
        return 0 if all_on else 1

    def _in_words(self) -> str:
        """How it stands, in one line for `systemctl status`."""
        running = list(self.metrics.running.values())
        off = [rotation.label for rotation in running if rotation.held_off]
        words = ["ending" if self._stop.is_set() else count(len(self._schedules.targets), "server")]
        if running:
            words.append(f"{count(len(running), 'rotation')} running")
        if off:
            words.append(f"held off: {', '.join(off[:5])}{' and more' if len(off) > 5 else ''}")
        next_run = min((one.next_run for one in self.metrics.servers.values() if one.next_run), default=None)
        if next_run is not None and not self._stop.is_set():
            words.append(f"next at {next_run.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
        if self._refused is not None:
            words.append("the configuration file is refused as it is now")
        return ", ".join(words)

    def _in_background(self, work: Awaitable[None], name: str) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._background_ended(ended, name))

    def _background_ended(self, task: asyncio.Future[None], name: str) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("internal error", task=name, exc_info=task.exception())

    async def _tick(self) -> None:
        self._schedules.look_at_clock()
        self._ticked_at = asyncio.get_running_loop().time()
        self._systemd.status(self._in_words())
        if not self._stop.is_set():
            await self._rotations.take_over()
            await self._note_others()

    async def _note_others(self) -> None:
        """What other processes have done meanwhile, as `snaprotd now` does, is known to the status too."""
        now = self._tools.now()
        for rotation in await self._tools.ledger.ended_since(self._noted_until):
            target = self._schedules.targets.get(rotation.server_id)
            if target is not None:
                self._schedules.facts(target).note_end(rotation)
        self._noted_until = now

    # -- configuration -----------------------------------------------------------------------------------------

    def _note_config(self) -> None:
        self._loaded_at = datetime.now(UTC)
        self.metrics.config_ok.set(1)
        self.metrics.config_loaded_at.set(self._loaded_at.timestamp())
        self.metrics.limit.set(self.config.limit)

    async def _look_after(self, *, at_start: bool) -> None:
        """Look after the servers that the configuration in force names, as the account was last listed."""
        async with self._changing_targets:
            remembered = await Remembered.read(self._tools.ledger)
            await self._schedules.set_targets(self._account.targets(), remembered, at_start=at_start)

    async def _accept(self, config: Config) -> None:
        """Go on under a new configuration. A rotation in flight ends under the policy that it began with.

        Raises `SnaprotdError`, with nothing changed, where that cannot be.
        """
        async with self._changing_targets:
            remembered = await Remembered.read(self._tools.ledger)
            adjust_tools(self._tools, config, self._environ)
            self._rotations.permits.set_number(config.max_concurrent)
            self.config = self._schedules.config = self._account.config = config
            await self._schedules.set_targets(self._account.targets(), remembered, at_start=False)
            await self._account.forget_others()
        self._note_config()
        self._refused = None
        log.info("the configuration was read again and is in force", servers=len(self._schedules.targets))

    def _refuse(self, error: SnaprotdError) -> None:
        if str(error) == str(self._refused):
            return  # tried again, and told already
        self._refused = error
        self.metrics.config_ok.set(0)
        for mistake in self._mistakes():
            log.error("the new configuration is refused, the old one stays in force", mistake=mistake)

    def _mistakes(self) -> list[str]:
        """Why the file as it is now is refused. Cleaned: a secret may stand where it does not belong."""
        if isinstance(self._refused, ConfigError):
            return [redactor.clean(str(mistake)) for mistake in self._refused.mistakes]
        return [] if self._refused is None else [redactor.clean(str(self._refused))]

    # -- rotations ---------------------------------------------------------------------------------------------

    async def rotate(self, server_id: str) -> None:
        """Begin a rotation of a configured server at once, as if its slot had come this second."""
        slot = self._tools.now().replace(microsecond=0)
        await self._schedules.take_up(self._schedules.targets[server_id], slot)

    def _finished(self, rotation: Rotation) -> None:
        self._on_finished(rotation)
        target = self._schedules.targets.get(rotation.server_id)
        if target is not None:
            self._account.note_holdings(target)
        self._systemd.status(self._in_words())

    # -- the web's view ----------------------------------------------------------------------------------------

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
        if not self._account.has_answered:
            missing.append("the provider's API has not been reached yet")
        return missing

    def remarks(self) -> Sequence[str]:
        mistakes = self._mistakes()
        return ["the new configuration is refused, the old one is in force:", *mistakes] if mistakes else []

    def head(self) -> Json:
        return report_head(self._situation((), (), None))

    async def status(self) -> Json:
        moment = asyncio.get_running_loop().time()
        if self._report is None or moment - self._reported_at >= REPORT_GOOD_FOR:
            running, ledger_error = await self._open_rotations()
            targets = tuple(self._schedules.targets.values())
            self._report, self._reported_at = status_report(self._situation(targets, running, ledger_error)), moment
        return self._report

    async def server_status(self, name: str) -> Json | None:
        targets = self._schedules.targets
        target = targets.get(name) or next((one for one in targets.values() if one.label == name), None)
        if target is None:
            return None
        history = await self._tools.ledger.history(target.server_id)
        running, ledger_error = await self._open_rotations()
        return server_report(self._situation((target,), running, ledger_error), target, history)

    async def _open_rotations(self) -> tuple[Sequence[Rotation], str | None]:
        """Those that this process runs, and those of others: a `now` beside the daemon is a rotation too."""
        ours = dict(self.metrics.running)
        try:
            found = {one.id: one for one in await self._tools.ledger.open_rotations()}
        except LedgerError as error:
            return tuple(ours.values()), str(error)
        return tuple(one for one in (found | ours).values() if not one.is_finished), None

    def _situation(self, targets: Sequence[Target], running: Sequence[Rotation], ledger_error: str | None) -> Situation:
        return Situation(
            config=self.config,
            now=self._tools.now(),
            started_at=self._started_at,
            targets=targets,
            facts=self.metrics.servers,
            servers=self._tools.inventory.seen_servers,
            assessments={
                target.server_id: assessment
                for target in targets
                if (assessment := self._account.assessment(target)) is not None
            },
            running=running,
            ledger_error=ledger_error,
            inventory_listed_at=self._tools.inventory.last_success,
            account_error=self._account.error,
            config_loaded_at=self._loaded_at,
            ledger_path=os.path.abspath(self.config.state),
            is_ending=self._stop.is_set(),
            config_mistakes=self._mistakes(),
        )


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`, which never ends, and begin it again if a mistake of ours ends it."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("internal error", work=getattr(work, "__name__", ""))
        await asyncio.sleep(1.0)


async def _every(interval: Callable[[], float], work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` now and then every so often, for ever, whatever becomes of one turn of it."""
    while True:
        try:
            await work()
        except LedgerError as error:
            log.error("the ledger cannot be used", error=str(error))
        except Exception:
            log.exception("internal error", work=getattr(work, "__name__", ""))
        await asyncio.sleep(interval())
