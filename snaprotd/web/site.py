"""What the daemon shows over HTTP. Read-only, and served on the daemon's own loop: a stuck loop is a failing probe."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from snaprotd.core.errors import LedgerError
from snaprotd.core.words import is_loopback
from snaprotd.web import pages
from snaprotd.web.pages.selection import Entries, encoded


class View(Protocol):
    """What the pages need to know of the daemon."""

    def exposition(self) -> Iterator[bytes]:
        """The metrics, in Prometheus' text format: pieces, after each of which others may have their turn."""

    def ailments(self) -> Sequence[str]:
        """What keeps the daemon from doing its job at all, in words; empty if it is healthy."""

    def unready(self) -> Sequence[str]:
        """What it still waits for before its job can begin; empty if it is ready."""

    def remarks(self) -> Sequence[str]:
        """What somebody should look at, though the job goes on."""

    def head(self) -> Mapping[str, Any]:
        """What every page shows above and below what it is about."""

    async def status(self) -> Mapping[str, Any]:
        """How everything stands, as plain JSON values."""

    async def server_status(self, name: str) -> Mapping[str, Any] | None:
        """How the server of this id or label stands, with its policy and history; None where it is not configured.

        Raises `LedgerError` where the history cannot be read.
        """

    async def events(self, after: int, limit: int) -> tuple[Sequence[Mapping[str, Any]], int]:
        """The events after the one of this id, as they were written, and the id up to which that is all.

        That is less than `after` where the ledger was lost, and counts anew. Raises `LedgerError`.
        """

    def identity(self, config: str, challenge: str) -> Mapping[str, str] | None:
        """Which ledger the daemon of the configuration file `config` has, with a proof; None where we are another's."""


def application(view: View) -> Starlette:
    site = _Site(view)
    return Starlette(
        routes=[
            Route("/", site.fleet),
            Route("/servers/{server_id}", site.server),
            Route("/static/{name}", site.static),
            Route("/api/status", site.status),
            Route("/api/events", site.events),
            Route("/api/identity", site.identity),
            Route("/metrics", site.metrics),
            Route("/healthz", site.healthz),
            Route("/readyz", site.readyz),
        ],
        exception_handlers={LedgerError: _no_ledger},
    )


GUARDED = {
    # Nothing on a page comes from, or goes to, another host; nothing of it runs that is not a file of ours.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


WORTH_IT, LEVEL = 1000, 4
"""Bytes that are worth to be compressed, and how much: the highest level takes three times as long for a tenth."""

TEXT = "text"
"""Under this in the state of a request stands by what the text of its answer is known, and how many bytes it has: the
pieces of one report are the same ones in each answer."""

BLOCK = 64 * 1024
"""Bytes that are written at once."""

EVENTS_AT_ONCE, LONGEST_ID = 500, 18
"""Events of one answer, and digits of an id."""

LAST_EVENT = "X-Snaprotd-Last-Event"
"""The header with the id up to which an answer has all events: by it is seen that a ledger has begun anew."""

SHARE = 0.1
"""Of the loop's time, for the metrics."""


class _Text(PlainTextResponse):
    def render(self, content: str) -> bytes:
        return _fit(content)


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return b"".join(_encoded(content))


def _fit(text: str) -> bytes:
    """What no encoding has, such as a byte of a file's name, is replaced: no page fails for it."""
    return text.encode("utf-8", "replace")


class _InPieces(Response):
    """An answer that may be long. It is neither copied together nor written at once: of a fleet it is many megabytes.

    `packed`: whoever asks takes gzip. To be made in a thread.
    """

    def __init__(self, pieces: Iterable[bytes], *, packed: bool, **more: Any) -> None:
        super().__init__(**more)
        self._pieces = [*pieces]
        size = sum(map(len, self._pieces))
        self.headers["Vary"] = "Accept-Encoding"
        if packed and size >= WORTH_IT:
            self._pieces = [*_compressed(_in_blocks(self._pieces))]
            size = sum(map(len, self._pieces))
            self.headers["Content-Encoding"] = "gzip"
        self.headers["Content-Length"] = str(size)
        self._text = (id(max(self._pieces, key=len, default=self)), size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[TEXT] = self._text
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for block in _in_blocks(self._pieces):
            await send({"type": "http.response.body", "body": block, "more_body": True})  # as it is read
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


def _in_blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same in blocks that are worth a call each."""
    block = bytearray()
    for piece in pieces:
        block += piece
        while len(block) >= BLOCK:
            yield bytes(block[:BLOCK])
            del block[:BLOCK]
    if block:
        yield bytes(block)


def _compressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(LEVEL, wbits=zlib.MAX_WBITS + 16)  # as gzip
    yield from map(packer.compress, blocks)
    yield packer.flush()


def _encoded(value: Any, depth: int = 2) -> Iterator[bytes]:
    """As JSON, what stands `depth` levels deep each by itself. Keys of mappings are text."""
    if depth and isinstance(value, Mapping):
        for number, (key, inner) in enumerate(value.items()):
            yield (b"," if number else b"{") + encoded(key) + b":"
            yield from _encoded(inner, depth - 1)
        yield b"}" if value else b"{}"
    elif isinstance(value, Entries):
        for number, text in enumerate(value.texts):
            yield b"," if number else b"["
            yield text
        yield b"]" if value.texts else b"[]"
    elif depth and isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield b"," if number else b"["
            yield from _encoded(inner, depth - 1)
        yield b"]" if value else b"[]"
    else:
        yield encoded(value)


class _Site:
    """What each address answers. What is long to write is written off the loop."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._writing = asyncio.Lock()
        self._text: Sequence[bytes] = ()
        self._exposition: dict[bool, Response] = {}
        """As it was written last, compressed or not, as it was asked for."""
        self._exposition_until = 0.0

    async def fleet(self, request: Request) -> Response:
        return await _page(request, 200, pages.fleet_page, await self._view.status(), dict(request.query_params))

    async def server(self, request: Request) -> Response:
        server_id = request.path_params["server_id"]
        server = await self._view.server_status(server_id)
        if server is None:
            no_such = f"No server {server_id} is configured."
            return await _page(request, 404, pages.missing_page, self._view.head(), no_such)
        return await _page(request, 200, pages.server_page, self._view.head(), server)

    async def static(self, request: Request) -> Response:
        media_type, content = pages.STATIC.get(request.path_params["name"], ("", b""))
        if not content:
            return _Text("not found\n", status_code=404)
        return Response(content, media_type=media_type, headers={**GUARDED, "Cache-Control": "max-age=60"})

    async def status(self, request: Request) -> Response:
        server_id = request.query_params.get("server")
        if server_id is None:
            report = await self._view.status()
            return await _made(request, lambda: _encoded(report), media_type="application/json")
        server = await self._view.server_status(server_id)
        if server is None:
            return _Json({"detail": f"no server {server_id} is configured"}, status_code=404, headers=GUARDED)
        return _Json(server, headers=GUARDED)

    async def events(self, request: Request) -> Response:
        """A page of them: whoever wants the next asks for what comes after the last."""
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) <= LONGEST_ID):
            return _Json({"detail": "after: the id of an event is wanted"}, status_code=400, headers=GUARDED)
        events, last = await self._view.events(int(after), EVENTS_AT_ONCE)
        told = {**GUARDED, LAST_EVENT: str(last)}
        return await _made(request, lambda: _encoded(events), media_type="application/json", headers=told)

    async def identity(self, request: Request) -> Response:
        """For commands on this machine, which look for the daemon of their file."""
        asked = request.query_params
        told = self._view.identity(asked.get("config", ""), asked.get("challenge", "")) if _is_near(request) else None
        if told is None:
            return _Json({"detail": "another daemon"}, status_code=404, headers=GUARDED)
        return _Json(told, headers=GUARDED)

    async def metrics(self, request: Request) -> Response:
        """Written on the loop, in pieces, of which it takes `SHARE` at the most, however many ask for it."""
        began, wanted = asyncio.get_running_loop().time(), _takes_gzip(request)
        async with self._writing:
            if began >= self._exposition_until:
                self._text, took = await _pieces_of(self._view.exposition())
                self._exposition, self._exposition_until = {}, began + took / SHARE
            if wanted not in self._exposition:
                self._exposition[wanted] = await asyncio.to_thread(
                    _InPieces, self._text, packed=wanted, media_type=CONTENT_TYPE_LATEST
                )
            return self._exposition[wanted]

    async def healthz(self, _: Request) -> Response:
        return _verdict(self._view.ailments())

    async def readyz(self, _: Request) -> Response:
        return _verdict(self._view.unready(), self._view.remarks())


async def _pieces_of(text: Iterator[bytes]) -> tuple[Sequence[bytes], float]:
    """All of it, made one piece at a time, and the seconds of the loop that this took."""
    time, took = asyncio.get_running_loop().time, 0.0
    made: list[bytes] = []
    while True:
        began = time()
        piece = next(text, None)
        took += time() - began
        if piece is None:
            return made, took
        made.append(piece)
        await asyncio.sleep(0)


def _is_near(request: Request) -> bool:
    """Whether who asks is on this machine, as far as addresses tell."""
    here, client = request.scope.get("server"), request.client
    return client is None or is_loopback(client.host) or (here is not None and client.host == here[0])


async def _page(request: Request, code: int, render: Callable[..., str], *facts: Any) -> Response:
    return await _made(request, lambda: [_fit(render(*facts))], status_code=code, media_type="text/html")


async def _made(
    request: Request, make: Callable[[], Iterable[bytes]], *, headers: Mapping[str, str] = GUARDED, **more: Any
) -> Response:
    """Off the loop: a fleet's page takes a while to write, and to compress."""
    packed = _takes_gzip(request)
    return await asyncio.to_thread(lambda: _InPieces(make(), packed=packed, headers=headers, **more))


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


async def _no_ledger(_: Request, error: Exception) -> Response:
    return _Text(f"{error}\n", status_code=503)


def _verdict(problems: Sequence[str], remarks: Sequence[str] = ()) -> Response:
    text = "\n".join([*(problems or ["ok"]), *remarks])
    return _Text(f"{text}\n", status_code=503 if problems else 200)
