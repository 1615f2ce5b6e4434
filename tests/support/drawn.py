"""What a history is drawn from: the server and its policy, what is there already, and what befalls the processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

from hypothesis import strategies as st

from snaprotd.core.policy import OnStopTimeout, Policy, Retention, Retry, WhenFull
from snaprotd.simulator import Fault
from tests.support.drawn_faults import conspiracies, fair, faults
from tests.support.drawn_lies import SETTLE, fair_clocks, lies, others, our_clocks, provider_clocks, words
from tests.support.harms import Harm
from tests.support.histories import History, OffTimeWorld, Other, Word
from tests.support.lies import Lie
from tests.support.lives import night
from tests.support.policies import NIGHTLY, slots
from tests.support.virtual_time import true_time

THAWED_AFTER = (300.0, 7200.0, None)
"""Seconds, or never."""
MOMENTS = [
    f"{when} {change}"
    for when, change in product(("before", "after"), ("create", "stop", "start", "hard_stop", "delete"))
]
WINDOW = "03:00-03:50"
ID_KINDS = ("integer", "uuid", "uuid_key")


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
    lies: tuple[Lie, ...]
    others: tuple[Other, ...]
    provider_clock: tuple[float, float, float] | None
    clocks: tuple[float, ...]
    words: tuple[Word, ...]


HOLDS = ("-held", "-until-20250131", "-until-20250110")
"""What names say of holds: two that outlast every history, and one that is over."""


def _ours(number: int, hold: str = "") -> str:
    return f"snaprotd-main-202501{number:02}T033000Z{hold}"


holds = st.sampled_from(["", "", "", *HOLDS])
ours = st.builds(_ours, st.integers(1, 14), holds)


histories = st.lists(
    st.one_of(
        st.tuples(ours, st.just("completed"), st.integers(24, 900)),
        st.tuples(ours, st.sampled_from(["failed", "error", "weird"]), st.integers(24, 900)),
        st.tuples(ours, st.just("in_progress"), st.integers(24, 900)),
        st.tuples(ours, st.just("completed"), st.sampled_from(["soon", "2025-01-01", None])),
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

rough = st.builds(
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
    lies=st.lists(lies, max_size=3).map(tuple),
    others=st.lists(others, max_size=2).map(tuple),
    provider_clock=provider_clocks,
    clocks=our_clocks,
    words=st.lists(words, max_size=2).map(tuple),
)


def _good(nights: Iterable[tuple[int, str]]) -> tuple[tuple[str, str, int], ...]:
    """What earlier nights have left, each taken half an hour after its slot."""
    return tuple((_ours(number, hold), "completed", (16 - number) * 24 - 1) for number, hold in nights)


quiet = st.builds(
    Example,
    policy=policies,
    history=st.lists(st.tuples(st.integers(1, 15), holds), min_size=1, max_size=4, unique_by=lambda one: one[0]).map(
        _good
    ),
    faults=st.lists(faults, max_size=1).map(tuple),
    crashes=st.just(frozenset()),
    nights=st.sampled_from([1, 2]),
    hours_apart=st.sampled_from([24, 3]),
    was_active=st.just(True),
    id_kind=st.sampled_from(ID_KINDS),
    harms=st.just(()),
    frozen_at=st.none(),
    thaws_after=st.none(),
    ledger_deleted_at=st.none(),
    lies=st.lists(lies, min_size=1, max_size=2).map(tuple),
    others=st.lists(others, max_size=1).map(tuple),
    provider_clock=provider_clocks,
    clocks=st.just(()),
    words=st.lists(words, max_size=3).map(tuple),
)
"""Nights on which little happens but that something is told wrongly: most come to their deletions."""

examples = st.one_of(rough, rough, rough, quiet)


def _varied(example: Example) -> Policy:
    """Some nights have a window, and in some no snapshot is waited for to its end: then its slot is tried again.

    Which they are is told by what was drawn anyway.
    """
    policy = example.policy
    match (len(example.history) + example.nights) % 3:
        case 1:
            retry = Retry(times=2, after=timedelta(minutes=7))
            return replace(policy, snapshot_timeout=timedelta(minutes=2), retry=retry)
        case 2:
            return replace(policy, schedule=replace(policy.schedule, window=(WINDOW,)))
    return policy


def history_of(example: Example, folder: Path) -> History:
    """The example, about to be lived."""
    world = OffTimeWorld(clock=true_time, id_kind=example.id_kind, seed=example.nights)
    server_id = world.add_server("web-01", status="active" if example.was_active else "stopped")
    for name, status, age in example.history:
        created = datetime.now(UTC) - timedelta(hours=age) if isinstance(age, int) else age
        world.add_snapshot(
            server_id, name, status=status, created_at=created, size_mb=5120 if status == "completed" else None
        )
    world.faults.extend(fair(example.faults))
    if example.provider_clock is not None:
        since, lasts, ahead = example.provider_clock
        world.is_wrong(ahead, since=(night(0) - world.clock()).total_seconds() + since, lasts=lasts)
    return History(
        world=world,
        ledger_path=folder / "state.db",
        policy=_varied(example),
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
        lies=example.lies,
        others=example.others,
        words=example.words,
        clocks=fair_clocks(example.clocks, example.faults),
    )
