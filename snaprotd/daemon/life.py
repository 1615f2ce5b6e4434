"""The daemon's life: recover, schedule, watch, reload, stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import structlog

from snaprotd.config.reload import ConfigWatch
from snaprotd.config.settings import Config
from snaprotd.config.web_file import read_web_file
from snaprotd.core.errors import LedgerError, SnaprotdError
from snaprotd.core.rotation import Rotation
from snaprotd.daemon.account_watch import AccountWatch
from snaprotd.daemon.fleet.membership import Membership
from snaprotd.daemon.fleet.others import Others
from snaprotd.daemon.fleet.sharing import Sharing
from snaprotd.daemon.inheritance import Inheritance
from snaprotd.daemon.ledger_watch import LedgerWatch, Remembered
from snaprotd.daemon.machine import this_machine
from snaprotd.daemon.sd_notify import ServiceNotifier
from snaprotd.daemon.signals import on_end_asked
from snaprotd.daemon.slots.schedules import Schedules
from snaprotd.daemon.slots.timer import every, for_ever
from snaprotd.daemon.slots.turns import Turns
from snaprotd.daemon.telling.teller import Teller
from snaprotd.daemon.unexplained import ask_about_unexplained
from snaprotd.daemon.view import DaemonView, Standing
from snaprotd.engine.board import Board
from snaprotd.engine.rotations import LEASE_RENEWAL, LEDGER_EVERY, Rotations
from snaprotd.observe.metrics import Metrics
from snaprotd.web.keeping import Pages
from snaprotd.wiring.access import Transport, read_token
from snaprotd.wiring.assembly import adjust_tools, open_tools
from snaprotd.wiring.replica import hash_of

log = structlog.get_logger("snaprotd.daemon")

TICK = 15.0
"""Seconds between two looks at the wall clock, which may have been set, and at rotations that nobody holds."""

INVENTORY_EVERY = 60.0
"""Seconds between two readings of an account, more of a large one; four polls at least, `discover_interval` at most."""


class Daemon:
    """One daemon, from `run` to its end."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        *,
        on_finished: Callable[[Rotation], None] = lambda _: None,
        transport: Transport | None = None,
    ) -> None:
        self.board = Board()
        self.standing = Standing(silent_after=4 * TICK)
        self.view: DaemonView
        self._config = config
        self._metrics = Metrics(self.board)
        self._environ = environ
        self._transport = transport
        self._on_finished = on_finished
        self._changing_targets = asyncio.Lock()
        self._tasks: set[asyncio.Future[None]] = set()
        self._systemd = ServiceNotifier(environ)
        self._watch = ConfigWatch(
            config,
            environ,
            accept=self._accept,
            refuse=self._refuse,
            begin=self._systemd.reloading,
            end=lambda: self._systemd.ready(self.view.in_words()),
        )

    @property
    def started(self) -> asyncio.Event:
        """Set when the configuration is in force, and its slots are taken up."""
        return self.standing.started

    # -- life --------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until `stop`; the exit code. Raises `SnaprotdError` where it cannot even begin."""
        async with AsyncExitStack() as stack:
            if (web_config := self._config.web_config) is not None:
                await asyncio.to_thread(read_web_file, web_config)  # its mistakes are the configuration's
            parts = (self._config, self._environ, self.board, self._metrics, this_machine, self._transport)
            self._tools = await stack.enter_async_context(open_tools(*parts))
            self._build(await asyncio.to_thread(hash_of, self._config))
            self._build_what_tells()
            await self._membership.begin()
            await self._recover()
            try:
                await stack.enter_async_context(self._pages.served())
                await self._begin()
            except BaseException:
                await self._end()  # what was taken over may hold servers off
                raise
            self._systemd.ready(self.view.in_words())
            log.info("running", servers=len(self._schedules.targets), listen=self.view.url)
            await self.standing.stop.wait()
            return await self._end()

    def _build(self, decides: str) -> None:
        """What does the work. `decides`: the `hash_of` the configuration."""
        tools, board = self._tools, self.board
        self._membership = Membership(self._config, decides, tools.ledger, board)
        self._rotations = Rotations(tools, board, max_concurrent=self._config.max_concurrent, finished=self._finished)
        self._sharing = Sharing(self._config, tools.cloud, self._rotations.permits, board, self._membership)
        tools.inventory.listed = self._rotations.keeper.follow
        board.called = tools.inventory.shown
        self._schedules = Schedules(
            self._config,
            tools,
            rotations=self._rotations,
            board=board,
            metrics=self._metrics.daemon,
            in_background=self._in_background,
            turns=Turns(lambda: self._membership.may_claim, self._membership.prefers, self._rotations.rounds),
        )
        self._others = Others(tools, board, self._schedules, self.standing.started_at)
        self._account = AccountWatch(
            self._config,
            inventory=tools.inventory,
            ledger=tools.ledger,
            schedules=self._schedules,
            board=board,
            look_after=self._look_after,
            first_listed=self._ask_about_unexplained,
            now=tools.now,
        )
        self._ledger_watch = LedgerWatch(tools.ledger.name, board, self._rotations.mend_ledger)
        self._inheritance = Inheritance(self._config, self._environ, tools, board, self._transport)

    def _build_what_tells(self) -> None:
        """Who tells people of it, and shows it to them."""
        tools, board, metrics = self._tools, self.board, self._metrics
        self._teller = Teller(
            self._config,
            self._environ,
            board=board,
            schedules=self._schedules,
            account=self._account,
            ledger_watch=self._ledger_watch,
            standing=self.standing,
            ledger=tools.ledger,
            metrics=metrics.notifications,
            now=tools.now,
            pages=lambda: self._pages,
            membership=self._membership,
        )
        self.view = DaemonView(
            self._config,
            self.standing,
            tools,
            board=board,
            metrics=metrics,
            schedules=self._schedules,
            account=self._account,
            ledger_watch=self._ledger_watch,
            given_up=lambda: self._teller.given_up,
            pages=lambda: self._pages,
        )
        read = partial(self.view.read_web_file, web_config) if (web_config := self._config.web_config) else None
        self._pages = Pages(self.view, self._config.listen, hosts=self._config.allowed_hosts, read=read)

    def stop(self) -> None:
        """Ask for an orderly end."""
        self.standing.stop.set()

    def obey_signals(self) -> None:
        """SIGTERM and SIGINT: an orderly end; a second one ends at once. SIGHUP: read the configuration again."""
        on_end_asked(self._asked_to_end)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._watch.ask)

    def _asked_to_end(self, by: str) -> None:
        log.info("asked to end: taking no new work", signal=by)
        self.stop()

    async def _recover(self) -> None:
        """Go on with what was interrupted, before anything else can fail."""
        try:
            await self._inheritance.take_up()
        except LedgerError as error:
            log.error("what ledgers owe that were in force before is not known yet", error=str(error))
        try:
            await self._rotations.recover(everything=self._tools.ledger.is_sole_user)
        except LedgerError as error:
            log.error("interrupted rotations cannot be taken over yet", error=str(error))

    async def _begin(self) -> None:
        self._note_config()
        with self._account.taking_in():
            await self._look_after(at_start=True)
        self._schedules.start()
        self._teller.begin()
        self.started.set()
        for name, work in {
            "clock": every(lambda: TICK, self._tick),
            "work": every(lambda: TICK, self._look_for_work),  # by itself: no ledger that is stuck stops the clock
            "ledger": every(lambda: LEDGER_EVERY, self._ledger_watch.look),
            "inventory": every(self._inventory_interval, self._read_account),
            "leases": for_ever(lambda: self._rotations.keep_leases(min(self._config.api.timeout / 2, LEASE_RENEWAL))),
            "reload": for_ever(self._watch.watch),
            "notify": every(lambda: TICK, self._teller.look),
            "heartbeat": for_ever(self._teller.heartbeat.beat),
            "replicas": for_ever(self._membership.keep),
            "watchdog": self._systemd.feed_watchdog(lambda: not self.view.ailments()),
        }.items():
            self._in_background(work, name)

    def _inventory_interval(self) -> float:
        return min(max(INVENTORY_EVERY, 4 * self._config.poll_interval), self._config.discover_interval)

    async def _read_account(self) -> None:
        rate, at_work = self._tools.cloud.rate.rate, self._rotations.permits.are_all_taken
        is_due = self._account.is_to_read(self._inventory_interval(), rate, is_at_work=at_work)
        if is_due or self._rotations.keeper.is_following:
            await self._account.read()

    async def _end(self) -> int:
        self._schedules.stop()
        self._systemd.stopping(self.view.in_words())
        drained = (one.drain(self._config.drain_timeout) for one in (self._rotations, self._inheritance))
        all_on = all(await asyncio.gather(*drained))
        await self._inheritance.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ledger_watch.aclose()
        await self._teller.aclose()
        await self._membership.leave()
        if all_on and self.started.is_set():
            log.info("ended in order; the next start goes on with what is open")
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

    async def _tick(self) -> None:
        self._schedules.look_at_clock()
        self.standing.ticked_at = asyncio.get_running_loop().time()
        self._systemd.status(self.view.in_words())

    async def _look_for_work(self) -> None:
        """What other processes have left, or done."""
        if self.standing.stop.is_set():
            return
        try:  # what a ledger promises that cannot be written may be readable all the same
            await self._inheritance.take_up()
            await self._rotations.see_to_what_was_left()
            await self._others.note()
        except LedgerError:
            self._rotations.doubt_ledger()
            await self._ledger_watch.look()
            if self._ledger_watch.error is None:  # else that is told
                raise

    async def _ask_about_unexplained(self) -> None:
        if await ask_about_unexplained(self._tools, self._config, self._schedules.targets.values(), self._tools.now()):
            await self._rotations.take_up()

    # -- configuration -----------------------------------------------------------------------------------------

    def _parts(self, decides: str) -> Sequence[Callable[[Config], None]]:
        """What goes on under a new configuration, in order. None of them may refuse it."""
        return (
            self._apply,
            self._schedules.apply,
            self._account.apply,
            self.view.apply,
            self._teller.apply,
            partial(self._membership.apply, decides=decides),
            self._sharing.apply,
        )

    def _apply(self, config: Config) -> None:
        self._config = config
        self._pages.hosts = config.allowed_hosts

    def _note_config(self) -> None:
        self.standing.loaded_at = now = datetime.now(UTC)
        self._metrics.daemon.config_loaded(now, limit=self._config.limit)

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
            await self._tools.ledger.probe()  # else nothing is changed
            token = await asyncio.to_thread(read_token, config, self._environ)
            decides = await asyncio.to_thread(hash_of, config)
            remembered = await Remembered.read(self._tools.ledger)
            adjust_tools(self._tools, config, token, this_machine)
            for apply in self._parts(decides):
                apply(config)
            targets = self._account.targets()
            await asyncio.sleep(0)  # of thousands of servers, each of these takes a while
            await self._schedules.set_targets(targets, remembered, at_start=False)
            await self._account.forget_others()
        self._note_config()
        self.standing.refused = None
        self._teller.reloaded(len(self._schedules.targets))
        log.info("the configuration was read again and is in force", servers=len(self._schedules.targets))

    def _refuse(self, error: SnaprotdError) -> None:
        if str(error) == str(self.standing.refused):
            return  # tried again, and told already
        self.standing.refused = error
        self._metrics.daemon.config_refused()
        self._teller.refused(self.standing.mistakes)
        for mistake in self.standing.mistakes:
            log.error("the new configuration is refused, the old one stays in force", mistake=mistake)

    async def rotate(self, server_id: str) -> None:
        """Begin a rotation of a configured server at once, as if its slot had come this second."""
        await self._schedules.take_up(self._schedules.targets[server_id], self._tools.now().replace(microsecond=0))

    def _finished(self, rotation: Rotation) -> None:
        self._on_finished(rotation)
        self._schedules.retries.note(rotation)
        if (target := self._schedules.targets.get(self.board.called(rotation.server_id))) is not None:
            self._account.note_holdings(target)
