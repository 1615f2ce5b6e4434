"""What the commands print: facts as plain JSON values, made from what was listed. No input or output here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from shlex import quote
from typing import Any

from snaprotd.config.settings import Config, Target
from snaprotd.core.holds import bears_our_name, hold_in_words, hold_named, hold_of
from snaprotd.core.model import Machine, Owner, Server, Snapshot
from snaprotd.core.ownership import owner_of
from snaprotd.core.policy import Policy, stops_itself
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.retention import Decision, rules_in_words
from snaprotd.core.room import Room
from snaprotd.core.rotation import Rotation
from snaprotd.core.schedule import Schedule, next_slot, shut_words, spread_delay
from snaprotd.core.words import STRANGER, Json, duration, plain_id, shown_duration, zulu
from snaprotd.core.words import count as counted
from snaprotd.logs import redactor
from snaprotd.provider.inventory import ServerHoldings
from snaprotd.report.assessment import Assessment, assess

BLOCKED = "blocked: "

FROM_OUTSIDE = frozenset(
    {"blocked", "called_now", "description", "do", "error", "label", "ledger_error", "let_go", "mistakes", "name"}
    | {"note", "power", "reason", "server", "server_name", "snapshot", "status", "text", "why"}
)
"""Under these keys stands what somebody else has named or said: in the report, and in what the commands print."""


def shown(value: Any) -> Any:
    """A value of JSON as it may leave, without a secret in any text from outside."""
    return redactor.told(value, FROM_OUTSIDE)


def next_runs(target: Target, now: datetime, count: int) -> list[datetime]:
    """The next slots, by their nominal times; none while the policy is paused."""
    slots: list[datetime] = []
    schedule = target.policy.schedule
    moment: datetime | None = None if target.policy.paused else next_slot(schedule, now)
    while moment is not None and len(slots) < count:
        slots.append(moment)
        moment = next_slot(schedule, moment)
    return slots


def windows_words(schedule: Schedule, now: datetime) -> str:
    """When anything may begin, and whether that is now; empty where it always may."""
    if not schedule.window:
        return ""
    shut = shut_words(schedule.window, schedule.timezone, now)
    return f"{', '.join(schedule.window)}, {shut.partition(', which ')[2] or 'open now'}"


def retry_words(policy: Policy) -> str:
    """How often the server may be off in one night, where a slot of it is tried again; empty where it is not."""
    times, after = policy.retry.times, shown_duration(policy.retry.after)
    if not times or not policy.stop_first:
        return ""
    return f"{counted(times, 'time')} more where it fails, {after} later: off up to {times + 1} times a night"


def night_words(group: str, times: Sequence[float | None]) -> str:
    """What it means that the servers of a group are held off one after the other; `times` of each, where known."""
    known = [one for one in times if one is not None]
    text = f"{group}, {counted(len(times), 'server')}, one at a time"
    if not known:
        return f"{text}: how long that takes is known after their first rotations"
    rest = f", {len(times) - len(known)} of them not known yet" if len(known) < len(times) else ""
    return f"{text}: off for about {duration(sum(known))} in all, by their last rotations{rest}"


def plan_of(
    config: Config,
    target: Target,
    held: ServerHoldings | None,
    *,
    now: datetime,
    machine: Machine,
    count: int,
    doubt: str | None = None,
) -> Json:
    """One server's entry of `plan --json`. `doubt`: what of the account's list cannot be relied on."""
    report: Json = {
        "id": plain_id(target.server_id),
        "name": target.label,
        "next": [zulu(slot) for slot in next_runs(target, now, count)],
        "blocked": None,
        "snapshots": [],
    }
    if held is None or held.server is None:
        return {**report, "blocked": doubt or "the account has no such server"}
    assessment = assess(config, target, held, now)
    return {
        **report,
        "blocked": blocked_words(assessment.room, target.policy, held.server, machine) or None,
        "snapshots": [_planned_row(_decided_now(decision, assessment)) for decision in assessment.plan.decisions],
    }


def _decided_now(decision: Decision, assessment: Assessment) -> Decision:
    """What a full server loses to make room is to be deleted, though the rules would keep it."""
    if decision.delete:
        return decision
    return next((gone for gone in assessment.room.deletions if gone.snapshot.id == decision.snapshot.id), decision)


def blocked_words(room: Room, policy: Policy, server: Server | None, machine: Machine) -> str:
    """Why a rotation on `machine` would take no snapshot now; empty where nothing is in its way."""
    if server is None:
        return room.blocked or ""
    if why := stops_itself(policy, server, machine):
        return f"{BLOCKED}{why}"
    if room.blocked or not server.is_untouchable:
        return room.blocked or ""
    return f"{BLOCKED}the server is {server.status}: it would not be touched"


def people_plan_of(
    config: Config,
    target: Target,
    held: ServerHoldings | None,
    *,
    now: datetime,
    machine: Machine,
    count: int,
    doubt: str | None = None,
) -> Json:
    """As `plan_of`, with what only the text shows."""
    delay = spread_delay(target.server_id, target.policy.spread)
    report = {
        **plan_of(config, target, held, now=now, machine=machine, count=count, doubt=doubt),
        "paused": target.policy.paused,
        "timezone": target.policy.timezone,
        "window": windows_words(target.policy.schedule, now),
        "retry": retry_words(target.policy),
        "delay": duration(delay.total_seconds()) if delay else None,
        "is_known": held is not None and held.server is not None,
    }
    if held is not None and held.server is not None:
        report["snapshots"] = planned_rows(assess(config, target, held, now))
    return report


def _planned_row(decision: Decision) -> Json:
    snapshot = decision.snapshot
    return {
        "id": plain_id(snapshot.id),
        "name": snapshot.name,
        "owner": decision.owner,
        "status": snapshot.status,
        "created_at": zulu(snapshot.created_at),
        **_decided(decision),
    }


def _decided(decision: Decision) -> Json:
    return {"decision": "delete" if decision.delete else "keep", "reason": decision.reason}


def planned_rows(assessment: Assessment) -> list[Json]:
    """Every snapshot with what becomes of it now, and what a rotation that ran now would make of it."""
    later = {decision.snapshot.id: decision for decision in assessment.rehearsal.decisions}
    return [
        {
            **_planned_row(_decided_now(decision, assessment)),
            "size_mb": decision.snapshot.size_mb,
            "description": decision.snapshot.description,
            "after_next_run": _decided(later.get(decision.snapshot.id, decision)),
        }
        for decision in assessment.plan.decisions
    ]


def not_started_words(power: Power) -> str:
    """Why a server that is to be started is not on yet; empty where that need not be told."""
    if power.missing_for is not None:
        return "the account has it by none of the ids that it was known by"
    return f"has been asked for that {power.starts} times, and is not running yet" if power.starts > 1 else ""


def busy_words(rotation: Rotation) -> str:
    """Why a command does nothing while a rotation of the server is open."""
    return (
        f"a rotation of {rotation.label} is open already ({_place_of(rotation)}): "
        "nothing was done. Try again when it has ended; `snaprotd status` shows its progress"
    )


def forsaken_words(rotation: Rotation) -> str:
    """The same, where the process that ran it is gone."""
    label, off = quote(rotation.label), " starts the server," if rotation.is_owed else ""
    return (
        f"a rotation of {rotation.label} is open ({_place_of(rotation)}), and the process that ran it is gone: "
        f"nothing was done. The next `snaprotd run` or `snaprotd now {label}` goes on with it,{off} and may delete in "
        f"its end what `snaprotd plan {label}` shows. Try again after that"
    )


def _place_of(rotation: Rotation) -> str:
    return f"slot {rotation.slot:%Y-%m-%d %H:%M:%SZ}, at step {rotation.step}"


def history_row(rotation: Rotation) -> Json:
    """One entry of `history --json`."""
    return {
        "id": rotation.id,
        "server_id": plain_id(rotation.server_id),
        "slot": zulu(rotation.slot),
        "kind": rotation.kind,
        "attempt": rotation.attempt,
        "started_at": zulu(rotation.started_at),
        "finished_at": zulu(rotation.finished_at),
        "result": rotation.result,
        "step": rotation.failed_step or rotation.step,
        "snapshot_id": plain_id(rotation.snapshot_id) if rotation.snapshot_id else None,
        "deleted": [plain_id(one) for one in rotation.deleted],
        "error": rotation.error,
    }


def snapshot_row(snapshot: Snapshot, owner: Owner) -> Json:
    """One entry of `list --json`."""
    return {
        "id": plain_id(snapshot.id),
        "server_id": plain_id(snapshot.server_id),
        "server_name": snapshot.server_name,
        "name": snapshot.name,
        "owner": owner,
        "status": snapshot.status,
        "size_mb": snapshot.size_mb,
        "created_at": zulu(snapshot.created_at),
        "description": snapshot.description,
    }


def snapshot_rows(
    config: Config, targets: Iterable[Target], known: Mapping[str, ServerHoldings], wanted: Sequence[str]
) -> list[Json]:
    """`list --json`: the snapshots of the servers with the ids `wanted`, newest first for each."""
    adopt = {target.server_id: target.policy.adopt for target in targets}
    rows = []
    for server_id in wanted:
        held = known.get(server_id)
        snapshots = sorted(held.snapshots, key=_age, reverse=True) if held else []
        for snapshot in snapshots:
            owner = owner_of(snapshot, instance=config.instance, adopt=adopt.get(server_id, ()))
            rows.append(snapshot_row(snapshot, owner))
    return rows


def notes_on(
    config: Config, targets: Iterable[Target], known: Mapping[str, ServerHoldings], now: datetime
) -> dict[object, str]:
    """What a list tells beside its rows, by the ids of snapshots: that one is held, or only bears our name."""
    adopt = {target.server_id: target.policy.adopt for target in targets}
    notes: dict[object, str] = {}
    for server_id, held in known.items():
        for one in held.snapshots:
            owner = owner_of(one, instance=config.instance, adopt=adopt.get(server_id, ()))
            if owner is Owner.MANAGED and (until := hold_of(one, now)) is not None:
                notes[plain_id(one.id)] = hold_in_words(until)
            elif owner is Owner.FOREIGN and bears_our_name(one.name, config.instance):
                notes[plain_id(one.id)] = STRANGER
    return notes


def lives_words(rotation: Rotation) -> str:
    """For how long what `now` has taken stays, as far as it is certain."""
    until = hold_named(rotation.snapshot_name)
    if until is not None:
        return hold_in_words(until)
    return f"not held, so that it stays as `keep` says: {rules_in_words(rotation.policy.keep)}"


def _age(snapshot: Snapshot) -> tuple[datetime, str]:
    return (snapshot.created_at or datetime.min.replace(tzinfo=UTC), snapshot.id)


def outcome_of(rotation: Rotation) -> Json:
    """`now --json`."""
    taken = rotation.snapshot_id is not None
    return {
        "result": rotation.result or "failure",
        "snapshot": {"id": plain_id(rotation.snapshot_id), "name": rotation.snapshot_name}
        if taken and rotation.snapshot_id
        else None,
        "deleted": [plain_id(one) for one in rotation.deleted],
        "error": rotation.error if rotation.is_finished else "interrupted: the next start of snaprotd goes on with it",
    }


def refusal(why: str) -> Json:
    """`now --json` where nothing was done."""
    return {"result": "failure", "snapshot": None, "deleted": [], "error": why}


def ids_of(texts: Sequence[str], targets: Sequence[Target], servers: Sequence[Server]) -> list[str] | str:
    """The server ids that `texts` name: by id, by our label, or by the account's name where that is unique.

    Without any text, every configured server. A text that names none, or several, is answered with a sentence.
    """
    if not texts:
        return [target.server_id for target in targets]
    ids = []
    for text in texts:
        exact = {target.server_id for target in targets if text in (target.server_id, target.label)}
        exact |= {server.id for server in servers if text in server.ids}
        found = exact or {server.id for server in servers if server.name == text}
        if len(found) != 1:
            names = f"{len(found)} servers are named {text}: use an id ({', '.join(sorted(found))})"
            return names if found else f"no server is named {text}"
        ids.append(found.pop())
    return ids


def owed_row(owed: ServerPower) -> Json:
    """A start that is owed, or a server that is watched because of one, as the ledger has it."""
    power = owed.power
    if power.watched:
        why = "runs again, and is only watched: it is started once more if a stop of snaprotd still strikes"
    elif power.in_doubt:
        why = "may be off because of snaprotd, but somebody else may have switched it off since: it is not started"
    elif power.went_off:
        why = "was stopped by snaprotd, and was not seen running since"
    else:
        why = "was asked to stop by snaprotd, and was not seen off yet"
    return {
        "server_id": plain_id(owed.server_id),
        "since": zulu(power.went_off_at or power.held_off_since),
        "why": f"{owed.label} {why}",
    }
