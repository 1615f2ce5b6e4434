"""A provider that lets only so many requests through, however it counts them; the others never reach its world."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import httpx

from snaprotd.simulator import World
from tests.support.world_transport import WorldTransport


class Limit(Protocol):
    def lets_through(self, now: float) -> bool: ...


@dataclass(kw_only=True)
class Window:
    """So many in each window of so many seconds, which begin whatever is asked."""

    most: int
    seconds: float
    number: int = -1
    passed: int = 0

    def lets_through(self, now: float) -> bool:
        if (number := int(now // self.seconds)) != self.number:
            self.number, self.passed = number, 0
        self.passed += 1
        return self.passed <= self.most


@dataclass(kw_only=True)
class Bucket:
    """Filled at a rate, up to a size; each request that is let through takes one."""

    rate: float
    size: float
    filled: float = 0.0
    at: float = 0.0

    def lets_through(self, now: float) -> bool:
        self.filled = min(self.size, self.filled + (now - self.at) * self.rate)
        self.at = now
        if self.filled < 1:
            return False
        self.filled -= 1
        return True


class Limited(WorldTransport):
    """The world behind a limit."""

    def __init__(self, world: World, limit: Limit | None, *, latency: float = 0.05, retry_after: str = "") -> None:
        super().__init__(world, latency=latency)
        self.limit = limit
        self.retry_after = retry_after
        self.asked: list[tuple[float, str, bool]] = []
        """When, what, and whether it was let through."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        now = asyncio.get_running_loop().time()
        passes = self.limit is None or self.limit.lets_through(now)
        self.asked.append((now, f"{request.method} {request.url.path}", passes))
        if passes:
            return await super().handle_async_request(request)
        await asyncio.sleep(self.latency)
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        return httpx.Response(429, headers=headers, json={"detail": "Request was throttled."}, request=request)

    def refused(self, since: float = 0.0) -> tuple[int, int]:
        """How many were refused, and of how many."""
        counted = [passes for at, _, passes in self.asked if at >= since]
        return counted.count(False), len(counted)
