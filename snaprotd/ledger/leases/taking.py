"""How open rotations are taken over that nobody holds any more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from snaprotd.core.rotation import Rotation
from snaprotd.ledger.leases.changeover import Changeover
from snaprotd.ledger.leases.others import Others
from snaprotd.ledger.rows import FORMAT, readable, unknown_in
from snaprotd.ledger.set_aside import SetAside
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.starts import Starts


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A rotation that is this process's from now on."""

    rotation: Rotation
    epoch: int
    unknown: Mapping[str, Any]
    """What a newer snaprotd wrote into its row, and this one does not know."""


class Taking:
    def __init__(
        self,
        transaction: Callable[..., AbstractAsyncContextManager[Connection]],
        starts: Starts,
        others: Others,
        *,
        aside: SetAside,
        changeover: Changeover,
        tenure: Callable[[], dict[str, Any]],
    ) -> None:
        """`tenure`: what is written of a lease that begins now."""
        self._transaction = transaction
        self._starts = starts
        self._others = others
        self._aside = aside
        self._changeover = changeover
        self._tenure = tenure

    async def take_over(
        self, held: Collection[str], *, everything: bool = False, server_id: str | None = None
    ) -> list[Taken]:
        """Make them ours, but for those that are `held`. Raises `LedgerError`.

        What cannot be understood is never taken: it is set aside as it is, and told. Nor is what only a newer snaprotd
        may go on with: it is left to one, and told too.
        """
        async with self._transaction(writes=False) as connection:
            found = await self._abandoned(connection, held, everything, server_id)
            await self._aside.read(connection)
        if not found:
            return []
        async with self._transaction() as connection:
            if await self._changeover.left(connection) > 0:
                return []
            found = await self._abandoned(connection, held, everything, server_id)
            return await self._take(connection, found)

    async def _abandoned(
        self, connection: Connection, held: Collection[str], everything: bool, server_id: str | None
    ) -> dict[str, Any]:
        """Their leases, as this very transaction sees them, by the ids of the rotations."""
        account = self._starts.account
        rows = await self._others.abandoned(connection, account, held=held, everything=everything)
        ids = None if server_id is None else self._starts.ids_of(server_id)
        return {row.id: row for row in rows if ids is None or row.server_id in ids}

    async def _take(self, connection: Connection, found: Mapping[str, Any]) -> list[Taken]:
        rows = await connection.execute(statements.bodies_of(found))
        newer = [row for row in rows if statements.is_newer(row)]
        ours = [row for row in rows if isinstance(row.needs, int) and row.needs <= FORMAT]
        understood = {row.id: rotation for row in ours for rotation in readable(row.body) if rotation.id == row.id}
        unknown = {row.id: unknown_in(row.body) for row in ours if row.id in understood}
        # Each as it was seen: what somebody has renewed meanwhile stays his.
        taken = await connection.execute_each([statements.take(found[one], self._tenure()) for one in understood])
        epochs = {row.id: row.epoch for its in taken for row in its}
        await self._aside.leave(connection, newer)
        await self._aside.close(connection, [row for row in rows if row.id not in understood and row not in newer])
        with_power = await self._starts.with_power(connection, [understood[one] for one in epochs])
        return [Taken(rotation=one, epoch=epochs[one.id], unknown=unknown[one.id]) for one in with_power]
