"""What is said on pages and by commands when things are odd: in words that are so, without a secret or a traceback."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.commands.jobs.account import check_online, read_account
from snaprotd.commands.jobs.by_hand import Impossible, by_hand
from snaprotd.commands.jobs.status_client import Place, Unreachable, read_status
from snaprotd.commands.text import terminal
from snaprotd.config.settings import resolve
from snaprotd.core.errors import SnaprotdError, UnknownServer
from snaprotd.core.holds import snapshot_name
from snaprotd.core.model import Machine
from snaprotd.core.rotation import Step
from snaprotd.report.rows import plan_of
from snaprotd.simulator import Fault, World
from snaprotd.web import pages
from snaprotd.web.listener import open_listener
from tests.support.daemons import ONE, Watched, a_world, daemon_on, settings, write_config
from tests.support.virtual_time import run_virtually
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

MINUTE = 60.0
TOKEN = "Zq7-only-the-provider-may-see-this-4Kd"


async def only_server(watched: Watched) -> dict[str, Any]:
    (server,) = (await watched.daemon.view.status())["servers"]
    return dict(server)


# -- the status report -------------------------------------------------------------------------------------------------


async def test_before_the_account_was_listed_no_server_is_said_to_be_configured_no_longer(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(500, 500))
    path = write_config(tmp_path, '[{match: "web-*", schedule: "5 3 * * *"}]')
    async with daemon_on(path, world) as watched:
        await watched.reaches(Step.WAIT)
    silence = Fault(kind="status", status=503, times=None)
    world.faults.append(silence)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(5 * MINUTE)
        (departed,) = (await watched.daemon.view.status())["departed"]
        (problem,) = departed["problems"]
        assert "is not known to be configured until the account has been listed" in problem["text"]
        world.faults.remove(silence)
        await asyncio.sleep(5 * MINUTE)
        assert (await only_server(watched))["name"] == "web-01"


async def test_a_server_that_is_suspended_is_blocked_in_the_status_as_in_the_plan(tmp_path: Path) -> None:
    world = a_world()
    world.set_status("12345", "suspended")
    async with daemon_on(write_config(tmp_path, ONE), world) as watched:
        await asyncio.sleep(MINUTE)
        server, (target,) = await only_server(watched), resolve(watched.daemon.view.config, None)
        held = watched.daemon._tools.inventory.known["12345"]
        plan = plan_of(watched.daemon.view.config, target, held, now=datetime.now(UTC), machine=Machine(), count=1)
        assert server["blocked"] == plan["blocked"] == "blocked: the server is suspended: it would not be touched"
        assert server["state"] == "alarm"


@pytest.mark.parametrize(("minutes", "alarms"), [(-1, 0), (44, 0), (46, 1)])
def test_the_longer_night_of_autumn_is_no_alarm(tmp_path: Path, minutes: int, alarms: int) -> None:
    """The slots of these two days are 25 hours apart; a rotation may take 45 minutes."""
    slot, following = datetime(2026, 10, 24, 1, 30, tzinfo=UTC), datetime(2026, 10, 25, 2, 30, tzinfo=UTC)
    path = write_config(tmp_path, '[{id: 12345, schedule: "30 3 * * *", timezone: Europe/Berlin}]')

    async def story() -> None:
        world = a_world()
        world.add_snapshot("12345", snapshot_name("main", slot), created_at=slot)
        world.faults.append(Fault(kind="status", method="POST", status=503, times=None))
        async with daemon_on(path, world) as watched:
            await asyncio.sleep(5)
            texts = [problem["text"] for problem in (await only_server(watched))["problems"]]
            assert texts.count("the newest snapshot is older than the schedule allows") == alarms

    run_virtually(story(), start=following + timedelta(minutes=minutes))


async def test_a_server_is_off_because_of_us_from_when_it_was_seen_off_until_it_was_seen_running(
    tmp_path: Path,
) -> None:
    """It stops the hard way only, and is watched for a while when it runs again."""
    world = a_world(snapshot_seconds=(60, 60))
    world.faults.append(Fault(kind="stop_never", method="POST", action="stop"))
    path = write_config(tmp_path, ONE.replace("stop_first", "on_stop_timeout: hard_stop, stop_first"))

    async def is_said_off(watched: Watched) -> bool:
        await asyncio.sleep(40)  # until it has been looked at
        report = await watched.daemon.view.status()
        is_off = report["servers"][0]["stopped_by_us_since"] is not None
        assert report["servers"][0]["running"]["held_off"]
        assert ("off because of us since" in pages.fleet_page(report, {})) == is_off
        return is_off

    async with daemon_on(path, world) as watched:
        await watched.reaches(Step.STOP)
        assert (await is_said_off(watched), world.status_of("12345")) == (False, "active")
        await watched.reaches(Step.WAIT)
        assert (await is_said_off(watched), world.status_of("12345")) == (True, "stopped")
        await watched.reaches(Step.START)
        assert (await is_said_off(watched), world.status_of("12345")) == (False, "active")


SECRETS = ["vps_abcdefgh12345678", TOKEN]


@pytest.mark.parametrize("secret", SECRETS, ids=["of the provider's shape", "in force"])
@pytest.mark.parametrize("key", ["token_file", "token", "timeout"])
async def test_a_token_in_the_wrong_place_of_the_file_is_shown_nowhere(tmp_path: Path, key: str, secret: str) -> None:
    async with daemon_on(write_config(tmp_path, ONE), a_world(token=TOKEN)) as watched:
        await asyncio.sleep(5)
        path = watched.path
        path.write_text(
            path.read_text().replace("requests_per_second: 100", f"requests_per_second: 100, {key}: {secret}")
        )
        await asyncio.sleep(30)
        ready = await watched.get("/readyz")
        assert (ready.status_code, "the new configuration is refused" in ready.text) == (200, True)
        for address in (
            "/readyz",
            "/healthz",
            "/api/status",
            "/",
            "/api/status?server=12345",
            "/servers/12345",
            "/metrics",
        ):
            assert secret not in (await watched.get(address)).text, address


# -- what commands say -------------------------------------------------------------------------------------------------


async def test_in_doubt_no_command_denies_what_there_is(tmp_path: Path, commands_reach: Callable[..., None]) -> None:
    world = a_world("web-01", "web-02")
    made = world.add_snapshot("12345", "by-hand")
    commands_reach(WorldTransport(world))
    told, environ = settings(tmp_path), {"VPS_API_TOKEN": world.token}
    with pytest.raises(Impossible, match="the account has no snapshot 999"):
        async with by_hand(told, environ, "999"):
            pass
    made.name = None  # type: ignore[assignment]
    with pytest.raises(Impossible, match=rf"snapshot {made.id} is not in what could be read: .* cannot be relied on"):
        async with by_hand(told, environ, str(made.id)):
            pass
    made.name, world.servers["12346"].ref = "by-hand", ""
    with pytest.raises(UnknownServer, match=r"web-02, in what could be read: .* cannot be relied on"):
        await read_account(told, environ, ["web-02"])


class Permitting(WorldTransport):
    """The simulated provider, for a token with these permissions."""

    def __init__(self, world: World, permissions: object) -> None:
        super().__init__(world)
        self._answer = {"account": {"email": "owner@account.invalid"}, "token": {"permissions": permissions}}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/account/me/"):
            return httpx.Response(200, json=self._answer, request=request)
        return await super().handle_async_request(request)


@pytest.mark.parametrize(
    ("permissions", "is_enough"),
    [
        (["read", "write"], True),
        ("read write", True),
        ({"snapshots": ["read", "write"], "servers": ["read"]}, True),
        ("full-access", True),
        (None, True),
        ([], True),
        ({}, True),
        (["read"], False),
        ("read-only", False),
        (["snapshots:read", "servers: read"], False),
        ({"snapshots": ["read"], "servers": ["read"]}, False),
        ({"read": True, "write": False}, False),
    ],
)
async def test_a_check_complains_of_a_token_that_may_only_read_and_of_no_other(
    tmp_path: Path, commands_reach: Callable[..., None], permissions: object, is_enough: bool
) -> None:
    world = a_world()
    commands_reach(Permitting(world, permissions))
    token, *others = await check_online(settings(tmp_path), {"VPS_API_TOKEN": world.token})
    assert token.ok == is_enough
    assert ("not enough to take snapshots" in token.text) != is_enough
    assert all(finding.ok for finding in others)


ODD = [
    *("", "http://", "http:///x", "http://[::1", "http://127.0.0.1:port", "http://127.0.0.1:99999"),
    *("http://a b", "http://127.0.0.1:1/ x", "http://\x00", "http://127.0.0.1:1\r\nX: y", "http://127.0.0.1:-1"),
    *("http://..:1", "http://127.0.0.1:1/\u00e9", "http://\ud800:1", "ftp://127.0.0.1", "127.0.0.1:9877"),
]


@pytest.mark.parametrize("url", ODD, ids=map(ascii, ODD))
def test_an_odd_address_of_the_daemon_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(Unreachable) as told:
        read_status(Place(url), {})
    assert url in str(told.value)


def test_what_answers_and_speaks_no_http_is_told_of_in_a_sentence() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail.invalid ESMTP\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(Unreachable, match="is no snaprotd"):
            read_status(Place(f"http://127.0.0.1:{listener.getsockname()[1]}"), {})
        answering.join()


def test_text_that_the_encoding_of_standard_output_has_not_is_shown_in_its_stead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    terminal.show("w\u00e9b-01 \u2013 success")
    assert written.getvalue() == b"w?b-01 ? success\n"


def test_a_host_to_listen_on_that_there_is_not_is_told_of_in_a_sentence() -> None:
    with pytest.raises(SnaprotdError) as told:
        open_listener(("nowhere.invalid", 9877))
    assert str(told.value).startswith("cannot listen on nowhere.invalid:9877: ")
    assert str(told.value).endswith(". Choose another address with the key `listen`")
    assert "Unknown error" not in str(told.value)
