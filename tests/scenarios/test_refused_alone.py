"""The provider answers 429 for ever to some of what is asked, and answers the rest: the rest does not suffer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from snaprotd.config import file as config
from snaprotd.core.rotation import Rotation
from snaprotd.daemon.life import Daemon
from tests.support.fleet import FIRST_SLOT, Fleet, an_account, looking_after, write_config
from tests.support.quick_account import FIRST_SERVER, Asked, QuickAccount

pytestmark = pytest.mark.usefixtures("silence")

MINUTE = 60.0
MANY = Fleet(servers=24, stop_first=True)
Refuses = Callable[[str, int | None], bool]
READS = ("server", "snapshots of one")


@dataclass
class Struck:
    """A daemon at work, and the account that it works on."""

    daemon: Daemon
    account: QuickAccount
    ended: list[Rotation]

    def results(self, *, but: set[int]) -> list[str | None]:
        """Of all rotations but those of some servers, which may go on."""
        return [str(one.result) for one in self.ended if int(one.server_id) not in but]

    def downtimes(self, *, but: set[int]) -> list[float]:
        return [seconds for server, seconds in self.account.downtimes if server not in but]

    def refused(self) -> list[Asked]:
        return [one for one in self.account.journal if one.status == 429]


@asynccontextmanager
async def struck(folder: Path, refuses: Refuses, fleet: Fleet = MANY) -> AsyncIterator[Struck]:
    """The night has just begun."""
    random.seed(1)
    account, ended = an_account(fleet), list[Rotation]()
    settings = config.load(write_config(folder, fleet), {})
    async with looking_after(settings, fleet, account, ended) as (daemon, _):
        await asyncio.sleep(FIRST_SLOT.timestamp() - account.clock())
        account.journal, account.refuses = [], refuses
        try:
            yield Struck(daemon, account, ended)
        finally:
            account.refuses = lambda *_: False


def some(number: int) -> set[int]:
    return {FIRST_SERVER + 4 * one for one in range(number)}


ONE = {FIRST_SERVER}


def assert_no_other_suffers(night: Struck, which: set[int]) -> None:
    assert night.results(but=which) == ["success"] * (len(night.account.servers) - len(which))
    assert max(night.downtimes(but=which)) <= MANY.need + 45


@pytest.mark.parametrize("number", [1, 6])
async def test_servers_whose_starts_are_refused_for_ever_keep_no_other_one_off(tmp_path: Path, number: int) -> None:
    which = some(number)
    async with struck(tmp_path, lambda kind, server: kind == "start" and server in which) as night:
        await asyncio.sleep(30 * MINUTE)
        assert_no_other_suffers(night, which)
        for server in which:
            asked = [one.at for one in night.refused() if one.server == server]
            waits = [later - earlier for earlier, later in pairwise(asked)]
            assert max(waits) <= 65, "it is asked again for ever"
            assert len(asked) <= 30 + 15, "and seldom"
            assert min(waits[-5:]) >= 59
        api = (await night.daemon.view.status())["api"]
        assert api["rate"] == api["configured_rate"]
        assert api["refused_last_hour"] == len(night.refused())
        assert "what the provider refuses while it answers others: POST /api/v1/servers/" in api["note"]
        night.account.refuses, normal_again = (lambda *_: False), night.account.clock()
        while night.account.off_now():  # noqa: ASYNC110
            await asyncio.sleep(1)
        assert night.account.clock() - normal_again <= 65 + MANY.power_seconds


FEWER = Fleet(servers=12, stop_first=True)
OF_ONE: list[tuple[str, Callable[[str], bool], str, int]] = [
    # what is refused of one server, what may become of it, and how many are asked of it at the most
    ("what is read of it", lambda kind: kind in READS, "success partial failure", 45),
    ("deletions", lambda kind: kind == "delete", "partial", 10),
    ("creation", lambda kind: kind == "create", "failure", 45),
    ("its stop", lambda kind: kind == "stop", "failure", 15),
]


@pytest.mark.parametrize(("refuses", "result", "most"), [row[1:] for row in OF_ONE], ids=[row[0] for row in OF_ONE])
async def test_what_is_refused_of_one_server_for_ever_is_no_others_trouble(
    tmp_path: Path, refuses: Callable[[str], bool], result: str, most: int
) -> None:
    async with struck(tmp_path, lambda kind, server: server in ONE and refuses(kind), FEWER) as night:
        await asyncio.sleep(33 * MINUTE)
        assert_no_other_suffers(night, ONE)
        assert {str(one.result) for one in night.ended if int(one.server_id) in ONE} <= set(result.split())
        assert len(night.refused()) <= most
        assert not night.account.off_now()


@pytest.mark.parametrize("step", ["stop", "create"])
async def test_a_server_that_is_off_and_shown_by_lists_alone_is_started(tmp_path: Path, step: str) -> None:
    """From that step on, as soon as it has struck."""

    def refuses(kind: str, server: int | None) -> bool:
        has_struck = any(one.kind == step and one.server in ONE for one in account.journal)
        return has_struck and server in ONE and kind in READS

    # Were more of them due at once, lists would be what all of them are looked for in.
    async with struck(tmp_path, lambda *_: False, replace(FEWER, due=1)) as night:
        account = night.account
        account.refuses = refuses
        await asyncio.sleep(44 * MINUTE)
        assert night.refused()
        assert not account.off_now()


async def test_lists_that_are_refused_for_ever_keep_no_server_off(tmp_path: Path) -> None:
    """Each is asked for by itself."""
    async with struck(tmp_path, lambda *_: False, FEWER) as night:
        await asyncio.sleep(2 * MINUTE)
        assert len(night.account.off_now()) == FEWER.servers
        night.account.refuses = lambda kind, _: kind in ("servers", "snapshots")
        await asyncio.sleep(20 * MINUTE)
        assert night.results(but=set()) == ["success"] * FEWER.servers
        assert max(night.downtimes(but=set())) <= FEWER.need + 45
        assert len(night.refused()) <= 100


async def test_a_limit_is_learnt_beside_starts_that_are_refused_for_ever(tmp_path: Path) -> None:
    which = some(3)
    fleet = replace(FEWER, servers=20, allowed=3)
    async with struck(tmp_path, lambda kind, server: kind == "start" and server in which, fleet) as night:
        await asyncio.sleep(30 * MINUTE)
        assert night.results(but=which) == ["success"] * (fleet.servers - len(which))
        assert max(night.downtimes(but=which)) <= fleet.need + 60
        begun = night.account.journal[0].at
        others = [one for one in night.account.journal if one.at > begun + 60 and one.kind != "start"]
        assert sum(one.status == 429 for one in others) * 50 <= len(others)
