"""What of a rotation's record the ledger has not, and when that is worth a write.

Which writes a loss of power may undo is for the ledger to say: `ledger/leases/progress.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any

from snaprotd.core.creation import A_LOOK, Creation
from snaprotd.core.power import Power
from snaprotd.core.rotation import Rotation

_POWER = ("start_age", "off_for", "power_open", "request_age", "stop_age", "earlier_age", "running_for")
_AGES_OF_POWER = (*_POWER, "missing_for", "gone_for")
_AGES_OF_CREATION = ("create_open", "asked_ago")
_AT_WHICH_STEP = ("step", "trail", "note")


def _all_but(record: type, *names: str) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*(one.name for one in fields(record) if one.name not in names))


_of_rotation = _all_but(Rotation, "waited", "power", "creation", *_AT_WHICH_STEP)
_at_step = attrgetter(*_AT_WHICH_STEP)
_of_power = _all_but(Power, "running_since", *_AGES_OF_POWER)
_of_creation = _all_but(Creation, "unseen", *_AGES_OF_CREATION)
_ages_of_power = attrgetter(*_AGES_OF_POWER)
_ages_of_creation = attrgetter(*_AGES_OF_CREATION)


class Unsaved:
    """What is written of one rotation is compared with what it is now."""

    def __init__(self, claimed: Rotation | None = None) -> None:
        """`claimed`: it was written as it is when it was made ours."""
        self._saved = claimed
        self._no_ledger_since: float | None = None

    def saving(self) -> None:
        """Nobody knows what the ledger has, before it has answered."""
        self._saved = None

    def saved(self, rotation: Rotation) -> None:
        self._saved, self._no_ledger_since = rotation, None

    def note_no_ledger(self) -> float:
        """The ledger cannot be used: seconds since that was noted first, with nothing saved in between."""
        now = asyncio.get_running_loop().time()
        self._no_ledger_since = since = now if self._no_ledger_since is None else self._no_ledger_since
        return now - since

    def is_worth_it(self, rotation: Rotation, *, goes_on: bool) -> bool:
        """Whether it is to be written now. Not so where only ages have grown, by less than a quarter of `settle`.

        Ages that are lost make us wait for longer: so none may become less than what was written of it. `goes_on`: the
        next visit follows at once, and is saved: which step it is at can be told with that.
        """
        before = self._saved
        if before is None or self._no_ledger_since is not None or rotation.is_finished:
            return True
        if not goes_on and _at_step(before) != _at_step(rotation):
            return True
        return what_counts(before) != what_counts(rotation) or _have_aged(before, rotation, goes_on=goes_on)


def what_counts(rotation: Rotation) -> tuple[object, ...]:
    """What it says of more than its step, and that is not changed by time alone."""
    power, creation = rotation.power, rotation.creation
    # Since when it runs is counted back from the last look.
    is_known = [power.running_since is not None, *(age is not None for age in _aging(rotation))]
    return _of_rotation(rotation), _of_power(power), _of_creation(creation), is_known


def _have_aged(before: Rotation, now: Rotation, *, goes_on: bool) -> bool:
    enough = now.settle / 4
    unseen = now.creation.unseen - before.creation.unseen
    waited = now.waited - (0.0 if goes_on else before.waited)
    grown = [waited, *((new or 0.0) - (old or 0.0) for old, new in zip(_aging(before), _aging(now), strict=True))]
    return not (-A_LOOK <= unseen < enough and all(0.0 <= one < enough for one in grown))


def _aging(rotation: Rotation) -> list[float | None]:
    return [*_ages_of_power(rotation.power), *_ages_of_creation(rotation.creation)]
