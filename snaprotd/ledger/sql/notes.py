"""The statements about what is noted of the whole ledger: one table of keys and values."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, delete, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert

from snaprotd.ledger.sql.prepared import Prepared, Statement
from snaprotd.ledger.sql.schema import META

LIVES = Prepared(lambda: select(META.c.key, META.c.value).where(or_(META.c.key == "lives", META.c.key == "count")))()
LIVES_ALONE = Prepared(lambda: select(META.c.value).where(META.c.key == "lives"))()
ORIGIN_KEY = "origin"
ORIGIN = Prepared(lambda: select(META.c.value).where(META.c.key == ORIGIN_KEY))()
"""Which database server's history this is, as far as somebody has seen it for long."""
MARKS = Prepared(lambda: select(META.c.value).where(META.c.key == "marks"))()
"""How many marks of life were left in it."""


def _note() -> Any:
    insertion = upsert(META)
    return insertion.on_conflict_do_update(index_elements=["key"], set_={"value": insertion.excluded.value})


NOTE = Prepared(_note, "key", "value")
"""Write down something of the whole ledger."""


def note(key: str, value: str) -> Statement:
    return NOTE(key=key, value=value)


def restored_since(server_ids: Collection[str]) -> Select[Any]:
    """Since when each of these servers is restored by a person."""
    return select(META.c.value).where(META.c.key.in_(map(restore_of, server_ids)))


def forget_restores(server_ids: Collection[str]) -> Any:
    return delete(META).where(META.c.key.in_(map(restore_of, server_ids)))


RECEIPT = "receipt of "
"""How the key begins of what each process writes with its transactions, to know whether they were committed."""
IS_RECEIPT = META.c.key.startswith(RECEIPT, autoescape=True)

IDS = "ids of "


def ids_noted() -> Select[Any]:
    """The ids of each server that has several."""
    return select(META.c.value).where(META.c.key.startswith(IDS, autoescape=True))


def ids_row(ids: Collection[str]) -> dict[str, str]:
    """For `NOTE`: one server's, under an id that none but it has."""
    in_order = sorted(ids, key=lambda one: (one.isdigit(), one))
    return {"key": f"{IDS}{in_order[0]}", "value": json.dumps(in_order)}


def restore_of(server_id: str) -> str:
    return f"restore {server_id}"


def possession() -> Select[Any]:
    """What is noted of the account that the ledger belongs to."""
    return select(META.c.key, META.c.value).where(META.c.key.in_(("account", "email")))
