"""Which replica tells people, and what the others have it tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.core.fleet import TELLER
from snaprotd.core.fleet.said import CONDITIONS, said_by, together, written
from snaprotd.core.telling import Event
from snaprotd.core.telling.entries import Entry
from snaprotd.daemon.fleet.membership import Membership
from snaprotd.ledger.store import Ledger

log = structlog.get_logger("snaprotd.notify")

MOST_ENTRIES = 1000


class Office:
    """Of one daemon. On a file it holds it always."""

    def __init__(self, membership: Membership, ledger: Ledger) -> None:
        self._membership = membership
        self._ledger = ledger
        self._own: Sequence[Event] = ()
        self._entries: list[Entry] = []
        self.is_held = not membership.is_shared
        """As of the last `look`."""
        if membership.is_shared:
            ledger.desk.teller = ledger.owner

    def look(self) -> bool:
        """Whether it was taken, or lost, since the last one."""
        held, self.is_held = self.is_held, self._membership.has(TELLER)
        if held != self.is_held:
            log.info("this replica tells people now" if self.is_held else "another replica tells people from now on")
        return held != self.is_held

    @property
    def is_mine(self) -> bool:
        """Now. Who held it and was frozen meanwhile sends no more."""
        return self.is_held and self._membership.has(TELLER)

    def all_of(self, own: Sequence[Event]) -> list[Event]:
        """What is to be told: what this replica sees, and what the others that live have said."""
        fleet = self._membership.fleet
        others = () if fleet is None else [one for one in fleet.living if one.id != fleet.me.id]
        return together(own, said_by(others))

    def have_told(self, own: Sequence[Event]) -> None:
        """By whoever holds it: with the next beat."""
        self._own = own

    def says(self) -> Mapping[str, Any]:
        """For the row of the next beat."""
        return {CONDITIONS: written([] if self.is_held else self._own)}

    def enter(self, entry: Entry) -> None:
        """Have it written down, by who does not hold it."""
        if len(self._entries) < MOST_ENTRIES:
            self._entries.append(entry)

    async def write_down(self) -> None:
        if entries := self._entries[:]:
            try:
                await self._ledger.events.write(entries)
            except LedgerError as error:
                log.debug("what has happened is written later", error=str(error))
            else:
                del self._entries[: len(entries)]
