"""Where a ledger on a server stands: its transactions, of which there is one at a time that writes, whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
import structlog
from sqlalchemy import NullPool, create_engine, select, text
from sqlalchemy.exc import SQLAlchemyError

from snaprotd.core.errors import LedgerError
from snaprotd.core.words import printable
from snaprotd.ledger.address import ServerAddress, name_of
from snaprotd.ledger.files.exchange import Exchange
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.files.turns import Turns
from snaprotd.ledger.server.session import SILENCE, Session, bounded, parameters_of, was_cut
from snaprotd.ledger.sql import notes
from snaprotd.ledger.sql.connection import Connection, Place
from snaprotd.ledger.sql.prepared import Rows, Statement
from snaprotd.ledger.sql.schema import META, TABLES, is_current, migrate
from snaprotd.logs import redactor

log = structlog.get_logger("snaprotd.ledger")

LONGEST = 5.0
"""Seconds for which a transaction may stand still, or wait for another process: who is frozen keeps nobody waiting."""
ASK_AGAIN = 1.0
"""Seconds."""
FINDS_OUT = 3
"""Times that is asked whether a transaction was committed whose answer was lost."""
RESTS = 5.0
"""Seconds after a silence of the server in which nobody waits for the next one: a server may be off until then."""

_NAMES = ", ".join(f"'{name}'" for name in TABLES.tables)
_EACH = " AND ".join(
    f"has_table_privilege(to_regclass(name), '{one}')" for one in ("SELECT", "INSERT", "UPDATE", "DELETE")
)
MAY_USE = (
    f"SELECT coalesce(bool_and({_EACH}), true) FROM unnest(ARRAY[{_NAMES}]) AS name"  # noqa: S608
    " WHERE to_regclass(name) IS NOT NULL"
)
"""Whether the role may read and write all tables that are there."""
GRANT = "grant it SELECT, INSERT, UPDATE and DELETE on them"

_LOCK = "pg_advisory_xact_lock(hashtext('snaprotd'), hashtext(current_schema()))"
"""Of the ledger, until the transaction's end. Through a pooler too, which gives each transaction another connection."""

_TO_WRITE = f"""
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL lock_timeout = '{2 * LONGEST:g}s';
SET LOCAL statement_timeout = '{2 * LONGEST:g}s';
SET LOCAL idle_in_transaction_session_timeout = '{LONGEST:g}s';
SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
SELECT {_LOCK};
"""
"""A role may have commits not be waited for: a promise would be lost with the server's machine."""
_TO_READ = f"""
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL statement_timeout = '{2 * LONGEST:g}s';
SET LOCAL idle_in_transaction_session_timeout = '{LONGEST:g}s';
"""


class ServerConnection(Connection):
    def __init__(self, session: Session) -> None:
        self._session = session

    async def execute_each(self, statements: Sequence[Statement]) -> list[Rows]:
        return [await self._session.ask(one) for one in statements]


class ServerPlace(Place):
    """The ledger that stands on the server at an address, as one process sees it."""

    is_local = False

    def __init__(self, address: ServerAddress, lock: FolderLock | None, *, owner: str) -> None:
        """`lock` tells other processes of this host that there is one; it is released in the end."""
        self.name = name_of(address.url)
        """What it is called wherever it is shown; without what may be secret of its address."""
        self.exchanges: list[Exchange] = []
        """What has happened to it, for whoever is to write again what it may lack."""
        self.origin = ""
        self._address = address
        self._receipt = f"{notes.RECEIPT}{owner}"
        self._count = 0
        """Of the transactions of this process that have written: the last one stands in a row of its own."""
        self._lock = lock
        self._turns = Turns(self.name)
        self._session: Session | None = None
        self._silence: tuple[float, str] | None = None
        """When the server was last found to be silent, by the loop's clock, and what was said of that."""

    @asynccontextmanager
    async def begin(
        self, *, writes: bool = True, urgent: bool = False, lasting: bool = True
    ) -> AsyncIterator[Connection]:
        """A transaction, which lasts. One at a time: those that write wait for those of other processes too.

        One silence of the server is for all who wait meanwhile, and for who comes right after it.
        """
        self._demand_no_silence()
        async with self._turns.take(urgent=urgent):
            with told(self.name), self._heeded():
                session = await self._begun(writes=writes)
                try:
                    connection = ServerConnection(session)
                    yield connection
                    if writes:
                        await self._commit(connection, session)
                    else:
                        await session.tell("COMMIT")
                except BaseException:
                    await self._undo(session)
                    raise

    async def _commit(self, connection: Connection, session: Session) -> None:
        self._count += 1
        await connection.execute(notes.note(self._receipt, str(self._count)))
        try:
            await session.tell("COMMIT")
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError, TimeoutError) as error:
            session.end()
            self._heed(error)
            if not await self._was_committed():
                raise LedgerError(f"the ledger {self.name} was not written: {_words(error)}") from error
            log.warning("the answer to a commit was lost, and what it was about is written", error=_words(error))

    async def _was_committed(self) -> bool:
        """Whether the last transaction of ours was. Raises `LedgerError` where nobody answers that: it may have been.

        It is over by then, for the lock is asked for that it had.
        """
        for left in range(FINDS_OUT - 1, -1, -1):
            try:
                session = await self._ready()
                await session.tell(_TO_WRITE)
                its_receipt = select(META.c.value).where(META.c.key == self._receipt)
                written = await ServerConnection(session).scalar(its_receipt)
                await session.tell("ROLLBACK")
                return bool(written == str(self._count))
            except (psycopg.Error, OSError, TimeoutError) as error:
                if self._session is not None:
                    self._session.end()
                self._heed(error)
                if not left:
                    why = f"the ledger {self.name} may have been written or not: {_words(error)}"
                    raise LedgerError(why) from error
            await asyncio.sleep(ASK_AGAIN)
        raise AssertionError("unreachable")

    def _demand_no_silence(self) -> None:
        if self._silence is None:
            return
        since, words = self._silence
        if asyncio.get_running_loop().time() - since < RESTS:
            raise LedgerError(words)
        self._silence = None

    @contextmanager
    def _heeded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._heed(error)
            raise

    def _heed(self, error: Exception) -> None:
        """Where it was a silence: who waits has waited for an answer all the while, and is told that there is none."""
        if isinstance(error, SILENCE):
            words = _unusable(self.name, error)
            self._silence = asyncio.get_running_loop().time(), words
            self._turns.refuse(words)

    async def _begun(self, *, writes: bool) -> Session:
        """A session in which the transaction is begun.

        That one was cut since its last transaction shows only now, when nothing was done in this one: it is begun anew.
        """
        was_idle = self._session is not None and not self._session.is_lost
        session = await self._ready()
        try:
            if writes:
                self.origin = await session.tell_origin(_TO_WRITE)
            else:
                await session.tell(_TO_READ)
        except BaseException as error:
            session.end()
            if was_idle and was_cut(error):
                return await self._begun(writes=writes)
            raise
        return session

    async def _ready(self) -> Session:
        if self._session is None or self._session.is_lost:
            self._session = await Session.begin(self._address)
        return self._session

    async def _undo(self, session: Session) -> None:
        """In a session that is lost nothing is left open."""
        if not session.is_lost:
            with suppress(psycopg.Error, OSError, TimeoutError):
                await asyncio.shield(session.tell("ROLLBACK"))
        if session.is_lost:
            session.end()

    async def migrate(self) -> None:
        """Make its tables, or bring them to this version's. Raises `LedgerError`."""
        with told(self.name):
            more = await parameters_of(self._address)
            work = asyncio.to_thread(_migrated, self._address.url, more)
            await bounded(work, left=lambda _: None, within=6 * LONGEST)

    @property
    def is_sole_user(self) -> bool:
        """Of a server nobody knows that."""
        return False

    @property
    def was_written(self) -> bool:
        """Nobody knows that either: it is looked at with each mark of life."""
        return False

    async def see_to(self) -> None:
        """No file of it is here that could be exchanged."""

    async def open_anew(self) -> None:
        """With the tables that it lacks."""
        async with self._turns.take():
            await self.migrate()

    async def share(self) -> None:
        """It is shared. That a right was taken away the writes to other tables would not show."""
        async with self.begin(writes=False) as connection:
            if not await connection.scalar(Statement(MAY_USE)):
                raise LedgerError(
                    f"the role of the ledger {self.name} may not read and write all of its tables: {GRANT}"
                )

    async def settle(self) -> None:
        """What was committed is in its log for good."""

    def looked(self) -> None:
        """Nothing shows from outside whether anybody writes."""

    async def count_on(self, connection: Connection) -> None:
        """An id that was brought from elsewhere is not given again."""
        await connection.execute(_COUNT_ON)

    async def close(self) -> None:
        if self._session is not None:
            self._session.end()
            self._session = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


_COUNT_ON = Statement("SELECT setval(pg_get_serial_sequence('events', 'id'), max(id)) FROM events HAVING max(id) > 0")


def _migrated(url: str, more: dict[str, Any]) -> None:
    """By SQLAlchemy, which knows the tables."""

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(url, **more)

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    with engine.connect() as its:
        if is_current(its):
            return
        its.rollback()
        its.execute(text(f"SET LOCAL lock_timeout = '{4 * LONGEST:g}s'"))
        its.execute(text(f"SELECT {_LOCK}"))
        migrate(its)
        its.commit()


@contextmanager
def told(name: str) -> Iterator[None]:
    """What goes wrong with the ledger called `name` is a `LedgerError`."""
    try:
        yield
    except (psycopg.Error, SQLAlchemyError, OSError, UnicodeError) as error:
        raise LedgerError(_unusable(name, getattr(error, "orig", None) or error)) from error


def _unusable(name: str, error: object) -> str:
    return f"the ledger {name} cannot be used: {_words(error)}"


def _words(error: object) -> str:
    """The first line: the others are hints, and may be long."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return printable(redactor.clean(line))
