"""What a step may act on: what a look has shown, as long as nothing of ours went out since, and for a while only.

Looked before it acted: a step that has no evidence looks. What was seen is used again only by the steps that follow at
once, so that look, make room, stop and snapshot need one look between them. A change, a wait or a doubt ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")

OLDEST_TO_SEND_BY = 30.0
"""Seconds: where a look is older when the bytes of a stop, or of a request for a snapshot, are about to go out, there
is another one first."""
OLDEST_TO_DELETE_BY = 2.0
"""The same for a DELETE: the server must not be restored then, and whoever deletes others meanwhile must be seen."""


class Use(Enum):
    """What is to be done on the strength of a look."""

    DECIDE = "decide"
    """To go on."""
    SEND = "send"
    """To stop the server, or to ask for its snapshot."""
    DELETE = "delete"


TO_QUEUE_WITHIN = {Use.SEND: 0.5, Use.DELETE: 0.75}
"""The part of that time within which a request is put into the queue; the rest is for its turn to come."""


@dataclass(frozen=True, kw_only=True)
class Evidence(Generic[T]):
    """What one look has shown of one server."""

    shown: T
    age: float
    """Seconds since the request went out that showed it; of a list in pages, that of the first which concerns it."""
    is_outrun: bool = False
    """Something of ours has gone out for the server since, or may have, or a wait has gone by."""
    took: float = 0.0
    """Seconds that the looks took which were made in the turn in which the request is to go out: no queue is in them.
    So much older may it be, else nothing could be done at a provider that answers slowly."""


def serves(evidence: Evidence[T], use: Use, *, poll_interval: float, is_to_queue: bool = False) -> bool:
    """Whether that may be done without another look. `poll_interval` in seconds: as old is what a poll has shown.

    `is_to_queue`: it has to wait for its turn first, and a part of the time is for that.
    """
    decides = min(poll_interval, OLDEST_TO_SEND_BY / 2)
    oldest = {Use.DECIDE: decides, Use.SEND: OLDEST_TO_SEND_BY, Use.DELETE: OLDEST_TO_DELETE_BY}[use]
    oldest = oldest * (TO_QUEUE_WITHIN.get(use, 1.0) if is_to_queue else 1.0) + evidence.took
    return not evidence.is_outrun and 0 <= evidence.age <= oldest
