"""A replica as a real process of the version that is to come: its rows have fields that this one lacks, and need it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from snaprotd.ledger.rows import FORMAT
from tests.support.swift import hurry

NEXT = FORMAT + 1
UNKNOWN: dict[str, Any] = {"quiesce": {"by": "a guest's agent"}}
"""What it writes into each row."""
ADDED = (
    "ALTER TABLE rotations ADD COLUMN theirs INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE shelves (name TEXT)",
    "UPDATE meta SET value = '99' WHERE key = 'schema'",
)
"""What it adds to the ledger's tables when it first begins."""
ITS_OPEN = f"SELECT id FROM rotations WHERE is_open AND needs = {NEXT}"
SPOILT = f"SELECT id FROM rotations WHERE (body LIKE '%a guest''s agent%') <> (needs = {NEXT})"
"""Rows of its that another version has written into."""


def later() -> None:
    """To be called before the ledger is used: its statements are written then."""
    hurry()
    statements: Any = import_module("snaprotd.ledger.sql.statements")
    taking: Any = import_module("snaprotd.ledger.leases.taking")
    columns = statements.ROTATIONS.c
    statements.FORMAT = taking.FORMAT = NEXT
    statements._IS_NEWER = ~statements.is_no_integer(columns.needs) & (columns.needs > NEXT)
    statements.LEFT = columns.is_open & columns.owner.is_(None) & statements._IS_NEWER
    statements.needs_of = lambda rotation: NEXT
    written = statements.written_rotation
    statements.written_rotation = lambda rotation, unknown=None: written(rotation, {**(unknown or {}), **UNKNOWN})
