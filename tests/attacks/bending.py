"""Answers of the simulated provider, bent at random on their way: any value, any byte, any header, any status."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any
from urllib.parse import quote

import httpx

from snaprotd.simulator import Reply, World
from tests.support.world_transport import WorldTransport

TOKEN = "made-up-8fKq2_ZxW7"
ECHOES = (
    f"Authorization: Bearer {TOKEN}",
    TOKEN[3:],
    quote(TOKEN, safe="").replace("_", "%5f").lower(),
    b64encode(f"Bearer {TOKEN}".encode()).decode(),
    repr({"Authorization": f"Bearer {TOKEN}"}.items()),
)
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 12345, 10**39, 10**60, 1e308, 0.1, [], {}, [[]], {"id": {}}, {"id": 12345}),
    *(
        "",
        " ",
        "12345",
        "12345\n",
        "12345\u200b",
        "completed\x00",
        "active\u202e",
        "next",
        "/../..",
        "<b>x</b>",
    ),
    *("\x1b]0;owned\x07\x1b[2J", "\x9b31m", "\u202etxt.exe", "a\r\nb: c", "\ud800", "\ufeff", "{{7*7}}", "%s%n"),
    *("snaprotd-main-20250116T030000Z", "snaprotd-main-20250116T030000Z\u200b", "n" * 100_000, "[" * 5000),
    *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2025-01-16T02:00:00Z", "2031-01-16T02:00:00Z"),
    *ECHOES,
)
HEADERS = (
    *(("content-encoding", "gzip"), ("content-encoding", "br"), ("content-encoding", "identity")),
    *(("retry-after", "9" * 400), ("retry-after", "-1"), ("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")),
    *(("date", "Mon"), ("date", "Mon, 01 Jan 0001 00:00:00 GMT"), ("content-type", "text/html"), ("location", "//x")),
)
STATUSES = (101, 200, 201, 202, 204, 206, 301, 307, 400, 401, 403, 404, 408, 409, 418, 423, 429, 500, 502, 503, 599)


class BentTransport(WorldTransport):
    """Bends every answer while `random` is set; counts what was asked for."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.random: Random | None = None
        self.asked: list[str] = []

    async def _travel(self, request: httpx.Request, reply: Reply) -> httpx.Response:
        self.asked.append(request.method)
        return await super()._travel(request, bent(reply, self.random) if self.random else reply)


def bent(reply: Reply, random: Random) -> Reply:
    """The reply, otherwise in one to four places."""
    for _ in range(random.randint(1, 4)):
        reply = random.choices(_WAYS, _OFTEN)[0](reply, random)
    return reply


def _otherwise_in_json(reply: Reply, random: Random) -> Reply:
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError):  # bent already
        return reply
    places = list(_places(value))
    if not places:
        return replace(reply, body=_written(random.choice(HOSTILE), random))
    inside, key = random.choice(places)
    random.choice(_CHANGES)(inside, key, random)
    return replace(reply, body=_written(value, random))


def _written(value: Any, random: Random) -> bytes:
    return json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list and object within a value, with each of its keys."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inner):
        yield value, key
        yield from _places(one)


def _put(inside: Any, key: Any, random: Random) -> None:
    inside[key] = random.choice(HOSTILE)


def _drop(inside: Any, key: Any, random: Random) -> None:
    del inside[key]


def _add(inside: Any, key: Any, random: Random) -> None:
    if isinstance(inside, list):
        inside.insert(random.randint(0, len(inside)), random.choice([inside[key], *HOSTILE]))
    else:
        inside[random.choice(["id", "uuid", "server", "name", "next", "count", "detail", TOKEN])] = inside[key]


def _hide(inside: Any, key: Any, random: Random) -> None:
    for _ in range(random.choice([1, 3, 100])):
        inside[key] = [inside[key]]


def _repeat(inside: Any, key: Any, random: Random) -> None:
    if isinstance(inside[key], list):
        inside[key] = inside[key] * random.choice([2, 50])


_CHANGES: tuple[Callable[[Any, Any, Random], None], ...] = (_put, _put, _put, _drop, _add, _hide, _repeat)


def _otherwise_in_bytes(reply: Reply, random: Random) -> Reply:
    body = bytearray(reply.body or b"{}")
    at = random.randrange(len(body))
    match random.randrange(5):
        case 0:
            del body[at:]
        case 1:
            body[at] = random.randrange(256)
        case 2:
            body[at:at] = random.choice([b"\x00", b"\xff\xfe", b"[" * 4000, b"9" * 5000, b"NaN", b"{" * 40, b'"'])
        case 3:
            body[:0] = random.choice([b"\xef\xbb\xbf", b"\x1f\x8b", b"<html>", b" " * 70_000, b"\xff\xfe"])
        case _:
            body = bytearray(bytes(body) * 2)
    return replace(reply, body=bytes(body))


def _otherwise_in_headers(reply: Reply, random: Random) -> Reply:
    name, value = random.choice(HEADERS)
    return replace(reply, headers={**reply.headers, name: value})


def _of_another_status(reply: Reply, random: Random) -> Reply:
    words = random.choice([reply.body, json.dumps({"detail": random.choice(ECHOES)}).encode(), b""])
    return replace(reply, status=random.choice(STATUSES), body=words)


_WAYS = (_otherwise_in_json, _otherwise_in_bytes, _otherwise_in_headers, _of_another_status)
_OFTEN = (8, 1, 1, 1)
