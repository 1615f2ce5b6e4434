"""The promises, under random crashes, lost and late answers, errors and histories.

Each example is a server with some history and a policy, one to three nights, faults of the provider and of what lies
on the way to it, and a set of moments at which the process dies: before or after any request, before or after any write
of the ledger. Between two lives the ledger, the disk or the configuration may be harmed, or what nobody waited for is
lost with the machine's power; instead of dying a process may be frozen, while another one goes on. For a while lists
and answers tell what is not so, clocks are wrong, and other people take snapshots under names that look like ours. The
promises are checked from the provider's side, by what is really there and who took it: at every request, after every
night, every few minutes, and a day after the last night.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from snaprotd.core.policy import OnStopTimeout, WhenFull
from tests.support.drawn import HOLDS, ID_KINDS, MOMENTS, THAWED_AFTER, Example, examples, history_of
from tests.support.drawn_faults import FAR_BEHIND, FAULT_KINDS, LONG_AFTER, POWER_ERRORS, RETRY_AFTER, fair
from tests.support.drawn_lies import AHEAD, UNTIL, WRONG_BY
from tests.support.harms import Harm
from tests.support.lies import KINDS
from tests.support.searches import SCRATCH, histories, look_at
from tests.support.virtual_time import run_virtually

SHARDS = 8
EXAMPLES = histories(12, 100)
"""Of each shard: 96 in all, or 800."""

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_marks")


async def live(example: Example, folder: Path) -> list[str]:
    """The broken promises of one example."""
    return await history_of(example, folder).live()


def search(shard: int, look: Callable[[Example], None]) -> None:
    look_at(examples, look, number=shard, most=EXAMPLES, shrinks="CRASH_SHRINK" in os.environ)


@pytest.mark.search
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_promise_is_broken_by_crashes_lost_answers_and_errors(shard: int) -> None:
    def look(example: Example) -> None:
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            assert run_virtually(live(example, Path(folder))) == []

    search(shard, look)


@cache
def drawn() -> tuple[Example, ...]:
    """All examples, without living them."""
    met: list[Example] = []
    for shard in range(SHARDS):
        search(shard, met.append)
    return tuple(met)


def is_met(met: Iterable[object], wanted: Iterable[object]) -> None:
    """Chance leaves out hardly one: what must be met is asserted by name."""
    all_of_it = {*wanted}
    missing = all_of_it - {*met}
    assert len(missing) <= len(all_of_it) // 8, missing


@pytest.mark.search
@pytest.mark.long_form
def test_the_search_is_long_enough_to_meet_everything() -> None:
    met = drawn()
    is_met((crash[0] for one in met for crash in one.crashes if isinstance(crash, tuple)), MOMENTS)
    kinds = {fault.kind for one in met for fault in one.faults}
    is_met(kinds, FAULT_KINDS)
    assert {"stale", "doubled", "proxy", "late", "slow_power", "status"} <= kinds <= FAULT_KINDS
    assert {(one.policy.stop_first, one.policy.on_stop_timeout) for one in met} == set(
        product((True, False), OnStopTimeout)
    )
    is_met(((one.policy.when_full, one.nights) for one in met), product(WhenFull, (1, 2, 3)))
    assert {(one.was_active, one.id_kind) for one in met} == set(product((True, False), ID_KINDS))
    assert {one.hours_apart for one in met if one.nights > 1} == {24, 3}
    is_met((harm for one in met for harm in one.harms[: len(one.crashes)]), Harm)
    assert {one.thaws_after for one in met if one.frozen_at} == set(THAWED_AFTER)
    assert any(one.ledger_deleted_at and not one.frozen_at for one in met)
    assert all(any(name.endswith(hold) for one in met for name, *_ in one.history) for hold in HOLDS)


@pytest.mark.search
@pytest.mark.long_form
def test_the_search_is_long_enough_to_meet_every_way_in_which_an_answer_is_worth_nothing() -> None:
    met = [fault for one in drawn() for fault in fair(one.faults)]
    to_power = [fault for fault in met if "power" in fault.path]
    errors = [fault for fault in to_power if fault.kind in ("status", "proxy", "html")]
    assert {fault.done for fault in errors} == {True, False}
    is_met((fault.status for fault in errors), POWER_ERRORS)
    is_met((fault.retry_after for fault in met), RETRY_AFTER)
    assert max(fault.delay for fault in to_power if fault.kind == "slow_power") > 3600
    is_met((fault.delay for fault in to_power if fault.kind == "slow_power"), LONG_AFTER)
    assert {fault.action for fault in to_power if fault.kind == "doubled"} >= {"stop", "start"}
    assert {fault.delay for fault in met if fault.kind == "stale"} == {29.0, FAR_BEHIND}
    assert any(fault.status == 404 and fault.times == 60 for fault in met)


@pytest.mark.search
@pytest.mark.long_form
def test_the_search_is_long_enough_to_be_told_every_lie_and_to_meet_other_people() -> None:
    met = drawn()
    is_met((lie.kind for one in met for lie in one.lies), KINDS)
    assert {lie.once_done for one in met for lie in one.lies} == {True, False}
    assert {(other.instance, other.at < other.named_for) for one in met for other in one.others} == set(
        product(("main", "main2"), (True, False))
    )
    is_met((one.provider_clock[2] for one in met if one.provider_clock), AHEAD)
    is_met((ahead for one in met if one.crashes for ahead in one.clocks), WRONG_BY)
    assert {word.until for one in met for word in one.words} == {*UNTIL}
    doubled = {fault.method for one in met for fault in one.faults if fault.kind == "doubled" and "snap" in fault.path}
    assert doubled == {"POST", "DELETE"}
