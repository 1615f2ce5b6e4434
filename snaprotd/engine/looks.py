"""What the last looks of a rotation have shown, and how old that is by now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, replace
from math import inf
from typing import Generic, NoReturn, Protocol, TypeVar

from snaprotd.core.asking.evidence import Evidence, Use, serves
from snaprotd.core.errors import Outdated
from snaprotd.core.model import Server, Snapshot
from snaprotd.engine.tools import Tools
from snaprotd.ledger.claims import uptime
from snaprotd.provider import Priority

T = TypeVar("T")


@dataclass(frozen=True)
class Moment:
    """A time by two clocks: the second one goes on while the machine is suspended."""

    loop: float
    up: float

    @staticmethod
    def now() -> Moment:
        return Moment(asyncio.get_running_loop().time(), uptime())

    def at(self, loop: float | None) -> Moment:
        """A later one by the loop's clock; whatever time the machine was suspended for lies after it."""
        later = 0.0 if loop is None else max(loop - self.loop, 0.0)
        return Moment(self.loop + later, self.up + later)

    @property
    def age(self) -> float:
        now = Moment.now()
        return max(now.loop - self.loop, now.up - self.up)


class Look(Generic[T]):
    """The last answer to one question about the server."""

    def __init__(self) -> None:
        self._seen: tuple[Moment, Evidence[T]] | None = None

    def keep(self, shown: T, at: Moment, *, for_a_deletion: bool = False) -> None:
        self._seen = at, Evidence(shown=shown, age=0.0, is_for_a_deletion=for_a_deletion)

    @property
    def at(self) -> Moment:
        return self._seen[0] if self._seen is not None else Moment(-inf, -inf)

    def outrun(self) -> None:
        """Something has gone out since, or time went by: it is no evidence any more."""
        if self._seen is not None:
            self._seen = self._seen[0], replace(self._seen[1], is_outrun=True)

    def evidence(self, use: Use, *, poll_interval: float) -> T | None:
        """What was seen, where that is enough for it; None where another look is needed."""
        if self._seen is None:
            return None
        at, seen = self._seen
        return seen.shown if serves(replace(seen, age=at.age), use, poll_interval=poll_interval) else None


class Asker(Protocol):
    """The rotation whose server it is."""

    tools: Tools

    @property
    def server_id(self) -> str: ...

    @property
    def ids(self) -> Collection[str]: ...

    @property
    def instance(self) -> str: ...

    @property
    def priority(self) -> Priority: ...

    async def look_for(self, server_id: str) -> Server: ...

    async def unless_called_off(self, asked: Awaitable[T]) -> T: ...


class Looks:
    """What was seen of one server and its snapshots. Nothing is seen twice that one look has shown."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._server: Look[Server] = Look()
        self._listed: Look[tuple[Snapshot, ...]] = Look()
        self._judged: Look[tuple[Snapshot, ...]] = Look()
        self._alone = False
        self.is_late = False
        """The request that was to go out last did not: what it was decided by had become too old."""

    def acted(self) -> None:
        """A request of ours has gone out, or may have."""
        self.is_late = False
        self.outrun()

    def outrun(self) -> None:
        """What was seen is no evidence any more."""
        for one in (self._server, self._listed, self._judged):
            one.outrun()

    async def server(self, *, anew: bool) -> Server:
        """As `Run.server`."""
        seen = None if anew else self._evidence(self._server)
        if seen is None:
            asked = Moment.now()
            seen = await self._asker.look_for(self._asker.server_id)
            self._server.keep(seen, asked.at(seen.seen_at))
        return seen

    async def snapshots(self) -> tuple[Snapshot, ...]:
        """As `Run.snapshots`."""
        asked, asker = Moment.now(), self._asker
        look = asker.tools.inventory.snapshots(asker.server_id, priority=asker.priority, alone=self._alone)
        listed = await asker.unless_called_off(look)
        times = [one.seen_at for one in listed if one.seen_at is not None]
        self._listed.keep(listed, asked.at(min(times, default=None)), for_a_deletion=self._alone)
        self._alone = False
        self._judged.outrun()
        return listed

    async def snapshots_to_judge(self) -> tuple[Snapshot, ...]:
        """As `Run.snapshots_to_judge`."""
        judged = self._evidence(self._judged)
        if judged is not None:
            return judged
        listed = self._evidence(self._listed)
        if listed is None:
            listed = await self.snapshots()
        asker = self._asker
        recollection = await asker.tools.ledger.recall(asker.ids, listed, asker.tools.now())
        judged = recollection.marked(listed, asker.instance)
        self._judged.keep(judged, self._listed.at)
        return judged

    def demand_to_send(self, *, by_list: bool) -> None:
        """Raise `Outdated` where the server was looked at too long ago to act on it; with `by_list` so for its list."""
        is_known = self._evidence(self._server, Use.SEND) is not None
        if not is_known or (by_list and self._evidence(self._listed, Use.SEND) is None):
            self.outrun()
            self._late("what it was decided by is too old, for its turn came late: there is another look first")

    def demand_to_delete(self) -> None:
        """Raise `Outdated` where the list is too old to delete by: the next one is read alone.

        A list of all takes its time, and so does a turn.
        """
        if self._evidence(self._listed, Use.DELETE) is None:
            self._alone = True
            self._listed.outrun()
            self._judged.outrun()
            self._late("the list of its snapshots was read too long ago to delete by it: it is read again")

    def _late(self, why: str) -> NoReturn:
        self.is_late = True
        raise Outdated(why)

    def _evidence(self, look: Look[T], use: Use = Use.DECIDE) -> T | None:
        return look.evidence(use, poll_interval=self._asker.tools.poll_interval)
