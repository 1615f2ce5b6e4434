"""The error words. Every failure at the provider's or the ledger's door is translated into one of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class SnaprotdError(Exception):
    """Anything that went wrong in a way we foresaw. Its text is a sentence for the user."""


class CloudError(SnaprotdError):
    """The provider's API did not do what was asked."""

    cause: ClassVar[str] = ""
    """A word for what others may fail for too, so that it can be told from a server's own; empty where it is that."""


UNTOUCHABLE, OWN_SERVER = "untouchable", "own_server"
"""Causes that are a server's own, and have an answer of their own: the provider lets nobody touch it; we run on it."""

LONGEST_PAUSE = 900.0
"""Seconds of a `retry_after` that are believed at the most: it is a hint (RFC 9110, 10.2.3), and what stands in it has
been an epoch, or a day."""
LONGEST_PAUSE_WHILE_OFF = 60.0
"""The same, for whoever holds a server off meanwhile."""


class Temporary(CloudError):
    """It may work later: a time-out, a refused connection, 429, 5xx, an answer that cannot be read.

    `retry_after` is what the provider asked for, in seconds, where it did.
    """

    cause = "api"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unclear(Temporary):
    """The answer to a request that changes something was lost: it may have been carried out, or may yet be."""


class Accepted(Unclear):
    """The provider has said that it made what was asked for, and which one that is was lost: never ask again."""


class NotSent(Temporary):
    """The request never left this machine, for certain: there was no connection."""


class HeldBack(NotSent):
    """The provider has refused this a moment ago, and answers the others: it is asked again by itself, and later."""

    cause = ""


class CalledOff(NotSent):
    """What a rotation was waiting to ask was not asked: the process is to end, or the time of its step has run out."""


class Outdated(CalledOff):
    """What a request was decided on was seen too long ago when its turn came: look again. Nothing was sent.

    `soon`: at once; where that was of no use, at the next poll.
    """

    def __init__(self, message: str, *, soon: bool = True) -> None:
        super().__init__(message)
        self.soon = soon


class OutsideWindow(CalledOff):
    """The first request of a rotation that changes anything was not sent: its window is closed."""


class HeldSince(CalledOff):
    """A person holds what was to be deleted, since the look that decided over it: the request was not sent."""


class Busy(Temporary):
    """Not carried out, and not now: something else is going on with the server. Ask again at the next poll."""

    cause = ""


class Permanent(CloudError):
    """Asking again will not help."""

    cause = "refusal"


class Full(Permanent):
    """No snapshot was taken: the server is full, or what was asked for is wrong. Look which it was.

    A provider may have one answer for both. `is_said`: in its words it is the number of snapshots.
    """

    cause = ""

    def __init__(self, message: str, *, is_said: bool = False) -> None:
        super().__init__(message)
        self.is_said = is_said


class NotFound(Permanent):
    """The server or the snapshot does not exist, by the provider's own word and not by a proxy's."""

    cause = ""


class Anothers(Permanent):
    """The id is another server's by now: what was meant by it must not be asked of that one."""

    cause = ""


class Refused(Permanent):
    """The token is missing, wrong, or lacks the permission."""

    cause = "token"


class UnknownServer(SnaprotdError):
    """A server named on the command line does not exist, or the name fits several."""


class LedgerError(SnaprotdError):
    """The ledger could not be read or written (disk full, read-only, database gone)."""


class AnothersLedger(LedgerError):
    """The ledger is another account's: nothing of it is for the one that the configuration names."""


class LeaseLost(SnaprotdError):
    """Another process holds this rotation now: stop without another request."""


class DeletionUnderWay(SnaprotdError):
    """What is to be held may be gone in a moment: nothing was saved."""


class GroupTaken(SnaprotdError):
    """Another server of the group is held off: nothing was saved, and this one is not to be stopped now."""


def told_in_log(error: Exception) -> str:
    """The word for a mistake of ours. Not the error's own text, which may hold anything: the log takes secrets out."""
    return f"internal error ({type(error).__name__}): see the log"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One thing wrong with the configuration. Its text is one line, the place first, as compilers write it."""

    source: str
    """The file, as the user named it."""
    message: str
    line: int | None = None
    """From 1; None where the file could not be read at all."""
    column: int | None = None
    path: str = ""
    """The value within the file, e.g. `servers[0].keep`."""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        return ": ".join(filter(None, (place, self.path, self.message)))


class ConfigError(SnaprotdError):
    """The configuration is refused. `mistakes` are those that are shown, in the order of the file."""

    def __init__(self, mistakes: Sequence[Mistake], text: str = "", *, more: int = 0) -> None:
        """`more` is how many were found besides."""
        self.mistakes = tuple(mistakes)
        self.and_more = f"and {more} more" if more else ""
        """How many are not shown, in words; empty where all are."""
        self.text = text
        """The file's content, to show the lines; it may hold a secret, so it is in no message."""
        super().__init__("\n".join(filter(None, (*map(str, mistakes), self.and_more))))
