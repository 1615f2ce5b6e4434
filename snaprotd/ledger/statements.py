"""The ledger's statements, and how instants stand in its rows."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Delete, Select, Update, case, delete, func, or_, select, update
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as upsert

from snaprotd.core.rotation import Rotation
from snaprotd.ledger.rows import written_rotation
from snaprotd.ledger.schema import MARKS, ROTATIONS


def claim(rotation: Rotation, tenure: dict[str, Any]) -> Any:
    """Insert a rotation, unless its slot is taken or its server is busy; answers with its id where it was.

    A row count is not reliable with every driver.
    """
    own = {"id": rotation.id, "server_id": rotation.server_id, "slot": text_of(rotation.slot), "epoch": 1}
    row = {**columns_of(rotation), **own, "started_at": text_of(rotation.started_at), **tenure}
    return upsert(ROTATIONS).values(row).on_conflict_do_nothing().returning(ROTATIONS.c.id)


def busy_with(rotation: Rotation) -> Select[Any]:
    """The open rotation of another slot of the same server."""
    columns = ROTATIONS.c
    return select(columns.id, columns.body).where(
        columns.server_id == rotation.server_id, columns.is_open, columns.slot != text_of(rotation.slot)
    )


def save(rotation: Rotation, tenure: dict[str, Any], *, epoch: int) -> Any:
    """Write a rotation that is still this owner's in this epoch; answers with its id where it is."""
    return (
        _owned(rotation.id, tenure["owner"], epoch).values(**columns_of(rotation), **tenure).returning(ROTATIONS.c.id)
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


def take_over(
    tenure: dict[str, Any],
    *,
    held: Collection[str],
    server_id: str | None,
    everything: bool,
    now: float,
    lease: float,
) -> Any:
    """Take the open rotations whose lease has run out, or (`everything`) that are not ours already.

    A lease that ends later than any that could have been given was written before the wall clock was set back.
    """
    columns = ROTATIONS.c
    until = columns.lease_until
    abandoned = or_(columns.owner.is_(None), until < now, until > now + 2 * lease)
    foreign = or_(columns.owner != tenure["owner"], columns.owner.is_(None))
    query = update(ROTATIONS).where(columns.is_open, foreign if everything else abandoned)
    if server_id is not None:
        query = query.where(columns.server_id == server_id)
    if held:
        query = query.where(columns.id.not_in(list(held)))
    return query.values(epoch=columns.epoch + 1, **tenure).returning(columns.body, columns.epoch)


# -- what was ----------------------------------------------------------------------------------------------------------


def history(server_id: str | None, limit: int) -> Select[Any]:
    """The bodies of the latest rotations, newest first."""
    columns = ROTATIONS.c
    query = select(columns.body).order_by(columns.started_at.desc(), columns.id).limit(limit)
    return query if server_id is None else query.where(columns.server_id == server_id)


def latest() -> Select[Any]:
    """The body of the latest rotation of each server that has ended."""
    columns = ROTATIONS.c
    newest_first = func.row_number().over(partition_by=columns.server_id, order_by=columns.finished_at.desc())
    ended = select(columns.body, newest_first.label("place")).where(~columns.is_open).subquery()
    return select(ended.c.body).where(ended.c.place == 1)


def forget(keep: int) -> Delete:
    """Delete the rotations of a server but for the newest `keep`, and the last of each result."""
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
    old = select(ranked.c.id).where(ranked.c.place > keep, ranked.c.among_its_like > 1)
    return delete(ROTATIONS).where(columns.id.in_(old))


# -- marks -------------------------------------------------------------------------------------------------------------


def _upsert_mark() -> Insert:
    insertion = upsert(MARKS)
    new = insertion.excluded
    # A mark never goes back: two daemons on one ledger may report their slots in any order.
    later = case((MARKS.c.seen_until > new.seen_until, MARKS.c.seen_until), else_=new.seen_until)
    return insertion.on_conflict_do_update(
        index_elements=["server_id"], set_={"seen_until": later, "schedule": new.schedule}
    )


SET_MARK = _upsert_mark()


# -- rows --------------------------------------------------------------------------------------------------------------


def columns_of(rotation: Rotation) -> dict[str, Any]:
    """What changes in a rotation's row."""
    return {
        "is_open": not rotation.is_finished,
        "result": rotation.result,
        "body": written_rotation(rotation),
        "finished_at": None if rotation.finished_at is None else text_of(rotation.finished_at),
    }


def text_of(instant: datetime) -> str:
    """UTC, of one width, so that the order of the texts is the order of the instants."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def instant_of(text: str) -> datetime:
    return datetime.fromisoformat(text)
