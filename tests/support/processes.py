"""snaprotd as a real process, and the simulated provider on a real socket, in the test's own loop.

The provider holds a request where a test says so; the process is killed meanwhile. Nothing here sleeps for long: what
has no event is looked at every few milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from snaprotd.simulator import Request, World, serve
from tests.support.forks import Fork, Streams

ROOT = Path(__file__).parents[2]
TOKEN = "Zq7-only-the-provider-may-see-this-4Kd"
"""Of no shape that a pattern would know: it can only be kept out of the log by its value."""

PATIENCE = 30.0
"""Seconds after which a test gives up. Recovery within this time is itself what is promised."""
LOOK_EVERY = 0.02

_OURS = ("SNAPROTD_", "VPS_", "CREDENTIALS_", "STATE_DIRECTORY", "NOTIFY_SOCKET")


def environment(**more: str) -> dict[str, str]:
    """The test's own environment, without what snaprotd would read from it, and with the token."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):  # users have neither
        inherited.pop(name, None)
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests" / "support" / "quick", ROOT))),
        # Compiling all libraries anew would take each process two seconds where nothing may be written beside them.
        "PYTHONPYCACHEPREFIX": str(ROOT / ".pytest_cache" / "bytecode"),
        "COLUMNS": "100",
        "XDG_STATE_HOME": str(ROOT / ".pytest_cache" / "state"),  # nothing is noted in anybody's home
        "VPS_API_TOKEN": TOKEN,
        **more,
    }


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def run(*arguments: str, stdin: str = "", **more: str) -> Ended:
    """Run one command to its end, in a fork. Whatever it was, it has shown neither the token nor a traceback."""
    with TemporaryDirectory() as folder:
        streams = Streams(*(Path(folder) / name for name in ("output", "errors", "input")))
        streams.input.write_text(stdin)
        process = Fork(*arguments, env=environment(**more), streams=streams)
        try:
            async with asyncio.timeout(PATIENCE):
                code = await process.wait()
        finally:
            process.kill()
            await process.wait()
        out, err = streams.output.read_bytes(), streams.errors.read_bytes()
    return _judged(code, out, err)


async def run_anew(*arguments: str, **more: str) -> Ended:
    """As `run`, in a process that is started as a shell does it: Python and all."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "snaprotd", *arguments),
        env=environment(**more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return _judged(process.returncode, out, err)


def _judged(code: int, out: bytes, err: bytes) -> Ended:
    judge_output(out + err)
    return Ended(code=code, out=out.decode(), err=err.decode())


def judge_output(output: bytes) -> None:
    assert TOKEN.encode() not in output, output.decode()
    assert b"Traceback" not in output, output.decode()


class Daemon:
    """A command that goes on, as `snaprotd run` does. Its output goes to a file, so that it never waits for us."""

    def __init__(self, process: asyncio.subprocess.Process | Fork, output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def said(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """As `kill -9` does."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def ended(self) -> int:
        """Its exit code, when it has one."""
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    async def has_said(self, word: str) -> None:
        await until(lambda: word in self.said or self.returncode is not None, what=f"`{word}` in the log")
        assert word in self.said, self.said


@asynccontextmanager
async def living(process: asyncio.subprocess.Process | Fork, output: Path) -> AsyncIterator[Daemon]:
    life = Daemon(process, output)
    try:
        yield life
    finally:
        await life.kill()
        judge_output(life.said.encode())


@asynccontextmanager
async def running(
    *arguments: str, output: Path, errors: int | None = None, program: Sequence[str] = ("-m", "snaprotd"), **more: str
) -> AsyncIterator[Daemon]:
    """A command that goes on until it is told to end; it is killed if the test has not ended it.

    What it prints is added to the file `output`; its errors too, where there is no descriptor `errors`.
    `program` is what Python is told to run.
    """
    with output.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(*program, *arguments),
            env=environment(**more),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log if errors is None else errors,
        )
    async with living(process, output) as life:
        yield life


@asynccontextmanager
async def forked(
    *arguments: str, output: Path, begins: Callable[[], object] = bool, **more: str
) -> AsyncIterator[Daemon]:
    """As `running`, by a process that has snaprotd loaded. It calls `begins` first."""
    process = Fork(*arguments, env=environment(**more), streams=Streams(output, output), begins=begins)
    async with living(process, output) as life:
        yield life


@asynccontextmanager
async def daemon(config: Path, *, start: Any = forked, **more: str) -> AsyncIterator[Daemon]:
    """`snaprotd run`. Lives of one configuration share one log. `start`: `forked`, or another of those above."""
    settings = {"SNAPROTD_LOG_LEVEL": "DEBUG", **more}
    async with start("run", "--config", str(config), output=config.with_suffix(".log"), **settings) as life:
        yield life


async def next_second() -> None:
    """Wait for it. Each rotation by hand is for the slot of its second, and only one can be."""
    await asyncio.sleep(1 - time.time() % 1)


async def until(holds: Callable[[], bool], *, what: str, patience: float = PATIENCE) -> None:
    """Look until it holds; fails after `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            while not holds():  # noqa: ASYNC110 - what another process does sets no event
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        raise AssertionError(f"waited {patience:g} s for {what}") from None


_EMPTY = {"result": None, "error": None, "asked": 0, "released": 0, "watched": False}
"""What a row does not have where it is empty."""


def recorded(ledger: Path) -> list[dict[str, Any]]:
    """The rotations in the ledger's file, oldest first, read as any other program would."""
    if not ledger.exists():
        return []
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        try:
            rows = connection.execute("SELECT body FROM rotations ORDER BY started_at").fetchall()
        except sqlite3.OperationalError:
            return []  # the tables are not made yet
    return [{**_EMPTY, **json.loads(body)} for (body,) in rows]


# -- the provider ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request, as the provider's journal has it."""

    at: datetime
    method: str
    path: str
    what: str
    """`stop`, `start`, `create`, `delete`, or `get`."""


def what_is_asked(request: Request) -> str:
    if request.method == "POST":
        return str(request.json.get("action", "create"))
    return request.method.lower()


Condition = Callable[[str], bool]


@dataclass(kw_only=True)
class Hold:
    """Holds the `number`-th request that `fits`, before or after the provider's work.

    `struck` is set when it has come. What becomes of it is decided by `release`: it goes on, or (`drop`) its
    connection is cut with nothing done.
    """

    number: int
    when: str = "after"
    fits: Condition = lambda what: True
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: bool = False

    def release(self, *, drop: bool = False) -> None:
        self.dropped = drop
        self.released.set()


class Provider:
    """A world on a real socket, its journal, and the requests that it holds."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.journal: list[Asked] = []
        self.base_url = ""
        self.holds: list[Hold] = []
        self.on_request: Callable[[Asked], None] = lambda _: None

    async def hook(self, request: Request, when: str) -> None:
        what = what_is_asked(request)
        if when == "before":
            asked = Asked(at=datetime.now(UTC), method=request.method, path=request.path, what=what)
            self.journal.append(asked)
            self.on_request(asked)
        for hold in self.holds:
            if hold.when == when and hold.fits(what) and not hold.struck.is_set():
                hold.number -= 1
                if hold.number == 0:
                    await self._keep(hold)

    @staticmethod
    async def _keep(hold: Hold) -> None:
        hold.struck.set()
        await hold.released.wait()
        if hold.dropped:
            raise ConnectionAbortedError

    def asked(self, what: str) -> list[Asked]:
        return [one for one in self.journal if one.what == what]


@asynccontextmanager
async def provider(world: World) -> AsyncIterator[Provider]:
    serving = Provider(world)
    async with serve(world, hook=serving.hook) as api:
        serving.base_url = api.base_url
        yield serving


def write_config(folder: Path, base_url: str, text: str, **api: Any) -> Path:
    """A configuration file: `text` below what every test needs to be quick.

    Whatever the machine is called that the tests run on, it is none of theirs, unless `text` says so.
    """
    limits: Mapping[str, Any] = {"requests_per_second": 500, "timeout": "2s", "settle": "300ms", **api}
    path = folder / "config.yaml"
    head = f"api: {json.dumps({'base_url': base_url, **limits})}\nstate: {folder / 'state.db'}\npoll_interval: 100ms\n"
    own = "" if "own_server:" in text else "own_server: none\n"
    path.write_text(head + own + text)
    return path


async def first_of(*events: Awaitable[Any]) -> None:
    """Wait until one of them has happened; the others are let go."""
    tasks = [asyncio.ensure_future(event) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
