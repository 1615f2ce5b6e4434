"""What a daemon costs that has nothing to do: many servers, whose account it reads again from time to time.

It reads at the default rate, and nothing watches its loop. All are watched at one time, for they use little: each time
has a reading of ten minutes in it, or two of five.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import product

from bench.extent import Extent
from bench.place import a_place
from bench.processes import StandIn, cpu_of, snaprotd, until
from bench.table import Figures, Row

ROWS = (
    Row(what="at rest, read every ten minutes: % of a core", key="10m", goals={10_000: 0.5}),
    Row(what="- every five minutes, as by default", key="5m", goals={10_000: 2}),
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
            wait_for_silence(place.provider)
        before = {which: cpu_of(process) for which, (_, process) in running.items()}
        time.sleep(extent.idle_seconds)
        for (servers, interval), (_, process) in running.items():
            used = cpu_of(process) - before[servers, interval]
            told[servers][interval] = 100 * used / extent.idle_seconds
    return told


def wait_for_silence(provider: StandIn) -> None:
    before = -1
    while (asked := sum(provider.told("counts").values())) > before:
        before = asked
        time.sleep(SILENCE)
