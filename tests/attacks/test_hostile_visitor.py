"""Whoever reaches the port: what comes there keeps no server off, kills no daemon, learns nothing that is not for it.

The pages are served on loopback as a daemon serves them, on real sockets; what they show is made up.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import resource
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import bcrypt
import h11
import pytest

from snaprotd.commands.jobs import status_client
from snaprotd.commands.jobs.status_client import Place, Unreachable, read_status
from snaprotd.config.file import load
from snaprotd.config.web_file import read_web_file
from snaprotd.core.errors import ConfigError, SnaprotdError
from snaprotd.report.status import VERSION
from snaprotd.simulator import World
from snaprotd.web import door, keeping, site, visit
from snaprotd.web.certificate import Certificate
from snaprotd.web.hosts import peer_of
from snaprotd.web.keeping import Pages
from snaprotd.web.listener import open_listener
from snaprotd.web.protection import Users
from snaprotd.web.turns import OneAtATime
from snaprotd.wiring import identity
from tests.support.certificates import certify
from tests.support.processes import TOKEN, daemon, provider, run, until, write_config

pytestmark = pytest.mark.real_time


class Shown:
    """What the pages of these tests show."""

    def exposition(self) -> Iterator[bytes]:
        self.written += 1
        yield b"snaprotd_up 1\n"
        yield b"# much\n" * self.lines

    lines = 0
    much = 2000
    asked = 0
    """Reports that were begun."""
    written = 0

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()

    def ailments(self) -> Sequence[str]:
        return []

    def unready(self) -> Sequence[str]:
        return []

    def remarks(self) -> Sequence[str]:
        return []

    def head(self) -> Mapping[str, Any]:
        return {}

    async def status(self) -> Mapping[str, Any]:
        self.asked += 1
        await self.answers.wait()
        return {"version": "1", "much": "a" * self.much}

    async def server_status(self, name: str) -> Mapping[str, Any] | None:
        return None

    async def events(self, after: int, limit: int) -> tuple[Sequence[Mapping[str, Any]], int]:
        return [], 0

    def identity(self, config: str, challenge: str) -> Mapping[str, str] | None:
        return None


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Caller:
    """A visitor's connection, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(
        self, path: str = "/healthz", host: str | None = "127.0.0.1", *lines: str, method: str = "GET"
    ) -> Answer:
        self.say(f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *lines)
        return await self.answer()

    def say(self, *lines: str) -> None:
        """A whole head."""
        self.writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())

    async def answer(self) -> Answer:
        async with asyncio.timeout(10):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(status.split()[1]), headers, body)

    async def is_cut(self) -> bool:
        """Wait until the other side has ended the connection."""
        with suppress(ConnectionError):
            async with asyncio.timeout(10):
                while await self.reader.read(65536):
                    pass
        return True


@dataclass
class Site:
    """Pages that are served, and their visitors."""

    pages: Pages
    shown: Shown
    stack: AsyncExitStack
    callers: list[Caller] = field(default_factory=list)

    @property
    def door(self) -> door.Door:
        assert self.pages._door is not None
        return self.pages._door

    async def caller(self, tls: ssl.SSLContext | None = None) -> Caller:
        assert self.pages.url is not None
        if self.pages.url.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(self.pages.url.removeprefix("unix:"))
        else:
            port = int(self.pages.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        caller = Caller(reader, writer)
        self.callers.append(caller)
        self.stack.callback(writer.transport.abort)
        return caller

    async def caller_who_does_not_read(self, path: str = "/metrics") -> Caller:
        """He has asked, and takes no more than a few bytes."""
        caller = await self.caller()
        caller.reader._limit = 1  # type: ignore[attr-defined]  # so that asyncio stops reading
        caller.say(f"GET {path} HTTP/1.1", "Host: 127.0.0.1")
        return caller

    async def ask(self, *arguments: Any, **more: Any) -> Answer:
        """As a new visitor."""
        caller = await self.caller(more.pop("tls", None))
        try:
            return await caller.ask(*arguments, **more)
        finally:
            caller.writer.transport.abort()


@asynccontextmanager
async def served(address: Any = ("127.0.0.1", 0), **more: Any) -> AsyncIterator[Site]:
    shown = Shown()
    async with AsyncExitStack() as stack, Pages(shown, address, **more).served() as pages:
        yield Site(pages, shown, stack)
        await stack.aclose()


# -- how many may come -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "visitors"),
    [
        (1024, 524288, 8192, 512),
        (1024, resource.RLIM_INFINITY, 8192, 512),
        (1024, 1024, 1024, 256),
        (128, 256, 256, 64),
        (20000, 524288, 20000, 512),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, 512),
        (8, 8, 8, 4),
    ],
)
def test_the_limit_of_files_is_raised_and_a_quarter_is_for_visitors(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, visitors: int
) -> None:
    now = [soft, hard]

    def set_to(_: int, limits: tuple[int, int]) -> None:
        now[:] = limits

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", set_to)
    door.raise_descriptors()
    assert (now, door.most_inside()) == ([raised, hard], visitors)


# -- who asks by which name -------------------------------------------------------------------------------------------

ALLOWED = [
    *(
        "127.0.0.1",
        "127.0.0.1:9877",
        "10.1.2.3",
        "[::1]",
        "[::1]:9877",
        "[fe80::1%eth0]:80",
        "localhost",
        "LOCALHOST:1",
    ),
    *("a.b.localhost", "localhost.", "snap.example.org", "SNAP.Example.org.:9877", "snap.example.org:"),
    *("127.0.0.1.", "127.0.0.1:0", "[::ffff:127.0.0.1]", "my_host.localhost", f"{'a' * 14_000}.localhost"),
]
REFUSED = [
    *("evil.example", "evil.example:9877", "127.0.0.1.evil.example", "localhost.evil.example", "notlocalhost", ""),
    *("snap.example.org.evil.example", "x.snap.example.org", "2130706433", "127.1", "::1", "[::1", "user@127.0.0.1"),
    *("::ffff:127.0.0.1", "user:word@localhost", "localhost..", "0177.0.0.1", "*", "localhost#", "%6cocalhost", "[]"),
    *("l\u00f6calhost", "\uff4cocalhost", "xn--lcalhost-5fb", "127.0.0.1:999999", "[::1]]", "localhost\u3002"),
    *("127.0.0.1@evil.example", "127.0.0.1:80:80", "127.0.0.1,evil.example", "..", ".", "localhost/evil", "0x7f.1"),
]


@pytest.mark.parametrize("path", ["/", "/api/status", "/metrics", "/healthz", "/nowhere"])
async def test_a_page_of_somebody_else_whose_name_leads_here_is_refused_on_every_path(path: str) -> None:
    async with served(hosts=("snap.example.org",)) as place:
        caller = await place.caller()
        refused = await caller.ask(path, "evil.example")
        assert (refused.status, b"`allowed_hosts`" in refused.body) == (421, True)
        assert b"evil" not in refused.body


async def test_the_names_that_host_may_have() -> None:
    async with served(hosts=("snap.example.org",)) as place:
        caller = await place.caller()
        answers = {host: (await caller.ask("/metrics", host)).status for host in (*ALLOWED, *REFUSED)}
    assert answers == dict.fromkeys(ALLOWED, 200) | dict.fromkeys(REFUSED, 421)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET /metrics HTTP/1.1"], 400),
        (["GET /metrics HTTP/1.0"], 421),
        (["GET /metrics HTTP/1.1", "Host: 127.0.0.1", "Host: evil.example"], 400),
        (["GET http://evil.example/metrics HTTP/1.1", "Host: 127.0.0.1"], 400),
        (["GET http://127.0.0.1/metrics HTTP/1.1", "Host: evil.example"], 400),
        (["OPTIONS * HTTP/1.1", "Host: 127.0.0.1"], 400),
        (["CONNECT evil.example:443 HTTP/1.1", "Host: 127.0.0.1"], 400),
        (["GET /metrics HTTP/1.1", "Host: evil.example", "X-Forwarded-Host: 127.0.0.1"], 421),
        (["\x16\x03\x01\x02 garbage"], 400),
    ],
)
async def test_no_other_way_to_name_a_host_is_looked_at(lines: list[str], status: int) -> None:
    async with served() as place:
        caller = await place.caller()
        caller.say(*lines)
        assert (await caller.answer()).status == status


async def test_the_name_in_listen_is_one_of_ours_and_a_new_configuration_changes_the_others() -> None:
    async with served(("localhost", 0)) as place:
        assert (await place.ask("/healthz", "snap.example.org")).status == 421
        place.pages.hosts = ("snap.example.org",)
        assert (await place.ask("/healthz", "snap.example.org")).status == 200


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (("/metrics",), 200),
        (("/",), 500),
        (("/nowhere",), 404),
        (("/metrics", "evil.example"), 421),
        (("/metrics", None), 400),
    ],
)
async def test_every_answer_says_nosniff_and_no_servers_name(ask: tuple[Any, ...], status: int) -> None:
    async with served() as place:
        answer = await place.ask(*ask)
    assert answer.status == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert b"Traceback" not in answer.body


# -- how many, and for how long ---------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors for sixteen visitors."""
    monkeypatch.setattr(door, "most_inside", lambda: 16)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LOOK_EVERY", 0.02)
    for name in ("HEAD", "IDLE", "READING", "CLOSING"):
        monkeypatch.setattr(visit, name, 0.1)


async def test_of_those_who_ask_for_nothing_the_first_gives_way_and_a_probe_is_answered(few: None) -> None:
    async with served() as place:
        idle = [await place.caller() for _ in range(40)]
        for caller in idle[::2]:
            caller.writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127")
        assert (await place.ask()).status == 200
        assert len(place.door.inside) <= 16
        assert await idle[0].is_cut()


async def test_who_waits_for_his_turn_does_not_give_way(few: None) -> None:
    async with served() as place:
        turns = place.door.requests.of(peer_of("127.0.0.1"))
        turns._left, turns._rate = 0.0, 1e-9
        waiting = [await place.caller() for _ in range(10)]
        for caller in waiting:
            caller.say("GET /metrics HTTP/1.1", "Host: 127.0.0.1")
        await until(lambda: turns.waiting == 10, what="ten who wait")
        for _ in range(20):
            await place.caller()
        assert (await place.ask()).status == 200
        assert turns.waiting == 10
        turns._rate = 1e9
        turns._call()
        assert [(await caller.answer()).status for caller in waiting] == [200] * 10


@pytest.mark.parametrize("begin", [b"", b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
async def test_a_head_that_does_not_come_is_waited_for_for_a_while(begin: bytes, impatient: None) -> None:
    async with served() as place:
        caller = await place.caller()
        caller.writer.write(begin)
        assert await caller.is_cut()


async def test_a_head_that_trickles_has_no_more_time_than_another(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit, "HEAD", 0.5)
    async with served() as place, asyncio.timeout(10):
        caller = await place.caller()
        assert (await caller.ask("/metrics")).status == 200
        cut = asyncio.ensure_future(caller.is_cut())
        while not cut.done():  # "GGGGG", faster than our patience
            caller.writer.write(b"G")
            await asyncio.wait([cut], timeout=0.02)


async def test_a_connection_that_is_kept_for_nothing_ends(impatient: None) -> None:
    async with served() as place:
        caller = await place.caller()
        answer = await caller.ask("/metrics")
        assert (answer.status, "connection" in answer.headers) == (200, False)
        assert await caller.is_cut()
        assert not place.door.inside


async def test_an_answer_that_nobody_reads_is_not_kept(impatient: None) -> None:
    async with served() as place:
        place.shown.lines = 2_000_000
        await place.caller_who_does_not_read()
        await until(lambda: any(one.unread for one in place.door.inside), what="an answer that is not read")
        await until(lambda: not place.door.inside, what="its end")


async def test_what_nobody_reads_is_bounded_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each the system takes some megabytes."""
    monkeypatch.setattr(door, "MOST_UNREAD", 60_000_000)
    monkeypatch.setattr(site, "SHARE", 1e9)  # so that each has a text of his own
    async with served() as place:
        place.shown.lines = 4_000_000
        answered: set[visit.Visit] = set()
        in_order: list[visit.Visit] = []
        for number in range(1, 7):
            await place.caller_who_does_not_read()
            while len(answered) < number:
                in_order += [one for one in place.door.inside if one.unread and one not in answered]
                answered |= {*in_order}
                await asyncio.sleep(0.01)
            assert len(answered & place.door.inside) == min(number, 3)
        assert (await place.ask()).status == 200
        assert answered & place.door.inside == set(in_order[-2:]), "who came last is not the one who goes"


async def test_what_many_read_is_there_once_and_nobody_is_cut_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_UNREAD", 40_000_000)
    monkeypatch.setattr(site, "SHARE", 1e-6)  # so that it is one text for all
    async with served() as place:
        place.shown.lines = 4_000_000
        for _ in range(6):
            await place.caller_who_does_not_read()
        await until(lambda: sum(one.unread > 0 for one in place.door.inside) == 6, what="all that do not read")
        assert (await place.ask()).status == 200
        assert sum(one.unread > 0 for one in place.door.inside) == 6


async def test_who_has_said_all_is_given_his_answer_to_the_end() -> None:
    async with served() as place:
        place.shown.lines = 2_000_000
        caller = await place.caller_who_does_not_read()
        await until(lambda: any(one.unread for one in place.door.inside), what="an answer that is being written")
        caller.writer.write_eof()
        await asyncio.sleep(0.05)
        caller.reader._limit = 2**16  # type: ignore[attr-defined]
        answer = await caller.answer()
        assert len(answer.body) == int(answer.headers["content-length"]) > 14_000_000
        assert await caller.is_cut()
        await until(lambda: not place.door.inside, what="its end")


async def test_who_asks_more_than_his_turns_waits_and_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as place:
        turns = place.door.requests.of(peer_of("127.0.0.1"))
        turns._rate, turns._store, turns._left = 50.0, 1, 1.0
        caller, loop = await place.caller(), asyncio.get_running_loop()
        begun = loop.time()
        assert [(await caller.ask("/metrics")).status for _ in range(11)] == [200] * 11
        assert loop.time() - begun >= 0.19


async def test_who_comes_after_a_flood_does_not_wait_for_it() -> None:
    """Of his own peer too: behind a proxy all are one. The flood has a page made for each, too, and stays."""
    async with served() as place:
        turns = place.door.requests.of(peer_of("127.0.0.1"))
        turns._rate, turns._store, turns._left = 2.0, 1, 1.0  # slowly: however busy the machine is
        for _ in range(10):
            (await place.caller()).say("GET /api/status HTTP/1.1", "Host: 127.0.0.1")
        await until(lambda: turns.waiting >= 8, what="those who wait for their turns")
        assert (await place.ask("/api/status")).status == 200
        assert turns.waiting >= 5


async def test_each_peer_has_pages_made_in_turn_and_the_newest_that_he_asked_for_first() -> None:
    making = OneAtATime()
    came = {"flood": (1, 2, 4, 3, 6), "one": (5, 5), "other": (5,)}
    asked = [(who, making.queue(who, when)) for who, times in came.items() for when in times]
    making.leave(asked[1][1])
    order = []
    for _ in asked[1:]:
        order += [number for number, (_, ticket) in enumerate(asked) if ticket.done() and number not in order]
        making.end()
    assert order == [0, 1, 4, 6, 7, 2, 5, 3]  # the second has left
    assert (making.waiting, [ticket.result() for _, ticket in asked].count(False)) == (0, 1)


async def test_a_page_is_made_for_one_at_a_time_and_for_nobody_who_has_gone() -> None:
    """Made for all at once they would fill the threads, which write down that a server is to be started."""
    async with served() as place:
        place.shown.answers.clear()
        callers = [await place.caller() for _ in range(6)]
        for caller in callers:
            caller.say("GET /api/status HTTP/1.1", "Host: 127.0.0.1")
        await until(lambda: place.door.making.waiting == 5, what="all who ask")
        assert [(await place.ask(path)).status for path in ("/healthz", "/readyz", "/metrics")] == [200] * 3
        for caller in callers[1:4]:
            caller.writer.transport.abort()
        await until(lambda: place.door.making.waiting == 2, what="those who go")
        assert place.shown.asked == 1
        place.shown.answers.set()
        assert [(await callers[one].answer()).status for one in (0, 4, 5)] == [200] * 3
        assert place.shown.asked == 3


async def test_a_page_that_is_not_read_or_fails_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as place:
        place.shown.much = 20_000_000
        await place.caller_who_does_not_read("/api/status")
        await until(lambda: any(one.unread for one in place.door.inside), what="an answer that is not read")
        place.shown.much = 2000
        assert (await place.ask("/api/status")).status == 200
        for report in (ValueError("no report"), {"much": 1}):
            monkeypatch.setattr(place.shown, "status", AsyncMock(side_effect=[report]))
            assert (await place.ask("/api/status")).status == (200 if isinstance(report, dict) else 500)


async def test_metrics_take_a_share_of_the_loop_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "SHARE", 1e-6)
    async with served() as place:
        assert [(await place.ask("/metrics")).status for _ in range(5)] == [200] * 5
        assert place.shown.written == 1


async def test_what_is_compressed_says_so_and_is_the_same() -> None:
    async with served() as place:
        place.shown.lines = 1000
        for path in ("/api/status", "/metrics"):
            plain = await place.ask(path)
            packed = await place.ask(path, "127.0.0.1", "Accept-Encoding: br, gzip")
            assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "Accept-Encoding")
            assert gzip.decompress(packed.body) == plain.body
            assert "content-encoding" not in plain.headers


def test_all_addresses_of_this_machine_and_all_of_a_network_of_ipv6_are_one_visitor() -> None:
    assert {peer_of(one) for one in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.2")} == {"loopback"}
    assert {peer_of(one) for one in ("2001:db8::1", "2001:db8::ffff:2")} == {"2001:db8::/64"}
    assert {peer_of(one) for one in ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0")} == {"10.0.0.1", "fe80::/64"}


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("GET", 200)])
@pytest.mark.parametrize("body", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
async def test_a_body_is_not_read_and_ends_the_connection(method: str, status: int, body: str) -> None:
    async with served() as place:
        caller = await place.caller()
        answer = await caller.ask("/metrics", "127.0.0.1", body, method=method)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert await caller.is_cut()


async def test_a_body_of_a_byte_at_a_time_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk would be an event, of which the loop would do nothing else."""
    looked_at: list[int] = []
    receive = h11.Connection.receive_data

    def counted(connection: h11.Connection, data: bytes) -> None:
        looked_at.append(len(data))
        receive(connection, data)

    async with served() as place:
        monkeypatch.setattr(h11.Connection, "receive_data", counted)
        caller = await place.caller()
        head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        caller.writer.write(head + b"1\r\na\r\n" * 42_000)
        assert (await caller.answer()).status == 405
        assert sum(looked_at) <= 2048


async def test_a_head_without_end_is_refused() -> None:
    async with served() as place:
        caller = await place.caller()
        caller.writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
        assert (await caller.answer()).status == 400
        assert await caller.is_cut()


# -- passwords and TLS ------------------------------------------------------------------------------------------------

WORD = bcrypt.hashpw(b"swordfish", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")


def as_user(user: str, password: str) -> str:
    return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def written(folder: Path, **keys: Any) -> Path:
    """A file of `web_config`. JSON is YAML."""
    path = folder / "web.yaml"
    path.write_text(json.dumps(keys))
    return path


@asynccontextmanager
async def guarded(folder: Path, **keys: Any) -> AsyncIterator[Site]:
    path = written(folder, **keys)
    async with served(read=lambda: read_web_file(path)) as place:
        yield place


async def test_only_who_knows_user_and_password_sees_more_than_that_we_live(tmp_path: Path) -> None:
    wrong = ["", as_user("ann", "wrong"), as_user("bob", "swordfish"), as_user("ann", ""), as_user("", "swordfish")]
    wrong += [
        as_user("ann", "swordfish\0x"),
        as_user("ann", "x" * 100),
        "Authorization: Basic !",
        "Authorization: Bearer a",
    ]
    async with guarded(tmp_path, basic_auth_users={"ann": WORD}) as place:
        place.door.guesses.of(peer_of("127.0.0.1"))._rate = 1e6
        for path in (
            "/metrics",
            "/api/status",
            "/readyz",
            "/",
            "/nowhere",
            "/static/style.css",
            "//healthz",
            "/healthz/",
        ):
            assert (await place.ask(path)).status == 401
        for line in wrong:
            answer = await place.ask("/metrics", "127.0.0.1", *filter(None, [line]))
            assert (answer.status, "snaprotd_up" in answer.body.decode()) == (401, False)
            assert answer.headers["www-authenticate"].startswith("Basic ")
        assert (await place.ask("/metrics", "127.0.0.1", as_user("ann", "swordfish"))).status == 200
        assert (await place.ask("/healthz")).status == 200


async def test_a_password_that_was_right_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    check = bcrypt.checkpw

    def counted(password: bytes, word: bytes) -> bool:
        checked.append(word)
        return check(password, word)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    async with guarded(tmp_path, basic_auth_users={"ann": WORD}) as place:
        for _ in range(5):
            assert (await place.ask("/metrics", "127.0.0.1", as_user("ann", "swordfish"))).status == 200
        assert len(checked) == 1


async def test_how_long_a_guess_takes_tells_of_no_user_whether_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: a hash of the cost N is 2 to the N of rounds."""
    rounds: list[int] = []
    make = bcrypt.hashpw

    def hashed(password: bytes, salt: bytes) -> bytes:
        made = make(password, salt)  # raises at once for what it does not take
        rounds.append(2 ** int(salt[4:6]))
        return made

    monkeypatch.setattr(bcrypt, "hashpw", hashed)
    monkeypatch.setattr(bcrypt, "checkpw", lambda password, word: hashed(password, word) == word)
    words = {str(cost): make(b"swordfish", bcrypt.gensalt(cost)).decode() for cost in (4, 6, 7)}
    took = {}
    for user in (*words, "nobody"):
        for password in ("swordfish", "wrong", "x" * 100, "a\0b"):
            rounds.clear()
            header = as_user(user, password).partition(" ")[2]
            assert await Users(words).check(header) is (password == "swordfish" and user in words)
            took[user, password] = sum(rounds)
    assert set(took.values()) == {2**7}


async def test_guesses_are_few_and_keep_nobody_out_who_knows_the_password(tmp_path: Path) -> None:
    async with guarded(tmp_path, basic_auth_users={"ann": WORD}) as place:
        assert (await place.ask("/metrics", "127.0.0.1", as_user("ann", "swordfish"))).status == 200
        guesses = place.door.guesses.of(peer_of("127.0.0.1"))
        callers = [await place.caller() for _ in range(20)]
        for number, caller in enumerate(callers):
            caller.say("GET /metrics HTTP/1.1", "Host: 127.0.0.1", as_user("ann", str(number)))
        await until(lambda: guesses.waiting >= 10, what="guesses that wait")
        assert (await place.ask("/metrics", "127.0.0.1", as_user("ann", "swordfish"))).status == 200


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("one", "other"):
        certify(folder, name)
    return folder


def trusting(*certificates: Path, most: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    for certificate in certificates:
        context.load_verify_locations(certificate)
    if most is not None:
        context.maximum_version = most
    return context


def served_by(certificates: Path, name: str = "one") -> dict[str, str]:
    return {"cert_file": str(certificates / f"{name}.crt"), "key_file": str(certificates / f"{name}.key")}


async def test_with_a_certificate_nothing_is_said_without_tls(tmp_path: Path, certificates: Path) -> None:
    async with guarded(tmp_path, tls_server_config={**served_by(certificates), "min_version": "TLS13"}) as place:
        tls = trusting(certificates / "one.crt")
        assert place.pages.url is not None
        assert place.pages.url.startswith("https://")
        assert (await place.ask("/metrics", tls=tls)).status == 200
        plain = await place.caller()
        plain.say("GET /metrics HTTP/1.1", "Host: 127.0.0.1")
        assert b"snaprotd_up" not in await asyncio.wait_for(plain.reader.read(), 10)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await place.caller(trusting(certificates / "one.crt", most=ssl.TLSVersion.TLSv1_2))


async def test_handshakes_that_are_begun_and_not_ended_keep_nobody_out(
    tmp_path: Path, certificates: Path, few: None
) -> None:
    async with guarded(tmp_path, tls_server_config=served_by(certificates)) as place:
        for _ in range(40):
            (await place.caller()).writer.write(b"\x16\x03\x01\x02\x00")
        assert (await place.ask("/healthz", tls=trusting(certificates / "one.crt"))).status == 200
        assert len(place.door.inside) <= 16


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files, and try, every few milliseconds."""
    for name in ("LOOK_EVERY", "AGAIN_EVERY", "STEADY"):
        monkeypatch.setattr(keeping, name, 0.02)


async def test_a_new_certificate_is_taken_and_a_broken_one_leaves_the_old_in_force(
    tmp_path: Path, certificates: Path, often: None
) -> None:
    for kind in ("crt", "key"):
        (tmp_path / f"now.{kind}").write_bytes((certificates / f"one.{kind}").read_bytes())
    async with guarded(tmp_path, tls_server_config={"cert_file": "now.crt", "key_file": "now.key"}) as place:
        old = place.door.protection
        assert (place.pages.certificate is not None, place.pages.refused) == (True, None)
        (tmp_path / "now.crt").write_bytes((certificates / "other.crt").read_bytes())  # its key is still to come
        await until(lambda: place.pages.refused is not None, what="a look at the new certificate")
        assert "its key is that of another one" in str(place.pages.refused)
        assert (await place.ask("/healthz", tls=trusting(certificates / "one.crt"))).status == 200
        (tmp_path / "now.key").write_bytes((certificates / "other.key").read_bytes())
        await until(lambda: place.door.protection is not old, what="the new certificate")
        assert place.pages.refused is None
        assert (await place.ask("/healthz", tls=trusting(certificates / "other.crt"))).status == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await place.caller(trusting(certificates / "one.crt"))


async def test_a_certificate_that_ends_by_the_clock_alone_is_seen(
    tmp_path: Path, certificates: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "CERTIFICATE_EVERY", 0.0)
    async with guarded(tmp_path, tls_server_config=served_by(certificates)) as place:
        assert place.pages.certificate is not None
        assert place.pages.certificate.why_not == ""
        over = Certificate(certificates / "one.crt", why_not="has expired")
        monkeypatch.setattr(keeping, "certificate_of", lambda _: over)
        await until(lambda: place.pages.certificate is over, what="another look at it")


async def test_a_user_who_is_taken_out_is_out_on_a_connection_that_is_open_too(tmp_path: Path, often: None) -> None:
    async with guarded(tmp_path, basic_auth_users={"ann": WORD, "bob": WORD}) as place:
        caller, old = await place.caller(), place.door.protection
        assert (await caller.ask("/metrics", "127.0.0.1", as_user("bob", "swordfish"))).status == 200
        written(tmp_path, basic_auth_users={"ann": WORD})
        await until(lambda: place.door.protection is not old, what="the new file")
        assert await caller.is_cut()
        assert (await place.ask("/metrics", "127.0.0.1", as_user("bob", "swordfish"))).status == 401


@pytest.mark.parametrize("text", ["", "basic_auth_users: {ann: plain}", "[", "{}", "basic_auth_user: {}"])
async def test_a_bad_file_serves_nothing_and_one_that_turns_bad_opens_nothing(
    tmp_path: Path, text: str, often: None
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        async with served(read=lambda: read_web_file(path)):
            pytest.fail("served")
    async with guarded(tmp_path, basic_auth_users={"ann": WORD}) as place:
        judged = place.pages._judged
        path.write_text(text)
        await until(lambda: place.pages._judged != judged, what="a look at the new file")
        assert (await place.ask("/metrics")).status == 401
        path.unlink()
        judged = place.pages._judged
        await until(lambda: place.pages._judged != judged, what="a look at no file")
        assert (await place.ask("/metrics")).status == 401


async def test_without_a_certificate_that_can_be_used_there_are_no_pages_until_there_is_one(
    tmp_path: Path, certificates: Path, often: None
) -> None:
    tls = {"cert_file": "now.crt", "key_file": "now.key"}
    async with guarded(tmp_path, tls_server_config=tls, basic_auth_users={"ann": WORD}) as place:
        await until(lambda: place.pages._attempts > 2, what="attempts")
        assert place.pages.url is None
        for kind in ("key", "crt"):
            (tmp_path / f"now.{kind}").write_bytes((certificates / f"one.{kind}").read_bytes())
        await until(lambda: place.pages.url is not None, what="the pages")
        assert (await place.ask("/metrics", tls=trusting(certificates / "one.crt"))).status == 401


# -- the place where we listen ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o077])
async def test_a_unix_socket_is_for_our_user_and_group_and_asks_for_no_name(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_of = tmp_path / "http.sock"
    at_first: list[int] = []
    chmod = Path.chmod

    def noted(path: Path, mode: int) -> None:
        at_first.append(path.stat().st_mode & 0o007)
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", noted)
    before = os.umask(umask)
    try:
        async with served(place_of) as place:
            assert (stat.S_IMODE(place_of.stat().st_mode), place.pages.url) == (0o660, f"unix:{place_of}")
            assert (await place.ask("/metrics", "evil.example")).status == 200
    finally:
        os.umask(before)
    assert not any(at_first)
    assert not place_of.exists()


def left_behind(path: Path) -> None:
    """The socket of a process that was killed."""
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))


async def test_the_socket_of_a_killed_daemon_is_replaced_and_one_that_lives_is_not(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    left_behind(path)
    async with served(path) as place:
        assert (await place.ask()).status == 200
        with pytest.raises(SnaprotdError, match="Address already in use"):
            open_listener(path)
        assert (await place.ask()).status == 200


@pytest.mark.parametrize("kind", ["file", "folder", "link", "others"])
def test_what_is_no_socket_of_ours_is_never_removed(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "http.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        left_behind(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        left_behind(path)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    before = path.lstat()
    with pytest.raises(SnaprotdError, match="a file is there that is not ours"):
        open_listener(path)
    assert path.lstat() == before


def test_what_another_has_put_in_our_place_is_not_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    listener = open_listener(path)
    path.unlink()
    left_behind(path)
    listener.close()
    assert path.exists()


async def test_a_socket_that_was_removed_is_made_again(tmp_path: Path, often: None) -> None:
    path = tmp_path / "http.sock"
    async with served(path) as place:
        path.unlink()
        await until(lambda: path.exists() and place.pages.url is not None, what="the socket")
        assert (await place.ask()).status == 200


async def test_a_squatter_on_the_port_is_told_of_and_waited_out(often: None, log: list[Any]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as squatter:
        port = squatter.getsockname()[1]
        async with served(("127.0.0.1", port)) as place:
            assert place.pages.url is None
            await until(lambda: place.pages._attempts > 50, what="many attempts")
            told = [line for line in log if line["log_level"] == "error"]
            assert 4 <= len(told) <= 6
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in told[0]["error"]
            assert told[0]["error"] == str(place.pages.why_away), "whoever is told by messages hears of it too"
            squatter.close()
            await until(lambda: place.pages.url is not None, what="the pages")
            assert place.pages.why_away is None
            assert (await place.ask()).status == 200


def test_it_is_tried_again_at_least_every_thirty_seconds() -> None:
    assert keeping.AGAIN_EVERY <= 30


# -- what commands believe --------------------------------------------------------------------------------------------


class Claiming(Shown):
    """What answers for the daemon of a configuration, and says that its ledger is `ledger`."""

    def __init__(self, ledger: Path, key: str) -> None:
        self.ledger = ledger
        self.key = key

    def identity(self, config: str, challenge: str) -> Mapping[str, str] | None:
        return {"ledger": str(self.ledger), "proof": identity.proof_of(self.key, str(self.ledger), challenge)}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Another ledger than that of the command."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere" / "state.db"


async def judged(folder: Path, shown: Shown) -> str:
    """What a command says of the daemon at the port: empty where it goes on."""
    async with Pages(shown, ("127.0.0.1", 0)).served() as pages:
        assert pages.url is not None
        path = folder / "config.yaml"
        path.write_text(
            f"listen: {pages.url.removeprefix('http://')}\nstate: {folder / 'state.db'}\n"
            'servers: [{id: 12345, schedule: "@daily"}]\n'
        )
        try:
            await asyncio.to_thread(status_client.refuse_another_ledger, load(path, {}))
        except SnaprotdError as error:
            return str(error)
    return ""


async def test_a_daemon_that_proves_to_have_another_ledger_is_believed(tmp_path: Path, elsewhere: Path) -> None:
    said = await judged(tmp_path, Claiming(elsewhere, identity.own_key(elsewhere)))
    assert f"has its ledger in {elsewhere}, and this command would use {tmp_path / 'state.db'}" in said
    assert stat.S_IMODE(identity.key_of(elsewhere).stat().st_mode) == 0o600
    ours = tmp_path / "state.db"
    assert await judged(tmp_path, Claiming(ours, identity.own_key(ours))) == ""


async def test_what_does_not_prove_to_be_the_daemon_is_not_believed(
    tmp_path: Path, elsewhere: Path, log: list[Any]
) -> None:
    assert await judged(tmp_path, Claiming(elsewhere, "0" * 64)) == ""  # there is no key
    identity.own_key(elsewhere)
    assert await judged(tmp_path, Claiming(elsewhere, "0" * 64)) == ""
    assert await judged(tmp_path, Claiming(Path("relative"), "0" * 64)) == ""
    assert [line["event"][:30] for line in log] == ["what answers for the daemon do"] * 3


@pytest.mark.parametrize("kind", ["others", "writable", "link", "short"])
async def test_a_key_that_anybody_may_have_laid_down_proves_nothing(tmp_path: Path, elsewhere: Path, kind: str) -> None:
    key = identity.own_key(elsewhere)
    place = identity.key_of(elsewhere)
    if kind == "others":
        if os.geteuid() != 0:
            pytest.skip("NOT CHECKED: only root can give a file away")
        os.chown(place, 4711, 4711)
    elif kind == "writable":
        place.chmod(0o666)
    elif kind == "link":
        place.rename(place.with_name("real"))
        place.symlink_to(place.with_name("real"))
    else:
        place.write_text(key := "0" * 10)
    assert await judged(tmp_path, Claiming(elsewhere, key)) == ""


async def test_a_squatter_who_trickles_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_client, "QUICKLY", 0.2)

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while not writer.transport.is_closing():
                    writer.write(b"H")
                    await asyncio.sleep(0.05)
        writer.transport.abort()
        ended.set()

    ended = asyncio.Event()
    path = tmp_path / "config.yaml"
    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path.write_text(f'listen: 127.0.0.1:{port}\nservers: [{{id: 12345, schedule: "@daily"}}]\n')
    config, loop = load(path, {}), asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.to_thread(status_client.refuse_another_ledger, config)
    assert loop.time() - begun < 0.9
    await ended.wait()
    server.close()


async def test_now_refuses_where_the_real_daemon_of_its_file_has_another_ledger(tmp_path: Path) -> None:
    world = World(token=TOKEN)
    world.add_server("web-01")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    async with provider(world) as web:
        text = f'listen: 127.0.0.1:{port}\nservers: [{{id: 12345, schedule: "@yearly"}}]\n'
        config = write_config(tmp_path, web.base_url, text)
        lines = [line for line in config.read_text().splitlines() if not line.startswith("state:")]
        config.write_text("\n".join(lines))
        folders = [tmp_path / "one", tmp_path / "other"]
        for folder in folders:
            folder.mkdir()
        async with daemon(config, STATE_DIRECTORY=str(folders[0])) as life:
            await life.has_said('"running"')
            told = await run("now", "12345", "--config", str(config), STATE_DIRECTORY=str(folders[1]))
        assert (told.code, world.created) == (1, [])
        assert f"has its ledger in {folders[0] / 'state.db'}" in told.err


# -- snaprotd status --------------------------------------------------------------------------------------------------


class Reporting(Shown):
    async def status(self) -> Mapping[str, Any]:
        return {"version": VERSION, "text": "\x1b[2J\u202eevil", "rows": [{"a\nb": "\x9b1m"}]}


async def asked(url: str, certificate: Path | None = None, **environ: str) -> dict[str, Any]:
    return await asyncio.to_thread(read_status, Place(url, certificate), environ)


async def test_the_status_is_read_over_a_unix_socket_and_moves_no_terminal(tmp_path: Path) -> None:
    async with Pages(Reporting(), tmp_path / "http.sock").served() as pages:
        assert pages.url is not None
        report = await asked(pages.url)
    assert all(text.isprintable() for text in (report["text"], *report["rows"][0], *report["rows"][0].values()))


async def test_the_status_is_read_over_tls_with_a_password_that_is_never_shown(
    tmp_path: Path, certificates: Path
) -> None:
    path = written(tmp_path, basic_auth_users={"ann": WORD}, tls_server_config=served_by(certificates))
    async with Pages(Reporting(), ("127.0.0.1", 0), read=lambda: read_web_file(path)).served() as pages:
        url, known = pages.url, certificates / "one.crt"
        assert url is not None
        assert (await asked(url, known, SNAPROTD_STATUS_AUTH="ann:swordfish"))["version"] == VERSION
        assert (await asked(url.replace("//", "//ann:swordfish@"), known))["version"] == VERSION
        for certificate in (None, certificates / "other.crt"):
            with pytest.raises(Unreachable) as told:
                await asked(url.replace("//", "//ann:swordfish@"), certificate)
            assert "swordfish" not in str(told.value)
        with pytest.raises(Unreachable, match="SNAPROTD_STATUS_AUTH"):
            await asked(url, known)


async def test_the_password_of_the_environment_goes_over_no_network_as_it_is() -> None:
    with pytest.raises(Unreachable, match="would go over the network"):
        await asked("http://192.0.2.1:9877", SNAPROTD_STATUS_AUTH="ann:swordfish")


OF_THE_NAME = {"cert_file": "now.crt", "key_file": "now.key"}


@pytest.mark.parametrize(
    ("listen", "keys", "remark"),
    [
        ("127.0.0.1:9877", None, ""),
        ("unix:/run/snaprotd/http.sock", None, ""),
        ("0.0.0.0:9877", None, "nobody is asked who looks: `web_config` is for that"),
        ("snap.example.org:9877", {"tls_server_config": OF_THE_NAME}, "names no users"),
        ('"[::]:9877"', {"basic_auth_users": {"ann": WORD}}, "passwords go over the network as they are"),
        (
            "0.0.0.0:9877",
            {"basic_auth_users": {"ann": WORD}, "tls_server_config": OF_THE_NAME},
            "",
        ),
    ],
)
async def test_check_remarks_on_pages_that_anybody_may_look_at(
    tmp_path: Path, listen: str, keys: dict[str, Any] | None, remark: str
) -> None:
    certify(tmp_path, "now", days=(-1, 90), host="snap.example.org")
    text = f'listen: {listen}\nservers: [{{id: 12345, schedule: "@daily"}}]\n'
    text += "" if keys is None else f"web_config: {written(tmp_path, **keys)}\n"
    told = await run("check", "--config", str(write_config(tmp_path, "http://127.0.0.1:1", text)))
    assert told.code == 0
    notes = [line for line in told.out.splitlines() if line.startswith("note") and "API token" not in line]
    assert (len(notes), remark in told.out) == (int(bool(remark)), True)


@pytest.mark.parametrize(
    ("certificate", "word", "said"),
    [
        ({"days": (-9, -1)}, "note", "the certificate of the pages has expired: "),
        ({"days": (1, 9)}, "note", "the certificate of the pages is not yet valid: "),
        ({"days": (-9, 13)}, "note", "the certificate of the pages ends at "),
        ({"days": (-9, 90), "host": "b.example"}, "note", "whoever asks for the pages by the name a.example is told "),
        ({"of": "crt"}, "PROBLEM", "now.key cannot be used: No such file or directory"),
        ({"of": "key"}, "PROBLEM", "now.crt cannot be used: No such file or directory"),
        ({"of": "others"}, "PROBLEM", "now.crt cannot be used: its key is that of another one"),
        ({"of": "folder"}, "PROBLEM", "now.crt cannot be used: no file of 1 byte to 1024 KiB"),
        ({"of": "words"}, "PROBLEM", "now.crt cannot be used: it or its key is not in PEM form"),
    ],
)
async def test_check_looks_at_the_certificate_and_its_key(
    tmp_path: Path, certificate: dict[str, Any], word: str, said: str
) -> None:
    broken = certificate.pop("of", "")
    certify(tmp_path, "now", **{"days": (-1, 90), "host": "a.example", **certificate})
    now, key = tmp_path / "now.crt", tmp_path / "now.key"
    if broken in ("crt", "key"):
        (key if broken == "crt" else now).unlink()
    elif broken == "others":
        certify(tmp_path, "other")
        (tmp_path / "other.key").rename(key)
    elif broken == "folder":
        now.unlink()
        now.mkdir()
    elif broken == "words":
        now.write_text("a certificate\n")
    text = 'allowed_hosts: [a.example]\nservers: [{id: 12345, schedule: "@daily"}]\n'
    text += f"web_config: {written(tmp_path, tls_server_config=OF_THE_NAME)}\n"
    told = await run("check", "--config", str(write_config(tmp_path, "http://127.0.0.1:1", text)))
    lines = [line for line in told.out.splitlines()[1:] if "API token" not in line]
    assert (told.code, lines[0].startswith(word), said in " ".join(told.out.split())) == (int(bool(broken)), True, True)


async def test_check_and_the_start_refuse_a_file_of_web_config_with_all_its_mistakes(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text("basic_auth_users: {ann: plain}\ntls: {}\n")
    text = f'web_config: {tmp_path / "web.yaml"}\nservers: [{{id: 12345, schedule: "@daily"}}]\n'
    config = write_config(tmp_path, "http://127.0.0.1:1", text)
    for command in ("check", "run"):
        told = await run(command, "--config", str(config))
        assert told.code == 78
        assert "web.yaml:1:25: basic_auth_users.ann: should be a bcrypt hash" in told.err
        assert "web.yaml:2:1: tls: unknown key" in told.err
        assert "plain" not in told.err
