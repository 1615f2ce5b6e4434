"""Whose transaction is next."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.files.turns import LONGEST_TURN, MOST_TOGETHER, PASSED_OVER, Take, Together, Turns


class Line:
    """Who comes to the ledger, and who was served in which order."""

    def __init__(self) -> None:
        self.turns = Turns("state.db")
        self.served: list[str] = []

    async def come(self, name: str, *, urgent: bool = False) -> None:
        async with self.turns.take(urgent=urgent):
            self.served.append(name)
            await asyncio.sleep(1)

    def comes(self, name: str, *, urgent: bool = False) -> asyncio.Task[None]:
        return asyncio.create_task(self.come(name, urgent=urgent))


async def test_what_a_start_waits_for_goes_before_all_that_came_earlier() -> None:
    line = Line()
    await asyncio.gather(line.comes("first"), line.comes("second"), line.comes("start", urgent=True))
    assert line.served == ["first", "start", "second"]


async def test_they_are_served_in_the_order_in_which_they_came() -> None:
    line = Line()
    await asyncio.gather(*(line.comes(name) for name in "abc"), *(line.comes(name, urgent=True) for name in "ABC"))
    assert line.served == ["a", "A", "B", "C", "b", "c"]


async def test_one_in_ten_is_for_others_however_many_starts_there_are() -> None:
    line = Line()
    starts = [line.comes("start", urgent=True) for _ in range(30)]
    await asyncio.gather(*starts, line.comes("one"), line.comes("two"))
    assert [line.served.index(name) for name in ("one", "two")] == [PASSED_OVER + 1, 2 * PASSED_OVER + 2]


async def test_who_gives_up_while_it_waits_or_as_it_is_handed_a_turn_keeps_nobody_waiting() -> None:
    line = Line()

    async def gives_way() -> None:
        await line.come("first")
        handed.cancel()  # it has just been given the turn, and does not know it yet

    first = asyncio.create_task(gives_way())
    await asyncio.sleep(0.5)
    waits, handed, last = (line.comes(name) for name in ("waits", "handed", "last"))
    await asyncio.sleep(0)
    waits.cancel()
    async with asyncio.timeout(10):
        for one in (first, waits, handed, last):
            with suppress(asyncio.CancelledError):
                await one
    assert line.served == ["first", "last"]


async def test_who_waits_for_too_long_is_told() -> None:
    line = Line()

    async def stuck() -> None:
        async with line.turns.take():
            await asyncio.sleep(2 * LONGEST_TURN)

    holds = asyncio.create_task(stuck())
    await asyncio.sleep(0)
    with pytest.raises(LedgerError, match=r"state\.db has been busy for 60 s"):
        await line.come("waits")
    await holds


async def test_who_waits_is_refused_together_and_who_comes_after_that_has_a_turn() -> None:
    line = Line()
    first = line.comes("first")
    await asyncio.sleep(0.5)
    refused = [line.comes("waits"), line.comes("start", urgent=True)]
    given_up = line.comes("given up")
    await asyncio.sleep(0)
    line.turns.refuse("no answer")
    given_up.cancel()  # as it is told
    await asyncio.sleep(0)
    last = line.comes("last")
    found = await asyncio.gather(*refused, return_exceptions=True)
    assert [str(one) for one in found] == ["no answer", "no answer"]
    await asyncio.gather(first, last)
    assert line.served == ["first", "last"]
    assert given_up.cancelled()


# -- many questions in one turn ----------------------------------------------------------------------------------------


class Desk:
    """Answers with the double, and what is below 0 with an error."""

    def __init__(self) -> None:
        self.together: Together[int, int] = Together(self.answer)
        self.turns: list[list[int]] = []
        self.fails = False

    async def answer(self, take: Take[int]) -> list[int | Exception]:
        await asyncio.sleep(1)
        if self.fails:
            raise LedgerError("it cannot be read")
        self.turns.append(take())
        await asyncio.sleep(1)
        return [2 * one if one >= 0 else LedgerError(str(one)) for one in self.turns[-1]]


async def test_all_who_wait_are_answered_in_one_turn_and_who_comes_later_in_the_next() -> None:
    desk = Desk()
    asked = [asyncio.create_task(desk.together.ask(one)) for one in (1, 2)]
    await asyncio.sleep(0.5)
    asked.append(asyncio.create_task(desk.together.ask(3)))
    await asyncio.sleep(1)
    asked.append(asyncio.create_task(desk.together.ask(4)))
    assert await asyncio.gather(*asked) == [2, 4, 6, 8]
    assert desk.turns == [[1, 2, 3], [4]]


async def test_no_turn_is_for_more_than_some() -> None:
    desk, many = Desk(), range(2 * MOST_TOGETHER + 1)
    assert await asyncio.gather(*map(desk.together.ask, many)) == [2 * one for one in many]
    assert list(map(len, desk.turns)) == [MOST_TOGETHER, MOST_TOGETHER, 1]


async def test_an_error_is_of_one_or_of_all_who_waited_and_of_nobody_after_them() -> None:
    desk = Desk()
    one, other = await asyncio.gather(desk.together.ask(-1), desk.together.ask(1), return_exceptions=True)
    assert (str(one), other) == ("-1", 2)
    desk.fails = True
    found = await asyncio.gather(desk.together.ask(1), desk.together.ask(2), return_exceptions=True)
    assert [str(one) for one in found] == ["it cannot be read"] * 2
    desk.fails = False
    assert await desk.together.ask(3) == 6


async def test_who_gives_up_before_the_turn_is_not_asked_for() -> None:
    desk = Desk()
    given_up, stays = (asyncio.create_task(desk.together.ask(one)) for one in (1, 2))
    await asyncio.sleep(0.5)
    given_up.cancel()
    assert await stays == 4
    assert desk.turns == [[2]]


class Ended(BaseException):
    """As what ends a process."""


async def test_whatever_ends_a_turn_nobody_is_left_waiting_for_it() -> None:
    async def answer(take: Take[int]) -> list[int]:
        take()
        await asyncio.sleep(1)
        raise Ended

    together: Together[int, int] = Together(answer)
    many = [asyncio.create_task(together.ask(one)) for one in range(MOST_TOGETHER + 1)]
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*many, return_exceptions=True)
    assert {type(one) for one in ended} == {Ended}
