"""The unit in a real systemd, booted in a container: `make test-systemd`. Needs root, mmdebstrap and systemd-nspawn.

Not a part of `make test`: a Debian is fetched and booted, and real time passes. $SUITE names the Debian (bookworm has
systemd 252, trixie 257); $SYSTEMD_ROOT a folder to keep it in between runs. The provider is `snaprotd simulate`, as a
service beside ours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import needs

PROJECT = Path(__file__).parents[2]
SUITE = os.environ.get("SUITE", "bookworm")
NOTIFY_RELOAD = SUITE != "bookworm"
"""Whether this systemd knows Type=notify-reload."""
RELOADING = 0 if NOTIFY_RELOAD else 10
"""Seconds from the end of `systemctl reload` until the file was read: with Type=notify-reload, none."""

TOKEN = "made-up-q7w2"
HOST = "[Service]\nEnvironment=SNAPROTD_ALLOW_HOST=127.0.0.1\n"
"""The unit allows the provider alone, and here that is simulated."""
SPEED = 60
CONFIG = """\
api: {{base_url: "http://127.0.0.1:8321/api/v1", requests_per_second: 50, settle: 2s}}
poll_interval: 500ms
own_server: none
servers:
{servers}
"""
EVERY_MINUTE = '  - {id: 12345, name: web, schedule: "* * * * *", keep: 2, stop_first: true}'
YEARLY = '  - {id: 12346, name: db, schedule: "@yearly"}'
BAD = "  - {id: 12345, shedule: never}"
WATCHDOG = 2
"""Seconds without a word from the daemon after which it is killed, where a test sets it."""


class Machine:
    """A booted container."""

    def __init__(self, root: Path, init: int) -> None:
        self.root = root
        self._enter = ["nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "-r", "-w"]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run([*self._enter, *command], capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0 or not check, f"{command}: {ended.stdout}{ended.stderr}\n{self.log()}"
        return ended

    def log(self) -> str:
        shown = ["journalctl", "--no-pager", "-o", "cat", "-u", "snaprotd", "-n", "40"]
        return subprocess.run([*self._enter, *shown], capture_output=True, text=True, timeout=60, check=False).stdout

    def show(self, key: str) -> str:
        return self.run("systemctl", "show", "-P", key, "snaprotd").stdout.strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(target.name + ".new")
        fresh.write_text(text)
        fresh.chmod(mode)
        fresh.replace(target)

    def configure(self, *servers: str) -> None:
        self.write("/etc/snaprotd/config.yaml", CONFIG.format(servers="\n".join(servers)))

    def get(self, url: str) -> str:
        ask = "import sys, urllib.request as u; r = u.Request(sys.argv[1], headers={'Authorization': sys.argv[2]});"
        ask += "sys.stdout.write(u.urlopen(r, timeout=10).read().decode())"
        return self.run("/opt/snaprotd/bin/python", "-c", ask, url, f"Bearer {TOKEN}").stdout

    def power(self, server_id: int = 12345) -> str:
        """The status of a server at the provider."""
        return str(json.loads(self.get(f"http://127.0.0.1:8321/api/v1/servers/{server_id}/"))["status"])

    def status(self) -> Any:
        return json.loads(self.get("http://127.0.0.1:9877/api/status"))

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}\n{self.log()}"
            time.sleep(0.2)


def _debian() -> Path:
    """A folder with a Debian in it, and snaprotd installed as docs/install.md says."""
    kept = os.environ.get("SYSTEMD_ROOT")
    root = Path(kept) if kept else Path(f"/var/tmp/snaprotd-{SUITE}-{os.getpid()}")
    needs("mmdebstrap", "apt-get install mmdebstrap")
    subprocess.run([PROJECT / ".ci/make-debian", SUITE, root], check=True)
    return root


def _install(root: Path) -> None:
    wheels = root / "opt/wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    version = subprocess.run(
        ["chroot", str(root), "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wanted = ["--require-hashes", "-r", str(PROJECT / "requirements.txt")]
    foreign = ["--only-binary", ":all:", "--python-version", version]
    subprocess.run([*pip, "download", "--dest", str(wheels), *foreign, *wanted], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(PROJECT)], check=True)
    inside = ["chroot", str(root)]
    if not (root / "opt/snaprotd").exists():
        subprocess.run([*inside, "python3", "-m", "venv", "/opt/snaprotd"], check=True)
    names = [f"/opt/wheels/{wheel.name}" for wheel in wheels.iterdir()]
    install = ["/opt/snaprotd/bin/pip", "--quiet", "install", "--no-index", "--no-deps", "--force-reinstall", *names]
    subprocess.run([*inside, *install], check=True)
    units = root / "etc/systemd/system"
    shutil.rmtree(units / "snaprotd.service.d", ignore_errors=True)
    shutil.copy(PROJECT / "deploy/systemd/snaprotd.service", units)
    if NOTIFY_RELOAD:
        shutil.copytree(PROJECT / "deploy/systemd/snaprotd.service.d", units / "snaprotd.service.d")
    (units / "provider.service").write_text(
        f"[Service]\nExecStart=/opt/snaprotd/bin/snaprotd simulate --speed {SPEED}\nDynamicUser=yes\n"
    )
    shutil.rmtree(root / "var/lib/private/snaprotd", ignore_errors=True)


def _init_of(nspawn: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    end = time.monotonic() + 60
    while not (pids := children.read_text().split()):
        assert time.monotonic() < end, "systemd-nspawn has not started a systemd"
        time.sleep(0.1)
    return int(pids[0])


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    nspawn = needs("systemd-nspawn", "apt-get install systemd-container")
    root = _debian()
    _install(root)
    boot = [nspawn, "-b", "-D", str(root), "--private-network", "--register=no", "--keep-unit", "--console=pipe"]
    with open(os.devnull, "w+b") as nothing:
        process = subprocess.Popen(
            [*boot, "systemd.unified_cgroup_hierarchy=1"], stdin=nothing, stdout=nothing, stderr=nothing
        )
    try:
        booted = Machine(root, _init_of(process))
        states = ("running", "degraded")
        booted.until(
            lambda: booted.run("systemctl", "is-system-running", check=False).stdout.strip() in states, "the boot"
        )
        booted.write("/etc/snaprotd/token", f"{TOKEN}\n", 0o600)
        booted.write("/etc/systemd/system/snaprotd.service.d/host.conf", HOST, 0o644)
        booted.run("systemctl", "daemon-reload")
        booted.run("systemctl", "start", "provider")
        yield booted
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if not os.environ.get("SYSTEMD_ROOT"):
            shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def running(machine: Machine) -> Iterator[Machine]:
    """The service, started on a server that is rotated every minute and one that hardly ever is."""
    machine.run("systemctl", "stop", "snaprotd")
    machine.run("systemctl", "reset-failed", "snaprotd", check=False)
    machine.configure(EVERY_MINUTE, YEARLY)
    machine.run("systemctl", "start", "snaprotd")
    yield machine
    machine.configure(YEARLY)
    machine.run("systemctl", "stop", "snaprotd")


def held_off(machine: Machine) -> Callable[[], bool]:
    return lambda: (
        any(server["stopped_by_us_since"] for server in machine.status()["servers"]) and (machine.power() == "stopped")
    )


def said_that_it_is_well_for(machine: Machine) -> float:
    """Seconds since it was ready, by what it last told the watchdog."""
    ready, told = (int(machine.show(f"{key}TimestampMonotonic")) for key in ("ActiveEnter", "Watchdog"))
    return (told - ready) / 1e6


def rests_failed(machine: Machine) -> None:
    """It ended as a bad configuration does, and systemd has nothing more in mind.

    While a next start is waited for, the state is `activating` and `auto-restart`, not `failed`.
    """
    states = [machine.show(key) for key in ("ActiveState", "SubState", "Result", "ExecMainStatus")]
    assert states == ["failed", "failed", "exit-code", "78"], machine.log()
    assert "snaprotd" not in machine.run("systemctl", "list-jobs", "--no-legend").stdout


def test_it_is_ready_when_started_and_says_how_it_stands(running: Machine) -> None:
    assert running.show("ActiveState") == "active"
    assert running.show("Type") == ("notify-reload" if NOTIFY_RELOAD else "notify")
    assert "2 servers, next at " in running.show("StatusText")
    assert running.get("http://127.0.0.1:9877/healthz") == "ok\n"


def test_it_runs_as_nobody_in_particular_and_the_token_is_for_it_alone(running: Machine) -> None:
    pid = running.show("MainPID")
    status = running.run("cat", f"/proc/{pid}/status").stdout
    uid = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
    assert int(uid) >= 61184  # systemd's range for dynamic users
    assert (running.root / "var/lib/private/snaprotd/state.db").stat().st_mode & 0o077 == 0
    assert TOKEN not in running.run("cat", f"/proc/{pid}/environ").stdout


def test_a_new_file_is_taken_with_systemctl_reload(running: Machine) -> None:
    pid = running.show("MainPID")
    running.configure(YEARLY)
    running.run("systemctl", "reload", "snaprotd")
    running.until(lambda: running.show("StatusText").startswith("1 server,"), "the new file to be in force", RELOADING)
    assert running.show("MainPID") == pid


def test_a_bad_file_is_refused_and_the_service_goes_on(running: Machine) -> None:
    pid = running.show("MainPID")
    running.configure(BAD)
    running.run("systemctl", "reload", "snaprotd")
    running.until(lambda: "refused" in running.show("StatusText"), "the refusal", RELOADING)
    assert running.show("ActiveState") == "active"
    assert running.show("MainPID") == pid
    assert "did you mean `schedule`?" in running.get("http://127.0.0.1:9877/readyz")


def test_killed_in_the_middle_of_a_rotation_it_comes_back_and_so_does_the_server(running: Machine) -> None:
    running.until(held_off(running), "a server to be held off")
    pid = running.show("MainPID")
    running.run("sh", "-c", f"kill -9 {pid}")
    running.until(lambda: running.show("MainPID") not in ("0", pid), "the next start", 30)
    running.until(lambda: running.power() == "active", "the server to be on", 60)


def test_stopped_while_a_server_is_off_it_starts_the_server_first(running: Machine) -> None:
    running.until(held_off(running), "a server to be held off")
    running.run("systemctl", "stop", "snaprotd")
    assert running.power() == "active"
    assert running.show("Result") == "success"
    assert running.show("ExecMainStatus") == "0"


def test_a_loop_that_hangs_is_noticed_and_started_anew(running: Machine) -> None:
    running.run("mkdir", "-p", "/run/systemd/system/snaprotd.service.d")
    set_to = f"printf '[Service]\\nWatchdogSec={WATCHDOG}\\n' > /run/systemd/system/snaprotd.service.d/watchdog.conf"
    running.run("sh", "-c", set_to)
    running.run("systemctl", "daemon-reload")
    running.run("systemctl", "restart", "snaprotd")
    try:
        pid = running.show("MainPID")
        running.until(lambda: said_that_it_is_well_for(running) > WATCHDOG, "a daemon that says it is well", 30)
        assert (running.show("MainPID"), running.show("NRestarts")) == (pid, "0")
        running.run("sh", "-c", f"kill -STOP {pid}")
        running.until(lambda: running.show("MainPID") not in ("0", pid), "the next start", 60)
        assert "Watchdog timeout" in running.log()
    finally:
        running.run("rm", "-r", "/run/systemd/system/snaprotd.service.d")
        running.run("systemctl", "daemon-reload")


def test_a_bad_configuration_at_the_start_is_told_and_not_tried_again(running: Machine) -> None:
    running.run("systemctl", "stop", "snaprotd")
    running.configure(BAD)
    assert running.run("systemctl", "start", "snaprotd", check=False).returncode != 0
    rests_failed(running)
    assert "did you mean `schedule`?" in running.log()


def test_killed_while_a_server_is_off_and_refused_a_bad_file_it_starts_the_server_before_it_rests(
    running: Machine,
) -> None:
    """Nobody else would: systemd does not come back to a bad configuration."""
    running.until(held_off(running), "a server to be held off")
    running.configure(BAD)
    pid = running.show("MainPID")
    running.run("sh", "-c", f"kill -9 {pid}")
    running.until(lambda: running.show("ActiveState") != "active", "systemd to notice", 30)
    assert running.run("systemctl", "start", "snaprotd", check=False).returncode != 0
    assert running.power() == "active"
    rests_failed(running)
    assert "did you mean `schedule`?" in running.log()
