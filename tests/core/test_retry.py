"""Whether a slot whose rotation has failed is tried again, and when; what comes too late."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from snaprotd.core.admission import again, amended, completed_late, may_be_retried, next_attempt
from snaprotd.core.model import Snapshot
from snaprotd.core.policy import Kind, Policy, Retry, Rules
from snaprotd.core.power import Power
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.core.schedule import Missed, Schedule
from tests.support.nouns import a_snapshot
from tests.support.policies import a_policy
from tests.support.rotations import changed

SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
END = SLOT + timedelta(minutes=5)
HALF_AN_HOUR = timedelta(minutes=30)
NONE = timedelta(0)


def rules(policy: Policy | None = None, **more: Any) -> Rules:
    return Rules(policy=policy or a_policy(), **more)


def failed(under: Rules | None = None, **changes: Any) -> Rotation:
    begun = Rotation.begin(
        id="r1", server_id="12345", label="web", slot=SLOT, rules=under or rules(), now=SLOT, settle=40.0
    )
    told = {"step": Step.DONE, "result": Result.FAILURE, "failed_step": Step.WAIT, "error": "boom", "may_pass": True}
    return changed(begun, **{**told, "finished_at": END, **changes})


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({}, True),
        ({"kind": Kind.LATE}, True),
        ({"kind": Kind.RETRY, "attempt": 2}, True),
        ({"kind": Kind.RETRY, "attempt": 3}, False),
        ({"kind": Kind.MANUAL}, False),
        ({"may_pass": False}, False),
        ({"result": Result.SUCCESS}, False),
        ({"result": Result.PARTIAL}, False),
        ({"result": None}, False),
        ({"power": Power(asked=1, watched=True)}, True),
        ({"power": Power(asked=1, in_doubt=True)}, False),
        ({"power": Power(asked=1)}, False),
    ],
)
def test_a_rotation_of_the_schedule_that_failed_for_what_may_pass_is_followed_by_two_more(
    changes: dict[str, Any], may: bool
) -> None:
    assert may_be_retried(failed(**changes)) is may


def windowed(*spans: str, schedule: str = "30 3 * * *") -> Policy:
    return Policy(schedule=Schedule(expressions=(schedule,), window=spans))


CASES: dict[str, tuple[Policy, dict[str, Any], str | None]] = {
    "half an hour after its end": (a_policy(), {}, "16 04:05"),
    "as long after as the policy says": (a_policy(retry=Retry(after=timedelta(hours=2))), {}, "16 05:35"),
    "right when its turn comes": (a_policy(), {"now": END + HALF_AN_HOUR}, "16 04:05"),
    "at once after a restart": (a_policy(), {"now": END + timedelta(hours=5)}, "16 08:35"),
    "not after a day without a process": (
        a_policy(missed_within=timedelta(hours=3)),
        {"now": SLOT + 4 * HALF_AN_HOUR * 2},
        None,
    ),
    "not after that where what is missed is skipped": (
        a_policy(missed=Missed.SKIP),
        {"now": END + 3 * HALF_AN_HOUR},
        None,
    ),
    "while the next slot is further away": (a_policy("30 3 * * *", "6 4 * * *"), {}, "16 04:05"),
    "not when the next slot comes first": (a_policy("30 3 * * *", "5 4 * * *"), {}, None),
    "not every five minutes": (a_policy("*/5 * * * *"), {}, None),
    "by the turn of the server, not by the slot": (
        a_policy("30 3 * * *", "5 4 * * *"),
        {"delay": timedelta(minutes=1)},
        "16 04:05",
    ),
    "not when the next slot has come meanwhile": (a_policy(), {"now": SLOT + timedelta(days=1)}, None),
    "in its window": (windowed("03:00-04:06"), {}, "16 04:05"),
    "not after its window has closed, until the next slot": (windowed("03:00-04:05"), {}, None),
    "in its next window": (windowed("03:00-04:00", "05:00-06:00"), {}, "16 05:00"),
    "not in a window in which the next slot comes soon": (
        windowed("03:00-04:00", "05:00-06:00", schedule="30 3,5 * * *"),
        {},
        None,
    ),
    "not after a restart right before the next slot": (
        a_policy(),
        {"now": SLOT + timedelta(hours=23, minutes=31)},
        None,
    ),
}


@pytest.mark.parametrize(("policy", "when", "expected"), CASES.values(), ids=CASES)
def test_another_attempt_begins(policy: Policy, when: dict[str, Any], expected: str | None) -> None:
    following = next_attempt(failed(rules(policy)), rules(policy), **{"delay": NONE, "now": END, **when})
    assert (f"{following.at:%d %H:%M}" if following.at else None) == expected
    assert bool(following.why_not) is (expected is None)


@pytest.mark.parametrize(
    "now",
    [
        rules(a_policy(paused=True)),
        rules(a_policy("31 3 * * *")),
        rules(a_policy(spread=timedelta(minutes=9))),
        rules(windowed("00:00-24:00")),
        rules(a_policy(timezone="Europe/Berlin")),
        rules(a_policy(retry=Retry(times=0))),
        rules(instance="other"),
    ],
)
def test_what_the_file_does_not_want_any_more_is_not_tried_again(now: Rules) -> None:
    assert next_attempt(failed(), now, delay=NONE, now=END).at is None


def test_the_number_of_attempts_is_that_of_the_file_as_it_is() -> None:
    second, once = failed(attempt=2, kind=Kind.RETRY), rules(a_policy(retry=Retry(times=1)))
    assert next_attempt(second, rules(), delay=NONE, now=END).at is not None
    assert next_attempt(second, once, delay=NONE, now=END).at is None


def test_the_next_attempt_knows_what_the_one_before_has_asked_for() -> None:
    before = failed(creates=2, snapshot_id="801", passed_over=("7",), asked_ago=9.0, snapshot_name="as-it-was")
    begun = replace(failed(), id="r2", started_at=END + HALF_AN_HOUR, result=None, step=Step.LOOK, description="")
    following = again(before, begun)
    assert (following.id, following.kind, following.attempt) == ("r2", Kind.RETRY, 2)
    assert (following.snapshot_name, following.snapshot_id) == ("as-it-was", "801")
    made = following.creation
    assert (made.creates, made.was_asked, made.passed_over, made.asked_ago) == (0, True, ("7",), 1809.0)
    assert again(replace(following, finished_at=END), begun).attempt == 3


# -- too late ----------------------------------------------------------------------------------------------------------

MINE = a_snapshot(801, "snaprotd-main-20250116T033000Z", SLOT)
GAVE_UP: dict[str, Any] = {"creates": 1, "snapshot_id": "801"}


@pytest.mark.parametrize(
    ("changes", "listed", "is_late"),
    [
        (GAVE_UP, MINE, True),
        ({"creates": 1}, MINE, True),
        ({"creates": 1, "passed_over": ("801",)}, MINE, False),
        ({"creates": 1, "failed": ("801",)}, MINE, True),
        ({}, MINE, False),
        (GAVE_UP, a_snapshot(801, MINE.name, SLOT, status="in_progress"), False),
        (GAVE_UP, a_snapshot(801, MINE.name, SLOT, status="failed"), False),
        (GAVE_UP, replace(MINE, in_ledger=False), False),
        ({**GAVE_UP, "result": Result.SUCCESS}, MINE, False),
        ({**GAVE_UP, "result": Result.PARTIAL}, MINE, False),
        ({**GAVE_UP, "failed_step": Step.START}, MINE, False),
        ({**GAVE_UP, "failed_step": Step.LOOK, "kind": Kind.MANUAL}, MINE, True),
    ],
)
def test_a_snapshot_comes_too_late_where_its_rotation_gave_up_on_it(
    changes: dict[str, Any], listed: Snapshot, is_late: bool
) -> None:
    assert (completed_late(failed(**changes), (listed,)) is not None) is is_late


def test_a_rotation_that_is_amended_goes_on_from_its_wait_by_the_rules_of_now() -> None:
    now = rules(a_policy(snapshot_timeout=timedelta(hours=1)))
    after = amended(failed(**GAVE_UP, begun=True, attempt=3, held_off=True), MINE, now)
    assert (after.step, after.result, after.error, after.failed_step, after.finished_at) == (Step.WAIT, *[None] * 4)
    assert (after.rules, after.attempt, after.begun, after.power) == (now, 3, True, Power())
