"""A command in a pseudo-terminal, as a person runs it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import struct
import sys
import termios
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.support.forks import Fork, Streams
from tests.support.processes import LOOK_EVERY, PATIENCE, TOKEN, environment

CTRL_C = "\x03"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Shown:
    """What a terminal has shown: the bytes, and the text without its colours and movements."""

    code: int
    raw: str

    @property
    def text(self) -> str:
        return _ESCAPE.sub("", self.raw).replace("\r\n", "\n")

    @property
    def is_coloured(self) -> bool:
        return bool(re.search(r"\x1b\[[0-9;]*m", self.raw))

    @property
    def widest(self) -> int:
        """Columns of the widest line."""
        return max((_width(line) for part in self.text.split("\n") for line in part.split("\r")), default=0)


def _width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line.rstrip())


async def run_until_the_terminal_closes(*arguments: str, closes: Callable[[], bool], **more: str) -> int:
    """Run a command as the only one of a terminal, which is closed as soon as `closes` holds. Its exit code."""
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    # Who leads a session and opens a terminal, has it: closing it then hangs up (SIGHUP).
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec <{name} >{name} 2>&1 && exec "$0" -m snaprotd "$@"', sys.executable, *arguments),
        env={**environment(TERM="xterm-256color"), **more},
        start_new_session=True,
    )
    os.set_blocking(ours, False)
    try:
        async with asyncio.timeout(PATIENCE):
            while not closes():
                with suppress(BlockingIOError):
                    os.read(ours, 65536)
                await asyncio.sleep(LOOK_EVERY)
            os.close(theirs)
            os.close(ours)
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_in_terminal(
    *arguments: str, columns: int = 80, answers: Callable[[str], str | None] = lambda _: None, **more: str
) -> Shown:
    """Run a command in a terminal of so many columns.

    `answers` is given all that was shown so far, whenever more is, and tells what is typed then (None: nothing). Of
    Ctrl-C the terminal makes a signal.
    """
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = {**environment(TERM="xterm-256color"), **more}
    for name in {"COLUMNS", "NO_COLOR"} - more.keys():
        settings.pop(name, None)
    process = Fork(*arguments, env=settings, streams=Streams.terminal(os.ttyname(theirs)))
    shown = bytearray()
    ended = asyncio.Event()

    def read() -> None:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            piece = b""
        if not piece:
            asyncio.get_running_loop().remove_reader(ours)
            ended.set()
            return
        shown.extend(piece)
        typed = answers(shown.decode(errors="replace"))
        if typed == CTRL_C:
            process.send_signal(signal.SIGINT)
        elif typed is not None:
            os.write(ours, typed.encode())

    asyncio.get_running_loop().add_reader(ours, read)
    try:
        async with asyncio.timeout(PATIENCE):
            code = await process.wait()
            os.close(theirs)  # the last one: what is left is read, then there is an end
            theirs = -1
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
            process.kill()
            await process.wait()
    text = shown.decode()
    assert TOKEN not in text
    assert "Traceback" not in text, text
    return Shown(code=code, raw=text)
