"""Which saves of a rotation tell only how far it is: a loss of power may undo those, as if they had not been made yet.

Whoever goes on from what was saved before looks again, and finds it so. What was asked for, is owed, or has become of
it is no progress, nor is which snapshot is its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snaprotd.core.creation import A_LOOK
from snaprotd.core.power import Power
from snaprotd.core.rotation import Rotation

_OWN = ("step", "waited", "note", "trail", "was_in_progress")
_OF_CREATION = ("unseen", "asked_ago", "taken_at", "took")
"""The engine's `unsaved` says which of these are worth a write at all."""


def tells_only_how_far(now: Rotation, before: Rotation | None) -> bool:
    """`before`: as it was saved last; None where that is not known."""
    if before is None or now.is_finished or now.creation.unseen < before.creation.unseen - A_LOOK:
        return False  # that is the one age that begins anew: undone it would be larger than it is
    is_open = now.creation.create_open is not None  # each of these is counted, and a count is never to go back
    return not is_open and _is_at_rest(now.power, before.power) and _without_progress(now, before) == before


def _is_at_rest(now: Power, before: Power) -> bool:
    """Nothing is owed to its server, nothing of ours may strike it, and none of that has changed."""
    is_followed = now.is_followed or before.is_followed
    return not is_followed and (now.asked, now.released) == (before.asked, before.released)


def _without_progress(now: Rotation, before: Rotation) -> Rotation:
    creation = replace(now.creation, **_of(before.creation, _OF_CREATION))
    return replace(now, power=before.power, creation=creation, **_of(before, _OWN))


def _of(record: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}
