"""A fleet's report is twenty megabytes of JSON: it is encoded in pieces, for nobody else runs meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from snaprotd.web.pages.selection import Entries
from snaprotd.web.site import BLOCK, _encoded, _in_blocks, _Json

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
    whole = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert b"".join(_encoded(value)) == whole.encode("utf-8", "replace")


def test_what_is_no_number_of_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _Json({"servers": [{"a": float("nan")}]})


def test_no_piece_has_more_than_one_server() -> None:
    report = {"state": "ok", "servers": [{"name": f"web-{number}", "snapshots": [{}] * 5} for number in range(50)]}
    assert max(piece.count(b'"name"') for piece in _encoded(report)) == 1


def a_server(number: int) -> dict[str, Any]:
    told = dict.fromkeys(("server_name", "running", "stopped_by_us_since", "newest_completed", "slots", "next_run"))
    return {"id": number, "name": f"wéb-{number}\ud800", "state": "ok", "paused": False, **told}


def test_servers_that_are_kept_as_text_are_told_and_read_as_they_were() -> None:
    servers, entries = [a_server(number) for number in range(3)], Entries()
    for one in servers:
        entries.append(one)
    assert b"".join(_encoded({"servers": entries})) == b"".join(_encoded({"servers": servers}))
    assert b"".join(_encoded({"servers": Entries()})) == b'{"servers":[]}'
    fit = [{**one, "name": one["name"].replace("\ud800", "?")} for one in servers]
    assert ([*entries], entries[-1], entries[1:], len(entries)) == (fit, fit[2], fit[1:], 3)


def test_blocks_are_the_whole_whatever_the_pieces_are() -> None:
    pieces = [b"", b"a", b"b" * (2 * BLOCK), b"c" * BLOCK, b"d"]
    blocks = [*_in_blocks(pieces)]
    assert b"".join(blocks) == b"".join(pieces)
    assert [len(one) for one in blocks] == [BLOCK, BLOCK, BLOCK, 2]
    assert [*_in_blocks([b""])] == []
