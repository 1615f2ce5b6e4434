"""Receivers of messages on real sockets: one that does as it is told, and a stand-in for Healthchecks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

from snaprotd.senders.secrets import Secrets
from tests.support.certificates import certify

HANGS, FLOODS = b"hangs", b"floods"
"""What a receiver may do in place of an answer."""
TRICKLES = b"and so on"
"""An answer that ends with it does not end."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    def query(self, name: str) -> str:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True).get(name, [""])[0]


def answer(status: int, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Some", f"Content-Length: {len(body.encode())}", *headers, "", body]
    return "\r\n".join(lines).encode()


@dataclass
class Receiver:
    """Answers each request as `answers` says."""

    answers: Callable[[Asked], bytes]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    flooded: int = 0
    """Bytes of a flood that were taken."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            method, target, _ = first.split()
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            one = Asked(method=method, target=target, headers=headers, body=body)
            self.asked.append(one)
            await self._answer(self.answers(one), reader, writer)

    async def _answer(self, told: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if told == HANGS:
            await reader.read()
        elif told == FLOODS:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                self.flooded += 65536
        else:
            writer.write(told)
            if not told.endswith(TRICKLES):
                writer.write_eof()
            await reader.read()


@asynccontextmanager
async def receiver(answers: Callable[[Asked], bytes] = lambda _: answer(200, "fine")) -> AsyncIterator[Receiver]:
    one = Receiver(answers)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        await asyncio.wait(one.serving or {asyncio.ensure_future(asyncio.sleep(0))}, timeout=1)
        for task in one.serving:
            task.cancel()
        await asyncio.gather(*one.serving, return_exceptions=True)


@dataclass
class Healthchecks:
    """Its published rules: https://healthchecks.io/docs/http_api/."""

    check: str = field(default_factory=lambda: str(uuid4()))
    state: str = "new"
    runs: list[tuple[str, str, str]] = field(default_factory=list)
    """The event, its run and its text, in order."""
    most: int = 5
    """Pings that are taken, of one minute."""

    def __call__(self, asked: Asked) -> bytes:
        _, check, *rest = asked.path.split("/")
        event = rest[0] if rest else "success"
        run = asked.query("rid")
        if event not in ("success", "start", "fail", "log") or len(rest) > 1:
            return answer(400, "invalid url format")
        if run and not _is_uuid(run):
            return answer(400, "invalid uuid format")
        if check != self.check:
            return answer(200, "OK (not found)")
        if len(self.runs) >= self.most:
            return answer(200, "OK (rate limited)")
        self.runs.append((event, run, asked.body.decode()))
        self.state = {"success": "up", "fail": "down"}.get(event, self.state)
        return answer(200, "OK")


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def secret(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def secrets_in(folder: Path, **more: Any) -> Secrets:
    return Secrets([folder], **more)


def certified(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate of the host `name`, signed by itself; and what a server of it needs."""
    path = certify(folder, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return path, context
