"""The table of docs/metrics.md, made from what a daemon tells that looks after one server and knows all of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from snaprotd.core.fleet import Replica
from snaprotd.core.fleet.looks import Fleet
from snaprotd.core.model import Owner, SnapshotState
from snaprotd.core.rotation import Result
from snaprotd.engine.board import Board, Holdings, ServerFacts
from snaprotd.observe.metrics import Metrics
from snaprotd.observe.series import SKIPPED

SOME_TIME = datetime(2025, 1, 16, 8, tzinfo=UTC)
INFO = {"info": "gauge", "unknown": "gauge"}
"""How Prometheus sees them."""


def filled() -> Metrics:
    """The metrics of which none is absent."""
    board = Board()
    metrics = Metrics(board)
    board.servers["web-01"] = ServerFacts(
        "12345",
        server_name="web",
        next_run=SOME_TIME,
        expected_interval=86400.0,
        last_attempt=SOME_TIME,
        last_success=SOME_TIME,
        last_failure=SOME_TIME,
        last_partial=SOME_TIME,
        last_missed=SOME_TIME,
        missing=True,
        holdings=Holdings(
            counts={(owner, state): 1 for owner in Owner for state in SnapshotState},
            newest_completed=SOME_TIME,
            newest_size_mb=5120,
            blocked=True,
            prune_pending=1,
            holds=(date.max,),
        ),
        start_failures=1,
        rotations=dict.fromkeys(Result, 1),
        skipped=dict.fromkeys(SKIPPED, 1),
        missed={"ran_late": 1, "skipped": 1},
    )
    board.inventory_listed_at = SOME_TIME
    board.ledger_writable = True
    board.dropped = {"12345": "web-01"}
    me = Replica(id="2f0c", beat=1, version="1.0.0", config="9f86d081884c", generation=1, host="snap-1")
    board.fleet = Fleet.alone(me)
    metrics.requests.request("GET", "/servers/", "200", 0.1)
    metrics.requests.retry("429")
    for channel in ("webhook", "email", "ping", "run", "heartbeat"):
        metrics.notifications.expect(channel)
    return metrics


def families() -> list[Metric]:
    """As whoever scrapes it reads it."""
    told = text_string_to_metric_families(b"".join(filled().exposition()).decode())
    return [family for family in told if not family.name.endswith("_created")]


def name_of(family: Metric) -> str:
    """As Prometheus has it."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def metrics_table() -> str:
    """Every metric, in the order of the exposition, as Markdown."""
    ours = [family for family in families() if family.name.startswith("snaprotd_")]
    return "\n".join(["| name | type | labels | meaning |", "|---|---|---|---|", *map(_row, ours), ""])


def _row(family: Metric) -> str:
    kind = INFO.get(family.type, family.type)
    return f"| `{name_of(family)}` | {kind} | {', '.join(labels_of(family))} | {family.documentation} |"


def labels_of(family: Metric) -> list[str]:
    """The labels, each with its values where there are several for one server."""
    found = dict.fromkeys(name for sample in family.samples for name in sample.labels if name != "le")
    names = sorted(found, key=lambda name: name != "server")
    return [_label(name, (sample.labels.get(name, "") for sample in family.samples)) for name in names]


def _label(name: str, values: Iterable[str]) -> str:
    found = [*dict.fromkeys(values)]
    return f"`{name}`" + (f" ({', '.join(found)})" if len(found) > 1 else "")
