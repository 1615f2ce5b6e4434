"""What an end of a rotation means for whoever is told of it: the server's own failure, or one that others have too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from snaprotd.core.errors import Busy, CloudError, Full, HeldBack, NotSent, Permanent, Refused, Temporary, Unclear
from snaprotd.core.telling import Event
from snaprotd.core.telling.dropped import Matched, of_drop
from snaprotd.core.telling.entries import (
    Entry,
    Happened,
    of_end,
    of_lost_replica,
    of_missed,
    of_vanished,
)
from snaprotd.provider import Doubtful
from snaprotd.report.happenings import LISTED, of_alarm, of_entry, of_servers_off, of_whole
from snaprotd.report.kinds import KINDS, Problem
from snaprotd.report.problems import (
    ServerSituation,
    ids_in,
    of_daemon,
    of_dropped,
    of_pages,
    of_server,
)
from snaprotd.report.replicas import of_replicas
from tests.report.test_problems import (
    FINE,
    OF_A_SERVER,
    OF_THE_DAEMON,
    OF_THE_PAGES,
    OWED,
    with_one_lost,
)

AT = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
AWAY, REFUSED, DOUBT, MOVED = Temporary("503"), Refused("401"), Doubtful("an entry cannot be read"), Permanent("302")
OWN = ""


def cause_of(its: str, account_failure: CloudError | None) -> str:
    details = {"rotation": "r", "label": "web-01", "result": "failure", "step": "wait", "error": "it", "cause": its}
    entry = Entry(at=AT, kind=Happened.ROTATION, text="", server_id="12345", details=details)
    event = of_entry(entry, account_failure=account_failure)
    assert event is not None
    return event.cause


@pytest.mark.parametrize("account", [None, AWAY, REFUSED, DOUBT, MOVED], ids=lambda one: one and type(one).__name__)
@pytest.mark.parametrize("error", [None, Busy("locked"), HeldBack("429"), Full("of ten")], ids=lambda one: str(one))
def test_a_failure_for_a_reason_of_its_own_is_the_servers_whatever_else_goes_on(
    error: CloudError | None, account: CloudError | None
) -> None:
    assert cause_of(error.cause if error else "", account) == OWN


@pytest.mark.parametrize(
    ("error", "account", "expected"),
    [
        (AWAY, None, OWN),
        (AWAY, AWAY, "api"),
        (Unclear("the answer was lost"), AWAY, "api"),
        (NotSent("no connection"), AWAY, "api"),
        (AWAY, REFUSED, "token"),
        (AWAY, DOUBT, OWN),
        (AWAY, MOVED, OWN),
        (REFUSED, None, "token"),
        (REFUSED, AWAY, "token"),
        (REFUSED, DOUBT, "token"),
        (DOUBT, None, OWN),
        (DOUBT, DOUBT, "api"),
        (DOUBT, AWAY, OWN),
        (MOVED, None, OWN),
        (MOVED, MOVED, "api"),
        (MOVED, AWAY, OWN),
    ],
)
def test_a_failure_is_the_accounts_only_where_the_account_fails_for_the_same(
    error: CloudError, account: CloudError | None, expected: str
) -> None:
    assert cause_of(error.cause, account) == expected


NOT_TOLD = {
    "ending": "somebody asked for it",
    "web_refused": "the pages are protected as before",
    "certificate_ends": "it is good still",
    "account_awaited": "the next list tells",
    "configurations_differ": "those with the newest begin all rotations, and an alert tells",
    "replica_idle": "what it lacks is told by itself",
    "not_told": "nobody could be told",
    "named_twice": "the server has its snapshots",
    "tried_again": "its last attempt is told",
    "too_slow": "that no snapshot came of it is told",
    "no_snapshot": "it may be new",
    "untouchable": "that a rotation has failed for it is told",
    "own_server": "that a rotation has failed for it is told",
    "departed": "it ends by itself",
    "not_matched_yet": "it ends by itself",
}
"""Kinds of problems of which there is no message, with the reason."""


def both_of_a_server(situation: ServerSituation) -> Iterator[tuple[Event | None, Problem]]:
    """Each problem of the page of which there is a message, with that."""
    now, latest = situation.now, situation.latest
    target, assessment = situation.target, situation.assessment
    for one in of_server(situation):
        event: Event | None = None
        if one.kind in LISTED or one.kind == "set_aside":
            event = of_alarm(one, None, now)
        elif one.kind in ("failed", "failed_untouchable", "failed_own_server", "partial", "blocked"):
            is_free = latest is not None and "blocked" in str(latest.error) and assessment and assessment.room.free
            if latest is not None and not is_free:
                ended = replace(latest, label=target.label, may_pass=False, attempt=9)
                event = of_entry(of_end(ended), ids=lambda _: ids_in(assessment, now))
        elif one.kind in ("held_off_too_long", "not_starting", "start_owed", "start_in_doubt"):
            running = [situation.running] if situation.running is not None else []
            (event,) = of_servers_off(running, [situation.debt] if situation.debt is not None else [], now)
        elif one.kind == "slots_lost":
            missed = of_missed(
                target.server_id, target.label, number=2, slots=[now], why="nobody saw them", is_lost=True, at=now
            )
            event = of_entry(missed)
        elif one.kind == "vanished":
            gone = of_vanished(target.server_id, target.label, id_="823", name="x", taken=None, at=now)
            event = of_entry(gone)
        yield event, one


def both() -> Iterator[tuple[Event | None, Problem]]:
    for situation, _ in OF_A_SERVER.values():
        yield from both_of_a_server(situation)
    for facts, _ in OF_THE_DAEMON.values():
        given = {**FINE, **facts}
        for one in of_daemon(**given):
            if one.kind == "start_owed_elsewhere":
                yield of_servers_off([], [OWED], AT, account="another")[0], one
            elif one.kind in ("ledger_exchanged", "ledger_old"):
                (entry, *_) = given["ledger_news"]
                yield of_entry(entry), one
            else:
                told = of_whole(
                    AT,
                    config_mistakes=given["config_mistakes"],
                    ledger_error=given["ledger_error"],
                    account_failure=AWAY if given["account_error"] else None,
                    clock_ahead=given.get("clock_ahead", 0.0),
                )
                yield (told[0] if told else None), one
    for refused, certificate, _ in OF_THE_PAGES.values():
        for one in of_pages(refused, certificate, AT):
            yield (of_alarm(one, None, AT) if one.kind == "certificate_bad" else None), one
    for one in of_pages("", None, AT, away="127.0.0.1:9877 is taken"):
        yield of_alarm(one, None, AT), one
    for called_now in (None, "db-07"):
        matched = Matched(ids=("12351",), name="web-07", label="web-07", dropped_at=AT, called_now=called_now)
        yield of_entry(of_drop(matched, AT)), of_dropped("web-07", "12351", called_now)
    fleet = with_one_lost()
    (lost,), left = fleet.lost, len(fleet.living)
    yield of_entry(of_lost_replica(lost, left, AT)), next(of_replicas(fleet))


def test_a_message_has_the_same_to_do_as_the_page_whatever_it_is_about() -> None:
    there = [(event, problem) for event, problem in both() if event is not None]
    differing = {
        problem.kind: (event.do, told["do"])
        for event, problem in there
        if event.do != f"{(told := problem.as_json())['do']} More: {told['runbook']}"
    }
    assert not differing
    assert {problem.kind for _, problem in there} == KINDS.keys() - NOT_TOLD.keys()
