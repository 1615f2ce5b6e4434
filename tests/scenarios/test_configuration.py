"""A configuration that changes, in the life of a daemon or between two: it is in force, and nothing fires for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.schedule import spread_delay
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.support.daemons import Line, Watched, a_world, configure, daemon_on, entry, logged

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
TAKEN = 25.0
"""Seconds in which a new file is read, with `few_ticks`."""


pytestmark = pytest.mark.usefixtures("one_clock", "log", "few_ticks")


# -- a new file -------------------------------------------------------------------------------------------------------


REFUSED = "the new configuration is refused, the old one stays in force"


def next_hour(watched: Watched, server: str = "s12345") -> float | None:
    """The hour of the day of a server's next slot."""
    at = watched.value("snaprotd_next_run_timestamp_seconds", server)
    return None if at is None else at % DAY / HOUR


async def test_a_file_whose_token_is_still_to_be_written_is_taken_when_that_is_there(
    tmp_path: Path, log: list[Line]
) -> None:
    world, token = a_world(), tmp_path / "token"
    path = configure(tmp_path, entry("0 12 * * *"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(MINUTE)
        text = configure(tmp_path, entry("0 13 * * *")).read_text()
        path.write_text(text.replace("api: {", f"api: {{token_file: {token}, "))
        await asyncio.sleep(10 * MINUTE)
        assert next_hour(watched) == 12
        assert watched.value("snaprotd_config_last_reload_successful") == 0
        assert len(watched.daemon.view.remarks()) == 2
        token.write_text(world.token)
        token.chmod(0o600)
        await asyncio.sleep(TAKEN)
        assert next_hour(watched) == 13
        assert watched.value("snaprotd_config_last_reload_successful") == 1
        assert list(watched.daemon.view.remarks()) == []
    (refusal,) = logged(log, REFUSED)
    assert "cannot be read: No such file" in refusal["mistake"]


class SlowMarks(Ledger):
    """The ledger, in which it once takes `seconds` to read how far the schedules were seen."""

    seconds = 0.0
    reading = False

    async def marks(self) -> Mapping[str, Mark]:
        seconds, type(self).seconds = self.seconds, 0.0
        type(self).reading = seconds > 0
        await asyncio.sleep(seconds)
        type(self).reading = False
        return await super().marks()


@pytest.mark.parametrize("late", [1.0, 30.0])
async def test_a_discovery_under_way_when_a_file_is_taken_does_not_bring_the_old_policy_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: float
) -> None:
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", SlowMarks)
    world = a_world()
    configure(tmp_path, '{match: "web-*", schedule: "0 12 * * *"}')
    async with daemon_on(tmp_path / "config.yaml", world) as watched:
        await asyncio.sleep(5 * MINUTE)
        monkeypatch.setattr(SlowMarks, "seconds", 60.0)
        world.add_server("web-02")
        while not SlowMarks.reading:  # noqa: ASYNC110 - the daemon's own reading sets no event
            await asyncio.sleep(1)
        await asyncio.sleep(late)
        configure(tmp_path, '{match: "web-*", schedule: "0 13 * * *"}')
        await asyncio.sleep(5 * MINUTE)
        assert [next_hour(watched, name) for name in ("web-01", "web-02")] == [13, 13]
        await asyncio.sleep(20 * MINUTE)
        assert [next_hour(watched, name) for name in ("web-01", "web-02")] == [13, 13]
        assert watched.value("snaprotd_config_last_reload_successful") == 1


# -- nothing fires by surprise ----------------------------------------------------------------------------------------


def names(world: World, server_id: str) -> list[str]:
    return [one.name for one in world.snapshots_of(server_id)]


A, B = entry("30 3,5 * * *"), entry("30 3,5 * * *", server_id="12346")
FIRST, SECOND = "snaprotd-main-20250116T033000Z", "snaprotd-main-20250116T053000Z"


def missed(watched: Watched, server: str) -> float:
    """Slots of the server that count as missed, run late or not."""
    series = watched.series("snaprotd_missed_slots_total").items()
    return sum(number for labels, number in series if labels[0] == server)


@pytest.mark.parametrize("without", [30.0, 10 * MINUTE])
async def test_a_server_that_was_removed_and_put_back_runs_nothing_before_its_next_slot(
    tmp_path: Path, without: float
) -> None:
    """The slot passes while it is no server of ours."""
    world = a_world("web-01", "web-02")
    async with daemon_on(configure(tmp_path, A, B), world) as watched:
        await asyncio.sleep(29.5 * MINUTE)
        configure(tmp_path, A)
        await asyncio.sleep(TAKEN + without)
        configure(tmp_path, A, B)
        await asyncio.sleep(HOUR)
        assert (names(world, "12345"), names(world, "12346")) == ([FIRST], [])
        assert missed(watched, "s12346") == 0
        await asyncio.sleep(HOUR)
    assert names(world, "12346") == [SECOND]


@pytest.mark.parametrize(("removed_while", "lived"), [("running", TAKEN), ("running", 10 * MINUTE), ("down", TAKEN)])
async def test_a_server_that_was_removed_and_put_back_across_a_restart_runs_nothing_before_its_next_slot(
    tmp_path: Path, removed_while: str, lived: float
) -> None:
    """For so many seconds a daemon has looked after the other one only."""
    world = a_world("web-01", "web-02")
    async with daemon_on(configure(tmp_path, A, B), world):
        await asyncio.sleep(15 * MINUTE)
        if removed_while == "running":
            configure(tmp_path, A)
            await asyncio.sleep(lived)
    if removed_while == "down":
        async with daemon_on(configure(tmp_path, A), world):
            await asyncio.sleep(lived)
    await asyncio.sleep(HOUR)
    async with daemon_on(configure(tmp_path, A, B), world) as watched:
        await asyncio.sleep(30 * MINUTE)
        assert (names(world, "12345"), names(world, "12346")) == ([FIRST], [])
        assert missed(watched, "s12346") == 0
        await asyncio.sleep(HOUR)
    assert names(world, "12346") == [SECOND]


async def test_a_server_that_only_its_pattern_names_is_not_forgotten_by_a_process_that_has_seen_no_account(
    tmp_path: Path,
) -> None:
    """What was missed is run late, though a new file was taken while the provider did not answer."""
    world = a_world()
    path = configure(tmp_path, '{match: "web-*", schedule: "30 3 * * *"}')
    async with daemon_on(path, world):
        await asyncio.sleep(15 * MINUTE)
    world.faults.append(Fault(kind="status", status=503, method="GET", times=None))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(15 * MINUTE)
        configure(tmp_path, '{match: "web-*", schedule: "30 3 * * *"}', entry("@yearly", server_id="12346"))
        await asyncio.sleep(15 * MINUTE)
        assert watched.value("snaprotd_config_last_reload_successful") == 1
        assert next_hour(watched, "s12346") is not None
    world.faults.clear()
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(HOUR)
        assert watched.value("snaprotd_missed_slots_total", "web-01", "ran_late") == 1
    assert names(world, "12345") == [FIRST]


SPREAD = "spread: 2h"
TURN = spread_delay("12345", timedelta(hours=2))
"""How long after its slot the server's turn comes."""


async def is_new(folder: Path, world: World) -> AsyncIterator[Path]:
    yield configure(folder, entry("30 3,5 * * *", SPREAD))


async def is_added(folder: Path, world: World) -> AsyncIterator[Path]:
    yield configure(folder, entry("@yearly", server_id="12346"))
    configure(folder, entry("30 3,5 * * *", SPREAD), entry("@yearly", server_id="12346"))


async def is_edited(folder: Path, world: World) -> AsyncIterator[Path]:
    yield configure(folder, entry("45 3,5 * * *", SPREAD))
    configure(folder, entry("30 3,5 * * *", SPREAD))


async def is_unpaused(folder: Path, world: World) -> AsyncIterator[Path]:
    yield configure(folder, entry("30 3,5 * * *", SPREAD, "paused: true"))
    configure(folder, entry("30 3,5 * * *", SPREAD))


@pytest.mark.parametrize(
    ("change", "restart"),
    [(is_new, False), (is_added, False), (is_edited, False), (is_unpaused, False), (is_new, True), (is_added, True)],
)
async def test_a_policy_that_is_new_between_its_slot_and_the_servers_turn_waits_for_the_next_slot(
    tmp_path: Path, change: Callable[[Path, World], AsyncIterator[Path]], restart: bool
) -> None:
    assert timedelta(minutes=20) < TURN < timedelta(hours=1)
    world = a_world("web-01", "web-02")
    await asyncio.sleep(33 * MINUTE)
    changing = change(tmp_path, world)
    path = await anext(changing)
    async with _lives(path, world, restart=restart) as live:
        await live(2 * MINUTE)
        await anext(changing, None)
        await live(2 * MINUTE)
        await live(1.5 * HOUR)
        assert names(world, "12345") == []
        await live(1.5 * HOUR)
    (made,) = world.created
    assert made.name == SECOND
    assert timedelta(0) <= made.made_at - (datetime(2025, 1, 16, 5, 30, tzinfo=UTC) + TURN) < timedelta(minutes=1)


@asynccontextmanager
async def _lives(path: Path, world: World, *, restart: bool) -> AsyncIterator[Callable[[float], Any]]:
    """Gives what lets a daemon live for so many seconds: always the same one, or each time a new one."""
    if not restart:
        async with daemon_on(path, world):
            yield asyncio.sleep
        return

    async def live(seconds: float) -> None:
        async with daemon_on(path, world):
            await asyncio.sleep(seconds)

    yield live


async def test_a_slot_that_was_seen_runs_at_the_servers_turn_though_the_daemon_was_restarted_in_between(
    tmp_path: Path,
) -> None:
    world = a_world()
    path = configure(tmp_path, entry("30 3,5 * * *", SPREAD))
    for seconds in (33 * MINUTE, 2 * MINUTE):
        async with daemon_on(path, world):
            await asyncio.sleep(seconds)
    async with daemon_on(path, world):
        await asyncio.sleep(2 * HOUR)
    assert names(world, "12345") == [FIRST]
