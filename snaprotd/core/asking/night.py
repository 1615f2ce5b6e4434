"""What a night takes: when each rotation begins and ends, what is asked meanwhile, and for how long servers are off.

A night is played through by the same rules that let rotations begin: their group, `max_concurrent`, and what there are
requests for. What the provider needs is taken from each server's past, or assumed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from snaprotd.core.asking.budget import Budget, Past, reading_interval

TO_BEGIN = 3
"""Requests of a rotation until its snapshot, or its stop, was asked for: two looks and that."""
LIVE, STOPPED = 5, 20
"""Requests of a whole rotation, as nights of fleets have shown: of one that stops nothing, and of one that does."""
AT_THE_END = 5.0
"""Seconds in which the last snapshots are deleted."""
INVENTORY_EVERY = 60.0
"""Seconds between two readings of the whole account, where that is a small one."""
EVENLY = 0.7
"""The part of the rate that a night can use: its requests do not come evenly."""
MINUTE = 60.0


@dataclass(frozen=True, kw_only=True)
class Due:
    """A rotation of the night. Times are seconds of one clock."""

    server_id: str
    at: float
    """Its slot, and its share of `spread` after it."""
    latest: float
    """When it is too late to begin: `missed_within` after its slot, or when its window closes."""
    stops: bool
    past: Past
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What is foreseen of one."""

    due: Due
    at: float
    end: float
    off: float
    """Seconds for which its server is off, as expected; none where it is not stopped."""
    off_at_worst: float

    @property
    def is_late(self) -> bool:
        return self.at > self.due.latest


@dataclass(frozen=True, kw_only=True)
class Night:
    """All of them."""

    begun: Sequence[Begun]
    in_flight: int
    """Slots that come while the server's last rotation is open still: they are not run."""
    seconds: float
    """From the first slot to the last end."""
    requests: int
    busiest_minute: int
    """Requests that go out in it, as the rate allows."""

    @property
    def late(self) -> int:
        """How many begin too late."""
        return sum(one.is_late for one in self.begun)

    @property
    def latest_begin(self) -> float:
        """The longest time for which one waits, in seconds."""
        return max((one.at - one.due.at for one in self.begun), default=0.0)

    @property
    def off(self) -> float:
        """The longest of the times that are expected."""
        return max((one.off for one in self.begun), default=0.0)

    @property
    def off_at_worst(self) -> float:
        return max((one.off_at_worst for one in self.begun), default=0.0)


def play(due: Sequence[Due], budget: Budget, *, max_concurrent: int) -> Night:
    """Play a night through."""
    stage = _Stage(budget, max_concurrent)
    for one in sorted(due, key=lambda one: one.at):
        stage.begin(one)
    begun = stage.begun
    played = max((one.end for one in begun), default=0.0) - min((one.due.at for one in begun), default=0.0)
    is_at_work = len(begun) >= max_concurrent
    every = reading_interval(budget.pages, budget.rate, shortest=INVENTORY_EVERY, is_at_work=is_at_work)
    inventory = min(played / every * budget.pages, (1 - EVENLY) * budget.rate * played)
    requests = sum(STOPPED if one.due.stops else LIVE for one in begun) + int(inventory)
    return Night(
        begun=begun,
        in_flight=stage.in_flight,
        seconds=max(played, requests / (EVENLY * budget.rate)),
        requests=requests,
        busiest_minute=int(min(max(stage.by_minute.values(), default=0), MINUTE * budget.rate)),
    )


def off_for(past: Past, budget: Budget) -> tuple[float, float]:
    """Seconds for which a server is off, as expected and at worst.

    That it is off, and that its snapshot is done, is seen at a tick; then a list is read before anything is asked for.
    """
    lists = 2 * budget.pages / budget.rate
    return past.off + 2 * budget.burst + lists / 2, past.off + 4 * budget.burst + lists


class _Stage:
    def __init__(self, budget: Budget, max_concurrent: int) -> None:
        self.begun: list[Begun] = []
        self.in_flight = 0
        self.by_minute: dict[int, float] = defaultdict(float)
        self._budget = budget
        self._most = budget.most_at_once
        self._free = max_concurrent
        self._ends: list[float] = []
        self._starts: list[float] = []
        """When the starts of those that are off are asked for."""
        self._moments: list[float] = []
        self._groups: dict[str, float] = {}
        self._open: dict[str, float] = {}
        self._line = 0.0
        """When the requests of those that began before have been sent."""

    def begin(self, due: Due) -> None:
        if self._open.get(due.server_id, 0.0) > due.at:
            self.in_flight += 1
            return
        at = max(self._permit(max(due.at, self._groups.get(due.group, 0.0) if due.group else due.at)), self._line)
        at = self._admitted(due, at) if due.stops else at
        one = self._foreseen(due, at)
        self.begun.append(one)
        if due.stops:
            self._off_from(at, due.past)
        self._line = at + TO_BEGIN / self._budget.rate
        self._open[due.server_id] = one.end
        if due.group:
            self._groups[due.group] = one.end
        heappush(self._ends, one.end)
        self._count(one)

    def _permit(self, at: float) -> float:
        """When one of the places is free."""
        while self._ends and self._ends[0] <= at:
            heappop(self._ends)
            self._free += 1
        if not self._free:
            at = heappop(self._ends)
            self._free += 1
        self._free -= 1
        return at

    def _admitted(self, due: Due, at: float) -> float:
        """When there are requests for it."""
        half, most_off = self._budget.burst / 2, self._budget.most_off(due.past.off)
        while True:
            while self._starts and self._starts[0] <= at:
                heappop(self._starts)
            new = _moments(at, due.past)
            if not self._starts:
                break
            if len(self._starts) >= most_off:
                at = self._starts[0]
            elif any(self._near(one, half) >= self._most for one in new):
                at += half
            else:
                break
        return at

    def _off_from(self, at: float, past: Past) -> None:
        create, start = _moments(at, past)
        heappush(self._starts, start)
        insort(self._moments, create)
        insort(self._moments, start)

    def _near(self, moment: float, half: float) -> int:
        return bisect_left(self._moments, moment + half) - bisect_right(self._moments, moment - half)

    def _foreseen(self, due: Due, at: float) -> Begun:
        budget = self._budget
        if not due.stops:
            end = at + due.past.snapshot + budget.burst + AT_THE_END
            return Begun(due=due, at=at, end=end, off=0.0, off_at_worst=0.0)
        off, worst = off_for(due.past, budget)
        return Begun(due=due, at=at, end=at + off + budget.poll_interval + AT_THE_END, off=off, off_at_worst=worst)

    def _count(self, one: Begun) -> None:
        """Some requests when it begins, the rest evenly until it ends."""
        first, last = int(one.at // MINUTE), int(one.end // MINUTE)
        self.by_minute[first] += TO_BEGIN
        for minute in range(first, last + 1):
            self.by_minute[minute] += ((STOPPED if one.due.stops else LIVE) - TO_BEGIN) / (last + 1 - first)


def _moments(at: float, past: Past) -> tuple[float, float]:
    """When the snapshot, and then the start, is asked for of a server that is stopped `at` this time."""
    create = at + past.power
    return create, create + past.snapshot
