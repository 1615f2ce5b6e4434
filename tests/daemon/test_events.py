"""A whole daemon on events: none is lost by a death, a failure is told after its slot's last attempt, and what vanishes
at the provider is an alarm."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.commands.jobs.by_hand import by_hand
from snaprotd.config.file import load
from snaprotd.core.errors import SnaprotdError
from snaprotd.core.telling.entries import Happened
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, Request, World
from tests.daemon.test_teller import MINUTE, Outside, configured, outside
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, kill, look_around_less, write_config
from tests.support.nouns import a_snapshot
from tests.support.world_transport import WorldTransport

__all__ = ["outside"]

HOUR = 60 * MINUTE
FAILS = {"kind": "ends", "word": "failed", "server_id": "12345", "method": "POST", "path": "/snapshots/"}


def failing(*, times: int | None = 1) -> Fault:
    return Fault(**FAILS, times=times)  # type: ignore[arg-type]


async def events(watched: Watched, after: int = 0) -> list[dict[str, Any]]:
    return (await watched.get(f"/api/events?after={after}")).json()  # type: ignore[no-any-return]


def kinds(told: list[dict[str, Any]]) -> list[str]:
    return [one["kind"] for one in told]


@pytest.mark.parametrize("failures", [2, 3])
async def test_a_failure_is_told_after_the_last_attempt_of_its_slot_and_not_before(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None, failures: int
) -> None:
    world = a_world("web-01")
    world.faults = [failing(times=failures)]
    path = configured(tmp_path, world, schedule="5 3 * * *", retry="{times: 2, after: 30m}")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(60 * MINUTE)
        assert outside.told == []
        await asyncio.sleep(50 * MINUTE)
        attempts = [one["details"]["is_last"] for one in await events(watched) if one["kind"] == "rotation"]
    assert [one["kind"] for one in outside.told] == (["failure"] if failures == 3 else [])
    assert attempts == [False, False, True]


async def test_a_slot_that_is_not_tried_again_after_all_is_told_as_failed(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [failing(times=None)]
    path = configured(tmp_path, world, schedule="5 3 * * *", retry="{times: 2, after: 30m}")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(20 * MINUTE)
        assert outside.told == []
        path.write_text(path.read_text().replace("{times: 2, after: 30m}", "{times: 0}"))
        await asyncio.sleep(10 * MINUTE)
        found = await events(watched)
    assert sorted(kinds(found)) == ["lapsed", "reload", "rotation"]
    assert [one["kind"] for one in outside.told] == ["failure"]


async def test_what_ended_while_nobody_could_tell_it_is_told_by_the_next_process(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [failing()]
    path = configured(tmp_path, world, schedule="5 3 * * *")
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    while not watched.ended:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    await kill(watched)  # within the minute in which messages are gathered
    await asyncio.gather(running, return_exceptions=True)
    assert outside.told == []
    await asyncio.sleep(5 * HOUR)
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure"]


async def test_a_death_at_any_moment_of_telling_loses_nothing_and_tells_nothing_under_two_keys(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [failing()]
    path = configured(tmp_path, world, schedule="5 3 * * *")
    for _ in range(12):  # the end is told some 75 s after it
        watched = Watched(path, world)
        running = asyncio.create_task(watched.daemon.run())
        await asyncio.sleep(67.7)
        await kill(watched)
        await asyncio.gather(running, return_exceptions=True)
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
    assert {one["kind"] for one in outside.told} == {"failure"}
    assert len({one["id"] for one in outside.told}) == 1


async def test_a_ledger_that_was_lost_under_the_daemon_tells_what_comes_after(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = a_world("web-01")
    world.faults = [failing(times=None)]
    path = configured(tmp_path, world, schedule="5,45 3 * * *")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(15 * MINUTE)
        world.faults = []
        Path(watched.daemon._tools.ledger.name).unlink()  # noqa: ASYNC240
        await asyncio.sleep(45 * MINUTE)
        assert "rotation" in kinds(await events(watched))
        (told,) = await problems(watched)
        assert told["severity"] == "attention"
        assert "its file was deleted: it was written again, whole" in told["text"]
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(5 * MINUTE)
        assert len(await problems(watched)) == 1, "over a restart too"
        look_around_less(monkeypatch, tick=601.3, leases=601.1, file=3600.0, account=601.7)
        await asyncio.sleep(24 * HOUR)
        assert await problems(watched) == [], "for a day"
    told_of = [(one["kind"], one["severity"], one["server"] and one["server"]["name"]) for one in outside.told]
    assert told_of[:3] == [
        ("failure", "alarm", "web-01"),
        ("failure", "attention", None),
        ("recovery", "ok", "web-01"),
    ]


async def test_an_old_copy_that_was_put_back_while_nobody_lived_is_told_though_it_lacks_a_hold_alone(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    ledger, copy = tmp_path / "state.db", tmp_path / "copy"
    path = configured(tmp_path, world, schedule="5 3 * * *")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(20 * MINUTE)
        account = watched.daemon._tools.ledger.starts.account
    shutil.copy(ledger, copy)
    async with await Ledger.open(ledger, owner="hold", lock=False) as hold:
        hold.starts.account = account
        await hold.holds.say(a_snapshot("801", "x", datetime.now(UTC)), ["12345"], date(2030, 1, 1), datetime.now(UTC))
    shutil.copy(copy, ledger)
    for _ in range(2):
        async with daemon_on(path, world) as watched:
            await asyncio.sleep(5 * MINUTE)
            (told,) = await problems(watched)
            assert told["severity"] == "alarm"
            assert "the ledger is an old copy: it lacks 1 of the " in told["text"]
            assert "snaprotd hold" in told["do"]
            assert kinds(await events(watched)).count("ledger_old") == 1
    assert [(one["kind"], one["severity"]) for one in outside.told] == [("failure", "alarm")]


async def test_a_file_that_is_refused_and_one_that_is_taken_are_events(
    tmp_path: Path, silence: None, few_ticks: None
) -> None:
    path = configure(tmp_path, entry())
    good = path.read_text()
    async with daemon_on(path, a_world()) as watched:
        path.write_text(good.replace("schedule", "shedule"))
        await asyncio.sleep(2 * MINUTE)
        path.write_text(good + "\n# again\n")
        await asyncio.sleep(2 * MINUTE)
        found = await events(watched)
    assert kinds(found) == ["reload_refused", "failure", "reload", "recovery"]
    assert "shedule" in found[0]["text"]


async def test_events_are_read_page_by_page(tmp_path: Path, silence: None, few_ticks: None) -> None:
    async with daemon_on(configure(tmp_path, entry()), a_world()) as watched:
        await asyncio.sleep(HOUR)
        (only,) = await events(watched)
        assert await events(watched, after=only["id"]) == []
        for wrong in ("x", "-1", "9" * 30, "%E0%A4%A"):
            assert (await watched.get(f"/api/events?after={wrong}")).status_code == 400


async def test_who_reads_on_comes_past_what_cannot_be_read_and_sees_that_a_ledger_has_begun_anew(
    tmp_path: Path, silence: None, few_ticks: None
) -> None:
    path = configure(tmp_path, entry())
    async with daemon_on(path, a_world()) as watched:
        await asyncio.sleep(HOUR)
        (only,) = await events(watched)
    columns = "account, at, kind, text, details"
    unknown = [("vps.invalid", "2025-01-16T04:00:00Z", "of a newer one", "?", "{}")] * 1200
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.executemany(f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?)", unknown)
        connection.execute(f"INSERT INTO events ({columns}) SELECT {columns} FROM events WHERE id = ?", (only["id"],))
    async with daemon_on(path, a_world()) as watched:
        (last,) = await events(watched, after=only["id"])
        assert last["id"] == only["id"] + 1201
        for after, told in ((0, only["id"]), (only["id"], last["id"]), (99_999, last["id"])):
            answer = await watched.get(f"/api/events?after={after}")
            assert int(answer.headers["X-Snaprotd-Last-Event"]) == (500 if after == 0 else told)


# -- what vanishes -----------------------------------------------------------------------------------------------------


def holding(folder: Path, *, more: str = "") -> tuple[Path, World]:
    """A server with two nights' snapshots of ours."""
    world = a_world("web-01")
    for day in (14, 15):
        taken = datetime(2025, 1, day, 3, 6, tzinfo=UTC)
        world.add_snapshot("12345", f"snaprotd-main-202501{day}T030500Z", created_at=taken)
    servers = '[{id: 12345, name: web-01, schedule: "5 3 * * *", keep: 3}]'
    return write_config(folder, servers + more), world


async def problems(watched: Watched) -> list[dict[str, Any]]:
    return (await watched.get("/api/status")).json()["problems"]  # type: ignore[no-any-return]


async def test_a_snapshot_that_vanishes_is_an_alarm_after_two_whole_lists_and_once(
    tmp_path: Path, silence: None, few_ticks: None
) -> None:
    path, world = holding(tmp_path)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(2.5 * MINUTE)
        gone = min(world.snapshots)
        del world.snapshots[gone]
        await asyncio.sleep(70)
        assert await problems(watched) == []
        await asyncio.sleep(4 * MINUTE)
        (told,) = await problems(watched)
        assert told["severity"] == "alarm"
        assert f"{gone}, snaprotd-main-20250114T030500Z" in told["text"]
        assert "is no longer at the provider" in told["text"]
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(10 * MINUTE)
        assert len(await problems(watched)) == 1
        assert kinds(await events(watched)).count("vanished") == 1


@pytest.mark.parametrize(
    ("status", "told"), [(403, 1), (503, 0), (None, 0)], ids=["refused", "perhaps done", "begun, and no more is known"]
)
async def test_a_deletion_that_somebody_was_refused_excuses_nobody_elses(
    tmp_path: Path,
    silence: None,
    few_ticks: None,
    commands_reach: Callable[[httpx.AsyncBaseTransport], None],
    status: int | None,
    told: int,
) -> None:
    path, world = holding(tmp_path)
    commands_reach(WorldTransport(world))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(2.5 * MINUTE)
        gone = str(min(world.snapshots))
        async with by_hand(load(path, {}), {"VPS_API_TOKEN": world.token}, gone) as chosen:
            if status is None:
                await chosen._record(Happened.DELETE, "begun", print)
            else:
                world.faults = [Fault(kind="status", method="DELETE", status=status, times=None)]
                with pytest.raises(SnaprotdError):
                    await chosen.delete(print)
        world.remove_snapshot(int(gone))
        await asyncio.sleep(10 * MINUTE)
        assert kinds(await events(watched)).count("vanished") == told


async def test_one_that_vanishes_while_no_daemon_runs_is_missed_by_the_next(
    tmp_path: Path, silence: None, few_ticks: None
) -> None:
    path, world = holding(tmp_path)
    async with daemon_on(path, world):
        await asyncio.sleep(3 * MINUTE)
    world.snapshots.clear()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(40 * MINUTE)
        assert kinds(await events(watched)).count("vanished") >= 1


async def test_what_a_list_lacks_for_a_moment_has_not_vanished(tmp_path: Path, silence: None, few_ticks: None) -> None:
    path, world = holding(tmp_path)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(2.5 * MINUTE)
        kept = world.snapshots.pop(min(world.snapshots))
        await asyncio.sleep(70)
        world.snapshots[kept.id] = kept
        await asyncio.sleep(10 * MINUTE)
        assert await problems(watched) == []
        assert "vanished" not in kinds(await events(watched))


async def test_what_a_rotation_deletes_has_not_vanished(tmp_path: Path, silence: None, few_ticks: None) -> None:
    path, world = holding(tmp_path)
    path.write_text(path.read_text().replace("keep: 3", "keep: 1"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(HOUR)
        assert await problems(watched) == []
        found = await events(watched)
    assert kinds(found) == ["deletion", "deletion", "rotation"]
    assert found[0]["details"]["reason"] == "delete: over keep 1"
    assert len(found[0]["details"]["listed"]) == 3


async def test_a_deletion_that_is_asked_for_again_and_again_is_told_once(
    tmp_path: Path, silence: None, few_ticks: None
) -> None:
    path, world = holding(tmp_path)
    path.write_text(path.read_text().replace("keep: 3", "keep: 2"))
    world.faults.append(Fault(kind="status", status=423, method="DELETE", times=3))
    deletes: list[str] = []

    def before(request: Request) -> None:
        deletes.extend([request.path] if request.method == "DELETE" else [])

    async with daemon_on(path, world, WorldTransport(world, before=before)) as watched:
        await asyncio.sleep(HOUR)
        assert kinds(await events(watched)) == ["deletion", "rotation"]
    assert len(deletes) == 4


async def test_a_server_that_is_gone_is_one_trouble_and_not_one_for_each_snapshot(
    tmp_path: Path, silence: None, few_ticks: None
) -> None:
    path, world = holding(tmp_path)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(2.5 * MINUTE)
        world.servers.clear()
        world.snapshots.clear()
        await asyncio.sleep(25 * MINUTE)
        assert "vanished" not in kinds(await events(watched))


async def test_what_vanishes_comes_back_and_vanishes_again_is_told_twice(
    tmp_path: Path, silence: None, few_ticks: None
) -> None:
    path, world = holding(tmp_path)
    path.write_text(path.read_text().replace("5 3 * * *", "5 9 * * *"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(2.5 * MINUTE)
        kept = world.snapshots.pop(min(world.snapshots))
        await asyncio.sleep(5 * MINUTE)
        world.snapshots[kept.id] = kept
        await asyncio.sleep(60 * MINUTE)
        del world.snapshots[kept.id]
        await asyncio.sleep(6 * MINUTE)
        assert kinds(await events(watched)) == ["vanished", "vanished"]


def as_of_schema_3(watched: Watched) -> None:
    """The ledger as a snaprotd has left it that knew no events."""
    with closing(sqlite3.connect(watched.daemon._tools.ledger.name)) as connection, connection:
        for table in ("events", "letters", "seen"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        connection.execute("DELETE FROM meta WHERE key = 'told'")
        connection.execute("UPDATE meta SET value = '3' WHERE key = 'schema'")


async def test_what_stands_in_a_ledger_from_before_there_were_events_is_told_to_whoever_is_named_first(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    world.faults = [failing()]
    path = configured(tmp_path, world, schedule="5 3 * * *")
    text = path.read_text()
    path.write_text(text.partition("notify:")[0])
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(20 * MINUTE)
    as_of_schema_3(watched)
    path.write_text(text)
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure"]
    assert outside.pings == ["/fail"]


async def test_the_only_snapshot_that_is_gone_is_an_alarm_in_an_old_ledger_too(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01", "web-02")
    path = configured(tmp_path, world, schedule="5 3 * * *")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(20 * MINUTE)
    as_of_schema_3(watched)
    gone = min(world.snapshots)
    server_id = world.snapshots.pop(gone).server_id
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(10 * MINUTE)
        (told,) = await problems(watched)
        assert (str(told["server_id"]), told["severity"]) == (server_id, "alarm")
        assert f"{gone}, snaprotd-main-20250116T030500Z" in told["text"]
        assert kinds(await events(watched)).count("vanished") == 1
    assert [one["kind"] for one in outside.told] == ["vanished"]


async def test_a_file_whose_name_is_no_utf_8_silences_nobody(
    tmp_path: Path, outside: Outside, silence: None, few_ticks: None
) -> None:
    world = a_world("web-01")
    path = configured(tmp_path, world).rename(tmp_path / "caf\udce9.yaml")
    good = path.read_text()
    async with daemon_on(path, world) as watched:
        path.write_text(good.replace("schedule", "shedule"))
        await asyncio.sleep(4 * MINUTE)
        for address in ("/", "/api/status", "/readyz", "/servers/12345", "/api/events"):
            assert (await watched.get(address)).status_code in (200, 503), address
        path.write_text(good)
        await asyncio.sleep(4 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"]
