"""Everything that can be wrong, in one table: what is said of it, what to do, and which alert watches it.

The status report, the page, `snaprotd status`, docs/runbook.md and the test of the alerts read it. What decides that a
kind of problem is there stands in `problems`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from types import MappingProxyType

from snaprotd.core.words import Json
from snaprotd.report.rows import BLOCKED

ALARM, ATTENTION, OK = "alarm", "attention", "ok"
"""Somebody must act; somebody should look; nobody need do anything."""


NOT_FOLLOWED = "its schedule was not followed: "
"""How what is said of slots begins in whose place nothing is run."""
ENDED_AS_FAILURE = "the last rotation ended as failure, at step {step}: "
UNTIL_ACTIVE = "Wait until the provider has it `active` again, or see to that in the provider's panel."
RUN_ELSEWHERE = "Run snaprotd on another machine, or set `own_server: none` if that server is not the one it runs on."
"""What to do is the same before a rotation has failed for it and after."""


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

    @property
    def runbook(self) -> str:
        """Where the runbook says more."""
        return f"docs/runbook.md#{self.alerts[0].lower() if self.alerts else 'what-the-page-says'}"


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
        "web_refused": Kind(
            severity=ATTENTION,
            says="what protects the pages is refused as it now is; what was read before is in force: {error}",
            do="Put it right, which needs no restart: `snaprotd check` shows what is wrong.",
            unwatched="the pages are protected as before",
        ),
        "pages_away": Kind(
            severity=ALARM,
            says="the pages cannot be served, and so there are no metrics and no probes: {why_they_are_not}",
            do="See who has the port, or, by `snaprotd check`, what is wrong with `web_config`; it needs no restart.",
            unwatched="no page shows it, people are told of it by messages; SnaprotdDown tells where Prometheus looks",
        ),
        "certificate_bad": Kind(
            severity=ALARM,
            says="the certificate of the pages {why_it_is_not}: {file}",
            do="Put a new one in its place, and its key, which needs no restart; `snaprotd check` looks at it.",
            unwatched="whoever verifies it cannot look: SnaprotdAbsent or SnaprotdDown tells where Prometheus does",
        ),
        "certificate_ends": Kind(
            severity=ATTENTION,
            says="the certificate of the pages ends at {when}, in {time}: {file}",
            do="Renew it, or see why what renews it has not: a new one in its place needs no restart.",
            unwatched="it is good still; SnaprotdAbsent or SnaprotdDown tells where Prometheus verifies a bad one",
        ),
        "ledger_unusable": Kind(
            severity=ALARM,
            says="{why_the_ledger_cannot_be_used}",
            do="See to the disk that the ledger is on (full, read-only, gone?) or to its database server (`snaprotd "
            "check --online` tries it); where another program has it, or one of its tables, locked, end that one.",
            alerts=("SnaprotdLedgerNotWritable",),
        ),
        "configurations_differ": Kind(
            severity=ATTENTION,
            says="replicas have different configurations: {number} of {of_how_many} ({hosts}) with an older one: only "
            "those with the newest begin rotations{and_this_one}",
            do="Give all replicas the same file, which needs no restart; `snaprotd status` shows which has which.",
            alerts=("SnaprotdConfigurationsDiffer",),
        ),
        "replica_lost": Kind(
            severity=ATTENTION,
            says="the replica on {host} has gone and did not end in order, and none has come in its place: "
            "{how_many} left",
            do="See why it ended, and start it again; `snaprotd status` shows which live.",
            alerts=("SnaprotdReplicaMissing",),
        ),
        "replica_idle": Kind(
            severity=ATTENTION,
            says="the replica on {host} begins no rotations: {why}; others run them",
            do="See what its own page says, and mend it: one replica less can step in.",
            unwatched="what that replica lacks is told by itself",
        ),
        "ledger_exchanged": Kind(
            severity=ATTENTION,
            says="{what}",
            do="See who deletes or exchanges its files or rows, and stop snaprotd before a copy is put back; "
            "this goes when nothing of it has happened for a day.",
            unwatched="it is put back; SnaprotdLedgerNotWritable tells where that cannot be",
        ),
        "ledger_old": Kind(
            severity=ALARM,
            says="{what}; what was held since may be held no more",
            do="Hold again what is to stay (see `snaprotd list`), as `snaprotd hold {held}`; this goes after a day.",
            unwatched="it has happened once, and does not last: the events of the ledger tell of it",
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
        "clock_differs": Kind(
            severity=ATTENTION,
            says="the clock of this machine is {time} {ahead_or_behind} the provider's: if it is the wrong one, "
            "slots come that much too {early_or_late}",
            do="See whether the time of this machine is kept right, `timedatectl` shows it, and set it; "
            "a slot that was run already is not run again.",
            unwatched="it is of the machine: node_exporter watches how its clock is kept",
        ),
        "named_twice": Kind(
            severity=ATTENTION,
            says="{other} in the configuration is the same server, by another of its ids: left out, with its policy",
            do="Take one of the two entries out of the file; `snaprotd plan {server}` shows what is in force.",
            unwatched="`snaprotd check --online` tells of it too; the server has its snapshots",
        ),
        "missing": Kind(
            severity=ALARM,
            says="the account has no server {id}",
            do="Take it out of the configuration, or put its id right: `snaprotd check --online` looks for every one.",
            alerts=("SnaprotdServerMissing",),
        ),
        "renamed": Kind(
            severity=ALARM,
            says="no snapshots are taken of it any more: server {id} is called {called_now}, which no `match` finds",
            do="Name it in the configuration by its `id`, or give it back its name in the provider's panel; "
            "where it was meant so do nothing: this goes after a week.",
            alerts=("SnaprotdServerDropped",),
        ),
        "removed": Kind(
            severity=ATTENTION,
            says="no snapshots are taken of it any more: the account has no server {id} now, which a `match` had found",
            do="Ask who deleted it, in the provider's panel; where it was meant so do nothing: this goes after a week.",
            alerts=("SnaprotdServerDropped",),
        ),
        "list_in_doubt": Kind(
            severity=ALARM,
            says="what snapshots it has is not known for certain: {error}",
            do="Ask the provider now what is wrong: `snaprotd check --online`; nothing of it is deleted meanwhile.",
            unwatched="the next rotation fails on it, and SnaprotdRotationFailed tells",
        ),
        "held_off_too_long": Kind(
            severity=ALARM,
            says="the server is held off by us for longer than its policy's time-outs allow",
            do="Start it in the provider's panel if it is needed now: at worst this one snapshot fails.",
            alerts=("SnaprotdServerHeldOff",),
        ),
        "not_starting": Kind(
            severity=ALARM,
            says="the server is to be started, and {why_it_is_not}",
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
            says=ENDED_AS_FAILURE + "{error}",
            do="Cure that if it will not mend itself by the next slot, and try again at once: `snaprotd now {server}`.",
            alerts=("SnaprotdRotationFailed",),
        ),
        "failed_untouchable": Kind(
            severity=ALARM,
            says=ENDED_AS_FAILURE + "{why_it_is_not_touched}",
            do=UNTIL_ACTIVE,
            alerts=("SnaprotdRotationFailed",),
        ),
        "failed_own_server": Kind(
            severity=ALARM,
            says=ENDED_AS_FAILURE + "{why_it_is_not_stopped}",
            do=RUN_ELSEWHERE,
            alerts=("SnaprotdRotationFailed",),
        ),
        "tried_again": Kind(
            severity=ATTENTION,
            says="attempt {attempt} failed, at step {step}: {error}; tried again at {when}",
            do="Let it try again, or do so at once: `snaprotd now {server}`.",
            unwatched="SnaprotdRotationFailed tells if the last attempt fails too",
        ),
        "slots_lost": Kind(
            severity=ATTENTION,
            says=NOT_FOLLOWED + "{slots}",
            do="Take a snapshot at once if the newest one is too old: `snaprotd now {server}`; `missed: run` in its "
            "policy, with a `missed_within` that is long enough, does so by itself.",
            alerts=("SnaprotdMissedSlots",),
        ),
        "too_slow": Kind(
            severity=ATTENTION,
            says="snapshots of {label} take {time}, snapshot_timeout is {timeout}",
            do="Set `snapshot_timeout` in its policy to twice as long as they take, or more.",
            unwatched="SnaprotdRotationFailed tells where no snapshot came of it",
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
            do="Delete one that nobody needs, such as with `snaprotd delete {foreign}`, let go of one that is held, as "
            "with `snaprotd unhold {held}`, or set `adopt` or `when_full` in its policy.",
            alerts=("SnaprotdBlocked",),
        ),
        "untouchable": Kind(
            severity=ALARM,
            says=BLOCKED + "the server is {status}: it would not be touched",
            do=UNTIL_ACTIVE,
            unwatched="it passes, or the next rotation fails and SnaprotdRotationFailed tells of it",
        ),
        "own_server": Kind(
            severity=ALARM,
            says=BLOCKED + "{why_it_is_not_stopped}",
            do=RUN_ELSEWHERE,
            alerts=("SnaprotdRotationFailed",),
        ),
        "another_snaprotd": Kind(
            severity=ALARM,
            says="not all that bears our name was taken here: {names}",
            do="Give a second snaprotd another `instance`, and delete what nobody needs: `snaprotd delete {foreign}`.",
            unwatched="`snaprotd check --online` tells of it too; SnaprotdBlocked, if it leaves no slot free",
        ),
        "vanished": Kind(
            severity=ALARM,
            says="{which}",
            do="Ask who deleted it, in the provider's panel, and take another at once: `snaprotd now {server}`.",
            unwatched="SnaprotdNoSnapshot and SnaprotdSnapshotTooOld tell if there is no newer one",
        ),
        "not_told": Kind(
            severity=ATTENTION,
            says="{number} to {channel} given up: {why}",
            do="See what its receiver says: `snaprotd notify --test` sends one message to each channel.",
            unwatched="snaprotd_notifications_total counts those that were given up",
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

ANY = {"foreign": "ID", "held": "ID"}
"""What stands for an id where none is known: of a snapshot that somebody else made, and of one that is held."""


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
        quoted = {key: quote(str(value)) for key, value in self.facts.items() if key in ("server", *ANY)}
        return {
            "severity": told.severity,
            "text": told.says.format_map(self.facts),
            "do": told.do.format_map({**ANY, **self.facts, **quoted}),
            "runbook": told.runbook,
        }
