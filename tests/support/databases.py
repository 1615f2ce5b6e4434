"""The databases that a ledger may stand on, as the tests of it have them: SQLite's file, and a PostgreSQL of their own.

A process of pytest starts one server where a test asks for it, on a socket in a folder of its own. Each test has a
schema in it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from snaprotd.ledger.address import ServerAddress
from snaprotd.ledger.server.opening import open_on_server
from snaprotd.ledger.store import Ledger
from tests.support.programs import needs

KINDS = ("sqlite", "postgresql")
REFUSED = (sqlite3.IntegrityError, psycopg.IntegrityError)
"""What a database raises where a key of its own forbids a row."""


class Database(ABC):
    """Of one test."""

    @abstractmethod
    async def open(self, owner: str, *, lease: float = 60.0, kind: type[Ledger] = Ledger) -> Ledger:
        """Its ledger, as a process sees it."""

    @abstractmethod
    def sql(self, statement: str, *values: object) -> list[Any]:
        """One statement by another program, committed; `?` stands for each of the values."""


class SqliteDatabase(Database):
    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self, owner: str, *, lease: float = 60.0, kind: type[Ledger] = Ledger) -> Ledger:
        return await kind.open(self.path, owner=owner, lease=lease)

    def sql(self, statement: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()


class PostgresqlDatabase(Database):
    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder

    async def open(self, owner: str, *, lease: float = 60.0, kind: type[Ledger] = Ledger) -> Ledger:
        """Each process is on a host of its own."""
        beside = self._folder / f"host-of-{owner}" / "state"
        beside.parent.mkdir(exist_ok=True)
        return await open_on_server(ServerAddress(self.url), beside, owner=owner, lease=lease, kind=kind)

    def sql(self, statement: str, *values: object) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            answer = connection.execute(statement.replace("?", "%s"), values or None)
            return answer.fetchall() if answer.description else []


class Server:
    """A PostgreSQL that is gone with its folder. It waits for no disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._schemas = count(1)
        self._runs = False
        self._programs = _programs()

    def start(self) -> None:
        self._run("initdb", "-U", "snaprotd", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        self._start()

    def _start(self) -> None:
        options = f"-c listen_addresses='' -k {self._folder} -c fsync=off -c shared_buffers=16MB"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")
        self._runs = True

    @contextmanager
    def standby(self) -> Iterator[Server]:
        """Another one, which follows this one as closely as it can."""
        with temporary_folder("pg-") as folder:
            one = Server(folder)
            one._run(
                "pg_basebackup", "-U", "snaprotd", "-h", str(self._folder), "-R", "-X", "stream", "-c", "fast", "-N"
            )
            one._start()
            try:
                yield one
            finally:
                one.stop()

    def promote(self) -> None:
        """Without a checkpoint."""
        with psycopg.connect(self._url(), autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote(wait => true)").fetchone() == (True,)

    def restart(self) -> None:
        """At once: what is under way is cut."""
        self.stop()
        self._start()

    @property
    def socket(self) -> Path:
        return self._folder / ".s.PGSQL.5432"

    def sql(self, statement: str, database: str = "postgres") -> list[Any]:
        """One statement, committed, and what it answers."""
        with psycopg.connect(self._url(database), autocommit=True) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    def until_it_has(self, statement: str) -> None:
        """Wait until that has an answer here."""
        with psycopg.connect(self._url(), autocommit=True) as connection:
            for _ in range(3000):
                if connection.execute(statement).fetchone():
                    return
                time.sleep(0.01)
        raise AssertionError(f"nothing answers: {statement}")

    def or_else(self, other: Server, schema: str) -> str:
        """The address `schema` of this one, or of the other where that can be written and this one is gone."""
        hosts = f"{quote(str(self._folder), safe='')},{quote(str(other._folder), safe='')}"
        return schema.replace(quote(str(self._folder), safe=""), hosts) + "&target_session_attrs=read-write"

    def stop(self) -> None:
        if self._runs:
            self._runs = False
            self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def schema(self) -> str:
        """The address of a new one."""
        name = f"test_{next(self._schemas)}"
        url = self._url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{url}&options=-csearch_path%3D{name}"

    def _url(self, database: str = "postgres") -> str:
        return f"postgresql://snaprotd@/{database}?host={quote(str(self._folder), safe='')}"

    def _run(self, program: str, *arguments: str) -> None:
        """As nobody where we are root: it refuses that."""
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        as_whom: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(self._folder, NOBODY, NOBODY)
            as_whom = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        done = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=120, check=False, **as_whom
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


NOBODY = 65534


def _programs() -> Path:
    """Where those of the server are. Debian keeps them off the PATH, a folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return found[-1].parent if found else Path(needs("pg_ctl", "install postgresql")).resolve().parent


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Under a path that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server() -> Iterator[Server]:
    with temporary_folder("pg-") as folder:
        one = Server(folder)
        one.start()
        try:
            yield one
        finally:
            one.stop()
