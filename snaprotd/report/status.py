"""The status report: one JSON value that says how everything stands. The page and `snaprotd status` read nothing else.

`docs/json.md` describes it for others. A key may be added at any time; `version` is raised when one changes its
meaning or goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from snaprotd import __version__
from snaprotd.config.settings import Config, Target, as_written
from snaprotd.config.trust import remarks_on
from snaprotd.config.web_file import WebFile
from snaprotd.core.fleet.looks import Fleet
from snaprotd.core.model import Machine, Owner, Server
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import STEPS, Rotation, Step
from snaprotd.core.telling.dropped import Matched
from snaprotd.core.telling.entries import Entry
from snaprotd.core.words import Json, plain_id, zulu
from snaprotd.engine.board import ServerFacts
from snaprotd.provider.rate import RateInForce
from snaprotd.report import problems
from snaprotd.report.assessment import Assessment
from snaprotd.report.kinds import ALARM, ATTENTION, OK, Problem
from snaprotd.report.problems import ServerSituation
from snaprotd.report.rates import rate_report
from snaprotd.report.replicas import of_replicas, replica_rows, runner
from snaprotd.report.rows import blocked_words, history_row, planned_rows, shown

VERSION = 1

AT_ONCE = 25
"""Servers that are looked at in one go, in a few milliseconds."""


class Kept(Protocol):
    """The servers of a report, which may be kept otherwise than as values."""

    def append(self, server: Json, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that the report is made from, as of `now`."""

    config: Config
    web_file: WebFile | None = None
    """How the pages are protected, as it was read last."""
    now: datetime
    started_at: datetime
    targets: Sequence[Target]
    facts: Mapping[str, ServerFacts]
    """By label."""
    servers: Mapping[str, Server]
    """The account's servers, by id."""
    machine: Machine
    """The one that the daemon runs on."""
    assess: Callable[[Target], Assessment | None]
    """What the server's snapshots mean, where that is known."""
    running: Sequence[Rotation]
    """The open ones, whoever runs them."""
    debts: Mapping[str, ServerPower] = field(default_factory=dict)
    """The servers that a start is owed to and that no rotation sees to, by id."""
    foreign_debts: Sequence[ServerPower] = ()
    """Starts that are owed to servers of another account."""
    set_aside: Mapping[str, str] = field(default_factory=dict)
    """Why an open rotation was set aside, by the server's id."""
    dropped: Mapping[str, Matched] = field(default_factory=dict)
    """The servers that a `match` had found and none finds any more, by id, as long as that is news."""
    ledger_error: str | None
    """Why the ledger cannot be read or written, or None."""
    ledger_news: Sequence[Entry] = ()
    """What has befallen its files of late."""
    clock_ahead: float = 0.0
    """Seconds by which our clock is ahead of the provider's; negative where it is behind."""
    rate: RateInForce
    """How fast the provider is asked."""
    inventory_listed_at: datetime | None
    account_error: str | None
    """Why the account could not be listed the last time, or None."""
    in_doubt: Mapping[str, str] = field(default_factory=dict)
    """Why the list of a server's snapshots cannot be relied on, by its id."""
    config_loaded_at: datetime
    ledger_path: str
    fleet: Fleet | None = None
    """The replicas that share the ledger, as they were seen last."""
    owners: Mapping[str, str] = field(default_factory=dict)
    """Which process has each open rotation, by its id."""
    is_ending: bool
    """It has been asked to end, and still sees to servers that it holds off."""
    config_mistakes: Sequence[str]
    """Why the file as it now is was refused; empty where it is the one in force."""
    given_up: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """For each channel how many messages were given up since the last that was sent, and why the last of them was."""
    web_refused: str = ""
    """Why what `web_config` names is not in force as it now is."""
    certificate: problems.Certificate | None = None
    """That of the pages."""


def status_report(situation: Situation, servers: Kept) -> Generator[None, None, Json]:
    """The whole report, as it may leave. Of `AT_ONCE` servers at a time: between them others may have their turn.

    `servers`: where those that are configured go.
    """
    running = {rotation.server_id: rotation for rotation in situation.running}
    of_servers: list[Json] = []
    for number, target in enumerate(situation.targets, 1):
        entry = shown(_server(situation, target, running.pop(target.server_id, None)))
        servers.append(entry)
        of_servers += _problems_of(entry)
        if number % AT_ONCE == 0:
            yield
    configured = {target.server_id for target in situation.targets}
    others = dict.fromkeys([*running, *situation.debts, *situation.set_aside, *situation.dropped])
    departed = [_departed(situation, one, running.get(one)) for one in others if one not in configured]
    general = [{"server": None, "server_id": None, **problem.as_json()} for problem in _general(situation)]
    found = [*general, *of_servers, *(problem for one in departed for problem in _problems_of(one))]
    rest: Json = {
        **report_head(situation),
        "state": _worst(problem["severity"] for problem in found),
        "problems": found,
        "api": rate_report(situation.rate),
        "inventory": {"listed_at": zulu(situation.inventory_listed_at), "error": situation.account_error},
        "ledger_error": situation.ledger_error,
    }
    return {**shown(rest), "servers": servers, "departed": shown(departed)}


def report_head(situation: Situation) -> Json:
    """What the report says of the daemon itself."""
    return {
        "version": VERSION,
        "snaprotd": __version__,
        "instance": situation.config.instance,
        "ledger": situation.ledger_path,
        "replicas": replica_rows(situation.fleet),
        "generated_at": zulu(situation.now),
        "started_at": zulu(situation.started_at),
        "limit": situation.config.limit,
        "steps": [step for step in STEPS if step is not Step.DONE],
        "remarks": remarks_on(situation.config, situation.web_file),
        "config": {
            "path": os.path.abspath(situation.config.path),
            "loaded_at": zulu(situation.config_loaded_at),
            "mistakes": list(situation.config_mistakes),
        },
    }


def server_report(
    situation: Situation, target: Target, history: Sequence[Rotation], events: Sequence[Entry], let_go: str
) -> Json:
    """One server's entry of the report, with its policy as resolved, its last rotations with their steps, its events.

    `let_go` says who let go of a start that was owed to it, when and why; empty where nobody has.
    """
    running = {one.server_id: one for one in situation.running}
    return {
        **_server(situation, target, running.get(target.server_id)),
        "policy": {
            key: {"value": as_written(key, getattr(target.policy, key)), "from": origin}
            for key, origin in target.entry.origins.items()
        },
        "history": [past_rotation(rotation) for rotation in history],
        "events": [entry.as_json() for entry in events],
        "let_go": let_go or None,
    }


def past_rotation(rotation: Rotation) -> Json:
    """A row of the history, with what `history --json` leaves out."""
    return {
        **history_row(rotation),
        "failed_step": rotation.failed_step,
        "seconds": _seconds_between(rotation.started_at, rotation.finished_at),
        "off_since": zulu(rotation.power.went_off_at) if rotation.power.off_for > 0 else None,
        "off_seconds": round(rotation.power.off_for),
        "steps": [{"step": one.step, "seconds": round(one.seconds)} for one in rotation.trail],
    }


# -- one server --------------------------------------------------------------------------------------------------------


def _server(situation: Situation, target: Target, running: Rotation | None) -> Json:
    facts = situation.facts.get(target.label) or ServerFacts(server_id=target.server_id)
    its = _situation_of(situation, target, facts, running)
    report: Json = {
        "id": plain_id(target.server_id),
        "name": target.label,
        "server_name": its.server.name if its.server else facts.server_name or None,
        "power": its.server.status if its.server else None,
        "paused": target.policy.paused,
        "schedule": list(target.policy.schedule.expressions),
        "timezone": target.policy.timezone,
        "expected_interval_seconds": facts.expected_interval,
        "next_run": zulu(facts.next_run),
        "retry_at": zulu(facts.retry_at),
        "running": _running(situation, running) if running else None,
        "stopped_by_us_since": _off_since(situation, target.server_id, running),
        "last": past_rotation(facts.latest) if facts.latest else None,
        **_holdings(its, situation.config.limit),
    }
    found = [*problems.of_server(its)]
    state = _worst(problem.severity for problem in found)
    return {
        **report,
        "state": "paused" if target.policy.paused and state == OK else state,
        "problems": [problem.as_json() for problem in found],
    }


def _situation_of(
    situation: Situation, target: Target, facts: ServerFacts, running: Rotation | None
) -> ServerSituation:
    server = situation.servers.get(target.server_id)
    return ServerSituation(
        now=situation.now,
        target=target,
        server=server,
        left_out=_left_out(situation.config, target, server) if server is not None else (),
        machine=situation.machine,
        missing=bool(facts.missing),
        in_doubt=situation.in_doubt.get(target.server_id),
        running=running,
        debt=situation.debts.get(target.server_id),
        set_aside=situation.set_aside.get(target.server_id),
        latest=facts.latest,
        retry_at=facts.retry_at,
        expected_interval=facts.expected_interval,
        assessment=situation.assess(target),
        slots_lost=facts.slots_lost,
        vanished=facts.vanished,
    )


def _left_out(config: Config, target: Target, server: Server) -> list[str]:
    """The entries that `resolve` leaves out, for they name the target's server by others of its ids."""
    others = config.server_ids.intersection(server.ids) - {target.server_id}
    if not others:
        return []  # as of nearly all: of thousands not every entry can be looked at for each
    named = [entry for entry in config.entries if entry.key in others]
    return [f"{entry.name} ({entry.key})" if entry.name else str(entry.key) for entry in named]


def _holdings(its: ServerSituation, limit: int) -> Json:
    """What the provider's list says of the server; nulls where it has not been read yet."""
    if (assessment := its.assessment) is None:
        return dict.fromkeys(("newest_completed", "slots", "blocked", "prune_pending", "snapshots"))
    newest, decisions = assessment.newest, assessment.plan.decisions
    ours = sum(decision.owner is Owner.MANAGED for decision in decisions)
    return {
        "newest_completed": newest
        and {
            "id": plain_id(newest.id),
            "name": newest.name,
            "created_at": zulu(newest.created_at),
            "size_mb": newest.size_mb,
        },
        "slots": {"managed": ours, "foreign": len(decisions) - ours, "free": max(0, limit - len(decisions))},
        "blocked": blocked_words(assessment.room, its.target.policy, its.server, its.machine) or None,
        "prune_pending": len(assessment.plan.deletions),
        "snapshots": planned_rows(assessment),
    }


def _running(situation: Situation, rotation: Rotation) -> Json:
    in_line = (
        0.0 if rotation.trail else (situation.now - rotation.started_at).total_seconds()
    )  # then it counts nothing itself
    return {
        "rotation": rotation.id,
        "replica": runner(situation.fleet, situation.owners, rotation.id),
        "slot": zulu(rotation.slot),
        "kind": rotation.kind,
        "attempt": rotation.attempt,
        "started_at": zulu(rotation.started_at),
        "step": rotation.step,
        "seconds": round(max(rotation.waited, in_line)),
        "note": rotation.note,
        "error": rotation.error,
        "held_off": rotation.held_off,
        "steps": [{"step": one.step, "seconds": round(one.seconds)} for one in rotation.trail],
    }


def _off_since(situation: Situation, server_id: str, running: Rotation | None) -> str | None:
    """Not while the server runs: still, when a stop has been asked for, or again, when it is only watched."""
    debt = situation.debts.get(server_id)
    power = running.power if running else debt.power if debt else Power()
    return zulu(power.went_off_at) if power.is_off_because_of_us else None


def _departed(situation: Situation, server_id: str, running: Rotation | None) -> Json:
    """A server that is not in the configuration: a rotation or a start that is owed goes on, or it was dropped."""
    debt, dropped = situation.debts.get(server_id), situation.dropped.get(server_id)
    name = next((one.label for one in (running, debt, dropped) if one is not None), server_id)
    is_listed, set_aside = situation.inventory_listed_at is not None, situation.set_aside.get(server_id)
    found = [] if running is None else [problems.of_departed(running, is_account_listed=is_listed)]
    found += problems.of_power(running, situation.now)
    found += problems.without_rotation(name, debt=debt, set_aside=set_aside, running=running)
    found += [problems.of_dropped(name, server_id, dropped.called_now)] if dropped else []
    return {
        "id": plain_id(server_id),
        "name": name,
        "running": _running(situation, running) if running else None,
        "stopped_by_us_since": _off_since(situation, server_id, running),
        "problems": [problem.as_json() for problem in found],
    }


# -- the whole -------------------------------------------------------------------------------------------------------


def _general(situation: Situation) -> Iterable[Problem]:
    yield from problems.of_daemon(
        is_ending=situation.is_ending,
        config_mistakes=situation.config_mistakes,
        ledger_error=situation.ledger_error,
        account_error=situation.account_error,
        is_account_listed=situation.inventory_listed_at is not None,
        foreign_debts=situation.foreign_debts,
        given_up=situation.given_up,
        clock_ahead=situation.clock_ahead,
        ledger_news=situation.ledger_news,
    )
    yield from of_replicas(situation.fleet)
    yield from problems.of_pages(situation.web_refused, situation.certificate, situation.now)


def _problems_of(server: Json) -> Iterable[Json]:
    return ({"server": server["name"], "server_id": server["id"], **problem} for problem in server["problems"])


def _worst(severities: Iterable[str]) -> str:
    return min(severities, key=(ALARM, ATTENTION, OK).index, default=OK)


def _seconds_between(start: datetime, end: datetime | None) -> int | None:
    return None if end is None else round((end - start).total_seconds())
