"""Whose the ledger is, where processes of several accounts begin on a new one in the same moment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.errors import AnothersLedger
from snaprotd.ledger.store import Ledger
from snaprotd.wiring.whose import demand_own_account
from tests.support.lives import OneOfSeveral


class Account:
    """What is asked of it here, and takes a while to be answered."""

    def __init__(self, email: str) -> None:
        self._email = email

    async def owner(self) -> str:
        await asyncio.sleep(1)
        return self._email

    async def servers(self) -> list[Any]:
        return []


@pytest.mark.parametrize(("host", "email"), [("other.invalid", ""), ("other.invalid", "b@account.invalid")])
async def test_of_two_accounts_that_begin_at_once_one_is_refused(tmp_path: Path, host: str, email: str) -> None:
    ledgers = [await OneOfSeveral.open(tmp_path / "state.db", owner=one, lock=False) for one in ("one", "two")]
    ledgers[0].starts.account, ledgers[1].starts.account = "vps.invalid", host
    accounts: list[Any] = [Account("a@account.invalid"), Account(email)]
    found = await asyncio.gather(*map(demand_own_account, ledgers, accounts), return_exceptions=True)
    assert [type(one) for one in found if one is not None] == [AnothersLedger]
    first = ledgers[found.index(None)]
    assert (await first.starts.whose()).account == first.starts.account
    for one in ledgers:
        await one.close()


async def test_replicas_of_one_account_that_begin_at_once_are_not_refused(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="one") as ledger:
        ledger.starts.account = "vps.invalid"
        known = await ledger.starts.whose()
        assert await ledger.starts.take_possession("a@account.invalid", known=known)
        assert await ledger.starts.take_possession("a@account.invalid", known=known)
        assert await ledger.starts.take_possession("", known=known), "whose the token is could not be told"
        assert (await ledger.starts.whose()).email == "a@account.invalid"
        assert not await ledger.starts.take_possession("b@account.invalid", known=known)
        renamed = await ledger.starts.whose()
        assert await ledger.starts.take_possession("b@account.invalid", known=renamed), "its e-mail was changed"
