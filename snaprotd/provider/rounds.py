"""Questions about servers, gathered so that all that wait share the requests of one round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from snaprotd.provider.pacing import Priority

LOWEST = max(Priority)
PATIENCE = 5.0
"""Seconds after which the next round may begin although one is still going: a slow answer holds up nobody else."""

T = TypeVar("T")
Deliver = Callable[[str, T | Exception], None]


class Rounds(Generic[T]):
    """Gathers questions about servers, and answers all that are waiting in one round.

    A question that comes while a round is in flight joins the next one: the provider may have answered the requests
    of the round in flight already. A round stands in the queue with the highest class of those that share it. What
    a server is off for, or something is to be deleted by, does not wait for the round of what is less: the next one
    begins at once.
    """

    def __init__(
        self, answer: Callable[[frozenset[str], Priority, Deliver[T]], Awaitable[None]], *, gather: float = 0.0
    ) -> None:
        """`gather`: seconds that a round waits for more questions: those of one moment come one after the other."""
        self._answer = answer
        self._gather = gather
        self._waiting: dict[str, list[asyncio.Future[T]]] = {}
        self._priority = LOWEST
        """The highest of those that wait."""
        self._in_flight = LOWEST
        """That of the round that began last."""
        self._overtaken = asyncio.Event()
        self._starter: asyncio.Task[None] | None = None
        self._rounds: set[asyncio.Task[None]] = set()

    async def ask(self, server_id: str, priority: Priority) -> T:
        """The answer of a round that began after the question. Raises what the round delivered as an error."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(server_id, []).append(future)
        self._priority = min(self._priority, priority)
        if priority <= Priority.ACTION and priority < self._in_flight:
            self._overtaken.set()
        if self._starter is None or self._starter.done():
            self._starter = asyncio.create_task(self._start_rounds())
        try:
            return await future
        finally:
            if future.done() and not future.cancelled():
                future.exception()  # seen, even if this waiter was cancelled in the very moment of the answer

    async def aclose(self) -> None:
        """Give up the rounds in flight."""
        tasks = [*self._rounds, *([self._starter] if self._starter else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    async def _start_rounds(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._gather)
            asked, self._waiting = self._waiting, {}
            self._in_flight, self._priority = self._priority, LOWEST
            self._overtaken.clear()
            going = asyncio.create_task(self._round(asked, self._in_flight))
            self._rounds.add(going)
            going.add_done_callback(self._rounds.discard)
            await self._until_next(going)

    async def _until_next(self, going: asyncio.Task[None]) -> None:
        overtaken = asyncio.create_task(self._overtaken.wait())
        await asyncio.wait({going, overtaken}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        overtaken.cancel()

    async def _round(self, asked: Mapping[str, list[asyncio.Future[T]]], priority: Priority) -> None:
        """One round. Who was cancelled meanwhile is passed over; a failure goes to all who have no answer yet."""

        def deliver(server_id: str, answer: T | Exception) -> None:
            for future in asked[server_id]:
                _settle(future, answer)

        try:
            await self._answer(frozenset(asked), priority, deliver)
        except Exception as error:
            for server_id in asked:
                deliver(server_id, error)
        finally:
            for futures in asked.values():
                for future in futures:
                    future.cancel()  # only where the round itself was cancelled: nobody waits for ever


def _settle(future: asyncio.Future[T], answer: T | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
