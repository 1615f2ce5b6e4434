"""What is held until when, by its name and by the ledger: no rotation deletes it before that."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from math import inf

import pytest

from snaprotd.core.creation import Recollection, Trace
from snaprotd.core.holds import (
    FOREVER,
    RELEASED,
    Hold,
    bears_our_name,
    end_of,
    hold_of,
    is_named,
    last_day,
    name_read,
    snapshot_name,
)
from snaprotd.core.model import Owner, Snapshot
from snaprotd.core.ownership import newest_completed, owner_of
from snaprotd.core.policy import Retention, Rules, WhenFull
from snaprotd.core.retention import ForbiddenDeletion, plan_retention, refuse_deletion, why_not_held
from snaprotd.core.room import make_room, rehearse
from tests.support.nouns import a_snapshot
from tests.support.policies import a_policy

SLOT = datetime(2025, 1, 15, 14, 10, tzinfo=UTC)
NOW = datetime(2025, 1, 17, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
BARE = "snaprotd-main-20250115T141000Z"
UNTIL = date(2025, 1, 22)


def rules(**policy: object) -> Rules:
    return Rules(policy=a_policy(**policy))  # type: ignore[arg-type]


def one(its_id: int, days: float, hold: date | None = None, status: str = "completed") -> Snapshot:
    """One of ours that is so many days old, held by its name."""
    at = NOW - days * DAY
    return a_snapshot(its_id, snapshot_name("main", at, hold), at, status=status)


def theirs(number: int) -> Snapshot:
    return a_snapshot(f"x{number}", f"by-hand-{number}", NOW - number * DAY)


def told(snapshots: list[Snapshot], its_rules: Rules, now: datetime = NOW) -> dict[str, str]:
    return {one.snapshot.id: one.reason for one in plan_retention(snapshots, its_rules, now=now).decisions}


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_says_until_when_and_is_read_as_it_was_made() -> None:
    assert snapshot_name("main", SLOT, UNTIL) == f"{BARE}-until-20250122"
    assert snapshot_name("main", SLOT, FOREVER) == f"{BARE}-held"
    for hold in (None, UNTIL, FOREVER):
        made = name_read(snapshot_name("main", SLOT, hold))
        assert made is not None
        assert (made.instance, made.slot, made.hold) == ("main", SLOT, hold)
        assert bears_our_name(snapshot_name("main", SLOT, hold), "main")


@pytest.mark.parametrize(
    ("now", "length", "day"),
    [
        ("2025-01-15T00:00:00+00:00", 7 * DAY, UNTIL),
        ("2025-01-15T23:59:59+00:00", 7 * DAY, UNTIL),
        ("2025-01-16T01:00:00+02:00", 7 * DAY, UNTIL),
        ("2025-01-15T23:59:59+00:00", timedelta(seconds=1), date(2025, 1, 16)),
        ("2025-01-15T14:10:00+00:00", timedelta(0), None),
        ("2025-01-15T14:10:00+00:00", None, FOREVER),
        ("2025-01-15T14:10:00+00:00", timedelta.max, FOREVER),
    ],
)
def test_the_last_day_is_the_one_in_utc_in_which_the_time_is_over(
    now: str, length: timedelta | None, day: date | None
) -> None:
    assert last_day(datetime.fromisoformat(now), length) == day


def test_it_is_held_to_the_last_second_of_its_day_and_ours_to_rotate_after_it() -> None:
    held = a_snapshot(801, f"{BARE}-until-20250122", SLOT)
    last = datetime(2025, 1, 22, 23, 59, 59, tzinfo=UTC)
    assert hold_of(held, last) == UNTIL
    assert hold_of(held, last + timedelta(seconds=1)) is None
    assert end_of(UNTIL) == (last + timedelta(seconds=1)).timestamp()
    assert end_of(FOREVER) == inf
    newer = one(802, -6)
    assert told([held, newer], rules(keep=Retention(last=1)), last)["801"] == "keep: held until 2025-01-22"
    assert told([held, newer], rules(keep=Retention(last=1)), last + DAY)["801"] == "delete: over keep 1"


CUT = sorted({held[:length] for held in ("-until-20250122", "-held") for length in range(1, len(held))})
"""What a provider that allows names of so many characters leaves of what they say of a hold."""


@pytest.mark.parametrize(
    "ending",
    ["-until-20259999", "-until-20250122x", "-held-", "-heldish", *CUT],
)
@pytest.mark.parametrize("adopt", [(), ("*",), ("*-main-*",)])
def test_a_name_whose_hold_makes_no_sense_is_not_ours_to_delete(ending: str, adopt: tuple[str, ...]) -> None:
    odd = a_snapshot(801, BARE + ending, SLOT)
    assert name_read(odd.name) is None
    assert is_named(odd, f"{BARE}-until-20250122")
    assert owner_of(odd, instance="main", adopt=adopt) is Owner.FOREIGN
    assert owner_of(odd, instance="other", adopt=("*", "snaprotd-*")) is Owner.FOREIGN
    with pytest.raises(ForbiddenDeletion):
        refuse_deletion("801", [odd, one(802, 0)], rules(adopt=adopt), now=NOW)
    with pytest.raises(ForbiddenDeletion, match="held for ever"):
        refuse_deletion("801", [replace(odd, in_ledger=True), one(802, 0)], rules(), now=NOW)


def test_why_such_a_one_is_kept_is_said() -> None:
    odd = a_snapshot(801, f"{BARE}-until-20259999", SLOT)
    assert told([odd], rules()) == {"801": "keep: not made by snaprotd: what its name says of a hold makes no sense"}


@pytest.mark.parametrize("name", [BARE, f"{BARE}-held", f"{BARE}-unt", f" {BARE.lower()}-UNTIL-20250122"])
def test_the_hold_is_no_part_of_what_a_snapshot_is(name: str) -> None:
    for other in (BARE, f"{BARE}-until-20250130"):
        assert is_named(a_snapshot(801, name, SLOT), other)
    assert not is_named(a_snapshot(801, name, SLOT), BARE.replace("141000", "141001"))
    trace = Trace(row="r", slot=SLOT, snapshot_id="900", has_more=True)
    (marked,) = Recollection(traces=(trace,)).marked([a_snapshot(801, name, SLOT)], "main")
    assert marked.in_ledger is True


# -- what it means -----------------------------------------------------------------------------------------------------


def test_a_held_one_counts_as_a_slot_and_is_never_a_periods_newest() -> None:
    keep = Retention(last=1, daily=2)
    held = [one(1, 3), one(2, 2.2), one(3, 2, UNTIL), one(4, 0.1)]
    assert told(held, rules(keep=keep)) == {
        "4": "keep: last 1 of 1, daily 2025-01-17",
        "3": "keep: held until 2025-01-22",
        "2": "keep: daily 2025-01-15",
        "1": "delete: over keep last 1, daily 2",
    }
    crowded = [one(1, 3), one(2, 2), one(3, 1, FOREVER), one(4, 0.1), theirs(1)]
    assert (
        told(crowded, rules())["1"] == "delete: over keep 2 (keep 4, less 2: others hold 1 and held ones 1 of 5 slots)"
    )
    assert told(crowded, rules())["3"] == "keep: held for ever"


def test_our_newest_may_be_a_held_one_and_rules_keep_the_next_all_the_same() -> None:
    held = [one(1, 3), one(2, 2), one(3, 1, UNTIL)]
    newest = newest_completed(held, rules(), NOW)
    assert newest is not None
    assert newest.id == "3"
    assert told(held, rules(keep=Retention(last=1)))["2"] == "keep: last 1 of 1"


def test_one_that_failed_is_held_too_until_its_day_is_over() -> None:
    failed = one(1, 3, UNTIL, "failed")
    assert told([failed, one(2, 1)], rules())["1"] == "keep: held until 2025-01-22, listed as `failed`"
    full = [failed, *(one(number, 6 - number) for number in range(2, 6))]
    assert [gone.snapshot.id for gone in make_room(full, rules(), now=NOW).deletions] == ["2"]
    assert [gone.snapshot.id for gone in make_room(full, rules(), now=NOW + 7 * DAY).deletions] == ["1"]


def test_room_is_made_of_our_oldest_that_is_not_held_while_a_newer_one_remains() -> None:
    full = [one(1, 5, UNTIL), one(2, 4), one(3, 3, UNTIL), theirs(1), theirs(2)]
    (gone,) = make_room(full, rules(), now=NOW).deletions
    assert gone.snapshot.id == "2"
    assert gone.reason == f"delete: full (5 of 5 slots), our oldest that is not held; {full[2].name} remains"
    refuse_deletion("2", full, rules(), now=NOW)


@pytest.mark.parametrize("when_full", [WhenFull.REPLACE, WhenFull.REPLACE_LAST])
def test_a_server_that_holds_block_is_blocked_by_name(when_full: WhenFull) -> None:
    full = [one(1, 5, UNTIL), one(2, 4, FOREVER), *(one(number, 6 - number, UNTIL) for number in (3, 4)), theirs(1)]
    room = make_room(full, rules(when_full=when_full), now=NOW)
    assert room.blocked == (
        "blocked: 5 of 5 snapshots, 1 not made by snaprotd: by-hand-1 (2025-01-16); 4 ours: "
        f"{full[0].name} (2025-01-12, held until 2025-01-22), {full[1].name} (2025-01-13, held for ever), "
        f"{full[2].name} (2025-01-14, held until 2025-01-22), {full[3].name} (2025-01-15, held until 2025-01-22)"
    )


def test_our_newest_does_not_go_for_room_though_all_older_ones_are_held() -> None:
    full = [*(one(number, 6 - number, UNTIL) for number in range(1, 4)), one(4, 1), theirs(9)]
    assert make_room(full, rules(), now=NOW).blocked
    (gone,) = make_room(full, rules(when_full=WhenFull.REPLACE_LAST), now=NOW).deletions
    assert gone.snapshot.id == "4"


def test_of_two_names_of_one_slot_the_held_one_stays() -> None:
    slot = NOW - DAY
    bare = a_snapshot(1, snapshot_name("main", slot), slot)
    held = a_snapshot(2, snapshot_name("main", slot, UNTIL), slot + timedelta(minutes=1))
    later = replace(bare, id="3", created_at=slot + timedelta(minutes=2))
    assert [gone.id for gone in plan_retention([bare, held], rules(), now=NOW).deletions] == ["1"]
    assert plan_retention([held, later], rules(), now=NOW).deletions == ()
    after = NOW + 30 * DAY
    assert [gone.id for gone in plan_retention([held, later], rules(), now=after).deletions] == ["2"]


def test_a_rotation_that_is_rehearsed_spares_what_is_held_and_takes_one_that_is_not() -> None:
    held = [one(1, 3, UNTIL), one(2, 2), one(3, 1)]
    kept = rehearse(held, rules(keep=Retention(last=1)), server_id="12345", slot=NOW).kept
    assert [one.id for one in kept] == ["new", "1"]


# -- what the ledger tells ---------------------------------------------------------------------------------------------


def said(until: date, *ids: str, name: str = BARE) -> Hold:
    return Hold(ids=ids or ("801",), name=name, until=until)


def held_by(snapshot: Snapshot, *holds: Hold, traces: tuple[Trace, ...] = ()) -> date | None:
    (marked,) = Recollection(traces=traces, holds=holds).marked([snapshot], "main")
    return hold_of(marked, NOW)


def test_a_persons_word_counts_before_the_name() -> None:
    by_name = a_snapshot(801, f"{BARE}-until-20250122", SLOT)
    assert held_by(by_name) == UNTIL
    assert held_by(by_name, said(FOREVER)) == FOREVER
    assert held_by(by_name, said(date(2025, 1, 18))) == date(2025, 1, 18)
    assert held_by(by_name, said(RELEASED)) is None
    assert held_by(by_name, said(RELEASED, "900")) == UNTIL
    assert held_by(a_snapshot(801, BARE, SLOT), said(UNTIL)) == UNTIL


def test_of_two_words_on_one_snapshot_by_different_ids_the_longer_hold_counts() -> None:
    words = (said(date(2025, 1, 18), "801"), said(FOREVER, "802"))
    assert held_by(replace(a_snapshot(801, BARE, SLOT), also=("802",)), *words) == FOREVER


def test_nothing_is_let_go_for_an_id_that_was_given_again_or_came_in_another_form() -> None:
    other = a_snapshot(801, "snaprotd-main-20250116T141000Z-held", SLOT + DAY)
    assert held_by(other, said(RELEASED)) == FOREVER
    renumbered = a_snapshot("0b9c1d8e-1111-4222", BARE, SLOT)
    assert held_by(renumbered, said(UNTIL)) == UNTIL
    assert held_by(a_snapshot("802", BARE, SLOT), said(UNTIL)) is None


@pytest.mark.parametrize(
    ("name", "held"),
    [(BARE, UNTIL), (f"{BARE}-until-2025", UNTIL), (f"{BARE}-held", FOREVER), (f"{BARE}-until-20250118", UNTIL)],
)
def test_a_name_that_a_provider_cut_short_does_not_end_a_hold_that_the_ledger_knows(name: str, held: date) -> None:
    trace = Trace(row="r", slot=SLOT, snapshot_id="801", has_more=False, hold=UNTIL, taken_at=SLOT)
    assert held_by(a_snapshot(801, name, SLOT), traces=(trace,)) == held


# -- how many ----------------------------------------------------------------------------------------------------------


def test_one_hold_too_many_is_refused_with_the_ids_that_could_be_let_go() -> None:
    crowded = [one(801, 3, UNTIL), one(802, 2, FOREVER), one(803, 1), theirs(1)]
    why = why_not_held(crowded, rules(), now=NOW)
    assert why == (
        "2 held and 1 not made by snaprotd: one more that is held would leave rotation fewer than 2 of 5 slots: "
        "`snaprotd unhold` can let go of 801 (held until 2025-01-22), 802 (held for ever); "
        "`snaprotd delete` deletes x1"
    )
    assert why_not_held(crowded, rules(), now=NOW, held=("802",)) == ""
    assert why_not_held(crowded[1:], rules(), now=NOW) == ""
    assert why_not_held([], Rules(policy=a_policy(), limit=2), now=NOW)
