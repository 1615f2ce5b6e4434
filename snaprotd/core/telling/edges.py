"""Which events are worth a message: the edges. Pure; the clock is an argument.

A trouble is told when it begins, each day while it lasts, and when it is over. Those of one cause are told once, with
the number of their servers; so is the end of their cause, whatever becomes of the servers then. What begins or ends
within a minute is told together, where it is much in one digest; while digests follow one another, each gathers for
twice as long as the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256

from snaprotd.core.telling import Event, Kind, Message
from snaprotd.core.telling.troubles import GATHER, LONGEST_PAUSE, Ended, Told, Trouble, gathering, group_of, key_of
from snaprotd.core.words import count, duration

LONGEST_GATHER = timedelta(minutes=15)
REMIND = timedelta(hours=24)
TOGETHER = timedelta(hours=1)
"""Reminders that fall due so soon after another one go with it."""
FEW = 3
"""Troubles of one kind that are told one by one; of more there is one digest."""
MOST_NAMED = 10
LONGEST_TEXT = 2000
"""Letters of a message."""
SEE_ALL = "See all of them, each with what to do: `snaprotd status`."


def messages_due(told: Told, now: datetime) -> tuple[Told, list[Message]]:
    """What is to be sent now, and what was told after that."""
    told = _within_reason(told, now)
    told, messages = _reminded(told, now)
    ends = _free(told)
    if now < told.gathers_until if told.gathers_until is not None else not ends:
        return told, messages
    ripe = {key: one for key, one in told.troubles.items() if one.told_at is None and one.ripe_at <= now}
    joined = {key: at for key, one in ripe.items() if (at := _told_with_its_cause(told, one)) is not None}
    news = [one for key, one in ripe.items() if key not in joined]
    found = [  # what has ended and begun once more is told in this order
        *_of_once(told.once),
        *_of_ends(told, ends),
        *_of_troubles(told, news, now, is_reminder=False),
    ]
    tellings = {key: joined.get(key, now) for key in ripe}
    troubles = {
        key: replace(one, told_at=tellings[key], tells=one.tells + 1) if key in tellings else one
        for key, one in told.troubles.items()
    }
    width = min(2 * told.width, LONGEST_GATHER) if any(digest for digest, _ in found) else GATHER
    left = replace(
        told,
        troubles=troubles,
        ended=tuple(one for one in told.ended if one not in ends),
        once=(),
        gathers_until=None,
        width=width,
    )
    for one in troubles.values():
        if one.told_at is None:
            left = gathering(left, now, one.ripe_at)
    return left, [*messages, *(message for _, message in found)]


def _within_reason(told: Told, now: datetime) -> Told:
    """A clock that was set back must keep no message waiting."""
    if (told.gathers_until or now) > now + TOGETHER:
        told = replace(told, gathers_until=now)
    troubles = {key: _no_later_than(one, now) for key, one in told.troubles.items()}
    return told if troubles == told.troubles else replace(told, troubles=troubles)


def _no_later_than(one: Trouble, now: datetime) -> Trouble:
    latest = now + LONGEST_PAUSE
    if max(one.since, one.told_at or now) <= now and (one.quiet_until or now) <= latest:
        return one
    since, told_at = min(one.since, now), one.told_at and min(one.told_at, now)
    return replace(one, since=since, told_at=told_at, quiet_until=one.quiet_until and min(one.quiet_until, latest))


def _free(told: Told) -> list[Ended]:
    """The ends that need wait for no other one of the same cause."""
    waiting = {group_of(one.event.cause) for one in told.troubles.values() if one.event.cause}
    return [one for one in told.ended if group_of(one.trouble.event.cause) not in waiting]


def _told_with_its_cause(told: Told, one: Trouble) -> datetime | None:
    """When the cause of this trouble was told, of others that it has; None where it was not."""
    if not one.event.cause:
        return None
    others = (other for other in told.troubles.values() if other.event.cause == one.event.cause)
    return max((other.told_at for other in others if other.told_at is not None), default=None)


def _reminded(told: Told, now: datetime) -> tuple[Told, list[Message]]:
    before = now - REMIND
    if not any(_was_told_by(before, one) for one in told.troubles.values()):
        return told, []
    due = {key: one for key, one in told.troubles.items() if _was_told_by(before + TOGETHER, one)}
    messages = [message for _, message in _of_troubles(told, [*due.values()], now, is_reminder=True)]
    again = {key: replace(one, told_at=now, tells=one.tells + 1) for key, one in due.items()}
    return replace(told, troubles={**told.troubles, **again}), messages


def _was_told_by(moment: datetime, one: Trouble) -> bool:
    return one.left_at is None and one.told_at is not None and one.told_at <= moment


_Found = tuple[bool, Message]
"""Whether it is a digest, and the message."""


def _of_troubles(told: Told, troubles: Sequence[Trouble], now: datetime, *, is_reminder: bool) -> Iterator[_Found]:
    for cause in dict.fromkeys(one.event.cause for one in troubles if one.event.cause):
        alike = [one for one in told.troubles.values() if one.event.cause == cause]
        yield len(alike) > FEW, _of_a_cause(alike, now, is_reminder=is_reminder)
    for kind in Kind:
        own = [one for one in troubles if not one.event.cause and one.event.kind is kind]
        messages = [_of_one(one, now, is_reminder=is_reminder) for one in own]
        yield from _in_few(messages, [f"{one.event.id} {one.tells}" for one in own])


def _of_one(one: Trouble, now: datetime, *, is_reminder: bool) -> Message:
    event = one.event
    text = _still(one, now, _named(event)) if is_reminder else _named(event)
    return replace(_message(event, text, parts=(event.id, str(one.tells))), at=now if is_reminder else event.at)


def _of_a_cause(alike: Sequence[Trouble], now: datetime, *, is_reminder: bool) -> Message:
    """The fleet's own word for it is the best, where there is one."""
    first = min(alike, key=lambda one: (one.event.server is not None, one.since))
    names = _names(one.event for one in alike)
    text = first.event.text
    if len(names) == 1:
        text = f"{text}; it concerns {names[0]}"
    elif names:
        text = f"{text}; it concerns {count(len(names), 'server')}: {_some(names)}"
    text = _still(first, now, text) if is_reminder else text
    ids = sorted(f"{one.event.id} {one.tells}" for one in alike)
    whose = first.event.server if len(alike) == 1 else None
    return replace(_message(first.event, text, parts=ids), server=whose, at=now if is_reminder else first.event.at)


def _of_ends(told: Told, ends: Sequence[Ended]) -> Iterator[_Found]:
    for cause in dict.fromkeys(group_of(one.trouble.event.cause) for one in ends if one.trouble.event.cause):
        alike = [one for one in ends if group_of(one.trouble.event.cause) == cause]
        first = min(alike, key=lambda one: (one.trouble.event.server is not None, one.trouble.since))
        text = f"over after {_length(first.trouble, max(one.event.at for one in alike))}: {first.trouble.event.text}"
        if names := _names(one.trouble.event for one in alike):
            text += f"; it concerned {count(len(names), 'server')}: {_some(names)}"
        if left := _names(one.trouble.event for one in alike if key_of(one.trouble.event) in told.troubles):
            text += f"; still without a success: {_some(left) if len(left) < len(names) else 'all of them'}"
        event = replace(first.event, server=None, severity="ok", do="")
        yield len(alike) > FEW, _message(event, text, parts=sorted(one.event.id for one in alike))
    own = [one for one in ends if not one.trouble.event.cause]
    messages = [_of_end(one) for one in own]
    yield from _in_few(messages, [one.event.id for one in own])


def _of_end(one: Ended) -> Message:
    event = replace(one.event, kind=Kind.RECOVERY, severity="ok", do="")
    parts = (event.id, "over", event.about) if event.about else (event.id, "over")
    return _message(event, f"{_named(one.event)} (after {_length(one.trouble, event.at)})", parts=parts)


def _of_once(events: Sequence[Event]) -> Iterator[_Found]:
    for kind in Kind:
        alike = [event for event in events if event.kind is kind]
        messages = [_message(event, _named(event), parts=(event.id, "0")) for event in alike]
        yield from _in_few(messages, [event.id for event in alike])


def _in_few(messages: Sequence[Message], ids: Sequence[str]) -> Iterator[_Found]:
    """One by one, or in a digest where they are many."""
    if len(messages) <= FEW:
        yield from ((False, one) for one in messages)
        return
    first = messages[0]
    names = list(dict.fromkeys(one.server.name for one in messages if one.server))
    whose = f"{count(len(names), 'server')}: {_some(names)}" if names else "none of them a server's own"
    number = "" if len(names) == len(messages) else f"{len(messages)} messages in one, of "
    worst = "alarm" if any(one.severity == "alarm" for one in messages) else first.severity
    text, do = f"{number}{whose}. The first: {first.text}", SEE_ALL if first.kind is not Kind.RECOVERY else ""
    digest = replace(first, id=_id(ids), server=None, text=text[:LONGEST_TEXT], do=do, severity=worst)
    yield True, replace(digest, also=frozenset().union(*(one.also for one in messages)))


def _message(event: Event, text: str, *, parts: Sequence[str]) -> Message:
    return Message(
        id=_id([event.kind, *parts]),
        at=event.at,
        kind=event.kind,
        severity=event.severity,
        server=event.server,
        text=text[:LONGEST_TEXT],
        do=event.do[:LONGEST_TEXT],
        also=event.also,
    )


def _id(parts: Sequence[str]) -> str:
    """The same for the same events, whoever works it out."""
    return sha256("\n".join(parts).encode()).hexdigest()[:32]


def _named(event: Event) -> str:
    return f"{event.server.name}: {event.text}" if event.server else event.text


def _still(one: Trouble, now: datetime, text: str) -> str:
    return f"still, after {_length(one, now)}: {text}"


def _length(one: Trouble, now: datetime) -> str:
    return duration(max(0.0, (now - one.since).total_seconds()))


def _names(events: Iterable[Event]) -> Sequence[str]:
    """Of the servers, each once."""
    return list(dict.fromkeys(one.server.name for one in events if one.server))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


# -- what a check that waits for pings is told ------------------------------------------------------------------------


def ping_of(event: Event, *, is_well: bool) -> Message | None:
    """What the event means for a check of several servers: None where that is nothing, or is not known yet.

    Success is the end of a rotation while nothing else is going on: else one server's would hide another's trouble.
    What a look has found is a failure when it is told, and a success when its end is: see `turns`.
    """
    is_success = event.kind is Kind.RECOVERY
    if not event.rotation and (is_success or not event.once):
        return None
    return _ping(event, _named(event)) if is_well or not is_success else None


@dataclass(frozen=True)
class Turn:
    """What a look has found, for checks: a trouble that was just told, or its end."""

    trouble: Event
    ping: Message


def turns(before: Told, after: Told) -> list[Turn]:
    """Those that `messages_due` has told of. What rotations have begun and ended is pinged when they end."""
    known = before.troubles
    begun = [
        one.event
        for key, one in after.troubles.items()
        if one.told_at is not None and key in known and known[key].told_at is None and not one.event.rotation
    ]
    over = [one for one in before.ended if one not in after.ended and not one.event.rotation]
    return [
        *(Turn(one, _ping(one, _named(one))) for one in begun),
        *(Turn(one.trouble.event, _ping(one.event, f"it is over: {one.trouble.event.text}")) for one in over),
    ]


def _ping(event: Event, text: str) -> Message:
    return replace(_message(event, text, parts=(event.id, "ping")), rotation=event.rotation)
