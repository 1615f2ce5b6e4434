"""What the ledger knows of the account's snapshots: of a name alone it cannot be told whose it is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, date, datetime

import structlog

from snaprotd.core.creation import Recollection
from snaprotd.core.errors import LedgerError
from snaprotd.core.holds import Hold, bears_our_name, name_read
from snaprotd.core.model import Snapshot
from snaprotd.core.words import STRANGER
from snaprotd.ledger.store import Ledger
from snaprotd.provider.inventory import Inventory, ServerHoldings
from snaprotd.provider.whole import in_turns

log = structlog.get_logger("snaprotd.account")


def _says_the_same(before: tuple[Snapshot, ...], listed: tuple[Snapshot, ...]) -> bool:
    """Whether nothing follows from the newer list that did not follow from the one before.

    For how long a snapshot stands as it is counts where it is not completed; and holds end with the provider's day.
    """
    if listed is before:
        return True
    return listed == before and all(
        one.is_completed and _day_of(one.listed_at) == _day_of(other.listed_at)
        for one, other in zip(listed, before, strict=True)
    )


def _day_of(instant: datetime | None) -> date | None:
    """In UTC."""
    return None if instant is None else instant.astimezone(UTC).date()


class _Recalled:
    """What the ledger knew of one server's snapshots when it was asked for those in a list."""

    __slots__ = ("_listed", "_marked", "asked_for", "found", "instance")

    def __init__(self, asked_for: tuple[Snapshot, ...], found: Recollection, instance: str) -> None:
        self.asked_for = asked_for
        self.found = found
        self.instance = instance
        self._listed: tuple[Snapshot, ...] = ()
        self._marked: tuple[Snapshot, ...] = ()

    def marked(self, listed: tuple[Snapshot, ...]) -> tuple[Snapshot, ...]:
        """These snapshots as the ledger knows them: the very same answer for a list that says the same, judged once."""
        if not _says_the_same(self._listed, listed):
            asked = {its_id for one in self.asked_for for its_id in one.ids}
            marked = self.found.marked(listed, self.instance)
            self._marked = tuple(one if one.is_among(asked) else self._as_new(one) for one in marked)
        self._listed = listed
        return self._marked

    def _as_new(self, one: Snapshot) -> Snapshot:
        """One that was not asked for may have been taken since: nothing tells yet that no row is about it.

        By its name it is ours until the ledger is asked, also where our clock gave it a slot that is still to come.
        """
        if one.in_ledger:
            return one
        return replace(one, in_ledger=True if bears_our_name(one.name, self.instance) else None)

    def strangers(self) -> dict[str, str]:
        """The names of those that look like ours by their name or their id, and are not, by id."""
        return {one.id: one.name for one in self.marked(self.asked_for) if one.in_ledger is False}


def _words_for(stranger: str) -> str:
    if name_read(stranger) is None:
        return "a snapshot has the id that one of ours had, and was taken at another time: it is not ours"
    return f"a snapshot {STRANGER}: does another snaprotd with this instance work on the account?"


class Recollections:
    """The ledger is asked again for a server whose list has changed."""

    def __init__(self, inventory: Inventory, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._inventory = inventory
        self._ledger = ledger
        self._now = now
        self._recalled: dict[str, _Recalled] = {}
        self._seen: set[str] = set()
        self._said: frozenset[Hold] = frozenset()
        """What persons had said of holding snapshots when the ledger was asked last."""

    async def refresh(self, instance: str) -> None:
        """Ask for what was listed. Where the ledger cannot be read, that is told, and names alone must do."""
        try:
            await self._refresh(instance)
        except LedgerError as error:
            log.error("whose snapshots are is told by their names alone", error=str(error))

    async def _refresh(self, instance: str) -> None:
        said = await self._ledger.holds.said()
        known, news = dict(self._inventory.known), said ^ self._said
        self._recalled = {one: kept for one, kept in self._recalled.items() if one in known}
        asked: dict[str, tuple[Snapshot, ...]] = {}
        async for one, held in in_turns(known.items()):
            if self._is_to_ask(one, held, instance, news):
                asked[one] = held.snapshots
            else:
                self._recalled[one].asked_for = held.snapshots  # it says the same: no older one is kept
        shown = [(self._inventory.ids_of(one), snapshots) for one, snapshots in asked.items()]
        found = await self._ledger.recall_each(shown, self._now())
        async for server_id, recalled in in_turns(zip(asked, found, strict=True)):
            before, snapshots = self._recalled.get(server_id), asked[server_id]
            self._recalled[server_id] = _Recalled(snapshots, recalled, instance)
            self._seen |= recalled.rows_of(snapshots, instance)
            self._tell_strangers(server_id, before)
        self._said = said

    def _is_to_ask(self, server_id: str, held: ServerHoldings, instance: str, news: Collection[Hold]) -> bool:
        kept = self._recalled.get(server_id)
        if kept is None or kept.asked_for != held.snapshots or kept.instance != instance:
            return True
        return any(hold.is_of(one) for hold in news for one in held.snapshots)

    def _tell_strangers(self, server_id: str, before: _Recalled | None) -> None:
        told = before.strangers() if before is not None else {}
        for its_id, name in self._recalled[server_id].strangers().items():
            if its_id not in told:
                log.error(_words_for(name), server_id=server_id, snapshot=name, snapshot_id=its_id)

    def held(self, server_id: str) -> ServerHoldings | None:
        """What was last seen of a server, with what the ledger knew of it when it was last asked."""
        held, recalled = self._inventory.known.get(server_id), self._recalled.get(server_id)
        return replace(held, snapshots=recalled.marked(held.snapshots)) if held and recalled else held

    def rows(self) -> set[str] | None:
        """The ids of the rotations that have taken what exists, or what any list has shown since this was asked last.

        One list may lack what another shows. None while it is not known of all that exists.
        """
        known = self._inventory.known
        if known.keys() - self._recalled.keys():
            return None
        asked = [(self._recalled[one], held.snapshots) for one, held in known.items()]
        now = {row for recalled, listed in asked for row in recalled.found.rows_of(listed, recalled.instance)}
        seen, self._seen = self._seen, now
        return seen | now
