"""The processes of a measurement: the stand-in for the provider, snaprotd, and what is said and used by each."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import Process, Queue
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import environment
from tests.support.quick_account import ROOT, TOKEN

PYTHON = (sys.executable, "-m")
PATIENCE = 1800.0
"""Seconds after which a measurement is given up."""
FASTEST = 1000
"""Requests a second: the highest rate that can be configured."""


def until(holds: Callable[[], bool], *, what: str, every: float = 0.1) -> None:
    """Look until it holds. Raises `TimeoutError` after `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
        time.sleep(every)


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """The provider, as whoever measures sees it."""

    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{ROOT}"

    def told(self, what: str, body: str = "") -> Any:
        url = f"http://127.0.0.1:{self.port}/bench/{what}"
        return httpx.post(url, content=body, timeout=60, trust_env=False).json()

    def count(self, kind: str) -> int:
        return int(self.told("counts").get(kind, 0))


@contextmanager
def a_process(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile, and is killed at the end."""
    process = subprocess.Popen([*PYTHON, *command], text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def stand_in(**fleet: Any) -> Iterator[StandIn]:
    """The provider of such a `Fleet`, in a process of its own."""
    with a_process("bench.stand_in", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(fleet), file=process.stdin, flush=True)
        yield StandIn(port=int(process.stdout.readline()))


@contextmanager
def snaprotd(config: Path) -> Iterator[subprocess.Popen[str]]:
    """The daemon, when it runs."""
    log = config.with_suffix(".log")
    environ = environment(VPS_API_TOKEN=TOKEN)
    with log.open("w") as said, a_process("snaprotd", "run", "--config", str(config), stderr=said, env=environ) as one:
        yield one


def has_begun(config: Path) -> bool:
    said = config.with_suffix(".log").read_text()
    return '"running"' in said or " running " in said


def cpu_of(process: subprocess.Popen[str]) -> float:
    """Seconds of the processor that it has used, user and system."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the ledger says of a server's rotation."""

    server: int
    is_open: bool
    result: str | None


def recorded(ledger: Path) -> list[Recorded]:
    """Read as any other program would."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=30)) as connection:
        rows = connection.execute("SELECT server_id, is_open, result FROM rotations").fetchall()
    return [Recorded(server=int(server), is_open=bool(is_open), result=result) for server, is_open, result in rows]


# -- how much the stand-in carries ---------------------------------------------------------------------------------


def capacity(provider: StandIn, servers: Sequence[int], *, seconds: float = 3.0, clients: int = 2) -> float:
    """Requests a second that it answers when it does nothing else, each on a connection of its own as snaprotd's are.

    Every other one is for a page of the list of snapshots, the largest that is asked for.
    """
    counts: Queue[int] = Queue()
    crowd = [Process(target=_ask_on, args=(provider.port, servers[0], seconds, counts)) for _ in range(clients)]
    for one in crowd:
        one.start()
    asked = sum(counts.get() for _ in crowd)
    for one in crowd:
        one.join()
    return asked / seconds


def _ask_on(port: int, server: int, seconds: float, counts: Queue[int]) -> None:
    head = f" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    targets = (f"{ROOT}/servers/{server}/", f"{ROOT}/snapshots/?page_size=100")
    asked, ends_at = 0, time.monotonic() + seconds
    while time.monotonic() < ends_at:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"GET {targets[asked % 2]}{head}".encode())
            while connection.recv(65536):
                pass
        asked += 1
    counts.put(asked)
