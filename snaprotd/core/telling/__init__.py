"""What people are told: what has happened, the message that is made of it, and the letter that brings it to a channel.

Which events are worth a message is decided in `edges`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from snaprotd.core.words import Json, plain_id, zulu

GIVEN_UP_AFTER = timedelta(hours=24)
"""How long a letter is tried."""


class Kind(StrEnum):
    """What a message is about: the words by which a channel chooses, and TEST."""

    FAILURE = "failure"
    """A rotation has failed, after its slot's last attempt; or something that all of them need."""
    RECOVERY = "recovery"
    HELD_OFF = "held_off"
    """A server is off because of us, and nobody knows when it will run again."""
    BLOCKED = "blocked"
    """The slots of a server are taken by what may not be deleted."""
    VANISHED = "vanished"
    """A snapshot of ours is no longer at the provider."""
    TEST = "test"


WORDS = tuple(kind for kind in Kind if kind is not Kind.TEST)
"""What a channel may choose."""

ROTATIONS = frozenset({Kind.FAILURE, Kind.BLOCKED})
"""What the success of a rotation ends."""


class Style(StrEnum):
    """Whose rules the pings of a check keep to."""

    HEALTHCHECKS = "healthchecks"
    UPTIME_KUMA = "uptime_kuma"
    PLAIN = "plain"
    """Any ping is success, so that a failure is told by silence."""


@dataclass(frozen=True, kw_only=True)
class Who:
    """A server."""

    id: str
    name: str
    """Its label."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What has happened. A `RECOVERY` is told for each success: whether it ends anything is not for the teller."""

    id: str
    """Of this event alone, and the same whenever it is told again."""
    at: datetime
    kind: Kind
    server: Who | None = None
    """None where it is about no one server."""
    text: str = ""
    do: str = ""
    """What to do about it: one sentence."""
    severity: str = "alarm"
    """As the status report has it: alarm, attention or ok."""
    cause: str = ""
    """A word for what is one and the same thing for several servers; empty where it is this one's own."""
    ends: frozenset[Kind] = ROTATIONS
    """Of a `RECOVERY`: what is over."""
    patience: timedelta = timedelta(0)
    """How long it must have lasted to be worth a message."""
    rotation: str = ""
    """The id of the rotation that has ended."""
    about: str = ""
    """The kind of a problem that is a trouble by itself, whatever else there is with the server; empty for all else."""
    also_ends: frozenset[str] = frozenset()
    """What else is over by it, whatever it tells itself: what that is `about`."""
    once: bool = False
    """It is told once, and nothing ends it: what it tells of is done, and does not last."""
    leaves: bool = False
    """By what it tells its server is not looked after any more: what stands of its rotations is told with it."""
    also: frozenset[Kind] = frozenset()
    """Whatever else the message is about."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a channel is given to send."""

    id: str
    """The same whenever it is sent again: by it a receiver knows a double."""
    at: datetime
    kind: Kind
    severity: str
    server: Who | None
    text: str
    do: str
    url: str = ""
    rotation: str = ""
    """Of a ping: the id of the rotation that has ended."""
    also: frozenset[Kind] = frozenset()
    """Whatever else it is about: a channel that has chosen that gets it too."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """All that it is about."""
        return self.also | {self.kind}

    def as_json(self) -> Json:
        """The body of a webhook, and what a program reads."""
        return {
            "id": self.id,
            "at": zulu(self.at),
            "kind": str(self.kind),
            "severity": self.severity,
            "server": self.server and {"id": plain_id(self.server.id), "name": self.server.name},
            "text": self.text,
            "do": self.do,
            "url": self.url,
        }


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A message on its way to one channel."""

    channel: str
    message: Message
    since: datetime
    """When it was posted; it is given up `GIVEN_UP_AFTER` that."""
    tries: int = 0
    passed_over: int = 0
    """How often it was not taken while another one was, right before and in between: it is refused by itself."""

    @property
    def key(self) -> tuple[str, str]:
        """Of which there is one."""
        return self.channel, self.message.id
