"""What of a rotation's record the ledger has not, and when that is worth a write."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from snaprotd.core.rotation import Rotation

A_LOOK = 1.0
"""Seconds: the time since the snapshot was seen begins anew with each look, and a visit itself takes a moment."""

_POWER = ("start_age", "off_for", "power_open", "request_age", "stop_age", "earlier_age", "running_for")
_AGES_OF_POWER = (*_POWER, "missing_for", "gone_for")
_AGES_OF_CREATION = ("create_open", "asked_ago")


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
        if goes_on:
            before = replace(before, step=rotation.step, trail=rotation.trail, note=rotation.note, waited=0.0)
        return without_ages(before) != without_ages(rotation) or _have_aged(before, rotation)


def without_ages(rotation: Rotation) -> Rotation:
    """It, with nothing in it that time alone changes."""
    power, creation = rotation.power, rotation.creation
    known = {name: None if getattr(power, name) is None else 0.0 for name in _AGES_OF_POWER}
    asked = {name: None if getattr(creation, name) is None else 0.0 for name in _AGES_OF_CREATION}
    since = power.running_since and rotation.started_at  # counted back from the last look
    return replace(
        rotation,
        waited=0.0,
        power=replace(power, running_since=since, **known),  # type: ignore[arg-type]
        creation=replace(creation, unseen=0.0, **asked),  # type: ignore[arg-type]
    )


def _have_aged(before: Rotation, now: Rotation) -> bool:
    enough = now.settle / 4
    unseen = now.creation.unseen - before.creation.unseen
    grown = [new - old for old, new in zip(_ages(before), _ages(now), strict=True)]
    return not (-A_LOOK <= unseen < enough and all(0.0 <= one < enough for one in grown))


def _ages(rotation: Rotation) -> list[float]:
    power, creation = rotation.power, rotation.creation
    named = [getattr(power, name) for name in _AGES_OF_POWER] + [getattr(creation, name) for name in _AGES_OF_CREATION]
    return [rotation.waited, *(age or 0.0 for age in named)]
