"""A ledger that several replicas share, and what lies between them and it.

One of them is cut off, a commit is never answered, the database fails over and the last commits are lost. It stands for
a database on a server: one transaction at a time, no file that a replica could see, and beside it a folder for each
replica alone. What it holds is kept in a file of SQLite's, which is quick.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Rotation
from snaprotd.ledger.files.place import FilePlace
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.replicas import Replicas
from snaprotd.ledger.sqlite import open_database
from tests.support.lives import OneOfSeveral

NO_ANSWER = 10.0
"""Seconds after which a replica walks away from a database that does not answer."""

INTENT, PROMISE = "the intent to ask for a snapshot", "the promise to start a server"

Contents = dict[str, list[tuple[Any, ...]]]


@dataclass
class SharedDatabase:
    path: Path
    unclear: dict[int | str, bool] = field(default_factory=dict)
    """The writes whose commit is never answered, once, and whether it is done all the same: the number of each, or
    `INTENT` or `PROMISE` for the next one of that kind."""
    fails_over_at: int | str | None = None
    """The write after which it fails over, told in the same way."""
    loses: int = 1
    """Commits that are lost then."""
    believes_commits: bool = False
    """A rule that is broken on purpose: a commit that is never answered counts as done."""
    writes: int = 0
    met: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.turn = asyncio.Lock()
        self._earlier: deque[Contents] = deque(maxlen=self.loses)

    def note(self) -> None:
        """What it holds, before a write that may be lost."""
        if self.fails_over_at is not None:
            with closing(sqlite3.connect(self.path)) as its:
                self._earlier.append({name: list(its.execute(f"SELECT * FROM {name}")) for name in _tables(its)})

    def fail_over(self) -> None:
        self.met.add("a failover")
        with closing(sqlite3.connect(self.path)) as its, its:
            for name, rows in self._earlier[0].items():
                its.execute(f"DELETE FROM {name}")
                for row in rows:
                    its.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)


def _tables(its: sqlite3.Connection) -> list[str]:
    told = its.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return [name for (name,) in told]


class SharedLedger(OneOfSeveral):
    """As one replica sees it."""

    database: SharedDatabase
    is_cut = False
    _kind = ""
    """What the rotation is saved for."""

    @classmethod
    async def shared(cls, database: SharedDatabase, folder: Path, *, owner: str) -> SharedLedger:
        """`folder`: the replica's own."""
        os.makedirs(folder, exist_ok=True)
        place = FilePlace(database.path, await open_database(database.path, alone=False), None)
        ledger = cls(place, folder / "state.db", owner=owner, lease=60.0)
        ledger.database = database
        ledger.replicas = cast(Replicas, object())  # it is shared, and who they are nobody asks here
        return ledger

    async def save(self, rotation: Rotation, **how: Any) -> None:
        if rotation.creation.create_open == 0.0:
            self._kind = INTENT
        elif rotation.power.power_open == 0.0:
            self._kind = PROMISE
        try:
            await super().save(rotation, **how)
        finally:
            self._kind = ""

    @asynccontextmanager
    async def _transaction(self, **how: bool) -> AsyncIterator[Connection]:
        await self.gate()
        async with self.database.turn:
            self.moment("its turn")
            is_cut = self.is_cut
            if not is_cut:
                async with self._carried_out(**how) as connection:
                    yield connection
        if is_cut:
            self.database.met.add("a cut")
            await asyncio.sleep(NO_ANSWER)
            raise LedgerError("the database does not answer")
        await self.gate()

    async def _is_let_through(self) -> None:
        """What has come to the database is carried out at once: who is frozen, or dies, keeps nobody else out of it."""

    @asynccontextmanager
    async def _carried_out(self, **how: bool) -> AsyncIterator[Connection]:
        database = self.database
        if not how.get("writes", True):
            async with super()._transaction(**how) as connection:
                yield connection
            return
        database.writes += 1
        which = (database.writes, self._kind)
        is_done = next((database.unclear.pop(one) for one in which if one in database.unclear), None)
        database.note()
        try:
            async with super()._transaction(**how) as connection:
                yield connection
                if is_done is False:
                    raise _NeverDone
        except _NeverDone:
            database.met.add("a commit that was not done")
            if not database.believes_commits:
                raise LedgerError("the ledger may have been written or not") from None
        if database.fails_over_at in which:
            database.fail_over()
            database.fails_over_at = None
        if is_done:
            database.met.add("a commit that was done")
            raise LedgerError("the ledger may have been written or not")


class _NeverDone(Exception):
    """The connection was cut before the commit."""
