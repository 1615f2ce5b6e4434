"""What earlier lists showed of snapshots: one word in one list may be a moment's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

from snaprotd.core.model import Snapshot, SnapshotState
from snaprotd.provider.identity import forget_the_first

REMEMBERED = 50
"""Snapshots of each server, the last seen ones: some are in no list for a moment, and come back."""

MOST_SERVERS = 100_000


@dataclass(slots=True)
class _Server:
    was_completed: dict[str, None] = field(default_factory=dict)
    """Ids, the last seen at the end."""
    since: dict[str, tuple[SnapshotState, float]] = field(default_factory=dict)
    """The state of each that is not completed, and from when on every list has shown it in that."""


class Memory:
    """Told of every whole list of a server's snapshots. It lasts as long as the process."""

    def __init__(self, *, foresees: bool = False) -> None:
        """`foresees`: whatever is shown is taken to last."""
        self._foresees = foresees
        self._servers: dict[str, _Server] = {}

    def rename(self, shown: Callable[[str], str]) -> None:
        """Servers are shown under other ids from now on."""
        self._servers = {shown(one): known for one, known in self._servers.items()}

    def marked(self, server_id: str, listed: tuple[Snapshot, ...]) -> tuple[Snapshot, ...]:
        """The snapshots of a server, each with what earlier lists say of it."""
        before: _Server | None = self._servers.pop(server_id, None)
        known = self._servers[server_id] = before or _Server()
        forget_the_first(self._servers, MOST_SERVERS)
        now = asyncio.get_running_loop().time()
        for one in listed:
            if one.is_completed:
                known.was_completed.pop(one.id, None)
                known.was_completed[one.id] = None
        forget_the_first(known.was_completed, REMEMBERED)
        known.since = {one.id: _since(known, one, now) for one in listed if not one.is_completed}
        return tuple(one if one.is_completed else self._marked(known, one, now) for one in listed)

    def _marked(self, known: _Server, one: Snapshot, now: float) -> Snapshot:
        _, since = known.since[one.id]
        unchanged_for = inf if self._foresees else now - since
        return replace(one, was_completed=one.id in known.was_completed, unchanged_for=unchanged_for)


def _since(known: _Server, one: Snapshot, now: float) -> tuple[SnapshotState, float]:
    before = known.since.get(one.id)
    return before if before is not None and before[0] is one.state else (one.state, now)
