"""The event loop of commands and daemon: as the library's, but that names are looked up by threads of their own.

A name server that does not answer holds a thread for half a minute, whoever waits for it no more. The library's own
threads write promises and pages: they must not be those.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

MOST_LOOKUPS = 128
"""At one time: each name is looked up once only, and a file names a hundred receivers at the most."""

T = TypeVar("T")


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._lookups = ThreadPoolExecutor(MOST_LOOKUPS, thread_name_prefix="lookup")
        self._asked: dict[tuple[Any, ...], asyncio.Future[Any]] = {}
        """What is being looked up: whoever asks for the same waits for the same answer."""

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        question = (host, port, family, type, proto, flags)
        asked = self._asked.get(question)
        if asked is None:
            asked = self._asked[question] = self.run_in_executor(self._lookups, socket.getaddrinfo, *question)
            asked.add_done_callback(lambda done: self._answered(question, done))
        return await asyncio.shield(asked)

    def _answered(self, question: tuple[Any, ...], done: asyncio.Future[Any]) -> None:
        self._asked.pop(question, None)
        if not done.cancelled():
            done.exception()  # seen, though nobody may wait for it any more

    def close(self) -> None:
        self._lookups.shutdown(wait=False, cancel_futures=True)
        super().close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, whose end writes the task with its result into errors that nobody sees: it is given none."""
    results: list[T] = []

    async def note() -> None:
        results.append(await work)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(note())
    return results[0]
