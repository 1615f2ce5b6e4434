"""The statements about rotations and marks, and how instants stand in rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from sqlalchemy import (
    Update,
    bindparam,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.core.rotation import Result, Rotation
from snaprotd.ledger.rows import FORMAT, needs_of, written_rotation
from snaprotd.ledger.sql.dialects import is_no_integer, names_of_tables
from snaprotd.ledger.sql.prepared import Prepared, Statement, as_list, listed, of_account
from snaprotd.ledger.sql.schema import POWERS, ROTATIONS

log = structlog.get_logger("snaprotd.ledger")

CLOCKS_APART = timedelta(minutes=1)
"""How far the clocks of two daemons on one ledger may be apart before one is taken for wrong."""

AT_ONCE = 100
"""Rows that are read in one go."""

_T = TypeVar("_T")


OURS = of_account(ROTATIONS)
"""Of the account's servers: another one's may have the same ids. What was written for no account is this one's."""

TABLE_NAMES = Prepared(names_of_tables)

ITS_SERVER = ROTATIONS.c.server_id.in_(listed("server_ids"))

_IS_NEWER = ~is_no_integer(ROTATIONS.c.needs) & (ROTATIONS.c.needs > FORMAT)
LEFT = ROTATIONS.c.is_open & ROTATIONS.c.owner.is_(None) & _IS_NEWER
"""Open rotations that only a newer snaprotd may go on with, and that nobody holds: they are left to one."""


def is_newer(row: Any) -> bool:
    """Whether only a newer snaprotd may go on with the rotation of this row. One that was damaged nobody may."""
    return isinstance(row.needs, int) and row.needs > FORMAT


def is_left(row: Any) -> bool:
    """Whether this open row is one of `LEFT`."""
    return row.owner is None and is_newer(row)


_TENURE = ("owner", "lease_until", "lease")
_RENEWED = {"renewals": ROTATIONS.c.renewals + 1}
"""By this others see that whoever holds a row is alive."""
# Not its attempt: an index has that, and costs a page more wherever it is written, be it as it was.
_CHANGES = ("format", "needs", "is_open", "result", "body", "finished_at")

_CLAIM = Prepared(lambda: upsert(ROTATIONS).on_conflict_do_nothing().returning(ROTATIONS.c.epoch), *ROTATIONS.c.keys())


def claim(rotation: Rotation, tenure: dict[str, Any], *, account: str) -> Statement:
    """Insert a rotation, unless its slot is taken or its server is busy; answers with its epoch where it was.

    A row count is not reliable with every driver.
    """
    times = {"slot": text_of(rotation.slot), "started_at": text_of(rotation.started_at)}
    own = {"id": rotation.id, "account": account, "server_id": rotation.server_id, "epoch": 1, "renewals": 0}
    return _CLAIM(**columns_of(rotation), **own, **times, **tenure)


_REOPEN = Prepared(
    lambda: (
        update(ROTATIONS)
        .where(OURS, ROTATIONS.c.id == bindparam("row"), ROTATIONS.c.result == Result.FAILURE.value, ~_IS_NEWER)
        .values({"epoch": ROTATIONS.c.epoch + 1, **_RENEWED})
        .returning(ROTATIONS.c.epoch)
    ),
    *("attempt", *_CHANGES),
    *_TENURE,
)


def reopen(rotation: Rotation, tenure: dict[str, Any], *, account: str) -> Statement:
    """Open the row of a rotation again that has failed, unless others have or it was amended; answers with its epoch.
    One that only a newer snaprotd may go on with stays as it is.

    One that is open has no result.
    """
    return _REOPEN(row=rotation.id, its_account=account, **columns_of(rotation), **tenure)


def _in_the_way() -> Any:
    columns = ROTATIONS.c
    is_this = (columns.slot == bindparam("slot")) & (columns.attempt == bindparam("attempt"))
    found = select(columns.id, columns.slot, columns.is_open, columns.body)
    found = found.add_columns(is_this.label("is_this"), LEFT.label("is_left"))
    return found.where(OURS, ITS_SERVER, columns.id != bindparam("row"), or_(columns.is_open, is_this))


_IN_THE_WAY = Prepared(_in_the_way)


def in_the_way_of(rotation: Rotation, called: Collection[str], *, account: str) -> Statement:
    """Others of this attempt at the slot, by whichever id of the server (`called`), and open ones of that."""
    this = {"slot": text_of(rotation.slot), "attempt": rotation.attempt, "row": rotation.id}
    return _IN_THE_WAY(its_account=account, server_ids=as_list(called), **this)


_OWNED = (
    ROTATIONS.c.id == bindparam("row"),
    ROTATIONS.c.owner == bindparam("holder"),
    ROTATIONS.c.epoch == bindparam("held_in"),
)
_SAVE_WHOLE = Prepared(
    lambda: update(ROTATIONS).where(*_OWNED).values(_RENEWED).returning(ROTATIONS.c.id), *_CHANGES, *_TENURE
)
_SAVE = Prepared(
    lambda: update(ROTATIONS).where(*_OWNED, ROTATIONS.c.is_open).values(_RENEWED).returning(ROTATIONS.c.id),
    *("format", "needs", "body"),
    *_TENURE,
)
_RELEASE = Prepared(lambda: update(ROTATIONS).where(*_OWNED).values(_RENEWED), *_TENURE)
NOBODYS = {"owner": None, "lease_until": 0.0, "lease": 0.0}
"""The columns of a rotation that nobody holds."""


def save(
    rotation: Rotation,
    tenure: dict[str, Any],
    *,
    epoch: int,
    unknown: Mapping[str, Any] | None,
    is_closed: bool = False,
) -> Statement:
    """Write a rotation that is still this owner's in this epoch; answers with its id where it is.

    `is_closed`: its row may be. Else, while it goes on, no column changes that an index has: each costs a page more.
    """
    held = {"row": rotation.id, "holder": tenure["owner"], "held_in": epoch}
    statement = _SAVE_WHOLE if is_closed or rotation.is_finished else _SAVE
    return statement(**held, **columns_of(rotation, unknown), **tenure)


def release(rotation_id: str, *, owner: str, epoch: int) -> Statement:
    return _RELEASE(row=rotation_id, holder=owner, held_in=epoch, **NOBODYS)


_RENEW = Prepared(
    lambda: (
        update(ROTATIONS)
        .where(ROTATIONS.c.owner == bindparam("holder"), ROTATIONS.c.is_open, ROTATIONS.c.id.in_(listed("held")))
        .values(_RENEWED)
        .returning(ROTATIONS.c.id, ROTATIONS.c.epoch)
    ),
    *_TENURE,
)


def renew(held: Collection[str], tenure: dict[str, Any]) -> Statement:
    """Renew the leases of what is held still: that of a rotation which was let go must run out, to be taken over."""
    return _RENEW(held=as_list(held), holder=tenure["owner"], **tenure)


_LEASES = Prepared(
    lambda: select(
        *(
            ROTATIONS.c[name]
            for name in ("id", "server_id", "owner", "epoch", "renewals", "lease_until", "lease", "needs")
        )
    ).where(OURS, ROTATIONS.c.is_open)
)


def leases(account: str) -> Statement:
    """Of each open rotation who holds it, and what changes with each renewal."""
    return _LEASES(its_account=account)


_BODIES = Prepared(
    lambda: select(ROTATIONS.c.id, ROTATIONS.c.server_id, ROTATIONS.c.body, ROTATIONS.c.needs).where(
        ROTATIONS.c.id.in_(listed("ids"))
    )
)


def bodies_of(ids: Collection[str]) -> Statement:
    return _BODIES(ids=as_list(ids))


_TAKE = Prepared(
    lambda: (
        update(ROTATIONS)
        .where(
            ROTATIONS.c.id == bindparam("row"),
            ROTATIONS.c.epoch == bindparam("seen_epoch"),
            ROTATIONS.c.renewals == bindparam("seen_renewals"),
            ROTATIONS.c.lease_until.is_not_distinct_from(bindparam("seen_until")),
        )
        .values({**_RENEWED, "epoch": ROTATIONS.c.epoch + 1})
        .returning(ROTATIONS.c.id, ROTATIONS.c.epoch)
    ),
    *_TENURE,
)


def take(seen: Any, tenure: dict[str, Any]) -> Statement:
    """Take a rotation over, from whoever had it, if it stands as it was `seen` in `leases`; answers with its epoch."""
    was = {"seen_epoch": seen.epoch, "seen_renewals": seen.renewals, "seen_until": seen.lease_until}
    return _TAKE(row=seen.id, **was, **tenure)


_LET_GO = Prepared(lambda: update(ROTATIONS).where(ROTATIONS.c.id.in_(listed("left"))), *_TENURE)


def let_go(ids: Collection[str]) -> Statement:
    """Have nobody hold these, and leave all else of them as it is: whoever may go on with them does so at once."""
    return _LET_GO(left=as_list(ids), **NOBODYS)


def set_aside(ids: Collection[str]) -> Update:
    """Close rows that cannot be understood, as they are, so that their servers' next slots run."""
    return update(ROTATIONS).where(ROTATIONS.c.id.in_(list(ids))).values(is_open=False)


def adopt(account: str) -> tuple[Update, Update]:
    """What was written before accounts were told apart is this account's."""
    return tuple(update(table).where(table.c.account == "").values(account=account) for table in (ROTATIONS, POWERS))  # type: ignore[return-value]


def _living() -> Any:
    columns, until = ROTATIONS.c, ROTATIONS.c.lease_until
    is_held = (columns.owner.is_not(None), until >= bindparam("not_before"), until <= bindparam("latest"))
    return select(columns.server_id, columns.owner).where(OURS, columns.is_open, *is_held)


_LIVING = Prepared(_living)


def seems_living(account: str, now: float, lease: float) -> Statement:
    """The servers whose open rotation somebody holds under a lease that has not run out by the wall clock."""
    return _LIVING(its_account=account, not_before=now, latest=now + 2 * lease)


_OPEN_BODIES = Prepared(
    lambda: select(ROTATIONS.c.body).where(OURS, ROTATIONS.c.is_open, ~LEFT, ROTATIONS.c.id.not_in(listed("known")))
)


def open_bodies(account: str, known: Collection[str]) -> Statement:
    """The bodies of the open rotations, but for those that are known, or left to a newer snaprotd."""
    return _OPEN_BODIES(its_account=account, known=as_list(known))


_SLOTS_OF = Prepared(lambda: select(ROTATIONS.c.slot).where(OURS, ITS_SERVER))


def slots_of(account: str, server_ids: Collection[str]) -> Statement:
    return _SLOTS_OF(its_account=account, server_ids=as_list(server_ids))


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
