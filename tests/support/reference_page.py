"""The tables in docs/ that are made from something else: `make docs` writes them.

In configuration.md they come from the schema of the configuration, in runbook.md from the table of problems, in
metrics.md from what is scraped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from snaprotd.config.file import json_schema
from tests.support.metrics_table import metrics_table
from tests.support.problems_table import problems_table

DOCS = Path(__file__).parents[2] / "docs"

SECTIONS = {
    "top": ("", "Keys of the file"),
    "api": ("ApiKeys", "Keys under `api`"),
    "metrics": ("MetricsKeys", "Keys under `metrics`"),
    "policy": ("PolicyKeys", "Keys of a policy"),
    "keep": ("RetentionKeys", "Keys under `keep`"),
    "retry": ("RetryKeys", "Keys under `retry`"),
    "notify": ("NotifyKeys", "Keys of an entry under `notify`"),
    "webhook": ("WebhookKeys", "Keys of a `webhook`"),
    "email": ("EmailKeys", "Keys of an `email`"),
    "ping": ("PingKeys", "Keys of a `ping`"),
    "heartbeat": ("HeartbeatKeys", "Keys under `heartbeat`"),
    "server": ("ServerKeys", "Keys of an entry under `servers`"),
}

WRITTEN_ELSEWHERE = {
    "state": "`$STATE_DIRECTORY/state.db`, for root `/var/lib/snaprotd/state.db`, else in `~/.local/state`",
    "own_server": "by the machine's names and addresses",
    "api": "",
    "metrics": "",
    "defaults": "",
    "policies": "",
}


def tables() -> str:
    """Every key, its default and its meaning, as Markdown."""
    schema = json_schema()
    policy = set(schema["$defs"]["PolicyKeys"]["properties"])
    parts = []
    for name, (definition, title) in SECTIONS.items():
        properties = schema["$defs"][definition]["properties"] if definition else schema["properties"]
        left_out = policy if name == "server" else set()
        rows = [_row(key, value) for key, value in properties.items() if key not in left_out]
        parts += [f"### {title}", "", "| key | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(parts)


def _row(key: str, value: dict[str, Any]) -> str:
    default = WRITTEN_ELSEWHERE.get(key, f"`{json.dumps(value['default'])}`" if "default" in value else "")
    return f"| `{key}` | {default.replace(chr(34), '')} | {value.get('description', '')} |"


PAGES: Mapping[Path, Callable[[], str]] = {
    DOCS / "configuration.md": tables,
    DOCS / "metrics.md": metrics_table,
    DOCS / "runbook.md": problems_table,
}


def rendered(page: Path) -> str:
    """The page with its tables made anew."""
    head, _, rest = page.read_text().partition("<!-- tables -->\n")
    _, _, tail = rest.partition("<!-- end of tables -->\n")
    return f"{head}<!-- tables -->\n{PAGES[page]()}<!-- end of tables -->\n{tail}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rendered(page))
