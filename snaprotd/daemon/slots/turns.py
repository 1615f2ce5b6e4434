"""Which replica claims a slot, and when: first who has a place for it.

The ledger's unique key alone has each slot run once. This spares it a stampede, and a slot a line beside idle hands.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime

AFTER_PREFERRED = 2.0
"""Seconds that the others leave to the replica that is to begin a server's rotations."""
AFTER_A_ROUND = 2 * AFTER_PREFERRED
"""Seconds more that are left to others for each time that all places here are taken: to any of them that has fewer."""
LOOKED_EVERY = 1.0
"""Seconds between two looks whether there is a place by now: another one may have come first to what took it."""
AT_MOST = 30.0
"""Seconds that are left to others by who has no place: then it may be that nobody has one, and it waits in a line."""

Slot = tuple[datetime, datetime]
"""With how far all is dealt with then."""


class Turns:
    """`may_claim`: no replica has a newer configuration. `prefers`: this one is to begin that server's rotations.

    `rounds`: how often all its places are taken already.
    """

    def __init__(
        self,
        may_claim: Callable[[], bool] = lambda: True,
        prefers: Callable[[str], bool] = lambda _: True,
        rounds: Callable[[], float] = lambda: 0,
    ) -> None:
        self.may_claim = may_claim
        self.prefers = prefers
        self._rounds = rounds
        self._stopped = False
        self.put_off: dict[str, Slot] = {}
        """By server the slots that are another's to run, should it still be there."""

    def stop(self) -> None:
        """What is left to others now stays with them."""
        self._stopped = True

    async def come(self, server_id: str, slot: Slot, *, waits: bool) -> bool:
        """Wait until it is this one's turn; False where another one's configuration is newer, or this one ends."""
        if waits and self.may_claim() and not await self._has_left_it(server_id):
            return False
        if self.may_claim():
            return True
        self.put_off[server_id] = slot
        return False

    async def _has_left_it(self, server_id: str) -> bool:
        """To others for a while, who come one by one, so that each takes what it can; False if this one ends first."""
        one_by_one = random.uniform(0, LOOKED_EVERY)  # noqa: S311 - nothing secret
        least, waited = 0.0 if self.prefers(server_id) else AFTER_PREFERRED + one_by_one, 0.0
        while (left := least + min(self._rounds() * AFTER_A_ROUND, AT_MOST) - waited) > 0:
            await asyncio.sleep(this := min(left, LOOKED_EVERY))
            waited += this
            if self._stopped:
                return False
        return True

    def resumed(self) -> dict[str, Slot]:
        """What was put off and may be claimed here now."""
        if not self.may_claim():
            return {}
        found, self.put_off = self.put_off, {}
        return found
