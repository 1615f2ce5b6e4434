"""What lies between a replica and its database: a network that may be silent or cut, and a pooler."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.databases import NOBODY, temporary_folder

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
READ = 65536


class Network:
    """From a port of this host to the socket of whichever database there is.

    While it is silent nothing comes through, in either direction, and nobody is told. Afterwards what was sent arrives,
    or (`forgets`) each end finds that its connection is gone.
    """

    def __init__(self, socket: Callable[[], Path]) -> None:
        self._socket = socket
        self._passes = asyncio.Event()
        self._passes.set()
        self._is_cut = False
        self._ends: set[StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def fall_silent(self) -> None:
        self._passes.clear()

    def cut(self) -> None:
        """Each connection is reset, and so is each that comes."""
        self._is_cut = True
        self.reset()

    def reset(self) -> None:
        for end in list(self._ends):
            end.transport.abort()

    def heal(self, *, forgets: bool = False) -> None:
        if forgets:
            self.reset()
        self._is_cut = False
        self._passes.set()

    async def connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        with self._end(writer), suppress(OSError):
            await self._passes.wait()
            if self._is_cut:
                return
            there, back = await asyncio.open_unix_connection(self._socket())
            with self._end(back):
                ways = [asyncio.create_task(self._carry(*way)) for way in ((reader, back), (there, writer))]
                self._tasks.update(ways)
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                        self._tasks.discard(way)

    @contextmanager
    def _end(self, writer: StreamWriter) -> Iterator[None]:
        self._ends.add(writer)
        try:
            yield
        finally:
            self._ends.discard(writer)
            writer.transport.abort()

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        """The end of a connection is a message too."""
        with suppress(OSError):
            while read := await reader.read(READ):
                await self._passes.wait()
                writer.write(read)
                await writer.drain()
        await self._passes.wait()


@asynccontextmanager
async def network(socket: Callable[[], Path]) -> AsyncIterator[Network]:
    way = Network(socket)
    server = await asyncio.start_server(way.connect, "127.0.0.1")
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        way.heal(forgets=True)
        await asyncio.sleep(0)


@contextmanager
def pooler(socket: Path) -> Iterator[Path]:
    """A PgBouncer in transaction mode before the database behind that socket; its own socket."""
    assert PGBOUNCER is not None
    with temporary_folder("bouncer-") as folder:
        settings = f"""
[databases]
* = host={socket.parent}
[pgbouncer]
listen_port = 6432
unix_socket_dir = {folder}
pool_mode = transaction
default_pool_size = 8
auth_type = trust
auth_file = {folder}/users
logfile = {folder}/log
server_login_retry = 1
"""
        (folder / "users").write_text('"snaprotd" ""\n')
        (folder / "settings.ini").write_text(settings)
        as_whom: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
            as_whom = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with subprocess.Popen([PGBOUNCER, "-q", str(folder / "settings.ini")], cwd="/", **as_whom) as process:
            own = folder / ".s.PGSQL.6432"
            try:
                _until_there(own, process)
                yield own
            finally:
                process.kill()


def _until_there(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, "pgbouncer has ended"
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.02)
