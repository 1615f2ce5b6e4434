"""Processes that have snaprotd loaded already: forks of one that loaded it, and has done nothing else.

Each is as real as one that the shell starts: its own memory, files, sockets and signals, and a `kill -9` leaves nothing
of it. What it lacks is the half second of imports, which hundreds of them would add up.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.loaded"])


class Fork:
    """The part of asyncio's `Process` that tests use, for `snaprotd ARGUMENTS` in a fork.

    What it prints is added to the file `output`.
    """

    def __init__(self, *arguments: str, env: dict[str, str], output: Path) -> None:
        self._process = _context.Process(target=_live, args=(arguments, env, output), daemon=True)
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


def _live(arguments: tuple[str, ...], env: dict[str, str], output: Path) -> None:
    from snaprotd.__main__ import main

    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["snaprotd", *arguments]
    log = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    main()
