"""Statements that are written once: with SQLAlchemy to build and compile one costs ten times what it takes SQLite."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

DIALECT = sqlite.dialect(paramstyle="named")


class Statement:
    """The text of a statement, and what it is given: once, or once for each row."""

    def __init__(self, text: str, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()) -> None:
        self.text = text
        self.values = values


class Prepared:
    """A statement whose text depends on nothing that it is given. It is compiled where it is first used."""

    def __init__(self, build: Callable[[], Any], *columns: str) -> None:
        """`columns` are those of the table that an insert or an update is given by their names."""
        self._build = build
        self._columns = columns

    @cached_property
    def _compiled(self) -> tuple[str, Mapping[str, Any]]:
        compiled: SQLCompiler = self._build().compile(dialect=DIALECT, column_keys=self._columns or None)
        binds = compiled.binds
        return str(compiled), {name: bind.value for name, bind in binds.items() if not bind.required}

    def __call__(self, **values: Any) -> Statement:
        text, own = self._compiled
        return Statement(text, {**own, **values})

    def for_each(self, rows: Iterable[Mapping[str, Any]]) -> Statement:
        """Carried out for one row after the other."""
        text, own = self._compiled
        return Statement(text, [{**own, **row} for row in rows])


def written(statement: Any) -> Statement:
    """One that is built for this once."""
    if isinstance(statement, Statement):
        return statement
    compiled = statement.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
    return Statement(str(compiled), compiled.params)


def listed(name: str) -> Any:
    """The values of the parameter `name`, which is given by `as_list`: what a column may be among."""
    return select(func.json_each(bindparam(name)).table_valued("value").c.value)


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
