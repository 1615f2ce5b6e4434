"""What a daemon costs that has nothing to do: many servers, whose account it reads again from time to time.

It reads at the default rate, and nothing watches its loop. All are measured at one time, for they use little: ten
minutes have one reading in them that is made every ten minutes, and two that are made every five. How often the account
is read, its requests tell.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import product

from bench.extent import Extent
from bench.place import Place, a_place
from bench.processes import cpu_of, snaprotd, until
from bench.table import Figures, Row

ROWS = (
    Row(what="at rest, `discover_interval: 10m`: % of a core", key="10m", goals={10_000: 0.5}),
    Row(what="- requests in ten minutes", key="10m_requests", form=".0f"),
    Row(what="at rest, `discover_interval: 5m`, as by default: % of a core", key="5m", goals={10_000: 2}),
    Row(what="- requests in ten minutes", key="5m_requests", form=".0f"),
)
RATE = 5
SILENCE = 10.0
"""Seconds without a request, after which the first reading is over."""


def figures(extent: Extent) -> Figures:
    told: Figures = {servers: {} for servers in extent.servers}
    if not extent.idle_seconds:
        return told
    with ExitStack() as stack:
        running = {}
        for servers, interval in product(extent.servers, ("10m", "5m")):
            place = stack.enter_context(a_place(servers))
            place.configure(rate=RATE, discover=interval)
            running[servers, interval] = place, stack.enter_context(snaprotd(place.config))
        for place, _ in running.values():
            until(place.is_ready, what="the daemon to be ready")
            wait_for_silence(place)
        before = {which: (cpu_of(process), requests(place)) for which, (place, process) in running.items()}
        time.sleep(extent.idle_seconds)
        for (servers, interval), (place, process) in running.items():
            used, asked = before[servers, interval]
            told[servers][interval] = 100 * (cpu_of(process) - used) / extent.idle_seconds
            told[servers][f"{interval}_requests"] = 600 * (requests(place) - asked) / extent.idle_seconds
    return told


def requests(place: Place) -> int:
    return sum(place.provider.told("counts").values())


def wait_for_silence(place: Place) -> None:
    before = -1
    while (asked := requests(place)) > before:
        before = asked
        time.sleep(SILENCE)
