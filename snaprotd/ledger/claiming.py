"""How rotations are made ours: all that are due at one time in one transaction, and on disk together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from snaprotd.core.errors import LedgerError
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import of_late
from snaprotd.ledger.claims import Claim, Claimed, Lease, Mark, ServerBusy, SlotTaken
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.files.copies import Lives
from snaprotd.ledger.files.turns import Take
from snaprotd.ledger.leases.changeover import Changeover
from snaprotd.ledger.rows import readable
from snaprotd.ledger.set_aside import SetAside
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.marks import set_marks
from snaprotd.ledger.sql.prepared import Rows, Statement
from snaprotd.ledger.starts import Starts


@dataclass(frozen=True)
class Asked:
    """A claim that is asked for, as `Ledger.claim` has it."""

    rotation: Rotation
    mark: Mark | None
    reopens: bool


Answered = tuple[Claim, Lease | None]
"""With its lease, where it is ours."""


class Claiming:
    def __init__(
        self,
        transaction: Callable[..., AbstractAsyncContextManager[Connection]],
        starts: Starts,
        events: Events,
        lives: Lives,
        *,
        aside: SetAside,
        changeover: Changeover,
        tenure: Callable[[], tuple[dict[str, Any], float]],
    ) -> None:
        """`tenure`: what is written of a lease that begins now, and until when that is good by our own clock."""
        self._transaction = transaction
        self._starts = starts
        self._events = events
        self._lives = lives
        self._aside = aside
        self._changeover = changeover
        self._tenure = tenure

    async def claim_all(self, take: Take[Asked]) -> Sequence[Answered | Exception]:
        """What becomes of each of those who have asked by the time of the turn. Raises `LedgerError`."""
        # Else the last of a thousand wait for all that the first have to write, who are at work by then.
        async with self._transaction(urgent=True) as connection:
            (tenure, until), asked = self._tenure(), take()
            await self._changeover.demand_past(connection)
            known = await self._starts.with_power(connection, [one.rotation for one in asked])
            answers = await self._claimed(connection, asked, known, tenure, until=until)
            heard = [(one, got) for one, got in zip(asked, answers, strict=True) if not isinstance(got, Exception)]
            if marks := [one.mark for one, _ in heard if one.mark is not None]:
                await connection.execute(set_marks(marks, datetime.now(UTC)))
            ours = [one for one, (_, lease) in heard if lease is not None]
            late = [one.rotation for one in ours if one.rotation.kind is Kind.LATE and not one.reopens]
            await self._events.add(connection, list(map(of_late, late)))
            count = await self._lives.count(connection, len(ours)) if ours else 0
        self._lives.claimed(count)
        return answers

    async def _claimed(
        self,
        connection: Connection,
        asked: Sequence[Asked],
        known: Sequence[Rotation],
        tenure: dict[str, Any],
        *,
        until: float,
    ) -> list[Answered | LedgerError]:
        """`known`: the rotations, each with its server's power. Their leases are good `until` then."""
        in_the_way = await self._in_the_way_of_all(connection, asked)
        free = [one for one, others in zip(asked, in_the_way, strict=True) if not others]
        written = await connection.execute_each([self._claim(one, tenure) for one in free])
        epochs = {id(one): rows.scalar() for one, rows in zip(free, written, strict=True)}
        answers: list[Answered | LedgerError] = []
        for one, its, others in zip(asked, known, in_the_way, strict=True):
            if (epoch := epochs.get(id(one))) is not None:
                answers.append((Claimed(its), Lease(epoch=epoch, valid_until=until)))
            else:  # by what was there before, or by another one of this very turn
                answers.append(_refused(others or await connection.execute(self._in_the_way_of(one))))
        return answers

    async def _in_the_way_of_all(self, connection: Connection, asked: Sequence[Asked]) -> list[Rows]:
        """What was left to a newer snaprotd until the next slot of its server is set aside for it."""
        questions = list(map(self._in_the_way_of, asked))
        in_the_way = await connection.execute_each(questions)
        slotted = [
            (row, statements.text_of(one.rotation.slot))
            for one, rows in zip(asked, in_the_way, strict=True)
            for row in rows
        ]
        overtaken = [row.id for row, slot in slotted if row.is_left and row.slot != slot]
        if not overtaken:
            return in_the_way
        await self._aside.overtake(connection, overtaken)
        return await connection.execute_each(questions)

    def _in_the_way_of(self, asked: Asked) -> Statement:
        ids = self._starts.ids_of(asked.rotation.server_id)
        return statements.in_the_way_of(asked.rotation, ids, account=self._starts.account)

    def _claim(self, asked: Asked, tenure: dict[str, Any]) -> Statement:
        claim = statements.reopen if asked.reopens else statements.claim
        return claim(asked.rotation, tenure, account=self._starts.account)


def _refused(others: Rows) -> Answered | LedgerError:
    if not others or any(row.is_this for row in others):
        return SlotTaken(), None
    row = others.first()
    if not (found := readable(row.body)):
        return LedgerError(f"the server's open rotation {row.id} in the ledger cannot be read")
    return ServerBusy(found[0]), None
