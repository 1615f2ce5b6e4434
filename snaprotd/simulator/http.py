"""Serves a world over real HTTP on loopback, so that a cut, a hang or half an answer is one on the socket too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

import h11

from snaprotd.simulator.api import ROOT, Reply, Request, answer
from snaprotd.simulator.world import World

READ = 65536

Hook = Callable[[Request, str], Awaitable[None]]
"""Told of each request `before` and `after` the world has dealt with it; what it awaits holds the answer back."""


@dataclass(frozen=True, kw_only=True)
class ServedApi:
    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{ROOT}"


async def _nothing(_: Request, __: str) -> None:
    """The hook of a simulator that nobody holds up."""


@asynccontextmanager
async def serve(
    world: World, *, host: str = "127.0.0.1", port: int = 0, hook: Hook = _nothing
) -> AsyncIterator[ServedApi]:
    """Serve meanwhile. Port 0 takes a free one. Raises ValueError for an address that is not loopback."""
    if not ip_address(host).is_loopback:
        raise ValueError(f"{host} is not a loopback address: the simulator is for this machine only")
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await _Connection(world, reader, writer, hook).serve()
        except (ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            connections.discard(task)
            writer.close()

    listener = await asyncio.start_server(connected, host, port)
    try:
        yield ServedApi(port=listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await listener.wait_closed()


class _Connection:
    """One client's connection: h11 knows the protocol, the world knows the answers."""

    def __init__(self, world: World, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hook: Hook) -> None:
        self._world = world
        self._reader = reader
        self._writer = writer
        self._hook = hook
        self._protocol = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        while (request := await self._request()) is not None:
            await self._hook(request, "before")
            reply = answer(self._world, request)
            await self._hook(request, "after")
            if not await self._send(reply):
                return
            self._protocol.start_next_cycle()

    async def _request(self) -> Request | None:
        """The next request; None where the client has gone."""
        head = await self._event()
        if not isinstance(head, h11.Request):
            return None
        body = b""
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
        url = urlsplit(head.target.decode())
        headers = {name.decode().lower(): value.decode() for name, value in head.headers}
        return Request(
            method=head.method.decode(),
            path=url.path,
            query=dict(parse_qsl(url.query)),
            headers=headers,
            body=body,
            origin=f"http://{headers.get('host', '127.0.0.1')}",
        )

    async def _event(self) -> h11.Event:
        while True:
            event = self._protocol.next_event()
            if not isinstance(event, type):
                return event
            if event is h11.PAUSED:
                return h11.ConnectionClosed()
            self._protocol.receive_data(await self._reader.read(READ))

    async def _send(self, reply: Reply) -> bool:
        """Send the reply; False if the connection is of no more use."""
        if reply.effect == "cut":
            self._writer.transport.abort()
            return False
        if reply.effect == "hang":
            with suppress(ConnectionError):
                await self._reader.read()  # until the client gives up
            return False
        date = format_datetime(self._world.clock().astimezone(UTC), usegmt=True)
        headers = {"date": date, **reply.headers, "content-length": str(len(reply.body))}
        self._write(h11.Response(status_code=reply.status, headers=list(headers.items())))
        if reply.effect == "truncated":
            self._write(h11.Data(data=reply.body[: len(reply.body) // 2]))
            await self._writer.drain()
            return False
        if reply.effect == "trickle":
            await self._trickle(reply)
        elif reply.body:
            self._write(h11.Data(data=reply.body))
        self._write(h11.EndOfMessage())
        await self._writer.drain()
        return self._protocol.our_state is h11.DONE

    async def _trickle(self, reply: Reply) -> None:
        pause = reply.delay / self._world.speed / max(1, len(reply.body))
        for byte in reply.body:
            self._write(h11.Data(data=bytes([byte])))
            await self._writer.drain()
            await asyncio.sleep(pause)

    def _write(self, event: h11.Event) -> None:
        sent = self._protocol.send(event)
        if sent:
            self._writer.write(sent)
