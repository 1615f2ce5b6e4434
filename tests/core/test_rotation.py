"""The machine: where each step leads, what an error means, which ages count. Tables first, then laws."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.core.admission import resumed
from snaprotd.core.errors import Busy, CloudError, Full, NotFound, Permanent, Refused, Temporary, Unclear
from snaprotd.core.ownership import taken_for
from snaprotd.core.policy import Rules
from snaprotd.core.rotation import (
    STEPS,
    Done,
    Failed,
    Outcome,
    Passed,
    Result,
    Rotation,
    Step,
    Waiting,
    advance,
    aged,
    judge,
    out_of_patience,
)
from tests.support.nouns import a_snapshot
from tests.support.policies import a_policy
from tests.support.rotations import changed, flat

LOOK, MAKE_ROOM, STOP, SNAPSHOT, WAIT, START, PRUNE, DONE = Step

SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)

POLICY = a_policy(
    stop_timeout=timedelta(seconds=100),
    start_timeout=timedelta(seconds=1000),
    snapshot_timeout=timedelta(seconds=500),
    missed_within=timedelta(hours=6),
)
"""No two of its times are alike, nor alike with `SETTLE`."""

SETTLE = 40.0
MARGIN = 70.0
"""Seconds for which a lost request is looked for: more than `SETTLE`, by what a lease may outlive a request."""

AGES = ("waited", "start_age", "unseen", "off_for", "power_open", "create_open", "asked_ago")


def rotation(step: Step = LOOK, **changes: Any) -> Rotation:
    begun = Rotation.begin(
        id="r1",
        server_id="12345",
        label="web-01",
        slot=SLOT,
        rules=Rules(policy=POLICY),
        now=SLOT,
        settle=SETTLE,
    )
    return changed(begun, **{"step": step, "waited": 7.0, "note": "before", **changes})


def entered(before: Rotation, step: Step, **changes: Any) -> Rotation:
    """`before` at the beginning of `step`."""
    left = Passed(step=before.step, seconds=before.waited)
    return replace(before, step=step, waited=0.0, note="", trail=(*before.trail, left), **changes)


# -- where each outcome leads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "state", "then", "result"),
    [
        (LOOK, {}, MAKE_ROOM, None),
        (LOOK, {"snapshot_id": "77"}, WAIT, None),  # it exists already: there is nothing to create
        (MAKE_ROOM, {}, STOP, None),
        (MAKE_ROOM, {"deleted": ("5",)}, STOP, None),
        (STOP, {}, SNAPSHOT, None),
        (STOP, {"held_off": True}, SNAPSHOT, None),
        (SNAPSHOT, {"snapshot_id": "77"}, WAIT, None),
        (WAIT, {"snapshot_id": "77"}, START, None),
        (START, {}, PRUNE, None),
        (START, {"snapshot_id": "77"}, PRUNE, None),
        (START, {"error": "boom", "failed_step": STOP}, DONE, Result.FAILURE),
        (START, {"error": "boom", "failed_step": WAIT, "snapshot_id": "77"}, DONE, Result.FAILURE),
        (START, {"error": "gone", "failed_step": START}, DONE, Result.FAILURE),
        (PRUNE, {"snapshot_id": "77"}, DONE, Result.SUCCESS),
        (PRUNE, {"error": "could not delete", "failed_step": PRUNE}, DONE, Result.PARTIAL),
    ],
)
def test_a_completed_step_leads_to_the_next(step: Step, state: dict[str, Any], then: Step, result: Result) -> None:
    before = rotation(step, **state)
    assert advance(before, Done()) == entered(before, then, result=result)


@pytest.mark.parametrize("held_off", [False, True])
@pytest.mark.parametrize(
    ("step", "state", "then", "error", "failed_step", "result"),
    [
        (LOOK, {}, START, "boom", LOOK, None),
        (LOOK, {"snapshot_id": "77"}, START, "boom", LOOK, None),
        (MAKE_ROOM, {}, START, "boom", MAKE_ROOM, None),
        (STOP, {}, START, "boom", STOP, None),
        (SNAPSHOT, {}, START, "boom", SNAPSHOT, None),
        (SNAPSHOT, {"creates": 3, "create_open": 1000.0}, START, "boom", SNAPSHOT, None),
        (WAIT, {"snapshot_id": "77"}, START, "boom", WAIT, None),
        (START, {}, START, "boom", START, None),
        (START, {"error": "first", "failed_step": WAIT}, START, "first", WAIT, None),
        (PRUNE, {}, DONE, "boom", PRUNE, Result.PARTIAL),
        (PRUNE, {"error": "first", "failed_step": PRUNE}, DONE, "first", PRUNE, Result.PARTIAL),
    ],
)
def test_a_failure_leads_to_start_and_one_of_the_prune_to_the_end(
    step: Step,
    state: dict[str, Any],
    then: Step,
    error: str,
    failed_step: Step,
    result: Result | None,
    held_off: bool,
) -> None:
    before = rotation(step, held_off=held_off, **state)
    assert advance(before, Failed("boom")) == entered(before, then, error=error, failed_step=failed_step, result=result)


@pytest.mark.parametrize("step", STEPS[:-1])
def test_a_wait_changes_nothing_but_what_is_waited_for(step: Step) -> None:
    before = rotation(step, held_off=True, error="first", failed_step=STOP)
    assert advance(before, Waiting("for the moon", soon=True, retry_after=9.0)) == replace(before, note="for the moon")


def test_only_the_last_step_is_the_end() -> None:
    assert [step for step in STEPS if rotation(step).is_finished] == [DONE]


def test_the_steps_are_in_the_order_that_is_told() -> None:
    assert " ".join(STEPS) == "look make_room stop snapshot wait start prune done"
    assert set(STEPS) == set(Step)


# -- patience --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "patience", "then", "result"),
    [
        (LOOK, 1500.0, START, None),  # another's snapshot, and a server on its way up
        (MAKE_ROOM, 500.0, START, None),
        (STOP, 240.0, START, None),  # a stop, a hard one, and what may come late
        (SNAPSHOT, 500.0, START, None),
        (WAIT, 500.0, START, None),
        (PRUNE, 600.0, DONE, Result.PARTIAL),
    ],
)
def test_patience_ends_with_what_was_waited_for(step: Step, patience: float, then: Step, result: Result | None) -> None:
    in_time, too_late = (rotation(step, waited=seconds) for seconds in (patience, patience + 1))
    assert not out_of_patience(in_time)
    assert advance(in_time, Waiting("for the moon")).step is step
    error = f"gave up after {patience + 1:.0f} s: for the moon"
    told = {"error": error, "failed_step": step, "result": result, "may_pass": True, "cause": "token"}
    assert advance(too_late, Waiting("for the moon", cause="token")) == entered(too_late, then, **told)


@pytest.mark.parametrize("state", [{}, {"error": "first", "failed_step": WAIT}, {"starts": 400}, {"power_open": None}])
def test_a_start_is_never_given_up(state: dict[str, Any]) -> None:
    for_a_year = rotation(START, waited=366 * 86400.0, held_off=True, **state)
    assert not out_of_patience(for_a_year)
    assert advance(for_a_year, Waiting("still off")).step is START


@pytest.mark.parametrize("outcome", [Done(), Failed("boom")])
def test_the_last_visit_may_still_complete_or_fail_in_its_own_words(outcome: Outcome) -> None:
    after = advance(rotation(SNAPSHOT, waited=10_000.0), outcome)
    assert (after.step, after.error) == ((WAIT, None) if outcome == Done() else (START, "boom"))


@pytest.mark.parametrize("step", [SNAPSHOT, WAIT, PRUNE])
def test_a_request_for_a_snapshot_that_may_still_be_carried_out_is_not_given_up(step: Step) -> None:
    def after(age: float) -> Step:
        return advance(rotation(step, waited=10_000.0, creates=1, create_open=age), Waiting("looking for it")).step

    assert [after(age) for age in (0.0, SETTLE, MARGIN - 0.1)] == [step] * 3
    assert after(MARGIN) is not step


# -- lost requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "unsettled"),
    [(None, False), (0.0, True), (SETTLE, True), (MARGIN - 0.001, True), (MARGIN, False), (86400.0, False)],
)
def test_a_lost_request_is_open_for_longer_than_it_may_take(age: float | None, unsettled: bool) -> None:
    assert rotation(create_open=age).create_is_unsettled is unsettled
    assert rotation(power_open=age, unstruck=True).stop_is_open is unsettled


def test_one_lost_request_says_nothing_of_the_other() -> None:
    assert not rotation(power_open=0.0).create_is_unsettled
    assert not rotation(create_open=0.0).stop_is_open


# -- what an error means ---------------------------------------------------------------------------------------

EVERYWHERE = frozenset(STEPS[:-1])
ERRORS: list[tuple[CloudError, frozenset[Step]]] = [
    (Temporary("503"), EVERYWHERE),
    (Unclear("cut"), EVERYWHERE),
    (Busy("423"), EVERYWHERE),
    (CloudError("of no kind that is known"), EVERYWHERE),
    (Permanent("405"), frozenset({START})),
    (Full("400"), frozenset({START})),
    (NotFound("404"), frozenset({START})),
    (Refused("401"), frozenset({WAIT, START, PRUNE})),
]
"""Each error, and the steps at which it is waited out."""

CASES = [(step, error, step in waits) for step in STEPS[:-1] for error, waits in ERRORS]
NAMES = [f"{type(error).__name__} at {step}" for step, error, _ in CASES]


def failed_for(error: CloudError) -> Failed:
    """A token may be another one in a while; what else the provider refuses for good it refuses then too."""
    refused = isinstance(error, Refused)
    return Failed(str(error), may_pass=refused, cause=error.cause)


def waiting_for(error: CloudError) -> Waiting:
    return Waiting(str(error), cause=failed_for(error).cause)


@pytest.mark.parametrize(("step", "error", "waits"), CASES, ids=NAMES)
def test_an_error_is_waited_out_or_fails_the_step(step: Step, error: CloudError, waits: bool) -> None:
    expected = waiting_for(error) if waits else failed_for(error)
    assert judge(rotation(step), error) == expected
    assert judge(rotation(step, held_off=True, power_open=0.0), error) == expected


@pytest.mark.parametrize(("step", "error", "waits"), CASES, ids=NAMES)
def test_every_error_is_waited_out_while_a_request_for_the_snapshot_is_open(
    step: Step, error: CloudError, waits: bool
) -> None:
    assert judge(rotation(step, creates=1, create_open=MARGIN - 1), error) == waiting_for(error)
    assert judge(rotation(step, creates=1, create_open=MARGIN), error) == (
        waiting_for(error) if waits else failed_for(error)
    )


@pytest.mark.parametrize("error", [Temporary("429", retry_after=33.0), Unclear("502", retry_after=33.0)])
def test_the_provider_may_say_for_how_long_to_wait(error: CloudError) -> None:
    assert judge(rotation(WAIT), error) == Waiting(str(error), retry_after=33.0, cause="api")


# -- ages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_off", [False, True])
@pytest.mark.parametrize("went_off", [False, True])
@pytest.mark.parametrize("came_back", [False, True])
def test_seconds_are_added_to_every_age_and_to_nothing_else(held_off: bool, went_off: bool, came_back: bool) -> None:
    ages: dict[str, Any] = {
        "waited": 1.0,
        "start_age": 2.0,
        "unseen": 3.0,
        "off_for": 4.0,
        "power_open": 5.0,
        "create_open": 6.0,
    }
    young = rotation(**ages, held_off=held_off, went_off=went_off, came_back=came_back)
    assert aged(young, 10.0) == changed(
        young,
        waited=11.0,
        start_age=12.0,
        unseen=13.0,
        off_for=14.0 if held_off and went_off and not came_back else 4.0,
        power_open=15.0,
        create_open=16.0,
    )


def test_what_is_not_open_has_no_age() -> None:
    older = aged(rotation(power_open=None, create_open=None), 10.0)
    assert (older.power.power_open, older.creation.create_open) == (None, None)


# -- a new life ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        {"creates": 1, "create_open": 3.0},
        {"creates": 1},
        {"snapshot_id": "77"},
        {"deleted": ("7",)},
        {"error": "boom", "failed_step": LOOK, "step": START},
    ],
)
def test_a_rotation_that_has_begun_to_act_goes_on_however_late(state: dict[str, Any]) -> None:
    begun = rotation(**{"step": STOP, **state})
    assert resumed(begun, SLOT + timedelta(days=400)) == begun


@pytest.mark.parametrize("step", [LOOK, MAKE_ROOM, STOP, SNAPSHOT])
def test_a_rotation_that_has_asked_for_nothing_goes_on_within_the_time_of_a_missed_slot(step: Step) -> None:
    idle = rotation(step)
    for late in (timedelta(hours=-1), timedelta(0), POLICY.missed_within):
        assert resumed(idle, SLOT + late) == idle


@pytest.mark.parametrize("step", [LOOK, MAKE_ROOM, STOP, SNAPSHOT])
def test_a_rotation_that_has_asked_for_nothing_fails_where_it_is_resumed_too_late(step: Step) -> None:
    idle = rotation(step)
    error = "interrupted before anything was done, and resumed too late"
    assert resumed(idle, SLOT + POLICY.missed_within + timedelta(seconds=1)) == entered(
        idle, START, error=error, failed_step=step
    )


def test_one_that_made_room_and_is_to_stop_its_server_fails_where_it_is_resumed_too_late() -> None:
    rules = Rules(policy=replace(POLICY, stop_first=True))
    made_room = rotation(STOP, deleted=("7",), rules=rules)
    assert resumed(made_room, SLOT + timedelta(days=2)).failed_step is STOP


# -- which snapshot is its own ---------------------------------------------------------------------------------


def test_one_that_was_given_an_id_takes_no_other_of_its_name_before_the_list_had_its_time() -> None:
    asked = rotation(WAIT, snapshot_id="77", creates=1, create_asked=True, unseen=SETTLE)
    other = a_snapshot("5", asked.snapshot_name, SLOT)
    assert taken_for(asked, (other,)) is None
    assert taken_for(asked, (other, replace(other, id="77"))) == replace(other, id="77")
    assert taken_for(changed(asked, unseen=SETTLE + 1), (other,)) == other


# -- laws ------------------------------------------------------------------------------------------------------

seconds = st.floats(0, 100_000)
open_for = st.none() | seconds
words = st.text(min_size=1, max_size=8)

rotations = st.builds(
    rotation,
    st.sampled_from(STEPS[:-1]),
    waited=seconds,
    held_off=st.booleans(),
    start_age=seconds,
    unseen=seconds,
    off_for=seconds,
    power_open=open_for,
    create_open=open_for,
    creates=st.integers(0, 3),
    snapshot_id=st.none() | st.just("77"),
)
"""At any step, with no error yet."""

outcomes = st.one_of(
    st.just(Done()),
    st.just(Done()),
    st.builds(Waiting, words),
    st.builds(Failed, words),
    st.builds(judge, rotations, st.sampled_from([error for error, _ in ERRORS])),
)
visits = st.lists(st.tuples(st.floats(0, 3000), outcomes), max_size=20)


def lived(begun: Rotation, visited: list[tuple[float, Outcome]]) -> list[Rotation]:
    """Every record of a rotation that is visited so, to its end or as far as the visits go."""
    records = [begun]
    for pause, outcome in visited:
        if records[-1].is_finished:
            break
        records.append(advance(aged(records[-1], pause), outcome))
    return records


@given(begun=rotations, visited=visits)
def test_law_what_has_failed_is_never_pruned_and_its_first_error_stays(
    begun: Rotation, visited: list[tuple[float, Outcome]]
) -> None:
    records = lived(begun, visited)
    for before, after in pairwise(records):
        if before.error is not None:
            assert (after.error, after.failed_step) == (before.error, before.failed_step)
            assert after.step in (START, DONE)
        elif after.error is not None:
            assert after.failed_step is before.step
            assert after.step is (DONE if before.step is PRUNE else START)


@given(begun=rotations, visited=visits)
def test_law_a_rotation_only_goes_forward_and_its_end_says_how_it_went(
    begun: Rotation, visited: list[tuple[float, Outcome]]
) -> None:
    records = lived(begun, visited)
    assert [passed.step for passed in records[-1].trail] == [
        before.step for before, after in pairwise(records) if before.trail != after.trail
    ]
    places = [STEPS.index(record.step) for record in records]
    assert places == sorted(places)
    for record in records:
        if not record.is_finished:
            assert record.result is None
        elif record.error is None:
            assert record.result is Result.SUCCESS
        else:
            assert record.result is (Result.PARTIAL if record.failed_step is PRUNE else Result.FAILURE)


@given(begun=rotations, visited=visits)
def test_law_the_way_from_before_the_start_to_the_end_is_by_the_start(
    begun: Rotation, visited: list[tuple[float, Outcome]]
) -> None:
    steps = [record.step for record in lived(begun, visited)]
    if steps[0] not in (PRUNE, DONE) and steps[-1] in (PRUNE, DONE):
        assert START in steps


@given(begun=rotations, pauses=st.lists(seconds, max_size=10))
def test_law_ages_never_shrink_and_are_the_sum_of_what_was_added(begun: Rotation, pauses: list[float]) -> None:
    old = begun
    for pause in pauses:
        older = aged(old, pause)
        for age in AGES:
            before, after = flat(old)[age], flat(older)[age]
            assert after is None if before is None else after >= before
        old = older
    at_once = flat(aged(begun, sum(pauses)))
    for name, apart in flat(old).items():
        assert at_once[name] == (pytest.approx(apart) if name in AGES and apart is not None else apart)


@given(begun=rotations, outcome=outcomes)
def test_law_only_the_step_is_begun_anew_by_an_outcome(begun: Rotation, outcome: Outcome) -> None:
    after = advance(begun, outcome)
    moved = {name for name, value in flat(after).items() if value != flat(begun)[name]}
    assert moved <= {"step", "waited", "note", "trail", "error", "failed_step", "result", "may_pass", "cause"}
    if after.step is begun.step and begun.step is not START:
        assert after.waited == begun.waited
