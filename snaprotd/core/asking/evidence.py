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
"""Seconds: where a list is older when the bytes of a DELETE are about to go out, that of the server is read before."""
OLDEST_READ_FOR_IT = 15.0
"""The same for a list that was read for that DELETE and nothing else, and has the next turn, whenever that is."""


class Use(Enum):
    """What is to be done on the strength of a look."""

    DECIDE = "decide"
    """To go on, and to put a request into the queue."""
    SEND = "send"
    """To stop the server, or to ask for its snapshot, as the bytes go out."""
    DELETE = "delete"


@dataclass(frozen=True, kw_only=True)
class Evidence(Generic[T]):
    """What one look has shown of one server."""

    shown: T
    age: float
    """Seconds since the request went out that showed it; of a list in pages, that of the first which concerns it."""
    is_outrun: bool = False
    """Something of ours has gone out for the server since, or may have, or a wait has gone by."""
    is_for_a_deletion: bool = False
    """It is the list of this server alone, read because another was too old to delete by."""


def serves(evidence: Evidence[T], use: Use, *, poll_interval: float) -> bool:
    """Whether a step may do that without another look. `poll_interval` in seconds: as old is what a poll has shown.

    What is to be sent still has to wait for its turn: it is put into the queue with half of the time left.
    """
    for_deletion = OLDEST_READ_FOR_IT if evidence.is_for_a_deletion else OLDEST_TO_DELETE_BY
    decides = min(poll_interval, OLDEST_TO_SEND_BY / 2)
    oldest = {Use.DECIDE: decides, Use.SEND: OLDEST_TO_SEND_BY, Use.DELETE: for_deletion}[use]
    return not evidence.is_outrun and 0 <= evidence.age <= oldest
