"""The metrics: every name, type and label, what moves each of them, and when a series is absent rather than 0.

One daemon lives through a night in which everything happens once; most tests read what it then exposes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from math import inf
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from snaprotd import __version__
from snaprotd.core.holds import FOREVER
from snaprotd.core.rotation import STEPS
from snaprotd.engine.board import Board, Holdings, ServerFacts
from snaprotd.observe.metrics import Metrics
from snaprotd.simulator import Fault, World
from tests.support.daemons import COUNTED, LEFT_OUT, Watched, daemon_on, write_config
from tests.support.metrics_table import filled
from tests.support.virtual_time import START, run_virtually

Labels = Mapping[str, str]

METRICS: list[tuple[str, str, set[str]]] = [
    ("snaprotd_notifications_total", "counter", {"channel", "result"}),
    ("snaprotd_notifications_pending", "gauge", set()),
    ("snaprotd_build_info", "gauge", {"version"}),
    ("snaprotd_config_last_reload_successful", "gauge", set()),
    ("snaprotd_config_last_reload_success_timestamp_seconds", "gauge", set()),
    ("snaprotd_scheduler_last_tick_timestamp_seconds", "gauge", set()),
    ("snaprotd_next_run_timestamp_seconds", "gauge", {"server"}),
    ("snaprotd_expected_interval_seconds", "gauge", {"server"}),
    ("snaprotd_schedule_lateness_seconds", "histogram", set()),
    ("snaprotd_missed_slots_total", "counter", {"server", "action"}),
    ("snaprotd_rotations_total", "counter", {"server", "result"}),
    ("snaprotd_rotations_skipped_total", "counter", {"server", "reason"}),
    ("snaprotd_rotations_in_progress", "gauge", {"step"}),
    ("snaprotd_attempts_total", "counter", {"kind", "result"}),
    ("snaprotd_rotation_duration_seconds", "histogram", set()),
    ("snaprotd_last_attempt_timestamp_seconds", "gauge", {"server"}),
    ("snaprotd_last_success_timestamp_seconds", "gauge", {"server"}),
    ("snaprotd_last_failure_timestamp_seconds", "gauge", {"server"}),
    ("snaprotd_last_partial_timestamp_seconds", "gauge", {"server"}),
    ("snaprotd_last_missed_timestamp_seconds", "gauge", {"server"}),
    ("snaprotd_snapshots", "gauge", {"server", "owner", "state"}),
    ("snaprotd_snapshot_limit", "gauge", set()),
    ("snaprotd_newest_completed_timestamp_seconds", "gauge", {"server"}),
    ("snaprotd_newest_completed_size_bytes", "gauge", {"server"}),
    ("snaprotd_blocked", "gauge", {"server"}),
    ("snaprotd_prune_pending", "gauge", {"server"}),
    ("snaprotd_held", "gauge", {"server"}),
    ("snaprotd_hold_until_timestamp_seconds", "gauge", {"server"}),
    ("snaprotd_deletions_total", "counter", {"result"}),
    ("snaprotd_inventory_last_success_timestamp_seconds", "gauge", set()),
    ("snaprotd_ledger_writable", "gauge", set()),
    ("snaprotd_server_stopped_by_us", "gauge", {"server"}),
    ("snaprotd_server_dropped", "gauge", {"server"}),
    ("snaprotd_server_downtime_seconds", "histogram", set()),
    ("snaprotd_server_start_failures_total", "counter", {"server"}),
    ("snaprotd_server_info", "gauge", {"server", "server_id", "server_name"}),
    ("snaprotd_server_missing", "gauge", {"server"}),
    ("snaprotd_api_requests_total", "counter", {"method", "endpoint", "code"}),
    ("snaprotd_api_request_duration_seconds", "histogram", set()),
    ("snaprotd_api_retries_total", "counter", {"reason"}),
    ("snaprotd_api_rate", "gauge", set()),
    ("snaprotd_api_throttle_wait_seconds_total", "counter", set()),
    ("snaprotd_api_auth_failures_total", "counter", set()),
    ("snaprotd_log_dropped_total", "counter", set()),
    ("snaprotd_replicas", "gauge", {"config"}),
    ("snaprotd_replicas_lost", "gauge", set()),
    ("snaprotd_replica_info", "gauge", {"replica", "version", "config"}),
]

PER_SERVER = {name for name, _, labels in METRICS if "server" in labels}
OF_A_SUCCESS = (PER_SERVER - LEFT_OUT | {"snaprotd_rotations_total", "snaprotd_snapshots"}) - {
    "snaprotd_last_failure_timestamp_seconds",
    "snaprotd_last_partial_timestamp_seconds",
    "snaprotd_last_missed_timestamp_seconds",
    "snaprotd_hold_until_timestamp_seconds",
    "snaprotd_server_dropped",
}
"""What is shown of a server whose rotations have all succeeded, and on which nothing is held."""
HAS_ONE = {
    "snaprotd_snapshots",
    "snaprotd_newest_completed_timestamp_seconds",
    "snaprotd_newest_completed_size_bytes",
}
"""What the provider's list tells of each server that has a snapshot of ours."""
FROM_THE_LIST = HAS_ONE | {
    "snaprotd_blocked",
    "snaprotd_prune_pending",
    "snaprotd_held",
    "snaprotd_server_missing",
    "snaprotd_server_dropped",
}
"""Of each server, what only the provider's list can tell."""

FIRST_LIST = 10.0
"""Seconds after which the first list has been read."""
NEXT_LIST = 70.0
"""Seconds after which a list has been read once more."""
RELOADED = 5.0
"""Seconds after which a new configuration file is in force."""

OLD = ("snaprotd-main-20250114T033000Z", "snaprotd-main-20250115T033000Z")


class Exposition:
    """What Prometheus would scrape, parsed."""

    def __init__(self, watched: Watched) -> None:
        self.at = datetime.now(UTC)
        self.text = b"".join(watched.daemon.view.exposition()).decode()
        self.families = dict(_named(self.text))

    def value(self, name: str, labels: Labels | None = None) -> float | None:
        """One series' value; None where it is not known, and 0 where it is left out as it was never anything else."""
        labels = labels or {}
        absent = 0 if name in LEFT_OUT and self._is_known(name, labels["server"]) else None
        return self.of(name).get(frozenset(labels.items()), absent)

    def _is_known(self, name: str, label: str) -> bool:
        return ("snaprotd_server_info" if name in COUNTED else "snaprotd_snapshots") in self.about(label)

    def of(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """The values of one sample's name, by its labels."""
        samples = [sample for family in self.families.values() for sample in family.samples if sample.name == name]
        return {frozenset(sample.labels.items()): sample.value for sample in samples}

    def buckets(self, name: str) -> dict[float, float]:
        """The counts of a histogram by their upper bounds."""
        return {float(dict(labels)["le"]): value for labels, value in self.of(f"{name}_bucket").items()}

    def about(self, label: str) -> set[str]:
        """The names of all metrics that have a series of this server."""
        families = self.families.items()
        return {name for name, family in families if any(one.labels.get("server") == label for one in family.samples)}


def _named(text: str) -> Iterator[tuple[str, Metric]]:
    """Families by the names that they are asked for by: the parser takes `_total` off the counters'."""
    for family in text_string_to_metric_families(text):
        # prometheus_client adds these by itself.
        if not family.name.endswith("_created") and not family.name.startswith("process_"):
            yield family.name + ("_total" if family.type == "counter" else ""), family


# -- a night in which everything happens -------------------------------------------------------------------------

NIGHTLY = 'schedule: ["30 3 * * *", "5 4 * * *"], keep: 2'


@dataclass(frozen=True, kw_only=True)
class Night:
    before: Exposition
    """Right after the start, before anything was listed."""
    after: Exposition
    world: World
    ids: Mapping[str, str]
    """The servers' ids by our labels."""


def _servers(ids: Mapping[str, str]) -> str:
    entries = {
        "good": NIGHTLY,
        "stopped": f"{NIGHTLY}, stop_first: true",
        "unlucky": f"{NIGHTLY}, retry: {{times: 0}}",
        "cluttered": f"{NIGHTLY}",
        "paused": f"{NIGHTLY}, paused: true, missed: skip",
        "patient": f"{NIGHTLY}, missed: skip",
        "busy": 'schedule: "*/5 * * * *", snapshot_timeout: 16m',
    }
    return "[" + ", ".join(f"{{id: {ids[name]}, name: {name}, {policy}}}" for name, policy in entries.items()) + "]"


def _account() -> tuple[World, dict[str, str]]:
    """The servers, each with its fate."""
    world = World(snapshot_seconds=(30, 60))
    names = ("good", "stopped", "unlucky", "cluttered", "paused", "patient", "busy")
    ids = {name: world.add_server(f"account-{name}") for name in names}
    for name in ("good", "cluttered"):
        for day, old in zip((14, 15), OLD, strict=True):
            world.add_snapshot(ids[name], old, created_at=datetime(2025, 1, day, 3, 30, tzinfo=UTC))
    world.add_snapshot(ids["patient"], f"{OLD[0]}-until-20250131", created_at=datetime(2025, 1, 14, 3, 30, tzinfo=UTC))
    undeletable = next(one.id for one in world.snapshots_of(ids["cluttered"]))
    world.faults = [
        Fault(kind="start_never", server_id=ids["stopped"], action="start", times=2),
        Fault(kind="status", status=401, server_id=ids["unlucky"], method="POST"),
        Fault(kind="ends", word="failed", server_id=ids["unlucky"], method="POST"),
        Fault(kind="status", method="DELETE", path=f"/snapshots/{undeletable}/", times=None),
        Fault(kind="stuck", server_id=ids["busy"], method="POST"),
        Fault(kind="status", status=429, retry_after="7", method="GET", path="/servers/"),
        Fault(kind="hang", method="GET", path="/servers/", skip=5),
        Fault(kind="cut", method="GET", path="/servers/", skip=5),
        Fault(kind="huge", method="GET", path="/servers/", skip=5),
    ]
    return world, ids


async def _live(folder: Path) -> Night:
    """Two minutes of one daemon, an hour without any, and then a daemon from 03:55:30 to 04:12:30."""
    world, ids = _account()
    path = write_config(folder, f"{_servers(ids)}\nnotify: [{{run: [/etc/snaprotd/run/not-there]}}]")
    faults, world.faults = world.faults, []
    async with daemon_on(path, world):
        await asyncio.sleep(120)
    await asyncio.sleep((START + timedelta(minutes=55.5) - datetime.now(UTC)).total_seconds())
    world.faults = faults
    async with daemon_on(path, world) as watched:
        before = Exposition(watched)
        await asyncio.sleep(17 * 60)
        return Night(before=before, after=Exposition(watched), world=world, ids=ids)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return run_virtually(_live(tmp_path_factory.mktemp("night")))


ALL = dict(_named(b"".join(filled().exposition()).decode()))
"""All that there may be of one server, none of it 0."""


@pytest.mark.parametrize(("name", "kind", "labels"), METRICS, ids=[name for name, _, _ in METRICS])
def test_every_metric_has_its_name_type_and_labels(night: Night, name: str, kind: str, labels: set[str]) -> None:
    family = night.after.families[name]
    assert family.type == kind
    assert family.documentation.endswith(".")
    found = {frozenset(sample.labels.keys() - {"le"}) for sample in (*family.samples, *ALL[name].samples)}
    assert found == {frozenset(labels)}


def test_there_are_no_other_metrics(night: Night) -> None:
    assert set(night.after.families) == {name for name, _, _ in METRICS}


def test_no_series_is_exposed_twice(night: Night) -> None:
    series = [line.rpartition(" ")[0] for line in night.after.text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series)) > 100


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        ("snaprotd_build_info", "version", {__version__}),
        ("snaprotd_missed_slots_total", "action", {"ran_late", "skipped"}),
        ("snaprotd_rotations_total", "result", {"success", "failure", "partial"}),
        ("snaprotd_rotations_skipped_total", "reason", {"in_flight", "paused", "window", "group", "rate"}),
        ("snaprotd_rotations_in_progress", "step", {*STEPS[:-1]}),
        ("snaprotd_snapshots", "owner", {"managed", "foreign"}),
        ("snaprotd_snapshots", "state", {"completed", "in_progress", "failed", "unknown"}),
        ("snaprotd_deletions_total", "result", {"success", "failure"}),
        ("snaprotd_api_requests_total", "method", {"GET", "POST", "DELETE"}),
        (
            "snaprotd_api_requests_total",
            "endpoint",
            {"/account/me/", "/servers/", "/servers/{id}/", "/servers/{id}/power/", "/snapshots/", "/snapshots/{id}/"},
        ),
        (
            "snaprotd_api_requests_total",
            "code",
            {"200", "201", "204", "401", "429", "500", "timeout", "connection", "unreadable"},
        ),
        ("snaprotd_api_retries_total", "reason", {"429", "500", "timeout", "connection", "unreadable"}),
    ],
)
def test_a_label_has_these_values_and_no_other(night: Night, name: str, label: str, values: set[str]) -> None:
    told = {one.labels[label] for one in ALL[name].samples} if name in PER_SERVER else set()
    assert {dict(labels)[label] for labels in night.after.of(name)} | told == values


NEVER_SUCCEEDED = {"unlucky", "cluttered", "paused", "busy"}
NEVER_FAILED = {"good", "stopped", "cluttered", "paused", "patient"}
NEVER_COMPLETED = {"unlucky", "paused", "busy"}
ABSENT = {
    "snaprotd_next_run_timestamp_seconds": {"paused"},
    "snaprotd_expected_interval_seconds": {"paused"},
    "snaprotd_last_failure_timestamp_seconds": NEVER_FAILED,
    "snaprotd_last_partial_timestamp_seconds": (NEVER_SUCCEEDED | NEVER_FAILED) - {"cluttered"},
    "snaprotd_last_missed_timestamp_seconds": (NEVER_SUCCEEDED | NEVER_FAILED) - {"patient", "paused", "busy"},
    "snaprotd_last_attempt_timestamp_seconds": {"paused"},
    "snaprotd_last_success_timestamp_seconds": NEVER_SUCCEEDED,
    "snaprotd_newest_completed_timestamp_seconds": NEVER_COMPLETED,
    "snaprotd_newest_completed_size_bytes": NEVER_COMPLETED,
    "snaprotd_hold_until_timestamp_seconds": (NEVER_SUCCEEDED | NEVER_FAILED) - {"patient"},
}


@pytest.mark.parametrize("name", sorted(PER_SERVER - LEFT_OUT - {"snaprotd_server_dropped"} | {"snaprotd_snapshots"}))
def test_every_server_has_each_series_but_those_of_what_never_was(night: Night, name: str) -> None:
    labels = {dict(series)["server"] for series in night.after.of(name)}
    assert labels == night.ids.keys() - ABSENT.get(name, set())


Expected = list[tuple[str, Labels, float]]


def counts(name: str, label: str, server: str | None, **values: float) -> Expected:
    """One row for each value of a label."""
    more = {} if server is None else {"server": server}
    return [(f"snaprotd_{name}", {label: key, **more}, value) for key, value in values.items()]


def ended(server: str, *, success: int = 0, failure: int = 0, partial: int = 0) -> Expected:
    return counts("rotations_total", "result", server, success=success, failure=failure, partial=partial)


def requests(method: str, endpoint: str, **codes: float) -> Expected:
    rows = counts("api_requests_total", "code", None, **codes)
    return [
        (name, {"code": row["code"].strip("_"), "method": method, "endpoint": endpoint}, count)
        for name, row, count in rows
    ]


def held(server: str, **states: float) -> Expected:
    all_states = {"completed": 0, "in_progress": 0, "failed": 0, "unknown": 0} | states
    rows = counts("snapshots", "state", server, **all_states)
    return [(name, {**labels, "owner": "managed"}, count) for name, labels, count in rows]


MOVED: Expected = [
    *ended("good", success=2),
    *ended("stopped", success=2),
    *ended("unlucky", failure=2),
    *ended("cluttered", partial=2),
    *ended("paused"),
    *ended("patient", success=1),
    *ended("busy", failure=1),
    *counts("rotations_skipped_total", "reason", "good", in_flight=0, paused=0, window=0, group=0, rate=0),
    *counts("rotations_skipped_total", "reason", "paused", in_flight=0, paused=1, window=0, group=0, rate=0),
    *counts("rotations_skipped_total", "reason", "busy", in_flight=3, paused=0, window=0, group=0, rate=0),
    *counts("missed_slots_total", "action", "good", ran_late=1, skipped=0),
    *counts("missed_slots_total", "action", "patient", ran_late=0, skipped=1),
    *counts("missed_slots_total", "action", "busy", ran_late=1, skipped=10),
    ("snaprotd_server_start_failures_total", {"server": "stopped"}, 2),
    ("snaprotd_server_start_failures_total", {"server": "good"}, 0),
    *counts("deletions_total", "result", None, success=3, failure=2),
    *held("good", completed=2),
    *held("unlucky", failed=1),
    *held("cluttered", completed=3),
    *held("busy", in_progress=1),
    *held("paused"),
    ("snaprotd_prune_pending", {"server": "good"}, 0),
    ("snaprotd_prune_pending", {"server": "cluttered"}, 1),
    ("snaprotd_prune_pending", {"server": "unlucky"}, 1),
    ("snaprotd_held", {"server": "good"}, 0),
    ("snaprotd_held", {"server": "patient"}, 1),
    ("snaprotd_hold_until_timestamp_seconds", {"server": "patient"}, datetime(2025, 2, 1, tzinfo=UTC).timestamp()),
    ("snaprotd_blocked", {"server": "good"}, 0),
    ("snaprotd_server_missing", {"server": "good"}, 0),
    ("snaprotd_server_stopped_by_us", {"server": "stopped"}, 0),
    ("snaprotd_expected_interval_seconds", {"server": "good"}, 23 * 3600 + 25 * 60),
    ("snaprotd_expected_interval_seconds", {"server": "busy"}, 300),
    ("snaprotd_snapshot_limit", {}, 5),
    ("snaprotd_config_last_reload_successful", {}, 1),
    ("snaprotd_ledger_writable", {}, 1),
    ("snaprotd_schedule_lateness_seconds_count", {}, 6 + 3),
    ("snaprotd_rotation_duration_seconds_count", {}, 10),
    ("snaprotd_attempts_total", {"kind": "scheduled", "result": "failure"}, 1),
    ("snaprotd_attempts_total", {"kind": "late", "result": "failure"}, 2),
    ("snaprotd_attempts_total", {"kind": "retry", "result": "success"}, 0),
    ("snaprotd_server_downtime_seconds_count", {}, 2),
    *requests("POST", "/snapshots/", _201=9, _401=1),
    *requests("POST", "/servers/{id}/power/", _200=2 + 4),
    *requests("DELETE", "/snapshots/{id}/", _204=3, _500=2 * 4),
    *requests("GET", "/servers/", _429=1, timeout=1, connection=1, unreadable=1),
    *counts("api_retries_total", "reason", None, timeout=1, connection=1, unreadable=1),
    ("snaprotd_api_retries_total", {"reason": "429"}, 1),
    ("snaprotd_api_retries_total", {"reason": "500"}, 2 * 3),
    ("snaprotd_api_auth_failures_total", {}, 1),
]


def _written(row: tuple[str, Labels, float]) -> str:
    return "-".join([row[0].removeprefix("snaprotd_"), *row[1].values()])


@pytest.mark.parametrize(("name", "labels", "value"), MOVED, ids=map(_written, MOVED))
def test_what_happens_moves_its_metric(night: Night, name: str, labels: Labels, value: float) -> None:
    assert night.after.value(name, labels) == value


def clock(hour: int, minute: int, second: int = 0, *, day: int = 16) -> float:
    return datetime(2025, 1, day, hour, minute, second, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("name", "server", "earliest", "latest"),
    [
        ("next_run", "good", clock(3, 30, day=17), clock(3, 30, day=17)),
        ("next_run", "busy", clock(4, 15), clock(4, 15)),
        ("last_attempt", "good", clock(4, 5), clock(4, 5, 1)),
        ("last_attempt", "busy", clock(3, 55, 30), clock(3, 55, 31)),
        ("last_failure", "unlucky", clock(4, 5, 30), clock(4, 6, 30)),
        ("last_failure", "busy", clock(4, 11, 30), clock(4, 12, 15)),
        ("last_partial", "cluttered", clock(4, 5, 30), clock(4, 6, 30)),
        ("last_missed", "patient", clock(3, 55, 30), clock(3, 55, 31)),
        ("last_success", "good", clock(4, 5, 30), clock(4, 6, 30)),
        ("config_last_reload_success", None, clock(3, 55, 30), clock(3, 55, 31)),
        ("scheduler_last_tick", None, clock(4, 12, 14), clock(4, 12, 31)),
        ("inventory_last_success", None, clock(4, 11, 20), clock(4, 12, 30)),
    ],
)
def test_a_timestamp_is_when_it_happened(
    night: Night, name: str, server: str | None, earliest: float, latest: float
) -> None:
    value = night.after.value(f"snaprotd_{name}_timestamp_seconds", {} if server is None else {"server": server})
    assert value is not None
    assert earliest <= value <= latest


def test_the_newest_completed_snapshot_is_shown_with_its_time_and_size(night: Night) -> None:
    newest = night.world.snapshots_of(night.ids["good"])[-1]
    assert newest.size_mb is not None
    made = night.after.value("snaprotd_newest_completed_timestamp_seconds", {"server": "good"})
    size = night.after.value("snaprotd_newest_completed_size_bytes", {"server": "good"})
    assert made == pytest.approx(newest.made_at.timestamp(), abs=0.01)
    assert size == newest.size_mb * 1024**2


def test_a_server_is_tied_to_the_account(night: Night) -> None:
    tied = {tuple(sorted(dict(labels).items())) for labels in night.after.of("snaprotd_server_info")}
    assert tied == {
        (("server", name), ("server_id", server_id), ("server_name", f"account-{name}"))
        for name, server_id in night.ids.items()
    }


def test_waiting_for_a_rate_limit_is_counted_in_seconds(night: Night) -> None:
    waited = night.after.value("snaprotd_api_throttle_wait_seconds_total")
    assert waited is not None
    assert waited >= 7


def test_the_downtime_is_from_the_stop_to_the_server_that_is_back(night: Night) -> None:
    moments = [(at, status) for at, status in night.world.servers[night.ids["stopped"]].history]
    stops = [at for at, status in moments if status == "stopping"]
    returns = [at for at, status in moments[1:] if status == "active"]
    true = sum((back - stop).total_seconds() for stop, back in zip(stops, returns, strict=True))
    poll = 15
    assert night.after.value("snaprotd_server_downtime_seconds_sum") == pytest.approx(true, abs=len(stops) * poll)


# -- histograms --------------------------------------------------------------------------------------------------

MINUTE, HOUR = 60.0, 3600.0


@pytest.mark.parametrize(
    ("name", "told_apart", "longest"),
    [
        # On time; after a busy moment; late enough to be looked into; nearly missed.
        ("schedule_lateness_seconds", [0.01, 2, 30, 10 * MINUTE], HOUR),
        # Refused at once; a snapshot alone; with a stop and a start; at the default time-outs of all steps.
        ("rotation_duration_seconds", [3, 4 * MINUTE, 12 * MINUTE, 45 * MINUTE], 2 * HOUR),
        ("server_downtime_seconds", [30, 4 * MINUTE, 12 * MINUTE, 45 * MINUTE], 2 * HOUR),
        # A quick answer, a usual one, a slow one, one near the default time-out.
        ("api_request_duration_seconds", [0.03, 0.2, 2, 25], 30),
    ],
)
def test_the_buckets_tell_apart_what_matters(night: Night, name: str, told_apart: list[float], longest: float) -> None:
    bounds = sorted(night.after.buckets(f"snaprotd_{name}"))
    assert all(low < high for low, high in pairwise(bounds))
    assert bounds[-1] == float("inf")
    assert bounds[-2] >= longest
    assert len({next(bound for bound in bounds if value <= bound) for value in told_apart}) == len(told_apart)
    assert 5 <= len(bounds) <= 20


@pytest.mark.parametrize("name", [name for name, kind, _ in METRICS if kind == "histogram"])
def test_a_histogram_adds_up(night: Night, name: str) -> None:
    buckets = night.after.buckets(name)
    in_order = [buckets[bound] for bound in sorted(buckets)]
    assert in_order == sorted(in_order)
    assert in_order[-1] == in_order[-2] == night.after.value(f"{name}_count") > 0  # type: ignore[operator]


def test_counts_of_the_same_things_agree(night: Night) -> None:
    requests = sum(night.after.of("snaprotd_api_requests_total").values())
    ended = sum(night.after.of("snaprotd_rotations_total").values())
    assert night.after.value("snaprotd_api_request_duration_seconds_count") == requests
    assert night.after.value("snaprotd_rotation_duration_seconds_count") == ended
    assert sum(night.after.of("snaprotd_attempts_total").values()) == ended


# -- absent, not 0 -----------------------------------------------------------------------------------------------


def test_before_the_first_list_nothing_is_told_of_what_is_in_it(night: Night) -> None:
    shown = {name for name, family in night.before.families.items() if family.samples}
    assert shown & FROM_THE_LIST == set()
    assert "snaprotd_inventory_last_success_timestamp_seconds" not in shown
    never = {"snaprotd_last_success_timestamp_seconds", "snaprotd_rotations_total"}
    assert shown >= OF_A_SUCCESS - FROM_THE_LIST - never


SOON = 'schedule: "1 3 * * *"'
LIVED = 2.5 * MINUTE
"""Seconds after which the rotation of such a server is over, and has been seen in the list."""


def one_server(name: str = "web", policy: str = SOON) -> str:
    return f"{{id: 12345, name: {name}, {policy}}}"


def configure(folder: Path, *entries: str) -> Path:
    path = write_config(folder, f"[{', '.join(entries)}]")
    path.write_text(f"{path.read_text()}discover_interval: 1m\n")
    return path


def account(*names: str, id_kind: str = "integer") -> World:
    world = World(id_kind=id_kind, snapshot_seconds=(20, 30), stop_seconds=5, start_seconds=5)
    for name in names or ("web-01",):
        world.add_server(name)
    return world


async def test_while_the_account_cannot_be_listed_its_values_stay_absent(tmp_path: Path) -> None:
    world = account()
    world.add_snapshot("12345", OLD[0], created_at=datetime(2025, 1, 14, 3, 30, tzinfo=UTC))
    world.faults = [Fault(kind="status", method="GET", times=None)]
    async with daemon_on(configure(tmp_path, one_server(policy='schedule: "0 12 * * *"')), world) as watched:
        await asyncio.sleep(5 * MINUTE)
        during = Exposition(watched)
        world.faults = []
        await asyncio.sleep(2 * NEXT_LIST)
        after = Exposition(watched)
    assert during.about("web") & FROM_THE_LIST == set()
    assert during.value("snaprotd_inventory_last_success_timestamp_seconds") is None
    assert after.about("web") >= HAS_ONE
    assert after.value("snaprotd_newest_completed_timestamp_seconds", {"server": "web"}) == clock(3, 30, day=14)


async def test_a_list_that_is_in_doubt_is_no_success(tmp_path: Path) -> None:
    world = account()
    name = "snaprotd_inventory_last_success_timestamp_seconds"
    async with daemon_on(configure(tmp_path, one_server(policy='schedule: "0 12 * * *"')), world) as watched:
        await asyncio.sleep(FIRST_LIST)
        first = Exposition(watched).value(name)
        world.faults = [Fault(kind="short", method="GET", times=None)]
        await asyncio.sleep(LIVED)
        in_doubt = Exposition(watched).value(name)
        world.faults = []
        await asyncio.sleep(NEXT_LIST)
        after = Exposition(watched).value(name)
    assert first is not None
    assert after is not None
    assert in_doubt == first < after


async def test_after_a_restart_the_values_are_those_from_before_or_absent(tmp_path: Path) -> None:
    world = account()
    path = configure(tmp_path, one_server())
    remembered = {
        f"snaprotd_{name}_timestamp_seconds": {"server": "web"} for name in ("last_attempt", "last_success", "next_run")
    }
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(LIVED)
        before = Exposition(watched)
    async with daemon_on(path, world) as watched:
        at_once = Exposition(watched)
        await asyncio.sleep(FIRST_LIST)
        listed = Exposition(watched)
    for name, labels in remembered.items():
        assert None is not before.value(name, labels) == at_once.value(name, labels) == listed.value(name, labels)
    assert at_once.about("web") & FROM_THE_LIST == set()
    for name in HAS_ONE:
        assert listed.of(name) == before.of(name) != {}


async def test_a_removed_server_takes_its_series_with_it(tmp_path: Path) -> None:
    world = account("web-01", "web-02")
    other = f"{{id: 12346, name: other, {SOON}}}"
    path = configure(tmp_path, one_server(), other)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(LIVED)
        before = Exposition(watched)
        configure(tmp_path, other)
        await asyncio.sleep(RELOADED)
        after = Exposition(watched)
        await asyncio.sleep(LIVED)
        much_later = Exposition(watched)
    assert before.about("web") == before.about("other") == OF_A_SUCCESS
    assert after.about("web") == much_later.about("web") == set()
    assert after.about("other") == much_later.about("other") == OF_A_SUCCESS


async def test_only_servers_with_problems_are_shown_where_the_file_says_so(tmp_path: Path) -> None:
    world = account("web-01", "web-02")
    world.faults = [Fault(kind="ends", word="failed", server_id="12346", method="POST")]
    path = configure(tmp_path, one_server(), f"{{id: 12346, name: bad, {SOON}, retry: {{times: 0}}}}")
    text = path.read_text()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(LIVED)
        before = Exposition(watched)
        path.write_text(f"{text}metrics: {{per_server: problems}}\n")
        await asyncio.sleep(RELOADED)
        after = Exposition(watched)
    assert before.about("web") == OF_A_SUCCESS
    assert after.about("web") == set()
    assert before.about("bad") == after.about("bad") >= {"snaprotd_last_failure_timestamp_seconds"}
    assert after.value("snaprotd_attempts_total", {"kind": "scheduled", "result": "success"}) == 1


async def test_a_server_that_is_removed_while_it_is_off_is_shown_until_it_is_on(tmp_path: Path) -> None:
    world = account("web-01", "web-02")
    other = f"{{id: 12346, name: other, {SOON}}}"
    policy = f"{SOON}, stop_first: true"
    path = configure(tmp_path, one_server(policy=policy), other)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(MINUTE + 10)
        configure(tmp_path, other)
        await asyncio.sleep(RELOADED)
        off = Exposition(watched)
        await asyncio.sleep(LIVED)
        on = Exposition(watched)
    assert off.about("web") == {"snaprotd_server_stopped_by_us"}
    assert off.value("snaprotd_server_stopped_by_us", {"server": "web"}) == 1
    assert on.about("web") == set()
    assert world.status_of("12345") == "active"


async def test_a_matched_server_that_leaves_the_account_takes_its_series_with_it(tmp_path: Path) -> None:
    world = account("web-01", "web-02")
    path = configure(tmp_path, '{match: "web-*", schedule: "1 3 * * *"}')
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(LIVED)
        before = Exposition(watched)
        for one in world.snapshots_of("12345"):
            world.remove_snapshot(one.id)
        world.remove_server("12345")
        await asyncio.sleep(15 * MINUTE)
        after = Exposition(watched)
    assert before.about("web-01") == before.about("web-02") == OF_A_SUCCESS
    assert (after.about("web-01"), after.about("web-02")) == ({"snaprotd_server_dropped"}, OF_A_SUCCESS)


async def test_a_server_that_the_account_does_not_have_is_told_missing(tmp_path: Path) -> None:
    async with daemon_on(configure(tmp_path, one_server()), account("a", "b")) as watched:
        await asyncio.sleep(FIRST_LIST)
        watched.world.remove_server("12345")
        await asyncio.sleep(LIVED)
        assert watched.value("snaprotd_server_missing", "web") == 1


# -- the label `server` ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ('{id: 12345, name: our-name, schedule: "1 3 * * *"}', "our-name"),
        ('{id: 12345, schedule: "1 3 * * *"}', "12345"),
        ('{id: "12345", schedule: "1 3 * * *"}', "12345"),
        ('{match: "web-*", schedule: "1 3 * * *"}', "web-01"),
    ],
)
async def test_a_server_is_labelled_by_our_name_else_its_id_or_where_matched_by_the_accounts_name(
    tmp_path: Path, entry: str, label: str
) -> None:
    async with daemon_on(configure(tmp_path, entry), account()) as watched:
        await asyncio.sleep(LIVED)
        shown = Exposition(watched)
    for name in OF_A_SUCCESS:
        assert {dict(labels)["server"] for labels in shown.of(name)} == {label}, name
    tied = {"server": label, "server_id": "12345", "server_name": "web-01"}
    assert shown.value("snaprotd_server_info", tied) == 1


async def test_a_uuid_is_a_label_as_it_is(tmp_path: Path) -> None:
    world = account(id_kind="uuid_key")
    (server_id,) = world.servers
    path = configure(tmp_path, f'{{id: {server_id}, schedule: "1 3 * * *"}}')
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(LIVED)
        assert Exposition(watched).about(server_id) == OF_A_SUCCESS


@pytest.mark.parametrize(("named", "label"), [(", name: our-name", "our-name"), ("", "12345")])
async def test_a_new_name_in_the_account_changes_no_label_of_ours(tmp_path: Path, named: str, label: str) -> None:
    world = account()
    path = configure(tmp_path, f'{{id: 12345{named}, schedule: "1 3 * * *"}}')
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(LIVED)
        before = Exposition(watched)
        world.servers["12345"].name = "renamed"
        await asyncio.sleep(LIVED)
        after = Exposition(watched)
    assert before.about(label) == after.about(label) == OF_A_SUCCESS
    assert after.about("renamed") == set()
    tied = {"server": label, "server_id": "12345", "server_name": "renamed"}
    assert set(after.of("snaprotd_server_info")) == {frozenset(tied.items())}
    assert after.of("snaprotd_rotations_total") == before.of("snaprotd_rotations_total")


@pytest.mark.parametrize("by", ["our file", "the account"])
async def test_a_server_under_a_new_label_goes_by_that_alone_and_keeps_all_of_its_series(
    tmp_path: Path, by: str
) -> None:
    world = account()
    entry = one_server("web-01") if by == "our file" else '{match: "*", schedule: "1 3 * * *"}'
    async with daemon_on(configure(tmp_path, entry), world) as watched:
        await asyncio.sleep(LIVED)
        before = Exposition(watched)
        if by == "our file":
            configure(tmp_path, one_server("new"))
        else:
            world.servers["12345"].name = "new"
        await asyncio.sleep(LIVED)
        after = Exposition(watched)
    success = "snaprotd_last_success_timestamp_seconds"
    assert (before.about("web-01"), after.about("new")) == (OF_A_SUCCESS, OF_A_SUCCESS)
    assert {dict(labels)["server"] for name in PER_SERVER for labels in after.of(name)} == {"new"}
    assert after.value(success, {"server": "new"}) == before.value(success, {"server": "web-01"})


async def test_a_rotation_that_ends_under_a_new_label_is_counted_there(tmp_path: Path) -> None:
    world = account()
    async with daemon_on(configure(tmp_path, one_server()), world) as watched:
        await asyncio.sleep(MINUTE + 5)
        configure(tmp_path, one_server("new"))
        await asyncio.sleep(LIVED)
        assert [(one.label, one.result) for one in watched.ended] == [("web", "success")]
        assert watched.value("snaprotd_rotations_total", "new", "success") == 1
        assert watched.value("snaprotd_last_success_timestamp_seconds", "new") is not None


async def test_two_matched_servers_of_one_name_are_labelled_by_their_ids(tmp_path: Path) -> None:
    path = configure(tmp_path, '{match: "web-*", schedule: "1 3 * * *"}')
    async with daemon_on(path, account("web-01", "web-01", "web-02")) as watched:
        await asyncio.sleep(FIRST_LIST)
        labels = {labels[0] for labels in watched.series("snaprotd_next_run_timestamp_seconds")}
    assert labels == {"12345", "12346", "web-02"}


async def test_a_quotation_mark_in_a_name_does_not_break_the_exposition(tmp_path: Path) -> None:
    path = configure(tmp_path, '{match: "*", schedule: "1 3 * * *"}')
    name = 'a "b" \\ c'
    async with daemon_on(path, account(name)) as watched:
        await asyncio.sleep(FIRST_LIST)
        assert Exposition(watched).about(name) >= HAS_ONE - ABSENT.keys()


# -- while it happens --------------------------------------------------------------------------------------------


async def test_a_rotation_is_shown_at_its_step_while_it_runs(tmp_path: Path) -> None:
    policy = f"{SOON}, stop_first: true"
    async with daemon_on(configure(tmp_path, one_server(policy=policy)), account()) as watched:
        await asyncio.sleep(MINUTE + 2)
        stopping = Exposition(watched)
        await asyncio.sleep(25)
        waiting = Exposition(watched)
        await asyncio.sleep(LIVED)
        ended = Exposition(watched)
    steps = [
        {dict(labels)["step"] for labels, count in shown.of("snaprotd_rotations_in_progress").items() if count}
        for shown in (stopping, waiting, ended)
    ]
    off = [shown.value("snaprotd_server_stopped_by_us", {"server": "web"}) for shown in (stopping, waiting, ended)]
    assert steps == [{"stop"}, {"wait"}, set()]
    assert off == [1, 1, 0]


async def test_a_server_that_does_not_start_is_told_off_all_the_while(tmp_path: Path) -> None:
    world = account()
    world.faults = [Fault(kind="start_never", action="start", times=4)]
    policy = f"{SOON}, stop_first: true"
    told: list[tuple[float | None, float]] = []
    async with daemon_on(configure(tmp_path, one_server(policy=policy)), world) as watched:
        await asyncio.sleep(MINUTE + 10)
        while world.status_of("12345") != "active":
            failures = watched.value("snaprotd_server_start_failures_total", "web")
            told.append((watched.value("snaprotd_server_stopped_by_us", "web"), failures or 0))
            await asyncio.sleep(MINUTE)
        await asyncio.sleep(MINUTE)
        assert watched.value("snaprotd_server_stopped_by_us", "web") == 0
        assert watched.value("snaprotd_server_start_failures_total", "web") == 4
    assert {off for off, _ in told} == {1}
    assert {failures for _, failures in told} >= {0, 1, 2, 3}


async def test_a_full_server_is_told_blocked_from_the_first_list_until_there_is_room(tmp_path: Path) -> None:
    world = account()
    by_hand = [world.add_snapshot("12345", f"by-hand-{number}") for number in range(5)]
    async with daemon_on(configure(tmp_path, one_server()), world) as watched:
        await asyncio.sleep(FIRST_LIST)
        full = Exposition(watched)
        world.remove_snapshot(by_hand[0].id)
        await asyncio.sleep(NEXT_LIST)
        after = Exposition(watched)
    foreign = {"server": "web", "owner": "foreign", "state": "completed"}
    assert (full.value("snaprotd_blocked", {"server": "web"}), full.value("snaprotd_snapshots", foreign)) == (1, 5)
    assert (after.value("snaprotd_blocked", {"server": "web"}), after.value("snaprotd_snapshots", foreign)) == (0, 4)


@pytest.mark.parametrize(
    ("name", "status", "owner", "state"),
    [
        (OLD[0], "completed", "managed", "completed"),
        (OLD[0], "in_progress", "managed", "in_progress"),
        (OLD[0], "failed", "managed", "failed"),
        (OLD[0], "error", "managed", "unknown"),
        (OLD[0], "a_new_word", "managed", "unknown"),
        ("adopted-1", "completed", "managed", "completed"),
        ("by-hand", "completed", "foreign", "completed"),
        ("snaprotd-other-20250115T033000Z", "failed", "foreign", "failed"),
    ],
)
async def test_a_snapshot_is_counted_under_its_owner_and_state(
    tmp_path: Path, name: str, status: str, owner: str, state: str
) -> None:
    world = account()
    world.add_snapshot("12345", name, status=status, created_at=datetime(2025, 1, 15, 3, 30, tzinfo=UTC))
    policy = f'{SOON}, adopt: ["adopted-*"]'
    async with daemon_on(configure(tmp_path, one_server(policy=policy)), world) as watched:
        await asyncio.sleep(FIRST_LIST)
        counted = {key for key, count in Exposition(watched).of("snaprotd_snapshots").items() if count}
    assert counted == {frozenset({"server": "web", "owner": owner, "state": state}.items())}


async def test_a_missed_slot_of_a_paused_server_did_not_run_late(tmp_path: Path) -> None:
    world = account()
    path = configure(tmp_path, one_server(policy='schedule: "5 3 * * *", paused: true'))
    async with daemon_on(path, world):
        await asyncio.sleep(MINUTE)
    await asyncio.sleep(10 * MINUTE)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(MINUTE)
        assert watched.value("snaprotd_missed_slots_total", "web", "ran_late") == 0
    assert world.created == []


async def test_the_spread_moves_the_next_run_and_is_no_lateness(tmp_path: Path) -> None:
    policy = f"{SOON}, spread: 2m"
    async with daemon_on(configure(tmp_path, one_server(policy=policy)), account()) as watched:
        next_run = watched.value("snaprotd_next_run_timestamp_seconds", "web")
        await asyncio.sleep(3 * MINUTE)
        shown = Exposition(watched)
    assert next_run is not None
    assert clock(3, 1) < next_run < clock(3, 3)
    assert shown.value("snaprotd_last_attempt_timestamp_seconds", {"server": "web"}) == pytest.approx(next_run, abs=1)
    assert shown.value("snaprotd_schedule_lateness_seconds_sum") == pytest.approx(0, abs=1)
    assert shown.value("snaprotd_schedule_lateness_seconds_count") == 1


async def test_the_scheduler_tells_that_it_looks_at_its_clock(tmp_path: Path) -> None:
    async with daemon_on(configure(tmp_path, one_server()), account()) as watched:
        for _ in range(3):
            await asyncio.sleep(MINUTE)
            ticked = watched.value("snaprotd_scheduler_last_tick_timestamp_seconds")
            assert datetime.now(UTC).timestamp() == pytest.approx(ticked, abs=16)


# -- what is held ------------------------------------------------------------------------------------------------------


NAMES_OF_HOLDS = ("held", "hold_until_timestamp_seconds")


@pytest.mark.parametrize(
    ("holds", "number", "until"),
    [
        ((), None, None),
        ((date(2025, 1, 22), date(2025, 1, 20)), 2, datetime(2025, 1, 23, tzinfo=UTC).timestamp()),
        ((date(2025, 1, 22), FOREVER), 2, inf),
    ],
)
def test_how_much_is_held_and_until_when_the_last_of_it(
    holds: tuple[date, ...], number: int | None, until: float | None
) -> None:
    board = Board()
    board.servers["web"] = ServerFacts("1", holdings=Holdings(counts={}, holds=holds))
    families = dict(_named(b"".join(Metrics(board).exposition()).decode()))
    found = {name: [one.value for one in families[f"snaprotd_{name}"].samples] for name in NAMES_OF_HOLDS}
    assert found == {"held": [number] * bool(number), "hold_until_timestamp_seconds": [] if until is None else [until]}
