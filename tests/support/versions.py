"""Replicas of two versions on one ledger: this one, and one that is to come.

The later one runs our code, and below it the ledger's rows are as it would write them: with fields, a column and a
table that this version does not know, and, where its work asks for that, a higher `needs`, which it meets itself.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from snaprotd.core.rotation import Rotation
from snaprotd.ledger.claims import Claim, Claimed
from snaprotd.ledger.rows import FORMAT
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.prepared import Statement
from tests.support.replicas import Blow, Replica, Replicas
from tests.support.shared import SharedLedger

NEXT = FORMAT + 1
UNKNOWN: dict[str, Any] = {"hooks": ["thaw"], "quiesce": {"by": "a guest's agent"}}
"""Fields that the later version writes into a row."""

_ADDED = (
    "ALTER TABLE rotations ADD COLUMN theirs INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE shelves (name TEXT)",
    "UPDATE meta SET value = '99' WHERE key = 'schema'",
)
_UNDERSTOOD = f"UPDATE rotations SET needs = {FORMAT} WHERE needs = {NEXT}"
_WRITTEN = "UPDATE rotations SET theirs = 1, body = json_patch(body, :more) WHERE owner = :owner"
_ASKED_FOR = f"UPDATE rotations SET needs = {NEXT} WHERE theirs = 1"


class SecondInLine(Replica):
    """Another one comes before it."""

    async def _claim_of(self, server_id: str, slot: datetime) -> None:
        await asyncio.sleep(2)
        await super()._claim_of(server_id, slot)


class OurLedger(SharedLedger):
    """As a replica of this version sees it."""

    story: Versions
    is_next = False

    async def claim(self, rotation: Rotation, *args: Any, **how: Any) -> Claim:
        claim = await super().claim(rotation, *args, **how)
        if isinstance(claim, Claimed):
            self._say(claim.rotation)
        return claim

    async def save(self, rotation: Rotation, **how: Any) -> None:
        await super().save(rotation, **how)
        self._say(rotation)

    def _say(self, rotation: Rotation) -> None:
        self.story.note(rotation, is_next=self.is_next)
        self.moment(f"at {rotation.step}")


class NextLedger(OurLedger):
    """As one of the later version does."""

    is_next = True

    async def bring_up(self) -> None:
        """Its tables and columns are there."""
        async with super()._transaction() as connection:
            names = await connection.scalars(Statement("SELECT name FROM pragma_table_info('rotations')"))
            for statement in () if "theirs" in names else _ADDED:
                await connection.execute(Statement(statement))
        self.story.is_brought_up = True

    @asynccontextmanager
    async def _transaction(self, **how: bool) -> AsyncIterator[Connection]:
        async with super()._transaction(**how) as connection:
            if self.story.is_brought_up:
                await connection.execute(Statement(_UNDERSTOOD))
            yield connection
            if not self.story.is_brought_up:
                return
            await connection.execute(Statement(_WRITTEN, {"more": json.dumps(UNKNOWN), "owner": self.owner}))
            if self.story.asks_for_next:
                await connection.execute(Statement(_ASKED_FOR))


@dataclass(kw_only=True)
class Versions(Replicas):
    """Of the replicas some are of the later version."""

    are_next: set[int]
    becomes_another: bool = False
    """Who is killed is begun anew as the other version: an upgrade, or a downgrade."""
    asks_for_next: bool
    """What the later version runs, only that may go on with."""
    is_brought_up: bool = False
    seen_to_by: dict[datetime, set[bool]] = field(default_factory=dict)
    """Of each slot, whether replicas of the later version, or of this one, have claimed or saved its rotation."""
    lost: list[str] = field(default_factory=list)
    """What a later version had written into a row, and this one has not left there."""
    longest_off: float = 0.0
    """Seconds for which a server was off at one time."""

    async def open_ledger(self) -> Any:
        owner = uuid.uuid4().hex
        kind = NextLedger if self.beginning in self.are_next else OurLedger
        ledger: Any = await kind.shared(self.database, self.ledger_path.with_name(f"of-{self.beginning}"), owner=owner)
        ledger.story = self
        if isinstance(ledger, NextLedger):
            await ledger.bring_up()
        return ledger

    async def _begin(self, number: int) -> None:
        kind = Replica if number == 0 else SecondInLine
        one = self.replicas[number] = kind(self, number)
        await one.begins(one.has_begun.wait())

    def strike(self, blow: Blow) -> None:
        if self.becomes_another:
            self.are_next ^= {blow.replica}
        super().strike(blow)

    async def live(self) -> list[str]:
        self._watching = asyncio.create_task(self._watch_power())
        return await super().live()

    async def _watch_power(self) -> None:
        off_for = 0.0
        while True:
            await asyncio.sleep(5)
            is_off = any(self.world.status_of(one) != "active" for one in self.server_ids)
            off_for = off_for + 5 if is_off else 0.0
            self.longest_off = max(self.longest_off, off_for)

    def note(self, rotation: Rotation, *, is_next: bool) -> None:
        """It has been claimed or saved."""
        self.seen_to_by.setdefault(rotation.slot, set()).add(is_next)
        if self.is_brought_up:
            with closing(sqlite3.connect(self.database.path)) as its:
                bodies = its.execute("SELECT body FROM rotations WHERE theirs = 1").fetchall()
            self.lost += [body for (body,) in bodies if not UNKNOWN.items() <= json.loads(body).items()]
