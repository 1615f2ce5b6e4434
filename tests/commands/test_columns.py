"""Tables of a fleet are laid out by us where that is simple: what is shown is what rich would have shown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group, RenderableType
from rich.table import Table

from snaprotd.commands.text.columns import Block, Cell, Columns, Line

Rows = list[tuple[list[str | Cell], str]]

ROWS: dict[str, Rows] = {
    "none": [],
    "plain": [(["801", "web-01", "-"], ""), (["12345678", "w", "a sentence of some words"], "")],
    "wide signs": [(["日本", "é", ""], ""), (["●○■", "", "x"], "dim")],
    "styles": [([("failure", "bold red"), "web", ("keep", "")], "dim"), (["", "", ""], "")],
    "two lines": [(["a\nb", "c", "d"], "")],
    "a tab": [(["a\tb", "c", "d"], "")],
    "markup": [(["[bold]a[/bold]", ":smile:", "[/]"], "")],
    "long": [(["a" * 60, "b" * 60, "sentence " * 30], "")],
}


def shown(renderable: RenderableType, *, width: int, colours: bool) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colours,
        color_system="standard" if colours else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def as_seen(text: str) -> list[str]:
    """Without spaces at the ends of lines, which nobody sees, whatever style they have."""
    return [line.replace("\x1b[0m", "").rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("indent", [0, 2])
@pytest.mark.parametrize("width", [500, 80, 30])
def test_a_table_is_as_rich_would_lay_it_out(rows: Rows, indent: int, width: int) -> None:
    table = Columns("id", "name", "what", indent=indent)
    for cells, style in rows:
        table.add_row(*cells, style=style)
    expected = shown(table._as_rich_would(), width=width, colours=False)
    assert as_seen(shown(table, width=width, colours=False)) == as_seen(expected)


def test_colours_are_those_of_the_cells_over_those_of_the_row() -> None:
    table = Columns("id", "what")
    table.add_row(("1", "red"), "b", style="dim")
    assert shown(table, width=80, colours=True).splitlines() == [
        "\x1b[1mid  \x1b[0m\x1b[1mwhat\x1b[0m",
        "\x1b[2;31m1   \x1b[0m\x1b[2mb   \x1b[0m",
    ]


@pytest.mark.parametrize("colours", [True, False])
def test_a_line_that_fits_is_shown_as_it_is_and_a_long_one_is_broken(colours: bool) -> None:
    assert "web-01" in shown(Line(("web-01", "bold"), "  server 1"), width=40, colours=colours)
    broken = shown(Line("a" * 30 + " " + "b" * 30), width=40, colours=colours)
    assert as_seen(broken) == ["a" * 30, "b" * 30]


def test_a_fleet_is_not_laid_out_by_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10,000 servers that took two minutes."""
    monkeypatch.setattr(Table, "__rich_console__", None)
    table = Columns("id", "name")
    for number in range(1000):
        table.add_row(str(number), f"web-{number}", style="dim")
    assert shown(table, width=500, colours=False).count("web-") == 1000


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("width", [500, 40])
def test_a_block_shows_its_parts_one_below_the_other(colours: bool, width: int) -> None:
    parts: list[Line | Columns] = []
    for rows in ROWS.values():
        table = Columns("id", "name", "what", indent=2)
        for cells, style in rows:
            table.add_row(*cells, style=style)
        parts += [Line(("web-01", "bold"), "  server 1" + " and more" * len(parts)), table, Line()]
    assert shown(Block(*parts), width=width, colours=colours) == shown(Group(*parts), width=width, colours=colours)


def test_a_block_of_a_fleet_is_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich takes as long for each of its parts as for all of them."""
    monkeypatch.setattr(Line, "__rich_console__", None)
    assert (
        shown(Block(*[Line(f"web-{number}") for number in range(1000)]), width=500, colours=False).count("web-") == 1000
    )
