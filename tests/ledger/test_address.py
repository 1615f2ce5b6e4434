"""What a ledger is called wherever it is shown."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snaprotd.ledger.address import name_of, why_unusable, write_anew


def test_a_file_is_shown_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_of("state.db") == str(tmp_path / "state.db")


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("postgresql://me:opens-all@db/snaprotd", "postgresql://db/snaprotd"),
        ("postgresql://me:opens@all@a:5432,b/snaprotd?password=opens-all", "postgresql://a:5432,b/snaprotd"),
        ("postgresql:///snaprotd?host=/run&password=opens-all", "postgresql:///snaprotd"),
        ("postgresql://me@[::1]:5432,%2Frun/snaprotd", "postgresql://[::1]:5432,%2Frun/snaprotd"),
        ("postgresql://me:opens#all@db/snaprotd", "postgresql://db/snaprotd"),
        ("postgresql://me:opens?all@db/snaprotd?sslmode=require", "postgresql://db/snaprotd"),
        ("postgresql://me:opens/all@db/snaprotd", "postgresql://db/snaprotd"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(state: str, shown: str) -> None:
    assert name_of(state) == shown


def test_a_file_can_be_opened_always_and_a_server_with_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_unusable("./state.db") == why_unusable("postgresql://db/snaprotd") == ""
    monkeypatch.setattr("snaprotd.ledger.address.find_spec", lambda _: None)
    assert why_unusable("./state.db") == ""
    assert why_unusable("postgresql://db/snaprotd").endswith('not installed: pip install "snaprotd[postgresql]"')


def test_two_rotations_of_one_process_may_write_the_same_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "counted"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: write_anew(file, str(number)), range(400)))
    assert [one.name for one in tmp_path.iterdir()] == ["counted"]
    assert file.read_text().isdigit()


def test_a_file_that_cannot_be_put_in_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "counted").mkdir()
    with pytest.raises(OSError, match="counted"):
        write_anew(tmp_path / "counted", "1")
    assert [one.name for one in tmp_path.iterdir()] == ["counted"]
