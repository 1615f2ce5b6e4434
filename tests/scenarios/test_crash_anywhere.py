"""The promises, under random crashes, lost and late answers, errors and histories.

Each example is a server with some history and a policy, one to three nights, faults of the provider and of what lies
on the way to it, and a set of moments at which the process dies: before or after any request, before or after any write
of the ledger. Between two lives the ledger, the disk or the configuration may be harmed; instead of dying a process may
be frozen, while another one goes on. The promises are checked from the provider's side: at every request, after every
night, every few minutes, and a day after the last night.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from snaprotd.core.policy import OnStopTimeout, Policy, Retention, WhenFull
from snaprotd.simulator import Fault, World
from tests.support.harms import Harm
from tests.support.histories import History
from tests.support.policies import NIGHTLY, slots
from tests.support.searches import size
from tests.support.virtual_time import run_virtually

SHARDS = 8
EXAMPLES = size(48, 250)
"""Of each shard: 384 in all, or 2,000."""

SETTLE = 120.0
FAR_BEHIND = 900.0
"""Seconds."""
LONG_AFTER = (950.0, 5 * 3600.0, 20 * 3600.0)
"""Seconds: after the time-outs of the stop and of the start, and much longer."""
THAWED_AFTER = (300.0, 7200.0, None)
"""Seconds, or never."""
MOMENTS = [
    f"{when} {change}"
    for when, change in product(("before", "after"), ("create", "stop", "start", "hard_stop", "delete"))
]
ID_KINDS = ("integer", "uuid", "uuid_key")
FAULT_KINDS = {
    "cut",
    "doubled",
    "empty",
    "ends",
    "foreign_next",
    "hang",
    "hang_done",
    "html",
    "late",
    "late_listing",
    "lost",
    "proxy",
    "redirect",
    "short",
    "slow_delete",
    "slow_power",
    "stale",
    "start_never",
    "status",
    "stop_never",
    "stuck",
    "trickle",
    "truncated",
}
GET_KINDS = ("cut", "hang", "html", "truncated", "short", "foreign_next", "redirect", "trickle")
SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None

pytestmark = pytest.mark.usefixtures("one_clock", "silence")


@dataclass(frozen=True, kw_only=True)
class Example:
    policy: Policy
    history: tuple[tuple[str, str, str | int | None], ...]
    """Name, status, and age in hours or the text of `created_at`."""
    faults: tuple[Fault, ...]
    crashes: frozenset[int | tuple[str, int]]
    nights: int
    hours_apart: int
    was_active: bool
    id_kind: str
    harms: tuple[Harm, ...]
    frozen_at: int | None
    thaws_after: float | None
    ledger_deleted_at: int | None


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
_looks = st.integers(0, 12)
_late = st.sampled_from([1.0, 5.0, 30.0, 90.0, 115.0])

POWER_ERRORS = (400, 401, 403, 404, 409, 429, 500)
RETRY_AFTER = ("", "0", "7", "3600", "86400", "1737000000", "Fri, 01 Jan 2100 00:00:00 GMT")
"""None, some seconds, an hour, a day, an epoch, and a date."""
_retry_after = st.sampled_from(("", *RETRY_AFTER))

faults = st.one_of(
    st.builds(
        Fault,
        kind=st.sampled_from(
            ["lost", "cut", "late", "hang", "hang_done", "truncated", "stuck", "stuck", "ends", "ends", "late_listing"]
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
        retry_after=_retry_after,
        times=_times,
        skip=_skip,
    ),
    # An error answer to a power request proves nothing.
    st.builds(
        Fault,
        kind=st.sampled_from(["status", "status", "proxy", "html"]),
        method=st.just("POST"),
        path=st.just("/servers/*/power/"),
        action=st.sampled_from(["stop", "start", "hard_stop", ""]),
        status=st.sampled_from(POWER_ERRORS),
        done=st.booleans(),
        retry_after=_retry_after,
        times=_times,
    ),
    # A proxy that sends again what it sent, within the time that a request may be late.
    st.builds(
        Fault,
        kind=st.just("doubled"),
        method=st.just("POST"),
        path=st.just("/servers/*/power/"),
        action=st.sampled_from(["stop", "stop", "hard_stop", "start"]),
        status=st.sampled_from([0, 0, *POWER_ERRORS]),
        delay=st.sampled_from([0.0, 5.0, 60.0, 115.0]),
        times=_times,
    ),
    # A replica that lags behind for less than a poll, or is far behind once.
    st.builds(
        lambda lag, skip: Fault(kind="stale", method="GET", delay=lag[0], times=lag[1], skip=skip),
        st.one_of(st.tuples(st.just(29.0), st.integers(1, 8)), st.just((FAR_BEHIND, 1))),
        _looks,
    ),
    # A server that is not found, in whosever words, and is listed: for longer than a start is waited for, too.
    st.builds(
        Fault,
        kind=st.sampled_from(["status", "proxy", "html"]),
        method=st.just("GET"),
        path=st.just("/servers/*/"),
        status=st.just(404),
        times=st.sampled_from([3, 60]),
        skip=_looks,
    ),
    *2
    * [
        st.builds(
            Fault,
            kind=st.sampled_from(GET_KINDS),
            method=st.just("GET"),
            times=st.integers(1, 8),
            skip=st.integers(0, 8),
            delay=st.just(60.0),
        ),
    ],
    # The enemy: a stop that strikes when the rotation may be over; or, where it was acknowledged, hours later.
    st.builds(
        lambda late: Fault(kind=late[0], method="POST", path="/servers/*/power/", action="stop", delay=late[1]),
        st.one_of(
            st.tuples(st.just("late"), st.sampled_from([90.0, 115.0])),
            st.tuples(st.just("slow_power"), st.sampled_from([90.0, 115.0, *LONG_AFTER])),
        ),
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


def _power(kind: str, action: str, **options: Any) -> Fault:
    return Fault(kind=kind, method="POST", path="/servers/*/power/", action=action, **options)


CONSPIRACIES: dict[str, Callable[[], tuple[Fault, ...]]] = {
    "a doubled stop strikes after an early start": lambda: (
        _power("doubled", "stop", delay=115.0),
        Fault(kind="status", status=403, method="POST", path="/snapshots/"),
    ),
    "a late stop, and starts that come to nothing": lambda: (
        _power("slow_power", "stop", delay=5 * 3600.0),
        _power("start_never", "start", times=12),
    ),
    "a late stop, and the next slot's": lambda: (_power("slow_power", "stop", delay=5 * 3600.0),),
}
"""What would seldom meet by chance, and has left servers off."""

few, many = st.lists(faults, max_size=3), st.lists(faults, min_size=2, max_size=6)
conspiracies = st.sampled_from(sorted(CONSPIRACIES)).map(lambda name: [*CONSPIRACIES[name]()])

examples = st.builds(
    Example,
    policy=policies,
    history=histories.map(tuple),
    faults=st.one_of(st.lists(faults, max_size=3), *2 * [st.lists(faults, min_size=2, max_size=6)], conspiracies).map(
        tuple
    ),
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
    nights=st.sampled_from([1, 1, 1, 2, 3]),
    hours_apart=st.sampled_from([24, 3, 3]),
    was_active=st.sampled_from([True, True, True, False]),
    id_kind=st.sampled_from(ID_KINDS),
    harms=st.lists(st.sampled_from(Harm), min_size=2, max_size=4).map(tuple),
    frozen_at=st.one_of(st.none(), st.none(), st.none(), st.integers(1, 160)),
    thaws_after=st.sampled_from(THAWED_AFTER),
    ledger_deleted_at=st.one_of(st.none(), st.none(), st.none(), st.integers(1, 40)),
)


def fair(faults: tuple[Fault, ...]) -> list[Fault]:
    """Without what nobody could keep a promise under.

    Other than to a power request, a refusal means that nothing was done; only a 5xx may hide that it was: a snapshot
    that was taken and refused with 429 would be asked for again. And two looks that are both far behind would prove
    that a server runs which does not; as a server is taken for gone that is neither found nor listed for as long as a
    start is waited for.
    """
    kept: list[Fault] = []
    for fault in faults:
        if fault.kind == "status" and fault.status < 500 and "power" not in fault.path:
            fault.done = False
        is_far_behind = fault.kind == "stale" and fault.delay == FAR_BEHIND
        if not (is_far_behind and any(other.delay == FAR_BEHIND and other.kind == "stale" for other in kept)):
            kept.append(fault)
    return kept


def history_of(example: Example, folder: Path) -> History:
    """The example, about to be lived."""
    world = World(id_kind=example.id_kind, seed=example.nights)
    server_id = world.add_server("web-01", status="active" if example.was_active else "stopped")
    for name, status, age in example.history:
        created = datetime.now(UTC) - timedelta(hours=age) if isinstance(age, int) else age
        world.add_snapshot(
            server_id, name, status=status, created_at=created, size_mb=5120 if status == "completed" else None
        )
    world.faults.extend(fair(example.faults))
    return History(
        world=world,
        ledger_path=folder / "state.db",
        policy=example.policy,
        server_id=server_id,
        settle=SETTLE,
        poll_interval=30.0,
        crashes=set(example.crashes),
        nights=example.nights,
        hours_apart=example.hours_apart,
        was_active=example.was_active,
        harms=example.harms,
        frozen_at=example.frozen_at,
        thaws_after=example.thaws_after,
        # Not both: a process that is frozen writes nothing from memory.
        ledger_deleted_at=example.ledger_deleted_at if example.frozen_at is None else None,
    )


async def live(example: Example, folder: Path) -> list[str]:
    """The broken promises of one example."""
    return await history_of(example, folder).live()


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


def is_met(met: Iterable[object], wanted: Iterable[object]) -> None:
    """All of it in the long form. In the short one chance leaves out a few, not always the same."""
    missing = {*wanted} - {*met}
    assert len(missing) <= size(len({*wanted}) // 5, 0), missing


@pytest.mark.search
def test_the_search_is_long_enough_to_meet_everything() -> None:
    met: list[Example] = []
    for shard in range(SHARDS):
        search(shard, met.append)
    is_met((crash[0] for one in met for crash in one.crashes if isinstance(crash, tuple)), MOMENTS)
    kinds = {fault.kind for one in met for fault in one.faults}
    is_met(kinds, FAULT_KINDS)
    assert {"stale", "doubled", "proxy", "late", "slow_power", "status"} <= kinds <= FAULT_KINDS
    assert {(one.policy.stop_first, one.policy.on_stop_timeout) for one in met} == set(
        product((True, False), OnStopTimeout)
    )
    is_met(((one.policy.when_full, one.nights) for one in met), product(WhenFull, (1, 2, 3)))
    assert {(one.was_active, one.id_kind) for one in met} == set(product((True, False), ID_KINDS))
    assert {one.hours_apart for one in met if one.nights > 1} == {24, 3}
    is_met((harm for one in met for harm in one.harms[: len(one.crashes)]), Harm)
    assert {one.thaws_after for one in met if one.frozen_at} == set(THAWED_AFTER)
    assert any(one.ledger_deleted_at and not one.frozen_at for one in met)


@pytest.mark.search
def test_the_search_is_long_enough_to_meet_every_way_in_which_an_answer_is_worth_nothing() -> None:
    met: list[Fault] = []
    for shard in range(SHARDS):
        search(shard, lambda example: met.extend(fair(example.faults)))
    to_power = [fault for fault in met if "power" in fault.path]
    errors = [fault for fault in to_power if fault.kind in ("status", "proxy", "html")]
    assert {fault.done for fault in errors} == {True, False}
    is_met((fault.status for fault in errors), POWER_ERRORS)
    is_met((fault.retry_after for fault in met), RETRY_AFTER)
    assert max(fault.delay for fault in to_power if fault.kind == "slow_power") > 3600
    is_met((fault.delay for fault in to_power if fault.kind == "slow_power"), LONG_AFTER)
    assert {fault.action for fault in to_power if fault.kind == "doubled"} >= {"stop", "start"}
    assert {fault.delay for fault in met if fault.kind == "stale"} == {29.0, FAR_BEHIND}
    assert any(fault.status == 404 and fault.times == 60 for fault in met)
