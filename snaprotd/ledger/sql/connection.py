"""What a ledger asks of the database that it stands on, whichever that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from snaprotd.ledger.files.exchange import Exchange
from snaprotd.ledger.sql.prepared import Rows, Statement, as_statement


class Connection(ABC):
    """A transaction that is open: what is done in it."""

    @abstractmethod
    async def execute_each(self, statements: Sequence[Statement]) -> list[Rows]:
        """Carry out several that were prepared, one after the other; the rows of each."""

    async def execute(self, statement: Any) -> Rows:
        """Carry out a statement: one that was prepared, or any of SQLAlchemy's. The rows that it answers with."""
        (rows,) = await self.execute_each([as_statement(statement)])
        return rows

    async def scalar(self, statement: Any) -> Any:
        """The first value; None where there is none."""
        return (await self.execute(statement)).scalar()

    async def scalars(self, statement: Any) -> list[Any]:
        """The first value of each row."""
        return [row[0] for row in await self.execute(statement)]


class Place(Protocol):
    """Where a ledger stands. Whatever is done there raises `LedgerError` where it cannot be."""

    name: str
    """What it is called wherever it is shown; without what may be secret of its address."""
    exchanges: list[Exchange]
    """What has happened to it, for whoever is to write again what it may lack."""

    origin: str
    """Which server's history the last transaction that wrote went into. It is another one where another server has come
    in its place, whatever that has of it. Empty where that cannot be, or is not told.
    """

    is_local: bool
    """It is on one machine with all its users: where a loss of power undoes what they wrote, none of them goes on."""

    @property
    def is_sole_user(self) -> bool:
        """No other process had the ledger open when this one came: whoever holds a lease in it is dead."""
        ...

    @property
    def was_written(self) -> bool:
        """Whether anybody has, since `looked`."""
        ...

    def looked(self) -> None: ...

    def begin(
        self, *, writes: bool = True, urgent: bool = False, lasting: bool = True
    ) -> AbstractAsyncContextManager[Connection]:
        """A transaction. One at a time; `urgent`: before those that are not.

        Unless it is `lasting` a loss of power may undo it, if no lasting one has come after it; in a local place alone.
        """
        ...

    async def see_to(self) -> None:
        """Put it back where it was exchanged, or written over."""

    async def open_anew(self) -> None:
        """With the tables that it lacks."""

    async def share(self) -> None:
        """Let others use it too, where that was not possible when it was opened. Raises where it is not ours to use."""

    async def settle(self) -> None:
        """Have all that was written stand where nobody loses it."""

    async def count_on(self, connection: Connection) -> None:
        """Have ids be given that lie above those that were just written as they were elsewhere."""

    async def close(self) -> None: ...
