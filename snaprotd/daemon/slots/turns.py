"""Which replica claims a slot. The ledger's unique key alone has each slot run once: this spares it a stampede."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

AFTER_PREFERRED = 2.0
"""Seconds that the others leave to the replica that is to begin a server's rotations."""

Slot = tuple[datetime, datetime]
"""With how far all is dealt with then."""


class Turns:
    """`may_claim`: no replica has a newer configuration. `prefers`: this one is to begin that server's rotations."""

    def __init__(
        self, may_claim: Callable[[], bool] = lambda: True, prefers: Callable[[str], bool] = lambda _: True
    ) -> None:
        self.may_claim = may_claim
        self.prefers = prefers
        self.put_off: dict[str, Slot] = {}
        """By server the slots that are another's to run, should it still be there."""

    async def come(self, server_id: str, slot: Slot, *, waits: bool) -> bool:
        """Wait until it is this one's turn; False where another one's configuration is newer."""
        if self.may_claim() and waits and not self.prefers(server_id):
            await asyncio.sleep(AFTER_PREFERRED)
        if self.may_claim():
            return True
        self.put_off[server_id] = slot
        return False

    def resumed(self) -> dict[str, Slot]:
        """What was put off and may be claimed here now."""
        if not self.may_claim():
            return {}
        found, self.put_off = self.put_off, {}
        return found
