"""The terminal: where text goes, how wide it is, and the line that moves while something is waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from snaprotd import logs

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


def show(renderable: RenderableType) -> None:
    """Print to standard output."""
    if sys.stdout.isatty():
        console().print(renderable)
        return
    out = console()
    with out.capture() as captured:
        out.print(renderable)
    _write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _write(text: str) -> None:
    """Where the encoding has no sign for something, another one stands for it."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


Say = Callable[[str], None]


@contextmanager
def moving_line() -> Iterator[Say]:
    """Gives a function that shows how things stand, on standard error.

    On a terminal one line moves, with the time since it began; elsewhere each new text is a line of its own.
    """
    try:
        with _on_terminal() if sys.stderr.isatty() else _line_by_line() as say:
            yield say
    finally:
        logs.flush()  # a result that follows, on standard output, must not be overtaken by this


@contextmanager
def _on_terminal() -> Iterator[Say]:
    line = _MovingLine()
    with Live(line, console=console(sys.stderr), refresh_per_second=4, transient=True):
        yield line.say


@contextmanager
def _line_by_line() -> Iterator[Say]:
    last = ""

    def say(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            with suppress(OSError):  # nobody reads any more; the work goes on all the same
                print(text, file=sys.stderr, flush=True)

    yield say


class _MovingLine:
    def __init__(self) -> None:
        self._text = ""
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        self._text = text

    def __rich__(self) -> Text:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        line = Text(f"{minutes:3}:{seconds:02}  ", style="bold")
        line.append(self._text)
        line.truncate(console(sys.stderr).width, overflow="ellipsis")
        return line
