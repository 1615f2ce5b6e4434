"""The house stays small: rooms that are seen at a glance, files that are read in one go, functions that are plain."""

from __future__ import annotations

from statistics import median

import pytest

from tests.support.house_figures import ROOT, House, counted, nine_in_ten

MOST_FILES = 12
"""Of a room, itself; what only makes a folder a package does not count."""
MOST_LINES = 350
LONGEST = 60


@pytest.fixture(scope="module")
def house() -> House:
    return House()


def test_no_room_has_more_files_than_are_seen_at_a_glance(house: House) -> None:
    sizes = {room: len(counted(paths)) for room, paths in house.rooms.items()}
    assert {room: size for room, size in sizes.items() if size > MOST_FILES} == {}


def test_no_file_is_too_long(house: House) -> None:
    assert {str(path.relative_to(ROOT)): lines for path, lines in house.files.items() if lines > MOST_LINES} == {}


def test_most_functions_are_short_and_none_is_long(house: House) -> None:
    """That none has more than ten ways through it, ruff sees to."""
    lengths = [one.lines for one in house.functions]
    assert median(lengths) <= 10
    assert nine_in_ten(lengths) <= 30
    assert [one for one in house.functions if one.lines > LONGEST] == []
