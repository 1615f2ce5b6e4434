"""A whole daemon whose `match` finds a server no more: people are told, once, and of its return."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.core.rotation import Step
from snaprotd.simulator import Fault, World
from tests.daemon.test_events import events, kinds, problems
from tests.daemon.test_teller import CHECK, HOOK, MINUTE, Outside, outside
from tests.support.daemons import Watched, a_world, daemon_on, write_config
from tests.support.receivers import secret

__all__ = ["outside"]

pytestmark = pytest.mark.usefixtures("silence", "few_ticks")

FOUND = "web-*"


def matching(folder: Path, *entries: str, pattern: str = FOUND, schedule: str = "@yearly") -> Path:
    for name in (HOOK, CHECK):
        secret(folder, name, f"https://receiver.invalid/{name}")
    policy = f'schedule: "{schedule}", stop_first: true, retry: {{times: 0}}'
    found = [*entries, f'{{match: "{pattern}", {policy}}}']
    notify = f"notify:\n  - webhook: {{url_file: {folder}/{HOOK}}}\n  - ping: {{url_file: {folder}/{CHECK}}}"
    return write_config(folder, f"[{', '.join(found)}]\n{notify}")


def two_servers() -> World:
    """Each with a snapshot of ours, so that nothing else is the matter."""
    world = a_world("web-01", "web-02")
    for one in world.servers:
        world.add_snapshot(one, "snaprotd-main-20250116T020000Z", created_at=datetime(2025, 1, 16, 2, tzinfo=UTC))
    return world


def called(world: World, name: str, server_id: str = "12346") -> None:
    world.servers[server_id].name = name


async def told_on_the_page(watched: Watched) -> list[tuple[object, str, str]]:
    return [(one["server"], one["severity"], one["text"]) for one in await problems(watched)]


DROPPED = "snaprotd_server_dropped"
RENAMED = "no snapshots are taken of it any more: server 12346 is called db-02, which no `match` finds"
REMOVED = "no snapshots are taken of it any more: the account has no server 12346 now, which a `match` had found"


async def test_a_server_that_is_renamed_away_is_an_alarm_until_it_is_found_again(
    tmp_path: Path, outside: Outside
) -> None:
    world = two_servers()
    async with daemon_on(matching(tmp_path), world) as watched:
        await asyncio.sleep(7 * MINUTE)
        called(world, "db-02")
        await asyncio.sleep(250)
        assert "12346" not in watched.daemon._schedules.targets
        assert await events(watched) == [], "one list tells nothing"
        await asyncio.sleep(6 * MINUTE)
        assert await told_on_the_page(watched) == [("web-02", "alarm", RENAMED)]
        (message,) = outside.told
        assert watched.series(DROPPED) == {("web-02",): 1}
        assert (message["kind"], message["severity"]) == ("failure", "alarm")
        assert message["text"] == f"web-02: {RENAMED}"
        assert "by its `id`" in message["do"]
        assert outside.pings == ["/fail"]
        called(world, "web-02")
        await asyncio.sleep(7 * MINUTE)
        assert await problems(watched) == []
        assert watched.series(DROPPED) == {("web-02",): 0}
        assert kinds(await events(watched)) == ["dropped", "found_again"]
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"]
    assert outside.told[1]["text"] == "web-02: server 12346 is looked after again"


async def test_a_server_that_is_deleted_at_the_provider_is_told_and_somebody_should_look(
    tmp_path: Path, outside: Outside
) -> None:
    world = two_servers()
    async with daemon_on(matching(tmp_path), world) as watched:
        await asyncio.sleep(7 * MINUTE)
        del world.servers["12346"]
        await asyncio.sleep(12 * MINUTE)
        assert await told_on_the_page(watched) == [("web-02", "attention", REMOVED)]
    assert [(one["kind"], one["severity"]) for one in outside.told] == [("failure", "attention")]


async def test_one_that_is_renamed_while_no_daemon_lives_is_missed_by_the_next_and_told_once(
    tmp_path: Path, outside: Outside
) -> None:
    world, path = two_servers(), matching(tmp_path)
    async with daemon_on(path, world):
        await asyncio.sleep(7 * MINUTE)
    called(world, "db-02")
    for _ in range(3):
        async with daemon_on(path, world) as watched:
            await asyncio.sleep(8 * MINUTE)
            assert await told_on_the_page(watched) == [("web-02", "alarm", RENAMED)]
            assert kinds(await events(watched)) == ["dropped"]
    assert [one["kind"] for one in outside.told] == ["failure"]
    called(world, "web-02")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(8 * MINUTE)
        assert await problems(watched) == []
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"]


async def test_what_is_not_listed_for_certain_is_not_dropped(tmp_path: Path, outside: Outside) -> None:
    world = two_servers()
    async with daemon_on(matching(tmp_path), world) as watched:
        await asyncio.sleep(7 * MINUTE)
        kept = world.servers.pop("12346")
        world.servers["x"] = replace(kept, id="x", ref=None)  # type: ignore[arg-type]
        called(world, "db-01", "12345")
        await asyncio.sleep(15 * MINUTE)
        assert watched.daemon._account.error is not None
        assert "12345" not in watched.daemon._schedules.targets
        called(world, "web-01", "12345")
        del world.servers["x"]
        world.faults = [Fault(kind="status", status=503, times=None)]
        await asyncio.sleep(10 * MINUTE)
        world.servers["12346"], world.faults = kept, []
        await asyncio.sleep(10 * MINUTE)
        assert "dropped" not in kinds(await events(watched))


@pytest.mark.parametrize("let_go", ["pattern", "entry"])
async def test_what_the_configuration_lets_go_of_or_names_by_its_id_is_no_news(
    tmp_path: Path, outside: Outside, let_go: str
) -> None:
    world, path = two_servers(), matching(tmp_path)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(7 * MINUTE)
        if let_go == "pattern":
            matching(tmp_path, pattern="web-01")
        else:
            matching(tmp_path, '{id: 12346, name: db, schedule: "@yearly"}')
            called(world, "db-02")
        await asyncio.sleep(15 * MINUTE)
        assert await problems(watched) == []
        assert kinds(await events(watched)) == ["reload"]
    assert outside.told == []


async def test_a_pattern_that_lets_go_of_it_and_an_entry_that_names_it_end_the_alarm(
    tmp_path: Path, outside: Outside
) -> None:
    world, path = two_servers(), matching(tmp_path)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(7 * MINUTE)
        called(world, "db-02")
        await asyncio.sleep(8 * MINUTE)
        matching(tmp_path, '{id: 12346, name: db, schedule: "@yearly"}')
        await asyncio.sleep(8 * MINUTE)
        assert await problems(watched) == []
        assert sorted(kinds(await events(watched))) == ["dropped", "found_again", "reload"]
    called(world, "x", "12345")
    matching(tmp_path)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(8 * MINUTE)
        assert [one["server"] for one in await problems(watched)] == ["web-01"]
        matching(tmp_path, pattern="db-*")
        await asyncio.sleep(8 * MINUTE)
        assert await problems(watched) == []


async def test_the_page_tells_of_it_for_a_week(
    tmp_path: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaprotd.core.telling.dropped.SHOWN_FOR", timedelta(hours=1))
    world = two_servers()
    async with daemon_on(matching(tmp_path), world) as watched:
        await asyncio.sleep(7 * MINUTE)
        called(world, "db-02")
        await asyncio.sleep(50 * MINUTE)
        assert len(await problems(watched)) == 1
        await asyncio.sleep(20 * MINUTE)
        assert watched.series(DROPPED) == {}
        assert await problems(watched) == []
        called(world, "web-02")
        await asyncio.sleep(10 * MINUTE)
        called(world, "db-02")
        await asyncio.sleep(10 * MINUTE)
        assert len(await problems(watched)) == 1
        assert kinds(await events(watched)) == ["dropped", "dropped"]


async def test_a_server_that_is_held_off_is_started_though_it_was_renamed_away(
    tmp_path: Path, outside: Outside
) -> None:
    world, path = two_servers(), matching(tmp_path, schedule="20 3 * * *")
    async with daemon_on(path, world) as watched:
        await watched.reaches(Step.WAIT)
        called(world, "db-02")
        await asyncio.sleep(30 * MINUTE)
        assert {one.status for one in world.servers.values()} == {"active"}
        assert ("web-02", "alarm", RENAMED) in await told_on_the_page(watched)


async def test_a_row_that_cannot_be_read_keeps_no_other_from_being_missed(tmp_path: Path, outside: Outside) -> None:
    world, path = two_servers(), matching(tmp_path)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(7 * MINUTE)
        ledger = watched.daemon._tools.ledger.name
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE matched SET body = '{\"ids\": []' WHERE server_id = '12345'")
    for server_id in ("12345", "12346"):
        called(world, f"db-{server_id}", server_id)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(8 * MINUTE)
        assert [one["server"] for one in await problems(watched)] == ["web-02"]


FAILED = "the last rotation ended as failure, at step wait: "


def failing(world: World, *, times: int | None = 1) -> None:
    world.faults = [
        Fault(kind="ends", word="failed", server_id="12346", method="POST", path="/snapshots/", times=times)
    ]


@pytest.mark.parametrize("is_gone", [False, True], ids=["renamed", "deleted"])
async def test_one_whose_rotation_had_failed_is_told_once_with_what_stands_and_its_next_success_is_the_end(
    tmp_path: Path, outside: Outside, is_gone: bool
) -> None:
    world, path = two_servers(), matching(tmp_path, schedule="5 3,4 * * *")
    failing(world)
    async with daemon_on(path, world):
        await asyncio.sleep(20 * MINUTE)
        (failure,) = outside.told
        assert failure["text"].startswith(f"web-02: {FAILED}")
        kept = world.servers["12346"]
        if is_gone:
            del world.servers["12346"]
        else:
            called(world, "db-02")
        await asyncio.sleep(40 * MINUTE)
        (dropped,) = outside.told[1:]
        text = REMOVED if is_gone else RENAMED
        assert dropped["text"].startswith(f"web-02: {text}; what stands is: {FAILED}")
        world.servers["12346"] = kept
        called(world, "web-02")
        await asyncio.sleep(25 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "failure", "recovery", "recovery"], outside.words
    assert outside.told[-1]["text"].startswith("web-02: its rotation has succeeded: ")


async def test_one_whose_rotation_fails_after_it_was_renamed_is_told_of_that_and_no_more(
    tmp_path: Path, outside: Outside
) -> None:
    world, path = two_servers(), matching(tmp_path, schedule="5 3 * * *")
    world.snapshot_seconds = (20 * MINUTE, 20 * MINUTE)
    failing(world)
    async with daemon_on(path, world) as watched:
        await watched.reaches(Step.WAIT)
        called(world, "db-02")
        await asyncio.sleep(60 * MINUTE)
        assert [one.split(": ")[2] for one in outside.words if "web-02" in one] == [
            "no snapshots are taken of it any more",
            "the last rotation ended as failure, at step wait",
        ], outside.words
