"""How much longer than `settle` one looks before a request is believed to have come to nothing."""

from __future__ import annotations

import pytest

from snaprotd.core.asking.settling import lease_for, settled_after
from snaprotd.core.creation import Creation
from snaprotd.core.power import Power


@pytest.mark.parametrize(
    ("settle", "after"),
    [(0.0, 30.0), (2.0, 32.0), (40.0, 70.0), (119.0, 149.0), (120.0, 150.0), (121.0, 151.25), (3600.0, 4500.0)],
    ids=["none at all", "a test's", "short", "just below the default", "the default", "just above it", "long"],
)
def test_the_margin_is_a_quarter_and_never_less_than_a_lease_outlives_a_request(settle: float, after: float) -> None:
    assert settled_after(settle) == after


def test_with_a_settle_of_nothing_no_second_request_goes_out_while_the_first_may_be_on_the_wire() -> None:
    assert Creation(creates=1, create_open=29.9).is_unsettled(0.0)
    assert not Creation(creates=1, create_open=30.0).is_unsettled(0.0)
    asked = Power(asked=1, unstruck=True, power_open=29.9)
    assert asked.stop_is_open(settle=0.0, start_timeout=600.0)


@pytest.mark.parametrize("timeout", [0.001, 2.0, 30.0, 600.0])
def test_the_margin_is_never_less_than_what_is_left_of_a_lease_when_the_last_request_goes_out(timeout: float) -> None:
    assert settled_after(0.0) >= lease_for(timeout) - timeout > 0
