"""What `plan --capacity` says of the fullest night ahead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.config import file as config
from snaprotd.config.settings import resolve
from snaprotd.core.rotation import Passed, Result, Rotation, Step
from snaprotd.report.capacity import Capacity, capacity_json, capacity_of, facts_of, summary_of, warning_of
from tests.support.rotations import changed

THURSDAY = datetime(2025, 1, 16, 9, 0, tzinfo=UTC)


def capacity(
    folder: Path,
    *entries: str,
    more: str = "",
    latest: Mapping[str, Rotation] | None = None,
    servers: int = 40,
    now: datetime = THURSDAY,
) -> Capacity | None:
    path = folder / "config.yaml"
    lines = ["state: /nowhere/state.db", "own_server: none", "defaults: {timezone: UTC, stop_first: true}", more]
    path.write_text("\n".join([*lines, "servers:", *(f"  - {one}" for one in entries)]))
    settings = config.load(path, {})
    sizes = {"servers": servers, "snapshots": 3 * servers, "page_size": 100}
    return capacity_of(settings, resolve(settings, None), latest or {}, **sizes, now=now)


def some(number: int, schedule: str = "30 3 * * *", keys: str = "") -> list[str]:
    return [f'{{id: {12345 + one}, schedule: "{schedule}"{keys}}}' for one in range(number)]


def test_it_says_that_it_fits_how_long_it_takes_and_for_how_long_servers_are_off(tmp_path: Path) -> None:
    found = capacity(tmp_path, *some(40))
    assert found is not None
    assert found.first == datetime(2025, 1, 17, 3, 30, tzinfo=UTC)
    assert summary_of(found) == (
        "It fits: 40 rotations in 13 min; the last to wait begins 6 min after its slot; servers are off for "
        "6 min 10 s, 6 min 21 s at worst."
    )
    assert warning_of(found) == ""
    assert [name for name, _ in facts_of(found)][-2:] == ["off", "assumed"]


def test_where_it_does_not_fit_it_names_figures_each_of_which_would_do(tmp_path: Path) -> None:
    late = some(40, keys=", missed_within: 10m")
    found = capacity(tmp_path, *late, more="max_concurrent: 5")
    assert found is not None
    assert summary_of(found) == (
        "It does not fit: 30 rotations of 40 would begin too late; what would do: `max_concurrent`: 20 or "
        "`rotations in one night`: 10."
    )
    assert warning_of(found).startswith("capacity: It does not fit: ")
    for more, entries in (("max_concurrent: 20", late), ("max_concurrent: 5", late[:10])):
        then = capacity(tmp_path, *entries, more=more)
        assert then is not None
        assert then.fits


def test_a_rate_that_is_too_low_keeps_servers_off_and_the_figure_that_would_do_is_named(tmp_path: Path) -> None:
    slow = "api: {requests_per_second: 0.2}"
    found = capacity(tmp_path, *some(3), more=slow, servers=900)
    assert found is not None
    assert not found.fits
    keys = dict(found.changes)
    then = capacity(
        tmp_path, *some(3), more=f"api: {{requests_per_second: {keys['api.requests_per_second']}}}", servers=900
    )
    assert then is not None
    assert then.fits


def test_a_window_that_closes_and_a_slot_that_comes_too_soon_are_counted(tmp_path: Path) -> None:
    shut = capacity(tmp_path, *some(40, keys=', window: "03:00-03:35"'), more="max_concurrent: 5")
    often = capacity(tmp_path, *some(1, "*/5 3 * * *"))
    assert shut is not None
    assert shut.night.late == 35
    assert often is not None
    assert often.night.in_flight == 6
    assert "6 slots would come while the one before is at work" in summary_of(often)


def test_the_fullest_night_of_the_week_is_looked_at(tmp_path: Path) -> None:
    entries = [
        '{id: 1, schedule: "30 3 * * *"}',
        '{id: 2, schedule: "30 3 * * sun"}',
        '{id: 3, schedule: "30 23 * * sat"}',
    ]
    found = capacity(tmp_path, *entries)
    assert found is not None
    assert found.first == datetime(2025, 1, 18, 23, 30, tzinfo=UTC)
    assert len(found.night.begun) == 3


@pytest.mark.parametrize("entry", ['{id: 1, schedule: "@yearly"}', '{id: 1, schedule: "@daily", paused: true}'])
def test_where_no_slot_lies_ahead_there_is_no_night(tmp_path: Path, entry: str) -> None:
    assert capacity(tmp_path, entry) is None


def test_what_a_server_needs_is_known_from_its_last_rotation(tmp_path: Path) -> None:
    found = capacity(tmp_path, *some(2))
    assert found is not None
    settings = config.load(tmp_path / "config.yaml", {})
    targets = resolve(settings, None)
    begun = Rotation.begin(
        id="one",
        server_id="12345",
        label="12345",
        slot=THURSDAY - timedelta(days=1),
        rules=settings.rules_of(targets[0]),
        now=THURSDAY,
        settle=120.0,
    )
    stopped = (Passed(step=Step.STOP, seconds=60.0),)
    last = changed(begun, step=Step.DONE, result=Result.SUCCESS, took=600.0, off_for=750.0, trail=stopped)
    known = capacity(tmp_path, *some(2), latest={"12345": last})
    assert known is not None
    first, second = sorted(capacity_json(known, targets, {"12345", "12346"})["servers"], key=lambda one: str(one["id"]))
    assert (first["snapshot"], first["is_assumed"], first["off"]) == (600, False, 730)
    assert (second["snapshot"], second["is_assumed"], second["off"]) == (300, True, 370)
