"""Carries letters to their channels, apart from everything else: each channel has a task of its own.

A receiver that hangs, refuses or is away keeps neither a rotation waiting nor another channel.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from snaprotd.core.telling import GIVEN_UP_AFTER, WORDS, Kind, Letter
from snaprotd.observe.metrics import NotificationMetrics
from snaprotd.observe.outbox import MOST_WAITING, Outbox
from snaprotd.senders import Answer, Outcome, Sender, failed

log = structlog.get_logger("snaprotd.notify")

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds between two attempts at a channel: the first pause, which doubles, and the longest."""
LOOK_EVERY = 5.0
"""Seconds after which the outbox is looked at though nobody has said that there is something in it."""
PINGS_APART = 15.0
"""Seconds between two pings of one check: Healthchecks takes five in a minute, and ignores what is more."""
LEAST_TRIES = 20
"""Of a letter, or of its channel while it waited, before it is given up for its age: a clock that was set may have made
that."""
ASK_ANOTHER = 3
"""After each so many failures in a row another letter is tried too: is the receiver away, or is it the first one?"""
PATIENCE = 120.0
"""Seconds for one attempt, should a sender forget its own time."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One way to somebody."""

    name: str
    """Of which there is one."""
    kind: str
    """As the metrics have it: webhook, email, ping or run."""
    sender: Sender
    on: frozenset[Kind] = frozenset(WORDS)
    is_check: bool = False
    """It waits for pings: of those only the newest matters."""


def heirs_of(name: str, before: Sequence[Channel], after: Sequence[Channel]) -> Sequence[Channel]:
    """Who is told now what waits for a channel that is gone: the new one of its kind, or the one in its place.

    Of a channel that was gone before this process began its place is not known: every one of its kind is told.
    """
    kind = kind_of(name)
    places = [one.name for one in before]
    fresh = [one for one in after if one.name not in places and one.is_check == (kind == "ping")]
    alike = [one for one in fresh if one.kind == kind]
    if name not in places or len(alike) == 1:
        return alike
    return [one for one in after[places.index(name) :][:1] if one in fresh]


def kind_of(name: str) -> str:
    """The kind of a channel, which its name begins with; whatever stands in the ledger, it is one of them."""
    found = re.match("webhook|email|ping|run", name)
    return found[0] if found else "webhook"


class Delivery:
    """All channels of one configuration."""

    def __init__(
        self,
        outbox: Outbox,
        metrics: NotificationMetrics,
        now: Callable[[], datetime],
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_send`: no other process carries the same letters."""
        self._outbox = outbox
        self._may_send = may_send
        self._metrics = metrics
        self._now = now
        self._tasks: list[asyncio.Task[None]] = []
        self._posted: dict[str, asyncio.Event] = {}
        self._failed: Counter[str] = Counter()
        """How often each channel has taken nothing."""
        self._waits_since: dict[tuple[str, str], int] = {}
        """How often its channel had taken nothing when each letter began to wait, as far as this process has seen."""
        self.given_up: dict[str, tuple[int, str]] = {}
        """For each channel how many letters were given up since the last one was sent, and why the last of them was.

        Of one that is gone, since any was.
        """

    def begin(self, channels: Sequence[Channel]) -> None:
        """Carry letters to these from now on, and to no others."""
        self._cancel()
        self._posted = {channel.name: asyncio.Event() for channel in channels}
        for channel in channels:
            self._metrics.expect(channel.kind)
            self._tasks.append(asyncio.create_task(self._serve(channel)))

    def post(self, letters: Sequence[Letter], *, are_kept: bool) -> None:
        """Have them sent. `are_kept`: they stand in the ledger."""
        self._outbox.put(letters, are_kept=are_kept)
        self._count()
        for letter in letters:
            if letter.channel in self._posted:
                self._posted[letter.channel].set()

    async def aclose(self) -> None:
        """Carry no more. What waits, waits."""
        tasks = list(self._tasks)
        self._cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    async def _serve(self, channel: Channel) -> None:
        """For ever. Failures in a row are the channel's: a receiver that is away is so for all letters."""
        failures = 0
        while True:
            try:
                answer = await self._serve_once(channel, asks_another=failures % ASK_ANOTHER == 0)
            except Exception:
                log.exception("internal error", channel=channel.name)
                answer = failed("internal error")
            if answer is None:
                await self._something_posted(channel)
            elif answer.outcome is Outcome.FAILED:
                failures += 1
                say = log.warning if failures == 1 else log.debug
                say("a message was not taken: it is tried again", channel=channel.name, why=answer.said)
                await asyncio.sleep(min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE))
            else:
                failures = 0
                await asyncio.sleep(PINGS_APART if channel.is_check else 0)

    async def _something_posted(self, channel: Channel) -> None:
        posted = self._posted[channel.name]
        try:
            async with asyncio.timeout(LOOK_EVERY):
                await posted.wait()
        except TimeoutError:
            return
        posted.clear()

    async def _serve_once(self, channel: Channel, *, asks_another: bool) -> Answer | None:
        """Try what waits in the order in which it happened: an end that is told before its beginning is read wrong.

        None where there is nothing. Where the first is not taken, another one tells whether the receiver is away, or
        refuses just that one, which is passed over then: no letter keeps all others.
        """
        waiting = await self._sorted_out(channel, self._outbox.waiting(channel.name))
        if not waiting or not self._may_send():
            return None
        first, *others = sorted(waiting, key=lambda one: one.passed_over)
        answer = await self._try(channel, first)
        if answer.outcome is not Outcome.FAILED or not (others and asks_another):
            return answer
        answer = await self._try(channel, min(others, key=lambda one: one.tries))
        if answer.outcome is not Outcome.FAILED:  # it may have come back just between the two
            await self._try(channel, replace(first, tries=first.tries + 1, passed_over=first.passed_over + 1))
        return answer

    async def _try(self, channel: Channel, letter: Letter) -> Answer:
        """Once. One that is not taken waits as it is given here, with one try more."""
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await channel.sender.send(letter.message)
        except TimeoutError:
            answer = failed(f"no end within {PATIENCE:g} s")
        self._metrics.tried(channel.kind, answer.outcome)
        if answer.outcome is Outcome.FAILED:
            self._failed[channel.name] += 1
            self._outbox.note(replace(letter, tries=letter.tries + 1))
            return answer
        if answer.outcome is Outcome.GIVEN_UP:
            self._tell_given_up(letter, answer.said)
        else:
            log.info("a message was sent", channel=channel.name, id=letter.message.id, said=answer.said)
            gone = {channel.name, *(self.given_up.keys() - self._posted.keys())}
            self.given_up = {name: told for name, told in self.given_up.items() if name not in gone}
        await self.remove([letter])
        return answer

    async def _sorted_out(self, channel: Channel, waiting: Sequence[Letter]) -> Sequence[Letter]:
        """Without what is too old, too much, or overtaken by a newer ping. Each is tried once, whatever the clock."""
        gone: list[Letter] = []
        if channel.is_check:
            gone, waiting = list(waiting[:-1]), waiting[-1:]
        oldest = self._now() - GIVEN_UP_AFTER
        too_many = len(waiting) - MOST_WAITING
        kept = []
        for index, letter in enumerate(waiting):
            began = self._waits_since.setdefault(letter.key, self._failed[channel.name])
            tries = max(letter.tries, self._failed[channel.name] - began)
            if index < too_many or (letter.since < oldest and tries >= LEAST_TRIES):
                self._metrics.tried(channel.kind, Outcome.GIVEN_UP)
                self._tell_given_up(letter, "too many wait" if index < too_many else "tried for 24 h")
                gone.append(letter)
            else:
                kept.append(letter)
        if gone:
            await self.remove(gone)
        return kept

    async def forsake(self, letters: Sequence[Letter]) -> None:
        """Nobody is told of these any more: their channels are gone, and no other one has come in their place."""
        for letter in letters:
            self._metrics.tried(kind_of(letter.channel), Outcome.GIVEN_UP)
            self._tell_given_up(letter, "this channel is no longer in the configuration")
        await self.remove(letters)

    async def remove(self, letters: Sequence[Letter]) -> None:
        """They wait no longer."""
        for one in letters:
            self._waits_since.pop(one.key, None)
        await self._outbox.remove(letters)
        self._count()

    def _tell_given_up(self, letter: Letter, why: str) -> None:
        message, name = letter.message, letter.channel
        log.error("a message was given up", channel=name, id=message.id, kind=message.kind, why=why)
        number, _ = self.given_up.get(name, (0, ""))
        self.given_up[name] = (number + 1, why)

    def _count(self) -> None:
        self._metrics.pending(self._outbox.count())
