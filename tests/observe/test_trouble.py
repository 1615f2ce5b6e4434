"""Where only servers with a problem are shown: each that an alert may tell of is, and no other."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from snaprotd.core.power import Power, promised
from snaprotd.core.promise import ServerPower
from snaprotd.engine.board import Board, Holdings, ServerFacts
from snaprotd.observe.series import ServerSeries
from snaprotd.observe.trouble import is_in_trouble

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
HOURS = [NOW - timedelta(hours=hours) for hours in range(30)]
WELL = ServerFacts(
    "1",
    next_run=NOW + timedelta(hours=15),
    expected_interval=86400.0,
    last_attempt=HOURS[9],
    last_success=HOURS[9],
    missing=False,
    holdings=Holdings(counts={}, newest_completed=HOURS[9]),
)


def holding(**more: Any) -> Holdings:
    return replace(Holdings(counts={}, newest_completed=HOURS[9]), **more)


@pytest.mark.parametrize(
    "more",
    [
        {"missing": True},
        {"slots_lost": "one slot"},
        {"last_partial": HOURS[0]},
        {"last_missed": HOURS[0]},
        {"last_failure": HOURS[1]},
        {"last_failure": HOURS[1], "last_success": None},
        {"last_failure": HOURS[1], "holdings": None},
        {"next_run": None},
        {"next_run": HOURS[1]},
        {"holdings": holding(blocked=True)},
        {"holdings": holding(prune_pending=1)},
        {"holdings": holding(newest_completed=None)},
        {"holdings": holding(newest_completed=HOURS[29])},
    ],
)
def test_whoever_an_alert_may_tell_of_is_in_trouble(more: dict[str, Any]) -> None:
    assert is_in_trouble(replace(WELL, **more), NOW)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"holdings": None},
        {"last_partial": HOURS[2], "last_missed": HOURS[2]},
        {"last_failure": HOURS[20]},
        {"last_failure": HOURS[20], "last_success": None},
        {"next_run": NOW - timedelta(seconds=20)},
        {"next_run": None, "expected_interval": None, "holdings": holding(newest_completed=HOURS[29])},
        {"last_attempt": None, "last_success": None, "holdings": holding(newest_completed=None)},
        {"holdings": holding(newest_completed=HOURS[28])},
    ],
)
def test_others_are_not(more: dict[str, Any]) -> None:
    assert not is_in_trouble(replace(WELL, **more), NOW)


def test_only_those_in_trouble_are_told_of_and_those_that_are_off() -> None:
    board = Board()
    board.show_only({"1": "well", "2": "bad", "3": "off"})
    for label, facts in board.servers.items():
        known = replace(WELL, server_id=facts.server_id, missing=label == "bad")
        for each in fields(known):
            setattr(facts, each.name, getattr(known, each.name))
    series = ServerSeries(board)

    def told() -> dict[str, bool]:
        text = "".join(series.pieces(NOW))
        return {label: f'"{label}"' in text for label in board.servers}

    assert told() == {"well": False, "bad": True, "off": False}
    debt = ServerPower(account="", server_id="3", label="off", power=promised(Power(), NOW))
    board.show_debt(debt)
    assert told() == {"well": False, "bad": True, "off": True}
    board.clear_debt(debt)
    text = "".join(series.pieces(NOW))
    assert 'snaprotd_server_stopped_by_us{server="off"} 0' in text, "that it is back is told"
    assert 'snaprotd_server_info{server="off"' not in text
