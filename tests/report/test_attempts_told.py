"""What `plan`, `history` and the page say of attempts at a slot."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from snaprotd.commands.text.tables import history_text
from snaprotd.commands.text.terminal import show
from snaprotd.config.file import parse
from snaprotd.config.settings import resolve
from snaprotd.core.model import Machine
from snaprotd.core.policy import Kind, Rules
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.report.rows import history_row, people_plan_of
from tests.support.policies import a_policy
from tests.support.rotations import changed
from tests.support.virtual_time import START

SLOT = datetime(2025, 1, 16, 9, 30, tzinfo=UTC)


def attempt(**changes: Any) -> Rotation:
    begun = Rotation.begin(
        id="r1", server_id="1", label="web-01", slot=SLOT, rules=Rules(policy=a_policy()), now=SLOT, settle=40.0
    )
    ended = {"step": Step.DONE, "result": Result.FAILURE, "failed_step": Step.WAIT, "error": "it ended as `failed`"}
    return changed(begun, **{**ended, "finished_at": SLOT + timedelta(minutes=9), **changes})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("stop_first: true", "2 times more where it fails, 30m later: off up to 3 times a night"),
        (
            "retry: {times: 1, after: 2h}, stop_first: true",
            "1 time more where it fails, 2h later: off up to 2 times a night",
        ),
        ("stop_first: true, retry: {times: 0}", ""),
        ("keep: 4", ""),
    ],
)
def test_a_plan_says_how_often_a_server_may_be_off_in_a_night(keys: str, said: str) -> None:
    config = parse(f'servers: [{{id: 1, schedule: "@daily", {keys}}}]', "c.yaml", {})
    (target,) = resolve(config, None)
    assert people_plan_of(config, target, None, now=START, machine=Machine(), count=3)["retry"] == said


def test_the_history_tells_why_a_server_was_off_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    later = SLOT + timedelta(minutes=41)
    second = attempt(
        kind=Kind.RETRY,
        attempt=2,
        started_at=later,
        finished_at=later + timedelta(minutes=5),
        went_off_at=later + timedelta(seconds=30),
        off_for=190.0,
        result=Result.SUCCESS,
        failed_step=None,
        error=None,
        snapshot_id="802",
    )
    by_hand = replace(attempt(kind=Kind.MANUAL), slot=SLOT - timedelta(days=3), started_at=SLOT - timedelta(days=3))
    show(history_text([second, attempt(), by_hand]))
    said = " ".join(capsys.readouterr().out.split())
    assert "2025-01-16 10:11 web-01 retry 2 success 5 min took snapshot 802; off 10:11-10:14; slot 09:30" in said
    assert "2025-01-16 09:30 web-01 scheduled failure 9 min at wait: it ended as `failed`" in said
    assert "2025-01-13 09:30 web-01 manual failure" in said
    assert said.endswith("Times are those of UTC.")


@pytest.mark.parametrize("kind", Kind)
def test_a_row_of_the_history_has_its_kind_and_its_number(kind: Kind) -> None:
    row = history_row(attempt(kind=kind, attempt=3))
    assert (row["kind"], row["attempt"], row["slot"], row["started_at"]) == (
        kind, 3, "2025-01-16T09:30:00Z", "2025-01-16T09:30:00Z"
    )  # fmt: skip
