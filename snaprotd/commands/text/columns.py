"""Tables and lines of text, of which a fleet has tens of thousands.

Where all of it fits the width, it is laid out here, as rich would do it in a hundredth of the time. Anything else is
left to rich.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

WRAPPED = ("now", "if it ran now", "what", "what it does")
"""Columns of sentences. All others keep to one line, and are cut only where the sentences can be no narrower."""

GAP = "  "
"""Between two columns."""
HEADER = "bold"

Cell = tuple[str, str]
"""A text, and its style."""


class Line:
    """A line of parts, each of which may have a style."""

    def __init__(self, *parts: str | Cell) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [(one, "") if isinstance(one, str) else one for one in self._parts]
        if (width := _width_of("".join(text for text, _ in cells))) is None or width > options.max_width:
            yield Text.assemble(*self._parts)
        else:
            yield from _segments(console, [cells])


class Columns:
    """A table without lines; it is indented by so many columns of the screen."""

    def __init__(self, *names: str, indent: int = 0) -> None:
        self._names = names
        self._indent = indent
        self._rows: list[tuple[Sequence[Cell], str]] = []

    def add_row(self, *cells: str | Cell, style: str = "") -> None:
        """The style is that of the row, under the cells' own."""
        self._rows.append(([(one, "") if isinstance(one, str) else one for one in cells], style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths()
        whole = self._indent + sum(widths) + len(GAP) * (len(widths) - 1)
        if not widths or whole > options.max_width:
            yield self._as_rich_would()
        else:
            yield from _segments(console, self._lines(widths))

    def _widths(self) -> list[int]:
        """Of each column; none where there is a text that takes more than one line, or is shown otherwise."""
        widths = []
        for texts in zip(self._names, *([text for text, _ in cells] for cells, _ in self._rows), strict=True):
            known = [width for text in texts if (width := _width_of(text)) is not None]
            if len(known) < len(texts):
                return []
            widths.append(max(known))
        return widths

    def _lines(self, widths: Sequence[int]) -> Iterator[list[Cell]]:
        rows = [([(name, HEADER) for name in self._names], ""), *self._rows]
        before = " " * self._indent
        for cells, style in rows:
            line = [(before, "")] if before else []
            for (text, own), width in zip(cells, widths, strict=True):
                room = " " * (width - (_width_of(text) or 0)) + GAP
                line.append((text + room, f"{style} {own}".strip()))
            line[-1] = (line[-1][0].removesuffix(GAP), line[-1][1])
            yield line

    def _as_rich_would(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style=HEADER)
        for name in self._names:
            sentence = name in WRAPPED
            table.add_column(name, no_wrap=not sentence, overflow="fold" if sentence else "ellipsis")
        for cells, style in self._rows:
            table.add_row(*(Text(text, style=own) for text, own in cells), style=style)
        return Padding(table, (0, 0, 0, self._indent))


def _width_of(text: str) -> int | None:
    """On the screen; None where a sign in it has none of its own, as the end of a line."""
    if not text.isprintable():
        return None
    return len(text) if text.isascii() else cell_len(text)


def _segments(console: Console, lines: Iterable[Sequence[Cell]]) -> Iterator[Segment]:
    """Where nothing is coloured, a segment has all that there is."""
    if console.color_system is None:
        yield Segment("".join("".join([text for text, _ in line]) + "\n" for line in lines))
        return
    for line in lines:
        for text, style in line:
            yield Segment(text, Style.parse(style) if style else None)
        yield Segment.line()
