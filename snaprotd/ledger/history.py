"""What a ledger is asked about rotations, open ones and those that have ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from snaprotd.core.creation import Recollection, alive_until
from snaprotd.core.errors import LedgerError
from snaprotd.core.holds import name_read
from snaprotd.core.model import Snapshot
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Entry
from snaprotd.ledger.claims import Mark, Overview
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.files.copies import Lives
from snaprotd.ledger.holds import Holds, Shown
from snaprotd.ledger.rows import read_lives, readable
from snaprotd.ledger.sql import notes, past, recalled, statements
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.copying import overview_of, read_all, without_leases
from snaprotd.ledger.sql.marks import forget_other_marks, mark_in, set_marks
from snaprotd.ledger.sql.schema import MARKS, ROTATIONS
from snaprotd.ledger.starts import Starts

IN_USE = timedelta(minutes=1)
"""After a mark of life. They are a quarter of a minute apart."""
AT_ONCE = 500
"""Servers whose snapshots are recalled in one turn: others wait for it."""
KEPT_HISTORY = 500
"""Rotations of each server that are remembered: a year and more of nightly ones."""


class History(ABC):
    """The part of a ledger that is about what was: it reads, notes how far schedules were seen, and forgets.

    Raises what the ledger does.
    """

    name: str
    starts: Starts
    events: Events
    holds: Holds
    _lives: Lives

    @property
    @abstractmethod
    def is_sole_user(self) -> bool: ...

    @abstractmethod
    def _transaction(
        self, *, writes: bool = True, urgent: bool = False, lasting: bool = True
    ) -> AbstractAsyncContextManager[Connection]: ...

    async def open_rotations(self, *, but: Collection[str] = ()) -> list[Rotation]:
        """Those that are open, whoever runs them, without those that have these ids: they are known."""
        return await self._bodies(statements.open_bodies(self.starts.account, but))

    async def owners(self) -> Mapping[str, str]:
        """Which process has each rotation that is open, by the rotation's id."""
        async with self._transaction(writes=False) as connection:
            rows = await connection.execute(past.OWNERS())
        return {row.id: row.owner for row in rows}

    async def history(self, server_id: str | None = None, *, limit: int = 20) -> list[Rotation]:
        """The latest rotations, newest first, open ones too."""
        ids = None if server_id is None else self.starts.ids_of(server_id)
        return await self._bodies(past.history(ids, limit))

    async def told_of(self, server_ids: Collection[str], snapshot_ids: Collection[str]) -> list[Rotation]:
        """The rotations of a server that may have taken or deleted one of these snapshots, or have tried to."""
        return await self._bodies(recalled.standing_in(self.starts.account, server_ids, snapshot_ids))

    async def recall(self, server_ids: Collection[str], snapshots: Collection[Snapshot], now: datetime) -> Recollection:
        """What the ledger knows of these snapshots of a server, which `server_ids` are the ids of."""
        (found,) = await self.recall_each([(server_ids, snapshots)], now)
        return found

    async def recall_each(self, shown: Sequence[Shown], now: datetime) -> list[Recollection]:
        """As `recall`, of each of these servers: hundreds cost as many questions as one."""
        found: list[Recollection] = []
        for start in range(0, len(shown), AT_ONCE):
            found += await self._recall_each(shown[start : start + AT_ONCE], now)
        return found

    async def _recall_each(self, shown: Sequence[Shown], now: datetime) -> list[Recollection]:
        slots: set[tuple[str, datetime]] = set()
        queries = []
        for ids, snapshots in shown:
            made = [(one, name_read(one.name)) for one in snapshots]
            slots |= {(server_id, name.slot) for server_id in ids for _, name in made if name is not None}
            if untold := [one for one, name in made if name is None or not one.is_completed]:
                its_ids = [its_id for one in untold for its_id in one.ids]
                queries.append(recalled.with_ids(self.starts.account, ids, its_ids))
        if slots:
            queries.append(recalled.of_slots(self.starts.account, slots))
        async with self._transaction(writes=False) as connection:
            answers = await connection.execute_each(queries) if queries else []
            lives = alive_until(await self._lives.known(connection, now), now)  # whoever asks is there now
            holds = await self.holds.said_of_each(connection, shown)
        traces = await recalled.traces_by_server(row for rows in answers for row in rows)
        return [
            Recollection(
                traces=tuple(trace for server_id in ids for trace in traces.get(server_id, ())), lives=lives, holds=said
            )
            for (ids, _), said in zip(shown, holds, strict=True)
        ]

    async def forget_old(self, spared: Collection[str] = (), keep: int = KEPT_HISTORY) -> None:
        """Forget the rotations of a server but for the newest `keep`, the last of each result, and those `spared`."""
        async with self._transaction() as connection:
            old = set(await connection.scalars(past.forgettable(keep))) - set(spared)
            if old:
                await connection.execute(past.FORGET.for_each({"row": one} for one in old))

    async def latest(self) -> Mapping[str, Rotation]:
        """For each server its latest rotation that has ended."""
        return {rotation.server_id: rotation for rotation in await self._bodies(past.latest())}

    async def last_of(self, server_ids: Collection[str]) -> list[Rotation]:
        """The last rotation that has ended, if any, of the server that has these ids."""
        (last,) = await self.last_of_each([server_ids])
        return last

    async def last_of_each(self, servers: Sequence[Collection[str]]) -> list[list[Rotation]]:
        """As `last_of`, of each of the servers that have these ids: hundreds cost one question."""
        found: list[list[Rotation]] = []
        for start in range(0, len(servers), AT_ONCE):
            asked = servers[start : start + AT_ONCE]
            query = past.last_of_each(self.starts.account, {one for ids in asked for one in ids})
            async with self._transaction(writes=False) as connection:
                rows = {row.server_id: row for row in await connection.execute(query) if row.body is not None}
            last = [max((rows[one] for one in ids if one in rows), key=_place, default=None) for ids in asked]
            found += await statements.in_turns(last, lambda row: [readable(row.body) if row is not None else []])
        return found

    async def ended_since(self, instant: datetime) -> list[Rotation]:
        """The rotations that have ended since, whoever ran them, as they were claimed; those by a clock ahead too."""
        return await self._bodies(past.ended_since(instant))

    async def marks(self) -> Mapping[str, Mark]:
        """For each server how far its schedule was seen."""
        async with self._transaction(writes=False) as connection:
            rows = await connection.execute(select(MARKS))
        return {mark.server_id: mark for mark in await statements.in_turns(rows, mark_in)}

    async def set_marks(self, marks: list[Mark], missed: Sequence[Entry] = ()) -> None:
        """Note how far schedules were seen, and which slots were `missed` by that."""
        if not (marks or missed):
            return
        async with self._transaction() as connection:
            await self.events.add(connection, missed)
            for start in range(0, len(marks), 500):  # to write thousands at once would keep others waiting
                some = marks[start : start + 500]
                await connection.execute(set_marks(some, datetime.now(UTC)))

    async def keep_marks(self, server_ids: Collection[str]) -> None:
        """Forget how far the schedules of all other servers were seen: one that comes back begins anew."""
        async with self._transaction() as connection:
            await connection.execute(forget_other_marks(server_ids))

    async def last_started(self) -> Mapping[str, datetime]:
        """For each server when its latest rotation began; none that a clock that was ahead has left to come."""
        return await self._latest(past.latest_of_each(ROTATIONS.c.started_at, datetime.now(UTC)))

    async def last_succeeded(self) -> Mapping[str, datetime]:
        """For each server when its latest successful rotation ended; none that is still to come."""
        return await self._latest(past.latest_success_of_each(datetime.now(UTC)))

    # -- the whole of it ---------------------------------------------------------------------------------------

    async def overview(self) -> Overview:
        async with self._transaction(writes=False) as connection:
            return await overview_of(self.name, connection)

    async def contents(self) -> Mapping[str, list[dict[str, Any]]]:
        """All of its rows, by the names of their tables.

        Leases that are of the dead for certain are over in them: who reads on goes on at once.
        """
        async with self._transaction(writes=False) as connection:
            found = await read_all(connection)
        return without_leases(found) if self.is_sole_user else found

    async def demand_unused(self) -> None:
        """Raise `LedgerError` where another process uses it, or may do so: of a server its marks of life tell that."""
        async with self._transaction(writes=False) as connection:
            marks = [one.end for one in read_lives(await connection.scalar(notes.LIVES_ALONE))]
        if not self.is_sole_user and any(abs(datetime.now(UTC) - end) < IN_USE for end in marks):
            raise LedgerError(f"the ledger {self.name} is in use: stop what uses it, and try again in a minute")

    async def _latest(self, query: Any) -> Mapping[str, datetime]:
        async with self._transaction(writes=False) as connection:
            return past.latest_in(await connection.execute(query))

    async def _bodies(self, query: Any) -> list[Rotation]:
        async with self._transaction(writes=False) as connection:
            bodies = await connection.scalars(query)
        return await statements.in_turns(bodies, readable)


def _place(row: Any) -> int:
    return int(row.number)
