"""The steps as the loop finds them. What each of them does is tested with whole rotations, in tests/scenarios."""

from __future__ import annotations

from snaprotd.core.rotation import STEPS
from snaprotd.engine.steps import ACTIONS


def test_every_step_but_the_last_has_what_it_does() -> None:
    assert [*ACTIONS] == [*STEPS[:-1]]
