"""What a ledger holds, in figures, and how all of it is written into another one, on whichever database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Boolean, Table, delete, func, insert, select

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.claims import Holder, Overview
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.dialects import number_of_rotation, size_of_tables
from snaprotd.ledger.sql.notes import IS_RECEIPT, ORIGIN_KEY
from snaprotd.ledger.sql.prepared import Prepared
from snaprotd.ledger.sql.schema import META, OF_PROCESSES, ROTATIONS, TABLES
from snaprotd.ledger.sql.statements import NOBODYS


async def rows_of_each(connection: Connection) -> dict[str, int]:
    return {
        name: int(await connection.scalar(select(func.count()).select_from(table)))
        for name, table in sorted(TABLES.tables.items())
    }


async def overview_of(name: str, connection: Connection) -> Overview:
    columns = ROTATIONS.c
    held = select(columns.owner, func.count().label("number"), func.max(columns.lease_until).label("until"))
    rows = await connection.execute(held.where(columns.is_open, columns.owner.is_not(None)).group_by(columns.owner))
    return Overview(
        name=name,
        schema=int(await connection.scalar(select(META.c.value).where(META.c.key == "schema")) or 0),
        size=int(await connection.scalar(size_of_tables()) or 0),
        rows=await rows_of_each(connection),
        holders=tuple(Holder(owner=one.owner, rotations=one.number, until=one.until) for one in rows),
    )


async def read_all(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table, in the order in which they were written, where that counts."""
    found = {}
    for name, table in TABLES.tables.items():
        if table in OF_PROCESSES:
            continue
        query = select(table)
        if table is META:
            query = query.where(~IS_RECEIPT, META.c.key != ORIGIN_KEY)
        if table is ROTATIONS:
            query = query.order_by(number_of_rotation())
        found[name] = [row._asdict() for row in await connection.execute(query)]
    return found


def without_leases(contents: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """As it is where each process that held a rotation is dead."""
    return {**contents, ROTATIONS.name: [{**row, **NOBODYS} for row in contents[ROTATIONS.name]]}


async def write_all(connection: Connection, contents: Mapping[str, list[dict[str, Any]]], name: str) -> dict[str, int]:
    """Raises `LedgerError`, which undoes it, where something is there already, or not all of it has arrived."""
    for table in OF_PROCESSES:  # of a ledger that is not in use
        await connection.execute(delete(table))
    there = {
        table: number for table, number in (await rows_of_each(connection)).items() if number and table != META.name
    }
    if there:
        what = ", ".join(f"{number} in {table}" for table, number in there.items())
        raise LedgerError(f"the ledger {name} is not empty ({what}): nothing was copied into it")
    await connection.execute(delete(META))
    for table_name, rows in contents.items():
        if rows:
            await connection.execute(_INTO[table_name].for_each(_typed(TABLES.tables[table_name], row) for row in rows))
    of_processes = {table.name for table in OF_PROCESSES}
    written = {one: number for one, number in (await rows_of_each(connection)).items() if one not in of_processes}
    wanted = {table: len(rows) for table, rows in contents.items()}
    if written != wanted:
        raise LedgerError(f"of {wanted} rows {written} have arrived in the ledger {name}: nothing was copied")
    return written


def _into(table: Table) -> Prepared:
    return Prepared(lambda: insert(table), *table.c.keys())


_INTO = {name: _into(table) for name, table in TABLES.tables.items()}


def _typed(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """SQLite has no truth values of its own."""
    return {name: bool(value) if isinstance(table.c[name].type, Boolean) else value for name, value in row.items()}
