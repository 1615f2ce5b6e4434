"""The alerts: unit tests by promtool, the runbook beside them, and a real Prometheus on a real daemon."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from snaprotd.commands.cli import cli
from snaprotd.ledger.claims import Mark
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from tests.deploy.test_dashboard import as_grafana_asks, dashboard_expressions
from tests.support.processes import TOKEN, Daemon, daemon, provider, write_config
from tests.support.programs import needs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOK = ROOT / "docs" / "runbook.md"

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]
CASES: list[dict[str, Any]] = [
    case
    for test in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    for case in test["alert_rule_test"]
]

PARTS = ["Means", "At stake", "Look", "Do", "Ends"]
"""What the runbook says of every alert, in this order."""


def promtool(*arguments: str) -> str:
    """What promtool prints, which must be content."""
    program = needs("promtool", "it comes with Prometheus")
    ended = subprocess.run([program, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


# -- by promtool ---------------------------------------------------------------------------------------------------


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_prometheus_takes_the_rules_and_the_example() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")
    assert "1 rule files found" in promtool("check", "config", "prometheus.example.yml")


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_cases_in_which_it_fires_and_in_which_it_does_not(name: str) -> None:
    fires = [bool(case.get("exp_alerts")) for case in CASES if case["alertname"] == name]
    assert set(fires) == {True, False}


def test_no_two_alerts_have_one_name() -> None:
    assert len(NAMES) == len(set(NAMES))


# -- for the person who is woken -----------------------------------------------------------------------------------


OF_ALL_TOGETHER = ("SnaprotdAbsent", "SnaprotdReplicaMissing", "SnaprotdConfigurationsDiffer")
"""Alerts that are of no one server, and of no one daemon."""


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    of_a_server = "{{ $labels.server }}" in rule["annotations"]["summary"]
    of_a_daemon = "{{ $labels.instance }}" in rule["annotations"]["summary"]
    assert of_a_server or of_a_daemon or rule["alert"] in OF_ALL_TOGETHER


def sections() -> dict[str, str]:
    """The runbook's text on each alert."""
    _, *found = re.split(r"^### (.+)$", RUNBOOK.read_text(), flags=re.M)
    return dict(zip(found[::2], found[1::2], strict=True))


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    assert sorted(sections()) == sorted(NAMES)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_leads_to_its_section_of_the_runbook(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / path == RUNBOOK
    assert anchor == rule["alert"].lower()


@pytest.mark.parametrize("name", NAMES)
def test_the_runbook_says_of_an_alert_what_it_means_and_what_to_do_and_when_it_ends(name: str) -> None:
    assert re.findall(r"^\*\*(.+?):\*\*", sections()[name], flags=re.M) == PARTS


def test_links_within_the_runbook_lead_somewhere() -> None:
    text = RUNBOOK.read_text()
    anchors = {title.lower() for title in sections()}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    for path in re.findall(r"\]\(([^#)]+)\)", text):
        assert (RUNBOOK.parent / path).exists(), path


def test_every_command_that_a_person_is_told_to_run_is_there_with_its_options() -> None:
    texts = [RUNBOOK.read_text(), *(rule["annotations"]["description"] for rule in RULES)]
    told = {span for text in texts for span in re.findall(r"`snaprotd ([a-z][^`]*)`", text)}
    assert {span.split()[0] for span in told} >= {"status", "history", "plan", "check", "now"}
    for span in told:
        name, *words = span.split()
        assert name in cli.commands, span
        options = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, span


# -- a real Prometheus, a real daemon -------------------------------------------------------------------------------

EVERY = "200ms"
WAIT = "1s"
"""For how long an expression must hold before its alert fires, in place of the minutes in the file."""
PATIENCE = 20.0
LOOK_EVERY = 0.05


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look until it holds; fails after `PATIENCE` seconds."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await holds():  # noqa: ASYNC110 - what another process does sets no event
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        raise AssertionError(f"waited {PATIENCE:g} s for {what}") from None


class Prometheus:
    """A running Prometheus, by its API."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, path: str, **query: str) -> Any:
        """The `data` of an answer; None where it does not answer, or not with success."""
        try:
            answer = await self._client.get(f"/api/v1/{path}", params=query)
        except httpx.TransportError:
            return None
        return answer.json().get("data") if answer.status_code == 200 else None

    async def looks(self) -> None:
        """Wait until it has tried its target, whether that answers yet or not."""

        async def has_tried() -> bool:
            found = await self.ask("query", query="up")
            return bool(found and found["result"])

        await eventually(has_tried, "the first scrape")

    async def firing(self) -> dict[str, dict[str, Any]]:
        """The alerts that fire, by their names."""
        found = await self.ask("alerts")
        alerts = found["alerts"] if found else []
        return {one["labels"]["alertname"]: one for one in alerts if one["state"] == "firing"}

    async def fires(self, *names: str) -> dict[str, Any]:
        """Wait until all of them have fired; the first as it was told."""
        seen: dict[str, dict[str, Any]] = {}

        async def all_have() -> bool:
            seen.update(await self.firing())
            return seen.keys() >= set(names)

        await eventually(all_have, f"the alerts {', '.join(names)}")
        return seen[names[0]]

    async def is_quiet(self) -> None:
        """Wait until Prometheus answers and nothing fires."""

        async def nothing_fires() -> bool:
            return await self.ask("alerts") is not None and not await self.firing()

        await eventually(nothing_fires, "the end of all alerts")

    async def judge_rules(self) -> None:
        """No rule, and no panel of the dashboard, meets with an error on what is really there."""
        rules = [rule for group in (await self.ask("rules"))["groups"] for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == set(NAMES)
        assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
        for expression in dashboard_expressions():
            assert await self.ask("query", query=as_grafana_asks(expression)) is not None, expression


def settings(target: str) -> dict[str, Any]:
    """The example's configuration, for a test's target, and in a hurry."""
    example: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.example.yml").read_text())
    (job,) = example["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    del example["alerting"]
    return {**example, "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}}


def hurried_rules() -> str:
    return re.sub(r"^( +for:) .+$", rf"\1 {WAIT}", (FOLDER / "alerts.yml").read_text(), flags=re.M)


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """A Prometheus that looks for `target` already, for as long as the test needs it."""
    program = needs("prometheus")
    (folder / "alerts.yml").write_text(hurried_rules())
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings(target)))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
            watcher = Prometheus(client)
            await watcher.looks()
            yield watcher
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


@dataclass(frozen=True, kw_only=True)
class Night:
    """A server whose rotation is due at the daemon's start, and that will not start again."""

    world: World
    server_id: str
    config: Path
    address: str

    def mend(self) -> None:
        """From now on the provider starts it."""
        self.world.faults.clear()

    def switch_on(self) -> None:
        """As a person does in the provider's panel."""
        self.world.set_status(self.server_id, "active")


async def _sleep_through(slot: datetime, ledger: Path, server_id: str, schedule: str) -> None:
    """The ledger as a daemon left it an hour before the slot."""
    seen = Mark(server_id=server_id, seen_until=slot - timedelta(hours=1), schedule=f"UTC {schedule} +0s")
    async with await Ledger.open(ledger, owner=uuid.uuid4().hex) as opened:
        await opened.set_marks([seen])


@asynccontextmanager
async def night(folder: Path) -> AsyncIterator[Night]:
    world = World(speed=2000.0, token=TOKEN)
    server_id = world.add_server("web-01")
    world.add_server("db-01")
    world.faults.append(Fault(kind="start_never", method="POST", action="start", times=None))
    slot = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
    schedule = f"{slot.minute} {slot.hour} * * *"
    await _sleep_through(slot, folder / "state.db", server_id, schedule)
    servers = [
        {"id": int(server_id), "name": "web", "schedule": schedule, "stop_first": True},
        {"match": "db-*", "schedule": "0 0 1 1 *"},
    ]
    address = f"127.0.0.1:{free_port()}"
    async with provider(world) as web:
        config = write_config(folder, web.base_url, f"listen: {address}\nservers: {json.dumps(servers)}\n")
        yield Night(world=world, server_id=server_id, config=config, address=address)


@pytest.mark.real_time
async def test_prometheus_tells_of_a_server_that_does_not_start_until_somebody_has_started_it(tmp_path: Path) -> None:
    async with night(tmp_path) as told, prometheus(tmp_path, told.address) as watcher, daemon(told.config):
        alert = await watcher.fires("SnaprotdServerHeldOff", "SnaprotdServerDoesNotStart")
        assert alert["labels"] == {
            "alertname": "SnaprotdServerHeldOff",
            "instance": told.address,
            "job": "snaprotd",
            "server": "web",
            "severity": "critical",
        }
        assert alert["annotations"]["summary"] == "snaprotd has kept web switched off for half an hour"
        await watcher.judge_rules()
        told.switch_on()
        await watcher.is_quiet()


async def _dies(life: Daemon) -> None:
    life.send(signal.SIGKILL)
    await life.ended()


@pytest.mark.real_time
async def test_prometheus_tells_of_a_daemon_that_died_while_it_held_a_server_off_until_it_is_back(
    tmp_path: Path,
) -> None:
    async with night(tmp_path) as told, prometheus(tmp_path, told.address) as watcher:
        async with daemon(told.config) as life:
            await watcher.fires("SnaprotdServerHeldOff")
            assert "SnaprotdGoneWhileHoldingOff" not in await watcher.firing()
            await _dies(life)
            alert = await watcher.fires("SnaprotdGoneWhileHoldingOff", "SnaprotdDown")
            assert (alert["labels"]["server"], alert["labels"]["instance"]) == ("web", told.address)
        told.mend()
        async with daemon(told.config):
            await watcher.is_quiet()
            assert told.world.status_of(told.server_id) == "active"
