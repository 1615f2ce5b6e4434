"""From events to letters: what is going on, what of it is told, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.core.telling import Event, Kind, Letter, Message
from snaprotd.core.telling.edges import messages_due, ping_of, turns
from snaprotd.core.telling.entries import Entry, entries_of
from snaprotd.core.telling.troubles import (
    OF_LEDGER,
    Key,
    Told,
    Trouble,
    gone_on,
    kept_for_anybody,
    levelled,
    noted,
    renamed,
    set_apart,
)
from snaprotd.observe.delivery import Channel, Delivery, heirs_of
from snaprotd.observe.outbox import Desk, Outbox

log = structlog.get_logger("snaprotd.notify")

MOST_UNWRITTEN = 10_000
"""Letters, and entries, that are kept here where the ledger cannot be written."""


NOTHING_TOLD = Told()


class Notify:
    """What is told to whom. To tell it something takes no time, and never fails: whoever does has work to do."""

    def __init__(
        self,
        delivery: Delivery,
        outbox: Outbox,
        desk: Desk,
        now: Callable[[], datetime],
        pages: Callable[[], str] = str,
        told: Told = NOTHING_TOLD,
    ) -> None:
        """`pages` tells the address of the daemon's own, if they have one just now. `told`: what goes on."""
        self._delivery = delivery
        self._outbox = outbox
        self._desk = desk
        self._pages = pages
        self._now = now
        self._told = told
        self.cursor = 0
        """The id of the event up to which all of the ledger's was told."""
        self._kept: tuple[Told, int] | None = None
        """As the ledger has it."""
        self._may_keep = False
        self._can_keep = True
        self._entered: Mapping[Key, Event] = {}
        """What is going on and has an entry of its own."""
        self._entries: list[Entry] = []
        self._channels: Sequence[Channel] = ()
        self._channels_before: Sequence[Channel] = ()
        self._members: Mapping[str, Set[str]] = {}
        self._held_back: set[str] = set()
        """The checks that have not heard of a success, for something else was wrong just then."""
        self._unposted: list[Letter] = []

    def go_on(self, told: Told, cursor: int, letters: Sequence[Letter]) -> None:
        """From where the process before this one has come to. Before it is known, nothing is written down."""
        self._kept, self._entered = (told, cursor), entries_of(told, {}, self._now())[0]
        self._told = gone_on(told, self._told, self._now())
        self.cursor, self._may_keep = cursor, True
        self._delivery.post(letters, are_kept=True)

    def begin_anew(self) -> None:
        """Nothing is known of any process before this one."""
        self._may_keep = True

    def begin(self, channels: Sequence[Channel]) -> None:
        """Tell these from now on, and no others. What waits for one that is gone goes to the one that replaces it."""
        self._channels, self._channels_before = channels, self._channels
        self._delivery.begin(channels)

    def look_after(self, members: Mapping[str, Set[str]]) -> None:
        """`members` are the servers of each check that is told of some of them only, by the channel's name."""
        self._members = members

    def of_ledger(self) -> Told:
        """What was told of the ledger itself, and goes on with whoever cannot write it."""
        return Told(troubles={key: one for key, one in self._told.troubles.items() if one.event.cause == OF_LEDGER})

    @property
    def failing(self) -> Set[str]:
        """As what was told has it."""
        return self._told.failing

    def of_kind(self, kind: Kind) -> Mapping[str, Trouble]:
        """As what was told has it."""
        return self._told.of_kind(kind)

    def about(self, what: str) -> Mapping[str, str]:
        """As what was told has it."""
        return self._told.about(what)

    def rename(self, called: Callable[[str], str]) -> None:
        """Know servers by the ids by which they are `called` now."""
        self._told = renamed(self._told, called)

    def set_apart(self, *, paused: Set[str], left: Set[str], at_work: Set[str], dropped: Set[str]) -> None:
        """Servers that no other one's end waits for. See `troubles.set_apart`."""
        self._told = set_apart(self._told, self._now(), paused=paused, left=left, at_work=at_work, dropped=dropped)

    def enter(self, entry: Entry) -> None:
        """Have it written down: nothing in the ledger makes it true."""
        if len(self._entries) < MOST_UNWRITTEN:
            self._entries.append(entry)

    def tell(self, event: Event) -> None:
        """Something has happened, which may have been a while ago."""
        self._ping(event, noted(self._told, event, min(self._now(), event.at)))

    def show(
        self,
        kind: Kind,
        there: Sequence[Event],
        *,
        about: Set[str] = frozenset({""}),
        of: Set[str] | None = None,
        ends: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """All that there is of a kind, `about` this and `of` these: what was there before and is not now is over.

        `ends`: how, by the server's id, where there is more to say of it.
        """
        for event in there:
            if not self._told.knows(event):
                self.tell(event)
        self._told = levelled(self._told, kind, there, self._now(), about=about, of=of, ends=ends)

    def is_implied(self, event: Event) -> bool:
        """Whether the failure of its server's rotations says it already, and it was not there before that."""
        return event.server is not None and self._told.fails(event.server.id) and not self._told.knows(event)

    def tell_new(self, events: Sequence[Event]) -> None:
        """Those of them that are not going on already."""
        for event in events:
            if not self._told.knows(event):
                self.tell(event)

    def _ping(self, event: Event, told: Told) -> None:
        self._told = told
        for channel, members in self._checks_of(event):
            message = ping_of(event, is_well=told.is_well(members))
            if message is not None and message.kind in channel.on:
                self._write(channel, message)
            elif event.rotation and event.kind is Kind.RECOVERY:
                self._held_back.add(channel.name)

    def _checks_of(self, event: Event) -> Iterator[tuple[Channel, Set[str] | None]]:
        """The checks that it concerns, and whose servers those are of."""
        for channel in self._channels:
            members = self._members.get(channel.name)
            if channel.is_check and (members is None or event.server is None or event.server.id in members):
                yield channel, members

    def _ping_turns(self, before: Told) -> None:
        """A check that hears of a trouble hears of its end too, where all is well then."""
        for turn in turns(before, self._told):
            is_end = turn.ping.kind is Kind.RECOVERY
            for channel, members in self._checks_of(turn.trouble):
                is_told = {turn.trouble.kind, turn.ping.kind} <= channel.on or (
                    is_end and channel.name in self._held_back
                )
                if is_told and not (is_end and not self._told.is_well(members)):
                    self._write(channel, turn.ping)

    def _write(self, channel: Channel, message: Message) -> None:
        if message.kind is Kind.RECOVERY:
            self._held_back.discard(channel.name)
        if len(self._unposted) < MOST_UNWRITTEN:
            message = replace(message, url=self._pages())
            self._unposted.append(Letter(channel=channel.name, message=message, since=self._now()))

    async def post_due(self) -> None:
        """Write down what was told and what is to be sent now, in one transaction, and have it sent.

        Where it cannot be written it is sent all the same, and written the next time.
        """
        now = self._now()
        self._entered, entries = entries_of(self._told, self._entered, now)
        self._entries += entries[: MOST_UNWRITTEN - len(self._entries)]
        messages: Sequence[Message] = []
        if self._channels:
            before = self._told
            self._told, messages = messages_due(before, now)
            self._ping_turns(before)
        else:  # what lasts is told as soon as there is somebody to be told
            self._told = kept_for_anybody(self._told, now)
        for message in messages:
            for channel in self._channels:
                if not channel.is_check and message.kinds & channel.on:
                    self._write(channel, message)
        letters, self._unposted = self._unposted, []
        left = self._outbox.without({channel.name for channel in self._channels})
        inherited = [(one, self._inherited(one)) for one in left]
        letters += [heir for _, heirs in inherited for heir in heirs]
        are_kept = await self._keep(letters)
        self._delivery.post(letters, are_kept=are_kept)
        await self._delivery.forsake([one for one, heirs in inherited if not heirs])
        if are_kept:  # else a crash would lose them
            await self._delivery.remove([one for one, heirs in inherited if heirs])
        await self._outbox.clear_away()

    def _inherited(self, letter: Letter) -> Sequence[Letter]:
        """The same, to those who are told now what waits for a channel that is gone."""
        heirs = heirs_of(letter.channel, self._channels_before, self._channels)
        return [replace(letter, channel=one.name, tries=0) for one in heirs if letter.message.kinds & one.on]

    async def _keep(self, letters: Sequence[Letter]) -> bool:
        """Whether the ledger has it all."""
        state, unkept, entries = (self._told, self.cursor), self._outbox.unkept, list(self._entries)
        if not self._may_keep:
            return False
        if state == self._kept and not (letters or unkept or entries):
            return True
        try:
            await self._desk.keep(*state, entries=entries, letters=[*unkept, *letters])
        except LedgerError as error:
            if self._can_keep:
                log.error("what is told cannot be written down: it is told from memory", error=str(error))
            self._can_keep = False
            return False
        self._can_keep, self._kept = True, state
        del self._entries[: len(entries)]
        self._outbox.are_kept(unkept)
        return True
