"""The text of the commands: the same facts as their JSON, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from io import StringIO
from textwrap import fill
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from snaprotd.config import Config, Target
from snaprotd.rotation import Rotation
from snaprotd.schedule import spread_delay

Json = Mapping[str, Any]

WIDTH = 100


def check_text(config: Config) -> str:
    count = len(config.entries)
    return f"{config.path}: valid, {count} server {'entry' if count == 1 else 'entries'}"


def plan_text(report: Json, targets: Sequence[Target], config: Config) -> str:
    by_label = {target.label: target for target in targets}
    return "\n\n".join(_plan_of(server, by_label[server["name"]], config) for server in report["servers"])


def _plan_of(server: Json, target: Target, config: Config) -> str:
    held = len(server["snapshots"])
    lines = [f"{server['name']} (server {server['id']}): {max(0, config.limit - held)} of {config.limit} slots free"]
    if target.policy.paused:
        lines.append("  paused: no runs")
    zone = ZoneInfo(target.policy.timezone)
    delay = spread_delay(target.server_id, target.policy.spread)
    for text in server["next"]:
        slot = datetime.fromisoformat(text)
        later = f", begins {delay} later" if delay else ""
        lines.append(f"  next {slot.astimezone(zone):%a %Y-%m-%d %H:%M %Z}  {slot:%Y-%m-%d %H:%MZ}{later}")
    if server["blocked"]:
        lines.append(_wrapped(server["blocked"]))
    lines.append(_table(("snapshot", "status", "decision"), [_plan_row(one) for one in server["snapshots"]]))
    return "\n".join(line for line in lines if line)


def _wrapped(text: str) -> str:
    return fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _plan_row(snapshot: Json) -> tuple[str, ...]:
    return (snapshot["name"], snapshot["status"], snapshot["reason"])


def list_text(rows: Sequence[Json], now: datetime) -> str:
    if not rows:
        return "no snapshots"
    columns = ("id", "server", "name", "owner", "status", "size", "age")
    return _table(columns, [_list_row(row, now) for row in rows])


def _list_row(row: Json, now: datetime) -> tuple[str, ...]:
    size = f"{row['size_mb']} MB" if row["size_mb"] is not None else "-"
    created = datetime.fromisoformat(row["created_at"]) if row["created_at"] else None
    return (
        str(row["id"]),
        row["server_name"],
        row["name"],
        row["owner"],
        row["status"],
        size,
        _age(now, created),
    )


def _age(now: datetime, then: datetime | None) -> str:
    if then is None:
        return "unknown"
    hours = (now - then).total_seconds() / 3600
    return f"{hours * 60:.0f}m" if hours < 1 else f"{hours:.0f}h" if hours < 48 else f"{hours / 24:.0f}d"


def now_text(rotation: Rotation) -> str:
    deleted = f", deleted {', '.join(rotation.deleted)}" if rotation.deleted else ""
    if not rotation.is_finished:
        return f"interrupted: {rotation.label} at step {rotation.step}; the next start of snaprotd goes on with it"
    if rotation.error is None:
        return f"success: {rotation.label} has {rotation.snapshot_name} (id {rotation.snapshot_id}){deleted}"
    return f"{rotation.result}: {rotation.label}: at step {rotation.failed_step}: {rotation.error}{deleted}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    table = Table(box=None, pad_edge=True, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    text = StringIO()
    Console(file=text, width=WIDTH, color_system=None, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
