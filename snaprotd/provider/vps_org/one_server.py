"""One server, asked for by whichever of its ids the provider takes: by one that it does not, it has nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from snaprotd.core.errors import Anothers, NotFound, Permanent
from snaprotd.core.model import Server, Snapshot
from snaprotd.provider import Doubtful, Priority, Shifted
from snaprotd.provider.identity import Identities
from snaprotd.provider.vps_org.body import UnreadableError, said

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Incomplete:
    """Why a list is not complete."""

    words: str
    count: int | None
    """How many entries there were when its first page was read, where it has several and each has said so."""
    began: datetime | None
    """When that was, by the provider's clock."""


Listed = tuple[list[T], list[UnreadableError], Incomplete | None]
"""The entries of a list, those that could not be read, and why it is not complete; None where it is."""


def answered(listed: Listed[Snapshot], subject: str) -> list[Snapshot]:
    """The entries of a list of snapshots. Raises `Doubtful`, with the `subject` in words, where they are not all."""
    found, doubts, complaint = listed
    if not doubts and not complaint:
        return found
    concerned = frozenset(one.server_id for one in doubts if one.server_id is not None)
    limited = complaint is None and all(one.server_id is not None for one in doubts)
    message, readable = because(subject, doubts, complaint), tuple(found)
    if complaint is None or complaint.count is None or doubts:
        raise Doubtful(message, readable=readable, about=concerned if limited else None)
    raise Shifted(message, readable=readable, count=complaint.count, began=complaint.began)


def because(subject: str, doubts: list[UnreadableError], complaint: Incomplete | None) -> str:
    reasons = [*([complaint.words] if complaint else []), *(f"it has {doubt}" for doubt in doubts[:3])]
    return f"{subject} cannot be relied on: {'; '.join(reasons)}"


class ReadServer(Protocol):
    async def __call__(self, server_id: str, *, priority: Priority) -> Server: ...


class ReadServers(Protocol):
    async def __call__(self, *, priority: Priority) -> list[Server]: ...


class ReadSnapshots(Protocol):
    async def __call__(self, by: str, *, asked: str, priority: Priority) -> Listed[Snapshot]: ...


class OneServer:
    """Each of the three reads asks by one id, and knows of no other."""

    def __init__(
        self, identities: Identities, server: ReadServer, servers: ReadServers, snapshots: ReadSnapshots
    ) -> None:
        self._identities = identities
        self._read_server = server
        self._read_servers = servers
        self._read_snapshots = snapshots

    async def server(self, server_id: str, *, priority: Priority) -> Server:
        """Raises `NotFound` where the account has it by none of its ids, and `Anothers` as `Provider.server` does."""
        self._demand_its_own(server_id)
        missing: NotFound | None = None
        for one in self._identities.current(server_id):
            try:
                server = await self._read_server(one, priority=priority)
            except NotFound as error:
                missing = missing or error
                continue
            if self._identities.is_contrary(server.ids):
                # Which tells whether the one that had the id is there still.
                await self._read_servers(priority=priority)
                self._demand_its_own(server_id)
            self._identities.learn(server.ids)
            server = self._identities.certain(server)
            return replace(server.called(server_id), ref=server.ref)
        raise missing or NotFound(f"there is no server {server_id}")

    def _demand_its_own(self, server_id: str) -> None:
        if (holder := self._identities.holder(server_id)) is not None:
            raise Anothers(
                f"{server_id} is the id of another server than it was, of {said(holder)}: name the one that is meant "
                "by an id that only it has"
            )

    async def snapshots(self, server_id: str, *, priority: Priority) -> Listed[Snapshot]:
        """Its snapshots, by all of its ids. Raises as `Provider.snapshots` does."""
        found: dict[str, Snapshot] = {}
        doubts: list[UnreadableError] = []
        complaint, refusal, asked, has_answered = None, None, set[str](), False
        ids = self._identities.of(server_id)
        while left := [one for one in self._identities.current(server_id) if one not in asked]:
            asked.add(left[0])
            try:
                part, unread, complaint = await self._read_snapshots(left[0], asked=server_id, priority=priority)
            except Permanent as error:
                refusal = refusal or error
                await self._learn(server_id, set(), priority=priority)
                continue
            has_answered = True
            found |= {one.id: one for one in part}
            doubts += unread
            if complaint:
                break
            ids = await self._ids_among(list(found.values()), server_id, priority=priority)
            if any(ids.isdisjoint(_server_ids(one)) for one in part):
                break  # the provider does not know the filter, and has given the whole account's
        if refusal is not None and not has_answered:
            raise refusal
        own = [replace(one, server_id=server_id) for one in found.values() if ids & _server_ids(one)]
        return own, [one for one in doubts if one.server_id is None or one.server_id in ids], complaint

    async def _ids_among(self, found: list[Snapshot], server_id: str, *, priority: Priority) -> frozenset[str]:
        """The ids by which these snapshots may name the server that they were asked for.

        They may all name it by another id: the servers' own entries say whether that is its. Else raises `Doubtful`.
        """
        named = {one for snapshot in found for one in _server_ids(snapshot)}
        for snapshot in found:
            if snapshot.server_also:
                self._identities.learn(_server_ids(snapshot))
        await self._learn(server_id, named, priority=priority)
        ids = frozenset(self._identities.current(server_id))
        if len(named) == 1 and not named & ids and not any(one in self._identities for one in named):
            other = said(named.pop())
            raise Doubtful(f"the snapshots of server {server_id} are listed as those of {other}, an unknown one")
        return ids

    async def _learn(self, server_id: str, named: set[str], *, priority: Priority) -> None:
        """Read entries of servers until they tell whether the server that was asked for is one that is named."""
        for read in (
            partial(self.server, server_id, priority=priority),
            partial(self._read_servers, priority=priority),
        ):
            if named.intersection(self._identities.current(server_id)):
                return
            if all(one in self._identities for one in named or {server_id}):
                return
            with suppress(NotFound, Anothers, Doubtful):
                await read()


def _server_ids(one: Snapshot) -> set[str]:
    return {one.server_id, *one.server_also}


async def by_any_id(server: Server, ask: Callable[[int | str], Awaitable[T]]) -> T:
    """Ask something of a server, by the first of its ids under which the provider has it."""
    missing: NotFound | None = None
    for ref in server.refs:
        try:
            return await ask(ref)
        except NotFound as error:
            missing = missing or error
    raise missing or NotFound(f"there is no server {server.id}")
