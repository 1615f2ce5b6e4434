"""The sign that the daemon is well; of replicas one gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from snaprotd.observe.metrics import NotificationMetrics
from snaprotd.senders import Answer, Outcome
from snaprotd.senders.ping import Ping

log = structlog.get_logger("snaprotd.notify")

LOST_BEATS = 2
"""Heartbeats in a row that were not taken, from which on it is shown: one may be lost on the way."""
ASKED_EVERY = 15.0
"""Seconds after which a replica that gives none sees whether it is to."""


class Heartbeat:
    """Of one daemon, whatever its configuration has of it."""

    def __init__(
        self, metrics: NotificationMetrics, *, is_mine: Callable[[], bool], ailments: Callable[[], Sequence[str]]
    ) -> None:
        """`is_mine`: whether this replica gives it. `ailments`: why it is not well."""
        self._metrics = metrics
        self._is_mine = is_mine
        self._ailments = ailments
        self._sender: Ping | None = None
        self._every = 0.0
        self._is_beating = True
        self._is_changed = asyncio.Event()
        self._lost = (0, "")

    @property
    def lost(self) -> tuple[int, str] | None:
        """How many in a row were not taken, and why the last one was not; None where that need not be shown."""
        return self._lost if self._lost[0] >= LOST_BEATS else None

    def begin(self, sender: Ping | None, every: float) -> None:
        """From now on, every so many seconds; None for nowhere."""
        self._sender, self._every, self._lost = sender, every, (0, "")
        self._is_changed.set()
        if sender is not None:
            self._metrics.expect("heartbeat")

    async def beat(self) -> None:
        """Say that the daemon is well every so often, as long as it is; for ever. A new interval counts at once."""
        while True:
            self._is_changed.clear()
            every = self._every if self._sender is not None else None
            if self._sender is not None and not self._is_mine():
                every = min(self._every, ASKED_EVERY)
            elif self._sender is not None:
                await self._beat_once(self._sender)
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._is_changed.wait()

    async def _beat_once(self, sender: Ping) -> None:
        if not (ailments := self._ailments()):
            self._beaten(await sender.beat())
        elif self._is_beating:
            log.error("no heartbeat is sent any more", why=ailments)
        self._is_beating = not ailments

    def _beaten(self, answer: Answer) -> None:
        self._metrics.tried("heartbeat", answer.outcome)
        if answer.outcome is Outcome.SENT:
            self._lost = (0, "")
        else:
            self._lost = (self._lost[0] + 1, answer.said)
            log.warning("the heartbeat was not taken", why=answer.said)
