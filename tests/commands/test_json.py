"""What a command prints as JSON."""

from __future__ import annotations

import json

import pytest

from snaprotd.commands.common import rows_json

ROW = {"id": 7, "name": 'é "\n', "size_mb": None, "is_known": True, "took": 1.5}


@pytest.mark.parametrize(
    "rows",
    [[], [{}], [ROW], [ROW, {}, {"deleted": []}], [{"deleted": [1, {"of": ["a\n"]}]}, ROW], [[1], [], "a", None]],
)
def test_rows_are_written_as_with_an_indent(rows: list[object]) -> None:
    assert rows_json(rows) == json.dumps(rows, indent=2, ensure_ascii=False)
