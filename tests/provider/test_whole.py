"""A list of many pages that changes while it is read: what is in doubt is asked for, and nothing is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from snaprotd.core.errors import Temporary
from snaprotd.core.model import Snapshot, SnapshotState
from snaprotd.provider import Doubtful, Priority, Shifted
from snaprotd.provider.identity import Identities, Names
from snaprotd.provider.inventory import Inventory
from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org.client import CAPABILITIES, VpsOrg
from snaprotd.provider.whole import LATER, READ_AGAIN, READ_LATER, read_whole
from snaprotd.simulator import Reply, Request, World
from tests.support.world_transport import WorldTransport

# -- the decision ----------------------------------------------------------------------------------------------

BEGAN = datetime(2025, 1, 16, 3, 10, tzinfo=UTC)


def snap(number: int, *, after: float = -3600.0, **changes: Any) -> Snapshot:
    """One of the server of its tens, taken so many seconds after the reading began."""
    taken = BEGAN + timedelta(seconds=after)
    one = Snapshot(
        id=str(number),
        server_id=str(number // 10),
        server_name="",
        name=f"n{number}",
        state=SnapshotState.COMPLETED,
        status="completed",
        created_at=taken,
    )
    return replace(one, **changes)


@dataclass
class Shifting:
    """A provider whose list of all is `pages` that shifted, each time that it is read, and of one server what is so."""

    pages: list[Snapshot]
    count: int
    alone: dict[str, list[Snapshot] | Exception]
    began: datetime | None = BEGAN
    asked: list[str] = field(default_factory=list)
    capabilities = CAPABILITIES

    async def snapshots(self, server_id: str | None = None, *, priority: Priority) -> list[Snapshot]:
        self.asked.append(server_id or "all")
        if server_id is None:
            raise Shifted("it shifted", readable=tuple(self.pages), count=self.count, began=self.began)
        if isinstance(answer := self.alone[server_id], Exception):
            raise answer
        return answer


KNOWN = {"1": [snap(11), snap(12)], "2": [snap(21), snap(22)], "3": [snap(31)]}
ALL = [one for its in KNOWN.values() for one in its]


def but(*numbers: int) -> list[Snapshot]:
    return [one for one in ALL if int(one.id) not in numbers]


REPAIRED: list[tuple[str, Shifting, list[str], set[int]]] = [
    # what was read, who is asked for by itself, and what there is
    ("one that was added at the front", Shifting(ALL, 5, {}), [], {11, 12, 21, 22, 31}),
    (
        "one deleted, and another left out for it",
        Shifting(but(22), 5, {"2": [snap(21), snap(22)]}),
        ["2"],
        {11, 12, 21, 22, 31},
    ),
    (
        "the deleted one was of the same server",
        Shifting(but(22), 5, {"2": [snap(22)]}),
        ["2"],
        {11, 12, 22, 31},
    ),
    ("all of one server were left out", Shifting(but(31), 5, {"3": [snap(31)]}), ["3"], {11, 12, 21, 22, 31}),
    (
        "it has one more by now",
        Shifting(but(31), 5, {"3": [snap(31), snap(32, after=9)]}),
        ["3"],
        {11, 12, 21, 22, 31, 32},
    ),
]


@pytest.mark.parametrize(("cloud", "asked", "there"), [row[1:] for row in REPAIRED], ids=[row[0] for row in REPAIRED])
async def test_what_was_known_and_is_in_no_page_is_asked_for(
    cloud: Shifting, asked: list[str], there: set[int]
) -> None:
    cloud.asked.clear()
    whole = await read_whole(cloud, Names((), Identities()), KNOWN, priority=Priority.OPEN)  # type: ignore[arg-type]
    assert {int(one.id) for one in whole} == there
    assert cloud.asked == ["all", *asked]


NEVER: list[tuple[str, Shifting, list[str]]] = [
    # what was read, and who is asked for by itself each time, before the list is read again
    ("one is missing that nobody knew", Shifting(ALL, 6, {}), []),
    ("one that was known was deleted, and one is missing that nobody knew", Shifting(but(31), 5, {"3": []}), ["3"]),
    ("it was not found, and there is a new one in its place", Shifting(but(31), 5, {"3": [snap(39)]}), ["3"]),
    ("a new one in a page stands in for one that nobody knew", Shifting([*ALL, snap(13, after=5)], 6, {}), []),
    ("of one it is not told when it was taken", Shifting([*but(31), snap(31, created_at=None)], 5, {}), []),
    ("it is not told when the reading began", Shifting(ALL, 5, {}, began=None), []),
    ("the one that is missing cannot be asked for", Shifting(but(31), 5, {"3": Temporary("429")}), ["3"]),
    ("its list is in doubt too", Shifting(but(31), 5, {"3": Doubtful("short")}), ["3"]),
    ("as many are missing as it takes to read it again", Shifting(but(22, 31), 5, {}), []),
]


@pytest.mark.parametrize(("cloud", "asked"), [row[1:] for row in NEVER], ids=[row[0] for row in NEVER])
async def test_what_cannot_be_accounted_for_is_read_again_and_never_taken_for_all(
    cloud: Shifting, asked: list[str]
) -> None:
    cloud.asked.clear()
    with pytest.raises(Doubtful, match="it shifted"):
        await read_whole(cloud, Names((), Identities()), KNOWN, priority=Priority.OPEN)  # type: ignore[arg-type]
    assert cloud.asked == ["all", *asked] * (READ_AGAIN + 1)


async def test_what_nobody_waits_for_is_read_again_when_less_is_at_work() -> None:
    """To ask for each server of a large account takes many times as long, and as many requests."""
    cloud, began = Shifting([], 3000, {}), asyncio.get_running_loop().time()
    with pytest.raises(Doubtful, match="it shifted"):
        await read_whole(cloud, Names((), Identities()), {}, priority=Priority.INVENTORY)  # type: ignore[arg-type]
    assert cloud.asked == ["all"] * (READ_LATER + 1)
    assert asyncio.get_running_loop().time() - began == pytest.approx(READ_LATER * LATER)


# -- against the simulated provider ----------------------------------------------------------------------------

SERVERS, EACH = 60, 4


class Account:
    """One of 240 snapshots in three pages, to which something happens right after the first of them was read."""

    def __init__(self) -> None:
        self.world = World()
        for number in range(SERVERS):
            server = self.world.add_server(f"web-{number}")
            for days in range(EACH):
                taken = self.world.now() - timedelta(days=days + 1)
                self.world.add_snapshot(server, f"n{days}", created_at=taken)
        self.requests: list[str] = []
        self.then: list[Callable[[Account], None]] = []
        self.transport = WorldTransport(self.world, after=self._after)

    def _after(self, request: Request, _: Reply) -> None:
        self.requests.append(request.query.get("server_id") or request.query.get("page", "1"))
        if request.path.endswith("/snapshots/") and request.query.get("page", "1") == "1":
            while self.then:
                self.then.pop()(self)

    @property
    def there(self) -> set[str]:
        return {str(one.id) for one in self.world.listed()}


def delete_newest(account: Account) -> None:
    account.world.delete(account.world.listed()[0], None)


def add_one(account: Account) -> None:
    account.world.add_snapshot("12345", "new", created_at=account.world.now() + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("happens", "requests"),
    [
        (lambda _: None, 3),
        (delete_newest, 3 + 1),  # the one that has gone over a seam
        (add_one, 3),
    ],
    ids=["nothing", "one is deleted", "one is added"],
)
async def test_a_list_that_changes_between_two_pages_is_not_read_from_its_beginning(
    happens: Callable[[Account], None], requests: int
) -> None:
    account = Account()
    token = token_source(None, {"VPS_API_TOKEN": account.world.token})
    async with VpsOrg(
        base_url="https://vps.invalid/api/v1", token=token, requests_per_second=100, transport=account.transport
    ) as api:
        inventory = Inventory(api)
        await inventory.refresh()
        before = account.there
        account.requests.clear()
        account.then.append(happens)
        lists = await inventory._lists_at_once()
        await inventory.aclose()
    assert lists is not None
    seen = {one.id for its in lists.values() if not isinstance(its, Exception) for one in its}
    assert before & account.there <= seen
    assert len(account.requests) == requests


async def test_a_page_that_is_not_there_any_more_leaves_the_list_incomplete() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.params.get("page") == "2":
            return httpx.Response(404, json={"detail": "Invalid page."})
        return httpx.Response(200, json={"results": [], "next": "/api/v1/snapshots/?page=2"})

    token = token_source(None, {"VPS_API_TOKEN": "made-up-q7w2"})
    async with VpsOrg(base_url="https://vps.invalid/api/v1", token=token, transport=httpx.MockTransport(answer)) as api:
        with pytest.raises(Doubtful, match="incomplete"):
            await api.snapshots()
