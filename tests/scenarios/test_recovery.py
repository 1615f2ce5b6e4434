"""What once left a server off, a slot unrun or a new file untaken: whole daemons that come through it all the same."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.words import printable
from snaprotd.ledger.sql.prepared import Statement
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.support.daemons import BusyWorld, Line, Watched, a_world, configure, daemon_on, entry, kill, logged, power

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
TAKEN = 25.0
"""Seconds in which a new file is read, with `few_ticks`."""


pytestmark = pytest.mark.usefixtures("one_clock", "log", "few_ticks")


def nightly(*keys: str, server_id: str = "12345") -> str:
    """A server that is switched off for its snapshot, once, ten minutes after the beginning of the story."""
    return entry("10 3 * * *", "stop_first: true", "retry: {times: 0}", *keys, server_id=server_id)


def steps(watched: Watched) -> list[str]:
    """Where the rotations stand that are running."""
    return [rotation.step for rotation in watched.daemon.board.running.values()]


def results(watched: Watched) -> list[str | None]:
    return [rotation.result for rotation in watched.ended]


def total(watched: Watched, metric: str, *labels: str) -> float:
    """The sum of a metric over all its series with these labels."""
    return sum(value for found, value in watched.series(metric).items() if set(labels) <= set(found))


async def begin(path: Path, world: World) -> tuple[Watched, asyncio.Task[int]]:
    """A daemon whose end is the test's."""
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.daemon.started.wait()
    return watched, running


# -- a server that is off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [1, 5])
async def test_a_404_in_the_hurry_of_an_end_does_not_make_a_server_that_is_off_one_that_is_gone(
    tmp_path: Path, answers: int
) -> None:
    """It has waited for its snapshot for longer than `start_timeout`: that is no age of a start."""
    missing = Fault(kind="status", status=404, method="GET", path="/servers/12345/", times=answers)
    world = a_world(faults=(Fault(kind="stuck", method="POST", path="/snapshots/"),))
    path = configure(tmp_path, nightly("start_timeout: 5m"), more="drain_timeout: 10m")
    watched, running = await begin(path, world)
    await asyncio.sleep(15 * MINUTE)
    assert (steps(watched), world.status_of("12345")) == (["wait"], "stopped")
    world.faults.append(missing)
    watched.daemon.stop()
    assert await running == 0
    assert missing.times == 0
    assert world.status_of("12345") == "active"
    world.faults.clear()
    async with daemon_on(path, world) as after:
        await asyncio.sleep(HOUR)
        assert results(after) == ["failure"]
        assert after.value("snaprotd_server_stopped_by_us", "s12345") == 0
    assert world.status_of("12345") == "active"


async def test_a_server_that_stays_unknown_through_the_hurry_is_started_by_the_next_process(tmp_path: Path) -> None:
    world = a_world(faults=(Fault(kind="stuck", method="POST", path="/snapshots/"),))
    path = configure(tmp_path, nightly("start_timeout: 5m"), more="drain_timeout: 10m")
    watched, running = await begin(path, world)
    await asyncio.sleep(15 * MINUTE)
    world.faults.append(Fault(kind="status", status=404, method="GET", path="/servers/12345/", times=None))
    world.faults.append(Fault(kind="status", status=503, method="GET", path="/servers/", times=None))
    watched.daemon.stop()
    assert await running == 1
    await kill(watched)
    assert world.status_of("12345") == "stopped"
    world.faults.clear()
    async with daemon_on(path, world) as after:
        await asyncio.sleep(HOUR)
        assert results(after) == ["failure"]
    assert world.status_of("12345") == "active"


async def test_a_server_that_never_starts_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    world = BusyWorld()
    for name in ("broken", "web-01", "web-02"):
        world.add_server(name)
    world.faults.append(power("start_never", "start", times=None))
    others = ("12346", "12347")
    path = configure(
        tmp_path, nightly(), *(entry("20 * * * *", server_id=one) for one in others), more="max_concurrent: 1"
    )
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(2 * HOUR)
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 1
        assert [watched.value("snaprotd_rotations_total", f"s{one}", "success") for one in others] == [2, 2]
        world.faults.clear()
        await asyncio.sleep(HOUR)
        assert watched.value("snaprotd_rotations_total", "s12345", "success") == 1
        assert [watched.value("snaprotd_rotations_total", f"s{one}", "success") for one in others] == [3, 3]
    assert world.most == 1
    assert world.status_of("12345") == "active"


@pytest.mark.parametrize("delay", [480.0, 870.0])
@pytest.mark.parametrize(("word", "result"), [("abort", "failure"), ("snapshot_anyway", "success")])
async def test_a_stop_that_strikes_minutes_after_its_time_out_is_noticed_and_the_server_started(
    tmp_path: Path, delay: float, word: str, result: str
) -> None:
    world = a_world(faults=(power("slow_power", "stop", delay=delay),))
    async with daemon_on(configure(tmp_path, nightly(f"on_stop_timeout: {word}")), world) as watched:
        await asyncio.sleep(HOUR)
        assert results(watched) == [result]
        assert watched.value("snaprotd_server_stopped_by_us", "s12345") == 0
    assert [status for _, status in world.servers["12345"].history][1:3] == ["stopping", "stopped"]
    assert world.status_of("12345") == "active"


async def test_a_stop_that_strikes_late_is_noticed_by_the_process_after_the_one_that_asked_for_it(
    tmp_path: Path,
) -> None:
    world = a_world(faults=(power("slow_power", "stop", delay=480.0),))
    path = configure(tmp_path, nightly())
    watched, _ = await begin(path, world)
    await asyncio.sleep(10 * MINUTE + 400)
    await kill(watched)
    assert world.status_of("12345") == "active"
    async with daemon_on(path, world) as after:
        await asyncio.sleep(HOUR)
        assert results(after) == ["failure"]
    assert "stopped" in [status for _, status in world.servers["12345"].history]
    assert world.status_of("12345") == "active"


@pytest.mark.parametrize(("times", "options"), [(1, {}), (3, {"retry_after": "40"})])
async def test_a_hard_stop_that_is_refused_for_the_moment_is_asked_for_again(
    tmp_path: Path, times: int, options: dict[str, Any]
) -> None:
    refused = power("status", "hard_stop", status=429, times=times, **options)
    world = a_world(faults=(power("stop_never", "stop", times=None), refused))
    async with daemon_on(configure(tmp_path, nightly("on_stop_timeout: hard_stop")), world) as watched:
        await asyncio.sleep(HOUR)
        assert results(watched) == ["success"]
    assert refused.times == 0
    assert [one.server_status_when_taken for one in world.created] == ["stopped"]
    assert world.status_of("12345") == "active"


# -- an account with something unreadable in it -----------------------------------------------------------------------


def a_snapshot_without_a_name(world: World) -> None:
    world.add_snapshot("12346", None)  # type: ignore[arg-type]


def a_snapshot_without_a_server(world: World) -> None:
    world.add_snapshot("12346", "manual").server_id = None  # type: ignore[assignment]


def a_snapshot_without_an_id(world: World) -> None:
    world.add_snapshot("12346", "manual").id = True


def a_server_without_an_id(world: World) -> None:
    world.servers["12346"].ref = None  # type: ignore[assignment]


def a_server_of_rubbish(world: World) -> None:
    world.servers["12346"].ref = {}  # type: ignore[assignment]
    world.servers["12346"].name = 5  # type: ignore[assignment]


LATER = 7 * MINUTE


@pytest.mark.parametrize(
    ("spoil", "moment"),
    [
        (a_snapshot_without_a_name, 0.0),
        (a_snapshot_without_a_server, 0.0),
        (a_snapshot_without_an_id, 0.0),
        (a_server_without_an_id, 0.0),
        (a_server_of_rubbish, 0.0),
        (a_snapshot_without_a_name, LATER),
        (a_server_without_an_id, LATER),
    ],
)
async def test_one_unreadable_entry_stops_neither_the_servers_of_a_pattern_nor_readiness(
    tmp_path: Path, spoil: Callable[[World], None], moment: float
) -> None:
    world = a_world("web-01", "db-01")
    path = configure(tmp_path, '{match: "web-*", schedule: "40 3 * * *"}')
    if not moment:
        spoil(world)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(LATER)
        assert list(watched.daemon.view.unready()) == []
        if moment:
            spoil(world)
        new = world.add_server("web-02")
        await asyncio.sleep(HOUR)
        assert list(watched.daemon.view.unready()) == []
        assert results(watched) == ["success", "success"]
    assert sorted(one.server_id for one in world.created) == ["12345", new]


async def test_the_list_of_one_server_that_cannot_be_relied_on_is_that_servers_problem_alone(
    tmp_path: Path, silence: None
) -> None:
    world = a_world("web-01", "db-01")
    for one in world.servers:
        world.add_snapshot(one, "snaprotd-main-20250115T030000Z", created_at=datetime(2025, 1, 15, 3, tzinfo=UTC))
    spoilt = world.add_snapshot("12346", None)  # type: ignore[arg-type]
    path = configure(tmp_path, entry("0 3 * * *"), entry("0 3 * * *", server_id="12346"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(5 * MINUTE)
        report = (await watched.get("/api/status")).json()
        (told,) = report["problems"]
        assert (told["server_id"], told["severity"]) == (12346, "alarm")
        assert told["text"].startswith("what snapshots it has is not known for certain: the list of snapshots ")
        assert report["inventory"]["error"] is None
        assert {one["id"]: one["state"] for one in report["servers"]} == {12345: "ok", 12346: "alarm"}
        del world.snapshots[spoilt.id]
        await asyncio.sleep(2 * MINUTE)
        assert (await watched.get("/api/status")).json()["problems"] == []


@pytest.mark.parametrize("word", ["sto\ud800p", "\udfff"])
async def test_half_a_character_in_a_word_of_the_providers_stops_no_rotation(tmp_path: Path, word: str) -> None:
    """Such a text can be in JSON, and in no file."""
    world = a_world(f"web{word}")
    world.set_status("12345", word)
    world.later(15 * MINUTE, lambda: world.set_status("12345", "active"))
    async with daemon_on(configure(tmp_path, nightly()), world) as watched:
        await asyncio.sleep(12 * MINUTE)
        shown = f"the server is {printable(word)}"
        assert [one.note for one in watched.daemon.board.running.values()] == [shown]
        await asyncio.sleep(HOUR)
        assert results(watched) == ["success"]
    assert world.status_of("12345") == "active"


# -- a ledger that is locked ------------------------------------------------------------------------------------------


class ImpatientLedger(Ledger):
    """The real ledger, that waits for others two thousand times shorter."""

    @classmethod
    async def open(cls, path: Path, **options: Any) -> Ledger:
        ledger = await super().open(path, **options)
        async with ledger._transaction() as connection:
            await connection.execute(Statement("PRAGMA busy_timeout = 5"))
        return ledger


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", ImpatientLedger)
    monkeypatch.setattr("snaprotd.ledger.files.turns.LONGEST_TURN", 0.03)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another program has the ledger for itself: it makes a copy, say."""
    with closing(sqlite3.connect(folder / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@pytest.mark.real_time
@pytest.mark.usefixtures("_impatient")
async def test_of_many_slots_that_come_while_the_ledger_is_locked_each_is_told(tmp_path: Path, log: list[Line]) -> None:
    """They wait for the lock of the file together."""
    names = [str(12345 + number) for number in range(20)]
    world = a_world(*names)
    async with daemon_on(configure(tmp_path, *(entry("@yearly", server_id=one) for one in names)), world) as watched:
        await asyncio.sleep(1)  # it is in no transaction then
        with locked(tmp_path):
            await asyncio.gather(*map(watched.daemon.rotate, names))
        for one in names:
            assert watched.value("snaprotd_rotations_total", f"s{one}", "failure") == 1
    lines = logged(log, "the slot could not be claimed")
    assert sorted(line["server"] for line in lines) == [f"s{one}" for one in names]
    assert {line["log_level"] for line in lines} == {"error"}
    assert len({line["error"] for line in lines}) == 1
    assert world.created == []


@pytest.mark.usefixtures("_impatient")
async def test_a_slot_that_comes_while_the_ledger_is_locked_is_told_and_runs_when_it_is_not(
    tmp_path: Path, log: list[Line]
) -> None:
    world = a_world("web-01", "web-02")
    path = configure(tmp_path, entry("10,40 3 * * *"), entry("10,40 3 * * *", server_id="12346"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(9 * MINUTE)
        with locked(tmp_path):
            await asyncio.sleep(5 * MINUTE)
            assert total(watched, "snaprotd_rotations_total", "failure") == 2
            assert total(watched, "snaprotd_rotations_total") == 2
        await asyncio.sleep(HOUR)
        assert total(watched, "snaprotd_rotations_total", "success") == 4
    assert len(logged(log, "the slot could not be claimed")) == 2
    assert logged(log, "internal error") == []
    assert {one.name[-7:] for one in world.created} == {"031000Z", "034000Z"}


@pytest.mark.usefixtures("_impatient")
async def test_a_server_that_is_off_when_the_ledger_is_locked_comes_back_meanwhile(tmp_path: Path) -> None:
    world = a_world()
    async with daemon_on(configure(tmp_path, nightly()), world) as watched:
        await asyncio.sleep(10 * MINUTE + 10)
        assert steps(watched) == ["stop"]
        with locked(tmp_path):
            await asyncio.sleep(10 * MINUTE)
            assert world.status_of("12345") == "active"
            assert results(watched) == []
        await asyncio.sleep(MINUTE)
        assert results(watched) == ["failure"]
        assert watched.value("snaprotd_rotations_total", "s12345", "failure") == 1
    async with daemon_on(configure(tmp_path, nightly()), world) as after:
        await asyncio.sleep(MINUTE)
        assert steps(after) == []
    assert world.status_of("12345") == "active"


REFUSED = "the new configuration is refused, the old one stays in force"


def next_hour(watched: Watched, server: str = "s12345") -> float | None:
    """The hour of the day of a server's next slot."""
    at = watched.value("snaprotd_next_run_timestamp_seconds", server)
    return None if at is None else at % DAY / HOUR


@pytest.mark.usefixtures("_impatient")
async def test_a_file_that_comes_while_the_ledger_is_locked_is_taken_when_that_is_free(
    tmp_path: Path, log: list[Line]
) -> None:
    async with daemon_on(configure(tmp_path, entry("0 12 * * *")), a_world()) as watched:
        await asyncio.sleep(MINUTE)
        with locked(tmp_path):
            configure(tmp_path, entry("0 13 * * *"))
            await asyncio.sleep(MINUTE)
            assert next_hour(watched) == 12
            assert watched.value("snaprotd_config_last_reload_successful") == 0
        await asyncio.sleep(TAKEN)
        assert next_hour(watched) == 13
        assert watched.value("snaprotd_config_last_reload_successful") == 1
    (refusal,) = logged(log, REFUSED)
    assert "database is locked" in refusal["mistake"]
