"""What needs no booted systemd: what we tell it, and what the unit says. `booted_systemd.py` has the rest."""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from snaprotd.config import file as config
from snaprotd.daemon.sd_notify import ServiceNotifier
from snaprotd.engine.rotations import FINAL_PATIENCE
from snaprotd.simulator import World
from snaprotd.web.door import MOST_INSIDE
from tests.support.daemons import HEAD, Watched
from tests.support.policies import a_policy
from tests.support.programs import needs

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = UNITS / "snaprotd.service"

NIGHTLY = "[{id: 12345, name: web-01, schedule: '30 3 * * *', stop_first: true}]"


class Listener:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address)

    def heard(self) -> list[dict[str, str]]:
        """The messages since the last call."""
        messages: list[dict[str, str]] = []
        while True:
            try:
                text = self.socket.recv(65536).decode()
            except BlockingIOError:
                return messages
            messages.append(dict(line.split("=", 1) for line in text.splitlines()))


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listening = Listener(str(tmp_path / "notify"))
    yield listening
    listening.socket.close()


def settings(tmp_path: Path, servers: str = NIGHTLY) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"{HEAD}state: {tmp_path / 'state.db'}\nservers: {servers}\n")
    return path


@asynccontextmanager
async def told(tmp_path: Path, servers: str = NIGHTLY) -> AsyncIterator[Watched]:
    """A daemon with one server that tells the listener, until it is asked to end."""
    world = World()
    world.add_server("web-01")
    watched = Watched(settings(tmp_path, servers), world, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    running = asyncio.create_task(watched.daemon.run())
    await watched.daemon.started.wait()
    yield watched
    watched.daemon.stop()
    await running


async def test_it_is_ready_only_when_the_configuration_is_in_force_and_the_ledger_open(
    listener: Listener, tmp_path: Path
) -> None:
    async with told(tmp_path):
        await asyncio.sleep(1)
        (ready,) = listener.heard()
        assert ready == {"READY": "1", "STATUS": "1 server, next at 2025-01-16 03:30 UTC"}
    (stopping,) = listener.heard()
    assert stopping["STOPPING"] == "1"
    assert stopping["STATUS"].startswith("ending")


async def test_the_status_names_the_servers_that_are_held_off(listener: Listener, tmp_path: Path) -> None:
    async with told(tmp_path):
        await asyncio.sleep(32 * 60)
        words = [message["STATUS"] for message in listener.heard() if "STATUS" in message]
        assert any("1 rotation running, held off: web-01" in text for text in words), words
        await asyncio.sleep(3600)
        assert "held off" not in [message["STATUS"] for message in listener.heard() if "STATUS" in message][-1]


@pytest.mark.parametrize(
    ("servers", "words"), [("[{id: 12345, schedule: '@daily'}]", "1 server"), ("[{id: 12345}]", "refused")]
)
async def test_a_reload_is_begun_and_ended_whatever_becomes_of_it(
    servers: str, words: str, listener: Listener, tmp_path: Path
) -> None:
    async with told(tmp_path):
        await asyncio.sleep(1)
        listener.heard()
        settings(tmp_path, servers)
        await asyncio.sleep(10)
        reloading, ready = [message for message in listener.heard() if {"RELOADING", "READY"} & message.keys()]
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert words in ready["STATUS"]


async def test_the_watchdog_is_fed_twice_in_its_interval_while_all_is_well(listener: Listener, tmp_path: Path) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})
    well = True
    feeding = asyncio.create_task(notifier.feed_watchdog(lambda: well))
    await asyncio.sleep(301)
    assert listener.heard() == [{"WATCHDOG": "1"}] * 11
    well = False
    await asyncio.sleep(300)
    assert listener.heard() == []
    feeding.cancel()


@pytest.mark.parametrize("pid", ["1", "rubbish"])
async def test_a_watchdog_that_is_meant_for_another_process_is_left_alone(
    pid: str, listener: Listener, tmp_path: Path
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": pid}
    await asyncio.wait_for(ServiceNotifier(environ).feed_watchdog(lambda: True), 1)
    assert listener.heard() == []


def test_an_abstract_socket_is_told_too(tmp_path: Path) -> None:
    name = f"@{tmp_path}/notify"[:100]
    listening = Listener("\0" + name[1:])
    ServiceNotifier({"NOTIFY_SOCKET": name}).ready("all\nwell")
    assert listening.heard() == [{"READY": "1", "STATUS": "all well"}]
    listening.socket.close()


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:1:2"])
def test_without_a_socket_that_answers_nothing_happens(address: str) -> None:
    ServiceNotifier({"NOTIFY_SOCKET": address}).ready("well")


# -- the unit --------------------------------------------------------------------------------------------------------


def unit() -> Any:
    # The same key may come twice in a unit; the last one is enough here.
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def seconds(text: str) -> float:
    number, word = re.fullmatch(r"(\d+)(min|s|)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"min": 60, "s": 1, "": 1}[word]


def test_there_is_time_to_start_the_servers_that_are_held_off(tmp_path: Path) -> None:
    drain = config.load(settings(tmp_path), {}).drain_timeout
    assert seconds(unit()["Service"]["TimeoutStopSec"]) > drain + FINAL_PATIENCE
    assert a_policy("@daily").start_timeout.total_seconds() <= FINAL_PATIENCE


def test_a_bad_configuration_is_not_tried_again_and_everything_else_is_for_ever() -> None:
    service = unit()["Service"]
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"] == "78"
    assert unit()["Unit"]["StartLimitIntervalSec"] == "0"


def test_the_token_is_handed_over_as_a_credential_and_is_nowhere_else() -> None:
    text = UNIT.read_text()
    assert unit()["Service"]["LoadCredential"] == "token:/etc/snaprotd/token"
    assert "VPS_API_TOKEN" not in text


def test_the_token_goes_to_the_provider_alone_and_into_no_core_file() -> None:
    assert unit()["Service"]["LimitCORE"] == "0"
    assert "Environment=SNAPROTD_ALLOW_HOST=admin.vps.org" in UNIT.read_text().splitlines()
    assert "#LoadCredentialEncrypted=token:" in UNIT.read_text()


def test_it_harms_no_machine_and_has_files_for_visitors_and_for_the_provider() -> None:
    service = unit()["Service"]
    assert service["MemoryMax"] == "1G"
    assert int(service["LimitNOFILE"]) // 4 >= MOST_INSIDE


def test_what_it_may_do_is_little(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze", "apt-get install systemd")
    shown = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=15", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_PAGER": ""},
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    found = re.search(r"exposure level for \S+: ([0-9.]+)", shown.stdout)
    assert found is not None
    assert float(found[1]) <= 1.5


def test_systemd_understands_every_line_of_it(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze", "apt-get install systemd")
    text = UNIT.read_text().replace("/opt/snaprotd/bin/snaprotd", "/bin/true")
    (tmp_path / "snaprotd.service").write_text(text)
    shown = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "snaprotd.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stdout + shown.stderr) == (0, "")
