"""How the power of a server is written in its row, and read from one that is damaged or newer."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import and_, bindparam, case, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.core.errors import GroupTaken
from snaprotd.core.power import Power, given_up
from snaprotd.core.promise import Overtaken, ServerPower, Terms, as_one, goes_beyond, inherited, is_later
from snaprotd.core.rotation import Rotation
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.dialects import is_no_integer
from snaprotd.ledger.sql.prepared import Prepared, Statement, as_list, listed
from snaprotd.ledger.sql.schema import POWERS

log = structlog.get_logger("snaprotd.ledger")

AT_ONCE = 50
"""Records that are read before others have a turn."""

Key = tuple[str, str]
"""The account and the id of a server."""

_BODY = TypeAdapter(ServerPower)
_DAMAGED = (is_no_integer(POWERS.c.asked), is_no_integer(POWERS.c.released))
_READ = select(*(column for column in POWERS.columns if column.name != "is_followed"))
_FOLLOWED = Prepared(lambda: _READ.where(or_(POWERS.c.is_followed, POWERS.c.asked > POWERS.c.released, *_DAMAGED)))
_ITS = (POWERS.c.account == bindparam("account"), POWERS.c.server_id.in_(listed("ids")))
_KEPT = Prepared(lambda: _READ.where(*_ITS))
_KEPT_OF_ANY = Prepared(lambda: _READ.where(POWERS.c.server_id.in_(listed("ids"))))
_STANDS = Prepared(
    lambda: select(POWERS.c.account, POWERS.c.server_id, POWERS.c.body).where(POWERS.c.server_id.in_(listed("ids")))
)

_COUNTS = Prepared(lambda: select(POWERS.c.server_id, POWERS.c.asked, POWERS.c.released).where(*_ITS))


def row_of(kept: ServerPower) -> dict[str, Any]:
    """The row of a server's power."""
    return {
        "account": kept.account,
        "server_id": kept.server_id,
        "label": kept.label,
        "asked": kept.power.asked,
        "released": kept.power.released,
        "is_followed": kept.power.is_followed,
        "base_url": kept.terms.base_url,
        "token_file": kept.terms.token_file,
        "let_go": kept.let_go,
        "body": _BODY.dump_json(kept).decode(),
    }


def record_of(rotation: Rotation, account: str, terms: Terms) -> ServerPower:
    """The record of a rotation's server, with the time-outs of its policy."""
    policy = rotation.policy
    return ServerPower(
        account=account,
        server_id=rotation.server_id,
        label=rotation.label,
        power=rotation.power,
        terms=replace(
            terms,
            settle=rotation.settle,
            stop_timeout=policy.stop_timeout.total_seconds(),
            start_timeout=policy.start_timeout.total_seconds(),
            group=policy.group,
        ),
    )


def read_power(row: Any) -> ServerPower:
    """The power of a server. Where its body cannot be read, what is owed is still told by the other columns.

    Where one of those cannot be read either, the body tells it; where nothing does, a start is owed.
    """
    named = row if isinstance(row, Mapping) else row._asdict()
    label = str(named["label"])
    try:
        kept = _BODY.validate_json(named["body"])
    except (ValidationError, ValueError, TypeError):
        log.error("the record of a server's power cannot be read whole: what is owed is paid", server=label)
        kept = ServerPower(
            account=str(named["account"]),
            server_id=str(named["server_id"]),
            label=label,
            # Nothing says which stops have struck.
            power=Power(asked=_number(named["released"], 0) + 1, went_off=True, request_age=0.0, earlier_age=0.0),
            terms=Terms(base_url=str(named["base_url"]), token_file=str(named["token_file"])),
        )
    asked = _number(named["asked"], kept.power.asked)
    released = _number(named["released"], kept.power.released)
    power = replace(_dated(kept.power), asked=asked, released=released)
    return replace(kept, power=power, let_go=str(named["let_go"]))


def _number(value: Any, otherwise: int) -> int:
    """A column's number: SQLite keeps whatever was written, of whatever type."""
    return value if isinstance(value, int) and 0 <= value < 2**62 else otherwise


def _dated(power: Power) -> Power:
    """A time without a zone is UTC: it could be compared with no other."""
    times = {name: getattr(power, name) for name in ("held_off_since", "went_off_at", "running_since")}
    bare = {name: at.replace(tzinfo=UTC) for name, at in times.items() if at is not None and at.tzinfo is None}
    return replace(power, **bare)


def row_names() -> list[str]:
    return [column.name for column in POWERS.columns]


def _save_power() -> Any:
    """Write rows of `row_of`. Two records of one server merge, as `merged` has it: the later stop counts, what was
    paid stays paid; of a stop that is owed still whoever writes knows more.

    One that was damaged is written over: the record was read from what is left of it. What a newer snaprotd has written
    into the body, and we do not know, stays.
    """
    insertion = upsert(POWERS)
    new, old = insertion.excluded, POWERS.c
    is_whole = and_(*(~is_damaged for is_damaged in _DAMAGED))
    was_paid = (old.asked == new.asked) & (old.released >= old.asked) & (new.released < new.asked)
    is_older = is_whole & ((old.asked > new.asked) | was_paid)
    keys = {"account", "server_id"}
    kept = {name: case((is_older, old[name]), else_=new[name]) for name in set(row_names()) - keys}
    kept["released"] = case((is_whole & (old.released > new.released), old.released), else_=new.released)
    kept["let_go"] = case((new.let_go == "", old.let_go), else_=new.let_go)  # who writes may not know of it
    return insertion.on_conflict_do_update(index_elements=["account", "server_id"], set_=kept)


_PUT = Prepared(_save_power, *POWERS.c.keys())


def followed() -> Statement:
    """The rows of servers to which something is owed, or whose last stop has not been seen to strike.

    A row that is damaged is among them: what was written in it is for `read_power` to say.
    """
    return _FOLLOWED()


async def kept(connection: Connection, account: str, ids: Collection[str]) -> ServerPower | None:
    """What is kept of the server that has these ids; None where nothing is."""
    return _one_of(await connection.execute(_KEPT(account=account, ids=as_list(ids))), ids)


async def counted(connection: Connection, account: str, ids: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """How many stops were asked for, and paid, as the columns of each row have it."""
    rows = await connection.execute(_COUNTS(account=account, ids=as_list(ids)))
    return {str(row.server_id): (row.asked, row.released) for row in rows}


def _one_of(rows: Iterable[Any], ids: Collection[str]) -> ServerPower | None:
    records = as_one(read_power(row).known_by(ids) for row in rows)
    return records[0] if records else None


async def kept_of_each(
    connection: Connection, servers: Sequence[tuple[str, Collection[str]]]
) -> AsyncIterator[ServerPower | None]:
    """As `kept`, of each of these servers in turn, by its account and its ids: thousands cost one question."""
    rows: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in await connection.execute(_KEPT_OF_ANY(ids=as_list({one for _, ids in servers for one in ids}))):
        rows[row.account, row.server_id].append(row)
    for number, (account, ids) in enumerate(servers):
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
        yield _one_of((row for one in sorted(ids) for row in rows.get((account, one), ())), ids)


async def put(connection: Connection, record: ServerPower) -> None:
    """Write what is owed to a server, wherever that is kept of it: it may be called by another id than before."""
    await put_all(connection, [record])


async def put_all(connection: Connection, records: Sequence[ServerPower]) -> None:
    """As `put`, of each of these servers: many cost one question, and are written in one go."""
    if not records:
        return
    ids = {one for record in records for one in record.ids}
    rows = await connection.execute(_STANDS(ids=as_list(sorted(ids))))
    stands = {(row.account, str(row.server_id)): row.body for row in rows}
    written = [one for record in records for one in _everywhere(record, stands)]
    await connection.execute(
        _PUT.for_each(_over(stands.get((one.account, one.server_id)), row_of(one)) for one in written)
    )


def _everywhere(record: ServerPower, stands: Mapping[Key, Any]) -> list[ServerPower]:
    others = sorted(one for one in record.ids - {record.server_id} if (record.account, one) in stands)
    return [record, *(replace(record, server_id=one).known_by(record.ids) for one in others)]


def _over(body: Any, row: dict[str, Any]) -> dict[str, Any]:
    """The row, to be written over that `body`: what a newer version has written there, and we do not know, survives."""
    try:
        there = json.loads(body) if body is not None else {}
    except (ValueError, TypeError, RecursionError):
        return row  # it was damaged
    return {
        **row,
        "body": json.dumps(_joined(there, json.loads(row["body"])), separators=(",", ":"), ensure_ascii=False),
    }


def _joined(old: Any, new: Any) -> Any:
    """The new one, with what only the old one has, of the objects in it too."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{name: _joined(old.get(name), value) for name, value in new.items()}}


async def held_off_in(connection: Connection, account: str, group: str, *, but: Collection[str]) -> str | None:
    """The label of a server of the group that a start is owed to; None where none is. None of these ids is its."""
    rows = await connection.execute(followed())
    others = [read_power(row) for row in rows if row.account in ("", account) and row.server_id not in but]
    return next((one.label for one in others if one.terms.group == group and one.power.is_owed), None)


async def demand(connection: Connection, record: ServerPower, *, over: Power, begun: dict[str, str]) -> None:
    """Raise what speaks against a stop that is promised now. `over`: what was known before it.

    That is `Overtaken` where more is known here, and `GroupTaken` where a start is owed to another server of its group,
    or is from this transaction on: of those `begun` has the labels.
    """
    known, group = await kept(connection, record.account, record.ids), record.terms.group
    if known is not None and goes_beyond(known.power, over):
        raise Overtaken(known.power)
    if not group:
        return
    other = begun.get(group) or await held_off_in(connection, record.account, group, but=record.ids)
    if other is not None:
        raise GroupTaken(f"{other}, of the same group `{group}`, is held off")
    begun[group] = record.label


async def inherit(connection: Connection, account: str, owed: ServerPower) -> ServerPower | None:
    """Owe what another ledger owes to a server of the account; None where this one knows of that stop, or a later."""
    found = await kept(connection, account, owed.ids)
    known = Power() if found is None else found.power
    times = (known.held_off_since, owed.power.held_off_since)
    if not known.in_doubt and None not in times and not is_later(owed.power, known):
        return None
    record = replace(owed, account=account, power=inherited(known, owed.power))
    await put(connection, record)
    return record


async def let_go(connection: Connection, account: str, ids: Collection[str], words: str) -> ServerPower | None:
    """Let go of what is owed to a server, or may be found to be: its record as it is now; None where nothing is."""
    record = await kept(connection, account, ids)
    if record is None or not record.power.is_followed:
        return None
    record = replace(record, power=given_up(record.power), let_go=words)
    await put(connection, record)
    return record
