"""What was told and what is still to be sent: one state, one place in the events, one outbox, written together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.sqlite import insert as upsert

from snaprotd.core.errors import LedgerError
from snaprotd.core.telling import Event, Letter, Message
from snaprotd.core.telling.edges import LONGEST_GATHER, messages_due
from snaprotd.core.telling.entries import Entry
from snaprotd.core.telling.troubles import GATHER, Ended, Told, Trouble, key_of
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.sql import notes, statements
from snaprotd.ledger.sql.prepared import Prepared
from snaprotd.ledger.sql.schema import LETTERS, META
from snaprotd.ledger.sqlite import Connection

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


_POST = Prepared(lambda: upsert(LETTERS).on_conflict_do_nothing(), *LETTERS.c.keys())
_WRITTEN = TypeAdapter(_Written)
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

    def __init__(self, transaction: Callable[..., AbstractAsyncContextManager[Connection]], events: Events) -> None:
        self._transaction = transaction
        self._events = events

    async def read(self) -> Kept | None:
        """None where nobody was told of anything yet, or it cannot be understood, which is told."""
        async with self._transaction(writes=False) as connection:
            written = await connection.scalar(select(META.c.value).where(META.c.key == TOLD))
            rows = await connection.execute(select(LETTERS).order_by(LETTERS.c.since))
        found = _read(written)
        if found is None:
            return None
        return Kept(told=_told(found), cursor=found.cursor, letters=_letters(rows))

    async def keep(self, told: Told, cursor: int, *, entries: Iterable[Entry], letters: Sequence[Letter]) -> None:
        """Write all of it, or nothing."""
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
        async with self._transaction() as connection:
            await self._events.add(connection, entries)
            if letters:
                await connection.execute(_POST.for_each(map(_row, letters)))
            await connection.execute(notes.note(TOLD, text))

    async def remove(self, letters: Collection[Letter]) -> None:
        """They were sent, or were given up."""
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
