"""An event loop whose clock jumps: tests wait for days without sleeping.

`asyncio.sleep`, `asyncio.timeout`, timers and `loop.time()` run on virtual seconds; `datetime.now()` and
`time.time()` follow them (through time-machine). Time only moves when nothing else can: no callback is ready,
and no thread or server is at work (a database's). What `asyncio.to_thread` is given is done at once.
"""

from __future__ import annotations

import asyncio
import queue
import selectors
import time
import weakref
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch

import aiosqlite.core
import time_machine

T = TypeVar("T")

START = datetime(2025, 1, 16, 3, 0, tzinfo=UTC)
"""Where the wall clock of a test stands when it begins."""


SELDOM = 20
"""Turns of the loop after which the system is asked for events while there is other work: each time costs a call."""


MOST_TURNS = 300_000
"""Turns of the loop in which time may stand still: what asks again and again without a pause would hang for ever."""


LONGEST = 900.0
"""Real seconds that a story may take: one that waits for what never comes would hang for ever."""


class VirtualSelector(selectors.DefaultSelector):
    """Waits for real events while a thread is at work, else moves the clock on by what it was to wait."""

    def __init__(self, jump: Callable[[float], None], busy: Callable[[], bool]) -> None:
        super().__init__()
        self._jump = jump
        self._busy = busy
        self._passed_over = 0
        self._turns = 0
        """Since time has moved."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns += 1
        if self._turns > MOST_TURNS:
            raise RuntimeError(f"the loop has gone round {MOST_TURNS} times and no time has passed: something spins")
        if timeout == 0 and not self._busy() and self._passed_over < SELDOM:
            self._passed_over += 1
            return []
        self._passed_over = 0
        if timeout is None or self._busy():
            return list(super().select(5.0 if timeout != 0 else 0))
        events = list(super().select(0))
        if not events and timeout > 0:
            self._jump(timeout)
            self._turns = 0
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, traveller: time_machine.Traveller) -> None:
        self._virtual = 1000.0
        self._traveller = traveller
        self.at_work = 0
        self._awaited: set[tuple[Any, int]] = set()
        """What connections to a database wait for."""
        self.ahead = 0.0
        """Seconds by which the wall clock is wrong."""
        self.connections: weakref.WeakSet[WorkOfADatabase] = weakref.WeakSet()
        self._ends_at = time.perf_counter() + LONGEST
        super().__init__(VirtualSelector(self._jump, lambda: self.at_work > 0))
        # Coarse enough for a clock that shows years: with nanoseconds a timer would be due and never so. Finer than
        # the microsecond of a wall clock: else a timer that goes by that one comes early, again and again.
        self._clock_resolution = 1e-7

    def time(self) -> float:
        return self._virtual

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """What a thread would do is done here and now, and answered after the other tasks have had their turn.

        Time would stand still for it, and a thread costs more than what it is given.
        """
        done = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            self.call_soon(aiosqlite.core.set_exception, done, error)
        else:
            self.call_soon(aiosqlite.core.set_result, done, result)
        return done

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """A connection to a database is waited on, and by nobody else: asyncio's own go another way."""
        self._waited_on(fd, selectors.EVENT_READ)
        super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        self._waited_on(fd, selectors.EVENT_READ, until_now=True)
        return super().remove_reader(fd)

    def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        self._waited_on(fd, selectors.EVENT_WRITE)
        super().add_writer(fd, callback, *args)

    def remove_writer(self, fd: Any) -> bool:
        self._waited_on(fd, selectors.EVENT_WRITE, until_now=True)
        return super().remove_writer(fd)

    def _waited_on(self, fd: Any, event: int, *, until_now: bool = False) -> None:
        before = len(self._awaited)
        (self._awaited.discard if until_now else self._awaited.add)((fd, event))
        self.at_work += len(self._awaited) - before

    def is_at_work_until(self, done: asyncio.Future[Any]) -> None:
        """A thread is at work that will set `done`: time does not move before."""
        self.at_work += 1
        done.add_done_callback(self._one_less_at_work)

    def _one_less_at_work(self, _: asyncio.Future[Any]) -> None:
        self.at_work -= 1

    def set_wall_clock(self, ahead: float) -> None:
        """Have the wall clock be wrong by so many seconds."""
        self._traveller.shift(ahead - self.ahead)
        self.ahead = ahead

    def _jump(self, seconds: float) -> None:
        if time.perf_counter() > self._ends_at:
            raise RuntimeError(f"the story has taken {LONGEST:g} s, of real time: what does it wait for?")
        self._virtual += seconds
        self._traveller.shift(seconds)


class WorkOfADatabase(queue.SimpleQueue[Any]):
    """What the thread of an aiosqlite connection is given to do.

    A loop's only connection needs no thread on virtual time: its work is done here and now, which takes half as long,
    and answered after the other tasks have had their turn. Where one connection may wait for another's transaction
    the threads are at work, and time stands still.
    """

    def put_nowait(self, item: Any) -> None:
        done: asyncio.Future[Any] | None = item[0]
        loop = done.get_loop() if done is not None else asyncio._get_running_loop()
        if not isinstance(loop, VirtualLoop):
            super().put_nowait(item)
            return
        loop.connections.add(self)
        is_alone = len(loop.connections) == 1 and self.empty()
        if is_alone and done is not None:
            self._do(item[1], done, loop)
        elif is_alone:
            item[1]()
        else:
            if done is not None:
                loop.is_at_work_until(done)
            super().put_nowait(item)

    def _do(self, work: Callable[[], Any], done: asyncio.Future[Any], loop: VirtualLoop) -> None:
        try:
            result = work()
        except Exception as error:
            loop.call_soon(aiosqlite.core.set_exception, done, error)
            return
        loop.call_soon(aiosqlite.core.set_result, done, result)
        if result is aiosqlite.core._STOP_RUNNING_SENTINEL:
            loop.connections.discard(self)
            super().put_nowait((None, lambda: result))  # the thread ends too


aiosqlite.core.SimpleQueue = WorkOfADatabase  # type: ignore[attr-defined]


def true_time() -> datetime:
    """What a right clock shows, whatever the wall clock was set to."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return datetime.now(UTC) - timedelta(seconds=loop.ahead)


def run_virtually(story: Coroutine[Any, Any, T], start: datetime = START) -> T:
    """Run a coroutine from `start` on virtual time; leave no task behind.

    How old a look is goes by it too: on a busy machine what was seen in this very second would be too old to act by.
    """
    with (
        patch("snaprotd.engine.looks.uptime", lambda: asyncio.get_running_loop().time()),
        time_machine.travel(start, tick=False) as traveller,
        asyncio.Runner(loop_factory=lambda: VirtualLoop(traveller)) as runner,
    ):
        return runner.run(story)
