"""Real processes whose reader leaves, whose terminal closes, whose disk is full or whose port is taken.

No server stays off for it; and what a command cannot do, it says.
"""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.support.processes import (
    TOKEN,
    Ended,
    Hold,
    Provider,
    daemon,
    provider,
    recorded,
    run,
    until,
    write_config,
)
from tests.support.terminals import run_until_the_terminal_closes
from tests.support.troubles import run_for_a_reader_who_leaves, run_redirected, running_on_a_full_disk

pytestmark = pytest.mark.real_time

SPEED = 500.0
WEB = {"id": 12345, "name": "web", "schedule": "@yearly", "stop_first": True}


def a_world() -> World:
    world = World(speed=SPEED, token=TOKEN)
    world.add_server("web")
    return world


def history(world: World) -> list[str]:
    """What the server has been, from the first on."""
    return [status for _, status in world.servers["12345"].history]


def is_owed(rotation: dict[str, Any]) -> bool:
    """As the ledger has it: the promise stands, and the server has not been seen running in two looks."""
    return rotation["asked"] > rotation["released"] and not rotation["watched"]


def configure(folder: Path, web: Provider, *servers: dict[str, Any], listen: str = "off") -> Path:
    return write_config(folder, web.base_url, f"listen: {listen}\nservers: {json.dumps(servers)}\n")


OFF_AND_ON = ["active", "stopping", "stopped", "starting", "active"]

# -- somebody who looks on, and leaves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "errors_too"),
    [(1, True), (4, True), (0, True), (0, False)],
    ids=["2>&1 | head -1", "2>&1 | head -4", "2>&1 | true", "| true"],
)
async def test_a_rotation_whose_reader_leaves_goes_on_to_its_end(tmp_path: Path, lines: int, errors_too: bool) -> None:
    world = a_world()
    async with provider(world) as web:
        config = configure(tmp_path, web, WEB)
        arguments = ("now", "web", "--config", str(config))
        code = await run_for_a_reader_who_leaves(*arguments, lines=lines, errors_too=errors_too)
    assert code == 1  # what came of it could not be told
    assert history(world) == OFF_AND_ON
    assert [one.status for one in world.created] == ["completed"]
    assert [one["result"] for one in recorded(tmp_path / "state.db")] == ["success"]


BAD = ("check", "--config", "no-such-file.yaml")


@pytest.mark.parametrize(
    ("arguments", "errors_too"),
    [(("schema",), False), (("--version",), True), (("--help",), False), (("completion", "bash"), True)],
)
async def test_a_command_whose_reader_leaves_fails(arguments: tuple[str, ...], errors_too: bool) -> None:
    assert await run_for_a_reader_who_leaves(*arguments, lines=0, errors_too=errors_too) == 1


async def test_what_is_wrong_with_the_file_is_told_by_the_code_whoever_reads_the_sentence() -> None:
    assert await run_for_a_reader_who_leaves(*BAD, lines=0, errors_too=True) == 78


@pytest.mark.parametrize(
    ("arguments", "to", "code"),
    [
        (("schema",), ">/dev/full", 1),
        (("--version",), ">/dev/full", 1),
        (("--version",), ">/dev/full 2>/dev/full", 1),
        (("--version",), ">&-", 0),
        (("--version",), ">&- 2>&- <&-", 0),
        (BAD, "2>/dev/full", 78),
        (BAD, "2>&-", 78),
        (("now", "--bogus"), "2>/dev/full", 2),
    ],
)
async def test_a_command_whose_words_cannot_be_written_ends_with_a_code_of_ours(
    arguments: tuple[str, ...], to: str, code: int
) -> None:
    assert await run_redirected(*arguments, to=to) == code


async def test_a_rotation_whose_terminal_is_closed_while_the_server_is_off_goes_on_to_its_end(tmp_path: Path) -> None:
    world = a_world()
    async with provider(world) as web:
        config = configure(tmp_path, web, WEB)
        await run_until_the_terminal_closes(
            *("now", "web", "--yes", "--config", str(config)), closes=lambda: world.status_of("12345") == "stopped"
        )
    assert history(world) == OFF_AND_ON
    assert [one["result"] for one in recorded(tmp_path / "state.db")] == ["success"]


# -- a daemon that cannot begin as usual ------------------------------------------------------------------------------


@asynccontextmanager
async def killed_while_it_held_a_server_off(folder: Path) -> AsyncIterator[tuple[Provider, dict[str, Any]]]:
    """An account after a kill -9 right before its snapshot is asked for; and the server's entry."""
    slot = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
    web_01 = {**WEB, "schedule": f"{slot.minute} {slot.hour} * * *"}
    seen = Mark(
        server_id="12345", seen_until=slot - timedelta(hours=1), schedule=f"UTC {slot.minute} {slot.hour} * * * +0s"
    )
    async with await Ledger.open(folder / "state.db", owner=uuid.uuid4().hex) as ledger:
        await ledger.set_marks([seen])
    async with provider(a_world()) as web:
        hold = Hold(number=1, when="before", fits=lambda what: what == "create")
        web.holds = [hold]
        async with daemon(configure(folder, web, web_01)) as life:
            await until(lambda: hold.struck.is_set() or life.returncode is not None, what="the request for a snapshot")
            await life.kill()
        hold.release(drop=True)
        assert web.world.status_of("12345") == "stopped"
        yield web, web_01


@pytest.mark.parametrize("tidy", [False, True], ids=["as it was left", "looked into by another program"])
async def test_a_restart_on_a_full_disk_starts_the_server_that_was_held_off(tmp_path: Path, tidy: bool) -> None:
    async with killed_while_it_held_a_server_off(tmp_path) as (web, entry):
        config = configure(tmp_path, web, entry)
        if tidy:
            with closing(sqlite3.connect(tmp_path / "state.db")) as last:
                last.execute("SELECT * FROM rotations")
            assert not (tmp_path / "state.db-wal").exists()
        async with daemon(config, start=running_on_a_full_disk) as life:
            await until(lambda: web.world.status_of("12345") == "active", what="the server on a full disk")
            assert life.returncode is None, life.said
            assert "the ledger cannot be written: starting the server" in life.said
            life.send(signal.SIGTERM)
            assert await life.ended() == 0
        (rotation,) = recorded(tmp_path / "state.db")
        assert rotation["held_off"]
        async with daemon(config):
            await until(lambda: recorded(tmp_path / "state.db")[0]["step"] == "done", what="the end of the rotation")
        assert web.world.status_of("12345") == "active"
        assert not is_owed(recorded(tmp_path / "state.db")[0])


async def test_a_port_that_is_taken_keeps_no_server_off_and_is_told(tmp_path: Path) -> None:
    async with killed_while_it_held_a_server_off(tmp_path) as (web, entry):
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            async with daemon(configure(tmp_path, web, entry, listen=address)) as life:
                await life.has_said(f"cannot listen on {address}: Address already in use")
                await until(lambda: recorded(tmp_path / "state.db")[0]["step"] == "done", what="the rotation's end")
                life.send(signal.SIGTERM)
                assert await life.ended() == 0
        assert web.world.status_of("12345") == "active"
        (rotation,) = recorded(tmp_path / "state.db")
        assert not is_owed(rotation)
        assert web.world.created[0].server_status_when_taken == "stopped"


# -- what is said -----------------------------------------------------------------------------------------------------


async def over(folder: Path, world: World, *arguments: str, **more: str) -> Ended:
    async with provider(world) as web:
        config = configure(folder, web, {**WEB, "schedule": "@daily"})
        return await run(*arguments, "--config", str(config), **more)


@pytest.mark.parametrize("command", ["plan", "now"])
@pytest.mark.parametrize("name", ["12346", "db"])
async def test_a_server_without_a_policy_is_told_of_in_a_sentence(tmp_path: Path, command: str, name: str) -> None:
    world = a_world()
    world.add_server("db")
    ended = await over(tmp_path, world, command, name)
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("snaprotd: the server ")
    assert line.endswith(f"has no policy: add it under `servers` in {tmp_path / 'config.yaml'}")


SUSPENDED = "blocked: the server is suspended: it would not be touched"


async def test_a_plan_says_that_a_server_is_suspended(tmp_path: Path) -> None:
    world = a_world()
    world.set_status("12345", "suspended")
    told = await over(tmp_path, world, "plan", "web", "--json")
    assert told.json["servers"][0]["blocked"] == SUSPENDED
    shown = await over(tmp_path, world, "plan", "web")
    assert SUSPENDED in " ".join(shown.out.split())


async def test_a_check_says_that_a_server_is_suspended_and_fails(tmp_path: Path) -> None:
    world = a_world()
    world.set_status("12345", "suspended")
    ended = await over(tmp_path, world, "check", "--online")
    assert ended.code == 1
    assert [line for line in ended.out.splitlines() if line.startswith("PROBLEM")] == [
        f"PROBLEM  web: web is suspended, 5 of 5 slots free; {SUSPENDED}"
    ]


@pytest.mark.parametrize("command", ["run", "now web", "plan", "check --online"])
async def test_a_log_level_that_there_is_not_is_told_in_a_sentence(tmp_path: Path, command: str) -> None:
    world = a_world()
    ended = await over(tmp_path, world, *command.split(), SNAPROTD_LOG_LEVEL="chatty")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == (
        "Error: SNAPROTD_LOG_LEVEL is `CHATTY`: there are DEBUG, INFO, WARNING, ERROR, CRITICAL"
    )
    assert history(world) == ["active"]
