"""The tables of docs/configuration.md, made from the schema of the configuration: `make docs` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snaprotd.config.file import json_schema

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

SECTIONS = {
    "top": ("", "Keys of the file"),
    "api": ("ApiKeys", "Keys under `api`"),
    "policy": ("PolicyKeys", "Keys of a policy"),
    "keep": ("RetentionKeys", "Keys under `keep`"),
    "server": ("ServerKeys", "Keys of an entry under `servers`"),
}

WRITTEN_ELSEWHERE = {
    "state": "`$STATE_DIRECTORY/state.db`, else `./snaprotd-state.db`",
    "api": "",
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


def rendered(page: str) -> str:
    """The page with its tables made anew."""
    head, _, rest = page.partition("<!-- tables -->\n")
    _, _, tail = rest.partition("<!-- end of tables -->\n")
    return f"{head}<!-- tables -->\n{tables()}<!-- end of tables -->\n{tail}"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
