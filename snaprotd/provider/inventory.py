"""What the account holds right now. Many waiting rotations share one list request.

The law of this module: an answer comes from requests that all started after the question was asked. A look never
sees older facts, so what was done before the look shows in it, as far as the provider itself shows it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TypeVar

from snaprotd.core.asking.budget import pages_of
from snaprotd.core.errors import CloudError
from snaprotd.core.model import DOUBT, Server, Snapshot, SnapshotState
from snaprotd.provider import Doubtful, Priority, Provider, are_of_few
from snaprotd.provider.identity import Names, by_any_id, each_once, found_among
from snaprotd.provider.memory import Memory
from snaprotd.provider.rounds import PATIENCE, Deliver, Rounds
from snaprotd.provider.whole import in_turns, read_whole, unless_refused

GATHER = 0.2
"""Seconds that questions which are not urgent wait for others, to share their requests."""

T = TypeVar("T")
_Seen = tuple[Snapshot, ...] | Exception


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerHoldings:
    """What was last seen of one server."""

    server: Server | None = None
    """None where only its snapshots have been seen."""
    snapshots: tuple[Snapshot, ...]
    seen_at: datetime
    """When the request that showed the snapshots began: they are at least as new."""


class Inventory:
    """The account's servers and snapshots, as fresh looks and as last seen.

    A list of a server's snapshots that is empty, where the last one had others than failed ones, is `Doubtful` until it
    has been empty for `DOUBT` seconds: providers have answered 200 with an empty list in a bad moment, and a rotation
    that believes it takes a second snapshot.

    A server is one server by any of its ids. It is shown under the one by which it is `call`ed, else under the
    provider's first; it can be asked for by any.
    """

    def __init__(self, cloud: Provider, *, called: Iterable[str] = (), few: int = 3, foresees: bool = False) -> None:
        """Up to `few` servers are asked for one by one; for more the whole account is listed, where that is cheaper.

        `foresees`: this process only looks, and takes what has failed to stay so, as the next rotation may find it.
        """
        self._cloud = cloud
        self._names = Names(called, cloud.identities)
        self._memory = Memory(foresees=foresees)
        self._few = few
        gather = {False: GATHER, True: 0.0}
        self._snapshot_rounds = {one: Rounds(self._answer_snapshots, gather=gather[one]) for one in (False, True)}
        self._server_rounds = {one: Rounds(self._answer_servers, gather=gather[one]) for one in (False, True)}
        """Each by whether it is urgent."""
        self._known: dict[str, ServerHoldings] = {}
        self._servers: dict[str, Server] = {}
        self._empty_since: dict[str, float] = {}
        self._listed: dict[str, int] = {}
        self._owner = ""
        self.listed: Callable[[Mapping[str, Server]], None] = lambda _: None
        """Told of each list of the account's servers when it has been read: what is known from before is no look."""
        self.last_success: datetime | None = None
        """When the whole account was last listed completely, but for those `in_doubt`."""
        self.in_doubt: Mapping[str, str] = {}
        """The few servers whose lists could not be relied on the last time, and why, where all the rest could."""

    def call(self, server_ids: Iterable[str]) -> None:
        """The ids by which servers are called from now on, wherever they have others as well."""
        if self._names.call(server_ids):
            self._rename()

    def _rename(self) -> None:
        """Have what is known of each server under the id by which it is shown now."""
        shown = self._names.shown
        self._known = {shown(one): _as_of(shown(one), held) for one, held in self._known.items()}
        self._servers = {shown(one): server.called(shown(one)) for one, server in self._servers.items()}
        self._empty_since = {shown(one): since for one, since in self._empty_since.items()}
        self._memory.rename(shown)

    def shown(self, server_id: str) -> str:
        """The id under which the server is shown that has this one."""
        return self._names.shown(server_id)

    def remember(self, groups: Iterable[Collection[str]]) -> None:
        """Each of these are ids of one server, as it was once known. More than two of one tell nothing for certain."""
        for ids in groups:
            if len(ids) == 2:
                self._cloud.identities.learn(ids)

    def ids_of(self, server_id: str) -> frozenset[str]:
        """Every id that the server is known by."""
        return self._cloud.identities.of(server_id)

    @property
    def known(self) -> Mapping[str, ServerHoldings]:
        """What was last seen, by the servers' ids. Empty before the first list."""
        return MappingProxyType(self._known)

    @property
    def seen_servers(self) -> Mapping[str, Server]:
        """The account's servers, as last listed, by their ids: also those whose snapshots could not be read."""
        return MappingProxyType(self._servers)

    @property
    def pages(self) -> int:
        """Of the lists of all servers and of all snapshots, as last seen."""
        snapshots = self._listed.get("snapshots") or sum(len(one.snapshots) for one in self._known.values())
        servers = self._listed.get("servers") or len(self._known)
        return pages_of(servers, snapshots, self._cloud.capabilities.page_size)

    async def snapshots(
        self, server_id: str, *, priority: Priority = Priority.INVENTORY, alone: bool = False
    ) -> tuple[Snapshot, ...]:
        """The server's snapshots as of now. Empty, too, where there is no such server. `priority` as for `server`.

        `alone`: asked for with no other's, so that the answer is as new as it can be.
        """
        if not alone:
            return await self._snapshot_rounds[priority.is_urgent].ask(server_id, priority)
        return await self._read_alone(server_id, priority)

    async def server(self, server_id: str, *, priority: Priority = Priority.INVENTORY) -> Server:
        """The server as of now. Raises `NotFound` where the account has none of that id.

        An urgent question waits for no other, and shares its requests with urgent ones only.
        """
        return await self._server_rounds[priority.is_urgent].ask(server_id, priority)

    def clock_ahead(self) -> float:
        """By how many seconds our clock is ahead of the provider's, for certain; negative where it is behind."""
        return self._cloud.clock.ahead()

    async def servers(self, *, priority: Priority = Priority.INVENTORY) -> tuple[Server, ...]:
        """All servers as of now. Raises `Doubtful`, with the `readable` ones, where some cannot be read."""
        try:
            servers = self._names.as_called(await self._cloud.servers(priority=priority))
        except Doubtful as incomplete:
            readable = self._names.as_called(incomplete.readable)
            self._learn_servers(readable)
            raise Doubtful(str(incomplete), readable=readable, about=incomplete.about) from incomplete
        self._listed["servers"] = len(servers)
        if doubt := self._sudden_emptiness("", bool(self._servers) and not servers):
            raise doubt
        self._servers = {}
        self._learn_servers(servers)
        return servers

    async def owner(self) -> str:
        """The e-mail of the account, asked for once; empty where it cannot be told now."""
        if not self._owner:
            try:
                async with asyncio.timeout(PATIENCE):
                    self._owner = (await self._cloud.token_owner(priority=Priority.OPEN)).email
            except (CloudError, TimeoutError):
                return ""
        return self._owner

    def forget_owner(self) -> None:
        """The token is another one now."""
        self._owner = ""

    async def find(self, ids: Collection[str]) -> Server | None:
        """The server that has these ids in a whole list of the account, as of now. Raises as `servers` does."""
        return found_among(await self.servers(priority=Priority.DOWNTIME), ids)

    async def refresh(self) -> None:
        """List the whole account.

        Where something in it cannot be relied on, that is raised, but only after `known` has learnt all the rest;
        nothing is forgotten then, and `last_success` stays. What concerns a few servers is not raised: `in_doubt`.
        """
        began, doubt = datetime.now(UTC), None
        try:
            servers = await self.servers()
        except Doubtful as incomplete:
            servers, doubt = incomplete.readable, incomplete
        lists = await self._lists_of_all(servers)
        answers = {one: self._believed(one, seen, began) async for one, seen in in_turns(lists.items())}
        errors = {one: error for one, error in answers.items() if isinstance(error, Exception)}
        async for server in in_turns(servers):
            self._learn_server(server)
        is_of_few = doubt is None and are_of_few(errors, among=len(lists))
        self.in_doubt = {one: str(error) for one, error in errors.items()} if is_of_few else {}
        if not is_of_few:
            raise doubt or next(iter(errors.values()))
        for gone in self._known.keys() - set(map(self.shown, lists)):  # they may be called otherwise by now
            del self._known[gone]
        for gone in self._known.keys() - {self.shown(server.id) for server in servers}:
            self._known[gone] = replace(self._known[gone], server=None)
        self.last_success = datetime.now(UTC)

    async def aclose(self) -> None:
        """Give up the rounds in flight."""
        for urgent in (False, True):
            await self._snapshot_rounds[urgent].aclose()
            await self._server_rounds[urgent].aclose()

    # -- rounds --------------------------------------------------------------------------------------------------

    async def _answer_snapshots(
        self, ids: frozenset[str], priority: Priority, deliver: Deliver[tuple[Snapshot, ...]]
    ) -> None:
        began = datetime.now(UTC)

        async def look(server_id: str) -> None:
            deliver(server_id, await _outcome(self._read_alone(server_id, priority)))

        lists = None
        if not self._is_cheaper_singly(ids, "snapshots"):
            lists = await unless_refused(self._lists_at_once(priority=priority), priority)
        if lists is None:
            await asyncio.gather(*map(look, sorted(ids)))
            return
        # One that is not listed, and whose other ids are not known, may be listed by those: it is asked for by itself.
        untold = {one for one in ids if one not in self._cloud.identities and one not in lists}
        for server_id in ids - untold:
            seen = lists.get(self._names.shown(server_id), ())
            deliver(server_id, self._believed(server_id, seen, began))
        await asyncio.gather(*map(look, sorted(untold)))

    async def _answer_servers(self, ids: frozenset[str], priority: Priority, deliver: Deliver[Server]) -> None:
        async def look(server_id: str) -> None:
            deliver(server_id, await _outcome(self._cloud.server(server_id, priority=priority)))

        found: Mapping[str, Server] = {}
        if not self._is_cheaper_singly(ids, "servers"):
            found = by_any_id(await unless_refused(self._readable_servers(priority=priority), priority) or ())
        told = {one for one in ids & found.keys() if self._cloud.identities.holder(one) is None}
        for server_id in told:
            deliver(server_id, found[server_id].called(server_id))
        # That a server does not exist is for its own 404 to say: a list may be short, or have an unreadable entry.
        await asyncio.gather(*map(look, sorted(ids - told)))

    def _is_cheaper_singly(self, ids: frozenset[str], what: str) -> bool:
        """A large account has many pages; asking for a few dozen servers one by one is then fewer requests."""
        pages = -(-self._listed.get(what, 0) // self._cloud.capabilities.page_size)
        return len(ids) <= max(self._few, pages)

    # -- lists ---------------------------------------------------------------------------------------------------

    async def _read_alone(self, server_id: str, priority: Priority) -> tuple[Snapshot, ...]:
        began = datetime.now(UTC)
        seen = self._believed(server_id, await self._snapshots_of(server_id, priority=priority), began)
        if isinstance(seen, Exception):
            raise seen
        return seen

    async def _snapshots_of(self, server_id: str, *, priority: Priority = Priority.INVENTORY) -> tuple[Snapshot, ...]:
        return tuple(await self._cloud.snapshots(server_id, priority=priority))

    async def _readable_servers(self, *, priority: Priority) -> tuple[Server, ...]:
        try:
            servers = self._names.as_called(await self._cloud.servers(priority=priority))
        except Doubtful as doubt:
            return self._names.as_called(doubt.readable)
        self._listed["servers"] = len(servers)
        return servers

    async def _lists_at_once(self, *, priority: Priority = Priority.INVENTORY) -> dict[str, _Seen] | None:
        """The whole account's snapshots by server, where there are any; None where none of it can be relied on."""
        doubtful: dict[str, _Seen] = {}
        try:
            known = {server_id: held.snapshots for server_id, held in self._known.items()}
            listed: Iterable[Snapshot] = await read_whole(self._cloud, self._names, known, priority=priority)
        except Doubtful as doubt:
            if doubt.about is None:
                return None
            listed = doubt.readable
            doubtful = {self._names.shown(one): doubt for one in doubt.about}
        by_server: dict[str, list[Snapshot]] = defaultdict(list)
        async for one in in_turns(map(self._names.of_called, listed)):
            by_server[one.server_id].append(one)
        self._listed["snapshots"] = sum(map(len, by_server.values()))
        return {**{one: tuple(its) for one, its in by_server.items()}, **doubtful}

    async def _lists_of_all(self, servers: Iterable[Server]) -> dict[str, _Seen]:
        """The snapshots of every server: at once, or one after the other where that cannot be relied on."""
        lists = await self._lists_at_once()
        if lists is not None:
            return {**{server.id: () for server in servers}, **lists}
        # In a row, so that rotations get their turns in between.
        return {server.id: await _outcome(self._snapshots_of(server.id)) for server in servers}

    # -- what was seen -------------------------------------------------------------------------------------------

    def _believed(self, server_id: str, seen: _Seen, began: datetime) -> _Seen:
        """What was seen of a server, recorded, unless it is a sudden emptiness or nothing at all."""
        if isinstance(seen, Exception):
            return seen
        server_id = self._names.shown(server_id)
        held = self._known.get(server_id)
        had_some = held is not None and any(one.state is not SnapshotState.FAILED for one in held.snapshots)
        doubt = self._sudden_emptiness(server_id, had_some and not seen)
        if doubt is not None:
            return doubt
        seen = each_once(tuple(one.of_server(server_id) for one in seen))
        seen = self._memory.marked(server_id, seen)
        if held is None:
            self._known[server_id] = ServerHoldings(snapshots=seen, seen_at=began)
        elif began >= held.seen_at:
            self._known[server_id] = ServerHoldings(server=held.server, snapshots=seen, seen_at=began)
        return seen

    def _sudden_emptiness(self, key: str, is_empty: bool) -> Doubtful | None:
        if not is_empty:
            self._empty_since.pop(key, None)
            return None
        now = asyncio.get_running_loop().time()
        if now - self._empty_since.setdefault(key, now) >= DOUBT:
            del self._empty_since[key]
            return None
        subject = f"the list of server {key}'s snapshots" if key else "the list of servers"
        return Doubtful(f"{subject} is empty, and was not when last seen: not believed for {DOUBT:g} s")

    def _learn_servers(self, servers: Sequence[Server]) -> None:
        for server in servers:
            self._learn_server(server)
        self.listed(by_any_id(servers))

    def _learn_server(self, server: Server) -> None:
        self._servers[server.id] = server
        held = self._known.get(server.id)
        if held is not None and held.server is not server:
            self._known[server.id] = ServerHoldings(server=server, snapshots=held.snapshots, seen_at=held.seen_at)


async def _outcome(asked: Awaitable[T]) -> T | Exception:
    """The answer, or the error as a value: one server's is none of the others' business."""
    try:
        return await asked
    except Exception as error:
        return error


def _as_of(server_id: str, held: ServerHoldings) -> ServerHoldings:
    snapshots = tuple(one.of_server(server_id) for one in held.snapshots)
    return replace(held, server=held.server and held.server.called(server_id), snapshots=snapshots)
