"""What the provider refuses for itself: one request, one kind of request or one server's, while it answers all others.

Such a refusal says nothing of how fast the account may ask. What is refused so is asked again at a pace of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from snaprotd.core.errors import LONGEST_PAUSE, LONGEST_PAUSE_WHILE_OFF

IN_A_ROW = 2
"""Refusals without an answer between them: what is everybody's limit hardly meets one and the same twice."""
ANSWERED_BESIDE = 5
"""Others that must have been answered meanwhile."""
TO_ONE_REFUSED = 4
"""Of these so many to each that was refused as well: where more are, all are meant."""
FIRST_HOLD = 2.0
"""Seconds for which it is held back the first time; each time twice as long as the last."""
LONGEST_HOLD = 60.0
SHARE = 0.1
"""Of what is configured, for all together that are held back: where they are many each of them waits longer."""
REMEMBERED = 3600.0
"""Seconds after the last refusal in which it is remembered how often something was refused in a row."""
HELD = LONGEST_PAUSE + LONGEST_HOLD
"""Seconds after its last refusal in which a request is held back, or asked again."""

Group = tuple[str, str]
"""A kind and a subject; one of them is empty where any is meant."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a request is about."""

    kind: str
    """Its method, its endpoint and its action."""
    subject: str
    """The id of what it is asked for; `*` where it is asked of the account."""
    words: str = ""
    """As it is told."""

    @property
    def key(self) -> Group:
        return self.kind, self.subject

    @property
    def groups(self) -> tuple[Group, ...]:
        """Those that it may be refused with: itself, its kind, and all that is about the same."""
        return self.key, (self.kind, ""), *([("", self.subject)] if self.subject != "*" else [])


@dataclass(kw_only=True)
class _Row:
    """Refusals in a row of one group, and what became of the others meanwhile. Times by one monotonic clock."""

    since: float
    """When the first of them was known."""
    known_at: float
    """When the last was."""
    refused: int = 1
    answered_beside: int = 0
    refused_beside: int = 0

    @property
    def is_alone(self) -> bool:
        enough = max(ANSWERED_BESIDE, TO_ONE_REFUSED * self.refused_beside)
        return self.refused >= IN_A_ROW and self.answered_beside >= enough


@dataclass(kw_only=True)
class _Hold:
    """One request that is held back."""

    about: About
    refused_at: float
    times: int = 0
    asked: float = 0.0
    """Seconds that the provider wants to be left alone."""
    is_tried: bool = False
    """It is asked again just now."""


class Apart:
    """Which refusals are meant for what was asked alone, and when that may be asked again."""

    def __init__(self) -> None:
        self._rows: dict[Group, _Row] = {}
        self._holds: dict[Group, _Hold] = {}

    def answered(self, about: About, *, sent_at: float) -> None:
        """It was not refused."""
        for group in about.groups:
            self._rows.pop(group, None)
        self._holds.pop(about.key, None)
        for row in self._rows.values():
            row.answered_beside += sent_at > row.since

    def refused(self, about: About, now: float, *, sent_at: float, asked: float | None) -> Collection[Group]:
        """It was refused: the groups that this is meant for alone, none where it may be meant for all.

        `asked`: for how many seconds the provider wants to be left alone; None where it did not say.
        """
        self._forget(now)
        for group in about.groups:
            row = self._rows.setdefault(group, _Row(since=now, known_at=now))
            if sent_at >= row.known_at:  # those that were under way together are one
                row.refused, row.known_at = row.refused + 1, now
        alone = [group for group in about.groups if self._rows[group].is_alone]
        if alone:
            hold = self._holds.setdefault(about.key, _Hold(about=about, refused_at=now))
            hold.times, hold.refused_at, hold.asked = hold.times + 1, now, asked or 0.0
            return alone
        for group, row in self._rows.items():
            row.refused_beside += group not in about.groups and sent_at > row.since
        return ()

    def held_for(self, about: About, now: float, rate: float, *, urgent: bool) -> float:
        """Seconds until it may be asked again. `rate`: requests a second that are configured."""
        hold = self._holds.get(about.key)
        if hold is None:
            return 0.0
        longest = max(LONGEST_HOLD, len(self._holds) / (SHARE * rate))
        asked = min(hold.asked, LONGEST_PAUSE_WHILE_OFF if urgent else LONGEST_PAUSE)
        wait = max(min(FIRST_HOLD * 2.0 ** min(hold.times - 1, 30), longest), asked)
        left = hold.refused_at + wait - now
        return max(left, FIRST_HOLD if hold.is_tried else 0.0)

    def tries(self, about: About, *, is_tried: bool) -> None:
        """It is asked again, or is so no more."""
        if (hold := self._holds.get(about.key)) is not None:
            hold.is_tried = is_tried

    def held(self, now: float) -> tuple[str, ...]:
        """What is held back, in words."""
        self._forget(now)
        return tuple(hold.about.words for hold in self._holds.values())

    def _forget(self, now: float) -> None:
        self._rows = {one: row for one, row in self._rows.items() if now - row.known_at < REMEMBERED}
        self._holds = {one: hold for one, hold in self._holds.items() if now - hold.refused_at < HELD}
