"""The stand-in provider: its calls and status codes, its time, its faults, over a socket and without one.

What it answers is compared with the shapes and rules that the provider publishes, written out here once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org.body import MAX_BODY
from snaprotd.provider.vps_org.client import VpsOrg
from snaprotd.simulator import FAULT_HELP, KINDS, ROOT, Fault, Request, World, sample_world, serve
from tests.support.world_transport import WorldTransport

START = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
NOBODY_ANSWERS = 0.15
"""Seconds after which a request counts as never answered; an answer takes a tenth of that on either way."""
PATIENCE = 30.0
"""Seconds after which what was to happen will not happen any more."""
SHORTEST, LONGEST = 180, 600
"""Seconds that the provider says a snapshot takes, at the least and at the most."""

ways = pytest.mark.parametrize("way", ["transport", pytest.param("socket", marks=pytest.mark.real_time)])
id_kinds = pytest.mark.parametrize("id_kind", ["integer", "uuid", "uuid_key"])


class HandClock:
    """A clock that is moved by hand, on either way, so that nothing here sleeps."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass(kw_only=True)
class Visit:
    """A client at a world, and the hand on its clock."""

    world: World
    clock: HandClock
    client: httpx.AsyncClient
    dealt_with: asyncio.Event
    """Set when the world has dealt with a request, before its answer travels."""

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        authorization: str | None = None,
        query: Mapping[str, object] | None = None,
    ) -> httpx.Response:
        bearer = f"Bearer {self.world.token}" if authorization is None else authorization
        params = {key: str(value) for key, value in query.items()} if query else None
        headers = {"Authorization": bearer} if bearer else {}
        return await self.client.request(method, path, json=body, params=params, headers=headers)

    async def read(self, path: str, **query: object) -> Any:
        reply = await self.ask("GET", path, query=query)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def create(self, server_id: str, name: str = "before-update") -> httpx.Response:
        return await self.ask("POST", "/snapshots/", {"server_id": server_id, "name": name})

    async def power(self, server_id: str, action: str) -> httpx.Response:
        return await self.ask("POST", f"/servers/{server_id}/power/", {"action": action})

    async def status(self, server_id: str) -> str:
        return str((await self.read(f"/servers/{server_id}/"))["status"])

    async def listed(self, server_id: str | None = None) -> list[str]:
        query = {} if server_id is None else {"server_id": server_id}
        return [one["name"] for one in (await self.read("/snapshots/", **query))["results"]]


@asynccontextmanager
async def visit(way: str = "transport", **settings: Any) -> AsyncIterator[Visit]:
    """A world whose clock stands, and a plain HTTP client: over a socket, or straight to the world."""
    clock, dealt_with = HandClock(), asyncio.Event()
    world = World(clock=clock, **settings)

    async def hook(_: Request, when: str) -> None:
        if when == "after":
            dealt_with.set()

    async with AsyncExitStack() as stack:
        transport, base_url = None, f"https://vps.invalid{ROOT}"
        if way == "socket":
            base_url = (await stack.enter_async_context(serve(world, hook=hook))).base_url
        else:
            transport = WorldTransport(world, latency=NOBODY_ANSWERS / 20, after=lambda _, __: dealt_with.set())
        client = httpx.AsyncClient(transport=transport, base_url=base_url, trust_env=False)
        await stack.enter_async_context(client)
        yield Visit(world=world, clock=clock, client=client, dealt_with=dealt_with)


# -- what is answered ------------------------------------------------------------------------------------------

SERVER_KEYS = {
    "id": int,
    "name": str,
    "hostname": str,
    "status": str,
    "ip_address": str,
    "location": str,
    "plan": str,
    "os": str,
    "created_at": str,
    "updated_at": str,
}
SNAPSHOT_KEYS = {
    "id": int,
    "server": dict,
    "name": str,
    "status": str,
    "size_mb": int,
    "created_at": str,
    "description": str,
}


def types_of(entry: Mapping[str, object]) -> dict[str, type]:
    return {key: type(value) for key, value in entry.items()}


@ways
async def test_a_server_is_shown_with_the_published_keys(way: str) -> None:
    async with visit(way) as at:
        server_id = at.world.add_server("web-01")
        alone = await at.read(f"/servers/{server_id}/")
        listed = await at.read("/servers/")
    assert types_of(alone) == SERVER_KEYS
    assert listed == {"count": 1, "next": None, "previous": None, "results": [alone]}
    assert (alone["id"], alone["name"], alone["status"]) == (int(server_id), "web-01", "active")


@ways
async def test_servers_have_host_names_and_addresses_of_their_own_or_those_they_are_given(way: str) -> None:
    async with visit(way) as at:
        for name in ("web-01", "db-01"):
            at.world.add_server(name)
        at.world.add_server("app-01", hostname="app.example.com", ip_address="2001:db8::7")
        shown = [(one["hostname"], one["ip_address"]) for one in (await at.read("/servers/"))["results"]]
    assert shown == [
        ("web-01.account.invalid", "203.0.113.1"),
        ("db-01.account.invalid", "203.0.113.2"),
        ("app.example.com", "2001:db8::7"),
    ]


@ways
async def test_a_snapshot_is_shown_with_the_published_keys(way: str) -> None:
    async with visit(way) as at:
        server_id = at.world.add_server("web-01")
        at.world.add_snapshot(
            server_id,
            "pre-migration-snapshot",
            created_at=datetime(2025, 1, 15, 18, 30, tzinfo=UTC),
            description="Before major migration",
        )
        answered = await at.read("/snapshots/")
    (one,) = answered["results"]
    assert set(answered) == {"count", "results"}
    assert answered["count"] == 1
    assert types_of(one) == SNAPSHOT_KEYS
    assert one["server"] == {"id": int(server_id), "name": "web-01"}
    assert datetime.fromisoformat(one["created_at"]) == datetime(2025, 1, 15, 18, 30, tzinfo=UTC)
    assert one["created_at"].endswith("Z")


@ways
async def test_a_new_snapshot_is_in_progress_without_a_size_and_with_a_message(way: str) -> None:
    async with visit(way) as at:
        server_id = at.world.add_server("web-01")
        body = {"server_id": int(server_id), "name": "before-update", "description": "tonight"}
        reply = await at.ask("POST", "/snapshots/", body)
        listed = (await at.read("/snapshots/"))["results"]
    made = reply.json()
    assert reply.status_code == 201
    assert set(made) == {*SNAPSHOT_KEYS, "message"}
    assert (made["status"], made["size_mb"], made["description"]) == ("in_progress", None, "tonight")
    assert datetime.fromisoformat(made["created_at"]) == START
    del made["message"]
    assert listed == [made]


@ways
async def test_a_restore_is_answered_with_the_snapshot_and_the_server_it_overwrites(way: str) -> None:
    async with visit(way) as at:
        server_id = at.world.add_server("web-01")
        held = at.world.add_snapshot(server_id, "pre-migration-snapshot")
        reply = await at.ask("POST", f"/snapshots/{held.id}/restore/", {})
    answered = reply.json()
    assert reply.status_code == 200
    assert isinstance(answered.pop("message"), str)
    assert answered == {
        "status": "success",
        "snapshot": {"id": held.id, "name": "pre-migration-snapshot", "created_at": held.created_at},
        "server": {"id": int(server_id), "name": "web-01", "status": "restoring"},
    }


@ways
async def test_a_deleted_snapshot_is_gone_and_its_answer_is_empty(way: str) -> None:
    async with visit(way) as at:
        server_id = at.world.add_server("web-01")
        held = [at.world.add_snapshot(server_id, f"s{number}") for number in range(2)]
        reply = await at.ask("DELETE", f"/snapshots/{held[0].id}/")
        again = await at.ask("DELETE", f"/snapshots/{held[0].id}/")
        left = await at.listed()
    assert (reply.status_code, reply.content, again.status_code) == (204, b"", 404)
    assert left == ["s1"]
    assert [one.snapshot.name for one in at.world.deleted] == ["s0"]


@ways
@pytest.mark.parametrize(("read_only", "permissions"), [(False, ["read", "write"]), (True, ["read"])])
async def test_the_account_tells_whose_token_it_is_and_what_it_may_do(
    way: str, read_only: bool, permissions: list[str]
) -> None:
    async with visit(way, read_only=read_only) as at:
        answered = await at.read("/account/me/")
    assert set(answered) == {"account", "token"}
    assert "@" in answered["account"]["email"]
    assert answered["token"]["permissions"] == permissions


# -- every status code -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request in a world with the servers 1 (active), 2 (restoring), 3 (suspended), and their snapshots.

    Snapshot 801 of server 1 is completed, 802 failed; 803 belongs to server 2, 804 to server 3.
    """

    method: str
    path: str
    body: object = None


def asked(line: str, body: object = None) -> Asked:
    method, path = line.split()
    return Asked(method=method, path=path, body=body)


def populate(world: World) -> None:
    for ref, status in ((1, "active"), (2, "restoring"), (3, "suspended")):
        world.add_server(f"web-{ref}", ref=ref, status=status)
    world.add_snapshot("1", "completed")
    world.add_snapshot("1", "failed", status="failed")
    world.add_snapshot("2", "of-2")
    world.add_snapshot("3", "of-3")


def create_of(server_id: object, name: object = "before-update") -> Asked:
    return asked("POST /snapshots/", {"server_id": server_id, "name": name})


def power_of(server_id: object, action: object) -> Asked:
    return asked(f"POST /servers/{server_id}/power/", {"action": action})


NOT_FOUND = {"detail": "Not found."}
REQUIRED = ["This field is required."]

REFUSED: list[tuple[Asked, int, object]] = [
    (asked("GET /servers/9/"), 404, NOT_FOUND),
    (power_of(9, "stop"), 404, NOT_FOUND),
    (create_of(9), 404, NOT_FOUND),
    (asked("DELETE /snapshots/999/"), 404, NOT_FOUND),
    (asked("DELETE /snapshots/none/"), 404, NOT_FOUND),
    (asked("POST /snapshots/999/restore/"), 404, NOT_FOUND),
    (asked("GET /servers"), 404, NOT_FOUND),
    (asked("GET /nothing/"), 404, NOT_FOUND),
    (asked("POST /snapshots/", {}), 400, {"server_id": REQUIRED, "name": REQUIRED}),
    (asked("POST /snapshots/", {"server_id": 1}), 400, {"name": REQUIRED}),
    (asked("POST /snapshots/", {"name": "x"}), 400, {"server_id": REQUIRED}),
    (asked("POST /snapshots/", ["x"]), 400, {"server_id": REQUIRED, "name": REQUIRED}),
    (create_of(2), 400, {"detail": "The server is restoring."}),
    (create_of(3), 400, {"detail": "The server is suspended."}),
    (power_of(1, "explode"), 400, {"action": ['"explode" is not a valid choice.']}),
    (asked("POST /servers/1/power/", {}), 400, {"action": ['"None" is not a valid choice.']}),
    (power_of(2, "start"), 400, {"detail": "The server is restoring."}),
    (power_of(3, "start"), 400, {"detail": "The server is suspended."}),
    (asked("POST /snapshots/802/restore/"), 400, {"detail": "Server is not in a valid state for restore."}),
    (asked("POST /snapshots/803/restore/"), 400, {"detail": "Server is not in a valid state for restore."}),
    (asked("POST /snapshots/804/restore/"), 400, {"detail": "Server is not in a valid state for restore."}),
    (asked("GET /snapshots/801/"), 405, {"detail": 'Method "GET" not allowed.'}),
    (asked("DELETE /servers/1/"), 405, {"detail": 'Method "DELETE" not allowed.'}),
    (asked("GET /servers/1/power/"), 405, {"detail": 'Method "GET" not allowed.'}),
]


@ways
async def test_a_request_that_cannot_be_carried_out_is_refused_and_changes_nothing(way: str) -> None:
    answered = []
    async with visit(way) as at:
        populate(at.world)
        for one, _, _ in REFUSED:
            reply = await at.ask(one.method, one.path, one.body)
            answered.append((one, reply.status_code, reply.json()))
        at.clock.forward(3600)
        statuses = {server_id: at.world.status_of(server_id) for server_id in "123"}
    assert answered == REFUSED
    assert statuses == {"1": "active", "2": "restoring", "3": "suspended"}
    assert len(at.world.snapshots) == 4


@ways
async def test_a_body_that_is_no_json_lacks_every_field(way: str) -> None:
    async with visit(way) as at:
        headers = {"Authorization": f"Bearer {at.world.token}"}
        reply = await at.client.post("/snapshots/", content=b'{"server_id": 1, ', headers=headers)
    assert (reply.status_code, reply.json()) == (400, {"server_id": REQUIRED, "name": REQUIRED})


async def test_only_what_is_below_the_root_is_served() -> None:
    async with visit() as at:
        headers = {"Authorization": f"Bearer {at.world.token}"}
        codes = [
            (await at.client.get(f"https://vps.invalid{path}", headers=headers)).status_code
            for path in ("/servers/", "/api/v2/servers/", f"{ROOT}x/servers/", f"{ROOT}/servers/")
        ]
    assert codes == [404, 404, 404, 200]


CALLS = [
    asked("GET /servers/"),
    asked("GET /servers/1/"),
    power_of(1, "stop"),
    asked("GET /snapshots/"),
    create_of(1),
    asked("DELETE /snapshots/801/"),
    asked("POST /snapshots/801/restore/"),
    asked("GET /account/me/"),
]


@ways
@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "right", "Token right", "Bearer righteous"])
async def test_every_call_without_the_token_is_answered_401_and_changes_nothing(way: str, authorization: str) -> None:
    answered = []
    async with visit(way, token="right") as at:
        populate(at.world)
        for one in CALLS:
            reply = await at.ask(one.method, one.path, one.body, authorization=authorization)
            answered.append((reply.status_code, reply.json()))
    assert answered == [(401, {"detail": "Invalid token."})] * len(CALLS)
    assert (at.world.created, at.world.deleted, at.world.status_of("1")) == ([], [], "active")


@ways
async def test_a_token_that_may_only_read_is_answered_403_for_every_change(way: str) -> None:
    async with visit(way, read_only=True) as at:
        populate(at.world)
        codes = [(one.method, (await at.ask(one.method, one.path, one.body)).status_code) for one in CALLS]
    assert {code for method, code in codes if method == "GET"} == {200}
    assert {code for method, code in codes if method != "GET"} == {403}
    assert (at.world.created, at.world.deleted, at.world.status_of("1")) == ([], [], "active")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("before-update", 201),
        ("Before_Update-2", 201),
        ("-", 201),
        ("x" * 255, 201),
        ("x" * 256, 400),
        ("", 400),
        ("before update", 400),
        ("before.update", 400),
        ("before/update", 400),
        ("before:update", 400),
        ("b\u00e9fore", 400),
        ("before-update\n", 400),
        (["before-update"], 400),
    ],
)
async def test_a_name_is_letters_digits_hyphens_and_underscores(name: object, code: int) -> None:
    async with visit() as at:
        populate(at.world)
        reply = await at.ask("POST", "/snapshots/", {"server_id": 1, "name": name})
    assert reply.status_code == code
    assert len(at.world.created) == (code == 201)
    assert code == 201 or reply.json() == {"name": ["Only letters, numbers, hyphens and underscores are allowed."]}


# -- the limit -------------------------------------------------------------------------------------------------


@ways
async def test_the_sixth_snapshot_of_a_server_is_answered_400_and_not_taken(way: str) -> None:
    async with visit(way) as at:
        full, other = at.world.add_server("full"), at.world.add_server("other")
        codes = [(await at.create(full, f"s{number}")).status_code for number in range(6)]
        refusal = await at.create(full, "seventh")
        elsewhere = await at.create(other)
        await at.ask("DELETE", f"/snapshots/{at.world.created[0].id}/")
        freed = await at.create(full, "after-a-deletion")
    assert codes == [201] * 5 + [400]
    assert refusal.json() == {"detail": "Snapshot limit reached (maximum 5 per server)."}
    assert (elsewhere.status_code, freed.status_code) == (201, 201)
    assert len(at.world.snapshots_of(full)) == 5


@pytest.mark.parametrize("status", ["completed", "in_progress", "failed", "a_new_word"])
async def test_a_snapshot_of_any_status_takes_one_of_the_five(status: str) -> None:
    async with visit() as at:
        server_id = at.world.add_server("web-01")
        for number in range(5):
            at.world.add_snapshot(server_id, f"s{number}", status=status)
        assert (await at.create(server_id)).status_code == 400


# -- lists -----------------------------------------------------------------------------------------------------


async def pages(at: Visit, path: str, **query: object) -> list[Any]:
    """All pages of a list, by their links."""
    found = [await at.read(path, **query)]
    while (link := found[-1]["next"]) is not None:
        found.append(await at.read(link))
    return found


@ways
@pytest.mark.parametrize(
    ("asked_for", "sizes"),
    [({}, [20] * 12 + [10]), ({"page_size": 100}, [100, 100, 50]), ({"page_size": 1000}, [100, 100, 50])],
)
async def test_the_pages_of_a_list_hold_everything_once(way: str, asked_for: dict[str, int], sizes: list[int]) -> None:
    async with visit(way) as at:
        names = [at.world.servers[at.world.add_server(f"web-{number}")].name for number in range(250)]
        found = await pages(at, "/servers/", **asked_for)
        back = [(await at.read(page["previous"]))["results"] for page in found[1:]]
    assert [len(page["results"]) for page in found] == sizes
    assert [one["name"] for page in found for one in page["results"]] == names
    assert {page["count"] for page in found} == {250}
    assert found[0]["previous"] is None
    assert back == [page["results"] for page in found[:-1]]


@ways
async def test_a_link_leads_to_where_the_client_came_from_and_keeps_what_was_asked(way: str) -> None:
    async with visit(way) as at:
        for number in range(6):
            at.world.add_server(f"web-{number}", status="active" if number % 2 else "stopped")
        first = await at.read("/servers/", status="stopped", page_size=2)
        second = await at.read(first["next"])
    link = httpx.URL(first["next"])
    assert (link.scheme, link.netloc) == (at.client.base_url.scheme, at.client.base_url.netloc)
    assert link.path == f"{ROOT}/servers/"
    assert dict(link.params) == {"status": "stopped", "page_size": "2", "page": "2"}
    assert [one["name"] for one in first["results"] + second["results"]] == ["web-0", "web-2", "web-4"]
    assert (first["count"], second["next"]) == (3, None)


@ways
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"page": 1}, 200),
        ({"page": 3, "page_size": 2}, 200),
        ({"page": 4, "page_size": 2}, 404),
        ({"page": 0}, 404),
        ({"page": -1}, 404),
        ({"page": "last"}, 404),
    ],
)
async def test_a_page_that_does_not_exist_is_answered_404(way: str, query: dict[str, object], code: int) -> None:
    async with visit(way) as at:
        for number in range(5):
            at.world.add_server(f"web-{number}")
        assert (await at.ask("GET", "/servers/", query=query)).status_code == code


async def test_an_empty_list_has_a_first_page() -> None:
    async with visit() as at:
        assert await at.read("/servers/") == {"count": 0, "next": None, "previous": None, "results": []}


async def test_snapshots_come_in_pages_only_where_pages_are_asked_for() -> None:
    async with visit() as at:
        for number in range(30):
            at.world.add_snapshot(at.world.add_server(f"web-{number}"), f"s{number}")
        whole = await at.read("/snapshots/")
        found = await pages(at, "/snapshots/", page_size=13)
    assert "next" not in whole
    assert [len(page["results"]) for page in found] == [13, 13, 4]
    assert [one for page in found for one in page["results"]] == whole["results"]


@ways
async def test_lists_are_filtered_by_status_and_by_server(way: str) -> None:
    async with visit(way) as at:
        web, mail = at.world.add_server("web"), at.world.add_server("mail", status="stopped")
        at.world.add_snapshot(web, "of-web")
        at.world.add_snapshot(mail, "of-mail")
        stopped = await at.read("/servers/", status="stopped")
        assert (stopped["count"], [one["name"] for one in stopped["results"]]) == (1, ["mail"])
        assert (await at.listed(web), await at.listed(mail)) == (["of-web"], ["of-mail"])
        assert await at.listed() == ["of-mail", "of-web"]
        assert await at.listed("999") == []
        assert (await at.read("/snapshots/", server_id=web, page_size=100))["count"] == 1


# -- ids -------------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize(
    ("id_kind", "key", "kind"), [("integer", "id", int), ("uuid", "id", str), ("uuid_key", "uuid", str)]
)
async def test_a_server_is_named_by_an_integer_or_a_uuid(
    way: str, id_kind: str, key: str, kind: type[int | str]
) -> None:
    async with visit(way, id_kind=id_kind) as at:
        server_id = at.world.add_server("web-01")
        (listed,) = (await at.read("/servers/"))["results"]
        ref = listed[key]
        made = (await at.ask("POST", "/snapshots/", {"server_id": ref, "name": "s1"})).json()
        assert (await at.read(f"/servers/{ref}/")) == listed
        assert await at.listed(ref) == ["s1"]
        assert (await at.power(ref, "stop")).status_code == 200
    assert {"id", "uuid"} & listed.keys() == {key}
    assert type(ref) is kind
    assert str(ref) == server_id
    assert made["server"] == {key: ref, "name": "web-01"}
    assert isinstance(made["id"], int)
    assert id_kind == "integer" or UUID(server_id).version == 4


async def test_an_integer_id_may_be_sent_as_text() -> None:
    async with visit() as at:
        server_id = at.world.add_server("web-01")
        assert (await at.create(server_id)).status_code == 201
    assert [one.server_id for one in at.world.created] == [server_id]


@ways
@id_kinds
async def test_our_client_reads_all_that_the_simulator_answers(way: str, id_kind: str) -> None:
    async with visit(way, id_kind=id_kind) as at:
        server_id = at.world.add_server("web-01")
        old = at.world.add_snapshot(server_id, "old")
        transport = WorldTransport(at.world) if way == "transport" else None
        token = token_source(None, {"VPS_API_TOKEN": at.world.token})
        base_url = str(at.client.base_url)
        async with VpsOrg(base_url=base_url, token=token, requests_per_second=1000, transport=transport) as api:
            (server,) = await api.servers()
            assert await api.server(server.id) == server
            made = await api.create_snapshot(server, "new", guard=lambda: None)
            assert [one.name for one in await api.snapshots(server.id)] == ["new", "old"]
            assert await api.snapshots() == await api.snapshots(server.id)
            await api.delete_snapshot(str(old.id), guard=lambda: None)
            await api.power(server, "stop", guard=lambda: None)
            assert (await api.token_owner()).permissions == ("read", "write")
    assert (server.id, server.name, server.status) == (server_id, "web-01", "active")
    assert (made.id, made.server_id, made.created_at) == (str(at.world.created[0].id), server_id, START)
    assert at.world.status_of(server_id) == "stopping"
    assert list(at.world.snapshots) == [at.world.created[0].id]


# -- time ------------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("speed", [1.0, 60.0])
@pytest.mark.parametrize(
    ("before", "action", "meanwhile", "seconds", "finally_"),
    [
        ("active", "stop", "stopping", 20, "stopped"),
        ("active", "hard_stop", "stopping", 1, "stopped"),
        ("active", "restart", "restarting", 40, "active"),
        ("active", "start", "active", 60, "active"),
        ("stopped", "start", "starting", 20, "active"),
        ("stopped", "stop", "stopped", 60, "stopped"),
        ("stopped", "hard_stop", "stopped", 60, "stopped"),
        ("stopped", "restart", "stopped", 60, "stopped"),
        ("starting", "stop", "stopping", 20, "stopped"),
        ("stopping", "hard_stop", "stopping", 1, "stopped"),
    ],
)
async def test_a_power_request_is_acknowledged_at_once_and_takes_its_time(
    way: str, speed: float, before: str, action: str, meanwhile: str, seconds: float, finally_: str
) -> None:
    async with visit(way, speed=speed) as at:
        server_id = at.world.add_server("web-01", status=before)
        reply = await at.power(server_id, action)
        seen = [await at.status(server_id)]
        at.clock.forward((seconds - 0.1) / speed)
        seen.append(await at.status(server_id))
        at.clock.forward(0.2 / speed)
        seen.append(await at.status(server_id))
        at.clock.forward(3600)
        seen.append(await at.status(server_id))
    assert (reply.status_code, reply.json()["status"]) == (200, "success")
    assert seen == [meanwhile, meanwhile, finally_, finally_]


async def test_a_hard_stop_does_not_wait_for_the_soft_one_before_it() -> None:
    async with visit() as at:
        server_id = at.world.add_server("web-01")
        await at.power(server_id, "stop")
        await at.power(server_id, "hard_stop")
        at.clock.forward(1)
        assert await at.status(server_id) == "stopped"
        await at.power(server_id, "start")
        at.clock.forward(19)  # the soft stop would have ended now
        assert await at.status(server_id) == "starting"
        at.clock.forward(1)
        assert await at.status(server_id) == "active"


async def test_what_a_person_does_replaces_what_was_under_way() -> None:
    async with visit() as at:
        server_id = at.world.add_server("web-01")
        await at.power(server_id, "stop")
        at.world.set_status(server_id, "active")
        at.clock.forward(3600)
        assert await at.status(server_id) == "active"


async def test_a_server_that_is_removed_in_the_middle_stays_away() -> None:
    async with visit() as at:
        server_id = at.world.add_server("web-01")
        await at.power(server_id, "stop")
        at.world.remove_server(server_id)
        at.clock.forward(3600)
        assert (await at.ask("GET", f"/servers/{server_id}/")).status_code == 404
        assert at.world.pending == 0


async def completed_after(at: Visit, *moments: float) -> list[int]:
    """How many snapshots are completed at each of the moments, in seconds from now."""
    counts = []
    for earlier, moment in zip((0.0, *moments), moments, strict=False):
        at.clock.forward(moment - earlier)
        listed = (await at.read("/snapshots/"))["results"]
        counts.append(sum(one["status"] == "completed" for one in listed))
    return counts


@ways
@pytest.mark.parametrize("speed", [1.0, 100.0])
async def test_a_snapshot_takes_three_to_ten_minutes_divided_by_the_speed(way: str, speed: float) -> None:
    async with visit(way, speed=speed) as at:
        for number in range(60):
            await at.create(at.world.add_server(f"web-{number}"))
        moments = [(SHORTEST - 0.1) / speed, 390 / speed, (LONGEST + 0.1) / speed]
        early, middle, late = await completed_after(at, *moments)
        sizes = [one["size_mb"] for one in (await at.read("/snapshots/"))["results"]]
    assert (early, late) == (0, 60)
    assert 15 < middle < 45
    assert all(type(size) is int and size > 0 for size in sizes)


@pytest.mark.parametrize("speed", [1.0, 100.0])
async def test_a_restore_takes_five_to_fifteen_minutes_divided_by_the_speed(speed: float) -> None:
    async with visit(speed=speed) as at:
        ids = [at.world.add_server(f"web-{number}") for number in range(60)]
        for server_id in ids:
            held = at.world.add_snapshot(server_id, "old")
            await at.ask("POST", f"/snapshots/{held.id}/restore/")
        active = []
        for seconds in (299.9, 300.0, 300.2):
            at.clock.forward(seconds / speed)
            active.append((await at.read("/servers/", status="active"))["count"])
    assert (active[0], active[2]) == (0, 60)
    assert 15 < active[1] < 45


@pytest.mark.parametrize("before", ["active", "stopped"])
async def test_a_restored_server_can_do_nothing_else_meanwhile_and_is_active_then(before: str) -> None:
    async with visit() as at:
        server_id = at.world.add_server("web-01", status=before)
        restore = f"/snapshots/{at.world.add_snapshot(server_id, 'old').id}/restore/"
        codes = [(await at.ask("POST", restore)).status_code for _ in range(2)]
        codes += [(await at.power(server_id, "stop")).status_code, (await at.create(server_id)).status_code]
        meanwhile = await at.status(server_id)
        at.clock.forward(900)
        assert await at.status(server_id) == "active"
    assert codes == [200, 400, 400, 400]
    assert meanwhile == "restoring"


async def test_a_snapshot_knows_whether_its_server_was_running() -> None:
    async with visit() as at:
        running, off = at.world.add_server("running"), at.world.add_server("off", status="stopped")
        await at.create(running)
        await at.create(off)
    assert [one.server_status_when_taken for one in at.world.created] == ["active", "stopped"]


def test_what_is_due_happens_in_the_order_of_its_times() -> None:
    clock, happened = HandClock(), list[str]()
    world = World(clock=clock, speed=10)
    for name, seconds in (("third", 30), ("first", 10), ("second", 10), ("much later", 3000)):
        world.later(seconds, lambda name=name: happened.append(name))  # type: ignore[misc]
    world.now()
    assert happened == []
    clock.forward(3)
    assert (world.pending, happened) == (1, ["first", "second", "third"])


def test_the_same_seed_gives_the_same_lengths_of_time() -> None:
    def ends(seed: int) -> list[datetime]:
        world = World(clock=HandClock(), seed=seed)
        server_id = world.add_server("web-01")
        for number in range(5):
            world.take_snapshot(server_id, f"s{number}", "", None)
        return sorted(due for due, _, _ in world._agenda)

    assert ends(1) == ends(1)
    assert ends(1) != ends(2)


def test_the_sample_account_has_servers_and_one_snapshot_made_by_hand() -> None:
    world = sample_world(servers=8, clock=HandClock(), speed=60)
    names = [server.name for server in world.servers.values()]
    assert len(set(names)) == 8
    assert [one.name for one in world.snapshots.values()] == ["pre-migration-snapshot"]
    assert world.speed == 60


# -- faults ----------------------------------------------------------------------------------------------------

Scene = Callable[[Visit, str], Awaitable[None]]
SCENES: dict[str, Scene] = {}
"""For each kind of fault, what a client sees of it, and what becomes of the world."""


def scene(kind: str) -> Callable[[Scene], Scene]:
    def keep(story: Scene) -> Scene:
        SCENES[kind] = story
        return story

    return keep


def order(at: Visit, kind: str, **settings: Any) -> Fault:
    at.world.faults = [fault := Fault(kind=kind, **settings)]
    return fault


async def is_cut_off(request: Awaitable[httpx.Response]) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await request


async def happens(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await event.wait()


async def is_never_answered(at: Visit, request: Coroutine[Any, Any, httpx.Response]) -> None:
    at.dealt_with.clear()
    waiting = asyncio.create_task(request)
    await happens(at.dealt_with)
    answered, _ = await asyncio.wait([waiting], timeout=NOBODY_ANSWERS)
    assert not answered
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@scene("lost")
async def _lost(at: Visit, server_id: str) -> None:
    order(at, "lost", method="POST")
    await is_cut_off(at.create(server_id))
    assert await at.listed() == ["before-update", "old"]


@scene("cut")
async def _cut(at: Visit, server_id: str) -> None:
    order(at, "cut", method="POST")
    await is_cut_off(at.create(server_id))
    at.clock.forward(3600)
    assert await at.listed() == ["old"]


@scene("late")
async def _late(at: Visit, server_id: str) -> None:
    order(at, "late", method="POST", delay=30)
    await is_cut_off(at.power(server_id, "stop"))
    at.clock.forward(29 / at.world.speed)
    assert await at.status(server_id) == "active"
    at.clock.forward(2 / at.world.speed)
    assert await at.status(server_id) == "stopping"
    due = START + timedelta(seconds=30 / at.world.speed)
    assert at.world.late == [("POST", f"/servers/{server_id}/power/", due)]


@scene("hang")
async def _hang(at: Visit, server_id: str) -> None:
    order(at, "hang", method="POST")
    await is_never_answered(at, at.create(server_id))
    assert await at.listed() == ["old"]


@scene("hang_done")
async def _hang_done(at: Visit, server_id: str) -> None:
    order(at, "hang_done", method="POST")
    await is_never_answered(at, at.create(server_id))
    assert await at.listed() == ["before-update", "old"]


@scene("status")
async def _status(at: Visit, server_id: str) -> None:
    order(at, "status", status=429, retry_after="7", method="POST")
    reply = await at.create(server_id)
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "7")
    assert reply.json() == {"detail": "simulated 429"}
    assert await at.listed() == ["old"]
    order(at, "status", done=True, method="POST")
    reply = await at.create(server_id)
    assert (reply.status_code, "Retry-After" in reply.headers) == (500, False)
    assert await at.listed() == ["before-update", "old"]


@scene("html")
async def _html(at: Visit, server_id: str) -> None:
    order(at, "html", method="POST")
    reply = await at.create(server_id)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "text/html")
    assert reply.text.startswith("<html>")
    order(at, "html", status=502)
    assert (await at.ask("GET", "/servers/")).status_code == 502
    assert await at.listed() == ["old"]
    order(at, "html", method="POST", done=True)
    await at.create(server_id)
    assert await at.listed() == ["before-update", "old"]


@scene("proxy")
async def _proxy(at: Visit, server_id: str) -> None:
    order(at, "proxy", method="POST")
    reply = await at.create(server_id)
    assert (reply.status_code, reply.headers["Content-Type"]) == (502, "application/json")
    assert "detail" not in reply.json()
    assert await at.listed() == ["old"]
    order(at, "proxy", method="POST", status=404, retry_after="9", done=True)
    reply = await at.create(server_id)
    assert (reply.status_code, reply.headers["Retry-After"]) == (404, "9")
    assert await at.listed() == ["before-update", "old"]


@scene("doubled")
async def _doubled(at: Visit, server_id: str) -> None:
    order(at, "doubled", method="DELETE", delay=0)
    (old,) = at.world.snapshots
    assert (await at.ask("DELETE", f"/snapshots/{old}/")).status_code == 404
    order(at, "doubled", method="POST", delay=100)
    assert (await at.power(server_id, "stop")).status_code == 200
    seen = []
    for seconds in (30, 69, 2):
        at.clock.forward(seconds / at.world.speed)
        seen.append(await at.status(server_id))
        at.world.set_status(server_id, "active")
    assert seen == ["stopped", "active", "stopping"]
    order(at, "doubled", method="POST", status=409)
    assert (await at.power(server_id, "start")).status_code == 409


@scene("stale")
async def _stale(at: Visit, server_id: str) -> None:
    at.clock.forward(60 / at.world.speed)
    at.world.set_status(server_id, "stopped")
    at.clock.forward(20 / at.world.speed)
    order(at, "stale", method="GET", delay=30, times=2)
    (listed,) = (await at.read("/servers/"))["results"]
    assert (listed["status"], await at.status(server_id), await at.status(server_id)) == ("active", "active", "stopped")
    order(at, "stale", method="GET", delay=10, times=2)
    assert await at.status(server_id) == "stopped"
    order(at, "stale", method="GET", delay=3600)
    assert await at.status(server_id) == "active"


@scene("truncated")
async def _truncated(at: Visit, server_id: str) -> None:
    order(at, "truncated", method="POST")
    await is_cut_off(at.create(server_id))
    assert await at.listed() == ["before-update", "old"]


@scene("empty")
async def _empty(at: Visit, server_id: str) -> None:
    order(at, "empty")
    assert await at.read("/snapshots/") == {"count": 0, "next": None, "results": []}
    assert await at.listed(server_id) == ["old"]


@scene("short")
async def _short(at: Visit, server_id: str) -> None:
    order(at, "short")
    answered = await at.read("/snapshots/")
    assert (answered["count"], len(answered["results"])) == (3, 1)
    assert (await at.read("/snapshots/"))["count"] == 1


@scene("huge")
async def _huge(at: Visit, server_id: str) -> None:
    order(at, "huge")
    reply = await at.ask("GET", "/snapshots/")
    assert len(reply.content) > MAX_BODY == 16 * 1024 * 1024
    assert await at.listed() == ["old"]


@scene("trickle")
async def _trickle(at: Visit, server_id: str) -> None:
    whole = await at.read("/snapshots/")
    order(at, "trickle", delay=30)
    began = asyncio.get_running_loop().time()
    assert await at.read("/snapshots/") == whole
    assert asyncio.get_running_loop().time() - began >= 30 / at.world.speed


@scene("foreign_next")
async def _foreign_next(at: Visit, server_id: str) -> None:
    order(at, "foreign_next")
    link = httpx.URL((await at.read("/snapshots/"))["next"])
    assert link.host not in ("", at.client.base_url.host)
    assert link.path == f"{ROOT}/snapshots/"


@scene("redirect")
async def _redirect(at: Visit, server_id: str) -> None:
    order(at, "redirect")
    reply = await at.ask("GET", "/servers/")
    assert reply.status_code == 302
    assert httpx.URL(reply.headers["Location"]).host not in ("", at.client.base_url.host)


@scene("stuck")
async def _stuck(at: Visit, server_id: str) -> None:
    order(at, "stuck", method="POST")
    assert (await at.create(server_id)).status_code == 201
    at.clock.forward(30 * 86400)
    assert (await at.read("/snapshots/"))["results"][0]["status"] == "in_progress"


@scene("ends")
async def _ends(at: Visit, server_id: str) -> None:
    order(at, "ends", method="POST", word="exploded")
    assert (await at.create(server_id)).json()["status"] == "in_progress"
    at.clock.forward(LONGEST / at.world.speed)
    ended = (await at.read("/snapshots/"))["results"][0]
    assert (ended["status"], ended["size_mb"]) == ("exploded", None)


@scene("stop_never")
async def _stop_never(at: Visit, server_id: str) -> None:
    order(at, "stop_never", method="POST", times=3)
    codes = [(await at.power(server_id, action)).status_code for action in ("stop", "hard_stop", "restart")]
    assert codes == [200] * 3
    assert await at.status(server_id) == "active"
    at.clock.forward(3600)
    assert await at.status(server_id) == "active"


@scene("start_never")
async def _start_never(at: Visit, server_id: str) -> None:
    at.world.set_status(server_id, "stopped")
    order(at, "start_never", method="POST")
    assert (await at.power(server_id, "start")).status_code == 200
    at.clock.forward(3600)
    assert await at.status(server_id) == "stopped"


@scene("slow_power")
async def _slow_power(at: Visit, server_id: str) -> None:
    order(at, "slow_power", method="POST", delay=90)
    assert (await at.power(server_id, "stop")).status_code == 200
    seen = []
    for seconds in (89, 2, 20):
        at.clock.forward(seconds / at.world.speed)
        seen.append(await at.status(server_id))
    assert seen == ["active", "stopping", "stopped"]


@scene("late_listing")
async def _late_listing(at: Visit, server_id: str) -> None:
    order(at, "late_listing", method="POST", delay=120)
    assert (await at.create(server_id)).status_code == 201
    seen = []
    for seconds in (0, 119, 2):
        at.clock.forward(seconds / at.world.speed)
        seen.append(await at.listed(server_id))
    assert seen == [["old"], ["old"], ["before-update", "old"]]


@scene("slow_delete")
async def _slow_delete(at: Visit, server_id: str) -> None:
    fault = order(at, "slow_delete", method="DELETE", delay=240)
    (old,) = at.world.snapshots
    codes = [(await at.ask("DELETE", f"/snapshots/{old}/")).status_code for _ in range(2)]
    assert (codes, fault.times) == ([204, 404], 0)
    seen = []
    for seconds in (0, 239, 2):
        at.clock.forward(seconds / at.world.speed)
        seen.append(await at.listed(server_id))
    assert seen == [["old"], ["old"], []]


@ways
@pytest.mark.parametrize("kind", SCENES)
async def test_each_fault_is_on_the_wire_what_it_is_called(kind: str, way: str) -> None:
    async with visit(way, speed=200) as at:
        server_id = at.world.add_server("web-01")
        at.world.add_snapshot(server_id, "old")
        await SCENES[kind](at, server_id)
        at.world.faults = []
        assert (await at.ask("GET", "/servers/")).status_code == 200


def test_every_kind_of_fault_is_played_and_explained() -> None:
    assert SCENES.keys() == KINDS.keys()
    begun = [line for line in FAULT_HELP.splitlines() if not line.startswith("   ")]  # a longer one is broken
    assert [line.split()[0] for line in begun] == list(KINDS)


SPARED_BY_A_BENT_LIST = [asked("GET /servers/1/"), asked("GET /account/me/"), create_of(1), asked("GET /servers/9/")]


@pytest.mark.parametrize("kind", ["empty", "short", "foreign_next"])
async def test_a_fault_of_lists_leaves_other_answers_as_they_are(kind: str) -> None:
    async with visit() as straight, visit() as at:
        for one in SPARED_BY_A_BENT_LIST:
            for each in (straight, at):
                each.world.servers.clear()
                each.world.add_server("web-01", ref=1)
            order(at, kind)
            bent = await at.ask(one.method, one.path, one.body)
            plain = await straight.ask(one.method, one.path, one.body)
            assert (bent.status_code, bent.json()) == (plain.status_code, plain.json())


@pytest.mark.parametrize(
    ("rule", "struck"),
    [
        ({}, {"list", "list of 1", "server 1", "create on 1", "stop 1", "start 2", "delete"}),
        ({"method": "POST"}, {"create on 1", "stop 1", "start 2"}),
        ({"path": "/snapshots/"}, {"list", "list of 1", "create on 1"}),
        ({"path": "/snapshots/*"}, {"list", "list of 1", "create on 1", "delete"}),
        ({"path": "/servers/*/power/"}, {"stop 1", "start 2"}),
        ({"action": "stop"}, {"stop 1"}),
        ({"server_id": "1"}, {"list of 1", "server 1", "create on 1", "stop 1"}),
        ({"server_id": "2"}, {"start 2"}),
        ({"server_id": "1", "method": "POST", "path": "/snapshots/"}, {"create on 1"}),
        ({"method": "PUT"}, set()),
    ],
)
async def test_a_fault_strikes_the_requests_that_its_rule_names(rule: dict[str, str], struck: set[str]) -> None:
    requests = {
        "list": asked("GET /snapshots/"),
        "list of 1": asked("GET /snapshots/?server_id=1"),
        "server 1": asked("GET /servers/1/"),
        "create on 1": create_of(1),
        "stop 1": power_of(1, "stop"),
        "start 2": power_of(2, "start"),
        "delete": asked("DELETE /snapshots/801/"),
    }
    async with visit() as at:
        order(at, "status", status=599, times=None, **rule)
        codes = {name: (await at.ask(one.method, one.path, one.body)).status_code for name, one in requests.items()}
    assert {name for name, code in codes.items() if code == 599} == struck


@pytest.mark.parametrize(
    ("rule", "struck"),
    [
        ({}, "x......"),
        ({"times": 3}, "xxx...."),
        ({"times": 2, "skip": 3}, "...xx.."),
        ({"times": None}, "xxxxxxx"),
        ({"times": None, "skip": 2}, "..xxxxx"),
        ({"times": 0}, "......."),
    ],
)
async def test_a_fault_strikes_so_often_after_letting_some_pass(rule: dict[str, Any], struck: str) -> None:
    async with visit() as at:
        at.world.add_server("web-01", ref=1)
        order(at, "status", path="/servers/1/", **rule)
        seen = ""
        for _ in struck:
            await at.ask("GET", "/servers/")  # fits no rule, and is not counted
            seen += "x" if (await at.ask("GET", "/servers/1/")).status_code == 500 else "."
    assert seen == struck


async def test_of_several_faults_the_first_that_fits_strikes() -> None:
    async with visit() as at:
        at.world.faults = [
            Fault(kind="status", status=501, method="POST"),
            Fault(kind="status", status=502),
            Fault(kind="status", status=503),
        ]
        codes = [(await at.ask("GET", "/servers/")).status_code for _ in range(3)]
    assert codes == [502, 503, 200]


# -- faults as they are written ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("cut", {"kind": "cut"}),
        ("cut:", {"kind": "cut"}),
        ("cut::/snapshots/", {"kind": "cut", "path": "/snapshots/"}),
        ("lost:post", {"kind": "lost", "method": "POST"}),
        ("lost:*:/servers/*", {"kind": "lost", "path": "/servers/*"}),
        (
            "late:POST:/snapshots/:delay=30,times=2",
            {"kind": "late", "method": "POST", "path": "/snapshots/", "times": 2},
        ),
        ("late:POST::delay=1.5", {"kind": "late", "method": "POST", "delay": 1.5}),
        ("hang:::times=always", {"kind": "hang", "times": None}),
        ("hang:::times=0,skip=4", {"kind": "hang", "times": 0, "skip": 4}),
        (
            "status:GET:*:status=429,retry_after=7",
            {"kind": "status", "method": "GET", "status": 429, "retry_after": "7"},
        ),
        ("status:::done=1", {"kind": "status", "done": True}),
        ("status:::done=yes", {"kind": "status", "done": True}),
        ("status:::done=0", {"kind": "status", "done": False}),
        ("status:::done=no", {"kind": "status", "done": False}),
        ("ends:::word=exploded", {"kind": "ends", "word": "exploded"}),
        ("stop_never:::action=stop,server_id=12345", {"kind": "stop_never", "action": "stop", "server_id": "12345"}),
        ("stuck::: skip = 1 ,,times= 2 ", {"kind": "stuck", "skip": 1, "times": 2}),
    ],
)
def test_a_written_fault_is_read(text: str, fields: dict[str, Any]) -> None:
    assert Fault.parse(text) == Fault(**fields)


def test_the_defaults_of_a_fault_are_what_the_help_implies() -> None:
    plain = Fault.parse("status")
    assert (plain.method, plain.path, plain.times, plain.skip, plain.delay) == ("*", "*", 1, 0, 30.0)
    assert (plain.status, plain.retry_after, plain.done, plain.word) == (500, "", False, "failed")


NO_OPTION = "is no option of a fault; there are action, delay, done, retry_after, server_id, skip, status, times, word"
NO_NUMBER = "a number is wanted; e.g. late:POST:/snapshots/:delay=30,times=2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`` is no kind of fault; there are lost, cut, late, hang,"),
        ("explode", "`explode` is no kind of fault; there are lost, cut, late, hang,"),
        ("Cut", "`Cut` is no kind of fault"),
        ("cut:POST:*:often=1", f"`often` {NO_OPTION}"),
        ("cut:POST:*:kind=lost", f"`kind` {NO_OPTION}"),
        ("cut:POST:*:path=/x", f"`path` {NO_OPTION}"),
        ("cut:POST:*:=1", f"`` {NO_OPTION}"),
        ("cut:::times=twice", f"`times=twice`: {NO_NUMBER}"),
        ("cut:::times", f"`times=`: {NO_NUMBER}"),
        ("cut:::times=1.5", f"`times=1.5`: {NO_NUMBER}"),
        ("cut:::skip=x", f"`skip=x`: {NO_NUMBER}"),
        ("status:::status=many", f"`status=many`: {NO_NUMBER}"),
        ("late:::delay=30s", f"`delay=30s`: {NO_NUMBER}"),
    ],
)
def test_a_fault_that_cannot_be_read_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Fault.parse(text)
    assert str(caught.value).startswith(message)


# -- the server --------------------------------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "localhost"])
async def test_only_an_address_of_this_machine_is_served_on(host: str) -> None:
    with pytest.raises(ValueError, match=host):
        async with serve(World(), host=host):
            raise AssertionError("it was served")


@pytest.mark.real_time
@pytest.mark.parametrize(("when", "done_meanwhile"), [("before", 0), ("after", 1)])
async def test_a_hook_holds_an_answer_back_before_the_work_or_after_it(when: str, done_meanwhile: int) -> None:
    held, go_on = asyncio.Event(), asyncio.Event()
    told = []

    async def hook(request: Request, moment: str) -> None:
        told.append((request.method, request.path, moment))
        if moment == when:
            held.set()
            await go_on.wait()

    world = World()
    body = {"server_id": world.add_server("web-01"), "name": "before-update"}
    headers = {"Authorization": f"Bearer {world.token}"}
    async with (
        serve(world, hook=hook) as server,
        httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client,
    ):
        answered = asyncio.create_task(client.post("/snapshots/", json=body, headers=headers))
        await happens(held)
        made, was_answered = len(world.created), answered.done()
        go_on.set()
        assert (await answered).status_code == 201
    assert (made, was_answered) == (done_meanwhile, False)
    assert told == [("POST", f"{ROOT}/snapshots/", "before"), ("POST", f"{ROOT}/snapshots/", "after")]


@pytest.mark.real_time
async def test_a_hook_may_cut_a_connection() -> None:
    async def hook(_: Request, __: str) -> None:
        raise ConnectionAbortedError

    async with serve(World(), hook=hook) as server, httpx.AsyncClient(trust_env=False) as client:
        await is_cut_off(client.get(f"{server.base_url}/servers/"))


GET_SERVERS = f"GET {ROOT}/servers/ HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {World().token}\r\n\r\n".encode()


@pytest.mark.real_time
async def test_one_connection_carries_many_requests() -> None:
    async with serve(World()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(3):
            writer.write(GET_SERVERS)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert head.startswith(b"HTTP/1.1 200")
            assert (await reader.readexactly(length)).startswith(b'{"count": 0')
        writer.close()
        await writer.wait_closed()


@pytest.mark.real_time
@pytest.mark.parametrize("sent", [b"\0\1\2 nonsense\r\n\r\n", b"", GET_SERVERS[:20]])
async def test_a_client_that_talks_nonsense_or_goes_away_disturbs_no_other(sent: bytes) -> None:
    async with serve(World()) as server, httpx.AsyncClient(trust_env=False) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        if sent:
            writer.write_eof()
            assert b"200" not in await is_hung_up_on(reader)
        writer.close()
        headers = {"Authorization": f"Bearer {World().token}"}
        assert (await client.get(f"{server.base_url}/servers/", headers=headers)).status_code == 200


async def is_hung_up_on(reader: asyncio.StreamReader) -> bytes:
    """What came before the connection ended, in whichever way."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.real_time
async def test_the_end_of_the_server_ends_a_request_that_hangs() -> None:
    world = World()
    world.faults = [Fault(kind="hang")]
    struck = asyncio.Event()

    async def hook(_: Request, moment: str) -> None:
        if moment == "after":
            struck.set()

    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        async with serve(world, hook=hook) as server:
            waiting = asyncio.create_task(client.get(f"{server.base_url}/servers/"))
            await happens(struck)
        await is_cut_off(waiting)
