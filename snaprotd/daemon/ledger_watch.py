"""Whether the ledger can be written: asked at each look at the clock, and told when the answer changes."""

from __future__ import annotations

import asyncio

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.engine.board import Board
from snaprotd.ledger.store import Ledger

log = structlog.get_logger("snaprotd.daemon")

PATIENCE = 30.0
"""Seconds that an answer may take: longer than another user of the ledger may keep it to himself."""


class LedgerWatch:
    """A ledger that can be read and not written looks well until a slot comes."""

    def __init__(self, ledger: Ledger, board: Board) -> None:
        self._ledger = ledger
        self._board = board
        self._asked: asyncio.Future[None] | None = None
        self.error: str | None = None
        """Why it cannot be written; None where it can, or where that is not known yet."""

    async def look(self) -> bool:
        """Whether the ledger can be written now."""
        why = await self._why_not()
        if why is not None and self.error is None:
            log.error("the ledger cannot be written: no rotation can begin before it can", error=why)
        elif why is None and self.error is not None:
            log.warning("the ledger can be written again")
        self.error = why
        self._board.ledger_writable = why is None
        return why is None

    async def _why_not(self) -> str | None:
        """One that has not answered is not asked again: it is waited for."""
        asked = self._asked = self._asked or asyncio.ensure_future(self._ledger.probe())
        await asyncio.wait({asked}, timeout=PATIENCE)
        if not asked.done():
            return f"the ledger {self._ledger.name} does not answer"
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
