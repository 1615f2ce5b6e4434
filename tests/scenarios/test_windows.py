"""No rotation of the schedule sends its first stop, create or delete outside its window, whatever held it up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.core.policy import Policy
from snaprotd.core.rotation import Result, Step
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Request, World
from tests.support.daemons import Line, Watched, a_world, configure, daemon_on, entry, kill, logged
from tests.support.lives import Story
from tests.support.policies import slots
from tests.support.virtual_time import START, run_virtually
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks")

WINDOW = 'window: "02:30-03:20"'
"""Stories begin at 03:00, and the slot of an `entry` is at 03:10."""
SHUT = "outside its window 02:30-03:20, which opens Fri 2025-01-17 02:30 UTC"


class Asked(WorldTransport):
    """Knows when the account was asked to change anything."""

    def __init__(self, world: World) -> None:
        super().__init__(world, before=self._note)
        self.changes: list[str] = []

    def _note(self, request: Request) -> None:
        if request.method != "GET":
            what = "delete" if request.method == "DELETE" else request.path.rstrip("/").rpartition("/")[2]
            self.changes.append(f"{datetime.now(UTC):%d %H:%M} {what}")


def by_hand(world: World) -> None:
    world.take_snapshot("12345", "by-hand", "", None)


async def until(clock: str) -> None:
    hour, minute = map(int, clock.split(":"))
    await asyncio.sleep((START.replace(hour=hour, minute=minute) - datetime.now(UTC)).total_seconds())


def told(watched: Watched, metric: str, reason: str, server: str = "s12345") -> float | None:
    return watched.value(f"snaprotd_{metric}_total", server, reason)


@asynccontextmanager
async def killed_at(step: Step, path: Path, world: World, transport: WorldTransport) -> AsyncIterator[None]:
    """A daemon that dies as soon as a rotation is at that step."""
    watched = Watched(path, world, transport=transport)
    running = asyncio.create_task(watched.daemon.run())
    yield
    await watched.reaches(step)
    await kill(watched)
    with suppress(asyncio.CancelledError):
        await running


# -- held up ----------------------------------------------------------------------------------------------------------


def ended_without_beginning(watched: Watched, server: str = "12345") -> None:
    (rotation,) = [one for one in watched.ended if one.server_id == server]
    assert (rotation.result, rotation.error) == (Result.FAILURE, SHUT)
    assert told(watched, "rotations", "failure", f"s{server}") == 1
    assert told(watched, "rotations_skipped", "window", f"s{server}") == 1


async def test_who_has_waited_in_the_queue_until_the_window_was_closed_does_not_begin(tmp_path: Path) -> None:
    world = a_world("one", "two", snapshot_seconds=(900, 900))
    path = configure(
        tmp_path,
        entry("10 3 * * *", WINDOW),
        entry("11 3 * * *", WINDOW, server_id="12346"),
        more="max_concurrent: 1\n",
    )
    async with daemon_on(path, world, asked := Asked(world)) as watched:
        await until("03:35")
        ended_without_beginning(watched, "12346")
        assert told(watched, "rotations", "success") == 1
    assert asked.changes == ["16 03:10 snapshots"]


async def test_whose_server_was_busy_until_the_window_was_closed_does_not_begin(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(900, 900))
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", WINDOW)), world, asked := Asked(world)) as watched:
        await until("03:09")
        by_hand(world)
        await until("03:35")
        ended_without_beginning(watched)
    assert asked.changes == []


@pytest.mark.parametrize("closes", ["03:12", "03:19", "03:21", "03:23"])
async def test_whose_request_waits_for_its_turn_until_the_window_is_closed_does_not_begin(
    tmp_path: Path, closes: str
) -> None:
    """Whichever request it is that waits: to look, or the first one that would change anything."""
    path = configure(tmp_path, entry("10 3 * * *", f'window: "03:00-{closes}"', "stop_first: true"))
    path.write_text(path.read_text().replace("requests_per_second: 100", "requests_per_second: 0.01"))
    async with daemon_on(path, world := a_world(), asked := Asked(world)) as watched:
        await until("03:30")
        if not watched.ended:
            assert asked.changes[0] < f"16 {closes}"
        else:
            assert [one.skipped for one in watched.ended] == ["window"]
            assert asked.changes == []


async def test_a_request_that_never_left_because_the_process_ended_is_no_beginning(tmp_path: Path) -> None:
    path = configure(tmp_path, entry("10 3 * * *", WINDOW.replace("03:20", "03:30"), "stop_first: true"))
    slow = path.read_text().replace("requests_per_second: 100", "requests_per_second: 0.01")
    path.write_text(slow)
    async with daemon_on(path, world := a_world(), asked := Asked(world)) as first:
        while not first.daemon.board.held_off:  # noqa: ASYNC110 - then the stop is promised, and waits for its turn
            await asyncio.sleep(5)
        assert f"{datetime.now(UTC):%H:%M}" < "03:30"
    await until("03:31")
    async with daemon_on(path, world, asked) as watched:
        await until("03:40")
        assert [one.skipped for one in watched.ended] == ["window"]
    assert asked.changes == []


async def test_who_was_killed_before_it_began_does_not_begin_when_the_next_process_takes_it_up(tmp_path: Path) -> None:
    world = a_world(snapshot_seconds=(180, 180))
    path = configure(tmp_path, entry("10 3 * * *", WINDOW))
    async with killed_at(Step.LOOK, path, world, asked := Asked(world)):
        await until("03:09")
        by_hand(world)
    await until("09:00")
    async with daemon_on(path, world, asked) as watched:
        await until("09:01")
        ended_without_beginning(watched)
    assert asked.changes == []


# -- begun ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True])
async def test_what_has_begun_goes_on_to_its_end_when_the_window_closes(tmp_path: Path, killed: bool) -> None:
    world = a_world(snapshot_seconds=(900, 900))
    path = configure(tmp_path, entry("10 3 * * *", 'window: "02:30-03:11"', "stop_first: true", "keep: 1"))
    old = "snaprotd-main-20250115T031000Z"
    world.add_snapshot("12345", old, created_at=START - timedelta(hours=23))
    asked = Asked(world)
    if killed:
        async with killed_at(Step.WAIT, path, world, asked):
            pass
        await until("03:20")
    async with daemon_on(path, world, asked) as watched:
        await until("03:31")
        assert [one.result for one in watched.ended] == [Result.SUCCESS]
    assert [one.rpartition(" ")[2] for one in asked.changes] == ["power", "snapshots", "power", "delete"]
    assert asked.changes[0] < "16 03:11" < asked.changes[2]


# -- missed -----------------------------------------------------------------------------------------------------------

LATER = 'window: "03:20-04:00"'
YESTERDAY = START - timedelta(days=1)


async def remember(folder: Path, window: str = "03:20-04:00") -> None:
    """The slot at twenty to four of the day before was missed."""
    async with await Ledger.open(folder / "state.db", owner="before") as ledger:
        schedule = f"UTC 40 3 * * * +0s within {window}"
        await ledger.set_marks([Mark(server_id="12345", seen_until=YESTERDAY, schedule=schedule)])


async def test_a_missed_slot_waits_for_its_window_also_through_a_restart(tmp_path: Path, log: list[Line]) -> None:
    await remember(tmp_path)
    world, path = a_world(snapshot_seconds=(60, 60)), configure(tmp_path, entry("40 3 * * *", LATER))
    asked, opens = Asked(world), START.replace(minute=20)
    async with daemon_on(path, world, asked) as watched:
        await until("03:05")
        assert watched.value("snaprotd_next_run_timestamp_seconds", "s12345") == opens.timestamp()
    async with daemon_on(path, world, asked) as watched:
        await until("03:39")
        assert [one.slot for one in watched.ended] == [YESTERDAY.replace(minute=40)]
        assert told(watched, "missed_slots", "ran_late") == 1
        await until("03:48")
        assert (told(watched, "rotations", "success"), told(watched, "missed_slots", "skipped")) == (2, 0)
    assert asked.changes == ["16 03:20 snapshots", "16 03:40 snapshots"]
    assert len(logged(log, "a missed slot waits for its window")) == 2


@pytest.mark.parametrize(
    ("within", "window", "event"),
    [
        ("23.5h", "03:20-04:00", "a missed slot has lapsed before its window opens"),
        ("24h", "03:40-04:00", "a missed slot is not run"),
    ],
    ids=["it is too old when the window opens", "the next slot comes first"],
)
async def test_a_missed_slot_that_lapses_is_counted_and_told(
    tmp_path: Path, log: list[Line], within: str, window: str, event: str
) -> None:
    await remember(tmp_path, window=window)
    world = a_world(snapshot_seconds=(60, 60))
    path = configure(tmp_path, entry("40 3 * * *", f'window: "{window}"', f"missed_within: {within}"))
    async with daemon_on(path, world, asked := Asked(world)) as watched:
        await until("03:48")
        assert told(watched, "missed_slots", "skipped") == 1
        assert [one.slot for one in watched.ended] == [START.replace(minute=40)]
    assert asked.changes == ["16 03:40 snapshots"]
    assert len(logged(log, event)) == 1


async def test_a_window_that_is_edited_lets_no_missed_slot_in(tmp_path: Path, log: list[Line]) -> None:
    await remember(tmp_path)
    world, path = a_world(), configure(tmp_path, entry("40 3 * * *", LATER))
    async with daemon_on(path, world, asked := Asked(world)) as watched:
        await until("03:02")
        configure(tmp_path, entry("40 3 * * *", 'window: "03:00-04:00"'))
        await until("03:25")
        assert told(watched, "missed_slots", "skipped") == 1
    assert asked.changes == []
    assert [line["reason"] for line in logged(log, "a missed slot is not run")] == ["its policy was edited"]


async def test_a_slot_whose_share_of_the_spread_leads_out_of_the_window_is_skipped_and_counted(
    tmp_path: Path, log: list[Line]
) -> None:
    world = a_world("web")
    keys = 'match: "web*", schedule: "10 3 * * *", spread: 30m, window: "03:00-03:15"'
    async with daemon_on(configure(tmp_path, f"{{{keys}}}"), world, asked := Asked(world)) as watched:
        await until("03:25")
        assert told(watched, "rotations_skipped", "window", "web") == 1
        assert watched.ended == []
    assert asked.changes == []
    assert len(logged(log, "skipped: the slot has its turn outside its window")) == 1


# -- killed anywhere --------------------------------------------------------------------------------------------------

CLOSES = START + timedelta(minutes=1)
DEATHS = [(f"{when} {what}", 1) for when in ("before", "after") for what in ("create", "stop", "delete")]
DEATHS += [(f"{when} write", number) for when in ("before", "after") for number in range(2, 7)]


async def changes_of_a_life_that_ends(
    death: tuple[str, int], ledger: Path, *, stop_first: bool, held: int
) -> list[datetime]:
    """When the account was asked for a stop, a create or a delete; the next process comes ten seconds later."""
    world = a_world(snapshot_seconds=(60, 60))
    for age in range(held):
        world.add_snapshot("12345", f"by-hand-{age}", created_at=START - timedelta(days=age + 1))
    schedule = replace(slots("0 3 * * *"), window=("03:00-03:01",))
    policy = Policy(schedule=schedule, stop_first=stop_first, adopt=("by-hand-*",))
    story, asked = Story(world, ledger, policy, "12345", crashes={death}), []

    def note(request: Request) -> None:
        if request.method == "DELETE" or (request.method == "POST" and request.json.get("action") != "start"):
            asked.append(datetime.now(UTC))

    story.before_request = note
    await story.live_through(START)
    assert world.status_of("12345") == "active", death
    return asked


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize(
    ("stop_first", "held"), [(True, 0), (False, 0), (False, 5)], ids=["a stop", "a create", "a delete"]
)
def test_whoever_dies_anywhere_begins_nothing_after_the_window_has_closed(
    tmp_path: Path, stop_first: bool, held: int
) -> None:
    """Whichever would be the first. What had begun may go on, and what is off is started."""
    went_on = 0
    for number, death in enumerate(DEATHS):
        life = changes_of_a_life_that_ends(death, tmp_path / f"{number}.db", stop_first=stop_first, held=held)
        changes = run_virtually(life, CLOSES - timedelta(seconds=5))
        assert not changes or changes[0] < CLOSES, death
        went_on += bool(changes) and changes[-1] > CLOSES
    assert went_on or not (stop_first or held)
