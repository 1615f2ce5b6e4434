"""The table of problems: when each kind is there, what is said of it, and who else speaks of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import yaml

from snaprotd.config.file import parse
from snaprotd.config.settings import resolve
from snaprotd.core.creation import Creation
from snaprotd.core.errors import OWN_SERVER, UNTOUCHABLE
from snaprotd.core.fleet import LOST_AFTER, ON_TIME, Replica, Sighting
from snaprotd.core.fleet.looks import Fleet
from snaprotd.core.holds import snapshot_name
from snaprotd.core.model import Machine, Snapshot, SnapshotState
from snaprotd.core.policy import stops_itself
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.core.telling.entries import of_exchange, of_old_copy
from snaprotd.core.telling.vanished import Vanished
from snaprotd.provider.inventory import ServerHoldings
from snaprotd.report.assessment import Assessment, assess
from snaprotd.report.kinds import KINDS, Problem
from snaprotd.report.problems import ServerSituation, of_daemon, of_departed, of_dropped, of_pages, of_server
from snaprotd.report.replicas import of_replicas
from snaprotd.web.certificate import Certificate
from tests.support.nouns import a_server, a_snapshot

ROOT = Path(__file__).parents[2]
NOW = datetime(2025, 1, 16, 8, tzinfo=UTC)
CONFIG = parse("servers: [{id: 12345, name: web 01, schedule: '30 2 * * *'}]", "c.yaml", {})
(TARGET,) = resolve(CONFIG, [])
SERVER = a_server(name="web")

ALERTS: dict[str, Any] = {
    rule["alert"]: rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
SECTIONS = re.findall(r"^### (.+)$", (ROOT / "docs" / "runbook.md").read_text(), flags=re.M)

NOT_ON_THE_PAGE = {
    "SnaprotdDown": "there is no page then",
    "SnaprotdAbsent": "it is Prometheus' configuration that is wrong",
    "SnaprotdGoneWhileHoldingOff": "there is no page then",
    "SnaprotdRestarts": "a daemon does not know of the lives before it",
    "SnaprotdSchedulerNotTicking": "/healthz says so, and whoever asks it restarts the daemon",
    "SnaprotdScheduleEnded": "it would be a mistake of ours",
}
"""Alerts of what is no problem of the page, with the reason."""


def holding(*snapshots: Snapshot) -> Assessment:
    return assess(CONFIG, TARGET, ServerHoldings(server=SERVER, snapshots=snapshots, seen_at=NOW), NOW)


def ours(age: timedelta) -> Snapshot:
    made = NOW - age
    return _snapshot(str(age), snapshot_name("main", made), made)


def _snapshot(snapshot_id: str, name: str, made: datetime) -> Snapshot:
    return a_snapshot(snapshot_id, name, made, server_name="web", size_mb=5120)


def failed_one() -> Snapshot:
    return replace(ours(timedelta(hours=5)), state=SnapshotState.FAILED, status="failed")


def others(number: int) -> list[Snapshot]:
    return [_snapshot(f"theirs-{n}", f"before-{n}", NOW - timedelta(days=n + 1)) for n in range(number)]


def gone(*, hours: float, name: str = "snaprotd-main-20250101T033000Z") -> Vanished:
    return Vanished(id="823", name=name, taken=NOW - timedelta(days=2), told_at=NOW - timedelta(hours=hours))


WELL = ServerSituation(
    now=NOW,
    target=TARGET,
    server=SERVER,
    machine=Machine(names=("web",)),
    missing=False,
    running=None,
    latest=None,
    expected_interval=86400.0,
    assessment=holding(ours(timedelta(hours=5))),
)
ROTATION = Rotation(
    id="r1",
    server_id="12345",
    label="web 01",
    slot=NOW,
    snapshot_name=snapshot_name("main", NOW),
    rules=CONFIG.rules_of(TARGET),
    started_at=NOW,
    step=Step.START,
    power=Power(asked=1, held_off_since=NOW - timedelta(minutes=5)),
)
FAILED = replace(ROTATION, step=Step.DONE, result=Result.FAILURE, failed_step=Step.STOP, error="it does not stop")


def taking(seconds: float) -> Rotation:
    """A rotation that has succeeded, whose snapshot took so long."""
    return replace(FAILED, result=Result.SUCCESS, error=None, creation=Creation(took=seconds))


def held_off(*, starts: int = 0, minutes: float = 5, held_off: bool = True) -> ServerSituation:
    """A rotation that stands at its start, so many minutes after it promised to see the server running again."""
    power = Power(asked=int(held_off), held_off_since=NOW - timedelta(minutes=minutes), starts=starts)
    return replace(WELL, running=replace(ROTATION, power=power))


def without_a_since(*, went_off: float | None = None, begun: float = 60, starts: int = 0) -> ServerSituation:
    """As `held_off`, and nobody knows when that was promised; minutes since it was seen off, and since it began."""
    at = None if went_off is None else NOW - timedelta(minutes=went_off)
    power = Power(asked=1, went_off=True, went_off_at=at, starts=starts)
    return replace(WELL, running=replace(ROTATION, power=power, started_at=NOW - timedelta(minutes=begun)))


def not_found() -> ServerSituation:
    """As `held_off`, and the account has no such server."""
    running = held_off().running
    assert running is not None
    return replace(WELL, running=replace(running, power=replace(running.power, missing_for=0.0)))


STOPPED = replace(TARGET, policy=replace(TARGET.policy, stop_first=True))
ON_IT = replace(WELL, target=STOPPED)
WHY = stops_itself(STOPPED.policy, SERVER, WELL.machine)
REFUSED = replace(FAILED, failed_step=Step.LOOK, error=WHY, cause=OWN_SERVER)
SUSPENDED = replace(FAILED, error="the server is suspended", cause=UNTOUCHABLE)
FULL = replace(FAILED, failed_step=Step.MAKE_ROOM, error="blocked: 5 of 5 snapshots, 5 foreign")
OWED = ServerPower(account="", server_id="12345", label="web 01", power=Power(asked=1, went_off=True))
ASIDE = "its rotation r1 in the ledger cannot be understood, and was set aside as it is"
WATCHED = replace(ROTATION.power, starts=9, held_off_since=NOW - timedelta(hours=2), watched=True)
PAUSED = replace(TARGET, policy=replace(TARGET.policy, paused=True))


def words(found: Iterable[Problem]) -> list[str]:
    return [problem.kind for problem in found]


OF_A_SERVER = {
    "all is well": (WELL, []),
    "no such server": (replace(WELL, missing=True), ["missing"]),
    "a list that cannot be relied on": (replace(WELL, in_doubt="it has rubbish"), ["list_in_doubt"]),
    "another entry for it": (replace(WELL, left_out=["web-u (0b9c-8e)"]), ["named_twice"]),
    "off for a while": (held_off(), []),
    "asked to start once": (held_off(starts=1), []),
    "asked to start twice": (held_off(starts=2), ["not_starting"]),
    "to be started, and not found": (not_found(), ["not_starting"]),
    "off for 46 minutes": (held_off(starts=9, minutes=46), ["held_off_too_long"]),
    "off for 46 minutes, as far as when it was seen off tells": (without_a_since(went_off=46), ["held_off_too_long"]),
    "off for a while, as far as when it was seen off tells": (without_a_since(went_off=44, begun=50), []),
    "off, nobody knows since when, by a rotation of 46 minutes": (without_a_since(begun=46), ["held_off_too_long"]),
    "asked to start twice, nobody knows since when": (without_a_since(begun=5, starts=2), ["not_starting"]),
    "on again after 46 minutes": (held_off(held_off=False, minutes=46), []),
    "watched for two hours": (replace(WELL, running=replace(ROTATION, power=WATCHED)), []),
    "owed a start by no rotation": (replace(WELL, debt=OWED), ["start_owed"]),
    "owed a start by what may be an old copy": (
        replace(WELL, debt=replace(OWED, power=replace(OWED.power, in_doubt=True))),
        ["start_in_doubt"],
    ),
    "owed a start by its rotation": (replace(WELL, debt=OWED, running=ROTATION), []),
    "a rotation set aside": (replace(WELL, set_aside=ASIDE), ["set_aside"]),
    "a failure": (replace(WELL, latest=FAILED), ["failed"]),
    "a failure that is tried again": (replace(WELL, latest=FAILED, retry_at=NOW), ["tried_again"]),
    "a failure that is tried again now": (
        replace(WELL, latest=FAILED, running=replace(ROTATION, attempt=2, power=Power())),
        ["tried_again"],
    ),
    "a failure, and another slot's rotation": (
        replace(
            WELL, latest=FAILED, running=replace(ROTATION, attempt=2, slot=NOW + timedelta(hours=1), power=Power())
        ),
        ["failed"],
    ),
    "slots that nobody saw": (replace(WELL, slots_lost="its schedule was not followed: 2 slots"), ["slots_lost"]),
    "a snapshot that took too long": (replace(WELL, latest=taking(1801.0)), ["too_slow"]),
    "a snapshot that took long enough": (replace(WELL, latest=taking(1800.0)), []),
    "a partial success": (replace(WELL, latest=replace(FAILED, result=Result.PARTIAL)), ["partial"]),
    "a success": (replace(WELL, latest=replace(FAILED, result=Result.SUCCESS)), []),
    "full": (replace(WELL, assessment=holding(*others(5))), ["blocked", "no_snapshot"]),
    "restoring": (replace(WELL, server=a_server(name="web", status="restoring")), ["untouchable"]),
    "suspended, and a rotation has failed for it": (
        replace(
            WELL,
            server=a_server(name="web", status="suspended"),
            latest=SUSPENDED,
        ),
        ["failed_untouchable"],
    ),
    "blocked, by what is not known now": (replace(WELL, latest=FULL, assessment=None), ["blocked"]),
    "blocked, and nothing has changed": (
        replace(WELL, latest=FULL, assessment=holding(*others(5))),
        ["blocked", "no_snapshot"],
    ),
    "blocked, and there is room by now": (replace(WELL, latest=FULL), ["failed"]),
    "suspended, and a rotation has failed for something else": (
        replace(WELL, server=a_server(name="web", status="suspended"), latest=FAILED),
        ["failed", "untouchable"],
    ),
    "the machine that we run on": (ON_IT, ["own_server"]),
    "the same, and a rotation has failed for it": (replace(ON_IT, latest=REFUSED), ["failed_own_server"]),
    "the same, and it is not to be stopped": (replace(ON_IT, target=TARGET), []),
    "a second one of one slot": (
        replace(WELL, assessment=holding(ours(timedelta(hours=5)), replace(ours(timedelta(hours=5)), id="2"))),
        ["another_snaprotd"],
    ),
    "one that the ledger should know": (
        replace(WELL, assessment=holding(ours(timedelta(hours=5)), replace(ours(timedelta(hours=6)), in_ledger=False))),
        ["another_snaprotd"],
    ),
    "nothing yet": (replace(WELL, assessment=holding()), ["no_snapshot"]),
    "all vanished": (replace(WELL, assessment=holding(), vanished=[gone(hours=50)]), ["vanished"]),
    "one that has vanished is there again, and restores nothing": (
        replace(WELL, assessment=holding(failed_one()), vanished=[gone(hours=1, name=failed_one().name)]),
        ["no_snapshot"],
    ),
    "one vanished just now": (replace(WELL, vanished=[gone(hours=1)]), ["vanished"]),
    "one vanished since the newest": (
        replace(WELL, vanished=[gone(hours=24.5)], assessment=holding(ours(timedelta(hours=25)))),
        ["vanished"],
    ),
    "one vanished long before the newest": (replace(WELL, vanished=[gone(hours=30)]), []),
    "one that has vanished is there again": (
        replace(WELL, vanished=[gone(hours=1, name=ours(timedelta(hours=5)).name)]),
        [],
    ),
    "not listed yet": (replace(WELL, assessment=None), []),
    "too old by a minute": (replace(WELL, assessment=holding(ours(timedelta(hours=25, minutes=46)))), ["too_old"]),
    "late": (replace(WELL, assessment=holding(ours(timedelta(hours=25, minutes=45)))), []),
    "paused and old": (replace(WELL, target=PAUSED, assessment=holding(ours(timedelta(days=9)))), []),
    "an interval that is not known": (
        replace(WELL, expected_interval=None, assessment=holding(ours(timedelta(days=9)))),
        [],
    ),
}


@pytest.mark.parametrize(("situation", "kinds"), OF_A_SERVER.values(), ids=OF_A_SERVER)
def test_what_is_wrong_with_a_server(situation: ServerSituation, kinds: list[str]) -> None:
    assert words(of_server(situation)) == kinds


def test_what_the_last_rotation_failed_for_is_said_once() -> None:
    full = replace(WELL, assessment=holding(*others(5)))
    (blocked, _) = of_server(full)
    failed = replace(FAILED, error=blocked.as_json()["text"])
    assert words(of_server(replace(full, latest=failed))) == ["blocked", "no_snapshot"]


FINE = {
    "is_ending": False,
    "config_mistakes": [],
    "ledger_error": None,
    "account_error": None,
    "is_account_listed": True,
}
OF_THE_DAEMON: dict[str, tuple[dict[str, Any], list[str]]] = {
    "all is well": ({}, []),
    "ending": ({"is_ending": True}, ["ending"]),
    "files that were exchanged, twice": ({"ledger_news": [of_exchange("x", NOW)] * 2}, ["ledger_exchanged"]),
    "an old copy": ({"ledger_news": [of_old_copy(11, 12, NOW)]}, ["ledger_old"]),
    "a bad file": ({"config_mistakes": ["c.yaml:1:1: bad"]}, ["config_refused"]),
    "no ledger": ({"ledger_error": "the ledger s.db cannot be used: disk I/O error"}, ["ledger_unusable"]),
    "not listed any more": ({"account_error": "answered 500"}, ["account_not_listed"]),
    "never listed": ({"account_error": "answered 500", "is_account_listed": False}, ["account_not_listed"]),
    "another account's debt": ({"foreign_debts": [OWED]}, ["start_owed_elsewhere"]),
    "a clock that is ahead": ({"clock_ahead": 245.0}, ["clock_differs"]),
    "a clock that is behind": ({"clock_ahead": -60.0}, ["clock_differs"]),
    "a clock that is a little off": ({"clock_ahead": -59.0}, []),
    "just begun": ({"is_account_listed": False}, ["account_awaited"]),
    "not told": ({"given_up": {"webhook": (3, "tried for 24 h")}}, ["not_told"]),
}


@pytest.mark.parametrize(("facts", "kinds"), OF_THE_DAEMON.values(), ids=OF_THE_DAEMON)
def test_what_is_wrong_with_no_one_server(facts: dict[str, Any], kinds: list[str]) -> None:
    assert words(of_daemon(**{**FINE, **facts})) == kinds


def of_generation(generation: int) -> Replica:
    config, host = f"config {generation}", f"host-{generation}"
    return Replica(id=str(generation), beat=1, version="1", config=config, generation=generation, host=host)


def test_replicas_with_different_configurations_and_whether_this_one_begins_rotations() -> None:
    older, newer = map(of_generation, (1, 2))
    assert [*of_replicas(None), *of_replicas(Fleet.alone(older))] == []
    said = [next(of_replicas(Fleet(me=me, living=(older, newer)))).as_json() for me in (older, newer)]
    text = (
        "replicas have different configurations: 1 replica of 2 (host-1) with an older one: only those with the newest "
        "begin rotations"
    )
    assert [one["text"] for one in said] == [f"{text}; this one begins none", text]


def with_one_lost() -> Fleet:
    """Of three the third has gone."""
    me, other, gone = map(of_generation, (1, 2, 3))
    lost = Sighting(replica=gone, first=0.0, since=10.0)
    lives = Sighting(replica=other, first=0.0, since=10.0 + LOST_AFTER)
    return Fleet(me=me, living=(me, other), others={"2": lives, "3": lost}, looked_at=10.0 + LOST_AFTER)


def with_one_idle() -> Fleet:
    """Of two the other one has the wrong time."""
    me, other = of_generation(1), replace(of_generation(1), id="2", host="host-2", body={ON_TIME: False})
    return Fleet(me=me, living=(me, other))


def test_another_replica_that_begins_nothing_is_a_problem_here_and_this_one_has_its_own() -> None:
    (idle,) = of_replicas(with_one_idle())
    assert idle.as_json()["text"] == "the replica on host-2 begins no rotations: its clock is wrong; others run them"
    assert [*of_replicas(replace(with_one_idle(), me=with_one_idle().living[1]))] == []


def test_a_replica_that_is_lost_and_how_many_are_left() -> None:
    text = "the replica on host-3 has gone and did not end in order, and none has come in its place: 2 replicas left"
    assert next(of_replicas(with_one_lost())).as_json()["text"] == text


def ending_in(days: float, why_not: str = "") -> Certificate:
    return Certificate(Path("pages.crt"), ends_at=NOW + timedelta(days=days), why_not=why_not)


OF_THE_PAGES: dict[str, tuple[str, Certificate | None, list[str]]] = {
    "without TLS": ("", None, []),
    "all is well": ("", ending_in(14.1), []),
    "of whose end nothing is known": ("", Certificate(Path("pages.crt")), []),
    "two weeks before its end": ("", ending_in(13.9), ["certificate_ends"]),
    "a minute before its end": ("", ending_in(1 / 1440), ["certificate_ends"]),
    "after its end": ("", ending_in(0), ["certificate_bad"]),
    "said to be over": ("", Certificate(Path("pages.crt"), why_not="has expired"), ["certificate_bad"]),
    "a bad new one": ("its key is that of another one", ending_in(1), ["web_refused", "certificate_ends"]),
}


@pytest.mark.parametrize(("refused", "certificate", "kinds"), OF_THE_PAGES.values(), ids=OF_THE_PAGES)
def test_what_is_wrong_with_the_protection_of_the_pages(
    refused: str, certificate: Certificate | None, kinds: list[str]
) -> None:
    assert words(of_pages(refused, certificate, NOW)) == kinds


RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
ANCHORS = {line.strip("# \n").lower().replace(" ", "-") for line in RUNBOOK.read_text().split("\n") if line[:1] == "#"}


def every_problem() -> list[Problem]:
    """One of each kind, from the tables above."""
    servers = [problem for situation, _ in OF_A_SERVER.values() for problem in of_server(situation)]
    daemons = [problem for facts, _ in OF_THE_DAEMON.values() for problem in of_daemon(**{**FINE, **facts})]
    pages = [problem for refused, one, _ in OF_THE_PAGES.values() for problem in of_pages(refused, one, NOW)]
    pages += of_pages("", None, NOW, away="127.0.0.1:9877 is taken")
    dropped = [of_dropped("web-07", "12351", called_now) for called_now in ("db-07", None)]
    return [
        *servers,
        *daemons,
        *pages,
        *dropped,
        *(of_departed(ROTATION, is_account_listed=yes) for yes in (True, False)),
        *of_replicas(with_one_lost()),
        *of_replicas(with_one_idle()),
    ]


def test_every_kind_is_met_here() -> None:
    assert {problem.kind for problem in every_problem()} == set(KINDS)


@pytest.mark.parametrize("problem", every_problem(), ids=lambda problem: problem.kind)
def test_a_problem_is_a_sentence_with_what_to_do(problem: Problem) -> None:
    told = problem.as_json()
    assert told.keys() == {"severity", "text", "do", "runbook"}
    assert told["runbook"].partition("#")[2] in ANCHORS
    assert told["severity"] == problem.severity in ("alarm", "attention")
    assert re.fullmatch(r"[A-Z][^.]*(?:`[^`]*`)?[^.]*[.?]", told["do"])
    assert not re.search(r"[{}]", told["text"] + told["do"])


def test_a_command_that_is_told_can_be_pasted_into_a_shell() -> None:
    (failed,) = of_server(replace(WELL, latest=FAILED))
    assert failed.as_json() == {
        "severity": "alarm",
        "text": "the last rotation ended as failure, at step stop: it does not stop",
        "do": "Cure that if it will not mend itself by the next slot, and try again at once: `snaprotd now 'web 01'`.",
        "runbook": "docs/runbook.md#snaprotdrotationfailed",
    }


def test_what_to_do_names_a_snapshot_that_is_there() -> None:
    (blocked, _) = of_server(replace(WELL, assessment=holding(*others(5))))
    assert "`snaprotd delete theirs-4`" in blocked.as_json()["do"]
    assert "`snaprotd unhold ID`" in blocked.as_json()["do"]


def test_facts_in_braces_stay_as_they_are() -> None:
    (failed,) = of_server(replace(WELL, latest=replace(FAILED, error="answered {step} {}")))
    assert failed.as_json()["text"].endswith("answered {step} {}")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_alerts_in_the_rules_and_in_the_runbook_or_the_reason_why_not(kind: str) -> None:
    told = KINDS[kind]
    assert bool(told.alerts) != bool(told.unwatched)
    assert set(told.alerts) <= ALERTS.keys()
    assert set(told.alerts) <= set(SECTIONS)
    assert set(re.findall(r"Snaprotd\w+", told.unwatched)) <= ALERTS.keys()


def test_each_alert_is_of_a_kind_of_problem_or_has_the_reason_why_not() -> None:
    of_kinds = {alert for kind in KINDS.values() for alert in kind.alerts}
    assert not of_kinds & NOT_ON_THE_PAGE.keys()
    assert of_kinds | NOT_ON_THE_PAGE.keys() == ALERTS.keys()


def test_the_table_has_no_fact_that_the_runbook_cannot_name() -> None:
    facts = {name for kind in KINDS.values() for _, name, *_ in Formatter().parse(kind.says + kind.do) if name}
    assert all(re.fullmatch(r"[a-z_]+", fact) for fact in facts)
