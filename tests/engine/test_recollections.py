"""What is known of all that exists, or that it is not known."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.holds import FOREVER, RELEASED, snapshot_name
from snaprotd.core.model import Owner, Snapshot
from snaprotd.core.ownership import owner_of
from snaprotd.engine.recollections import Recollections
from snaprotd.ledger.salvage import NoLedger
from snaprotd.ledger.sql.driver import Driver
from snaprotd.ledger.store import Ledger
from tests.ledger.test_store import rotation
from tests.provider.test_inventory import Account, entry, opened


def now() -> datetime:
    return datetime.now(UTC)


async def test_while_it_is_not_known_which_rows_have_taken_what_exists_none_is_forgotten(tmp_path: Path) -> None:
    async with opened(Account(2)) as inventory, await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        await inventory.refresh()
        blind = Recollections(inventory, NoLedger(Path("none"), "the disk is gone"), now)
        await blind.refresh("main")
        assert blind.rows() is None
        assert blind.held("1") == inventory.known["1"]
        seeing = Recollections(inventory, ledger, now)
        await seeing.refresh("main")
        assert seeing.rows() == set()


async def test_a_row_is_not_forgotten_because_one_list_lacks_its_snapshot(tmp_path: Path) -> None:
    account = Account(2)
    async with opened(account) as inventory, await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        await ledger.claim(replace(rotation(snapshot_id="101", creates=1), server_id="1", id="r101"))
        recollections = Recollections(inventory, ledger, now)
        whole, short = [entry(101, 1), entry(103, 1)], [entry(103, 1)]
        for account.snapshots in (whole, short):
            await inventory.refresh()
            await recollections.refresh("main")
        assert recollections.rows() == {"r101"}
        assert recollections.rows() == set()


async def test_what_a_person_says_of_a_hold_is_known_though_the_list_is_the_same(tmp_path: Path) -> None:
    async with opened(Account(2)) as inventory, await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        await inventory.refresh()
        recollections = Recollections(inventory, ledger, now)
        await recollections.refresh("main")
        (server_id, held) = next((one, held) for one, held in inventory.known.items() if held.snapshots)
        for until in (FOREVER, RELEASED):
            await ledger.holds.say(held.snapshots[0], [server_id], until, now())
            await recollections.refresh("main")
            known = recollections.held(server_id)
            assert known is not None
            assert known.snapshots[0].hold == until


async def test_a_snapshot_that_the_ledger_was_not_asked_for_yet_is_called_nobody_elses(tmp_path: Path) -> None:
    """Also where our clock is ahead, so that it is older than the slot in its name."""
    account = Account(1)
    name = snapshot_name("main", now())
    async with opened(account) as inventory, await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        await ledger.probe()
        recollections = Recollections(inventory, ledger, now)
        await inventory.refresh()
        await recollections.refresh("main")
        account.snapshots = [*account.snapshots, entry(102, 1, name=name)]
        await inventory.snapshots("1")
        shown = recollections.held("1")
        assert shown is not None
        (fresh,) = [one for one in shown.snapshots if one.name == name]
        for at in (fresh.created_at, now() - timedelta(days=1)):
            assert owner_of(replace(fresh, created_at=at), instance="main", adopt=()) is Owner.MANAGED
        await recollections.refresh("main")
        asked = recollections.held("1")
        assert asked is not None
        assert [one.in_ledger for one in asked.snapshots if one.name == name] == [False]


async def test_the_ledger_is_asked_as_often_for_many_servers_as_for_one(tmp_path: Path) -> None:
    async def asked(servers: int) -> int:
        account, submit, times = Account(servers), Driver.submit, 0
        account.snapshots = [entry(n, n, name=snapshot_name("main", now())) for n in range(1, servers + 1)]

        def counted(self: Driver, work: Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
            nonlocal times
            times += 1
            return submit(self, work)

        async with opened(account) as inventory, await Ledger.open(tmp_path / f"{servers}.db", owner="a") as ledger:
            await inventory.refresh()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Driver, "submit", counted)
                await Recollections(inventory, ledger, now).refresh("main")
        return times

    assert await asked(40) == await asked(1) > 0


async def test_a_list_that_says_what_the_last_one_said_has_the_very_same_answer(tmp_path: Path) -> None:
    """So that of thousands of servers those are judged anew of which something has changed."""
    account = Account(2)
    account.snapshots = [entry(101, 1), entry(102, 2, status="in_progress")]
    async with opened(account) as inventory, await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        recollections = Recollections(inventory, ledger, now)

        async def listed() -> dict[str, tuple[Snapshot, ...]]:
            await inventory.refresh()
            await recollections.refresh("main")
            return {one: held.snapshots for one in ("1", "2") if (held := recollections.held(one)) is not None}

        first, second = await listed(), await listed()
        account.snapshots = [entry(101, 1, size_mb=7), entry(102, 2, status="in_progress")]
        third = await listed()
        account.snapshots = [entry(101, 1, size_mb=7), entry(103, 1), entry(102, 2)]
        fourth = await listed()
    assert second["1"] is first["1"]
    assert second["2"] is not first["2"], "for how long it stands as it is counts"
    assert [one.size_mb for one in third["1"]] == [7]
    assert [one.id for one in fourth["1"]] == ["101", "103"]
    assert [one.is_completed for one in fourth["2"]] == [True]


async def test_a_list_of_another_of_the_providers_days_is_judged_anew(tmp_path: Path) -> None:
    """Holds end with that day."""
    async with opened(Account(1)) as inventory, await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        await inventory.refresh()
        recollections = Recollections(inventory, ledger, now)
        await recollections.refresh("main")
        (known,) = inventory.known["1"].snapshots
        answers = []
        for at in (now(), now(), now() + timedelta(days=1)):
            inventory._known["1"] = replace(inventory.known["1"], snapshots=(replace(known, listed_at=at),))
            held = recollections.held("1")
            assert held is not None
            answers.append(held.snapshots)
    assert answers[1] is answers[0]
    assert answers[2] is not answers[1]
