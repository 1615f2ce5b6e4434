"""All servers are rotated at once by a real process, and by programs that do no more than that; starts after a kill."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.extent import Extent
from bench.processes import FASTEST, PATIENCE, PYTHON, capacity, cpu_of, has_begun, recorded, snaprotd, stand_in, until
from bench.table import Figures, Row
from snaprotd.config import file as config
from tests.support.fleet import KEPT, Fleet, an_account
from tests.support.interrupted import hold_off, leave_open
from tests.support.quick_account import FIRST_SERVER, TOKEN

POWER_SECONDS = 1.0
LONG = 3600.0

ROWS = (
    Row(
        what="CPU a rotation, all at once, in terms of bare asyncio httpx",
        key="times_bare",
        goals={1000: 2},
        of_each=True,
    ),
    Row(what="- in terms of a script on httpx, one request after the other", key="times_sequential", of_each=True),
    Row(what="- in terms of a `curl` a request", key="times_curl", of_each=True),
    Row(what="- ms", key="cpu_ms", form=".1f", of_each=True),
    Row(what="- rotations that did not succeed", key="failed", goals={1000: 0}, form="d"),
    Row(what="- requests, in terms of the least possible", key="times_least", goals={1000: 1.3}, of_each=True),
    Row(what="- slots of one minute: seconds until all are claimed", key="claimed", goals={1000: 2}),
    Row(what="- seconds until the first request, p99", key="first_p99", goals={1000: 1}),
    Row(what="- load on the stand-in, % of what it carries alone", key="load", goals={1000: 10}, form=".1f"),
    Row(
        what="as after a kill -9, all off: seconds until the last start that is due", key="last_start", goals={1000: 5}
    ),
    Row(what="- requests before it that change something else", key="changes_before", goals={1000: 0}, form="d"),
    Row(what="- looks before it", key="looks_before", form="d"),
)


def figures(extent: Extent) -> Figures:
    told: Figures = {}
    for servers in extent.at_once:
        scale = Scale(servers=servers, snapshot_seconds=extent.snapshot_seconds)
        own, carries = by_snaprotd(scale), carried(scale)
        told[servers] = {
            **{key: own[key] for key in ("cpu_ms", "times_least", "claimed", "first_p99")},
            "times_bare": own["cpu_ms"] / by_another("bare", scale)["cpu_ms"],
            "failed": servers - own["succeeded"],
            "load": 100 * own["load"] / carries,
            **recovery(scale),
        }
    scale = Scale(servers=extent.beside_scripts, snapshot_seconds=extent.snapshot_seconds)
    for way in ("sequential", "curl") if shutil.which("curl") else ("sequential",):
        its = told[scale.servers]
        its[f"times_{way}"] = its["cpu_ms"] / by_another(way, scale)["cpu_ms"]
    return told


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the measurement is on real processes."""

    servers: int
    snapshot_seconds: float

    @property
    def poll_interval(self) -> float:
        """As the usual one is to a snapshot of five minutes."""
        return self.snapshot_seconds / 20

    @property
    def fleet(self) -> Fleet:
        return Fleet(servers=self.servers, max_concurrent=self.servers, requests_per_second=FASTEST)


def carried(scale: Scale) -> float:
    """Requests a second that the stand-in carries alone."""
    with stand_in(servers=scale.servers) as provider:
        return capacity(provider, [FIRST_SERVER])


def by_snaprotd(scale: Scale) -> dict[str, Any]:
    """All servers have their slot in one minute, and may all be at work at once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_in(servers=scale.servers, snapshot_seconds=scale.snapshot_seconds) as provider,
    ):
        slot = _next_minute(ahead=8 + scale.servers / 40)
        at = datetime.fromtimestamp(slot, UTC)
        entries = [_entry(number, f"{at.minute} {at.hour} * * *") for number in range(scale.servers)]
        config, ledger = _configure(Path(folder), provider.base_url, scale, entries), Path(folder) / "state.db"
        with snaprotd(config) as process:
            until(lambda: has_begun(config), what="the daemon to run")
            assert time.time() < slot, "the daemon began too late"
            time.sleep(slot - time.time())
            before = cpu_of(process)
            claims = _claims(ledger, scale.servers)
            until(lambda: not any(one.is_open for one in recorded(ledger)), what="the last rotation to end")
            used, seconds = cpu_of(process) - before, time.time() - slot
        asked = [one for one in provider.told("journal") if one[0] >= slot]
        succeeded = sum(one.result == "success" for one in recorded(ledger))
    begun = sorted(_first_request(asked, server, at) - slot for server, at in claims.items())
    return {
        **_figures(scale, asked, seconds, used),
        "succeeded": succeeded,
        "claimed": max(claims.values()) - slot,
        "first_p50": begun[len(begun) // 2],
        "first_p99": quantiles(begun, n=100, method="inclusive")[-1],
    }


def _claims(ledger: Path, number: int) -> dict[int, float]:
    """When the rotation of each server stood in the ledger, within a twentieth of a second."""
    claims: dict[int, float] = {}

    def look() -> bool:
        now = time.time()
        for one in recorded(ledger):
            claims.setdefault(one.server, now)
        return len(claims) >= number

    until(look, what="all slots to be claimed", every=0.05)
    return claims


def _first_request(asked: list[Any], server: int, claimed_at: float) -> float:
    """When a request went out after its claim that may have been for this server: by name, or a list of all.

    The last of all where there was none: its rotation has failed before.
    """
    fitting = (float(at) for at, _, of, _ in asked if at >= claimed_at and of in (None, server))
    return next(fitting, float(asked[-1][0]))


def by_another(way: str, scale: Scale) -> dict[str, Any]:
    """The same work by one of `programs`."""
    with stand_in(servers=scale.servers, snapshot_seconds=scale.snapshot_seconds) as provider:
        command = [*PYTHON, "bench.programs", way, provider.base_url, TOKEN, str(scale.poll_interval)]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=PATIENCE).stdout)
        asked = provider.told("journal")
        succeeded = min(provider.count("delete"), provider.count("create"))
    return {**_figures(scale, asked, told["seconds"], told["cpu"]), "succeeded": succeeded}


def _figures(scale: Scale, asked: list[Any], seconds: float, cpu: float) -> dict[str, Any]:
    return {
        "requests": len(asked),
        "per_rotation": len(asked) / scale.servers,
        "times_least": len(asked) / scale.fleet.least,
        "seconds": seconds,
        "cpu_ms": 1000 * cpu / scale.servers,
        "load": len(asked) / seconds,
        "kinds": dict(Counter(kind for _, kind, _, _ in asked).most_common()),
    }


def recovery(scale: Scale) -> dict[str, Any]:
    """A daemon begins as after a kill -9: all servers are off, and half of their snapshots are done."""
    due, now = scale.servers // 2, datetime.now(UTC)
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_in(servers=scale.servers, snapshot_seconds=LONG, power_seconds=POWER_SECONDS) as provider,
    ):
        entries = [_entry(number, "0 12 1 7 *") for number in range(scale.servers)]
        path = _configure(Path(folder), provider.base_url, scale, entries, stop_first=True)
        provider.told("hold-off", json.dumps([due, now.timestamp()]))
        account = an_account(scale.fleet)
        hold_off(account, due=due, now=now)
        asyncio.run(leave_open(config.load(path, {}), account, now=now))
        began = time.time()
        with snaprotd(path) as process:
            until(lambda: provider.count("start") >= due, what="the starts that are due")
            used = cpu_of(process)
        asked = [one for one in provider.told("journal") if one[0] >= began]
    starts = [at for at, kind, _, _ in asked if kind == "start"][:due]
    others = [kind for at, kind, _, _ in asked if at < starts[-1] and kind not in ("start", "account")]
    return {
        "first_start": starts[0] - began,
        "last_start": starts[-1] - began,
        "cpu": used,
        "looks_before": len(others),
        "changes_before": sum(kind in ("create", "delete", "stop") for kind in others),
    }


# -- the configuration -------------------------------------------------------------------------------------------


def _next_minute(*, ahead: float) -> float:
    """The first full minute that is so many seconds ahead at the least."""
    return -(-(time.time() + ahead) // 60) * 60


def _entry(number: int, schedule: str) -> dict[str, Any]:
    return {"id": FIRST_SERVER + number, "schedule": schedule, "timezone": "UTC"}


def _configure(folder: Path, base_url: str, scale: Scale, entries: list[dict[str, Any]], **defaults: Any) -> Path:
    text: Mapping[str, Any] = {
        "api": {"base_url": base_url, "requests_per_second": FASTEST},
        "state": str(folder / "state.db"),
        "poll_interval": f"{int(1000 * scale.poll_interval)}ms",
        "max_concurrent": scale.servers,
        "listen": "off",
        "own_server": "none",
        "defaults": {"keep": KEPT, **defaults},
        "servers": entries,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(text))
    return path
