"""Processes that have snaprotd loaded already: forks of one that loaded it, and has done nothing else.

Each is as real as one that the shell starts: its own memory, files, sockets and signals, and a `kill -9` leaves nothing
of it. What it lacks is the half second of imports, which hundreds of them would add up.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.loaded"])


@dataclass(frozen=True)
class Streams:
    """The files behind a process's standard streams: what it prints is added to them."""

    output: Path
    errors: Path
    input: Path = Path(os.devnull)

    @classmethod
    def terminal(cls, name: str) -> Streams:
        return cls(Path(name), Path(name), Path(name))


class Fork:
    """The part of asyncio's `Process` that tests use, for `snaprotd ARGUMENTS` in a fork. `begins` is called there."""

    def __init__(
        self, *arguments: str, env: dict[str, str], streams: Streams, begins: Callable[[], object] = bool
    ) -> None:
        work = (arguments, env, streams, os.getcwd(), begins)
        self._process = _context.Process(target=_live, args=work, daemon=True)
        self._process.start()
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._process.sentinel, self._ends)

    def _ends(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._over.set()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode if self._over.is_set() else None

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.pid is not None and not self._over.is_set():
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await self._over.wait()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _live(
    arguments: tuple[str, ...], env: dict[str, str], streams: Streams, folder: str, begins: Callable[[], object]
) -> None:
    from snaprotd.__main__ import main

    begins()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
    sys.argv = ["snaprotd", *arguments]
    _open(streams)
    try:
        main()
    finally:
        atexit._run_exitfuncs()


def _open(streams: Streams) -> None:
    """Give the process its standard streams, as Python makes them at its start."""
    writable = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY
    for number, path, flags in ((0, streams.input, os.O_RDONLY | os.O_NOCTTY), (1, streams.output, writable)):
        _put(os.open(path, flags), number)
    _put(os.dup(1) if streams.errors == streams.output else os.open(streams.errors, writable), 2)
    sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", line_buffering=os.isatty(1))
    binary = os.fdopen(2, "wb", closefd=False)
    sys.stderr = io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _put(descriptor: int, number: int) -> None:
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
