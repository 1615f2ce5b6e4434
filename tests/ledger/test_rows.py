"""A rotation's row is one flat object, as every snaprotd has written it."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from snaprotd.core.creation import Creation
from snaprotd.core.policy import OnStopTimeout, Retention, Rules, WhenFull
from snaprotd.core.power import Power
from snaprotd.core.rotation import Passed, Rotation, Step
from snaprotd.ledger.rows import UnreadableRow, needs_of, read_rotation, written_rotation
from tests.support.policies import a_policy
from tests.support.rotations import changed, flat

BODY: dict[str, Any] = {
    "id": "r1",
    "server_id": "12345",
    "label": "web-01",
    "slot": "2025-01-16T03:30:00Z",
    "snapshot_name": "snaprotd-main-20250116T033000Z",
    "policy": {
        "schedule": ["30 3 * * *", "@weekly"],
        "timezone": "Europe/Berlin",
        "spread": "PT30M",
        "keep": {"last": 2, "hourly": 0, "daily": 0, "weekly": 2, "monthly": 0, "yearly": 0},
        "adopt": ["weekly-*"],
        "when_full": "replace_last",
        "stop_first": True,
        "stop_timeout": "PT5M",
        "on_stop_timeout": "hard_stop",
        "start_timeout": "PT10M",
        "snapshot_timeout": "PT30M",
        "missed": "run",
        "missed_within": "P1D",
        "paused": False,
    },
    "started_at": "2025-01-16T03:30:01.500000Z",
    "instance": "main",
    "limit": 5,
    "settle": 120.0,
    "description": "",
    "step": "wait",
    "waited": 12.5,
    "note": "the snapshot is in progress",
    "trail": [{"step": "look", "seconds": 1.0}],
    "held_off": True,
    "held_off_since": "2025-01-16T03:30:02Z",
    "stop_acknowledged": False,
    "hard_stop": True,
    "stop_timed_out": False,
    "running_allowed": False,
    "power_open": 7.25,
    "starts": 0,
    "start_age": 30.0,
    "went_off": True,
    "came_back": False,
    "went_off_at": "2025-01-16T03:30:20Z",
    "off_for": 17.0,
    "creates": 1,
    "create_open": None,
    "snapshot_id": "801",
    "unseen": 2.0,
    "deleted": ["7"],
    "undeletable": [],
    "error": None,
    "failed_step": None,
    "result": None,
    "finished_at": None,
}
"""As the first version wrote it, with a server that is held off."""

LATER: dict[str, Any] = {
    "window": [],
    "one_at_a_time": None,
    "retry": {"times": 2, "after": "PT30M"},
    "hold_manual": "P3D",
}
"""Keys of a policy that came later, each as it is written where nobody has set it."""


POWER_LATER = {
    "asked": 1,
    "released": 0,
    "request_age": None,
    "stop_age": None,
    "unstruck": False,
    "earlier_age": None,
    "waited_out": False,
    "running_for": None,
    "watched": False,
    "missing_for": None,
    "gone_for": None,
    "running_since": None,
    "unwatched": False,
    "in_doubt": False,
    "whose": "",
}
"""What is written of a server's power since then; of a row without it, no more is known."""

CREATION_LATER = {"create_asked": False, "accepted": False, "passed_over": [], "taken_at": None, "had_others": False}
CREATION_LATER |= {"failed": [], "asked_ago": None, "took": None}
"""And of its snapshot."""


WINDOW_LATER = {"begun": False, "skipped": "", "kind": "scheduled", "attempt": 1, "may_pass": False, "cause": ""}
WINDOW_LATER |= {"stop_number": 0}
"""And of what may keep it from beginning, of why it began, and whether it may be tried again."""


def at(second: int, microsecond: int = 0) -> datetime:
    return datetime(2025, 1, 16, 3, 30, second, microsecond, tzinfo=UTC)


ROTATION = Rotation(
    id="r1",
    server_id="12345",
    label="web-01",
    slot=at(0),
    snapshot_name="snaprotd-main-20250116T033000Z",
    rules=Rules(
        policy=a_policy(
            "30 3 * * *",
            "@weekly",
            timezone="Europe/Berlin",
            spread=timedelta(minutes=30),
            keep=Retention(last=2, weekly=2),
            adopt=("weekly-*",),
            when_full=WhenFull.REPLACE_LAST,
            stop_first=True,
            on_stop_timeout=OnStopTimeout.HARD_STOP,
        )
    ),
    started_at=at(1, 500000),
    step=Step.WAIT,
    waited=12.5,
    note="the snapshot is in progress",
    trail=(Passed(step=Step.LOOK, seconds=1.0),),
    power=Power(
        asked=1,
        held_off_since=at(2),
        hard_stop=True,
        power_open=7.25,
        start_age=30.0,
        went_off=True,
        went_off_at=at(20),
        off_for=17.0,
    ),
    creation=Creation(creates=1, snapshot_id="801", unseen=2.0),
    deleted=("7",),
)


def test_a_row_of_the_first_version_is_read() -> None:
    assert read_rotation(json.dumps(BODY)) == ROTATION


ROOM_LATER = {
    "deleting": [],
    "stubborn": [],
    "ghosts": [],
    "immovable": [],
    "to_free": 0,
    "one_failed_went": False,
    "complaint": "",
    "refused_with": None,
    "limit_is_said": False,
    "was_in_progress": False,
}


WHERE_EMPTY = frozenset({"held_off", "policy", "instance", "limit"})
"""What is written whatever it is."""


def test_a_row_is_written_as_the_first_version_wrote_it_with_what_came_later_but_for_what_is_empty() -> None:
    later = {
        **BODY,
        **POWER_LATER,
        **CREATION_LATER,
        **ROOM_LATER,
        **WINDOW_LATER,
        "policy": {**BODY["policy"], **LATER},
    }
    filled = {name: value for name, value in later.items() if name in WHERE_EMPTY or value not in (None, "", [], 0)}
    assert json.loads(written_rotation(ROTATION)) == filled
    assert read_rotation(json.dumps(later)) == read_rotation(json.dumps(filled)) == ROTATION


AGES = [
    field.name
    for kind in (Rotation, Power, Creation)
    for field in fields(kind)
    if field.default is None and field.type == "float | None"
]


@pytest.mark.parametrize("name", AGES)
def test_what_has_happened_just_now_is_another_thing_than_what_has_not(name: str) -> None:
    open_ = changed(ROTATION, **{name: 0.0})
    assert read_rotation(written_rotation(open_)) == open_ != changed(ROTATION, **{name: None})


@pytest.mark.parametrize(
    ("name", "default"), [("power_open", None), ("off_for", 0.0), ("trail", ()), ("unseen", 0.0), ("creates", 0)]
)
def test_what_a_row_does_not_have_has_its_default(name: str, default: object) -> None:
    row = {key: value for key, value in BODY.items() if key != name}
    assert read_rotation(json.dumps(row)) == changed(ROTATION, **{name: default})


LEFT_OUT = re.findall(
    r"\w+",
    """
    description waited note trail running_allowed stop_number begun skipped deleting deleted undeletable stubborn
    ghosts immovable to_free one_failed_went complaint refused_with limit_is_said was_in_progress error failed_step
    may_pass cause result finished_at asked released whose held_off_since stop_acknowledged hard_stop stop_timed_out
    power_open request_age stop_age starts start_age went_off unstruck earlier_age waited_out came_back running_for
    running_since watched unwatched missing_for gone_for went_off_at off_for in_doubt creates create_open
    snapshot_id unseen create_asked accepted passed_over taken_at had_others failed asked_ago took
""",
)
"""What rows lack that stand in ledgers by now."""


def test_what_was_left_out_of_a_row_once_is_empty_for_ever() -> None:
    row = {key: value for key, value in BODY.items() if key not in LEFT_OUT} | {"held_off": False}
    assert [name for name in LEFT_OUT if flat(read_rotation(json.dumps(row)))[name]] == []


def test_a_promise_in_a_row_with_words_of_a_newer_version_is_read() -> None:
    assert read_rotation(json.dumps({**BODY, "hooks": ["thaw"], "policy": {**BODY["policy"], "moods": ["sunny"]}}))


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "{}", '{"policy": 7}', json.dumps({**BODY, "step": "dance"})])
def test_what_is_no_rotation_is_refused(body: str) -> None:
    with pytest.raises(UnreadableRow):
        read_rotation(body)


@pytest.mark.parametrize(
    ("keys", "attempt", "needs"),
    [({}, 1, 1), ({"window": ("01:00-06:00",)}, 1, 2), ({}, 2, 2)],
    ids=["plain", "window", "second attempt"],
)
def test_a_rotation_that_an_older_snaprotd_would_go_on_with_wrongly_asks_for_a_newer_one(
    keys: dict[str, Any], attempt: int, needs: int
) -> None:
    begun = read_rotation(json.dumps(BODY))
    schedule = replace(begun.policy.schedule, **keys)
    policy = replace(begun.policy, schedule=schedule)
    assert needs_of(replace(begun, rules=replace(begun.rules, policy=policy), attempt=attempt)) == needs
