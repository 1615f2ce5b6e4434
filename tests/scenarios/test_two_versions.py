"""Two versions on one ledger: a rollout, a downgrade or a crash at each step of a rotation, and all is well after it.

Whoever begins the rotation is killed, frozen, or ended and begun anew as the other version when it has come to a step;
beside it is a replica of the other version. What that may go on with it does; what it may not it leaves as it is, and
starts the server.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Policy, Retention
from snaprotd.core.rotation import STEPS, Step
from snaprotd.ledger.leases import taking
from snaprotd.ledger.sql import statements
from snaprotd.simulator import World
from tests.support.lives import night
from tests.support.policies import NIGHTLY, slots
from tests.support.replicas import Blow, Harm
from tests.support.searches import IS_LONG
from tests.support.shared import SharedDatabase
from tests.support.versions import Versions
from tests.support.virtual_time import true_time

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_marks")

KEPT = 2
OFF_FOR = 300.0
"""Seconds: a snapshot, a lease with its margin, and until a server is asked to start."""
NAME = snapshot_name("main", night(0))
LONG = 2000.0
"""Seconds for which a replica is away, until another one must have gone on."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What happens to the replica that has begun a rotation."""

    name: str
    is_next: bool
    """It is of the later version, and the other one is not; or the other way round."""
    harm: Harm = "killed"
    lasts: float = LONG
    becomes_another: bool = False
    asks_for_next: bool = False
    is_left: bool = False
    """Nobody may go on with what it has begun."""


CHANGES = [
    Change(name="older-killed", is_next=False),
    Change(name="older-frozen", is_next=False, harm="frozen", lasts=400.0),
    Change(name="upgraded", is_next=False, lasts=15.0, becomes_another=True),
    Change(name="upgraded-for-good", is_next=False, lasts=15.0, becomes_another=True, asks_for_next=True),
    Change(name="newer-killed", is_next=True),
    Change(name="newer-frozen", is_next=True, harm="frozen", lasts=400.0),
    Change(name="downgraded", is_next=True, lasts=15.0, becomes_another=True),
    Change(name="newer-killed-with-what-is-its-own", is_next=True, asks_for_next=True),
    Change(name="newer-frozen-with-what-is-its-own", is_next=True, harm="frozen", lasts=400.0, asks_for_next=True),
    Change(name="downgraded-too-far", is_next=True, lasts=15.0, becomes_another=True, asks_for_next=True, is_left=True),
]
BY_NAME = {one.name: one for one in CHANGES}
OPEN = [one for one in STEPS if one not in (Step.MAKE_ROOM, Step.DONE)]
"""Where a server has room nothing is asked for to make some, and nothing is written of that."""
FEW = [
    ("newer-killed", Step.WAIT),
    ("downgraded", Step.STOP),
    ("newer-killed-with-what-is-its-own", Step.SNAPSHOT),
    ("downgraded-too-far", Step.WAIT),
]
CASES = [(BY_NAME[name], step) for name, step in FEW] if not IS_LONG else [*itertools.product(CHANGES, OPEN)]


def story_of(change: Change, step: Step, folder: Path) -> Versions:
    world = World(clock=true_time, snapshot_seconds=(60, 60), page_size=100)
    server = world.add_server("web-0")
    for days in range(KEPT, 0, -1):
        slot = night(0) - timedelta(days=days)
        world.add_snapshot(server, snapshot_name("main", slot), created_at=slot)
    path = folder / "state.db"
    return Versions(
        world=world,
        ledger_path=path,
        policy=Policy(schedule=slots(NIGHTLY), keep=Retention(last=KEPT), stop_first=True),
        server_id=server,
        server_ids=(server,),
        kept=KEPT,
        number=2,
        nights=2 if change.is_left else 1,
        blows=(Blow(harm=change.harm, replica=0, at=f"at {step}", lasts=change.lasts),),
        database=SharedDatabase(path),
        are_next={0} if change.is_next else {1},
        becomes_another=change.becomes_another,
        asks_for_next=change.asks_for_next,
    )


@pytest.mark.search
@pytest.mark.parametrize(("change", "step"), CASES, ids=lambda one: getattr(one, "name", str(one)))
async def test_at_each_step_what_one_version_has_begun_comes_to_a_good_end_beside_another(
    change: Change, step: Step, tmp_path: Path
) -> None:
    story = story_of(change, step, tmp_path)
    broken = await story.live()
    assert story.met[change.harm] == 1
    assert broken == (
        [f"P4: {NAME} of 12345: no rotation of the slot, or none that has ended"] if change.is_left else []
    )
    assert story.longest_off <= OFF_FOR
    assert story.lost == []
    if change.asks_for_next and change.is_next:
        assert story.seen_to_by[night(0)] == {True}
    elif change.lasts == LONG:
        assert story.seen_to_by[night(0)] == {True, False}
    if change.is_left:
        assert story.seen_to_by[night(0) + timedelta(hours=2)] == {False}


# -- it sees what it is to see ---------------------------------------------------------------------------------------


async def test_who_goes_on_with_what_it_may_not_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(taking, "FORMAT", 99)
    monkeypatch.setattr(statements, "is_newer", lambda row: False)
    story = story_of(BY_NAME["newer-killed-with-what-is-its-own"], Step.SNAPSHOT, tmp_path)
    await story.live()
    assert story.seen_to_by[night(0)] == {True, False}


async def test_who_forgets_what_it_does_not_know_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(taking, "unknown_in", lambda body: {})
    story = story_of(BY_NAME["newer-killed"], Step.WAIT, tmp_path)
    await story.live()
    assert story.lost != []
