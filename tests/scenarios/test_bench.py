"""`make bench` has not rotted: its stand-in talks to the real client over a socket, and its programs do their work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.replicas import trips_of_a_rotation
from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org.client import VpsOrg
from tests.support.databases import Server
from tests.support.processes import ROOT, environment
from tests.support.quick_account import ROOT as API
from tests.support.quick_account import TOKEN

FLEET = {"servers": 3, "snapshot_seconds": 0.1, "power_seconds": 0.1}


@contextmanager
def stand_in() -> Iterator[str]:
    """The address of a stand-in that runs meanwhile."""
    command = [sys.executable, "-m", "bench.stand_in"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(json.dumps(FLEET), file=process.stdin, flush=True)
            yield f"http://127.0.0.1:{int(process.stdout.readline())}{API}"
        finally:
            process.kill()


def run_program(way: str, base_url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.programs", way, base_url, TOKEN, "0.05"]
    told = subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=30).stdout
    return dict(json.loads(told))


async def an_account(base_url: str) -> tuple[list[Any], list[Any]]:
    """Its servers and its snapshots, by the client of snaprotd."""
    token = token_source(None, {"VPS_API_TOKEN": TOKEN})
    async with VpsOrg(base_url=base_url, token=token, requests_per_second=1000) as cloud:
        server, *others = await cloud.servers()
        await cloud.power(server, "stop", guard=lambda: None)
        return [await cloud.server(server.id), *others], await cloud.snapshots()


@pytest.mark.real_time
async def test_the_stand_in_serves_the_client_and_the_programs_rotate_each_server_once() -> None:
    with stand_in() as base_url:
        servers, before = await an_account(base_url)
        assert [one.status for one in servers] == ["stopping", "active", "active"]
        assert len(before) == 9
        for way in ("bare", "sequential", "curl" if shutil.which("curl") else "sequential"):
            assert run_program(way, base_url)["cpu"] > 0
        _, after = await an_account(base_url)
        assert {one.status for one in after} == {"completed"}
        assert {one.name for one in after} == {"by-another-program"}  # thrice one taken, and the oldest deleted
        assert len(after) == 9


async def test_the_round_trips_of_a_rotation_are_counted_and_stay_as_few(
    tmp_path: Path, postgresql: Server, silence: None
) -> None:
    seen = [await trips_of_a_rotation(postgresql.schema(), tmp_path, stop_first=stops) for stops in (False, True)]
    assert 50 < seen[0] < seen[1]
    assert (seen[0] <= 120, seen[1] <= 280) == (True, True), seen
