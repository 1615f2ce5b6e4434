"""What a ledger is asked about rotations, open ones and those that have ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from snaprotd.core.rotation import Rotation
from snaprotd.ledger.rows import readable
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.schema import ROTATIONS
from snaprotd.ledger.starts import Starts

KEPT_HISTORY = 500
"""Rotations of each server that are remembered: a year and more of nightly ones."""


class History(ABC):
    """The part of a ledger that only reads rotations, and forgets old ones. Raises what the ledger does."""

    starts: Starts

    @abstractmethod
    def _transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...

    async def open_rotations(self) -> list[Rotation]:
        return await self._bodies(statements.open_bodies(self.starts.account))

    async def history(self, server_id: str | None = None, *, limit: int = 20) -> list[Rotation]:
        """The latest rotations, newest first, open ones too."""
        ids = None if server_id is None else self.starts.ids_of(server_id)
        return await self._bodies(statements.history(ids, limit))

    async def told_of(self, server_ids: Collection[str], snapshot_ids: Collection[str]) -> list[Rotation]:
        """The rotations of a server that may have taken or deleted one of these snapshots, or have tried to."""
        return await self._bodies(statements.standing_in(self.starts.account, server_ids, snapshot_ids))

    async def forget_old(self, spared: Collection[str] = (), keep: int = KEPT_HISTORY) -> None:
        """Forget the rotations of a server but for the newest `keep`, the last of each result, and those `spared`."""
        async with self._transaction() as connection:
            old = set(await connection.scalars(statements.forgettable(keep))) - set(spared)
            if old:
                await connection.execute(statements.FORGET, [{"row": one} for one in old])

    async def latest(self) -> Mapping[str, Rotation]:
        """For each server its latest rotation that has ended."""
        return {rotation.server_id: rotation for rotation in await self._bodies(statements.latest())}

    async def last_of(self, server_ids: Collection[str]) -> list[Rotation]:
        """The last rotation that has ended, if any, of the server that has these ids."""
        return await self._bodies(statements.last_of(self.starts.account, server_ids))

    async def ended_since(self, instant: datetime) -> list[Rotation]:
        """The rotations that have ended since, whoever ran them, as they were claimed; those by a clock ahead too."""
        return await self._bodies(statements.ended_since(instant))

    async def last_started(self) -> Mapping[str, datetime]:
        """For each server when its latest rotation began; none that a clock that was ahead has left to come."""
        return await self._latest(statements.latest_of_each(ROTATIONS.c.started_at, datetime.now(UTC)))

    async def last_succeeded(self) -> Mapping[str, datetime]:
        """For each server when its latest successful rotation ended; none that is still to come."""
        return await self._latest(statements.latest_success_of_each(datetime.now(UTC)))

    async def _latest(self, query: Any) -> Mapping[str, datetime]:
        async with self._transaction() as connection:
            return statements.latest_in(await connection.execute(query))

    async def _bodies(self, query: Any) -> list[Rotation]:
        async with self._transaction() as connection:
            bodies = (await connection.scalars(query)).all()
        return await statements.in_turns(bodies, readable)
