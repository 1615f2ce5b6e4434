"""Which tests run. Of a story's many cases `make test` has some, and `make prove` all others.

Stories run on virtual time, and one takes seconds of a processor: `make test` would take half an hour for all of them.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Collection

import pytest

from tests.support.searches import IS_LONG

ROOMS = ("scenarios", "daemon", "attacks")
"""Where the stories stand that take long."""

TOLD = 3
"""Of the cases of a story `make test` has the first, and of the others one in so many."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-in", type=int, default=1, help="of the stories on virtual time run one in so many")
    parser.addoption("--every-case", action="store_true", help="tell stories of all their cases, as `make prove` does")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    further = _further_cases(items)
    left_out = _beyond_a_part(items, config.getoption("--one-in"))
    if IS_LONG:
        for one in further:
            one.add_marker(pytest.mark.search)
    else:
        left_out |= {one for one in items if one.get_closest_marker("long_form")}
        is_every_case = config.getoption("--every-case") or any("::" in argument for argument in config.args)
        if not is_every_case:
            left_out.update(further)
    if left_out:
        config.hook.pytest_deselected(items=[one for one in items if one in left_out])
        items[:] = [one for one in items if one not in left_out]


def is_virtual(item: pytest.Item) -> bool:
    """Whether it is a story on virtual time."""
    return (
        isinstance(item, pytest.Function)
        and inspect.iscoroutinefunction(item.obj)
        and item.get_closest_marker("real_time") is None
    )


def _further_cases(items: Collection[pytest.Item]) -> list[pytest.Item]:
    """Those that `make test` does without: the same ones on every machine."""
    told: set[str] = set()
    further = []
    for one in items:
        if not _is_one_of_several(one):
            continue
        story = one.nodeid.split("[")[0]
        if story in told and zlib.crc32(one.nodeid.encode()) % TOLD:
            further.append(one)
        told.add(story)
    return further


def _is_one_of_several(item: pytest.Item) -> bool:
    """Whether it is a case of a long story. What is told on both databases is told on both."""
    return (
        isinstance(item, pytest.Function)
        and is_virtual(item)
        and hasattr(item, "callspec")
        and item.path.parent.name in ROOMS
        and item.get_closest_marker("search") is None
        and "db" not in item.fixturenames
    )


def _beyond_a_part(items: Collection[pytest.Item], one_in: int) -> set[pytest.Item]:
    """Stories on virtual time tell of rotations, and little of a Python: of these a part is enough on a second one."""
    return {one for one in items if is_virtual(one) and zlib.crc32(one.nodeid.encode()) % one_in}
