"""The provider's own published client, unchanged, against the simulator on a real socket.

What the simulator gets wrong of the provider's API, this client shows: it was not written by us.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from vps_mcp import server as vendor

from snaprotd.simulator import Fault, Request, World, serve

pytestmark = pytest.mark.real_time

START = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)

every_id_kind = pytest.mark.parametrize("id_kind", ["integer", "uuid", "uuid_key"])


class Shop:
    """A world whose clock is moved by hand, and the requests that it was asked."""

    def __init__(self, **settings: Any) -> None:
        self.now = START
        self.world = World(clock=lambda: self.now, **settings)
        self.asked: list[tuple[str, str, dict[str, str], dict[str, Any]]] = []

    async def note(self, request: Request, when: str) -> None:
        if when == "before":
            self.asked.append((request.method, request.path, dict(request.query), request.json))

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@asynccontextmanager
async def open_shop(
    monkeypatch: pytest.MonkeyPatch, *, token: str | None = None, **settings: Any
) -> AsyncIterator[Shop]:
    """Serve a world, with the client's environment pointing to it. `token` is the client's, where it is a wrong one."""
    shop = Shop(**settings)
    async with serve(shop.world, hook=shop.note) as server:
        monkeypatch.setenv("VPS_API_TOKEN", token or shop.world.token)
        monkeypatch.setenv("VPS_API_URL", server.base_url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(vendor, "_client", None)  # it keeps the first environment that it has seen
        try:
            yield shop
        finally:
            if vendor._client is not None:
                await vendor._client.close()


def test_it_is_installed_as_it_was_published() -> None:
    package = distribution("vps-mcp")
    sources = [file for file in package.files or [] if file.suffix == ".py"]
    assert package.version == "0.1.0"
    assert len(sources) == 3
    for file in sources:
        assert file.hash is not None
        found = hashlib.new(file.hash.mode, Path(str(file.locate())).read_bytes()).digest()
        assert base64.urlsafe_b64encode(found).decode().rstrip("=") == file.hash.value, file


# -- list_servers ----------------------------------------------------------------------------------------------


@every_id_kind
async def test_it_lists_the_servers(monkeypatch: pytest.MonkeyPatch, id_kind: str) -> None:
    async with open_shop(monkeypatch, id_kind=id_kind) as shop:
        web = shop.world.add_server("web-01")
        shop.world.add_server("db-01", status="stopped")
        text = await vendor.list_servers()
    first, second, footer = text.split("\n\n")
    assert first.startswith("Server: web-01.")
    assert "  Status: active" in first.splitlines()
    assert second.startswith("Server: db-01.")
    assert "  Status: stopped" in second.splitlines()
    assert footer.strip() == "Page 1 of 1 (2 total)"
    assert (f"  UUID: {web}" in first.splitlines()) == (id_kind == "uuid_key")
    assert shop.asked == [("GET", "/api/v1/servers/", {"page": "1", "page_size": "20"}, {})]


async def test_it_turns_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_shop(monkeypatch) as shop:
        for number in range(5):
            shop.world.add_server(f"web-{number}")
        shown = [await vendor.list_servers(page=page, page_size=2) for page in (1, 2, 3, 4)]
    names = [[f"web-{number}" for number in range(5) if f"Server: web-{number}." in text] for text in shown]
    assert names == [["web-0", "web-1"], ["web-2", "web-3"], ["web-4"], []]
    assert shown[0].endswith("Page 1 of 3 (5 total)")
    assert shown[3] == "Error (404): Invalid page."


async def test_it_gets_a_hundred_servers_on_a_page_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_shop(monkeypatch) as shop:
        for number in range(150):
            shop.world.add_server(f"web-{number}")
        text = await vendor.list_servers(page_size=1000)
    assert text.count("Server: ") == 100
    assert text.endswith("Page 1 of 2 (150 total)")


async def test_it_finds_an_account_without_servers_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_shop(monkeypatch):
        assert await vendor.list_servers() == "No results found."


# -- get_server ------------------------------------------------------------------------------------------------


@every_id_kind
async def test_it_shows_one_server(monkeypatch: pytest.MonkeyPatch, id_kind: str) -> None:
    async with open_shop(monkeypatch, id_kind=id_kind) as shop:
        shop.world.add_server("other")
        server_id = shop.world.add_server("web-01", status="suspended")
        lines = (await vendor.get_server(server_id)).splitlines()
    assert lines[0].startswith("Server: web-01.")
    assert "  Status: suspended" in lines
    assert any(line.startswith("  Created: 2025-01-01T00:00:00") for line in lines)
    assert (f"  UUID: {server_id}" in lines) == (id_kind == "uuid_key")
    assert shop.asked == [("GET", f"/api/v1/servers/{server_id}/", {}, {})]


# -- server_power ----------------------------------------------------------------------------------------------


@every_id_kind
@pytest.mark.parametrize(
    ("before", "action", "meanwhile", "finally_"),
    [
        ("active", "stop", "stopping", "stopped"),
        ("active", "hard_stop", "stopping", "stopped"),
        ("active", "restart", "restarting", "active"),
        ("stopped", "start", "starting", "active"),
    ],
)
async def test_its_power_requests_are_carried_out(
    monkeypatch: pytest.MonkeyPatch, id_kind: str, before: str, action: str, meanwhile: str, finally_: str
) -> None:
    async with open_shop(monkeypatch, id_kind=id_kind) as shop:
        other = shop.world.add_server("other", status=before)
        server_id = shop.world.add_server("web-01", status=before)
        text = await vendor.server_power(server_id, action)
        seen = [shop.world.status_of(server_id)]
        shop.wait(60)
        seen.append(shop.world.status_of(server_id))
        assert f"  Status: {finally_}" in (await vendor.get_server(server_id)).splitlines()
    assert text == f"Power action '{action}' sent to server {server_id}."
    assert seen == [meanwhile, finally_]
    assert shop.world.status_of(other) == before
    assert shop.asked[0] == ("POST", f"/api/v1/servers/{server_id}/power/", {}, {"action": action})


async def test_it_sends_no_action_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_shop(monkeypatch) as shop:
        server_id = shop.world.add_server("web-01")
        assert (await vendor.server_power(server_id, "explode")).startswith("Invalid action 'explode'.")
    assert shop.asked == []


@pytest.mark.parametrize("status", ["restoring", "suspended"])
async def test_it_is_told_why_a_server_cannot_be_switched(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    async with open_shop(monkeypatch) as shop:
        server_id = shop.world.add_server("web-01", status=status)
        assert await vendor.server_power(server_id, "stop") == f"Error (400): The server is {status}."
        shop.wait(3600)
    assert shop.world.status_of(server_id) == status


# -- errors ----------------------------------------------------------------------------------------------------

Call = Callable[[str], Awaitable[str]]
CALLS: list[Call] = [
    lambda _: vendor.list_servers(),
    lambda server_id: vendor.get_server(server_id),
    lambda server_id: vendor.server_power(server_id, "stop"),
]
every_call = pytest.mark.parametrize("call", CALLS, ids=["list_servers", "get_server", "server_power"])


@every_call
async def test_it_is_refused_with_another_token(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    async with open_shop(monkeypatch, token="another") as shop:
        server_id = shop.world.add_server("web-01")
        assert await call(server_id) == "Error (401): Invalid token."
    assert shop.world.status_of(server_id) == "active"


@pytest.mark.parametrize("call", CALLS[1:], ids=["get_server", "server_power"])
async def test_it_finds_no_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    async with open_shop(monkeypatch):
        assert await call("999") == "Error (404): Not found."


async def test_it_may_only_read_with_a_token_that_may_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_shop(monkeypatch, read_only=True) as shop:
        server_id = shop.world.add_server("web-01")
        refusal = await vendor.server_power(server_id, "stop")
        assert (await vendor.get_server(server_id)).startswith("Server: web-01.")
    assert refusal == "Error (403): You do not have permission to perform this action."
    assert shop.world.status_of(server_id) == "active"


@every_call
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("status", "Error (500): simulated 500"),
        ("cut", "Error: HTTP request failed"),
        ("truncated", "Error: HTTP request failed"),
    ],
)
async def test_it_reports_the_faults_of_the_simulator_as_errors(
    monkeypatch: pytest.MonkeyPatch, call: Call, kind: str, told: str
) -> None:
    async with open_shop(monkeypatch) as shop:
        server_id = shop.world.add_server("web-01")
        shop.world.faults = [Fault(kind=kind)]
        assert (await call(server_id)).startswith(told)
        assert not (await call(server_id)).startswith("Error")


# -- as an assistant calls it ------------------------------------------------------------------------------------


async def test_its_tools_do_the_same_when_they_are_called_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_shop(monkeypatch, id_kind="uuid_key") as shop:
        server_id = shop.world.add_server("web-01")
        await vendor.mcp.call_tool("server_power", {"server_uuid": server_id, "action": "stop"})
        shop.wait(60)
        shown = await vendor.mcp.call_tool("get_server", {"server_uuid": server_id})
    assert "Status: stopped" in str(shown)
