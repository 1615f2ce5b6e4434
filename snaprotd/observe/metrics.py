"""The metrics, and how what happens moves them.

What belongs to one server is kept as plain facts and read by a collector at each scrape: with ten thousand servers
this is many times cheaper than a client object for each series, and a server that is removed takes all of its
series with it. What belongs to the whole daemon is an ordinary client object.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from snaprotd import __version__
from snaprotd.core.model import Owner, SnapshotState
from snaprotd.core.rotation import Result, Rotation, Step

MEGABYTE = 1024 * 1024
"""The provider's `size_mb` in bytes. Whether it means 10^6 or 2^20 is not documented."""

SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400)


@dataclass(kw_only=True)
class Holdings:
    """What the provider's list says of one server."""

    counts: Mapping[tuple[Owner, SnapshotState], int]
    newest_completed: datetime | None = None
    newest_size_mb: int | None = None
    blocked: bool = False
    prune_pending: int = 0


@dataclass
class ServerFacts:
    """All that is known of one configured server. None is absent: it is not shown, rather than shown as 0."""

    server_id: str
    _: KW_ONLY
    server_name: str = ""
    next_run: datetime | None = None
    expected_interval: float | None = None
    last_attempt: datetime | None = None
    last_success: datetime | None = None
    last_failure: datetime | None = None
    latest: Rotation | None = None
    """The last rotation that ended."""
    missing: bool | None = None
    """The account has no such server."""
    holdings: Holdings | None = None
    start_failures: int = 0
    rotations: Tally[Result] = field(default_factory=Tally)
    skipped: Tally[str] = field(default_factory=Tally)
    missed: Tally[str] = field(default_factory=Tally)

    def note_end(self, rotation: Rotation) -> None:
        """Its last rotation was this one."""
        self.latest = rotation
        if rotation.result is Result.SUCCESS:
            self.last_success = rotation.finished_at
        elif rotation.result is Result.FAILURE:
            self.last_failure = rotation.finished_at


class Metrics:
    """The registry, the facts of each server by its label, and the rotations that are running."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.servers: dict[str, ServerFacts] = {}
        """By label."""
        self._by_id: dict[str, ServerFacts] = {}
        self.running: dict[str, Rotation] = {}
        """The latest record of each rotation that this daemon is responsible for, by its id."""
        registry = self.registry
        self.config_ok = Gauge(
            "snaprotd_config_last_reload_successful",
            "1 if the last reading of the configuration succeeded.",
            registry=registry,
        )
        self.config_loaded_at = Gauge(
            "snaprotd_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read.",
            registry=registry,
        )
        self.scheduler_ticked_at = Gauge(
            "snaprotd_scheduler_last_tick_timestamp_seconds",
            "When the scheduler last looked at its clock.",
            registry=registry,
        )
        self.limit = Gauge(
            "snaprotd_snapshot_limit", "Snapshots that a server may hold at the provider.", registry=registry
        )
        self.lateness = Histogram(
            "snaprotd_schedule_lateness_seconds",
            "How long after its time a slot was taken up.",
            buckets=(0.1, 0.5, *SECONDS),
            registry=registry,
        )
        self.duration = Histogram(
            "snaprotd_rotation_duration_seconds", "Length of a whole rotation.", buckets=SECONDS, registry=registry
        )
        self.downtime = Histogram(
            "snaprotd_server_downtime_seconds",
            "How long a server was held off for its snapshot.",
            buckets=SECONDS,
            registry=registry,
        )
        self.deletions = Counter(
            "snaprotd_deletions_total", "Snapshots deleted, or not.", ["result"], registry=registry
        )
        self.api_requests = Counter(
            "snaprotd_api_requests_total",
            "Requests to the provider.",
            ["method", "endpoint", "code"],
            registry=registry,
        )
        self.api_duration = Histogram(
            "snaprotd_api_request_duration_seconds",
            "Length of a request to the provider.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self.api_retries = Counter(
            "snaprotd_api_retries_total", "Requests that were sent again.", ["reason"], registry=registry
        )
        self.api_throttle_wait = Counter(
            "snaprotd_api_throttle_wait_seconds_total", "Time spent waiting for the rate limit.", registry=registry
        )
        self.api_auth_failures = Counter(
            "snaprotd_api_auth_failures_total",
            "Requests that the provider refused for the token.",
            registry=registry,
        )
        self.inventory_listed_at: datetime | None = None
        for result in ("success", "failure"):
            self.deletions.labels(result)
        registry.register(_ServerCollector(self))
        ProcessCollector(registry=registry)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def show_only(self, labels: Mapping[str, str]) -> None:
        """Show these servers, the label of each by its id, and forget every other with all of its series.

        What is known of a server stays with it under another label, and is never taken for another server's.
        """
        self._by_id = {server_id: self._by_id.get(server_id) or ServerFacts(server_id) for server_id in labels}
        self.servers = {label: self._by_id[server_id] for server_id, label in labels.items()}

    # -- told by rotations -------------------------------------------------------------------------------------

    def watch(self, rotation: Rotation) -> None:
        self.running[rotation.id] = rotation

    def unwatch(self, rotation: Rotation) -> None:
        self.running.pop(rotation.id, None)

    def start_failed(self, rotation: Rotation) -> None:
        self._of(rotation).start_failures += 1

    def deleted(self, rotation: Rotation, *, success: bool) -> None:
        self.deletions.labels("success" if success else "failure").inc()

    def back_on(self, rotation: Rotation, seconds: float) -> None:
        self.downtime.observe(seconds)

    def finished(self, rotation: Rotation) -> None:
        if rotation.result is None or rotation.finished_at is None:
            return
        facts = self._of(rotation)
        facts.rotations[rotation.result] += 1
        self.duration.observe(max(0.0, (rotation.finished_at - rotation.started_at).total_seconds()))
        facts.note_end(rotation)

    def _of(self, rotation: Rotation) -> ServerFacts:
        # A server that was removed while its rotation ran has no series any more; nor does it get new ones.
        return self._by_id.get(rotation.server_id) or ServerFacts(rotation.server_id)

    # -- told by the provider's client -------------------------------------------------------------------------

    def request(self, method: str, endpoint: str, code: str, seconds: float) -> None:
        self.api_requests.labels(method, endpoint, code).inc()
        self.api_duration.observe(seconds)

    def retry(self, reason: str) -> None:
        self.api_retries.labels(reason).inc()

    def throttled(self, seconds: float) -> None:
        self.api_throttle_wait.inc(seconds)

    def auth_failure(self) -> None:
        self.api_auth_failures.inc()


class _ServerCollector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        servers = self._metrics.servers
        yield InfoMetricFamily("snaprotd_build", "The version that is running.", value={"version": __version__})
        yield from self._listed_at()
        yield self._in_progress()
        yield from _identity(servers)
        yield from _schedule(servers)
        yield from _counts(servers)
        yield from _inventory(servers)
        yield self._stopped(servers)

    def _listed_at(self) -> Iterator[Metric]:
        listed_at = self._metrics.inventory_listed_at
        if listed_at is not None:
            yield GaugeMetricFamily(
                "snaprotd_inventory_last_success_timestamp_seconds",
                "When the provider's whole list was last read.",
                value=listed_at.timestamp(),
            )

    def _in_progress(self) -> Metric:
        family = GaugeMetricFamily(
            "snaprotd_rotations_in_progress", "Rotations that are running, by their step.", labels=["step"]
        )
        steps = Tally(rotation.step for rotation in self._metrics.running.values())
        for step in Step:
            if step is not Step.DONE:
                family.add_metric([step], steps[step])
        return family

    def _stopped(self, servers: Mapping[str, ServerFacts]) -> Metric:
        family = _gauge("snaprotd_server_stopped_by_us", "1 while we hold the server off, or owe it a start.")
        labels = {facts.server_id: label for label, facts in servers.items()}
        held = {}
        for rotation in self._metrics.running.values():
            # A server that left the configuration while it was off stays visible until it is on again: under the
            # label that it had, or under its id where that is another server's now.
            last = rotation.server_id if rotation.label in servers else rotation.label
            if rotation.held_off:
                held[labels.get(rotation.server_id, last)] = 1
        for label, value in (dict.fromkeys(servers, 0) | held).items():
            family.add_metric([label], value)
        return family


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["server", *labels])


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=["server", *labels])


def _identity(servers: Mapping[str, ServerFacts]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "snaprotd_server_info", "Ties our label to the account.", labels=["server", "server_id", "server_name"]
    )
    missing = _gauge("snaprotd_server_missing", "1 if the account has no such server.")
    for label, facts in servers.items():
        info.add_metric([label, facts.server_id, facts.server_name], 1)
        if facts.missing is not None:
            missing.add_metric([label], int(facts.missing))
    yield from (info, missing)


def _schedule(servers: Mapping[str, ServerFacts]) -> Iterator[Metric]:
    next_run = _gauge("snaprotd_next_run_timestamp_seconds", "When the next rotation is due.")
    interval = _gauge("snaprotd_expected_interval_seconds", "The longest time between two slots of the schedule.")
    attempt = _gauge("snaprotd_last_attempt_timestamp_seconds", "When the last rotation began.")
    success = _gauge("snaprotd_last_success_timestamp_seconds", "When the last successful rotation ended.")
    failure = _gauge("snaprotd_last_failure_timestamp_seconds", "When the last rotation that failed ended.")
    for label, facts in servers.items():
        _add_time(next_run, label, facts.next_run)
        _add_time(failure, label, facts.last_failure)
        _add_time(attempt, label, facts.last_attempt)
        _add_time(success, label, facts.last_success)
        if facts.expected_interval is not None:
            interval.add_metric([label], facts.expected_interval)
    yield from (next_run, interval, attempt, success, failure)


def _counts(servers: Mapping[str, ServerFacts]) -> Iterator[Metric]:
    rotations = _counter("snaprotd_rotations", "Rotations ended.", "result")
    skipped = _counter("snaprotd_rotations_skipped", "Slots that came and were not run.", "reason")
    missed = _counter("snaprotd_missed_slots", "Slots that passed while no daemon ran.", "action")
    failures = _counter("snaprotd_server_start_failures", "Start requests that did not bring the server up.")
    for label, facts in servers.items():
        for result in Result:
            rotations.add_metric([label, result], facts.rotations[result])
        for reason in ("in_flight", "paused"):
            skipped.add_metric([label, reason], facts.skipped[reason])
        for action in ("ran_late", "skipped"):
            missed.add_metric([label, action], facts.missed[action])
        failures.add_metric([label], facts.start_failures)
    yield from (rotations, skipped, missed, failures)


def _inventory(servers: Mapping[str, ServerFacts]) -> Iterator[Metric]:
    snapshots = _gauge("snaprotd_snapshots", "Snapshots the server holds.", "owner", "state")
    newest = _gauge("snaprotd_newest_completed_timestamp_seconds", "When our newest completed snapshot was made.")
    size = _gauge("snaprotd_newest_completed_size_bytes", "Size of our newest completed snapshot.")
    blocked = _gauge("snaprotd_blocked", "1 if the server is full and nothing on it may be deleted.")
    pending = _gauge("snaprotd_prune_pending", "Snapshots that retention no longer keeps and that are still there.")
    for label, facts in servers.items():
        holdings = facts.holdings
        if holdings is None:
            continue
        for owner in Owner:
            for state in SnapshotState:
                snapshots.add_metric([label, owner, state], holdings.counts.get((owner, state), 0))
        _add_time(newest, label, holdings.newest_completed)
        if holdings.newest_size_mb is not None:
            size.add_metric([label], holdings.newest_size_mb * MEGABYTE)
        blocked.add_metric([label], int(holdings.blocked))
        pending.add_metric([label], holdings.prune_pending)
    yield from (snapshots, newest, size, blocked, pending)


def _add_time(family: GaugeMetricFamily, label: str, instant: datetime | None) -> None:
    if instant is not None:
        family.add_metric([label], instant.timestamp())
