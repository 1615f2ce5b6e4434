"""Leave to run: so much of it, given in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Permit:
    """Leave to run, until it is given back; to give it back twice does no harm."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def give_back(self) -> None:
        if self._give_back is not None:
            self._give_back()
            self._give_back = None


NO_PERMIT = Permit(lambda: None)


class Permits:
    """So many rotations at once, in the order in which they came. The number can change while permits are out."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def set_number(self, number: int) -> None:
        """Who holds a permit keeps it; fewer are given until there are few enough."""
        self._number = number
        self._hand_on()

    async def take(self) -> Permit:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hand_on()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it has just been handed one
                self._back()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        return Permit(self._back)

    async def take_within(self, seconds: float) -> Permit | None:
        """As `take`; None where none was free for so long."""
        try:
            async with asyncio.timeout(seconds):
                return await self.take()
        except TimeoutError:
            return None

    def _back(self) -> None:
        self._taken -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting and self._taken < self._number:
            if not (turn := self._waiting.popleft()).done():
                self._taken += 1
                turn.set_result(None)
