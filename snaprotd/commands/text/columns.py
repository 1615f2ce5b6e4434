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

    def plain(self, most: int) -> str | None:
        """As text without colours; None where it does not fit `most` columns of the screen."""
        text = "".join(map(_text_of, self._parts))
        width = _width_of(text)
        return f"{text}\n" if width is not None and width <= most else None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if (plain := self.plain(options.max_width)) is None:
            yield Text.assemble(*self._parts)
        elif console.color_system is None:
            yield Segment(plain)
        else:
            yield from _coloured([[_cell_of(one) for one in self._parts]])


class Columns:
    """A table without lines; it is indented by so many columns of the screen."""

    def __init__(self, *names: str, indent: int = 0) -> None:
        self._names = names
        self._indent = indent
        self._rows: list[tuple[tuple[str | Cell, ...], str]] = []

    def add_row(self, *cells: str | Cell, style: str = "") -> None:
        """The style is that of the row, under the cells' own."""
        self._rows.append((cells, style))

    def plain(self, most: int) -> str | None:
        """As text without colours; None where it does not fit `most` columns of the screen as it is."""
        rows = self._texts()
        if not self._fits(widths := _widths(rows), most):
            return None
        before = " " * self._indent
        return "".join([f"{before}{GAP.join(map(_filled, texts, widths))}\n" for texts in rows])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None and (plain := self.plain(options.max_width)) is not None:
            yield Segment(plain)
        elif self._fits(widths := _widths(self._texts()), options.max_width):
            yield from _coloured(self._lines(widths))
        else:
            yield self._as_rich_would()

    def _texts(self) -> list[list[str]]:
        return [[*self._names], *([*map(_text_of, cells)] for cells, _ in self._rows)]

    def _fits(self, widths: Sequence[int], most: int) -> bool:
        return bool(widths) and self._indent + sum(widths) + len(GAP) * (len(widths) - 1) <= most

    def _lines(self, widths: Sequence[int]) -> Iterator[list[Cell]]:
        rows = [(tuple((name, HEADER) for name in self._names), ""), *self._rows]
        before = " " * self._indent
        for cells, style in rows:
            line = [(before, "")] if before else []
            for (text, own), width in zip(map(_cell_of, cells), widths, strict=True):
                line.append((_filled(text, width) + GAP, f"{style} {own}".strip()))
            line[-1] = (line[-1][0].removesuffix(GAP), line[-1][1])
            yield line

    def _as_rich_would(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style=HEADER)
        for name in self._names:
            sentence = name in WRAPPED
            table.add_column(name, no_wrap=not sentence, overflow="fold" if sentence else "ellipsis")
        for cells, style in self._rows:
            table.add_row(*(Text(text, style=own) for text, own in map(_cell_of, cells)), style=style)
        return Padding(table, (0, 0, 0, self._indent))


class Block:
    """Lines and tables, one below the other: where nothing is coloured, what fits is one text."""

    def __init__(self, *parts: Line | Columns) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is not None:
            yield from self._parts
            return
        texts: list[str] = []
        for part in self._parts:
            if (plain := part.plain(options.max_width)) is not None:
                texts.append(plain)
                continue
            yield Segment("".join(texts))
            yield part
            texts = []
        yield Segment("".join(texts))


def _cell_of(one: str | Cell) -> Cell:
    return (one, "") if isinstance(one, str) else one


def _text_of(one: str | Cell) -> str:
    return one if isinstance(one, str) else one[0]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column; none where there is a text that takes more than one line, or is shown otherwise."""
    whole = "".join(map("".join, rows))
    if not whole.isprintable():
        return []
    measure = len if whole.isascii() else cell_len
    return [max(map(measure, texts)) for texts in zip(*rows, strict=True)]


def _filled(text: str, width: int) -> str:
    """So many columns of the screen wide."""
    return text.ljust(width) if text.isascii() else text + " " * (width - cell_len(text))


def _width_of(text: str) -> int | None:
    """On the screen; None where a sign in it has none of its own, as the end of a line."""
    if not text.isprintable():
        return None
    return len(text) if text.isascii() else cell_len(text)


def _coloured(lines: Iterable[Sequence[Cell]]) -> Iterator[Segment]:
    for line in lines:
        for text, style in line:
            yield Segment(text, Style.parse(style) if style else None)
        yield Segment.line()
