"""What the metrics say after a rename, a late slot, a stop that never struck: the truth, and of the right server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from snaprotd.simulator import Fault
from tests.support.daemons import Watched, a_world, configure, daemon_on, power

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_ticks")

MINUTE, HOUR = 60.0, 3600.0
TAKEN = 25.0
"""Seconds in which a new file is read, in these tests."""

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by the name of the metric and its labels, but for the server's."""


ONCE = "retry: {times: 0}"


def entry(name: str, *keys: str, server_id: str = "12345", schedule: str = "10 3 * * *") -> str:
    return "{" + ", ".join([f"id: {server_id}", f"name: {name}", f'schedule: "{schedule}"', *keys]) + "}"


def about(watched: Watched, server: str) -> Series:
    """All that is shown of the server with this label."""
    families = text_string_to_metric_families(b"".join(watched.daemon.view.exposition()).decode())
    return {
        (sample.name, tuple(sorted((key, value) for key, value in sample.labels.items() if key != "server"))): (
            sample.value
        )
        for family in families
        for sample in family.samples
        if sample.labels.get("server") == server
    }


def value(watched: Watched, name: str, *labels: str) -> float | None:
    return watched.value(f"snaprotd_{name}", *labels)


def steps(watched: Watched) -> list[str]:
    """Where the rotations stand that are running."""
    return [rotation.step for rotation in watched.daemon.board.running.values()]


# -- a server under another name --------------------------------------------------------------------------------------


async def test_a_server_that_is_renamed_keeps_its_series(tmp_path: Path) -> None:
    world = a_world(faults=(Fault(kind="ends", method="POST", path="/snapshots/"), power("start_never", "start")))
    schedule, later = "10,40 3 * * *", "paused: false"
    async with daemon_on(configure(tmp_path, entry("old", "stop_first: true", schedule=schedule)), world) as watched:
        await asyncio.sleep(HOUR)
        before = about(watched, "old")
        assert before["snaprotd_rotations_total", (("result", "failure"),)] == 1
        assert before["snaprotd_rotations_total", (("result", "success"),)] == 1
        assert before["snaprotd_server_start_failures_total", ()] == 1
        configure(tmp_path, entry("new", "stop_first: true", later, schedule=schedule))
        await asyncio.sleep(TAKEN)
        assert about(watched, "new") == before
        assert about(watched, "old") == {}


async def test_a_rotation_counts_for_the_server_that_was_renamed_under_it(tmp_path: Path) -> None:
    world = a_world()
    async with daemon_on(configure(tmp_path, entry("old", "stop_first: true")), world) as watched:
        await asyncio.sleep(12 * MINUTE)
        assert (steps(watched), world.status_of("12345")) == (["wait"], "stopped")
        configure(tmp_path, entry("new", "stop_first: true"))
        await asyncio.sleep(TAKEN)
        assert steps(watched) == ["wait"]
        assert watched.series("snaprotd_server_stopped_by_us") == {("new",): 1}
        await asyncio.sleep(HOUR)
        assert value(watched, "rotations_total", "new", "success") == 1
        assert value(watched, "last_success_timestamp_seconds", "new") is not None
        assert watched.series("snaprotd_server_stopped_by_us") == {("new",): 0}
        assert about(watched, "old") == {}


async def test_a_server_that_leaves_while_it_is_off_stays_visible_until_it_is_on(tmp_path: Path) -> None:
    world = a_world("web-01", "web-02")
    other = entry("other", server_id="12346", schedule="@yearly")
    async with daemon_on(configure(tmp_path, entry("web", "stop_first: true"), other), world) as watched:
        await asyncio.sleep(12 * MINUTE)
        configure(tmp_path, other)
        await asyncio.sleep(TAKEN)
        assert watched.series("snaprotd_server_stopped_by_us") == {("web",): 1, ("other",): 0}
        await asyncio.sleep(HOUR)
        assert watched.series("snaprotd_server_stopped_by_us") == {("other",): 0}
        assert about(watched, "web") == {}


# -- a name that another server has got -------------------------------------------------------------------------------


async def test_a_label_that_another_server_has_got_shows_nothing_of_the_one_before(tmp_path: Path) -> None:
    world = a_world("first", "second")
    async with daemon_on(configure(tmp_path, entry("web")), world) as watched:
        await asyncio.sleep(HOUR)
        assert value(watched, "rotations_total", "web", "success") == 1
        configure(tmp_path, entry("web", server_id="12346", schedule="0 5 * * *"))
        for _ in range(3):
            await asyncio.sleep(TAKEN)
            shown = about(watched, "web")
            (about_it,) = [dict(labels) for name, labels in shown if name == "snaprotd_server_info"]
            assert about_it["server_id"] == "12346"
            assert about_it["server_name"] in ("", "second")
            assert {shown[key] for key in shown if key[0] == "snaprotd_rotations_total"} == {0}
            for name in ("last_success", "last_attempt", "newest_completed"):
                assert value(watched, f"{name}_timestamp_seconds", "web") is None
            assert value(watched, "snapshots", "web", "managed", "completed") in (None, 0)
        await asyncio.sleep(2 * HOUR)
        assert value(watched, "rotations_total", "web", "success") == 1
        assert value(watched, "snapshots", "web", "managed", "completed") == 1


async def test_a_rotation_does_not_count_for_the_server_that_has_got_its_servers_label(tmp_path: Path) -> None:
    world = a_world("first", "second")
    async with daemon_on(configure(tmp_path, entry("web", "stop_first: true")), world) as watched:
        await asyncio.sleep(12 * MINUTE)
        assert (steps(watched), world.status_of("12345")) == (["wait"], "stopped")
        configure(tmp_path, entry("web", "stop_first: true", server_id="12346", schedule="0 5 * * *"))
        await asyncio.sleep(TAKEN)
        assert watched.series("snaprotd_server_stopped_by_us") == {("web",): 0, ("12345",): 1}
        await asyncio.sleep(HOUR)
        assert [rotation.result for rotation in watched.ended] == ["success"]
        assert watched.series("snaprotd_server_stopped_by_us") == {("web",): 0}
        assert value(watched, "rotations_total", "web", "success") == 0
        assert value(watched, "last_success_timestamp_seconds", "web") is None
        assert value(watched, "server_start_failures_total", "web") == 0


async def test_two_servers_that_swap_their_labels_take_their_series_with_them(tmp_path: Path) -> None:
    world = a_world("first", "second", faults=(Fault(kind="ends", method="POST", path="/snapshots/"),))
    later = {"server_id": "12346", "schedule": "40 3 * * *"}
    async with daemon_on(configure(tmp_path, entry("a", ONCE), entry("b", **later)), world) as watched:
        await asyncio.sleep(HOUR)
        before = tuple({k: v for k, v in about(watched, one).items() if v} for one in ("a", "b"))
        assert before[0]["snaprotd_rotations_total", (("result", "failure"),)] == 1
        assert before[1]["snaprotd_rotations_total", (("result", "success"),)] == 1
        configure(tmp_path, entry("b", ONCE), entry("a", **later))
        await asyncio.sleep(TAKEN)
        after = about(watched, "b"), about(watched, "a")
        assert [{k: v for k, v in one.items() if v} for one in after] == list(before)


# -- slots that were missed -------------------------------------------------------------------------------------------


def counted(watched: Watched, metric: str) -> dict[str, float]:
    """The values of a metric of the one server by its other label, those above 0."""
    return {labels[1]: number for labels, number in watched.series(f"snaprotd_{metric}").items() if number}


async def test_a_slot_that_runs_late_is_counted_as_one_and_the_ones_before_it_as_skipped(tmp_path: Path) -> None:
    world = a_world()
    path = configure(tmp_path, entry("web", schedule="@hourly"))
    async with daemon_on(path, world):
        await asyncio.sleep(2 * MINUTE)
    await asyncio.sleep(3 * HOUR)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(20 * MINUTE)
        assert counted(watched, "missed_slots_total") == {"ran_late": 1, "skipped": 2}
        assert counted(watched, "rotations_skipped_total") == {}
    assert [one.name for one in world.created] == ["snaprotd-main-20250116T060000Z"]


async def test_a_missed_slot_of_a_paused_server_did_not_run_late(tmp_path: Path) -> None:
    world = a_world()
    path = configure(tmp_path, entry("web", "paused: true", schedule="@hourly"))
    async with daemon_on(path, world):
        await asyncio.sleep(2 * MINUTE)
    await asyncio.sleep(3 * HOUR)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(2 * MINUTE)
        assert counted(watched, "missed_slots_total") == {"skipped": 2}
        assert counted(watched, "rotations_skipped_total") == {"paused": 1}
    assert world.created == []


async def test_a_missed_slot_of_a_server_whose_last_rotation_is_still_open_did_not_run_late(tmp_path: Path) -> None:
    world = a_world(faults=(Fault(kind="stuck", method="POST", path="/snapshots/"),))
    path = configure(tmp_path, entry("web", "snapshot_timeout: 2h", schedule="@hourly"))
    async with daemon_on(path, world):
        await asyncio.sleep(62 * MINUTE)
    await asyncio.sleep(2 * HOUR)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(2 * MINUTE)
        assert steps(watched) == ["wait"]
        assert counted(watched, "missed_slots_total") == {"skipped": 1}
        assert counted(watched, "rotations_skipped_total") == {"in_flight": 1}
    assert [one.name for one in world.created] == ["snaprotd-main-20250116T040000Z"]


async def test_a_missed_slot_that_another_process_has_run_did_not_run_late(tmp_path: Path) -> None:
    """As after the wall clock was set back over it."""
    world = a_world()
    path = configure(tmp_path, entry("web", schedule="@hourly"))
    async with daemon_on(path, world) as ran:
        await asyncio.sleep(2 * MINUTE)
        async with daemon_on(path, world) as beside:
            await asyncio.sleep(HOUR + 20 * MINUTE)
            runs = [value(one, "rotations_total", "web", "success") for one in (ran, beside)]
            assert sorted(runs, key=str) == [0, 1]
            assert [counted(one, "missed_slots_total") for one in (ran, beside)] == [{}, {}]


# -- how long a server was off ----------------------------------------------------------------------------------------


NEVER = power("stop_never", "", times=None)


@pytest.mark.parametrize(
    ("word", "fault", "result"),
    [
        ("snapshot_anyway", NEVER, "success"),
        ("abort", NEVER, "failure"),
        ("hard_stop", NEVER, "failure"),
        ("abort", power("status", "stop", status=400), "failure"),
        ("abort", power("cut", "stop", times=None), "failure"),
    ],
)
async def test_a_server_that_never_went_off_has_no_downtime(
    tmp_path: Path, word: str, fault: Fault, result: str
) -> None:
    fault = Fault(**vars(fault))
    world = a_world(faults=(fault,))
    path = configure(tmp_path, entry("web", "stop_first: true", f"on_stop_timeout: {word}", ONCE))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(HOUR + 10 * MINUTE)
        assert [rotation.result for rotation in watched.ended] == [result]
        assert value(watched, "server_downtime_seconds_count") == 0
        assert value(watched, "server_downtime_seconds_sum") == 0
    assert [status for _, status in world.servers["12345"].history] == ["active"]


@pytest.mark.parametrize(
    "faults",
    [
        (),
        (power("slow_power", "stop", delay=200.0),),
        (power("slow_power", "stop", delay=480.0),),
        (power("lost", "start"),),
    ],
    ids=["at once", "slowly", "after its time-out", "and watched after its start"],
)
async def test_downtime_is_the_time_for_which_the_server_was_seen_off(
    tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    world = a_world(faults=tuple(Fault(**vars(fault)) for fault in faults))
    async with daemon_on(configure(tmp_path, entry("web", "stop_first: true", ONCE)), world) as watched:
        await asyncio.sleep(HOUR)
        assert value(watched, "server_downtime_seconds_count") == 1
        told = value(watched, "server_downtime_seconds_sum")
    off, on = world.servers["12345"].history[1][0], world.servers["12345"].history[-1][0]
    assert [status for _, status in world.servers["12345"].history][1::3] == ["stopping", "active"]
    assert told == pytest.approx((on - off).total_seconds(), abs=35)
