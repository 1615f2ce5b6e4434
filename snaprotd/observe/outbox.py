"""Letters that wait to be sent: in memory, and in the ledger as far as it can be written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.core.telling import Letter
from snaprotd.core.telling.entries import Entry
from snaprotd.core.telling.troubles import Told

log = structlog.get_logger("snaprotd.notify")

MOST_WAITING = 1000
"""Letters of one channel that are kept: of more the oldest go."""


class Desk(Protocol):
    """What outlives the process. Each method raises `LedgerError` where nothing can be written."""

    async def keep(self, told: Told, cursor: int, *, entries: Iterable[Entry], letters: Sequence[Letter]) -> None:
        """Write all of it, or nothing. A letter whose key is there already is the same one."""

    async def remove(self, letters: Collection[Letter]) -> None:
        """They were sent, or were given up."""


class Outbox:
    """A letter that is sent and not removed in time is sent again after a crash, under the same key."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._letters: dict[tuple[str, str], Letter] = {}
        self._unkept: dict[tuple[str, str], Letter] = {}
        self._done: dict[tuple[str, str], Letter] = {}
        """Those that are to be taken out of the ledger still."""

    def put(self, letters: Iterable[Letter], *, are_kept: bool) -> None:
        """Have them sent. One whose key is there already is the same one. `are_kept`: they stand in the ledger."""
        for letter in letters:
            self._letters.setdefault(letter.key, letter)
            if not are_kept:
                self._unkept.setdefault(letter.key, letter)

    @property
    def unkept(self) -> list[Letter]:
        """Those that the ledger does not have yet."""
        return list(self._unkept.values())

    def are_kept(self, letters: Iterable[Letter]) -> None:
        """The ledger has them now."""
        for letter in letters:
            if self._unkept.pop(letter.key, None) is not None and letter.key not in self._letters:
                self._done[letter.key] = letter  # sent meanwhile

    def waiting(self, channel: str) -> Sequence[Letter]:
        """Those of one channel, the oldest first."""
        return [letter for letter in self._letters.values() if letter.channel == channel]

    def note(self, letter: Letter) -> None:
        """It was tried once more, and waits."""
        if letter.key in self._letters:
            self._letters[letter.key] = letter

    async def remove(self, letters: Collection[Letter]) -> None:
        """They were sent, or were given up. Where that cannot be written down it is tried with the next one."""
        for letter in letters:
            if self._letters.pop(letter.key, None) is None or self._unkept.pop(letter.key, None) is not None:
                continue
            self._done[letter.key] = letter
        await self.clear_away()

    async def clear_away(self) -> None:
        """Take out of the ledger what is done with."""
        if not self._done:
            return
        done = dict(self._done)
        try:
            await self._desk.remove(list(done.values()))
        except LedgerError as error:
            log.warning("sent messages cannot be taken out of the outbox yet", number=len(done), error=str(error))
            return
        self._done = {key: one for key, one in self._done.items() if key not in done}

    def count(self) -> int:
        """How many wait, of all channels."""
        return len(self._letters)

    def without(self, channels: Collection[str]) -> Sequence[Letter]:
        """Those of any other channel, by which nobody is told any more."""
        return [letter for letter in self._letters.values() if letter.channel not in channels]
