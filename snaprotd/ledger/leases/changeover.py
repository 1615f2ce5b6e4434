"""Another server in the database's place: its history may lack the last that was written, and who wrote it may live.

What shows it is the origin of each transaction (`Place.origin`). Whoever has claimed a slot in a transaction that was
lost may have asked for its snapshot, and may ask until its lease is over; so nobody claims or takes over until that has
had the time to be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from snaprotd.core.asking.settling import settled_after
from snaprotd.core.errors import LedgerError
from snaprotd.ledger.leases.others import UNTOLD
from snaprotd.ledger.sql import notes
from snaprotd.ledger.sql.connection import Connection, Place

log = structlog.get_logger("snaprotd.ledger")


def quiet_for(lease: float, settle: float) -> float:
    """Seconds after which what anybody had begun by then has ended, or can be seen."""
    return max(lease, UNTOLD) + settled_after(settle)


class Changeover:
    """What this process knows of it.

    An origin is noted in the ledger by whoever has seen it for the whole of the time: to who comes later it is no news.
    """

    def __init__(self, place: Place, *, quiet: Callable[[], float], uptime: Callable[[], float]) -> None:
        """`quiet`: for how many seconds nobody claims or takes over then."""
        self._place = place
        self._quiet = quiet
        self._uptime = uptime
        self._settled = ""
        self._since: tuple[str, float] | None = None

    async def left(self, connection: Connection) -> float:
        """Seconds for which nobody may claim or take over still. To be asked in a transaction that writes."""
        origin = self._place.origin
        if origin == self._settled:  # it is not known, or no news
            return 0.0
        noted = await connection.scalar(notes.ORIGIN)
        left = 0.0 if noted in (None, origin) else self._quiet() - self._seen_for(origin)
        if left > 0:
            return left
        if noted != origin:
            await connection.execute(notes.note(notes.ORIGIN_KEY, origin))
        self._settled = origin
        return 0.0

    async def demand_past(self, connection: Connection) -> None:
        """Raise `LedgerError` where nobody may claim yet."""
        if (left := await self.left(connection)) > 0:
            why = "another server is in the place of the one that had it, and what was written last may be lost"
            raise LedgerError(f"{why}: nothing begins for {left:.0f} s more on the ledger {self._place.name}")

    def _seen_for(self, origin: str) -> float:
        now = self._uptime()
        if self._since is None or self._since[0] != origin:
            log.error(
                "another server is in the place of the ledger's: nothing begins for a while", ledger=self._place.name
            )
            self._since = (origin, now)
        return now - self._since[1]
