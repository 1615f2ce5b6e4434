"""`make bench`: what snaprotd costs, in one table. `python -m bench [GROUP...]` measures some groups of rows only."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from bench import idle, ledger, many, nights, replicas, rotations
from bench.extent import QUICK, WHOLE, Extent
from bench.page import PART, RESULTS
from bench.table import Figures, Row, as_markdown, machine, summary


@dataclass(frozen=True, kw_only=True)
class Group:
    rows: Sequence[Row]
    measure: Callable[[Extent], Figures]


GROUPS: Mapping[str, Group] = {
    "rotations": Group(rows=rotations.ROWS, measure=rotations.figures),
    "ledger": Group(rows=ledger.ROWS, measure=ledger.figures),
    "many": Group(rows=many.ROWS, measure=many.figures),
    "replicas": Group(rows=replicas.ROWS, measure=replicas.figures),
    "idle": Group(rows=idle.ROWS, measure=idle.figures),
    "nights": Group(rows=nights.ROWS, measure=nights.figures),
}
BESIDE = ("idle", "nights")
"""Measured at one time: the one waits for minutes and uses little, the other's figures are exact whatever else runs."""


def measured(groups: Mapping[str, Group], extent: Extent) -> dict[str, Figures]:
    """The figures of each group. One that fails has none, and says why on standard error."""

    def figures(name: str) -> Figures:
        print(f"{datetime.now():%H:%M:%S} {name}", file=sys.stderr, flush=True)  # noqa: DTZ005 - for who waits
        try:
            return groups[name].measure(extent)
        except Exception:  # the other groups have taken half an hour
            traceback.print_exc()
            return {}

    told = {name: figures(name) for name in groups if name not in BESIDE}
    with ThreadPoolExecutor() as pool:
        beside = [name for name in groups if name in BESIDE]
        return told | dict(zip(beside, pool.map(figures, beside), strict=True))


def main(*names: str) -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # not into the table
    now, extent = datetime.now(UTC), QUICK if os.environ.get("QUICK") else WHOLE
    told = measured({name: group for name, group in GROUPS.items() if name in (names or GROUPS)}, extent)
    shown = [(row, row.values(figures)) for name, figures in told.items() for row in GROUPS[name].rows]
    failed = [name for name, figures in told.items() if not figures]
    heading = f"{machine(now)}.{' **A quick run: smaller than it should be.**' if extent is QUICK else ''}"
    if failed:
        heading += f" **Not measured: {', '.join(failed)}.**"
    text = f"{heading}\n\n{as_markdown(shown)}\n{summary(shown)}\n"
    keep(f"{now:%Y%m%dT%H%M%SZ}{'' if is_whole(told, extent) else PART}", text, told)
    print(text)
    return 1 if failed else 0


def is_whole(told: Mapping[str, Figures], extent: Extent) -> bool:
    """All groups have been measured, in their full size."""
    return extent is WHOLE and set(told) == set(GROUPS) and all(told.values())


def keep(name: str, text: str, told: Mapping[str, Figures]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(GROUPS):
        sys.exit(f"there is no {', '.join(unknown)}; groups: {', '.join(GROUPS)}")
    sys.exit(main(*sys.argv[1:]))
