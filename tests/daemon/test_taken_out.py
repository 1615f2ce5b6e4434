"""A whole daemon tells people of servers that fail, and leave the list, the file or their schedule meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from snaprotd.simulator import Fault, World
from tests.daemon.test_teller import MINUTE, Outside, configured, outside
from tests.support.daemons import a_world, daemon_on

__all__ = ["outside"]

pytestmark = pytest.mark.usefixtures("silence", "few_ticks")

TWICE = "5,45 3 * * *"
FAILS_ONCE = Fault(kind="ends", word="failed", server_id="12345", method="POST", path="/snapshots/")


def two_servers() -> World:
    world = a_world("web-01", "web-02")
    world.faults = [Fault(**vars(FAILS_ONCE))]
    return world


def kinds(outside: Outside) -> list[str]:
    return [one["kind"] for one in outside.told]


@pytest.mark.parametrize("minutes", [3, 8])
async def test_a_restart_during_a_short_list_of_servers_forgets_no_failure_of_those_that_it_lacks(
    tmp_path: Path, outside: Outside, minutes: int
) -> None:
    world = two_servers()
    path = configured(tmp_path, world, schedule=TWICE)
    _, _, more = path.read_text().partition("\nnotify:")
    pattern = f'{{match: "web-*", schedule: "{TWICE}", retry: {{times: 0}}}}'
    path.write_text(f"{path.read_text().partition('[')[0]}[{pattern}]\nnotify:{more}")
    async with daemon_on(path, world):
        await asyncio.sleep(15 * MINUTE)
    assert kinds(outside) == ["failure"]
    kept = world.servers.pop("12345")
    async with daemon_on(path, world):
        await asyncio.sleep(minutes * MINUTE)
        world.servers["12345"] = kept
        await asyncio.sleep(40 * MINUTE)
    own = [one for one in outside.told if "no snapshots are taken of it any more" not in one["text"]]
    of_its_rotations = [one["kind"] for one in own if "rotation" in one["text"]]
    assert of_its_rotations == ["failure", "recovery"], outside.words


async def test_a_failing_server_that_is_taken_out_of_the_file_is_told_once_and_has_its_end_when_it_is_put_back(
    tmp_path: Path, outside: Outside
) -> None:
    world = two_servers()
    path = configured(tmp_path, world, schedule=TWICE)
    whole = path.read_text()
    entry = whole.partition("[")[2].split(", {id")[0]
    async with daemon_on(path, world):
        await asyncio.sleep(7 * MINUTE)
        path.write_text(whole.replace(f"{entry}, ", ""))
        await asyncio.sleep(8 * MINUTE)
        assert kinds(outside) == ["failure"], "it may be put back in a moment"
        await asyncio.sleep(10 * MINUTE)
        assert kinds(outside) == ["failure", "failure"], outside.words
        assert outside.told[1]["text"].startswith("web-01: it is not looked after any more, and nothing more is told")
    async with daemon_on(path, world):
        await asyncio.sleep(13 * MINUTE)
        path.write_text(whole)
        await asyncio.sleep(15 * MINUTE)
    assert kinds(outside) == ["failure", "failure", "recovery"], outside.words
    assert outside.told[-1]["server"] == {"id": 12345, "name": "web-01"}


async def test_an_alarm_of_a_server_that_is_taken_out_of_the_file_is_over(tmp_path: Path, outside: Outside) -> None:
    world = a_world("web-01", "web-02")
    path = configured(tmp_path, world, schedule="@yearly")
    whole = path.read_text()
    del world.servers["12345"]
    async with daemon_on(path, world):
        await asyncio.sleep(15 * MINUTE)
        assert kinds(outside) == ["failure"]
        path.write_text(whole.replace(whole.partition("[")[2].partition("{id: 12346")[0], ""))
        await asyncio.sleep(15 * MINUTE)
    assert kinds(outside) == ["failure", "recovery"], outside.words
    assert "it is over: the account has no server 12345" in outside.told[-1]["text"]


async def test_the_end_of_a_cause_waits_for_no_server_that_is_paused_meanwhile(
    tmp_path: Path, outside: Outside
) -> None:
    world = a_world("web-01", "web-02")
    refused = Fault(kind="status", status=403, method="POST", path="/snapshots/", times=None)
    world.faults = [refused]
    path = configured(tmp_path, world, schedule="5,25,45 3 * * *")
    whole = path.read_text()
    async with daemon_on(path, world):
        await asyncio.sleep(15 * MINUTE)
        assert kinds(outside) == ["failure"]
        path.write_text(whole.replace("name: web-02,", "name: web-02, paused: true,"))
        world.faults = []
        await asyncio.sleep(17 * MINUTE)
        assert kinds(outside) == ["failure", "recovery"], outside.words
        assert outside.told[-1]["text"].endswith("it concerned 1 server: web-01")
        path.write_text(whole)
        await asyncio.sleep(20 * MINUTE)
    assert kinds(outside) == ["failure", "recovery", "recovery"], outside.words
    assert outside.told[-1]["server"] == {"id": 12346, "name": "web-02"}
