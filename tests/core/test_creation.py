"""The one snapshot that is to be made, transition by transition."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from snaprotd.core import creation
from snaprotd.core.creation import Creation
from snaprotd.core.model import SnapshotState
from tests.support.nouns import a_snapshot

SEEN = a_snapshot(801, "snaprotd-main-20250116T033000Z", datetime(2025, 1, 16, 3, 31, tzinfo=UTC))
ASKED = Creation(creates=1, create_open=0.0, unseen=9.0)
WATCHED = Creation(creates=1, asked_ago=41.0)
COMPLETED = Creation(creates=1, asked_ago=41.0, snapshot_id="801", taken_at=SEEN.created_at)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (creation.promised(Creation()), Creation(creates=1, create_open=0.0, create_asked=True, asked_ago=0.0)),
        (
            creation.promised(Creation(creates=1)),
            Creation(creates=2, create_open=0.0, create_asked=True, asked_ago=0.0),
        ),
        (
            creation.promised(
                Creation(creates=1, passed_over=("7",), had_others=True), had_others=False, passed_over=("7", "8")
            ),
            Creation(
                creates=2, create_open=0.0, create_asked=True, asked_ago=0.0, passed_over=("7", "8"), had_others=True
            ),
        ),
        (creation.accepted(ASKED), Creation(creates=1, create_open=0.0, unseen=9.0, accepted=True)),
        (creation.lost(Creation(creates=1, create_open=8.0)), Creation(creates=1, create_open=0.0)),
        (creation.not_sent(ASKED), Creation(creates=0, unseen=9.0)),
        (creation.refused(ASKED), Creation(creates=1, unseen=9.0)),
        (creation.made(ASKED, "801"), Creation(creates=1, snapshot_id="801")),
        (creation.seen(ASKED, SEEN), Creation(creates=1, create_open=0.0, snapshot_id="801", taken_at=SEEN.created_at)),
        (
            creation.seen(Creation(taken_at=SEEN.created_at), replace(SEEN, created_at=None)),
            Creation(snapshot_id="801", taken_at=SEEN.created_at),
        ),
        (creation.aged(ASKED, 5.0), Creation(creates=1, create_open=5.0, unseen=14.0)),
        (creation.aged(Creation(), 5.0), Creation(unseen=5.0)),
        (creation.seen(WATCHED, SEEN, was_watched=True), replace(COMPLETED, took=41.0)),
        (creation.seen(WATCHED, SEEN), COMPLETED),
        (creation.seen(WATCHED, replace(SEEN, state=SnapshotState.IN_PROGRESS), was_watched=True), COMPLETED),
        (creation.ended_failed(Creation(snapshot_id="801"), SEEN), Creation(snapshot_id="801", failed=("801",))),
        (
            creation.passed_by(Creation(creates=1, snapshot_id="801", accepted=True, create_open=9.0), SEEN),
            Creation(creates=1, failed=("801",)),
        ),
        (
            creation.carried(Creation(creates=2, create_open=9.0, asked_ago=9.0, passed_over=("7",)), 1800.0),
            Creation(create_asked=True, create_open=9.0, asked_ago=1809.0, passed_over=("7",)),
        ),
        (creation.carried(Creation(), 1800.0), Creation()),
    ],
    ids=[
        "it is promised",
        "it is promised again",
        "what bore its name at any of the requests is another one",
        "it is accepted: it will be there, and its time begins anew",
        "the answer is lost: its time begins anew",
        "it was not sent, and may be",
        "it is refused: it was sent, and is not open",
        "it is made",
        "it is listed: whether the request is open is not told by that",
        "it is listed without its date",
        "what is open grows older",
        "what is not open has no age",
        "it is completed, and was watched until then",
        "it is completed, and nobody knows since when",
        "it goes on",
        "it has failed: whose it is remains known",
        "it has failed for certain: another one is taken",
        "the next attempt knows that it was asked for, and may ask anew",
        "the next attempt knows that nothing was asked for",
    ],
)
def test_a_transition_changes_what_its_name_says_and_nothing_else(after: Creation, expected: Creation) -> None:
    assert after == expected


@pytest.mark.parametrize(("age", "unsettled"), [(None, False), (0.0, True), (69.9, True), (70.0, False)])
def test_a_lost_request_is_looked_for_longer_than_it_may_take(age: float | None, unsettled: bool) -> None:
    assert Creation(create_open=age).is_unsettled(40.0) is unsettled
