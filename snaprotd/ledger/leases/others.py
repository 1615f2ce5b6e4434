"""The open rotations of a ledger, and which of them another process holds that is alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from snaprotd.ledger.leases.observed import Observed
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection

MARGIN = 5.0
"""Seconds for which a row must have stood beyond its lease: no two clocks run at quite the same rate."""
UNTOLD = 60.0
"""Seconds of a lease where the row does not tell them: an older snaprotd has written it, or it was damaged."""
LONGEST = 3600.0
"""Seconds that no lease exceeds."""


class Others:
    """What this process has seen of the leases in the ledger."""

    def __init__(
        self, owner: str, *, lease: Callable[[], float], uptime: Callable[[], float], origin: Callable[[], str] = str
    ) -> None:
        """`uptime`: a clock that no one sets, and that counts the time in which the machine was suspended.

        `origin`: which server the ledger is on. What was seen on another one may have been renewed there, and is lost.
        """
        self._owner = owner
        self._lease = lease
        self._uptime = uptime
        self._origin = origin
        self._seen_on = ""
        self.observed = Observed()

    async def look(self, connection: Connection, account: str) -> Sequence[Any]:
        """The leases of the open rotations, as they are now. To be asked before anything else in a transaction."""
        before, self._seen_on = self._seen_on, self._origin()
        if before not in ("", self._seen_on):  # it is not known before something is written
            self.observed = Observed()
        began = self._uptime()
        rows = await connection.execute(statements.leases(account))
        self.observed.see(rows, began=began, ended=self._uptime())
        return rows

    async def abandoned(
        self, connection: Connection, account: str, *, held: Collection[str], everything: bool
    ) -> list[Any]:
        """The leases of those that nobody holds any more, or (`everything`) that are not ours already.

        Those that are `held` by this process are not among them, nor those that are left to a newer snaprotd.
        """
        free = self._is_foreign if everything else self._has_run_out
        rows = await self.look(connection, account)
        return [row for row in rows if row.id not in held and not statements.is_left(row) and free(row)]

    async def living(self, connection: Connection, account: str, *, grace: float = 0.0) -> set[str]:
        """The servers of which another process runs a rotation, or did until `grace` seconds ago.

        Of what is seen for the first time it is to be thought.
        """
        rows = await self.look(connection, account)
        theirs = [row for row in rows if row.owner is not None and row.owner != self._owner]
        return {row.server_id for row in theirs if not self._has_run_out(row, grace)}

    async def seem_living(self, connection: Connection, account: str) -> set[str]:
        """The same by the wall clocks of this host and theirs, for who has seen nothing yet.

        A clock may have been set: nothing but words may depend on it, or what does no harm if it is wrong.
        """
        rows = await connection.execute(statements.seems_living(account, time.time(), self._lease()))
        return {row.server_id for row in rows if row.owner != self._owner}

    def _has_run_out(self, row: Any, grace: float = 0.0) -> bool:
        return row.owner is None or self.observed.stood(row.id) >= self._length(row) + MARGIN + grace

    def _is_foreign(self, row: Any) -> bool:
        return bool(row.owner is None or row.owner != self._owner)

    def _length(self, row: Any) -> float:
        """Its owner may give a request more time than we do."""
        is_told = isinstance(row.lease, int | float) and 0 < row.lease <= LONGEST
        return max(self._lease(), row.lease if is_told else UNTOLD)
