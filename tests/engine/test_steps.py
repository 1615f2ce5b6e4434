"""The steps as the loop finds them. What each of them does is tested with whole rotations, in tests/scenarios."""

from __future__ import annotations

from datetime import UTC, datetime

from snaprotd.core.policy import Rules
from snaprotd.core.rotation import MAX_CREATES, STEPS, Failed, Rotation
from snaprotd.engine.steps import ACTIONS, _why_not_asked
from tests.support.policies import a_policy
from tests.support.rotations import changed

SLOT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)


def test_every_step_but_the_last_has_what_it_does() -> None:
    assert [*ACTIONS] == [*STEPS[:-1]]


def test_a_snapshot_is_asked_for_so_many_times_and_no_more() -> None:
    begun = Rotation.begin(
        id="r1", server_id="12345", label="web", slot=SLOT, rules=Rules(policy=a_policy()), now=SLOT, settle=40.0
    )
    assert _why_not_asked(changed(begun, creates=MAX_CREATES - 1), ()) is None
    assert isinstance(_why_not_asked(changed(begun, creates=MAX_CREATES), ()), Failed)
