"""Which visits are written: whatever they have changed, and ages before much is lost of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from functools import partial

import pytest

from snaprotd.core import creation, power
from snaprotd.core.creation import Creation
from snaprotd.core.power import Power
from snaprotd.core.rotation import Rotation, Step, aged
from snaprotd.engine.unsaved import Unsaved, what_counts
from tests.ledger.test_store import SLOT, finished, rotation

AGES = ("power_open", "request_age", "stop_age", "earlier_age", "running_for", "missing_for", "gone_for")
WAITING = rotation(
    step=Step.WAIT,
    power=replace(power.promised(Power(), SLOT), went_off=True, **dict.fromkeys(AGES, 5.0)),  # type: ignore[arg-type]
    creation=replace(creation.made(creation.promised(Creation()), "801"), create_open=5.0, unseen=0.2),
)
ENOUGH = WAITING.settle / 4


def written(one: Rotation = WAITING) -> Unsaved:
    unsaved = Unsaved()
    unsaved.saving()
    unsaved.saved(one)
    return unsaved


def test_whatever_time_changes_is_an_age() -> None:
    later = aged(WAITING, 100.0)
    changed = {one.name for one in fields(Power) if getattr(later.power, one.name) != getattr(WAITING.power, one.name)}
    assert changed >= {*AGES, "off_for", "start_age"}
    assert what_counts(later) == what_counts(WAITING)


@pytest.mark.parametrize(("seconds", "is_worth_it"), [(0.0, False), (ENOUGH - 1, False), (ENOUGH, True)])
def test_time_alone_is_written_when_a_quarter_of_settle_would_be_lost(seconds: float, is_worth_it: bool) -> None:
    seen_again = of_creation(aged(WAITING, seconds), unseen=0.0)
    assert written().is_worth_it(seen_again, goes_on=False) is is_worth_it


Change = Callable[[Rotation], Rotation]


def of_power(one: Rotation, **changes: object) -> Rotation:
    return replace(one, power=replace(one.power, **changes))  # type: ignore[arg-type]


def of_creation(one: Rotation, **changes: object) -> Rotation:
    return replace(one, creation=replace(one.creation, **changes))  # type: ignore[arg-type]


CHANGES: dict[str, Change] = {
    "it waits for something else": lambda one: replace(one, note="the snapshot is not listed"),
    "its step": lambda one: replace(one, step=Step.START),
    "a request has gone out": lambda one: replace(one, begun=True),
    "it has ended": finished,
    "the stop has struck": partial(of_power, went_off_at=SLOT),
    "it is seen running": partial(of_power, running_for=None),
    "its snapshot": partial(of_creation, snapshot_id="802"),
    "when that was taken": partial(of_creation, taken_at=SLOT + timedelta(seconds=1)),
    "another answer was lost": partial(of_creation, create_open=4.9),
    "no request is open": partial(of_creation, create_open=None),
    "another stop": partial(of_power, stop_age=0.0),
    "its snapshot is listed again after a while": lambda one: of_creation(one, unseen=0.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_else_has_changed_is_written(change: Change) -> None:
    before = of_creation(WAITING, unseen=20.0)
    assert written(before).is_worth_it(change(aged(before, 1.0)), goes_on=False)


def test_that_its_snapshot_was_seen_once_more_is_no_news() -> None:
    assert not written().is_worth_it(of_creation(aged(WAITING, 15.0), unseen=0.0), goes_on=False)


def test_a_step_that_is_done_is_written_with_the_next_one() -> None:
    next_one = replace(aged(WAITING, 1.0), step=Step.START, note="", waited=0.0)
    unsaved = written()
    assert not unsaved.is_worth_it(next_one, goes_on=True)
    assert unsaved.is_worth_it(next_one, goes_on=False)
    assert unsaved.is_worth_it(of_creation(next_one, taken_at=SLOT), goes_on=True)


def test_what_the_ledger_has_not_answered_is_written_again() -> None:
    unsaved = written()
    unsaved.saving()
    assert unsaved.is_worth_it(WAITING, goes_on=True)


async def test_a_ledger_that_was_away_is_written_as_soon_as_it_is_back() -> None:
    unsaved = written()
    unsaved.note_no_ledger()
    assert unsaved.is_worth_it(WAITING, goes_on=False)
    unsaved.saved(WAITING)
    assert not unsaved.is_worth_it(WAITING, goes_on=False)
