"""Searches: tests that could look for a broken promise for ever. Each has a short form, and a long one.

`make test` runs the short forms; `make prove` runs the long ones, and nothing else. A search is marked `search`, or is
a law of Hypothesis, which is one by nature. Where each case takes long the long form has `the_rest` of them only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where a ledger is that lives for one example."""

IS_LONG = os.environ.get("SNAPROTD_PROVE") == "yes"

TIMES = int(os.environ.get("SNAPROTD_PROVE_TIMES", "1"))
"""How many times as many histories the long form has: `make prove TIMES=10` before a release, or over a night."""


def size(short: int, long: int) -> int:
    """How far a search goes."""
    return long if IS_LONG else short


def histories(short: int, long: int) -> int:
    """How many a search draws, where more are worth more whenever there is time for them."""
    return size(short, long * TIMES)


def the_rest(*cases: tuple[Any, ...]) -> list[Any]:
    """Parameters that only the long form has, each marked as a search; those beside them are left to `make test`."""
    return [pytest.param(*case, marks=pytest.mark.search) for case in cases] if IS_LONG else []


def examples(count: int) -> settings:
    """So many examples of a law, where that is not as many as usual."""
    return settings(max_examples=histories(count, 3 * count))


@contextmanager
def by_its_seed_alone() -> Iterator[None]:
    """A seeded search draws the same examples wherever it runs, and what it has found can be found again.

    Hypothesis draws constants of all local modules too: a process that has loaded others would search elsewhere.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(providers, "_get_local_constants", Constants)
        patch.setattr(providers, "CONSTANTS_CACHE", type(providers.CONSTANTS_CACHE)(1024))
        yield


def look_at(
    examples: SearchStrategy[T], look: Callable[[T], None], *, number: int, most: int, shrinks: bool = False
) -> None:
    """Have a search `look` at so many examples, the same ones wherever it runs. `number`: its seed."""

    @seed(number)
    @settings(
        max_examples=most,
        phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(example=examples)
    def law(example: T) -> None:
        look(example)

    with by_its_seed_alone():
        law()


def set_the_usual() -> None:
    """How laws are run that say nothing of it. A time limit for each example would judge the machine, not the code."""
    settings.register_profile("usual", max_examples=histories(100, 300), deadline=None)
    settings.load_profile("usual")
