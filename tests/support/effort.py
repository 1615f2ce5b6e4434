"""What a piece of work costs, in seconds of the processor, on a machine that does other things too."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_TRIES = 5


def effort(work: Callable[[], object], *, allowed: float) -> float:
    """Seconds of the processor that `work` takes: the least of some tries, of which one within `allowed` is the last.

    Other work on the machine makes some tries dearer and none cheaper; what is dear by itself is dear each time.
    """
    return least(lambda: _seconds(work), allowed=allowed)


def least(measured: Callable[[], float], *, allowed: float) -> float:
    """The least of some measurements, of which one within `allowed` is the last."""
    found = measured()
    for _ in range(MOST_TRIES - 1):
        if found < allowed:
            break
        found = min(found, measured())
    return found


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
