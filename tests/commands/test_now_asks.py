"""`now` says what it means for the servers, asks where somebody can answer, and tells what became of each."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.commands.text import terminal
from snaprotd.simulator import Fault, World
from tests.support.processes import TOKEN, provider, run, write_config
from tests.support.terminals import Shown, run_in_terminal

pytestmark = pytest.mark.real_time

SHUT = "web is outside its window"


def configure(folder: Path, base_url: str) -> Path:
    """The window opens in two hours."""
    begin = datetime.now(UTC) + timedelta(hours=2)
    window = f"{begin:%H:00}-{begin + timedelta(hours=1):%H:00}"
    keys = f'schedule: "30 {begin.hour} * * *", window: "{window}", stop_first: true'
    return write_config(folder, base_url, f"listen: off\nservers: [{{id: 12345, name: web, {keys}}}]\n")


def history(world: World) -> list[str]:
    return [status for _, status in world.servers["12345"].history]


OFF_AND_ON = ["active", "stopping", "stopped", "starting", "active"]


async def test_where_nobody_can_answer_nothing_is_done_outside_the_window_but_with_yes(tmp_path: Path) -> None:
    world = World(speed=2000, token=TOKEN)
    world.add_server("web")
    async with provider(world) as web:
        path = str(configure(tmp_path, web.base_url))
        refused = await run("now", "web", "--config", path)
        assert (refused.code, world.created, history(world)) == (1, [], ["active"])
        assert f"snaprotd: {SHUT}" in refused.err
        assert "nothing was done; --yes takes the snapshot all the same" in refused.err
        taken = await run("now", "web", "--yes", "--live", "--config", path)
        assert (taken.code, len(world.created), history(world)) == (0, 1, ["active"])


async def test_on_a_terminal_it_asks_outside_the_window_and_before_a_stop(tmp_path: Path) -> None:
    world = World(speed=2000, token=TOKEN)
    world.add_server("web")
    async with provider(world) as web:
        path = str(configure(tmp_path, web.base_url))

        async def answered(key: str) -> tuple[int, str]:
            typed = iter([f"{key}\n"])
            shown = await run_in_terminal(
                *("now", "web", "--config", path),
                columns=100,
                answers=lambda text: next(typed, None) if "Take the snapshot now?" in text else None,
            )
            return shown.code, shown.text

        code, text = await answered("n")
        assert (code, world.created, history(world)) == (1, [], ["active"])
        assert SHUT in text
        assert "web will be switched off; --live takes the snapshot without that." in text
        assert "Nothing was done." in text
        code, text = await answered("y")
        assert (code, len(world.created), history(world)) == (0, 1, OFF_AND_ON)
        _, text = await answered("n")
        assert "web will be switched off for about " in text


@asynccontextmanager
async def three(folder: Path) -> AsyncIterator[tuple[World, str]]:
    """`web` and `db` are stopped for their snapshots, and the first of `db` fails; `cache` is outside its window."""
    world = World(speed=2000, token=TOKEN)
    for name in ("web", "db", "cache"):
        world.add_server(name)
    world.faults.append(Fault(kind="ends", method="POST", path="/snapshots/", server_id="12346"))
    begin = datetime.now(UTC) + timedelta(hours=2)
    shut = f'schedule: "30 {begin.hour} * * *", window: "{begin:%H:00}-{begin + timedelta(hours=1):%H:00}"'
    keys = {
        "web": 'schedule: "@yearly", stop_first: true',
        "db": 'schedule: "@yearly", stop_first: true',
        "cache": shut,
    }
    entries = [f"{{id: {12345 + at}, name: {name}, {keys[name]}}}" for at, name in enumerate(keys)]
    async with provider(world) as web:
        yield world, str(write_config(folder, web.base_url, f"listen: off\nservers: [{', '.join(entries)}]\n"))


async def test_of_several_there_is_one_list_one_sum_and_one_code(tmp_path: Path) -> None:
    """Whoever is refused is in the list too; and what a refusal of the whole says, programs can read."""
    async with three(tmp_path) as (world, path):
        told = await run("now", "web", "12346", "cache", "--json", "--config", path)
        assert told.code == 1
        assert [(one["server"], one["server_id"], one["result"]) for one in told.json] == [
            ("web", 12345, "success"),
            ("db", 12346, "failure"),
            ("cache", 12347, "failure"),
        ]
        assert told.json[2]["error"].startswith("cache is outside its window ")
        assert [list(one)[2:] for one in told.json] == [["result", "snapshot", "deleted", "error"]] * 3
        assert len(world.created) == 2
        again = await run("now", "--failed", "--config", path)
        assert (again.code, len(world.created)) == (0, 3)
        assert "success: db has snaprotd-main-" in again.out
        assert again.out.endswith("\n1 of 1 server done\n")
        none = await run("now", "--failed", "--json", "--config", path)
        assert (none.code, none.json) == (0, [])
        refused = await run("now", "web", "dbb", "--json", "--config", path)
        assert refused.code == 1
        assert refused.json == {
            "result": "failure",
            "snapshot": None,
            "deleted": [],
            "error": "no server is named dbb. `snaprotd plan` shows the servers that are configured",
        }
        assert len(world.created) == 3, "nothing is done where one of the names is wrong"


async def test_it_asks_once_for_all_servers(tmp_path: Path) -> None:
    async with three(tmp_path) as (world, path):
        world.faults.clear()

        async def answered(key: str) -> Shown:
            typed = iter([f"{key}\n"])
            return await run_in_terminal(
                *("now", "web", "db", "cache", "--config", path),
                answers=lambda text: next(typed, None) if "Take 3 snapshots now?" in text else None,
            )

        no = await answered("n")
        assert (no.code, world.created) == (1, [])
        assert "cache is outside its window " in no.text
        assert "web and db will be switched off; --live takes the snapshots without that." in no.text
        yes = await answered("y")
        assert (yes.code, len(world.created)) == (0, 3)
        assert yes.text.endswith("3 of 3 servers done\n")
        assert yes.widest <= 80


def test_what_goes_on_at_once_has_a_line_each_and_no_more_lines_than_there_is_room() -> None:
    lines = terminal.MovingLines()
    lines("30 servers")
    for number in range(30):
        lines(f"web-{number:02}: 1/7 look", of=f"web-{number:02}")
    lines("web-01: 2/7 stop", of="web-01")
    lines.over("web-00: success (1 of 30 have ended)", of="web-00")
    first, second, *others, last = str(lines.__rich__()).splitlines()
    assert first.endswith("  web-00: success (1 of 30 have ended)")
    assert second == " " * 8 + "web-01: 2/7 stop"
    rows = terminal.console(sys.stderr).height - terminal.ROWS_LEFT
    assert len(others) == rows - 2
    assert last == f"{' ' * 8}and {29 - rows + 1} more"


def test_in_a_pipe_each_line_says_something_new(capsys: pytest.CaptureFixture[str]) -> None:
    """Two that take turns do not make the other's old line news."""
    lines = terminal.Lines()
    for _ in range(3):
        lines("web: 1/7 look", of="web")
        lines("db: 1/7 look", of="db")
    lines.over("web: success (1 of 2 have ended)", of="web")
    assert capsys.readouterr().err == "web: 1/7 look\ndb: 1/7 look\nweb: success (1 of 2 have ended)\n"
