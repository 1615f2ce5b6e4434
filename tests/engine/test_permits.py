"""Permits are given in turn, and none is lost."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from snaprotd.engine.tools import Permit, Permits


async def waiting(permits: Permits, number: int) -> tuple[list[int], list[asyncio.Task[Permit]]]:
    """Who has been given a permit, in order, and the tasks of all that want one."""
    given: list[int] = []

    async def want(one: int) -> Permit:
        permit = await permits.take()
        given.append(one)
        return permit

    tasks = [asyncio.create_task(want(one)) for one in range(number)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return given, tasks


async def test_a_permit_that_is_given_back_goes_to_who_came_first_and_wakes_nobody_else() -> None:
    given, tasks = await waiting(Permits(1), 100)
    for number in range(100):
        assert given == list(range(number + 1))
        others = [task for task in tasks[number + 1 :] if task.done()]
        assert others == []
        tasks[number].result().give_back()
        await asyncio.sleep(1)


async def test_they_are_all_taken_when_who_comes_has_to_wait() -> None:
    permits = Permits(2)
    taken, seen = [await permits.take()], [permits.are_all_taken]
    taken.append(await permits.take())
    seen.append(permits.are_all_taken)
    taken[0].give_back()
    assert [*seen, permits.are_all_taken] == [False, True, False]


async def test_how_often_they_are_taken_counts_who_waits_and_who_is_coming() -> None:
    permits = Permits(2)
    assert [permits.rounds(coming) for coming in (0, 1, 2)] == [0, 0, 1]
    _, tasks = await waiting(permits, 3)
    assert [permits.rounds(coming) for coming in (0, 1)] == [1, 2]
    permits.set_number(0)
    assert permits.rounds(0) == inf
    for task in tasks:
        task.cancel()


async def test_a_permit_that_is_given_back_twice_is_given_once() -> None:
    given, tasks = await waiting(Permits(1), 3)
    first = tasks[0].result()
    first.give_back()
    first.give_back()
    await asyncio.sleep(1)
    assert given == [0, 1]


@pytest.mark.parametrize("is_handed", [False, True])
async def test_who_gives_up_waiting_takes_no_permit_along(is_handed: bool) -> None:
    given, tasks = await waiting(Permits(1), 3)
    if is_handed:  # and has not noticed yet
        tasks[0].result().give_back()
        tasks[1].cancel()
    else:
        tasks[1].cancel()
        tasks[0].result().give_back()
    await asyncio.sleep(1)
    assert given == [0, 2]


async def test_who_waits_for_so_long_only_leaves_the_place_to_others() -> None:
    permits = Permits(1)
    held = await permits.take()
    assert await permits.take_within(5) is None
    held.give_back()
    assert await permits.take_within(5) is not None


async def test_of_a_number_that_grows_those_that_wait_have_their_share() -> None:
    permits = Permits(1)
    given, tasks = await waiting(permits, 5)
    permits.set_number(3)
    await asyncio.sleep(1)
    assert given == [0, 1, 2]
    permits.set_number(1)
    tasks[0].result().give_back()
    tasks[1].result().give_back()
    await asyncio.sleep(1)
    assert given == [0, 1, 2]
    tasks[2].result().give_back()
    await asyncio.sleep(1)
    assert given == [0, 1, 2, 3]
