"""ARCHITECTURE.md names files and what is in them: all of that is there, and what it tells of the steps is so."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from snaprotd.core.rotation import STEPS
from tests.house.test_docstrings import names_of

ROOT = Path(__file__).parents[2]
PLACES = (ROOT, ROOT / "snaprotd")
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))

ENDS = ("", ".py")
"""Of a folder, of a file."""

PATH = r"(?:[\w.*-]+/)*[\w*-]+\.(?:py|md|yaml|yml|toml|txt|json|html|css|js)|(?:[\w.*-]+/)+"


def named(span: str) -> tuple[str, str] | None:
    """The path in a text in back-ticks, and the name that is to be in that file; None where it is no path."""
    found = re.fullmatch(rf"({PATH})(?:: ([\w.]+)(?:\(\))?)?", span)
    return None if found is None else (found[1], found[2] or "")


def is_there(path: str, name: str = "") -> bool:
    """Whether the file is in the repository or in the package, and defines the name, every part of a dotted one."""
    found = next((place / path for place in PLACES if (place / path).exists()), None)
    if found is None or not name:
        return found is not None
    defined = set(names_of(ast.parse(found.read_text())))
    return all(part in defined for part in name.split("."))


NAMED = [one for span in SPANS if (one := named(span))]


@pytest.mark.parametrize(("path", "name"), NAMED, ids=": ".join)
def test_what_the_page_names_is_there(path: str, name: str) -> None:
    assert is_there(path, name)


@pytest.mark.parametrize(("room", "job"), re.findall(r"^\| `(\w+)` \| ([^|]*) \|[^|]*\|$", PAGE, re.MULTILINE))
def test_the_parts_that_the_table_of_rooms_names_are_in_their_room(room: str, job: str) -> None:
    parts = re.findall(r"`([a-z_]+)`", job)
    assert not [part for part in parts if not any((ROOT / "snaprotd" / room / f"{part}{end}").exists() for end in ENDS)]


def test_what_is_nowhere_is_found() -> None:
    assert named("core/rotation.py: STEPS") == ("core/rotation.py", "STEPS")
    assert (named("tests/core/"), named("STEPS"), named("when_full: replace")) == (("tests/core/", ""), None, None)
    assert is_there("core/rotation.py", "Rotation.begin")
    there = [("core/rotten.py", ""), ("core/rotation.py", "STEPPS"), ("core/rotation.py", "Rotation.began")]
    assert not any(is_there(*one) for one in there)


def test_the_page_is_short_enough_to_be_read() -> None:
    assert len(PAGE.splitlines()) < 260


def test_the_documents_tell_the_steps_in_their_order() -> None:
    (told,) = re.findall(r"^ +-> (look -> .*)$", PAGE, re.MULTILINE)
    assert told == " -> ".join(STEPS)
    (shown,) = re.findall(r'"steps": (\["look".*?\])', (ROOT / "docs" / "json.md").read_text())
    assert json.loads(shown) == [*STEPS[:-1]]
