"""Replicas that are lost, as events that people are told of: where there is no Prometheus nothing else would tell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from snaprotd.core.fleet import FORGOTTEN_AFTER
from snaprotd.core.telling.entries import Entry, Happened, of_lost_replica
from snaprotd.engine.board import Board
from snaprotd.ledger.store import Ledger

KNOWN_FOR = timedelta(seconds=2 * FORGOTTEN_AFTER)
"""For so long no row of one that is lost stands."""
AT_ONCE = 100


class LostReplicas:
    """As one replica sees them, which tells people."""

    def __init__(self, board: Board, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._board = board
        self._ledger = ledger
        self._now = now
        self._told: set[str] = set()

    async def look(self, enter: Callable[[Entry], None]) -> None:
        """Enter those that nobody has entered yet. Raises `LedgerError`."""
        fleet = self._board.fleet
        if fleet is None or not (new := [one for one in fleet.lost if one.id not in self._told]):
            return
        now = self._now()
        entries = await self._ledger.events.newest(kinds=[Happened.REPLICA_LOST], since=now - KNOWN_FOR, limit=AT_ONCE)
        known = {entry.details.get("replica") for entry in entries}
        for one in new:
            if one.id not in known:
                enter(of_lost_replica(one, len(fleet.living), now))
            self._told.add(one.id)
