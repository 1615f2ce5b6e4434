"""Who may begin to hold a server off: no more than the rate has requests for, so that none is off because of others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from snaprotd.core.admission import why_too_late
from snaprotd.core.asking.budget import Budget, Past, fits, moments
from snaprotd.core.asking.polls import REMEMBERED
from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Rotation
from snaprotd.engine.board import Board
from snaprotd.engine.tools import NO_PERMIT, Permit, Permits, Tools
from snaprotd.engine.turns.groups import is_still_to_stop, lapsed, say_that_it_waits

ASKED_EVERY = 2.0
"""Seconds between two looks whether the next one fits in."""
WAITS = "waits until what is asked about servers that are off leaves requests for it"


@dataclass
class _Waiting:
    """Somebody in line."""

    rotation: Rotation
    show: Callable[[Rotation], None]
    is_told: bool = False

    def say_so(self) -> None:
        if not self.is_told:
            self.is_told = True
            say_that_it_waits(self.rotation, WAITS)
            self.show(replace(self.rotation, note=WAITS, skipped="rate"))


class Admission:
    """Lets rotations that will hold a server off begin, in the order in which they came.

    What has begun counts until its start, or until it gives its permit back; where nothing has, the next one begins
    whatever the rate is. What holds a server off already waits for nobody, and counts.
    """

    def __init__(self, tools: Tools, board: Board) -> None:
        self._tools = tools
        self._board = board
        self._door = Permits(1)
        self._line: list[_Waiting] = []
        """In the order in which they came; the first is at the door."""
        self._is_shut = False
        """Who was at the door last did not fit in."""
        self._begun: dict[str, Past] = {}
        """By the ids of their servers."""

    async def take(self, rotation: Rotation, show: Callable[[Rotation], None]) -> tuple[Permit, Rotation]:
        """Wait until it fits in; it has failed where it is too late for it then."""
        if rotation.is_payable:
            return self._share(rotation, Past()), rotation
        if not is_still_to_stop(rotation):
            return NO_PERMIT, rotation
        waiting, door = _Waiting(rotation, show), NO_PERMIT
        self._line.append(waiting)
        if self._is_shut:
            waiting.say_so()
        try:
            door = await self._door.take()
            past = await self._past(rotation)
            while not self._tools.drain.requested.is_set():
                if waiting.is_told and (why := why_too_late(rotation, self._tools.now())):
                    return NO_PERMIT, lapsed(rotation, f"{why}; it {WAITS}", "rate")
                self._is_shut = not self._fits(rotation, past)
                if not self._is_shut:
                    if waiting.is_told:
                        show(rotation)
                    return self._share(rotation, past), rotation
                for one in self._line:
                    one.say_so()
                await self._tools.drain.sleep(ASKED_EVERY, held_off=False)
            return NO_PERMIT, rotation
        finally:
            self._line.remove(waiting)
            self._is_shut = self._is_shut and bool(self._line)
            door.give_back()

    def _fits(self, rotation: Rotation, past: Past) -> bool:
        tools, now = self._tools, self._tools.now()
        known = {one.server_id: one for one in self._board.running.values()}
        begun = [moments(known.get(server_id, rotation), its, now) for server_id, its in self._begun.items()]
        pages = tools.inventory.pages
        budget = Budget(rate=tools.cloud.rate.rate, poll_interval=tools.poll_interval, pages=pages)
        return fits(
            moments(rotation, past, now),
            begun,
            most=budget.most_at_once,
            most_off=budget.most_off(past.off),
            within=budget.burst,
        )

    async def _past(self, rotation: Rotation) -> Past:
        with suppress(LedgerError):
            return Past(await self._tools.ledger.history(rotation.server_id, limit=REMEMBERED))
        return Past()

    def _share(self, rotation: Rotation, past: Past) -> Permit:
        def give_back() -> None:
            self._begun.pop(rotation.server_id, None)

        self._begun[rotation.server_id] = past
        return Permit(give_back)
