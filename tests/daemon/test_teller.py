"""A whole daemon tells people: what happened, once, and that it is well itself, as long as it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.commands.jobs.deeds import who
from snaprotd.commands.jobs.leave_off import leave_off
from snaprotd.commands.jobs.now import rotate_now
from snaprotd.commands.jobs.outlook import Wish, look_ahead
from snaprotd.config.file import load
from snaprotd.core.rotation import Step
from snaprotd.daemon.telling import teller
from snaprotd.simulator import Fault, World
from snaprotd.wiring.access import open_cloud
from snaprotd.wiring.channels import open_channels
from tests.scenarios.test_power import LedgerOnABadDisk
from tests.support.daemons import a_world, daemon_on, write_config
from tests.support.receivers import secret
from tests.support.world_transport import WorldTransport

MINUTE, HOUR = 60.0, 3600.0
HOOK, BEAT, CHECK = "hook-T0Q7ZK31", "beat-zX9kPq81", "check-8Yw2Lm4R"


class Outside:
    """All receivers there are. They answer 200, or nothing while they are away."""

    def __init__(self) -> None:
        self.is_away = False
        self.says = b"OK"
        self.asked: dict[str, list[httpx.Request]] = {HOOK: [], BEAT: [], CHECK: []}
        self.times: list[float] = []

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            raise httpx.ConnectError("away")
        self.asked[request.url.path.split("/")[1]].append(request)
        if BEAT in request.url.path:
            self.times.append(asyncio.get_running_loop().time())
        return httpx.Response(200, content=_body(self.says))

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.asked[HOOK]]

    @property
    def pings(self) -> list[str]:
        """To the check: what stands behind its URL."""
        return [request.url.path.removeprefix(f"/{CHECK}") for request in self.asked[CHECK]]

    @property
    def words(self) -> list[str]:
        return [f"{one['kind']}: {one['text']}" for one in self.told]


async def _body(words: bytes) -> AsyncIterator[bytes]:
    yield words


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Outside:
    there = Outside()
    opened = partial(open_channels, transport=httpx.MockTransport(there.answer))
    monkeypatch.setattr(teller, "open_channels", opened)
    return there


def configured(
    folder: Path, world: World, *, schedule: str = "5,25 3 * * *", retry: str = "{times: 0}", more: str = ""
) -> Path:
    for name in (HOOK, BEAT, CHECK):
        secret(folder, name, f"https://receiver.invalid/{name}")
    servers = ", ".join(
        f"{{id: {one.id}, name: {one.name}, stop_first: true, start_timeout: 5m, "
        f'schedule: "{schedule}", retry: {retry}}}'
        for one in world.servers.values()
    )
    text = f"""[{servers}]
notify:
  - webhook: {{url_file: {folder}/{HOOK}}}
  - ping: {{url_file: {folder}/{CHECK}}}
heartbeat: {{url_file: {folder}/{BEAT}, every: 5m}}
{more}"""
    return write_config(folder, text)


async def test_a_failure_is_told_once_and_its_end_and_the_check_follows(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01", "web-02")
    world.faults = [Fault(kind="ends", word="failed", server_id="12345", method="POST", path="/snapshots/")]
    async with daemon_on(configured(tmp_path, world), world):
        await asyncio.sleep(40 * MINUTE)
    failure, recovery = outside.told
    assert (failure["kind"], failure["severity"], failure["server"]) == (
        "failure",
        "alarm",
        {"id": 12345, "name": "web-01"},
    )
    assert "the last rotation ended as failure, at step wait" in failure["text"]
    assert "snaprotd now web-01" in failure["do"]
    assert recovery["text"].startswith("web-01: its rotation has succeeded: snaprotd-main-20250116T032500Z (after ")
    assert outside.pings == ["/fail", ""]


async def test_the_message_of_a_suspended_server_says_to_wait_as_the_page_does(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.servers["12345"].status = "suspended"
    async with daemon_on(configured(tmp_path, world), world) as watched:
        await asyncio.sleep(10 * MINUTE)
        shown = (await watched.get("/api/status")).json()["problems"]
    (told,) = outside.told
    assert told["text"].endswith("the server is suspended: it was not touched")
    assert told["do"].startswith("Wait until the provider has it `active` again")
    assert [told["do"].partition(" More: ")[0]] == [one["do"] for one in shown if "suspended" in one["text"]]


async def test_a_token_that_is_refused_is_one_message_for_all_servers(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world(*(f"web-{number:02}" for number in range(5)))
    async with daemon_on(configured(tmp_path, world), world):
        await asyncio.sleep(MINUTE)
        world.faults = [Fault(kind="status", status=401, times=None)]
        await asyncio.sleep(10 * MINUTE)
        assert len(outside.told) == 1, outside.words
        (told,) = outside.told
        assert (told["kind"], told["server"]) == ("failure", None)
        world.faults = []
        await asyncio.sleep(4 * MINUTE)
        assert "it concerned 5 servers: web-0" in outside.told[-1]["text"]
        assert outside.told[-1]["text"].endswith("; still without a success: all of them")
        await asyncio.sleep(35 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"], outside.words


async def test_a_refused_token_and_then_an_api_that_is_away_are_two_messages_and_one_end_through_a_restart_too(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01", "web-02")
    path = configured(tmp_path, world, schedule="5 3 * * *")
    async with daemon_on(path, world):
        await asyncio.sleep(MINUTE)
        world.faults = [Fault(kind="status", status=401, times=None)]
        await asyncio.sleep(14 * MINUTE)
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
        assert len(outside.told) == 1, outside.words
        world.faults = [Fault(kind="status", status=503, times=None)]
        await asyncio.sleep(15 * MINUTE)
        assert [one["kind"] for one in outside.told] == ["failure", "failure"], outside.words
        assert [word in one for word, one in zip(("401", "503"), outside.words, strict=True)] == [True, True]
        world.faults = []
        await asyncio.sleep(5 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "failure", "recovery"], outside.words
    assert "it concerned 2 servers: web-0" in outside.told[2]["text"]


async def test_a_server_that_does_not_start_is_told_and_stops_the_heartbeat_until_it_runs(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [Fault(kind="start_never", server_id="12345", action="start", times=8)]
    async with daemon_on(configured(tmp_path, world, schedule="5 3 * * *"), world):
        await asyncio.sleep(90 * MINUTE)
    assert [one["kind"] for one in outside.told][:1] == ["held_off"]
    assert "recovery" in [one["kind"] for one in outside.told]
    assert len(outside.told) <= 4, outside.words
    gaps = [later - sooner for sooner, later in zip(outside.times, outside.times[1:], strict=False)]
    assert max(gaps) > 15 * MINUTE
    assert gaps[-1] == pytest.approx(5 * MINUTE, abs=15)


async def test_a_server_that_is_off_once_more_in_the_same_rotation_is_told_under_another_id(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [Fault(kind="start_never", server_id="12345", action="start", times=None)]
    async with daemon_on(configured(tmp_path, world, schedule="5 3 * * *"), world) as watched:
        await watched.reaches(Step.WAIT)
        there = world.servers.pop("12345")
        await watched.reaches(Step.START)
        await asyncio.sleep(3 * MINUTE)
        world.servers["12345"] = there
        await asyncio.sleep(15 * MINUTE)
        assert watched.ended == []
        assert [one["kind"] for one in outside.told] == ["held_off", "recovery", "held_off"], outside.words
        world.faults = []
        await asyncio.sleep(20 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["held_off", "recovery"] * 2, outside.words
    assert len({one["id"] for one in outside.told}) == 4


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_start_that_somebody_lets_go_of_is_told_as_that_and_not_as_over(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None, restarted: bool
) -> None:
    world = a_world("web-01")
    world.faults = [Fault(kind="start_never", action="start", times=None)]
    path = configured(tmp_path, world, schedule="5 3 * * *")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(30 * MINUTE)
        if not restarted:
            await leave_off(load(path, {}), "web-01", "sold")
            await asyncio.sleep(10 * MINUTE)
            told = (await watched.get("/api/events?after=0")).json()
    if restarted:
        await leave_off(load(path, {}), "web-01", "sold")
        async with daemon_on(path, world) as watched:
            await asyncio.sleep(10 * MINUTE)
            told = (await watched.get("/api/events?after=0")).json()
    words = f"web-01: {who()} has let go of its start (sold): it is not started any more, and stays off unless somebody"
    assert [one["kind"] for one in outside.told] == ["held_off", "recovery"], outside.words
    assert outside.told[1]["text"].startswith(words)
    assert world.status_of("12345") == "stopped"
    assert not [one["text"] for one in told if one["text"].startswith("it is over")]


async def test_a_server_that_is_gone_is_not_told_to_be_on_again(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01", "web-02")
    world.faults = [Fault(kind="start_never", action="start", server_id="12345", times=None)]
    async with daemon_on(configured(tmp_path, world, schedule="5 3 * * *"), world):
        await asyncio.sleep(30 * MINUTE)
        del world.servers["12345"]
        await asyncio.sleep(HOUR)
    (end,) = (one["text"] for one in outside.told if one["kind"] == "recovery")
    assert end.startswith("web-01: the account has no such server any more; what was told of it is: ")


@pytest.mark.usefixtures("one_clock", "silence", "few_ticks")
async def test_a_server_that_another_process_cannot_start_is_told_and_stops_the_heartbeat_too(
    tmp_path: Path,
    outside: Outside,
    commands_reach: Callable[[httpx.AsyncBaseTransport], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = a_world("web-01", faults=[Fault(kind="start_never", action="start", times=None)])
    commands_reach(way := WorldTransport(world))
    reached = partial(open_cloud, transport=way)
    monkeypatch.setattr("snaprotd.wiring.access.open_cloud", lambda *parts, **more: reached(*parts[:3], **more))
    path = configured(tmp_path, world, schedule="@yearly")
    async with daemon_on(path, world):
        await asyncio.sleep(MINUTE)
        settings, environ = load(path, {}), {"VPS_API_TOKEN": world.token}
        (outlook,) = (await look_ahead(settings, environ, Wish(servers=("12345",)), looks_at_servers=False)).outlooks
        command = asyncio.create_task(
            rotate_now(
                *(settings, environ, [outlook.target]),
                description="",
                show=lambda rotation, usual: None,
                say=lambda text, *, is_last=False: None,
                mends=False,
            )
        )
        await asyncio.sleep(25 * MINUTE)
        assert not command.done()
        assert [one["kind"] for one in outside.told] == ["held_off"], outside.words
        assert asyncio.get_running_loop().time() - outside.times[-1] > 10 * MINUTE
        world.faults = []
        await asyncio.sleep(12 * MINUTE)
        await command
    assert [one["kind"] for one in outside.told] == ["held_off", "recovery"], outside.words
    assert outside.times[-1] > asyncio.get_running_loop().time() - 6 * MINUTE


async def test_a_receiver_that_is_away_delays_no_rotation_and_gets_all_of_it_later(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [Fault(kind="ends", word="failed", server_id="12345", method="POST", path="/snapshots/")]
    outside.is_away = True
    async with daemon_on(configured(tmp_path, world), world) as watched:
        await asyncio.sleep(38 * MINUTE)
        assert [one.result for one in watched.ended] == ["failure", "success"]
        assert watched.value("snaprotd_notifications_pending") == 3
        assert (watched.value("snaprotd_notifications_total", "webhook", "failed") or 0) > 5
        outside.is_away = False
        await asyncio.sleep(6 * MINUTE)
        assert watched.value("snaprotd_notifications_pending") == 0
    assert sorted(one["kind"] for one in outside.told) == ["failure", "recovery"]


async def test_after_a_restart_a_failure_that_was_told_is_not_told_again_and_its_end_is(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [Fault(kind="ends", word="failed", server_id="12345", method="POST", path="/snapshots/")]
    path = configured(tmp_path, world, schedule="5,45 3 * * *")
    async with daemon_on(path, world):
        await asyncio.sleep(30 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure"]
    async with daemon_on(path, world):
        await asyncio.sleep(32 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"]


async def test_a_channel_that_a_new_file_names_is_told_from_then_on(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [Fault(kind="ends", word="failed", server_id="12345", method="POST", path="/snapshots/", times=None)]
    path = configured(tmp_path, world)
    text = path.read_text()
    path.write_text(text.partition("notify:")[0])
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(15 * MINUTE)
        assert (outside.told, outside.times) == ([], [])
        path.write_text(text)
        await asyncio.sleep(25 * MINUTE)
        assert watched.value("snaprotd_notifications_total", "webhook", "sent")
    assert [one["kind"] for one in outside.told] == ["failure"]
    assert len(outside.times) in (4, 5, 6)


async def test_nothing_secret_of_a_channel_is_shown_anywhere(
    tmp_path: Path, outside: Outside, few_ticks: None, capfd: pytest.CaptureFixture[str]
) -> None:
    world = a_world("web-01")
    outside.is_away = True
    world.faults = [Fault(kind="ends", word="failed", server_id="12345", method="POST", path="/snapshots/")]
    async with daemon_on(configured(tmp_path, world), world) as watched:
        await asyncio.sleep(12 * MINUTE)
        shown = [(await watched.get(address)).text for address in ("/", "/api/status", "/metrics")]
    logs = "".join(capfd.readouterr())
    for name in (HOOK, BEAT, CHECK):
        assert f"receiver.invalid/{name}" not in logs + "".join(shown)


async def test_no_heartbeat_is_sent_while_nobody_can_be_told_and_each_while_somebody_just_is(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = a_world("web-01")
    async with daemon_on(configured(tmp_path, world, schedule="@yearly"), world) as watched:
        notify = watched.daemon._teller._notify
        posts = notify.post_due

        async def takes_long() -> None:
            await asyncio.sleep(280)

        monkeypatch.setattr(notify, "post_due", takes_long)
        await asyncio.sleep(61 * MINUTE)
        before = len(outside.times)
        assert before >= 12

        async def fails() -> None:
            raise ValueError("of a row that nobody has thought of")

        monkeypatch.setattr(notify, "post_due", fails)
        await asyncio.sleep(30 * MINUTE)
        assert len(outside.times) <= before + 1
        monkeypatch.setattr(notify, "post_due", posts)
        await asyncio.sleep(15 * MINUTE)
        assert len(outside.times) >= before + 2


async def test_a_token_that_may_not_take_snapshots_is_one_message_though_the_account_is_listed(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01", "web-02")
    world.faults = [Fault(kind="status", status=403, method="POST", path="/snapshots/", times=None)]
    async with daemon_on(configured(tmp_path, world, schedule="5 3 * * *"), world):
        await asyncio.sleep(15 * MINUTE)
    (told,) = outside.told
    assert (told["kind"], told["server"]) == ("failure", None)
    assert "it concerns 2 servers: web-0" in told["text"]


async def test_a_clock_that_differs_for_long_is_told_and_so_is_that_it_is_right_again(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    right = world.clock
    async with daemon_on(configured(tmp_path, world, schedule="0 9 * * *"), world):
        await asyncio.sleep(MINUTE)
        world.clock = lambda: right() - timedelta(minutes=5)
        await asyncio.sleep(30 * MINUTE)
        (told,) = outside.told
        assert (told["kind"], told["severity"], told["server"]) == ("failure", "attention", None)
        assert "the clock of this machine is 4 min ahead of the provider's" in told["text"]
        world.clock = right
        await asyncio.sleep(30 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"], outside.words


@pytest.mark.parametrize("what", ["ledger", "api"])
async def test_a_check_hears_of_slots_that_cannot_even_begin_and_of_the_success_after_it(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", LedgerOnABadDisk)
    world = a_world("web-01")
    async with daemon_on(configured(tmp_path, world, schedule="5 3 * * *", retry="{times: 1, after: 40m}"), world):
        await asyncio.sleep(MINUTE)
        if what == "api":
            world.faults = [Fault(kind="status", status=503, times=None)]
        else:
            monkeypatch.setattr(LedgerOnABadDisk, "disk", "full")
        await asyncio.sleep(20 * MINUTE)
        assert outside.pings == ["/fail"]
        reason = outside.asked[CHECK][0].content.decode()
        assert ("the account could not be listed" if what == "api" else "the ledger") in reason
        world.faults = []
        monkeypatch.setattr(LedgerOnABadDisk, "disk", "")
        await asyncio.sleep(60 * MINUTE)
    assert set(outside.pings[1:]) == {""}, "the end of it, and each success"
    assert any("rid" in one.url.query.decode() for one in outside.asked[CHECK][1:])


async def test_another_interval_of_the_heartbeat_counts_at_once(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    path = configured(tmp_path, world, schedule="@yearly")
    text = path.read_text()
    path.write_text(text.replace("every: 5m", "every: 12h"))
    async with daemon_on(path, world):
        await asyncio.sleep(20 * MINUTE)
        assert len(outside.times) == 1
        path.write_text(text.replace("every: 5m", "every: 1m"))
        await asyncio.sleep(10 * MINUTE)
        assert 9 <= len(outside.times) <= 12
        path.write_text(path.read_text().partition("heartbeat:")[0])
        await asyncio.sleep(MINUTE)
        before = len(outside.times)
        await asyncio.sleep(HOUR)
        assert len(outside.times) == before


async def test_a_heartbeat_that_nobody_counts_is_shown_until_one_is_taken(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    outside.says = b"OK (not found)"
    async with daemon_on(configured(tmp_path, world, schedule="@yearly"), world) as watched:
        await asyncio.sleep(4 * MINUTE)
        assert [one["server"] for one in (await watched.get("/api/status")).json()["problems"]] == ["web-01"]
        await asyncio.sleep(4 * MINUTE)
        told, _ = (await watched.get("/api/status")).json()["problems"]
        assert told["text"] == "2 messages to heartbeat given up: HTTP 200, but not OK: OK (not found)"
        assert watched.value("snaprotd_notifications_total", "heartbeat", "failed") == 2
        outside.says = b"OK"
        await asyncio.sleep(5 * MINUTE)
        assert [one["server"] for one in (await watched.get("/api/status")).json()["problems"]] == ["web-01"]


@pytest.mark.parametrize("account", ["in doubt", "away"])
async def test_a_servers_own_failure_is_told_as_that_whatever_the_account_has(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None, account: str
) -> None:
    world = a_world("web-01", "web-02")
    world.faults = [Fault(kind="ends", word="failed", server_id="12345", method="POST", path="/snapshots/")]
    async with daemon_on(configured(tmp_path, world, schedule="5 3 * * *"), world):
        await asyncio.sleep(MINUTE)
        if account == "in doubt":
            world.servers[world.add_server("db-01")].ref = None  # type: ignore[assignment]
        else:
            world.faults.append(Fault(kind="status", status=503, path="/servers/", times=None))
        await asyncio.sleep(29 * MINUTE)
    (own, of_the_account) = sorted(outside.told, key=lambda one: one["server"] is None)
    assert own["server"] == {"id": 12345, "name": "web-01"}, outside.words
    assert "at step wait" in own["text"]
    assert "the account could not be listed" in of_the_account["text"]
    assert "concerns" not in of_the_account["text"]
