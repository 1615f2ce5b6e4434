"""The statements about rotations and marks, and how instants stand in rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from sqlalchemy import Select, Update, bindparam, case, delete, func, literal_column, or_, select, update
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as upsert

from snaprotd.core.creation import Trace
from snaprotd.core.rotation import Result, Rotation
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.rows import FORMAT, needs_of, read_trace, written_rotation
from snaprotd.ledger.sql.schema import MARKS, POWERS, ROTATIONS

log = structlog.get_logger("snaprotd.ledger")

CLOCKS_APART = timedelta(minutes=1)
"""How far the clocks of two daemons on one ledger may be apart before one is taken for wrong."""

AT_ONCE = 100
"""Rows that are read in one go."""

_T = TypeVar("_T")


def touched() -> Select[Any]:
    """The servers that rotations were of, each with its account, the last one first."""
    columns = ROTATIONS.c
    last = func.max(columns.started_at)
    return select(columns.account, columns.server_id).group_by(columns.account, columns.server_id).order_by(last.desc())


def claim(rotation: Rotation, tenure: dict[str, Any], *, account: str) -> Any:
    """Insert a rotation, unless its slot is taken or its server is busy; answers with its epoch where it was.

    A row count is not reliable with every driver.
    """
    times = {"slot": text_of(rotation.slot), "started_at": text_of(rotation.started_at)}
    own = {"id": rotation.id, "account": account, "server_id": rotation.server_id, "epoch": 1}
    row = {**columns_of(rotation), **own, **times, **tenure}
    return upsert(ROTATIONS).values(row).on_conflict_do_nothing().returning(ROTATIONS.c.epoch)


def reopen(rotation: Rotation, tenure: dict[str, Any], *, account: str) -> Any:
    """Open the row of a rotation again that has failed, unless others have or it was amended; answers with its epoch.

    One that is open has no result.
    """
    columns = ROTATIONS.c
    failed = (columns.id == rotation.id, columns.result == Result.FAILURE)
    opened = update(ROTATIONS).where(_of(account), *failed).values(**columns_of(rotation), **tenure)
    return opened.values(epoch=columns.epoch + 1).returning(columns.epoch)


def in_the_way_of(rotation: Rotation, called: Collection[str], *, account: str) -> Select[Any]:
    """Another open rotation of the same server, which `called` are the ids of, or this attempt by another id."""
    columns = ROTATIONS.c
    same = (_of(account), columns.server_id.in_(list(called)))
    is_this = (columns.slot == text_of(rotation.slot)) & (columns.attempt == rotation.attempt)
    is_called_so = columns.server_id == rotation.server_id
    another = or_(columns.is_open & ~(is_called_so & is_this), is_this & ~is_called_so)
    return select(columns.id, columns.is_open, columns.body).where(*same, another).order_by(columns.is_open.desc())


def _of(account: str) -> Any:
    """Of the account's servers: another one's may have the same ids. What was written for no account is this one's."""
    return ROTATIONS.c.account.in_(("", account))


def save(rotation: Rotation, tenure: dict[str, Any], *, epoch: int, unknown: Mapping[str, Any] | None = None) -> Any:
    """Write a rotation that is still this owner's in this epoch; answers with its id where it is."""
    return (
        _owned(rotation.id, tenure["owner"], epoch)
        .values(**columns_of(rotation, unknown), **tenure)
        .returning(ROTATIONS.c.id)
    )


def release(rotation_id: str, *, owner: str, epoch: int) -> Update:
    return _owned(rotation_id, owner, epoch).values(owner=None, lease_until=0.0)


def _owned(rotation_id: str, owner: str, epoch: int) -> Update:
    columns = ROTATIONS.c
    return update(ROTATIONS).where(columns.id == rotation_id, columns.owner == owner, columns.epoch == epoch)


def renew(held: Collection[str], *, owner: str, lease_until: float) -> Any:
    """Renew the leases of what is held still: that of a rotation which was let go must run out, to be taken over."""
    columns = ROTATIONS.c
    ours = update(ROTATIONS).where(columns.owner == owner, columns.is_open, columns.id.in_(list(held)))
    return ours.values(lease_until=lease_until).returning(columns.id, columns.epoch)


def abandoned(
    owner: str,
    *,
    account: str,
    held: Collection[str],
    server_ids: Collection[str] | None,
    everything: bool,
    now: float,
    lease: float,
) -> Select[Any]:
    """The open rotations whose lease has run out, or (`everything`) that are not ours already.

    A lease that ends later than any that could have been given was written before the wall clock was set back.
    """
    columns = ROTATIONS.c
    until = columns.lease_until
    run_out = or_(columns.owner.is_(None), until < now, until > now + 2 * lease)
    foreign = or_(columns.owner != owner, columns.owner.is_(None))
    query = select(columns.id, columns.server_id, columns.body, columns.epoch, columns.needs).where(
        _of(account), columns.is_open, foreign if everything else run_out
    )
    if server_ids is not None:
        query = query.where(columns.server_id.in_(list(server_ids)))
    if held:
        query = query.where(columns.id.not_in(list(held)))
    return query


def take(ids: Collection[str], tenure: dict[str, Any]) -> Any:
    """Take these rotations over, from whoever had them; answers with their epochs."""
    columns = ROTATIONS.c
    taken = update(ROTATIONS).where(columns.id.in_(list(ids))).values(epoch=columns.epoch + 1, **tenure)
    return taken.returning(columns.id, columns.epoch)


def set_aside(ids: Collection[str]) -> Update:
    """Close rows that cannot be understood, as they are, so that their servers' next slots run."""
    return update(ROTATIONS).where(ROTATIONS.c.id.in_(list(ids))).values(is_open=False)


def adopt(account: str) -> tuple[Update, Update]:
    """What was written before accounts were told apart is this account's."""
    return tuple(update(table).where(table.c.account == "").values(account=account) for table in (ROTATIONS, POWERS))  # type: ignore[return-value]


def living(account: str, now: float, lease: float, *, grace: float = 0.0) -> Select[Any]:
    """The servers whose open rotation somebody holds under a lease that has not run out `grace` seconds ago."""
    columns = ROTATIONS.c
    until = columns.lease_until
    return select(columns.server_id, columns.owner).where(
        _of(account), columns.is_open, columns.owner.is_not(None), until >= now - grace, until <= now + 2 * lease
    )


def open_bodies(account: str) -> Select[Any]:
    return select(ROTATIONS.c.body).where(_of(account), ROTATIONS.c.is_open)


def slots_of(account: str, server_ids: Collection[str]) -> Select[Any]:
    return select(ROTATIONS.c.slot).where(_of(account), ROTATIONS.c.server_id.in_(list(server_ids)))


def naming(account: str, server_ids: Collection[str], slots: Collection[datetime], ids: Collection[str]) -> Select[Any]:
    """The rows of a server's rotations that are of one of these slots, or in which one of these snapshots stands."""
    columns = ROTATIONS.c
    standing = [columns.body.contains(json.dumps(one, ensure_ascii=False), autoescape=True) for one in ids]
    named = or_(columns.slot.in_([text_of(slot) for slot in slots]), *standing)
    return select(columns.id, columns.slot, columns.is_open, columns.body).where(
        _of(account), columns.server_id.in_(list(server_ids)), named
    )


def standing_in(account: str, server_ids: Collection[str], ids: Collection[str]) -> Select[Any]:
    """The bodies of a server's rotations in which one of these snapshots stands."""
    return naming(account, server_ids, (), ids).with_only_columns(ROTATIONS.c.body)


def traces_in(rows: Iterable[Any]) -> tuple[Trace, ...]:
    """What rows tell of the snapshots of their slots."""
    slotted = [(row, slot) for row in rows if (slot := instant_of(row.slot)) is not None]
    return tuple(read_trace(row.id, slot, row.body, is_open=row.is_open) for row, slot in slotted)


# -- what was ----------------------------------------------------------------------------------------------------------


def latest_of_each(column: Any, now: datetime) -> Select[Any]:
    """Of each server the instant in that column of the row that was written last, but for what is still to come.

    Of a group with a maximum SQLite gives the row that has it (https://sqlite.org/lang_select.html#bareagg). What is no
    instant is none of them.
    """
    is_past = column.like("____-__-__T%") & (column <= text_of(now + CLOCKS_APART))
    return select(ROTATIONS.c.server_id, column, func.max(AS_CLAIMED)).where(is_past).group_by(ROTATIONS.c.server_id)


def latest_in(rows: Iterable[Any]) -> dict[str, datetime]:
    """The instants by their servers, but for those that cannot be read."""
    told = [(server_id, instant_of(text)) for server_id, text, _ in rows]
    return {server_id: instant for server_id, instant in told if instant is not None}


def latest_success_of_each(now: datetime) -> Select[Any]:
    """When the latest successful rotation of each server ended."""
    return latest_of_each(ROTATIONS.c.finished_at, now).where(ROTATIONS.c.result == Result.SUCCESS)


def ended_since(instant: datetime) -> Select[Any]:
    """The bodies of the rotations that have ended since, in the order in which they were claimed."""
    return select(ROTATIONS.c.body).where(ROTATIONS.c.finished_at >= text_of(instant)).order_by(AS_CLAIMED)


def history(server_ids: Collection[str] | None, limit: int) -> Select[Any]:
    """The bodies of the latest rotations, newest first."""
    columns = ROTATIONS.c
    query = select(columns.body).order_by(columns.started_at.desc(), columns.id).limit(limit)
    return query if server_ids is None else query.where(columns.server_id.in_(list(server_ids)))


AS_CLAIMED: Any = literal_column("rotations.rowid")
"""The order in which rows were written first, which no clock can change: one that was ahead has left times to come."""


def latest() -> Select[Any]:
    """The body of the latest rotation of each server that has ended. One that was set aside has no end."""
    columns = ROTATIONS.c
    newest_first = func.row_number().over(partition_by=columns.server_id, order_by=AS_CLAIMED.desc())
    ended = select(columns.body, newest_first.label("place")).where(columns.result.is_not(None)).subquery()
    return select(ended.c.body).where(ended.c.place == 1)


def last_of(account: str, server_ids: Collection[str]) -> Select[Any]:
    """The body of the server's last rotation that has ended."""
    columns = ROTATIONS.c
    ours = (_of(account), columns.server_id.in_(list(server_ids)))
    return select(columns.body).where(*ours, columns.result.is_not(None)).order_by(AS_CLAIMED.desc()).limit(1)


def forgettable(keep: int) -> Select[Any]:
    """The ids of the rotations of a server but for the newest `keep`, and the last of each result."""
    columns = ROTATIONS.c
    newest = func.row_number().over(partition_by=columns.server_id, order_by=columns.started_at.desc())
    newest_of_result = func.row_number().over(
        partition_by=(columns.server_id, columns.result), order_by=columns.started_at.desc()
    )
    ranked = (
        select(columns.id, newest.label("place"), newest_of_result.label("among_its_like"))
        .where(~columns.is_open)
        .subquery()
    )
    return select(ranked.c.id).where(ranked.c.place > keep, ranked.c.among_its_like > 1)


FORGET = delete(ROTATIONS).where(ROTATIONS.c.id == bindparam("row"))


# -- marks -------------------------------------------------------------------------------------------------------------


def set_mark(now: datetime) -> Insert:
    """A mark goes back only from where `now` is not yet: two daemons may report their slots in any order."""
    insertion = upsert(MARKS)
    new = insertion.excluded
    is_later = (MARKS.c.seen_until > new.seen_until) & (MARKS.c.seen_until <= text_of(now + CLOCKS_APART))
    later = case((is_later, MARKS.c.seen_until), else_=new.seen_until)
    return insertion.on_conflict_do_update(
        index_elements=["server_id"], set_={"seen_until": later, "schedule": new.schedule}
    )


def mark_row(mark: Mark) -> dict[str, str]:
    return {"server_id": mark.server_id, "seen_until": text_of(mark.seen_until), "schedule": mark.schedule}


def mark_in(row: Any) -> list[Mark]:
    """None where it cannot be read."""
    at = instant_of(row.seen_until)
    return [] if at is None else [Mark(server_id=row.server_id, seen_until=at, schedule=row.schedule)]


async def in_turns(rows: Sequence[Any], read: Callable[[Any], Iterable[_T]]) -> list[_T]:
    """What is read of these rows: of thousands, others have their turn in between."""
    told: list[_T] = []
    for start in range(0, len(rows), AT_ONCE):
        await asyncio.sleep(0)
        told += [one for row in rows[start : start + AT_ONCE] for one in read(row)]
    return told


# -- rows --------------------------------------------------------------------------------------------------------------


def columns_of(rotation: Rotation, unknown: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What changes in a rotation's row."""
    return {
        "attempt": rotation.attempt,
        "format": FORMAT,
        "needs": needs_of(rotation),
        "is_open": not rotation.is_finished,
        "result": rotation.result,
        "body": written_rotation(rotation, unknown),
        "finished_at": None if rotation.finished_at is None else text_of(rotation.finished_at),
    }


def text_of(instant: datetime) -> str:
    """UTC, of one width, so that the order of the texts is the order of the instants."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def instant_of(text: Any) -> datetime | None:
    """The instant in a row; None where it was damaged, which is told."""
    try:
        instant = datetime.fromisoformat(text)
        instant.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        log.error("a time in the ledger cannot be read, and is left out", time=str(text)[:80])
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
