"""The daemon cannot begin, and a server is off because of the one before it: it is started first, then told why.

Real processes, a real socket, a real ledger.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import yaml

from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.support.processes import (
    TOKEN,
    Daemon,
    Hold,
    Provider,
    daemon,
    environment,
    living,
    provider,
    running,
    write_config,
)
from tests.support.troubles import running_on_a_full_disk

pytestmark = pytest.mark.real_time

SPEED = 2000.0
REFUSED = 78
UNTIL_IT_ENDS = 20.0
"""Seconds."""


class Orphan:
    """A server that a daemon switched off before it was killed, while its snapshot was being taken."""

    def __init__(self, folder: Path, web: Provider) -> None:
        self.folder = folder
        self.provider = web
        self.ledger = folder / "state.db"
        slot = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
        server = {"id": 12345, "name": "web", "schedule": f"{slot.minute} {slot.hour} * * *", "stop_first": True}
        self.seen = Mark(
            server_id="12345",
            seen_until=slot - timedelta(hours=1),
            schedule=f"UTC {slot.minute} {slot.hour} * * * +0s",
        )
        self.config = write_config(folder, web.base_url, f"listen: off\nservers: {json.dumps([server])}\n")

    @property
    def status(self) -> str:
        return self.provider.world.status_of("12345")

    async def is_left_off(self, *, refused: Callable[[Path], None] | None = None) -> None:
        """`refused`: what is done to its file before that; the daemon refuses it, and goes on with the old one."""
        async with await Ledger.open(self.ledger, owner=uuid.uuid4().hex) as ledger:
            await ledger.set_marks([self.seen])
        hold = Hold(number=1, fits=lambda what: what == "create")
        self.provider.holds = [hold]
        async with daemon(self.config) as life:
            async with asyncio.timeout(UNTIL_IT_ENDS):
                await hold.struck.wait()
            if refused is not None:
                refused(self.config)
                life.send(signal.SIGHUP)
                await life.has_said("the new configuration is refused")
            await life.kill()
        hold.release(drop=True)
        self.provider.holds = []
        assert self.status == "stopped"
        self.provider.journal.clear()

    def is_on_after(self, code: int, life: Daemon) -> None:
        assert life.returncode == code, life.said
        assert self.status == "active", life.said
        asked = [one.what for one in self.provider.journal if one.method != "GET"]
        assert asked == ["start"], life.said


@asynccontextmanager
async def orphan(folder: Path, *, refused: Callable[[Path], None] | None = None) -> AsyncIterator[Orphan]:
    """Its snapshot takes a day, so that nobody waits for it here."""
    world = World(speed=SPEED, token=TOKEN, snapshot_seconds=(86400, 86400))
    world.add_server("web-01")
    async with provider(world) as web:
        one = Orphan(folder, web)
        await one.is_left_off(refused=refused)
        yield one


def has_an_unknown_key(path: Path) -> None:
    path.write_text(path.read_text() + "no_such_key: 1\n")


def is_not_yaml(path: Path) -> None:
    path.write_text(path.read_text() + "\t: [}\n")


def is_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00" + path.read_bytes())


def is_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def is_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def leads_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def is_json(path: Path) -> None:
    path.write_text(json.dumps(yaml.safe_load(path.read_text()) | {"no_such_key": 1}))


def is_missing(path: Path) -> None:
    path.unlink()


def is_empty(path: Path) -> None:
    path.write_bytes(b"")


SPOILED = pytest.mark.parametrize(
    "spoil", [has_an_unknown_key, is_not_yaml, is_no_text, is_a_folder, is_a_pipe, leads_nowhere, is_missing, is_empty]
)


@SPOILED
async def test_a_refused_file_does_not_leave_a_server_off(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """The server is started and watched, then the code of the reason tells systemd not to try again.

    Nobody keeps a folder for the daemon, and of most of these files nothing can be read: where the ledger is was noted.
    """
    async with orphan(tmp_path) as one:
        spoil(one.config)
        async with daemon(one.config) as life:
            await life.ended()
            one.is_on_after(REFUSED, life)
        async with daemon(one.config) as life:  # nothing is owed any more
            assert await life.ended() == REFUSED
        assert len(one.provider.asked("start")) == 1


async def test_a_file_that_was_refused_by_the_daemon_that_was_killed_does_not_leave_a_server_off(
    tmp_path: Path,
) -> None:
    async with orphan(tmp_path, refused=has_an_unknown_key) as one, daemon(one.config) as life:
        await life.ended()
        one.is_on_after(REFUSED, life)


@pytest.mark.parametrize("spoil", [has_an_unknown_key, is_not_yaml, is_no_text, is_json])
async def test_where_the_ledger_is_is_read_from_a_refused_file(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """What was noted is gone."""
    async with orphan(tmp_path) as one:
        spoil(one.config)
        async with daemon(one.config, XDG_STATE_HOME=str(tmp_path)) as life:
            await life.ended()
            one.is_on_after(REFUSED, life)


ENDS_UNFORESEEN = """
import asyncio, sys
import snaprotd.daemon.life as life
from snaprotd.__main__ import main

async def run(daemon):
    await asyncio.sleep(0.1)
    raise {error}

life.Daemon.run = run
main()
"""


@pytest.mark.parametrize("error", ["ValueError('no date')", "asyncio.CancelledError"])
async def test_whatever_ends_the_daemon_leaves_no_server_off_and_is_told_in_a_sentence(
    tmp_path: Path, error: str
) -> None:
    async with orphan(tmp_path) as one:
        start = partial(running, program=("-c", ENDS_UNFORESEEN.format(error=error)))
        async with daemon(one.config, start=start) as life:
            await life.ended()
            one.is_on_after(1, life)
            kind = error.partition("(")[0].rpartition(".")[2]
            *log, last = life.said.splitlines()
            assert last.startswith(f"snaprotd: internal error, {kind} at <string>:8 run: ")
            (told,) = [line for line in map(json.loads, log) if line["event"] == "internal error"]
            assert "<string>:8 run" in told["ways"][0]


@pytest.mark.parametrize("library", ["apscheduler", "jinja2", "prometheus_client", "starlette", "uvicorn"])
async def test_where_a_library_is_not_there_any_more_servers_are_started_all_the_same(
    tmp_path: Path, library: str
) -> None:
    """As in the middle of an upgrade. No page is needed to start one."""
    halted = f"import sys; sys.modules[{library!r}] = None; from snaprotd.__main__ import main; main()"
    async with orphan(tmp_path) as one, daemon(one.config, start=partial(running, program=("-c", halted))) as life:
        await life.ended()
        one.is_on_after(1, life)
        assert life.said.splitlines()[-1].startswith("snaprotd: internal error, ModuleNotFoundError")


NOW_ENDS_UNFORESEEN = """
import snaprotd.commands.jobs.outlook as job
from snaprotd.__main__ import main

def unforeseen(*_):
    raise ValueError("no date")

job._configured = unforeseen
main()
"""


async def test_whatever_ends_a_rotation_by_hand_leaves_no_server_off_either(tmp_path: Path) -> None:
    """There may be no daemon here, only a line in a crontab."""
    async with orphan(tmp_path) as one:
        now = ("now", "web", "--config", str(one.config))
        async with running(*now, output=tmp_path / "now.log", program=("-c", NOW_ENDS_UNFORESEEN)) as life:
            await life.ended()
            one.is_on_after(1, life)
            assert life.said.splitlines()[-1].startswith("snaprotd: internal error, ValueError at <string>:6")


async def test_a_log_level_that_there_is_not_leaves_no_server_off(tmp_path: Path) -> None:
    async with orphan(tmp_path) as one, daemon(one.config, SNAPROTD_LOG_LEVEL="LOUD") as life:
        await life.ended()
        one.is_on_after(2, life)


async def test_a_token_that_is_gone_is_told_after_what_another_one_has_paid(tmp_path: Path) -> None:
    """The file is good. Nothing is ended by 78, so that it is tried again."""
    async with orphan(tmp_path) as one:
        one.config.write_text(one.config.read_text().replace('"timeout"', '"token_file": "/nowhere", "timeout"'))
        async with daemon(one.config) as life:
            await life.ended()
            one.is_on_after(1, life)
            assert "snaprotd: the token file /nowhere cannot be read" in life.said.splitlines()[-1]


async def test_where_no_token_can_be_had_nothing_is_waited_for(tmp_path: Path) -> None:
    async with orphan(tmp_path) as one:
        has_an_unknown_key(one.config)
        async with daemon(one.config, VPS_API_TOKEN="") as life:
            async with asyncio.timeout(5):
                assert await life.ended() == 1, life.said
        assert one.provider.journal == []


async def test_sigterm_ends_what_cannot_be_paid_so_that_it_is_tried_again(tmp_path: Path) -> None:
    async with orphan(tmp_path) as one:
        one.provider.world.faults.append(Fault(kind="start_never", times=None))
        has_an_unknown_key(one.config)
        async with daemon(one.config) as life:
            await life.has_said("a start is owed")
            await asyncio.sleep(1)
            life.send(signal.SIGTERM)
            async with asyncio.timeout(5):
                assert await life.ended() == 1, life.said
        one.provider.world.faults.clear()
        one.provider.journal.clear()
        async with daemon(one.config) as life:
            await life.ended()
            one.is_on_after(REFUSED, life)


# -- the ledger cannot be written ---------------------------------------------------------------------------------

READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$0" -m snaprotd "$@"'


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0


@asynccontextmanager
async def on_a_read_only_disk(*arguments: str, output: Path, folder: Path, **more: str) -> AsyncIterator[Daemon]:
    """As `running`, where nothing in `folder` can be written."""
    with output.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "-m", "sh", "-c", READ_ONLY, sys.executable, str(folder), *arguments),
            env=environment(**more),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    async with living(process, output) as life:
        yield life


@pytest.mark.skipif(not can_mount(), reason="file systems cannot be mounted here")
@pytest.mark.parametrize("spoiled", [False, True], ids=["a good file", "a refused file"])
async def test_a_read_only_disk_does_not_leave_a_server_off(tmp_path: Path, spoiled: bool) -> None:
    async with orphan(tmp_path) as one:
        if spoiled:
            has_an_unknown_key(one.config)
        arguments = ("run", "--config", str(one.config))
        async with on_a_read_only_disk(*arguments, output=tmp_path / "read-only.log", folder=tmp_path) as life:
            await life.ended()
            one.is_on_after(REFUSED if spoiled else 1, life)
            assert "ledger" in life.said


async def test_a_full_disk_and_a_refused_file_do_not_leave_a_server_off(tmp_path: Path) -> None:
    async with orphan(tmp_path) as one:
        has_an_unknown_key(one.config)
        async with daemon(one.config, start=running_on_a_full_disk) as life:
            await life.ended()
            one.is_on_after(REFUSED, life)
