"""A refused file, however it is spelled, still tells where the ledger and the token may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaprotd.config.remains import Remains, remains_of

LEDGER, TOKEN = "/srv/our ledger/state.db", "/etc/snaprotd/token"
ADDRESS = "https://vps.invalid/api/v1"
FILE = {"api": {"base_url": ADDRESS, "token_file": TOKEN}, "state": LEDGER, "bogus": 1}


def remains(folder: Path, content: str | bytes) -> Remains:
    path = folder / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return remains_of(path)


SPELLED = {
    "plain": f"state: {LEDGER}\nbogus: 1\n",
    "with a comment": f"state: {LEDGER}   # here\nbogus: 1\n",
    "in double quotes": f'"state": "{LEDGER}"\n',
    "in single quotes": f"'state': '{LEDGER}'\n",
    "escaped": '"st\\x61te": "/srv/our\\u0020ledger/state.db"\n',
    "a space before the colon": f"state : {LEDGER}\n",
    "in the next line": f"state:\n  {LEDGER}\n",
    "a marked key": f"? state\n: {LEDGER}\n",
    "an anchor": f"state: &here {LEDGER}\n",
    "an alias": f"other: &here {LEDGER}\nstate: *here\n",
    "a tag": f"state: !!str {LEDGER}\n",
    "a block": f"state: >-\n  {LEDGER}\n",
    "indented": f"  bogus: 1\n  state: {LEDGER}\n",
    "under another key": f"api:\n  state: {LEDGER}\n",
    "twice": f"state: /elsewhere/state.db\nstate: {LEDGER}\n",
    "in capitals": f"State: {LEDGER}\n",
    "in a list": f"- state: {LEDGER}\n",
    "JSON": json.dumps(FILE),
    "JSON, indented": json.dumps(FILE, indent=2),
    "JSON that breaks off": json.dumps(FILE)[:-1],
    "a tab before": f"api:\n\tx: 1\nstate: {LEDGER}\n",
    "a tab before it": f"\tstate: {LEDGER}\n",
    "broken before": f"}}{{ [\nstate: {LEDGER}\n",
    "broken before, in braces": f"]\n{{bogus: 1, state: {LEDGER}, x: 1}}\n",
    "broken before, marked": f"]\n? state\n: {LEDGER}\n",
    "broken before, in quotes": f"]\n\"state\": '{LEDGER}'\n",
    "broken after": f"state: {LEDGER}\nservers:\n  - id: 1\n   x: 1\n",
    "another document": f"---\nx: 1\n---\nstate: {LEDGER}\n",
    "after a control character": f"x: \x01\x7f\nstate: {LEDGER}\n",
}
ENCODED = {
    "CRLF": SPELLED["plain"].replace("\n", "\r\n").encode(),
    "CR": SPELLED["plain"].replace("\n", "\r").encode(),
    "BOM": SPELLED["plain"].encode("utf-8-sig"),
    "UTF-16": SPELLED["plain"].encode("utf-16"),
    "UTF-16, big end first, without a BOM": SPELLED["plain"].encode("utf-16-be"),
    "UTF-32": SPELLED["plain"].encode("utf-32"),
    "bytes of no text": b"\xff\xfe\x00" + SPELLED["plain"].encode(),
    "larger than any": SPELLED["plain"].encode() + b"#" * 2**23,
}


@pytest.mark.parametrize("how", SPELLED)
def test_the_ledger_is_found_however_it_is_spelled(tmp_path: Path, how: str) -> None:
    assert LEDGER in remains(tmp_path, SPELLED[how]).states


@pytest.mark.parametrize("how", ENCODED)
def test_the_ledger_is_found_however_it_is_encoded(tmp_path: Path, how: str) -> None:
    assert LEDGER in remains(tmp_path, ENCODED[how]).states


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_a_name_that_is_not_ascii_is_found(tmp_path: Path, encoding: str) -> None:
    assert "/srv/Bücher/s.db" in remains(tmp_path, "state: /srv/Bücher/s.db\n# ß\n".encode(encoding)).states


@pytest.mark.parametrize("text", [json.dumps(FILE), f"api:\n\tbase_url: {ADDRESS}\n\ttoken_file: {TOKEN}"])
def test_the_token_and_the_address_are_found_too(tmp_path: Path, text: str) -> None:
    found = remains(tmp_path, text)
    assert TOKEN in found.token_files
    assert ADDRESS in found.base_urls


def test_a_path_under_a_misspelt_key_is_among_the_words(tmp_path: Path) -> None:
    assert {"/srv/state.db", "here.db"} <= set(remains(tmp_path, "sate: /srv/state.db\nledger: here.db\n").words)


def test_what_stands_in_a_comment_is_not_meant(tmp_path: Path) -> None:
    found = remains(tmp_path, "# state: /old/state.db\n#token_file: /old/token\nx: 1 # state: /old\n")
    assert found == Remains()


@pytest.mark.parametrize("spoil", ["missing", "a folder", "a device"])
def test_of_what_cannot_be_read_nothing_is_left(tmp_path: Path, spoil: str) -> None:
    place = {"missing": tmp_path / "x", "a folder": tmp_path, "a device": Path("/dev/zero")}
    assert remains_of(place[spoil]) == Remains()


@given(st.one_of(st.binary(), st.text("state: \n'\"{}[]&*!?|->#%@`\\,/x").map(str.encode)))
def test_nothing_that_a_file_holds_raises(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    remains(tmp_path_factory.getbasetemp(), content)
