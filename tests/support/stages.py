"""A scene that several tests of a module look at: it is set once, and lives on one loop from the first to the last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stage:
    """The loop on which those tests run, and what is open on it. Between two tests it stands still."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.opened = AsyncExitStack()

    def open(self, scene: AbstractAsyncContextManager[T]) -> T:
        """Set a scene; it is closed after the last test."""
        return self.runner.run(self.opened.enter_async_context(scene))


@contextmanager
def stage() -> Iterator[Stage]:
    with asyncio.Runner() as runner:
        built = Stage(runner)
        try:
            yield built
        finally:
            runner.run(built.opened.aclose())
