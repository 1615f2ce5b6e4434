"""Servers that a `match` has found, and that none finds any more. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.core.words import plain_id, zulu

SHOWN_FOR = timedelta(days=7)
"""How long the page tells of one that was dropped: somebody looks in that time, and it may have been meant so."""

NO_SNAPSHOTS = "no snapshots are taken of it any more"


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A server that a `match` has found."""

    ids: tuple[str, ...]
    """As the account has shown them; the first is the one by which it was called."""
    name: str
    """The account's, by which it was found."""
    label: str
    dropped_at: datetime | None = None
    """When it was told that none finds it any more; None while one does."""
    called_now: str | None = None
    """Of one that was dropped: the account's name for it now, None where the account has it no more."""

    @property
    def id(self) -> str:
        return self.ids[0]

    @property
    def why(self) -> str:
        """Of one that was dropped."""
        if self.called_now is None:
            return f"the account has no server {self.id} now, which a `match` had found"
        return f"server {self.id} is called {self.called_now}, which no `match` finds"

    def is_shown(self, now: datetime) -> bool:
        """Whether the page is to tell of it still."""
        return self.dropped_at is not None and now - self.dropped_at < SHOWN_FOR


def of_drop(one: Matched, at: datetime) -> Entry:
    """It is not looked after any more, by nobody's word in the configuration."""
    return Entry(
        at=at,
        kind=Happened.DROPPED,
        text=f"{NO_SNAPSHOTS}: {one.why}",
        server_id=one.id,
        details={"label": one.label, "name": one.name, "called_now": one.called_now},
        key=f"dropped {one.id} {zulu(at)}",
    )


def of_finding(one: Matched, label: str, at: datetime) -> Entry:
    """One that was dropped is looked after again, under this label."""
    return Entry(
        at=at,
        kind=Happened.FOUND_AGAIN,
        text=f"server {one.id} is looked after again",
        server_id=one.id,
        details={"label": label, "dropped_at": zulu(one.dropped_at), "server_id": plain_id(one.id)},
        key=f"found {one.id} {zulu(one.dropped_at)}",
    )
