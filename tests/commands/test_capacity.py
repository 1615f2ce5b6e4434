"""`plan --capacity` and the note of `check --online`, on an account that is read for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from snaprotd.commands.cli import cli
from tests.support.daemons import a_world, entry, write_config
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.real_time

LATE = [entry("30 3 * * *", "stop_first: true", "missed_within: 1m", server_id=str(12345 + one)) for one in range(12)]


@pytest.fixture
def path(tmp_path: Path, commands_reach: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    world = a_world(*(f"web-{number:02}" for number in range(12)))
    commands_reach(WorldTransport(world))
    monkeypatch.setenv("VPS_API_TOKEN", world.token)
    return write_config(tmp_path, f"[{', '.join(LATE)}]\nmax_concurrent: 4\n")


def ran(*arguments: str, path: Path) -> str:
    ended = CliRunner().invoke(cli, [*arguments, "--config", str(path)])
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_it_shows_what_a_night_takes_and_says_what_would_make_it_fit(path: Path) -> None:
    text = " ".join(ran("plan", "--capacity", path=path).split())
    assert "rotations 12, up to 4 at once" in text
    assert "assumed 5m a snapshot, for the 12 of which none is known yet" in text
    assert "and 2 more" in text
    assert "8 rotations of 12 would begin too late; what would do: `max_concurrent`: 12 or" in text


def test_as_json_it_tells_of_the_servers_that_are_named(path: Path) -> None:
    told = json.loads(ran("plan", "--capacity", "--json", "s12346", path=path))
    assert (told["fits"], told["night"]["rotations"], told["night"]["too_late"]) == (False, 12, 8)
    assert [(one["id"], one["name"], one["off"]) for one in told["servers"]] == [(12346, "s12346", 370)]
    assert told["changes"][0] == {"key": "max_concurrent", "value": "12"}


def test_a_check_notes_a_night_that_does_not_fit_and_no_other(path: Path) -> None:
    assert "capacity: It does not fit: 8 rotations of 12" in " ".join(ran("check", "--online", path=path).split())
    path.write_text(path.read_text().replace("max_concurrent: 4", "max_concurrent: 12"))
    assert "capacity" not in ran("check", "--online", path=path)
