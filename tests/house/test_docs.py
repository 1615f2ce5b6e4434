"""The documents say what is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from snaprotd.commands.cli import cli
from tests.support.metrics_table import families, name_of
from tests.support.readme_plan import README, recorded_plan
from tests.support.reference_page import PAGES, rendered

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "snaprotd").rglob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_its_tables_as_they_are_now(page: Path) -> None:
    assert page.read_text() == rendered(page), "run `make docs`"


READ_ELSEWISE = {"HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
"""By names in either case."""


def test_every_variable_of_the_environment_that_is_read_is_documented_and_no_other() -> None:
    _, _, text = (ROOT / "docs" / "configuration.md").read_text().partition("## Environment\n")
    rows = re.findall(r"^\|(.+?)\|", text.partition("\n## ")[0], re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed - READ_ELSEWISE == {name for path in SOURCES for name in variables_read(path.read_text())}


def variables_read(source: str) -> set[str]:
    """The names that are looked up in a mapping called `environ`, or by `getenv`."""
    asked = (_looked_up(node) for node in ast.walk(ast.parse(source)))
    return {str(name) for where, name in filter(None, asked) if where.endswith(("environ", "getenv"))}


def _looked_up(node: ast.AST) -> tuple[str, object] | None:
    """Where something is looked up, as written, and the literal name of it."""
    match node:
        case ast.Call(func=ast.Attribute(value=mapping, attr="get"), args=[ast.Constant(value=name), *_]):
            return ast.unparse(mapping), name
        case ast.Subscript(value=mapping, slice=ast.Constant(value=name)):
            return ast.unparse(mapping), name
        case ast.Compare(left=ast.Constant(value=name), comparators=[mapping]):
            return ast.unparse(mapping), name
        case ast.Call(func=ast.Attribute(attr="getenv") as called, args=[ast.Constant(value=name), *_]):
            return ast.unparse(called), name
    return None


READING = """
environ.get("ONE"), os.environ.get("TWO", ""), self._environ["THREE"], os.getenv("FOUR")
"FIVE" in os.environ, "FIVE" not in environ, query.get("no"), labels["no"], "no" in labels, environ.items()
"""


def test_a_variable_that_is_read_is_found_in_any_of_its_forms() -> None:
    assert variables_read(READING) == {"ONE", "TWO", "THREE", "FOUR", "FIVE"}


def test_every_metric_is_known_with_its_labels() -> None:
    """A family that has no sample would be listed without labels: `filled` must know of it."""
    assert [name_of(family) for family in families() if not family.samples] == []


def test_every_metric_that_an_alert_or_the_dashboard_asks_for_is_listed() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    dashboard = (ROOT / "deploy" / "grafana" / "snaprotd.json").read_text()
    asked = set(re.findall(r"\bsnaprotd_[a-z_]+[a-z]", rules + dashboard))
    listed = {name_of(family) for family in families()}
    parts = {f"{name}_{part}" for name in listed for part in ("bucket", "sum", "count")}
    assert asked <= listed | parts


def test_the_plan_in_the_readme_is_what_the_command_prints() -> None:
    assert f"```\n{recorded_plan()}\n```" in README.read_text()


def _commands(group: click.Group) -> dict[str, click.Command]:
    """Every command by all of its words, `ledger owed` too."""
    found: dict[str, click.Command] = {}
    for name, one in group.commands.items():
        within = _commands(one) if isinstance(one, click.Group) else {}
        found |= {f"{name} {inner}": command for inner, command in within.items()} or {name: one}
    return found


def test_the_readme_has_every_command() -> None:
    listed = set(re.findall(r"^\| `snaprotd ([a-z -]*[a-z])", README.read_text(), re.MULTILINE))
    assert listed == set(_commands(cli))


def test_the_json_of_every_command_that_prints_it_is_documented() -> None:
    told = re.findall(r"^## .*`snaprotd ([a-z -]+) --json`", (ROOT / "docs" / "json.md").read_text(), re.MULTILINE)
    printing = [name for name, one in _commands(cli).items() if any(each.name == "as_json" for each in one.params)]
    assert sorted(told) == sorted(printing)


def _documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")]


@pytest.mark.parametrize("document", _documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", text)
    missing = [link for link in links if link and not (document.parent / link).exists()]
    assert not missing
