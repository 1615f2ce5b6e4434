"""What the ledger remembers of servers, and whether it can be written.

The latter is asked every few seconds, and told when the answer changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Rotation
from snaprotd.engine.board import Board
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger

log = structlog.get_logger("snaprotd.daemon")

PATIENCE = 30.0
"""Seconds that an answer may take: longer than another user of the ledger may keep it to himself."""


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What the ledger knows of servers: how far each schedule was seen, and what became of their rotations."""

    marks: Mapping[str, Mark]
    attempts: Mapping[str, datetime]
    successes: Mapping[str, datetime]
    latest: Mapping[str, Rotation]

    @classmethod
    async def read(cls, ledger: Ledger) -> Remembered:
        """By the ids under which it was written."""
        return cls(
            marks=await ledger.marks(),
            attempts=await ledger.last_started(),
            successes=await ledger.last_succeeded(),
            latest=await ledger.latest(),
        )

    async def under(self, called: Callable[[str], str]) -> Remembered:
        """The same by the ids by which servers are called now."""

        async def by_server(known: Mapping[str, T], age: Callable[[T], Any]) -> Mapping[str, T]:
            """Of each server the latest, by whichever of its ids it was written. Of thousands it takes a while."""
            await asyncio.sleep(0)
            return {called(one): known[one] for one in sorted(known, key=lambda one: age(known[one]))}

        return Remembered(
            marks=await by_server(self.marks, lambda mark: mark.seen_until),
            attempts=await by_server(self.attempts, lambda at: at),
            successes=await by_server(self.successes, lambda at: at),
            latest=await by_server(self.latest, lambda rotation: rotation.finished_at or rotation.started_at),
        )


class Ends:
    """The rotations that have ended, whoever ran them, each once.

    A clock that was ahead has left ends that lie in the future: they are told by every look, and are no news.
    """

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._told: set[tuple[str, datetime | None]] | None = None

    async def news(self, ledger: Ledger, now: datetime) -> list[Rotation]:
        """Those that have ended since the last look; of what was there before the first, nothing."""
        ended = {(one.id, one.finished_at): one for one in await ledger.ended_since(self._since)}
        told = {one for one in ended if one[1] is not None and one[1] > now} if self._told is None else self._told
        self._since, self._told = now, set(ended)
        return [rotation for one, rotation in ended.items() if one not in told]


class LedgerWatch:
    """A ledger that can be read and not written looks well until a slot comes."""

    def __init__(self, name: str, board: Board, probe: Callable[[], Awaitable[None]]) -> None:
        """`probe` raises `LedgerError` where the ledger called `name` cannot be used."""
        self._name = name
        self._board = board
        self._probe = probe
        self._asked: asyncio.Future[None] | None = None
        self.error: str | None = None
        """Why it cannot be written; None where it can, or where that is not known yet."""

    async def look(self) -> None:
        """See whether the ledger can be written now."""
        why = await self._why_not()
        if why is not None and self.error is None:
            log.error("the ledger cannot be written: rotations may be unable to begin before it can", error=why)
        elif why is None and self.error is not None:
            log.warning("the ledger can be written again")
        self.error = why
        self._board.ledger_writable = why is None

    async def _why_not(self) -> str | None:
        """One that has not answered is not asked again: it is waited for."""
        asked = self._asked = self._asked or asyncio.ensure_future(self._probe())
        await asyncio.wait({asked}, timeout=PATIENCE)
        if not asked.done():
            return f"the ledger {self._name} does not answer"
        self._asked = None
        try:
            asked.result()
        except LedgerError as error:
            return str(error)
        return None

    async def aclose(self) -> None:
        """Ask no more."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)
