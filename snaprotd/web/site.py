"""What the daemon shows over HTTP. Read-only, and served on the daemon's own loop: a stuck loop is a failing probe."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from snaprotd.core.errors import LedgerError
from snaprotd.core.words import is_loopback
from snaprotd.web import pages


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

EVENTS_AT_ONCE, LONGEST_ID = 500, 18
"""Events of one answer, and digits of an id."""

LAST_EVENT = "X-Snaprotd-Last-Event"
"""The header with the id up to which an answer has all events: by it is seen that a ledger has begun anew."""

SHARE = 0.1
"""Of the loop's time, for the metrics."""


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class _Fit(Response):
    """What no encoding has, such as a byte of a file's name, is replaced: no page fails for it."""

    def render(self, content: Any) -> bytes:
        return str(content).encode("utf-8", "replace")


class _Html(_Fit, HTMLResponse):
    pass


class _Text(_Fit, PlainTextResponse):
    pass


class _Json(_Fit, JSONResponse):
    def render(self, content: Any) -> bytes:
        """A piece at a time: nobody else runs, on no thread, while one of them is encoded."""
        return super().render("".join(_encoded(content)))


def _encoded(value: Any, depth: int = 2) -> Iterator[str]:
    """As JSON, what stands `depth` levels deep each by itself. Keys of mappings are text."""
    if depth and isinstance(value, Mapping):
        for number, (key, inner) in enumerate(value.items()):
            yield ("," if number else "{") + _ENCODER.encode(key) + ":"
            yield from _encoded(inner, depth - 1)
        yield "}" if value else "{}"
    elif depth and isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield "," if number else "["
            yield from _encoded(inner, depth - 1)
        yield "]" if value else "[]"
    else:
        yield _ENCODER.encode(value)


class _Site:
    """What each address answers. What is long to write is written off the loop."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._writing = asyncio.Lock()
        self._text = b""
        self._exposition: dict[bool, Response] = {}
        """As it was written last, compressed and not."""
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
            return await _made(request, _Json, await self._view.status(), headers=GUARDED)
        report = await self._view.server_status(server_id)
        if report is None:
            return _Json({"detail": f"no server {server_id} is configured"}, status_code=404, headers=GUARDED)
        return _Json(report, headers=GUARDED)

    async def events(self, request: Request) -> Response:
        """A page of them: whoever wants the next asks for what comes after the last."""
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) <= LONGEST_ID):
            return _Json({"detail": "after: the id of an event is wanted"}, status_code=400, headers=GUARDED)
        events, last = await self._view.events(int(after), EVENTS_AT_ONCE)
        return await _made(request, _Json, events, headers={**GUARDED, LAST_EVENT: str(last)})

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
                self._text, took = await _joined(self._view.exposition())
                self._exposition, self._exposition_until = {}, began + took / SHARE
            if wanted not in self._exposition:
                response = Response(self._text, media_type=CONTENT_TYPE_LATEST)
                self._exposition[wanted] = await asyncio.to_thread(_packed, response, wanted)
            return self._exposition[wanted]

    async def healthz(self, _: Request) -> Response:
        return _verdict(self._view.ailments())

    async def readyz(self, _: Request) -> Response:
        return _verdict(self._view.unready(), self._view.remarks())


async def _joined(pieces: Iterator[bytes]) -> tuple[bytes, float]:
    """The whole, made one piece at a time, and the seconds of the loop that this took."""
    time, took = asyncio.get_running_loop().time, 0.0
    made: list[bytes] = []
    while True:
        began = time()
        piece = next(pieces, None)
        took += time() - began
        if piece is None:
            return b"".join(made), took
        made.append(piece)
        await asyncio.sleep(0)


def _is_near(request: Request) -> bool:
    """Whether who asks is on this machine, as far as addresses tell."""
    here, client = request.scope.get("server"), request.client
    return client is None or is_loopback(client.host) or (here is not None and client.host == here[0])


async def _page(request: Request, code: int, render: Callable[..., str], *facts: Any) -> Response:
    return await _made(request, lambda: _Html(render(*facts), status_code=code, headers=GUARDED))


async def _made(request: Request, make: Callable[..., Response], *facts: Any, **more: Any) -> Response:
    """Off the loop: a fleet's page takes a while to write, and to compress."""
    wanted = _takes_gzip(request)
    return await asyncio.to_thread(lambda: _packed(make(*facts, **more), wanted))


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def _packed(response: Response, wanted: bool) -> Response:
    response.headers["Vary"] = "Accept-Encoding"
    if wanted and len(response.body) >= WORTH_IT:
        response.body = gzip.compress(response.body, LEVEL)
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Content-Length"] = str(len(response.body))
    return response


async def _no_ledger(_: Request, error: Exception) -> Response:
    return _Text(f"{error}\n", status_code=503)


def _verdict(problems: Sequence[str], remarks: Sequence[str] = ()) -> Response:
    text = "\n".join([*(problems or ["ok"]), *remarks])
    return _Text(f"{text}\n", status_code=503 if problems else 200)
