"""The terminal: where text goes, how wide it is, and the line that moves while something is waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO

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


def is_answered() -> bool:
    """Whether somebody sees a question, and can answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Say(Protocol):
    """Says how things stand."""

    def __call__(self, text: str) -> None:
        """Until something else is said."""

    def for_good(self, text: str, *, is_last: bool = False) -> None:
        """On a line that stays. After what `is_last` the process may end at any moment."""


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
    with Live(line, console=console(sys.stderr), refresh_per_second=4, transient=True) as line.live:
        yield line


@contextmanager
def _line_by_line() -> Iterator[Say]:
    yield _Lines()


class _Lines:
    def __init__(self) -> None:
        self._last = ""

    def __call__(self, text: str) -> None:
        if text != self._last:
            self._last = text
            with suppress(OSError):  # nobody reads any more; the work goes on all the same
                print(logs.redactor.clean(text), file=sys.stderr, flush=True)

    def for_good(self, text: str, *, is_last: bool = False) -> None:
        self(text)


class _MovingLine:
    live: Live

    def __init__(self) -> None:
        self._text = ""
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        self._text = logs.redactor.clean(text)

    def for_good(self, text: str, *, is_last: bool = False) -> None:
        if is_last:
            self.live.stop()  # the cursor is there again, and the line is gone
        with suppress(OSError):
            print(logs.redactor.clean(text), file=sys.stderr, flush=True)

    def __rich__(self) -> Text:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        line = Text(f"{minutes:3}:{seconds:02}  ", style="bold")
        line.append(self._text)
        line.truncate(console(sys.stderr).width, overflow="ellipsis")
        return line
