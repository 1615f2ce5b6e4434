"""The table of the rules by which several replicas may share a database, and of what holds each of them."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from snaprotd.core.asking.evidence import OLDEST_TO_SEND_BY
from snaprotd.core.asking.settling import lease_for
from tests.model.leases import Rules
from tests.model.test_model import MUTANTS, TWICE_HELD

ROOT = Path(__file__).parents[2]

STORE, SERVER, STARTS = "tests/ledger/test_store.py", "tests/ledger/test_server.py", "tests/ledger/test_starts.py"
VERSIONS, ANYWHERE = "tests/ledger/test_versions.py", "tests/scenarios/test_crash_anywhere.py"

BY_A_MODEL = {
    "a lease is observed, not read off a clock": ("observes", "compares", "has_margin", "guards", "is_fresh"),
    "a renewal writes the promises again": ("reasserts",),
    "the margin on `settle` is at least lease less request": ("outlives",),
    "only who has a file to itself takes over at once": ("is_shared",),
    "a failover is known and waited out": ("waits", "notes", "asks_each_time", "looks_anew", "lapses", "saves_again"),
    "promises only grow": ("insists", "merges", "asks_who_lives"),
    "cut off, a server is started after a look": ("looks_at_snapshots",),
    "a commit of unknown result counts as not written": ("is_sceptical",),
    "promises are on disk before requests go out": ("saves_first",),
    "an open request is waited for": ("settles",),
}
"""Each with the rules of the model (`leases.Rules`) that it is made of."""

BY_A_TEST = {
    "a renewal never writes an aged body over a newer one": (
        f"{STARTS}: test_what_a_process_knows_to_be_owed_is_owed_and_nothing_older_comes_over_what_others_know"
    ),
    "owners are random for each process": (
        "tests/ledger/test_owners.py: test_each_time_that_a_ledger_is_opened_its_owner_is_another"
    ),
    "a commit whose answer was lost is looked up": (
        f"{SERVER}: test_a_commit_whose_answer_is_lost_is_found_to_be_written"
    ),
    "commits are waited for": f"{SERVER}: test_a_commit_is_waited_for_whatever_the_role_says",
    "a read-only answer means another connection": (
        f"{SERVER}: test_where_it_may_not_be_written_any_more_another_way_is_taken_to_it"
    ),
    "who waits for the database walks away": f"{SERVER}: test_a_call_that_is_never_answered_is_walked_away_from",
    "who is frozen in a transaction keeps nobody waiting": (
        f"{SERVER}: test_who_is_frozen_in_a_transaction_keeps_others_waiting_for_seconds_only"
    ),
    "only rows that this version can go on with are taken over": (
        f"{VERSIONS}: test_what_only_a_newer_version_may_go_on_with_is_left_alone_and_shown"
    ),
    "unknown fields survive a save": (
        f"{VERSIONS}: test_the_row_of_a_later_version_goes_through_the_hands_of_this_one_and_back"
    ),
    "a slot is claimed once": f"{STORE}: test_of_many_claims_of_one_slot_exactly_one_gets_it",
    "nothing is deleted by who has lost its lease": f"{STORE}: test_a_frozen_owner_sends_nothing_when_it_wakes",
    "a lease is good from before its write": (
        f"{STORE}: test_a_lease_counts_from_where_its_write_began_however_long_it_took"
    ),
    "all of it together, by the code": f"{ANYWHERE}: test_no_promise_is_broken_by_crashes_lost_answers_and_errors",
}
"""What no model of two replicas expresses, each with the test that holds it."""


def test_every_rule_of_the_model_is_in_the_table_and_switched_off_once() -> None:
    rules = {one.name for one in fields(Rules)} - {"settle"}
    assert sorted(name for its in BY_A_MODEL.values() for name in its) == sorted(rules)
    assert {rule for rule, *_ in (*MUTANTS, *TWICE_HELD)} == rules


@pytest.mark.parametrize("test", BY_A_TEST.values())
def test_the_test_that_holds_a_rule_is_there(test: str) -> None:
    path, _, name = test.partition(": ")
    tree = ast.parse((ROOT / path).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert name in {one.name for one in functions}


@pytest.mark.parametrize("timeout", [1.0, 30.0, 300.0])
def test_a_look_is_never_good_for_longer_than_a_lease_when_a_request_goes_out(timeout: float) -> None:
    """As in the model: else a request could go out that who takes over does not wait for."""
    assert lease_for(timeout) - timeout >= OLDEST_TO_SEND_BY
