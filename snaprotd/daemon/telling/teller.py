"""Tells people what happens: it looks at what the daemon knows, and hands on what has changed.

Nothing waits for it: it is told of the end of a rotation, and looks at everything else by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from snaprotd.config.settings import Config, Target
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.telling import Event, Kind
from snaprotd.daemon.account_watch import AccountWatch
from snaprotd.daemon.ledger_watch import LedgerWatch
from snaprotd.daemon.slots.schedules import Schedules
from snaprotd.daemon.view import Standing
from snaprotd.engine.board import Board
from snaprotd.observe.delivery import Delivery
from snaprotd.observe.metrics import NotificationMetrics
from snaprotd.observe.notify import Notify
from snaprotd.observe.outbox import MemoryOutbox
from snaprotd.report.happenings import of_end, of_servers_off, of_whole
from snaprotd.senders import Outcome
from snaprotd.wiring.channels import open_channels, same_channels

log = structlog.get_logger("snaprotd.notify")

STILL_NEWS = timedelta(minutes=15)
"""A failure that ended so shortly before this process began may not have been told: it is told again, at worst."""
MOST_REMEMBERED = 1000
"""Rotations whose end was told, by the order of their ends."""


class Teller:
    """One daemon's."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        *,
        board: Board,
        schedules: Schedules,
        account: AccountWatch,
        ledger_watch: LedgerWatch,
        standing: Standing,
        metrics: NotificationMetrics,
        now: Callable[[], datetime],
        pages: Callable[[], str | None],
    ) -> None:
        self._config = config
        self._environ = environ
        self._board = board
        self._schedules = schedules
        self._account = account
        self._ledger_watch = ledger_watch
        self._standing = standing
        self._metrics = metrics
        self._now = now
        self._delivery = Delivery(MemoryOutbox(), metrics, now)
        self._notify = Notify(self._delivery, now, lambda: pages() or "")
        self._targets: Mapping[str, Target] = {}
        self._ended: dict[str, None] = {}
        self._channels = open_channels(config, environ)
        self._is_beating = True
        self._has_heartbeat = asyncio.Event()

    def begin(self) -> None:
        """From now on."""
        self._channels = open_channels(self._config, self._environ)
        self._notify.begin(self._channels.told)
        self._targets = {}
        if self._channels.heartbeat is not None:
            self._metrics.expect("heartbeat")
            self._has_heartbeat.set()

    def apply(self, config: Config) -> None:
        """Tell those whom another configuration names."""
        is_same, self._config = same_channels(self._config, config), config
        if not is_same:
            self.begin()

    def finished(self, rotation: Rotation) -> None:
        """A rotation has ended, here or in another process."""
        if self._channels.told and rotation.id not in self._ended and rotation.result is not None:
            self._ended[rotation.id] = None
            if len(self._ended) > MOST_REMEMBERED:
                del self._ended[next(iter(self._ended))]
            self._notify.tell(of_end(rotation, account_error=self._account.error))

    async def look(self) -> None:
        """What has changed, and what is to be sent by now."""
        if self._channels.told:
            self._look()
            await self._notify.post_due()

    async def aclose(self) -> None:
        """Tell no more."""
        await self._delivery.aclose()

    def _look(self) -> None:
        if self._schedules.targets is not self._targets:
            self._look_after(self._schedules.targets)
        self._notify.show(Kind.HELD_OFF, self._servers_off())
        whole = of_whole(
            self._now(),
            config_mistakes=self._standing.mistakes,
            ledger_error=self._ledger_watch.error,
            account_error=self._account.error,
        )
        self._notify.show(Kind.FAILURE, whole)

    def _servers_off(self) -> list[Event]:
        return of_servers_off(list(self._board.running.values()), list(self._board.debts.values()), self._now())

    def _look_after(self, targets: Mapping[str, Target]) -> None:
        new, self._targets = targets.keys() - self._targets.keys(), targets
        members = {
            name: {one.server_id for one in targets.values() if one.entry.ping == ping}
            for name, ping in self._channels.members.items()
        }
        self._notify.look_after(targets.keys(), members)
        for server_id in new:
            latest = self._board.of(server_id).latest
            if latest is not None and latest.result is not Result.SUCCESS and latest.id not in self._ended:
                self._recall(latest)

    def _recall(self, latest: Rotation) -> None:
        """How its last rotation ended, which another process has seen."""
        self._ended[latest.id] = None
        event = of_end(latest)
        if self._standing.started_at - event.at < STILL_NEWS:
            self._notify.tell(event)
        else:
            self._notify.remember(event)

    # -- heartbeat -----------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Say that the daemon is well every so often, as long as it is; for ever."""
        while True:
            await self._has_heartbeat.wait()
            heartbeat, settings = self._channels.heartbeat, self._config.heartbeat
            if heartbeat is None or settings is None:
                self._has_heartbeat.clear()
                continue
            if not (ailments := self._ailments()):
                answer = await heartbeat.beat()
                self._metrics.tried("heartbeat", answer.outcome)
                if answer.outcome is not Outcome.SENT:
                    log.warning("the heartbeat was not taken", why=answer.said)
            elif self._is_beating:
                log.error("no heartbeat is sent any more", why=ailments)
            self._is_beating = not ailments
            await asyncio.sleep(settings.every)

    def _ailments(self) -> list[str]:
        """Why it is not well: its loop, its ledger, or a start is stuck."""
        ledger = [] if self._ledger_watch.error is None else [self._ledger_watch.error]
        return [*self._standing.ailments(), *ledger, *(event.text for event in self._servers_off())]
