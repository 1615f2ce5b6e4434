"""The promises to several servers that are stopped at one time, where requests are few and some are refused.

So that some wait in line while others are off, all share their looks, and the rate is learnt; and processes die at any
request and at any write, are frozen beside others, and find the ledger or the disk harmed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import strategies as st

from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import OnStopTimeout, Policy, Retention
from snaprotd.simulator import Fault, World
from tests.support.crowds import Crowd
from tests.support.drawn import MOMENTS, THAWED_AFTER
from tests.support.drawn_faults import fair, faults
from tests.support.harms import Harm
from tests.support.limits import Bucket, Limit, Window
from tests.support.lives import night
from tests.support.policies import NIGHTLY, slots
from tests.support.searches import SCRATCH, histories, look_at
from tests.support.virtual_time import run_virtually, true_time

EXAMPLES = histories(4, 40)
KEPT = 2
HARMS = (Harm.NONE, Harm.NONE, Harm.ROW_DAMAGED, Harm.ROW_DELETED, Harm.POWER_DAMAGED, Harm.LEDGER_DELETED)
RATES: dict[str, tuple[float, Callable[[], Limit | None]]] = {
    "a few off at one time": (0.3, lambda: None),
    "one at a moment": (1.0, lambda: None),
    "five, of which three are let through": (5.0, lambda: Window(most=3, seconds=1)),
    "two, of which one is let through": (2.0, lambda: Bucket(rate=1.0, size=2)),
}
"""Requests a second, and what is let through of them."""

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_marks")


@dataclass(frozen=True, kw_only=True)
class Example:
    servers: int
    rate: str
    faults: tuple[Fault, ...]
    crashes: frozenset[int | tuple[str, int]]
    harms: tuple[Harm, ...]
    frozen_at: int | None
    thaws_after: float | None
    nights: int
    on_stop_timeout: OnStopTimeout
    snapshot_seconds: int


examples = st.builds(
    Example,
    servers=st.integers(3, 6),
    rate=st.sampled_from(sorted(RATES)),
    faults=st.one_of(st.just(()), st.lists(faults, max_size=3).map(tuple)),
    crashes=st.frozensets(
        st.one_of(st.integers(1, 900), st.tuples(st.sampled_from(MOMENTS), st.integers(1, 6))), max_size=4
    ),
    harms=st.one_of(st.just(()), st.lists(st.sampled_from(HARMS), max_size=3).map(tuple)),
    frozen_at=st.one_of(st.none(), st.none(), st.none(), st.integers(1, 700)),
    thaws_after=st.sampled_from(THAWED_AFTER),
    nights=st.sampled_from([1, 2]),
    on_stop_timeout=st.sampled_from(OnStopTimeout),
    snapshot_seconds=st.sampled_from([60, 240]),
)


def crowd_of(example: Example, folder: Path) -> Crowd:
    """The example, about to be lived."""
    seconds = example.snapshot_seconds
    world = World(clock=true_time, snapshot_seconds=(seconds, seconds), page_size=100)
    servers = tuple(world.add_server(f"web-{number}") for number in range(example.servers))
    for server in servers:
        for days in range(KEPT, 0, -1):
            slot = night(0) - timedelta(days=days)
            world.add_snapshot(server, snapshot_name("main", slot), created_at=slot)
    world.faults.extend(fair(example.faults))
    rate, limit = RATES[example.rate]
    return Crowd(
        world=world,
        ledger_path=folder / "state.db",
        policy=Policy(
            schedule=slots(NIGHTLY),
            keep=Retention(last=KEPT),
            stop_first=True,
            on_stop_timeout=example.on_stop_timeout,
        ),
        server_id=servers[0],
        server_ids=servers,
        kept=KEPT,
        rate=rate,
        limit_to_rate=limit(),
        crashes=set(example.crashes),
        harms=example.harms,
        frozen_at=example.frozen_at,
        thaws_after=example.thaws_after,
        nights=example.nights,
        hours_apart=3,
    )


async def live(example: Example, folder: Path) -> tuple[list[str], set[str]]:
    """The broken promises of one example, and who had to wait in it."""
    crowd = crowd_of(example, folder)
    return await crowd.live(), crowd.waited


@pytest.mark.search
def test_no_promise_to_any_of_several_servers_is_broken_while_some_wait_for_requests() -> None:
    waited: set[str] = set()

    def look(example: Example) -> None:
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            broken, waiting = run_virtually(live(example, Path(folder)))
        assert broken == []
        waited.update(waiting)

    look_at(examples, look, number=1, most=EXAMPLES)
    assert waited, "somebody had to wait"
