"""Nights of a fleet in virtual time: the real daemon and the real client, without a socket. Each figure is exact.

Snapshots take 300 s there, each switch of the power 30 s, and calls 0.1 s.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from bench.extent import Extent
from bench.processes import PATIENCE, PYTHON
from bench.table import Figures, Row
from tests.support.fleet import Fleet

ROWS = (
    Row(
        what="a second night, all at once: requests, in terms of the least possible",
        key="again",
        goals={1000: 1.3},
        of_each=True,
    ),
    Row(
        what="a night at 5 a second, 20 at one time: requests a rotation",
        key="usual_requests",
        goals={1000: 9},
        of_each=True,
    ),
    Row(what="- its length, in terms of servers x 300 s / 20", key="usual_length", goals={1000: 1.05}, of_each=True),
    Row(
        what="`stop_first`, at 5 a second, all at one time: time off in terms of what is needed, median",
        key="stopped_off",
        goals={1000: 1.1},
        of_each=True,
    ),
    Row(what="- seconds more than that, worst", key="stopped_worst", goals={1000: 20}, form=".0f", of_each=True),
    Row(what="100 are due: requests, in terms of the least possible", key="few", goals={10_000: 1.3}, of_each=True),
    Row(what="`stop_first`, 3 a second are let through: % refused after a minute", key="slow_refused", goals={100: 2}),
    Row(what="- off for seconds more than is needed, worst", key="slow_worst", goals={100: 20}, form=".0f"),
)

FIGURES: Mapping[str, Callable[[Fleet, Mapping[str, Any]], Mapping[str, float]]] = {
    "again": lambda _, told: {"again": told["times_least"]},
    "usual": lambda fleet, told: {
        "usual_requests": told["per_rotation"],
        "usual_length": told["seconds"] / (fleet.rotations * fleet.snapshot_seconds / fleet.max_concurrent),
    },
    "stopped": lambda fleet, told: {
        "stopped_off": told["downtime_median"] / fleet.need,
        "stopped_worst": told["downtime_worst"] - fleet.need,
    },
    "few": lambda _, told: {"few": told["times_least"]},
    "slow": lambda fleet, told: {
        "slow_refused": 100 * told["refused_after_a_minute"],
        "slow_worst": told["downtime_worst"] - fleet.need,
    },
}
"""Of each kind of night in `Extent.nights`."""


def figures(extent: Extent) -> Figures:
    told: Figures = {}
    for name, fleets in extent.nights.items():
        for servers, those in fleets.items():
            fleet = {"servers": servers, **those}
            told.setdefault(servers, {}).update(FIGURES[name](Fleet(**fleet), lived_through(fleet)))
    return told


def lived_through(fleet: Mapping[str, Any]) -> dict[str, Any]:
    """The last night. Raises where it is not over in time, or a rotation of it does not succeed."""
    words = [f"{key}={value!r}" for key, value in fleet.items()]
    told = subprocess.run(
        [*PYTHON, "tests.support.fleet", "--json", *words],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        timeout=PATIENCE,
    ).stdout
    night: dict[str, Any] = json.loads(told)
    assert night["succeeded"] == Fleet(**fleet).rotations, night
    return night
