"""An old copy of the ledger is put back: what it says of a server's power is long over, and a person is asked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snaprotd.core.errors import ConfigError
from snaprotd.core.rotation import Step
from snaprotd.daemon.last_resort import pay_what_is_owed
from snaprotd.simulator import Fault
from tests.support.daemons import look_around_less
from tests.support.promised import DAY, HOUR, Promise

pytestmark = pytest.mark.usefixtures("one_clock", "silence")


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_around_less(monkeypatch, tick=301.3, leases=24.1, file=3600.0, account=601.7)


class Restored(Promise):
    """A ledger of which no process knew for two days; in it a server is off because of us."""

    def __init__(self, folder: Path, *faults: Fault, more: str = "", **keys: str) -> None:
        super().__init__(folder, *faults, schedule="5 3 * * *", more=more, **keys)
        self.ledger = folder / "state.db"

    async def is_left_off(self) -> None:
        watched = await self.begin()
        await watched.reaches(Step.WAIT)
        assert self.status == "stopped"
        await self.kill()
        await asyncio.sleep(2 * DAY)
        self.way.posts.clear()

    def was_looked_after_meanwhile(self, instance: str = "main") -> None:
        """By a daemon on the ledger that this one is an old copy of; and it was switched off by a person since."""
        slot = datetime(2025, 1, 17, 3, 5, tzinfo=UTC)
        self.world.add_snapshot("12345", f"snaprotd-{instance}-20250117T030500Z", created_at=slot)

    async def texts(self) -> list[str]:
        return [problem["text"] for problem in (await self.report())["problems"]]


async def old_copy(folder: Path) -> Restored:
    one = Restored(folder)
    await one.is_left_off()
    one.was_looked_after_meanwhile()
    return one


async def test_what_a_person_switched_off_is_not_started_for_an_old_copy(tmp_path: Path) -> None:
    """It is asked about, for as long as it is off; a night goes by in which its snapshot is taken as it is."""
    one = await old_copy(tmp_path)
    watched = await one.begin()
    await asyncio.sleep(HOUR)
    assert any("an old copy" in text for text in await one.texts())
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 1
    taken = set(one.world.snapshots)
    await asyncio.sleep(DAY)
    assert one.status == "stopped"
    assert one.way.posts == []
    assert set(one.world.snapshots) - taken
    assert [one.result for one in watched.ended] == ["failure"] * 2  # none of them says that all went well
    assert [round(one.power.off_for) for one in watched.ended] == [0, 0]
    assert (await one.report())["state"] == "alarm"
    assert await one.end() == 0


async def test_what_is_older_than_the_slot_in_its_name_makes_no_old_copy_of_the_ledger(tmp_path: Path) -> None:
    """A person's own, under a name of ours with a time to come, keeps no server off."""
    one = Restored(tmp_path)
    watched = await one.begin()
    await watched.reaches(Step.WAIT)
    await one.kill()
    await asyncio.sleep(HOUR)
    one.world.add_snapshot("12345", "snaprotd-main-20250120T030500Z", created_at=one.world.now())
    await one.begin()
    await asyncio.sleep(HOUR)
    assert one.status == "active"
    await one.end()


async def test_it_is_over_when_the_server_runs_again(tmp_path: Path) -> None:
    one = await old_copy(tmp_path)
    watched = await one.begin()
    await asyncio.sleep(HOUR)
    one.world._switch(one.world.servers["12345"], "start")
    await asyncio.sleep(HOUR)
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 0
    assert not any("old copy" in text for text in await one.texts())
    await asyncio.sleep(DAY)  # and the next night stops it, and starts it
    assert one.way.posts == ["stop", "start"]
    assert one.status == "active"
    await one.end()


async def test_a_server_that_is_gone_is_nothing_to_be_asked_about(tmp_path: Path) -> None:
    one = await old_copy(tmp_path)
    one.world.add_server("web-02")
    watched = await one.begin()
    await asyncio.sleep(HOUR)
    left = one.world.servers.pop("12345")
    await asyncio.sleep(HOUR)
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 0
    assert not any("old copy" in text for text in await one.texts())
    one.world.servers["12345"] = left  # off still, and for the same reason
    await asyncio.sleep(HOUR)
    assert any("old copy" in text for text in await one.texts())
    assert one.way.posts == []
    await one.end()


async def test_a_refused_file_and_an_old_copy_start_nothing(tmp_path: Path) -> None:
    one = await old_copy(tmp_path)
    async with asyncio.timeout(HOUR):
        assert await pay_what_is_owed([one.ledger], {"VPS_API_TOKEN": one.world.token}, ConfigError([]), one.way)
    assert one.status == "stopped"
    assert one.way.posts == []


async def test_a_ledger_that_slept_for_days_is_no_old_copy(tmp_path: Path) -> None:
    """Nothing was done with the server meanwhile: whoever stopped it last still owes the start."""
    one = Restored(tmp_path)
    await one.is_left_off()
    await one.begin()
    await one.until(lambda: one.status == "active", 120)
    await one.end()


async def test_another_instance_on_the_same_server_makes_no_copy_old(tmp_path: Path) -> None:
    one = Restored(tmp_path)
    await one.is_left_off()
    one.was_looked_after_meanwhile("other")
    await one.begin()
    await one.until(lambda: one.status == "active", 120)
    await one.end()


async def test_a_list_that_cannot_be_read_keeps_no_start_waiting(tmp_path: Path) -> None:
    one = await old_copy(tmp_path)
    one.world.faults.append(Fault(kind="status", method="GET", path="/snapshots/", status=502, times=None))
    await one.begin()
    await one.until(lambda: one.status == "active", 3 * HOUR)  # its rotation waits for its snapshot first
    await one.end()
