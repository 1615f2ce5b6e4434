"""What `make bench` makes of its figures; no figure here is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Any

import pytest

from bench import ledger, nights
from bench.__main__ import BESIDE, GROUPS, Group, is_whole, measured
from bench.extent import QUICK, WHOLE, Extent
from bench.page import PAGE, newest_whole, with_table
from bench.place import Place
from bench.processes import StandIn
from bench.table import SIZES, Figures, Row, as_markdown, cells, growth, is_met, summary
from snaprotd.config import file as config
from tests.support.fleet import Fleet
from tests.support.virtual_time import START

COST = Row(what="CPU, s", key="cpu", goals={1000: 2})


@pytest.mark.parametrize(
    ("values", "met"),
    [
        ({1000: 2.0}, True),
        ({1000: 2.01}, False),
        ({100: 9.0}, None),
        ({}, None),
        ({1000: nan}, False),
        ({100: 9.0, 1000: 1.0, 10_000: 9.0}, True),
    ],
)
def test_a_goal_is_met_by_at_most_so_much_at_its_own_size(values: Mapping[int, float], met: bool | None) -> None:
    assert is_met(COST, values) is met


def test_of_several_goals_all_are_to_be_met() -> None:
    both = Row(what="fsyncs", key="fsyncs", goals={1: 5, 1000: 1})
    assert [is_met(both, values) for values in ({1: 5, 1000: 1}, {1: 6, 1000: 1}, {1: 5, 1000: 2})] == [
        True,
        False,
        False,
    ]


def test_what_is_of_all_grows_by_its_share_of_a_server_and_what_is_of_each_by_itself() -> None:
    values = {1: 7.0, 100: 1.0, 1000: 12.0, 10_000: 60.0}
    assert growth(COST, values) == pytest.approx([1.2, 0.5])
    assert growth(Row(what="ms", key="ms", of_each=True), values) == pytest.approx([12.0, 5.0])


def test_what_was_nothing_has_no_growth() -> None:
    assert growth(COST, {100: 0.0, 1000: 3.0, 10_000: 30.0}) == [1.0]


def test_a_line_says_each_size_the_goal_whether_it_is_met_and_what_grows_too_fast() -> None:
    told: Figures = {1000: {"cpu": 3.0, "mb": 1}, 100: {"cpu": 0.2}, 10_000: {"cpu": None}}
    values = COST.values(told)
    assert cells(COST, values) == ["CPU, s", "", "0.20", "3.00", "", "2 at 1,000", "**no**", "**1.50**"]
    assert as_markdown([(COST, values)]).splitlines()[2:] == [
        "| CPU, s |  | 0.20 | 3.00 |  | 2 at 1,000 | **no** | **1.50** |"
    ]
    assert summary([(COST, values), (COST, {1000: 1.0}), (COST, {})]) == (
        "1 of 2 goals are met; 1 rows grow faster than the number of servers."
    )


def test_each_group_has_rows_of_names_of_its_own_and_whatever_is_measured_has_a_column() -> None:
    for group in GROUPS.values():
        names = [row.key for row in group.rows]
        assert len(set(names)) == len(names) > 0
        assert {size for row in group.rows for size in row.goals} <= set(SIZES)
    for extent in (WHOLE, QUICK):
        nightly = {size for fleets in extent.nights.values() for size in fleets}
        assert {*extent.servers, *extent.at_once, extent.claims, *nightly} <= set(SIZES)
        assert extent.beside_scripts in extent.at_once


def test_each_kind_of_night_gives_figures_that_have_a_row() -> None:
    told = dict.fromkeys(("times_least", "per_rotation", "seconds", "downtime_median", "downtime_worst"), 900.0)
    told["refused_after_a_minute"] = 0.5
    given: dict[str, Any] = {}
    for name in WHOLE.nights:
        given |= nights.FIGURES[name](Fleet(servers=60), told)
    assert set(given) == {row.key for row in nights.ROWS}
    assert (given["usual_length"], given["slow_refused"], given["stopped_worst"]) == (1.0, 50.0, 540.0)


def test_a_group_that_fails_takes_no_other_with_it_and_the_table_is_not_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_: Extent) -> Figures:
        raise OSError("the disk is full")

    groups = {name: Group(rows=(), measure=lambda _: {1: {}}) for name in GROUPS}
    assert is_whole(measured(groups, WHOLE), WHOLE)
    assert not is_whole(measured(groups, QUICK), QUICK)
    for failing in ("ledger", BESIDE[0]):
        told = measured({**groups, failing: Group(rows=(), measure=fails)}, WHOLE)
        assert [name for name, figures in told.items() if not figures] == [failing]
        assert not is_whole(told, WHOLE)
        assert "the disk is full" in capsys.readouterr().err


def test_the_page_shows_the_newest_whole_table(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    for name in ("20260101T000000Z", "20260102T000000Z", "20260103T000000Z-part"):
        (tmp_path / f"{name}.md").write_text(name)
    assert newest_whole(tmp_path) == tmp_path / "20260102T000000Z.md"
    page = with_table(PAGE.read_text(), "| one |\n")
    assert page.count("| one |") == 1
    assert with_table(page, "| two |\n") == page.replace("| one |", "| two |")
    with pytest.raises(ValueError, match="no place"):
        with_table("# Nothing\n", "| one |\n")


def test_fsyncs_are_counted_between_two_of_no_file_at_all() -> None:
    mark = f"7 fsync({ledger.NO_FILE}) = -1 EBADF (Bad file descriptor)"
    lines = ["7 fsync(4) = 0", mark, "7 fsync(5) = 0", "8 fdatasync(6 <unfinished ...>", "8 <... resumed>) = 0", mark]
    assert ledger.fsyncs("\n".join([*lines, "7 fsync(4) = 0"])) == 2


@pytest.mark.real_time
@pytest.mark.parametrize("at_once", [False, True])
def test_what_a_rotation_writes_is_written_and_sqlite_alone_writes_the_same_rows(tmp_path: Path, at_once: bool) -> None:
    told = asyncio.run(ledger.rotate(3, at_once=at_once, folder=tmp_path))
    assert set(told) == {row.key for row in ledger.ROWS} - {"times_claim", "times_save", "fsyncs"}
    assert all(value > 0 for value in ledger.by_sqlite_alone(tmp_path / ledger.LEDGER))


def test_a_place_has_so_many_servers_of_three_policies(tmp_path: Path) -> None:
    place = Place(folder=tmp_path, port=1, servers=7, provider=StandIn(port=2), slot=START)
    place.configure(rate=5, discover="10m")
    settings = config.load(place.config, {})
    assert len({one.policy.schedule for one in settings.named}) == 3
    assert len(settings.named) == 7
