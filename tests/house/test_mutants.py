"""The list of lines that are broken on purpose has not rotted: the lines and their tests are there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.mutants import LIST, Mutant, read, why_rotten

MUTANTS = read(LIST.read_text())

ONE = """\
core/power.py: a stop owes a start
- return self.asked > self.released
+
core/test_power.py scenarios/test_power.py
survives: it does not
"""


def test_every_line_on_the_list_stands_once_in_its_file_and_the_tests_that_are_to_notice_are_there() -> None:
    assert [why for one in MUTANTS if (why := why_rotten(one))] == []
    assert [str(one) for one in MUTANTS if one.line == one.instead or not one.tests] == []


def test_no_two_on_the_list_are_called_the_same_or_are_the_same() -> None:
    assert len({str(one) for one in MUTANTS}) == len(MUTANTS)
    assert len({(one.file, one.line, one.instead) for one in MUTANTS}) == len(MUTANTS)


def test_a_block_of_the_list_is_read_or_refused() -> None:
    assert read(f"# A comment.\n\n{ONE}") == [
        Mutant(
            file="core/power.py",
            protects="a stop owes a start",
            line="return self.asked > self.released",
            instead="",
            tests=("tests/core/test_power.py", "tests/scenarios/test_power.py"),
            survives="it does not",
        )
    ]
    for wrong in (ONE.replace("- ", "", 1), ONE.replace("+", "="), ONE.replace("survives", "dies"), ONE + "more"):
        with pytest.raises(ValueError, match="this is no mutant"):
            read(wrong)


def test_what_is_not_there_any_more_is_told() -> None:
    (one,) = read(ONE)
    assert why_rotten(one) == ""
    assert "its line stands 0 times" in why_rotten(replace(one, line="return self.was_rotten"))
    assert "its line stands" in why_rotten(replace(one, line="return"))
    assert "there is no tests/core/test_powder.py" in why_rotten(replace(one, tests=("tests/core/test_powder.py",)))
    assert "there is no" in why_rotten(replace(one, tests=("tests/core/test_power.py::test_of_nothing",)))
