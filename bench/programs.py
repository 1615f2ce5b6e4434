"""Programs that rotate every server's snapshots once, and do no more than that: what snaprotd is compared with.

`python -m bench.programs WAY BASE_URL TOKEN POLL_INTERVAL` prints the seconds that it took, and those of the processor.
None of them would survive a lost answer, a restart, or a server that does not start.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx

AT_ONCE = 20
"""Requests open at one time, as many as snaprotd has."""

Ask = Callable[[str, str, Any], Any]
"""Method, path, body: the answer's JSON."""


def body_for(server: int) -> dict[str, Any]:
    return {"server_id": server, "name": "by-another-program", "description": ""}


class Bare:
    """All servers at once: one list for all of them, again and again until all snapshots are done."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._places = asyncio.Semaphore(AT_ONCE)

    async def ask(self, method: str, target: str, body: Any = None) -> Any:
        async with self._places:
            answer = await self._client.request(method, target, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    async def listed(self, path: str) -> list[Any]:
        found, target = [], f"{path}?page_size=100"
        while target:
            page = await self.ask("GET", target)
            found += page["results"]
            target = page["next"]
        return found

    async def rotate(self, poll_interval: float) -> None:
        servers, held = await asyncio.gather(self.listed("servers/"), self.listed("snapshots/"))
        oldest = {one["server"]["id"]: one["id"] for one in held}  # the newest come first
        await asyncio.gather(*(self.ask("POST", "snapshots/", body_for(one["id"])) for one in servers))
        while True:
            await asyncio.sleep(poll_interval)
            if all(one["status"] == "completed" for one in await self.listed("snapshots/")):
                break
        await asyncio.gather(*(self.ask("DELETE", f"snapshots/{oldest[one['id']]}/") for one in servers))


async def bare(base_url: str, token: str, poll_interval: float) -> None:
    async with httpx.AsyncClient(base_url=base_url, headers=signed(token), trust_env=False) as client:
        await Bare(client).rotate(poll_interval)


def sequential(base_url: str, token: str, poll_interval: float) -> None:
    with httpx.Client(base_url=base_url, headers=signed(token), trust_env=False) as client:

        def ask(method: str, path: str, body: Any = None) -> Any:
            answer = client.request(method, path, json=body)
            answer.raise_for_status()
            return answer.json() if answer.content else None

        one_after_the_other(ask, poll_interval)


def curl(base_url: str, token: str, poll_interval: float) -> None:
    def ask(method: str, path: str, body: Any = None) -> Any:
        sent = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        target = path if path.startswith("http") else f"{base_url}/{path}"
        told = subprocess.run(
            ["curl", "-sSfg", "--noproxy", "*", "-X", method, "-H", f"Authorization: Bearer {token}", *sent, target],
            check=True,
            capture_output=True,
        ).stdout
        return json.loads(told) if told else None

    one_after_the_other(ask, poll_interval)


def one_after_the_other(ask: Ask, poll_interval: float) -> None:
    """As a script does it: ask for each snapshot, then wait for each, and delete the server's oldest."""
    servers, target = [], "servers/?page_size=100"
    while target:
        page = ask("GET", target, None)
        servers += [one["id"] for one in page["results"]]
        target = page["next"]
    oldest = {}
    for server in servers:
        oldest[server] = ask("GET", f"snapshots/?server_id={server}", None)["results"][-1]["id"]
        ask("POST", "snapshots/", body_for(server))
    for server in servers:
        while ask("GET", f"snapshots/?server_id={server}", None)["results"][0]["status"] != "completed":
            time.sleep(poll_interval)
        ask("DELETE", f"snapshots/{oldest[server]}/", None)


def signed(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


WAYS: dict[str, Callable[[str, str, float], None]] = {
    "bare": lambda *told: asyncio.run(bare(*told)),
    "sequential": sequential,
    "curl": curl,
}


def main(way: str, base_url: str, token: str, poll_interval: str) -> None:
    began, used = time.monotonic(), cpu()
    WAYS[way](base_url, token, float(poll_interval))
    print(json.dumps({"seconds": time.monotonic() - began, "cpu": cpu() - used}))


def cpu() -> float:
    """Seconds of the processor, user and system, of this process and of those that it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in usages)


if __name__ == "__main__":
    main(*sys.argv[1:])
