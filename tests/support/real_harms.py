"""What befalls real replicas and their database, one thing after the other for each of them, drawn by a seed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.support.real_replicas import RealReplica

Harm = Callable[[RealReplica, float, Random], Awaitable[None]]


async def killed(one: RealReplica, seconds: float, _: Random) -> None:
    """As `kill -9` does, and started anew."""
    await one.kill()
    await asyncio.sleep(seconds)
    await one.begin()


async def frozen(one: RealReplica, seconds: float, _: Random) -> None:
    one.life.send(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    one.life.send(signal.SIGCONT)


async def silenced(one: RealReplica, seconds: float, chance: Random) -> None:
    """What it sends to the database arrives late, or never."""
    one.way.fall_silent()
    await asyncio.sleep(seconds)
    one.way.heal(forgets=chance.random() < 0.5)


async def cut(one: RealReplica, seconds: float, chance: Random) -> None:
    """Again and again, then altogether for a while."""
    for _ in range(5):
        one.way.reset()
        await asyncio.sleep(chance.random() / 4)
    one.way.cut()
    await asyncio.sleep(seconds)
    one.way.heal()


async def rolled_out(one: RealReplica, seconds: float, _: Random) -> None:
    """Asked to end, and started anew when it has."""
    await one.asked_to_end()
    await one.begin()


async def configured_otherwise(one: RealReplica, seconds: float, _: Random) -> None:
    """It reads that by itself, and then the old one again."""
    one.configure(keep=1)
    await asyncio.sleep(seconds)
    one.configure()


@dataclass(frozen=True)
class Blow:
    after: float
    """Seconds since the one before it."""
    harm: Harm
    lasts: float
    """Seconds."""


LENGTHS: dict[Harm, tuple[float, float]] = {
    killed: (0.0, 1.3),
    frozen: (1.2, 1.4),
    silenced: (0.5, 1.0),
    cut: (0.0, 0.3),
    rolled_out: (0.0, 0.0),
    configured_otherwise: (0.3, 1.0),
}
"""Of each harm the shortest and the longest, in terms of a lease; of what takes no time of a lease's, in seconds."""


def drawn(chance: Random, number: int, rounds: int, lease: float) -> list[list[Blow]]:
    """For each of so many replicas what befalls it. In each round there is every harm once."""
    plots: list[list[Blow]] = [[] for _ in range(number)]
    for _ in range(rounds):
        harms = list(LENGTHS)
        chance.shuffle(harms)
        for turn, harm in enumerate(harms):
            shortest, longest = LENGTHS[harm]
            plots[turn % number].append(Blow(chance.uniform(0.1, 1.0), harm, lease * chance.uniform(shortest, longest)))
    return plots


async def befalls(one: RealReplica, plot: Sequence[Blow], chance: Random) -> None:
    for blow in plot:
        await asyncio.sleep(blow.after)
        await blow.harm(one, blow.lasts, chance)
