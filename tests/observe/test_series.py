"""The series of each server are kept as text: what has changed is told at the next scrape, nobody waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from snaprotd.core.model import Owner, SnapshotState
from snaprotd.core.policy import Policy, Rules
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.schedule import Schedule
from snaprotd.engine.board import Board, Holdings, ServerFacts
from snaprotd.observe.series import AT_ONCE, SERIES, Series, ServerSeries, _number

THEN = datetime(2026, 5, 1, 3, 0, tzinfo=UTC)

Change = Callable[[ServerFacts], object]


def _holding(**known: object) -> Change:
    def change(facts: ServerFacts) -> None:
        facts.holdings = Holdings(**({"counts": {}} | known))  # type: ignore[arg-type]

    return change


def _set(name: str, value: object) -> Change:
    return lambda facts: setattr(facts, name, value)


def _count(name: str, key: str) -> Change:
    def change(facts: ServerFacts) -> None:
        getattr(facts, name)[key] += 1

    return change


CHANGES: dict[str, tuple[Change, str, float]] = {
    "server_name": (_set("server_name", "web"), 'snaprotd_server_info{server="a",server_id="1",server_name="web"}', 1),
    "missing": (_set("missing", True), 'snaprotd_server_missing{server="a"}', 1),
    "next_run": (_set("next_run", THEN), 'snaprotd_next_run_timestamp_seconds{server="a"}', THEN.timestamp()),
    "interval": (_set("expected_interval", 60.0), 'snaprotd_expected_interval_seconds{server="a"}', 60),
    "attempt": (_set("last_attempt", THEN), 'snaprotd_last_attempt_timestamp_seconds{server="a"}', THEN.timestamp()),
    "success": (_set("last_success", THEN), 'snaprotd_last_success_timestamp_seconds{server="a"}', THEN.timestamp()),
    "failure": (_set("last_failure", THEN), 'snaprotd_last_failure_timestamp_seconds{server="a"}', THEN.timestamp()),
    "partial": (_set("last_partial", THEN), 'snaprotd_last_partial_timestamp_seconds{server="a"}', THEN.timestamp()),
    "lost": (_set("last_missed", THEN), 'snaprotd_last_missed_timestamp_seconds{server="a"}', THEN.timestamp()),
    "rotations": (_count("rotations", Result.FAILURE), 'snaprotd_rotations_total{result="failure",server="a"}', 1),
    "skipped": (_count("skipped", "window"), 'snaprotd_rotations_skipped_total{reason="window",server="a"}', 1),
    "missed": (_count("missed", "ran_late"), 'snaprotd_missed_slots_total{action="ran_late",server="a"}', 1),
    "start_failures": (_set("start_failures", 3), 'snaprotd_server_start_failures_total{server="a"}', 3),
    "counts": (
        _holding(counts={(Owner.FOREIGN, SnapshotState.FAILED): 2}),
        'snaprotd_snapshots{owner="foreign",server="a",state="failed"}',
        2,
    ),
    "newest": (
        _holding(newest_completed=THEN),
        'snaprotd_newest_completed_timestamp_seconds{server="a"}',
        THEN.timestamp(),
    ),
    "size": (_holding(newest_size_mb=2), 'snaprotd_newest_completed_size_bytes{server="a"}', 2 * 1024 * 1024),
    "blocked": (_holding(blocked=True), 'snaprotd_blocked{server="a"}', 1),
    "pending": (_holding(prune_pending=2), 'snaprotd_prune_pending{server="a"}', 2),
    "held": (_holding(holds=(date(2026, 6, 1),)), 'snaprotd_held{server="a"}', 1),
    "until": (
        _holding(holds=(date.max,)),
        'snaprotd_hold_until_timestamp_seconds{server="a"}',
        float("inf"),
    ),
}


def board_of(*labels: str) -> Board:
    board = Board()
    board.show_only({str(number): label for number, label in enumerate(labels, 1)})
    return board


def written(series: ServerSeries) -> dict[str, float]:
    """Each sample, by its name and labels as they are written."""
    found = {}
    for family in text_string_to_metric_families("".join(series.pieces())):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_is_told_at_the_next_scrape(what: str) -> None:
    change, sample, value = CHANGES[what]
    board = board_of("a", "b")
    series = ServerSeries(board)
    before = written(series)
    assert before.get(sample) != value
    change(board.servers["a"])
    after = written(series)
    assert after[sample] == value
    of_the_other = [name for name in before if 'server="b"' in name]
    assert of_the_other
    assert [after[name] for name in of_the_other] == [before[name] for name in of_the_other]


def test_every_series_is_changed_by_one_of_these() -> None:
    assert {sample.partition("{")[0] for _, sample, _ in CHANGES.values()} == {one.name for one in SERIES}


BACK: dict[str, Change] = {
    "missing": _set("missing", False),
    "counts": _holding(),
    "pending": _holding(prune_pending=0),
    "held": _holding(holds=()),
}
"""Back to 0."""


@pytest.mark.parametrize("what", BACK)
def test_what_is_0_and_was_never_anything_else_is_left_out_and_told_from_then_on(what: str) -> None:
    change, sample, _ = CHANGES[what]
    board = board_of("a")
    series = ServerSeries(board)
    BACK[what](board.servers["a"])
    assert sample not in written(series)
    change(board.servers["a"])
    assert written(series)[sample] > 0
    for _ in range(2):
        BACK[what](board.servers["a"])
        board.servers["a"].start_failures += 1  # it is written anew
        assert written(series)[sample] == 0


def only_troubles(series: ServerSeries) -> set[str]:
    text = "".join(series.pieces(THEN + timedelta(days=1)))
    return {line.partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def test_of_a_server_without_a_problem_that_it_is_on_again_is_told_though_nobody_looked_while_it_was_off() -> None:
    """Else the last that was told, by a process that was killed, is that it is off."""
    board = board_of("a", "b")
    series, sample = ServerSeries(board), 'snaprotd_server_stopped_by_us{server="a"}'
    assert only_troubles(series) == set()
    debt = ServerPower(account="", server_id="1", label="a", power=Power(asked=1))
    board.show_debt(debt)
    board.clear_debt(debt)
    assert only_troubles(series) == {sample}


async def test_and_so_it_is_of_one_that_another_replica_has_held_off() -> None:
    board = board_of("a", "b")
    series, sample = ServerSeries(board), 'snaprotd_server_stopped_by_us{server="a"}'
    begun = Rotation.begin(
        id="of another",
        server_id="1",
        label="a",
        slot=THEN,
        rules=Rules(policy=Policy(schedule=Schedule.parse(["@daily"], "UTC"))),
        now=THEN,
        settle=60.0,
    )
    board.show_elsewhere([replace(begun, power=Power(asked=1))])
    board.show_elsewhere([])
    assert only_troubles(series) == {sample}


def test_a_server_that_did_not_start_at_once_goes_on_being_shown() -> None:
    """A count that went away while all is well would be taken for a new one when it comes back."""
    board = board_of("a")
    series = ServerSeries(board)
    board.servers["a"].start_failures = 3
    assert 'snaprotd_server_start_failures_total{server="a"}' in only_troubles(series)


def test_what_was_never_counted_is_left_out() -> None:
    series = ServerSeries(board_of("a"))
    assert not [name for name in written(series) if "_total" in name]


def test_that_nothing_is_held_off_and_that_there_is_no_snapshot_of_ours_is_told() -> None:
    board = board_of("a")
    _holding(newest_size_mb=0)(board.servers["a"])
    told = written(ServerSeries(board))
    assert {name for name, value in told.items() if not value} == {
        'snaprotd_server_stopped_by_us{server="a"}',
        'snaprotd_snapshots{owner="managed",server="a",state="completed"}',
        'snaprotd_newest_completed_size_bytes{server="a"}',
        'snaprotd_blocked{server="a"}',
    }


def test_a_server_that_was_dropped_and_is_found_again_is_told_to_be_so() -> None:
    board, sample = board_of("a", "b"), 'snaprotd_server_dropped{server="c"}'
    series = ServerSeries(board)
    board.dropped = {"3": "c"}
    assert {name: value for name, value in written(series).items() if "dropped" in name} == {sample: 1}
    board.dropped = {}
    board.show_only({"1": "a", "3": "c"})
    for _ in range(2):
        assert {name: value for name, value in written(series).items() if "dropped" in name} == {sample: 0}
    board.show_only({"1": "a"})
    assert sample not in written(series)


def test_what_has_not_changed_is_not_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    board = board_of("a", "b")
    board.servers["a"].rotations[Result.SUCCESS] += 1
    series = ServerSeries(board)
    written(series)
    anew: list[str] = []
    write = Series.written

    def noted(self: Series, label: str, *more: Any) -> str:
        anew.append(label)
        return write(self, label, *more)

    monkeypatch.setattr(Series, "written", noted)
    written(series)
    assert anew == []
    board.servers["b"].missed["skipped"] += 1
    written(series)
    assert set(anew) == {"b"}


def test_a_server_that_is_removed_takes_its_series_with_it() -> None:
    board = board_of("a", "b")
    series = ServerSeries(board)
    written(series)
    board.show_only({"1": "a"})
    assert not [name for name in written(series) if 'server="b"' in name]


def test_another_server_under_the_same_label_has_its_own_series() -> None:
    board = board_of("a")
    board.servers["a"].server_name = "old"
    series = ServerSeries(board)
    written(series)
    board.show_only({"7": "a"})
    assert 'snaprotd_server_info{server="a",server_id="7",server_name=""}' in written(series)


async def test_others_have_their_turn_while_the_series_of_a_fleet_are_written() -> None:
    board = board_of(*(f"web-{number}" for number in range(10 * AT_ONCE)))
    assert len(list(ServerSeries(board).pieces())) >= 10 + len(SERIES)


async def test_servers_may_come_and_go_between_two_pieces() -> None:
    board = board_of(*(f"web-{number}" for number in range(3 * AT_ONCE)))
    pieces, made = ServerSeries(board).pieces(), []
    for number, piece in enumerate(pieces):
        made.append(piece)
        board.show_only({"1": "web-0", str(1000 + number): f"new-{number}"})
        await asyncio.sleep(0)
    assert list(text_string_to_metric_families("".join(made)))


@pytest.mark.parametrize("value", [0, 1, True, 86400.0, 1795841868.25, 2.0**53, 1e300, float("inf"), -3.5])
def test_a_number_is_written_as_short_as_it_can_be_and_reads_the_same(value: float) -> None:
    text = _number(value)
    assert float(text) == value
    assert not text.endswith(".0")


def test_no_piece_has_more_than_a_few_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loop stands for meanwhile, in work: a fleet's whole text takes seconds."""
    board, anew = board_of(*(f"web-{number}" for number in range(4 * AT_ONCE))), Counter[str]()
    write = Series.written

    def noted(self: Series, label: str, *more: Any) -> str:
        anew[label] += 1
        return write(self, label, *more)

    monkeypatch.setattr(Series, "written", noted)
    for _ in ServerSeries(board).pieces():
        assert len(anew) <= AT_ONCE
        anew.clear()
