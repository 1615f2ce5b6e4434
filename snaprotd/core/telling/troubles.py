"""What is going on that people may be told of, and what of it was told. Pure; the clock is an argument.

A trouble begins, changes, and is over, whoever tells of it and however often. When it is worth a message is decided in
`edges`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from snaprotd.core.telling import ROTATIONS, Event, Kind

GATHER = timedelta(minutes=1)
"""What begins or ends within it is told together."""

LONGEST_PAUSE = timedelta(hours=1)
"""Between two messages of one trouble that keeps changing."""
ACCOUNT = frozenset({"api", "token"})
"""Causes that become one another while they last: the account cannot be listed, for this reason or for that."""

NEWS_FOR, MOST_ONCE = timedelta(hours=24), 100
"""How long what is told once is kept for whoever is to be told, and how much of it."""

KEPT_OF_LEFT = timedelta(days=30)
"""How long what stands of a server that is no longer looked after is kept: it may be put back."""

OF_LEDGER = "ledger_unusable"
"""The cause of what the ledger itself cannot hold while it lasts."""

OWN_ENDS = frozenset({"slots_lost"})
"""What is about this is not over by each success: the events that end it say so."""

Key = tuple[str, str]
"""What a trouble is about: rotations or power, and the server's id, or a cause for what is nobody's own."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What has begun and is not over."""

    event: Event
    since: datetime
    told_at: datetime | None = None
    """When it was told last; None before the first time."""
    tells: int = 0
    quiet_until: datetime | None = None
    """After a change, for one that changes again and again: told once more it waits for twice as long each time."""

    left_at: datetime | None = None
    """Since when its server is not looked after any more, which was told; None while it is."""

    @property
    def ripe_at(self) -> datetime:
        """From when on it is worth a message."""
        ripe_at = self.since + self.event.patience
        return ripe_at if self.quiet_until is None else max(ripe_at, self.quiet_until)

    @property
    def is_left_over(self) -> bool:
        """It was named with the end of its cause, and nobody was told of it by itself."""
        return self.told_at is not None and not self.tells


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trouble that was told and is over, which is still to be told."""

    trouble: Trouble
    event: Event
    """The one that has ended it."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is going on, and what of it was told."""

    troubles: Mapping[Key, Trouble] = field(default_factory=dict)
    ended: tuple[Ended, ...] = ()
    once: tuple[Event, ...] = ()
    """What is told once, and not told yet."""
    gathers_until: datetime | None = None
    """When all that is not told yet will be; None where there is nothing."""
    width: timedelta = GATHER
    """For how long the next messages are gathered."""

    def is_well(self, server_ids: Set[str] | None = None) -> bool:
        """Whether nothing is going on with these servers, or with any: that was told or is a rotation's end."""
        there = (one for one in self.troubles.values() if one.left_at is None)
        subjects = (one.event.server for one in there if one.tells or one.event.rotation)
        return all(server_ids is not None and who is not None and who.id not in server_ids for who in subjects)

    def fails(self, server_id: str) -> bool:
        """Whether a rotation of the server has failed, and none has succeeded since."""
        return ("rotations", server_id) in self.troubles

    @property
    def failing(self) -> Set[str]:
        """The ids of the servers with a failure, or an alarm, that is not over."""
        failures = (one.event for one in self.troubles.values() if one.event.kind in ROTATIONS)
        return {event.server.id for event in failures if event.server}

    def of_kind(self, kind: Kind) -> Mapping[str, Trouble]:
        """What is going on of a kind, by the server's id."""
        return {
            one.event.server.id: one for one in self.troubles.values() if one.event.kind is kind and one.event.server
        }

    def about(self, what: str) -> Mapping[str, str]:
        """What is going on that is `about` this, in words, by the server's id."""
        events = (one.event for one in self.troubles.values() if one.event.about == what)
        return {event.server.id: event.text for event in events if event.server}

    def knows(self, event: Event) -> bool:
        """Whether just this is going on already."""
        return key_of(event) in self.troubles or any(one.id == event.id for one in self.once)


def noted(told: Told, event: Event, now: datetime) -> Told:
    """What is going on after the event. Told again, it changes nothing."""
    if event.once:
        if any(one.id == event.id for one in told.once):
            return told
        told, event = _left_by(told, event, now) if event.leaves else (told, event)
        return gathering(replace(told, once=(*told.once, event)), now, now)
    for about in event.also_ends:
        if event.server and (key := (about, event.server.id)) in told.troubles:
            told = _over(told, key, _of_its_end(told.troubles[key], event), now)
    if event.kind is Kind.RECOVERY:
        return _recovered(told, event, now)
    key = key_of(event)
    before = told.troubles.get(key)
    trouble = Trouble(event=event, since=now) if before is None else _again(before, event)
    after = replace(told, troubles={**told.troubles, key: trouble})
    return after if trouble.told_at is not None else gathering(after, now, trouble.ripe_at)


def gone_on(before: Told, found: Told, now: datetime) -> Told:
    """From what the process `before` has told, with what this one has `found` meanwhile: the same is the same still."""
    told = replace(
        before,
        troubles={**found.troubles, **before.troubles},
        ended=(*before.ended, *found.ended),
        once=(*before.once, *found.once),
    )
    return told if found.gathers_until is None else gathering(told, now, found.gathers_until - found.width)


def kept_for_anybody(told: Told, now: datetime) -> Told:
    """Where nobody is told: nothing that is over, and of what nothing ends only what is news still."""
    once = tuple(one for one in told.once if one.once and one.at > now - NEWS_FOR)[-MOST_ONCE:]
    return replace(told, ended=(), once=once)


def levelled(
    told: Told,
    kind: Kind,
    there: Sequence[Event],
    now: datetime,
    *,
    about: Set[str] = frozenset({""}),
    of: Set[str] | None = None,
    ends: Mapping[str, str] = MappingProxyType({}),
) -> Told:
    """After a look that shows all that there is of a kind and is no rotation's end: what it does not show is over.

    `about`: what it has looked for, as the events have it. `of`: the servers that it has looked at; None is all.
    `ends`: how it has come to an end, by the server's id, where it is not simply over.
    """
    for event in there:
        told = noted(told, event, now)
    shown = {key_of(event) for event in there}
    for key, one in told.troubles.items():
        is_looked_for = one.event.kind is kind and not one.event.rotation and one.event.about in about
        is_looked_at = of is None or one.event.server is None or one.event.server.id in of
        if is_looked_for and is_looked_at and key not in shown:
            text = ends.get(one.event.server.id if one.event.server else "") or f"it is over: {one.event.text}"
            told = _over(told, key, replace(one.event, kind=Kind.RECOVERY, at=now, text=text), now)
    return told


def _left_by(told: Told, event: Event, now: datetime) -> tuple[Told, Event]:
    """One message that says both: that the server is not looked after any more, and what stands of its rotations."""
    standing = {
        key: one
        for key, one in told.troubles.items()
        if one.event.rotation and one.event.server and event.server and one.event.server.id == event.server.id
    }
    if not standing:
        return told, event
    after = {
        key: replace(one, event=replace(one.event, cause=""), left_at=now, told_at=now, tells=max(1, one.tells))
        for key, one in standing.items()
    }
    is_worse = any(one.event.severity == "alarm" and not one.tells for one in standing.values())
    both = replace(
        event,
        text=f"{event.text}; what stands is: {'; '.join(one.event.text for one in standing.values())}",
        severity="alarm" if is_worse else event.severity,
        also=event.also | {one.event.kind for one in standing.values()},
    )
    return replace(told, troubles={**told.troubles, **after}), both


def set_apart(
    told: Told, now: datetime, *, paused: Set[str], left: Set[str], at_work: Set[str], dropped: Set[str] = frozenset()
) -> Told:
    """With the failures of servers whose success nobody can wait for as their own: no end of others' waits for them.

    `paused` are those without slots. `left` are no longer looked after, for certain: that is told once, but of those
    that are `dropped`, which is told by an event. `at_work` are looked after, paused or not: what stands of one that
    was put back is reminded of again, and its success is its end.
    """
    apart = {
        key: _set_apart(one, now, paused=paused, left=left, at_work=at_work)
        for key, one in told.troubles.items()
        if one.event.rotation and one.event.server
    }
    changed = {key: one for key, one in apart.items() if one is not told.troubles[key]}
    if not changed:
        return told
    leaves = [one for one in changed.values() if one and one.left_at == now and one.told_at]
    leaving = [_of_leaving(one, now) for one in leaves if one.event.server and one.event.server.id not in dropped]
    after = {key: one for key, one in {**told.troubles, **changed}.items() if one is not None}
    told = replace(told, troubles=after, once=(*told.once, *leaving))
    return gathering(told, now, now) if leaving else told


def _set_apart(one: Trouble, now: datetime, *, paused: Set[str], left: Set[str], at_work: Set[str]) -> Trouble | None:
    """None where it has left too long ago to be put back."""
    server_id = one.event.server.id if one.event.server else ""
    if one.left_at is not None and server_id in at_work:
        one = replace(one, left_at=None)
    elif one.left_at is not None and now - one.left_at > KEPT_OF_LEFT:
        return None
    elif one.left_at is None and server_id in left:
        one = replace(one, left_at=now)
    if one.event.cause and (one.left_at is not None or server_id in paused):
        one = replace(one, event=replace(one.event, cause=""))
    return one


def renamed(told: Told, called: Callable[[str], str]) -> Told:
    """With the failures of servers under the ids by which they are `called` now."""
    if all(called(one) == one for one in told.failing):
        return told
    troubles: dict[Key, Trouble] = {}
    for one in told.troubles.values():
        who = one.event.server
        if one.event.kind in ROTATIONS and who is not None:
            one = replace(one, event=replace(one.event, server=replace(who, id=called(who.id))))
        troubles.setdefault(key_of(one.event), one)
    return replace(told, troubles=troubles)


def _of_leaving(one: Trouble, now: datetime) -> Event:
    return replace(
        one.event,
        id=f"left {one.event.id} {now.isoformat()}",
        at=now,
        severity="attention",
        text=f"it is not looked after any more, and nothing more is told of it; what stands is: {one.event.text}",
        do="Put it back, if it was taken out of the configuration or the account by mistake.",
    )


def key_of(event: Event) -> Key:
    """By which a trouble is known."""
    concern = event.about or ("rotations" if event.kind in ROTATIONS else str(event.kind))
    return concern, event.server.id if event.server else f"cause:{group_of(event.cause)}"


def group_of(cause: str) -> str:
    """A word for all the causes that end together."""
    return "account" if cause in ACCOUNT else cause


def _again(before: Trouble, event: Event) -> Trouble:
    """It is news only where it is of another kind or cause, or worse, or has outlasted its cause."""
    old = before.event
    is_worse = (old.severity, event.severity) == ("attention", "alarm")
    if (old.kind, old.cause) != (event.kind, event.cause) or is_worse or before.is_left_over:
        pause = min(GATHER * 2 ** min(before.tells, 10), LONGEST_PAUSE)
        quiet_until = before.quiet_until if before.told_at is None else before.told_at + pause
        return replace(before, event=event, told_at=None, quiet_until=quiet_until)
    return replace(before, event=replace(event, id=old.id, at=old.at))


def _recovered(told: Told, event: Event, now: datetime) -> Told:
    subject = key_of(event)[1]
    for key, one in told.troubles.items():
        is_its_own = one.event.about in OWN_ENDS or (one.event.about and not one.event.rotation)
        if key[1] == subject and one.event.kind in event.ends and not is_its_own:
            told = _over(told, key, _of_its_end(one, event) if one.event.about else event, now)
    return told


def _of_its_end(one: Trouble, event: Event) -> Event:
    """Of what is there beside the failure of the server's rotations, and is over by the same event."""
    text = f"it is over: {one.event.text}"
    return replace(event, kind=Kind.RECOVERY, severity="ok", do="", text=text, about=one.event.about)


def _over(told: Told, key: Key, event: Event, now: datetime) -> Told:
    trouble = told.troubles[key]
    after = replace(told, troubles={other: one for other, one in told.troubles.items() if other != key})
    if trouble.is_left_over:
        return after
    ended: list[Ended] = [Ended(trouble=trouble, event=event)]
    was_told = bool(trouble.tells)
    if trouble.event.server is None:
        hit = _hit_by(after, trouble.event.cause)
        was_told = was_told or any(one.tells for one in hit.values())
        after = replace(after, troubles={**after.troubles, **_without_cause(hit, was_told=was_told, now=now)})
        ended += [Ended(trouble=one, event=event) for one in hit.values()]
    if not was_told:
        if event.at - trouble.ripe_at <= told.width:
            return after  # nobody was told that it began
        ended = ended[:1]
        after = replace(after, once=(*after.once, trouble.event))  # nor could be: the process that could was dead
    return gathering(replace(after, ended=(*told.ended, *ended)), now, now)


def _hit_by(told: Told, cause: str) -> dict[Key, Trouble]:
    """What servers have of a cause that is nobody's own."""
    return {
        key: one
        for key, one in told.troubles.items()
        if cause and one.event.server and group_of(one.event.cause) == group_of(cause)
    }


def _without_cause(hit: Mapping[Key, Trouble], *, was_told: bool, now: datetime) -> dict[Key, Trouble]:
    """As each server's own, after their cause. Where that `was_told` they are named with its end."""
    own = {key: replace(one, event=replace(one.event, cause="")) for key, one in hit.items()}
    return {key: replace(one, told_at=now, tells=0) for key, one in own.items()} if was_told else own


def gathering(told: Told, now: datetime, ripe_at: datetime) -> Told:
    """To be told before long; other things go with it."""
    until = max(now, ripe_at) + told.width
    return replace(told, gathers_until=until if told.gathers_until is None else min(until, told.gathers_until))
