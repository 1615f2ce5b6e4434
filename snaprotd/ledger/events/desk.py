"""What was told and what is still to be sent: one state, one place in the events, one outbox, written together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.core.errors import LedgerError
from snaprotd.core.fleet import TELLER
from snaprotd.core.telling import Event, Letter, Message
from snaprotd.core.telling.edges import LONGEST_GATHER, messages_due
from snaprotd.core.telling.entries import Entry, of_trouble
from snaprotd.core.telling.troubles import GATHER, OF_LEDGER, Ended, Told, Trouble, key_of
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.files.aside import Aside
from snaprotd.ledger.sql import notes, statements
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.prepared import Prepared
from snaprotd.ledger.sql.replicas import holder_of
from snaprotd.ledger.sql.schema import LETTERS, META

log = structlog.get_logger("snaprotd.ledger")

TOLD = "told"
MOST_EVENTS = 2**62


@dataclass(frozen=True, kw_only=True)
class _Written:
    """`Told`, and how far the events were told, as it stands in its row."""

    cursor: int
    troubles: tuple[Trouble, ...]
    ended: tuple[Ended, ...] = ()
    once: tuple[Event, ...] = ()
    gathers_until: datetime | None = None
    width: timedelta = GATHER


@dataclass(frozen=True, kw_only=True)
class _Apart:
    """That the ledger cannot be written, as people were told, and what is still to be sent of that time."""

    trouble: Trouble
    letters: tuple[Letter, ...] = ()


MOST_APART = 100
"""Letters that are noted apart."""

_POST = Prepared(lambda: upsert(LETTERS).on_conflict_do_nothing(), *LETTERS.c.keys())
_WRITTEN = TypeAdapter(_Written)
_APART = TypeAdapter(_Apart)
_MESSAGE = TypeAdapter(Message)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the ledger has of it."""

    told: Told
    cursor: int
    """The id of the event up to which all was told."""
    letters: Sequence[Letter]


class Desk:
    """Every method raises `LedgerError` where the database cannot be read or written."""

    def __init__(
        self, transaction: Callable[..., AbstractAsyncContextManager[Connection]], events: Events, aside: Aside
    ) -> None:
        """`aside` holds what is told of the ledger itself."""
        self._transaction = transaction
        self._events = events
        self._aside = aside
        self._apart: _Apart | None = None
        """What stands there, as far as the ledger does not have it."""
        self.teller = ""
        """Of replicas the one that may write; empty where there is but one process."""
        self._inherited: tuple[Letter, ...] = ()
        """What a process before this one has noted there, and is still to be sent."""

    async def read(self) -> Kept | None:
        """None where nobody was told of anything yet, or it cannot be understood, which is told."""
        async with self._transaction(writes=False) as connection:
            written = await connection.scalar(select(META.c.value).where(META.c.key == TOLD))
            rows = await connection.execute(select(LETTERS).order_by(LETTERS.c.since))
        apart = self._apart = _apart(await asyncio.to_thread(self._aside.read))
        found = _read(written)
        if found is None and apart is None:
            return None
        kept = _told(found) if found is not None else Told()
        letters = _letters(rows)
        if apart is not None:  # it is over where the ledger can be written: that is still to be told
            kept = replace(kept, troubles={key_of(apart.trouble.event): apart.trouble, **kept.troubles})
            self._inherited = apart.letters
            letters += apart.letters
        return Kept(told=kept, cursor=found.cursor if found is not None else 0, letters=letters)

    async def keep(self, told: Told, cursor: int, *, entries: Iterable[Entry], letters: Sequence[Letter]) -> None:
        """Write all of it, or nothing. That the ledger cannot be written is noted beside it then."""
        try:
            await self._keep(told, cursor, entries=entries, letters=letters)
        except LedgerError:
            await self._set_apart(told, letters)
            raise
        if self._apart is not None:
            await asyncio.to_thread(self._aside.clear)
            self._apart, self._inherited = None, ()

    async def _set_apart(self, told: Told, letters: Sequence[Letter]) -> None:
        now = datetime.now(UTC)
        for one in told.troubles.values():
            if one.event.cause == OF_LEDGER and one.ripe_at <= now:
                waiting = (*self._inherited, *letters)
                self._apart = _Apart(trouble=one, letters=waiting[-MOST_APART:])
                await asyncio.to_thread(self._aside.note, _APART.dump_json(self._apart).decode())

    async def _keep(self, told: Told, cursor: int, *, entries: Iterable[Entry], letters: Sequence[Letter]) -> None:
        written = _Written(
            cursor=cursor,
            troubles=tuple(told.troubles.values()),
            ended=told.ended,
            once=told.once,
            gathers_until=told.gathers_until,
            width=told.width,
        )
        try:
            text = _WRITTEN.dump_json(written).decode()
        except ValueError as error:
            raise LedgerError(f"what was told cannot be written down: {error}") from error
        before = [] if self._apart is None else [of_trouble(self._apart.trouble.event)]
        waiting = [*self._inherited, *letters]
        async with self._transaction() as connection:
            if self.teller and await holder_of(TELLER, connection) != self.teller:
                raise LedgerError("another replica tells people by now")
            await self._events.add(connection, [*before, *entries])
            if waiting:
                await connection.execute(_POST.for_each(map(_row, waiting)))
            await connection.execute(notes.note(TOLD, text))

    async def remove(self, letters: Collection[Letter]) -> None:
        """They were sent, or were given up."""
        done = {one.key for one in letters}
        self._inherited = tuple(one for one in self._inherited if one.key not in done)
        if letters:
            column = tuple_(LETTERS.c.channel, LETTERS.c.message_id)
            async with self._transaction() as connection:
                await connection.execute(delete(LETTERS).where(column.in_([one.key for one in letters])))


def _read(written: Any) -> _Written | None:
    if written is None:
        return None
    try:
        found = _WRITTEN.validate_json(written)
        if not 0 <= found.cursor <= MOST_EVENTS:
            raise ValueError(f"cursor {found.cursor}")
        messages_due(_told(found), datetime.now(UTC))
        return found
    except (ValueError, TypeError, OverflowError) as error:  # of times without a zone, say
        log.error("what was told cannot be read from the ledger: it begins anew", error=str(error)[:200])
        return None


def _apart(noted: str | None) -> _Apart | None:
    """None where nothing was noted, or it cannot be understood, which is told."""
    if noted is None:
        return None
    try:
        found = _APART.validate_json(noted)
        messages_due(Told(troubles={key_of(found.trouble.event): found.trouble}), datetime.now(UTC))
        if any(one.since.tzinfo is None for one in found.letters):
            raise ValueError("a time without its zone")
        return found
    except (ValueError, TypeError, OverflowError) as error:
        log.error("what was told of the ledger cannot be read: it is left out", error=str(error)[:200])
        return None


def _told(written: _Written) -> Told:
    return Told(
        troubles={key_of(one.event): one for one in written.troubles},
        ended=written.ended,
        once=written.once,
        gathers_until=written.gathers_until,
        width=min(max(written.width, GATHER), LONGEST_GATHER),
    )


def _row(letter: Letter) -> dict[str, str]:
    return {
        "channel": letter.channel,
        "message_id": letter.message.id,
        "since": statements.text_of(letter.since),
        "body": _MESSAGE.dump_json(letter.message).decode(),
    }


def _letters(rows: Iterable[Any]) -> list[Letter]:
    """Without those that cannot be read, which is told."""
    found = []
    for row in rows:
        since = statements.instant_of(row.since)
        try:
            message = _MESSAGE.validate_json(row.body)
        except ValueError as error:
            log.error("a message in the outbox cannot be read, and is left out", error=str(error)[:200])
            continue
        if since is not None:
            found.append(Letter(channel=str(row.channel), message=message, since=since))
    return found
