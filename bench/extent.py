"""How much is measured: the whole takes half an hour of a quiet machine, a quick run a few minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Fleets = Mapping[int, Mapping[str, Any]]
"""Nights of one kind: by the number of servers, what else a `tests.support.fleet.Fleet` is made of."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    servers: tuple[int, ...]
    """Looked after by one process; and rotations at once in one ledger."""
    at_once: tuple[int, ...]
    """Rotated at once by a real process."""
    snapshot_seconds: float
    """Of those."""
    beside_scripts: int
    """So many of them by programs that do one thing after the other, too."""
    idle_seconds: float
    """For how long a daemon at rest is watched; 0 for not at all."""
    nights: Mapping[str, Fleets]
    """In virtual time, by their names in `bench.nights`."""
    claims: int
    """By each replica on PostgreSQL."""
    killed: int
    """Replicas, for others to take over from. Leases take more than a minute to run out."""


def nights(usual: tuple[int, ...], due: Mapping[int, int], slow: int) -> dict[str, Fleets]:
    known: dict[str, Any] = {"has_past": True}
    apart: dict[str, Any] = {**known, "apart": 86400.0}
    return {
        "again": {one: {"max_concurrent": one, "requests_per_second": 1000.0, "nights": 2} for one in usual},
        "usual": dict.fromkeys(usual, apart),
        "stopped": {one: {**apart, "stop_first": True, "max_concurrent": one} for one in usual},
        "few": {servers: {**known, "due": those} for servers, those in due.items()},
        "slow": {slow: {**apart, "stop_first": True, "allowed": 3}},
    }


WHOLE = Extent(
    servers=(100, 1000, 10_000),
    at_once=(100, 1000),
    snapshot_seconds=60,
    beside_scripts=100,
    idle_seconds=600,
    nights=nights((100, 1000), {1000: 100, 10_000: 100}, 100),
    claims=1000,
    killed=20,
)
QUICK = Extent(
    servers=(100, 1000),
    at_once=(100,),
    snapshot_seconds=6,
    beside_scripts=100,
    idle_seconds=0,
    nights=nights((100,), {1000: 100}, 100),
    claims=100,
    killed=0,
)
