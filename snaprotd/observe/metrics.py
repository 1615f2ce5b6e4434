"""The metrics of the whole daemon, and how what happens moves them. Those of one server are `series`'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from snaprotd import logs
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Result, Rotation
from snaprotd.engine.board import Board
from snaprotd.observe.collector import BoardCollector
from snaprotd.observe.series import ServerSeries
from snaprotd.senders import Outcome

SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400)


class DaemonMetrics:
    """What the daemon tells of its configuration and its clock."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._config_ok = Gauge(
            "snaprotd_config_last_reload_successful",
            "1 if the last reading of the configuration succeeded.",
            registry=registry,
        )
        self._config_loaded_at = Gauge(
            "snaprotd_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read.",
            registry=registry,
        )
        self._ticked_at = Gauge(
            "snaprotd_scheduler_last_tick_timestamp_seconds",
            "When the scheduler last looked at its clock.",
            registry=registry,
        )
        self._limit = Gauge(
            "snaprotd_snapshot_limit", "Snapshots that a server may hold at the provider.", registry=registry
        )
        self._lateness = Histogram(
            "snaprotd_schedule_lateness_seconds",
            "How long after its time a slot was taken up.",
            buckets=(0.1, 0.5, *SECONDS),
            registry=registry,
        )

    def config_loaded(self, at: datetime, *, limit: int) -> None:
        """A configuration is in force."""
        self._config_ok.set(1)
        self._config_loaded_at.set(at.timestamp())
        self._limit.set(limit)

    def config_refused(self) -> None:
        self._config_ok.set(0)

    def ticked(self, at: datetime) -> None:
        """The scheduler has looked at its clock."""
        self._ticked_at.set(at.timestamp())

    def taken_up(self, late: float) -> None:
        """A slot was taken up, so many seconds after its time."""
        self._lateness.observe(max(0.0, late))


class RotationMetrics:
    """An observer of rotations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "snaprotd_rotation_duration_seconds", "Length of a whole rotation.", buckets=SECONDS, registry=registry
        )
        self._downtime = Histogram(
            "snaprotd_server_downtime_seconds",
            "How long a server was held off for its snapshot.",
            buckets=SECONDS,
            registry=registry,
        )
        self._attempts = Counter(
            "snaprotd_attempts_total",
            "Attempts ended, by why they were begun; where a snapshot came too late, one has ended twice.",
            ["kind", "result"],
            registry=registry,
        )
        for labels in product(Kind, Result):
            self._attempts.labels(*labels)
        self._deletions = Counter(
            "snaprotd_deletions_total", "Snapshots deleted, or not.", ["result"], registry=registry
        )
        for result in ("success", "failure"):
            self._deletions.labels(result)

    def start_failed(self, rotation: Rotation) -> None:
        """Counted for its server, on the board."""

    def deleted(self, rotation: Rotation, *, success: bool) -> None:
        self._deletions.labels("success" if success else "failure").inc()

    def back_on(self, server_id: str, seconds: float) -> None:
        self._downtime.observe(seconds)

    def finished(self, rotation: Rotation) -> None:
        if rotation.result is not None:
            self._attempts.labels(rotation.kind, rotation.result).inc()
        if rotation.finished_at is not None:
            self._duration.observe(max(0.0, (rotation.finished_at - rotation.started_at).total_seconds()))


class RequestMetrics:
    """An observer of the requests to the provider."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "snaprotd_api_requests_total",
            "Requests to the provider.",
            ["method", "endpoint", "code"],
            registry=registry,
        )
        self._duration = Histogram(
            "snaprotd_api_request_duration_seconds",
            "Length of a request to the provider.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self._retries = Counter(
            "snaprotd_api_retries_total", "Requests that were sent again.", ["reason"], registry=registry
        )
        self._throttle_wait = Counter(
            "snaprotd_api_throttle_wait_seconds_total", "Time spent waiting for the rate limit.", registry=registry
        )
        self._rate = Gauge(
            "snaprotd_api_rate",
            "Requests to the provider that may go out in a second: as configured, or fewer where it refused some.",
            registry=registry,
        )
        self._auth_failures = Counter(
            "snaprotd_api_auth_failures_total",
            "Requests that the provider refused for the token.",
            registry=registry,
        )

    def follow(self, rate: Callable[[], float]) -> None:
        """Where the rate in force is to be asked, at each scrape."""
        self._rate.set_function(rate)

    def request(self, method: str, endpoint: str, code: str, seconds: float) -> None:
        self._requests.labels(method, endpoint, code).inc()
        self._duration.observe(seconds)

    def retry(self, reason: str) -> None:
        self._retries.labels(reason).inc()

    def throttled(self, seconds: float) -> None:
        self._throttle_wait.inc(seconds)

    def auth_failure(self) -> None:
        self._auth_failures.inc()


class NotificationMetrics:
    """What the senders tell."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._notifications = Counter(
            "snaprotd_notifications_total",
            "Attempts to send a message, by what came of them; a failed one is repeated, a given up one is not.",
            ["channel", "result"],
            registry=registry,
        )
        self._pending = Gauge(
            "snaprotd_notifications_pending", "Messages that wait to be sent, or to be sent again.", registry=registry
        )

    def expect(self, channel: str) -> None:
        """There is such a channel: its counts are 0 rather than absent."""
        for outcome in Outcome:
            self._notifications.labels(channel, outcome)

    def tried(self, channel: str, outcome: Outcome) -> None:
        self._notifications.labels(channel, outcome).inc()

    def pending(self, number: int) -> None:
        self._pending.set(number)


class LogMetrics(Collector):
    """What the log counts itself: it is below everything that could be told of it."""

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "snaprotd_log_dropped",
            "Lines of the log that were dropped, because nobody read them or they could not be written.",
            value=logs.dropped(),
        )


class Metrics:
    """The registry, and who is told of what."""

    def __init__(self, board: Board) -> None:
        self.registry = CollectorRegistry()
        self.daemon = DaemonMetrics(self.registry)
        self.rotations = RotationMetrics(self.registry)
        self.requests = RequestMetrics(self.registry)
        self.notifications = NotificationMetrics(self.registry)
        self.registry.register(LogMetrics())
        self.registry.register(BoardCollector(board))
        self._servers = ServerSeries(board)
        ProcessCollector(registry=self.registry)

    def exposition(self, only_in_trouble_at: datetime | None = None) -> Iterator[bytes]:
        """The text that Prometheus scrapes, in pieces: between two of them others may have their turn.

        Where a time is given, of no server but those that have a problem then.
        """
        yield generate_latest(self.registry)
        for piece in self._servers.pieces(only_in_trouble_at):
            yield piece.encode()
