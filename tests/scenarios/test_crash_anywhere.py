"""The promises, under random crashes, lost and late answers, errors and histories.

Each example is a server with some history and a policy, one to three nights, faults of the provider, and a set of
moments at which the process dies: before or after any request, before or after any write of the ledger. The
promises are checked from the provider's side, at every request and after every night.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from snaprotd.core.policy import OnStopTimeout, Policy, Retention, WhenFull
from snaprotd.simulator import Fault, World
from tests.support.lives import Story, night
from tests.support.policies import NIGHTLY, slots
from tests.support.promises import Witnessed
from tests.support.searches import size
from tests.support.virtual_time import run_virtually

SHARDS = 8
EXAMPLES = size(25, 250)
"""Of each shard: 200 in all, or 2,000."""

SETTLE = 120.0
MOMENTS = [
    f"{when} {change}"
    for when, change in product(("before", "after"), ("create", "stop", "start", "hard_stop", "delete"))
]
ID_KINDS = ("integer", "uuid", "uuid_key")
FAULT_KINDS = {
    "cut",
    "empty",
    "ends",
    "foreign_next",
    "hang",
    "hang_done",
    "html",
    "late",
    "late_listing",
    "lost",
    "redirect",
    "short",
    "slow_delete",
    "slow_power",
    "start_never",
    "status",
    "stop_never",
    "stuck",
    "trickle",
    "truncated",
}
SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None

pytestmark = pytest.mark.usefixtures("silence")


@dataclass(frozen=True, kw_only=True)
class Example:
    policy: Policy
    history: tuple[tuple[str, str, str | int | None], ...]
    """Name, status, and age in hours or the text of `created_at`."""
    faults: tuple[Fault, ...]
    crashes: frozenset[int | tuple[str, int]]
    nights: int
    was_active: bool
    id_kind: str


def _ours(number: int) -> str:
    return f"snaprotd-main-202501{number:02}T033000Z"


histories = st.lists(
    st.one_of(
        st.tuples(st.builds(_ours, st.integers(1, 14)), st.just("completed"), st.integers(24, 900)),
        st.tuples(
            st.builds(_ours, st.integers(1, 14)), st.sampled_from(["failed", "error", "weird"]), st.integers(24, 900)
        ),
        st.tuples(st.builds(_ours, st.integers(1, 14)), st.just("in_progress"), st.integers(24, 900)),
        st.tuples(
            st.builds(_ours, st.integers(1, 14)), st.just("completed"), st.sampled_from(["soon", "2025-01-01", None])
        ),
        st.tuples(
            st.sampled_from(
                ["by-hand", "snaprotd-main-old", "snaprotd-main2-20250101T033000Z", "weekly-1", "weekly-2"]
            ),
            st.sampled_from(["completed", "completed", "in_progress", "failed"]),
            st.integers(24, 900),
        ),
    ),
    max_size=5,
    unique_by=lambda one: one[0],
)

policies = st.builds(
    Policy,
    schedule=st.just(slots(NIGHTLY)),
    keep=st.one_of(
        st.builds(Retention, last=st.integers(1, 4)),
        st.just(Retention(last=1, daily=1, weekly=2)),
        st.just(Retention(daily=2, weekly=2)),
    ),
    adopt=st.sampled_from([(), ("weekly-*",)]),
    when_full=st.sampled_from(WhenFull),
    stop_first=st.sampled_from([True, True, True, False]),
    # Shorter than a stop may be late, and longer.
    stop_timeout=st.sampled_from([timedelta(seconds=30), timedelta(minutes=5)]),
    on_stop_timeout=st.sampled_from(OnStopTimeout),
)

_times = st.integers(1, 3)
_skip = st.integers(0, 3)
_late = st.sampled_from([1.0, 5.0, 30.0, 90.0, 115.0])

faults = st.one_of(
    st.builds(
        Fault,
        kind=st.sampled_from(
            ["lost", "cut", "late", "late", "late", "hang", "hang_done", "truncated", "stuck", "ends", "late_listing"]
        ),
        method=st.just("POST"),
        path=st.just("/snapshots/"),
        times=_times,
        skip=st.integers(0, 1),
        delay=_late,
    ),
    st.builds(
        Fault,
        kind=st.sampled_from(
            [
                "lost",
                "cut",
                "late",
                "late",
                "late",
                "hang",
                "hang_done",
                "truncated",
                "stop_never",
                "start_never",
                "slow_power",
            ]
        ),
        method=st.just("POST"),
        path=st.just("/servers/*/power/"),
        action=st.sampled_from(["stop", "start", "hard_stop", ""]),
        times=_times,
        skip=st.integers(0, 1),
        delay=_late,
    ),
    st.builds(
        Fault,
        kind=st.just("status"),
        method=st.sampled_from(["POST", "POST", "DELETE", "GET"]),
        status=st.sampled_from([400, 403, 404, 429, 500, 502, 503]),
        done=st.booleans(),
        retry_after=st.sampled_from(["", "7"]),
        times=_times,
        skip=_skip,
    ),
    st.builds(
        Fault,
        kind=st.sampled_from(["cut", "hang", "html", "truncated", "short", "foreign_next", "redirect", "trickle"]),
        method=st.just("GET"),
        times=st.integers(1, 8),
        skip=st.integers(0, 8),
        delay=st.just(60.0),
    ),
    # The enemy: a stop that strikes when the rotation may be over.
    st.builds(
        Fault,
        kind=st.sampled_from(["late", "slow_power"]),
        method=st.just("POST"),
        path=st.just("/servers/*/power/"),
        action=st.just("stop"),
        delay=st.sampled_from([90.0, 115.0]),
    ),
    # A list that shows nothing, and says so: for less than `settle`, which is what it is for.
    st.builds(Fault, kind=st.just("empty"), method=st.just("GET"), times=_times, skip=st.integers(0, 20)),
    st.builds(
        Fault,
        kind=st.sampled_from(["lost", "cut", "late", "hang", "slow_delete"]),
        method=st.just("DELETE"),
        times=_times,
        delay=_late,
    ),
)

examples = st.builds(
    Example,
    policy=policies,
    history=histories.map(tuple),
    faults=st.lists(faults, max_size=4).map(tuple),
    crashes=st.frozensets(
        st.one_of(
            st.integers(1, 160),
            # Where it hurts most: around the requests that change something.
            st.tuples(
                st.sampled_from(MOMENTS),
                st.integers(1, 2),
            ),
        ),
        max_size=4,
    ),
    nights=st.sampled_from([1, 1, 2, 3]),
    was_active=st.sampled_from([True, True, True, False]),
    id_kind=st.sampled_from(ID_KINDS),
)


def _honest(fault: Fault) -> Fault:
    """A refusal means that nothing was done; only a 5xx may hide that it was."""
    if fault.kind == "status" and fault.status < 500:
        fault.done = False
    return fault


async def live(example: Example, folder: Path) -> list[str]:
    """The broken promises of one example."""
    world = World(id_kind=example.id_kind, seed=example.nights)
    server_id = world.add_server("web-01", status="active" if example.was_active else "stopped")
    for name, status, age in example.history:
        created = datetime.now(UTC) - timedelta(hours=age) if isinstance(age, int) else age
        world.add_snapshot(server_id, name, status=status, created_at=created)
    world.faults.extend(_honest(fault) for fault in example.faults)
    story = Story(
        world=world,
        ledger_path=folder / "state.db",
        policy=example.policy,
        server_id=server_id,
        settle=SETTLE,
        poll_interval=30.0,
        crashes=set(example.crashes),
    )
    witnessed = Witnessed(story)
    for number in range(example.nights):
        async with asyncio.timeout(2 * 86400):
            rotation = await story.live_through(night(number))
        await asyncio.sleep(3600)  # whatever comes late has come
        witnessed.judge_rotation(rotation, was_active=example.was_active)
    return witnessed.broken


def search(shard: int, look: Callable[[Example], None]) -> None:
    @seed(shard)
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate, Phase.shrink] if "CRASH_SHRINK" in os.environ else [Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(example=examples)
    def law(example: Example) -> None:
        look(example)

    law()


@pytest.mark.search
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_promise_is_broken_by_crashes_lost_answers_and_errors(shard: int) -> None:
    def look(example: Example) -> None:
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            assert run_virtually(live(example, Path(folder))) == []

    search(shard, look)


@pytest.mark.search
def test_the_search_is_long_enough_to_meet_everything() -> None:
    met: list[Example] = []
    for shard in range(SHARDS):
        search(shard, met.append)
    assert {crash[0] for one in met for crash in one.crashes if isinstance(crash, tuple)} == set(MOMENTS)
    assert {fault.kind for one in met for fault in one.faults} == FAULT_KINDS
    assert {(one.policy.stop_first, one.policy.on_stop_timeout) for one in met} == set(
        product((True, False), OnStopTimeout)
    )
    assert {(one.policy.when_full, one.nights) for one in met} == set(product(WhenFull, (1, 2, 3)))
    assert {(one.was_active, one.id_kind) for one in met} == set(product((True, False), ID_KINDS))
