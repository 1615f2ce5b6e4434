"""A breadth-first search over everything that may happen: the first broken promise is reached by the shortest way.

It goes on to the end: no state that can be reached is left out, and none is looked at twice. From each of them, too,
the end that is promised must be within reach without any more harm.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple, Generic[S]):
    """Something that may happen next."""

    event: str
    after: S
    is_harm: bool = False
    """Nobody can count on it: the end must be within reach without it."""
    broken: str = ""
    """The promise that is broken by it."""


@dataclass(frozen=True, kw_only=True)
class Found:
    states: int
    events: Counter[str]
    """How often each was taken."""
    broken: str = ""
    trace: tuple[str, ...] = ()
    """What led there, if a promise was broken."""

    def __str__(self) -> str:
        told = f"{self.states} states" + (f": {self.broken}" if self.broken else ", and no broken promise")
        return "\n".join([told, *(f"{number:3}. {event}" for number, event in enumerate(self.trace, 1))])


@contextmanager
def without_gc() -> Iterator[None]:
    """Nothing here refers to itself, and to look through a million tuples takes longer than to make them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@without_gc()
def search(begin: Iterable[S], steps: Callable[[S], Iterable[Step[S]]], is_end: Callable[[S], bool]) -> Found:
    """All that can be reached from `begin`, until a promise is broken. `is_end`: all that is promised was done."""
    states = list(dict.fromkeys(begin))
    at = {state: number for number, state in enumerate(states)}
    came: list[tuple[int, str]] = [(-1, "")] * len(states)
    events: Counter[str] = Counter()
    before: list[list[int]] = [[] for _ in states]
    """Of each state, those that lead to it without harm."""
    number = 0
    while number < len(states):
        for event, after, is_harm, broken in steps(states[number]):
            events[event] += 1
            if broken:
                return Found(states=len(states), events=events, broken=broken, trace=(*_way(came, number), event))
            next_one = at.get(after)
            if next_one is None:
                next_one = at[after] = len(states)
                states.append(after)
                came.append((number, event))
                before.append([])
            if not is_harm:
                before[next_one].append(number)
        number += 1
    lost = _first_without_end(before, [number for number, state in enumerate(states) if is_end(state)])
    if lost is None:
        return Found(states=len(states), events=events)
    why = "what was promised cannot be done any more"
    return Found(states=len(states), events=events, broken=why, trace=tuple(_way(came, lost)))


def _way(came: list[tuple[int, str]], number: int) -> list[str]:
    def back() -> Iterator[str]:
        here = number
        while (step := came[here])[0] >= 0:
            here, event = step
            yield event

    return list(back())[::-1]


def _first_without_end(before: list[list[int]], ends: list[int]) -> int | None:
    """The first state from which no end can be reached without harm."""
    has_end = bytearray(len(before))
    for one in ends:
        has_end[one] = 1
    while ends:
        for one in before[ends.pop()]:
            if not has_end[one]:
                has_end[one] = 1
                ends.append(one)
    lost = has_end.find(0)
    return None if lost < 0 else lost
