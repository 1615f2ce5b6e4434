"""The series of each server, read from the board at each scrape.

With ten thousand servers this is many times cheaper than a client object for each series, and a server that is removed
takes all of its series with it.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from snaprotd import __version__
from snaprotd.core.holds import end_of
from snaprotd.core.model import Owner, SnapshotState
from snaprotd.core.rotation import Result, Step
from snaprotd.engine.board import Board, ServerFacts

MEGABYTE = 1024 * 1024
"""The provider's `size_mb` in bytes. Whether it means 10^6 or 2^20 is not documented."""


SKIPPED = ("in_flight", "paused", "window", "group", "rate")
"""Why a slot was not run."""


class ServerCollector(Collector):
    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        servers = self._board.servers
        yield InfoMetricFamily("snaprotd_build", "The version that is running.", value={"version": __version__})
        yield from self._listed_at()
        yield from self._ledger()
        yield self._in_progress()
        yield from _identity(servers)
        yield from _schedule(servers)
        yield from _counts(servers)
        yield from _inventory(servers)
        yield self._stopped(servers)

    def _listed_at(self) -> Iterator[Metric]:
        listed_at = self._board.inventory_listed_at
        if listed_at is not None:
            yield GaugeMetricFamily(
                "snaprotd_inventory_last_success_timestamp_seconds",
                "When the provider's whole list was last read.",
                value=listed_at.timestamp(),
            )

    def _ledger(self) -> Iterator[Metric]:
        writable = self._board.ledger_writable
        if writable is not None:
            yield GaugeMetricFamily(
                "snaprotd_ledger_writable", "1 if the ledger can be written, 0 if not.", value=int(writable)
            )

    def _in_progress(self) -> Metric:
        family = GaugeMetricFamily(
            "snaprotd_rotations_in_progress", "Rotations that are running, by their step.", labels=["step"]
        )
        steps = Tally(rotation.step for rotation in self._board.running.values())
        for step in Step:
            if step is not Step.DONE:
                family.add_metric([step], steps[step])
        return family

    def _stopped(self, servers: Mapping[str, ServerFacts]) -> Metric:
        family = _gauge("snaprotd_server_stopped_by_us", "1 while we hold the server off, or owe it a start, as seen.")
        labels = {facts.server_id: label for label, facts in servers.items()}
        held = {}
        for server_id, label in self._board.held_off:
            # A server that left the configuration while it was off stays visible until it is on again: under the
            # label that it had, or under its id where that is another server's now.
            held[labels.get(server_id, server_id if label in servers else label)] = 1
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
        for reason in SKIPPED:
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
    held = _gauge("snaprotd_held", "Snapshots that are held: no rotation deletes them before their day is over.")
    until = _gauge("snaprotd_hold_until_timestamp_seconds", "When the last of the holds ends; +Inf for one for ever.")
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
        held.add_metric([label], len(holdings.holds))
        if holdings.holds:
            until.add_metric([label], end_of(max(holdings.holds)))
    yield from (snapshots, newest, size, blocked, pending, held, until)


def _add_time(family: GaugeMetricFamily, label: str, instant: datetime | None) -> None:
    if instant is not None:
        family.add_metric([label], instant.timestamp())
