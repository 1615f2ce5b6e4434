"""How long a rotation is this process's, by a clock of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Lease:
    epoch: int
    valid_until: float
    """By this process's own clock, which counts suspended time too."""


def uptime() -> float:
    """Seconds of a clock that no one sets and that counts the time in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
