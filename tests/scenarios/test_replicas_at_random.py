"""The promises to some servers that several replicas look after together, on one ledger.

Replicas are killed, frozen past their lease and cut off from the database, at any time and around the requests that
change something; a commit is never answered, and was done or not; the database fails over; requests are lost, late and
refused. Each slot has one snapshot, in its window, nothing else is deleted, and no server is left off.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Policy, Retention
from snaprotd.engine.starts.keeper import Keeper
from snaprotd.ledger.files.copies import Copies
from snaprotd.ledger.leases.others import Others
from snaprotd.simulator import Fault, World
from tests.support.drawn import MOMENTS
from tests.support.drawn_faults import fair, faults
from tests.support.lives import night
from tests.support.policies import NIGHTLY, slots
from tests.support.replicas import Blow, Harm, Replicas
from tests.support.searches import SCRATCH, histories, look_at
from tests.support.shared import INTENT, PROMISE, SharedDatabase
from tests.support.virtual_time import run_virtually, true_time

EXAMPLES = histories(8, 60)
KEPT = 2
LATEST = 115.0
"""Seconds by which requests are late: less than `settle`."""

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_marks")


@dataclass(frozen=True, kw_only=True)
class Example:
    replicas: int
    servers: int
    nights: int
    blows: tuple[Blow, ...]
    unclear: tuple[tuple[int | str, bool], ...]
    failover: tuple[int | str, int] | None
    """The write after which it comes, and how many commits are lost."""
    faults: tuple[Fault, ...]
    has_folders: bool
    snapshot_seconds: int


blows = st.builds(
    Blow,
    harm=st.sampled_from(["killed", "frozen", "cut off"]),
    replica=st.integers(0, 1),
    at=st.one_of(st.sampled_from([0.5, 2.0, 10.0, 45.0, 100.0, 200.0]), st.sampled_from(MOMENTS)),
    lasts=st.sampled_from([15.0, 55.0, 90.0, 400.0, 2000.0]),
)
examples = st.builds(
    Example,
    replicas=st.integers(2, 3),
    servers=st.integers(1, 2),
    nights=st.integers(1, 2),
    blows=st.lists(blows, min_size=1, max_size=4).map(tuple),
    unclear=st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=3).map(tuple),
    failover=st.one_of(st.none(), st.none(), st.tuples(st.integers(3, 60), st.integers(1, 3))),
    faults=st.one_of(st.just(()), st.lists(faults, max_size=2).map(tuple)),
    has_folders=st.booleans(),
    snapshot_seconds=st.sampled_from([60, 240]),
)


def replicas_of(example: Example, folder: Path, *, believes_commits: bool = False) -> Replicas:
    """The example, about to be lived."""
    seconds = example.snapshot_seconds
    world = World(clock=true_time, snapshot_seconds=(seconds, seconds), page_size=100)
    servers = tuple(world.add_server(f"web-{number}") for number in range(example.servers))
    for server in servers:
        for days in range(KEPT, 0, -1):
            slot = night(0) - timedelta(days=days)
            world.add_snapshot(server, snapshot_name("main", slot), created_at=slot)
    world.faults.extend(one for one in fair(example.faults) if one.method == "POST" and one.delay <= LATEST)
    path, failed = folder / "state.db", example.failover or (None, 1)
    return Replicas(
        world=world,
        ledger_path=path,
        policy=Policy(schedule=slots(NIGHTLY), keep=Retention(last=KEPT), stop_first=True),
        server_id=servers[0],
        server_ids=servers,
        kept=KEPT,
        number=example.replicas,
        nights=example.nights,
        blows=example.blows,
        database=SharedDatabase(
            path, dict(example.unclear), fails_over_at=failed[0], loses=failed[1], believes_commits=believes_commits
        ),
        has_folders=example.has_folders,
    )


async def live(example: Example, folder: Path, met: Counter[str], **options: bool) -> list[str]:
    story = replicas_of(example, folder, **options)
    broken = await story.live()
    met.update(story.met)
    met.update(story.database.met)
    return broken


def broken_by(example: Example, met: Counter[str], **options: bool) -> list[str]:
    """The broken promises of one example."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        return run_virtually(live(example, Path(folder), met, **options))


def search(look: Callable[[Example], None], *, most: int = EXAMPLES) -> None:
    look_at(examples, look, number=1, most=most)


@pytest.mark.search
def test_no_promise_is_broken_by_what_befalls_some_of_several_replicas() -> None:
    met: Counter[str] = Counter()

    def look(example: Example) -> None:
        assert broken_by(example, met) == [], example

    search(look)
    assert {"killed", "frozen", "cut off", "a cut", "a failover"} <= {*met}
    assert {"a commit that was done", "a commit that was not done"} <= {*met}


# -- it sees what it is to see ---------------------------------------------------------------------------------------


def quiet(**changes: Any) -> Example:
    usual = Example(
        replicas=2,
        servers=1,
        nights=1,
        blows=(),
        unclear=(),
        failover=None,
        faults=(),
        has_folders=False,
        snapshot_seconds=60,
    )
    return replace(usual, **changes)


def on_each(harm: Harm, at: str, lasts: float) -> tuple[Blow, ...]:
    """It befalls whichever replica comes to that moment."""
    return tuple(Blow(harm=harm, replica=number, at=at, lasts=lasts) for number in range(2))


LATE = Fault(kind="late", method="POST", path="/snapshots/", delay=LATEST)
UNSAVED = quiet(unclear=((INTENT, False),), blows=on_each("killed", "after create", 2000.0), faults=(LATE,))
FORGOTTEN = quiet(failover=(PROMISE, 1), blows=on_each("frozen", "after stop", 400.0))


def test_a_rotation_whose_lease_is_not_believed_in_is_seen_to_be_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken_by(quiet(), Counter()) == []

    async def nobody(*_: object, **__: object) -> set[str]:
        return set()

    monkeypatch.setattr(Others, "living", nobody)
    assert any("in the middle of" in one for one in broken_by(quiet(), Counter()))


def test_an_intent_that_is_believed_to_be_saved_is_seen_to_be_asked_for_twice() -> None:
    assert broken_by(UNSAVED, Counter()) == []
    assert any(one.startswith("P4") for one in broken_by(UNSAVED, Counter(), believes_commits=True))


def test_a_promise_that_is_forgotten_with_its_lease_is_seen_to_leave_a_server_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a replica that can keep no copy of it."""

    async def nothing(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(Copies, "keep", nothing)
    assert broken_by(FORGOTTEN, Counter()) == []
    monkeypatch.setattr(Keeper, "insist", nothing)
    assert any(one.startswith("P1") for one in broken_by(FORGOTTEN, Counter()))
