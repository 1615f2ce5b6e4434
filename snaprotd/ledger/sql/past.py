"""The statements about rotations that have ended: when the last ones were, and which may be forgotten."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, Select, String, bindparam, delete, func, select

from snaprotd.core.rotation import Result
from snaprotd.ledger.sql.dialects import elements, number_of_rotation
from snaprotd.ledger.sql.prepared import Prepared, Statement, as_list
from snaprotd.ledger.sql.schema import ROTATIONS
from snaprotd.ledger.sql.statements import CLOCKS_APART, ITS_SERVER, OURS, instant_of, text_of

OWNERS = Prepared(lambda: select(ROTATIONS.c.id, ROTATIONS.c.owner).where(ROTATIONS.c.is_open, ROTATIONS.c.owner != ""))
"""Of those that are open."""


def touched() -> Select[Any]:
    """The servers that rotations were of, each with its account, the last one first."""
    columns = ROTATIONS.c
    last = func.max(columns.started_at)
    return select(columns.account, columns.server_id).group_by(columns.account, columns.server_id).order_by(last.desc())


def latest_of_each(column: Any, now: datetime, *where: Any) -> Select[Any]:
    """Of each server the instant in that column of the row that was written last, but for what is still to come.

    What is no instant is none of them.
    """
    server_id = ROTATIONS.c.server_id
    is_past = column.like("____-__-__T%") & (column <= text_of(now + CLOCKS_APART))
    newest_first = func.row_number().over(partition_by=server_id, order_by=AS_CLAIMED.desc())
    found = select(server_id, column.label("instant"), newest_first.label("place")).where(is_past, *where).subquery()
    return select(found.c.server_id, found.c.instant).where(found.c.place == 1)


def latest_in(rows: Iterable[Any]) -> dict[str, datetime]:
    """The instants by their servers, but for those that cannot be read."""
    told = [(server_id, instant_of(text)) for server_id, text in rows]
    return {server_id: instant for server_id, instant in told if instant is not None}


def latest_success_of_each(now: datetime) -> Select[Any]:
    """When the latest successful rotation of each server ended."""
    return latest_of_each(ROTATIONS.c.finished_at, now, ROTATIONS.c.result == Result.SUCCESS.value)


def ended_since(instant: datetime) -> Statement:
    """The bodies of the rotations that have ended since, in the order in which they were claimed."""
    return _ENDED_SINCE(since=text_of(instant))


def history(server_ids: Collection[str] | None, limit: int) -> Statement:
    """The bodies of the latest rotations, newest first."""
    if server_ids is None:
        return _HISTORY(limit=limit)
    return _HISTORY_OF(server_ids=as_list(server_ids), limit=limit)


AS_CLAIMED: Any = number_of_rotation()
"""The order in which rows were written first: a clock that was ahead has left times to come."""


_NEWEST_FIRST = (
    select(ROTATIONS.c.body)
    .order_by(ROTATIONS.c.started_at.desc(), ROTATIONS.c.id)
    .limit(bindparam("limit", type_=Integer))
)
_HISTORY = Prepared(lambda: _NEWEST_FIRST)
_HISTORY_OF = Prepared(lambda: _NEWEST_FIRST.where(ITS_SERVER))

_ENDED_SINCE = Prepared(
    lambda: select(ROTATIONS.c.body).where(ROTATIONS.c.finished_at >= bindparam("since")).order_by(AS_CLAIMED)
)


def latest() -> Select[Any]:
    """The body of the latest rotation of each server that has ended. One that was set aside has no end."""
    columns = ROTATIONS.c
    newest_first = func.row_number().over(partition_by=columns.server_id, order_by=AS_CLAIMED.desc())
    ended = select(columns.body, newest_first.label("place")).where(columns.result.is_not(None)).subquery()
    return select(ended.c.body).where(ended.c.place == 1)


def _last_of_each() -> Any:
    asked = elements(bindparam("server_ids", type_=String)).table_valued("value")
    where = (OURS, ROTATIONS.c.server_id == asked.c.value, ROTATIONS.c.result.is_not(None))

    def of_last(column: Any) -> Any:
        last = select(column).select_from(ROTATIONS).where(*where).order_by(AS_CLAIMED.desc()).limit(1)
        return last.correlate(asked).scalar_subquery()

    own = asked.c.value.label("server_id")
    return select(own, of_last(AS_CLAIMED).label("number"), of_last(ROTATIONS.c.body).label("body"))


_LAST_OF_EACH = Prepared(_last_of_each)


def last_of_each(account: str, server_ids: Collection[str]) -> Statement:
    """By each of these ids the body of the last rotation that has ended, and its number among those of all servers."""
    return _LAST_OF_EACH(its_account=account, server_ids=as_list(server_ids))


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


FORGET = Prepared(lambda: delete(ROTATIONS).where(ROTATIONS.c.id == bindparam("row")))
