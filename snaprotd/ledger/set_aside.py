"""Open rotations that this version does not go on with: who is to know of them.

What cannot be understood is closed as it is. What only a newer snaprotd may go on with is left open for one, which may
be alive beside this process or come back after it, until its server's next slot comes: then that counts for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from sqlalchemy import func, select

from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.past import AS_CLAIMED
from snaprotd.ledger.sql.prepared import Prepared, as_list
from snaprotd.ledger.sql.schema import ROTATIONS
from snaprotd.ledger.starts import Starts

log = structlog.get_logger("snaprotd.ledger")

_C = ROTATIONS.c
_CLOSED = Prepared(
    lambda: (
        select(_C.id, _C.server_id, AS_CLAIMED.label("number"))
        .where(statements.OURS, ~_C.is_open, _C.finished_at.is_(None))
        .order_by(AS_CLAIMED)
    )
)
"""No other row is closed that has no end."""
_LEFT = Prepared(lambda: select(_C.id, _C.server_id).where(statements.OURS, statements.LEFT))
_LAST = Prepared(lambda: select(func.max(AS_CLAIMED)).where(statements.OURS, statements.ITS_SERVER))


class SetAside:
    """It has lost its meaning where another rotation of its server was claimed since, by whichever process."""

    def __init__(self, starts: Starts) -> None:
        self._starts = starts
        self.why: dict[str, str] = {}
        """What is told of each of their servers, by its id."""
        self._rows: frozenset[str] | None = None
        """The servers of which the ledger has such a row; None before it was asked."""
        self._left: frozenset[str] = frozenset()
        """The servers with one that is left to a newer snaprotd."""

    async def read(self, connection: Connection) -> None:
        """Those that the ledger has, at the start; and of those that are known which have lost their meaning."""
        rows = await connection.execute(_LEFT(its_account=self._starts.account))
        left = {str(row.server_id): _left_words(row.id) for row in rows}
        self.forget(self._left - left.keys())
        self.why |= left
        self._left = frozenset(left)
        if self._rows is not None and not self._rows:
            return
        account, found = self._starts.account, dict[str, str]()
        for row in await connection.execute(_CLOSED(its_account=account)):
            ids = as_list(self._starts.ids_of(str(row.server_id)))
            if await connection.scalar(_LAST(its_account=account, server_ids=ids)) == row.number:
                found[str(row.server_id)] = _words(row.id)
        self.forget((self._rows or frozenset()) - found.keys())
        self.why |= found
        self._rows = frozenset(found)

    async def close(self, connection: Connection, rows: Sequence[Any]) -> None:
        """Set these aside."""
        if not rows:
            return
        await connection.execute(statements.set_aside([row.id for row in rows]))
        for row in rows:
            self.why[str(row.server_id)] = _words(row.id)
            log.error("a rotation is set aside: it cannot be understood", rotation=row.id, server_id=row.server_id)
        self._rows = (self._rows or frozenset()) | {str(row.server_id) for row in rows}

    async def leave(self, connection: Connection, rows: Sequence[Any]) -> None:
        """Leave these to a newer snaprotd."""
        if not rows:
            return
        await connection.execute(statements.let_go([row.id for row in rows]))
        for row in rows:
            self.why[str(row.server_id)] = _left_words(row.id)
            log.error(
                "a rotation is left to a newer snaprotd, which began it", rotation=row.id, server_id=row.server_id
            )
        self._left |= {str(row.server_id) for row in rows}

    async def overtake(self, connection: Connection, ids: Sequence[str]) -> None:
        """Set aside what was left: the next slot of its server has come, and no newer snaprotd."""
        await connection.execute(statements.set_aside(ids))
        log.error("rotations that were left to a newer snaprotd are set aside, for the next are due", rotations=ids)

    def forget(self, server_ids: Iterable[str]) -> None:
        """Another rotation of the server is claimed."""
        for one in server_ids:
            self.why.pop(one, None)


def _left_words(row_id: str) -> str:
    return f"its rotation {row_id} in the ledger was begun by a newer snaprotd, and is left to one until the next slot"


def _words(row_id: str) -> str:
    return f"its rotation {row_id} in the ledger cannot be understood, and was set aside as it is"
