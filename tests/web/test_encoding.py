"""A fleet's report is twenty megabytes of JSON: it is encoded in pieces, for nobody else runs meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from snaprotd.web.site import _encoded, _Json

VALUES: list[Any] = [
    {},
    [],
    None,
    "é",
    {"a": {}, "b": [], "c": 1.5, 'd"': [[1, {"x": "y"}], None], "e": {"f": [True, {}], "g": "\n"}},
    [{"a": 1}, (), {}, "ü\ud800"],
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_the_pieces_are_what_the_whole_would_be(value: Any) -> None:
    assert "".join(_encoded(value)) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_what_is_no_number_of_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _Json({"servers": [{"a": float("nan")}]})


def test_no_piece_has_more_than_one_server() -> None:
    report = {"state": "ok", "servers": [{"name": f"web-{number}", "snapshots": [{}] * 5} for number in range(50)]}
    assert max(piece.count('"name"') for piece in _encoded(report)) == 1
