"""Which ids are one server's: a provider may call it by a number in one place and by a UUID in another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from itertools import islice
from typing import Any

from snaprotd.core.model import Server, Snapshot, is_one_server

NO_OTHER: frozenset[str] = frozenset()
"""The ids beside the one of nearly every server."""

MOST_REMEMBERED = 250_000
"""Ids, those last seen: an account that shows others in each list is not remembered for ever."""


def forget_the_first(kept: dict[str, Any], most: int) -> None:
    """Keep no more than the last `most`."""
    if (spare := len(kept) - most) > 0:
        for first in list(islice(kept, spare)):
            del kept[first]


class Identities:
    """Learns from entries that show two ids of one server. What was learnt once is kept, in the ledger too.

    An id that was seen beside two others tells no server from another: it stands for itself alone. So it is not where
    a list shows that a number was given to another server, while the one that had it is listed under its other id:
    the number is that one's still for whoever calls it so, but the provider is not asked by it any more.
    """

    def __init__(self) -> None:
        self._beside: dict[str, Set[str]] = {}
        self._holders: dict[str, str] = {}
        """Of each number that another server has now, an id of that server."""
        self.learnt: Callable[[frozenset[str]], None] = lambda _: None
        """Told of the ids that are one server's, when that becomes known."""

    def __contains__(self, one: str) -> bool:
        return one in self._beside

    def learn(self, ids: Iterable[str]) -> None:
        """These ids were shown in one entry."""
        together = {one for one in ids if one not in self._holders}
        if len(together) == 1:  # as of nearly all servers: it is beside no other
            (one,) = together
            self._beside[one] = self._beside.pop(one, NO_OTHER)
            forget_the_first(self._beside, MOST_REMEMBERED)
            return
        before = {one: self._beside.get(one, NO_OTHER) for one in together}
        for one, beside in before.items():
            self._beside.pop(one, None)
            self._beside[one] = beside if len(beside) > 1 else beside | (together - {one})
        forget_the_first(self._beside, MOST_REMEMBERED)
        if any(self._beside.get(one) != beside for one, beside in before.items()):
            for one in together:
                if len(known := self.of(one)) > 1:
                    self.learnt(known)
                    return

    def learn_listed(self, servers: Sequence[Server]) -> None:
        """These servers are all in one list."""
        listed = [(str(ref), server) for server in servers for ref in server.refs]
        if known_beside := [(one, server) for one, server in listed if self._beside.get(one)]:
            by_id = dict(listed)
            for one, server in known_beside:
                self._see_holder(one, server, by_id)
        if self._holders:
            for one, _ in listed:
                if not self._beside.get(one):
                    self._holders.pop(one, None)
        for server in servers:
            self.learn(map(str, server.refs))

    def _see_holder(self, one: str, server: Server, by_id: Mapping[str, Server]) -> None:
        """Whether the entry shows that a number is this server's now, and not the one's that had it."""
        (other, *_), ids = [*(self.of(one) - {one}), ""], [*map(str, server.refs)]
        owner = by_id.get(other)
        if other in ids or not one.isdigit() or owner is None or owner.name == server.name:
            self._holders.pop(one, None)
        elif holder := next((mine for mine in ids if mine != one), ""):
            self._holders[one] = holder
        else:
            self._beside[one] = {other, ""}  # the number is all that there is of it: it stands for itself

    def is_contrary(self, ids: Iterable[str]) -> bool:
        """Whether these ids of one entry belong to two servers, as far as is known."""
        return any(not is_one_server(self.of(one), list(ids)) for one in ids)

    def of(self, one: str) -> frozenset[str]:
        """Every id of the server that `one` is an id of, `one` too."""
        beside = self._beside.get(one)
        if not beside:
            return frozenset({one})
        is_certain = len(beside) == 1 and all(self._beside.get(other) == {one} for other in beside)
        return frozenset({one, *beside} if is_certain else {one})

    def certain(self, server: Server) -> Server:
        """The server, as an entry shows it, with those ids only that are no other's."""
        own = [ref for ref in server.refs if str(ref) not in self._holders] or [server.ref]
        ids = self.of(str(own[0]))
        also = tuple(ref for ref in own[1:] if str(ref) in ids)
        others = tuple(str(ref) for ref in server.refs if ref not in (own[0], *also))
        if (server.id, server.ref, server.also, server.beside) == (str(own[0]), own[0], also, others):
            return server
        return replace(server, id=str(own[0]), ref=own[0], also=also, beside=others)

    def is_by_itself(self, one: str) -> bool:
        """Whether it was seen in a list, beside no other id and as nobody else's: so it is of nearly all servers."""
        beside = self._beside.get(one)
        return beside is not None and not beside and one not in self._holders

    def holder(self, one: str) -> str | None:
        """An id of the server that has this number now, where it is not the one that had it before."""
        return self._holders.get(one)

    def current(self, one: str) -> list[str]:
        """The ids by which the provider knows the server now, this one first."""
        return [its for its in sorted(self.of(one), key=lambda its: (its != one, its)) if its not in self._holders]


class Names:
    """Under which of its ids each server is shown: the one by which it is called here, else the provider's first."""

    def __init__(self, called: Iterable[str], ids: Identities) -> None:
        self._called = frozenset(called)
        self._ids = ids
        self._first: dict[str, str] = {}

    def call(self, server_ids: Iterable[str]) -> bool:
        """The ids by which servers are called from now on; whether those are others than before."""
        before, self._called = self._called, frozenset(server_ids)
        return self._called != before

    def shown(self, server_id: str) -> str:
        """The id under which the server is shown that `server_id` is an id of."""
        if self._ids.is_by_itself(server_id) or len(ids := self._ids.of(server_id)) == 1:
            return server_id
        in_order = sorted(ids, key=lambda one: (self._first.get(one, one) != one, not one.isdigit(), one))
        return next((one for one in in_order if one in self._called), in_order[0])

    def as_called(self, servers: Iterable[Server]) -> tuple[Server, ...]:
        """These servers, as they are shown."""
        return tuple(map(self._as_called, servers))

    def _as_called(self, server: Server) -> Server:
        if server.is_plain and self._ids.is_by_itself(server.id):
            self._first.pop(server.id, None)  # it is its own first
            return server
        server = self._ids.certain(server)
        ids = self._ids.of(server.id)
        for one in ids:
            self._first.pop(one, None)
        if len(ids) == 1:
            return server.called(server.id)
        self._first |= dict.fromkeys(ids, server.id)
        forget_the_first(self._first, MOST_REMEMBERED)
        return server.called(self.shown(server.id))

    def of_called(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as one of a server that is shown so."""
        if not snapshot.server_also and self._ids.is_by_itself(snapshot.server_id):
            return snapshot
        ids = [self._ids.holder(one) or one for one in (snapshot.server_id, *snapshot.server_also)]
        known = next((self.shown(one) for one in ids if one in self._ids), None)
        chosen = known or next((one for one in ids if one in self._called), ids[0])
        return snapshot.of_server(chosen)


def each_once(listed: tuple[Snapshot, ...]) -> tuple[Snapshot, ...]:
    """The snapshots of one server, where a list shows every one of them twice: under a number, and under a text.

    Only where that goes for each of them without a remainder: nothing that is there is left out on a likeness.
    """
    return _paired(listed) if len({one.id.isdigit() for one in listed}) == 2 else listed


def _paired(listed: tuple[Snapshot, ...]) -> tuple[Snapshot, ...]:
    pairs: dict[tuple[object, ...], list[Snapshot]] = {}
    for one in listed:
        pairs.setdefault((one.name, one.created_at, one.status, one.size_mb), []).append(one)
    for same in pairs.values():
        if len(same) != 2 or same[0].created_at is None or same[0].id.isdigit() is same[1].id.isdigit():
            return listed
    in_order = [sorted(same, key=lambda one: not one.id.isdigit()) for same in pairs.values()]
    return tuple(replace(number, also=(*number.also, *text.ids)) for number, text in in_order)


def by_any_id(servers: Iterable[Server]) -> Mapping[str, Server]:
    """The servers by each of their ids; an id under which one is shown is that one's."""
    listed = tuple(servers)
    return {one: server for server in listed for one in server.ids} | {server.id: server for server in listed}


def found_among(servers: Iterable[Server], ids: Collection[str]) -> Server | None:
    """The one of these servers that has these ids, of which an id that is no number tells most."""
    ours = [server for server in servers if is_one_server(ids, (*server.ids, *server.beside))]
    return next((one for one in ours if any(not its.isdigit() for its in one.ids)), ours[0] if ours else None)
