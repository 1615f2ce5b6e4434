"""The statements about the rotations that may have taken snapshots which are there, and what their rows tell."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import String, bindparam, exists, literal, select, tuple_

from snaprotd.core.creation import Trace
from snaprotd.ledger.rows import read_trace
from snaprotd.ledger.sql.dialects import elements, first_of, second_of
from snaprotd.ledger.sql.prepared import Prepared, Statement, as_list
from snaprotd.ledger.sql.schema import ROTATIONS
from snaprotd.ledger.sql.statements import ITS_SERVER, OURS, in_turns, instant_of, text_of

_ROWS = select(*(ROTATIONS.c[name] for name in ("id", "server_id", "slot", "is_open", "body")))


def _of_slots() -> Any:
    pair = elements(bindparam("pairs", type_=String)).table_valued("value").c.value
    is_meant = tuple_(ROTATIONS.c.server_id, ROTATIONS.c.slot).in_(select(first_of(pair), second_of(pair)))
    return _ROWS.where(OURS, is_meant)


def _standing_in() -> Any:
    part = elements(bindparam("parts", type_=String)).table_valued("value").c.value
    stands = exists(select(part).where(ROTATIONS.c.body.like(literal("%") + part + literal("%"), escape="/")))
    return _ROWS.where(OURS, ITS_SERVER, stands)


_OF_SLOTS, _WITH_IDS = Prepared(_of_slots), Prepared(_standing_in)
_STANDING_IN = Prepared(lambda: _standing_in().with_only_columns(ROTATIONS.c.body))


def of_slots(account: str, slots: Iterable[tuple[str, datetime]]) -> Statement:
    """The rows of the rotations of these slots, each with an id of its server: of thousands, in one go."""
    pairs = [f"[{json.dumps(server_id)}, {_json_of(slot)}]" for server_id, slot in slots]
    return _OF_SLOTS(its_account=account, pairs=as_list(pairs))


@lru_cache(maxsize=4096)
def _json_of(slot: datetime) -> str:
    """Those of thousands of servers are few."""
    return json.dumps(text_of(slot))


def with_ids(account: str, server_ids: Collection[str], ids: Collection[str]) -> Statement:
    """The rows of a server's rotations in which one of these snapshots stands."""
    return _WITH_IDS(its_account=account, server_ids=as_list(server_ids), parts=_parts_of_bodies(ids))


def standing_in(account: str, server_ids: Collection[str], ids: Collection[str]) -> Statement:
    """The bodies of those rows."""
    return _STANDING_IN(its_account=account, server_ids=as_list(server_ids), parts=_parts_of_bodies(ids))


def _parts_of_bodies(ids: Collection[str]) -> str:
    """As they stand in a body, and in a pattern."""
    return as_list([json.dumps(one, ensure_ascii=False).translate(_ESCAPED) for one in ids])


_ESCAPED = str.maketrans({one: f"/{one}" for one in "/%_"})


async def traces_by_server(rows: Iterable[Any]) -> Mapping[str, Sequence[Trace]]:
    """What rows tell of the snapshots of their slots, by the ids of servers, in the slots' order."""

    def read(row: Any) -> Iterable[tuple[str, Trace]]:
        slot = instant_of(row.slot)
        return [(row.server_id, read_trace(row.id, slot, row.body, is_open=bool(row.is_open)))] if slot else []

    traces: dict[str, list[Trace]] = defaultdict(list)
    told = await in_turns(list({row.id: row for row in rows}.values()), read)
    for server_id, trace in sorted(told, key=lambda one: one[1].slot):
        traces[server_id].append(trace)
    return traces
