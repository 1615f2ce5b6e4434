"""What the daemon shows over HTTP. Read-only, and served on the daemon's own loop: a stuck loop is a failing probe."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from snaprotd.errors import SnaprotdError


class View(Protocol):
    """What the pages need to know of the daemon."""

    def exposition(self) -> bytes:
        """The metrics, in Prometheus' text format."""

    def ailments(self) -> Sequence[str]:
        """What keeps the daemon from doing its job at all, in words; empty if it is healthy."""

    def unready(self) -> Sequence[str]:
        """What it still waits for before its job can begin; empty if it is ready."""

    def remarks(self) -> Sequence[str]:
        """What somebody should look at, though the job goes on."""


def application(view: View) -> Starlette:
    async def metrics(_: Request) -> Response:
        return Response(view.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Request) -> Response:
        return _verdict(view.ailments())

    async def readyz(_: Request) -> Response:
        return _verdict(view.unready(), view.remarks())

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)],
    )


def _verdict(problems: Sequence[str], remarks: Sequence[str] = ()) -> Response:
    text = "\n".join([*(problems or ["ok"]), *remarks])
    return PlainTextResponse(f"{text}\n", status_code=503 if problems else 200)


@asynccontextmanager
async def serving(view: View, address: tuple[str, int] | None) -> AsyncIterator[str | None]:
    """Serve on `address` meanwhile; gives the URL. Raises `SnaprotdError` where the address cannot be used."""
    if address is None:
        yield None
        return
    listener = _bind(*address)
    server = _Server(
        uvicorn.Config(
            application(view), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]), name="web")
    try:
        yield _url(listener)
    finally:
        server.should_exit = True
        await asyncio.wait([task], timeout=10)
        listener.close()


class _Server(uvicorn.Server):
    """The daemon, not uvicorn, owns the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise SnaprotdError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another address with the key `listen`"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
