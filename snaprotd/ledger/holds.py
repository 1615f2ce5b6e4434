"""What persons have said of holding snapshots: written by commands, read by whoever is about to delete one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import structlog
from sqlalchemy import delete, insert, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.core.errors import DeletionUnderWay, HeldSince, LedgerError
from snaprotd.core.holds import FOREVER, RELEASED, Hold, hold_in_words, hold_of, told_by_ledger
from snaprotd.core.model import DELETE_AGAIN_AFTER, Snapshot
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Entry
from snaprotd.ledger.events.record import Events, WithEvents
from snaprotd.ledger.files.copies import Lives
from snaprotd.ledger.rows import readable
from snaprotd.ledger.sql import notes, recalled
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.prepared import Prepared, as_list, listed, of_account
from snaprotd.ledger.sql.schema import HOLDS, READABLE_WITH_HOLDS

log = structlog.get_logger("snaprotd.ledger")

Shown = tuple[Collection[str], Collection[Snapshot]]
"""The ids of a server, and the snapshots that were listed of it."""

_READ = select(HOLDS.c.server_id, HOLDS.c.snapshot_id, HOLDS.c.ids, HOLDS.c.name, HOLDS.c.until)
_C = HOLDS.c
_OURS = of_account(HOLDS)
_MEANT = or_(_C.server_id.in_(listed("server_ids")), _C.snapshot_id.in_(listed("ids")), _C.name.in_(listed("names")))
_SAID = Prepared(lambda: _READ.where(_OURS))
_ALL = Prepared(lambda: select(HOLDS))


def _put() -> Any:
    insertion = upsert(HOLDS)
    others = {one.name: insertion.excluded[one.name] for one in HOLDS.c if not one.primary_key}
    return insertion.on_conflict_do_update(index_elements=["account", "snapshot_id"], set_=others)


_PUT = Prepared(_put, *HOLDS.c.keys())
_SAID_OF = Prepared(lambda: _READ.where(_OURS, _MEANT))


class Holds(WithEvents):
    """Those of the account's snapshots."""

    def __init__(
        self,
        transaction: Callable[..., AbstractAsyncContextManager[Connection]],
        account: Callable[[], str],
        events: Events,
        lives: Lives,
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        """`settle` brings what was written into the ledger's file itself: its log may be deleted."""
        super().__init__(transaction, account, events)
        self._lives = lives
        self._settle = settle

    async def say(
        self, snapshot: Snapshot, server_ids: Collection[str], until: date, now: datetime, *, entry: Entry | None = None
    ) -> None:
        """Hold a snapshot until a day, or let go of it, whatever was said of it before.

        `server_ids` are those of its server, `entry` tells who says so. Raises `DeletionUnderWay` where its deletion is
        asked for, or was a moment ago: it may be gone.
        """
        row = {
            "account": self._account(),
            "snapshot_id": snapshot.id,
            "server_id": snapshot.server_id,
            "name": snapshot.name,
            "ids": json.dumps(snapshot.ids),
            "until": until.isoformat(),
        }
        async with self._transaction() as connection:
            bodies = await connection.scalars(recalled.standing_in(self._account(), server_ids, snapshot.ids))
            earlier = [rotation for body in bodies for rotation in readable(body)]
            if until != RELEASED and any(_has_asked_for_its_deletion(one, snapshot, now) for one in earlier):
                raise DeletionUnderWay(f"a rotation has just asked for the deletion of {snapshot.name}: it is not held")
            before = [one for one in await self.said_of(connection, server_ids, [snapshot]) if one.is_of(snapshot)]
            gone = HOLDS.c.snapshot_id.in_([snapshot.id, *(one.ids[0] for one in before)])
            await connection.execute(delete(HOLDS).where(self._ours(), gone))
            await connection.execute(insert(HOLDS).values(row))
            await self._refuse_older(connection)
            await self._events.add(connection, [entry] if entry is not None else [])
            count = await self._lives.count(connection)  # an old copy that lacks it is to be told
        await self._lives.note(count)
        with suppress(LedgerError):  # it is written
            await self._settle()

    async def said(self) -> frozenset[Hold]:
        """All that was said of the account's snapshots."""
        async with self._transaction(writes=False) as connection:
            return frozenset(_holds(await connection.execute(_SAID(its_account=self._account()))))

    async def said_of(
        self, connection: Connection, server_ids: Collection[str], snapshots: Collection[Snapshot]
    ) -> tuple[Hold, ...]:
        """What was said of these snapshots of a server, by any of its ids or of theirs, or by name."""
        (said,) = await self.said_of_each(connection, [(server_ids, snapshots)])
        return said

    async def said_of_each(self, connection: Connection, shown: Sequence[Shown]) -> list[tuple[Hold, ...]]:
        """As `said_of`, of each of these servers: thousands cost one question."""
        listed = [one for _, snapshots in shown for one in snapshots]
        if not listed:
            return [() for _ in shown]
        of = {
            "server_ids": as_list({one for server_ids, snapshots in shown if snapshots for one in server_ids}),
            "ids": as_list([its_id for one in listed for its_id in one.ids]),
            "names": as_list({one.name for one in listed}),
        }
        rows = await connection.execute(_SAID_OF(its_account=self._account(), **of))
        return _by_what_they_mean(rows, shown) if rows else [() for _ in shown]

    async def written(self, connection: Connection) -> list[Mapping[str, Any]]:
        """The rows of all accounts, for `write_again`."""
        return [row._asdict() for row in await connection.execute(_ALL())]

    async def write_again(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Have what was said be so again, whatever an old copy says of these snapshots."""
        if rows:
            async with self._transaction() as connection:
                await connection.execute(_PUT.for_each(rows))
                await self._refuse_older(connection)

    async def demand_free(self, connection: Connection, snapshot: Snapshot, now: datetime) -> None:
        """Raise `HeldSince` where somebody holds the snapshot, whatever the look said that decided over it."""
        said = await self.said_of(connection, [snapshot.server_id], [snapshot])
        until = told_by_ledger(said, [], snapshot)
        if until is not None and (held := hold_of(replace(snapshot, hold=until), now)) is not None:
            raise HeldSince(f"{snapshot.name} is {hold_in_words(held)} since a moment ago: it is not deleted")

    @staticmethod
    async def _refuse_older(connection: Connection) -> None:
        """A snaprotd that knows no holds would delete what is held."""
        await connection.execute(notes.note("readable_by", str(READABLE_WITH_HOLDS)))

    def _ours(self) -> Any:
        return HOLDS.c.account.in_(("", self._account()))


def _has_asked_for_its_deletion(rotation: Rotation, snapshot: Snapshot, now: datetime) -> bool:
    """It may be gone in a moment, whatever the list shows."""
    is_recent = rotation.finished_at is None or abs(now - rotation.finished_at) < DELETE_AGAIN_AFTER
    return is_recent and snapshot.is_among((*rotation.deleting, *rotation.deleted, *rotation.undeletable))


def _by_what_they_mean(rows: Sequence[Any], shown: Sequence[Shown]) -> list[tuple[Hold, ...]]:
    """The holds of each server: by any of its ids, by those of its snapshots, or by their names."""
    meant: dict[tuple[str, str], list[Hold]] = defaultdict(list)
    for row, hold in zip(rows, _holds(rows), strict=True):
        for key in (("server", row.server_id), ("id", row.snapshot_id), ("name", row.name)):
            meant[key].append(hold)

    def of(server_ids: Collection[str], snapshots: Collection[Snapshot]) -> tuple[Hold, ...]:
        keys = [("server", one) for one in server_ids] if snapshots else []
        keys += [key for one in snapshots for key in (*(("id", its) for its in one.ids), ("name", one.name))]
        return tuple(dict.fromkeys(hold for key in keys for hold in meant.get(key, ())))

    return [of(*one) for one in shown]


def _holds(rows: Iterable[Any]) -> Iterable[Hold]:
    for row in rows:
        yield Hold(ids=_ids(row.snapshot_id, row.ids), name=str(row.name), until=_day(row.until))


def _ids(snapshot_id: Any, written: Any) -> tuple[str, ...]:
    try:
        ids = json.loads(written)
    except (ValueError, TypeError, RecursionError):
        ids = []
    return tuple(dict.fromkeys(map(str, (snapshot_id, *(ids if isinstance(ids, list) else [])))))


def _day(text: Any) -> date:
    """The last day of a hold. What was damaged holds for ever: a person can let go of it."""
    try:
        return date.fromisoformat(text)
    except (ValueError, TypeError):
        log.error("the end of a hold in the ledger cannot be read: the snapshot is held", until=str(text)[:80])
        return FOREVER
