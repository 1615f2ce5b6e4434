"""Editing the YAML while the daemon runs: taken whole or refused whole, and nothing fires by surprise."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snaprotd.simulator import World
from tests.support.daemons import HEAD, Watched, daemon_on, write_config

SERVER = '{{id: 12345, name: web-01, schedule: "{schedule}"{more}}}'
RELOADED = 5.0
"""Seconds after which a new file has been taken."""


def server(schedule: str = "0 12 * * *", more: str = "") -> str:
    return SERVER.format(schedule=schedule, more=f", {more}" if more else "")


def world_with_one() -> World:
    world = World()
    world.add_server("web-01")
    return world


def is_in_force(watched: Watched) -> bool:
    return watched.value("snaprotd_config_last_reload_successful") == 1


async def test_a_new_file_is_taken_within_seconds(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server()}]")
    async with daemon_on(path, world_with_one()) as watched:
        write_config(tmp_path, f"[{server('0 13 * * *')}]")
        await asyncio.sleep(RELOADED)
        next_run = watched.value("snaprotd_next_run_timestamp_seconds", "web-01")
    assert next_run is not None
    assert next_run % 86400 == 13 * 3600


async def test_an_atomic_rename_is_seen(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server()}]")
    async with daemon_on(path, world_with_one()) as watched:
        (tmp_path / "new").mkdir()
        os.replace(
            write_config(tmp_path / "new", f"[{server(more='name: renamed')}]".replace("name: web-01, ", "")), path
        )
        path.write_text(path.read_text().replace("/new/state.db", "/state.db"))
        await asyncio.sleep(RELOADED)
        assert set(watched.series("snaprotd_next_run_timestamp_seconds")) == {("renamed",)}


async def test_the_swap_of_a_mounted_config_map_is_seen(tmp_path: Path) -> None:
    """Kubernetes puts a new folder beside the old one and moves a symbolic link."""
    for version, hour in (("one", 12), ("two", 13)):
        (tmp_path / version).mkdir()
        text = write_config(tmp_path, f"[{server(f'0 {hour} * * *')}]").read_text()
        (tmp_path / version / "config.yaml").write_text(text)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    async with daemon_on(tmp_path / "config.yaml", world_with_one()) as watched:
        (tmp_path / "..data_tmp").symlink_to("two")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
        await asyncio.sleep(RELOADED)
        next_run = watched.value("snaprotd_next_run_timestamp_seconds", "web-01")
    assert next_run is not None
    assert next_run % 86400 == 13 * 3600


async def test_a_file_that_is_written_slowly_is_taken_once_and_whole(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server()}]")
    whole = (
        f"{HEAD}state: {tmp_path / 'state.db'}\nservers:\n- {server('0 13 * * *')}\n- {{id: 2, schedule: '@daily'}}\n"
    )
    async with daemon_on(path, world_with_one()) as watched:
        loaded = watched.value("snaprotd_config_last_reload_success_timestamp_seconds")
        for end in range(0, len(whole), 20):
            path.write_text(whole[:end])
            await asyncio.sleep(0.4)
            assert watched.value("snaprotd_config_last_reload_success_timestamp_seconds") == loaded
        path.write_text(whole)
        await asyncio.sleep(RELOADED)
        assert set(watched.series("snaprotd_next_run_timestamp_seconds")) == {("web-01",), ("2",)}
        assert is_in_force(watched)


@pytest.mark.parametrize("bad", ["", "servers: []", "servers: [", "servers: [{id: 12345}]", "\0"])
async def test_a_bad_file_leaves_the_old_one_in_force_until_the_next_good_one(tmp_path: Path, bad: str) -> None:
    path = write_config(tmp_path, f"[{server()}]")
    good = path.read_text()
    async with daemon_on(path, world_with_one()) as watched:
        before = watched.series("snaprotd_next_run_timestamp_seconds")
        path.write_text(bad)
        await asyncio.sleep(RELOADED)
        assert not is_in_force(watched)
        assert watched.series("snaprotd_next_run_timestamp_seconds") == before
        assert any(str(path) in remark for remark in watched.daemon.view.remarks())
        path.write_text(good)
        await asyncio.sleep(RELOADED)
        assert is_in_force(watched)
        assert watched.daemon.view.remarks() == []


async def test_a_file_that_goes_away_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server()}]")
    async with daemon_on(path, world_with_one()) as watched:
        path.unlink()
        await asyncio.sleep(RELOADED)
        assert not is_in_force(watched)
        assert watched.series("snaprotd_next_run_timestamp_seconds")


@pytest.mark.parametrize(
    "line",
    [
        "state: elsewhere.db",
        "listen: 127.0.0.1:1",
        "web_config: web.yaml",
        "instance: other",
        "api: {base_url: 'https://other.invalid'}",
    ],
)
async def test_what_needs_a_restart_says_so_and_changes_nothing(tmp_path: Path, line: str) -> None:
    path = write_config(tmp_path, f"[{server()}]")
    key = line.split(":")[0]
    kept = [one for one in path.read_text().splitlines() if not one.startswith(f"{key}:")]
    async with daemon_on(path, world_with_one()) as watched:
        path.write_text("\n".join([*kept, line, ""]).replace("0 12", "0 13"))
        await asyncio.sleep(RELOADED)
        assert not is_in_force(watched)
        assert any("needs a restart" in remark for remark in watched.daemon.view.remarks())
        next_run = watched.value("snaprotd_next_run_timestamp_seconds", "web-01")
        assert next_run is not None
        assert next_run % 86400 == 12 * 3600


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0 12 * * *", "* * * * *"),
        ("30 2 * * *", "0 3 * * *"),
        ("30 2 * * *", "30 2 * * *"),
        ("0 12 * * *", "59 2 * * *"),
    ],
)
async def test_nothing_runs_because_a_policy_was_edited(tmp_path: Path, before: str, after: str) -> None:
    path = write_config(tmp_path, f"[{server(before)}]")
    world = world_with_one()
    async with daemon_on(path, world) as watched:
        write_config(tmp_path, f"[{server(after, 'keep: 2')}]")
        await asyncio.sleep(RELOADED)
        assert is_in_force(watched)
        assert world.created == []


async def test_nothing_runs_because_a_server_was_added_or_unpaused(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server('* * * * *', 'paused: true')}]")
    world = world_with_one()
    world.add_server("db-01")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(130)
        write_config(tmp_path, f"[{server('* * * * *')}, {{id: 12346, schedule: '* * * * *'}}]")
        await asyncio.sleep(RELOADED)
        assert is_in_force(watched)
        assert world.created == []
        assert watched.value("snaprotd_rotations_skipped_total", "web-01", "paused") == 2


async def test_a_slot_is_not_run_twice_because_of_an_edit(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server('1 3 * * *')}]")
    world = world_with_one()
    async with daemon_on(path, world):
        await asyncio.sleep(90)
        write_config(tmp_path, f"[{server('1 3 * * *', 'keep: 2')}]")
        await asyncio.sleep(3600)
    assert len(world.created) == 1


async def test_a_server_that_is_removed_while_it_is_off_is_started_again(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server('1 3 * * *', 'stop_first: true')}, {{id: 2, schedule: '@yearly'}}]")
    world = world_with_one()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(120)
        assert world.status_of("12345") == "stopped"
        write_config(tmp_path, "[{id: 2, schedule: '@yearly'}]")
        await asyncio.sleep(RELOADED)
        assert ("web-01",) not in watched.series("snaprotd_next_run_timestamp_seconds")
        assert watched.value("snaprotd_server_stopped_by_us", "web-01") == 1
        await asyncio.sleep(1200)
        assert world.status_of("12345") == "active"
        assert ("web-01",) not in watched.series("snaprotd_server_stopped_by_us")
        assert [rotation.result for rotation in watched.ended] == ["success"]


async def test_a_rotation_in_flight_ends_under_the_policy_it_began_with(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server('1 3,4 * * *', 'keep: 4')}]")
    world = world_with_one()
    for day in range(10, 13):
        world.add_snapshot(
            "12345", f"snaprotd-main-202501{day}T033000Z", created_at=datetime(2025, 1, day, 3, 30, tzinfo=UTC)
        )
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(90)
        write_config(tmp_path, f"[{server('1 3,4 * * *', 'keep: 1')}]")
        await asyncio.sleep(1800)
        assert is_in_force(watched)
        assert len(world.snapshots_of("12345")) == 4
        await asyncio.sleep(3600)
        assert len(world.snapshots_of("12345")) == 1


async def test_a_server_that_is_renamed_keeps_its_schedule_and_changes_its_series(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server('1 3 * * *')}]")
    world = world_with_one()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(30)
        path.write_text(path.read_text().replace("web-01", "front"))
        await asyncio.sleep(1800)
        assert set(watched.series("snaprotd_last_attempt_timestamp_seconds")) == {("front",)}
    assert len(world.created) == 1


async def test_a_matched_server_is_found_and_waits_for_its_next_slot(tmp_path: Path) -> None:
    path = write_config(tmp_path, '[{match: "db-*", schedule: "*/10 * * * *"}]')
    world = world_with_one()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(200)
        new = world.add_server("db-01")
        await asyncio.sleep(361)
        assert world.created == []
        assert set(watched.series("snaprotd_next_run_timestamp_seconds")) == {("db-01",)}
        await asyncio.sleep(1200)
        assert world.created
        world.remove_server(new)
        await asyncio.sleep(900)
        assert watched.series("snaprotd_next_run_timestamp_seconds") == {}


async def test_a_listed_server_that_the_account_does_not_have_is_shown_and_the_others_go_on(tmp_path: Path) -> None:
    path = write_config(tmp_path, f"[{server('1 3 * * *')}, {{id: 999, schedule: '1 3 * * *'}}]")
    world = world_with_one()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(1800)
        assert watched.series("snaprotd_server_missing") == {("999",): 1}
        assert watched.value("snaprotd_rotations_total", "web-01", "success") == 1
        assert watched.value("snaprotd_rotations_total", "999", "failure") == 1


async def test_concurrency_follows_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = ", ".join(f"{{id: {12345 + n}, schedule: '1 3 * * *'}}" for n in range(6))
    path = write_config(tmp_path, f"[{entries}]\nmax_concurrent: 1")
    world = World()
    for number in range(6):
        world.add_server(f"web-{number}")
    async with daemon_on(path, world):
        await asyncio.sleep(70)
        assert len(world.created) == 1
        path.write_text(path.read_text().replace("max_concurrent: 1", "max_concurrent: 4"))
        await asyncio.sleep(20)
        assert len(world.created) == 4
    told = capsys.readouterr().out  # it ended at the moment of a look around
    assert "ended in order" in told
    assert "going on with an interrupted rotation" not in told, "it has just let go of its own"
