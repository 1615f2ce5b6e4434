"""A start that is owed and that no process sees to: each command tells it, whatever it is for, and asks nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from snaprotd.commands import cli
from snaprotd.commands.jobs.by_hand import Impossible, by_hand
from snaprotd.commands.jobs.leave_off import forsaken
from snaprotd.config.file import load
from snaprotd.config.settings import resolve
from snaprotd.core.power import promised
from snaprotd.core.rotation import Rotation
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.store import Ledger
from snaprotd.wiring.assembly import new_rotation
from tests.support.daemons import a_world, configure, entry
from tests.support.world_transport import WorldTransport

TOLD = "snaprotd: a start is owed to s12345, and no process sees to it: `snaprotd ledger owed` says more, and `snap"
TOLD_MILDLY = (
    "a start is owed to s12345, and no rotation sees to it: `snaprotd ledger owed` and `snaprotd status` say more"
)


class Left:
    """What a process has left that was killed while it held a server off."""

    def __init__(self, folder: Path) -> None:
        self.world = a_world("web-01", "web-02")
        keys = ("@yearly", "stop_first: true")
        self.path = configure(folder, *(entry(*keys, server_id=one) for one in ("12345", "12346")))
        self.snapshot = str(self.world.add_snapshot("12345", "by-hand").id)
        self.ledger = folder / "state.db"

    async def leave(self, ledger: Ledger) -> None:
        config = load(self.path, {})
        ledger.starts.account = "vps.invalid"
        now = datetime.now(UTC).replace(microsecond=0)
        rotation = new_rotation(config, resolve(config, None)[0], slot=now, now=now)
        claim = await ledger.claim(rotation)
        assert isinstance(claim, Claimed)
        ours: Rotation = claim.rotation
        await ledger.save(replace(ours, power=promised(ours.power, now)))

    async def is_left(self) -> None:
        async with await Ledger.open(self.ledger, owner="killed", lock=False) as ledger:
            await self.leave(ledger)

    async def told(self, *but: str) -> str:
        return await forsaken(self.path, {}, load(self.path, {}), but)

    async def refused(self) -> str:
        async with by_hand(load(self.path, {}), {"VPS_API_TOKEN": self.world.token}, self.snapshot) as chosen:
            with pytest.raises(Impossible) as refusal:
                await chosen.refuse_if_busy()
        return str(refusal.value)


@pytest.fixture
def left(tmp_path: Path, commands_reach: Callable[[httpx.AsyncBaseTransport], None]) -> Left:
    one = Left(tmp_path)
    commands_reach(WorldTransport(one.world))
    return one


COMMANDS = ("plan", "list", "history", "check --online", "status", "now s12346")


@pytest.mark.real_time
@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_tells_it_in_a_line(
    left: Left, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(left.is_left())
    monkeypatch.setenv("VPS_API_TOKEN", left.world.token)
    monkeypatch.setattr("sys.argv", ["snaprotd", *line.split(), "--config", str(left.path)])
    monkeypatch.setattr("snaprotd.commands.now._run", lambda *_, **__: [])
    cli._run()
    assert [one for one in capsys.readouterr().err.splitlines() if one.startswith(TOLD)] != []


async def test_what_somebody_sees_to_is_nothing_to_tell(left: Left) -> None:
    """A night is long, and a server is off for some of it."""
    async with await Ledger.open(left.ledger, owner="alive") as ledger:
        await left.leave(ledger)
        assert await left.told() == ""
        assert "is open already" in await left.refused()
    assert "no process sees to it" in await left.told()
    assert await left.told("12345") == ""


async def test_beside_another_process_it_is_told_when_the_lease_has_run_out(left: Left) -> None:
    await left.is_left()
    async with await Ledger.open(left.ledger, owner="alive"):
        assert await left.told() == ""
        await asyncio.sleep(61)
        assert await left.told() == TOLD_MILDLY
        assert "the process that ran it is gone" in await left.refused()


async def test_restore_says_that_the_process_is_dead_and_what_to_do(left: Left) -> None:
    await left.is_left()
    told = await left.refused()
    assert told.startswith("a rotation of s12345 is open (slot ")
    assert (
        "and the process that ran it is gone: nothing was done. The next `snaprotd run` or `snaprotd now s12345`"
        in told
    )
    assert "starts the server, and may delete in its end what `snaprotd plan s12345` shows" in told


def test_to_look_whether_a_ledger_is_used_leaves_nothing_behind(tmp_path: Path) -> None:
    ledger = tmp_path / "state.db"
    assert FolderLock.is_free(ledger)
    assert list(tmp_path.iterdir()) == []
    held = FolderLock.acquire(ledger)
    assert held.was_alone
    assert not FolderLock.is_free(ledger)
    held.release()
    assert FolderLock.is_free(ledger)
    again = FolderLock.acquire(ledger)
    assert again.was_alone, "who only looks takes nobody's place"
    (tmp_path / "state.db.lock").unlink()
    assert not FolderLock.is_free(ledger), "the folder is locked too"
    again.release()
