"""Whose transaction is next: one at a time, and what the start of a server waits for goes before all others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from snaprotd.core.errors import LedgerError

LONGEST_TURN = 60.0
"""Seconds for which a transaction waits for those of its own process."""
PASSED_OVER = 9
"""Urgent ones that may go before others which wait: those have one in ten for certain."""
MOST_TOGETHER = 50
"""Questions that are answered in one turn: who waits for the next one has to wait for all of them."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Take = Callable[[], list[Question]]


class Turns:
    """Of the ledger called `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_taken = False
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}
        """By whether they are urgent, in the order in which they came."""
        self._passed_over = 0

    @asynccontextmanager
    async def take(self, *, urgent: bool = False) -> AsyncIterator[None]:
        """Have a turn. `urgent`: a server is off, or slots are not claimed, until it is over.

        Raises `LedgerError` where others take too long.
        """
        try:
            async with asyncio.timeout(LONGEST_TURN):
                await self._wait(urgent)
        except TimeoutError as error:
            raise LedgerError(f"the ledger {self._name} has been busy for {LONGEST_TURN:g} s") from error
        try:
            yield
        finally:
            self._hand_on()

    def refuse(self, words: str) -> None:
        """Whoever waits is told so, and waits no more: who has the turn has learnt it for all of them."""
        for queue in self._waiting.values():
            for turn in queue:
                if not turn.done():
                    turn.set_exception(LedgerError(words))

    async def _wait(self, urgent: bool) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[urgent].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:  # it has just been handed one
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        for queue in self._waiting.values():
            while queue and queue[0].done():
                queue.popleft()  # given up
        urgent, others = self._waiting[True], self._waiting[False]
        goes_first = bool(urgent) and (not others or self._passed_over < PASSED_OVER)
        self._passed_over = self._passed_over + 1 if goes_first and others else 0
        self._is_taken = bool(urgent or others)
        if self._is_taken:
            (urgent if goes_first else others).popleft().set_result(None)


class Together(Generic[Question, Answer]):
    """Gathers what is asked of the ledger while it has no turn, and has it answered in one: a turn costs far more.

    What is answered as an error is raised for who has asked that; what is raised, for all of the turn.
    """

    def __init__(
        self, answer: Callable[[Callable[[], list[Question]]], Awaitable[Sequence[Answer | Exception]]]
    ) -> None:
        """`answer` is given what takes those who wait: to be called when it has its turn."""
        self._answer = answer
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._answering: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """The answer of a turn that began after the question."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer_all())
        return await future

    async def _answer_all(self) -> None:
        while self._waiting:
            taken: list[tuple[Question, asyncio.Future[Answer]]] = []

            def take(taken: list[tuple[Question, asyncio.Future[Answer]]] = taken) -> list[Question]:
                while self._waiting and len(taken) < MOST_TOGETHER:
                    if not (one := self._waiting.popleft())[1].done():  # else it is given up
                        taken.append(one)
                return [question for question, _ in taken]

            try:
                answers = await self._answer(take)
            except BaseException as error:  # whoever ends this: nobody is left waiting for it
                is_over = not isinstance(error, Exception)
                left = range(len(self._waiting) if is_over or not taken else 0)
                _settle([(future, error) for _, future in [*taken, *(self._waiting.popleft() for _ in left)]])
                if is_over:
                    return
            else:
                _settle([(future, answer) for (_, future), answer in zip(taken, answers, strict=True)])


def _settle(answers: Sequence[tuple[asyncio.Future[Answer], Answer | BaseException]]) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if isinstance(answer, asyncio.CancelledError):
            future.cancel()
        elif isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
