"""The list of all snapshots of the account, page by page, while others add to it and take from it.

What is deleted while it is read moves what follows to the front: the first entry of a page may have gone to the page
before, which was read already, and is in none. What was known before tells which that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from typing import TypeVar

from snaprotd.core.errors import CloudError, HeldBack, NotSent, Temporary
from snaprotd.core.model import Snapshot
from snaprotd.provider import Doubtful, Priority, Provider, Shifted
from snaprotd.provider.identity import Names

READ_AGAIN = 2
"""Times that the list is read again, before each server is asked for by itself."""
READ_LATER = 4
"""The same where nobody waits for it: each server of a large account would be many times its pages."""
LATER = 20.0
"""Seconds at the most before it is read again then, and a second for each of its pages: until less is at work."""

AT_ONCE = 100
"""Entries of a list that are thought about in one go."""

T = TypeVar("T")
Known = Mapping[str, Iterable[Snapshot]]
"""What was last seen, by the servers' ids as they are shown."""


async def read_whole(cloud: Provider, names: Names, known: Known, *, priority: Priority) -> tuple[Snapshot, ...]:
    """Every snapshot that was there when the reading began, and is still. Raises `Doubtful` as `Provider.snapshots`.

    Where the list changed between two of its pages, as it often does at work, only what is in doubt is asked for; where
    that does not explain it, the list is read again; where it is the account's own reading, a while later.
    """
    can_wait = priority is Priority.INVENTORY
    for left in reversed(range((READ_LATER if can_wait else READ_AGAIN) + 1)):
        try:
            return tuple(await cloud.snapshots(priority=priority))
        except Doubtful as doubt:
            if doubt.about is not None:
                raise
            if isinstance(doubt, Shifted) and (whole := await _repaired(cloud, names, known, doubt, priority)):
                return whole
            if not left:
                raise
            if can_wait and isinstance(doubt, Shifted):
                await asyncio.sleep(min(-(-doubt.count // cloud.capabilities.page_size), LATER))
    raise AssertionError("it was read")


async def _repaired(
    cloud: Provider, names: Names, known: Known, shifted: Shifted, priority: Priority
) -> tuple[Snapshot, ...] | None:
    """The whole list, where what was known and is not in it was left out, and that is all; else None."""
    lost = left_out(shifted, known)
    if not is_explained(shifted, {one for its in lost.values() for one in its}):
        return None
    if len(lost) > -(-shifted.count // cloud.capabilities.page_size):
        return None  # to read it again is cheaper
    try:
        asked = await asyncio.gather(*(cloud.snapshots(one, priority=priority) for one in sorted(lost)))
    except CloudError:
        return None
    alone = dict(zip(sorted(lost), asked, strict=True))
    found = {one.id for its in alone.values() for one in its}
    if not is_explained(shifted, {one for its in lost.values() for one in its & found}):
        return None
    others = (one for one in shifted.readable if names.of_called(one).server_id not in lost)
    return (*others, *(one for its in alone.values() for one in its))


def left_out(shifted: Shifted, known: Known) -> dict[str, set[str]]:
    """The ids of what was known and is in no page, by server."""
    listed = {its for one in shifted.readable for its in one.ids}
    lost = {server: {one.id for one in its if listed.isdisjoint(one.ids)} for server, its in known.items()}
    return {server: its for server, its in lost.items() if its}


def is_explained(shifted: Shifted, lost: Iterable[str]) -> bool:
    """Whether what is listed and what is `lost` is all that there was when the first page was read.

    What is not for certain from before that is not counted: it may stand in for something that is in no page.
    """
    first = sum(_was_there(one, shifted) for one in shifted.readable)
    return first + len(set(lost)) == shifted.count


def _was_there(one: Snapshot, shifted: Shifted) -> bool:
    return one.created_at is not None and shifted.began is not None and one.created_at <= shifted.began


async def in_turns(those: Iterable[T]) -> AsyncIterator[T]:
    """All of them: of thousands, others have their turn in between."""
    for number, one in enumerate(those):
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
        yield one


async def unless_refused(asked: Awaitable[T], priority: Priority) -> T | None:
    """A list; None where it cannot be had, and each is worth asking for by itself.

    That is so where only the list is refused, and where a server is off until it is answered.
    """
    try:
        return await asked
    except HeldBack:
        return None
    except NotSent:
        raise
    except Temporary:
        if priority.is_urgent:
            return None
        raise
