"""`now` says what it means for the server, and asks where somebody can answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.simulator import World
from tests.support.processes import TOKEN, provider, run, write_config
from tests.support.terminals import run_in_terminal

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
