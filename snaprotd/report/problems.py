"""What decides that a kind of problem is there. What is said of each stands in `kinds`. No input or output here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from snaprotd.config.mistakes import MOST_SHOWN
from snaprotd.config.settings import Target
from snaprotd.core.errors import OWN_SERVER, UNTOUCHABLE
from snaprotd.core.holds import hold_of
from snaprotd.core.model import Machine, Owner, Server
from snaprotd.core.policy import Policy, stops_itself
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.core.telling.entries import IS_GONE, Entry
from snaprotd.core.telling.vanished import Vanished
from snaprotd.core.words import clock, count, duration, listed
from snaprotd.report.assessment import Assessment
from snaprotd.report.kinds import NOT_FOLLOWED, Problem
from snaprotd.report.rows import BLOCKED, blocked_words, not_started_words

RENEWED_BY = timedelta(days=14)
"""Before its end: those who renew by themselves have done so at a third of ninety days."""
TIME_CHANGE = timedelta(hours=1)
"""What a day may be longer by, in autumn."""

CLOCKS_MAY_DIFFER = 60.0
"""Seconds: no slot is told more exactly than to the minute."""


def _there_is(kind: str, **facts: object) -> Problem:
    return Problem(kind, facts)


# -- what is there -----------------------------------------------------------------------------------------------------


def of_daemon(
    *,
    is_ending: bool,
    config_mistakes: Sequence[str],
    ledger_error: str | None,
    account_error: str | None,
    is_account_listed: bool,
    foreign_debts: Sequence[ServerPower] = (),
    given_up: Mapping[str, tuple[int, str]] = MappingProxyType({}),
    clock_ahead: float = 0.0,
    ledger_news: Sequence[Entry] = (),
) -> Iterator[Problem]:
    """What is wrong with no one server of ours. `clock_ahead`: of the provider's, in seconds; negative is behind it."""
    for debt in foreign_debts:
        yield of_owed_elsewhere(debt)
    if is_ending:
        yield _there_is("ending")
    if config_mistakes:
        first, *others = config_mistakes
        at_least = " or more" if len(others) >= MOST_SHOWN else ""  # the last line says how many are not shown
        more = f" (and {count(len(others), 'other mistake')}{at_least})" if others else ""
        yield _there_is("config_refused", mistake=first, more=more)
    if ledger_error is not None:
        yield _there_is("ledger_unusable", why_the_ledger_cannot_be_used=ledger_error)
    yield from {entry.kind: of_ledger(entry) for entry in ledger_news}.values()
    if account_error is not None:
        yield _there_is("account_not_listed", error=account_error)
    elif not is_account_listed:
        yield _there_is("account_awaited")
    for channel, (number, why) in given_up.items():
        yield _there_is("not_told", channel=channel, number=f"{count(number, 'message')}", why=why)
    if abs(clock_ahead) >= CLOCKS_MAY_DIFFER:
        ahead = clock_ahead > 0
        which = {"ahead_or_behind": "ahead of" if ahead else "behind", "early_or_late": "early" if ahead else "late"}
        yield _there_is("clock_differs", time=duration(abs(clock_ahead)), **which)


def of_ledger(entry: Entry) -> Problem:
    """What has befallen the ledger's files, as its events tell."""
    return _there_is(str(entry.kind), what=entry.text)


class Certificate(Protocol):
    """Of the pages, as whoever serves them has looked at it."""

    @property
    def file(self) -> Path: ...
    @property
    def ends_at(self) -> datetime | None: ...
    @property
    def why_not(self) -> str: ...


def of_pages(refused: str, certificate: Certificate | None, now: datetime, *, away: str = "") -> Iterator[Problem]:
    """What is wrong with them. `refused`: why what `web_config` names is not in force as it now is.

    `away`: why they are nowhere. Then no page shows it, and people are told of it.
    """
    if away:
        yield _there_is("pages_away", why_they_are_not=away)
    if refused:
        yield _there_is("web_refused", error=refused)
    if certificate is None:
        return
    ends_at, file = certificate.ends_at, certificate.file
    if certificate.why_not or (ends_at is not None and ends_at <= now):
        yield _there_is("certificate_bad", file=file, why_it_is_not=certificate.why_not or "has expired")
    elif ends_at is not None and ends_at - now <= RENEWED_BY:
        left = duration((ends_at - now).total_seconds())
        yield _there_is("certificate_ends", file=file, when=f"{ends_at:%Y-%m-%d %H:%M} UTC", time=left)


@dataclass(frozen=True, kw_only=True)
class ServerSituation:
    """What is known of one configured server, as of `now`."""

    now: datetime
    target: Target
    server: Server | None
    """As the account has it."""
    machine: Machine
    """The one that the daemon runs on."""
    missing: bool
    """The account has no such server."""
    in_doubt: str | None = None
    """Why the list of its snapshots cannot be relied on."""
    left_out: Sequence[str] = ()
    """Further entries of the file that name it, by others of its ids, as they are written there."""
    running: Rotation | None
    debt: ServerPower | None = None
    """A start that is owed to it, and that no rotation sees to."""
    set_aside: str | None = None
    """Why an open rotation of it was set aside."""
    latest: Rotation | None
    """The last rotation that ended."""
    retry_at: datetime | None = None
    """When its slot is tried again."""
    expected_interval: float | None
    """Seconds: the longest time between two slots."""
    assessment: Assessment | None
    """None before its snapshots have been listed."""
    slots_lost: str = ""
    """Slots that passed since its last success, with nothing run in their place, in words."""
    vanished: Sequence[Vanished] = ()
    """Snapshots of ours that are no longer at the provider."""


def of_server(situation: ServerSituation) -> Iterator[Problem]:
    if situation.missing:
        yield _there_is("missing", id=situation.target.server_id)
    if situation.in_doubt is not None:
        yield _there_is("list_in_doubt", error=situation.in_doubt)
    if situation.left_out:
        yield _there_is("named_twice", server=situation.target.label, other=listed(situation.left_out))
    yield from of_power(situation.running, situation.now)
    yield from without_rotation(
        situation.target.label, debt=situation.debt, set_aside=situation.set_aside, running=situation.running
    )
    yield from _of_the_last_rotation(situation)
    if situation.slots_lost:
        slots = situation.slots_lost.removeprefix(NOT_FOLLOWED)
        yield _there_is("slots_lost", server=situation.target.label, slots=slots)
    yield from _of_room(situation)
    if situation.assessment is not None and situation.assessment.strange_names:
        ids = ids_in(situation.assessment, situation.now)
        yield _there_is("another_snaprotd", names=situation.assessment.strange_names, **ids)
    vanished = list(_of_what_vanished(situation))
    yield from vanished
    yield from _of_age(situation, is_told=bool(vanished))


def of_power(running: Rotation | None, now: datetime) -> Iterator[Problem]:
    """Of a server that its rotation holds off."""
    if running is None or not running.is_owed:
        return
    since = running.power.held_off_since or running.power.went_off_at or running.started_at
    if now - since > _longest(running.policy):
        yield _there_is("held_off_too_long")
    elif running.step is Step.START and (why := not_started_words(running.power)):
        yield _there_is("not_starting", why_it_is_not=why)


def without_rotation(
    label: str, *, debt: ServerPower | None, set_aside: str | None, running: Rotation | None
) -> Iterator[Problem]:
    """Of a server that a start is owed to, or of which a rotation was set aside, whether it is configured or not."""
    if debt is not None and (running is None or debt.power.in_doubt):  # a rotation starts only what it has stopped
        yield _there_is("start_in_doubt" if debt.power.in_doubt else "start_owed", server=label)
    if set_aside is not None:
        yield _there_is("set_aside", server=label, why_it_was_set_aside=set_aside)


def of_owed_elsewhere(debt: ServerPower) -> Problem:
    """A start that is owed to a server of another account than the configuration's."""
    return _there_is("start_owed_elsewhere", label=debt.label, id=debt.server_id, account=debt.account)


def of_failure(label: str, *, step: str | None, error: str, cause: str, ids: Mapping[str, str]) -> Problem:
    """What a rotation has failed for, and nothing tries again. `ids`: as `ids_in` has them."""
    if error.startswith(BLOCKED):
        return _there_is("blocked", who_holds_the_slots=error.removeprefix(BLOCKED), **ids)
    if cause == UNTOUCHABLE:
        return _there_is("failed_untouchable", step=step, why_it_is_not_touched=error)
    if cause == OWN_SERVER:
        return _there_is("failed_own_server", step=step, why_it_is_not_stopped=error)
    return _there_is("failed", server=label, step=step, error=error)


def of_dropped(label: str, server_id: str, called_now: str | None) -> Problem:
    """Of a server that a `match` had found; `called_now` is None where the account has it no more."""
    if called_now is None:
        return _there_is("removed", server=label, id=server_id)
    return _there_is("renamed", server=label, id=server_id, called_now=called_now)


def _of_the_last_rotation(situation: ServerSituation) -> Iterator[Problem]:
    latest, policy, label = situation.latest, situation.target.policy, situation.target.label
    if latest is None:
        return
    why = {"server": label, "step": latest.failed_step, "error": latest.error}
    room = situation.assessment.room if situation.assessment is not None else None
    is_blocked = (latest.error or "").startswith(BLOCKED)
    if is_blocked and room is not None and room.blocked:
        return  # told of its room, as that is now
    if latest.result is Result.PARTIAL:
        yield _there_is("partial", **why)
    elif latest.result is not Result.SUCCESS and (again := _tried_again(situation, latest)) is not None:
        yield _there_is("tried_again", **why, attempt=latest.attempt, when=clock(again.isoformat(), policy.timezone))
    elif latest.result is not Result.SUCCESS and is_blocked and room is not None and room.free:
        yield _there_is("failed", **why)  # there is room by now
    elif latest.result is not Result.SUCCESS:
        ids = ids_in(situation.assessment, situation.now)
        yield of_failure(label, step=latest.failed_step, error=latest.error or "", cause=latest.cause, ids=ids)
    took = latest.creation.took
    if took is not None and took > policy.snapshot_timeout.total_seconds():
        timeout = duration(policy.snapshot_timeout.total_seconds())
        yield _there_is("too_slow", label=label, time=duration(took), timeout=timeout)


def _tried_again(situation: ServerSituation, latest: Rotation) -> datetime | None:
    """When the slot of the last rotation is, or is being, tried again."""
    running = situation.running
    is_at_it = running is not None and running.slot == latest.slot and running.attempt > latest.attempt
    return running.started_at if running is not None and is_at_it else situation.retry_at


def _of_room(situation: ServerSituation) -> Iterator[Problem]:
    if situation.assessment is None:
        return
    room, policy, server = situation.assessment.room, situation.target.policy, situation.server
    words = blocked_words(room, policy, server, situation.machine)
    said = situation.latest.error if situation.latest is not None else None
    if not words or (said in (words, words.removeprefix(BLOCKED)) and not room.blocked):
        return  # nothing is, or the last rotation's failure says so already
    if server is not None and (why := stops_itself(policy, server, situation.machine)):
        yield _there_is("own_server", why_it_is_not_stopped=why)
    elif room.blocked:
        ids = ids_in(situation.assessment, situation.now)
        yield _there_is("blocked", who_holds_the_slots=words.removeprefix(BLOCKED), **ids)
    elif server is not None and not (said or "").startswith(f"the server is {server.status}"):
        yield _there_is("untouchable", status=server.status)


def _of_what_vanished(situation: ServerSituation) -> Iterator[Problem]:
    if situation.assessment is None:
        return
    newest, now = situation.assessment.newest, situation.now
    taken = None if newest is None else newest.created_at
    there = {one.snapshot.name for one in situation.assessment.plan.decisions}
    for one in situation.vanished:
        if one.name not in there and one.is_alarming(taken, now):
            age = f", taken {duration((now - one.taken).total_seconds())} ago," if one.taken else ""
            which = f"{one.id}, {one.name}{age or ','} {IS_GONE}"
            yield _there_is("vanished", server=situation.target.label, which=which)


def ids_in(assessment: Assessment | None, now: datetime) -> Mapping[str, str]:
    """Snapshots that could give way: the oldest of somebody else's, and the oldest that is held."""
    if assessment is None:
        return {}
    oldest_first = list(reversed(assessment.plan.decisions))
    foreign = [one.snapshot.id for one in oldest_first if one.owner is Owner.FOREIGN]
    held = [one.snapshot.id for one in oldest_first if one.owner is Owner.MANAGED and hold_of(one.snapshot, now)]
    return {key: ids[0] for key, ids in (("foreign", foreign), ("held", held)) if ids}


def _of_age(situation: ServerSituation, *, is_told: bool) -> Iterator[Problem]:
    """`is_told`: that some have vanished, which is why there may be none."""
    policy, interval = situation.target.policy, situation.expected_interval
    if situation.assessment is None or policy.paused:
        return
    newest = situation.assessment.newest
    if newest is None:
        if not is_told:
            yield _there_is("no_snapshot", server=situation.target.label)
    elif interval is not None and newest.created_at is not None:
        allowed = timedelta(seconds=interval) + _longest(policy) + TIME_CHANGE
        if situation.now - newest.created_at > allowed:
            yield _there_is("too_old", server=situation.target.label)


def of_departed(rotation: Rotation, *, is_account_listed: bool) -> Problem:
    """Of a rotation that goes on though its server is not in the configuration."""
    until_it_runs = " until the server is started" if rotation.held_off else ""
    kind = "departed" if is_account_listed else "not_matched_yet"
    return _there_is(kind, server=rotation.label, until_it_runs=until_it_runs)


def _longest(policy: Policy) -> timedelta:
    """How long a rotation may take by the time-outs of its policy."""
    return policy.stop_timeout + policy.snapshot_timeout + policy.start_timeout
