"""What is kept, what is deleted, and the very words that say why. Tables first, then a year, then laws."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.core.holds import FOREVER, last_day, snapshot_name
from snaprotd.core.model import Owner, Snapshot, SnapshotState
from snaprotd.core.ownership import newest_completed, owner_of
from snaprotd.core.policy import Policy, Retention, Rules, WhenFull
from snaprotd.core.retention import ForbiddenDeletion, plan_retention, refuse_deletion, why_not_held
from snaprotd.core.room import Room, make_room
from tests.support.nouns import a_snapshot
from tests.support.policies import a_policy

NOW = datetime(2025, 1, 17, 12, 0, tzinfo=UTC)
LIMIT = 5
OURS = "snaprotd-main-20250116T033000Z"


def policy(keep: Retention | None = None, timezone: str = "UTC", **keys: Any) -> Policy:
    return a_policy(keep=keep or Retention(last=4), timezone=timezone, **keys)


def rules(its_policy: Policy, limit: int = LIMIT, *, instance: str = "main") -> Rules:
    return Rules(policy=its_policy, instance=instance, limit=limit)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def snapshot(id: str | int, created: str | datetime | None, name: str = "", status: str = "completed") -> Snapshot:  # noqa: A002
    """A snapshot; ours where no name is given."""
    created_at = at(created) if isinstance(created, str) else created
    name = name or snapshot_name("main", created_at or NOW)
    return a_snapshot(id, name, created_at, status=status)


def ours(*days: int, status: str = "completed") -> list[Snapshot]:
    """One of ours for each day of January 2025; its id is the day."""
    return [snapshot(day, f"2025-01-{day:02}T03:30:00Z", status=status) for day in days]


def manual(*days: int, status: str = "completed") -> list[Snapshot]:
    return [snapshot(900 + day, f"2025-01-{day:02}T18:30:00Z", f"manual-{day}", status) for day in days]


def reasons(
    snapshots: Sequence[Snapshot], its_policy: Policy, limit: int = LIMIT, now: datetime = NOW
) -> dict[str, str]:
    plan = plan_retention(snapshots, rules(its_policy, limit), now=now)
    return {decision.snapshot.id: decision.reason for decision in plan.decisions}


def deleted(snapshots: Sequence[Snapshot], its_policy: Policy, limit: int = LIMIT, now: datetime = NOW) -> list[str]:
    plan = plan_retention(snapshots, rules(its_policy, limit), now=now)
    return [one.id for one in plan.deletions]


def room(snapshots: Sequence[Snapshot], its_policy: Policy | None = None, limit: int = LIMIT) -> Room:
    return make_room(snapshots, rules(its_policy or policy(), limit), now=NOW)


def going(answer: Room) -> dict[str, str]:
    return {decision.snapshot.id: decision.reason for decision in answer.deletions}


# Whose is it


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("snaprotd-main-20250116T033000Z", Owner.MANAGED),
        ("snaprotd-main-20240229T235959Z", Owner.MANAGED),
        ("snaprotd-main2-20250116T033000Z", Owner.FOREIGN),
        ("snaprotd-mai-20250116T033000Z", Owner.FOREIGN),
        ("snaprotd-main-old", Owner.FOREIGN),
        ("snaprotd-main-", Owner.FOREIGN),
        ("x-snaprotd-main-20250116T033000Z", Owner.FOREIGN),
        ("snaprotd-main-20250116T033000Z-copy", Owner.FOREIGN),
        ("snaprotd-main-20250116T033000Z\n", Owner.FOREIGN),
        ("snaprotd-main-20250116T033000", Owner.FOREIGN),
        ("snaprotd-main-20250230T033000Z", Owner.FOREIGN),
        ("snaprotd-main-20250116T243000Z", Owner.FOREIGN),
        ("snaprotd-main-20250116T033060Z", Owner.FOREIGN),
        ("snaprotd-main-00000116T033000Z", Owner.FOREIGN),
        (
            "snaprotd-main-\u0662\u0660\u0662\u0665\u0660\u0661\u0661\u0666T\u0660\u0663\u0663\u0660\u0660\u0660Z",
            Owner.FOREIGN,
        ),
        ("SNAPROTD-main-20250116T033000Z", Owner.FOREIGN),
        ("snaprotd-main-main-20250116T033000Z", Owner.FOREIGN),
        ("", Owner.FOREIGN),
    ],
)
def test_a_snapshot_is_ours_only_by_its_whole_name(name: str, owner: Owner) -> None:
    one = replace(snapshot(1, NOW), name=name)
    assert owner_of(one, instance="main", adopt=()) is owner


def test_an_instance_is_text_and_not_a_pattern() -> None:
    assert owner_of(snapshot(1, NOW, OURS), instance="ma.n", adopt=()) is Owner.FOREIGN


@pytest.mark.parametrize(
    ("name", "adopt", "owner"),
    [
        ("weekly-snapshot-7", ("weekly-snapshot-*",), Owner.MANAGED),
        ("weekly-snapshot-7", ("nightly-*", "weekly-*"), Owner.MANAGED),
        ("my-weekly-snapshot-7", ("weekly-snapshot-*",), Owner.FOREIGN),
        ("Weekly-snapshot-7", ("weekly-snapshot-*",), Owner.FOREIGN),
        ("snaprotd-main-old", ("snaprotd-*",), Owner.MANAGED),
        ("snaprotd-main-20250116T033000Z", ("weekly-*",), Owner.MANAGED),
        ("snaprotd-other-20250116T033000Z", ("*",), Owner.FOREIGN),
        ("snaprotd-other-20250116T033000Z", ("snaprotd-*",), Owner.FOREIGN),
        ("snaprotd-other-20250116T033000Z", ("snaprotd-other-20250116T033000Z",), Owner.FOREIGN),
    ],
)
def test_adopt_takes_what_its_patterns_name_but_nothing_of_another_instance(
    name: str, adopt: tuple[str, ...], owner: Owner
) -> None:
    assert owner_of(snapshot(1, NOW, name), instance="main", adopt=adopt) is owner


def test_two_instances_on_one_account_delete_nothing_of_each_other() -> None:
    both = [
        snapshot(f"{day}{instance}", f"2025-01-{day:02}T03:30:00Z", f"snaprotd-{instance}-202501{day:02}T033000Z")
        for day in range(10, 17)
        for instance in ("main", "main2")
    ]
    greedy = policy(Retention(last=1), adopt=("*",))
    for instance in ("main", "main2"):
        plan = plan_retention(both, rules(greedy, instance=instance), now=NOW)
        assert {one.name.split("-")[1] for one in plan.deletions} == {instance}


# The reasons


def test_the_simple_form_keeps_the_newest() -> None:
    assert reasons(ours(12, 13, 14, 15, 16), policy()) == {
        "16": "keep: last 1 of 4",
        "15": "keep: last 2 of 4",
        "14": "keep: last 3 of 4",
        "13": "keep: last 4 of 4",
        "12": "delete: over keep 4",
    }


def test_the_long_form_names_every_rule_that_keeps_a_snapshot() -> None:
    assert reasons(ours(11, 12, 13, 14, 15, 16), policy(Retention(last=2, daily=1, weekly=2))) == {
        "16": "keep: last 1 of 2, daily 2025-01-16, weekly 2025-W03",
        "15": "keep: last 2 of 2",
        "14": "delete: over keep last 2, daily 1, weekly 2",
        "13": "delete: over keep last 2, daily 1, weekly 2",
        "12": "keep: weekly 2025-W02",
        "11": "delete: over keep last 2, daily 1, weekly 2",
    }


def test_rules_overlap_so_a_count_of_one_period_adds_nothing_to_the_newest() -> None:
    assert deleted(ours(*range(1, 17)), policy(Retention(last=2, daily=1, weekly=1))) == [str(d) for d in range(1, 15)]


@pytest.mark.parametrize(
    ("rule", "newest", "second"),
    [
        (Retention(hourly=2), "keep: hourly 2025-01-16 03h", "keep: hourly 2025-01-16 02h"),
        (Retention(daily=2), "keep: daily 2025-01-16", "keep: daily 2025-01-15"),
        (Retention(weekly=2), "keep: weekly 2025-W03", "keep: weekly 2025-W02"),
        (Retention(monthly=2), "keep: monthly 2025-01", "keep: monthly 2024-12"),
        (Retention(yearly=2), "keep: yearly 2025", "keep: yearly 2024"),
    ],
)
def test_a_period_is_named_in_its_reason(rule: Retention, newest: str, second: str) -> None:
    times = ["2025-01-16T03:30:00Z", "2025-01-16T03:00:00Z", "2025-01-16T02:59:59Z", "2025-01-16T00:00:00Z"]
    times += ["2025-01-15T23:59:59Z", "2025-01-13T00:00:00Z", "2025-01-12T23:59:59Z", "2025-01-01T00:00:00Z"]
    times += ["2024-12-31T23:59:59Z"]
    kept = [
        text
        for text in reasons([snapshot(i, t) for i, t in enumerate(times)], policy(rule)).values()
        if "keep: " in text
    ]
    assert kept == [newest, second]


def test_an_hour_is_one_of_twenty_four() -> None:
    pair = [snapshot(1, "2025-01-16T03:30:00Z"), snapshot(2, "2025-01-16T15:30:00Z")]
    assert reasons(pair, policy(Retention(hourly=2)))["2"] == "keep: hourly 2025-01-16 15h"
    assert deleted(pair, policy(Retention(hourly=2))) == []


def test_the_hour_repeated_in_autumn_is_one_hour_and_its_second_pass_is_the_newer() -> None:
    pair = [snapshot(2, "2024-10-27T00:30:00Z"), snapshot(1, "2024-10-27T01:10:00Z")]
    assert reasons(pair, policy(Retention(hourly=2), timezone="Europe/Berlin")) == {
        "1": "keep: hourly 2024-10-27 02h",
        "2": "delete: over keep hourly 2",
    }


def test_periods_without_a_snapshot_are_not_counted() -> None:
    assert reasons(ours(1, 2, 9, 16), policy(Retention(daily=3))) == {
        "16": "keep: daily 2025-01-16",
        "9": "keep: daily 2025-01-09",
        "2": "keep: daily 2025-01-02",
        "1": "delete: over keep daily 3",
    }


def test_a_week_belongs_to_its_iso_year() -> None:
    pair = [snapshot(1, "2024-12-30T03:30:00Z"), snapshot(2, "2025-01-05T03:30:00Z")]
    assert reasons(pair, policy(Retention(weekly=2))) == {
        "2": "keep: weekly 2025-W01",
        "1": "delete: over keep weekly 2",
    }


@pytest.mark.parametrize(
    ("timezone", "older"), [("UTC", "delete: over keep daily 2"), ("Europe/Berlin", "keep: daily 2025-01-15")]
)
def test_periods_are_in_the_time_zone_of_the_policy(timezone: str, older: str) -> None:
    """22:59:59 and 23:00:00 UTC are one second either side of midnight in Berlin."""
    pair = [snapshot(1, "2025-01-15T22:59:59Z"), snapshot(2, "2025-01-15T23:00:00Z")]
    assert reasons(pair, policy(Retention(daily=2), timezone=timezone))["1"] == older


@pytest.mark.parametrize("edge", ["2025-01-13T00:00:00Z", "2025-01-12T23:59:59Z", "2025-01-01T00:00:00Z"])
def test_the_one_just_taken_is_kept_on_either_side_of_a_period_s_edge(edge: str) -> None:
    older = [snapshot(i, at(edge) - timedelta(seconds=i)) for i in range(1, 6)]
    rules = [Retention(**{rule: 1}) for rule in ("last", "hourly", "daily", "weekly", "monthly", "yearly")]
    assert all("10" not in deleted([*older, snapshot(10, edge)], policy(rule)) for rule in rules)


def test_of_equal_dates_the_higher_id_is_the_newer_and_ids_are_numbers() -> None:
    assert deleted([snapshot(9, NOW), snapshot(10, NOW), snapshot(8, NOW)], policy(Retention(last=1))) == ["8", "9"]


def test_of_equal_dates_and_ids_of_text_the_later_text_is_the_newer() -> None:
    assert deleted([snapshot("b9", NOW), snapshot("b10", NOW)], policy(Retention(last=1))) == ["b10"]


@given(st.permutations(["9", "10", "1a", "2", "02", "a", "\u0663", "0", "00"]))
def test_ids_have_one_order_whatever_they_are(ids: list[str]) -> None:
    names = {one: snapshot_name("main", NOW - timedelta(minutes=ids.index(one))) for one in ids}
    plan = deleted([snapshot(one, NOW, names[one]) for one in ids], policy(Retention(last=1)))
    assert plan == ["0", "00", "02", "2", "9", "10", "1a", "a"]


def test_order_is_by_instant_and_not_by_the_local_clock() -> None:
    """In the night of 2025-10-26 Berlin's 02:50 summer time is before 02:10 winter time."""
    berlin = ZoneInfo("Europe/Berlin")
    first = snapshot(2, datetime(2025, 10, 26, 2, 50, tzinfo=berlin, fold=0))
    second = snapshot(1, datetime(2025, 10, 26, 2, 10, tzinfo=berlin, fold=1))
    later = datetime(2025, 10, 27, tzinfo=UTC)
    assert deleted([first, second], policy(Retention(last=1), timezone="Europe/Berlin"), now=later) == ["2"]


def test_order_is_by_created_at_and_not_by_name() -> None:
    late_name = snapshot(1, "2025-01-16T03:31:00Z", "snaprotd-main-20250116T033000Z")
    early_name = snapshot(2, "2025-01-16T05:30:00Z", "snaprotd-main-20250114T033000Z")  # a slot that ran late
    assert deleted([late_name, early_name], policy(Retention(last=1))) == ["1"]


def test_an_outage_of_six_months_ages_nothing_out() -> None:
    long_after = NOW + timedelta(days=180)
    assert deleted(ours(13, 14, 15, 16), policy(), now=long_after) == []
    assert deleted(ours(1, 8, 15), policy(Retention(daily=1, weekly=3)), now=long_after) == []


# What no rule looks at


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (snapshot(1, "2025-01-15T18:30:00Z", "manual"), "keep: not made by snaprotd"),
        (snapshot(1, "2025-01-15T18:30:00Z", "manual", "failed"), "keep: not made by snaprotd"),
        (snapshot(1, None, "manual"), "keep: not made by snaprotd"),
        (snapshot(1, "2025-01-15T18:30:00Z", status="in_progress"), "keep: in progress"),
        (snapshot(1, None, OURS, "in_progress"), "keep: in progress"),
        (snapshot(1, "2025-01-15T18:30:00Z", status="failed"), "delete: failed"),
        (snapshot(1, "2025-01-15T18:30:00Z", status="error"), "keep: status `error` not understood"),
        (snapshot(1, None, OURS, "failed"), "keep: created_at cannot be read"),
        (snapshot(1, "2025-01-15T18:30:00Z", status="weird"), "keep: status `weird` not understood"),
        (snapshot(1, "2025-01-15T18:30:00Z", status=""), "keep: status `` not understood"),
        (snapshot(1, None, OURS), "keep: created_at cannot be read"),
        (snapshot(1, datetime(2025, 1, 15, 18, 30), OURS), "keep: created_at cannot be read"),  # noqa: DTZ001
        (snapshot(1, "2031-02-03T04:05:06Z"), "keep: created_at 2031-02-03T04:05:06Z lies in the future"),
        (snapshot(1, NOW + timedelta(days=2)), "keep: created_at 2025-01-19T12:00:00Z lies in the future"),
        (snapshot(1, "1970-01-01T00:00:00Z"), "keep: created_at 1970-01-01T00:00:00Z cannot be right"),
        (
            snapshot(1, datetime(1, 1, 1, tzinfo=UTC), OURS),
            "keep: created_at 0001-01-01T00:00:00Z cannot be right",
        ),
        (
            snapshot(1, datetime(9999, 12, 31, 23, tzinfo=ZoneInfo("America/New_York")), OURS),
            "keep: created_at 9999-12-31T23:00:00-05:00 lies in the future",
        ),
    ],
)
def test_what_is_not_a_completed_one_of_ours_has_its_own_reason(one: Snapshot, reason: str) -> None:
    with_others = [one, *ours(14, 16)]
    assert reasons(with_others, policy(Retention(last=1)))["1"] == reason


def test_a_clock_that_is_five_minutes_ahead_is_believed() -> None:
    pair = [snapshot(1, NOW), snapshot(2, NOW + timedelta(minutes=5))]
    assert deleted(pair, policy(Retention(last=1))) == ["1"]
    pair[1] = replace(pair[1], created_at=NOW + timedelta(minutes=5, seconds=1))
    assert deleted(pair, policy(Retention(last=1))) == []


@pytest.mark.parametrize("doubtful", [None, NOW + timedelta(days=2), datetime(1970, 1, 1, tzinfo=UTC)])
def test_a_doubtful_date_is_never_the_newest(doubtful: datetime | None) -> None:
    everything = [*ours(15, 16), snapshot(99, doubtful, OURS)]
    assert reasons(everything, policy(Retention(last=1)))["16"] == "keep: last 1 of 1"
    newest = newest_completed(everything, rules(policy()), NOW)
    assert newest is not None
    assert newest.id == "16"


@pytest.mark.parametrize("status", ["failed", "in_progress", "weird"])
def test_five_runs_that_end_badly_leave_the_two_completed_untouched(status: str) -> None:
    everything = ours(10, 11) + ours(12, 13, 14, 15, 16, status=status)
    assert not {"10", "11"} & set(deleted(everything, policy(Retention(last=2)), limit=9))


def test_without_a_completed_one_of_ours_nothing_but_failed_ones_is_deleted() -> None:
    everything = ours(10, 12, status="failed") + ours(11, status="in_progress") + ours(13, status="weird") + manual(9)
    told = reasons(everything, policy(Retention(last=1)))
    assert deleted(everything, policy(Retention(last=1))) == ["10"]
    assert told["12"] == "keep: failed; one failed goes in a rotation"


def test_an_adopted_snapshot_is_rotated_like_our_own() -> None:
    everything = [snapshot(1, "2025-01-14T03:30:00Z", "weekly-1"), *ours(15, 16)]
    assert reasons(everything, policy(Retention(last=2), adopt=("weekly-*",)))["1"] == "delete: over keep 2"


def test_a_plan_lists_the_newest_first_and_the_undated_last() -> None:
    everything = [snapshot(7, None, OURS), *ours(14), *manual(15), *ours(16), snapshot(8, "2031-01-01T00:00:00Z")]
    assert list(reasons(everything, policy())) == ["16", "915", "14", "8", "7"]


def test_deletions_are_oldest_first() -> None:
    everything = ours(16, 12, 14) + ours(13, status="failed") + ours(15)
    assert deleted(everything, policy(Retention(last=1))) == ["12", "13", "14", "15"]


def test_a_server_without_snapshots_has_an_empty_plan() -> None:
    assert reasons([], policy()) == {}


# Others hold slots


@pytest.mark.parametrize(
    ("others", "gone", "why"),
    [
        ([], ["10"], "over keep 4"),
        (manual(1), ["10", "13"], "over keep 3 (keep 4, less 1: others hold 1 of 5 slots)"),
        (manual(1, 2), ["10", "13", "14"], "over keep 2 (keep 4, less 2: others hold 2 of 5 slots)"),
        (manual(1, 2, 16), ["10", "13", "14", "15"], "over keep 1 (keep 4, less 3: others hold 3 of 5 slots)"),
        (manual(1, 2, 3, 4), ["10", "13", "14", "15"], "over keep 1 (keep 4, less 3: others hold 4 of 5 slots)"),
        (
            manual(1, 2, 3, 4, 5, 6),
            ["10", "13", "14", "15"],
            "over keep 1 (keep 4, less 3: others hold 6 of 5 slots)",
        ),
        (
            manual(1, status="failed") + manual(2, status="in_progress") + manual(3, status="weird"),
            ["10", "13", "14", "15"],
            "over keep 1 (keep 4, less 3: others hold 3 of 5 slots)",
        ),
        (
            manual(1) + ours(11, status="in_progress"),
            ["10", "13", "14"],
            "over keep 2 (keep 4, less 2: others hold 1 and unfinished ones 1 of 5 slots)",
        ),
        (
            ours(11, status="weird"),
            ["10", "13"],
            "over keep 3 (keep 4, less 1: unfinished ones hold 1 of 5 slots)",
        ),
        (
            [snapshot(99, None, OURS, "in_progress")],
            ["10", "13"],
            "over keep 3 (keep 4, less 1: unfinished ones hold 1 of 5 slots)",
        ),
        (
            [snapshot(99, NOW + timedelta(days=9))],
            ["10", "13"],
            "over keep 3 (keep 4, less 1: unfinished ones hold 1 of 5 slots)",
        ),
        (ours(17, status="in_progress"), ["10"], "over keep 4"),
    ],
)
def test_where_others_hold_slots_fewer_of_ours_are_kept(others: list[Snapshot], gone: list[str], why: str) -> None:
    everything = ours(10, 13, 14, 15, 16) + others
    told = reasons(everything, policy())
    assert deleted(everything, policy()) == gone
    assert {told[one] for one in gone} == {f"delete: {why}"}


def test_a_failed_one_of_ours_holds_no_slot_since_it_goes() -> None:
    assert deleted(ours(13, 14, 15, 16) + ours(12, status="failed"), policy()) == ["12"]


def test_others_matter_only_where_they_leave_too_few_slots() -> None:
    assert reasons(ours(15, 16) + manual(1, 2), policy(Retention(last=2)))["15"] == "keep: last 2 of 2"


def test_the_long_form_loses_its_oldest_where_others_hold_slots() -> None:
    told = reasons(ours(11, 12, 13, 14, 15, 16) + manual(1, 2), policy(Retention(daily=2, weekly=2)))
    assert {one: told[one] for one in ("16", "15", "12", "11")} == {
        "16": "keep: daily 2025-01-16, weekly 2025-W03",
        "15": "keep: daily 2025-01-15",
        "12": "delete: over keep 2 (daily 2, weekly 2 would keep 3, less 1: others hold 2 of 5 slots)",
        "11": "delete: over keep daily 2, weekly 2",
    }


def test_one_slot_stays_free_even_if_more_are_to_be_kept() -> None:
    told = reasons(ours(12, 13, 14, 15, 16), policy(Retention(last=5)))
    assert told["12"] == "delete: over keep 4 (keep 5, less 1: one of 5 slots stays free)"


# Input that makes no sense


@pytest.mark.parametrize(
    ("snapshots", "keep", "words"),
    [
        (ours(15, 15), Retention(last=1), "snapshot 15 of server 12345 is listed more than once"),
        ([*ours(15), replace(ours(16)[0], server_id="2")], Retention(last=1), "several servers in one list: 12345, 2"),
        (ours(15, 16), Retention(), "keeps nothing"),
        (ours(15, 16), Retention(last=3, daily=-1), "keeps nothing, or less"),
    ],
)
def test_nothing_is_decided_on_input_that_makes_no_sense(
    snapshots: list[Snapshot], keep: Retention, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        reasons(snapshots, policy(keep))
    with pytest.raises(ValueError, match=words):
        room(snapshots, policy(keep))


# Room on a full server


def test_below_the_limit_there_is_room() -> None:
    assert room(ours(14, 15, 16) + manual(1)) == Room(free=True)


def test_one_that_may_be_listed_twice_holds_one_slot() -> None:
    again = snapshot("a-text", "2025-01-16T03:30:00Z")
    assert room([*ours(13, 14, 15, 16), again]) == Room(free=True)
    assert room([*ours(12, 13, 14, 15, 16), again]).deletions


@pytest.mark.parametrize("when_full", [WhenFull.REPLACE, WhenFull.REPLACE_LAST])
def test_a_full_server_loses_our_oldest(when_full: WhenFull) -> None:
    answer = room(ours(13, 14, 15, 16) + manual(1), policy(when_full=when_full))
    assert going(answer) == {"13": "delete: full (5 of 5 slots), our oldest; snaprotd-main-20250116T033000Z remains"}


def test_our_oldest_goes_even_if_all_of_them_are_ours() -> None:
    assert list(going(room(ours(12, 13, 14, 15, 16)))) == ["12"]


def test_a_server_over_its_limit_loses_as_many_as_it_takes_at_once_or_none() -> None:
    assert list(going(room(ours(12, 13, 14, 15, 16), policy(Retention(last=2)), limit=3))) == ["12", "13", "14"]
    assert room(ours(15, 16) + manual(1, 2, 3), policy(Retention(last=2)), limit=4).blocked


def test_what_retention_does_not_keep_goes_before_an_older_one_that_it_keeps() -> None:
    answer = room(ours(5, 12, 14, 15, 16), policy(Retention(last=1, weekly=3)))
    why = "delete: full (5 of 5 slots), over keep last 1, weekly 3; snaprotd-main-20250116T033000Z remains"
    assert going(answer) == {"14": why}


@pytest.mark.parametrize("when_full", WhenFull)
def test_our_oldest_failed_one_goes_first_whatever_the_policy_says(when_full: WhenFull) -> None:
    everything = ours(12, 16) + ours(14, 15, status="failed") + manual(1)
    assert going(room(everything, policy(when_full=when_full))) == {"14": "delete: full (5 of 5 slots), failed"}


def test_our_only_one_goes_with_replace_last_if_a_completed_one_of_others_remains() -> None:
    answer = room(ours(16) + manual(1, 2, 3, 4), policy(when_full=WhenFull.REPLACE_LAST))
    why = "delete: full (5 of 5 slots), our only one; manual-4, not made by snaprotd, remains"
    assert going(answer) == {"16": why}


@pytest.mark.parametrize("status", ["in_progress", "failed", "weird"])
def test_our_only_one_stays_if_no_completed_one_of_others_remains(status: str) -> None:
    answer = room(ours(16) + manual(1, 2, 3, 4, status=status), policy(when_full=WhenFull.REPLACE_LAST))
    assert answer.blocked


def test_one_with_a_future_date_does_not_count_as_the_one_that_remains() -> None:
    everything = [*ours(16), snapshot(99, NOW + timedelta(days=2)), *manual(1, 2, 3)]
    assert room(everything).blocked


@pytest.mark.parametrize(
    ("snapshots", "keys", "words"),
    [
        (
            [snapshot(801, "2025-01-15T18:30:00Z", "pre-migration-snapshot"), *manual(16, 1, 3, 2)],
            {},
            (
                "blocked: 5 of 5 snapshots, 5 not made by snaprotd: manual-1 (2025-01-01), manual-2 (2025-01-02), "
                "manual-3 (2025-01-03), pre-migration-snapshot (2025-01-15), manual-16 (2025-01-16)"
            ),
        ),
        (
            manual(1, 2, 3, 4) + ours(16),
            {},
            (
                "blocked: 5 of 5 snapshots, 4 not made by snaprotd: manual-1 (2025-01-01), manual-2 (2025-01-02), "
                "manual-3 (2025-01-03), manual-4 (2025-01-04); "
                "1 ours: snaprotd-main-20250116T033000Z (2025-01-16, the only completed one)"
            ),
        ),
        (
            manual(1, 2, 3) + ours(16) + ours(17, status="in_progress"),
            {"when_full": WhenFull.REFUSE},
            (
                "blocked: 5 of 5 snapshots, 3 not made by snaprotd: manual-1 (2025-01-01), manual-2 (2025-01-02), "
                "manual-3 (2025-01-03); 2 ours: snaprotd-main-20250116T033000Z (2025-01-16, the only completed one), "
                "snaprotd-main-20250117T033000Z (2025-01-17, in progress); when_full is refuse"
            ),
        ),
        (
            ours(12, 13, 14, 15, 16),
            {"when_full": WhenFull.REFUSE},
            "blocked: 5 of 5 snapshots, 5 ours: "
            + ", ".join(f"snaprotd-main-202501{day}T033000Z (2025-01-{day})" for day in range(12, 17))
            + "; when_full is refuse",
        ),
        (
            [snapshot(1, None, "a"), snapshot(2, "2031-01-01T00:00:00Z", "b"), *manual(1, 2, 3, 4, 5)],
            {},
            (
                "blocked: 7 of 5 snapshots, 7 not made by snaprotd: manual-1 (2025-01-01), manual-2 (2025-01-02), "
                "manual-3 (2025-01-03), manual-4 (2025-01-04), manual-5 (2025-01-05) and 2 more"
            ),
        ),
        (
            [snapshot(1, None, "a"), *manual(1, 2, 3), snapshot(2, None, OURS, "failed")],
            {},
            (
                "blocked: 5 of 5 snapshots, 4 not made by snaprotd: manual-1 (2025-01-01), manual-2 (2025-01-02), "
                "manual-3 (2025-01-03), a (date unknown); "
                "1 ours: snaprotd-main-20250116T033000Z (date unknown, failed)"
            ),
        ),
        (
            [replace(one, created_at=at("2025-01-15T23:30:00Z")) for one in manual(1, 2, 3, 4, 5)],
            {"timezone": "Europe/Berlin"},
            (
                "blocked: 5 of 5 snapshots, 5 not made by snaprotd: manual-1 (2025-01-16), manual-2 (2025-01-16), "
                "manual-3 (2025-01-16), manual-4 (2025-01-16), manual-5 (2025-01-16)"
            ),
        ),
    ],
)
def test_a_blocked_server_says_who_holds_its_slots(
    snapshots: list[Snapshot], keys: dict[str, object], words: str
) -> None:
    assert room(snapshots, policy(**keys)) == Room(blocked=words)  # type: ignore[arg-type]


# Our newest completed one


def test_the_newest_completed_one_is_neither_foreign_nor_unfinished() -> None:
    everything = ours(13, 14) + ours(15, status="in_progress") + ours(16, status="failed") + manual(16)
    assert newest_completed(everything, rules(policy()), NOW) == ours(14)[0]


def test_there_may_be_no_newest_completed_one() -> None:
    assert newest_completed(manual(1) + ours(16, status="failed"), rules(policy()), NOW) is None


def test_an_adopted_one_may_be_the_newest() -> None:
    everything = ours(13) + manual(16)
    assert newest_completed(everything, rules(policy(adopt=("manual-*",))), NOW) == manual(16)[0]


# A year of nights: 03:30 in Berlin, every day of 2025, with its two changes of the clock

BERLIN = ZoneInfo("Europe/Berlin")


def nights_of(year: int) -> Iterable[datetime]:
    day = date(year, 1, 1)
    while day.year == year:
        yield datetime(day.year, day.month, day.day, 3, 30, tzinfo=BERLIN)
        day += timedelta(days=1)


def a_year(
    keep: Retention, holds: Mapping[date, timedelta | None] = MappingProxyType({})
) -> dict[date, dict[str, str]]:
    """For each day of 2025: what there is after its rotation, by date, newest first, and why; `holds` of some days."""
    its_policy = policy(keep, timezone="Europe/Berlin")
    held: list[Snapshot] = []
    shelf = {}
    for number, night in enumerate(nights_of(2025)):
        hold = last_day(night, holds[night.date()]) if night.date() in holds else None
        held.append(snapshot(number, night + timedelta(minutes=6), snapshot_name("main", night, hold)))
        assert len(held) <= LIMIT, "the provider would have refused it"
        plan = plan_retention(held, rules(its_policy), now=night + timedelta(minutes=7))
        held = [decision.snapshot for decision in plan.decisions if not decision.delete]
        shelf[night.date()] = {
            f"{decision.snapshot.created_at:%Y-%m-%d}": decision.reason
            for decision in plan.decisions
            if not decision.delete
        }
    return shelf


def test_a_year_of_two_days_and_two_weeks() -> None:
    shelf = a_year(Retention(daily=2, weekly=2))
    assert shelf[date(2025, 1, 1)] == {"2025-01-01": "keep: daily 2025-01-01, weekly 2025-W01"}
    assert shelf[date(2025, 1, 16)] == {
        "2025-01-16": "keep: daily 2025-01-16, weekly 2025-W03",
        "2025-01-15": "keep: daily 2025-01-15",
        "2025-01-12": "keep: weekly 2025-W02",
    }
    # A Monday: yesterday is also the newest of last week.
    assert shelf[date(2025, 3, 31)] == {
        "2025-03-31": "keep: daily 2025-03-31, weekly 2025-W14",
        "2025-03-30": "keep: daily 2025-03-30, weekly 2025-W13",
    }
    assert shelf[date(2025, 10, 28)] == {
        "2025-10-28": "keep: daily 2025-10-28, weekly 2025-W44",
        "2025-10-27": "keep: daily 2025-10-27",
        "2025-10-26": "keep: weekly 2025-W43",
    }
    assert shelf[date(2025, 12, 31)] == {
        "2025-12-31": "keep: daily 2025-12-31, weekly 2026-W01",
        "2025-12-30": "keep: daily 2025-12-30",
        "2025-12-28": "keep: weekly 2025-W52",
    }


def test_a_year_of_two_days_two_weeks_and_two_months_holds_four_since_rules_overlap() -> None:
    shelf = a_year(Retention(daily=2, weekly=2, monthly=2))
    assert max(map(len, shelf.values())) == 4
    assert shelf[date(2025, 7, 16)] == {
        "2025-07-16": "keep: daily 2025-07-16, weekly 2025-W29, monthly 2025-07",
        "2025-07-15": "keep: daily 2025-07-15",
        "2025-07-13": "keep: weekly 2025-W28",
        "2025-06-30": "keep: monthly 2025-06",
    }


def test_a_year_of_four_holds_the_last_four_nights_from_the_fourth_on() -> None:
    shelf = a_year(Retention(last=4))
    assert {len(held) for day, held in shelf.items() if day >= date(2025, 1, 4)} == {4}
    assert list(shelf[date(2025, 12, 31)]) == ["2025-12-31", "2025-12-30", "2025-12-29", "2025-12-28"]


def test_a_year_in_which_some_nights_are_held_keeps_each_until_its_day_is_over_and_a_slot_free() -> None:
    """Held: the 1st of each month for 40 days, so that two are at times, and Boxing Day for ever."""
    lengths = {date(2025, month, 1): timedelta(days=40) for month in range(1, 13)}
    shelf = a_year(Retention(last=2, weekly=2), {**lengths, date(2025, 12, 26): None})
    for day, length in lengths.items():
        until = day + length
        stood = [on for on, held in shelf.items() if held.get(f"{day}", "").startswith("keep: held")]
        end = min(until, date(2025, 12, 31))
        assert stood == [day + timedelta(days=number) for number in range((end - day).days + 1)]
        assert shelf[day][f"{day}"] == f"keep: held until {until}"
    assert list(shelf[date(2025, 3, 10)]) == ["2025-03-10", "2025-03-09", "2025-03-01", "2025-02-01"]
    assert shelf[date(2025, 3, 20)] == {
        "2025-03-20": "keep: last 1 of 2, weekly 2025-W12",
        "2025-03-19": "keep: last 2 of 2",
        "2025-03-16": "keep: weekly 2025-W11",
        "2025-03-01": "keep: held until 2025-04-10",
    }
    assert shelf[date(2025, 12, 31)]["2025-12-26"] == "keep: held for ever"


# Laws

NAMES = st.sampled_from(
    [
        OURS,
        "snaprotd-main-20250101T000000Z",
        "snaprotd-main2-20250116T033000Z",
        "snaprotd-main-old",
        "weekly-1",
        "manual",
    ]
)
WORDS = st.sampled_from(["completed"] * 4 + ["in_progress", "failed", "error", "weird"])
# Few instants, so that equal dates and edges of hours, days, weeks and of the autumn change occur often.
DATES = st.one_of(
    st.none(),
    st.sampled_from([NOW + timedelta(days=3), datetime(1970, 1, 1, tzinfo=UTC)]),
    st.builds(
        lambda hours, seconds: datetime(2024, 10, 27, tzinfo=UTC) + timedelta(hours=hours, seconds=seconds),
        st.one_of(st.integers(0, 30), st.integers(0, 1900)),
        st.sampled_from([-1, 0, 1, 1800]),
    ),
)


HELD = (NOW.date(), NOW.date() + timedelta(days=9), FOREVER)
HOLDS = st.sampled_from([None, None, None, NOW.date() - timedelta(days=1), *HELD])


@st.composite
def shelves(draw: st.DrawFn) -> list[Snapshot]:
    """Up to nine snapshots of one server, in any order."""
    ids = draw(st.lists(st.integers(1, 1200), unique=True, max_size=9))
    drawn = [snapshot(one, draw(DATES), draw(NAMES), draw(WORDS)) for one in ids]
    return [replace(one, hold=draw(HOLDS)) for one in drawn]


COUNTS = st.integers(0, 3)
RULES = st.builds(
    Retention, last=COUNTS, hourly=COUNTS, daily=COUNTS, weekly=COUNTS, monthly=COUNTS, yearly=COUNTS
).filter(lambda keep: keep.total > 0)
SIMPLE = st.integers(1, 6).map(lambda last: policy(Retention(last=last)))
POLICIES = st.builds(
    policy,
    RULES,
    adopt=st.sampled_from([(), ("weekly-*",), ("*",)]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]),
    when_full=st.sampled_from(WhenFull),
)
LIMITS = st.integers(2, 6)


def is_ours(one: Snapshot, its_policy: Policy) -> bool:
    return owner_of(one, instance="main", adopt=its_policy.adopt) is Owner.MANAGED


def is_dated(one: Snapshot) -> bool:
    return one.created_at is not None and datetime(2000, 1, 1, tzinfo=UTC) < one.created_at <= NOW


def completed_of_ours(shelf: Sequence[Snapshot], its_policy: Policy) -> list[Snapshot]:
    """Oldest first."""
    found = [one for one in shelf if is_ours(one, its_policy) and one.status == "completed" and is_dated(one)]
    return sorted(found, key=lambda one: (one.created_at, int(one.id)))


def is_held(one: Snapshot, its_policy: Policy) -> bool:
    return is_ours(one, its_policy) and one.hold in HELD


def free_of_ours(shelf: Sequence[Snapshot], its_policy: Policy) -> list[Snapshot]:
    """Those completed ones that rules decide over, oldest first."""
    return [one for one in completed_of_ours(shelf, its_policy) if not is_held(one, its_policy)]


def unfinished_of_ours(shelf: Sequence[Snapshot], its_policy: Policy) -> list[Snapshot]:
    """Those that hold a slot and may not be deleted, but for what is newer than our newest completed one."""
    done = completed_of_ours(shelf, its_policy)
    kinds = (SnapshotState.IN_PROGRESS, SnapshotState.UNKNOWN)
    return [
        one
        for one in shelf
        if is_ours(one, its_policy)
        and (one.state in kinds or not is_dated(one) or (is_held(one, its_policy) and not one.is_completed))
        and not (is_dated(one) and done and (one.created_at, int(one.id)) > (done[-1].created_at, int(done[-1].id)))
    ]


def others(shelf: Sequence[Snapshot], its_policy: Policy) -> int:
    """What holds a slot and is not for rules to decide over."""
    foreign = sum(not is_ours(one, its_policy) for one in shelf)
    held = len(completed_of_ours(shelf, its_policy)) - len(free_of_ours(shelf, its_policy))
    return foreign + held + len(unfinished_of_ours(shelf, its_policy))


def left(shelf: Sequence[Snapshot], its_policy: Policy, limit: int) -> list[Snapshot]:
    gone = deleted(shelf, its_policy, limit)
    return [one for one in shelf if one.id not in gone]


@given(shelves(), POLICIES, LIMITS)
def test_nothing_foreign_unfinished_undated_or_held_is_ever_deleted(
    shelf: list[Snapshot], p: Policy, limit: int
) -> None:
    plan = plan_retention(shelf, rules(p, limit), now=NOW)
    for one in plan.deletions:
        assert is_ours(one, p)
        assert not is_held(one, p)
        assert one.state in (SnapshotState.COMPLETED, SnapshotState.FAILED)
        assert is_dated(one)


@given(shelves(), POLICIES, LIMITS)
def test_our_newest_completed_one_is_always_kept(shelf: list[Snapshot], p: Policy, limit: int) -> None:
    done = completed_of_ours(shelf, p)
    assert newest_completed(shelf, rules(p), NOW) == (done[-1] if done else None)
    assert not done or done[-1] in left(shelf, p, limit)


@given(shelves(), POLICIES, LIMITS, st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(shelf: list[Snapshot], p: Policy, limit: int, random: object) -> None:
    shuffled = list(shelf)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_retention(shuffled, rules(p, limit), now=NOW) == plan_retention(shelf, rules(p, limit), now=NOW)
    assert room(shuffled, p, limit) == room(shelf, p, limit)


@given(shelves(), SIMPLE, LIMITS)
def test_the_simple_form_keeps_exactly_its_count_or_what_there_is_or_what_fits(
    shelf: list[Snapshot], p: Policy, limit: int
) -> None:
    free = free_of_ours(shelf, p)
    count = min(p.keep.last, len(free), max(1, limit - 1 - others(shelf, p)))
    assert free_of_ours(left(shelf, p, limit), p) == free[len(free) - count :]


@given(shelves(), POLICIES, LIMITS)
def test_planning_again_what_was_kept_deletes_nothing(shelf: list[Snapshot], p: Policy, limit: int) -> None:
    failed = {one.id for one in shelf if one.state is SnapshotState.FAILED}
    assert set(deleted(left(shelf, p, limit), p, limit)) <= failed, "one of those goes in each rotation"


@given(shelves(), POLICIES, LIMITS)
def test_after_a_prune_one_slot_is_free_or_a_single_completed_one_of_ours_remains(
    shelf: list[Snapshot], p: Policy, limit: int
) -> None:
    kept = left(shelf, p, limit)
    free = free_of_ours(kept, p)
    assert len(free) <= 1 or len(free) + others(kept, p) <= limit - 1


@given(shelves(), RULES)
def test_each_rule_keeps_the_newest_of_its_most_recent_periods(shelf: list[Snapshot], keep: Retention) -> None:
    """The same by another road: group by period, take the newest of each, take the most recent of those."""
    p = policy(keep, timezone="America/St_Johns")
    done = free_of_ours(shelf, p)
    expected = {one.id for one in done[len(done) - min(keep.last, len(done)) :]}
    forms = {"hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V", "monthly": "%Y%m", "yearly": "%Y"}
    for rule, form in forms.items():
        named = [
            (f"{one.created_at.astimezone(ZoneInfo(p.timezone)):{form}}", one.id) for one in done if one.created_at
        ]
        newest = [list(group)[-1][1] for _, group in itertools.groupby(named, key=lambda pair: pair[0])]
        expected |= set(newest[len(newest) - min(getattr(keep, rule), len(newest)) :])
    assert {one.id for one in free_of_ours(left(shelf, p, 99), p)} == expected


@given(shelves(), POLICIES, LIMITS)
def test_every_decision_says_keep_or_delete_and_why(shelf: list[Snapshot], p: Policy, limit: int) -> None:
    plan = plan_retention(shelf, rules(p, limit), now=NOW)
    assert sorted(one.snapshot.id for one in plan.decisions) == sorted(one.id for one in shelf)
    for decision in plan.decisions:
        word, _, why = decision.reason.partition(": ")
        assert word == ("delete" if decision.delete else "keep")
        assert why


@given(shelves(), POLICIES, LIMITS)
def test_room_has_exactly_one_answer(shelf: list[Snapshot], p: Policy, limit: int) -> None:
    answer = room(shelf, p, limit)
    assert [answer.free, bool(answer.deletions), bool(answer.blocked)].count(True) == 1
    assert answer.free == (len(shelf) < limit)
    assert not answer.deletions or len(shelf) - len(answer.deletions) == limit - 1


@given(shelves(), POLICIES, LIMITS)
def test_room_is_never_made_of_what_is_foreign_unfinished_undated_or_held(
    shelf: list[Snapshot], p: Policy, limit: int
) -> None:
    gone = [decision.snapshot for decision in room(shelf, p, limit).deletions]
    assert sum(one.state is SnapshotState.FAILED for one in gone) <= 1
    for one in gone:
        assert not is_held(one, p)
        assert is_ours(one, p)
        assert one.state in (SnapshotState.COMPLETED, SnapshotState.FAILED)
        assert is_dated(one)


@given(shelves(), POLICIES, LIMITS)
def test_making_room_leaves_a_newer_completed_one_of_ours_but_with_replace_last(
    shelf: list[Snapshot], p: Policy, limit: int
) -> None:
    done = completed_of_ours(shelf, p)
    gone = [decision.snapshot for decision in room(shelf, p, limit).deletions]
    for one in (one for one in gone if one in done):
        assert p.when_full is not WhenFull.REFUSE
        assert one != done[-1] or p.when_full is WhenFull.REPLACE_LAST


@given(shelves(), POLICIES, LIMITS)
def test_a_server_with_a_completed_snapshot_still_has_one_after_making_room(
    shelf: list[Snapshot], p: Policy, limit: int
) -> None:
    gone = [decision.snapshot for decision in room(shelf, p, limit).deletions]
    after = [one for one in shelf if one not in gone]
    assert any(one.is_completed for one in after) == any(one.is_completed for one in shelf)


@given(shelves(), POLICIES, LIMITS)
def test_the_last_door_lets_through_all_that_rules_delete_and_nothing_that_is_held(
    shelf: list[Snapshot], p: Policy, limit: int
) -> None:
    its_rules = rules(p, limit)
    for one in plan_retention(shelf, its_rules, now=NOW).deletions:
        refuse_deletion(one.id, shelf, its_rules, now=NOW)
    for gone in room(shelf, p, limit).deletions:
        last_may_go = p.when_full is WhenFull.REPLACE_LAST
        refuse_deletion(gone.snapshot.id, shelf, its_rules, now=NOW, last_may_go=last_may_go)
    for one in (one for one in shelf if is_held(one, p)):
        with pytest.raises(ForbiddenDeletion, match="held"):
            refuse_deletion(one.id, shelf, its_rules, now=NOW, last_may_go=True)


@given(shelves(), POLICIES, LIMITS)
def test_where_one_more_may_be_held_rotation_has_two_slots_left(shelf: list[Snapshot], p: Policy, limit: int) -> None:
    """One that it keeps, and one that is free for the next."""
    held = sum(is_held(one, p) for one in shelf)
    foreign = sum(not is_ours(one, p) for one in shelf)
    assert bool(why_not_held(shelf, rules(p, limit), now=NOW)) == (held + foreign + 1 > limit - 2)


@given(shelves(), POLICIES, LIMITS)
def test_room_that_was_made_is_there(shelf: list[Snapshot], p: Policy, limit: int) -> None:
    if gone := [decision.snapshot for decision in room(shelf, p, limit).deletions]:
        shelf = [one for one in shelf if one not in gone]
        assert room(shelf, p, limit).free
    assert room(shelf, p, limit).free or room(shelf, p, limit).blocked


@pytest.mark.parametrize(
    ("keep", "timezone", "old", "new", "both"),
    [
        (Retention(daily=2), "UTC", "2025-01-15T23:59:59Z", "2025-01-16T00:00:00Z", True),
        (Retention(daily=2), "UTC", "2025-01-16T00:00:00Z", "2025-01-16T00:00:01Z", False),
        (Retention(daily=2), "Europe/Berlin", "2025-01-15T22:59:59Z", "2025-01-15T23:00:00Z", True),
        (Retention(daily=2), "Europe/Berlin", "2025-01-15T23:59:59Z", "2025-01-16T00:00:00Z", False),
        (Retention(hourly=2), "Asia/Kolkata", "2025-01-16T01:29:59Z", "2025-01-16T01:30:00Z", True),
        (Retention(hourly=2), "Asia/Kolkata", "2025-01-16T01:59:59Z", "2025-01-16T02:00:00Z", False),
        (Retention(weekly=2), "UTC", "2025-01-12T23:59:59Z", "2025-01-13T00:00:00Z", True),
        (Retention(weekly=2), "UTC", "2025-01-13T00:00:00Z", "2025-01-13T00:00:01Z", False),
        (Retention(monthly=2), "UTC", "2024-12-31T23:59:59Z", "2025-01-01T00:00:00Z", True),
        (Retention(yearly=2), "UTC", "2024-12-31T23:59:59Z", "2025-01-01T00:00:00Z", True),
        (Retention(yearly=2), "America/New_York", "2024-12-31T23:59:59Z", "2025-01-01T00:00:00Z", False),
    ],
)
def test_a_second_on_the_other_side_of_a_periods_edge_is_another_period(
    keep: Retention, timezone: str, old: str, new: str, both: bool
) -> None:
    plan = plan_retention([snapshot(801, old), snapshot(802, new)], rules(policy(keep, timezone)), now=NOW)
    assert [one.id for one in plan.deletions] == ([] if both else ["801"])


def test_a_provider_whose_clock_is_behind_makes_no_two_days_into_one() -> None:
    before = snapshot(801, "2025-01-14T04:00:00Z", "snaprotd-main-20250114T033000Z")
    new = replace(snapshot(802, "2025-01-14T03:31:00Z", OURS), in_ledger=True)
    plan = plan_retention([before, new], rules(policy(Retention(daily=2, weekly=2))), now=NOW)
    assert plan.deletions == ()


def test_a_slot_in_the_future_does_not_make_the_one_that_bears_it_our_newest() -> None:
    """Our own clock was ahead when it was taken, and is right again."""
    ahead = replace(snapshot(801, "2025-01-16T03:30:00Z", "snaprotd-main-20250118T033000Z"), in_ledger=True)
    newest = snapshot(805, "2025-01-17T03:30:00Z", "snaprotd-main-20250117T033000Z")
    plan = plan_retention([ahead, newest], rules(policy(Retention(last=1))), now=NOW)
    assert [one.id for one in plan.deletions] == ["801"]


@pytest.mark.parametrize(("other", "deleted"), [("0b9c1d8e-1111-4222", []), ("802", ["801"])])
def test_what_may_be_one_snapshot_listed_under_two_ids_is_kept(other: str, deleted: list[str]) -> None:
    twice = [snapshot(one, "2025-01-16T03:30:00Z", OURS) for one in ("801", other)]
    plan = plan_retention(twice, rules(policy(Retention(last=4))), now=NOW)
    assert [one.id for one in plan.deletions] == deleted
    for one in twice:
        if one.id not in deleted:
            with pytest.raises(ForbiddenDeletion):
                refuse_deletion(one.id, twice, rules(policy(Retention(last=4))), now=NOW)


def test_a_list_that_shows_each_snapshot_under_two_ids_costs_none_of_them() -> None:
    days = range(14, 17)
    twice = [replace(one, id=its_id) for one in ours(*days) for its_id in (one.id, f"uuid-{one.id}")]
    its_rules = rules(policy(Retention(last=4)))
    assert plan_retention(twice, its_rules, now=NOW).deletions == ()
    assert make_room(twice, its_rules, now=NOW) == Room(free=True)
