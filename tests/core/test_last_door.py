"""The last door before a DELETE, which trusts nobody's decision."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from snaprotd.core.holds import snapshot_name
from snaprotd.core.model import Snapshot
from snaprotd.core.policy import Rules, WhenFull
from snaprotd.core.retention import ForbiddenDeletion, refuse_deletion
from tests.support.nouns import a_snapshot
from tests.support.policies import a_policy

NOW = datetime(2025, 1, 17, 12, 0, tzinfo=UTC)
RULES = Rules(policy=a_policy(adopt=("weekly-*",), when_full=WhenFull.REPLACE_LAST))


def one(its_id: str, days: float, status: str = "completed", name: str = "", created: bool = True) -> Snapshot:
    """One that is so many days old; ours where no name is given."""
    at = NOW - timedelta(days=days)
    return a_snapshot(its_id, name or snapshot_name("main", at), at if created else None, status=status)


NEWEST, OLDER, FAILED = one("1", 1), one("2", 2), one("3", 3, "failed")
ADOPTED, THEIRS = one("4", 4, name="weekly-7"), one("5", 5, name="by-hand")


@pytest.mark.parametrize("victim", [OLDER, FAILED, ADOPTED], ids=lambda victim: victim.name)
def test_what_a_newer_completed_one_of_ours_outlives_may_go(victim: Snapshot) -> None:
    refuse_deletion(victim.id, [NEWEST, OLDER, FAILED, ADOPTED, THEIRS], RULES, now=NOW)


@pytest.mark.parametrize(
    ("victim", "listed", "why"),
    [
        (THEIRS, [NEWEST, THEIRS], "it is not ours"),
        (one("6", 2, name="snaprotd-main2-20250115T120000Z"), [NEWEST], "it is not ours"),
        (one("6", 2, "in_progress"), [NEWEST], "it is in_progress"),
        (one("6", 2, "weird"), [NEWEST], "it is weird"),
        (one("6", 2, created=False), [NEWEST], "created_at cannot be read"),
        (one("6", -3), [NEWEST], "created_at 2025-01-20T12:00:00Z lies in the future"),
        (one("6", 2, "failed", created=False), [NEWEST], "created_at cannot be read"),
        (NEWEST, [OLDER, FAILED, ADOPTED, THEIRS], "it is our newest completed one"),
        (OLDER, [FAILED, one("6", 1, "in_progress"), THEIRS], "it is our newest completed one"),
    ],
)
def test_what_must_stay_is_not_let_through(victim: Snapshot, listed: list[Snapshot], why: str) -> None:
    with pytest.raises(ForbiddenDeletion) as refusal:
        refuse_deletion(victim.id, [*listed, victim], RULES, now=NOW)
    assert str(refusal.value) == f"snapshot {victim.id} must not be deleted: {why}"


def test_what_the_look_does_not_show_is_not_let_through() -> None:
    with pytest.raises(ForbiddenDeletion, match="it is not in the list"):
        refuse_deletion("77", [NEWEST, OLDER], RULES, now=NOW)


def test_our_last_one_may_go_for_room_only_where_a_completed_one_of_somebody_elses_remains() -> None:
    refuse_deletion(NEWEST.id, [NEWEST, FAILED, THEIRS], RULES, now=NOW, last_may_go=True)
    for listed in ([NEWEST], [NEWEST, FAILED], [NEWEST, one("5", 5, "failed", "by-hand")]):
        with pytest.raises(ForbiddenDeletion, match="it is our newest completed one"):
            refuse_deletion(NEWEST.id, listed, RULES, now=NOW, last_may_go=True)
