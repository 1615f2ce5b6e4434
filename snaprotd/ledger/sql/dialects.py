"""The databases that a ledger may stand on, and how each of them writes what the other writes otherwise.

Where both have the same words, as for an upsert, the statements are SQLite's.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, ClauseElement, Executable, String
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

SQLITE = sqlite.dialect(paramstyle="named")


class elements(GenericFunction[Any]):  # noqa: N801
    """The elements of a text that is a list in JSON, as a table with one column, `value`."""

    type = String()
    inherit_cache = True


@compiles(elements, "sqlite")
def _(function: Any, compiler: Any, **more: Any) -> str:
    return f"json_each{compiler.process(function.clause_expr, **more)}"


@compiles(elements, "postgresql")
def _(function: Any, compiler: Any, **more: Any) -> str:
    return f"json_array_elements_text(CAST{compiler.process(function.clause_expr, **more)[:-1]} AS json))"


class is_no_integer(GenericFunction[Any]):  # noqa: N801
    """Whether something else than a whole number stands in a column for those: SQLite keeps whatever was written."""

    type = Boolean()
    inherit_cache = True


@compiles(is_no_integer, "sqlite")
def _(function: Any, compiler: Any, **more: Any) -> str:
    return f"(typeof{compiler.process(function.clause_expr, **more)} != 'integer')"


@compiles(is_no_integer, "postgresql")
def _(function: Any, compiler: Any, **more: Any) -> str:
    return "false"


class number_of_rotation(GenericFunction[Any]):  # noqa: N801
    """The order in which the rows of the rotations were written first, which no clock can change."""

    type = BigInteger()
    inherit_cache = True


@compiles(number_of_rotation, "sqlite")
def _(function: Any, compiler: Any, **more: Any) -> str:
    return "rotations.rowid"


@compiles(number_of_rotation, "postgresql")
def _(function: Any, compiler: Any, **more: Any) -> str:
    return "rotations.number"


class names_of_tables(Executable, ClauseElement):  # noqa: N801
    """The names of the tables that are there."""

    inherit_cache = True


@compiles(names_of_tables, "sqlite")
def _(element: Any, compiler: Any, **more: Any) -> str:
    return "SELECT name FROM sqlite_master WHERE type = 'table'"


@compiles(names_of_tables, "postgresql")
def _(element: Any, compiler: Any, **more: Any) -> str:
    return "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"


class size_of_tables(Executable, ClauseElement):  # noqa: N801
    """The bytes that all tables take, with their indexes."""

    inherit_cache = True


@compiles(size_of_tables, "sqlite")
def _(element: Any, compiler: Any, **more: Any) -> str:
    return "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"


@compiles(size_of_tables, "postgresql")
def _(element: Any, compiler: Any, **more: Any) -> str:
    tables = "SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
    return f"SELECT sum(pg_total_relation_size(oid)) FROM ({tables}) AS its"  # noqa: S608
