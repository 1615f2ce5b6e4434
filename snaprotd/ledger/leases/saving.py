"""How rotations are written by who holds them: all that wait for a turn in one transaction, each judged by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from snaprotd.core.errors import LeaseLost, LedgerError, SnaprotdError
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Deletion
from snaprotd.ledger import promises
from snaprotd.ledger.claims import Lease
from snaprotd.ledger.events.record import Events, told_by
from snaprotd.ledger.files.copies import Lives
from snaprotd.ledger.files.turns import Take, Together
from snaprotd.ledger.holds import Holds
from snaprotd.ledger.leases.progress import tells_only_how_far
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection, Place
from snaprotd.ledger.sql.prepared import Statement
from snaprotd.ledger.starts import Starts


@dataclass(frozen=True, kw_only=True)
class ToSave:
    """What is to be written, as `Ledger.save` has it."""

    rotation: Rotation
    record: ServerPower
    """What is kept of its server's power."""
    lease: Lease
    """Under which it is ours."""
    unknown: dict[str, Any] | None
    """What a newer snaprotd wrote into its row."""
    over: Power | None
    deletion: Deletion | None

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    @property
    def is_progress(self) -> bool:
        """A loss of power may undo it."""
        is_plain = self.over is None and self.deletion is None
        return is_plain and tells_only_how_far(self.rotation, self.lease.saved)

    @property
    def lost(self) -> LeaseLost:
        return LeaseLost(f"another process has taken over rotation {self.rotation.id}")


Saved = Lease | Exception
"""Its lease from now on, or why nothing of it was written."""


class Saving:
    def __init__(
        self,
        transaction: Callable[..., AbstractAsyncContextManager[Connection]],
        starts: Starts,
        events: Events,
        *,
        place: Place,
        lives: Lives,
        holds: Holds,
        marks: Callable[[], int],
        tenure: Callable[[], tuple[dict[str, Any], float]],
    ) -> None:
        """`marks`: how many the ledger had when it was looked at last. `tenure`: as for `Claiming`."""
        self._transaction = transaction
        self._place = place
        self._starts = starts
        self._events = events
        self._lives = lives
        self._holds = holds
        self._marks = marks
        self._tenure = tenure
        self._to_start = Together(partial(self._save_all, urgent=True))
        self._waiting = Together(self._save_all)
        self._progress = Together(partial(self._save_all, lasting=False))

    async def save(self, asked: ToSave) -> Lease:
        """Write it; it is on disk then, unless it is mere progress. What is to start a server waits for no others."""
        if asked.rotation.is_to_start:
            return await self._to_start.ask(asked)
        is_to_lag = self._place.is_local and asked.is_progress
        return await (self._progress if is_to_lag else self._waiting).ask(asked)

    async def _save_all(self, take: Take[ToSave], *, urgent: bool = False, lasting: bool = True) -> Sequence[Saved]:
        asked: list[ToSave] = []
        is_carried_out = False
        try:
            async with self._transaction(urgent=urgent, lasting=lasting) as connection:
                asked = take()
                answers = await self._written(connection, asked)
                count = await self._count(connection, asked, answers)
                is_carried_out = True
        except Exception:
            if is_carried_out or len(asked) < 2:
                raise
            # One that the database refuses keeps no other from being written.
            return [await self._save_alone(one, urgent=urgent, lasting=lasting) for one in asked]
        await self._lives.note(count)
        return answers

    async def _save_alone(self, asked: ToSave, *, urgent: bool, lasting: bool) -> Saved:
        try:
            (saved,) = await self._save_all(lambda: [asked], urgent=urgent, lasting=lasting)
        except Exception as error:
            return error
        return saved

    async def _count(self, connection: Connection, asked: Sequence[ToSave], answers: Sequence[Saved]) -> int:
        """Of what was counted; 0 where there is nothing to count."""
        both = zip(asked, answers, strict=True)
        creates = sum(isinstance(its, Lease) and one.rotation.creation.create_open == 0.0 for one, its in both)
        return await self._lives.count(connection, creates) if creates else 0

    async def _written(self, connection: Connection, asked: Sequence[ToSave]) -> list[Saved]:
        """All that may be refused is, before anything of it is written: to undo it would undo the others'."""
        refused = await self._refused(connection, asked)
        tenure, until = self._tenure()
        ours = [one for one, why in zip(asked, refused, strict=True) if why is None]
        epochs = dict(zip(map(id, ours), await self._epochs(connection, ours, tenure), strict=True))
        written = [one for one in ours if epochs[id(one)] is not None]
        await promises.put_all(connection, [one.record for one in written if one.rotation.power.asked])
        told = [entry for one in written for entry in told_by(one.rotation, one.deletion)]
        await self._events.add(connection, told)
        await self._starts.note_learnt(connection)
        origin = self._place.origin

        def answer(one: ToSave, why: Exception | None) -> Saved:
            epoch = epochs.get(id(one))
            if why is None and epoch is not None:
                return Lease(epoch=epoch, valid_until=until, origin=origin, saved=one.rotation)
            return why or one.lost

        return [answer(one, why) for one, why in zip(asked, refused, strict=True)]

    async def _epochs(
        self, connection: Connection, asked: Sequence[ToSave], tenure: dict[str, Any]
    ) -> list[int | None]:
        """In which each is ours now; None where it is not."""
        rows = await connection.execute_each([_save(one, tenure) for one in asked])
        return [
            one.epoch if its else await self._saved_whole(connection, one, tenure)
            for one, its in zip(asked, rows, strict=True)
        ]

    async def _saved_whole(self, connection: Connection, one: ToSave, tenure: dict[str, Any]) -> int | None:
        """Where its row was closed by somebody, or is gone and nobody else's."""
        if await connection.scalar(_save(one, tenure, is_closed=True)) is not None:
            return one.epoch
        anew = statements.claim(one.rotation, tenure, account=self._starts.account)
        return await connection.scalar(anew)  # type: ignore[no-any-return]

    async def _refused(self, connection: Connection, asked: Sequence[ToSave]) -> list[Exception | None]:
        begun: dict[str, str] = {}
        return [await self._why_not(connection, one, begun) for one in asked]

    async def _why_not(self, connection: Connection, one: ToSave, begun: dict[str, str]) -> Exception | None:
        """`begun`: by group, whose server is held off from this very turn on."""
        try:
            if one.deletion is not None:
                await self._demand_free(connection, one.deletion)
            if one.over is not None:
                await promises.demand(connection, one.record, over=one.over, begun=begun)
        except SnaprotdError as error:
            return error
        return None

    async def _demand_free(self, connection: Connection, deletion: Deletion) -> None:
        if await self._lives.marks(connection) < self._marks():  # a hold may be gone: it is written again
            raise LedgerError(f"the ledger {self._place.name} was put back to an older state")
        await self._holds.demand_free(connection, deletion.snapshot, datetime.now(UTC))


def _save(one: ToSave, tenure: dict[str, Any], *, is_closed: bool = False) -> Statement:
    return statements.save(one.rotation, tenure, epoch=one.epoch, unknown=one.unknown, is_closed=is_closed)
