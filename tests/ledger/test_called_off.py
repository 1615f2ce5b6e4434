"""Whatever moment a process is called off at, and called off again, nothing of its ledger stays open."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Coroutine, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from snaprotd.ledger.store import Ledger
from tests.support.virtual_time import run_virtually


class CalledOff:
    """A coroutine that is cancelled at some of its steps, counted from one."""

    def __init__(self, work: Coroutine[Any, Any, None], steps: tuple[int, ...]) -> None:
        self._work = work
        self._steps = steps
        self.taken = 0

    def __await__(self) -> Generator[Any, Any, None]:
        waiting = self._work.__await__()
        task = asyncio.current_task()
        assert task is not None
        send = waiting.send
        value: Any = None
        while True:
            try:
                awaited = send(value)
            except StopIteration:
                return
            self.taken += 1
            if self.taken in self._steps:
                task.cancel()
            try:
                value, send = (yield awaited), waiting.send
            except BaseException as error:
                value, send = error, waiting.throw


async def life(path: Path) -> None:
    """A process that opens its ledger, uses it twice, and closes it."""
    async with await Ledger.open(path, owner="me") as ledger:
        await ledger.marks()
        await ledger.marks()


async def called_off(path: Path, *steps: int) -> int:
    """That life, cancelled at these steps, and ended as `asyncio.run` ends. How many it took."""
    work = CalledOff(life(path), steps)

    async def process() -> None:
        await work

    with suppress(asyncio.CancelledError):
        await asyncio.create_task(process())
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return work.taken


def open_in(folder: Path) -> list[str]:
    """The files of the folder that this process has open."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [link for link in links if link.startswith(str(folder))]


@pytest.fixture
def _nothing_is_collected() -> Iterator[None]:
    """What is closed only as garbage stays open."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()  # which warns of what was left open


@pytest.mark.usefixtures("_nothing_is_collected")
@pytest.mark.parametrize("again", [0, 1])
def test_nothing_stays_open_whatever_moment_a_process_is_called_off_at(again: int, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    whole = run_virtually(called_off(path))
    assert whole > 12
    for step in range(1, whole + 1):
        path.unlink(missing_ok=True)
        run_virtually(called_off(path, step, step + again))
        assert open_in(tmp_path) == [], f"cancelled at step {step}"


@pytest.mark.real_time
@pytest.mark.usefixtures("_nothing_is_collected")
def test_nothing_stays_open_either_where_a_thread_has_to_end(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for step in range(1, 24):
        path.unlink(missing_ok=True)
        asyncio.run(called_off(path, step, step + 2))
        assert open_in(tmp_path) == [], f"cancelled at step {step}"
