"""Which ids are one server's: a provider may call it by a number in one place and by a UUID in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from snaprotd.core.model import Server, Snapshot

MOST_REMEMBERED = 250_000
"""Ids, those last seen: an account that shows others in each list is not remembered for ever."""


def forget_the_first(kept: dict[str, Any], most: int) -> None:
    """Keep no more than the last `most`."""
    for first in list(islice(kept, max(0, len(kept) - most))):
        del kept[first]


class Identities:
    """Learns from entries that show two ids of one server.

    An id that was seen beside two others tells no server from another: it stands for itself alone.
    """

    def __init__(self) -> None:
        self._beside: dict[str, set[str]] = {}

    def __contains__(self, one: str) -> bool:
        return one in self._beside

    def learn(self, ids: Iterable[str]) -> None:
        """These ids were shown in one entry."""
        together = set(ids)
        for one in together:
            beside = self._beside.pop(one, set())
            self._beside[one] = beside if len(beside) > 1 else beside | (together - {one})
        forget_the_first(self._beside, MOST_REMEMBERED)

    def of(self, one: str) -> frozenset[str]:
        """Every id of the server that `one` is an id of, `one` too."""
        beside = self._beside.get(one, set())
        is_certain = len(beside) == 1 and all(self._beside.get(other) == {one} for other in beside)
        return frozenset({one, *beside} if is_certain else {one})


class Names:
    """Under which of its ids each server is shown: the one by which it is called here, else the provider's first."""

    def __init__(self, called: Iterable[str]) -> None:
        self._called = frozenset(called)
        self._identities = Identities()
        self._shown: dict[str, str] = {}

    def __contains__(self, server_id: str) -> bool:
        return server_id in self._shown

    def call(self, server_ids: Iterable[str]) -> None:
        """The ids by which servers are called from now on."""
        self._called = frozenset(server_ids)

    def shown(self, server_id: str) -> str:
        """The id under which the server is shown that `server_id` is an id of."""
        return self._shown.get(server_id, server_id)

    def ids_of(self, server_id: str) -> frozenset[str]:
        """Every id of the server that `server_id` is an id of, that one too."""
        return self._identities.of(server_id)

    def as_called(self, servers: Iterable[Server]) -> tuple[Server, ...]:
        """These servers, as they are shown; from now on each is known by any of its ids."""
        listed = tuple(servers)
        for server in listed:
            self._identities.learn(server.ids)
        return tuple(map(self._as_called, listed))

    def _as_called(self, server: Server) -> Server:
        certain = self._identities.of(server.id)
        for doubtful in set(server.ids) - certain:
            self._shown.pop(doubtful, None)
        server = replace(server, also=tuple(ref for ref in server.also if str(ref) in certain))
        chosen = next((one for one in server.ids if one in self._called), self.shown(server.id))
        for one in server.ids:
            self._shown.pop(one, None)
        self._shown |= dict.fromkeys(server.ids, chosen)
        forget_the_first(self._shown, MOST_REMEMBERED)
        return server.called(chosen)

    def of_called(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as one of a server that is shown so."""
        ids = (snapshot.server_id, *snapshot.server_also)
        known = next((self._shown[one] for one in ids if one in self._shown), None)
        chosen = known or next((one for one in ids if one in self._called), snapshot.server_id)
        return replace(snapshot, server_id=chosen)


def by_any_id(servers: Iterable[Server]) -> Mapping[str, Server]:
    """The servers by each of their ids; an id under which one is shown is that one's."""
    listed = tuple(servers)
    return {one: server for server in listed for one in server.ids} | {server.id: server for server in listed}
