"""The documents say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from snaprotd.commands.cli import cli
from tests.support.readme_plan import README, recorded_plan
from tests.support.reference_page import PAGE, rendered

ROOT = Path(__file__).parents[2]


def test_the_reference_page_has_every_key_with_its_default_and_meaning() -> None:
    assert PAGE.read_text() == rendered(PAGE.read_text()), "run `make docs`"


def test_the_plan_in_the_readme_is_what_the_command_prints() -> None:
    assert f"```\n{recorded_plan()}\n```" in README.read_text()


def test_the_readme_has_every_command() -> None:
    listed = set(re.findall(r"^\| `snaprotd (\w+)", README.read_text(), re.MULTILINE))
    assert listed == set(cli.commands)


def _documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")]


@pytest.mark.parametrize("document", _documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", text)
    missing = [link for link in links if link and not (document.parent / link).exists()]
    assert not missing
