"""Whoever writes the configuration file is not to get the token by it, nor to keep the daemon from its work."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from snaprotd.config import trust
from snaprotd.config.file import load, parse
from snaprotd.config.mistakes import redacted
from snaprotd.config.settings import Config, resolve
from snaprotd.config.trust import why_not_sent_to
from snaprotd.config.web_file import WebFile, read_web_file
from snaprotd.core.errors import ConfigError, SnaprotdError
from snaprotd.core.model import Server, ServerState
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower, Terms
from snaprotd.daemon.last_resort import pay_what_is_owed
from snaprotd.daemon.ledger_watch import Remembered
from snaprotd.ledger.store import Ledger
from snaprotd.provider.token import TokenError, token_source
from snaprotd.web.protection import Protection
from snaprotd.wiring.access import read_token
from tests.support.daemons import ONE, Line, a_world, daemon_on, logged, write_config
from tests.support.effort import effort, least
from tests.support.processes import run
from tests.support.promised import HOUR, MINUTE
from tests.support.world_transport import WorldTransport

THEIRS = "https://collect.example/api/v1"
SERVERS = 'servers: [{id: 1, schedule: "@daily"}]\n'


@pytest.fixture(autouse=True)
def _as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "USUAL", frozenset({"admin.vps.org"}))


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch, _as_users_have_it: None) -> None:
    """For a whole daemon of these tests: its provider is nowhere."""
    monkeypatch.setattr(trust, "USUAL", frozenset({"admin.vps.org", "vps.invalid"}))


def refused(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as why:
        parse(text, "c.yaml", environ)
    return [str(mistake) for mistake in why.value.mistakes]


# -- where the token goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base_url",
    [
        "https://admin.vps.org/api/v1",
        "https://ADMIN.vps.ORG:443/api/v1",
        "http://127.0.0.1:8321/api/v1",
        "http://127.9.9.9/",
        "http://[::1]:8321/api/v1",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://localhost/",
    ],
)
def test_without_a_word_the_token_goes_to_the_provider_and_to_this_machine(base_url: str) -> None:
    assert why_not_sent_to(base_url, {}) == ""


@pytest.mark.parametrize(
    "base_url",
    [
        THEIRS,
        "https://admin.vps.org.collect.example/",
        "https://collect.example/admin.vps.org",
        "https://xadmin.vps.org/",
        "https://vps.org/",
        "https://admin.vps.org./",
        "https://admin.vps.org@collect.example/",
        "https://collect.example\\@admin.vps.org/",
        "https://admin.vps.org\\.collect.example/",
        "https://admin%2evps.org/",
        "https://[admin.vps.org]/",
        "https://admin.vps.org:/",
        "https://\u0430dmin.vps.org/",  # a Cyrillic letter
        "https://xn--dmin-7cd.vps.org/",  # the same, as it is looked up
        "https://admin\uff0evps\uff0eorg/",
        "https://localhost.collect.example/",
        "https://localhost./",
        "https://127.0.0.1.collect.example/",
        "https://2130706433/",
        "https://127.1/",
        "https://0.0.0.0/",
        "https://[::ffff:203.0.113.7]/",
        "https://::1%@collect.example/",
        "https://::1%25@collect.example/",
        "https:///",
        "",
    ],
)
def test_no_other_writing_of_an_address_gets_the_token(base_url: str) -> None:
    assert "SNAPROTD_ALLOW_HOST" in why_not_sent_to(base_url, {})


@pytest.mark.parametrize(
    ("named", "base_url", "allowed"),
    [
        ("admin.vps.org", "https://admin.vps.org/api/v1", True),
        ("admin.vps.org", "http://127.0.0.1/", False),
        ("admin.vps.org", "http://localhost/", False),
        ("relay.example", "https://admin.vps.org/", False),
        ("relay.example, Admin.VPS.org ", "https://admin.vps.org/", True),
        ("127.0.0.1", "http://127.0.0.1:8321/", True),
        ("127.0.0.1:8321", "http://127.0.0.1:8321/", True),
        ("127.0.0.1:8321", "http://127.0.0.1:8322/", False),
        ("::1", "http://[0::1]:8321/", True),
        ("[::1]:8321", "http://[::1]:8321/", True),
        ("[::1]:8321", "http://[::1]/", False),
        ("example", "https://relay.example/", False),
        ("*.example", "https://relay.example/", False),
        ("*", "https://relay.example/", False),
        ("https://relay.example", "https://relay.example/", False),
        (",", "https:///", False),
        ("relay.example", "http://relay.example/", False),
        ("admin.vps.org", "http://admin.vps.org/", False),
        ("relay.example", "ftp://relay.example/", False),
        (",", "https://admin.vps.org/", False),
    ],
)
def test_the_variable_names_all_hosts_and_nothing_but_hosts(named: str, base_url: str, allowed: bool) -> None:
    why = why_not_sent_to(base_url, {"SNAPROTD_ALLOW_HOST": named})
    assert (why == "") is allowed
    assert allowed or named.strip() in why


def test_an_address_of_the_writers_own_is_a_mistake_of_the_file_at_its_place() -> None:
    (mistake,) = refused(f"api: {{base_url: '{THEIRS}'}}\n{SERVERS}")
    assert mistake.startswith("c.yaml:1:17: api.base_url: the API token may not be sent to collect.example: ")
    assert "names the host in $SNAPROTD_ALLOW_HOST" in mistake


def test_the_default_address_obeys_the_variable_too() -> None:
    (mistake,) = refused(SERVERS, SNAPROTD_ALLOW_HOST="127.0.0.1")
    assert "api.base_url: the API token may not be sent to admin.vps.org" in mistake


@pytest.mark.usefixtures("one_clock")
@pytest.mark.parametrize(("allowed", "status"), [("", "stopped"), ("collect.example", "active")])
async def test_a_start_that_is_owed_is_paid_at_no_address_that_the_token_may_not_go_to(
    tmp_path: Path, log: list[Line], allowed: str, status: str
) -> None:
    world = a_world(token="vps_the_accounts_own")
    world.set_status("12345", "stopped")
    signed: list[str] = []
    way = WorldTransport(world, before=lambda request: signed.append(request.headers["authorization"]))
    owed = Power(asked=1, went_off=True, request_age=HOUR, stop_age=HOUR)
    terms = Terms(base_url=THEIRS)
    async with await Ledger.open(tmp_path / "state.db", owner="before") as ledger:
        record = ServerPower(account="collect.example", server_id="12345", label="web", power=owed, terms=terms)
        await ledger.starts.save(record)
    environ = {"VPS_API_TOKEN": world.token, "SNAPROTD_ALLOW_HOST": allowed}
    async with asyncio.timeout(HOUR):
        is_paid = await pay_what_is_owed([tmp_path / "state.db"], environ, ConfigError([]), way)
    assert (is_paid, bool(signed), world.status_of("12345")) == (bool(allowed), bool(allowed), status)
    told = [line["error"] for line in logged(log, "what is owed cannot be paid from here")]
    assert all("may not be sent to collect.example" in why for why in told)
    assert bool(told) is not bool(allowed)


# -- the token as something else -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Database:
    password_file: Path


@dataclass(frozen=True, kw_only=True)
class _Later(Config):
    """A configuration with keys that name files, as any key may one day."""

    web_config: Path | None = None
    database: _Database | None = None


def read_by(folder: Path, **more: Any) -> Config:
    token = folder / "token"
    token.write_text("vps_of_the_account\n")
    token.chmod(0o600)
    good = parse(f"api: {{token_file: {token}}}\n{SERVERS}", "c.yaml", {})
    given = {one.name: getattr(good, one.name) for one in fields(Config) if one.init}
    return _Later(**{**given, **more})


@pytest.mark.parametrize("as_link", [False, True])
def test_the_tokens_file_under_another_key_is_refused(tmp_path: Path, as_link: bool) -> None:
    named = tmp_path / ("link" if as_link else "token")
    config = read_by(tmp_path, database=_Database(named))
    if as_link:
        named.symlink_to("token")
    with pytest.raises(ConfigError, match=r"c\.yaml: database\.password_file: .* is the token's file"):
        read_token(config, {})


def test_a_file_that_holds_the_token_is_refused_under_another_key(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text("password: vps_of_the_account\n")
    with pytest.raises(ConfigError, match=r"web_config: .* holds the API token") as why:
        read_token(read_by(tmp_path, web_config=tmp_path / "web.yaml"), {})
    assert "vps_of" not in str(why.value)


def test_a_file_of_its_own_under_another_key_is_none_of_the_tokens_business(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    config = read_by(tmp_path, web_config=tmp_path / "pipe", database=_Database(tmp_path / "nowhere"))
    assert read_token(config, {}).get() == "vps_of_the_account"


OF_THE_KERNEL = Path("/proc/sys/kernel/random/boot_id")
"""A regular file by its mode, without a size; its content would pass for a token. Others of its kind never end."""


def test_a_file_of_the_kernel_is_not_read_whatever_it_is_named_as(tmp_path: Path) -> None:
    assert (stat.S_ISREG(OF_THE_KERNEL.stat().st_mode), len(OF_THE_KERNEL.read_text())) == (True, 37)
    with pytest.raises(TokenError, match="is empty"):
        token_source(OF_THE_KERNEL, {})
    for read in (load, read_web_file):
        with pytest.raises(ConfigError, match=r"the file is empty|should be a mapping"):
            read(OF_THE_KERNEL)
    assert read_token(read_by(tmp_path, web_config=OF_THE_KERNEL), {}).get() == "vps_of_the_account"
    for file in (OF_THE_KERNEL, tmp_path / "huge"):
        (tmp_path / "huge").touch()
        os.truncate(tmp_path / "huge", 1 << 40)
        with pytest.raises(SnaprotdError, match="no file of 1 byte to 1024 KiB"):
            Protection(WebFile(path=tmp_path / "web.yaml", cert_file=file, key_file=file))


@pytest.mark.parametrize(
    "told",
    [
        "notify: [{email: {to: [a@b.c], from: a@b.c, smtp: 'theirs.example:465', user: u, password_file: FILE}}]",
        "notify: [{run: [/etc/snaprotd/run/x]}, {webhook: {url_file: FILE}}]",
        "heartbeat: {url_file: FILE}",
        "defaults: {ping: {url_file: FILE}}",
    ],
)
@pytest.mark.parametrize("name", ["token", "copy"])
def test_no_channel_is_given_the_token_as_its_password(tmp_path: Path, told: str, name: str) -> None:
    for file in ("token", "copy"):
        (tmp_path / file).write_text("Zq7-of-the-account-4Kd")
        (tmp_path / file).chmod(0o600)
    text = f"api: {{token_file: {tmp_path}/token}}\n{told.replace('FILE', f'{tmp_path}/{name}')}\n{SERVERS}"
    with pytest.raises(ConfigError, match=r"is the token's file|holds the API token") as why:
        read_token(parse(text, str(tmp_path / "c.yaml"), {}), {})
    assert "Zq7" not in str(why.value)


# -- a reload starves the start ------------------------------------------------------------------------------------

LONGEST_STALL = 0.1
"""Seconds of work, all threads together, for which no other thread has a turn: what the loop has to wait for."""

MANY = 20_000
"""Mistakes; 130,000 behave alike, and take the tests too long."""


class Beat:
    """A thread that wants to run every millisecond, as the loop does. `worst` is how long it had to wait.

    In time of the processor: whatever else the machine is doing does not count.
    """

    worst = 0.0

    def __enter__(self) -> Beat:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()
        return self

    def _beat(self) -> None:
        last = time.process_time()
        while not self._over.wait(0.001):
            now = time.process_time()
            self.worst, last = max(self.worst, now - last), now

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def entries(number: int) -> str:
    return "".join(f'- {{id: {one}, name: web-{one}, schedule: "@daily"}}\n' for one in range(1, number + 1))


STARVING = {
    "unknown keys": f"{SERVERS}defaults:\n" + "".join(f"  k{one}: 1\n" for one in range(MANY)),
    "repeated keys": f"{SERVERS}defaults:\n" + "  keep: 1\n" * MANY,
    "entries wrong in every key": "servers:\n" + "- {id: 0, name: 1, keep: x, spread: 1, adopt: 1}\n" * (MANY // 2),
    "policies that keep nothing": "policies:\n"
    + "".join(f"  p{one}: {{keep: 0}}\n" for one in range(MANY // 4))
    + SERVERS,
    "patterns that are none": f"{SERVERS}defaults: {{adopt: [{'~,' * MANY}]}}\n",
    "a time zone of 200 kB": f'{SERVERS}defaults: {{timezone: "{"A/" * 100_000}"}}\n',
    "a schedule of 200 kB": f'{SERVERS}defaults: {{schedule: "{"//" * 100_000}@"}}\n',
    "a key of 200 kB": f'{SERVERS}defaults: {{"{"a" * 200_000}": 1}}\n',
    "a word of 3 MB": f'{SERVERS}instance: "{"a" * 3_000_000}"\n',
    "brackets": "[" * 200_000,
    "time zones that there are not": "servers:\n"
    + "".join(f'- {{id: {one}, schedule: "@daily", timezone: Europe/Berlim{one}}}\n' for one in range(1, 4001)),
    "policies that are spelled alike": "policies:\n"
    + "".join(f"  {'ab' * 18}{one}: {{keep: 2}}\n" for one in range(900))
    + "servers:\n"
    + "".join(f"- {{id: {one}, policy: {'ba' * 18}{one}}}\n" for one in range(1, 201)),
}

MOST_WORK = 5.0
"""Seconds of the processor that a file of 4 MB may cost: others have their turn, but it is a core that works."""


@pytest.mark.parametrize("what", STARVING)
def test_a_reload_starves_the_start(what: str) -> None:
    """What is refused is refused while others have their turn, and in no more than 100 lines."""

    refusals: list[ConfigError] = []

    def share_of_what_is_allowed() -> float:
        began = time.process_time()
        with Beat() as beat, pytest.raises(ConfigError) as why:
            parse(STARVING[what], "c.yaml", {})
        refusals.append(why.value)
        return max(beat.worst / LONGEST_STALL, (time.process_time() - began) / MOST_WORK)

    assert least(share_of_what_is_allowed, allowed=1) < 1
    why = refusals[0]
    lines = str(why).splitlines()
    assert len(why.mistakes) <= 100
    assert sum(map(len, lines)) < 100_000
    if len(why.mistakes) == 100:
        assert re.fullmatch(r"and [0-9]+ more", lines[100])


def test_a_reload_of_thousands_of_servers_starves_no_start() -> None:
    read: list[Config] = []

    def stall() -> float:
        with Beat() as beat:
            read.append(parse("servers:\n" + entries(10_000), "c.yaml", {}))
        return beat.worst

    assert least(stall, allowed=LONGEST_STALL) < LONGEST_STALL
    found = read[0]
    assert len(found.entries) == 10_000
    account = [
        Server(id=str(one), ref=one, name="web", state=ServerState.RUNNING, status="active") for one in range(1, 10_001)
    ]
    assert len(resolve(found, account)) == 10_000
    assert effort(lambda: resolve(found, account), allowed=LONGEST_STALL) < LONGEST_STALL  # of the loop's time


@pytest.mark.parametrize("number", [99, 100, 101, 350])
def test_a_hundred_mistakes_are_shown_and_the_others_counted(number: int) -> None:
    text = SERVERS + "defaults:\n" + "".join(f"  k{one}: 1\n" for one in range(number))
    with pytest.raises(ConfigError) as why:
        parse(text, "c.yaml", {})
    assert len(why.value.mistakes) == min(number, 100)
    assert why.value.and_more == ("" if number <= 100 else f"and {number - 100} more")
    assert [mistake.line for mistake in why.value.mistakes] == list(range(3, 3 + min(number, 100)))


@pytest.mark.real_time
async def test_the_log_and_the_command_show_a_hundred_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SERVERS + "defaults:\n" + "".join(f"  k{one}: 1\n" for one in range(250)))
    told = await run("check", "--config", str(path))
    assert told.code == 78
    assert told.err.splitlines()[100:] == ["and 150 more"]


@pytest.mark.usefixtures("simulated")
async def test_a_running_daemon_logs_a_hundred_mistakes_and_goes_on(tmp_path: Path, log: list[Line]) -> None:
    path = write_config(tmp_path, ONE)
    async with daemon_on(path, a_world()) as watched:
        path.write_text(SERVERS + "defaults:\n" + "".join(f"  k{one}: 1\n" for one in range(250)))
        await asyncio.sleep(MINUTE)
        told = logged(log, "the new configuration is refused, the old one stays in force")
        assert (len(told), told[-1]["mistake"]) == (101, "and 150 more")
        report = (await watched.get("/api/status")).json()
    assert len(report["config"]["mistakes"]) == 101
    assert "(and 100 other mistakes or more)" in report["problems"][0]["text"]


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("where", ["the token's file", "the file itself"])
async def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, log: list[Line], where: str) -> None:
    path = write_config(tmp_path, ONE)
    good = path.read_text()
    os.mkfifo(tmp_path / "pipe")
    async with daemon_on(path, a_world()):
        if where == "the file itself":
            path.unlink()
            os.mkfifo(path)
        else:
            path.write_text(
                good.replace("requests_per_second", f"token_file: {tmp_path / 'pipe'}, requests_per_second")
            )
        await asyncio.sleep(MINUTE)
        (told,) = logged(log, "the new configuration is refused, the old one stays in force")
        assert "a pipe, not a file" in str(told["mistake"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://me:hush@host/ and https://host/", "see https://*******@host/ and https://host/"),
        ("//a//b@c", "//****@c"),
        ("me@host //x", "me@host //x"),
        ("vps_0123456789 //vps_0123456789@x", "vps_********** //**************@x"),
    ],
)
def test_names_and_passwords_of_addresses_are_starred_out_in_one_pass(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.usefixtures("simulated", "silence")
async def test_thousands_of_servers_are_taken_up_and_let_go_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = [f'{{id: {one}, schedule: "@daily"}}' for one in range(1, 201)]
    async with daemon_on(write_config(tmp_path, f"[{', '.join(servers)}]"), a_world()) as watched:
        schedules, in_a_row, most = watched.daemon._schedules, 0, {"taken up": 0, "let go": 0}
        admit, targets, schedules.targets = schedules._admit, list(schedules.targets.values()), {}
        remove = schedules._timer.remove

        def count(what: str) -> None:
            nonlocal in_a_row
            in_a_row += 1
            most[what] = max(most[what], in_a_row)

        async def counted(*parts: Any, **options: Any) -> Any:
            count("taken up")
            return await admit(*parts, **options)

        def removed(server_id: str) -> None:
            count("let go")
            remove(server_id)

        async def others() -> None:
            nonlocal in_a_row
            while True:
                in_a_row = 0
                await asyncio.sleep(0)

        monkeypatch.setattr(schedules, "_admit", counted)
        monkeypatch.setattr(schedules._timer, "remove", removed)
        remembered = await Remembered.read(watched.daemon._tools.ledger)
        turns = asyncio.create_task(others())
        await schedules.set_targets(targets, remembered, at_start=False)
        await schedules.set_targets([], remembered, at_start=False)
        turns.cancel()
    assert len(targets) == 200
    assert {what: 0 < number <= 50 for what, number in most.items()} == dict.fromkeys(most, True)
