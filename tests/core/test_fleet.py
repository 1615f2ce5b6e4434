"""Who of the replicas lives, whose configuration is the newest, and who has which role: one look after the other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import ceil
from typing import Any

import pytest

from snaprotd.core.fleet import (
    ANSWERED,
    FORGOTTEN_AFTER,
    JOINS_WITHIN,
    LIVES_FOR,
    LOST_AFTER,
    ON_TIME,
    REPORTER,
    TELLER,
    Replica,
)
from snaprotd.core.fleet.looks import Fleet, looked
from snaprotd.core.fleet.said import CONDITIONS, said_by, together, written
from snaprotd.core.fleet.shares import portion, preferred, rate_of
from snaprotd.core.telling import Event, Kind


def replica(id_: str, beat: int = 1, *, config: str = "old", generation: int = 1) -> Replica:
    return Replica(id=id_, beat=beat, version="1", config=config, generation=generation, host=f"host-{id_}")


ME = replica("me", 0, generation=0)


def look(
    before: Fleet | None = None,
    *rows: Replica,
    me: Replica = ME,
    roles: dict[str, str] | None = None,
    newest: int = 0,
    now: float = 0.0,
) -> Fleet:
    return looked(before, me, rows, roles or {}, newest=newest, now=now)


def ids(fleet: Fleet) -> list[str]:
    return [one.id for one in fleet.living]


@pytest.mark.parametrize(
    ("looks", "living"),
    [
        pytest.param([(0, 7)], True, id="who has just come counts all as living"),
        pytest.param([(0, 7), (LIVES_FOR - 0.1, 7)], True, id="until they have stood still before its own eyes"),
        pytest.param([(0, 7), (LIVES_FOR, 7)], False, id="for that long"),
        pytest.param([(0, 7), (30, 8), (30 + LIVES_FOR - 0.1, 8)], True, id="since its last beat"),
        pytest.param([(0, 7), (30, 8), (30 + LIVES_FOR, 8)], False, id="and no longer"),
        pytest.param([(0, 7), (500, 8)], True, id="who looks seldom has seen that it beat"),
        pytest.param([(0, 7), (500, 7)], False, id="and that it did not"),
        pytest.param([(0, 7), (500, 7), (501, 8)], True, id="one that was frozen lives again"),
        pytest.param([(0, 7), (10, 3)], True, id="whatever the number"),
    ],
)
def test_who_lives_is_who_was_seen_to_beat(looks: list[tuple[float, int]], living: bool) -> None:
    fleet = None
    for now, beat in looks:
        fleet = look(fleet, replica("a", beat), now=now)
    assert fleet is not None
    assert ids(fleet) == (["a", "me"] if living else ["me"])


def test_a_row_that_stood_for_an_hour_is_forgotten_and_none_before() -> None:
    first = look(None, replica("a", 7), replica("b", 1))
    second = look(first, replica("a", 7), replica("b", 2), now=FORGOTTEN_AFTER - 1)
    third = look(second, replica("a", 7), replica("b", 2), now=FORGOTTEN_AFTER)
    assert [[one.id for one in each.forgotten] for each in (first, second, third)] == [[], [], ["a"]]


def lost_to(*looks: tuple[float, dict[str, int]]) -> list[str]:
    """Whom the one that looks has lost, after looks at rows with these beats."""
    fleet = None
    for now, rows in looks:
        fleet = look(fleet, *(replica(id_, beat) for id_, beat in rows.items()), now=now)
    assert fleet is not None
    return [one.id for one in fleet.lost]


BOTH = [(0.0, {"a": 1, "b": 1}), (10.0, {"a": 2, "b": 2})]
LATER, STILL = 10.0 + LOST_AFTER, 10.0 + LOST_AFTER - 0.1


@pytest.mark.parametrize(
    ("looks", "lost"),
    [
        pytest.param([*BOTH, (STILL, {"a": 2, "b": 9})], [], id="it may be started anew in a moment"),
        pytest.param([*BOTH, (LATER, {"a": 2, "b": 9})], ["a"], id="it stands still, and none has come"),
        pytest.param([*BOTH, (LATER, {"b": 9})], [], id="it has ended in order"),
        pytest.param([*BOTH, (60, {"a": 2, "b": 3, "c": 1}), (LATER, {"a": 2, "b": 9, "c": 9})], [], id="one has come"),
        pytest.param([*BOTH, (60, {"a": 2, "b": 2, "c": 1}), (LATER, {"a": 2, "b": 2, "c": 9})], ["b"], id="for one"),
        pytest.param([*BOTH, (LATER, {"a": 2, "b": 2})], ["a", "b"], id="all but one"),
        pytest.param([*BOTH, (LATER, {"a": 2, "b": 9}), (LATER + 1, {"a": 3, "b": 9})], [], id="it was frozen"),
        pytest.param([(0, {"a": 1, "b": 1}), (LATER, {"a": 1, "b": 9})], [], id="it went before this one came"),
    ],
)
def test_who_is_lost_has_gone_without_ending_in_order_and_none_came_in_its_place(
    looks: list[tuple[float, dict[str, int]]], lost: list[str]
) -> None:
    assert lost_to(*looks) == lost


def test_each_look_is_a_beat() -> None:
    fleets = [look()]
    for now in (10.0, 20.0):
        fleets.append(look(fleets[-1], fleets[-1].me, now=now))
    assert [one.me.beat for one in fleets] == [1, 2, 3]
    assert [ids(one) for one in fleets] == [["me"]] * 3


@pytest.mark.parametrize(
    ("rows", "newest", "generation", "may_claim"),
    [
        pytest.param([], 0, 1, True, id="the first of all"),
        pytest.param([], 6, 7, True, id="a number is not given twice, though all rows are gone"),
        pytest.param([replica("a", config="new", generation=4)], 4, 4, True, id="the newest is the same: its number"),
        pytest.param([replica("a", config="old", generation=4)], 4, 5, True, id="another one: one more"),
        pytest.param(
            [replica("a", config="new", generation=4), replica("b", config="old", generation=5)],
            5,
            6,
            True,
            id="what came into force again is the newest, as after a rollback",
        ),
    ],
)
def test_a_configuration_that_comes_into_force_is_the_newest(
    rows: list[Replica], newest: int, generation: int, may_claim: bool
) -> None:
    me = replace(ME, config="new")
    begun = look(None, *rows, me=me, newest=newest)
    assert (begun.me.generation, begun.may_claim, begun.newest) == (generation, may_claim, generation)
    reloaded = look(look(None, *rows, newest=newest), *rows, me=me, newest=newest)
    assert reloaded.me.generation >= generation
    assert reloaded.may_claim


def test_who_has_an_older_configuration_claims_nothing_while_one_lives_that_has_a_newer_one() -> None:
    mine = look(None, replica("a", 1, generation=1))
    theirs = replica("a", 2, config="new", generation=2)
    older = look(mine, theirs, now=10)
    assert (older.me.generation, older.leading, older.may_claim, older.is_of_one_mind) == (1, 2, False, False)
    gone = look(older, theirs, now=10 + LIVES_FOR)
    assert (gone.may_claim, gone.is_of_one_mind) == (True, True)
    followed = look(older, theirs, me=replace(ME, config="new"), now=20)
    assert (followed.me.generation, followed.may_claim) == (2, True)


def test_who_has_the_same_configuration_as_the_newest_goes_on_with_its_number() -> None:
    mine = look(None, replica("a", 1, config="new", generation=2))
    again = look(mine, replica("a", 2, config="old", generation=4), newest=4, now=10)
    assert (again.me.generation, again.may_claim) == (4, True)


@pytest.mark.parametrize(
    ("holder", "rows", "has"),
    [
        pytest.param("", ["a"], True, id="nobody has it"),
        pytest.param("a", ["a"], False, id="one that lives"),
        pytest.param("gone", ["a"], True, id="one whose row is gone"),
        pytest.param("me", ["a"], True, id="this one"),
    ],
)
def test_a_role_is_kept_by_who_lives(holder: str, rows: list[str], has: bool) -> None:
    fleet = look(None, *map(replica, rows), roles={REPORTER: holder})
    assert fleet.has(REPORTER) is has
    assert fleet.has(TELLER)


def test_a_role_is_taken_when_who_had_it_stood_still() -> None:
    first = look(None, replica("a", 7), roles={TELLER: "a"})
    second = look(first, replica("a", 7), roles={TELLER: "a"}, now=LIVES_FOR - 0.1)
    third = look(second, replica("a", 7), roles={TELLER: "a"}, now=LIVES_FOR)
    assert [one.has(TELLER) for one in (first, second, third)] == [False, False, True]


def test_who_comes_has_joined_when_all_that_live_have_beaten_since() -> None:
    first = look(None, replica("a", 7), replica("b", 3))
    second = look(first, replica("a", 8), replica("b", 3), now=4)
    third = look(second, replica("a", 8), replica("b", 4), now=6)
    assert [one.has_joined for one in (first, second, third)] == [False, False, True]
    assert look(None).has_joined
    assert look(first, replica("b", 4), now=2).has_joined, "who has left is not waited for"
    assert look(second, replica("a", 8), replica("b", 3), now=JOINS_WITHIN).has_joined


@pytest.mark.parametrize("number", [0, 1, 2, 3, 20, 21])
@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
def test_what_is_whole_is_dealt_out_whole(number: int, replicas: int) -> None:
    names = [f"replica-{one}" for one in range(replicas)]
    dealt = [portion(number, one, names) for one in names]
    assert sum(dealt) == number
    assert max(dealt) - min(dealt) <= 1


def test_each_server_has_one_that_begins_its_rotations_and_others_keep_theirs() -> None:
    servers = [str(one) for one in range(300)]
    before = {one: preferred(one, ["a", "b", "c"]) for one in servers}
    after = {one: preferred(one, ["a", "b"]) for one in servers}
    assert {one: sum(its == one for its in before.values()) > 60 for one in "abc"} == dict.fromkeys("abc", True)
    assert all(after[one] == its for one, its in before.items() if its != "c")


def test_who_may_run_none_is_nobodys() -> None:
    older, rows = replica("old", config="x", generation=0), [replica(one) for one in ("a", "b", "c")]
    fleets = [
        look(None, *(one for one in [*rows, older] if one is not its), me=replace(its, beat=0), newest=1)
        for its in rows
    ]
    assert sorted(one.portion(2) for one in fleets) in ([0, 0, 1], [0, 1, 1])
    for server_id in map(str, range(100)):
        (one,) = [one for one in fleets if one.prefers(server_id, 2)]
        assert one.portion(2) == 1


def test_a_generation_never_falls() -> None:
    fleets = [look(None, replica("a", 1, config="x", generation=3), newest=3)]
    for number, config in enumerate(["new", "new", "old", "old"]):
        rows = [replica("a", number + 2, config="x", generation=3 + number)]
        fleets.append(look(fleets[-1], *rows, me=replace(ME, config=config), newest=fleets[-1].newest, now=number * 10))
    assert all(one.me.generation <= other.me.generation for one, other in pairwise(fleets))


AT = datetime(2025, 1, 16, 3, tzinfo=UTC)
CONDITION = Event(
    id="c", at=AT, kind=Kind.FAILURE, text="the file is refused", do="Mend it.", cause="config", patience=timedelta(600)
)


def saying(*rows: Any, host: str = "h") -> Replica:
    return replace(replica("a"), host=host, body={CONDITIONS: list(rows)})


def test_a_condition_is_told_by_another_as_it_was_said_with_its_host() -> None:
    (heard,) = said_by([saying(*written([CONDITION]), host="snap-2")])
    assert heard == replace(CONDITION, text="on snap-2: the file is refused")


def test_a_condition_that_several_see_is_one() -> None:
    theirs = replace(CONDITION, text="on snap-2: the file is refused")
    other = replace(CONDITION, id="d", cause="clock_differs")
    assert together([CONDITION], [theirs, other, other]) == [CONDITION, other]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param("text", id="no row"),
        pytest.param({}, id="an empty one"),
        pytest.param({**written([CONDITION])[0], "at": "2025-01-16"}, id="no zone"),
        pytest.param({**written([CONDITION])[0], "at": 7}, id="no time"),
        pytest.param({**written([CONDITION])[0], "text": None}, id="no text"),
        pytest.param({**written([CONDITION])[0], "patience": 1e300}, id="for ever"),
    ],
)
def test_what_cannot_be_understood_is_left_out(row: Any) -> None:
    assert [*said_by([saying(row)]), *said_by([replace(replica("a"), body={CONDITIONS: row})])] == []


@pytest.mark.parametrize("rate", [1.0, 2.0, 5.0, 5.5, 20.0])
@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
def test_a_rate_is_dealt_out_and_no_second_has_more_than_all_may_send(rate: float, replicas: int) -> None:
    names = [f"replica-{one}" for one in range(replicas)]
    dealt = [rate_of(rate, one, names) for one in names]
    assert sum(dealt) == pytest.approx(rate)
    if rate >= replicas:
        assert sum(map(ceil, dealt)) == ceil(rate)
    assert all(rate_of(rate, one, names[1:]) >= its for one, its in zip(names[1:], dealt[1:], strict=True)), (
        "where one goes, no other has less: each may learn of it when it looks"
    )


def test_who_has_just_come_has_no_part_of_the_rate_and_nor_has_who_was_frozen() -> None:
    first = look(None, replica("a", 7))
    joined = look(first, replica("a", 8), now=4)
    woken = look(joined, replica("a", 20), now=4 + LIVES_FOR)
    again = look(woken, replica("a", 21), now=8 + LIVES_FOR)
    assert [one.rate_of(4.0) for one in (first, joined, woken, again)] == [0.0, 2.0, 0.0, 2.0]


def answered(id_: str, beat: int = 1, *, is_answered: bool = True) -> Replica:
    return replace(replica(id_, beat), body={ANSWERED: is_answered})


@pytest.mark.parametrize(
    ("mine", "others", "stands_back", "portion_of_4"),
    [
        pytest.param(True, [], False, 4, id="alone, and answered"),
        pytest.param(False, [], False, 4, id="alone it goes on trying"),
        pytest.param(False, [answered("a", is_answered=False)], False, 2, id="so does each where none is answered"),
        pytest.param(False, [answered("a")], True, 0, id="who is not answered leaves all to who is"),
        pytest.param(True, [answered("a", is_answered=False)], False, 4, id="who is answered has all"),
        pytest.param(False, [replica("a")], True, 0, id="who says nothing of it, an older version, counts as answered"),
        pytest.param(
            False,
            [replace(answered("a"), config="older", generation=0)],
            True,
            4,
            id="it alone has the newest configuration: it begins, and leaves what it has begun",
        ),
    ],
)
def test_whose_the_work_is_where_the_provider_does_not_answer_all(
    mine: bool, others: list[Replica], stands_back: bool, portion_of_4: int
) -> None:
    me = replace(ME, body={ANSWERED: mine})
    fleet = look(look(None, *others, me=me), *others, me=me, now=1)
    assert (fleet.stands_back, fleet.portion(4)) == (stands_back, portion_of_4)
    assert fleet.prefers("12345", 1) == (portion_of_4 == 4) or portion_of_4 == 2


def test_why_a_replica_begins_no_rotations_is_told_of_each() -> None:
    silent, fine = answered("silent", is_answered=False), answered("fine")
    older = replace(fine, id="older", generation=ME.generation - 1)
    late = replace(fine, id="late", body={ON_TIME: False})
    fleet = Fleet(me=fine, living=(fine, older, silent, late))
    told = [fleet.why_none(one) for one in fleet.living]
    assert told == ["", "its configuration is older", "the provider does not answer it", "its clock is wrong"]
    assert Fleet(me=late, living=(late, silent)).why_none(late) == ""
    assert Fleet(me=silent, living=(silent,)).why_none(silent) == ""


def test_who_is_answered_again_waits_until_all_know_of_it() -> None:
    silent = replace(ME, body={ANSWERED: False})
    before = look(look(None, answered("a", 7), me=silent), answered("a", 8), me=silent, now=10)
    again = look(before, answered("a", 9), me=replace(ME, body={ANSWERED: True}), now=20)
    known = look(again, answered("a", 10), me=replace(ME, body={ANSWERED: True}), now=30)
    assert [one.has_joined for one in (before, again, known)] == [True, False, True]
