"""Lies: what answers show for a while that is not so. The world stays as it is; only what is told of it changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from snaprotd.simulator import Reply, Request, World

Entry = dict[str, Any]
HUGE = 10**400


def _put(key: str, value: Any) -> Callable[[Entry], Entry]:
    return lambda entry: {**entry, key: value}


def _renamed(change: Callable[[str], str]) -> Callable[[Entry], Entry]:
    return lambda entry: {**entry, "name": change(entry["name"])}


NAMES: dict[str, Callable[[Entry], Entry]] = {
    "name in lower case": _renamed(str.lower),
    "name in blanks": _renamed(lambda name: f"  {name} "),
    "name cut short": _renamed(lambda name: name[:20]),
    "name in other letters": _renamed(lambda name: name.replace("-", "_")),
    "name that says nothing": _renamed(lambda _: "snapshot"),
}
"""The provider answers with another name than the one that it was given."""

WORDS: dict[str, Callable[[Entry], Entry]] = {
    "error": _put("status", "error"),
    "failed": lambda entry: {**entry, "status": "failed", "size_mb": None},
    "a word of nobody's": _put("status", "degraded"),
    "no word": _put("status", None),
}
"""A snapshot's status for a moment: storage that cannot be reached, and is back."""

VALUES: dict[str, Callable[[Entry], Entry]] = {
    "size of 400 digits": _put("size_mb", HUGE),
    "size that is a text": _put("size_mb", "5 GB"),
    "no size": _put("size_mb", None),
    "year 1": _put("created_at", "0001-01-01T00:00:00Z"),
    "year 9999": _put("created_at", "9999-12-31T23:59:59Z"),
    "unreadable date": _put("created_at", "yesterday"),
    "no date": _put("created_at", None),
    "id as a text": lambda entry: {**entry, "id": str(entry["id"])},
    "server as a text": lambda entry: {**entry, "server": _id_of(entry["server"])},
}

LISTS: dict[str, Callable[[Entry], Entry]] = {
    "an entry twice": lambda listed: {**listed, "results": [*listed["results"], *listed["results"][:1]]},
    "an entry twice, and counted": lambda listed: {
        **listed,
        "count": listed["count"] + len(listed["results"][:1]),
        "results": [*listed["results"], *listed["results"][:1]],
    },
    "all twice, and counted": lambda listed: {
        **listed,
        "count": 2 * listed["count"],
        "results": [*listed["results"], *listed["results"]],
    },
}
EMPTY = "an empty list"
SERVER_TWICE = "a server twice"
SERVER_AS_TEXT = "a server's id as a text"
KINDS = (*NAMES, *WORDS, *VALUES, *LISTS, EMPTY, SERVER_TWICE, SERVER_AS_TEXT)


def _id_of(server: Any) -> str:
    return str(server.get("id", server.get("uuid"))) if isinstance(server, dict) else str(server)


@dataclass(frozen=True, kw_only=True)
class Lie:
    """It begins so many seconds after the first slot, and lasts so many."""

    kind: str
    since: float
    lasts: float
    which: int | None = None
    """Of the snapshots in the answer the newest is 0; None: all of them."""
    once_done: bool = False
    """It begins so many seconds after each of our snapshots is completed: when others are about to go for it."""


class Liar:
    """Stands between the world and a process."""

    def __init__(self, lies: Sequence[Lie], world: World, first_slot: datetime) -> None:
        self._lies = lies
        self._world = world
        self._first_slot = first_slot
        self._done: dict[int, datetime] = {}
        """When each of our snapshots was first found to be completed."""
        self.met: set[str] = set()

    def bend(self, request: Request, reply: Reply) -> Reply:
        """What is told in place of `reply`."""
        lies = self._now()
        is_json = reply.headers.get("content-type") == "application/json"
        if not lies or not is_json or reply.status not in (200, 201) or "power" in request.path:
            return reply
        told = json.loads(reply.body)
        for lie in lies:
            told = self._told(lie, request, told)
        return replace(reply, body=json.dumps(told).encode())

    def _now(self) -> list[Lie]:
        """The lies that are told at this moment."""
        if not self._lies:
            return []
        now = self._world.now()
        for one in self._world.created:
            if one.status == "completed":
                self._done.setdefault(one.id, now)
        done = max(self._done.values(), default=None)
        return [lie for lie in self._lies if _holds(lie, now, done if lie.once_done else self._first_slot)]

    @property
    def hides_all(self) -> bool:
        """Lists of snapshots are empty just now."""
        return any(lie.kind == EMPTY for lie in self._now())

    @property
    def doubtful(self) -> int:
        """How many of our snapshots may be told of, in this history, so that they cannot be judged.

        Not by a date that is odd after an earlier list has shown it, where all were taken in it: the ledger knows that.
        """
        were_there = len(self._world.created) < len(self._world.snapshots)
        odd = [lie for lie in self._lies if lie.kind in VALUES and (were_there or not lie.once_done)]
        lies = [*odd, *(lie for lie in self._lies if lie.kind in WORDS)]
        return sum(4 if lie.which is None else 1 for lie in lies)

    @property
    def hides_names(self) -> bool:
        """Ours are listed under names by which they cannot be known: their letters' case and blanks do not matter."""
        return any(
            lie.kind in NAMES and lie.kind not in ("name in lower case", "name in blanks") for lie in self._now()
        )

    def _told(self, lie: Lie, request: Request, told: Entry) -> Entry:
        before = told
        if "/snapshots/" in request.path:
            told = self._of_snapshots(lie, told)
        elif "/servers/" in request.path:
            told = _of_servers(lie, told)
        if told != before:
            self.met.add(lie.kind)
        return told

    def _of_snapshots(self, lie: Lie, told: Entry) -> Entry:
        if "results" not in told:
            return self._changed(lie, told)
        if lie.kind == EMPTY:
            return {**told, "count": 0, "next": None, "results": []}
        if lie.kind in LISTS:
            return LISTS[lie.kind](told)
        entries = [
            self._changed(lie, entry) if lie.which in (None, place) else entry
            for place, entry in enumerate(told["results"])
        ]
        return {**told, "results": entries}

    def _changed(self, lie: Lie, entry: Entry) -> Entry:
        if lie.kind in NAMES:
            # Of no other would anybody know that its name was changed.
            ours = {one.id for one in self._world.created}
            return NAMES[lie.kind](entry) if int(entry["id"]) in ours else entry
        change = {**WORDS, **VALUES}.get(lie.kind)
        return change(entry) if change is not None and "server" in entry else entry


def _holds(lie: Lie, now: datetime, begin: datetime | None) -> bool:
    return begin is not None and lie.since <= (now - begin) / timedelta(seconds=1) < lie.since + lie.lasts


def _of_servers(lie: Lie, told: Entry) -> Entry:
    if lie.kind == SERVER_TWICE and "results" in told:
        return LISTS["all twice, and counted"](told)
    if lie.kind == SERVER_AS_TEXT:
        entries = told.get("results", [told])
        bent = [{**one, key: str(one[key])} for one in entries for key in ("id", "uuid") if key in one]
        return {**told, "results": bent} if "results" in told else bent[0]
    return told
