"""The terminal: where text goes, how wide it is, and the line that moves while something is waited for."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol, TextIO

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from snaprotd import logs

ROWS_LEFT = 3
"""Rows of a terminal that are not filled with what moves: what is printed above it is to be read."""

UNBROKEN = 500
"""Columns where nobody watches: a program that reads the lines wants each fact on one."""


def console(stream: TextIO | None = None) -> Console:
    """A console on `stream` (standard output): as wide as the terminal, coloured only on one."""
    stream = stream or sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else UNBROKEN,
        highlight=False,
        markup=False,
        emoji=False,
    )


def tell(text: str, *, err: bool = False, indent: int = 0) -> None:
    """Print sentences, on a terminal broken between words; all lines but the first are indented by so much."""
    stream = sys.stderr if err else sys.stdout
    click.echo(folded(text, stream, indent), err=err)


def folded(text: str, stream: TextIO, indent: int = 0) -> str:
    if not stream.isatty():
        return text
    fold = partial(
        textwrap.fill,
        width=console(stream).width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(map(fold, text.split("\n")))


def show(renderable: RenderableType) -> None:
    """Print to standard output."""
    if sys.stdout.isatty():
        console().print(renderable)
        return
    out = console()
    with out.capture() as captured:
        out.print(renderable, crop=False)  # nothing is wider than it was laid out for
    _write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _write(text: str) -> None:
    """Where the encoding has no sign for something, another one stands for it."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


@contextmanager
def screen() -> Iterator[Callable[[RenderableType], None]]:
    """What each call shows takes the place of what was shown before. Without a terminal it comes below it."""
    if not sys.stdout.isatty():
        yield show
        return
    with Live(console=console(), screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda shown: live.update(shown, refresh=True)


def is_answered() -> bool:
    """Whether somebody sees a question, and can answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def is_wanted(question: str) -> bool:
    """Whether somebody answers it with yes. Where not, it is said that nothing was done."""
    try:
        wanted = click.confirm(question, err=True)
    except click.Abort:  # the end of the input, or Ctrl-C
        wanted = False
        click.echo(err=True)
    if not wanted:
        click.echo("Nothing was done.", err=True)
    return wanted


class Say(Protocol):
    """Says how things stand."""

    def __call__(self, text: str, *, of: str = "") -> None:
        """Until something else is said; of each thing by itself, where several go on at once."""

    def over(self, text: str, *, of: str) -> None:
        """Of that nothing more is to be said than this."""

    def for_good(self, text: str, *, is_last: bool = False) -> None:
        """On a line that stays. After what `is_last` the process may end at any moment."""


@contextmanager
def moving_line() -> Iterator[Say]:
    """Gives a function that shows how things stand, on standard error.

    On a terminal one line moves, with the time since it began, and under it one for each thing that goes on; elsewhere
    each new text is a line of its own.
    """
    try:
        with _on_terminal() if sys.stderr.isatty() else _line_by_line() as say:
            yield say
    finally:
        logs.flush()  # a result that follows, on standard output, must not be overtaken by this


@contextmanager
def _on_terminal() -> Iterator[Say]:
    lines = MovingLines()
    with Live(lines, console=console(sys.stderr), refresh_per_second=4, transient=True) as lines.live:
        yield lines


@contextmanager
def _line_by_line() -> Iterator[Say]:
    yield Lines()


class Lines:
    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def __call__(self, text: str, *, of: str = "") -> None:
        if text != self._last.get(of):
            self._last[of] = text
            with suppress(OSError):  # nobody reads any more; the work goes on all the same
                print(logs.redactor.clean(text), file=sys.stderr, flush=True)

    def over(self, text: str, *, of: str) -> None:
        self(text, of=of)

    def for_good(self, text: str, *, is_last: bool = False) -> None:
        self(text)


class MovingLines:
    live: Live

    def __init__(self) -> None:
        self._texts = {"": ""}
        self._began = time.monotonic()

    def __call__(self, text: str, *, of: str = "") -> None:
        self._texts[of] = logs.redactor.clean(text)

    def over(self, text: str, *, of: str) -> None:
        self._texts.pop(of, None)
        self(text)

    def for_good(self, text: str, *, is_last: bool = False) -> None:
        if is_last:
            self.live.stop()  # the cursor is there again, and the line is gone
        with suppress(OSError):
            print(folded(logs.redactor.clean(text), sys.stderr), file=sys.stderr, flush=True)

    def __rich__(self) -> Text:
        screen = console(sys.stderr)
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        first, *others = self._texts.values()
        room = max(screen.height - ROWS_LEFT, 1)
        if len(others) > room:
            others[room - 1 :] = [f"and {len(others) - room + 1} more"]
        clock = f"{minutes:3}:{seconds:02}  "
        rows = [Text.assemble((clock, "bold"), first), *(Text(" " * len(clock) + row) for row in others)]
        for row in rows:
            row.truncate(screen.width, overflow="ellipsis")
        return Text("\n").join(rows)
