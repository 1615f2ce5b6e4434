"""Servers that a `match` looked after and finds no more: renamed at the provider, or gone from the account.

Nobody has said so in the configuration, and from then on no snapshots are taken. What was looked after stands in the
ledger, so that what was renamed while no daemon lived is missed by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase

import structlog

from snaprotd.config.settings import Config, Target
from snaprotd.core.errors import LedgerError
from snaprotd.core.model import Server, is_one_server
from snaprotd.core.telling.dropped import Matched, of_drop, of_finding
from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.ledger.store import Ledger
from snaprotd.provider.identity import by_any_id
from snaprotd.provider.inventory import Inventory

log = structlog.get_logger("snaprotd.account")

CERTAIN_AFTER = 120.0
"""Seconds between the first whole list by which no `match` finds a server and the one after which it is dropped."""

AT_ONCE = 100
"""Servers that are looked at before others have a turn."""


class DroppedWatch:
    """Asked after each whole list of the account that can be relied on."""

    def __init__(self, inventory: Inventory, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._inventory = inventory
        self._ledger = ledger
        self._now = now
        self._known: Mapping[str, Matched] | None = None
        """As the ledger has it, by id; None before it was read."""
        self._asked_of: Set[str] = frozenset()
        """Further servers that are looked for."""
        self._missing: dict[str, float] = {}
        """Since when whole lists are without each that is not looked after, by the loop's clock."""
        self._listed_at = 0.0
        """When the last whole list was read, by the same clock."""

    @property
    def dropped(self) -> Mapping[str, Matched]:
        """Those that the page is to tell of."""
        now, called = self._now(), self._inventory.shown
        return {called(key): one for key, one in (self._known or {}).items() if one.is_shown(now)}

    def left(self, those: Set[str], *, patience: float) -> Set[str]:
        """Those of these servers that were dropped; and of others, those that lists lack for `patience` seconds.

        They are looked for from now on, until this is asked again: so ask it again and again.
        """
        self._asked_of = those
        if not those:
            return frozenset()
        called = self._inventory.shown
        known = {called(key): one.dropped_at is not None for key, one in (self._known or {}).items()}
        long_ago = self._listed_at - patience
        return {one for one in those if known.get(one, self._missing.get(one, self._listed_at) <= long_ago)}

    async def look(self, config: Config, targets: Iterable[Target], still: Iterable[Target]) -> None:
        """The account was just listed, and shows these servers to be looked after; others may `still` be."""
        targets, still = list(targets), list(still)
        looked_after = {its: one for one in (*still, *targets) for its in self._inventory.ids_of(one.server_id)}
        self._miss(looked_after)
        try:
            await self._look(config, targets, looked_after)
        except LedgerError as error:
            log.error("which servers a `match` finds cannot be noted", error=str(error))

    def _miss(self, looked_after: Mapping[str, Target]) -> None:
        """Note who is missing of those that are asked of, and forget of whom that is asked no more."""
        self._listed_at = asyncio.get_running_loop().time()
        lacking = self._asked_of - looked_after.keys()
        kept = lacking | (self._known or {}).keys()
        self._missing = {key: since for key, since in self._missing.items() if key in kept}
        for one in lacking:
            self._missing.setdefault(one, self._listed_at)

    async def _look(self, config: Config, targets: Sequence[Target], looked_after: Mapping[str, Target]) -> None:
        if self._known is None:
            self._known = await self._ledger.matched.all()
        known, found = self._known, self._found(targets)
        if not (known or found):
            return
        servers = by_any_id(self._inventory.seen_servers.values())
        after, entries = dict[str, Matched](found), list[Entry]()
        for number, (key, one) in enumerate(known.items()):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            target = self._target_of(one, looked_after)
            left = self._judged(key, one, servers) if target is None else self._kept(key, one, target)
            if target is None and not _is_wanted(config, one):
                left = None
            entries += _news(one, left, target, self._now())
            if left is not None:
                after.setdefault(key, left)
        changed = {key: one for key, one in after.items() if known.get(key) != one}
        gone = known.keys() - after.keys()
        if changed or gone:
            await self._ledger.matched.note(changed, gone=gone, entries=entries)
        self._known = after
        _log(entries)

    def _found(self, targets: Iterable[Target]) -> dict[str, Matched]:
        """Those of them that a `match` names, as the account was just listed."""
        seen, found = self._inventory.seen_servers, {}
        for target in targets:
            if target.entry.match is not None and (server := seen.get(target.server_id)) is not None:
                ids = tuple(dict.fromkeys((server.id, *server.ids)))
                found[server.id] = Matched(ids=ids, name=server.name, label=target.label)
        return found

    def _target_of(self, one: Matched, looked_after: Mapping[str, Target]) -> Target | None:
        """By which entry it is looked after still, under whichever of its ids."""
        for target in (looked_after[its] for its in one.ids if its in looked_after):
            if is_one_server(one.ids, self._inventory.ids_of(target.server_id)):
                return target
        return None

    def _kept(self, key: str, one: Matched, target: Target) -> Matched | None:
        """What is to be known of a server that is looked after; None where no `match` finds it, or by another id."""
        self._missing.pop(key, None)
        return replace(one, dropped_at=None) if target.server_id == key and target.entry.match is not None else None

    def _judged(self, key: str, one: Matched, servers: Mapping[str, Server]) -> Matched | None:
        """What is to be known of a server that is not looked after; None where it has been told of for long enough."""
        there = next((servers[its] for its in one.ids if its in servers), None)
        is_there = there is not None and is_one_server(one.ids, there.ids)
        called_now = there.name if there is not None and is_there else None
        now, since = self._now(), self._missing.setdefault(key, self._listed_at)
        if one.dropped_at is not None:
            return replace(one, called_now=called_now) if one.is_shown(now) else None
        if self._listed_at - since < CERTAIN_AFTER:
            return one
        return replace(one, dropped_at=now, called_now=called_now)


def _is_wanted(config: Config, one: Matched) -> bool:
    """The configuration in force would find it by the name that it had: nobody there has let go of it."""
    return any(entry.match is not None and fnmatchcase(one.name, entry.match) for entry in config.entries)


def _news(one: Matched, left: Matched | None, target: Target | None, now: datetime) -> Iterable[Entry]:
    """What has become of it, for the events."""
    if target is not None and one.dropped_at is not None:
        yield of_finding(one, target.label, now)
    if target is None and one.dropped_at is None and left is not None and left.dropped_at is not None:
        yield of_drop(left, now)


def _log(entries: Iterable[Entry]) -> None:
    for entry in entries:
        write = log.error if entry.kind is Happened.DROPPED else log.warning
        write("a server that a `match` has found", server=entry.details["label"], what=entry.text)
