"""That a snapshot only bears our name is said wherever snapshots are shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from rich.console import Console

from snaprotd.commands.text.tables import list_text
from snaprotd.core.holds import snapshot_name
from snaprotd.core.model import Machine
from snaprotd.provider.inventory import ServerHoldings
from snaprotd.report.assessment import assess
from snaprotd.report.findings import Found, findings_of
from snaprotd.report.rows import notes_on, plan_of, snapshot_rows
from tests.report.test_problems import CONFIG, NOW, SERVER, TARGET
from tests.support.nouns import a_snapshot

WORDS = "bears our name, not in the ledger"


def held(**more: Any) -> ServerHoldings:
    made = NOW - timedelta(hours=5)
    one = replace(a_snapshot(801, snapshot_name("main", made), made), **more)
    return ServerHoldings(server=SERVER, snapshots=(one,), seen_at=NOW)


OURS, STRANGE = held(in_ledger=True), held(in_ledger=False)
OLD = held(created_at=NOW - timedelta(days=30))


def test_the_plan_keeps_it_and_says_why() -> None:
    for holdings in (STRANGE, OLD):
        plan = plan_of(CONFIG, TARGET, holdings, now=NOW, machine=Machine(), count=1)
        (row,) = plan["snapshots"]
        assert (row["owner"], row["decision"], row["reason"]) == ("foreign", "keep", f"keep: {WORDS}")


def test_names_of_ours_in_other_letters_are_a_problem_and_no_silence() -> None:
    """A provider wrote the names its own way, and the ledger that could tell is lost."""
    lower = held(name=OURS.snapshots[0].name.lower())
    assert assess(CONFIG, TARGET, lower, NOW).strange_names == (
        f"named as ours are, in other letters, and not in the ledger: {lower.snapshots[0].name} (id 801)"
    )
    known = held(name=lower.snapshots[0].name, in_ledger=True)
    assert assess(CONFIG, TARGET, known, NOW).strange_names == ""


def test_the_list_says_it_below_the_table() -> None:
    for holdings, said in ((STRANGE, 1), (OLD, 1), (OURS, 0)):
        known = {TARGET.server_id: holdings}
        rows = snapshot_rows(CONFIG, [TARGET], known, [TARGET.server_id])
        console = Console(width=80)
        with console.capture() as shown:
            console.print(list_text(rows, NOW, {TARGET.server_id: "web"}, notes_on(CONFIG, [TARGET], known, NOW)))
        assert shown.get().count(f"801: {WORDS}") == said


def test_check_online_tells_of_another_snaprotd_and_of_a_strange_name() -> None:
    def texts(holdings: ServerHoldings) -> list[str]:
        servers, known = {TARGET.server_id: SERVER}, {TARGET.server_id: holdings}
        found = Found(
            config=CONFIG,
            targets=[TARGET],
            servers=servers,
            known=known,
            doubt=None,
            in_doubt={},
            now=NOW,
            machine=Machine(),
        )
        return [finding.text for finding in findings_of(found) if not finding.ok]

    assert texts(OURS) == []
    (another,) = texts(STRANGE)
    assert "another snaprotd with the instance `main` works on this account" in another
    (strange,) = texts(OLD)
    assert WORDS in strange
