"""snaprotd on the very server that it is to stop: it would go off with it, and nobody would be left to start it."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.model import Machine
from snaprotd.core.policy import OnStopTimeout
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.daemon.machine import this_machine
from snaprotd.engine.loop import run_rotation
from snaprotd.engine.run import Run
from snaprotd.simulator import Fault, Request, World
from tests.support.daemons import HEAD, Watched, a_world, daemon_on, power
from tests.support.lives import Story, night
from tests.support.policies import a_policy
from tests.support.processes import TOKEN, next_second, provider, run, write_config

SLOT = night(0)
SENTENCE = "this looks like the machine that snaprotd runs on ({}): it would stop itself; run it elsewhere, or set "
SENTENCE += "own_server: none"
WEB_01 = Machine(names=("web-01",), addresses=("203.0.113.7",))


def a_story(folder: Path, machine: Machine, *faults: Fault, **policy: Any) -> Story:
    """A server `web-01` that goes off for its snapshot, and what runs on `machine`."""
    world = World()
    server_id = world.add_server("web-01", ip_address="203.0.113.7")
    world.faults.extend(faults)
    wanted = a_policy(**{"stop_first": True, **policy})
    story = Story(world=world, ledger_path=folder / "state.db", policy=wanted, server_id=server_id)
    story.machine = machine
    return story


def asked_in(story: Story) -> list[str]:
    """What of all that is asked changes something, from now on."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.method != "GET":
            asked.append(str(request.json.get("action", request.method)))

    story.before_request = note
    return asked


# -- a rotation -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_clock", "silence")
@pytest.mark.parametrize(
    ("machine", "sign"),
    [
        (WEB_01, "host name web-01"),
        (Machine(names=("3f1c0a9b2d4e",), addresses=("203.0.113.7",)), "address 203.0.113.7"),
        (Machine(own_server="12345"), "own_server names it"),
    ],
    ids=["by its name", "by its address", "by the configuration"],
)
@pytest.mark.parametrize("on_stop_timeout", list(OnStopTimeout))
async def test_the_server_that_snaprotd_runs_on_is_never_stopped(
    tmp_path: Path, machine: Machine, sign: str, on_stop_timeout: OnStopTimeout
) -> None:
    story = a_story(tmp_path, machine, power("stop_never", "stop"), on_stop_timeout=on_stop_timeout)
    asked = asked_in(story)
    ended = await story.rotate(SLOT)
    assert (ended.result, ended.failed_step) == (Result.FAILURE, Step.LOOK)
    assert ended.error == SENTENCE.format(sign)
    assert asked == []
    await asyncio.sleep(86400)
    assert [status for _, status in story.world.servers["12345"].history] == ["active"]


@pytest.mark.usefixtures("one_clock", "silence")
@pytest.mark.parametrize(
    ("machine", "policy"),
    [
        (WEB_01, {"stop_first": False}),
        (Machine(names=("web-01",), own_server="none"), {}),
        (Machine(names=("web-01",), own_server="12399"), {}),
        (Machine(names=("db-01",), addresses=("203.0.113.8",)), {}),
    ],
    ids=["it is not stopped", "the file says that it is elsewhere", "the file names another", "it is another"],
)
async def test_a_snapshot_is_taken_where_snaprotd_does_not_stop_itself(
    tmp_path: Path, machine: Machine, policy: dict[str, Any]
) -> None:
    story = a_story(tmp_path, machine, **policy)
    ended = await story.rotate(SLOT)
    assert (ended.result, ended.error) == (Result.SUCCESS, None)
    assert story.world.status_of("12345") == "active"


@pytest.mark.usefixtures("one_clock", "silence")
@pytest.mark.parametrize("moment", [("before stop", 1), ("after stop", 1)])
async def test_what_another_machine_began_is_not_gone_on_with_to_a_stop_of_our_own(
    tmp_path: Path, moment: tuple[str, int]
) -> None:
    """The look was made elsewhere. Whether that stop went out or not, no other does, and the server runs in the end."""
    story = a_story(tmp_path, Machine(names=("db-01",)), power("lost", "stop"), on_stop_timeout=OnStopTimeout.HARD_STOP)
    story.crashes = {moment}
    assert await story._one_life(SLOT) is None
    story.machine = WEB_01
    asked = asked_in(story)
    ended = await taken_over(story)
    assert (ended.result, ended.error) == (Result.FAILURE, SENTENCE.format("host name web-01"))
    assert ended.failed_step is Step.STOP
    assert set(asked) <= {"start"}
    assert story.world.status_of("12345") == "active"


async def taken_over(story: Story) -> Rotation:
    async with story.life() as tools:
        (rotation,) = await tools.ledger.take_over(everything=True)
        return await run_rotation(Run(rotation, tools))


# -- the daemon -------------------------------------------------------------------------------------------------------

NIGHTLY = 'servers: [{id: 12345, name: web, schedule: "5 3 * * *", stop_first: true}]\n'


def configured(folder: Path, own_server: str = "") -> Path:
    path = folder / "config.yaml"
    head = HEAD.replace("own_server: none\n", own_server)
    path.write_text(f"{head}state: {folder / 'state.db'}\n{NIGHTLY}")
    return path


async def problems_of(watched: Watched) -> list[dict[str, Any]]:
    return [one for one in (await watched.daemon.view.status())["problems"] if one["server"] == "web"]


@pytest.mark.usefixtures("one_clock", "silence")
async def test_the_page_says_that_the_daemon_would_stop_itself_until_the_file_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "web-01")
    path, why = configured(tmp_path), SENTENCE.format("host name web-01")
    async with daemon_on(path, a_world()) as watched:
        await asyncio.sleep(60)
        first, *_ = await problems_of(watched)
        assert (first["severity"], first["text"]) == ("alarm", f"blocked: {why}")
        assert "own_server: none" in first["do"]
        await watched.daemon.rotate("12345")
        await asyncio.sleep(60)
        first, *others = await problems_of(watched)
        assert first["text"] == f"the last rotation ended as failure, at step look: {why}"
        assert not [one for one in others if why in one["text"]]
        configured(tmp_path, "own_server: none\n")
        await asyncio.sleep(60)
        await watched.daemon.rotate("12345")
        await asyncio.sleep(3600)
        assert [one.result for one in watched.ended] == [Result.FAILURE, Result.SUCCESS]
        assert await problems_of(watched) == []


# -- the commands, on this machine ------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_on_the_server_that_it_is_to_stop_the_commands_say_so_and_nothing_is_asked_of_it(tmp_path: Path) -> None:
    world = World(speed=2000.0, token=TOKEN)
    address = next((one for one in this_machine("").addresses if "." in one), "203.0.113.7")
    world.add_server("front", hostname=socket.gethostname(), ip_address=address)
    world.add_server("back")
    servers: list[dict[str, Any]] = [
        {"id": 12345, "name": "front", "schedule": "@yearly", "stop_first": True},
        {"id": 12346, "name": "back", "schedule": "@yearly", "stop_first": True},
    ]
    why = SENTENCE.format(f"host name {socket.gethostname()}")
    async with provider(world) as web:
        left_to_itself = write_config(tmp_path, web.base_url, f"listen: off\nservers: {json.dumps(servers)}\n")
        left_to_itself.write_text(left_to_itself.read_text().replace("own_server: none\n", ""))
        of = ("--config", str(left_to_itself))
        checked = await run("check", "--online", *of)
        assert checked.code == 1
        problems = [line for line in checked.out.splitlines() if line.startswith("PROBLEM")]
        assert problems == [f"PROBLEM  front: front is active, 5 of 5 slots free; blocked: {why}"]
        front, back = json.loads((await run("plan", "--json", *of)).out)["servers"]
        assert (front["blocked"], back["blocked"]) == (f"blocked: {why}", None)
        ended = await run("now", "front", "--json", *of)
        assert (ended.code, ended.json["result"], ended.json["error"]) == (1, "failure", why)
        assert {one.method for one in web.journal} == {"GET"}

        left_to_itself.write_text(left_to_itself.read_text().replace('"@yearly", "stop_first": true', '"@yearly"', 1))
        checked = await run("check", "--online", *of)
        assert checked.code == 0
        assert (
            f"front: this looks like the machine that snaprotd runs on (host name {socket.gethostname()});"
            in checked.out
        )
        await next_second()
        assert (await run("now", "front", *of)).code == 0
        assert web.asked("stop") == []


@pytest.mark.real_time
async def test_an_own_server_that_the_account_does_not_have_is_a_problem_online(tmp_path: Path) -> None:
    world = World(speed=2000.0, token=TOKEN)
    world.add_server("front")
    text = 'own_server: 99999\nlisten: off\nservers: [{id: 12345, schedule: "@yearly"}]\n'
    async with provider(world) as web:
        checked = await run("check", "--online", "--config", str(write_config(tmp_path, web.base_url, text)))
    assert checked.code == 1
    assert "PROBLEM  own_server: the account has no server 99999" in checked.out.splitlines()


def test_what_the_machine_shows_is_its_name_and_no_loopback_address() -> None:
    machine = this_machine("12345")
    assert machine.names == (socket.gethostname(),)
    assert machine.own_server == "12345"
    assert not [one for one in machine.addresses if one.startswith("127.") or one == "::1"]
