"""Whole daemons among changing clocks, restarts, freezes and an unwilling provider: each slot once, and all is told."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, closing
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from snaprotd.core.errors import ConfigError, LeaseLost
from snaprotd.core.policy import Retention
from snaprotd.core.schedule import crontab
from snaprotd.core.schedule import slots as schedule_slots
from snaprotd.daemon.life import TICK
from snaprotd.engine.loop import run_rotation
from snaprotd.engine.rotations import LEASE_RENEWAL
from snaprotd.engine.run import Run
from snaprotd.engine.tools import Tools
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.leases.others import MARGIN
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.starts import Starts
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from snaprotd.simulator.world import SimSnapshot
from tests.support.daemons import BusyWorld, Watched, daemon_on, look_around_less, write_config
from tests.support.lives import Story, night
from tests.support.policies import a_policy
from tests.support.promises import Witnessed
from tests.support.searches import size
from tests.support.virtual_time import START, VirtualLoop, run_virtually

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

MINUTE, HOUR = 60.0, 3600.0


@pytest.fixture(autouse=True)
def _own_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon looks at its clock as often as ever, and less often at all else."""
    look_around_less(monkeypatch, tick=TICK, leases=LEASE_RENEWAL, file=60.0, account=300.0)


@pytest.fixture
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of a whole day: the daemon looks around less often."""
    look_around_less(monkeypatch, tick=120.0, leases=120.0, file=600.0)


def virtual_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def set_clock(seconds: float) -> None:
    """Set the wall clock only, as a step of NTP does, and as a suspend of the machine does."""
    virtual_loop()._traveller.shift(seconds)


def freeze(seconds: float) -> None:
    """Let nothing of ours run for so long, as SIGSTOP does: every clock goes on."""
    virtual_loop()._jump(seconds)


def steady_clock() -> Callable[[], datetime]:
    """A clock of the provider's own, which does not follow ours when that is set."""
    began, loop = datetime.now(UTC), asyncio.get_running_loop()
    start = loop.time()
    return lambda: began + timedelta(seconds=loop.time() - start)


def entry(schedule: str, *keys: str, server_id: str = "12345") -> str:
    fields = [f"id: {server_id}", f"name: s{server_id}", f'schedule: "{schedule}"', *keys]
    return "{" + ", ".join(fields) + "}"


def config(folder: Path, *entries: str, more: str = "") -> Path:
    return write_config(folder, f"[{', '.join(entries)}]\n{more}")


def one_server(**options: Any) -> World:
    world = World(**options)
    world.add_server("web-01")
    return world


def two_old_ones(world: World, server_id: str) -> None:
    for day in (2, 1):
        at = START - timedelta(days=day)
        world.add_snapshot(server_id, f"snaprotd-main-{at:%Y%m%dT%H%M%SZ}", created_at=at)


def slots(made: Iterable[SimSnapshot]) -> list[str]:
    """The times of day of the slots, UTC, of which these are the snapshots."""
    return [f"{one.name[-7:-5]}:{one.name[-5:-3]}" for one in made]


def counted(watched: Watched, metric: str, server: str = "s12345") -> dict[str, float]:
    """The values of a metric of one server by its other label, those above 0."""
    return {labels[1]: value for labels, value in watched.series(metric).items() if labels[0] == server and value}


async def begin(path: Path, world: World) -> tuple[Watched, asyncio.Task[int]]:
    """A daemon whose exit code is wanted."""
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.daemon.started.wait()
    return watched, running


async def bury() -> None:
    """What has not ended ends with the process."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


# -- daylight saving ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_few_ticks")
@pytest.mark.parametrize(
    ("day", "fixed", "hours"),
    [(date(2027, 3, 28), "01:00", 23), (date(2026, 10, 25), "00:30", 25)],
    ids=["spring", "autumn"],
)
def test_on_the_day_of_a_clock_change_a_nightly_server_runs_once_and_an_hourly_one_each_hour(
    tmp_path: Path, day: date, fixed: str, hours: int
) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    midnight = datetime.combine(day, time(), berlin).astimezone(UTC)
    next_midnight = datetime.combine(day + timedelta(days=1), time(), berlin).astimezone(UTC)

    async def whole_day() -> World:
        world = World()
        world.add_server("nightly")
        world.add_server("hourly")
        zone = "timezone: Europe/Berlin"
        entries = [entry("30 2 * * *", zone), entry("@hourly", zone, server_id="12346")]
        path = config(tmp_path, *entries, more="poll_interval: 2m\n")
        path.write_text(path.read_text().replace("api: {", "api: {timeout: 5m, "))  # leases last longer, too
        async with daemon_on(path, world) as watched:
            await asyncio.sleep((next_midnight - datetime.now(UTC)).total_seconds() - 10)
            for server in ("s12345", "s12346"):
                assert counted(watched, "snaprotd_missed_slots_total", server) == {}
                assert counted(watched, "snaprotd_rotations_skipped_total", server) == {}
        return world

    world = run_virtually(whole_day(), start=midnight - timedelta(minutes=5))
    nightly = [one for one in world.created if one.server_id == "12345"]
    hourly = [one for one in world.created if one.server_id == "12346"]
    assert slots(nightly) == [fixed]
    assert len(hourly) == len({one.name for one in hourly}) == hours
    assert all((one.made_at - midnight).total_seconds() % HOUR < MINUTE for one in hourly)


# -- slots that nobody saw ----------------------------------------------------------------------------------------

MISSED = pytest.mark.parametrize(
    ("keys", "run", "told"),
    [
        ([], ["04:30"], {"ran_late": 1, "skipped": 2}),
        (["missed: skip"], [], {"skipped": 3}),
        (["missed_within: 30s"], [], {"skipped": 3}),
    ],
    ids=["run", "skip", "too old"],
)
TWICE_AN_HOUR = "0,30 * * * *"
THREE_SLOTS = 1.6 * HOUR


@MISSED
async def test_after_three_slots_while_it_was_down_one_runs_late_or_all_are_counted(
    tmp_path: Path, keys: list[str], run: list[str], told: dict[str, float]
) -> None:
    world = one_server()
    path = config(tmp_path, entry(TWICE_AN_HOUR, *keys))
    async with daemon_on(path, world):
        await asyncio.sleep(MINUTE)
    await asyncio.sleep(THREE_SLOTS)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(0.5 * HOUR)
        assert counted(watched, "snaprotd_missed_slots_total") == told
    assert slots(world.created) == [*run, "05:00"]


@MISSED
@pytest.mark.parametrize("sleeps", [freeze, set_clock], ids=["frozen", "suspended"])
async def test_after_three_slots_while_it_was_frozen_one_runs_late_or_all_are_counted(
    tmp_path: Path, keys: list[str], run: list[str], told: dict[str, float], sleeps: Callable[[float], None]
) -> None:
    world = one_server()
    async with daemon_on(config(tmp_path, entry(TWICE_AN_HOUR, *keys)), world) as watched:
        await asyncio.sleep(MINUTE)
        sleeps(THREE_SLOTS)
        await asyncio.sleep(0.5 * HOUR)
        assert counted(watched, "snaprotd_missed_slots_total") == told
    assert slots(world.created) == [*run, "05:00"]


async def test_a_daemon_that_was_frozen_while_it_held_a_server_off_goes_on_to_its_start(tmp_path: Path) -> None:
    world = one_server()
    async with daemon_on(config(tmp_path, entry("1 3 * * *", "stop_first: true")), world) as watched:
        await asyncio.sleep(3 * MINUTE)
        assert world.status_of("12345") == "stopped"
        freeze(2 * HOUR)
        await asyncio.sleep(5 * MINUTE)
        assert world.status_of("12345") == "active"
        assert counted(watched, "snaprotd_rotations_total") == {"success": 1}
    assert len(world.created) == 1


async def test_restarts_around_a_slot_run_it_once(tmp_path: Path) -> None:
    world = one_server()
    path = config(tmp_path, entry("1 3 * * *"))
    for _ in range(16):
        async with daemon_on(path, world):
            await asyncio.sleep(7)
        await asyncio.sleep(3)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(HOUR)
        assert watched.value("snaprotd_last_success_timestamp_seconds", "s12345") is not None
    assert slots(world.created) == ["03:01"]


async def test_a_slot_that_was_run_late_is_not_run_again_by_the_next_start(tmp_path: Path) -> None:
    world = one_server()
    path = config(tmp_path, entry("1 3 * * *"))
    async with daemon_on(path, world):
        await asyncio.sleep(1)
    await asyncio.sleep(HOUR)
    for _ in range(3):
        async with daemon_on(path, world):
            await asyncio.sleep(10 * MINUTE)
    assert slots(world.created) == ["03:01"]


async def test_the_first_start_of_all_runs_nothing_before_the_next_slot(tmp_path: Path) -> None:
    world = one_server()
    async with daemon_on(config(tmp_path, entry("*/30 * * * *")), world) as watched:
        await asyncio.sleep(29 * MINUTE)
        assert world.created == []
        assert counted(watched, "snaprotd_missed_slots_total") == {}
        await asyncio.sleep(2 * MINUTE)
        assert slots(world.created) == ["03:30"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([entry("0 12 * * *")], [entry(TWICE_AN_HOUR)]),
        ([entry(TWICE_AN_HOUR, "paused: true")], [entry(TWICE_AN_HOUR)]),
        ([entry(TWICE_AN_HOUR, "timezone: Asia/Kolkata")], [entry(TWICE_AN_HOUR)]),
        ([entry(TWICE_AN_HOUR, "spread: 5m")], [entry(TWICE_AN_HOUR)]),
        ([entry("@yearly", server_id="2")], [entry(TWICE_AN_HOUR), entry("@yearly", server_id="2")]),
    ],
    ids=["schedule", "unpaused", "time zone", "spread", "new server"],
)
async def test_a_policy_that_was_edited_while_it_was_down_runs_nothing_before_its_next_slot(
    tmp_path: Path, before: list[str], after: list[str]
) -> None:
    world = one_server()
    async with daemon_on(config(tmp_path, *before), world):
        await asyncio.sleep(MINUTE)
    await asyncio.sleep(THREE_SLOTS)
    async with daemon_on(config(tmp_path, *after), world):
        await asyncio.sleep(10 * MINUTE)
        assert world.created == []
        await asyncio.sleep(20 * MINUTE)
    assert slots(world.created) == ["05:00"]


# -- many at once, and one that is slow ---------------------------------------------------------------------------


@pytest.mark.search
@pytest.mark.long_form
async def test_of_five_hundred_overdue_servers_no_more_than_allowed_have_a_snapshot_in_progress(tmp_path: Path) -> None:
    world = BusyWorld(snapshot_seconds=(60, 90))
    servers = [world.add_server(f"web-{number}") for number in range(500)]
    path = config(tmp_path, *(entry("1 3 * * *", server_id=server) for server in servers), more="max_concurrent: 20\n")
    async with daemon_on(path, world):
        await asyncio.sleep(1)
    await asyncio.sleep(HOUR)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(5 * MINUTE)
        assert sum(watched.series("snaprotd_missed_slots_total").values()) == 500
        assert sum(watched.series("snaprotd_rotations_in_progress").values()) >= 400
    assert max(Tally(one.server_id for one in world.created).values()) == 1
    assert len(world.created) >= 60
    assert world.most == 20


async def test_servers_are_spread_over_the_time_given_and_each_has_the_same_share_every_time(tmp_path: Path) -> None:
    world = World(snapshot_seconds=(60, 60))
    servers = [world.add_server(f"web-{number}") for number in range(40)]
    entries = [entry("1,31 3 * * *", "spread: 20m", server_id=server) for server in servers]
    shares: list[dict[str, float]] = []
    for slot in (START + timedelta(minutes=1), START + timedelta(minutes=31)):
        async with daemon_on(config(tmp_path, *entries), world):
            await asyncio.sleep((slot - datetime.now(UTC)).total_seconds() + 24 * MINUTE)
        made = [one for one in world.created if one.made_at >= slot]
        shares.append({one.server_id: round((one.made_at - slot).total_seconds(), -1) for one in made})
        assert slots(made) == [f"{slot:%H:%M}"] * 40
    assert shares[0] == shares[1]
    assert set(shares[0]) == set(servers)
    assert min(shares[0].values()) < 3 * MINUTE
    assert max(shares[0].values()) > 17 * MINUTE
    assert max(Tally(share // 60 for share in shares[0].values()).values()) <= 8


async def test_a_server_that_is_slower_than_its_schedule_has_one_rotation_and_its_skipped_slots_are_counted(
    tmp_path: Path,
) -> None:
    world = BusyWorld(snapshot_seconds=(600, 600))
    world.add_server("web-01")
    async with daemon_on(config(tmp_path, entry("*/5 * * * *")), world) as watched:
        await asyncio.sleep(64 * MINUTE)
        assert counted(watched, "snaprotd_rotations_skipped_total") == {"in_flight": 12 - len(world.created)}
        assert counted(watched, "snaprotd_missed_slots_total") == {}
    assert slots(world.created) == ["03:05", "03:20", "03:35", "03:50"]
    assert world.most == 1


# -- a prune that fails -------------------------------------------------------------------------------------------


async def test_while_no_snapshot_can_be_deleted_new_ones_are_taken_on_time_and_the_failure_is_told(
    tmp_path: Path,
) -> None:
    world = one_server()
    world.add_snapshot("12345", "snaprotd-main-20250115T031000Z", created_at=START - timedelta(days=1, minutes=-10))
    refusal = Fault(kind="status", method="DELETE", status=500, times=None)
    world.faults.append(refusal)
    async with daemon_on(config(tmp_path, entry("*/20 * * * *", "keep: 1")), world) as watched:
        await asyncio.sleep(19 * MINUTE)
        for run in (1, 2, 3):
            await asyncio.sleep(20 * MINUTE)
            assert counted(watched, "snaprotd_rotations_total") == {"partial": run}
            assert watched.value("snaprotd_prune_pending", "s12345") == run
            assert watched.value("snaprotd_deletions_total", "failure") == run * (run + 1) / 2
        assert "could not delete" in (watched.ended[0].error or "")
        assert world.deleted == []
        refusal.times = 0
        await asyncio.sleep(20 * MINUTE)
        assert counted(watched, "snaprotd_rotations_total") == {"partial": 3, "success": 1}
        assert watched.value("snaprotd_prune_pending", "s12345") == 0
        assert watched.value("snaprotd_deletions_total", "success") == 4
    assert slots(world.created) == ["03:20", "03:40", "04:00", "04:20"]
    assert all((one.made_at - START).total_seconds() % (20 * MINUTE) < MINUTE for one in world.created)
    assert [one.name for one in world.snapshots_of("12345")] == ["snaprotd-main-20250116T042000Z"]


# -- two processes ------------------------------------------------------------------------------------------------


class FreezingLedger(Ledger):
    """The real ledger; the whole process freezes where the transaction of that number begins, or has ended."""

    freeze_in: tuple[int, str] = (0, "")
    begun = 0

    @asynccontextmanager
    async def _transaction(self, **how: bool) -> AsyncIterator[Connection]:
        self.begun += 1
        mine = self.begun
        await self._freeze_at(mine, "before")
        async with super()._transaction(**how) as connection:
            yield connection
        await self._freeze_at(mine, "after")

    async def _freeze_at(self, number: int, when: str) -> None:
        if self.freeze_in == (number, when):
            self.frozen.set()
            await self.thawed.wait()

    def freeze(self, number: int, when: str) -> None:
        """In the transaction of that number from now on."""
        self.freeze_in = (self.begun + number, when)
        self.frozen, self.thawed = asyncio.Event(), asyncio.Event()


class ZombieNight:
    """A server's night in which the process that holds its rotation is frozen, and another one takes over."""

    def __init__(self, path: Path) -> None:
        self.world = World(snapshot_seconds=(200, 200))
        self.server_id = self.world.add_server("web-01")
        two_old_ones(self.world, self.server_id)
        policy = a_policy(stop_first=True, keep=Retention(last=1))
        self.story = Story(
            world=self.world, ledger_path=path, policy=policy, server_id=self.server_id, poll_interval=60.0
        )
        self.witnessed = Witnessed(self.story)
        self.after_thaw: list[str] = []

    async def live(self, number: int, when: str, thaw_after: float | None) -> str:
        """What became of it: it `ended` before it froze; nobody `took` it over; or somebody did.

        `thaw_after` is in seconds after the take-over, None: after the end of the rotation.
        """
        thawed = False

        def note(moment: str) -> None:
            if thawed and moment.startswith("before "):
                self.after_thaw.append(moment.removeprefix("before "))

        async with (
            self.story.life(note) as tools,
            self.story.life() as living,
            await FreezingLedger.open(self.story.ledger_path, owner="zombie", lock=False) as ledger,
        ):
            assert isinstance(ledger, FreezingLedger)
            tools.ledger = ledger
            ledger.freeze(number, when)
            zombie = asyncio.create_task(self._rotate(tools))
            await first_of(zombie, ledger.frozen.wait())
            if not ledger.frozen.is_set():
                return "ended"
            assert await living.ledger.take_over() == []
            await asyncio.sleep(ledger.lease + MARGIN)
            successor = asyncio.create_task(self._take_over(living))
            await asyncio.wait([successor], timeout=thaw_after)
            thawed = True
            ledger.thawed.set()
            await asyncio.wait([zombie])
            if not await successor:
                return "left alone"
            assert isinstance(zombie.exception(), LeaseLost)
            await asyncio.sleep(HOUR)
            return "taken over"

    async def _rotate(self, tools: Tools) -> None:
        rotation = self.story.rotation(night(0))
        assert isinstance(await tools.ledger.claim(rotation), Claimed)
        await run_rotation(Run(rotation, tools))

    async def _take_over(self, tools: Tools) -> bool:
        taken = await tools.ledger.take_over()
        for rotation in taken:
            ended = await run_rotation(Run(rotation, tools))
            self.witnessed.judge_rotation(ended, was_active=True)
        return bool(taken)


async def first_of(task: asyncio.Task[Any], event: Coroutine[Any, Any, Any]) -> None:
    other = asyncio.create_task(event)
    await asyncio.wait([task, other], return_when=asyncio.FIRST_COMPLETED)
    other.cancel()


STRIDE = size(2, 1)
"""In the short form it is frozen before every second transaction, and after each of the others."""


@pytest.mark.search
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("thaw_after", [40.0, None], ids=["in the middle", "at the end"])
async def test_a_process_that_was_frozen_past_its_lease_asks_for_nothing_when_it_goes_on(
    tmp_path: Path, when: str, thaw_after: float | None
) -> None:
    fates: list[str] = []
    for number in count(1 + (when == "after") * (STRIDE - 1), STRIDE):
        one = ZombieNight(tmp_path / f"{number}.db")
        fates.append(await one.live(number, when, thaw_after))
        assert fates[-1] != "taken over" or set(one.after_thaw) <= {"get"}, number
        assert one.witnessed.broken == []
        assert one.world.status_of(one.server_id) == "active"
        assert [made.server_status_when_taken for made in one.world.created] == ["stopped"]
        assert len(one.world.deleted) == 2
        if fates[-1] == "ended":
            break
    assert fates.count("taken over") * STRIDE >= 10
    assert fates.count("left alone") <= 1  # before the claim, or after the end


async def test_two_daemons_on_one_ledger_take_one_snapshot_of_each_slot(tmp_path: Path) -> None:
    world = one_server()
    path = config(tmp_path, entry("10,40 * * * *", "stop_first: true"))
    async with daemon_on(path, world) as one, daemon_on(path, world) as other:
        await asyncio.sleep(HOUR)
        results = [counted(each, "snaprotd_rotations_total") for each in (one, other)]
    assert slots(world.created) == ["03:10", "03:40"]
    assert sum(result.get("success", 0) for result in results) == 2
    assert all(result.keys() <= {"success"} for result in results)
    assert [status for _, status in world.servers["12345"].history].count("stopping") == 2


async def test_when_one_of_two_daemons_ends_the_other_goes_on_with_its_rotation(tmp_path: Path) -> None:
    world = one_server()
    path = config(tmp_path, entry("1 3 * * *"))
    one, running = await begin(path, world)
    await asyncio.sleep(90)
    async with daemon_on(path, world) as other:
        one.daemon.stop()
        assert await running == 0
        await asyncio.sleep(20)  # it was let go of: no lease has to run out
        assert other.value("snaprotd_rotations_in_progress", "wait") == 1
        await asyncio.sleep(20 * MINUTE)
        assert counted(other, "snaprotd_rotations_total") == {"success": 1}
    assert len(world.created) == 1


# -- metrics after a start ----------------------------------------------------------------------------------------

OF_THE_LIST = (
    "snaprotd_snapshots",
    "snaprotd_newest_completed_timestamp_seconds",
    "snaprotd_newest_completed_size_bytes",
    "snaprotd_blocked",
    "snaprotd_prune_pending",
    "snaprotd_inventory_last_success_timestamp_seconds",
)


async def test_what_the_list_says_is_absent_before_the_first_list_right_after_it_and_gone_with_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_around_less(monkeypatch, tick=TICK, leases=LEASE_RENEWAL, file=3.0, account=60.0)
    world = World()
    for name in ("web-01", "web-02"):
        world.add_server(name)
    world.add_snapshot("12345", "snaprotd-main-20250114T031000Z", created_at=START - timedelta(days=2, minutes=-10))
    newest = world.add_snapshot(
        "12345", "snaprotd-main-20250115T031000Z", created_at=START - timedelta(days=1, minutes=-10)
    )
    for number in range(3):
        world.add_snapshot("12345", f"by-hand-{number}", status="in_progress" if number else "completed")
    silence = Fault(kind="status", method="GET", status=503, times=None)
    world.faults.append(silence)
    both = entry("@yearly", "when_full: refuse"), entry("@yearly", server_id="12346")
    async with daemon_on(config(tmp_path, *both), world) as watched:
        await asyncio.sleep(10 * MINUTE)
        assert {name: watched.series(name) for name in OF_THE_LIST} == {name: {} for name in OF_THE_LIST}
        assert watched.daemon.view.unready()
        silence.times = 0
        await asyncio.sleep(2 * MINUTE)
        assert {
            labels[1:]: value
            for labels, value in watched.series("snaprotd_snapshots").items()
            if labels[0] == "s12345" and value
        } == {("managed", "completed"): 2, ("foreign", "completed"): 1, ("foreign", "in_progress"): 2}
        assert watched.value("snaprotd_newest_completed_timestamp_seconds", "s12345") == newest.made_at.timestamp()
        assert watched.value("snaprotd_newest_completed_size_bytes", "s12345") == 5120 * 1024 * 1024
        assert watched.series("snaprotd_blocked") == {("s12345",): 1, ("s12346",): 0}
        assert watched.series("snaprotd_prune_pending") == {("s12345",): 1}
        assert ("s12346",) not in watched.series("snaprotd_newest_completed_timestamp_seconds")
        assert watched.series("snaprotd_inventory_last_success_timestamp_seconds")
        assert not watched.daemon.view.unready()
        config(tmp_path, both[1])
        await asyncio.sleep(5)
        assert "s12345" not in b"".join(watched.daemon.view.exposition()).decode()


async def test_after_a_restart_the_last_success_is_known_at_once(tmp_path: Path) -> None:
    world = one_server()
    path = config(tmp_path, entry("1 3 * * *"))
    names = ("snaprotd_last_success_timestamp_seconds", "snaprotd_last_attempt_timestamp_seconds")
    async with daemon_on(path, world) as watched:
        assert [watched.series(name) for name in names] == [{}, {}]
        await asyncio.sleep(20 * MINUTE)
        before = [watched.series(name) for name in names]
    assert all(before)
    world.faults.append(Fault(kind="status", method="GET", status=503, times=None))
    await asyncio.sleep(HOUR)
    async with daemon_on(path, world) as watched:
        assert [watched.series(name) for name in names] == before


# -- a schedule that breaks ---------------------------------------------------------------------------------------


def test_a_schedule_that_never_fires_is_refused_with_the_whole_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="never fires"):
        Watched(config(tmp_path, entry("0 0 31 2 *"), entry("@hourly", server_id="12346")), one_server())


async def test_a_schedule_whose_code_fails_while_it_runs_stops_no_other_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = one_server()
    world.add_server("web-02")
    good, sound = "10,40 * * * *", crontab.read

    def failing(text: str) -> object:
        if text != good:
            raise ZeroDivisionError(text)
        return sound(text)

    path = config(tmp_path, entry("5 * * * *"), entry(good, server_id="12346"))
    async with daemon_on(path, world) as watched:
        monkeypatch.setattr(schedule_slots, "read", failing)
        schedule_slots._day_with_slots.cache_clear()
        await asyncio.sleep(HOUR)
        assert counted(watched, "snaprotd_rotations_total", "s12346") == {"success": 2}
        assert watched.daemon.view.ailments() == []
        assert watched.value("snaprotd_next_run_timestamp_seconds", "s12345") is None
    assert slots(one for one in world.created if one.server_id == "12346") == ["03:10", "03:40"]


async def test_a_ledger_that_is_stuck_does_not_stop_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where somebody has locked a table of the database for minutes: a probe that fails would end the process."""

    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(HOUR)

    async with daemon_on(config(tmp_path, entry("@yearly")), one_server()) as watched:
        monkeypatch.setattr(Starts, "followed", never)
        await asyncio.sleep(10 * MINUTE)
        assert watched.daemon.view.ailments() == []


# -- a wall clock that is set -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
@pytest.mark.parametrize("back_again", [False, True])
@pytest.mark.parametrize("after", [100.0, 7 * MINUTE], ids=["while off", "at the end"])
async def test_a_clock_that_is_set_in_the_middle_of_a_rotation_changes_nothing_of_it(
    tmp_path: Path, by: float, back_again: bool, after: float
) -> None:
    world = one_server(clock=steady_clock(), snapshot_seconds=(300, 300))
    path = config(tmp_path, entry("1 3 * * *", "stop_first: true", "snapshot_timeout: 10m", "stop_timeout: 2m"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(after)
        set_clock(by)
        await asyncio.sleep(2 * MINUTE)
        if back_again:
            set_clock(-by)
        await asyncio.sleep(1.2 * HOUR if by < 0 and not back_again else 0.3 * HOUR)  # until the slot has come again
        assert counted(watched, "snaprotd_rotations_total") == {"success": 1}
    assert len(world.created) == 1
    times, statuses = zip(*world.servers["12345"].history, strict=True)
    assert statuses == ("active", "stopping", "stopped", "starting", "active")
    assert (times[4] - times[1]).total_seconds() == pytest.approx(350, abs=60)


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
async def test_a_clock_that_is_set_under_two_daemons_changes_nothing_of_the_rotation_of_either(
    tmp_path: Path, by: float
) -> None:
    """By the wall clock its lease has run out, or was never given. The other one does not go by that."""
    world = one_server(clock=steady_clock(), snapshot_seconds=(300, 300))
    path = config(tmp_path, entry("1 3 * * *", "stop_first: true"))
    async with daemon_on(path, world) as one, daemon_on(path, world) as other:
        await asyncio.sleep(3 * MINUTE)
        set_clock(by)
        await asyncio.sleep(20 * MINUTE)
        results = [counted(each, "snaprotd_rotations_total") for each in (one, other)]
        off = [each.series("snaprotd_server_stopped_by_us") for each in (one, other)]
    with closing(sqlite3.connect(tmp_path / "state.db")) as ledger:
        assert ledger.execute("SELECT epoch FROM rotations").fetchall() == [(1,)]
    assert sum(result.get("success", 0) for result in results) == 1
    assert off == [{("s12345",): 0}] * 2
    assert [made.server_status_when_taken for made in world.created] == ["stopped"]
    assert [status for _, status in world.servers["12345"].history].count("stopping") == 1
    assert world.status_of("12345") == "active"


async def test_a_snapshot_that_hangs_times_out_at_the_same_time_whatever_the_wall_clock_says(tmp_path: Path) -> None:
    world = one_server(clock=steady_clock())
    world.faults.append(Fault(kind="stuck", method="POST", path="/snapshots/"))
    path = config(tmp_path, entry("1 3 * * *", "stop_first: true", "snapshot_timeout: 10m", "retry: {times: 0}"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(3 * MINUTE)
        set_clock(HOUR)
        await asyncio.sleep(8 * MINUTE)
        assert world.status_of("12345") == "stopped"
        set_clock(-2 * HOUR)
        await asyncio.sleep(2 * MINUTE)
        assert world.status_of("12345") == "active"
        assert counted(watched, "snaprotd_rotations_total") == {"failure": 1}


@pytest.mark.parametrize(
    ("steps", "run"),
    [
        ([(MINUTE, HOUR)], ["03:30", "04:30", "05:30"]),
        ([(MINUTE, HOUR), (MINUTE, -HOUR)], ["03:30", "04:30"]),
        ([(40 * MINUTE, -HOUR)], ["03:30", "04:30"]),
        ([(40 * MINUTE, -HOUR), (MINUTE, HOUR)], ["03:30", "04:30", "05:30"]),
        ([(MINUTE, -2 * HOUR)], ["01:30", "02:30"]),
    ],
    ids=["forward", "forward and back", "back", "back and forward", "back before the start"],
)
async def test_a_clock_that_is_set_over_a_slot_runs_it_once_and_then_keeps_time(
    tmp_path: Path, steps: list[tuple[float, float]], run: list[str]
) -> None:
    world = one_server(clock=steady_clock())
    end = asyncio.get_running_loop().time() + 2.75 * HOUR
    async with daemon_on(config(tmp_path, entry("30 * * * *")), world) as watched:
        for wait, by in steps:
            await asyncio.sleep(wait)
            set_clock(by)
        until = START + timedelta(hours=int(run[-1][:2]) - 3, minutes=45)
        await asyncio.sleep((until - datetime.now(UTC)).total_seconds())
        assert counted(watched, "snaprotd_rotations_total") == {"success": len(run)}
        assert counted(watched, "snaprotd_rotations_skipped_total") == {}
    assert slots(world.created) == run
    assert asyncio.get_running_loop().time() < end + HOUR


# -- the end of a daemon ------------------------------------------------------------------------------------------


async def test_at_the_end_what_holds_a_server_off_goes_on_to_its_start_and_the_rest_waits_for_the_next_start(
    tmp_path: Path,
) -> None:
    world = World(snapshot_seconds=(300, 300))
    for name in ("off", "on", "later"):
        two_old_ones(world, world.add_server(name))
    entries = [
        entry("1 3 * * *", "stop_first: true", "keep: 1"),
        entry("1 3 * * *", "keep: 1", server_id="12346"),
        entry("5 3 * * *", "keep: 1", server_id="12347"),
    ]
    path = config(tmp_path, *entries)
    watched, running = await begin(path, world)
    await asyncio.sleep(3 * MINUTE)
    assert world.status_of("12345") == "stopped"
    watched.daemon.stop()
    assert await running == 0
    assert world.status_of("12345") == "active"
    assert START + timedelta(minutes=6) < datetime.now(UTC) < START + timedelta(minutes=8)
    assert slots(world.created) == ["03:01", "03:01"]
    assert world.deleted == []
    assert [rotation.result for rotation in watched.ended] == [None, None]
    await asyncio.sleep(10 * MINUTE)
    async with daemon_on(path, world) as following:
        await asyncio.sleep(10 * MINUTE)
        for server in ("s12345", "s12346", "s12347"):
            assert counted(following, "snaprotd_rotations_total", server) == {"success": 1}
        assert counted(following, "snaprotd_missed_slots_total", "s12347") == {"ran_late": 1}
    assert slots(world.created) == ["03:01", "03:01", "03:05"]
    assert len(world.deleted) == 6
    assert [status for _, status in world.servers["12345"].history].count("stopping") == 1


async def test_a_daemon_that_holds_nothing_off_ends_at_once(tmp_path: Path) -> None:
    world = one_server()
    watched, running = await begin(config(tmp_path, entry("1 3 * * *")), world)
    await asyncio.sleep(90)
    asked_at = datetime.now(UTC)
    watched.daemon.stop()
    assert await running == 0
    assert datetime.now(UTC) - asked_at < timedelta(seconds=1)
    assert len(world.created) == 1


async def test_rotations_that_wait_for_their_turn_do_not_begin_when_the_daemon_ends(tmp_path: Path) -> None:
    world = World()
    servers = [world.add_server(f"web-{number}") for number in range(5)]
    entries = [entry("1 3 * * *", "stop_first: true", server_id=server) for server in servers]
    path = config(tmp_path, *entries, more="max_concurrent: 1\n")
    watched, running = await begin(path, world)
    await asyncio.sleep(3 * MINUTE)
    watched.daemon.stop()
    assert await running == 0
    assert len(world.created) == 1
    assert {server.status for server in world.servers.values()} == {"active"}
    async with daemon_on(path, world):
        await asyncio.sleep(HOUR)
    assert Tally(one.server_id for one in world.created) == dict.fromkeys(servers, 1)


async def test_after_the_drain_timeout_a_server_is_started_whatever_its_snapshot_does(tmp_path: Path) -> None:
    world = one_server(snapshot_seconds=(1200, 1200))
    two_old_ones(world, "12345")
    path = config(tmp_path, entry("1 3 * * *", "stop_first: true", "keep: 1"), more="drain_timeout: 3m\n")
    watched, running = await begin(path, world)
    await asyncio.sleep(3 * MINUTE)
    watched.daemon.stop()
    await asyncio.sleep(2.5 * MINUTE)
    assert world.status_of("12345") == "stopped"
    assert await running == 0
    assert datetime.now(UTC) < START + timedelta(minutes=7.5)
    assert world.status_of("12345") == "active"
    assert world.created[0].status == "in_progress"
    async with daemon_on(path, world) as following:
        await asyncio.sleep(30 * MINUTE)
        assert counted(following, "snaprotd_rotations_total") == {"success": 1}
    assert slots(world.created) == ["03:01"]
    assert len(world.deleted) == 2
    assert world.servers["12345"].history[-1][1] == "active"
    assert [status for _, status in world.servers["12345"].history].count("stopping") == 1


async def test_a_server_that_is_about_to_go_off_when_the_drain_times_out_is_started_again(tmp_path: Path) -> None:
    world = one_server(stop_seconds=200)
    path = config(tmp_path, entry("1 3 * * *", "stop_first: true"), more="drain_timeout: 1m\n")
    watched, running = await begin(path, world)
    await asyncio.sleep(2 * MINUTE)
    assert world.status_of("12345") == "stopping"
    watched.daemon.stop()
    assert await running == 0
    assert world.status_of("12345") == "active"
    assert world.created == []


async def test_a_server_that_cannot_be_started_before_the_end_is_told_by_the_exit_code_and_started_by_the_next(
    tmp_path: Path,
) -> None:
    world = one_server()
    refusal = Fault(kind="start_never", action="start", times=None)
    world.faults.append(refusal)
    path = config(tmp_path, entry("1 3 * * *", "stop_first: true"), more="drain_timeout: 1m\n")
    watched, running = await begin(path, world)
    await asyncio.sleep(3 * MINUTE)
    watched.daemon.stop()
    assert await running == 1
    await bury()
    assert world.status_of("12345") == "stopped"
    refusal.times = 0
    async with daemon_on(path, world) as following:
        assert following.value("snaprotd_server_stopped_by_us", "s12345") == 1
        await asyncio.sleep(20 * MINUTE)
        assert world.status_of("12345") == "active"
        assert counted(following, "snaprotd_rotations_total") == {"success": 1}
    assert len(world.created) == 1
