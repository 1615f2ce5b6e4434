"""A ledger that cannot be written is told before a slot comes: on the page, by the probes and by the metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from snaprotd.core.rotation import Step
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from tests.ledger.test_locked import locked
from tests.scenarios.test_power import DISKS, LedgerOnABadDisk
from tests.support.daemons import Line, daemon_on, write_config

pytestmark = pytest.mark.usefixtures("one_clock")


@DISKS
async def test_a_ledger_that_can_be_read_and_not_written_is_told_at_once(
    tmp_path: Path, disk: str, monkeypatch: pytest.MonkeyPatch, log: list[Line]
) -> None:
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", LedgerOnABadDisk)
    world = World()
    world.add_server("web-01")
    path = write_config(tmp_path, '[{id: 12345, name: web-01, schedule: "@yearly"}]')
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(60)
        assert watched.value("snaprotd_ledger_writable") == 1
        assert (await watched.get("/readyz")).status_code == 200
        for _ in range(2):
            monkeypatch.setattr(LedgerOnABadDisk, "disk", disk)
            await asyncio.sleep(20)  # to the next mark of life; a folder that cannot be written is noticed sooner
            assert watched.value("snaprotd_ledger_writable") == 0
            ready = await watched.get("/readyz")
            assert (ready.status_code, "the ledger" in ready.text, str(tmp_path) in ready.text) == (503, True, True)
            (problem, *_) = (await watched.daemon.view.status())["problems"]
            assert (problem["server"], problem["severity"], problem["text"] in ready.text) == (None, "alarm", True)
            assert (await watched.get("/healthz")).status_code == 200
            await asyncio.sleep(300)
            monkeypatch.setattr(LedgerOnABadDisk, "disk", "")
            await asyncio.sleep(4)
            assert watched.value("snaprotd_ledger_writable") == 1
            assert (await watched.get("/readyz")).status_code == 200
            assert (await watched.daemon.view.status())["ledger_error"] is None
    lines = [line["event"] for line in log if "ledger" in line["event"]]
    told, mended = (
        "the ledger cannot be written: rotations may be unable to begin before it can",
        "the ledger can be written again",
    )
    assert lines == [told, mended] * 2


async def test_a_ledger_that_does_not_answer_is_told_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.add_server("web-01")
    path = write_config(tmp_path, '[{id: 12345, name: web-01, schedule: "@yearly"}]')
    answers = asyncio.Event()
    asked = []

    async def probe(_: Ledger, *, mark: bool) -> bool:
        asked.append(1)
        return await answers.wait()

    monkeypatch.setattr(Ledger, "probe", probe)
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(300)
        assert watched.value("snaprotd_ledger_writable") == 0
        assert "does not answer" in (await watched.get("/readyz")).text
        assert (await watched.get("/healthz")).status_code == 200
        assert len(asked) == 1
        answers.set()
        await asyncio.sleep(60)
        assert watched.value("snaprotd_ledger_writable") == 1


@pytest.mark.usefixtures("silence")
async def test_another_program_that_keeps_it_locked_keeps_no_server_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaprotd.ledger.sqlite.BUSY", 0.2)
    monkeypatch.setattr("snaprotd.ledger.sqlite.A_MOMENT", 0.001)
    world = World(snapshot_seconds=(60, 60))
    world.add_server("web-01")
    path = write_config(tmp_path, '[{id: 12345, name: web-01, schedule: "10 3 * * *", stop_first: true}]')
    async with daemon_on(path, world) as watched:
        await watched.reaches(Step.WAIT)
        with locked(tmp_path / "state.db"):
            await asyncio.sleep(120)
            assert world.status_of("12345") == "active"
            assert watched.value("snaprotd_ledger_writable") == 0
            assert (await watched.get("/healthz")).status_code == 200
            (problem, *_) = (await watched.daemon.view.status())["problems"]
            assert "kept from being written by" in problem["text"]
            assert "end that one" in problem["do"]
            await asyncio.sleep(300)
            assert (await watched.get("/healthz")).status_code == 200
        await asyncio.sleep(120)
        assert watched.value("snaprotd_ledger_writable") == 1
        assert [one.result for one in await watched.daemon._tools.ledger.history()] == ["success"]
    assert len(world.created) == 1
