"""The REST client: what it sends, and what it makes of every answer. The provider is scripted, or a real socket."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.core.errors import (
    Accepted,
    Anothers,
    Busy,
    CloudError,
    Full,
    LeaseLost,
    NotFound,
    NotSent,
    Permanent,
    Refused,
    Temporary,
    Unclear,
)
from snaprotd.core.model import ServerState, SnapshotState
from snaprotd.provider import Doubtful, Priority, TokenOwner
from snaprotd.provider.token import TokenSource, token_source
from snaprotd.provider.vps_org import client as cloud
from snaprotd.provider.vps_org.body import MAX_BODY
from snaprotd.provider.vps_org.client import VpsOrg
from tests.support.nouns import a_server

TOKEN = "vps_0123456789abcdef"
BASE = "https://vps.test/api/v1"
SERVER = a_server()
NAME = "snaprotd-main-20250116T033000Z"

Reply = httpx.Response | Exception


def entry(number: int, server: Any = 12345, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "server": {"id": server, "name": "web-01"},
        "name": f"s{number}",
        "status": "completed",
        "size_mb": 5120,
        "created_at": "2025-01-15T18:30:00Z",
        "description": "",
    } | changes


def page(entries: list[Any], **more: Any) -> httpx.Response:
    return httpx.Response(200, json={"count": len(entries), "results": entries, **more})


CREATED = {"id": 801, "server": {"id": 12345}, "name": NAME, "status": "in_progress", "size_mb": None, "message": "..."}


class Provider(httpx.AsyncBaseTransport):
    """Answers with what is on its list, the last one for ever; or with what a function makes of the request."""

    def __init__(self, *replies: Reply, by: Callable[[httpx.Request], Awaitable[Reply]] | None = None) -> None:
        self.replies = list(replies)
        self.by = by
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        reply = await self.by(request) if self.by else self.next()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def next(self) -> Reply:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, httpx.Response):
            # A response can be read once only.
            return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)
        return reply


class Notes:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.seconds: list[float] = []
        self.retries: list[str] = []
        self.waits: list[float] = []
        self.auth_failures = 0

    def request(self, method: str, endpoint: str, code: str, seconds: float) -> None:
        self.requests.append((method, endpoint, code))
        self.seconds.append(seconds)

    def retry(self, reason: str) -> None:
        self.retries.append(reason)

    def throttled(self, seconds: float) -> None:
        self.waits.append(seconds)

    def auth_failure(self) -> None:
        self.auth_failures += 1


def fixed_token() -> TokenSource:
    return token_source(None, {"VPS_API_TOKEN": TOKEN})


def allow() -> None:
    """A guard that has nothing against it."""


def client(provider: httpx.AsyncBaseTransport | None, *, base_url: str = BASE, **more: Any) -> VpsOrg:
    return VpsOrg(base_url=base_url, token=more.pop("token", fixed_token()), transport=provider, **more)


async def create(api: VpsOrg, guard: Callable[[], None] = allow) -> Any:
    return await api.create_snapshot(SERVER, NAME, "before", guard=guard)


async def error_of(awaitable: Awaitable[Any]) -> CloudError:
    with pytest.raises(CloudError) as caught:
        await awaitable
    return caught.value


# -- what is sent ----------------------------------------------------------------------------------------------


async def test_a_create_is_sent_as_the_provider_documents_it() -> None:
    provider = Provider(httpx.Response(201, json=CREATED))
    async with client(provider) as api:
        made = await create(api)
    (request,) = provider.requests
    assert (request.method, str(request.url)) == ("POST", f"{BASE}/snapshots/")
    assert json.loads(request.content) == {"server_id": 12345, "name": NAME, "description": "before"}
    assert (made.id, made.server_id, made.state) == ("801", "12345", SnapshotState.IN_PROGRESS)


async def test_every_request_carries_the_token_and_says_who_we_are() -> None:
    provider = Provider(page([]))
    async with client(provider) as api:
        await api.snapshots()
    headers = provider.requests[0].headers
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["User-Agent"].startswith("snaprotd/")
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("ask", "method", "path", "body"),
    [
        (lambda api: api.power(SERVER, "stop", guard=allow), "POST", "/servers/12345/power/", {"action": "stop"}),
        (lambda api: api.restore_snapshot("801", guard=allow), "POST", "/snapshots/801/restore/", {}),
        (lambda api: api.delete_snapshot("801", guard=allow), "DELETE", "/snapshots/801/", None),
    ],
)
async def test_the_other_changes_go_to_their_places(
    ask: Callable[[VpsOrg], Awaitable[None]], method: str, path: str, body: object
) -> None:
    provider = Provider(httpx.Response(204))
    async with client(provider) as api:
        await ask(api)
    (request,) = provider.requests
    assert (request.method, str(request.url)) == (method, BASE + path)
    assert (json.loads(request.content) if request.content else None) == body


@pytest.mark.parametrize("ref", ["", "..", ".", "../servers/1", "a/b", "a b", "a?b", "a%2fb", "\ud800", "801\n"])
async def test_an_id_that_would_lead_to_another_path_is_never_sent(ref: str) -> None:
    provider = Provider(httpx.Response(204))
    async with client(provider) as api:
        await error_of(api.delete_snapshot(ref, guard=allow))
        await error_of(api.snapshots(ref))
    assert provider.requests == []


async def test_a_session_cookie_is_not_sent_back() -> None:
    provider = Provider(httpx.Response(200, json=[], headers={"Set-Cookie": "sessionid=1; Path=/"}))
    async with client(provider) as api:
        await api.snapshots()
        await api.snapshots()
    assert "Cookie" not in provider.requests[1].headers


async def test_netrc_does_not_replace_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine vps.test login me password other\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    provider = Provider(page([]))
    async with client(provider) as api:
        await api.snapshots()
    assert provider.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


async def test_a_password_in_the_base_url_does_not_replace_the_token() -> None:
    provider = Provider(page([]))
    async with client(provider, base_url="https://me:other@vps.test/api/v1") as api:
        await api.snapshots()
    assert provider.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


# -- what is read ----------------------------------------------------------------------------------------------


async def test_the_list_of_one_server_is_asked_for_and_read() -> None:
    provider = Provider(page([entry(801)]))
    async with client(provider) as api:
        (one,) = await api.snapshots("12345")
    assert provider.requests[0].url.params["server_id"] == "12345"
    assert (one.id, one.server_id, one.name, one.size_mb) == ("801", "12345", "s801", 5120)
    assert one.created_at == datetime(2025, 1, 15, 18, 30, tzinfo=UTC)


async def test_a_filter_that_the_provider_ignores_is_applied_here() -> None:
    async with client(Provider(page([entry(1), entry(2, server=777), entry(3, server="12345")]))) as api:
        assert [one.id for one in await api.snapshots("12345")] == ["1", "3"]


async def test_a_server_may_be_named_by_its_bare_id_or_its_uuid() -> None:
    entries = [
        entry(1, server=7) | {"server": 7},
        entry(2) | {"server": {"uuid": "c0-ffee"}},
        entry(3) | {"server": "x"},
    ]
    async with client(Provider(page(entries))) as api:
        assert [one.server_id for one in await api.snapshots()] == ["7", "c0-ffee", "x"]


async def test_a_server_asked_for_by_its_uuid_is_recognised_beside_its_id() -> None:
    body = {"id": 7, "uuid": "c0-ffee", "name": "web", "status": "active"}
    async with client(Provider(httpx.Response(200, json=body))) as api:
        server = await api.server("c0-ffee")
    assert (server.id, server.ref) == ("c0-ffee", "c0-ffee")


NOWHERE = httpx.Response(404, json={"detail": "Not found."})
BOTH = {"id": 7, "uuid": "c0-ffee", "name": "web", "status": "active"}
OTHER = {"id": 8, "uuid": "dead-beef", "name": "db", "status": "active"}


@pytest.mark.parametrize("server", [7, "7", "c0-ffee", {"id": 7}, {"uuid": "c0-ffee"}, {"id": 7, "uuid": "c0-ffee"}])
@pytest.mark.parametrize("asked", ["7", "c0-ffee"])
async def test_the_snapshots_of_one_server_are_found_by_whichever_of_its_ids_they_name_it(
    asked: str, server: object
) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if "snapshots" in request.url.path:
            return page([entry(1) | {"server": server}, entry(2) | {"server": 8}])
        return page([BOTH, OTHER]) if request.url.path.endswith("/servers/") else httpx.Response(200, json=BOTH)

    async with client(Provider(by=answer)) as api:
        assert [(one.id, one.server_id) for one in await api.snapshots(asked)] == [("1", asked)]


async def test_snapshots_of_a_server_that_nobody_knows_are_no_sign_that_ours_has_none() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if "snapshots" in request.url.path:
            return page([entry(1) | {"server": "c0-ffee"}])
        plain = {"id": 7, "name": "web", "status": "active"}
        return page([plain]) if request.url.path.endswith("/servers/") else httpx.Response(200, json=plain)

    async with client(Provider(by=answer)) as api:
        assert isinstance(await error_of(api.snapshots("7")), Doubtful)


async def test_a_filter_that_takes_one_form_of_an_id_only_hides_no_snapshot() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if "snapshots" not in request.url.path:
            return httpx.Response(200, json=BOTH)
        by = request.url.params["server_id"]
        return page([entry(1) | {"server": 7}]) if by == "7" else httpx.Response(400, json={"server_id": ["a number"]})

    async with client(Provider(by=answer)) as api:
        assert [one.id for one in await api.snapshots("c0-ffee")] == ["1"]


async def test_a_server_is_asked_by_another_of_its_ids_where_one_is_unknown_to_the_provider() -> None:
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            asked.append(str(request.url.path))
        if request.url.path.endswith("/servers/"):
            return page([BOTH])
        return httpx.Response(200, json=BOTH) if "c0-ffee" in request.url.path else NOWHERE

    async with client(Provider(by=answer)) as api:
        await api.servers()
        server = await api.server("7")
        assert (server.id, server.ref) == ("7", "c0-ffee")
        await api.power(server, "start", guard=lambda: None)
        await api.power((await api.servers())[0], "start", guard=lambda: None)
    assert [one.split("/")[-3] for one in asked] == ["c0-ffee", "7", "c0-ffee"]


async def test_a_number_that_was_given_to_another_server_is_neither_ones_for_certain() -> None:
    listed = [BOTH, OTHER]

    async def answer(request: httpx.Request) -> httpx.Response:
        its = [one for one in listed if request.url.path.split("/")[-2] in (str(one.get("id")), one["uuid"])]
        return page(listed) if not its else httpx.Response(200, json=its[0])

    async with client(Provider(by=answer)) as api:
        await api.servers()
        listed[:] = [{**BOTH, "id": 9}, {**OTHER, "id": 7}]
        assert isinstance(await error_of(api.server("7")), Anothers)
        assert (await api.server("c0-ffee")).name == "web"
        assert (await api.server("dead-beef")).name == "db"


async def test_a_server_that_the_provider_gives_another_uuid_keeps_its_number() -> None:
    listed = [BOTH]

    async def answer(request: httpx.Request) -> httpx.Response:
        return page(listed) if request.url.path.endswith("/servers/") else httpx.Response(200, json=listed[0])

    async with client(Provider(by=answer)) as api:
        await api.servers()
        listed[:] = [{**BOTH, "uuid": "c0-ffee-2"}]
        assert (await api.server("7")).name == "web"


async def test_a_server_that_is_known_by_two_ids_may_answer_with_the_other_one_alone() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return page([BOTH]) if request.url.path.endswith("/servers/") else httpx.Response(200, json={"id": 7})

    async with client(Provider(by=answer)) as api:
        await api.servers()
        assert (await api.server("c0-ffee")).id == "c0-ffee"


async def test_another_server_than_the_one_asked_for_is_not_believed() -> None:
    async with client(Provider(httpx.Response(200, json={"id": 8, "status": "active"}))) as api:
        assert isinstance(await error_of(api.server("7")), Temporary)


async def test_a_server_without_a_status_is_in_none() -> None:
    async with client(Provider(httpx.Response(200, json={"id": 7, "hostname": "web.example"}))) as api:
        server = await api.server("7")
    assert (server.name, server.status, server.state) == ("web.example", "", ServerState.BETWEEN)


async def test_the_account_is_read() -> None:
    body = {"account": {"email": "me@example.org"}, "token": {"name": "ci", "permissions": {"snapshots": ["read"]}}}
    async with client(Provider(httpx.Response(200, json=body))) as api:
        assert await api.token_owner() == TokenOwner(
            email="me@example.org", token_name="ci", permissions=("snapshots:read",)
        )


# -- lists -----------------------------------------------------------------------------------------------------


async def test_pages_are_followed_to_the_end() -> None:
    async def by(request: httpx.Request) -> Reply:
        number = int(request.url.params.get("page", 1))
        link = f"{BASE}/snapshots/?page={number + 1}" if number < 3 else None
        return httpx.Response(200, json={"count": 3, "next": link, "results": [entry(number)]})

    provider = Provider(by=by)
    async with client(provider) as api:
        assert [one.id for one in await api.snapshots()] == ["1", "2", "3"]
    assert provider.requests[0].url.params["page_size"] == "100"


async def test_a_relative_link_and_a_spelled_out_port_are_the_same_place() -> None:
    links = ["?page=2", "https://vps.test:443/api/v1/snapshots/?page=3", None]
    pages = [httpx.Response(200, json={"next": link, "results": [entry(i)]}) for i, link in enumerate(links)]
    async with client(Provider(*pages)) as api:
        assert len(await api.snapshots()) == 3


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.test/api/v1/snapshots/?page=2",
        "http://vps.test/api/v1/snapshots/?page=2",
        "https://vps.test:8443/api/v1/snapshots/?page=2",
        "https://vps.test.evil.test/?page=2",
        "https://vps.test@evil.test/?page=2",
        "https://me:pw@vps.test/api/v1/snapshots/?page=2",
        "//evil.test/snapshots/?page=2",
        "file:///etc/passwd",
        "https://[",
    ],
)
async def test_the_token_does_not_follow_a_link_to_another_place(link: str) -> None:
    provider = Provider(httpx.Response(200, json={"next": link, "results": [entry(1)]}))
    async with client(provider) as api:
        error = await error_of(api.snapshots())
    assert isinstance(error, Doubtful)
    assert "incomplete" in str(error)
    assert len(provider.requests) == 1


async def test_pages_that_go_round_in_a_circle_are_an_incomplete_list() -> None:
    provider = Provider(page([entry(1)], next=f"{BASE}/snapshots/?page=1"))
    async with client(provider) as api:
        assert isinstance(await error_of(api.snapshots()), Doubtful)
    assert len(provider.requests) == 2


async def test_pages_without_an_end_are_an_incomplete_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "MAX_PAGES", 5)

    async def by(request: httpx.Request) -> Reply:
        return page([], next=f"?page={int(request.url.params.get('page', 1)) + 1}")

    provider = Provider(by=by)
    async with client(provider) as api:
        assert isinstance(await error_of(api.snapshots()), Doubtful)
    assert len(provider.requests) == 5


@pytest.mark.parametrize("count", [7, 1, 0, None, "2", -2])
async def test_a_count_that_differs_from_the_list_makes_it_incomplete(count: object) -> None:
    async with client(Provider(page([entry(1), entry(2)], count=count))) as api:
        error = await error_of(api.snapshots())
    assert isinstance(error, Doubtful)
    assert error.about is None


async def test_an_entry_that_comes_twice_stands_for_one_that_was_left_out() -> None:
    async with client(Provider(page([entry(1), entry(1)]))) as api:
        assert isinstance(await error_of(api.snapshots()), Doubtful)


async def test_a_bare_list_is_a_whole_list() -> None:
    async with client(Provider(httpx.Response(200, json=[entry(1), entry(1), entry(2)]))) as api:
        assert [one.id for one in await api.snapshots()] == ["1", "2"]


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"results": null}', b'{"results": {}}', b'"ok"', b"null", b'{"results": [], "next": 2}', b"[" * 99999],
)
async def test_another_shape_of_list_is_no_list(body: bytes) -> None:
    async with client(Provider(httpx.Response(200, content=body))) as api:
        assert type(await error_of(api.snapshots())) is Temporary


@pytest.mark.parametrize("broken", [{"id": None}, {"id": True}, {"id": ""}, {"name": None}, {"name": 5}])
async def test_a_broken_snapshot_puts_only_its_own_server_in_doubt(broken: dict[str, Any]) -> None:
    async with client(Provider(page([entry(1, server=1), entry(2, server=2, **broken), entry(3, server=2)]))) as api:
        error = await error_of(api.snapshots())
        assert isinstance(error, Doubtful)
        assert error.about == frozenset({"2"})
        assert [one.id for one in error.readable] == ["1", "3"]
        assert [one.id for one in await api.snapshots("1")] == ["1"]
        assert isinstance(await error_of(api.snapshots("2")), Doubtful)


@pytest.mark.parametrize("broken", [None, 5, "x", [], {}, entry(2) | {"server": None}, entry(2) | {"server": {}}])
async def test_a_snapshot_of_nobody_knows_whom_puts_every_server_in_doubt(broken: Any) -> None:
    async with client(Provider(page([entry(1), broken]))) as api:
        for asked in (None, "12345"):
            error = await error_of(api.snapshots(asked))
            assert isinstance(error, Doubtful)
            assert error.about is None


async def test_a_broken_server_leaves_the_others_readable() -> None:
    async with client(Provider(page([{"id": 1}, {"name": "no id"}, {"uuid": "x"}]))) as api:
        error = await error_of(api.servers())
    assert isinstance(error, Doubtful)
    assert [server.id for server in error.readable] == ["1", "x"]


# -- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "get", "post"),
    [
        (301, Permanent, Permanent),
        (302, Permanent, Permanent),
        (400, Permanent, Full),
        (401, Refused, Refused),
        (403, Refused, Refused),
        (404, NotFound, NotFound),
        (405, Permanent, Permanent),
        (408, Temporary, Unclear),
        (409, Permanent, Unclear),
        (422, Permanent, Permanent),
        (423, Permanent, Busy),
        (429, Temporary, Temporary),
        (500, Temporary, Unclear),
        (502, Temporary, Unclear),
        (503, Temporary, Unclear),
        (504, Temporary, Unclear),
    ],
)
async def test_each_status_has_its_word(status: int, get: type[CloudError], post: type[CloudError]) -> None:
    async with client(Provider(httpx.Response(status, json={"detail": "no"}))) as api:
        reading, changing = await error_of(api.server("1")), await error_of(create(api))
    assert (type(reading), type(changing)) == (get, post)
    assert all(f"vps.test answered {status} to" in str(error) for error in (reading, changing))


@pytest.mark.parametrize(("status", "word"), [(400, Permanent), (409, Busy), (423, Busy)])
async def test_what_is_busy_may_be_asked_again_but_not_at_once(status: int, word: type[CloudError]) -> None:
    provider = Provider(httpx.Response(status, json={"detail": "Another operation is in progress."}))
    async with client(provider) as api:
        for asked in (
            api.power(SERVER, "stop", guard=allow),
            api.delete_snapshot("801", guard=allow),
            api.restore_snapshot("801", guard=allow),
        ):
            error = await error_of(asked)
            assert type(error) is word
            assert str(error).endswith(": Another operation is in progress.")
    assert len(provider.requests) == 3


@pytest.mark.parametrize(
    ("error", "get", "post"),
    [
        (httpx.ConnectError("refused"), NotSent, NotSent),
        (httpx.ConnectTimeout("slow"), NotSent, NotSent),
        (httpx.PoolTimeout("full"), NotSent, NotSent),
        (httpx.ProxyError("403"), NotSent, NotSent),
        (httpx.ReadError("reset"), Temporary, Unclear),
        (httpx.WriteError("reset"), Temporary, Unclear),
        (httpx.ReadTimeout("slow"), Temporary, Unclear),
        (httpx.WriteTimeout("slow"), Temporary, Unclear),
        (httpx.RemoteProtocolError("cut"), Temporary, Unclear),
        (httpx.DecodingError("gzip"), Temporary, Unclear),
    ],
)
async def test_each_failure_of_the_network_has_its_word(
    error: Exception, get: type[CloudError], post: type[CloudError]
) -> None:
    async with client(Provider(error)) as api:
        reading, changing = await error_of(api.server("1")), await error_of(create(api))
    assert (type(reading), type(changing)) == (get, post)
    assert reading.__cause__ is error


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Bad gateway</html>",
        b'{"id": 801, "name": "snap',
        b"",
        b"null",
        b"[]",
        json.dumps({**CREATED, "id": None}).encode(),
    ],
)
@pytest.mark.parametrize(("status", "word"), [(200, Unclear), (201, Accepted)])
async def test_a_create_that_is_answered_without_an_id_may_have_been_carried_out_and_a_201_says_that_it_was(
    content: bytes, status: int, word: type[CloudError]
) -> None:
    provider = Provider(httpx.Response(status, content=content))
    async with client(provider) as api:
        assert type(await error_of(create(api))) is word
    assert len(provider.requests) == 1


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize(
    "answer",
    [
        {**CREATED, "name": str(CREATED["name"]).upper()},
        {**CREATED, "name": None},
        {**CREATED, "server": "12345"},
        {**CREATED, "server": {"id": 777}},
        {"id": 801},
        {"status": "success", "snapshot": {"id": 801}},
    ],
)
async def test_the_id_that_answers_a_create_is_ours_whatever_is_said_beside_it(
    answer: dict[str, Any], status: int
) -> None:
    async with client(Provider(httpx.Response(status, json=answer))) as api:
        made = await create(api)
    assert (made.id, made.server_id) == ("801", "12345")


async def test_a_create_whose_answer_leaves_the_server_out_is_taken() -> None:
    answer = {key: value for key, value in CREATED.items() if key != "server"}
    async with client(Provider(httpx.Response(201, json=answer))) as api:
        assert (await create(api)).server_id == "12345"


@pytest.mark.parametrize("method", ["power", "restore"])
async def test_html_for_an_answer_leaves_a_change_unclear(method: str) -> None:
    async with client(Provider(httpx.Response(200, text="<!DOCTYPE html>"))) as api:
        asked = api.power(SERVER, "stop", guard=allow) if method == "power" else api.restore_snapshot("1", guard=allow)
        assert type(await error_of(asked)) is Unclear


async def test_html_in_place_of_a_list_is_no_list() -> None:
    async with client(Provider(httpx.Response(200, text=" <html>login</html>"))) as api:
        assert "HTML instead of JSON" in str(await error_of(api.snapshots()))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "Snapshot limit reached"}, "Snapshot limit reached"),
        (
            {"name": ["Too long.", "Bad character."], "server_id": ["Unknown."]},
            "name: Too long. Bad character.; server_id: Unknown.",
        ),
        (["Nope."], "Nope."),
        ({"detail": "two\nlines\x1b[31m"}, "two lines\ufffd[31m"),
    ],
)
async def test_the_providers_own_words_are_in_the_error(body: object, words: str) -> None:
    async with client(Provider(httpx.Response(400, json=body))) as api:
        error = await error_of(create(api))
    assert str(error) == f"vps.test answered 400 to POST /api/v1/snapshots/: {words}"


FOREIGN = {
    "HTML": b"<html><h1>404 Not Found</h1></html>",
    "nothing": b"",
    "a text": b"default backend - 404",
    "a text in JSON": b'"Not found."',
    "null": b"null",
    "a list": b'["Not found."]',
    "an empty object": b"{}",
    "a gateway's JSON": b'{"message": "no Route matched with those values"}',
    "no words": b'{"detail": null}',
    "empty words": b'{"detail": ""}',
    "fields without words": b'{"id": []}',
    "cut short": b'{"detail": "Not fo',
}
"""What stands in a 404 that is not the provider's own."""


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN.keys())
async def test_what_a_proxy_does_not_find_proves_nothing(body: bytes) -> None:
    async with client(Provider(httpx.Response(404, content=body))) as api:
        errors = [
            await error_of(asked)
            for asked in (
                api.server("12345"),
                create(api),
                api.power(SERVER, "stop", guard=allow),
                api.restore_snapshot("801", guard=allow),
                api.delete_snapshot("801", guard=allow),
            )
        ]
    assert [type(error) for error in errors] == [Temporary, Unclear, Unclear, Unclear, Unclear]


@pytest.mark.parametrize("body", [{"detail": "Not found."}, {"id": ["There is none."]}, {"a": ["x"], "b": ["y", "z"]}])
async def test_a_404_in_the_providers_own_words_is_believed(body: Any) -> None:
    async with client(Provider(httpx.Response(404, json=body))) as api:
        assert type(await error_of(api.server("12345"))) is NotFound
        assert type(await error_of(api.power(SERVER, "stop", guard=allow))) is NotFound
        await api.delete_snapshot("801", guard=allow)


async def test_a_deleted_snapshot_that_is_gone_already_is_success() -> None:
    async with client(Provider(httpx.Response(404, json={"detail": "Not found."}))) as api:
        await api.delete_snapshot("801", guard=allow)


# -- repetition ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [httpx.Response(502), httpx.ReadError("cut"), httpx.Response(200, text="<html>")])
async def test_a_get_is_repeated_until_it_succeeds(failure: Reply) -> None:
    notes = Notes()
    provider = Provider(failure, failure, failure, page([entry(1)]))
    async with client(provider, observer=notes) as api:
        assert len(await api.snapshots()) == 1
    assert len(provider.requests) == 4
    assert len(notes.retries) == 3


async def test_a_get_is_given_up_after_four_attempts() -> None:
    provider = Provider(httpx.Response(500))
    async with client(provider) as api:
        await error_of(api.snapshots())
    assert len(provider.requests) == 4


async def test_the_pauses_between_the_attempts_double_with_a_little_chance() -> None:
    provider = Provider(httpx.Response(502))
    async with client(provider) as api:
        await error_of(api.snapshots())
    pauses = [later - sooner for sooner, later in pairwise(provider.times)]
    assert [0 <= pause - least <= 1 for pause, least in zip(pauses, (0.5, 1.0, 2.0), strict=True)] == [True] * 3


async def test_a_provider_that_asks_for_no_pause_gets_a_short_one() -> None:
    provider = Provider(httpx.Response(429, headers={"Retry-After": "0"}), page([]))
    async with client(provider) as api:
        await api.snapshots()
    assert provider.times[1] - provider.times[0] == pytest.approx(0.5)


async def test_no_attempt_begins_after_45_seconds() -> None:
    async def by(request: httpx.Request) -> Reply:
        await asyncio.sleep(3600)
        return page([])

    provider = Provider(by=by)
    async with client(provider, timeout=30) as api:
        await error_of(api.snapshots())
    assert len(provider.requests) == 2


async def test_a_delete_is_repeated() -> None:
    gone = httpx.Response(404, json={"detail": "Not found."})
    provider = Provider(httpx.Response(500), httpx.ReadError("cut"), httpx.Response(404), gone)
    async with client(provider) as api:
        await api.delete_snapshot("801", guard=allow)
    assert len(provider.requests) == 4


@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(500),
        httpx.Response(429, headers={"Retry-After": "1"}),
        httpx.ReadError("cut"),
        httpx.ConnectError("no"),
    ],
)
async def test_a_post_is_never_repeated(failure: Reply) -> None:
    provider = Provider(failure)
    async with client(provider) as api:
        await error_of(create(api))
        await error_of(api.power(SERVER, "stop", guard=allow))
        await error_of(api.restore_snapshot("801", guard=allow))
    assert len(provider.requests) == 3


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
async def test_what_asking_again_cannot_help_is_not_repeated(status: int) -> None:
    provider = Provider(httpx.Response(status, json={"detail": "no"}))
    async with client(provider) as api:
        await error_of(api.snapshots())
    assert len(provider.requests) == 1


# -- rate ------------------------------------------------------------------------------------------------------


async def test_requests_never_exceed_the_rate_in_any_second() -> None:
    notes, provider = Notes(), Provider(page([]))
    async with client(provider, requests_per_second=5, observer=notes) as api:
        await asyncio.gather(*(api.snapshots() for _ in range(50)))
    busiest = max(sum(1 for time in provider.times if begin <= time < begin + 1 - 1e-6) for begin in provider.times)
    assert busiest == 5
    assert provider.times[-1] - provider.times[0] == pytest.approx(49 / 5)
    assert sum(notes.waits) > 0


async def test_a_lone_request_is_not_held_back() -> None:
    notes = Notes()
    async with client(Provider(page([])), observer=notes) as api:
        await api.snapshots()
    assert notes.waits == []


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_429_pauses_every_caller_for_as_long_as_it_says(form: str) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    notes = Notes()
    provider = Provider(httpx.Response(429, headers={"Retry-After": "20" if form == "seconds" else until}), page([]))
    async with client(provider, observer=notes) as api:
        refused = asyncio.create_task(api.snapshots())
        await asyncio.sleep(1)
        await asyncio.gather(refused, *(api.server("1") for _ in range(9)), return_exceptions=True)
    gaps = [time - provider.times[0] for time in provider.times[1:]]
    assert gaps[0] == pytest.approx(20, abs=1.01)
    assert all(later - sooner > 0.199 for sooner, later in pairwise(gaps))
    assert max(notes.waits) > 18
    assert "429" in notes.retries


async def test_a_429_holds_back_those_who_wait_for_their_turn_already() -> None:
    provider = Provider(httpx.Response(429, headers={"Retry-After": "30"}), page([]))
    async with client(provider) as api:
        await asyncio.gather(*(api.snapshots() for _ in range(15)))
    gaps = [time - provider.times[0] for time in provider.times[1:]]
    assert gaps[0] == pytest.approx(30, abs=0.001)
    assert all(later - sooner > 0.199 for sooner, later in pairwise(gaps))


async def test_a_429_without_a_time_pauses_for_a_while() -> None:
    provider = Provider(httpx.Response(429), page([]))
    async with client(provider) as api:
        await api.snapshots()
    assert provider.times[1] - provider.times[0] >= 5


async def test_a_429_to_a_post_is_not_repeated_and_says_how_long() -> None:
    provider = Provider(httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(201, json=CREATED))
    async with client(provider) as api:
        error = await error_of(create(api))
        await create(api)
    assert isinstance(error, Temporary)
    assert (type(error), error.retry_after) == (Temporary, 7)
    assert provider.times[1] - provider.times[0] >= 7


async def test_a_503_that_says_for_how_long_pauses_too() -> None:
    provider = Provider(httpx.Response(503, headers={"Retry-After": "30"}), page([]))
    async with client(provider) as api:
        assert type(await error_of(create(api))) is Unclear
        await api.snapshots()
    assert provider.times[1] - provider.times[0] >= 30


async def test_a_very_long_pause_is_the_callers_to_plan_and_has_an_end() -> None:
    provider = Provider(httpx.Response(429, headers={"Retry-After": "99999999"}), page([]))
    async with client(provider) as api:
        error = await error_of(api.snapshots())
        await api.snapshots()
    assert isinstance(error, Temporary)
    assert error.retry_after == 99999999
    assert provider.times[1] - provider.times[0] == pytest.approx(900)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 423, 500, 502, 504])
async def test_what_another_error_says_of_a_later_time_pauses_nobody(status: int) -> None:
    provider = Provider(httpx.Response(status, headers={"Retry-After": "86400"}), httpx.Response(200, json={}))
    async with client(provider) as api:
        error = await error_of(api.power(SERVER, "stop", guard=allow))
        await api.power(SERVER, "stop", guard=allow)
    assert getattr(error, "retry_after", None) is None
    assert provider.times[1] - provider.times[0] == pytest.approx(0.2)


async def test_a_503_without_a_time_pauses_nobody() -> None:
    provider = Provider(httpx.Response(503), httpx.Response(200, json={}))
    async with client(provider) as api:
        await error_of(api.power(SERVER, "stop", guard=allow))
        await api.power(SERVER, "stop", guard=allow)
    assert provider.times[1] - provider.times[0] == pytest.approx(0.2)


URGENT: list[tuple[str, Callable[[VpsOrg], Awaitable[Any]], bool]] = [
    ("a start", lambda api: api.power(SERVER, "start", guard=allow), True),
    ("a stop", lambda api: api.power(SERVER, "stop", guard=allow), False),
    ("a harder stop", lambda api: api.power(SERVER, "hard_stop", guard=allow), False),
    ("a create", lambda api: create(api), False),
    ("a look", lambda api: api.server("12345"), False),
    ("an urgent look", lambda api: api.server("12345", priority=Priority.DOWNTIME), True),
    ("a list of servers", lambda api: api.servers(), False),
    ("an urgent list of servers", lambda api: api.servers(priority=Priority.DOWNTIME), True),
    ("a list of snapshots", lambda api: api.snapshots(), False),
]


@pytest.mark.parametrize(("ask", "urgent"), [row[1:] for row in URGENT], ids=[row[0] for row in URGENT])
async def test_a_pause_is_short_for_what_a_server_that_is_off_waits_for(
    ask: Callable[[VpsOrg], Awaitable[Any]], urgent: bool
) -> None:
    provider = Provider(httpx.Response(429, headers={"Retry-After": "86400"}), httpx.Response(400))
    async with client(provider) as api:
        await error_of(api.power(SERVER, "stop", guard=allow))
        await error_of(ask(api))
    assert provider.times[1] - provider.times[0] == pytest.approx(2 if urgent else 900)


async def test_all_pages_of_an_urgent_list_are_urgent() -> None:
    async def by(request: httpx.Request) -> Reply:
        number = int(request.url.params.get("page", "1"))
        if request.url.path.endswith("/snapshots/"):
            return httpx.Response(429, headers={"Retry-After": "86400"})
        return httpx.Response(200, json={"results": [], "next": f"?page={number + 1}" if number < 5 else None})

    provider = Provider(by=by)
    async with client(provider, requests_per_second=1) as api:
        await error_of(api.snapshots())
        assert await api.servers(priority=Priority.DOWNTIME) == []
    assert [time - provider.times[0] for time in provider.times[1:]] == pytest.approx([2, 3.4, 4.8, 6.3, 7.7], abs=0.1)


async def test_a_start_is_sent_at_once_whatever_waits_and_hangs() -> None:
    sent: list[float] = []

    async def by(request: httpx.Request) -> Reply:
        if request.url.path.endswith("/power/"):
            sent.append(asyncio.get_running_loop().time())
            return httpx.Response(200, json={})
        await asyncio.sleep(3600)
        return page([])

    async with client(Provider(by=by), requests_per_second=1) as api:
        waiting = [asyncio.create_task(api.snapshots()) for _ in range(200)]
        await asyncio.sleep(25)
        asked = asyncio.get_running_loop().time()
        await api.power(SERVER, "start", guard=allow)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert sent[0] - asked <= 2


async def test_no_more_than_twenty_requests_are_open_at_once() -> None:
    opened = most = 0

    async def by(request: httpx.Request) -> Reply:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        await asyncio.sleep(20)
        opened -= 1
        return page([])

    async with client(Provider(by=by), requests_per_second=1000) as api:
        await asyncio.gather(*(api.snapshots() for _ in range(100)))
    assert most == 20


# -- the token -------------------------------------------------------------------------------------------------


def by_token(valid: str) -> Callable[[httpx.Request], Awaitable[Reply]]:
    async def by(request: httpx.Request) -> Reply:
        if request.headers["Authorization"] != f"Bearer {valid}":
            return httpx.Response(401, json={"detail": f"Bad token: {request.headers['Authorization']}"})
        return httpx.Response(201, json=CREATED) if request.method == "POST" else page([])

    return by


def rewrite_keeping_the_stamp(path: Path, text: str) -> None:
    """A change that only reading shows, so that the 401 is what makes us read."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text(text)
    os.utime(path, ns=times)


async def test_a_rotated_token_is_taken_up_after_a_401_even_for_a_post(tmp_path: Path) -> None:
    path, notes, asked = tmp_path / "token", Notes(), []
    path.write_text("vps_the_old")
    provider = Provider(by=by_token("vps_the_new"))
    async with client(provider, token=token_source(path, {}), observer=notes) as api:
        rewrite_keeping_the_stamp(path, "vps_the_new")
        await create(api, guard=lambda: asked.append(1))
    assert len(provider.requests) == 2
    assert len(asked) == 2
    assert notes.auth_failures == 0


async def test_all_requests_in_flight_survive_a_rotation_of_the_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("vps_the_old")
    answer = by_token("vps_the_new")

    async def by(request: httpx.Request) -> Reply:
        await asyncio.sleep(5)
        return await answer(request)

    async with client(Provider(by=by), token=token_source(path, {}), requests_per_second=1000) as api:
        asked = [asyncio.create_task(api.snapshots()) for _ in range(10)]
        await asyncio.sleep(1)
        rewrite_keeping_the_stamp(path, "vps_the_new")
        assert await asyncio.gather(*asked) == [[]] * 10


async def test_a_token_that_did_not_change_is_refused_after_one_request() -> None:
    notes, provider = Notes(), Provider(by=by_token("vps_other"))
    async with client(provider, observer=notes) as api:
        error = await error_of(api.snapshots())
    assert isinstance(error, Refused)
    assert (len(provider.requests), notes.auth_failures) == (1, 1)
    assert "VPS_API_TOKEN" in str(error)


async def test_the_token_is_in_no_error_log_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    for provider in (Provider(by=by_token("x")), Provider(httpx.ReadError("cut")), Provider(httpx.Response(500))):
        async with client(provider) as api:
            error = await error_of(create(api))
        shown += [repr(error), repr(vars(error)), "".join(traceback.format_exception(error)), repr(api)]
        shown += [str(request.url) for request in provider.requests]
    assert "[token]" in shown[0]
    assert TOKEN not in "".join(shown) + caplog.text


# -- the guard -------------------------------------------------------------------------------------------------


def lost() -> None:
    raise LeaseLost("another process holds it")


async def test_a_guard_that_refuses_is_heard_before_the_request() -> None:
    provider = Provider(httpx.Response(204))
    async with client(provider) as api:
        for asked in (create(api, lost), api.delete_snapshot("1", guard=lost), api.power(SERVER, "stop", guard=lost)):
            with pytest.raises(LeaseLost):
                await asked
    assert provider.requests == []


async def test_the_guard_is_asked_after_every_wait() -> None:
    asked: list[float] = []
    provider = Provider(httpx.Response(429, headers={"Retry-After": "40"}), httpx.Response(204))
    async with client(provider) as api:
        await api.delete_snapshot("1", guard=lambda: asked.append(asyncio.get_running_loop().time()))
    assert asked == provider.times


async def test_a_guard_that_refuses_while_the_turn_is_waited_for_ends_the_wait() -> None:
    provider = Provider(httpx.Response(429, headers={"Retry-After": "86400"}), httpx.Response(200, json={}))
    clock = asyncio.get_running_loop().time

    def until() -> None:
        if clock() >= lost_at:
            lost()

    async with client(provider) as api:
        await error_of(create(api))
        lost_at = clock() + 100
        with pytest.raises(LeaseLost):
            await api.power(SERVER, "stop", guard=until)
    assert clock() - lost_at < 5
    assert len(provider.requests) == 1


async def test_a_guard_that_refuses_the_second_attempt_is_not_repeated() -> None:
    calls: list[int] = []

    def once() -> None:
        calls.append(1)
        if len(calls) > 1:
            lost()

    async with client(Provider(httpx.Response(500))) as api:
        with pytest.raises(LeaseLost):
            await api.delete_snapshot("1", guard=once)
    assert len(calls) == 2


async def test_what_a_guard_calls_off_for_now_is_not_tried_again_either() -> None:
    asked: list[int] = []

    def for_now() -> None:
        asked.append(1)
        raise Temporary("the process is about to end")

    provider = Provider(httpx.Response(204))
    async with client(provider) as api:
        assert str(await error_of(api.delete_snapshot("1", guard=for_now))) == "the process is about to end"
    assert (len(asked), provider.requests) == (1, [])


async def test_an_observer_is_told_of_every_attempt_by_its_template() -> None:
    notes = Notes()
    provider = Provider(httpx.Response(503), httpx.ReadTimeout(""), httpx.ReadError(""), httpx.Response(204))
    async with client(provider, observer=notes) as api:
        await api.delete_snapshot("801", guard=allow)
    assert notes.requests == [("DELETE", "/snapshots/{id}/", code) for code in ("503", "timeout", "connection", "204")]
    assert notes.retries == ["503", "timeout", "connection"]


async def test_a_cancelled_request_frees_its_place() -> None:
    async def by(request: httpx.Request) -> Reply:
        await asyncio.sleep(1000 if len(provider.requests) <= 20 else 0)
        return page([])

    provider = Provider(by=by)
    async with client(provider, requests_per_second=1000, timeout=2000) as api:
        stuck = [asyncio.create_task(api.snapshots()) for _ in range(20)]
        await asyncio.sleep(1)
        for task in stuck:
            task.cancel()
        async with asyncio.timeout(5):
            assert await api.snapshots() == []


# -- real sockets ----------------------------------------------------------------------------------------------

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Wire:
    """What arrived at a listening socket."""

    def __init__(self) -> None:
        self.connections = 0
        self.received = b""
        self.url = ""


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[Wire]:
    wire = Wire()
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.connections += 1
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                wire.received += head
                await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def empty_list(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
    await writer.drain()


async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    for _byte in range(100):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def torrent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
    for _chunk in range(100):
        writer.write(b"1" * 1048576)
        await writer.drain()


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def cut_short(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"id": 801')
    await writer.drain()
    writer.close()


@pytest.mark.real_time
async def test_a_body_that_trickles_in_counts_towards_the_time_out() -> None:
    async with listening(trickle) as wire, client(None, base_url=wire.url, timeout=0.3) as api:
        began = asyncio.get_running_loop().time()
        assert type(await error_of(create(api))) is Unclear
        assert asyncio.get_running_loop().time() - began < 0.9


@pytest.mark.real_time
async def test_a_body_without_end_is_not_read_to_its_end() -> None:
    notes = Notes()
    async with listening(torrent) as wire, client(None, base_url=wire.url, observer=notes) as api:
        error = await error_of(create(api))
    assert type(error) is Unclear
    assert f"more than {MAX_BODY} bytes" in str(error)
    assert notes.requests == [("POST", "/snapshots/", "unreadable")]


@pytest.mark.real_time
async def test_a_redirect_is_not_followed() -> None:
    async with listening(empty_list) as elsewhere:

        async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            location = f"{elsewhere.url}/snapshots/".encode()
            writer.write(b"HTTP/1.1 307 Moved\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")

        async with listening(redirect) as wire, client(None, base_url=wire.url) as api:
            assert type(await error_of(api.snapshots())) is Permanent
    assert elsewhere.connections == 0


@pytest.mark.real_time
@pytest.mark.parametrize(("answer", "word"), [(hang_up, Unclear), (cut_short, Accepted)])
async def test_a_connection_that_is_cut_leaves_a_create_unclear_unless_a_201_had_arrived(
    answer: Answer, word: type[CloudError]
) -> None:
    async with listening(answer) as wire, client(None, base_url=wire.url) as api:
        assert type(await error_of(create(api))) is word
    assert wire.connections == 1


@pytest.mark.real_time
async def test_a_refused_connection_certainly_changed_nothing() -> None:
    async with listening(empty_list) as wire:
        pass
    async with client(None, base_url=wire.url) as api:
        assert type(await error_of(create(api))) is NotSent


@pytest.mark.real_time
async def test_a_time_out_before_the_request_went_out_certainly_changed_nothing() -> None:
    """The server accepts no TLS handshake: the connection stands, the request was never written."""

    async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None: ...

    async with listening(silent) as wire:
        url = wire.url.replace("http:", "https:")
        async with client(None, base_url=url, timeout=0.2) as api:
            assert type(await error_of(create(api))) is NotSent


async def test_a_time_out_of_all_before_the_request_went_out_certainly_changed_nothing() -> None:
    async def resolving(request: httpx.Request) -> Reply:
        await request.extensions["trace"]("connection.connect_tcp.started", {})
        await asyncio.sleep(3600)
        return httpx.Response(201, json=CREATED)

    async with client(Provider(by=resolving)) as api:
        error = await error_of(create(api))
    assert type(error) is NotSent
    assert str(error) == "no answer to POST /api/v1/snapshots/ from vps.test within 30 s"


@pytest.mark.real_time
async def test_a_time_out_after_the_request_went_out_is_unclear() -> None:
    async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None: ...

    async with listening(silent) as wire, client(None, base_url=wire.url, timeout=0.2) as api:
        assert type(await error_of(create(api))) is Unclear
    assert b"POST /snapshots/ HTTP/1.1" in wire.received


@pytest.mark.real_time
async def test_a_guard_that_refuses_at_the_last_moment_stops_the_bytes_and_harms_no_other_request() -> None:
    for warm in (False, True):
        calls: list[int] = []

        def at_the_wire(calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == 2:
                lost()

        async with listening(empty_list) as wire, client(None, base_url=wire.url, requests_per_second=1000) as api:
            if warm:
                await api.snapshots()
            with pytest.raises(LeaseLost, match="another process holds it"):
                await create(api, at_the_wire)
            assert b"POST" not in wire.received
            assert await asyncio.gather(*(api.snapshots() for _ in range(25))) == [[]] * 25
        assert len(calls) == 2


@pytest.mark.real_time
async def test_a_proxy_of_the_environment_is_never_handed_a_request_to_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening(empty_list) as proxy, listening(empty_list) as wire:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with client(None, base_url=wire.url) as api:
            await api.snapshots()
    assert (proxy.connections, wire.connections) == (0, 1)


@pytest.mark.real_time
async def test_a_proxy_of_the_environment_sees_no_token_of_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with listening(refuse) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with client(None) as api:
            assert type(await error_of(create(api))) is NotSent
    assert proxy.received.startswith(b"CONNECT vps.test:443")
    assert TOKEN.encode() not in proxy.received


@pytest.mark.real_time
async def test_nothing_of_a_request_waits_for_the_garbage_collector() -> None:
    """While thousands of servers are read for the first time there is none: what is left then stays for ever."""
    async with listening(empty_list) as wire, client(None, base_url=wire.url) as api:
        was_on, before = gc.isenabled(), set(map(id, of_requests()))
        gc.disable()
        try:
            await api.snapshots()
            left = [one for one in of_requests() if id(one) not in before]
        finally:
            if was_on:
                gc.enable()
    assert left == []


def of_requests() -> list[Any]:
    return [one for one in gc.get_objects() if isinstance(one, httpx.Request | httpx.Response)]
