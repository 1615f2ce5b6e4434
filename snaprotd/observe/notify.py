"""From events to letters: what is going on, what of it is told, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.core.telling import Event, Kind, Letter, Message
from snaprotd.core.telling.edges import (
    Told,
    forgotten,
    known_before,
    levelled,
    messages_due,
    noted,
    ping_of,
)
from snaprotd.observe.delivery import Channel, Delivery

log = structlog.get_logger("snaprotd.notify")

MOST_UNPOSTED = 10_000
"""Letters that are kept here where the outbox cannot be written."""


class Notify:
    """What is told to whom. To tell it something takes no time, and never fails: whoever does has work to do."""

    def __init__(self, delivery: Delivery, now: Callable[[], datetime], pages: Callable[[], str] = str) -> None:
        """`pages` tells the address of the daemon's own, if they have one just now."""
        self._delivery = delivery
        self._pages = pages
        self._now = now
        self._told = Told()
        self._channels: Sequence[Channel] = ()
        self._members: Mapping[str, Set[str]] = {}
        self._unposted: list[Letter] = []

    def begin(self, channels: Sequence[Channel]) -> None:
        """Tell these from now on, and no others."""
        self._channels = channels
        self._delivery.begin(channels)

    def look_after(self, server_ids: Set[str], members: Mapping[str, Set[str]]) -> None:
        """`members` are the servers of each check that is told of some of them only, by the channel's name."""
        self._members = members
        self._told = forgotten(self._told, server_ids)

    def remember(self, event: Event) -> None:
        """It was told before this process began."""
        self._told = known_before(self._told, event)

    def tell(self, event: Event) -> None:
        """Something has happened."""
        self._ping(event, noted(self._told, event, self._now()))

    def show(self, kind: Kind, there: Sequence[Event]) -> None:
        """All that there is of a kind: what was there before and is not any more is over."""
        for event in there:
            if not self._told.knows(event):
                self.tell(event)
        self._told = levelled(self._told, kind, there, self._now())

    def _ping(self, event: Event, told: Told) -> None:
        self._told = told
        for channel in self._channels:
            members = self._members.get(channel.name)
            is_concerned = members is None or event.server is None or event.server.id in members
            message = ping_of(event, is_well=told.is_well(members)) if channel.is_check and is_concerned else None
            if message is not None and message.kind in channel.on:
                self._write(channel, message)

    def _write(self, channel: Channel, message: Message) -> None:
        if len(self._unposted) < MOST_UNPOSTED:
            message = replace(message, url=self._pages())
            self._unposted.append(Letter(channel=channel.name, message=message, since=self._now()))

    async def post_due(self) -> None:
        """Hand on what is to be sent now. Where that cannot be, it is kept for the next time."""
        self._told, messages = messages_due(self._told, self._now())
        for message in messages:
            for channel in self._channels:
                if not channel.is_check and message.kind in channel.on:
                    self._write(channel, message)
        letters = list(self._unposted)
        try:
            if letters:
                await self._delivery.post(letters)
        except LedgerError as error:
            log.error("messages cannot be put into the outbox: they are tried again", error=str(error))
            return
        del self._unposted[: len(letters)]
