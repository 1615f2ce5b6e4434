"""What the account holds: fresh looks that share their requests. The provider is a small account behind a transport."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from snaprotd.core.errors import NotFound, Permanent, Refused, Temporary
from snaprotd.core.model import DOUBT
from snaprotd.provider import Doubtful, Priority
from snaprotd.provider.inventory import Inventory
from snaprotd.provider.rounds import Deliver, Rounds
from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org.client import VpsOrg


def entry(number: int, server: int, **changes: Any) -> dict[str, Any]:
    return {"id": number, "server": {"id": server}, "name": f"s{number}", "status": "completed"} | changes


class Account(httpx.AsyncBaseTransport):
    """Servers 1 to `size`, each with one snapshot; what it shows is decided when a request arrives."""

    def __init__(self, size: int = 5, *, takes: float = 0.1) -> None:
        self.servers: list[Any] = [{"id": i, "name": f"web-{i}", "status": "active"} for i in range(1, size + 1)]
        self.snapshots: list[Any] = [entry(100 + i, i) for i in range(1, size + 1)]
        self.takes = takes
        self.slow: dict[str, float] = {}
        self.broken: dict[str, httpx.Response] = {}
        self.requests: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        params = {key: value for key, value in request.url.params.items() if key == "server_id"}
        asked = f"{request.url.path}{params.get('server_id', '')}"
        self.requests.append(asked)
        reply = self.answer(request.url.path, params.get("server_id"))
        await asyncio.sleep(self.slow.get(asked, self.takes))
        broken = self.broken.get(asked)
        return httpx.Response(broken.status_code, content=broken.content) if broken else reply

    def answer(self, path: str, server_id: str | None) -> httpx.Response:
        match path.strip("/").split("/"):
            case ["servers"]:
                return listed(self.servers)
            case ["servers", one]:
                found = [
                    server for server in self.servers if server and one in (str(server.get("id")), server.get("uuid"))
                ]
                return (
                    httpx.Response(200, json=found[0]) if found else httpx.Response(404, json={"detail": "Not found."})
                )
            case _:
                return listed([one for one in self.snapshots if server_id is None or concerns(one, server_id)])


def listed(entries: list[Any]) -> httpx.Response:
    return httpx.Response(200, json={"count": len(entries), "results": entries})


def concerns(one: Any, server_id: str) -> bool:
    return isinstance(one, dict) and server_id in (str(one["server"]["id"]), f"u-{one['server']['id']}")


@asynccontextmanager
async def opened(account: Account, *, few: int = 3, called: tuple[str, ...] = ()) -> AsyncIterator[Inventory]:
    token = token_source(None, {"VPS_API_TOKEN": "vps_of_tests"})
    async with VpsOrg(base_url="https://vps.test", token=token, requests_per_second=100, transport=account) as cloud:
        inventory = Inventory(cloud, few=few, called=called)
        try:
            yield inventory
        finally:
            await inventory.aclose()


async def results(*asked: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*asked, return_exceptions=True)


SNAPSHOTS = ("snapshots", "/snapshots/", "/snapshots/1")


# -- sharing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "of_all", "of_one"), [("server", "/servers/", "/servers/1/"), SNAPSHOTS])
async def test_an_urgent_look_neither_waits_for_the_round_of_others_nor_shares_it(
    what: str, of_all: str, of_one: str
) -> None:
    account = Account(size=8)
    account.slow = {of_all: 20.0}
    async with opened(account) as inventory:
        look = getattr(inventory, what)
        others = [asyncio.create_task(look(str(number))) for number in range(1, 6)]
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        assert await look("1", priority=Priority.DOWNTIME)
        assert asyncio.get_running_loop().time() - began < 1
        await asyncio.gather(*others)
    assert account.requests == [of_all, of_one]


OVERTAKEN = [
    # in flight          asked           waits
    (Priority.DOWNTIME, Priority.START, 0),
    (Priority.START, Priority.START, 5),
    (Priority.START, Priority.DOWNTIME, 5),
    (Priority.NEW, Priority.OPEN, 5),
    (Priority.NEW, Priority.DOWNTIME, 0),
    (Priority.NEW, Priority.ACTION, 0),
    (Priority.OPEN, Priority.ACTION, 0),
    (Priority.ACTION, Priority.ACTION, 5),
]


@pytest.mark.parametrize(("first", "then", "waits"), OVERTAKEN)
async def test_what_is_to_be_done_at_once_does_not_wait_for_the_round_of_what_is_less(
    first: Priority, then: Priority, waits: float
) -> None:
    account = Account(size=8)
    account.slow = {"/servers/1/": 20.0}
    async with opened(account) as inventory:
        other = asyncio.create_task(inventory.server("1", priority=first))
        await asyncio.sleep(0.5)
        began = asyncio.get_running_loop().time()
        assert await inventory.server("2", priority=then)
        assert asyncio.get_running_loop().time() - began == pytest.approx(max(waits - 0.5, 0), abs=0.6)
        await other


async def test_a_round_has_the_class_of_the_highest_that_share_it() -> None:
    begun: list[tuple[list[str], Priority]] = []

    async def answer(ids: frozenset[str], priority: Priority, deliver: Deliver[str]) -> None:
        begun.append((sorted(ids), priority))
        for one in ids:
            deliver(one, "seen")

    rounds = Rounds(answer)
    await asyncio.gather(rounds.ask("1", Priority.NEW), rounds.ask("2", Priority.OPEN), rounds.ask("3", Priority.NEW))
    await rounds.ask("1", Priority.INVENTORY)
    assert begun == [(["1", "2", "3"], Priority.OPEN), (["1"], Priority.INVENTORY)]


async def test_two_hundred_looks_at_once_are_one_list_request() -> None:
    account = Account(200)
    async with opened(account) as inventory:
        seen = await asyncio.gather(*(inventory.snapshots(str(i)) for i in range(1, 201)))
    assert account.requests == ["/snapshots/"]
    assert [one.id for (one,) in seen] == [str(100 + i) for i in range(1, 201)]


async def test_two_hundred_statuses_at_once_are_one_list_request() -> None:
    account = Account(200)
    async with opened(account) as inventory:
        seen = await asyncio.gather(*(inventory.server(str(i)) for i in range(1, 201)))
    assert account.requests == ["/servers/"]
    assert [server.name for server in seen] == [f"web-{i}" for i in range(1, 201)]


async def test_a_few_servers_are_asked_for_one_by_one() -> None:
    account = Account(50)
    async with opened(account) as inventory:
        await results(*(inventory.snapshots(one) for one in ("7", "8", "9", "7")), inventory.server("7"))
    assert sorted(account.requests) == ["/servers/7/", "/snapshots/7", "/snapshots/8", "/snapshots/9"]


async def test_a_large_account_is_not_listed_for_fewer_servers_than_it_has_pages() -> None:
    account = Account(2000)
    async with opened(account) as inventory:
        await inventory.refresh()
        account.requests.clear()
        await asyncio.gather(*(inventory.snapshots(str(i)) for i in range(1, 21)))
        assert "/snapshots/" not in account.requests
        account.requests.clear()
        await asyncio.gather(*(inventory.snapshots(str(i)) for i in range(1, 22)))
        assert account.requests == ["/snapshots/"]


async def test_questions_that_come_during_a_round_share_the_next_one() -> None:
    account = Account(50, takes=4)
    async with opened(account) as inventory:
        first = asyncio.create_task(inventory.snapshots("1"))
        await asyncio.sleep(1)
        rest = []
        for i in range(2, 30):
            rest.append(asyncio.create_task(inventory.snapshots(str(i))))
            await asyncio.sleep(0.01)
        await asyncio.gather(first, *rest)
    assert account.requests == ["/snapshots/1", "/snapshots/"]


async def test_one_slow_answer_holds_up_nobody_else() -> None:
    account = Account()
    account.slow = {"/snapshots/1": 25.0}
    began = asyncio.get_running_loop().time()
    async with opened(account) as inventory:
        slow = asyncio.create_task(inventory.snapshots("1"))
        beside = asyncio.create_task(inventory.snapshots("2"))
        await beside
        assert asyncio.get_running_loop().time() - began < 1
        await inventory.snapshots("3")
        assert asyncio.get_running_loop().time() - began < 7
        await slow


# -- freshness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 10])
async def test_a_look_never_sees_what_was_so_before_it_was_made(asked: int) -> None:
    account = Account(20, takes=3)
    async with opened(account) as inventory:
        earlier = [asyncio.create_task(inventory.snapshots(str(i))) for i in range(1, asked + 1)]
        await asyncio.sleep(1)
        account.snapshots.append(entry(999, 1))
        later = await inventory.snapshots("1")
        old = (await asyncio.gather(*earlier))[0]
    assert [one.id for one in old] == ["101"]
    assert [one.id for one in later] == ["101", "999"]


async def test_a_status_is_as_fresh() -> None:
    account = Account(takes=3)
    async with opened(account) as inventory:
        earlier = asyncio.create_task(inventory.server("1"))
        await asyncio.sleep(1)
        account.servers[0]["status"] = "stopped"
        assert (await inventory.server("1")).is_stopped
        assert (await earlier).is_active


# -- cancellation ----------------------------------------------------------------------------------------------


async def test_a_look_that_is_given_up_does_not_take_the_others_with_it() -> None:
    async with opened(Account(takes=3)) as inventory:
        looks = [asyncio.create_task(inventory.snapshots(one)) for one in ("1", "1", "2")]
        await asyncio.sleep(1)
        looks[0].cancel()
        assert looks[0] in (await asyncio.wait(looks))[0]
        assert [len(look.result()) for look in looks[1:]] == [1, 1]


async def test_a_round_that_everybody_gave_up_harms_no_later_one() -> None:
    account = Account(takes=3)
    account.broken = {"/snapshots/1": httpx.Response(403)}
    async with opened(account) as inventory:
        look = asyncio.create_task(inventory.snapshots("1"))
        await asyncio.sleep(1)
        look.cancel()
        await asyncio.sleep(10)
        assert len(await inventory.snapshots("2")) == 1


async def test_closing_gives_up_who_still_waits() -> None:
    async with opened(Account(takes=1000)) as inventory:
        look = asyncio.create_task(inventory.snapshots("1"))
        await asyncio.sleep(1)
        await inventory.aclose()
        assert isinstance((await results(look))[0], asyncio.CancelledError)


# -- errors ----------------------------------------------------------------------------------------------------


async def test_a_failed_list_goes_to_all_who_wait_for_it() -> None:
    account = Account(10)
    account.broken = {"/snapshots/": httpx.Response(403)}
    async with opened(account) as inventory:
        seen = await results(*(inventory.snapshots(str(i)) for i in range(1, 11)))
        account.broken.clear()
        assert len(await inventory.snapshots("1")) == 1
    assert Counter(map(type, seen)) == {Refused: 10}


async def test_the_error_of_one_server_goes_to_nobody_else() -> None:
    account = Account(10)
    account.broken = {"/snapshots/2": httpx.Response(500), "/servers/3/": httpx.Response(403)}
    async with opened(account) as inventory:
        snapshots = await results(*(inventory.snapshots(one) for one in ("1", "2", "3")))
        servers = await results(*(inventory.server(one) for one in ("1", "2", "3")))
    assert [isinstance(seen, tuple) for seen in snapshots] == [True, False, True]
    assert [isinstance(seen, Permanent) for seen in servers] == [False, False, True]


@pytest.mark.parametrize("others", [0, 48])
async def test_a_server_that_does_not_exist_is_not_found_and_the_others_are(others: int) -> None:
    async with opened(Account(48)) as inventory:
        gone, *rest = await results(*(inventory.server(one) for one in ("999", *map(str, range(1, others + 1)))))
    assert isinstance(gone, NotFound)
    assert all(server.is_active for server in rest)


async def test_a_server_that_a_short_list_leaves_out_is_still_found() -> None:
    account = Account(10)
    account.broken = {"/servers/": listed([])}
    async with opened(account) as inventory:
        assert all(server.is_active for server in await results(*(inventory.server(str(i)) for i in range(1, 11))))


@pytest.mark.parametrize("rubbish", [None, {"id": 5}, entry(5, 0) | {"server": None}, entry(5, 7) | {"name": None}])
async def test_a_rubbish_snapshot_stops_at_most_its_own_server(rubbish: Any) -> None:
    class Filtering(Account):
        def answer(self, path: str, server_id: str | None) -> httpx.Response:
            if path == "/snapshots/" and (server_id is None or server_id == "7"):
                wanted = [one for one in self.snapshots if server_id is None or concerns(one, server_id)]
                return listed([*wanted, rubbish])
            return super().answer(path, server_id)

    async with opened(Filtering(50)) as inventory:
        seen = await results(*(inventory.snapshots(str(i)) for i in range(1, 51)))
    assert [i for i, one in enumerate(seen, 1) if isinstance(one, Temporary)] == [7]


async def test_a_rubbish_server_stops_no_other() -> None:
    account = Account(50)
    account.servers[6] = {"name": "no id"}
    async with opened(account) as inventory:
        seen = await results(*(inventory.server(str(i)) for i in range(1, 51)))
    assert [i for i, one in enumerate(seen, 1) if isinstance(one, Exception)] == [7]


async def test_an_incomplete_list_is_no_answer_to_anybody() -> None:
    account = Account(10)

    def short(path: str, server_id: str | None) -> httpx.Response:
        return httpx.Response(200, json={"count": 7, "results": [entry(i, 1) for i in range(5)]})

    account.answer = short  # type: ignore[method-assign]
    async with opened(account) as inventory:
        seen = await results(*(inventory.snapshots(str(i)) for i in range(1, 11)))
    assert Counter(map(type, seen)) == {Doubtful: 10}


# -- what is known ---------------------------------------------------------------------------------------------


async def test_nothing_is_known_before_the_first_list() -> None:
    async with opened(Account()) as inventory:
        assert (dict(inventory.known), inventory.last_success) == ({}, None)


async def test_a_refresh_learns_the_whole_account() -> None:
    account = Account(3)
    account.snapshots.append(entry(1, 77))
    async with opened(account) as inventory:
        await inventory.refresh()
        known = inventory.known
        assert sorted(known) == ["1", "2", "3", "77"]
        assert known["1"].server is not None
        assert [one.id for one in known["1"].snapshots] == ["101"]
        assert known["77"].server is None
        assert inventory.last_success == datetime.now(UTC)
        assert known["1"].seen_at < inventory.last_success


async def test_a_server_without_snapshots_is_known_to_have_none() -> None:
    account = Account(3)
    account.snapshots = []
    async with opened(account) as inventory:
        await inventory.refresh()
        assert inventory.known["1"].snapshots == ()


async def test_a_removed_server_is_forgotten_by_the_next_refresh() -> None:
    account = Account(3)
    async with opened(account) as inventory:
        await inventory.refresh()
        del account.servers[0], account.snapshots[0]
        await inventory.refresh()
        assert sorted(inventory.known) == ["2", "3"]


async def test_a_look_brings_what_is_known_up_to_date() -> None:
    account = Account(3)
    async with opened(account) as inventory:
        await inventory.refresh()
        account.snapshots.append(entry(999, 1))
        await inventory.snapshots("1")
        assert len(inventory.known["1"].snapshots) == 2


async def test_an_older_list_that_ends_later_does_not_replace_newer_facts() -> None:
    account = Account(3)
    account.slow = {"/snapshots/": 20.0}
    async with opened(account) as inventory:
        await inventory.refresh()
        refresh = asyncio.create_task(inventory.refresh())
        await asyncio.sleep(5)
        account.snapshots.append(entry(999, 1))
        await inventory.snapshots("1")
        await refresh
        assert len(inventory.known["1"].snapshots) == 2


async def test_a_failed_refresh_forgets_nothing_and_is_no_success() -> None:
    account = Account(3)
    async with opened(account) as inventory:
        await inventory.refresh()
        before = inventory.last_success
        account.broken = {"/snapshots/": httpx.Response(502)}
        account.servers.pop()
        with pytest.raises(Temporary):
            await inventory.refresh()
        assert (sorted(inventory.known), inventory.last_success) == (["1", "2", "3"], before)


async def test_a_refresh_learns_the_readable_part_and_tells_of_the_rest() -> None:
    account = Account(3)
    account.servers[0] = {"name": "no id"}
    account.snapshots[1] = entry(5, 2, name=None)
    async with opened(account) as inventory:
        with pytest.raises(Doubtful):
            await inventory.refresh()
        assert sorted(inventory.known) == ["1", "3"]
        assert inventory.known["3"].server is not None
        assert inventory.last_success is None


@pytest.mark.parametrize(("servers", "spoilt", "is_of_few"), [(1, 1, True), (3, 1, True), (9, 3, True), (9, 4, False)])
async def test_the_lists_of_a_few_servers_are_their_own_doubt_and_those_of_more_are_the_accounts(
    servers: int, spoilt: int, is_of_few: bool
) -> None:
    account = Account(servers)
    async with opened(account) as inventory:
        await inventory.refresh()
        before = inventory.last_success
        account.snapshots[:spoilt] = [entry(5 + id_, id_, name=None) for id_ in range(1, spoilt + 1)]
        await asyncio.sleep(5)
        if is_of_few:
            await inventory.refresh()
            assert sorted(inventory.in_doubt) == [str(id_) for id_ in range(1, spoilt + 1)]
            assert inventory.last_success != before
        else:
            with pytest.raises(Doubtful):
                await inventory.refresh()
            assert (inventory.in_doubt, inventory.last_success) == ({}, before)
        assert all(held.snapshots for held in inventory.known.values()), "what was seen before is kept"
        account.snapshots[:spoilt] = [entry(5 + id_, id_) for id_ in range(1, spoilt + 1)]
        await inventory.refresh()
        assert inventory.in_doubt == {}


async def test_an_account_that_refuses_each_list_is_no_servers_doubt() -> None:
    account = Account(3)
    async with opened(account) as inventory:
        account.snapshots.append(None)  # so that each server is asked for by itself
        account.broken = {"/snapshots/2": httpx.Response(403)}
        with pytest.raises(Refused):
            await inventory.refresh()
        assert inventory.in_doubt == {}


async def test_a_refresh_asks_server_by_server_where_one_snapshot_is_nobodys() -> None:
    account = Account(3)
    account.snapshots.append(None)
    async with opened(account) as inventory:
        await inventory.refresh()
        assert sorted(inventory.known) == ["1", "2", "3"]


async def test_all_servers_are_as_fresh_as_the_question() -> None:
    account = Account(3)
    async with opened(account) as inventory:
        await inventory.refresh()
        account.servers.append({"id": 9, "name": "new", "status": "active"})
        assert [server.id for server in await inventory.servers()] == ["1", "2", "3", "9"]


# -- a sudden emptiness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 5])
async def test_a_list_that_is_empty_all_of_a_sudden_is_not_believed_for_a_while(at_once: int) -> None:
    account = Account(5)
    async with opened(account) as inventory:
        await inventory.refresh()
        account.snapshots = []
        ids = [str(i) for i in range(1, at_once + 1)]
        assert {type(seen) for seen in await results(*map(inventory.snapshots, ids))} == {Doubtful}
        await asyncio.sleep(DOUBT / 2)
        assert {type(seen) for seen in await results(*map(inventory.snapshots, ids))} == {Doubtful}
        await asyncio.sleep(DOUBT / 2)
        assert await results(*map(inventory.snapshots, ids)) == [()] * at_once


async def test_an_emptiness_that_was_a_moments_fault_is_forgotten() -> None:
    account = Account(5)
    async with opened(account) as inventory:
        await inventory.refresh()
        kept, account.snapshots = account.snapshots, []
        await results(inventory.snapshots("1"))
        account.snapshots = kept
        assert len(await inventory.snapshots("1")) == 1
        account.snapshots = []
        await asyncio.sleep(2 * DOUBT)
        assert isinstance((await results(inventory.snapshots("1")))[0], Doubtful)


async def test_a_refresh_that_shows_an_empty_account_is_not_believed_at_once() -> None:
    account = Account(5)
    async with opened(account) as inventory:
        await inventory.refresh()
        account.snapshots = []
        with pytest.raises(Doubtful):
            await inventory.refresh()
        account.servers = []
        with pytest.raises(Doubtful):
            await inventory.refresh()
        assert sum(len(held.snapshots) for held in inventory.known.values()) == 5
        await asyncio.sleep(2 * DOUBT)
        await inventory.refresh()
        assert dict(inventory.known) == {}


async def test_an_emptiness_is_believed_where_nothing_was_completed() -> None:
    account = Account(1)
    account.snapshots = [entry(1, 1, status="failed")]
    async with opened(account) as inventory:
        await inventory.snapshots("1")
        account.snapshots = []
        assert await inventory.snapshots("1") == ()


async def test_seen_at_is_when_the_request_began() -> None:
    account = Account(3, takes=10)
    async with opened(account) as inventory:
        asked = datetime.now(UTC)
        await inventory.snapshots("1")
        assert inventory.known["1"].seen_at - asked < timedelta(seconds=1)


# -- one server by any of its ids --------------------------------------------------------------------------------


def with_uuids(size: int) -> Account:
    account = Account(size)
    for server in account.servers:
        server["uuid"] = f"u-{server['id']}"
    return account


@pytest.mark.parametrize("few", [0, 9], ids=["at once", "singly"])
@pytest.mark.parametrize("has_listed", [False, True])
async def test_a_server_has_its_snapshots_by_whichever_of_its_ids_it_is_asked_for(few: int, has_listed: bool) -> None:
    async with opened(with_uuids(4), few=few, called=("u-1", "2", "u-3")) as inventory:
        if has_listed:
            await inventory.refresh()
        seen = await results(*map(inventory.snapshots, ("u-1", "1", "2", "u-2", "u-3", "u-4")))
        assert [[one.id for one in lists] for lists in seen] == [["101"], ["101"], ["102"], ["102"], ["103"], ["104"]]
        servers = await results(*map(inventory.server, ("u-1", "1", "u-4")))
        assert [(one.id, one.name) for one in servers] == [("u-1", "web-1"), ("1", "web-1"), ("u-4", "web-4")]


async def test_the_account_is_shown_under_the_ids_that_the_configuration_uses() -> None:
    async with opened(with_uuids(3), called=("u-1", "2")) as inventory:
        await inventory.refresh()
        assert set(inventory.known) == set(inventory.seen_servers) == {"u-1", "2", "3"}
        assert {key: one.server_id for key, held in inventory.known.items() for one in held.snapshots} == {
            "u-1": "u-1",
            "2": "2",
            "3": "3",
        }
        found = [await inventory.find({one}) for one in ("1", "u-1", "u-9")]
        assert [one and one.name for one in found] == ["web-1", "web-1", None]
        inventory.call(["1"])
        await inventory.refresh()
        assert set(inventory.known) == {"1", "2", "3"}


async def test_an_id_that_several_servers_bear_makes_them_no_one_server() -> None:
    account = Account(3)
    for server in account.servers:
        server["uuid"] = "none"
    async with opened(account, called=("none",)) as inventory:
        await inventory.refresh()
        assert [len(held.snapshots) for held in inventory.known.values()] == [1, 1, 1]
        assert set(inventory.known) == {"1", "2", "3"}


TWICE = [entry(100 + n, 1, created_at=f"2025-01-1{n}T00:00:00Z") for n in (1, 2, 3)]
TWICE += [{**one, "id": f"u-{one['id']}"} for one in TWICE]


@pytest.mark.parametrize("few", [0, 9], ids=["at once", "singly"])
async def test_a_list_that_shows_every_snapshot_under_two_ids_shows_each_of_them_once(few: int) -> None:
    account = Account(1)
    account.snapshots = TWICE
    async with opened(account, few=few) as inventory:
        seen = await inventory.snapshots("1")
        assert [one.ids for one in seen] == [("101", "u-101"), ("102", "u-102"), ("103", "u-103")]


@pytest.mark.parametrize(
    "listed",
    [
        TWICE[:-1],
        [*TWICE, entry(104, 1)],
        [*TWICE[:5], {**TWICE[5], "id": 104}],
        [{**TWICE[0], "name": "x"}, *TWICE[1:]],
    ],
    ids=["one is there once", "one more", "two numbers", "another name"],
)
async def test_of_a_list_that_shows_but_some_snapshots_under_two_ids_nothing_is_left_out(listed: list[Any]) -> None:
    account = Account(1)
    account.snapshots = listed
    async with opened(account) as inventory:
        assert len(await inventory.snapshots("1")) == len(listed)
