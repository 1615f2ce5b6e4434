"""Statements that are written once: with SQLAlchemy to build and compile one costs ten times what it takes SQLite."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Dialect, String, bindparam, or_, select
from sqlalchemy.sql.compiler import SQLCompiler

from snaprotd.ledger.sql.dialects import elements

Values = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Statement:
    """A statement, and what it is given: once, or once for each row."""

    def __init__(self, source: str | Prepared, values: Values = ()) -> None:
        """`source`: its text, where that is the same for every database."""
        self._source = source
        self._values = values

    def in_dialect(self, dialect: Dialect) -> tuple[str, Values]:
        """Its text for that database, and its values with those that the text has of its own."""
        if isinstance(self._source, str):
            return self._source, self._values
        text, own = self._source.compiled(dialect)
        if isinstance(self._values, Mapping):
            return text, {**own, **self._values}
        return text, [{**own, **row} for row in self._values]


class Prepared:
    """A statement whose text depends on nothing that it is given. It is compiled where it is first used."""

    def __init__(self, build: Callable[[], Any], *columns: str) -> None:
        """`columns` are those of the table that an insert or an update is given by their names."""
        self._build = build
        self._columns = columns
        self._compiled: dict[str, tuple[str, Mapping[str, Any]]] = {}
        """By the name of the dialect."""

    def compiled(self, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
        """Its text, and the values in it that nobody has to give."""
        if (known := self._compiled.get(dialect.name)) is None:
            done: SQLCompiler = self._build().compile(dialect=dialect, column_keys=self._columns or None)
            own = {name: bind.value for name, bind in done.binds.items() if not bind.required}
            known = self._compiled[dialect.name] = str(done), own
        return known

    def __call__(self, **values: Any) -> Statement:
        return Statement(self, values)

    def for_each(self, rows: Iterable[Mapping[str, Any]]) -> Statement:
        """Carried out for one row after the other."""
        return Statement(self, list(rows))


class _Once(Statement):
    """One of SQLAlchemy's, built for this once."""

    def __init__(self, built: Any) -> None:
        self._built = built

    def in_dialect(self, dialect: Dialect) -> tuple[str, Values]:
        compiled = self._built.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        return str(compiled), compiled.params


def as_statement(statement: Any) -> Statement:
    return statement if isinstance(statement, Statement) else _Once(statement)


def listed(name: str) -> Any:
    """The values of the parameter `name`, which is given by `as_list`: what a column may be among."""
    return select(elements(bindparam(name, type_=String)).table_valued("value").c.value)


def of_account(table: Any) -> Any:
    """The rows of the account that is given as `its_account`, and those that were written for none."""
    return or_(table.c.account == "", table.c.account == bindparam("its_account"))


def as_list(values: Collection[str]) -> str:
    """For a parameter of `listed`. However many they are, the statement's text is the same."""
    return json.dumps(list(values))


class Rows(list[Any]):
    """What a statement has answered: a named tuple for each row."""

    def first(self) -> Any:
        """The first row; None where there is none."""
        return self[0] if self else None

    def scalar(self) -> Any:
        """The first value of the first row; None where there is none."""
        return self[0][0] if self else None


@lru_cache(maxsize=256)
def row_of(names: tuple[str, ...]) -> Any:
    """Makes rows with these columns."""
    kind: Any = namedtuple("kind", names, rename=True)  # type: ignore[misc]
    return kind._make
