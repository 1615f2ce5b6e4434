"""The queue before standard error: bounded, in order, what is dropped is counted and told, and nobody waits."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from snaprotd.logs.outlet import Outlet
from tests.support.pipes import StuckPipe
from tests.support.processes import PATIENCE, ROOT, environment, until

pytestmark = pytest.mark.real_time


@pytest.fixture
def pipe() -> Iterator[StuckPipe]:
    with closing(StuckPipe()) as pipe:
        yield pipe


def outlet_to(descriptor: int, *, most_lines: int = 100, most_bytes: int = 100_000) -> Outlet:
    return Outlet(descriptor, lambda lines: b"(%d)" % lines, most_lines=most_lines, most_bytes=most_bytes)


async def is_stuck(tried: Outlet) -> None:
    """Its thread waits for the reader, with all that was put."""
    await until(lambda: tried._busy and not tried._waiting, what="the thread to wait")


async def all_is_written(tried: Outlet) -> None:
    await until(lambda: tried.flush(0), what="all to be written")


def put(tried: Outlet, text: str) -> None:
    for line in text.split():
        tried.put(line.encode())


# In a row: what may wait, what is put while the thread waits for the reader with "first", and what the reader gets.
BOUNDS: list[tuple[str, dict[str, int], str, int, str]] = [
    ("there is room", {}, "a b c", 0, "a b c"),
    ("just enough lines", {"most_lines": 3}, "a b c", 0, "a b c"),
    ("one line too many", {"most_lines": 3}, "a b c d", 1, "a b c (1)"),
    ("many lines too many", {"most_lines": 2}, "a b c d e f g", 5, "a b (5)"),
    ("just enough bytes", {"most_bytes": 6}, "aaa bbb", 0, "aaa bbb"),
    ("a byte too many", {"most_bytes": 5}, "aaa bbb", 1, "aaa (1)"),
    ("a line that is too long for what is left, and a short one", {"most_bytes": 5}, "aa bbbbb c", 1, "aa (1) c"),
    ("a line that is longer than all that may wait", {"most_bytes": 5}, "aaaaaa", 1, "(1)"),
]


@pytest.mark.parametrize(("bounds", "said", "dropped", "told"), [row[1:] for row in BOUNDS], ids=[r[0] for r in BOUNDS])
async def test_what_finds_no_room_is_dropped_counted_and_told_in_its_place(
    pipe: StuckPipe, bounds: dict[str, int], said: str, dropped: int, told: str
) -> None:
    tried = outlet_to(pipe.theirs, **bounds)
    put(tried, "first")
    await is_stuck(tried)
    put(tried, said)
    assert tried.dropped == dropped
    pipe.come_back()
    await all_is_written(tried)
    assert pipe.read() == "first" + told.replace(" ", "")


async def test_what_was_dropped_is_told_once(pipe: StuckPipe) -> None:
    tried = outlet_to(pipe.theirs, most_lines=1)
    put(tried, "first")
    await is_stuck(tried)
    put(tried, "a b c")
    pipe.come_back()
    await all_is_written(tried)
    put(tried, "d")
    assert tried.flush()
    assert (pipe.read(), tried.dropped) == ("firsta(2)d", 2)


async def test_ten_thousand_lines_of_ten_threads_arrive_in_their_order(pipe: StuckPipe) -> None:
    tried = outlet_to(pipe.theirs, most_lines=10_000, most_bytes=10**6)
    pipe.come_back()

    def write(thread: int) -> None:
        for number in range(1000):
            tried.put(b"%d %d\n" % (thread, number))

    await asyncio.gather(*(asyncio.to_thread(write, thread) for thread in range(10)))
    await all_is_written(tried)
    lines = [tuple(map(int, line.split())) for line in pipe.read().splitlines()]
    assert sorted(lines) == [(thread, number) for thread in range(10) for number in range(1000)]
    assert [[number for one, number in lines if one == thread] for thread in range(10)] == [list(range(1000))] * 10


async def test_a_flush_gives_up_and_the_next_one_sooner(pipe: StuckPipe) -> None:
    tried = outlet_to(pipe.theirs)
    put(tried, "first")
    clock = asyncio.get_running_loop().time
    began = clock()
    assert not tried.flush(0.3)
    first = clock() - began
    assert not tried.flush(PATIENCE)
    assert 0.3 <= first < PATIENCE / 2
    assert clock() - began - first < PATIENCE / 2


async def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for_all_the_same(pipe: StuckPipe) -> None:
    os.set_blocking(pipe.theirs, False)
    tried = outlet_to(pipe.theirs)
    put(tried, "first second")
    assert not tried.flush(0.1)
    pipe.come_back()
    await all_is_written(tried)
    assert (pipe.read(), tried.dropped) == ("firstsecond", 0)


async def test_a_reader_who_leaves_is_survived_and_what_is_said_then_is_counted(pipe: StuckPipe) -> None:
    tried = outlet_to(pipe.theirs)
    put(tried, "first")
    await is_stuck(tried)
    pipe.leave()
    await all_is_written(tried)
    put(tried, "a")
    await all_is_written(tried)
    assert tried.dropped == 2


async def test_a_disk_that_was_full_gets_the_number_and_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "log"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with file.open("ab") as log:
        tried = outlet_to(log.fileno())
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            for line in (b"first\n", b"second\n", b"third\n"):
                tried.put(line)
                assert tried.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (file.read_bytes(), tried.dropped) == (b"first\nseco", 2)
        tried.put(b"fourth\n")
        assert tried.flush()
    assert file.read_bytes() == b"first\nseco\n(2)fourth\n"


# -- a process ---------------------------------------------------------------------------------------------------------

BEGIN = "import os, sys\nfrom snaprotd import logs\nlogs.never_wait()\nlogs.configure()\n"
LOG = "import structlog\nlog = structlog.get_logger()\n"

LAST_WORDS: dict[str, tuple[str, str]] = {
    "an error of the log, then the end": (f"{LOG}log.error('last words')", '"event": "last words"'),
    "an error of the log, then a crash": (f"{LOG}log.error('last words')\n1 / 0", "ZeroDivisionError"),
    "a print": ("print('last', 'words', file=sys.stderr)", "last words"),
    "an end at once": (f"{LOG}log.error('last words')\nlogs.flush()\nos._exit(0)", "last words"),
    "a warning": ("import warnings\nwarnings.warn('last words')", "last words"),
    "an error that nobody can catch": ("class A:\n  def __del__(self): 1 / 0\nA()", "ZeroDivisionError"),
    "no text, as it is": ("print('\\udcff', file=sys.stderr)", "\\udcff"),
    "a child's": ("if os.fork():\n  os.wait()\nelse:\n  print('last words', file=sys.stderr)", "last words"),
}


@pytest.mark.parametrize("place", LAST_WORDS)
async def test_the_last_words_of_a_process_are_written(place: str) -> None:
    source, word = LAST_WORDS[place]
    ended = await asyncio.to_thread(_run, BEGIN + source)
    assert word in ended


def _run(source: str) -> str:
    command = [sys.executable, "-c", source]
    ended = subprocess.run(command, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, timeout=PATIENCE)
    return ended.stderr.decode()


STUCK: dict[str, str] = {
    "the log": f"{LOG}for _ in range(3): log.error('x' * 100_000)",
    "a print": "print('x', file=sys.stderr, flush=True)",
    "a crash": "1 / 0",
    "a fork with what was the parent's": "print('x', file=sys.stderr)\nif os.fork(): os.wait()",
    "an end at once": "print('x', file=sys.stderr)\nlogs.flush()\nos._exit(0)",
}


@pytest.mark.parametrize("place", STUCK)
async def test_a_process_that_nobody_reads_ends(place: str, pipe: StuckPipe) -> None:
    command = (sys.executable, "-c", BEGIN + STUCK[place])
    process = await asyncio.create_subprocess_exec(*command, env=environment(), cwd=ROOT, stderr=pipe.theirs)
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == (1 if place == "a crash" else 0)


CHILD = """
print('of the parent', file=sys.stderr)
if not os.fork():
    print('of the child', file=sys.stderr)
    print('ready', flush=True)
logs.flush(20)
"""


async def test_a_child_writes_nothing_of_its_parents(pipe: StuckPipe) -> None:
    # Python warns of a fork beside threads from 3.12 on: that is what is tried here.
    command = (sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + CHILD)
    process = await asyncio.create_subprocess_exec(
        *command, env=environment(), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=pipe.theirs
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await process.stdout.readline() == b"ready\n"
        pipe.come_back()
        assert await process.stdout.read() == b""  # both have ended
        await process.wait()
    assert sorted(pipe.read().splitlines()) == ["of the child", "of the parent"]
