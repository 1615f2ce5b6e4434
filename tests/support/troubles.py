"""Processes in trouble: whose reader leaves or never reads, whose streams are closed, whose disk is full.

How the interpreter begins and ends is a part of what is tried here, so that none of them is a fork.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from tests.support.processes import PATIENCE, Daemon, environment, judge_output, running


async def run_for_a_reader_who_leaves(*arguments: str, lines: int, errors_too: bool, **more: str) -> int:
    """Run one command, as `snaprotd ... | head -N` does; with `errors_too` as `2>&1 | head -N`. Its exit code.

    After so many lines nobody reads any more. What else it writes to standard error is thrown away.
    """
    ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "snaprotd", *arguments),
        env=environment(**more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs if errors_too else asyncio.subprocess.DEVNULL,
    )
    os.close(theirs)
    try:
        async with asyncio.timeout(PATIENCE):
            with open(ours, "rb", buffering=0) as pipe:  # noqa: ASYNC230 - it is open already
                for _ in range(lines):
                    assert await asyncio.to_thread(pipe.readline)
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_redirected(*arguments: str, to: str) -> int:
    """Run one command as `snaprotd ... TO` in a shell, with `to` such as `>/dev/full`. Its exit code."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m snaprotd "$@" {to}', sys.executable, *arguments),
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(PATIENCE):
        return await process.wait()


OF_A_SHORT_QUEUE = """
from snaprotd.logs import outlet
outlet.MOST_LINES = 5
from snaprotd.__main__ import main
main()
"""


def running_unread(*arguments: str, output: Path, errors: int, **more: str) -> AbstractAsyncContextManager[Daemon]:
    """As `running`, but standard error is the descriptor `errors`, and only five lines may wait for its reader."""
    program = ("-c", OF_A_SHORT_QUEUE)
    return running(*arguments, output=output, errors=errors, program=program, SNAPROTD_LOG_LEVEL="DEBUG", **more)


@asynccontextmanager
async def running_on_a_full_disk(*arguments: str, output: Path, **more: str) -> AsyncIterator[Daemon]:
    """As `running`, but no file of the command's grows; what it prints comes to `output` through us."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'ulimit -f 0 && exec "$0" -m snaprotd "$@"', sys.executable, *arguments),
        env=environment(**more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    copying = asyncio.create_task(_copy(process.stdout, output))
    life = Daemon(process, output)
    try:
        yield life
    finally:
        await life.kill()
        await copying
        judge_output(life.said.encode())


async def _copy(stream: asyncio.StreamReader, output: Path) -> None:
    with output.open("ab", buffering=0) as log:
        while piece := await stream.read(65536):
            log.write(piece)
