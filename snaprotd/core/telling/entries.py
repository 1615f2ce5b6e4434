"""What has happened, as the ledger keeps it: one entry for each event, which nothing changes any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from snaprotd.core.admission import may_be_retried
from snaprotd.core.fleet import Replica
from snaprotd.core.model import Snapshot
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.telling import Event
from snaprotd.core.telling.troubles import Key, Told
from snaprotd.core.words import Json, count, plain_id, zulu

IS_GONE = "is no longer at the provider, and no deletion of it is known"
MOST_SLOTS = 10
"""Slots that are named in one entry."""


class Happened(StrEnum):
    """The kinds of entries."""

    ROTATION = "rotation"
    """An attempt at a slot has ended."""
    LAPSED = "lapsed"
    """A slot whose attempt has failed is not tried again, though it was to be."""
    LATE = "late"
    """A slot that nobody saw in time is run."""
    MISSED = "missed"
    """Slots that nobody saw in time are not run."""
    DELETION = "deletion"
    """A rotation is about to ask for the deletion of a snapshot."""
    RESTORE = "restore"
    DELETE = "delete"
    HOLD = "hold"
    UNHOLD = "unhold"
    LEAVE_OFF = "leave_off"
    RELOAD = "reload"
    RELOAD_REFUSED = "reload_refused"
    VANISHED = "vanished"
    """A snapshot of ours is no longer at the provider, and snaprotd has not deleted it."""
    DROPPED = "dropped"
    """A server that a `match` has found is not looked after any more: it was renamed, or is gone."""
    FOUND_AGAIN = "found_again"
    """One that was dropped is looked after again."""
    FAILURE = "failure"
    """What all servers need is not there: the token is refused, say."""
    BLOCKED = "blocked"
    HELD_OFF = "held_off"
    LEDGER_EXCHANGED = "ledger_exchanged"
    """The ledger's files were deleted or exchanged under a process."""
    LEDGER_OLD = "ledger_old"
    """The ledger is an old copy that was put back, or a new one in place of one that was lost."""
    REPLICA_LOST = "replica_lost"
    """One of several replicas has gone without ending in order, and none has come in its place."""
    RECOVERY = "recovery"
    """What one of the three before it has told of is over."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event."""

    at: datetime
    kind: Happened
    text: str
    server_id: str | None = None
    """None where it is about no one server."""
    by: str | None = None
    """Who has done it, as `user@host`; None where it was snaprotd itself."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain values of JSON."""
    key: str = ""
    """Of which the ledger takes one: an event that is told twice is one. Empty where it cannot be."""
    id: int = 0
    """Grows from entry to entry; 0 before the ledger has it."""

    def as_json(self) -> Json:
        """One entry of `history --events --json` and of `/api/events`."""
        return {
            "id": self.id,
            "at": zulu(self.at),
            "kind": str(self.kind),
            "server_id": None if self.server_id is None else plain_id(self.server_id),
            "text": self.text,
            "by": self.by,
            "details": dict(self.details),
        }


def of_end(rotation: Rotation) -> Entry:
    """An attempt that has ended."""
    at = rotation.finished_at or rotation.started_at
    what = f"attempt {rotation.attempt} of the slot {zulu(rotation.slot)} ({rotation.kind})"
    if rotation.result is Result.SUCCESS:
        text = f"{what} has succeeded: {rotation.snapshot_name}"
    else:
        text = f"{what} ended as {rotation.result}, at step {rotation.failed_step}: {rotation.error}"
    if rotation.deleted:
        text += f"; deleted {count(len(rotation.deleted), 'snapshot')}"
    is_tried_again = may_be_retried(rotation)
    return Entry(
        at=at,
        kind=Happened.ROTATION,
        text=text,
        server_id=rotation.server_id,
        details={**_of_rotation(rotation), "is_last": not is_tried_again},
        key=f"end {rotation.id} {zulu(at)}",
    )


def of_lapse(rotation: Rotation, why: str, at: datetime) -> Entry:
    """The slot of a rotation that has failed is not tried again."""
    return Entry(
        at=at,
        kind=Happened.LAPSED,
        text=f"the slot {zulu(rotation.slot)} is not tried again: {why}",
        server_id=rotation.server_id,
        details={**_of_rotation(rotation), "is_last": True},
        key=f"lapse {rotation.id}",
    )


def _of_rotation(rotation: Rotation) -> dict[str, Any]:
    return {
        "rotation": rotation.id,
        "label": rotation.label,
        "slot": zulu(rotation.slot),
        "kind": str(rotation.kind),
        "attempt": rotation.attempt,
        "result": rotation.result and str(rotation.result),
        "step": rotation.failed_step and str(rotation.failed_step),
        "error": rotation.error,
        "cause": rotation.cause,
        "snapshot": rotation.snapshot_name,
        "snapshot_id": rotation.snapshot_id and plain_id(rotation.snapshot_id),
        "deleted": [plain_id(one) for one in rotation.deleted],
        "not_deleted": [plain_id(one) for one in rotation.undeletable],
    }


def how_let_go(entry: Entry) -> str:
    """Of a `LEAVE_OFF`, how a trouble has ended by it."""
    reason = entry.details.get("reason")
    why = f" ({reason})" if reason else ""
    return f"{entry.by} has let go of its start{why}: it is not started any more, and stays off unless somebody does so"


def of_late(rotation: Rotation) -> Entry:
    """A slot that was missed is run."""
    return Entry(
        at=rotation.started_at,
        kind=Happened.LATE,
        text=f"the slot {zulu(rotation.slot)} was missed, and is run late",
        server_id=rotation.server_id,
        details={"rotation": rotation.id, "label": rotation.label, "slot": zulu(rotation.slot)},
        key=f"late {rotation.id}",
    )


def of_missed(
    server_id: str, label: str, *, number: int, slots: Sequence[datetime], why: str, is_lost: bool, at: datetime
) -> Entry:
    """Slots that are not run. `slots` are those that can be named. `is_lost`: nothing is run in their place."""
    named = [zulu(one) for one in slots[-MOST_SLOTS:]]
    last = f", the last of them {named[-1]}" if named and number > 1 else f" of {named[-1]}" if named else ""
    return Entry(
        at=at,
        kind=Happened.MISSED,
        text=f"{count(number, 'slot')}{last}, not run: {why}",
        server_id=server_id,
        details={"label": label, "number": number, "slots": named, "is_lost": is_lost},
        key=f"missed {server_id} {named[-1]}" if named else "",
    )


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """A snapshot that a rotation is about to delete, why, and the list that this was decided on."""

    snapshot: Snapshot
    reason: str
    listed: Sequence[Snapshot]


def of_deletion(rotation: Rotation, deletion: Deletion, at: datetime) -> Entry:
    """Once, however often a rotation asks for it for the same reason."""
    snapshot = deletion.snapshot
    return Entry(
        at=at,
        kind=Happened.DELETION,
        text=f"asks for the deletion of {snapshot.name} ({snapshot.id}): {deletion.reason}",
        server_id=rotation.server_id,
        details={
            "rotation": rotation.id,
            "label": rotation.label,
            "snapshot": snapshot.name,
            "snapshot_id": plain_id(snapshot.id),
            "reason": deletion.reason,
            "listed": [_row(one) for one in deletion.listed],
        },
        key=f"deletion {rotation.id} {snapshot.id} {deletion.reason}",
    )


def _row(snapshot: Snapshot) -> Json:
    return {
        "id": plain_id(snapshot.id),
        "name": snapshot.name,
        "status": snapshot.status,
        "created_at": zulu(snapshot.created_at),
    }


def of_vanished(server_id: str, label: str, *, id_: str, name: str, taken: datetime | None, at: datetime) -> Entry:
    """A snapshot of ours that whole lists do not show any more."""
    return Entry(
        at=at,
        kind=Happened.VANISHED,
        text=f"{name} ({id_}) {IS_GONE}",
        server_id=server_id,
        details={"label": label, "snapshot": name, "snapshot_id": plain_id(id_), "taken": zulu(taken)},
        key=f"vanished {server_id} {id_} {name} {at:%Y-%m-%dT%H}",
    )


def of_exchange(what: str, at: datetime) -> Entry:
    """The ledger's files were exchanged under this process; `what` was done about it."""
    return Entry(at=at, kind=Happened.LEDGER_EXCHANGED, text=f"the ledger: {what}")


def of_old_copy(counted: int, beside: int, at: datetime) -> Entry:
    """The ledger has counted so much, and what stands beside it more."""
    what = "an old copy" if counted else "a new one, or a very old copy"
    text = f"the ledger is {what}: it lacks {beside - counted} of the {beside} claims, requests for snapshots and holds"
    return Entry(at=at, kind=Happened.LEDGER_OLD, text=text, details={"counted": counted, "beside": beside})


def of_lost_replica(replica: Replica, left: int, at: datetime) -> Entry:
    """It has gone, and `left` replicas live."""
    text = f"the replica on {replica.host} has gone and did not end in order; {count(left, 'replica')} left"
    details = {"replica": replica.id, "host": replica.host, "left": left}
    return Entry(at=at, kind=Happened.REPLICA_LOST, text=text, details=details)


def entries_of(told: Told, entered: Mapping[Key, Event], now: datetime) -> tuple[Mapping[Key, Event], list[Entry]]:
    """What of all that is going on has an entry of its own by now, and the entries since it was `entered`.

    The ends of rotations have theirs already. What begins and ends before it is worth a word has none.
    """
    lasting = {
        key: one.event
        for key, one in told.troubles.items()
        if not one.event.rotation and (one.ripe_at <= now or key in entered)
    }
    known = {event.id for event in entered.values()}
    begun = [of_trouble(event) for event in lasting.values() if event.id not in known]
    ends = {one.trouble.event.id: one.event.text for one in told.ended}
    over = [_of_its_end(event, ends.get(event.id), now) for key, event in entered.items() if key not in lasting]
    return lasting, [*begun, *over]


def of_trouble(event: Event) -> Entry:
    """That it has begun."""
    return Entry(
        at=event.at,
        kind=Happened(str(event.kind)),
        text=event.text,
        server_id=event.server.id if event.server else None,
        details={"label": event.server.name if event.server else None, "do": event.do, "cause": event.cause},
        key=f"{event.kind} {event.id}",
    )


def _of_its_end(event: Event, how: str | None, now: datetime) -> Entry:
    return Entry(
        at=now,
        kind=Happened.RECOVERY,
        text=how or f"it is over: {event.text}",
        server_id=event.server.id if event.server else None,
        details={"label": event.server.name if event.server else None, "cause": event.cause},
        key=f"over {event.id} {zulu(event.at)}",
    )
