"""A whole daemon tells people of slots that nobody saw, where nothing is run in their place: once, and their end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from snaprotd.simulator import Fault, World
from tests.daemon.test_teller import MINUTE, Outside, configured, outside
from tests.support.daemons import Watched, a_world, daemon_on

__all__ = ["outside"]

pytestmark = pytest.mark.usefixtures("silence", "few_ticks")

THRICE = "10,20,50 3 * * *"
SKIPS = f'schedule: "{THRICE}", missed: skip'


def kinds(outside: Outside) -> list[str]:
    return [one["kind"] for one in outside.told]


async def problems(watched: Watched) -> list[tuple[str, str]]:
    return [(one["severity"], one["text"]) for one in (await watched.get("/api/status")).json()["problems"]]


def skipping(folder: Path, names: str = "a", keys: str = SKIPS) -> tuple[Path, World]:
    world = a_world(*names)
    path = configured(folder, world, schedule=THRICE)
    path.write_text(path.read_text().replace(f'schedule: "{THRICE}"', keys))
    return path, world


async def comes_up_late(path: Path, world: World) -> None:
    """The daemon was there before its slots, and then not at two of them."""
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
    await asyncio.sleep(20 * MINUTE)


LOST = "its schedule was not followed: 2 slots, not run: nobody saw them in time"


async def test_slots_that_are_skipped_are_told_once_and_shown_until_the_next_success_through_a_restart_too(
    tmp_path: Path, outside: Outside
) -> None:
    path, world = skipping(tmp_path)
    await comes_up_late(path, world)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(5 * MINUTE)
        (told,) = outside.told
        assert (told["kind"], told["severity"], told["text"]) == ("failure", "attention", f"a: {LOST}")
        assert "snaprotd now a" in told["do"]
        assert ("attention", LOST) in await problems(watched)
        assert outside.pings == ["/fail"]
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(10 * MINUTE)
        assert ("attention", LOST) in await problems(watched)
        assert kinds(outside) == ["failure"]
        await asyncio.sleep(25 * MINUTE)
        assert [one.result for one in watched.ended] == ["success"]
        assert ("attention", LOST) not in await problems(watched)
    assert kinds(outside) == ["failure", "recovery"], outside.words
    assert outside.pings == ["/fail", ""]


async def test_slots_that_many_servers_have_lost_are_told_in_a_digest(tmp_path: Path, outside: Outside) -> None:
    path, world = skipping(tmp_path, "abcdef")
    await comes_up_late(path, world)
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
    (told,) = outside.told
    assert told["text"].startswith("6 servers: a, b, c, d, e, f. The first: a: its schedule was not followed: ")


@pytest.mark.parametrize("keys", [f'schedule: "{THRICE}"', f"{SKIPS}, paused: true"], ids=["run late", "paused"])
async def test_slots_of_which_one_is_run_late_or_that_nobody_waits_for_are_no_news(
    tmp_path: Path, outside: Outside, keys: str
) -> None:
    path, world = skipping(tmp_path, keys=keys)
    await comes_up_late(path, world)
    async with daemon_on(path, world):
        await asyncio.sleep(15 * MINUTE)
    assert kinds(outside) == []


async def test_a_slot_that_is_too_old_to_be_run_late_is_told(tmp_path: Path, outside: Outside) -> None:
    path, world = skipping(tmp_path, keys=f'schedule: "{THRICE}", missed_within: 2m')
    await comes_up_late(path, world)
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
    assert outside.words == [f"failure: a: {LOST}"]


async def test_a_failure_and_lost_slots_of_one_server_have_each_their_end(tmp_path: Path, outside: Outside) -> None:
    path, world = skipping(tmp_path, keys='schedule: "4,25,35,55 3 * * *", missed: skip')
    world.faults = [Fault(kind="ends", word="failed", method="POST", path="/snapshots/")]
    async with daemon_on(path, world):
        await asyncio.sleep(20 * MINUTE)
    await asyncio.sleep(20 * MINUTE)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(35 * MINUTE)
        assert await problems(watched) == []
    assert kinds(outside) == ["failure", "failure", "recovery", "recovery"], outside.words
    assert {one["text"].split(": ")[1] for one in outside.told[2:]} == {"it is over", "its rotation has succeeded"}
