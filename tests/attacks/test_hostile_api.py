"""An API that answers on the socket with whatever it likes: each answer is one sentence of an error, and soon."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import pytest

from snaprotd.core.errors import CloudError, NotFound, Permanent, Temporary, Unclear
from snaprotd.provider import Doubtful
from snaprotd.provider.inventory import Inventory
from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org import answers, body, calls
from snaprotd.provider.vps_org.client import VpsOrg
from tests.attacks.bending import TOKEN
from tests.support.effort import effort
from tests.support.nouns import a_server

pytestmark = pytest.mark.real_time

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"Content-Length: 2\r\n\r\n[]"
ECHO = TOKEN.encode()
SOON = 0.5
"""The time-out, in seconds, of a request to a peer that may never end its answer. Others wait for a slow machine."""


def sized(content: bytes, head: bytes = OK, *headers: bytes) -> bytes:
    return b"".join(
        [head, *(line + b"\r\n" for line in headers), b"Content-Length: %d\r\n\r\n" % len(content), content]
    )


class Peer:
    """What answers: `says` is sent to each request, whole; or a function does with the connection what it likes."""

    def __init__(self, says: bytes | Answer) -> None:
        self.says = says
        self.heads: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                if isinstance(self.says, bytes):
                    writer.write(self.says)
                    await writer.drain()
                    if b"ontent-" not in self.says.partition(b"\r\n\r\n")[0]:
                        return
                else:
                    await self.says(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def api_that(says: bytes | Answer, *, timeout: float = 30) -> AsyncIterator[tuple[VpsOrg, Peer]]:
    peer = Peer(says)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    token = token_source(None, {"VPS_API_TOKEN": TOKEN})
    async with (
        server,
        VpsOrg(base_url=peer.url, token=token, requests_per_second=1000, timeout=timeout, attempts=1) as api,
    ):
        yield api, peer


async def error_of(asked: Awaitable[Any]) -> CloudError:
    try:
        answer = await asked
    except CloudError as error:
        return error
    raise AssertionError(f"no error, but {answer!r}")


def is_a_sentence(error: CloudError) -> bool:
    text = str(error)
    leaks = any(TOKEN[at : at + 8] in text for at in range(len(TOKEN) - 7))
    return text.isprintable() and 10 < len(text) < 1000 and not leaks


async def create(api: VpsOrg) -> object:
    return await api.create_snapshot(a_server(), "snaprotd-main-20250116T033000Z", guard=lambda: None)


async def stream(writer: asyncio.StreamWriter, piece: bytes, pause: float = 0.0) -> None:
    """The piece again and again, for as long as somebody reads."""
    for _ in range(100_000):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)


async def informs_for_ever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await stream(writer, b"HTTP/1.1 100 Continue\r\n\r\n" * 50, 0.01)


async def drips_a_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    await stream(writer, b"X: 1\r\n", 0.05)


async def chunks_of_a_byte(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    await stream(writer, b"1\r\n[\r\n" * 5000)


async def drips_chunks(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    await stream(writer, b"1\r\n[\r\n", 0.05)


DEEP = b"[" * body.MAX_BODY
WIDE = b"[" + b"[]," * (body.MAX_BODY // 3 - 1) + b"[]]"
NEXT = sized(b'{"results": [], "next": "/%1b%5B2J/' + ECHO + b"/?q=" + ECHO + b'"}')
HIDDEN = ('{"a": "\u225b", "detail": ' + "[" * 600 + "]" * 600 + "}").encode("utf-16-le")
"""That sign has the byte of a quote: what follows it was taken for a text."""
COUNTED = b'{"count": 2, "results": [%s]}'

SAYS: dict[str, bytes | Answer] = {
    "brackets, 16 MB of them": sized(DEEP),
    "brackets that close again": sized(b"[" * 8_000_000 + b"]" * 8_000_000),
    "objects within objects": sized(b'{"results":' * 200 + b"[]" + b"}" * 200),
    "five million empty lists": sized(WIDE),
    "lists within lists, in UTF-16": sized(HIDDEN),
    "an error with lists within lists, in UTF-16": sized(HIDDEN, b"HTTP/1.1 500 X\r\n"),
    "a number of a million digits for a count": sized(b'{"results": [], "count": ' + b"9" * 1_000_000 + b"}"),
    "no number": sized(b'{"results": [NaN], "count": Infinity}'),
    "a key twice": sized(b'{"results": [{"id": 1}], "results": []}'),
    "NULs": sized(b"\x00" * 1000),
    "gzip": sized(gzip.compress(b"[]"), OK, b"Content-Encoding: gzip"),
    "a bomb of gzip": sized(gzip.compress(b" " * 50_000_000, 1), OK, b"Content-Encoding: x-gzip"),
    "deflate after identity": sized(zlib.compress(b"[]"), OK, b"Content-Encoding: identity, deflate"),
    "an encoding that quotes the token": sized(b"[]", OK, b"Content-Encoding: " + ECHO),
    "less than it said": OK + b"Content-Length: 1000\r\n\r\n[]",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]]",
    "a length below nothing": OK + b"Content-Length: -2\r\n\r\n[]",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n[]\r\n0\r\n\r\n",
    "chunks of nonsense": OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\n[]",
    "a transfer encoding that nobody knows": OK + b"Transfer-Encoding: " + ECHO + b"\r\n\r\n[]",
    "headers of megabytes": OK + b"X: " + b"x" * 3_000_000 + b"\r\nContent-Length: 2\r\n\r\n[]",
    "a hundred thousand headers": OK + b"X: 1\r\n" * 100_000 + b"Content-Length: 2\r\n\r\n[]",
    "a header that is none, and quotes the token": OK + b"\x1b[2J Bearer " + ECHO + b"\r\n\r\n",
    "a status line that quotes the token": b"HTTP/1.1 Bearer " + ECHO + b"\x07\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2 " + ECHO + b"\r\n",
    "nothing": b"",
    "100, for ever": informs_for_ever,
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\n[]",
    "an unknown status": sized(b"[]", b"HTTP/1.1 999 What\r\n"),
    "a redirect to elsewhere": sized(b"", b"HTTP/1.1 307 X\r\n", b"Location: http://elsewhere.invalid/" + ECHO),
    "a redirect to nowhere": sized(b"", b"HTTP/1.1 302 X\r\n", b"Location: http://[::1:\x80 " + ECHO),
    "a redirect within itself": sized(b"", b"HTTP/1.1 308 X\r\n", b"Location: ?" + b"a" * 90_000),
    "a redirect to a port that is none": sized(b"", b"HTTP/1.1 301 X\r\n", b"Location: https://x:99999999/"),
    "a head that drips": drips_a_head,
    "a body that drips": drips_chunks,
    "chunks of a byte": chunks_of_a_byte,
    "a cookie, and no JSON": sized(b"\xff\xfe", OK, b"Set-Cookie: a=" + b"x" * 9000 + b"; Max-Age=" + b"9" * 50),
    "a `next` that is no address": sized(b'{"results": [], "next": "http://[/\\ud800\\u001b"}'),
    "a `next` to a host that is no name": sized(b'{"results": [], "next": "http://xn--/"}'),
    "a `next` to another host": sized(b'{"results": [], "next": "https://elsewhere.invalid/"}'),
    "a `next` that quotes the token": NEXT,
    "a count that would paint": sized(b'{"results": [], "count": "\\u001b[2J\\u202e' + ECHO + b'"}'),
    "an id that is the token": sized(COUNTED % b'{"id": "%s"}' % ECHO),
    "an id that would paint": sized(COUNTED % b'{"id": "1\\u001b[2J", "server": {"id": "\\u202e2"}, "name": "x"}'),
}  # fmt: skip
NOT_FOR_A_CHANGE = ("a `next`", "a count", "a number of a million")
"""What is no wrong answer to a request that changes something, or is one in a list only."""


@pytest.mark.parametrize("name", SAYS)
async def test_each_answer_is_one_sentence_of_an_error_and_soon(name: str) -> None:
    async with api_that(SAYS[name], timeout=SOON) as (api, peer):
        began = time.process_time()
        error = await error_of(api.snapshots())
        assert is_a_sentence(error), str(error)
        assert isinstance(error, Temporary | Permanent)
        assert time.process_time() - began < 10  # a machine may be slow; a body that is parsed takes minutes
        if not name.startswith(NOT_FOR_A_CHANGE):
            changed = await error_of(create(api))
            assert is_a_sentence(changed), str(changed)
            assert isinstance(changed, Unclear | Permanent)
    assert len(peer.heads) == peer.connections
    assert all(b"elsewhere.invalid" not in head for head in peer.heads)


async def test_chunks_of_a_byte_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, in_a_row = 0, list[int]()

    async def tiny(response: httpx.Response) -> AsyncIterator[bytes]:
        nonlocal pieces
        for _ in range(calls.MOST_PIECES * 2):
            pieces += 1
            yield b"["

    async def others() -> None:
        nonlocal pieces
        while True:
            in_a_row.append(pieces)
            await asyncio.sleep(0)

    monkeypatch.setattr(httpx.Response, "aiter_bytes", tiny)
    async with api_that(EMPTY) as (api, _):
        turns = asyncio.create_task(others())
        assert "comes in more than 20000 pieces" in str(await error_of(api.snapshots()))
        turns.cancel()
    assert max(later - before for before, later in pairwise(in_a_row)) <= calls.AT_ONCE
    assert pieces == calls.MOST_PIECES + 1


async def test_what_is_asked_for_is_never_encoded_and_each_request_is_the_last_of_its_connection() -> None:
    async with api_that(EMPTY) as (api, peer):
        for _ in range(2):
            assert await api.snapshots() == []
    assert peer.connections == 2
    for head in peer.heads:
        lines = head.lower().split(b"\r\n")
        assert b"accept-encoding: identity" in lines
        assert b"connection: close" in lines


def a_list(name: str) -> bytes:
    return sized(b'{"count": 1, "results": [{"id": 1, "server": {"id": 2}, "name": "%s"}]}' % name.encode())


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_an_answer_that_comes_twice_is_not_taken_for_the_next_request_s(pause: float) -> None:
    """A proxy, or whoever can split an answer, sends one that nobody has asked for yet."""
    count = 0

    async def twice(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        writer.write(a_list(f"asked-{count}"))
        if pause:
            await writer.drain()
            await asyncio.sleep(pause)
        writer.write(a_list("forged"))
        await writer.drain()

    async with api_that(twice) as (api, _):
        for number in (1, 2, 3):
            assert [one.name for one in await api.snapshots()] == [f"asked-{number}"]
            await asyncio.sleep(2 * pause)


@pytest.mark.parametrize("status", ["200 OK", "503 X", "409 X"])
async def test_what_we_stumble_over_in_an_answer_is_an_answer_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise RecursionError(TOKEN)

    for where in ("read_server", "read_created", "read_page", "error_text"):
        monkeypatch.setattr(answers, where, stumble)
    async with api_that(sized(b"{}", f"HTTP/1.1 {status}\r\n".encode())) as (api, _):
        for asked in (api.server("12345"), api.servers(), create(api)):
            error = await error_of(asked)
            assert "cannot be read: internal error (RecursionError): see the log" in str(error)
            assert is_a_sentence(error)


async def test_the_address_of_the_next_page_is_quoted_as_what_somebody_else_wrote() -> None:
    async def second_fails(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(NEXT if peer.connections == 1 else sized(b"", b"HTTP/1.1 500 X\r\n"))

    async with api_that(second_fails) as (api, peer):
        error = await error_of(api.snapshots())
    assert "500 to GET" in str(error)
    assert is_a_sentence(error), str(error)


async def test_a_refusal_in_another_encoding_is_known_by_its_status_and_its_words_are_not_read() -> None:
    said = gzip.compress(b'{"detail": "No such server."}')
    async with api_that(sized(said, b"HTTP/1.1 404 X\r\n", b"Content-Encoding: gzip")) as (api, _):
        error = await error_of(api.server("12345"))
    assert not isinstance(error, NotFound)  # it takes the provider's own words to say so
    assert "404" in str(error)


class Breaking(httpx.AsyncBaseTransport):
    """A connection that breaks in a way of its own, after the request has gone out."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.extensions["trace"]("http11.send_request_headers.started", {"request": request})
        raise self.error


@pytest.mark.parametrize(
    "error",
    [ssl.SSLError(1, f"BAD_RECORD_MAC {TOKEN}"), ConnectionAbortedError(), ValueError("\x1b"), httpx.InvalidURL(TOKEN)],
)
async def test_what_no_library_translates_is_a_lost_connection_all_the_same(error: Exception) -> None:
    token = token_source(None, {"VPS_API_TOKEN": TOKEN})
    async with VpsOrg(base_url="https://vps.invalid", token=token, attempts=1, transport=Breaking(error)) as api:
        assert is_a_sentence(await error_of(api.snapshots()))
        assert isinstance(await error_of(create(api)), Unclear)


# -- lists -----------------------------------------------------------------------------------------------------


def page(first: int, many: int, following: str = "") -> bytes:
    entries = ",".join(f'{{"id": {number}, "name": "x"}}' for number in range(first, first + many))
    return sized(f'{{"results": [{entries}], "next": "{following}"}}'.encode())


async def test_a_page_and_a_list_have_a_most_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_ENTRIES", 50)
    async with api_that(page(0, 51)) as (api, _):
        assert "a page of more than 50 entries" in str(await error_of(api.servers()))
    asked = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(page(20 * asked, 20, f"/servers/?page={asked + 1}"))

    async with api_that(endless) as (api, _):
        error = await error_of(api.servers())
    assert isinstance(error, Doubtful)
    assert "more than 50 entries" in str(error)
    assert asked == 3


async def test_the_pages_of_a_list_have_a_most_of_bytes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snaprotd.provider.vps_org.client.MAX_LIST", 1_000_000)
    asked = 0

    async def fat(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        filling = b" " * 400_000
        writer.write(sized(filling + b'{"results": [], "next": "/servers/?page=%d"}' % (asked + 1)))

    async with api_that(fat, timeout=5) as (api, _):
        assert isinstance(await error_of(api.servers()), Doubtful)
    assert asked == 3


async def test_an_honest_list_of_a_large_fleet_is_within_all_bounds() -> None:
    said = {"status": "completed", "size_mb": 5120, "description": 'before [the] "great {move', "name": "by-hand-((["}
    entries = [{"id": number, "server": {"id": number // 5, "name": "web"}, **said} for number in range(20_000)]
    listed = json.dumps({"count": len(entries), "results": entries}).encode()
    async with api_that(sized(listed), timeout=20) as (api, _):
        assert len(await api.snapshots()) == len(entries)


def is_refused(text: bytes) -> None:
    with pytest.raises(body.UnreadableError):
        body.read_json(text)


def test_brackets_are_counted_and_not_parsed() -> None:
    """Counting them takes as long for a terabyte's worth of nesting as for none."""
    for deep in (DEEP, WIDE, b"[" * 400_000 + b"]" * 400_000, b'{"a":' * 400_000, b'[{"a":' * 50 + b"1" + b"}]" * 50):
        assert effort(partial(is_refused, deep), allowed=0.5) < 0.5
    is_refused(HIDDEN)
    assert body.read_json(b'["[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", {"]": "\\"[{"}]')[1] == {"]": '"[{'}
    for least in (0, body.USUAL_BODY):
        for written in ("[" * 40, '"' + "[" * 40, "]" * 40):
            told = [written, "x" * least]
            assert body.read_json(json.dumps(told).encode()) == told
            is_refused(f"{'[' * 60}{json.dumps(told)}{']' * 60}".encode())


async def test_an_account_that_shows_other_servers_in_every_list_is_not_remembered_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("snaprotd.provider.identity.MOST_REMEMBERED", 100)
    monkeypatch.setattr("snaprotd.provider.memory.MOST_SERVERS", 100)
    listed = 0

    async def others(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal listed
        listed += 1
        numbers = range(1000 * listed, 1000 * listed + 20)
        one = [
            {"id": 1, "uuid": f"u{number}", "name": "x", "server": {"id": number, "uuid": "v"}} for number in numbers
        ]
        two = [{"id": number, "uuid": f"u{number}", "name": "x", "server": number} for number in numbers]
        writer.write(sized(json.dumps([*one, *two]).encode()))

    async with api_that(others, timeout=5) as (api, _):
        inventory = Inventory(api)
        for _again in range(30):
            await inventory.refresh()
        for known in (api.identities._beside, inventory._names._first):
            assert len(known) <= 100
            assert all(len(one) <= 2 for one in known.values() if isinstance(one, set))
        assert len(inventory._memory._servers) <= 100
