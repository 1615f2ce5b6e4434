"""`make bench`: one table, of snaprotd beside three programs that do the same work on the same stand-in."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench import ledger
from bench.measures import Figures, Scale, by_another, by_snaprotd, carried, in_virtual_time, recovery
from bench.programs import WAYS
from bench.replicas import SEVERAL
from bench.replicas import figures as on_postgresql
from snaprotd import __version__
from tests.support.fleet import Fleet

RESULTS = Path(__file__).parent / "results"

OTHERS = tuple(way for way in WAYS if way != "curl" or shutil.which("curl"))

NAMES = {"bare": "bare asyncio httpx", "sequential": "httpx, one after the other", "curl": "curl a request"}

ENOUGH = 10
"""Times the load that is put on it: so much must the stand-in carry, or it is measured too."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: of real processes, and of each night in virtual time."""

    real: Scale
    nights: Mapping[str, Mapping[str, Any]]
    replicas: Mapping[str, int]
    """Of `bench.replicas`."""
    at_once: int
    """Nights that run beside each other, a processor each."""


def nights(at_once: int, usual: int, large: int, due: int, slow: int) -> dict[str, dict[str, Any]]:
    known: dict[str, Any] = {"has_past": True}
    return {
        "past": {"servers": at_once, "max_concurrent": at_once, "requests_per_second": 1000.0, "nights": 2},
        "usual": {**known, "servers": usual, "apart": 86400.0},
        "stopped": {**known, "servers": usual, "stop_first": True, "max_concurrent": usual, "apart": 86400.0},
        "large": {**known, "servers": large, "due": due},
        "slow": {**known, "servers": slow, "stop_first": True, "allowed": 3, "apart": 86400.0},
    }


CORES = os.cpu_count() or 1
QUICK = Size(
    real=Scale(servers=60, snapshot_seconds=6),
    nights=nights(24, 40, 200, 8, 20),
    replicas={"servers": 200, "killed": 0},
    at_once=min(CORES, 2),
)
WHOLE = Size(
    real=Scale(servers=1000, snapshot_seconds=60),
    nights=nights(1000, 1000, 10_000, 100, 100),
    replicas={"servers": 1000, "killed": 20},
    at_once=min(CORES, 2),
)

Row = dict[str, str]


def measured(size: Size) -> dict[str, Figures]:
    """The figures of each measurement by its name. Those of processors are taken while nothing else runs."""
    told: dict[str, Figures] = {"stand-in": {"carries": _say("the stand-in alone", partial(carried, size.real))}}
    for way in OTHERS:
        told[way] = _say(way, partial(by_another, way, size.real))
    told["snaprotd"] = _say("snaprotd", partial(by_snaprotd, size.real))
    told["recovery"] = _say("recovery", partial(recovery, size.real))
    told["ledger"] = _say("the ledger alone", ledger.figures)
    told["replicas"] = _say("replicas on PostgreSQL", partial(on_postgresql, **size.replicas))
    with ThreadPoolExecutor(size.at_once) as pool:
        running: dict[str, Future[Figures]] = {
            name: pool.submit(_say, f"a night in virtual time: {name}", partial(in_virtual_time, **fleet))
            for name, fleet in size.nights.items()
        }
        told |= {name: future.result() for name, future in running.items()}
    return told


def _say(what: str, measure: Callable[[], Any]) -> Any:
    """Measure, and say on standard error that it is being done."""
    print(f"{datetime.now():%H:%M:%S} {what}", file=sys.stderr, flush=True)  # noqa: DTZ005 - for who waits
    return measure()


# -- the table ---------------------------------------------------------------------------------------------------


def rows(size: Size, told: Mapping[str, Figures]) -> list[Row]:
    real, own = size.real.servers, told["snaprotd"]

    def of_all(what: str, key: str, form: str, goal: str = "") -> Row:
        return {"what": what, **{one: format(told[one][key], form) for one in ("snaprotd", *OTHERS)}, "goal": goal}

    def of_ours(what: str, value: str, goal: str) -> Row:
        return {"what": what, "snaprotd": value, **dict.fromkeys(OTHERS, "-"), "goal": goal}

    back = told["recovery"]
    return [
        of_all(f"{real} servers at once: rotations that succeeded", "succeeded", "d", str(real)),
        of_all("- requests a rotation", "per_rotation", ".2f"),
        of_all("- in terms of the least possible", "times_least", ".2f", "<= 1.3"),
        of_all("- seconds in all", "seconds", ".1f"),
        of_all("- processor, ms a rotation (user and system)", "cpu_ms", ".1f", "near bare"),
        of_ours(f"{real} slots in one minute: all claimed after", f"{own['claimed']:.2f} s", "<= 2 s"),
        of_ours("- first request, p50 / p99", f"{own['first_p50']:.2f} / {own['first_p99']:.2f} s", "p99 <= 1 s"),
        of_ours(
            f"{real} open rotations, as after a kill -9: the {real // 2} starts that are due asked after",
            f"{back['last_start']:.1f} s, the first after {back['first_start']:.1f} s",
            "<= 5 s",
        ),
        of_ours(
            "- before the last of them: requests that changed something else; looks",
            f"{back['changes_before']}; {back['looks_before'] - back['changes_before']}",
            "0; few",
        ),
        *[of_ours(*line) for line in ledger.rows(told["ledger"])],
        *[of_ours(*line) for line in of_replicas(told["replicas"])],
        *[of_ours(*line(Fleet(**size.nights[name]), told[name])) for name, line in VIRTUAL.items()],
    ]


def of_replicas(told: Figures) -> list[tuple[str, str, str]]:
    if "missing" in told:
        return [("replicas on PostgreSQL", told["missing"], "-")]
    return [
        (
            f"PostgreSQL: claims a second, 1 replica / {SEVERAL} together",
            f"{told['one']:.0f} / {told['several']:.0f}",
            "-",
        ),
        (
            "- after kill -9, until another one has the rotation, p50 / worst",
            f"{told['taken_p50']:.0f} / {told['taken_worst']:.0f} s" if "taken_p50" in told else "not in a quick run",
            "<= 95 s",
        ),
        (
            "- round trips to the database: a claim; a save; a renewal of all",
            f"{told['trips_claim']}; {told['trips_save']}; {told['trips_renewal']}",
            "-",
        ),
        (
            "- of a whole rotation; with `stop_first`",
            f"{told['trips_rotation']}; {told['trips_rotation_off']}",
            "-",
        ),
    ]


def of_a_night(what: str, goal: str, figures: Callable[[Fleet, Figures], str]) -> Callable[..., tuple[str, str, str]]:
    def line(fleet: Fleet, told: Figures) -> tuple[str, str, str]:
        value = told["failed"] if "failed" in told else figures(fleet, told)
        return f"{what.format(fleet=fleet)} *", value, goal.format(least=fleet.least / fleet.rotations, need=fleet.need)

    return line


def _off(told: Figures) -> str:
    return f"off {told['downtime_median']:.0f} / {told['downtime_worst']:.0f} s"


VIRTUAL: Mapping[str, Callable[..., tuple[str, str, str]]] = {
    "past": of_a_night(
        "{fleet.servers} at once, the second night: requests a rotation, in terms of the least",
        "<= 1.3",
        lambda _, told: f"{told['per_rotation']:.2f}, {told['times_least']:.2f} x",
    ),
    "usual": of_a_night(
        "{fleet.servers} at 5 a second, 20 at one time: requests a rotation; time in terms of servers x 300 s / 20",
        "<= 9; <= 1.05 x",
        lambda fleet, told: f"{told['per_rotation']:.1f}; {told['seconds'] / (fleet.rotations * 15):.2f} x",
    ),
    "stopped": of_a_night(
        "{fleet.servers} with stop_first at 5 a second, all at one time: servers off, median / worst",
        "<= 1.1 x {need:.0f} / {need:.0f} + 20 s",
        lambda _, told: _off(told),
    ),
    "large": of_a_night(
        "{fleet.servers} servers, {fleet.due} due: requests a rotation",
        "<= 1.3 x {least:.1f}",
        lambda _, told: f"{told['per_rotation']:.1f}, {told['times_least']:.2f} x",
    ),
    "slow": of_a_night(
        "{fleet.servers} with stop_first, a provider that lets 3 a second through: refused after a minute; servers off",
        "<= 2 %; <= {need:.0f} + 20 s",
        lambda _, told: f"{100 * told['refused_after_a_minute']:.1f} %; {_off(told)}",
    ),
}


def heading(size: Size, told: Mapping[str, Figures]) -> str:
    carries = told["stand-in"]["carries"]
    loads = {one: carries / told[one]["load"] for one in ("snaprotd", *OTHERS)}
    less = ", ".join(f"{one} ({times:.0f})" for one, times in loads.items() if times < ENOUGH)
    size_told = "" if size is WHOLE else " **A quick run: smaller than it should be.**"
    return (
        f"snaprotd {__version__}, Python {platform.python_version()}, {CORES} processors, "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC.{size_told}\n\n"
        f"The stand-in alone: {carries:.0f} requests a second. Times the load that was put on it: "
        f"{', '.join(f'{one} {times:.0f}' for one, times in loads.items())}."
        + (f" **Less than {ENOUGH}, so it is measured too: {less}.**" if less else "")
        + f"\n\nReal processes: snapshots take {size.real.snapshot_seconds:g} s, and are looked at every "
        f"{size.real.poll_interval:g} s. * in virtual time: snapshots take 300 s, each switch of the power 30 s, every "
        "figure is exact.\n"
    )


def as_markdown(size: Size, told: Mapping[str, Figures]) -> str:
    columns = ["what", "snaprotd", *(NAMES[one] for one in OTHERS), "goal"]
    lines = [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(row.values())} |" for row in rows(size, told)),
    ]
    return heading(size, told) + "\n" + "\n".join(lines) + "\n"


def main() -> None:
    size = QUICK if os.environ.get("QUICK") else WHOLE
    told = measured(size)
    table, value = as_markdown(size, told), json.dumps({"rows": rows(size, told), "figures": told}, indent=1)
    RESULTS.mkdir(exist_ok=True)
    for ending, text in {"md": table, "json": value}.items():
        (RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{ending}").write_text(text)
    print(f"{table}\n```json\n{value}\n```")


if __name__ == "__main__":
    main()
