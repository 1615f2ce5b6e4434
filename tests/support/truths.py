"""What a server's snapshots really are: who took each, and when. What the program makes of that is not asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import product

from snaprotd.core.model import Snapshot
from snaprotd.simulator import SimSnapshot
from tests.support.lives import Story
from tests.support.nouns import a_snapshot

TOLERANCE = timedelta(minutes=5)
_NAME = re.compile(r"snaprotd-([a-z0-9_]+)-(\d{8}T\d{6}Z)(?:-until-(\d{8})|-(held))?")


class Whose(StrEnum):
    OURS = "ours"
    THEIRS = "theirs"
    EITHER = "either"
    """Under a name of ours, where nobody can know who took it. Of two that a proxy made of one request, both.
    And what is ours, once its row was lost."""


def slot_in(name: str, instance: str) -> datetime | None:
    """The slot for which an instance has given this name; None for any other name."""
    found = _NAME.fullmatch(name)
    if found is None or found[1] != instance:
        return None
    return datetime.strptime(found[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def bare(name: str) -> str:
    """The name without what it says of a hold: of two that have one such name, one snapshot is meant."""
    found = _NAME.fullmatch(name)
    return f"snaprotd-{found[1]}-{found[2]}" if found else name


def held_until(story: Story, one: SimSnapshot) -> date | None:
    """The last day for which it is held: by what a person has said of it, else by its name."""
    if one.id in story.said:
        return story.said[one.id]
    found = _NAME.fullmatch(one.name)
    if found is None or not (found[3] or found[4]):
        return None
    return date.max if found[4] else datetime.strptime(found[3], "%Y%m%d").replace(tzinfo=UTC).date()


def whose(story: Story, one: SimSnapshot) -> Whose:
    """By the record of who has asked for what. What lay there before the story is ours by its name."""
    if any(one is made for made in story.world.created):
        is_double = any(one.name == double.name for double in story.world.doubled)
        return Whose.EITHER if is_double or story.has_forgotten else Whose.OURS
    slot, named = slot_in(one.name, story.instance), _NAME.fullmatch(one.name)
    if named is not None and slot is None:
        return Whose.THEIRS
    if any(fnmatchcase(one.name, pattern) for pattern in story.policy.adopt):
        return Whose.OURS
    if slot is None or _was_there_before(slot, _dated(one.created_at)):
        return Whose.THEIRS
    if one.id not in story.taken_by_others:
        return Whose.OURS
    return Whose.THEIRS if story.can_tell_apart(one) else Whose.EITHER


def _was_there_before(slot: datetime, created: datetime | None) -> bool:
    return created is not None and created < slot - TOLERANCE


def _dated(text: str | None) -> datetime | None:
    try:
        created = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return created if created.tzinfo else None


def has_date(one: SimSnapshot) -> bool:
    """It is shown with a date that can be read."""
    return _dated(one.created_at) is not None


def readings(story: Story) -> Iterator[list[Snapshot]]:
    """The server's snapshots as they are, listed or not, in every way in which their owners may be told.

    They are dated by when they were made, whatever clock was shown; and no name need be read to tell whose they are.
    """
    held = [(one, whose(story, one)) for one in story.world.snapshots_of(story.server_id)]
    choices = [(True, False) if owner is Whose.EITHER else (owner is Whose.OURS,) for _, owner in held]
    for said, owned in product(story.sayings(), product(*choices)):
        yield [_as_model(one, is_ours, said.get(one.id)) for (one, _), is_ours in zip(held, owned, strict=True)]


def _as_model(one: SimSnapshot, is_ours: bool, hold: date | None) -> Snapshot:
    at = one.made_at if has_date(one) else None
    true = a_snapshot(one.id, one.name, at, server_id=one.server_id, status=one.status, size_mb=one.size_mb)
    if is_ours:
        return replace(true, in_ledger=True, hold=hold)
    return replace(true, in_ledger=False, name=f"theirs: {one.name}")
