"""Whose a snapshot is that bears our name: by what the ledger knows, and by the name only where that knows nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from snaprotd.core.creation import LIVES_KEPT, Life, Recollection, Trace, alive_until, mark_of_life
from snaprotd.core.holds import snapshot_name
from snaprotd.core.model import Owner, Snapshot
from snaprotd.core.ownership import owner_of
from snaprotd.core.policy import Retention, Rules, WhenFull
from snaprotd.core.retention import ForbiddenDeletion, plan_retention, refuse_deletion
from snaprotd.core.room import make_room
from tests.support.nouns import a_snapshot
from tests.support.policies import a_policy

SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
NAME = snapshot_name("main", SLOT)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ALIVE = (Life(SLOT - 60 * MINUTE, SLOT + 60 * MINUTE),)


def one(its_id: str = "801", name: str = NAME, at: datetime | None = SLOT + MINUTE, **more: Any) -> Snapshot:
    return replace(a_snapshot(its_id, name, at), **more)


def trace(**more: Any) -> Trace:
    return Trace(row="r1", slot=SLOT, **more)


def owner(snapshot: Snapshot, *traces: Trace, lives: tuple[Life, ...] = ALIVE, adopt: tuple[str, ...] = ()) -> Owner:
    (marked,) = Recollection(traces=traces, lives=lives).marked([snapshot], "main")
    return owner_of(marked, instance="main", adopt=adopt)


@pytest.mark.parametrize(
    ("snapshot", "traces", "lives", "is_ours"),
    [
        (one(), (trace(snapshot_id="801", has_more=False),), ALIVE, True),
        (one(name=NAME.lower()), (trace(snapshot_id="801", has_more=False),), ALIVE, True),
        (one(name="renamed"), (trace(snapshot_id="801", has_more=False),), ALIVE, True),
        (one("u-801", also=("801",)), (trace(snapshot_id="801", has_more=False),), ALIVE, True),
        (one(at=SLOT - timedelta(days=30)), (trace(snapshot_id="801", has_more=False),), ALIVE, True),
        (one(name="by-hand", at=SLOT + 20 * HOUR), (trace(snapshot_id="801", ended_at=SLOT + HOUR),), ALIVE, False),
        (
            one(name="by-hand", at=SLOT + 2 * HOUR),
            (trace(snapshot_id="801", ended_at=SLOT + HOUR, has_succeeded=True),),
            ALIVE,
            True,
        ),
        (one(name="by-hand", at=SLOT + 2 * HOUR), (trace(snapshot_id="801", ended_at=SLOT + HOUR),), ALIVE, False),
        (one(name="by-hand"), (trace(),), ALIVE, False),
        (one(), (trace(),), ALIVE, True),
        (one(name=f" {NAME.lower()} "), (trace(),), ALIVE, True),
        (one(), (), ALIVE, False),
        (one(), (trace(snapshot_id="802", has_more=False),), ALIVE, False),
        (one(), (trace(has_more=False),), ALIVE, False),
        (one(), (trace(passed_over=frozenset({"801"})),), ALIVE, False),
        (one(), (trace(snapshot_id="802", passed_over=frozenset({"801"})),), ALIVE, False),
        (one(name=snapshot_name("dr", SLOT)), (trace(),), ALIVE, False),
        (one(name=snapshot_name("dr", SLOT)), (trace(snapshot_id="801"),), ALIVE, False),
        (one(), (), (), True),
        (one(), (), (Life(SLOT + MINUTE, SLOT + 60 * MINUTE),), True),
        (one(), (), (Life(SLOT - 60 * MINUTE, SLOT - MINUTE), Life(SLOT + MINUTE, SLOT + 60 * MINUTE)), True),
        (one(), (trace(snapshot_id="802", has_more=False),), (), True),
        (one(at=SLOT - 5 * MINUTE), (), (), True),
        (one(at=SLOT - 6 * MINUTE), (), (), False),
        (one(at=SLOT - timedelta(days=30)), (trace(has_more=False),), (), False),
        (one(at=None), (), (), True),
        (one(at=datetime(1970, 1, 1, tzinfo=UTC)), (), (), True),
    ],
    ids=[
        "a row names its id",
        "a row names its id, and its name came back in lower case",
        "a row names its id, and somebody has renamed it",
        "a row names another id of it",
        "a row names its id, and the provider's clock is far behind",
        "a row names its id, and had ended hours before it was taken: the id was given again",
        "a row names its id, and the provider's clock is an hour ahead",
        "a row names its id, no list has shown ours, and another one has the id",
        "a row of a lost answer, and somebody else's name",
        "the answer to its request was lost",
        "the same, and its name came back otherwise",
        "no row of a time in which the ledger was kept",
        "the row of its slot names another one",
        "the row of its slot has asked for none",
        "it was there before the request whose answer was lost",
        "the same, and a second request was answered",
        "another instance's, of a slot in which our answer was lost",
        "another instance's, whose name a row of ours once had: the instance was changed",
        "a ledger without a mark: an older version's, or only commands used it",
        "from before the first life: the ledger was lost",
        "from a gap between two lives: an old copy of the ledger was put back",
        "from a gap, in which the ledger has another one of that slot",
        "as old as the clocks may differ",
        "older than its slot",
        "a month older than its slot, before anything was asked for",
        "without a date",
        "with a date that is none",
    ],
)
def test_whose_a_snapshot_is_that_bears_our_name(
    snapshot: Snapshot, traces: tuple[Trace, ...], lives: tuple[Life, ...], is_ours: bool
) -> None:
    assert (owner(snapshot, *traces, lives=lives) is Owner.MANAGED) is is_ours


KNOWN = trace(snapshot_id="801", has_more=False, ended_at=SLOT + HOUR, taken_at=SLOT + MINUTE)


@pytest.mark.parametrize(
    ("snapshot", "is_ours"),
    [
        (one(name="renamed"), True),
        (one(name="renamed", at=SLOT + 2 * MINUTE), True),
        (one(name="renamed", at=None), True),
        (one(name="by-hand", at=SLOT + 30 * MINUTE), False),
        (one(name="by-hand", at=SLOT - 30 * MINUTE), False),
        (one(name=snapshot_name("main", SLOT + HOUR), at=SLOT + HOUR), False),
        (one(at=SLOT + 30 * MINUTE), True),
        (one(name=NAME.lower(), at=SLOT + 30 * MINUTE), True),
    ],
    ids=[
        "renamed",
        "renamed, and the lists differ by a minute",
        "renamed, without a date",
        "another name, taken later: the id was given again",
        "another name, taken earlier",
        "another slot's name",
        "our name, and another date",
        "our name in other letters, and another date",
    ],
)
def test_an_id_that_the_provider_gave_again_makes_nobody_elses_snapshot_ours(snapshot: Snapshot, is_ours: bool) -> None:
    lives = (Life(SLOT - HOUR, SLOT + 2 * HOUR),)
    assert (owner(snapshot, KNOWN, lives=lives) is Owner.MANAGED) is is_ours


def test_that_an_id_was_given_again_is_said() -> None:
    (marked,) = Recollection(traces=(KNOWN,)).marked([one(name="by-hand", at=SLOT + 30 * MINUTE)], "main")
    (decision,) = plan_retention([marked], rules(), now=NOW).decisions
    assert decision.reason == "keep: not made by snaprotd: it has the id that one of ours had"
    assert Recollection(traces=(KNOWN,)).rows_of([marked], "main") == set()


def test_ids_that_all_change_their_form_leave_ours_known_by_slot_and_moment() -> None:
    mine = one("u-1")
    found = Recollection(traces=(KNOWN,), lives=ALIVE)
    assert owner(mine, KNOWN) is Owner.MANAGED
    assert found.rows_of([mine], "main") == {"r1"}
    failed = a_snapshot("u-1", NAME, SLOT + MINUTE, status="failed")
    done = replace(KNOWN, has_succeeded=True)
    assert Recollection(traces=(done,), lives=ALIVE).marked([failed], "main")[0].was_completed


@pytest.mark.parametrize(
    "stranger",
    [
        one("802"),
        one("u-1", also=("802",)),
        one("u-1", at=SLOT + 2 * MINUTE),
        one("u-1", at=None),
        one("u-1", snapshot_name("main", SLOT + 2 * MINUTE)),
    ],
    ids=["an id of our form", "one of its ids is of our form", "another moment", "no date", "another slot"],
)
def test_what_may_be_another_hosts_is_not_ours_for_a_changed_form_of_ids(stranger: Snapshot) -> None:
    """Ours may have been deleted long ago, and another host's of that name stand there still."""
    assert owner(stranger, KNOWN) is Owner.FOREIGN


def test_of_two_of_one_name_and_one_second_neither_is_ours_for_a_changed_form_of_ids() -> None:
    found = Recollection(traces=(KNOWN,), lives=ALIVE)
    told = found.marked([one("u-1"), one("u-2")], "main")
    assert [snapshot.in_ledger for snapshot in told] == [False, False]
    told = found.marked([one("u-1"), one("u-2", at=SLOT + 2 * MINUTE)], "main")
    assert [snapshot.in_ledger for snapshot in told] == [True, False]
    told = found.marked([one("u-1"), one("801", name="renamed")], "main")
    assert [snapshot.in_ledger for snapshot in told] == [False, True]


def test_a_rotation_that_a_copy_of_the_ledger_has_open_may_have_gone_on_where_the_copy_has_nothing() -> None:
    gap = (Life(SLOT - MINUTE, SLOT + MINUTE), Life(SLOT + 10 * MINUTE, SLOT + 60 * MINUTE))
    assert owner(one(), trace(is_open=True, has_more=False), lives=gap) is Owner.MANAGED
    assert owner(one(), trace(is_open=False, has_more=False), lives=gap) is Owner.FOREIGN
    assert owner(one(), trace(is_open=True, has_more=False), lives=ALIVE) is Owner.FOREIGN


@pytest.mark.parametrize("name", [NAME, NAME.lower(), f" {NAME}"])
def test_a_policy_adopts_what_only_bears_our_name_where_it_says_so_itself(name: str) -> None:
    other_host = one(name=name)
    for greedy in ("*", "s*", "*-main-*", "[s]naprotd-main-*"):
        assert owner(other_host, adopt=(greedy,)) is Owner.FOREIGN
    assert owner(one(), adopt=("*", "snaprotd-main-*")) is Owner.MANAGED
    assert owner(one(name="by-hand"), adopt=("*",)) is Owner.MANAGED


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("by-hand", "not made by snaprotd"),
        (NAME.lower(), "not made by snaprotd: named as ours are, in other letters, and not in the ledger"),
        (snapshot_name("old", SLOT), 'not made by snaprotd as instance "main", but as "old"'),
    ],
)
def test_why_one_that_is_not_ours_is_kept_says_what_it_looks_like(name: str, why: str) -> None:
    (decision,) = plan_retention([one(name=name)], rules(), now=NOW).decisions
    assert decision.reason == f"keep: {why}"


# -- marks of life -----------------------------------------------------------------------------------------------------


def test_marks_that_follow_one_another_are_one_life_and_a_pause_begins_another() -> None:
    lives: tuple[Life, ...] = ()
    for seconds in (0, 15, 30, 90, 151, 166):
        lives = mark_of_life(lives, SLOT + timedelta(seconds=seconds))
    ends = [(life.begin - SLOT, life.end - SLOT) for life in lives]
    assert ends == [
        (timedelta(0), timedelta(seconds=90)),
        (timedelta(seconds=151), timedelta(seconds=166)),
    ]


def test_a_clock_that_was_ahead_leaves_no_time_in_which_we_were_there() -> None:
    ahead = mark_of_life(mark_of_life((), SLOT), SLOT + timedelta(days=400))
    assert mark_of_life(ahead, SLOT + MINUTE) == (Life(SLOT, SLOT + MINUTE),)
    assert mark_of_life((Life(SLOT, SLOT + 60 * MINUTE),), SLOT + MINUTE) == (Life(SLOT, SLOT + MINUTE),)


def test_so_many_lives_are_remembered_and_no_more() -> None:
    lives: tuple[Life, ...] = ()
    for number in range(LIVES_KEPT + 5):
        lives = mark_of_life(lives, SLOT + number * timedelta(hours=1))
    assert len(lives) == LIVES_KEPT
    assert lives[0].begin == SLOT + timedelta(hours=5)


def test_a_life_goes_on_to_the_question_only_where_its_last_mark_is_fresh() -> None:
    (life,) = alive_until((Life(SLOT, SLOT),), SLOT + MINUTE)
    assert life.end == SLOT + MINUTE
    (life,) = alive_until((Life(SLOT, SLOT),), SLOT + 2 * MINUTE)
    assert life.end == SLOT
    assert alive_until((), SLOT) == ()


# -- two of one name ---------------------------------------------------------------------------------------------------

NOW = datetime(2025, 1, 17, 12, 0, tzinfo=UTC)


def rules(**policy: Any) -> Rules:
    return Rules(policy=a_policy(**policy))


def nights(*days: int) -> list[Snapshot]:
    slots = [SLOT - timedelta(days=day) for day in days]
    return [one(str(800 - day), snapshot_name("main", slot), slot) for day, slot in zip(days, slots, strict=True)]


def test_two_of_one_name_are_one_restore_point_and_the_older_goes() -> None:
    older, newer, *others = one("1"), one("2", at=SLOT + 3 * MINUTE), *nights(1, 2)
    plan = plan_retention([older, newer, *others], rules(keep=Retention(last=3)), now=NOW)
    assert [gone.id for gone in plan.deletions] == ["1"]
    assert [decision.reason for decision in plan.decisions if decision.delete] == [
        "delete: the same restore point as a newer one of this name"
    ]
    refuse_deletion("1", [older, newer, *others], rules(), now=NOW)
    with pytest.raises(ForbiddenDeletion):
        refuse_deletion("2", [older, newer, *others], rules(), now=NOW)


def test_an_unfinished_one_of_the_same_name_takes_nothing_from_the_completed_one() -> None:
    unfinished = a_snapshot("2", NAME, SLOT + 3 * MINUTE, status="in_progress")
    plan = plan_retention([one("1"), unfinished], rules(), now=NOW)
    assert plan.deletions == ()


def test_a_full_server_gives_up_a_double_before_anything_else() -> None:
    held = [one("1"), one("2", at=SLOT + 3 * MINUTE), *nights(1, 2, 3)]
    room = make_room(held, rules(), now=NOW)
    assert [gone.snapshot.id for gone in room.deletions] == ["1"]
    assert make_room(held, rules(when_full=WhenFull.REFUSE), now=NOW).deletions == ()


def test_names_that_a_person_gives_may_repeat() -> None:
    held = [one(str(number), "auto", SLOT + number * MINUTE) for number in range(3)]
    plan = plan_retention(held, rules(adopt=("auto",), keep=Retention(last=3)), now=NOW)
    assert plan.deletions == ()


def test_what_only_bears_our_name_is_kept_and_said_and_pushes_our_newest_out_of_no_rule() -> None:
    fakes = [replace(fake, in_ledger=False) for fake in nights(-1, -2, -3, -4)]
    known = one("700", in_ledger=True)
    plan = plan_retention([*fakes, known], rules(), now=SLOT + timedelta(days=5))
    told = {decision.snapshot.id: decision.reason for decision in plan.decisions}
    assert told.pop("700") == "keep: last 1 of 4"
    assert set(told.values()) == {"keep: bears our name, not in the ledger"}
    for fake in fakes:
        with pytest.raises(ForbiddenDeletion, match="it is not ours"):
            refuse_deletion(fake.id, [*fakes, known], rules(), now=SLOT + timedelta(days=5))


def test_a_double_that_cannot_be_deleted_holds_its_slot_and_is_no_unfinished_one() -> None:
    held = [one("1"), one("2", at=SLOT + 3 * MINUTE), *nights(1, 2, 3)]
    plan = plan_retention(held, rules(keep=Retention(last=4)), now=NOW, immovable={"1"})
    told = {decision.snapshot.id: decision.reason for decision in plan.decisions}
    assert told["1"] == "keep: it cannot be deleted"
    assert [gone.id for gone in plan.deletions] == ["797"]
    assert told["797"] == "delete: over keep 3 (keep 4, less 1: 1 cannot be deleted)"
    room = make_room(held, rules(), now=NOW, immovable={"1"})
    assert [gone.snapshot.id for gone in room.deletions] == ["797"]


def test_what_a_rotation_has_seen_completed_is_no_failed_one_whatever_it_is_listed_as() -> None:
    listed = a_snapshot("801", NAME, SLOT + MINUTE, status="failed")
    taken, other = trace(snapshot_id="801", has_succeeded=True), trace(snapshot_id="801")
    told = [Recollection(traces=(one,)).marked([listed], "main")[0] for one in (taken, other)]
    assert [snapshot.was_completed for snapshot in told] == [True, False]
    assert [snapshot.is_failed_for_good for snapshot in told] == [False, True]


def test_a_clock_of_the_provider_that_fell_back_does_not_make_our_newest_the_oldest() -> None:
    """What the ledger knows of a slot was not taken before it."""
    day = timedelta(days=1)
    nights = [SLOT + number * day for number in range(5)]
    dates = [*(night + MINUTE for night in nights[:4]), nights[4] - 10 * day]
    held = [
        one(str(801 + number), snapshot_name("main", night), at, in_ledger=True)
        for number, (night, at) in enumerate(zip(nights, dates, strict=True))
    ]
    now = nights[4] + HOUR
    rules = Rules(policy=a_policy(keep=Retention(last=3), when_full=WhenFull.REPLACE))
    plan = plan_retention(held, rules, now=now)
    assert {gone.id for gone in plan.deletions} == {"801", "802"}
    assert [gone.snapshot.id for gone in make_room(held, rules, now=now).deletions] == ["801"]
    with pytest.raises(ForbiddenDeletion):
        refuse_deletion("805", held, rules, now=now)
