"""What is known of each configured server while this process runs, and which rotations are running."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import date, datetime
from typing import Any

from snaprotd.core.admission import may_be_retried
from snaprotd.core.fleet.looks import Fleet
from snaprotd.core.model import Owner, SnapshotState
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.core.telling.vanished import Vanished


@dataclass(kw_only=True, slots=True)
class Holdings:
    """What the provider's list says of one server."""

    counts: Mapping[tuple[Owner, SnapshotState], int]
    newest_completed: datetime | None = None
    newest_size_mb: int | None = None
    blocked: bool = False
    prune_pending: int = 0
    holds: tuple[date, ...] = ()
    """Of each of ours that is held its last day, in UTC."""


def _tally() -> dict[Any, int]:
    """Of thousands of servers: a counter of the library takes ten times as long to make."""
    return defaultdict(int)


@dataclass(slots=True)
class ServerFacts:
    """All that is known of one configured server. None is absent: it is not shown, rather than shown as 0."""

    server_id: str
    _: KW_ONLY
    server_name: str = ""
    next_run: datetime | None = None
    expected_interval: float | None = None
    last_attempt: datetime | None = None
    last_success: datetime | None = None
    last_failure: datetime | None = None
    """When the last rotation ended whose slot has failed: not one that is tried again."""
    retry_at: datetime | None = None
    """When the slot of the last rotation, which has failed, is tried again."""
    last_partial: datetime | None = None
    """When the last rotation ended that took its snapshot and could not delete an old one."""
    last_missed: datetime | None = None
    """When this process last found that a slot had passed and that nothing is run in its place."""
    latest: Rotation | None = None
    """The last rotation that ended."""
    missing: bool | None = None
    """The account has no such server."""
    holdings: Holdings | None = None
    vanished: tuple[Vanished, ...] = ()
    """Snapshots of ours that are no longer at the provider, of the last weeks."""
    slots_lost: str = ""
    """Slots that passed since its last success, with nothing run in their place, in words."""
    start_failures: int = 0
    was_off: bool = False
    """A start was owed to it since this process began."""
    rotations: dict[Result, int] = field(default_factory=_tally)
    skipped: dict[str, int] = field(default_factory=_tally)
    missed: dict[str, int] = field(default_factory=_tally)

    def note_end(self, rotation: Rotation) -> None:
        """Its last rotation was this one."""
        self.latest = rotation
        if rotation.result is Result.SUCCESS:
            self.last_success = rotation.finished_at
        elif rotation.result is Result.FAILURE and not may_be_retried(rotation):
            self.last_failure = rotation.finished_at
        elif rotation.result is Result.PARTIAL:
            self.last_partial = rotation.finished_at

    def note_missed(self, slots: int, at: datetime) -> None:
        """So many slots have passed, as is found now, and nothing is run in their place."""
        self.missed["skipped"] += slots
        self.last_missed = at


def _under(server_id: str, facts: ServerFacts) -> ServerFacts:
    """The facts of a server that is called so now."""
    return facts if facts.server_id == server_id else replace(facts, server_id=server_id)


class Board:
    """The facts of each server by its label, and the rotations that are running. An observer of them, too."""

    def __init__(self) -> None:
        self.servers: dict[str, ServerFacts] = {}
        """By label."""
        self._by_id: dict[str, ServerFacts] = {}
        self._shows_all = True
        self.called: Callable[[str], str] = lambda server_id: server_id
        """The id by which the server is called now that was called so: in the ledger it may have another one."""
        self.running: dict[str, Rotation] = {}
        """The latest record of each rotation that this process is responsible for, by its id."""
        self._owed: dict[str, Rotation] = {}
        """Those of them whose server a start is owed to."""
        self._running_of: dict[str, set[str]] = {}
        """The ids of those of each server."""
        self.elsewhere: dict[str, Rotation] = {}
        """The open rotations of other processes, as the ledger was last read, by their ids."""
        self._at_step_since: dict[str, tuple[tuple[Step, int], float]] = {}
        """Of each of those its step, and since when it was seen there, by the loop's clock."""
        self.debts: dict[tuple[str, str], ServerPower] = {}
        """The servers that a start is owed to and that no rotation sees to, by account and id."""
        self.dropped: Mapping[str, str] | None = None
        """Servers that a `match` had found and none finds any more, by id the label; None before a list has told."""
        self.ledger_writable: bool | None = None
        """Whether the ledger can be written; None before that is known."""
        self.fleet: Fleet | None = None
        """The replicas that share the ledger, as they were seen last; None before that is known."""
        self.reports: Callable[[], bool] = lambda: True
        """Whether this process tells of what all replicas share: one of them does."""
        self.is_answered = True
        """Whether the provider answers this process, as far as is known."""
        self.is_on_time: Callable[[], bool] = lambda: True
        """Whether our clock shows the provider's time, as far as is known."""
        self.inventory_listed_at: datetime | None = None
        """When the provider's whole list was last read; None before the first."""

    def show_only(self, labels: Mapping[str, str]) -> None:
        """Show these servers, the label of each by its id, and forget every other.

        What is known of a server stays with it under another label, and is never taken for another server's.
        """
        self._shows_all = False
        before = {(its := self.called(one)): _under(its, facts) for one, facts in self._by_id.items()}
        self._by_id = {server_id: before.get(server_id) or ServerFacts(server_id) for server_id in labels}
        self.servers = {label: self._by_id[server_id] for server_id, label in labels.items()}

    def of(self, server_id: str) -> ServerFacts:
        """What is known of a server. One that was removed is not shown any more: its facts go nowhere.

        Before it is known which are shown, what is told of any is kept: an interrupted rotation may end at once.
        """
        if self._shows_all:
            return self._by_id.setdefault(server_id, ServerFacts(server_id))
        return self._by_id.get(self.called(server_id)) or ServerFacts(server_id)

    @property
    def held_off(self) -> list[tuple[str, str]]:
        """The id and the label of each server that a start is owed to, as far as was seen, whoever sees to it."""
        owed = [one for key, one in self.elsewhere.items() if one.is_owed and key not in self.running]
        owed += self._owed.values()
        named = [(one.server_id, one.label) for one in owed]
        named += [(one.server_id, one.label) for one in self.debts.values()]
        return [(self.called(server_id), label) for server_id, label in named]

    # -- rotations ---------------------------------------------------------------------------------------------

    def show(self, rotation: Rotation) -> None:
        """The latest record of a rotation that runs."""
        self.running[rotation.id] = rotation
        self._running_of.setdefault(rotation.server_id, set()).add(rotation.id)
        if rotation.is_owed:
            self._owed[rotation.id] = rotation
        else:
            self._owed.pop(rotation.id, None)
        self._note_off(rotation)

    def take_down(self, rotation: Rotation) -> None:
        """This process does not run it any more."""
        self.running.pop(rotation.id, None)
        self._owed.pop(rotation.id, None)
        ids = self._running_of.get(rotation.server_id, set())
        ids.discard(rotation.id)
        if not ids:
            self._running_of.pop(rotation.server_id, None)

    def runs(self, server_id: str) -> bool:
        """Whether a rotation of this process sees to the server that is called so."""
        return server_id in self._running_of

    def open_of(self, server_id: str) -> list[Rotation]:
        """The open rotations of the server that is called so, whoever runs them."""
        ours = [self.running[one] for one in self._running_of.get(server_id, ())]
        return ours + [one for one in self.elsewhere.values() if one.server_id == server_id]

    def show_elsewhere(self, found: Iterable[Rotation]) -> list[Rotation]:
        """The open rotations of other processes, as the ledger has just been read.

        Each has waited at its step for as long as it was seen there at the least: who runs it saves that now and then.
        """
        now, before = asyncio.get_running_loop().time(), self._at_step_since
        found = [one for one in found if one.id not in self.running]
        self._at_step_since = {}
        for one in found:
            step, known = (one.step, len(one.trail)), before.get(one.id)
            self._at_step_since[one.id] = known if known is not None and known[0] == step else (step, now)
        shown = [replace(one, waited=max(one.waited, now - self._at_step_since[one.id][1])) for one in found]
        self.elsewhere = {one.id: one for one in shown}
        for one in shown:
            self._note_off(one)
        return shown

    def _note_off(self, rotation: Rotation) -> None:
        if rotation.is_owed:
            self.of(rotation.server_id).was_off = True

    def show_debt(self, record: ServerPower) -> None:
        """A start is owed to the server, and the keeper sees to it."""
        self.debts[record.account, record.server_id] = record
        self.of(record.server_id).was_off = True

    def clear_debt(self, record: ServerPower) -> None:
        self.debts.pop((record.account, record.server_id), None)

    def start_failed(self, rotation: Rotation) -> None:
        self.of(rotation.server_id).start_failures += 1

    def deleted(self, rotation: Rotation, *, success: bool) -> None:
        """Of no server's facts: the next list shows it."""

    def back_on(self, server_id: str, seconds: float) -> None:
        """Of no server's facts: the rotation's own record has it."""

    def finished(self, rotation: Rotation) -> None:
        if rotation.result is None:
            return
        facts = self.of(rotation.server_id)
        facts.rotations[rotation.result] += not may_be_retried(rotation)
        if rotation.skipped:
            facts.skipped[rotation.skipped] += 1
        facts.note_end(rotation)
