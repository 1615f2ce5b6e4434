"""What a full server may give up, what a rehearsal says of it, and by which of their ids snapshots are meant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from snaprotd.core.holds import snapshot_name
from snaprotd.core.model import Snapshot
from snaprotd.core.policy import Retention, Rules
from snaprotd.core.retention import plan_retention
from snaprotd.core.room import make_room, recalled, rehearse, resisting
from snaprotd.core.rotation import Rotation
from tests.support.nouns import a_snapshot
from tests.support.policies import a_policy

NOW = datetime(2025, 1, 17, 3, 30, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


def rules(**policy: Any) -> Rules:
    return Rules(policy=a_policy(**policy))


def night(days_ago: int, status: str = "completed", **more: Any) -> Snapshot:
    """Ours, of so many nights ago; so is its id, from 900 down."""
    at = NOW - days_ago * DAY
    return replace(a_snapshot(900 - days_ago, snapshot_name("main", at), at + MINUTE, status=status), **more)


# -- creates that never end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["in_progress", "pending"])
def test_where_creates_do_not_end_no_good_one_goes_for_another_such(word: str) -> None:
    stuck = [night(2, word), night(1, word)]
    room = make_room([night(5), night(4), night(3), *stuck], rules(), now=NOW)
    assert room.deletions == ()
    assert room.blocked.startswith("blocked: 5 of 5 snapshots, 5 ours: ")
    assert room.blocked.endswith(
        f"; 2 have not ended within 30 min, so nothing goes for one more: {stuck[1].name}, {stuck[0].name}"
    )


@pytest.mark.parametrize(
    "held",
    [
        [night(1, "in_progress")],
        [night(2, "in_progress"), night(0, "in_progress", created_at=NOW - 29 * MINUTE)],
        [night(2, "in_progress"), replace(night(1, "in_progress"), name="by-hand")],
        [night(2, "in_progress"), night(1, "unreachable", was_completed=True)],
    ],
    ids=["one", "one has time left", "one is somebody else's", "one was completed once"],
)
def test_a_single_one_that_does_not_end_costs_no_night_its_snapshot(held: list[Snapshot]) -> None:
    shelf = [*(night(days) for days in range(9, 4 + len(held), -1)), *held]
    room = make_room(shelf, rules(), now=NOW)
    assert [gone.snapshot for gone in room.deletions] == [night(9)]


def test_one_without_a_date_to_trust_is_stuck_by_the_slot_in_its_name() -> None:
    undated = [night(2, "in_progress", created_at=None), night(1, "in_progress", created_at=NOW + DAY)]
    room = make_room([night(5), night(4), night(3), *undated], rules(), now=NOW)
    assert "2 have not ended" in room.blocked
    free = make_room([night(4), night(3), *undated], rules(), now=NOW)
    assert free.free


# -- a rehearsal is as the rotation ----------------------------------------------------------------------------------


def test_a_rehearsal_keeps_the_new_one_where_an_older_is_dated_minutes_ahead_as_the_rotation_does() -> None:
    ahead = night(1, created_at=NOW + 4 * MINUTE)
    rehearsal = rehearse([night(2), ahead], rules(keep=Retention(last=1)), server_id="12345", slot=NOW)
    told = {decision.snapshot.id: decision.reason for decision in rehearsal.decisions}
    assert told == {"899": "keep: last 1 of 1", "new": "keep: just taken", "898": "delete: over keep 1"}


# -- any of the ids --------------------------------------------------------------------------------------------------

BY_UUID = night(3, id="u-897", also=("897",))


def test_one_that_cannot_be_deleted_is_meant_by_any_of_its_ids() -> None:
    shelf = [night(5), night(4), BY_UUID, night(2), night(1)]
    plan = plan_retention(shelf, rules(keep=Retention(last=2)), now=NOW, immovable={"897", "896"})
    kept = {decision.snapshot.id for decision in plan.decisions if decision.reason == "keep: it cannot be deleted"}
    assert kept == {"u-897", "896"}
    room = make_room([BY_UUID, night(2), night(1), night(0)], replace(rules(), limit=4), now=NOW, immovable={"897"})
    assert [gone.snapshot.id for gone in room.deletions] == ["898"]


def test_what_the_last_rotation_could_not_delete_is_rehearsed_as_one_that_holds_its_slot() -> None:
    rotation = Rotation.begin(id="r", server_id="12345", label="web", slot=NOW, rules=rules(), now=NOW, settle=5)
    last = replace(rotation, deleted=("896",), undeletable=("897",), finished_at=NOW - 4 * MINUTE)
    shelf = [BY_UUID, night(4), night(2), night(1)]
    assert [one.resists for one in resisting(shelf, [last], NOW)] == [True, False, False, False]
    known = resisting(shelf, [last], NOW + MINUTE)
    assert [one.resists for one in known] == [True, True, False, False]
    rehearsal = rehearse(known, rules(keep=Retention(last=2)), server_id="12345", slot=NOW + MINUTE)
    told = {decision.snapshot.id: decision.reason for decision in rehearsal.decisions}
    assert (told["u-897"], told["896"]) == ("keep: it cannot be deleted",) * 2
    assert [gone.snapshot.id for gone in rehearsal.deleted] == ["898"]
    full = rehearse(known, replace(rules(), limit=4), server_id="12345", slot=NOW + MINUTE)
    assert full.deleted[-1].reason == f"delete: full (4 of 4 slots), our oldest; {shelf[3].name} remains"
    assert full.deleted[-1].snapshot is known[2]


def test_what_earlier_rotations_tried_to_delete_is_known_by_any_of_its_ids() -> None:
    rotation = Rotation.begin(id="r", server_id="12345", label="web", slot=NOW, rules=rules(), now=NOW, settle=5)
    yesterday = replace(rotation, id="y", deleted=("897",), undeletable=("898",), finished_at=NOW - DAY)
    known = recalled(rotation, [yesterday], [BY_UUID, night(2), night(1)], NOW)
    assert (known.stubborn, known.ghosts, known.immovable) == (("u-897", "898"), ("u-897",), ())
