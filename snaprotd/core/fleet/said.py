"""What a replica has another one tell people: conditions that it alone may see, in the row of its beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from snaprotd.core.fleet import Replica
from snaprotd.core.telling import Event, Kind
from snaprotd.core.telling.troubles import key_of
from snaprotd.core.words import printable

CONDITIONS = "conditions"
MOST = 20
LONGEST = 1000
"""Letters of a text."""
_WORDS = ("id", "text", "do", "severity", "cause", "about")


def written(conditions: Sequence[Event]) -> list[dict[str, Any]]:
    """As they stand in the row."""
    return [
        {
            **{key: printable(getattr(one, key), LONGEST) for key in _WORDS},
            "at": one.at.isoformat(),
            "patience": one.patience.total_seconds(),
        }
        for one in conditions[:MOST]
    ]


def said_by(replicas: Iterable[Replica]) -> Iterator[Event]:
    """What these have to be told, each with its host; what cannot be understood is left out."""
    for replica in replicas:
        rows = replica.body.get(CONDITIONS)
        for row in rows[:MOST] if isinstance(rows, list) else ():
            yield from _event(row, replica.host)


def together(own: Sequence[Event], others: Iterable[Event]) -> list[Event]:
    """Each condition once: one that several see is as whoever tells it sees it."""
    found = {key_of(one): one for one in own}
    for one in others:
        found.setdefault(key_of(one), one)
    return list(found.values())


def _event(row: Any, host: str) -> Iterator[Event]:
    if not isinstance(row, Mapping):
        return
    words: dict[str, Any] = {key: printable(row[key], LONGEST) for key in _WORDS if isinstance(row.get(key), str)}
    try:
        at, patience = datetime.fromisoformat(row["at"]), timedelta(seconds=float(row["patience"]))
    except (KeyError, ValueError, TypeError, OverflowError):
        return
    if at.tzinfo is not None and words.keys() == set(_WORDS):
        event = Event(at=at, kind=Kind.FAILURE, patience=patience, **words)
        yield replace(event, text=f"on {host}: {event.text}")
