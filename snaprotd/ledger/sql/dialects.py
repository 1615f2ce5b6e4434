"""The databases that a ledger may stand on, and how each of them writes what the other writes otherwise.

Where both have the same words, as for an upsert, the statements are built by what SQLAlchemy has for PostgreSQL.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, ClauseElement, Executable, String
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

SQLITE = sqlite.dialect(paramstyle="named")


def _written(element: type[ClauseElement], *, on_sqlite: str, on_postgresql: str) -> None:
    """Have it be written so; `{}` stands for what it is given."""
    for dialect, text in (("sqlite", on_sqlite), ("postgresql", on_postgresql)):

        @compiles(element, dialect)
        def _(its: Any, compiler: Any, *, text: str = text, **more: Any) -> str:
            given = getattr(its, "clauses", None)
            return text.format("" if given is None else compiler.process(given, **more))


class elements(GenericFunction[Any]):  # noqa: N801
    """The elements of a text that is a list in JSON, as a table with one column, `value`."""

    type = String()
    inherit_cache = True


_written(elements, on_sqlite="json_each({})", on_postgresql="json_array_elements_text(CAST({} AS json))")


class first_of(GenericFunction[Any]):  # noqa: N801
    """The first element of a text that is a list in JSON."""

    type = String()
    inherit_cache = True


class second_of(GenericFunction[Any]):  # noqa: N801
    type = String()
    inherit_cache = True


_written(first_of, on_sqlite="json_extract({}, '$[0]')", on_postgresql="(CAST({} AS json) ->> 0)")
_written(second_of, on_sqlite="json_extract({}, '$[1]')", on_postgresql="(CAST({} AS json) ->> 1)")


class is_no_integer(GenericFunction[Any]):  # noqa: N801
    """Whether something else than a whole number stands in a column for those: SQLite keeps whatever was written."""

    type = Boolean()
    inherit_cache = True


_written(is_no_integer, on_sqlite="(typeof({}) != 'integer')", on_postgresql="false")


class number_of_rotation(GenericFunction[Any]):  # noqa: N801
    """The order in which the rows of the rotations were written first, which no clock can change."""

    type = BigInteger()
    inherit_cache = True


_written(number_of_rotation, on_sqlite="rotations.rowid", on_postgresql="rotations.number")


class names_of_tables(Executable, ClauseElement):  # noqa: N801
    """The names of the tables that are there."""

    inherit_cache = True


_written(
    names_of_tables,
    on_sqlite="SELECT name FROM sqlite_master WHERE type = 'table'",
    on_postgresql="SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
)


class size_of_tables(Executable, ClauseElement):  # noqa: N801
    """The bytes that all tables take, with their indexes."""

    inherit_cache = True


_written(
    size_of_tables,
    on_sqlite="SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    on_postgresql="SELECT sum(pg_total_relation_size(oid)) FROM (SELECT oid FROM pg_class WHERE relkind = 'r' "
    "AND relnamespace = current_schema()::regnamespace) AS its",
)
