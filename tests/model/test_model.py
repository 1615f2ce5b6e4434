"""The rules suffice: nothing that may happen to two replicas breaks a promise. And they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import pytest

from tests.model import create, power
from tests.model.leases import (
    ALL_HARM,
    CUT,
    FAILOVER,
    FAST,
    FREEZE,
    KILL,
    LATE,
    UNCLEAR,
    Model,
    Rules,
)
from tests.model.search import Found, search
from tests.support.searches import the_rest

NOTHING = 0


class Bound(NamedTuple):
    """How far a search goes."""

    harm: int
    most: int = 1
    settle: int = 4
    loses: int = 1
    begins: tuple[bool, ...] = (True,)
    """With a server of which nothing is known, or one of which something is owed already."""


@cache
def created(bound: Bound, off: tuple[str, ...] = ()) -> Found:
    rules = replace(Rules(settle=bound.settle), **dict.fromkeys(off, False))
    model = Model(rules=rules, work=create.work(rules), harm=bound.harm, most=bound.most, loses=bound.loses)
    return search([create.beginning()], partial(create.steps, model), create.is_end)


@cache
def switched(bound: Bound, off: tuple[str, ...] = ()) -> Found:
    rules = replace(Rules(settle=bound.settle), **dict.fromkeys(off, False))
    model = Model(rules=rules, work=power.work(rules), harm=bound.harm, most=bound.most, loses=bound.loses)
    begins = [power.beginning(rules, is_first=is_first) for is_first in bound.begins]
    return search(begins, partial(power.steps, model), power.is_end)


Searched = Callable[..., Found]

ONE_OF_ALL = Bound(ALL_HARM)
ONE_OF_ALL_TO_POWER = Bound(ALL_HARM, settle=2, begins=(True, False))


@pytest.mark.parametrize(
    ("searched", "bound", "states"),
    [
        (created, ONE_OF_ALL, 8_000),
        (created, Bound(FAILOVER | FREEZE, most=2, settle=2), 20_000),
        (switched, ONE_OF_ALL_TO_POWER, 35_000),
        *the_rest(
            (created, Bound(ALL_HARM, most=2, loses=2), 200_000),
            (switched, Bound(ALL_HARM, most=2, settle=1, begins=(True, False)), 750_000),
        ),
    ],
)
def test_nothing_that_may_happen_breaks_a_promise(searched: Searched, bound: Bound, states: int) -> None:
    found = searched(bound)
    assert not found.broken, str(found)
    assert found.states >= states, found.states


EVENTS = {
    "thaws",
    "has the database back",
    "renews its lease",
    "takes over",
    "learns that it has lost the rotation",
    "has waited, and notes the timeline",
    "is frozen",
    "is cut off from the database",
    "is killed, and begins anew",
    "the database fails over, and loses 0 commits",
    "the database fails over, and loses 1 commits",
    "time passes",
    "time passes, and the clock of B is fast",
    "claims the slot",
    "has looked too long ago",
}
OF_CREATE = {
    "looks, and there is none",
    "looks, and finds the snapshot",
    "saves its intent",
    "saves its intent, and hears nothing of the commit, which was done",
    "claims the slot, and hears nothing of the commit, which was done",
    "takes over, and hears nothing of the commit, which was done",
    "asks for the snapshot",
    "saves the end",
    "the request is carried out late",
    "the request is carried out and answered",
    "the request is carried out, and its answer is lost",
    "time passes, and no answer has come",
}
OF_POWER = {
    "saves its promise",
    "saves its promise, and hears nothing of the commit, which was done",
    "asks for the stop",
    "the stop is carried out",
    "asks for the snapshot",
    "the snapshot is completed",
    "starts the server",
    "starts the server from memory",
    "saves the end of the rotation",
    "takes the promise up",
    "insists on its promise",
    "insists on its promise, which stands",
    "learns that the start is paid",
    "notes that the start is paid",
}


def kinds(*several: Found) -> set[str]:
    """Of the events that were taken, whoever did it."""
    return {event.removeprefix("A ").removeprefix("B ") for found in several for event in found.events}


def test_every_kind_of_event_is_taken() -> None:
    of_create = kinds(created(ONE_OF_ALL), created(Bound(UNCLEAR | FREEZE, most=2, settle=1)))
    of_power = kinds(
        switched(ONE_OF_ALL_TO_POWER), switched(Bound(FAILOVER | KILL, most=2, settle=1), ("saves_again",))
    )
    assert (EVENTS | OF_CREATE) - of_create == set()
    assert (EVENTS | OF_POWER) - of_power == set()


HOLDS_IT = "both replicas hold the rotation"
SECOND = "a second snapshot is asked for"
OPEN = "two requests are open"
MIDDLE = "the server is started in the middle of a living rotation's snapshot"
LEFT = "what was promised cannot be done any more"

MUTANTS: list[tuple[str, Searched, Bound, str]] = [
    ("observes", created, Bound(NOTHING), HOLDS_IT),
    ("compares", created, Bound(FREEZE), HOLDS_IT),
    ("has_margin", created, Bound(FAST), HOLDS_IT),
    ("is_fresh", created, Bound(FREEZE | LATE, most=2), OPEN),
    ("outlives", created, Bound(FREEZE | KILL | LATE, most=2), OPEN),
    ("outlives", switched, Bound(NOTHING, settle=1), LEFT),
    ("is_shared", created, Bound(NOTHING), HOLDS_IT),
    ("waits", created, Bound(FAILOVER), HOLDS_IT),
    ("notes", created, Bound(FAILOVER | KILL, most=2), HOLDS_IT),
    ("asks_each_time", created, Bound(FAILOVER), HOLDS_IT),
    ("looks_anew", switched, Bound(FAILOVER | FREEZE, most=2, settle=1, begins=(False,)), MIDDLE),
    ("lapses", created, Bound(FAILOVER | FREEZE, most=2), HOLDS_IT),
    ("reasserts", switched, Bound(FAILOVER | KILL, most=2, settle=1), LEFT),
    ("is_sceptical", created, Bound(UNCLEAR | FREEZE, most=2), OPEN),
    ("is_sceptical", switched, Bound(UNCLEAR | KILL, most=2, settle=1), LEFT),
    ("saves_first", created, Bound(KILL), OPEN),
    ("saves_first", switched, Bound(KILL, settle=1), LEFT),
    ("settles", created, Bound(LATE), OPEN),
    ("settles", switched, Bound(NOTHING, settle=1), LEFT),
    ("insists", switched, Bound(FAILOVER | FREEZE, most=2, settle=1), LEFT),
    ("merges", switched, Bound(KILL, settle=1, begins=(False,)), LEFT),
    ("asks_who_lives", switched, Bound(NOTHING, settle=1, begins=(False,)), MIDDLE),
    ("looks_at_snapshots", switched, Bound(CUT, settle=1, begins=(False,)), MIDDLE),
]


@pytest.mark.parametrize(("rule", "searched", "bound", "why"), MUTANTS)
def test_a_rule_that_is_switched_off_is_missed(rule: str, searched: Searched, bound: Bound, why: str) -> None:
    found = searched(bound, (rule,))
    assert found.broken == why, str(found)
    assert found.trace


TWICE_HELD: list[tuple[str, Searched, Bound]] = [
    ("guards", created, Bound(FREEZE | LATE, most=1)),
    ("guards", switched, Bound(FREEZE, settle=1)),
    ("saves_again", created, Bound(FAILOVER | KILL, most=1)),
    ("saves_again", switched, Bound(FAILOVER | KILL, most=2, settle=1)),
]
"""The lease is asked right before the bytes go out, and so is the age of the look and of what was saved after it, which
is never good for longer. What was saved under an old timeline the renewal that learns of the new one saves again."""


@pytest.mark.parametrize(("rule", "searched", "bound"), TWICE_HELD)
def test_a_rule_that_is_held_by_others_too_is_told_as_such(rule: str, searched: Searched, bound: Bound) -> None:
    found = searched(bound, (rule,))
    assert not found.broken, str(found)


def test_a_trace_is_told_step_by_step() -> None:
    assert str(created(Bound(NOTHING), ("is_shared",))).splitlines() == [
        f"3 states: {HOLDS_IT}",
        "  1. A claims the slot",
        "  2. B takes over",
    ]


def test_a_search_sees_what_leads_nowhere() -> None:
    """A count that may be doubled and must come to 12."""

    def steps(number: int) -> list[tuple[str, int, bool, str]]:
        return [("one more", number + 1, True, ""), ("doubled", 2 * number, False, "")] if number < 12 else []

    found = search([3], steps, lambda number: number == 12)  # type: ignore[arg-type]
    assert (found.broken, found.trace) == (LEFT, ("one more",))
