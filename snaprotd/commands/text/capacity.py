"""The text of `plan --capacity`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from snaprotd.core.words import Json, duration
from snaprotd.report.capacity import exactly

MOST_SHOWN = 10
"""Servers whose downtime is shown, the longest first; the JSON has all."""


def capacity_text(facts: Sequence[tuple[str, str]], told: Json) -> RenderableType:
    """`told` is the JSON of it."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, figure in facts:
        table.add_row(name, figure)
    off = sorted((one for one in told["servers"] if one["off"] is not None), key=lambda one: -int(one["off"]))
    style = "green" if told["fits"] else "bold red"
    return Group(table, *([Text(), _off_table(off)] if off else []), Text(), Text(told["summary"], style=style))


def _off_table(rows: Sequence[Json]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("server", "begins", "off", "at worst", "snapshot"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for one in rows[:MOST_SHOWN]:
        snapshot = duration(one["snapshot"]) + (" (assumed)" if one["is_assumed"] else "")
        table.add_row(one["name"], one["begins"], exactly(one["off"]), exactly(one["off_at_worst"]), snapshot)
    more = len(rows) - MOST_SHOWN
    return Group(table, Text(f"and {more} more", style="dim")) if more > 0 else table
