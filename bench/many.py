"""What a process costs that looks after many servers on which nothing is to be done, and what commands cost beside it.

`python -m bench.many [SERVERS]` prints the figures of one size as JSON; with WAIT in the environment the daemon then
stays for an hour, for whoever wants to look closer.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.extent import Extent
from bench.place import Place, a_place
from bench.processes import PATIENCE, PYTHON, a_process, cpu_of, until
from bench.table import Figures, Row
from bench.watched import WORTH
from tests.support.processes import environment
from tests.support.quick_account import TOKEN

LARGEST = 10_000
STANDS = {LARGEST: 50}
COMMANDS = ("list", "list --json", "status", "history")

ROWS = (
    Row(what="start: CPU until it is ready, s", key="ready_cpu", goals={LARGEST: 3}),
    Row(what="- CPU until all is read, s", key="read_cpu"),
    Row(what="- the loop stands until then, ms", key="read_stood", goals=STANDS, form=".0f"),
    Row(what="resident memory, MB", key="resident", goals={LARGEST: 150}, form=".0f"),
    Row(what="- after pages", key="resident_after", goals={LARGEST: 170}, form=".0f"),
    Row(what="`/metrics`, MB", key="metrics_size", goals={LARGEST: 6.5}),
    Row(what="- MB with gzip", key="metrics_gzip", goals={LARGEST: 1}),
    Row(what="- CPU of the first, s", key="metrics_cpu", goals={LARGEST: 0.5}),
    Row(what="- CPU of the next, s", key="metrics_again_cpu", goals={LARGEST: 0.5}),
    Row(what="- the loop stands in the first, ms", key="metrics_stood", goals=STANDS, form=".0f"),
    Row(what="- in the next, ms", key="metrics_again_stood", goals=STANDS, form=".0f"),
    Row(what="the page: the loop stands, ms", key="page_stood", goals=STANDS, form=".0f"),
    Row(what="- CPU, s", key="page_cpu"),
    Row(what="`/api/status`: the loop stands, ms", key="status_stood", goals=STANDS, form=".0f"),
    Row(what="- CPU, s", key="status_cpu"),
    Row(what="a reload of a new file: the loop stands, ms", key="reload_stood", goals=STANDS, form=".0f"),
    Row(what="- CPU, s", key="reload_cpu"),
    Row(what="`snaprotd list`: CPU, s", key="list", goals={LARGEST: 3}),
    Row(what="`snaprotd list --json`: CPU, s", key="list --json", goals={LARGEST: 2.5}),
    Row(what="`snaprotd status`: CPU, s", key="status", goals={LARGEST: 3}),
    Row(what="`snaprotd history`: CPU, s", key="history", goals={LARGEST: 0.5}),
)


def figures(extent: Extent) -> Figures:
    look_after(1)  # for nothing, so that whatever is imported has been compiled
    return {servers: look_after(servers) for servers in extent.servers}


def look_after(servers: int) -> dict[str, Any]:
    with a_place(servers) as place, a_watched(place) as process:
        told = {
            **start(place, process),
            **scrape(place, process),
            **pages(place, process),
            **reload(place, process),
            **{words: command(place, *words.split()) for words in COMMANDS},
        }
        if "WAIT" in os.environ:
            print(told, place.config, process.pid, flush=True)
            time.sleep(3600)
    return told


@contextmanager
def a_watched(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A daemon with a watch on its loop."""
    place.stands.write_text("")
    with place.log.open("w") as said:
        environ = environment(VPS_API_TOKEN=TOKEN)
        arguments = ("bench.watched", str(place.stands), "run", "--config", str(place.config))
        with a_process(*arguments, stderr=said, env=environ) as process:
            yield process


def settle(process: subprocess.Popen[str]) -> None:
    """Wait until it has no more to do: until it uses less than a tenth of a core."""
    before, seconds = -math.inf, 2.0
    while (used := cpu_of(process)) - before > 0.1 * seconds:
        before = used
        time.sleep(seconds)


@contextmanager
def measured(place: Place, process: subprocess.Popen[str], name: str) -> Iterator[dict[str, Any]]:
    """Fills in, at the end, the CPU that was used, and the longest time that the loop stood, in milliseconds."""
    told: dict[str, Any] = {}
    began, used = time.time(), cpu_of(process)
    yield told
    time.sleep(0.1)
    told |= {f"{name}_cpu": cpu_of(process) - used, f"{name}_stood": stood(place, began)}


def stood(place: Place, since: float) -> float:
    """As much of it as the process was at work itself: the machine is shared. Less than `WORTH` is nothing."""
    stands = [json.loads(line) for line in place.stands.read_text().splitlines()]
    worst = max((min(wall, used) for at, wall, used in stands if at >= since), default=0.0)
    return 1000 * worst if worst >= WORTH else 0.0


def start(place: Place, process: subprocess.Popen[str]) -> dict[str, Any]:
    until(place.is_ready, what="the daemon to be ready")
    told = {"ready_cpu": cpu_of(process)}
    settle(process)
    return {**told, "read_cpu": cpu_of(process), "read_stood": stood(place, 0), "resident": resident(process)}


def resident(process: subprocess.Popen[str]) -> float:
    """Megabytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def scrape(place: Place, process: subprocess.Popen[str]) -> dict[str, Any]:
    with measured(place, process, "metrics") as told:
        answer = place.ask("/metrics")
    told |= {"metrics_size": len(answer.content) / 1e6, "metrics_gzip": answer.num_bytes_downloaded / 1e6}
    time.sleep(11 * told["metrics_cpu"] + 1)  # the same answer serves for ten times as long as it took
    with measured(place, process, "metrics_again") as again:
        place.ask("/metrics")
    return {**told, **again}


def pages(place: Place, process: subprocess.Popen[str]) -> dict[str, Any]:
    settle(process)
    with measured(place, process, "page") as page:
        place.ask("/")
    settle(process)
    with measured(place, process, "status") as status:
        place.ask("/api/status")
    return {**page, **status, "resident_after": resident(process)}


def reload(place: Place, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Until all that it brings with it is done."""
    settle(process)
    with measured(place, process, "reload") as told:
        place.configure(keep=3)
        until(lambda: "was read again and is in force" in place.log.read_text(), what="the new configuration")
        settle(process)
    return told


def command(place: Place, *words: str) -> float:
    """Seconds of CPU; where it fails it says why on standard error, and no number meets its goal.

    `status` ends with 1 where it has problems to tell.
    """
    before = os.times()
    done = subprocess.run(
        [*PYTHON, "snaprotd", *words, "--config", str(place.config)],
        capture_output=True,
        env=environment(VPS_API_TOKEN=TOKEN),
        timeout=PATIENCE,
        check=False,
    )
    after = os.times()
    if done.returncode not in (0, 1) or not done.stdout:
        print(f"{' '.join(words)}: {done.stderr.decode()}", file=sys.stderr)
        return math.nan
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    print(json.dumps(look_after(int(sys.argv[1]) if sys.argv[1:] else LARGEST), indent=1))
