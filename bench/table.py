"""The table: what a row is, whether its goal is met, and how its cost grows with the number of servers.

Figures are by the number of servers, then by name; 1 is one rotation alone. A row shows one name of them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from snaprotd import __version__

SIZES = (1, 100, 1000, 10_000)
MOST = 1.2
"""How much more a server may cost where there are ten times as many: more than that is told in bold."""

COLUMNS = ("what", *(f"{size:,}" for size in SIZES), "goal", "met", "growth")

Figures = dict[int, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    what: str
    key: str
    """Its name in the figures."""
    goals: Mapping[int, float] = field(default_factory=dict)
    """At most so much, where there are so many servers."""
    form: str = ".2f"
    of_each: bool = False
    """The figure is of one server, or one rotation, already."""

    def values(self, told: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
        """What has been measured, from few servers to many."""
        return {size: told[size][self.key] for size in sorted(told) if told[size].get(self.key) is not None}


Shown = tuple[Row, Mapping[int, float]]
"""A row, and its values."""


def is_met(row: Row, values: Mapping[int, float]) -> bool | None:
    """None where nothing with a goal has been measured."""
    judged = [values[size] <= most for size, most in row.goals.items() if size in values]
    return all(judged) if judged else None


def growth(row: Row, values: Mapping[int, float]) -> list[float]:
    """The cost of a server in terms of that where there are ten times fewer, from 100 on. Nothing tells nothing."""
    each = {size: value if row.of_each else value / size for size, value in values.items() if size > 1}
    return [each[more] / each[fewer] for fewer, more in pairwise(sorted(each)) if each[fewer] > 0]


def cells(row: Row, values: Mapping[int, float]) -> list[str]:
    """What stands in `COLUMNS`."""
    goals = [f"{most:g} at {size:,}" for size, most in row.goals.items()]
    grown = [f"**{one:.2f}**" if one > MOST else f"{one:.2f}" for one in growth(row, values)]
    return [
        row.what,
        *(format(values[size], row.form) if size in values else "" for size in SIZES),
        "; ".join(goals),
        {True: "yes", False: "**no**", None: ""}[is_met(row, values)],
        ", ".join(grown),
    ]


def as_markdown(shown: Iterable[Shown]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(cells(row, values) for row, values in shown)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def summary(shown: Collection[Shown]) -> str:
    """In one line."""
    judged = [met for row, values in shown if (met := is_met(row, values)) is not None]
    grown = sum(any(one > MOST for one in growth(row, values)) for row, values in shown)
    return f"{sum(judged)} of {len(judged)} goals are met; {grown} rows grow faster than the number of servers."


def machine(now: datetime) -> str:
    """Where it was measured, and when."""
    return (
        f"snaprotd {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores ({_processor()}), "
        f"{now:%Y-%m-%d %H:%M} UTC"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
