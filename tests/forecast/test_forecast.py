"""What a policy leaves behind is told beforehand: worked by hand, by table and by law; and drawn so that it fits."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import time_machine
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from snaprotd.commands.forecast import forecast as command
from snaprotd.commands.text.forecast import forecast_text
from snaprotd.core.errors import ConfigError, SnaprotdError
from snaprotd.core.model import Snapshot
from snaprotd.core.policy import Policy, Retention, Rules, WhenFull
from snaprotd.core.retention import plan_retention
from snaprotd.core.schedule import Missed, Schedule
from snaprotd.forecast import runs as runs_module
from snaprotd.forecast.as_json import forecast_json
from snaprotd.forecast.as_svg import drawing
from snaprotd.forecast.expect import Forecast, alike, expect
from snaprotd.forecast.figures import Extreme
from snaprotd.forecast.runs import Assumed, Fate, Foreseen, Outage
from snaprotd.forecast.words import sentences, title_of
from tests.support.policies import a_policy, slots
from tests.support.searches import examples

START = datetime(2025, 1, 1, tzinfo=UTC)
"""A Wednesday."""
NIGHTLY = a_policy(keep=Retention(last=4))
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def outage(text: str) -> Outage:
    return Outage.parse(text)


def look(policy: Policy = NIGHTLY, *, limit: int = 5, start: datetime = START, **assumed: Any) -> Forecast:
    return expect(Rules(policy=policy, limit=limit), start=start, assumed=Assumed(**assumed))


def keeping(**rules: int) -> Policy:
    return replace(NIGHTLY, keep=Retention(**rules))


def made(snapshot: Snapshot) -> datetime:
    assert snapshot.created_at is not None
    return snapshot.created_at


def days_of(snapshots: Sequence[Snapshot]) -> list[int]:
    return [made(one).day for one in snapshots]


def fates(forecast: Forecast) -> list[str]:
    return [run.fate for run in forecast.runs]


# -- worked by hand ----------------------------------------------------------------------------------------------------

LAST_2_WEEKLY_2 = {
    1: [1],  # Wednesday
    2: [2, 1],
    3: [3, 2],
    4: [4, 3],
    5: [5, 4],  # Sunday: the last of its week, so far of the only one
    6: [6, 5],  # Monday: the week before keeps the 5th
    7: [7, 6, 5],
    8: [8, 7, 5],
    9: [9, 8, 5],
    10: [10, 9, 5],
    11: [11, 10, 5],
    12: [12, 11, 5],
    13: [13, 12],  # Monday again: the 12th is its week's, and one of the last two
    14: [14, 13, 12],
    15: [15, 14, 12],
    16: [16, 15, 12],
    17: [17, 16, 12],
    18: [18, 17, 12],
    19: [19, 18, 12],
    20: [20, 19],
    21: [21, 20, 19],
    22: [22, 21, 19],
    23: [23, 22, 19],
    24: [24, 23, 19],
    25: [25, 24, 19],
    26: [26, 25, 19],
    27: [27, 26],
    28: [28, 27, 26],
    29: [29, 28, 26],
    30: [30, 29, 26],
}
"""What is held after the run of each day of January 2025, newest first."""


def test_two_last_and_two_weekly_ones_as_worked_out_by_hand() -> None:
    forecast = look(keeping(last=2, weekly=2), days=30)
    assert {run.at.day: days_of(run.held) for run in forecast.runs} == LAST_2_WEEKLY_2
    deleted = {run.at.day: days_of([gone.snapshot for gone in run.deleted]) for run in forecast.runs if run.deleted}
    assert deleted[6] == [4]
    assert deleted[13] == [11, 5]
    assert 7 not in deleted
    assert {gone.reason for run in forecast.runs for gone in run.deleted} == {"delete: over keep last 2, weekly 2"}


def test_its_figures_are_those_of_the_weeks_worked_out_by_hand() -> None:
    summary = look(keeping(last=2, weekly=2), days=30).summary
    monday, sunday = datetime(2025, 1, 6, 3, 30, tzinfo=UTC), datetime(2025, 1, 12, 3, 30, tzinfo=UTC)
    assert (summary.taken, summary.failed, summary.missed, summary.blocked, summary.late) == (30, 0, 0, 0, 0)
    assert summary.first_at == datetime(2025, 1, 1, 3, 30, tzinfo=UTC)
    assert summary.settled_at == monday
    assert (summary.held_least, summary.held_most) == (2, 3)
    assert summary.newest_worst == Extreme(age=DAY, at=datetime(2025, 1, 2, 3, 30, tzinfo=UTC))
    assert summary.reach_least == Extreme(age=DAY, at=monday)
    assert summary.reach_most == Extreme(age=8 * DAY, at=sunday + DAY)
    assert (summary.free_between, summary.free_while_taking) == (2, 1)


@pytest.mark.parametrize(
    ("rules", "held", "least", "most", "settled"),
    [
        ({"last": 1}, (1, 1), 0, 1, "2025-01-01"),
        ({"last": 4}, (4, 4), 3, 4, "2025-01-04"),
        ({"daily": 2, "weekly": 2}, (2, 3), 1, 8, "2025-01-06"),
        (
            {"weekly": 4},
            (4, 4),
            15,
            22,
            "2025-01-20",
        ),  # on a Monday, that of the Sunday two weeks ago; it goes a week later
        ({"last": 1, "daily": 1, "weekly": 1, "monthly": 1}, (1, 1), 0, 1, "2025-01-01"),
        ({"last": 2, "yearly": 2}, (2, 3), 1, 366, "2026-01-01"),
    ],
)
def test_rules_leave_so_many_and_reach_so_far(
    rules: dict[str, int], held: tuple[int, int], least: int, most: int, settled: str
) -> None:
    summary = look(keeping(**rules)).summary
    assert summary.reach_least is not None
    assert summary.reach_most is not None
    assert summary.settled_at is not None
    assert (summary.held_least, summary.held_most) == held
    assert summary.reach_least.age == least * DAY
    assert summary.reach_most.age == most * DAY
    assert summary.settled_at.date().isoformat() == settled


def test_a_schedule_that_runs_later_than_the_days_asked_for_is_still_told_of() -> None:
    forecast = look(replace(NIGHTLY, schedule=slots("@yearly"), keep=Retention(last=2)), days=30)
    assert forecast.runs == ()
    assert forecast.summary.first_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert forecast.summary.settled_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert forecast.summary.newest_worst is None


def test_days_that_end_before_the_first_deletion_are_looked_beyond() -> None:
    summary = look(keeping(last=4), days=4).summary
    assert summary.settled_at == datetime(2025, 1, 4, 3, 30, tzinfo=UTC)
    assert summary.free_while_taking == 0
    assert summary.reach_most == Extreme(age=4 * DAY, at=datetime(2025, 1, 5, 3, 30, tzinfo=UTC))


def test_periods_are_those_of_the_policys_time_zone() -> None:
    late = replace(NIGHTLY, schedule=slots("30 23 * * *"), keep=Retention(weekly=1))
    in_kolkata = slots("0 5 * * *", timezone="Asia/Kolkata")
    first, second = look(late, days=14), look(replace(late, schedule=in_kolkata), days=14)
    assert [run.at for run in first.runs] == [run.at for run in second.runs]
    assert first.summary.settled_at == second.summary.settled_at
    two = replace(late, keep=Retention(weekly=2))
    # Sunday half past eleven in London is Monday five o'clock in Kolkata, a week later.
    assert look(two, days=14).summary.settled_at == datetime(2025, 1, 6, 23, 30, tzinfo=UTC)
    assert look(replace(two, schedule=in_kolkata), days=14).summary.settled_at == datetime(
        2025, 1, 5, 23, 30, tzinfo=UTC
    )


# -- outages, failures, others -----------------------------------------------------------------------------------------

TEN_DAYS = {
    "run, in time": (Missed.RUN, 24 * HOUR, "3d..5d", "TTTmLTTTTT"),
    "run, too late": (Missed.RUN, 12 * HOUR, "3d..5d", "TTTmmTTTTT"),
    "skip": (Missed.SKIP, 24 * HOUR, "3d..5d", "TTTmmTTTTT"),
    "between two slots": (Missed.RUN, 24 * HOUR, "76h..90h", "TTTTTTTTTT"),
    "one slot": (Missed.RUN, 24 * HOUR, "74h..80h", "TTTLTTTTTT"),
    "begins at a slot, which was run": (Missed.RUN, 24 * HOUR, "75.5h..80h", "TTTTTTTTTT"),
    "from the start": (Missed.RUN, 24 * HOUR, "0d..2d", "mLTTTTTTTT"),
    "over the end": (Missed.RUN, 24 * HOUR, "8d..12d", "TTTTTTTTmm"),
    "back at the end": (Missed.RUN, 24 * HOUR, "8d..10d", "TTTTTTTTmL"),
}
"""T: taken at its slot, L: taken when the outage ended, m: missed. The slots are at half past three."""


@pytest.mark.parametrize(("missed", "within", "down", "pattern"), TEN_DAYS.values(), ids=TEN_DAYS)
def test_the_latest_slot_of_an_outage_is_made_up_for_where_the_policy_says_so(
    missed: Missed, within: timedelta, down: str, pattern: str
) -> None:
    policy = replace(NIGHTLY, missed=missed, missed_within=within)
    forecast = look(policy, days=10, outages=(outage(down),))
    letters = {Fate.TAKEN: "T", Fate.MISSED: "m"}
    assert "".join("L" if run.is_late else letters[run.fate] for run in forecast.runs) == pattern
    assert all(run.at == forecast.outages[0][1] for run in forecast.runs if run.is_late)
    assert forecast.summary.late == pattern.count("L")
    assert forecast.summary.missed == pattern.count("m")


@pytest.mark.parametrize(
    ("window", "within", "down", "late"),
    [
        ("01:00-06:00", 24 * HOUR, "3d..3.25d", ["2025-01-05T01:00"]),
        ("01:00-06:00", 21 * HOUR, "3d..3.25d", []),
        ("01:00-06:00", 24 * HOUR, "3d..3.2d", ["2025-01-04T04:48"]),
        # Its window opens when the next slot comes, and that one runs.
        ("03:30-06:00", 48 * HOUR, "3d..3.25d", []),
    ],
)
def test_a_run_made_up_for_waits_for_its_window_or_lapses(
    window: str, within: timedelta, down: str, late: list[str]
) -> None:
    policy = replace(NIGHTLY, schedule=replace(NIGHTLY.schedule, window=(window,)), missed_within=within)
    forecast = look(policy, days=10, outages=(outage(down),))
    assert [f"{run.at:%Y-%m-%dT%H:%M}" for run in forecast.runs if run.is_late] == late
    assert forecast.summary.missed == 1 - len(late)
    assert forecast.summary.taken == 9 + len(late)


def test_a_run_made_up_for_has_the_name_of_its_slot_and_the_age_of_its_day() -> None:
    policy = replace(NIGHTLY, keep=Retention(daily=2))
    forecast = look(policy, days=10, outages=(outage("3d..5d"),))
    late = next(run for run in forecast.runs if run.is_late)
    assert late.taken is not None
    assert late.taken.name == "snaprotd-main-20250105T033000Z"
    assert late.taken.created_at == datetime(2025, 1, 6, tzinfo=UTC)
    following = forecast.runs[forecast.runs.index(late) + 1]
    assert days_of(following.held) == [6, 3], "two of one day: the day keeps the newer one"
    weekly = look(replace(NIGHTLY, keep=Retention(weekly=2)), days=13, outages=(outage("10d..12d"),))
    late = next(run for run in weekly.runs if run.is_late)
    assert days_of(late.held) == [13, 10], "Sunday's slot, run on Monday, counts for the new week"


def test_outages_that_touch_or_overlap_are_one() -> None:
    downs = tuple(map(outage, ("5d..7d", "1d..3d", "3d..4d", "2d..2.5d")))
    forecast = look(days=10, outages=downs)
    begins = [((begin - START) / DAY, (end - START) / DAY) for begin, end in forecast.outages]
    assert begins == [(1, 4), (5, 7)]
    assert [run.at for run in forecast.runs if run.is_late] == [START + 4 * DAY, START + 7 * DAY]


def test_an_outage_of_half_a_year_deletes_nothing() -> None:
    forecast = look(days=365, outages=(outage("100d..280d"),))
    before = [run for run in forecast.runs if run.at <= START + 100 * DAY]
    meanwhile = [run for run in forecast.runs if START + 100 * DAY < run.at < START + 280 * DAY]
    assert len(meanwhile) == 179
    assert all(run.held == before[-1].held and not run.deleted for run in meanwhile)
    assert forecast.summary.newest_worst == Extreme(age=181 * DAY - 3.5 * HOUR, at=START + 280 * DAY)


def test_a_failed_run_takes_nothing_and_deletes_nothing() -> None:
    forecast = look(days=60, fail=0.3)
    failed = [(before, run) for before, run in pairwise(forecast.runs) if run.fate is Fate.FAILED]
    assert failed
    assert all(run.held == before.held and not run.deleted and run.taken is None for before, run in failed)
    assert forecast.summary.failed == fates(forecast).count("failed")


def test_where_every_run_fails_there_is_never_a_restore_point() -> None:
    summary = look(days=30, fail=1.0).summary
    assert (summary.taken, summary.failed, summary.held_most) == (0, 30, 0)
    assert (summary.first_at, summary.settled_at, summary.newest_worst, summary.reach_least) == (None,) * 4


def test_the_share_that_fails_is_about_what_was_asked_for() -> None:
    assert 60 <= look(days=300, fail=0.25).summary.failed <= 90


@pytest.mark.parametrize(
    ("foreign", "when_full", "expected", "held"),
    [
        (2, WhenFull.REPLACE, ["taken"] * 6, 2),
        (3, WhenFull.REPLACE, ["taken"] * 6, 1),
        (4, WhenFull.REPLACE, ["taken", *["blocked"] * 5], 1),
        (4, WhenFull.REFUSE, ["taken", *["blocked"] * 5], 1),
        (4, WhenFull.REPLACE_LAST, ["taken"] * 6, 1),
        (5, WhenFull.REPLACE, ["blocked"] * 6, 0),
        (5, WhenFull.REPLACE_LAST, ["blocked"] * 6, 0),
    ],
)
def test_snapshots_of_others_take_room_from_ours(
    foreign: int, when_full: WhenFull, expected: list[str], held: int
) -> None:
    forecast = look(replace(NIGHTLY, when_full=when_full, adopt=("*",)), days=6, foreign=foreign)
    assert fates(forecast) == expected
    assert len(forecast.runs[-1].held) == held
    assert len(forecast.foreign) == foreign
    assert all("not made by snaprotd" in run.blocked for run in forecast.runs if run.fate is Fate.BLOCKED)


def test_a_run_that_fails_after_it_made_room_leaves_less_than_there_was() -> None:
    policy = replace(NIGHTLY, when_full=WhenFull.REPLACE_LAST)
    forecast = look(policy, days=60, foreign=4, fail=0.5)
    poorer = [run for run in forecast.runs if run.fate is Fate.FAILED and run.deleted]
    assert poorer
    assert all(run.held == () for run in poorer)
    assert all(run.deleted[0].reason.startswith("delete: full (5 of 5 slots), our only one") for run in poorer)
    assert forecast.summary.held_least == 0
    assert forecast.summary.reach_least is not None
    assert forecast.summary.reach_least.age == timedelta(0)


def test_what_is_held_takes_room_from_the_rest_is_never_deleted_and_blocks_nothing() -> None:
    forecast = look(keeping(last=4), days=6, foreign=1, held=2)
    assert fates(forecast) == ["taken"] * 6
    assert [len(run.held) for run in forecast.runs] == [1] * 6
    (sentence, *_) = [one.text for one in sentences(forecast)]
    assert "(not the 4 that `keep` adds up to: others hold 1 slot and held ones take 2 slots)" in sentence
    assert drawing([(["web-01"], forecast)]).count("held: keeps its slot") == 2
    with pytest.raises(ValueError, match="holds leave 2 of 5 slots to rotation: 2 do not"):
        look(foreign=2, held=2)


def test_more_snapshots_of_others_than_the_limit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 snapshots of somebody else do not fit: the limit is 2"):
        look(limit=2, foreign=3)


# -- laws --------------------------------------------------------------------------------------------------------------

MOST = {"last": 4, "hourly": 3, "daily": 4, "weekly": 3, "monthly": 2, "yearly": 1}
"""Of each rule: so that nothing takes years to settle."""

RULES = st.fixed_dictionaries({}, optional={rule: st.integers(1, most) for rule, most in MOST.items()}).filter(
    lambda rules: 1 <= sum(rules.values()) <= 4
)

SCHEDULES = st.sampled_from(
    [
        ("30 3 * * *",),
        ("0 */12 * * *",),
        ("@weekly",),
        ("15 2 * * 1-5",),
        ("30 2 * * *", "0 14 1 * *"),
        ("50 23 * * *",),
    ]
)

POLICIES = st.builds(
    Policy,
    schedule=st.builds(
        Schedule, expressions=SCHEDULES, timezone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"])
    ),
    keep=RULES.map(lambda rules: Retention(**rules)),
    when_full=st.sampled_from(WhenFull),
    missed=st.sampled_from(Missed),
    missed_within=st.sampled_from([HOUR, DAY, 7 * DAY]),
)


@st.composite
def outages_within(draw: st.DrawFn, days: int) -> tuple[Outage, ...]:
    edges = sorted(draw(st.sets(st.integers(0, days * 24), min_size=0, max_size=4)))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    return tuple(Outage(begin=begin * HOUR, end=end * HOUR) for begin, end in pairs)


@st.composite
def assumptions(draw: st.DrawFn, *, foreign: int = 5) -> Assumed:
    days = draw(st.integers(1, 40))
    return Assumed(
        days=days,
        outages=draw(outages_within(days)),
        fail=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        seed=draw(st.integers(0, 99)),
        foreign=(others := draw(st.integers(0, foreign))),
        held=draw(st.integers(0, max(0, min(foreign, 3) - others))),
    )


STARTS = st.sampled_from([START, datetime(2025, 3, 20, 11, 17, tzinfo=UTC), datetime(2024, 12, 28, 2, 30, tzinfo=UTC)])

law = examples(40)


@law
@given(POLICIES, assumptions(), STARTS)
def test_after_the_first_snapshot_there_is_always_a_restore_point(
    policy: Policy, assumed: Assumed, start: datetime
) -> None:
    forecast = expect(Rules(policy=policy), start=start, assumed=assumed)
    first = next((number for number, run in enumerate(forecast.runs) if run.taken), len(forecast.runs))
    gives_up_the_last = policy.when_full is WhenFull.REPLACE_LAST and assumed.foreign == 4
    assert all(run.held for run in forecast.runs[first:]) or gives_up_the_last
    assert all(run.fate is not Fate.TAKEN for run in forecast.runs) or first < len(forecast.runs)


@law
@given(POLICIES, assumptions())
def test_never_more_than_the_limit_are_held_and_after_a_run_a_slot_is_free(policy: Policy, assumed: Assumed) -> None:
    forecast = expect(Rules(policy=policy), start=START, assumed=assumed)
    stay = assumed.foreign + assumed.held
    assert all(len(run.held) + stay <= 5 for run in forecast.runs)
    assert all(len(run.held) <= max(1, 4 - stay) for run in forecast.runs)
    assert forecast.summary.free_while_taking >= 0
    assert forecast.summary.free_between >= forecast.summary.free_while_taking


@law
@given(st.integers(1, 4), st.integers(1, 30))
def test_n_last_ones_of_a_daily_schedule_are_exactly_n_after_n_days(keep: int, days: int) -> None:
    forecast = look(keeping(last=keep), days=days)
    assert [len(run.held) for run in forecast.runs] == [min(number, keep) for number in range(1, days + 1)]


@law
@given(POLICIES, assumptions(), STARTS)
def test_an_outage_deletes_nothing(policy: Policy, assumed: Assumed, start: datetime) -> None:
    forecast = expect(Rules(policy=policy), start=start, assumed=assumed)
    for before, run in pairwise((Foreseen(slot=start, at=start, fate=Fate.MISSED), *forecast.runs)):
        if any(begin < run.at < end for begin, end in forecast.outages):
            assert run.fate is Fate.MISSED
        if run.fate is Fate.MISSED:
            assert (run.held, run.deleted) == (before.held, ())


@law
@given(POLICIES, assumptions())
def test_nothing_is_held_but_what_was_taken_and_not_deleted(policy: Policy, assumed: Assumed) -> None:
    forecast = expect(Rules(policy=policy), start=START, assumed=assumed)
    held: set[str] = set()
    for run in forecast.runs:
        gone = {decision.snapshot.id for decision in run.deleted}
        held = (held | {one.id for one in (run.taken,) if one}) - gone
        assert {one.id for one in run.held} == held
        assert sorted(run.held, key=made, reverse=True) == list(run.held)
    assert {life.snapshot.id for life in forecast.lives if life.end is None} == held


@law
@given(POLICIES, assumptions())
def test_the_same_seed_gives_the_same_forecast(policy: Policy, assumed: Assumed) -> None:
    first, second = (expect(Rules(policy=policy), start=START, assumed=assumed) for _ in range(2))
    assert first == second


@law
@given(POLICIES, st.integers(0, 999))
def test_the_same_slots_fail_under_any_keep_and_a_larger_share_adds_to_them(policy: Policy, seed: int) -> None:
    def failed(policy: Policy, fail: float) -> set[datetime]:
        forecast = look(policy, days=30, fail=fail, seed=seed)
        return {run.slot for run in forecast.runs if run.fate is Fate.FAILED}

    assert failed(policy, 0.3) == failed(replace(policy, keep=Retention(last=1)), 0.3)
    assert failed(policy, 0.1) <= failed(policy, 0.3) <= failed(policy, 0.9)


def test_another_seed_lets_other_runs_fail() -> None:
    assert len({tuple(fates(look(days=30, fail=0.3, seed=seed))) for seed in range(5)}) == 5


@law
@given(POLICIES, assumptions(foreign=0))
def test_what_is_left_is_what_the_rules_would_keep_of_all_that_was_ever_taken(policy: Policy, assumed: Assumed) -> None:
    """To prune after each run loses nothing that the rules want later."""
    forecast = expect(Rules(policy=policy), start=START, assumed=assumed)
    everything = [run.taken for run in forecast.runs if run.taken]
    if everything:
        kept = plan_retention(everything, Rules(policy=policy), now=forecast.end).decisions
        assert forecast.runs[-1].held == tuple(one.snapshot for one in kept if not one.delete)


@law
@given(POLICIES, assumptions(), STARTS)
@example(keeping(last=2, weekly=2), Assumed(days=60), START)
def test_the_figures_hold_at_any_moment(policy: Policy, assumed: Assumed, start: datetime) -> None:
    forecast = expect(Rules(policy=policy), start=start, assumed=assumed)
    summary = forecast.summary
    since = summary.settled_at or summary.first_at or forecast.end
    ends = [*(run.at for run in forecast.runs[1:]), forecast.end]
    for run, end in zip(forecast.runs, ends, strict=False):
        if run.held:
            assert summary.newest_worst is not None
            assert end - made(run.held[0]) <= summary.newest_worst.age
        if run.at >= since and run.held:
            assert summary.reach_least is not None
            assert summary.reach_most is not None
            assert summary.reach_least.age <= run.at - made(run.held[-1])
            assert end - made(run.held[-1]) <= summary.reach_most.age
            assert summary.held_least <= len(run.held) <= summary.held_most


@law
@given(POLICIES, assumptions(foreign=0))
def test_once_settled_the_past_is_forgotten(policy: Policy, assumed: Assumed) -> None:
    """Whoever began months earlier holds the very same from then on."""
    sure = replace(assumed, outages=(), fail=0.0, days=60)
    young = expect(Rules(policy=policy), start=START, assumed=sure)
    old = expect(Rules(policy=policy), start=START - 120 * DAY, assumed=replace(sure, days=180))
    settled = young.summary.settled_at
    assert settled is not None
    names = {run.at: [one.name for one in run.held] for run in old.runs}
    assert all([one.name for one in run.held] == names[run.at] for run in young.runs if run.at >= settled)


# -- which policies are alike ------------------------------------------------------------------------------------------


def test_policies_with_the_same_forecast_are_one_with_all_names() -> None:
    groups = alike(
        [
            ("web-01", NIGHTLY),
            ("db-01", keeping(last=3)),
            ("web-02", replace(NIGHTLY, stop_first=True, spread=HOUR, adopt=("*",))),
            ("web-*", replace(NIGHTLY, paused=True)),
        ]
    )
    assert [names for names, _ in groups] == [["web-01", "web-02"], ["db-01"], ["web-*"]]


def test_of_many_names_the_first_are_shown() -> None:
    assert title_of(["a", "b"]) == "a, b"
    assert title_of([str(number) for number in range(12)]) == "0, 1, 2, 3, 4 and 7 more"


# -- in words ----------------------------------------------------------------------------------------------------------

TOLD: dict[str, tuple[Callable[[], Forecast], str]] = {
    "a week and two days": (
        lambda: look(keeping(last=2, weekly=2)),
        """
        From Mon 2025-01-06 on you have 2 to 3 restore points (not the 4 that `keep` adds up to: rules overlap). You
        can go back 24 h at worst (on Mon 2025-01-06 03:30 UTC) and 8 d at best; the newest is at most 24 h old.
        Between runs 2 of the 5 slots are free; while a snapshot is taken, 1.
        """,
    ),
    "one": (
        lambda: look(keeping(last=1)),
        """
        From Wed 2025-01-01 on you have 1 restore point. You can go back only to the run just made at worst (on Wed
        2025-01-01 03:30 UTC) and 24 h at best; the newest is at most 24 h old. Between runs 4 of the 5 slots are
        free; while a snapshot is taken, 3.
        """,
    ),
    "crowded": (
        lambda: look(foreign=2),
        """
        From Sat 2025-01-04 on you have 2 restore points (not the 4 that `keep` adds up to: others hold 2 slots).
        You can go back 24 h at worst (on Sat 2025-01-04 03:30 UTC) and 2 d at best; the newest is at most 24 h old.
        Between runs 1 of the 5 slots is free; while a snapshot is taken, none.
        """,
    ),
    "an outage": (
        lambda: look(days=30, outages=(outage("3d..9d"),)),
        """
        From Fri 2025-01-10 on you have 4 restore points. You can go back 2 d at worst (on Sun 2025-01-12 03:30 UTC)
        and 9 d at best; the newest is at most 7 d old, on Fri 2025-01-10 00:00 UTC. Of 30 runs: 25 snapshots taken,
        5 missed while the daemon was down, 1 made up for late. Between runs 1 of the 5 slots is free; while a
        snapshot is taken, none.
        """,
    ),
    "blocked": (
        lambda: look(days=10, foreign=4),
        """
        From Thu 2025-01-02 03:30 UTC on every run is blocked: 4 of the 5 slots hold others' snapshots and 1 ours,
        and nothing may be deleted (when_full is replace). There is 1 restore point within 10 days. You can go back
        10 d at best; the newest is at most 10 d old, on Sat 2025-01-11 00:00 UTC. Of 10 runs: 1 snapshot taken, 9
        blocked. None of the 5 slots is free.
        """,
    ),
    "never": (
        lambda: look(days=1, fail=1.0),
        """
        Not one run takes a snapshot. There is no restore point within 1 day. Of 1 run: no snapshot taken, 1 failed.
        """,
    ),
    "not within the days": (
        lambda: look(replace(NIGHTLY, schedule=slots("@yearly"), keep=Retention(last=2))),
        """
        There is no restore point within 90 days: the first comes on Thu 2026-01-01. From Fri 2027-01-01 on you have
        2 restore points. You can go back 365 d at worst (on Fri 2027-01-01 00:00 UTC) and 2 y at best. Between runs
        3 of the 5 slots are free; while a snapshot is taken, 2.
        """,
    ),
    "filled later": (
        lambda: look(keeping(last=1, yearly=2)),
        """
        The rules are filled only on Thu 2026-01-01, after these 90 days; from then on you have 2 restore points
        (not the 3 that `keep` adds up to: rules overlap). You can go back 24 h at worst (on Thu 2026-01-01 03:30
        UTC) and 366 d at best; the newest is at most 24 h old. Between runs 3 of the 5 slots are free; while a
        snapshot is taken, 2.
        """,
    ),
    "paused": (
        lambda: look(
            replace(keeping(last=3), paused=True, schedule=slots("0 4 * * 0", timezone="Europe/Berlin")), days=365
        ),
        """
        The policy is paused: this is what it does once it no longer is. From Sun 2025-01-19 on you have 3 restore
        points. You can go back 13 d at worst (on Sun 2025-03-30 04:00 CEST) and 21 d at best; the newest is at most
        7 d old. Between runs 2 of the 5 slots are free; while a snapshot is taken, 1.
        """,
    ),
}


@pytest.mark.parametrize(("forecast", "text"), TOLD.values(), ids=TOLD)
def test_a_forecast_is_told_in_a_few_sentences(forecast: Callable[[], Forecast], text: str) -> None:
    assert " ".join(one.text for one in sentences(forecast())) == " ".join(text.split())


def test_what_needs_somebody_is_told_first() -> None:
    assert [one.is_alarm for one in sentences(look(days=10, foreign=4))][:2] == [True, False]
    assert not any(one.is_alarm for one in sentences(look()))


# -- on a terminal -----------------------------------------------------------------------------------------------------


def lines(forecasts: Sequence[tuple[Sequence[str], Forecast]], width: int) -> list[str]:
    console = Console(width=width, highlight=False, markup=False, emoji=False, force_terminal=False)
    with console.capture() as captured:
        console.print(forecast_text(forecasts))
    return captured.get().splitlines()


def rows(forecast: Forecast, width: int = 80) -> list[str]:
    """The lines that have an axis."""
    return [line for line in lines([(["web-01"], forecast)], width) if line.endswith(" kept")]


@law
@given(POLICIES, assumptions(), st.sampled_from([80, 200]))
@example(keeping(last=2, yearly=2), Assumed(days=3660), 80)
@example(replace(NIGHTLY, schedule=slots("@hourly")), Assumed(days=3, fail=0.9), 80)
@example(replace(NIGHTLY, schedule=slots("0 0 29 2 *")), Assumed(days=3660), 200)
def test_no_line_is_wider_than_the_terminal(policy: Policy, assumed: Assumed, width: int) -> None:
    drawn = lines([(["web-01"] * 9, expect(Rules(policy=policy), start=START, assumed=assumed))], width)
    assert max(map(len, drawn)) <= width
    assert sum(line.endswith(" kept") for line in drawn) <= 24


def test_a_wide_terminal_is_made_use_of() -> None:
    forecast = look(keeping(last=2, weekly=2))
    assert max(map(len, rows(forecast, 80))) == 80
    assert 160 < max(map(len, rows(forecast, 200))) <= 200


def test_each_row_shows_the_restore_points_by_their_age() -> None:
    assert rows(look(keeping(last=2, weekly=2), days=7, start=START + 9 * HOUR)) == [
        "Thu 02 Jan ┊      ●           ┊        ┊         newest 5 h, oldest  5 h, 1 kept",
        "Fri 03 Jan ┊      ●──────────────●     ┊         newest 5 h, oldest 29 h, 2 kept",
        "Sat 04 Jan ┊      ●──────────────●     ┊         newest 5 h, oldest 29 h, 2 kept",
        "Sun 05 Jan ┊      ●──────────────●     ┊         newest 5 h, oldest 29 h, 2 kept",
        "Mon 06 Jan ┊      ●──────────────●     ┊         newest 5 h, oldest 29 h, 2 kept",
        "Tue 07 Jan ┊      ●──────────────●───────●       newest 5 h, oldest  2 d, 3 kept",
        "Wed 08 Jan ┊      ●──────────────●────────────●  newest 5 h, oldest  3 d, 3 kept",
    ]


def test_a_run_of_the_very_moment_of_a_row_is_in_it() -> None:
    drawn = rows(look(replace(NIGHTLY, schedule=slots("@daily")), days=2))
    tails = [row[row.index("newest") :] for row in drawn]
    assert tails == ["newest 0 s, oldest  0 s, 1 kept", "newest 0 s, oldest 24 h, 2 kept"]


def test_the_axis_grows_slower_the_older_it_gets_and_names_its_ages() -> None:
    shown = lines([(["web-01"], look(keeping(last=1, monthly=3), days=120))], 120)
    axis = next(line for line in shown if line.strip().startswith("now"))
    assert [label for label in axis.split() if label in ("1d", "1w", "1mo")] == ["1d", "1w", "1mo"]
    now, day, week, month = (axis.index(label) for label in ("now", "1d", "1w", "1mo"))
    assert (month - week) / 23 < (week - day) / 6 < (day - now) / 1, "columns for each day"


def test_restore_points_in_one_place_are_counted() -> None:
    forecast = look(replace(NIGHTLY, schedule=slots("0 3 * * 0", "1 3 * * 0", "2 3 * * 0")), days=30)
    axis = rows(forecast)[-1][10:50]
    assert axis.count("3") == axis.count("●") == 1


@pytest.mark.parametrize(
    ("assumed", "sign"), [({"outages": (outage("20d..30d"),)}, "‖"), ({"fail": 0.1}, "✕"), ({"foreign": 4}, "■")]
)
def test_rows_in_an_outage_or_after_a_failure_carry_a_sign(assumed: dict[str, Any], sign: str) -> None:
    forecast, step = look(**assumed), 4 * DAY
    poor = {ceil((run.at - START) / step) for run in forecast.runs if run.fate is not Fate.TAKEN}
    marked = {number for number, row in enumerate(rows(forecast), start=1) if sign in row}
    assert marked == poor - {23}, "every fourth day of 90 has a row, the last on day 88"
    legend = [line for line in lines([(["web-01"], forecast)], 80) if line.startswith(sign)]
    assert len(legend) == 1
    assert not any(sign in line for line in lines([(["web-01"], look())], 80))


def test_rows_show_every_day_of_the_week() -> None:
    """A step of whole weeks would show Wednesdays only, and hide what happens to the others."""
    weekdays = {row[:3] for row in rows(look(days=7 * 24))}
    assert len(weekdays) == 7


# -- as a drawing ------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def bars(svg: str, kind: str = "bar") -> list[ElementTree.Element]:
    found = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    return [one for one in found if kind in one.get("class", "").split()]


def hint(element: ElementTree.Element) -> str:
    return element.findtext(f"{SVG}title") or ""


@law
@given(POLICIES, assumptions())
def test_the_drawing_has_exactly_one_bar_for_each_snapshot(policy: Policy, assumed: Assumed) -> None:
    forecast = expect(Rules(policy=policy), start=START, assumed=assumed)
    drawn = bars(drawing([(["web-01"], forecast)]))
    wanted = [one.name for one in (*forecast.foreign, *forecast.held)] + [
        run.taken.name for run in forecast.runs if run.taken
    ]
    assert sorted(hint(bar).split(":")[0].split(",")[0] for bar in drawn) == sorted(wanted)


@law
@given(POLICIES, assumptions())
def test_bars_lie_in_as_many_lanes_as_there_are_slots_and_none_over_another(policy: Policy, assumed: Assumed) -> None:
    lanes = defaultdict(list)
    for bar in bars(drawing([(["web-01"], expect(Rules(policy=policy), start=START, assumed=assumed))])):
        x, width = float(bar.get("x", "")), float(bar.get("width", ""))
        lanes[bar.get("y")].append((x, x + width))
    assert len(lanes) <= 5
    for lane in lanes.values():
        assert all(end <= begin + 1 for (_, end), (begin, _) in pairwise(sorted(lane)))


def test_a_new_snapshot_has_a_lane_of_its_own_while_the_old_one_is_still_there() -> None:
    lanes = defaultdict(list)
    for bar in bars(drawing([(["web-01"], look(keeping(last=2), days=30))])):
        lanes[bar.get("y")].append((float(bar.get("x", "")), float(bar.get("width", ""))))
    assert len(lanes) == 3
    assert all(x + width + 2 < following for lane in lanes.values() for (x, width), (following, _) in pairwise(lane))


def test_a_bar_says_why_its_snapshot_went() -> None:
    svg = drawing([(["web-01"], look(keeping(last=2, weekly=2), days=10, foreign=1))])
    told = {hint(bar) for bar in bars(svg)}
    assert "snaprotd-main-20250101T033000Z: delete: over keep last 2, weekly 2, on Fri 2025-01-03 03:30 UTC" in told
    assert "snaprotd-main-20250110T033000Z: still there at the end" in told
    assert "by-hand-1, not made by snaprotd: keeps its slot" in told


def test_bars_of_others_are_as_wide_as_the_whole_time() -> None:
    svg = drawing([(["web-01"], look(days=30, foreign=2))])
    (whole,) = {float(lane.get("width", "")) for lane in bars(svg, "lane")}
    assert [float(bar.get("width", "")) + 1 for bar in bars(svg) if "others" in bar.get("class", "")] == [whole, whole]


def test_outages_are_shaded_and_runs_without_a_snapshot_marked() -> None:
    forecast = look(days=30, fail=0.2, outages=(outage("3d..9d"), outage("12d..13d")))
    svg = drawing([(["web-01"], forecast)])
    assert len(bars(svg, "outage")) == 2
    assert hint(bars(svg, "outage")[0]) == (
        "the daemon is down from Sat 2025-01-04 00:00 UTC to Fri 2025-01-10 00:00 UTC"
    )
    hints = [hint(one) for one in ElementTree.fromstring(svg).iter()]
    assert sum(one.endswith(": failed") for one in hints) == forecast.summary.failed > 0
    assert sum(one.endswith(": missed") for one in hints) == forecast.summary.missed > 0


def test_the_drawing_stands_alone_and_is_readable_in_light_and_in_dark() -> None:
    awkward = "<b> & \"co\" 'x'"
    svg = drawing([([awkward], look(days=30)), (["db-01"], look(keeping(last=1), days=30))])
    root = ElementTree.fromstring(svg)
    assert awkward in (root.findtext(f"{SVG}title") or "")
    assert "From Sat 2025-01-04 on you have 4 restore points." in (root.findtext(f"{SVG}desc") or "")
    style = root.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme: dark" in style
    assert "system-ui" in style
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", ""), "asks nobody for anything"
    assert len(bars(svg)) == 60


# -- as JSON -----------------------------------------------------------------------------------------------------------


def test_json_tells_the_figures_and_every_run() -> None:
    (told,) = forecast_json([(["web-01"], look(keeping(last=1), days=3, outages=(outage("1d..2d"),)))])
    assert json.loads(json.dumps(told)) == told
    assert told == {
        "servers": ["web-01"],
        "schedule": ["30 3 * * *"],
        "timezone": "UTC",
        "window": [],
        "keep": {"last": 1},
        "paused": False,
        "start": "2025-01-01T00:00:00Z",
        "end": "2025-01-04T00:00:00Z",
        "limit": 5,
        "foreign": 0,
        "held": 0,
        "fail": 0.0,
        "seed": 1,
        "outages": [{"begin": "2025-01-02T00:00:00Z", "end": "2025-01-03T00:00:00Z"}],
        "summary": {
            "taken": 3,
            "failed": 0,
            "missed": 0,
            "blocked": 0,
            "late": 1,
            "first_at": "2025-01-01T03:30:00Z",
            "settled_at": "2025-01-01T03:30:00Z",
            "held_least": 1,
            "held_most": 1,
            "newest_worst": {"age": 160200, "at": "2025-01-03T00:00:00Z"},
            "reach_least": {"age": 0, "at": "2025-01-01T03:30:00Z"},
            "reach_most": {"age": 160200, "at": "2025-01-03T00:00:00Z"},
            "free_between": 4,
            "free_while_taking": 3,
        },
        "runs": [
            {
                "slot": "2025-01-01T03:30:00Z",
                "at": "2025-01-01T03:30:00Z",
                "outcome": "taken",
                "snapshot": "snaprotd-main-20250101T033000Z",
                "deleted": [],
                "held": ["snaprotd-main-20250101T033000Z"],
                "blocked": None,
            },
            {
                "slot": "2025-01-02T03:30:00Z",
                "at": "2025-01-03T00:00:00Z",
                "outcome": "taken",
                "snapshot": "snaprotd-main-20250102T033000Z",
                "deleted": [{"name": "snaprotd-main-20250101T033000Z", "reason": "delete: over keep 1"}],
                "held": ["snaprotd-main-20250102T033000Z"],
                "blocked": None,
            },
            {
                "slot": "2025-01-03T03:30:00Z",
                "at": "2025-01-03T03:30:00Z",
                "outcome": "taken",
                "snapshot": "snaprotd-main-20250103T033000Z",
                "deleted": [{"name": "snaprotd-main-20250102T033000Z", "reason": "delete: over keep 1"}],
                "held": ["snaprotd-main-20250103T033000Z"],
                "blocked": None,
            },
        ],
    }


# -- the command -------------------------------------------------------------------------------------------------------

FILE = """\
instance: spare
limit: 4
policies:
  nightly: {schedule: "30 3 * * *", keep: {last: 1, weekly: 1}}
servers:
  - {id: 12345, name: web-01, policy: nightly}
  - {id: 12346, schedule: "@hourly", keep: 1}
  - {match: "mail-*", policy: nightly, stop_first: true}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    return path


def run(config: Path, *arguments: str) -> Result:
    with time_machine.travel(START, tick=False):
        return CliRunner().invoke(command, [*arguments, "--config", str(config)], standalone_mode=True)


def told(config: Path, *arguments: str) -> list[dict[str, Any]]:
    ended = run(config, "--json", *arguments)
    assert ended.exit_code == 0, ended.output
    forecasts: list[dict[str, Any]] = json.loads(ended.stdout)["forecasts"]
    return forecasts


def test_without_a_name_every_entry_is_told_of_and_the_same_policy_once(config: Path) -> None:
    assert [one["servers"] for one in told(config)] == [["web-01", "mail-*"], ["12346"]]
    text = run(config).stdout
    assert "web-01, mail-*  30 3 * * * (UTC), keep last 1, weekly 1\n" in text
    assert "12346  @hourly (UTC), keep 1\n" in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [("web-01", "web-01"), ("12345", "web-01"), ("12346", "12346"), ("mail-*", "mail-*"), ("mail-07", "mail-*")],
)
def test_a_server_is_found_by_its_id_its_name_or_a_pattern(config: Path, name: str, shown: str) -> None:
    assert [one["servers"] for one in told(config, name)] == [[shown]]


def test_options_reach_the_simulation(config: Path) -> None:
    (one,) = told(
        config, "web-01", "--days", "20", "--outage", "3d..9d", "--outage", "12h..36h", "--fail", "0.5", "--seed", "7",
        "--foreign", "2",
    )  # fmt: skip
    assert (one["start"], one["end"]) == ("2025-01-01T00:00:00Z", "2025-01-21T00:00:00Z")
    assert [outage["begin"] for outage in one["outages"]] == ["2025-01-01T12:00:00Z", "2025-01-04T00:00:00Z"]
    assert (one["fail"], one["seed"], one["foreign"], one["limit"]) == (0.5, 7, 2, 4)
    assert one["summary"]["failed"] > 0
    assert {run["snapshot"][:15] for run in one["runs"] if run["snapshot"]} == {"snaprotd-spare-"}


def test_by_default_it_looks_ninety_days_ahead_and_nothing_goes_wrong(config: Path) -> None:
    (one,) = told(config, "web-01")
    assert one["end"] == "2025-04-01T00:00:00Z"
    assert [run["outcome"] for run in one["runs"]] == ["taken"] * 90


def test_a_drawing_is_written_besides(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "forecast.svg"
    ended = run(config, "--days", "10", "--svg", str(file))
    assert ended.exit_code == 0
    assert ended.stderr == f"snaprotd: drawn in {file}\n"
    assert "you have 1 restore point" in ended.stdout
    assert len(bars(file.read_text())) == 10 + 240


WRONG_USAGE = {
    "--outage 3": "`3` is no outage: write its begin and its end, counted from now in hours, days or weeks, as",
    "--outage 3..9": "as in 3d..9d, 12h..36h or 1w..2w",
    "--outage 9d..3d": "`9d..3d` is no outage: its end has to be later than its begin",
    "--outage 1w..7d": "its end has to be later than its begin",
    "--outage 100d..101d": "an outage begins on day 100, after the 90 days of --days",
    "--days 0": "1<=x<=3660",
    "--days 3661": "1<=x<=3660",
    "--fail 1.5": "0<=x<=1",
    "--fail nan": "0 to 1",
    "--foreign 6": "0<=x<=5",
    "--held 3": "--held 3: what is held leaves two of the slots to rotation",
    "--foreign 5": "--foreign 5: a server holds 4 snapshots (`limit`)",
    "web-01 db-01": "unexpected extra argument",
}


@pytest.mark.parametrize(("line", "why"), WRONG_USAGE.items())
def test_wrong_usage_ends_with_2_and_says_what_is_allowed(config: Path, line: str, why: str) -> None:
    ended = run(config, *line.split())
    assert ended.exit_code == 2
    assert why in ended.stderr
    assert ended.stdout == ""


def test_more_runs_than_are_simulated_are_wrong_usage(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_module.MOST_RUNS >= 3660 * 24, "ten years of @hourly are to be had"
    monkeypatch.setattr(runs_module, "MOST_RUNS", 1000)
    ended = run(config, "12346", "--days", "42")
    assert ended.exit_code == 2
    assert "`@hourly` has more than 1,000 slots in 42 days: ask for fewer days" in ended.stderr
    assert run(config, "12346", "--days", "41").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["web-02"], "no server is named web-02, and no `match` fits it, in "),
        (["--svg", "/proc/none/forecast.svg"], "/proc/none/forecast.svg cannot be written: No such file or directory"),
    ],
)
def test_what_fails_is_a_sentence(config: Path, arguments: list[str], why: str) -> None:
    ended = run(config, *arguments)
    assert isinstance(ended.exception, SnaprotdError)
    assert str(ended.exception).startswith(why)


def test_a_bad_configuration_is_refused_with_its_mistakes(config: Path) -> None:
    config.write_text("servers: []\n")
    assert isinstance(run(config).exception, ConfigError)
