"""What sends a message, and what comes back. Each channel is a `Sender`; the room knows no rotation and no ledger.

Every address and password is a secret that stands in a file of its own. A receiver is no more trusted than any other
answer from outside: it has a time in which to answer, its answer a length, and its words are cleaned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from snaprotd.core.telling import Message
from snaprotd.core.words import in_one_line
from snaprotd.logs import redactor

LONGEST_SAID = 300
"""Letters that are shown of an answer."""


class Outcome(StrEnum):
    """What became of one attempt."""

    SENT = "sent"
    FAILED = "failed"
    """It may be tried again."""
    GIVEN_UP = "given_up"
    """The receiver will never take this message: to try again would change nothing."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    outcome: Outcome
    said: str
    """In words that may be shown."""


class Sender(Protocol):
    """One channel. None of its methods raises anything but what ends the task."""

    async def send(self, message: Message) -> Answer:
        """Try once."""

    async def look(self) -> Sequence[str]:
        """What is wrong with its files and its names, in sentences. Nothing is sent."""


def sent(said: str) -> Answer:
    return Answer(outcome=Outcome.SENT, said=shown(said))


def failed(why: str) -> Answer:
    return Answer(outcome=Outcome.FAILED, said=shown(why))


def given_up(why: str) -> Answer:
    return Answer(outcome=Outcome.GIVEN_UP, said=shown(why))


def shown(text: str) -> str:
    """Words from outside as they may be shown: without any secret, on one line, not too long."""
    return in_one_line(redactor.clean(text[: 8 * LONGEST_SAID]), LONGEST_SAID)
