"""The replicas that share a ledger on a server: who of them lives, who may claim slots, and what is whose part.

A replica is a process. That it lives is observed: its counter grows. No clock of one is compared with another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BEAT_EVERY = 10.0
"""Seconds between two beats of a replica."""
LIVES_FOR = 35.0
"""Seconds for which a replica counts as living after its last beat was seen: three may be lost."""
LOST_AFTER = 300.0
"""Seconds for which one stands still before people are told: whoever starts it anew has had time for it."""
FORGOTTEN_AFTER = 3600.0
"""Seconds after which the row of one that stands still is deleted, by anybody."""
JOINS_WITHIN = 15.0
"""Seconds in which each that lives has beaten once, and so has seen who has just come."""

REPORTER = "reporter"
"""Tells the metrics that describe what all replicas share."""
TELLER = "teller"
"""Sends messages and the heartbeat."""
ROLES = (REPORTER, TELLER)

ANSWERED = "answered"
"""What a replica says of itself: whether the provider answers it."""
ON_TIME = "on_time"
"""Whether its clock shows the provider's time, as far as is known."""


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A row of the table of replicas."""

    id: str
    """Random, for each process."""
    beat: int
    version: str
    config: str
    """A hash over what decides in its configuration."""
    generation: int
    """The order in which the configurations came into force, as the database saw it."""
    host: str
    """Where it runs, for people to read."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """What else it says of itself."""

    @property
    def is_answered(self) -> bool:
        """The provider answers it, as far as it says."""
        return self.body.get(ANSWERED) is not False

    @property
    def is_on_time(self) -> bool:
        """Its clock shows the provider's time, as far as it says."""
        return self.body.get(ON_TIME) is not False


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A replica as it was seen last."""

    replica: Replica
    since: float
    """When its beat was first seen as it is, in seconds of our own uptime."""
    first: float
    """When it was first seen at all."""
