"""What other processes do or have done meanwhile, replicas and `snaprotd now`, is known here too."""

from __future__ import annotations

from datetime import datetime

from snaprotd.daemon.ledger_watch import Ends
from snaprotd.daemon.slots.schedules import Schedules
from snaprotd.engine.board import Board
from snaprotd.engine.tools import Tools


class Others:
    def __init__(self, tools: Tools, board: Board, schedules: Schedules, since: datetime) -> None:
        """What ended before `since` is known already."""
        self._tools = tools
        self._board = board
        self._schedules = schedules
        self._ends = Ends(since)

    async def note(self) -> None:
        """Raises `LedgerError`."""
        found = await self._tools.ledger.open_rotations(but=self._board.running)
        for rotation in self._board.show_elsewhere(found):
            facts = self._board.of(rotation.server_id)
            facts.last_attempt = max(facts.last_attempt or rotation.started_at, rotation.started_at)
        for rotation in await self._ends.news(self._tools.ledger, self._tools.now()):
            self._board.of(rotation.server_id).note_end(rotation)
            self._schedules.retries.note(rotation, is_news=self._tools.ledger.replicas is None)
