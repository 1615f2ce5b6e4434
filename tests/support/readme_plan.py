"""What `snaprotd plan` shows for the README's policy, on the README's morning: the recording in it is this."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

from rich.console import Console

from snaprotd.commands.text.tables import plan_text
from snaprotd.config import file as config
from snaprotd.config.settings import resolve
from snaprotd.core.holds import snapshot_name
from snaprotd.core.model import Machine, Snapshot
from snaprotd.provider.inventory import ServerHoldings
from snaprotd.report.rows import people_plan_of
from tests.support.nouns import a_server, a_snapshot

README = Path(__file__).parents[2] / "README.md"
NOW = datetime(2025, 1, 16, 8, 30, tzinfo=UTC)


def recorded_plan() -> str:
    policy = re.search(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert policy is not None
    settings = config.parse(policy[1], "README.md", {})
    (target,) = resolve(settings, None)
    slots = [datetime(2025, 1, day, 2, 30, tzinfo=UTC) for day in (16, 15, 12)]
    server = a_server(name="web-server-01")
    held = [_snapshot(800 + number, snapshot_name("main", slot), slot) for number, slot in enumerate(slots)]
    held.append(_snapshot(790, "pre-migration-snapshot", datetime(2025, 1, 15, 18, 30, tzinfo=UTC)))
    holdings = ServerHoldings(server=server, snapshots=tuple(held), seen_at=NOW)
    plan = people_plan_of(settings, target, holdings, now=NOW, machine=Machine(), count=2)
    shown = StringIO()
    console = Console(file=shown, width=80, color_system=None, highlight=False, markup=False)
    console.print(plan_text([plan], NOW, settings.limit))
    return "\n".join(line.rstrip() for line in shown.getvalue().rstrip().splitlines())


def _snapshot(number: int, name: str, made: datetime) -> Snapshot:
    made += timedelta(seconds=40)
    return a_snapshot(number, name, made, server_name="web-server-01", size_mb=5120)
