"""What the board says of all servers together, read from it at each scrape."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from snaprotd import __version__
from snaprotd.core.rotation import Step
from snaprotd.engine.board import Board


class BoardCollector(Collector):
    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("snaprotd_build", "The version that is running.", value={"version": __version__})
        yield from self._listed_at()
        yield from self._ledger()
        yield self._in_progress()
        yield from self._replicas()

    def _replicas(self) -> Iterator[Metric]:
        """Each tells of itself, and one of how many there are."""
        if (fleet := self._board.fleet) is None:
            return
        me = {"replica": fleet.me.id, "version": fleet.me.version, "config": fleet.me.config}
        yield InfoMetricFamily("snaprotd_replica", "This replica, and a hash over what its configuration decides.", me)
        if self._board.reports():
            text = "Replicas that live, by a hash over what their configurations decide."
            family = GaugeMetricFamily("snaprotd_replicas", text, labels=["config"])
            for config, number in Tally(one.config for one in fleet.living).items():
                family.add_metric([config], number)
            yield family
            text = "Replicas that stand still, did not end in order, and did so within the last hour."
            yield GaugeMetricFamily("snaprotd_replicas_lost", text, value=len(fleet.others) + 1 - len(fleet.living))

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
