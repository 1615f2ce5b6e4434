"""Where something rare meets something long: no work that never ends, no claim that is not so, nothing forgotten."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.commands.jobs.by_hand import by_hand
from snaprotd.config.settings import Config, resolve
from snaprotd.core.errors import LedgerError, SnaprotdError
from snaprotd.core.holds import snapshot_name
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.claims import Claimed, Mark
from snaprotd.ledger.history import KEPT_HISTORY
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sqlite import Database
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault
from snaprotd.wiring.assembly import new_rotation
from tests.support.daemons import ONE, Watched, a_world, daemon_on, entry, settings, write_config
from tests.support.rotations import changed
from tests.support.virtual_time import START
from tests.support.world_transport import WorldTransport

MINUTE = 60.0
TOKEN = "Zq7-only-the-provider-may-see-this-4Kd"


pytestmark = pytest.mark.usefixtures("one_clock", "log")


async def only_server(watched: Watched) -> dict[str, Any]:
    (server,) = (await watched.daemon.view.status())["servers"]
    return dict(server)


# -- a long end, and work that never ends ----------------------------------------------------------------------------


async def test_a_drain_of_many_minutes_is_healthy_quiet_and_feeds_the_watchdog(
    tmp_path: Path, log: list[MutableMapping[str, Any]]
) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as systemd:
        systemd.bind(str(tmp_path / "notify"))

        def heard() -> int:
            """How often the watchdog was fed since the last call."""
            fed = 0
            while True:
                try:
                    fed += systemd.recv(4096) == b"WATCHDOG=1"
                except BlockingIOError:
                    return fed

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"}
        world = a_world(snapshot_seconds=(540, 540))
        watched = Watched(write_config(tmp_path, ONE), world, environ=environ)
        running = asyncio.create_task(watched.daemon.run())
        await watched.daemon.started.wait()
        await watched.reaches(Step.WAIT)
        watched.daemon.stop()
        heard()
        for _ in range(8):
            await asyncio.sleep(MINUTE)
            assert world.status_of("12345") == "stopped"
            assert heard() == 2
            assert (await watched.get("/healthz")).text == "ok\n"
        assert await running == 0
        assert world.status_of("12345") == "active"
    assert [line for line in log if "exc_info" in line or "internal error" in line["event"]] == []


class UntakenLedger(Ledger):
    """The ledger of a disk that is too full to take anything over in the beginning."""

    async def take_over(self, *, everything: bool = False, server_id: str | None = None) -> list[Rotation]:
        if everything:
            raise LedgerError("the ledger cannot be used: the disk is full")
        return await super().take_over(server_id=server_id)


@pytest.mark.parametrize("is_gone", [False, True], ids=["there", "gone"])
async def test_a_start_without_a_ledger_ends_when_the_server_runs_or_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    world = a_world()
    world.set_status("12345", "stopped")
    told = settings(tmp_path)
    (target,) = resolve(told, None)
    now = datetime.now(UTC)
    left = changed(new_rotation(told, target, slot=now, now=now), step=Step.WAIT, held_off=True, went_off=True)
    async with await Ledger.open(tmp_path / "state.db", owner="dead") as ledger:
        assert isinstance(await ledger.claim(left), Claimed)
    if is_gone:
        world.remove_server("12345")
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", UntakenLedger)
    clock = asyncio.get_running_loop().time
    watched = Watched(tmp_path / "config.yaml", world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.daemon.started.wait()
    await asyncio.sleep(MINUTE)
    assert is_gone or world.status_of("12345") == "active"
    await asyncio.sleep(25 * MINUTE)
    asked = clock()
    watched.daemon.stop()
    assert await running == 0
    assert clock() - asked < MINUTE


# -- a restore ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "is_restored"),
    [
        ("", "active", True),
        ("lost", "active", True),
        ("late", "stopped", True),
        ("cut", "active", False),
        ("cut", "stopped", False),
    ],
)
async def test_a_restore_whose_answer_was_lost_is_believed_only_when_it_was_seen(
    tmp_path: Path, commands_reach: Callable[..., None], kind: str, status: str, is_restored: bool
) -> None:
    world = a_world()
    world.set_status("12345", status)
    made = world.add_snapshot("12345", "by-hand")
    if kind:
        world.faults.append(Fault(kind=kind, method="POST", path="/snapshots/*/restore/"))
    elsewhere = world.servers["12345"]
    world.later(MINUTE, lambda: world.power(elsewhere, "start", None))  # somebody starts it meanwhile
    commands_reach(WorldTransport(world))
    async with by_hand(settings(tmp_path), {"VPS_API_TOKEN": world.token}, str(made.id)) as chosen:
        if is_restored:
            await chosen.restore(lambda _: None)
        else:
            with pytest.raises(SnaprotdError, match="was never seen restoring"):
                await chosen.restore(lambda _: None)
    assert ("restoring" in [state for _, state in elsewhere.history]) == is_restored
    assert world.status_of("12345") == "active"


class ShowsActive(WorldTransport):
    """A provider that restores a server, and shows it as active all the time."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        told = (await answer.aread()).replace(b'"restoring"', b'"active"')
        return httpx.Response(answer.status_code, content=told, request=request)


@pytest.mark.usefixtures("few_ticks")
@pytest.mark.parametrize("ends", ["it is over", "it is killed"])
async def test_no_rotation_begins_while_its_server_is_restored_by_hand_though_it_is_shown_as_active(
    tmp_path: Path, commands_reach: Callable[..., None], monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr("snaprotd.ledger.starts.RESTORE_LASTS", timedelta(minutes=8))
    world = a_world(snapshot_seconds=(60, 90), restore_seconds=(110, 110))
    oldest = world.add_snapshot("12345", snapshot_name("main", START - timedelta(days=1)))
    config = settings(tmp_path, f"[{entry('2,5,11 3 * * *', 'keep: 1')}]")
    commands_reach(WorldTransport(world))
    async with daemon_on(tmp_path / "config.yaml", world, ShowsActive(world)) as watched:
        await asyncio.sleep(1.8 * MINUTE)
        async with by_hand(config, {"VPS_API_TOKEN": world.token}, str(oldest.id)) as chosen:
            restoring = asyncio.create_task(chosen.restore(lambda _: None))
            await asyncio.sleep(0.7 * MINUTE)
            assert oldest.id in world.snapshots
            assert [(one.result, one.failed_step) for one in watched.ended] == [(Result.FAILURE, Step.LOOK)]
            assert "the server is being restored, by `snaprotd restore`" in str(watched.ended[0].error)
            if ends == "it is killed":
                restoring.cancel()
            await asyncio.gather(restoring, return_exceptions=True)
        await asyncio.sleep(5 * MINUTE)
        assert len(world.created) == (ends == "it is over")
        await asyncio.sleep(0 if ends == "it is over" else 7 * MINUTE)
        assert watched.ended[-1].result is Result.SUCCESS


@pytest.mark.parametrize("broken", ["there is none", "it cannot be written"])
async def test_a_restore_needs_no_ledger(tmp_path: Path, commands_reach: Callable[..., None], broken: str) -> None:
    world = a_world()
    made, said = world.add_snapshot("12345", "by-hand"), list[str]()
    commands_reach(WorldTransport(world))
    if broken == "it cannot be written":
        async with await Ledger.open(tmp_path / "state.db", owner="a"):
            pass
        with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
            for what in ("INSERT", "DELETE"):
                connection.execute(
                    f"CREATE TRIGGER no{what} BEFORE {what} ON meta BEGIN SELECT RAISE(ABORT, 'broken'); END"
                )
    async with by_hand(settings(tmp_path), {"VPS_API_TOKEN": world.token}, str(made.id)) as chosen:
        await chosen.restore(said.append)
    assert "restoring" in [state for _, state in world.servers["12345"].history]
    assert any("a rotation may begin meanwhile" in line for line in said) == (broken != "there is none")


# -- what the ledger remembers -----------------------------------------------------------------------------------------


@contextmanager
def transactions() -> Iterator[list[object]]:
    """The transactions that are begun meanwhile, in any ledger."""
    seen: list[object] = []
    begin = Database.begin

    def noted(database: Database, **how: Any) -> AbstractAsyncContextManager[Connection]:
        seen.append(database)
        return begin(database, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "begin", noted)
        yield seen


@pytest.mark.parametrize("which", ["first", "second"])
async def test_a_start_with_many_servers_takes_no_more_transactions_than_one_with_few(
    tmp_path: Path, which: str
) -> None:
    counts = []
    for number in (2, 60):
        (folder := tmp_path / str(number)).mkdir()
        world = a_world(*(f"web-{one}" for one in range(number)))
        entries = ", ".join(f'{{id: {one}, schedule: "30 3 * * *"}}' for one in world.servers)
        path = write_config(folder, f"[{entries}]")
        if which == "second":
            async with daemon_on(path, world):
                pass
        with transactions() as seen:
            async with daemon_on(path, world):
                counts.append(len(seen))
        async with await Ledger.open(folder / "state.db", owner="reader") as ledger:
            assert len(await ledger.marks()) == number
    assert counts[0] == counts[1]


class SlowMarks(Ledger):
    """The ledger, in which it takes a while to read how far the schedules were seen, where a test says so."""

    seconds = 0.0

    async def marks(self) -> Mapping[str, Mark]:
        await asyncio.sleep(self.seconds)
        return await super().marks()


async def test_a_discovery_that_began_before_a_new_file_was_taken_forgets_no_mark_of_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", SlowMarks)
    world = a_world("db-01", "db-02")
    match = '{match: "web-*", schedule: "0 12 * * *"}'
    db_1, db_2 = ('{id: 12345, schedule: "0 12 * * *"}', '{id: 12346, schedule: "0 12 * * *"}')
    async with daemon_on(write_config(tmp_path, f"[{db_1}, {match}]"), world) as watched:
        await asyncio.sleep(250)
        world.add_server("web-01")
        monkeypatch.setattr(SlowMarks, "seconds", 90.0)
        write_config(tmp_path, f"[{db_1}, {db_2}, {match}]")
        await asyncio.sleep(10 * MINUTE)  # a discovery is due while the new file is being taken
        assert len(watched.series("snaprotd_next_run_timestamp_seconds")) == 3
    async with await Ledger.open(tmp_path / "state.db", owner="reader") as ledger:
        assert set(await ledger.marks()) == {"12345", "12346", "12347"}


async def ended(ledger: Ledger, told: Config, day: int, result: Result | None) -> None:
    """A rotation of that day, with that end; None leaves it open."""
    (target,) = resolve(told, None)
    began = datetime(2025, 1, day, tzinfo=UTC)
    begun = new_rotation(told, target, slot=began, now=began)
    assert isinstance(await ledger.claim(begun), Claimed)
    if result is not None:
        await ledger.save(replace(begun, step=Step.DONE, result=result, finished_at=began + timedelta(hours=1)))


PARTIAL, FAILURE, SUCCESS = Result.PARTIAL, Result.FAILURE, Result.SUCCESS


async def test_what_is_forgotten_is_neither_new_nor_open_nor_the_last_of_its_kind(tmp_path: Path) -> None:
    few, many = (settings(tmp_path, ONE.replace("12345", one)) for one in ("111", "222"))
    async with await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        results = [PARTIAL, FAILURE, SUCCESS, FAILURE, SUCCESS, SUCCESS, SUCCESS, SUCCESS]
        for day, result in enumerate(results, start=2):
            await ended(ledger, many, day, result)
        await ended(ledger, many, 1, None)  # open, and the oldest of all
        for day in (1, 2, 3, 4):
            await ended(ledger, few, day, SUCCESS)
        await ended(ledger, few, 5, None)

        async def told() -> object:
            return await ledger.latest(), await ledger.last_started(), await ledger.last_succeeded()

        before = await told()
        await ledger.forget_old(keep=3)
        assert [one.slot.day for one in await ledger.history("222")] == [9, 8, 7, 5, 2, 1]
        assert [one.slot.day for one in await ledger.history("111")] == [5, 4, 3, 2]
        assert {one.slot.day for one in await ledger.open_rotations()} == {1, 5}
        assert await told() == before


@pytest.mark.usefixtures("few_ticks")
async def test_a_daemon_forgets_what_is_too_old(tmp_path: Path) -> None:
    told = settings(tmp_path, ONE.replace("5 3", "5 9"))
    async with await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        await ended(ledger, told, 1, SUCCESS)
    columns = "server_id, is_open, result, body, owner, epoch, lease_until, finished_at"
    hour = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', '2024-01-01', '+' || i || ' hours')"
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {KEPT_HISTORY + 50}) "
            f"INSERT INTO rotations (id, slot, started_at, {columns}) "
            f"SELECT 'old' || i, {hour}, {hour}, {columns} FROM n, rotations"
        )
    async with daemon_on(tmp_path / "config.yaml", a_world()):
        await asyncio.sleep(17 * MINUTE)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        left = connection.execute("SELECT count(*), min(started_at) FROM rotations").fetchone()
    assert left == (KEPT_HISTORY, "2024-01-03T04:00:00.000000Z")


# -- the status report -------------------------------------------------------------------------------------------------


class WithoutFleet:
    """A daemon's view, whose report on the whole fleet nobody may ask for."""

    def __init__(self, watched: Watched) -> None:
        self._view = watched.daemon.view

    def __getattr__(self, name: str) -> Any:
        assert name != "status"
        return getattr(self._view, name)


async def test_a_report_is_made_once_for_all_who_ask_within_a_second(tmp_path: Path) -> None:
    async with daemon_on(write_config(tmp_path, ONE), a_world()) as watched:
        first = await watched.daemon.view.status()
        await asyncio.sleep(0.9)
        assert await watched.daemon.view.status() is first
        await asyncio.sleep(0.2)
        later = await watched.daemon.view.status()
        assert (later is first, later["generated_at"] > first["generated_at"]) == (False, True)


@pytest.mark.parametrize(("address", "code"), [("/servers/12345", 200), ("/servers/999", 404)])
async def test_the_page_of_one_server_makes_no_report_on_the_fleet(tmp_path: Path, address: str, code: int) -> None:
    async with daemon_on(write_config(tmp_path, ONE), a_world()) as watched:
        watched.daemon.view = WithoutFleet(watched)  # type: ignore[assignment]
        try:
            assert (await watched.get(address)).status_code == code
        finally:
            watched.daemon.view = watched.daemon.view._view  # type: ignore[attr-defined]
