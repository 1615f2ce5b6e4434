"""The commands as a user runs them: real processes, a real socket, what they print, and the code they end with."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import click
import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

from snaprotd import __version__
from snaprotd.commands.cli import WHERE, _run, cli
from snaprotd.config.text import yaml_nodes
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.support.processes import (
    LOOK_EVERY,
    PATIENCE,
    ROOT,
    TOKEN,
    Daemon,
    Ended,
    Hold,
    Provider,
    daemon,
    first_of,
    provider,
    recorded,
    run,
    run_anew,
    running,
    until,
    write_config,
)

pytestmark = pytest.mark.real_time

SPEED = 2000.0
ZONE = "Asia/Kolkata"
"""Half past three there is ten at night, the day before, in UTC, all the year round."""
OUR_NAME = re.compile(r"snaprotd-main-\d{8}T\d{6}Z(?:-until-\d{8})?")

T = TypeVar("T")


def day(number: int, hour: int = 3) -> datetime:
    return datetime(2025, 1, number, hour, tzinfo=UTC)


def ours(number: int) -> str:
    return f"snaprotd-main-{day(number):%Y%m%dT%H%M%SZ}"


def new_world() -> World:
    return World(speed=SPEED, token=TOKEN, snapshot_seconds=(300, 500))


def sentence(ended: Ended) -> str:
    """The one line on standard error with which a command says why it failed."""
    lines = ended.err.splitlines()
    assert ended.code == 1, ended
    assert len(lines) == 1, ended
    assert lines[0].startswith("snaprotd: "), ended
    return lines[0].removeprefix("snaprotd: ")


async def together(*stories: Coroutine[Any, Any, T], at_one_time: int = 2) -> list[T]:
    """What all of them answer. No more run beside each other than the machine has room for."""
    turn = asyncio.Semaphore(at_one_time)

    async def one(story: Coroutine[Any, Any, T]) -> T:
        async with turn:
            return await story

    return await asyncio.gather(*map(one, stories))


# -- without a provider --------------------------------------------------------------------------------------------

BAD = """\
limit: five
instanse: main
servers:
  - id: 12345
    keep: 0
    schedule: "61 * * * *"
  - {id: "12345", policy: nightly}
"""

MISTAKES = [
    (1, 8, "limit", "should be a whole number, not `five`"),
    (2, 1, "instanse", "did you mean `instance`?"),
    (5, 11, "servers[0].keep", "not `0`"),
    (6, 15, "servers[0].schedule", "61 is out of range 0-59"),
    (7, 10, "servers[1].id", "the same server as servers[0]"),
    (7, 27, "servers[1].policy", "unknown policy `nightly`"),
]

READERS = ("check", "run")

WRONG_USAGE = {
    "": "Commands:",
    "snapshot": "No such command 'snapshot'",
    "plan --next many": "'many' is not a valid integer",
    "now": "Missing argument 'SERVER'",
    "simulate --fault sometimes": "`sometimes` is no kind of fault",
}

UNREADABLE = {
    "check --config /nowhere/config.yaml": "/nowhere/config.yaml: no such file (named by --config)",
    "check --config /proc/self/mem": "/proc/self/mem:1:1: the file is empty: list at least one server under `servers`",
}

DEMO = "demo --rounds 1 --servers 2 --speed 2000"

ANEW = ("--version", "run")
"""Those that are started as a shell does it, Python and all."""

ALONE = [
    DEMO,
    "schema",
    "--version",
    "--help",
    *READERS,
    *WRONG_USAGE,
    *UNREADABLE,
]


@pytest.fixture(scope="module")
def bad_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad") / "config.yaml"
    path.write_text(BAD)
    return path


@pytest.fixture(scope="module")
def alone(bad_file: Path) -> dict[str, Ended]:
    """How every line of ALONE ended, with $SNAPROTD_CONFIG naming a file that is full of mistakes."""
    stories = [(run_anew if line in ANEW else run)(*shlex.split(line), SNAPROTD_CONFIG=str(bad_file)) for line in ALONE]
    return dict(zip(ALONE, asyncio.run(together(*stories)), strict=True))


def test_the_version_is_shown(alone: dict[str, Ended]) -> None:
    assert alone["--version"] == Ended(code=0, out=f"snaprotd, version {__version__}\n", err="")


def test_a_command_that_needs_no_ledger_does_not_wait_for_its_library() -> None:
    """A shell that completes a word loads all commands each time."""
    ask = "import sys; from snaprotd.commands.cli import cli; [*cli.commands.values()]; sys.exit('{}' in sys.modules)"
    subprocess.run([sys.executable, "-c", ask.format("sqlalchemy")], check=True)
    assert subprocess.run([sys.executable, "-c", ask.format("snaprotd.commands.look")], check=False).returncode == 1


def test_a_command_waits_for_no_other() -> None:
    ask = "import sys; from snaprotd.commands.cli import cli; cli.commands['history']; sys.exit('httpx' in sys.modules)"
    subprocess.run([sys.executable, "-c", ask], check=True)


def test_each_command_that_is_written_can_be_called() -> None:
    modules = [import_module(f"snaprotd.commands.{one}") for one in set(WHERE.values())]
    written = [one for module in modules for one in vars(module).values() if isinstance(one, click.Command)]
    within = {its for one in written if isinstance(one, click.Group) for its in one.commands.values()}
    assert {one.name: one for one in written if one not in within} == dict(cli.commands)


def test_the_help_names_every_command(alone: dict[str, Ended]) -> None:
    told = alone["--help"]
    assert (told.code, told.err) == (0, "")
    listed = told.out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == sorted(cli.commands)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_help_of_a_command_has_an_example_of_it(name: str) -> None:
    told = CliRunner().invoke(cli, [name, "--help"])  # a process of its own for each would show nothing more
    assert (told.exit_code, told.stderr) == (0, "")
    assert re.search(rf"^  Example:\n    snaprotd {name}\b", told.stdout, re.MULTILINE), told.stdout


@pytest.mark.parametrize("line", WRONG_USAGE)
def test_wrong_usage_is_2_and_says_what_is_wrong(line: str, alone: dict[str, Ended]) -> None:
    told = alone[line]
    assert (told.code, told.out) == (2, "")
    assert WRONG_USAGE[line] in told.err


@pytest.mark.parametrize("line", READERS)
def test_a_bad_configuration_is_78_with_every_mistake_at_its_place(
    line: str, alone: dict[str, Ended], bad_file: Path
) -> None:
    told = alone[line]
    assert (told.code, told.out) == (78, "")
    shown = told.err.splitlines()
    assert len(shown) == len(MISTAKES)
    for text, (number, column, place, words) in zip(shown, MISTAKES, strict=True):
        assert text.startswith(f"{bad_file}:{number}:{column}: {place}: ")
        assert words in text


@pytest.mark.parametrize("line", UNREADABLE)
def test_a_configuration_that_cannot_be_read_is_78_and_says_why(line: str, alone: dict[str, Ended]) -> None:
    assert alone[line] == Ended(code=78, out="", err=f"{UNREADABLE[line]}\n")


def test_a_mistake_of_ours_is_a_sentence_and_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise RuntimeError("told\nin two lines")

    monkeypatch.setattr(sys, "argv", ["snaprotd", "schema"])
    monkeypatch.setattr("snaprotd.commands.service.json_schema", fails)
    monkeypatch.setattr("snaprotd.logs.configure", lambda **_: None)
    assert _run() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("snaprotd: internal error, RuntimeError at test_commands.py:")
    assert "fails: told in two lines. " in last


async def test_a_database_that_does_not_answer_is_one_sentence_without_its_password(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text('state: postgresql://me:hush-hush@127.0.0.1:1/x\nservers: [{id: 1, schedule: "@daily"}]\n')
    for line in ("ledger show", "history"):
        told = await run(*line.split(), "--config", str(path))
        assert (told.code, "the ledger postgresql://127.0.0.1:1/x cannot be used: conn" in told.err + told.out) == (
            1,
            True,
        )
        assert "hush" not in told.err + told.out


def test_the_schema_is_one_and_takes_the_example(alone: dict[str, Ended]) -> None:
    told = alone["schema"]
    assert (told.code, told.err) == (0, "")
    jsonschema.Draft202012Validator.check_schema(told.json)
    judge = jsonschema.Draft202012Validator(told.json)
    example: dict[str, Any] = yaml_nodes.read((ROOT / "config.example.yaml").read_text()).value()  # type: ignore[assignment]
    assert list(judge.iter_errors(example)) == []
    assert not judge.is_valid({**example, "polices": {}})


def test_the_demo_ends_by_itself_and_sums_up_what_was_done(alone: dict[str, Ended]) -> None:
    told = alone[DEMO]
    assert told.code == 0, told
    summary = told.out.partition("What was done")[2]
    rows = [line.split()[:5] for line in summary.splitlines() if " active " in line]
    assert rows == [[name, "active", "1", "0", "0"] for name in ("web-01", "db-01")]
    assert len(OUR_NAME.findall(summary)) == 2


# -- commands that only look ---------------------------------------------------------------------------------------

TEXTUAL = "0b7c6b0e-5d1c-4e62-9a55-2f1d8a3c7e10"
"""A server's id that is no number."""

GOOD = [
    {"id": 12345, "name": "front", "schedule": "30 3 * * *", "timezone": ZONE},
    {"match": "mail-*", "schedule": "@hourly", "paused": True},
]

CONFIGURATIONS = {
    "good": GOOD,
    "troubled": [
        *GOOD,
        {"id": 12346, "schedule": "@daily"},
        {"id": 99999, "name": "ghost", "schedule": "@daily"},
        {"match": "old-*", "schedule": "@daily"},
    ],
}

KEPT = [
    (804, ours(4), "managed", "2025-01-04T03:00:00Z", "keep: last 1 of 4"),
    (805, "pre-migration-snapshot", "foreign", "2025-01-03T18:00:00Z", "keep: not made by snaprotd"),
    (803, ours(3), "managed", "2025-01-03T03:00:00Z", "keep: last 2 of 4"),
    (802, ours(2), "managed", "2025-01-02T03:00:00Z", "keep: last 3 of 4"),
    (
        *(801, ours(1), "managed", "2025-01-01T03:00:00Z"),
        "delete: over keep 3 (keep 4, less 1: others hold 1 of 5 slots)",
    ),
]
"""What `front` holds and what is to become of it."""

FULL = (
    "blocked: 5 of 5 snapshots, 5 not made by snaprotd: by-hand-1 (2025-01-01), by-hand-2 (2025-01-02), "
    "by-hand-3 (2025-01-03), by-hand-4 (2025-01-04), by-hand-5 (2025-01-05)"
)


def sample() -> World:
    world = new_world()
    front, full, *_ = [world.add_server(name) for name in ("web-01", "db-01", "twin", "twin")]
    for number in range(1, 5):
        world.add_snapshot(front, ours(number), created_at=day(number))
    world.add_snapshot(front, "pre-migration-snapshot", created_at=day(3, 18), description="Before major migration")
    for number in range(1, 6):
        world.add_snapshot(full, f"by-hand-{number}", created_at=day(number))
    mail = world.add_server("mail-01", ref=TEXTUAL)
    world.add_snapshot(mail, ours(2), created_at=day(2), status="in_progress", size_mb=None)
    world.add_snapshot(mail, ours(1), created_at=day(1), status="failed", size_mb=None)
    return world


class Account:
    """An account and some configurations over it, for the commands that only look: each of them runs once."""

    def __init__(self, runner: asyncio.Runner, web: Provider, configurations: Mapping[str, Path]) -> None:
        self._runner = runner
        self._configurations = configurations
        self._ended: dict[tuple[str, str, str], Ended] = {}
        self.journal = web.journal
        self.began = datetime.now(UTC)

    def file(self, name: str) -> Path:
        return self._configurations[name]

    def ran(self, line: str, config: str = "good", **more: str) -> Ended:
        """How a command line ended, under the configuration of that name."""
        key = (line, config, str(more))
        if key not in self._ended:
            command, *rest = shlex.split(line)
            story = run(command, "--config", str(self.file(config)), *rest, **more)
            self._ended[key] = self._runner.run(story)
        return self._ended[key]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        web = runner.run(stack.enter_async_context(provider(sample())))
        files = {}
        for name, servers in CONFIGURATIONS.items():
            text = f"listen: off\nservers: {json.dumps(servers)}\n"
            files[name] = write_config(tmp_path_factory.mktemp(name), web.base_url, text)
        yield Account(runner, web, files)
        runner.run(stack.aclose())


def test_a_good_configuration_is_valid_without_token_and_network(account: Account) -> None:
    asked = len(account.journal)
    told = account.ran("check", VPS_API_TOKEN="", SNAPROTD_CONFIG="/nowhere/config.yaml")
    assert (told.code, told.err) == (0, "")
    valid, remark = told.out.splitlines()
    assert valid == f"{account.file('good')}: valid, 2 server entries"
    assert remark.startswith("note     the API token goes to 127.0.0.1:")
    assert len(account.journal) == asked


def test_without_an_option_and_a_variable_the_systems_configuration_is_read() -> None:
    told = asyncio.run(run("check"))
    assert (told.out + told.err).startswith("/etc/snaprotd/config.yaml: ")


def test_a_good_account_is_all_ok_online(account: Account) -> None:
    told = account.ran("check --online")
    assert (told.code, told.err) == (0, "")
    _, *findings = told.out.splitlines()
    assert {line.split()[0] for line in findings} == {"ok", "note"}
    token, front, mail, *_ = findings
    assert "owner@account.invalid" in token
    assert "permissions: read, write" in token
    assert "front: web-01 is active, 0 of 5 slots free" in front
    assert "mail-01 is active, 3 of 5 slots free" in mail


def test_a_wrong_token_is_said_online(account: Account) -> None:
    why = sentence(account.ran("check --online", VPS_API_TOKEN="another-one"))
    assert "answered 401" in why
    assert "the token of the environment variable VPS_API_TOKEN is not accepted" in why


def test_no_token_at_all_is_said_online_with_every_place_for_one(account: Account) -> None:
    why = sentence(account.ran("check --online", VPS_API_TOKEN=""))
    for place in ("api.token_file", "$SNAPROTD_TOKEN_FILE", "$CREDENTIALS_DIRECTORY/token", "$VPS_API_TOKEN"):
        assert place in why


def test_what_would_go_wrong_with_a_server_is_a_problem_online(account: Account) -> None:
    told = account.ran("check --online", "troubled")
    assert (told.code, told.err) == (1, "")
    problems = [line.split(maxsplit=1)[1] for line in told.out.splitlines() if line.startswith("PROBLEM")]
    assert problems == [
        "match old-*: no server of the account has such a name",
        f"12346: db-01 is active, 0 of 5 slots free; {FULL}",
        "ghost: the account has no server 99999",
    ]


def plan_of(told: Ended) -> dict[str, Any]:
    """The plan for each server, by its name."""
    assert told.err == ""
    assert list(told.json) == ["servers"]
    return {one["name"]: one for one in told.json["servers"]}


def test_a_plan_has_every_snapshot_with_decision_and_reason(account: Account) -> None:
    plan = plan_of(account.ran("plan --json", "troubled"))
    assert list(plan) == ["front", "12346", "ghost", "mail-01"]
    front, mail = plan["front"], plan["mail-01"]
    assert front == {
        "id": 12345,
        "name": "front",
        "next": front["next"],
        "blocked": None,
        "snapshots": [
            {
                "id": snapshot_id,
                "name": name,
                "owner": owner,
                "status": "completed",
                "created_at": created_at,
                "decision": reason.partition(":")[0],
                "reason": reason,
            }
            for snapshot_id, name, owner, created_at, reason in KEPT
        ],
    }
    assert mail["id"] == TEXTUAL
    decided = [(one["status"], one["decision"], one["reason"]) for one in mail["snapshots"]]
    assert decided == [("in_progress", "keep", "keep: in progress"), ("failed", "delete", "delete: failed")]


def test_a_plan_has_the_next_three_runs_in_utc_and_none_while_paused(account: Account) -> None:
    plan = plan_of(account.ran("plan --json", "troubled"))
    runs = plan["front"]["next"]
    assert all(text.endswith("T22:00:00Z") for text in runs)
    first, *others = map(datetime.fromisoformat, runs)
    assert account.began < first < datetime.now(UTC) + timedelta(days=1)
    assert [one - first for one in others] == [timedelta(days=1), timedelta(days=2)]
    assert plan["mail-01"]["next"] == []


def test_a_plan_has_as_many_runs_as_are_asked_for(account: Account) -> None:
    told = account.ran("plan --json --next 5 front")
    assert told.code == 0
    ((name, front),) = plan_of(told).items()
    assert (name, len(set(front["next"]))) == ("front", 5)


def test_a_plan_in_words_has_the_runs_in_local_time_and_in_utc(account: Account) -> None:
    of_front, *_ = account.ran("plan", "troubled").out.split("\n\n")
    runs = re.findall(r"^ +next +(.+?) \((\d{4}-\d\d-\d\d \d\d:\d\d) UTC\)", of_front, re.MULTILINE)
    assert len(runs) == 3
    for local, utc in runs:
        moment = datetime.strptime(utc, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
        assert local == f"{moment.astimezone(ZoneInfo(ZONE)):%a %Y-%m-%d 03:30 IST}"


def test_a_plan_in_words_has_every_decision_and_says_who_is_paused(account: Account) -> None:
    of_front, *_, of_mail = account.ran("plan", "troubled").out.split("\n\n")
    rows = [re.split(r"  +", line.strip()) for line in of_front.splitlines()]
    decided = [(row[0], row[2]) for row in rows if len(row) == 4]
    assert decided[1:] == [(name, reason) for _, name, _, _, reason in KEPT]
    assert "paused: no runs" in of_mail
    assert re.search(rf"{ours(2)}  .+  keep: in progress  ", of_mail)
    assert re.search(rf"{ours(1)}  .+  delete: failed  ", of_mail)


def test_a_plan_of_a_full_server_says_what_blocks_it(account: Account) -> None:
    full = plan_of(account.ran("plan --json", "troubled"))["12346"]
    assert full["blocked"] == FULL
    assert {one["reason"] for one in full["snapshots"]} == {"keep: not made by snaprotd"}
    assert f"  {FULL}\n" in account.ran("plan", "troubled").out


def test_a_plan_with_a_server_that_does_not_exist_fails_and_says_so(account: Account) -> None:
    told = account.ran("plan --json", "troubled")
    assert told.code == 1
    ghost = plan_of(told)["ghost"]
    assert (ghost["id"], ghost["snapshots"]) == (99999, [])
    assert ghost["blocked"] == "the account has no such server"


def test_a_server_is_named_by_its_id_by_our_label_or_by_the_accounts_name(account: Account) -> None:
    told = account.ran(f"plan --json --next 0 12345 front web-01 {TEXTUAL} mail-01")
    assert told.code == 0
    assert list(plan_of(told)) == ["front", "mail-01"]


@pytest.mark.parametrize("command", ["plan --json", "now"])
def test_a_name_that_no_server_has_is_refused_in_a_sentence(command: str, account: Account) -> None:
    told = account.ran(f"{command} wbe-01")
    assert "no server is named wbe-01" in sentence(told)
    assert told.out == ""


def test_a_name_that_two_servers_have_is_refused_in_a_sentence(account: Account) -> None:
    assert "2 servers are named twin: use an id" in sentence(account.ran("plan twin"))


def test_a_list_has_every_snapshot_of_the_configured_servers(account: Account) -> None:
    told = account.ran("list --json")
    assert (told.code, told.err) == (0, "")
    of_front = {"server_id": 12345, "server_name": "web-01", "status": "completed", "size_mb": 5120}
    of_mail = {"server_id": TEXTUAL, "server_name": "mail-01", "owner": "managed", "size_mb": None, "description": ""}
    assert told.json == [
        *(
            {
                "id": snapshot_id,
                "name": name,
                "owner": owner,
                "created_at": created_at,
                "description": "Before major migration" if owner == "foreign" else "",
                **of_front,
            }
            for snapshot_id, name, owner, created_at, _ in KEPT
        ),
        {"id": 811, "name": ours(2), "status": "in_progress", "created_at": "2025-01-02T03:00:00Z", **of_mail},
        {"id": 812, "name": ours(1), "status": "failed", "created_at": "2025-01-01T03:00:00Z", **of_mail},
    ]


def test_a_list_in_words_has_a_row_for_each(account: Account) -> None:
    told = account.ran("list front")
    assert (told.code, told.err) == (0, "")
    title, header, *rows = (re.split(r"  +", line.strip()) for line in told.out.splitlines())
    assert title == ["front", "server 12345, 5 snapshots"]
    assert header == ["id", "name", "owner", "status", "size", "age"]
    assert [row[:5] for row in rows] == [
        [str(snapshot_id), name, owner, "completed", "5120 MB"] for snapshot_id, name, owner, _, _ in KEPT
    ]
    assert all(re.fullmatch(r"\d+ [dy]", row[5]) for row in rows)


def test_a_list_of_a_server_without_snapshots_says_so(account: Account) -> None:
    assert account.ran("list 12347") == Ended(code=0, out="twin  server 12347, no snapshots\n", err="")


def test_looking_changes_nothing(account: Account) -> None:
    asked = [account.ran("check --online"), account.ran("plan --json", "troubled"), account.ran("list --json")]
    assert len(account.journal) >= 2 * len(asked)
    assert {one.method for one in account.journal} == {"GET"}


# -- a provider that answers wrongly -------------------------------------------------------------------------------

WRONG_ANSWERS = {
    ("check --online", "status:GET:/account/me/:times=always,status=502"): "answered 502 to GET /api/v1/account/me/",
    ("check --online", "html:GET:/servers/:times=always"): "HTML instead of JSON",
    ("check --online", "short:GET:/servers/:times=always"): "the list of servers cannot be relied on: it is incomplete",
    ("plan --json", "status:GET:/snapshots/:times=always"): "answered 500 to GET /api/v1/snapshots/",
    ("plan --json", "foreign_next:GET:/snapshots/:times=always"): "the next page points to another host",
    ("list --json", "cut:GET:/servers/:times=always"): "was lost at GET /api/v1/servers/",
}
"""What a command says under a fault."""


@pytest.fixture(scope="module")
def wrongly_answered(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    """How commands ended whose provider never answers rightly. They are patient, so they run beside each other."""

    async def one(line: str, rule: str) -> Ended:
        world = sample()
        world.faults.append(Fault.parse(rule))
        async with provider(world) as web:
            text = f"servers: {json.dumps(GOOD)}\n"
            config = write_config(tmp_path_factory.mktemp("wrong"), web.base_url, text)
            return await run(*line.split(), "--config", str(config))

    stories = [one(line, rule) for line, rule in WRONG_ANSWERS]
    return dict(zip(WRONG_ANSWERS, asyncio.run(together(*stories, at_one_time=len(stories))), strict=True))


@pytest.mark.parametrize("case", WRONG_ANSWERS, ids=" ".join)
def test_a_wrong_answer_of_the_provider_is_1_and_a_clear_sentence(
    case: tuple[str, str], wrongly_answered: dict[tuple[str, str], Ended]
) -> None:
    told = wrongly_answered[case]
    assert told.code == 1
    errors = told.err.splitlines()
    assert all(line.startswith("snaprotd: ") for line in errors)
    said = [*errors, *(line for line in told.out.splitlines() if line.startswith("PROBLEM"))]
    assert len([line for line in said if WRONG_ANSWERS[case] in line]) == 1
    if "--json" in case[0] and told.out:
        assert told.json is not None


# -- a rotation at once --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """A server of which somebody takes a snapshot at once."""

    own: int = 3
    """Our snapshots that it holds before."""
    foreign: int = 0
    fault: str = ""
    options: tuple[str, ...] = ("--json",)


UPGRADES = {
    "success": Upgrade(options=("--json", "--description", "before the upgrade")),
    "failure": Upgrade(fault="ends:POST:/snapshots/"),
    "partial": Upgrade(fault="status:DELETE:*:times=always,status=400"),
    "blocked": Upgrade(own=0, foreign=5),
    "success in words": Upgrade(options=()),
}


@dataclass(frozen=True, kw_only=True)
class Upgraded:
    ended: Ended
    world: World
    web: Provider
    status: str
    """The server's, when the command had ended."""

    @property
    def asked(self) -> list[str]:
        """The changes that were asked for."""
        return [one.what for one in self.web.journal if one.what != "get"]


def upgrade_config(folder: Path, web: Provider, **policy: Any) -> Path:
    """One server, `front`, which keeps two and is stopped first. No request that a test holds runs out of time."""
    server = {"id": 12345, "name": "front", "schedule": "@yearly", "keep": 2, "stop_first": True, **policy}
    return write_config(folder, web.base_url, f"listen: off\nservers: {json.dumps([server])}\n", timeout="60s")


def upgrade_world(*, own: int = 2, foreign: int = 0) -> World:
    world = new_world()
    server_id = world.add_server("web-01")
    for number in range(1, own + 1):
        world.add_snapshot(server_id, ours(number), created_at=day(number))
    for number in range(1, foreign + 1):
        world.add_snapshot(server_id, f"by-hand-{number}", created_at=day(number))
    return world


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Upgraded]:
    """What became of each of UPGRADES."""

    async def one(upgrade: Upgrade) -> Upgraded:
        world = upgrade_world(own=upgrade.own, foreign=upgrade.foreign)
        world.faults += [Fault.parse(upgrade.fault)] if upgrade.fault else []
        async with provider(world) as web:
            config = upgrade_config(tmp_path_factory.mktemp("upgrade"), web)
            ended = await run("now", "front", "--config", str(config), *upgrade.options)
        return Upgraded(ended=ended, world=world, web=web, status=world.status_of("12345"))

    return dict(zip(UPGRADES, asyncio.run(together(*map(one, UPGRADES.values()))), strict=True))


def test_a_rotation_at_once_makes_one_snapshot_and_tells_which(upgraded: dict[str, Upgraded]) -> None:
    done = upgraded["success"]
    assert done.ended.code == 0, done.ended
    (made,) = done.world.created
    assert OUR_NAME.fullmatch(made.name)
    assert done.ended.json == {
        "result": "success",
        "snapshot": {"id": made.id, "name": made.name},
        "deleted": [801],
        "error": None,
    }
    assert done.asked == ["stop", "create", "start", "delete"]
    assert done.status == "active"


def test_the_description_arrives_at_the_provider(upgraded: dict[str, Upgraded]) -> None:
    assert [one.description for one in upgraded["success"].world.created] == ["before the upgrade"]


def test_the_progress_of_a_rotation_at_once_is_on_standard_error(upgraded: dict[str, Upgraded]) -> None:
    lines = upgraded["success"].ended.err.splitlines()
    assert all(line.startswith("front: ") for line in lines)
    assert "front: 5/7 wait: the snapshot is in progress" in lines


def test_a_rotation_at_once_tells_its_success_in_one_line(upgraded: dict[str, Upgraded]) -> None:
    done = upgraded["success in words"]
    (made,) = done.world.created
    assert done.ended.code == 0
    told = re.sub(r"for \d+ s", "for a while", done.ended.out)
    until = f"{datetime.strptime(made.name[-8:], '%Y%m%d').replace(tzinfo=UTC):%Y-%m-%d}"
    rest = f"held until {until}, was off for a while, deleted 801"
    assert told == f"success: front has {made.name} (id {made.id}), {rest}\n"


def test_a_snapshot_that_fails_makes_a_failure_deletes_nothing_and_leaves_the_server_on(
    upgraded: dict[str, Upgraded],
) -> None:
    done = upgraded["failure"]
    (made,) = done.world.created
    assert done.ended.code == 1
    assert done.ended.json == {
        "result": "failure",
        "snapshot": {"id": made.id, "name": made.name},
        "deleted": [],
        "error": f"{made.name} ended as `failed`",
    }
    assert done.asked == ["stop", "create", "start"]
    assert done.status == "active"


def test_a_deletion_that_fails_makes_it_partial_which_is_1(upgraded: dict[str, Upgraded]) -> None:
    done = upgraded["partial"]
    (made,) = done.world.created
    told = done.ended.json
    assert done.ended.code == 1
    assert (told["result"], told["snapshot"]["name"], told["deleted"]) == ("partial", made.name, [])
    assert f"could not delete {ours(1)}: 127.0.0.1 answered 400" in told["error"]


def test_a_full_server_is_blocked_which_is_1_and_is_not_touched(upgraded: dict[str, Upgraded]) -> None:
    done = upgraded["blocked"]
    assert done.ended.code == 1
    assert done.ended.json == {"result": "failure", "snapshot": None, "deleted": [], "error": FULL}
    assert done.asked == []


def test_a_failure_is_in_the_log_on_standard_error_and_not_among_the_json(upgraded: dict[str, Upgraded]) -> None:
    told = upgraded["failure"].ended
    log = [json.loads(line) for line in told.err.splitlines() if line.startswith("{")]
    assert [line["event"] for line in log if line["level"] == "error"] == ["step failed", "rotation finished"]
    assert all({"server", "slot", "rotation", "step"} <= line.keys() for line in log)
    assert list(told.json) == ["result", "snapshot", "deleted", "error"]


async def test_ctrl_c_starts_the_server_again_and_says_that_the_rest_is_left(tmp_path: Path) -> None:
    async with provider(upgrade_world()) as web:
        config = upgrade_config(tmp_path, web)
        hold = Hold(number=1, fits=lambda what: what == "create")
        web.holds = [hold]
        async with running("now", "front", "--config", str(config), output=tmp_path / "now.log") as life:
            await first_of(hold.struck.wait(), life.ended())
            assert web.world.status_of("12345") == "stopped"
            life.send(signal.SIGINT)
            hold.release()
            assert await life.ended() == 1, life.said
        assert "interrupted: front at step " in life.said
        assert web.world.status_of("12345") == "active"
        assert web.asked("delete") == []


# -- the daemon ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def late_daemon(folder: Path) -> AsyncIterator[tuple[Daemon, Provider, Path]]:
    """A daemon that has missed a slot of an hour ago, held where it has just asked for the slot's snapshot."""
    slot = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
    crontab = f"{slot.minute} {slot.hour} * * *"
    async with provider(upgrade_world()) as web:
        config = upgrade_config(folder, web, schedule=crontab)
        seen = Mark(server_id="12345", seen_until=slot - timedelta(hours=1), schedule=f"UTC {crontab} +0s")
        async with await Ledger.open(folder / "state.db", owner=uuid.uuid4().hex) as ledger:
            await ledger.set_marks([seen])
        hold = Hold(number=1, fits=lambda what: what == "create")
        web.holds = [hold]
        async with daemon(config) as life:
            await first_of(hold.struck.wait(), life.ended())
            assert life.returncode is None, life.said
            yield life, web, config


async def test_a_rotation_at_once_is_refused_beside_one_of_the_daemon_and_taken_after_it(tmp_path: Path) -> None:
    async with late_daemon(tmp_path) as (_, web, config):
        told = await run("now", "front", "--json", "--config", str(config))
        assert "a rotation of front is open already" in sentence(told)
        assert (told.json["result"], told.json["snapshot"]) == ("failure", None)
        assert "a rotation of front is open already" in told.json["error"]
        told = await run("now", "--failed", "--json", "--config", str(config))
        ((code, (row,))) = (told.code, told.json)
        assert (code, row["result"]) == (1, "failure"), "nobody knows yet whether it fails"
        assert "a rotation of front is open already" in row["error"]
        assert len(web.world.created) == 1
        web.holds[0].release()
        await until(lambda: [one["step"] for one in recorded(tmp_path / "state.db")] == ["done"], what="its end")
        told = await run("now", "front", "--json", "--config", str(config))
        assert (told.code, told.json["result"]) == (0, "success")
        assert len(web.world.created) == 2


@pytest.mark.parametrize(
    ("line", "more", "words"),
    [
        ("listen: off", {"VPS_API_TOKEN": ""}, "no API token: api.token_file, "),
        ("listen: off\nstate: /nowhere/state.db", {}, "`state` must name a file in a folder that exists"),
    ],
    ids=["token", "ledger"],
)
async def test_a_daemon_that_cannot_begin_is_1_and_says_why(
    line: str, more: dict[str, str], words: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    state = "" if "state:" in line else f"state: {tmp_path / 'state.db'}\n"
    servers = 'servers: [{id: 12345, schedule: "@daily"}]'
    config.write_text(f"{state}{line}\n{servers}\n")
    told = await run("run", "--config", str(config), **more)
    assert words in sentence(told)
    assert told.out == ""


@dataclass(kw_only=True)
class Serving:
    """A daemon with its pages."""

    config: Path
    life: Daemon
    pages: httpx.AsyncClient

    async def page(self, path: str, status: int = 200, having: str = "") -> httpx.Response:
        """The page, when it has that status and text; no page ever has the token."""
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await self.pages.get(path)
                assert TOKEN not in answer.text
                if answer.status_code == status and having in answer.text:
                    return answer
                await asyncio.sleep(LOOK_EVERY)

    def reload(self, text: str) -> None:
        self.config.write_text(text)
        self.life.send(signal.SIGHUP)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Serving]:
    async with provider(upgrade_world()) as web:
        text = 'listen: 127.0.0.1:0\nservers: [{id: 12345, name: front, schedule: "@yearly"}]\n'
        config = write_config(folder, web.base_url, text)
        async with daemon(config) as life:
            await life.has_said('"running"')
            log = [json.loads(line) for line in life.said.splitlines()]
            (url,) = (line["listen"] for line in log if line["event"] == "running")
            async with httpx.AsyncClient(base_url=url, trust_env=False) as pages:
                yield Serving(config=config, life=life, pages=pages)


async def test_a_daemon_answers_for_its_metrics_and_its_health_until_it_is_told_to_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as told:
        assert (await told.page("/healthz")).text == "ok\n"
        assert (await told.page("/readyz")).text == "ok\n"
        metrics = await told.page("/metrics", having='snaprotd_snapshots{owner="managed"')
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert f'snaprotd_build_info{{version="{__version__}"}} 1.0\n' in metrics.text
        assert "snaprotd_config_last_reload_successful 1.0\n" in metrics.text
        assert (await told.pages.post("/metrics")).status_code == 405
        told.life.send(signal.SIGTERM)
        assert await told.life.ended() == 0
        with pytest.raises(httpx.ConnectError):
            await told.pages.get("/healthz")


async def test_sighup_reads_the_configuration_at_once_even_if_it_has_not_changed(tmp_path: Path) -> None:
    async with serving(tmp_path) as told:
        told.reload(told.config.read_text())
        await told.life.has_said("the configuration was read again and is in force")


async def test_a_bad_file_is_refused_on_sighup_with_its_mistakes_until_the_next_good_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as told:
        good = told.config.read_text()
        below = good.count("\n") + 1
        mistakes = [f"{told.config}:{below}:1: limt: unknown key", f"{told.config}:{below + 1}:11: instance: "]
        told.reload(f"{good}limt: 5\ninstance: NOT THIS\n")
        ready = await told.page("/readyz", having="the new configuration is refused, the old one is in force")
        for mistake in mistakes:
            assert mistake in ready.text
            assert mistake in told.life.said
        assert "snaprotd_config_last_reload_successful 0.0\n" in (await told.page("/metrics")).text
        told.reload(good)
        await told.life.has_said("the configuration was read again and is in force")
        assert (await told.page("/readyz")).text == "ok\n"
        assert "snaprotd_config_last_reload_successful 1.0\n" in (await told.page("/metrics")).text


# -- the stand-in --------------------------------------------------------------------------------------------------


async def test_the_simulated_provider_serves_what_it_says_with_its_faults_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    line = "simulate --port 0 --servers 2 --fault empty:GET:/snapshots/"
    async with running(*line.split(), output=tmp_path / "simulate.log") as life:
        await life.has_said("VPS_API_TOKEN=")
        api = re.search(r"^ +(api: \{base_url: .+\}) +# and VPS_API_TOKEN=(.+)$", life.said, re.MULTILINE)
        assert api is not None, life.said
        config = tmp_path / "config.yaml"
        config.write_text(f'{api[1]}\nservers: [{{match: "*", schedule: "@daily"}}]\n')
        told = await run("check", "--online", "--config", str(config), VPS_API_TOKEN=api[2])
        assert (told.code, told.err) == (0, "")
        # The first server of the stand-in has a snapshot, which the fault hides.
        assert re.findall(r"^ok +(?:web|db)-01: (.+)$", told.out, re.MULTILINE) == [
            f"{name} is active, 5 of 5 slots free" for name in ("web-01", "db-01")
        ]
        life.send(signal.SIGINT)
        assert await life.ended() == 0
