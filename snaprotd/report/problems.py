"""Everything that can be wrong, in one table: what is said of it, what to do, and which alert watches it.

The status report, the page, `snaprotd status`, docs/runbook.md and the test of the alerts read it; below it stands
what decides that a kind of problem is there. No input or output here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from shlex import quote
from types import MappingProxyType

from snaprotd.config.mistakes import MOST_SHOWN
from snaprotd.config.settings import Target
from snaprotd.core.model import Machine, Server
from snaprotd.core.policy import Policy, stops_itself
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.core.words import Json, count
from snaprotd.report.assessment import Assessment
from snaprotd.report.rows import BLOCKED, blocked_words

ALARM, ATTENTION, OK = "alarm", "attention", "ok"
"""Somebody must act; somebody should look; nobody need do anything."""

TIME_CHANGE = timedelta(hours=1)
"""What a day may be longer by, in autumn."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of problem. `says` and `do` have the facts of the case in braces."""

    severity: str
    says: str
    do: str
    """One sentence, with a command where there is one. `{server}` in it is written as a shell reads it."""
    alerts: tuple[str, ...] = ()
    """Those of deploy/prometheus/alerts.yml that watch the same thing."""
    unwatched: str = ""
    """Why no alert does, where none does."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "ending": Kind(
            severity=ATTENTION,
            says="snaprotd is ending: it takes no new work",
            do="Wait for its end, and start it again if nothing else does: `systemctl start snaprotd`.",
            unwatched="somebody asked for it; SnaprotdDown tells if it does not come back",
        ),
        "config_refused": Kind(
            severity=ALARM,
            says="the configuration file is refused as it now is; the one read before is in force: {mistake}{more}",
            do="Put the file right, which needs no restart: `snaprotd check` shows every mistake with its line.",
            alerts=("SnaprotdReloadFailed",),
        ),
        "ledger_unusable": Kind(
            severity=ALARM,
            says="{why_the_ledger_cannot_be_used}",
            do="See to the disk that the ledger is on: is it full, read-only or gone?",
            alerts=("SnaprotdLedgerNotWritable",),
        ),
        "account_not_listed": Kind(
            severity=ALARM,
            says="the account could not be listed: {error}",
            do="Ask the provider now what is wrong: `snaprotd check --online`.",
            alerts=("SnaprotdInventoryStale", "SnaprotdTokenRefused"),
        ),
        "account_awaited": Kind(
            severity=ATTENTION,
            says="the account has not been listed yet",
            do="Wait for a minute after a start; if it stays so, run `snaprotd check --online`.",
            alerts=("SnaprotdInventoryStale",),
        ),
        "missing": Kind(
            severity=ALARM,
            says="the account has no server {id}",
            do="Take it out of the configuration, or put its id right: `snaprotd check --online` looks for every one.",
            alerts=("SnaprotdServerMissing",),
        ),
        "held_off_too_long": Kind(
            severity=ALARM,
            says="the server is held off by us for longer than its policy's time-outs allow",
            do="Start it in the provider's panel if it is needed now: at worst this one snapshot fails.",
            alerts=("SnaprotdServerHeldOff",),
        ),
        "not_starting": Kind(
            severity=ALARM,
            says="the server has been asked to start {number} times and is not running yet",
            do="Start it in the provider's panel, and call the provider if that fails too: snaprotd goes on asking.",
            alerts=("SnaprotdServerDoesNotStart",),
        ),
        "start_owed": Kind(
            severity=ALARM,
            says="a start is owed to the server: it was stopped by snaprotd, and no rotation sees to it; "
            "it is asked to start until it runs",
            do="Look in the provider's panel why it does not start; `snaprotd leave-off {server}` lets go of it.",
            alerts=("SnaprotdServerHeldOff", "SnaprotdServerDoesNotStart"),
        ),
        "start_in_doubt": Kind(
            severity=ALARM,
            says="the server is off, perhaps because of us, perhaps by somebody's wish since: no process saw it "
            "meanwhile, or the ledger is an old copy, or a new one after a loss; so nothing is started",
            do="Start the server in the provider's panel if it is to run, else let go of the start: "
            "`snaprotd leave-off {server}`.",
            alerts=("SnaprotdServerHeldOff",),
        ),
        "start_owed_elsewhere": Kind(
            severity=ALARM,
            says="a start is owed to {label}, server {id} of the account at {account}, which is not the account of "
            "this configuration; it is asked to start until it runs",
            do="Look in that account's panel whether it runs, and why not; its token is needed where it was before.",
            alerts=("SnaprotdServerHeldOff", "SnaprotdServerDoesNotStart"),
        ),
        "set_aside": Kind(
            severity=ALARM,
            says="{why_it_was_set_aside}",
            do="Look in the provider's panel whether the server runs; the next slot begins a new rotation of it, "
            "and `snaprotd now {server}` does so at once.",
            unwatched="the next rotation sees to the server; SnaprotdSnapshotTooOld tells if none succeeds",
        ),
        "failed": Kind(
            severity=ALARM,
            says="the last rotation ended as failure, at step {step}: {error}",
            do="Cure that if it will not mend itself by the next slot, and try again at once: `snaprotd now {server}`.",
            alerts=("SnaprotdRotationFailed",),
        ),
        "partial": Kind(
            severity=ATTENTION,
            says="the last rotation ended as partial, at step {step}: {error}",
            do="Let the next rotation try again; if this comes back, see what is left over: `snaprotd plan {server}`.",
            alerts=("SnaprotdRotationPartial", "SnaprotdPrunePending"),
        ),
        "blocked": Kind(
            severity=ALARM,
            says=BLOCKED + "{who_holds_the_slots}",
            do="Delete one that nobody needs, with `snaprotd delete ID`, or set `adopt` or `when_full` in its policy.",
            alerts=("SnaprotdBlocked",),
        ),
        "untouchable": Kind(
            severity=ALARM,
            says=BLOCKED + "the server is {status}: it would not be touched",
            do="Wait until the provider has it `active` again, or see to that in the provider's panel.",
            unwatched="it passes, or the next rotation fails and SnaprotdRotationFailed tells of it",
        ),
        "own_server": Kind(
            severity=ALARM,
            says=BLOCKED + "{why_it_is_not_stopped}",
            do="Run snaprotd on another machine, or set `own_server: none` if that server is not the one it runs on.",
            alerts=("SnaprotdRotationFailed",),
        ),
        "another_snaprotd": Kind(
            severity=ALARM,
            says="not all that bears our name was taken here: {names}",
            do="Give a second snaprotd another `instance`, and delete what nobody needs: `snaprotd delete ID`.",
            unwatched="`snaprotd check --online` tells of it too; SnaprotdBlocked, if it leaves no slot free",
        ),
        "no_snapshot": Kind(
            severity=ATTENTION,
            says="there is no completed snapshot of ours yet",
            do="Wait for the next slot, or take one at once: `snaprotd now {server}`.",
            alerts=("SnaprotdNoSnapshot",),
        ),
        "too_old": Kind(
            severity=ALARM,
            says="the newest snapshot is older than the schedule allows",
            do="See with `snaprotd history {server}` why there is no newer one, and take one: `snaprotd now {server}`.",
            alerts=("SnaprotdSnapshotTooOld",),
        ),
        "departed": Kind(
            severity=ATTENTION,
            says="{server} is no longer configured; its rotation goes on under its old policy{until_it_runs}",
            do="Let it end by itself, or put the server back if it was taken out by mistake.",
            unwatched="it ends by itself; SnaprotdServerHeldOff tells if the server stays off",
        ),
        "not_matched_yet": Kind(
            severity=ATTENTION,
            says="{server} is not known to be configured until the account has been listed; "
            "its rotation goes on{until_it_runs}",
            do="Let it end by itself, and see that the account can be listed: `snaprotd check --online`.",
            unwatched="it ends by itself; SnaprotdInventoryStale tells if the account is not listed",
        ),
    }
)
"""By a word that stays the same."""


@dataclass(frozen=True)
class Problem:
    """A kind of problem that is there."""

    kind: str
    facts: Mapping[str, object]

    @property
    def severity(self) -> str:
        return KINDS[self.kind].severity

    def as_json(self) -> Json:
        told = KINDS[self.kind]
        quoted = {key: quote(str(value)) for key, value in self.facts.items() if key == "server"}
        return {
            "severity": told.severity,
            "text": told.says.format_map(self.facts),
            "do": told.do.format_map({**self.facts, **quoted}),
        }


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
) -> Iterator[Problem]:
    """What is wrong with no one server of ours."""
    for debt in foreign_debts:
        yield _there_is("start_owed_elsewhere", label=debt.label, id=debt.server_id, account=debt.account)
    if is_ending:
        yield _there_is("ending")
    if config_mistakes:
        first, *others = config_mistakes
        at_least = " or more" if len(others) >= MOST_SHOWN else ""  # the last line says how many are not shown
        more = f" (and {count(len(others), 'other mistake')}{at_least})" if others else ""
        yield _there_is("config_refused", mistake=first, more=more)
    if ledger_error is not None:
        yield _there_is("ledger_unusable", why_the_ledger_cannot_be_used=ledger_error)
    if account_error is not None:
        yield _there_is("account_not_listed", error=account_error)
    elif not is_account_listed:
        yield _there_is("account_awaited")


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
    running: Rotation | None
    debt: ServerPower | None = None
    """A start that is owed to it, and that no rotation sees to."""
    set_aside: str | None = None
    """Why an open rotation of it was set aside."""
    latest: Rotation | None
    """The last rotation that ended."""
    expected_interval: float | None
    """Seconds: the longest time between two slots."""
    assessment: Assessment | None
    """None before its snapshots have been listed."""


def of_server(situation: ServerSituation) -> Iterator[Problem]:
    if situation.missing:
        yield _there_is("missing", id=situation.target.server_id)
    yield from of_power(situation.running, situation.now)
    yield from without_rotation(
        situation.target.label, debt=situation.debt, set_aside=situation.set_aside, running=situation.running
    )
    yield from _of_the_last_rotation(situation)
    yield from _of_room(situation)
    if situation.assessment is not None and situation.assessment.strange_names:
        yield _there_is("another_snaprotd", names=situation.assessment.strange_names)
    yield from _of_age(situation)


def of_power(running: Rotation | None, now: datetime) -> Iterator[Problem]:
    """Of a server that its rotation holds off."""
    if running is None or not running.is_owed or running.power.held_off_since is None:
        return
    if now - running.power.held_off_since > _longest(running.policy):
        yield _there_is("held_off_too_long")
    elif running.step is Step.START and running.power.starts > 1:
        yield _there_is("not_starting", number=running.power.starts)


def without_rotation(
    label: str, *, debt: ServerPower | None, set_aside: str | None, running: Rotation | None
) -> Iterator[Problem]:
    """Of a server that a start is owed to, or of which a rotation was set aside, whether it is configured or not."""
    if debt is not None and running is None:
        yield _there_is("start_in_doubt" if debt.power.in_doubt else "start_owed", server=label)
    if set_aside is not None:
        yield _there_is("set_aside", server=label, why_it_was_set_aside=set_aside)


def _of_the_last_rotation(situation: ServerSituation) -> Iterator[Problem]:
    latest = situation.latest
    if latest is not None and latest.result is not Result.SUCCESS:
        kind = "partial" if latest.result is Result.PARTIAL else "failed"
        yield _there_is(kind, server=situation.target.label, step=latest.failed_step, error=latest.error)


def _of_room(situation: ServerSituation) -> Iterator[Problem]:
    if situation.assessment is None:
        return
    room, policy, server = situation.assessment.room, situation.target.policy, situation.server
    words = blocked_words(room, policy, server, situation.machine)
    said = situation.latest.error if situation.latest is not None else None
    if not words or said in (words, words.removeprefix(BLOCKED)):
        return  # nothing is, or the last rotation's failure says so already
    if server is not None and (why := stops_itself(policy, server, situation.machine)):
        yield _there_is("own_server", why_it_is_not_stopped=why)
    elif room.blocked:
        yield _there_is("blocked", who_holds_the_slots=words.removeprefix(BLOCKED))
    elif server is not None:
        yield _there_is("untouchable", status=server.status)


def _of_age(situation: ServerSituation) -> Iterator[Problem]:
    policy, interval = situation.target.policy, situation.expected_interval
    if situation.assessment is None or policy.paused:
        return
    newest = situation.assessment.newest
    if newest is None:
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
