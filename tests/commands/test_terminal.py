"""The commands in a terminal: what people see, at 80 and at 200 columns."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from snaprotd.core.holds import snapshot_name
from snaprotd.simulator import World
from tests.report.test_status import HISTORY, REPORT, held_to, many
from tests.support.processes import TOKEN, Provider, next_second, provider, run, write_config
from tests.support.scenes import Fleet, at_work, fleet, night
from tests.support.stages import Stage
from tests.support.terminals import CTRL_C, run_in_terminal

pytestmark = pytest.mark.real_time

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture(scope="module")
def busy(module_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """The troubled fleet, for commands that change nothing."""
    return module_stage.open(at_work(tmp_path_factory.mktemp("busy")))


@pytest.fixture(scope="module")
def calm(module_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """One in which all is well, for commands that change nothing."""
    return module_stage.open(fleet(tmp_path_factory.mktemp("calm"), troubled=False))


def once(prompt: str, typed: str) -> Callable[[str], str | None]:
    """Types once, when the prompt has been shown."""
    done = False

    def answer(shown: str) -> str | None:
        nonlocal done
        if done or prompt not in shown:
            return None
        done = True
        return typed

    return answer


@pytest.mark.parametrize("columns", [80, 200])
async def test_every_table_fits_its_terminal(columns: int, busy: Fleet) -> None:
    config = ("--config", str(busy.config))
    commands = [("plan", *config), ("list", *config), ("history", *config), ("status", "--url", busy.url)]
    for command, shown in zip(
        commands, await asyncio.gather(*(run_in_terminal(*one, columns=columns) for one in commands)), strict=True
    ):
        assert shown.code == (2 if command[0] == "status" else 0), "three things need somebody"
        assert shown.widest <= columns, shown.text
        assert shown.is_coloured
        # Nothing that identifies a snapshot is cut off.
        assert "…" not in shown.text, shown.text


async def test_the_plan_says_what_happens_when_it_runs_and_why(busy: Fleet) -> None:
    shown = await run_in_terminal("plan", "web-02", "db-01", "--config", str(busy.config), columns=120)
    assert "web-02  server 12349, 1 of 5 slots free" in shown.text
    assert "03:30 CE" in shown.text  # CET or CEST, and beside it
    assert "UTC), in" in shown.text
    assert "keep: last 3 of 3" in shown.text
    assert "delete: over keep 3" in shown.text
    assert "keep: not made by snaprotd  the same" in shown.text
    assert "blocked: 5 of 5 snapshots, 5 not made by snaprotd" in shown.text


async def test_without_a_terminal_there_is_no_colour_and_no_line_is_broken(busy: Fleet) -> None:
    ended = await run("plan", "db-01", "--config", str(busy.config))
    assert "\x1b" not in ended.out
    (blocked,) = [line for line in ended.out.splitlines() if "blocked" in line]
    assert "before-upgrade-1" in blocked


async def test_no_color_is_obeyed_in_a_terminal(calm: Fleet) -> None:
    shown = await run_in_terminal("status", "--url", calm.url, NO_COLOR="1")
    assert "all is well" in shown.text
    assert "\x1b[3" not in shown.raw


async def test_the_status_says_what_needs_somebody_and_what_is_off(busy: Fleet) -> None:
    shown = await run_in_terminal("status", "--config", str(busy.config), "--url", busy.url, columns=160)
    assert "3 things need you" in shown.text
    assert "✕ mail-01: the newest snapshot is older than the schedule allows" in shown.text
    assert "why there is no newer one, and take one: `snaprotd now mail-01`." in shown.text
    assert "▶ web-01: wait, the snapshot is in progress" in shown.text
    assert "off because of us" in shown.text
    assert "■■■■■" in shown.text


async def test_a_mistake_is_shown_with_its_line_and_a_caret_under_the_place(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("servers:\n  - {id: 1, shedule: '@daily'}\n")
    shown = await run_in_terminal("check", "--config", str(path))
    assert shown.code == 78
    lines = shown.text.splitlines()
    place = next(n for n, line in enumerate(lines) if "- {id: 1, shedule" in line)
    assert lines[place + 1].index("^") == lines[place].index("shedule")
    assert "did you mean `schedule`?" in shown.text


async def test_now_shows_a_line_that_moves_through_the_steps(tmp_path: Path) -> None:
    async with fleet(tmp_path, troubled=False) as told:
        first = await run_in_terminal("now", "app-02", "--config", str(told.config), columns=100)
        assert first.code == 0
        assert "5/7 wait: the snapshot is in progress" in first.text
        assert "success: app-02 has snaprotd-main-" in first.text
        await next_second()
        second = await run_in_terminal("now", "app-02", "--config", str(told.config), columns=100)
        assert "(usually" in second.text


async def test_now_that_is_ended_at_once_says_what_it_leaves(tmp_path: Path) -> None:
    """After a second Ctrl-C, on lines that stay; and the terminal has its cursor again."""
    world = World(token=TOKEN, stop_seconds=0.1, snapshot_seconds=(600, 600))
    world.add_server("web-01")
    async with provider(world) as api:
        path = write_config(
            tmp_path, api.base_url, 'listen: off\nservers: [{id: 12345, schedule: "@yearly", stop_first: true}]\n'
        )
        pressed = once("5/7 wait", CTRL_C), once("asked to end: a server that is held off is started first", CTRL_C)
        shown = await run_in_terminal(
            *("now", "12345", "--yes", "--config", str(path)),
            answers=lambda text: next((key for one in pressed if (key := one(text))), None),
        )
    assert shown.code == 128 + signal.SIGINT
    assert "ended at once; a server that was held off is OFF" in shown.text
    assert shown.raw.rindex(SHOW_CURSOR) > shown.raw.rindex(HIDE_CURSOR)


async def test_restore_says_what_is_lost_and_asks_for_the_servers_name(tmp_path: Path) -> None:
    async with fleet(tmp_path, troubled=False) as told:
        world = told.provider.world
        world.restore_seconds = (0.3, 0.4)
        (server_id,) = [one.id for one in world.servers.values() if one.name == "web-01"]
        older = next(
            one for one in world.snapshots_of(server_id) if one.name == snapshot_name("main", night(world.now(), 1))
        )
        shown = await run_in_terminal(
            *("restore", str(older.id), "--config", str(told.config)),
            columns=110,
            answers=once("to go on:", "web-01\n"),
        )
        assert shown.code == 0
        assert f"Restore server web-01 (id {server_id}) from snapshot {older.id}, {older.name}." in shown.text
        assert "it cannot be undone" in shown.text
        assert "WARNING: there is a newer one" in shown.text
        assert f"web-01 is active, restored from {older.name}." in shown.text
        assert "restoring" in [status for _, status in world.servers[server_id].history]


@pytest.mark.parametrize(
    ("command", "prompt", "typed"),
    [("restore", "to go on:", "web-02\n"), ("delete", "Delete it?", "n\n"), ("delete", "Delete it?", "\n")],
)
async def test_another_answer_changes_nothing(command: str, prompt: str, typed: str, calm: Fleet) -> None:
    snapshot = min(calm.provider.world.snapshots)
    shown = await run_in_terminal(*(command, str(snapshot), "--config", str(calm.config)), answers=once(prompt, typed))
    assert shown.code == 1
    assert "othing was done" in shown.text
    assert changes(calm.provider) == []


async def test_delete_takes_a_yes(tmp_path: Path) -> None:
    async with fleet(tmp_path, troubled=False) as told:
        snapshot = min(told.provider.world.snapshots)
        shown = await run_in_terminal(
            *("delete", str(snapshot), "--config", str(told.config)), answers=once("Delete it?", "y\n")
        )
        assert shown.code == 0
        assert snapshot not in told.provider.world.snapshots


async def test_restore_and_delete_refuse_what_would_hurt(busy: Fleet) -> None:
    """While a rotation is open; from a snapshot that is not whole; one in progress; one that does not exist."""
    world, config = busy.provider.world, ("--yes", "--config", str(busy.config))
    ids = {one.name: one.id for one in world.servers.values()}
    before = len(changes(busy.provider))
    whole = next(one for one in world.snapshots_of(ids["web-01"]) if one.status == "completed")
    half = next(one for one in world.snapshots_of(ids["web-01"]) if one.status == "in_progress")
    failed = next(one for one in world.snapshots_of(ids["db-02"]) if one.status == "failed")
    refused = {
        ("restore", str(whole.id)): "a rotation of web-01 is open",
        ("restore", str(failed.id)): "is failed: only a completed snapshot can be restored",
        ("restore", "99999"): "the account has no snapshot 99999",
        ("delete", str(half.id)): "is in progress: it cannot be deleted now",
    }
    for (command, number), why in refused.items():
        ended = await run(command, number, *config)
        assert (ended.code, why in ended.err) == (1, True), ended
    assert len(changes(busy.provider)) == before


def changes(provider: Provider) -> list[str]:
    return [one.what for one in provider.journal if one.what != "get"]


async def test_the_shell_is_told_the_servers(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("servers: [{id: 12345, name: web-01, schedule: '@daily'}, {id: 7, schedule: '@daily'}]\n")
    for shell in ("bash", "zsh", "fish"):
        ended = await run("completion", shell)
        assert f"_SNAPROTD_COMPLETE={shell}_complete" in ended.out
    ended = await run(
        SNAPROTD_CONFIG=str(path), _SNAPROTD_COMPLETE="bash_complete", COMP_WORDS="snaprotd plan we", COMP_CWORD="2"
    )
    assert ended.out.split() == ["plain,web-01"]


async def test_history_and_status_as_json_have_the_documented_shape(busy: Fleet) -> None:
    history, status = await asyncio.gather(
        run("history", "--json", "--config", str(busy.config)), run("status", "--json", "--url", busy.url)
    )
    assert (history.code, status.code) == (0, 2)
    rows = held_to(many(HISTORY), history.json)
    assert {row["result"] for row in rows} == {"success", "failure", None}
    held_to(REPORT, status.json)
