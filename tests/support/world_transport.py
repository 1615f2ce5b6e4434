"""The simulated world as a transport of httpx: the real client, without a socket, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC
from email.utils import format_datetime

import httpx

from snaprotd.simulator import Reply, Request, World, answer

FOR_EVER = 365 * 86400.0


class _Headers:
    """What httpcore's trace tells of the request that it is about to send."""

    def __init__(self, method: str) -> None:
        self.method = method.encode()


class WorldTransport(httpx.AsyncBaseTransport):
    """`before` and `after` are called around the world's work; what they raise ends the request.

    `bend` changes what is told of it."""

    def __init__(
        self,
        world: World,
        *,
        latency: float = 0.05,
        before: Callable[[Request], None] = lambda _: None,
        after: Callable[[Request, Reply], None] = lambda _, __: None,
        bend: Callable[[Request, Reply], Reply] = lambda _, reply: reply,
    ) -> None:
        self._world = world
        self.latency = latency
        self._before = before
        self._after = after
        self._told = bend

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        trace = request.extensions.get("trace")
        if trace is not None:
            await trace("http11.send_request_headers.started", {"request": _Headers(request.method)})
        await asyncio.sleep(self.latency)
        asked = Request(
            method=request.method,
            path=request.url.path,
            query=dict(request.url.params),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            origin=f"{request.url.scheme}://{request.url.netloc.decode()}",
        )
        self._before(asked)
        reply = self._told(asked, answer(self._world, asked))
        self._after(asked, reply)
        await asyncio.sleep(self.latency)
        return await self._travel(request, reply)

    async def _travel(self, request: httpx.Request, reply: Reply) -> httpx.Response:
        if reply.effect == "cut":
            raise httpx.ReadError("the connection was cut", request=request)
        if reply.effect == "hang":
            await asyncio.sleep(FOR_EVER)
        stream = _Body(reply, self._world.speed) if reply.effect else httpx.ByteStream(reply.body)
        headers = {"Date": format_datetime(self._world.clock().astimezone(UTC), usegmt=True), **reply.headers}
        return httpx.Response(reply.status, headers=headers, stream=stream, request=request)


class _Body(httpx.AsyncByteStream):
    """A body that ends in the middle, or comes a byte at a time."""

    def __init__(self, reply: Reply, speed: float) -> None:
        self._reply = reply
        self._speed = speed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = self._reply.body
        if self._reply.effect == "truncated":
            yield body[: len(body) // 2]
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        for byte in body:
            await asyncio.sleep(self._reply.delay / self._speed / len(body))
            yield bytes([byte])
