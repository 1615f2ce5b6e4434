"""What the last looks of a rotation have shown, and how old that is by now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Generic, Protocol, TypeVar

from snaprotd.core.asking.evidence import Evidence, Use, serves
from snaprotd.core.errors import Outdated
from snaprotd.core.model import Server, Snapshot
from snaprotd.core.rotation import Rotation, Step
from snaprotd.engine.tools import Tools
from snaprotd.ledger.claims import uptime
from snaprotd.provider import Priority, Series

REQUESTS = 3
"""Of one turn: the server, the list of its snapshots, and what is done by them."""
TOO_LATE = 3
"""Times in a row that a request is too late by its queue before it is looked and acted in one turn."""

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
        self._seen: tuple[Moment, T] | None = None
        self._is_outrun = False

    def keep(self, shown: T, at: Moment) -> None:
        self._seen, self._is_outrun = (at, shown), False

    @property
    def at(self) -> Moment:
        return self._seen[0] if self._seen is not None else Moment(-inf, -inf)

    def outrun(self) -> None:
        """Something has gone out since, or time went by: it is no evidence any more."""
        self._is_outrun = True

    def evidence(self, use: Use, *, poll_interval: float, is_to_queue: bool = False, took: float = 0.0) -> T | None:
        """What was seen, where that is enough for it; None where another look is needed."""
        if self._seen is None:
            return None
        at, shown = self._seen
        seen = Evidence(shown=shown, age=at.age, is_outrun=self._is_outrun, took=took)
        return shown if serves(seen, use, poll_interval=poll_interval, is_to_queue=is_to_queue) else None


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

    @property
    def rotation(self) -> Rotation: ...

    def guard(self) -> None: ...

    async def look_for(self, server_id: str, *, use: Use = Use.DECIDE) -> Server: ...

    async def unless_called_off(self, asked: Awaitable[T]) -> T: ...


class Looks:
    """What was seen of one server and its snapshots. Nothing is seen twice that one look has shown."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._server: Look[Server] = Look()
        self._listed: Look[tuple[Snapshot, ...]] = Look()
        self._judged: Look[tuple[Snapshot, ...]] = Look()
        self._late: list[Step] = []
        """The step that looks again, as often as it was too late in a row."""
        self._wants: Step | None = None
        """The step that is to look and to act in one turn."""
        self._turn: Series | None = None
        self._took = 0.0

    @property
    def is_late(self) -> bool:
        """The request that was to go out last did not: what it was decided by had become too old."""
        return bool(self._late)

    def acted(self) -> None:
        """A request of ours has gone out, or may have."""
        self._late, self._wants = [], None
        self.outrun()

    def outrun(self) -> None:
        """What was seen is no evidence any more."""
        for one in (self._server, self._listed, self._judged):
            one.outrun()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around a visit: where the step was too late by the queue, one turn for its looks and what it does by them."""
        asker, step = self._asker, self._asker.rotation.step
        if self._wants is not step:
            yield
            return
        # Only what a server that is off waits for goes before others: a stop is none of that, nor is a deletion.
        priority = min(asker.priority, Priority.ACTION) if step is Step.SNAPSHOT else Priority.ACTION
        async with asker.tools.cloud.in_one_turn(REQUESTS, guard=asker.guard, priority=priority) as turn:
            began = Moment.now()
            server = asker.tools.cloud.server(asker.server_id, priority=priority)
            await self._keep_server(asker.unless_called_off(server))
            await self._keep_snapshots(priority, alone=True)
            self._turn, self._took = turn, began.age
            try:
                yield
            finally:
                self._turn = None

    async def server(self, *, anew: bool = False, use: Use = Use.DECIDE) -> Server:
        """The server as of now; or, unless `anew`, as a step before this one has seen it a moment ago.

        Good enough to be put into the queue for `use`.
        """
        seen = None if anew and self._turn is None else self._evidence(self._server, use, is_to_queue=True)
        return seen or await self._keep_server(self._asker.look_for(self._asker.server_id, use=use))

    async def _keep_server(self, asked: Awaitable[Server]) -> Server:
        moment, seen = Moment.now(), await asked
        self._server.keep(seen, moment.at(seen.seen_at))
        return seen

    async def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots as of now."""
        seen = None if self._turn is None else self._evidence(self._listed)
        return seen if seen is not None else await self._keep_snapshots(self._asker.priority)

    async def _keep_snapshots(self, priority: Priority, *, alone: bool = False) -> tuple[Snapshot, ...]:
        asked, asker = Moment.now(), self._asker
        look = asker.tools.inventory.snapshots(asker.server_id, priority=priority, alone=alone)
        listed = await asker.unless_called_off(look)
        times = [one.seen_at for one in listed if one.seen_at is not None]
        self._listed.keep(listed, asked.at(min(times, default=None)))
        self._judged.outrun()
        return listed

    async def snapshots_to_judge(self) -> tuple[Snapshot, ...]:
        """The snapshots, as seen just now or by a step before this one, each with what the ledger knows of it.

        A name alone tells nothing. Raises `LedgerError`.
        """
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

    def demand(self, use: Use, *, by_server: bool = True, by_list: bool = True, is_to_queue: bool = False) -> None:
        """Raise `Outdated` where the server, or the list of its snapshots, was seen too long ago to do that by it.

        Where it is too old before it queues (`is_to_queue`), or was so often in the end, no other look of its kind
        would be new enough: the step has the next one in its own turn. Where that was too old too it waits for a poll.
        """
        by = [*([self._server] if by_server else []), *([self._listed] if by_list else [])]
        if all(self._evidence(look, use, is_to_queue=is_to_queue) is not None for look in by):  # type: ignore[arg-type]
            return
        self.outrun()
        step = self._asker.rotation.step
        self._late = [*(one for one in self._late if one is step), step]
        if is_to_queue or len(self._late) >= TOO_LATE:
            self._wants = step
        why = "what it was decided by was seen too long ago when its turn came: there is another look first"
        raise Outdated(why, soon=self._turn is None)

    def _evidence(self, look: Look[T], use: Use = Use.DECIDE, *, is_to_queue: bool = False) -> T | None:
        """In a turn of its own nothing queues any more."""
        in_turn = self._turn is not None and self._turn.is_whole
        took = self._took if in_turn else 0.0
        poll_interval, queues = self._asker.tools.poll_interval, is_to_queue and use is not Use.DECIDE and not in_turn
        return look.evidence(use, poll_interval=poll_interval, is_to_queue=queues, took=took)
