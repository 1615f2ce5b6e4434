"""What has happened, as events that people may be told of: in the words of the problems, with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from snaprotd.core.errors import CloudError, Refused
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.telling import Event, Kind, Who
from snaprotd.core.telling.edges import LONGEST_TEXT
from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.core.telling.troubles import ACCOUNT
from snaprotd.core.words import printable
from snaprotd.logs import redactor
from snaprotd.report.kinds import Problem
from snaprotd.report.problems import (
    of_daemon,
    of_dropped,
    of_failure,
    of_ledger,
    of_owed_elsewhere,
    of_power,
    without_rotation,
)
from snaprotd.report.replicas import of_lost
from snaprotd.report.rows import BLOCKED

API = "api"
"""The cause of what failed while the account could not be listed."""

LOST_SLOTS = "slots_lost"
"""The kind of problem that slots which nobody saw are, where nothing is run in their place."""
TAKEN_AGAIN = frozenset({LOST_SLOTS})
"""What is over with a snapshot that was taken, whatever else became of its rotation."""

MAY_PASS = {
    "account_not_listed": timedelta(minutes=10),
    "clock_differs": timedelta(minutes=10),
    "ledger_unusable": timedelta(minutes=1),
}
"""What is not worth a message until it has lasted for so long."""
LISTED = {
    "missing": timedelta(0),
    "another_snaprotd": timedelta(0),
    "too_old": timedelta(0),
    "list_in_doubt": timedelta(minutes=20),
}
"""Alarms that lists of the account show, and how long each is given beyond the next list: what lasts is no mistake."""
OF_LEDGER = frozenset({Happened.LEDGER_EXCHANGED, Happened.LEDGER_OLD})
"""What has befallen the ledger's files."""
IMPLIED = frozenset({"too_old", "list_in_doubt"})
"""Those of them that are no news where the server's rotations fail, which is told."""
SPARE = timedelta(minutes=5)
"""After the interval of lists, for the next one to be there."""
CERTIFICATE_CHANGES_WITHIN = timedelta(minutes=10)
TAKEN_UP_WITHIN = timedelta(minutes=2)
"""A start that is owed after a restart is taken up by then."""


def of_entry(
    entry: Entry,
    *,
    account_failure: CloudError | None = None,
    ids: Callable[[str], Mapping[str, str]] = lambda _: {},
) -> Event | None:
    """What people may be told of an entry of the ledger; None where that is nothing.

    `account_failure`: why the account cannot be listed just now, where it cannot. `ids`: as `problems.ids_in` has them
    of a server, by its id.
    """
    if entry.kind in OF_LEDGER:
        id_ = f"{entry.kind}-{entry.at.isoformat()}"
        return _event(of_ledger(entry), id_=id_, at=entry.at, kind=Kind.FAILURE, server=None, cause="", once=True)
    if entry.kind is Happened.REPLICA_LOST:
        return _of_lost_replica(entry)
    if entry.server_id is None:
        return None
    if entry.kind in (Happened.DROPPED, Happened.FOUND_AGAIN):
        return _of_drop(entry)
    who = Who(id=entry.server_id, name=str(entry.details.get("label") or entry.server_id))
    if entry.kind is Happened.VANISHED:
        problem = Problem("vanished", {"server": who.name, "which": entry.text})
        return _event(
            problem,
            id_=f"vanished-{entry.server_id}-{entry.details.get('snapshot_id')}-{entry.at:%Y%m%dT%H}",
            at=entry.at,
            kind=Kind.VANISHED,
            server=who,
            cause="",
            once=True,
        )
    if entry.kind in (Happened.ROTATION, Happened.LAPSED):
        return _of_end(entry, who, account_failure, ids)
    if entry.kind is Happened.MISSED and entry.details.get("is_lost") is True:
        return _of_lost_slots(entry, who)
    return None


def _of_lost_replica(entry: Entry) -> Event:
    """It is told once; where one comes in its place there is nothing more to tell."""
    left = entry.details.get("left")
    problem = of_lost(str(entry.details.get("host")), left if isinstance(left, int) else 0)
    id_ = f"{entry.kind}-{entry.details.get('replica')}"
    return _event(problem, id_=id_, at=entry.at, kind=Kind.FAILURE, server=None, cause="", once=True)


def _of_lost_slots(entry: Entry, who: Who) -> Event:
    """The next snapshot that is taken is the end of it, whatever else there is with the server's rotations."""
    problem = Problem(LOST_SLOTS, {"server": who.name, "slots": entry.text})
    id_ = f"{LOST_SLOTS}-{who.id}-{entry.at.isoformat()}"
    lost = _event(problem, id_=id_, at=entry.at, kind=Kind.FAILURE, server=who, cause="", rotation=id_)
    return replace(lost, about=LOST_SLOTS)


def _of_drop(entry: Entry) -> Event:
    """A server that a `match` finds no more, or finds again: each is told once."""
    told, server_id = entry.details, str(entry.server_id)
    who = Who(id=server_id, name=str(told.get("label") or server_id))
    id_, about = f"{entry.kind}-{server_id}-{entry.at.isoformat()}", "dropped"
    if entry.kind is Happened.FOUND_AGAIN:
        text, kind = entry.text, Kind.RECOVERY
        return Event(id=id_, at=entry.at, kind=kind, server=who, text=text, severity="ok", about=about, once=True)
    problem = of_dropped(who.name, server_id, told.get("called_now"))
    event = _event(problem, id_=id_, at=entry.at, kind=Kind.FAILURE, server=who, cause="", once=True)
    return replace(event, about=about, leaves=True)


def _of_end(
    entry: Entry, who: Who, account_failure: CloudError | None, ids: Callable[[str], Mapping[str, str]]
) -> Event | None:
    """The end of an attempt, where it is one of its slot too."""
    told = entry.details
    result, id_ = told.get("result"), str(told.get("rotation") or entry.id)
    if result == Result.SUCCESS:
        text = f"its rotation has succeeded: {told.get('snapshot')}"
        success = Event(id=id_, at=entry.at, kind=Kind.RECOVERY, server=who, text=text, severity="ok", rotation=id_)
        return replace(success, also_ends=TAKEN_AGAIN)
    if told.get("is_last") is False:
        return None  # it is tried again
    error, step, its_cause = str(told.get("error") or ""), told.get("step"), str(told.get("cause") or "")
    is_blocked = error.startswith(BLOCKED) and result != Result.PARTIAL
    if result == Result.PARTIAL:
        problem = Problem("partial", {"server": who.name, "step": step, "error": error})
    else:
        problem = of_failure(who.name, step=step, error=error, cause=its_cause, ids=ids(who.id))
    cause = "" if is_blocked else _cause_of_end(its_cause, account_failure)
    is_about = Kind.BLOCKED if is_blocked else Kind.FAILURE
    event = _event(problem, id_=id_, at=entry.at, kind=is_about, server=who, cause=cause, rotation=id_)
    return replace(event, also_ends=TAKEN_AGAIN) if result == Result.PARTIAL else event


def _cause_of_end(its: str, failure: CloudError | None) -> str:
    """Of a rotation that has failed for `its` cause: empty where that is its server's own, whatever else goes on."""
    if its == Refused.cause:
        return its
    is_the_accounts = failure is not None and (its == failure.cause or {its, failure.cause} == ACCOUNT)
    return _cause_of_account(failure) if its and is_the_accounts else ""


def _cause_of_account(failure: CloudError | None) -> str:
    if failure is None:
        return ""
    return Refused.cause if isinstance(failure, Refused) else API


def of_servers_off(
    running: Iterable[Rotation], debts: Iterable[ServerPower], now: datetime, *, account: str = ""
) -> list[Event]:
    """Those that are off because of us for too long, or that no rotation sees to. `account`: the configuration's."""
    found = []
    for rotation in running:
        who = Who(id=rotation.server_id, name=rotation.label)
        for problem in of_power(rotation, now):
            id_ = f"off-{rotation.id}-{now.isoformat()}"
            found.append(_event(problem, id_=id_, at=now, kind=Kind.HELD_OFF, server=who, cause=""))
    for debt in debts:
        who = Who(id=debt.server_id, name=debt.label)
        is_ours = debt.account == account
        ours = without_rotation(debt.label, debt=debt, set_aside=None, running=None)
        for problem in ours if is_ours else (of_owed_elsewhere(debt),):
            id_ = f"owed-{debt.account}-{debt.server_id}-{now.isoformat()}"
            patience = TAKEN_UP_WITHIN
            found.append(_event(problem, id_=id_, at=now, kind=Kind.HELD_OFF, server=who, cause="", patience=patience))
    return found


def of_alarm(problem: Problem, server: Who | None, now: datetime, *, every: float = 0.0, rotation: str = "") -> Event:
    """An alarm of the page that no other event tells of. `every`: seconds between two lists that may show it.

    `rotation`: where the next success of the server's rotations ends it, and no look.
    """
    patience = LISTED[problem.kind] + timedelta(seconds=every) + SPARE if problem.kind in LISTED else timedelta(0)
    event = _event(
        problem,
        id_=f"{problem.kind}-{server.id if server else ''}-{now.isoformat()}",
        at=now,
        kind=Kind.FAILURE,
        server=server,
        cause="" if server else problem.kind,
        patience=patience if server else CERTIFICATE_CHANGES_WITHIN,
        rotation=rotation,
    )
    return replace(event, about=problem.kind)


def of_whole(
    now: datetime,
    *,
    config_mistakes: Sequence[str],
    ledger_error: str | None,
    account_failure: CloudError | None,
    clock_ahead: float,
) -> list[Event]:
    """What is wrong with no one server of ours, and keeps rotations from being what they should be."""
    found = of_daemon(
        is_ending=False,
        config_mistakes=config_mistakes,
        ledger_error=ledger_error,
        account_error=None if account_failure is None else str(account_failure),
        is_account_listed=True,
        clock_ahead=clock_ahead,
    )
    events = []
    for problem in found:
        cause, patience = problem.kind, MAY_PASS.get(problem.kind, timedelta(0))
        if problem.kind == "account_not_listed":
            cause = _cause_of_account(account_failure)
            patience = timedelta(0) if cause == Refused.cause else patience
        id_ = f"{problem.kind}-{now.isoformat()}"
        events.append(_event(problem, id_=id_, at=now, kind=Kind.FAILURE, server=None, cause=cause, patience=patience))
    return events


def _event(
    problem: Problem,
    *,
    id_: str,
    at: datetime,
    kind: Kind,
    server: Who | None,
    cause: str,
    rotation: str = "",
    patience: timedelta = timedelta(0),
    once: bool = False,
) -> Event:
    told = problem.as_json()
    return Event(
        id=id_,
        at=at,
        kind=kind,
        server=server,
        text=printable(redactor.clean(told["text"]), LONGEST_TEXT),
        do=printable(f"{redactor.known(told['do'])} More: {told['runbook']}", LONGEST_TEXT),
        severity=told["severity"],
        cause=cause,
        patience=patience,
        rotation=rotation,
        once=once,
    )
