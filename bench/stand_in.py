"""The provider, for measurements: a fast account behind as little HTTP as will do, in a process of its own.

`python -m bench.stand_in` reads its settings as one line of JSON, prints its port, and serves until it is killed. Below
`/bench/` it answers whoever measures, which is in no journal.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from tests.support.fleet import Fleet, an_account
from tests.support.interrupted import hold_off
from tests.support.quick_account import Answer, QuickAccount

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_TOKEN = re.compile(rb"\r\nauthorization: *bearer ([^\r]+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_STATUS = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n" for one in HTTPStatus}


class Connection(asyncio.Protocol):
    """One client's, which may ask again on it."""

    def __init__(self, account: QuickAccount) -> None:
        self._account = account
        self._got = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = self._got[:end]
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            if len(self._got) < end + 4 + length:
                return
            body, self._got = self._got[end + 4 : end + 4 + length], self._got[end + 4 + length :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if target.startswith("/bench/"):
            answer = control(self._account, target, body)
        else:
            token = found[1].decode() if (found := _TOKEN.search(head)) else None
            answer = self._account.ask(method, target, body, token=token)
        self._transport.write(as_bytes(answer))
        if _CLOSES.search(head):
            self._transport.close()


def as_bytes(answer: Answer) -> bytes:
    """As it goes over the wire."""
    told = {"date": formatdate(usegmt=True), **answer.headers}
    if answer.status != HTTPStatus.NO_CONTENT:
        told["content-length"] = str(len(answer.body))
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"{_STATUS[answer.status]}{head}\r\n".encode() + answer.body


def control(account: QuickAccount, target: str, body: bytes) -> Answer:
    """What whoever measures may ask: how much was asked, all of it; snapshots to be there, or done; servers off."""
    told: Any = None
    if target == "/bench/counts":
        told = account.counts
    elif target == "/bench/journal":
        told = [[one.at, one.kind, one.server, one.status] for one in account.journal]
    elif target == "/bench/finish":
        account.finish(int(body))
    elif target == "/bench/snapshots":
        name, made_at = json.loads(body)
        told = [account.add_snapshot(one, name, made_at=made_at, done_at=made_at) for one in account.servers]
    elif target == "/bench/hold-off":
        due, now = json.loads(body)
        hold_off(account, due=due, now=datetime.fromtimestamp(now, UTC))
    return Answer(status=200, body=json.dumps(told).encode())


async def serve(settings: dict[str, Any]) -> None:
    account = an_account(Fleet(**settings))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(account), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    account.origin = f"http://127.0.0.1:{port}"
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.stdin.readline())))
