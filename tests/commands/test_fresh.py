"""What a monitor is told: by a table, and by the command against a provider on a socket."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from click.testing import CliRunner

from snaprotd.commands.cli import cli
from snaprotd.config.file import parse
from snaprotd.config.settings import resolve
from snaprotd.core.holds import snapshot_name
from snaprotd.provider.inventory import ServerHoldings
from snaprotd.report.freshness import Limits, State, TooOld, told_of
from snaprotd.simulator import Fault, World
from tests.support.nouns import a_server, a_snapshot
from tests.support.processes import TOKEN, provider, run, write_config

NOW = datetime(2025, 1, 16, 8, tzinfo=UTC)
FACTORS = Limits(warning=TooOld(intervals=1.5), critical=TooOld(intervals=3.0))
CONFIG = parse(
    "servers:\n"
    "- {id: 1, name: web, schedule: '30 2 * * *'}\n"
    "- {id: 2, name: db|x, schedule: '@weekly'}\n"
    "- {id: 3, name: off, schedule: '@hourly', paused: true}\n",
    "c.yaml",
    {},
)
TARGETS = resolve(CONFIG, [])


def held(server_id: str, hours: float, **more: Any) -> ServerHoldings:
    made = NOW - timedelta(hours=hours)
    one = a_snapshot(800 + int(server_id), snapshot_name("main", made), made, server_id=server_id)
    return ServerHoldings(server=a_server(int(server_id)), snapshots=(replace(one, **more),), seen_at=NOW)


def told(
    web: ServerHoldings | None,
    db: ServerHoldings | None,
    *,
    limits: Limits = FACTORS,
    doubts: Mapping[str, str] = MappingProxyType({}),
    clock_ahead: timedelta = timedelta(0),
) -> tuple[State, str]:
    known = {one: holdings for one, holdings in (("1", web), ("2", db)) if holdings is not None}
    state, line = told_of(CONFIG, TARGETS, known, limits, NOW, doubts, clock_ahead.total_seconds())
    prefix = f"{state.name} - "
    assert line.startswith(prefix)
    assert re.fullmatch(r"[^|]* \| oldest=(U|\d+s);\d+;\d+", line)  # one bar: what follows is data
    return state, line.removeprefix(prefix)


WEB, DB = held("1", 3.1), held("2", 30)


@pytest.mark.parametrize(
    ("web", "db", "state", "line"),
    [
        (WEB, DB, State.OK, "2 servers fresh, oldest 30.0 h, 1 paused | oldest=108000s;907200;1814400"),
        (held("1", 6), DB, State.OK, "2 servers fresh, oldest 6.0 h, 1 paused | oldest=21600s;129600;259200"),
        (
            held("1", 36),
            DB,
            State.WARNING,
            "web 36.0 h (limit 36.0 h); 1 of 2 servers fresh, 1 paused | oldest=129600s",
        ),
        (
            held("1", 72),
            DB,
            State.CRITICAL,
            "web 72.0 h (limit 72.0 h); 1 of 2 servers fresh, 1 paused | oldest=259200s",
        ),
        (
            WEB,
            None,
            State.CRITICAL,
            "db/x is not in the account; 1 of 2 servers fresh, 1 paused | oldest=U;907200;1814400",
        ),
    ],
)
def test_each_server_is_judged_by_its_own_schedule(
    web: ServerHoldings, db: ServerHoldings | None, state: State, line: str
) -> None:
    found = told(web, db)
    assert found[0] is state
    assert found[1].startswith(line)


def test_a_server_that_is_gone_is_critical_though_its_snapshots_are_listed_still() -> None:
    gone = replace(held("1", 3), server=None)
    state, line = told(gone, DB)
    assert state is State.CRITICAL
    assert line.startswith("web is not in the account; 1 of 2 servers fresh, 1 paused | oldest=10800s")
    assert told(gone, None)[1].startswith("web is not in the account; db/x is not in the account; 0 of 2 servers")


def test_what_others_took_is_nothing_of_ours_to_restore_from() -> None:
    state, line = told(held("1", 3, name="by hand"), held("2", 600))
    assert state is State.CRITICAL
    assert line == (
        "web has no completed snapshot of ours; db/x 600.0 h (limit 504.0 h); 0 of 2 servers fresh, 1 paused "
        "| oldest=U;129600;259200"
    )


def test_a_time_counts_for_every_server() -> None:
    limits = Limits(warning=TooOld(age=timedelta(hours=26)), critical=TooOld(age=timedelta(hours=50)))
    assert told(WEB, held("2", 3), limits=limits) == (
        State.OK,
        "2 servers fresh, oldest 3.1 h, 1 paused | oldest=11160s;93600;180000",
    )
    assert told(WEB, DB, limits=limits)[0] is State.WARNING


@pytest.mark.parametrize(
    "more",
    [
        {"created_at": NOW + timedelta(hours=1)},
        {"created_at": datetime(1970, 1, 1, tzinfo=UTC)},
        {"created_at": None},
        {"in_ledger": False},
        {"state": a_snapshot(1, "x", NOW, status="in_progress").state},
        {"state": a_snapshot(1, "x", NOW, status="weird").state},
    ],
)
def test_what_cannot_be_trusted_makes_nothing_fresh(more: dict[str, Any]) -> None:
    assert told(held("1", 3, **more), DB)[0] is State.CRITICAL


def test_what_a_list_that_cannot_be_relied_on_shows_is_not_taken_for_the_whole() -> None:
    state, line = told(WEB, DB, doubts=dict.fromkeys("12", "the list is cut short, 1 | 2"))
    assert state is State.UNKNOWN
    assert line.startswith("the list is cut short, 1 / 2; 2 servers fresh")


@pytest.mark.parametrize("web", [held("1", 40), held("1", 90), replace(held("1", 3), server=None), None])
def test_a_list_that_cannot_be_relied_on_says_of_nobody_that_there_is_nothing(web: ServerHoldings | None) -> None:
    assert told(web, DB, doubts={"1": "the list is cut short"}) == (
        State.UNKNOWN,
        "the list is cut short; 1 of 2 servers fresh, 1 paused | oldest=U;129600;259200",
    )


def test_what_is_not_known_of_one_server_hides_nothing_that_is_of_another() -> None:
    state, line = told(None, held("2", 600), doubts={"1": "the list is cut short"})
    assert state is State.CRITICAL
    assert line.startswith("the list is cut short; db/x 600.0 h (limit 504.0 h); 0 of 2 servers fresh, 1 paused | ")
    assert told(None, held("2", 300), doubts={"1": "the list is cut short"})[0] is State.UNKNOWN


def test_a_clock_that_is_behind_makes_nothing_fresh_and_one_that_is_wrong_is_told_of() -> None:
    days = timedelta(days=3)
    state, line = told(WEB, DB, clock_ahead=-days)
    assert state is State.CRITICAL
    assert line.startswith("the clock of this machine is 3 d behind the provider's; web 75.1 h (limit 72.0 h); 1 of 2")
    to_come = held("1", -30)  # by the clock that is behind, and taken 42 hours ago
    assert told(to_come, DB, clock_ahead=-days)[1].split("; ")[1] == "web 42.0 h (limit 36.0 h)"
    state, line = told(WEB, DB, clock_ahead=days)
    assert state is State.OK
    assert line.startswith("the clock of this machine is 3 d ahead of the provider's; 2 servers fresh")
    assert told(WEB, DB, clock_ahead=timedelta(seconds=59)) == told(WEB, DB)


def test_many_that_are_stale_are_counted() -> None:
    config = parse("servers:\n" + "".join(f"- {{id: {n}, schedule: '@daily'}}\n" for n in range(1, 41)), "c.yaml", {})
    state, line = told_of(config, resolve(config, []), {}, FACTORS, NOW, {})
    assert (state, len(line) < 400) == (State.CRITICAL, True)
    assert "; and 35 more; 0 of 40 servers fresh | " in line


def test_nobody_to_look_after_is_not_all_is_well() -> None:
    assert told_of(CONFIG, TARGETS[2:], {}, FACTORS, NOW, {}) == (
        State.UNKNOWN,
        "UNKNOWN - no server is looked after, 1 paused",
    )


@pytest.mark.real_time
async def test_it_asks_the_provider_and_whatever_keeps_it_from_that_is_not_known(tmp_path: Path) -> None:
    world = World(speed=2000, token=TOKEN)
    world.add_server("web")
    made = datetime.now(UTC) - timedelta(hours=2)
    world.add_snapshot("12345", snapshot_name("main", made), created_at=made)
    entries = json.dumps([{"id": 12345, "name": "web", "schedule": "@daily"}])
    async with provider(world) as web:
        path = str(write_config(tmp_path, web.base_url, f"listen: off\nservers: {entries}\n"))
        well = await run("fresh", "--config", path)
        assert (well.code, well.err) == (0, "")
        assert re.fullmatch(r"OK - 1 server fresh, oldest 2\.0 h \| oldest=72\d\ds;129600;259200\n", well.out)
        assert (await run("fresh", "web", "-w", "1h", "-c", "90m", "--config", path)).code == 2
        gone = json.dumps([*json.loads(entries), {"id": 999, "name": "mail", "schedule": "@daily"}])
        path = str(write_config(tmp_path, web.base_url, f"listen: off\nservers: {gone}\n"))
        for names in ([], ["mail"]):
            found = await run("fresh", *names, "--config", path)
            assert (found.code, found.out.startswith("CRITICAL - mail is not in the account; ")) == (2, True)
        world.faults.append(Fault(kind="status", method="GET", path="*", status=401, times=None))
        refused = await run("fresh", "--config", path)
        assert (refused.code, refused.out.count("\n")) == (3, 1)
        assert refused.out.startswith("UNKNOWN - ")
        assert "401" in refused.out


@pytest.mark.real_time
async def test_a_machine_whose_clock_has_stopped_does_not_find_old_snapshots_fresh(tmp_path: Path) -> None:
    world = World(token=TOKEN, clock=lambda: datetime.now(UTC) + timedelta(days=3))
    server = world.add_server("web")
    made = datetime.now(UTC) - timedelta(hours=2)
    world.add_snapshot(server, snapshot_name("main", made), created_at=made)
    async with provider(world) as api:
        more = f"listen: off\nservers: [{{id: {server}, name: web, schedule: '@daily'}}]\n"
        told = await run("fresh", "--config", str(write_config(tmp_path, api.base_url, more)))
    assert (told.code, told.err) == (2, "")
    assert re.match(r"CRITICAL - the clock of this machine is \d d behind [^;]*; web 7[34]\.\d h", told.out)


@pytest.mark.real_time
async def test_the_list_of_one_server_that_cannot_be_relied_on_is_named_and_is_no_other_servers_doubt(
    tmp_path: Path,
) -> None:
    world = World(speed=2000, token=TOKEN)
    for name in ("web", "db"):
        server = world.add_server(name)
        made = datetime.now(UTC) - timedelta(hours=2)
        world.add_snapshot(server, snapshot_name("main", made), created_at=made)
    world.add_snapshot(server, None)  # type: ignore[arg-type]
    entries = json.dumps(
        [{"id": 12345 + n, "name": name, "schedule": "@daily"} for n, name in enumerate(("web", "db"))]
    )
    async with provider(world) as api:
        path = str(write_config(tmp_path, api.base_url, f"listen: off\nservers: {entries}\n"))
        for names, code in ((["web"], 0), (["db"], 3), ([], 3)):
            found = await run("fresh", *names, "--config", path)
            assert (found.code, "server db: the list of snapshots cannot be relied on" in found.out) == (
                code,
                code == 3,
            )
        online = await run("check", "--online", "--config", path)
        assert online.code == 1
        assert [line.split(":")[0] for line in online.out.splitlines() if "cannot be relied on" in line] == [
            "PROBLEM  db"
        ]
        assert (await run("plan", "web", "--config", path)).code == 0
        plan = await run("plan", "--json", "--config", path)
        assert (plan.code, plan.err.count("server db: the list of snapshots cannot be relied on")) == (1, 1)
        assert ["the account has no" in str(one["blocked"]) for one in json.loads(plan.out)["servers"]] == [
            False,
            False,
        ]


@pytest.mark.real_time
async def test_a_provider_that_does_not_answer_is_not_known_before_the_monitor_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaprotd.commands.fresh.PATIENCE", 0.05)
    monkeypatch.setenv("VPS_API_TOKEN", "made-up-q7w2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        path = write_config(tmp_path, address, "listen: off\nservers: [{id: 12345, schedule: '@daily'}]\n")
        shown = await asyncio.to_thread(
            CliRunner().invoke, cli, ["fresh", "--config", str(path)], standalone_mode=False
        )
    assert (shown.return_value, shown.stdout) == (3, "UNKNOWN - the provider has not answered within 0 s\n")


@pytest.mark.real_time
@pytest.mark.parametrize(
    "arguments",
    [
        ("fresh", "--bogus"),
        ("fresh", "-w", "0"),
        ("fresh", "-w", "nan"),
        ("fresh", "-w", "3", "-c", "2"),
        ("fresh", "-w", "3h", "-c", "2h"),
        ("fresh", "--config", "/nonexistent.yaml"),
    ],
)
async def test_wrong_usage_and_a_file_that_cannot_be_read_are_not_known_either(arguments: tuple[str, ...]) -> None:
    told = await run(*arguments)
    assert (told.code, told.out.startswith("UNKNOWN - "), told.out.count("\n")) == (3, True, 1)
    assert told.err.startswith("Usage: ") is ("--config" not in arguments)
