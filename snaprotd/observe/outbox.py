"""Letters that wait to be sent: what an outbox is, and one in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from snaprotd.core.telling import Letter

MOST_WAITING = 1000
"""Letters of one channel that are kept: of more the oldest go."""


class Outbox(Protocol):
    """Where letters wait. Each method may raise `LedgerError`, and what it was to do is tried again."""

    async def post(self, letters: Sequence[Letter]) -> None:
        """Have them sent. One whose key is there already is the same one."""

    async def waiting(self, channel: str) -> Sequence[Letter]:
        """Those of one channel, the oldest first."""

    async def note(self, letter: Letter) -> None:
        """It was tried once more, and waits."""

    async def remove(self, letter: Letter) -> None:
        """It was sent, or was given up."""

    async def count(self) -> int:
        """How many wait, of all channels."""


class MemoryOutbox:
    """An `Outbox` that ends with the process."""

    def __init__(self) -> None:
        self._letters: dict[tuple[str, str], Letter] = {}

    async def post(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self._letters.setdefault(letter.key, letter)

    async def waiting(self, channel: str) -> Sequence[Letter]:
        return [letter for letter in self._letters.values() if letter.channel == channel]

    async def note(self, letter: Letter) -> None:
        if letter.key in self._letters:
            self._letters[letter.key] = letter

    async def remove(self, letter: Letter) -> None:
        self._letters.pop(letter.key, None)

    async def count(self) -> int:
        return len(self._letters)
