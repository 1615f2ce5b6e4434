"""What the dashboard and the alerts ask for is what the daemon tells, in PromQL that Prometheus understands."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from snaprotd.simulator import Fault, World
from tests.support.daemons import daemon_on, write_config
from tests.support.metrics_table import families
from tests.support.programs import needs
from tests.support.virtual_time import run_virtually

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "snaprotd.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())

COLUMNS = 24
"""The width of Grafana's grid."""

VARIABLES = {"$__rate_interval": "5m", "$server": ".*"}
"""What Grafana puts into an expression, by an example."""

METRIC = re.compile(r"\b((?:snaprotd|process)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring) \(([^)]*)\)")
TARGET_LABELS = {"job", "instance"}
"""The labels that Prometheus adds."""

Series = dict[str, list[dict[str, str]]]
"""The labels of every sample, by the name of its metric."""


def panels() -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable([panel, *panel.get("panels", [])] for panel in DASHBOARD["panels"]))


def targets() -> list[dict[str, Any]]:
    return [target for panel in panels() for target in panel.get("targets", [])]


def dashboard_expressions() -> list[str]:
    return [target["expr"] for target in targets()]


def alert_expressions() -> list[str]:
    return [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def as_grafana_asks(expression: str) -> str:
    """The expression with an example for each variable."""
    for variable, example in VARIABLES.items():
        expression = expression.replace(variable, example)
    return expression


async def _a_busy_night(folder: Path) -> str:
    """The exposition of a daemon that has met with about everything that it counts."""
    world = World()
    server_id = world.add_server("web-01")
    world.faults.append(Fault(kind="status", method="GET", status=503, times=2))
    world.faults.append(Fault(kind="ends", method="POST", path="/snapshots/"))
    servers = f'[{{id: {server_id}, name: web, schedule: "@hourly", stop_first: true, keep: 1, retry: {{times: 0}}}}]'
    async with daemon_on(write_config(folder, servers), world) as watched:
        await asyncio.sleep(3 * 3600)
        return b"".join(watched.daemon.view.exposition()).decode()


@pytest.fixture(scope="module")
def exposition(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_virtually(_a_busy_night(tmp_path_factory.mktemp("night")))


@pytest.fixture(scope="module")
def series(exposition: str) -> Series:
    """What that night has told, and what is told of a server on which nothing is 0."""
    found: Series = {}
    for family in (*text_string_to_metric_families(exposition), *families()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


# -- what is asked for is there ------------------------------------------------------------------------------------

EXPRESSIONS = [*alert_expressions(), *dashboard_expressions()]


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Each metric that is named, with what is asked of its own labels: label, operator, value."""
    for name, matchers in METRIC.findall(expression):
        yield name, [asked for asked in MATCHER.findall(matchers) if asked[0] not in TARGET_LABELS]


def test_every_metric_that_is_asked_for_is_told(series: Series) -> None:
    asked = {name for expression in EXPRESSIONS for name, _ in selectors(expression)}
    assert sorted(asked - series.keys()) == []


def test_every_label_that_is_asked_for_is_told_with_that_value(series: Series) -> None:
    for name, matchers in itertools.chain.from_iterable(map(selectors, EXPRESSIONS)):
        for label, operator, value in matchers:
            told = {labels[label] for labels in series[name] if label in labels}
            assert told, f"{name} has no label {label}"
            assert operator != "=" or value in told, f"{name} has no {label}={value}, only {sorted(told)}"


def test_every_label_that_is_grouped_or_matched_by_is_that_of_a_metric_in_the_expression(series: Series) -> None:
    for expression in EXPRESSIONS:
        known = TARGET_LABELS.union(*(series[name][0] for name, _ in selectors(expression)))
        for group in GROUPING.findall(expression):
            assert set(re.findall(r"\w+", group)) <= known, expression


def test_every_label_in_a_legend_is_left_by_its_expression(series: Series) -> None:
    for target in targets():
        expression = target["expr"]
        grouped = re.search(r"\bby \(([^)]*)\)", expression)
        first, _ = next(selectors(expression))
        left = set(re.findall(r"\w+", grouped[1])) if grouped else series[first][0].keys()
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left, target


def test_promtool_finds_nothing_wrong_with_the_metrics(exposition: str) -> None:
    promtool = needs("promtool", "it comes with Prometheus")
    found = subprocess.run(
        [promtool, "check", "metrics"], input=exposition, capture_output=True, text=True, timeout=30, check=False
    )
    # It takes the word for microseconds.
    mistaken = "snaprotd_server_stopped_by_us metric names should not contain abbreviated units"
    assert [line for line in (found.stdout + found.stderr).splitlines() if line != mistaken] == []


# -- the dashboard -------------------------------------------------------------------------------------------------


def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    promtool = needs("promtool", "it comes with Prometheus")
    rules = [
        {"record": f"panel:{number}", "expr": as_grafana_asks(expression)}
        for number, expression in enumerate(dashboard_expressions())
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
    assert not any("$" in rule["expr"] for rule in rules)


def test_no_two_panels_have_one_id() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_every_panel_is_on_the_grid_and_covers_no_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS, panel["title"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        for cell in itertools.product(columns, rows):
            assert cell not in taken, f"{panel['title']} covers {taken[cell]}"
            taken[cell] = panel["title"]


def test_the_data_source_is_a_variable_everywhere() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    asked = [panel for panel in panels() if panel["type"] != "row"]
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for one in [variables["server"], *asked, *targets()]:
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_several_servers_can_be_chosen_at_once_and_all_of_them(series: Series) -> None:
    (variable,) = (one for one in DASHBOARD["templating"]["list"] if one["name"] == "server")
    assert variable["multi"]
    assert variable["includeAll"]
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert asked is not None
    assert all(asked[2] in labels for labels in series[asked[1]])


def test_what_belongs_to_one_server_is_shown_for_those_that_were_chosen(series: Series) -> None:
    for name, matchers in itertools.chain.from_iterable(map(selectors, dashboard_expressions())):
        if "server" in series[name][0]:
            assert ("server", "=~", "$server") in matchers, name


@pytest.mark.parametrize(
    "metric",
    [
        "snaprotd_newest_completed_timestamp_seconds",
        "snaprotd_expected_interval_seconds",
        "snaprotd_snapshots",
        "snaprotd_snapshot_limit",
        "snaprotd_rotation_duration_seconds_bucket",
        "snaprotd_server_downtime_seconds_bucket",
        "snaprotd_server_stopped_by_us",
        "snaprotd_schedule_lateness_seconds_bucket",
        "snaprotd_api_requests_total",
        "snaprotd_api_retries_total",
    ],
)
def test_the_dashboard_shows(metric: str) -> None:
    assert any(metric == name for expression in dashboard_expressions() for name, _ in selectors(expression))


def test_too_old_is_the_same_on_the_dashboard_as_in_the_alert() -> None:
    (rule,) = (
        rule for group in ALERTS["groups"] for rule in group["rules"] if rule["alert"] == "SnaprotdSnapshotTooOld"
    )
    shown = [re.sub(r'\{server=~"\$server"\}', "", expression) for expression in dashboard_expressions()]
    assert f"count({' '.join(rule['expr'].split())}) or vector(0)" in shown
