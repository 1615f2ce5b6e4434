"""Of a fleet, nothing that goes through all servers takes the loop for long: a start may wait meanwhile."""

from __future__ import annotations

import asyncio
import sys
from asyncio.events import Handle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import snaprotd
from snaprotd.config.file import load
from tests.support.daemons import a_world, configure, daemon_on, entry
from tests.support.virtual_time import VirtualLoop

SERVERS = 1200
ONE_TURN = Handle._run.__code__
ASIDE = {VirtualLoop.run_in_executor.__code__, load.__code__}
"""In a thread, or before there is a loop."""
BESIDE_THE_PROVIDER = ("daemon", "engine", "observe", "report", "wiring")
"""In a story the pages of a list come without a wait between them, as they do nowhere else."""
ALL = (*BESIDE_THE_PROVIDER, "config", "core", "ledger", "provider")


class Turns:
    """Counts the calls between two turns of the loop: it tells the same on every machine, however busy."""

    def __init__(self, rooms: Sequence[str]) -> None:
        self._rooms = [Path(snaprotd.__file__).parent / room for room in rooms]
        self._is_counted = lru_cache(maxsize=None)(self._is_in_room)
        self._calls, self._aside = 0, 0
        self.most, self.where = 0, ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code in ASIDE and event in ("call", "return"):
            self._aside += 1 if event == "call" else -1
        if event != "call" or self._aside:
            return
        if frame.f_code is ONE_TURN:
            self._calls = 0
        self._calls += self._is_counted(frame.f_code.co_filename)
        if self._calls > self.most:
            self.most, self.where = self._calls, frame.f_code.co_qualname

    def _is_in_room(self, file: str) -> bool:
        return any(Path(file).is_relative_to(room) for room in self._rooms)


@contextmanager
def watched_turns(*rooms: str) -> Iterator[Turns]:
    turns, before = Turns(rooms), sys.getprofile()
    sys.setprofile(turns)
    try:
        yield turns
    finally:
        sys.setprofile(before)


async def test_what_lists_of_the_account_show_is_learnt_by_pieces(tmp_path: Path) -> None:
    world = a_world()
    for number in range(1, SERVERS):
        world.add_server(f"web-{number}")
    for server_id in world.servers:
        world.add_snapshot(server_id, "by-hand", created_at=datetime(2025, 1, 15, tzinfo=UTC))
    path = configure(tmp_path, *(entry(server_id=one) for one in world.servers))
    async with daemon_on(path, world) as watched:
        await watched.daemon._account.read()
        assert watched.daemon._account.is_listed
        with watched_turns("provider", "core") as of_lists:
            await watched.daemon._account.read()
        with watched_turns("engine") as of_what_the_ledger_knows:
            await watched.daemon._account.read()
    assert of_lists.most <= 10 * SERVERS, of_lists.where
    assert of_what_the_ledger_knows.most <= SERVERS, of_what_the_ledger_knows.where


async def test_neither_a_start_nor_a_new_file_takes_the_loop_for_long(tmp_path: Path) -> None:
    world = a_world()
    for number in range(1, SERVERS):
        world.add_server(f"web-{number}")
    servers = [entry(server_id=str(12345 + number)) for number in range(SERVERS)]
    path = configure(tmp_path, *servers)
    with watched_turns(*BESIDE_THE_PROVIDER) as at_start:
        async with daemon_on(path, world) as watched:
            await watched.daemon._account.read()
            assert watched.daemon._account.is_listed
            with watched_turns(*ALL) as at_reload:
                configure(tmp_path, *servers, more="max_concurrent: 3")
                await asyncio.sleep(60)
                assert watched.daemon._config.max_concurrent == 3
    assert at_start.most <= 4 * SERVERS, at_start.where
    assert at_reload.most <= 12 * SERVERS, at_reload.where
