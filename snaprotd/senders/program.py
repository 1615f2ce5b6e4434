"""A program that is started with each message as JSON on its standard input.

Whoever writes the configuration is not to start programs of their own by it. So only what lies in
a folder is run that whoever runs snaprotd has named, and into which nobody else can put anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from snaprotd.core.telling import Message
from snaprotd.senders import Answer, failed, sent

PATIENCE = 30.0
"""Seconds until it, and all that it has started, is killed."""
LAST_WORDS = 1.0
"""Seconds for which its words are read when it has ended."""
LARGEST = 4096
"""Bytes of what it says on standard error that are read; whatever follows is thrown away."""
GIVEN = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
"""Its whole environment: ours holds the token."""


class Program:
    """A `Sender`."""

    def __init__(self, argv: Sequence[str], *, folders: Sequence[Path]) -> None:
        """`folders` are those of all programs that may be run."""
        self._argv = tuple(argv)
        self._folders = tuple(folders)

    async def send(self, message: Message) -> Answer:
        if why := await asyncio.to_thread(why_not_run, Path(self._argv[0]), self._folders):
            return failed(why)
        body = json.dumps(message.as_json()).encode() + b"\n"
        async with _pipe() as (words, its_end):
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._argv, stdin=PIPE, stdout=DEVNULL, stderr=its_end, env=GIVEN, cwd="/", start_new_session=True
                )
            except (OSError, ValueError) as error:
                return failed(f"{self._argv[0]} cannot be run: {getattr(error, 'strerror', None) or error}")
            finally:
                os.close(its_end)
            reading = asyncio.create_task(_said(words))
            try:
                async with asyncio.timeout(PATIENCE):
                    await _give(process, body)
                    code = await process.wait()
            except TimeoutError:
                return failed(f"{self._argv[0]} did not end within {PATIENCE:g} s, and was killed")
            finally:
                await _ended(process, reading)
        if code == 0:
            return sent("it ended with 0")
        return failed(f"{self._argv[0]} ended with {code}: {await reading}")

    async def look(self) -> Sequence[str]:
        return list(filter(None, [await asyncio.to_thread(why_not_run, Path(self._argv[0]), self._folders)]))


@asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[asyncio.StreamReader, int]]:
    """What is written into its end. Ours, and not the process's: whom it leaves behind may keep that open for ever."""
    read, write = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", 0)
    )
    try:
        yield reader, write
    finally:
        transport.close()


async def _give(process: Process, body: bytes) -> None:
    """It need not read what it is given."""
    assert process.stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(body)
        await process.stdin.drain()
        process.stdin.close()


async def _said(words: asyncio.StreamReader) -> str:
    said = b""
    with suppress(asyncio.CancelledError):
        while some := await words.read(LARGEST):
            said = (said + some)[:LARGEST]
    return said.decode("utf-8", "replace")


async def _ended(process: Process, reading: asyncio.Task[str]) -> None:
    """It, and whatever it has left behind in its session; of anybody else no word is waited for."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    await asyncio.wait([reading], timeout=LAST_WORDS)
    reading.cancel()


def why_not_run(program: Path, folders: Sequence[Path]) -> str:
    """Why a program is not run, as a sentence; empty where it is.

    Neither the file nor anything on the way to it may be another user's, or be written by others than its owner.
    """
    real = Path(os.path.realpath(program))
    if not program.is_absolute() or not any(real.is_relative_to(os.path.realpath(one)) for one in folders):
        places = " or ".join(map(str, folders))
        return f"{program} is not run: programs are to lie in {places}; $SNAPROTD_ALLOW_RUN names more folders"
    try:
        for path in (real, *real.parents):
            if why := _why_not_trusted(path):
                return f"{program} is not run: {path} {why}"
    except OSError as error:
        return f"{program} cannot be run: {error.strerror}"
    return "" if os.access(real, os.X_OK) else f"{program} cannot be run: it is not executable for this user"


def _why_not_trusted(path: Path) -> str:
    status = os.stat(path)
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}, who is neither root nor the user that snaprotd runs as"
    is_sticky_folder = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky_folder:
        return "can be written by others than its owner"
    return ""
