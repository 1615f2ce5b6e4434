"""Which refusals are meant for what was asked alone, and how often that is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from snaprotd.provider.apart import ANSWERED_BESIDE, LONGEST_HOLD, TO_ONE_REFUSED, About, Apart


def about(kind: str, subject: str = "*") -> About:
    return About(kind=kind, subject=subject, words=f"{kind} {subject}")


START = about("start", "one")
OTHER_START = about("start", "another")
LOOK = about("look", "one")
LIST = about("list")
OTHERS = [about("look", f"other {number}") for number in range(9)]


class Told(Apart):
    """What becomes of it: one request each second, which is answered in the next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def no(self, what: About, *, under_way: bool = False, asked: float | None = 1.0) -> bool:
        """It is refused; whether this was meant for it alone. `under_way`: as another was, when that was refused."""
        self.now += 0 if under_way else 2
        sent_at = self.now - (1.5 if under_way else 1)
        return bool(self.refused(what, self.now, sent_at=sent_at, asked=asked))

    def yes(self, *which: About, late: float = 0.0) -> bool:
        """They are answered, one after the other; `late`: after so many seconds each."""
        for what in which:
            self.now += 2
            self.answered(what, sent_at=self.now - 1 - late)
        return True

    def sleep(self, seconds: float) -> bool:
        self.now += seconds
        return True

    def left(self, what: About, *, urgent: bool = True, rate: float = 5.0) -> float:
        return self.held_for(what, self.now, rate, urgent=urgent)


def nos(told: Told, *which: About) -> bool:
    """Whether the last of them was refused alone."""
    return [told.no(what) for what in which][-1]


FEW = OTHERS[: ANSWERED_BESIDE - 1]
ENOUGH = OTHERS[:ANSWERED_BESIDE]

Story = Callable[[Told], Iterable[object]]
STORIES: list[tuple[str, Story, bool]] = [
    # what has happened, and whether the last refusal was meant for that alone
    ("the first", lambda told: [told.yes(*OTHERS), told.no(START)], False),
    ("twice, and nothing between", lambda told: [told.no(START), told.no(START)], False),
    ("twice, and few others are answered", lambda told: [told.no(START), told.yes(*FEW), told.no(START)], False),
    ("twice, and all others are answered", lambda told: [told.no(START), told.yes(*ENOUGH), told.no(START)], True),
    (
        "its own answer is no other's",
        lambda told: [told.no(START), told.yes(*FEW), told.no(START), told.yes(START), told.no(START)],
        False,
    ),
    (
        "answered between",
        lambda told: [told.no(START), told.yes(*OTHERS), told.yes(START), told.no(START)],
        False,
    ),
    (
        "others that were under way before",
        lambda told: [told.no(START), told.yes(*OTHERS, late=1000), told.no(START)],
        False,
    ),
    (
        "twice, and both were under way together",
        lambda told: [told.no(START), told.yes(*ENOUGH), bool(told.refused(START, told.now, sent_at=1, asked=1))],
        False,
    ),
    (
        "as many others are refused",
        lambda told: [told.no(START), told.yes(*ENOUGH), nos(told, *OTHERS[:3]), told.no(START)],
        False,
    ),
    (
        "few others are refused",
        lambda told: [told.no(START), told.no(LIST), told.yes(*OTHERS), told.no(START)],
        True,
    ),
    ("of a kind, each once", lambda told: [told.no(START), told.yes(*ENOUGH), told.no(OTHER_START)], True),
    (
        "of a kind, and others of it are answered",
        lambda told: [told.no(START), told.yes(*OTHERS), told.yes(OTHER_START), told.no(about("start", "third"))],
        False,
    ),
    ("all of one server", lambda told: [told.no(START), told.yes(*ENOUGH), told.no(LOOK)], True),
    (
        "two of the account",
        lambda told: [told.no(LIST), told.yes(*ENOUGH), told.no(about("me"))],
        False,
    ),
    ("a list of all", lambda told: [told.no(LIST), told.yes(*ENOUGH), told.no(LIST)], True),
    (
        "a list of all, and one server's is answered",
        lambda told: [told.no(LIST), told.yes(about("list", "two"), *OTHERS), told.no(LIST)],
        True,
    ),
    (
        "the night before",
        lambda told: [told.no(START), told.yes(*ENOUGH), told.sleep(4000), told.no(START)],
        False,
    ),
]


@pytest.mark.parametrize(("story", "is_alone"), [row[1:] for row in STORIES], ids=[row[0] for row in STORIES])
def test_a_refusal_is_meant_for_one_alone_where_it_is_refused_again_and_all_others_are_answered(
    story: Story, is_alone: bool
) -> None:
    told = Told()
    assert list(story(told))[-1] is is_alone
    assert bool(told.held(told.now)) is is_alone


def test_a_limit_that_is_everybodys_is_never_taken_for_one_alone() -> None:
    """Of five that are asked in turn two are refused: each is so again and again."""
    told, asked = Told(), [START, *OTHERS[:6]]
    for number in range(500):
        what = asked[number * 3 % 7]
        if number % 5 < 2:
            assert not told.no(what)
        else:
            told.yes(what)
    assert TO_ONE_REFUSED > 3 / 2


def alone(what: About = START) -> Told:
    told = Told()
    told.no(what)
    told.yes(*ENOUGH)
    return told


def test_it_is_held_back_twice_as_long_each_time_up_to_a_minute() -> None:
    told = alone()
    held = []
    for _ in range(9):
        assert told.no(START)
        held.append(told.left(START))
        told.now += held[-1]
        assert told.left(START) == 0
    assert held == [2, 4, 8, 16, 32, 60, 60, 60, 60]


@pytest.mark.parametrize(
    ("asked", "urgent", "left"), [(30, True, 30), (86400, True, 60), (86400, False, 900), (None, False, 2)]
)
def test_what_the_provider_asks_for_is_heard_within_bounds(asked: float | None, urgent: bool, left: float) -> None:
    told = alone()
    told.no(START, asked=asked)
    assert told.left(START, urgent=urgent) == left


def test_nothing_else_is_held_back_and_an_answer_ends_it() -> None:
    told = alone()
    told.no(START)
    assert [told.left(one) for one in (OTHER_START, LOOK, LIST)] == [0, 0, 0]
    told.yes(START)
    assert told.left(START) == 0
    assert told.held(told.now) == ()


def test_while_it_is_asked_again_nobody_else_asks_it() -> None:
    told = alone()
    told.no(START)
    told.now += 10
    told.tries(START, is_tried=True)
    assert told.left(START) > 0
    told.tries(START, is_tried=False)
    assert told.left(START) == 0


def test_a_hundred_that_are_held_back_are_a_tenth_of_what_may_be_asked() -> None:
    told = alone()
    held = [about("start", f"server {number}") for number in range(100)]
    for _ in range(9):
        assert all(told.no(one, under_way=True) for one in held)
    assert told.left(START, rate=5.0) == 0
    assert told.left(held[0], rate=5.0) == pytest.approx(100 / 0.5, abs=2)
    assert told.left(held[0], rate=50.0) == LONGEST_HOLD


def test_what_is_not_asked_any_more_is_forgotten() -> None:
    told = alone()
    told.no(START)
    assert told.held(told.now + 900) == ("start one",)
    assert told.held(told.now + 1000) == ()
