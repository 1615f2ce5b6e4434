"""Policies, told in few words."""

from __future__ import annotations

from typing import Any

from snaprotd.core.policy import Policy
from snaprotd.core.schedule import Schedule

NIGHTLY = "30 3 * * *"


def slots(*expressions: str, timezone: str = "UTC") -> Schedule:
    return Schedule(expressions=expressions, timezone=timezone)


def a_policy(*expressions: str, timezone: str = "UTC", **keys: Any) -> Policy:
    """A policy with this schedule, nightly where none is given; its other keys as the configuration names them."""
    return Policy(schedule=slots(*expressions or (NIGHTLY,), timezone=timezone), **keys)
