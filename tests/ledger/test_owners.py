"""Who a row says holds it: a name that no other process has, nor ever had."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from snaprotd.core.policy import Rules
from snaprotd.core.promise import Terms
from snaprotd.core.rotation import Rotation
from snaprotd.ledger.claims import Claimed
from snaprotd.wiring.assembly import ledger_or_none, open_ledger
from tests.support.daemons import settings
from tests.support.policies import a_policy
from tests.support.virtual_time import START


def begun(server_id: str) -> Rotation:
    rules = Rules(policy=a_policy())
    return Rotation.begin(
        id=server_id, server_id=server_id, label=server_id, slot=START, rules=rules, now=START, settle=120.0
    )


def owners(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [owner for (owner,) in connection.execute("SELECT owner FROM rotations ORDER BY id")]


async def test_each_time_that_a_ledger_is_opened_its_owner_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of the host's or the pod's comes back with its next process, which would take a dead one's leases for its
    own, and with a copy of the host, which would go on with them beside it.
    """
    monkeypatch.setattr(socket, "gethostname", lambda: "pod-0")
    for name in ("HOSTNAME", "POD_NAME", "NODE_NAME"):
        monkeypatch.setenv(name, "pod-0")
    config = settings(tmp_path)
    path = Path(config.state)
    for number in ("1", "2"):
        async with await open_ledger(config) as ledger:
            assert await ledger.claim(begun(number)) == Claimed(begun(number))
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(await open_ledger(config)) for _ in range(2)]
        for number, ledger in zip(("3", "4"), both, strict=True):
            assert await ledger.claim(begun(number)) == Claimed(begun(number))
    for number in ("5", "6"):
        async with ledger_or_none(path, Terms()) as ledger:
            assert await ledger.claim(begun(number)) == Claimed(begun(number))
    found = owners(path)
    assert len(set(found)) == 6
    assert not any("pod" in one for one in found)
    assert all(len(one) == 32 and int(one, 16) for one in found)
