"""The statements about how far schedules were seen."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, case, delete
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.ledger.claims import Mark
from snaprotd.ledger.sql.prepared import Prepared, Statement, as_list, listed
from snaprotd.ledger.sql.schema import MARKS
from snaprotd.ledger.sql.statements import CLOCKS_APART, instant_of, text_of


def _set_mark() -> Any:
    insertion = upsert(MARKS)
    new = insertion.excluded
    is_later = (MARKS.c.seen_until > new.seen_until) & (MARKS.c.seen_until <= bindparam("latest"))
    later = case((is_later, MARKS.c.seen_until), else_=new.seen_until)
    return insertion.on_conflict_do_update(
        index_elements=["server_id"], set_={"seen_until": later, "schedule": new.schedule}
    )


_SET_MARK = Prepared(_set_mark, "server_id", "seen_until", "schedule")


def set_marks(marks: Iterable[Mark], now: datetime) -> Statement:
    """A mark goes back only from where `now` is not yet: two daemons may report their slots in any order."""
    return _SET_MARK.for_each({**_mark_row(mark), "latest": text_of(now + CLOCKS_APART)} for mark in marks)


_FORGET_OTHERS = Prepared(lambda: delete(MARKS).where(MARKS.c.server_id.not_in(listed("server_ids"))))


def forget_other_marks(server_ids: Collection[str]) -> Statement:
    """Delete the marks of all but these servers."""
    return _FORGET_OTHERS(server_ids=as_list(server_ids))


def _mark_row(mark: Mark) -> dict[str, str]:
    return {"server_id": mark.server_id, "seen_until": text_of(mark.seen_until), "schedule": mark.schedule}


def mark_in(row: Any) -> list[Mark]:
    """None where it cannot be read."""
    at = instant_of(row.seen_until)
    return [] if at is None else [Mark(server_id=row.server_id, seen_until=at, schedule=row.schedule)]
