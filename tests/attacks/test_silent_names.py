"""Names that nobody answers for hold up nothing but those who ask for them."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from snaprotd.way import names

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A name server that answers for names that end in `.here` only; whom else it was asked for."""
    released, asked = threading.Event(), Counter[str]()

    def look_up(host: str, *_: Any) -> Any:
        asked[host] += 1
        if not host.endswith(".here"):
            released.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ANSWER

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield asked
    released.set()


def test_names_that_are_not_answered_for_keep_no_thread_from_others(silent: Counter[str]) -> None:
    async def story() -> None:
        running = asyncio.get_running_loop()
        waiting = [asyncio.create_task(running.getaddrinfo(f"n{number}.away", 80)) for number in range(60)]
        while len(silent) < 60:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await running.getaddrinfo("api.here", 443) == ANSWER
        done = [asyncio.to_thread(os.getpid) for _ in range(100)]
        async with asyncio.timeout(20):
            assert set(await asyncio.gather(*done)) == {os.getpid()}
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    names.run(story())


def test_who_asks_again_and_again_for_one_name_holds_one_thread(silent: Counter[str]) -> None:
    async def story() -> None:
        running = asyncio.get_running_loop()
        for _ in range(50):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await running.getaddrinfo("away", 80)
        while not silent["away"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert silent["away"] == 1

    names.run(story())


def test_an_error_is_told_to_whoever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def story() -> None:
        with pytest.raises(OSError, match="not known"):
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, "nowhere.invalid", 80)

    names.run(story())


def test_what_a_run_comes_to_is_not_written_out_at_its_end() -> None:
    """asyncio's own end writes a task with its result, eight times over: of ten thousand servers that took seconds."""

    written: list[object] = []

    class Large:
        def __repr__(self) -> str:
            written.append(self)
            return "half a million values"

    async def work() -> Large:
        return Large()

    assert isinstance(names.run(work()), Large)
    assert not written
