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
from snaprotd.ledger.rows import readable
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.marks import set_marks
from snaprotd.ledger.sqlite import Connection
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
        tenure: Callable[[], tuple[dict[str, Any], float]],
    ) -> None:
        """`tenure`: what is written of a lease that begins now, and until when that is good by our own clock."""
        self._transaction = transaction
        self._starts = starts
        self._events = events
        self._lives = lives
        self._tenure = tenure

    async def claim_all(self, take: Take[Asked]) -> Sequence[Answered | Exception]:
        """What becomes of each of those who have asked by the time of the turn. Raises `LedgerError`."""
        async with self._transaction() as connection:
            (tenure, until), asked = self._tenure(), take()
            known = await self._starts.with_power(connection, [one.rotation for one in asked])
            answers = [
                await self._claimed(connection, one, its, tenure, until=until)
                for one, its in zip(asked, known, strict=True)
            ]
            heard = [(one, got) for one, got in zip(asked, answers, strict=True) if not isinstance(got, Exception)]
            if marks := [one.mark for one, _ in heard if one.mark is not None]:
                await connection.execute(set_marks(marks, datetime.now(UTC)))
            ours = [one for one, (_, lease) in heard if lease is not None]
            late = [one.rotation for one in ours if one.rotation.kind is Kind.LATE and not one.reopens]
            await self._events.add(connection, list(map(of_late, late)))
            count = await self._lives.count(connection, len(ours)) if ours else 0
        await self._lives.note(count)
        return answers

    async def _claimed(
        self, connection: Connection, asked: Asked, known: Rotation, tenure: dict[str, Any], *, until: float
    ) -> Answered | LedgerError:
        """`known`: the rotation, with its server's power. Its lease is good `until` then."""
        account, ids = self._starts.account, self._starts.ids_of(known.server_id)
        others = await connection.execute(statements.in_the_way_of(asked.rotation, ids, account=account))
        if (row := others.first()) is not None:
            if not row.is_open:
                return SlotTaken(), None
            if not (found := readable(row.body)):
                return LedgerError(f"the server's open rotation {row.id} in the ledger cannot be read")
            return ServerBusy(found[0]), None
        claim = statements.reopen if asked.reopens else statements.claim
        epoch = await connection.scalar(claim(asked.rotation, tenure, account=account))
        return (SlotTaken(), None) if epoch is None else (Claimed(known), Lease(epoch=epoch, valid_until=until))
