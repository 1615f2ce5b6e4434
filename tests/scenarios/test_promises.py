"""A server that we stopped is running a day later, whatever the provider's answers were worth, and whoever died.

Each story is looked at every few minutes at first, then every half hour: nothing says that all is well while a server
is off because of us.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.rotation import Step
from snaprotd.daemon.last_resort import pay_what_is_owed
from snaprotd.simulator import Fault, Request, World
from tests.support.daemons import Watched, power
from tests.support.harms import edit
from tests.support.promised import (
    DAY,
    HOUR,
    MINUTE,
    Freezer,
    FrozenWay,
    Promise,
    Way,
    freezable,
    have_few_ticks,
    looked_after,
)
from tests.support.searches import size, the_rest

pytestmark = pytest.mark.usefixtures("one_clock", "silence")


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    have_few_ticks(monkeypatch)


# -- a read that is older than the one before it -------------------------------------------------------------------


LAGS = (0.0, 14.0)
"""Seconds: once, and for less than a poll."""


@pytest.mark.parametrize(
    ("lags_at", "lags_for"),
    [*((at, LAGS[at % 2]) for at in range(9)), *the_rest(*((at, LAGS[1 - at % 2]) for at in range(9)))],
)
async def test_a_stale_read_of_a_running_server_releases_nobody_from_the_start(
    tmp_path: Path, lags_at: int, lags_for: float
) -> None:
    """At the stop, before the snapshot, while it is taken, at the start."""
    one = Promise(tmp_path)
    one.way.lags_at, one.way.lags_for = lags_at, lags_for
    async with looked_after(one):
        pass
    assert [ended.result for ended in one.watched.ended] == ["success"]
    assert one.way.posts.count("stop") == 1


@pytest.mark.parametrize("path", ["/servers/", "*"], ids=["the list of servers", "anything"])
async def test_a_list_that_cannot_be_read_releases_nobody_from_the_start(tmp_path: Path, path: str) -> None:
    """What was listed before is no look: the server is switched off once more while no list can be read."""
    one = Promise(tmp_path)
    one.way.doubled = {"stop": 130.0}
    unreadable = Fault(kind="status", method="GET", path=path, times=None)
    async with looked_after(one):
        await one.until(lambda: bool(one.watched.ended))
        await asyncio.sleep(40)
        one.world.faults.append(unreadable)
        await one.until(lambda: one.history.count("stopped") == 2)
        await asyncio.sleep(20 * MINUTE)
        one.world.faults.remove(unreadable)


# -- an error answer to a power request proves nothing -------------------------------------------------------------

ERRORS = (400, 401, 403, 404, 409, 500)
EACH = size(2, 1)
"""In the short form a search has every second of the errors, and the one after it has the others."""


def after_the_fact(action: str, status: int) -> Fault:
    return power("status", action, status=status, done=True)


@pytest.mark.parametrize("status", ERRORS)
async def test_a_stop_that_was_carried_out_and_answered_with_an_error_is_made_good(tmp_path: Path, status: int) -> None:
    one = Promise(tmp_path, after_the_fact("stop", status))
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history)


@pytest.mark.search
@pytest.mark.parametrize("status", ERRORS[::EACH])
async def test_a_stop_that_was_answered_with_an_error_and_strikes_later_is_made_good(
    tmp_path: Path, status: int
) -> None:
    one = Promise(tmp_path, power("status", "stop", status=status))
    async with looked_after(one):
        await one.until(lambda: "stop" in one.way.posts)
        one.world.later(100, lambda: one.way._strike("stop"))
        await one.until(lambda: "stopped" in one.history)


class SeveredWay(Way):
    """The first stop goes out; for every other one there is no connection."""

    def _before(self, request: Request) -> None:
        asked = len(self.posts)
        super()._before(request)
        if "stop" in self.posts[:asked] and self.posts[asked:] == ["stop"]:
            raise httpx.ConnectError("severed")


@pytest.mark.parametrize("status", [409, 423, 429])
async def test_a_stop_that_could_not_be_sent_does_not_undo_one_that_was_refused_and_strikes_later(
    tmp_path: Path, status: int
) -> None:
    one = Promise(tmp_path, power("status", "stop", status=status))
    one.way = SeveredWay(one.world)
    async with looked_after(one):
        await one.until(lambda: one.way.posts.count("stop") > 1)
        one.world.later(HOUR, lambda: one.way._strike("stop"))
        await one.until(lambda: "stopped" in one.history, 2 * HOUR)
    assert one.way.posts.count("start") >= 1


@pytest.mark.search
@pytest.mark.parametrize("status", ERRORS[EACH - 1 :: EACH])
async def test_a_start_that_was_answered_with_an_error_is_asked_for_until_the_server_runs(
    tmp_path: Path, status: int
) -> None:
    one = Promise(tmp_path, after_the_fact("start", status), power("status", "start", status=status, times=3))
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history)


@pytest.mark.search
@pytest.mark.parametrize("status", ERRORS[::EACH])
async def test_a_hard_stop_that_was_carried_out_and_answered_with_an_error_is_made_good(
    tmp_path: Path, status: int
) -> None:
    never = power("stop_never", "stop", times=None)
    one = Promise(tmp_path, never, after_the_fact("hard_stop", status), on_stop_timeout="hard_stop")
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history)


FIRST, THEN = (
    ((200, 140.0), (400, 60.0), (403, 60.0), (409, 60.0)),
    ((200, 60.0), (401, 60.0), (404, 60.0), (500, 60.0)),
)
TWICE = [*(("stop", *how) for how in FIRST), *(("hard_stop", *how) for how in THEN)]
THE_OTHERS = [*(("stop", *how) for how in THEN), *(("hard_stop", *how) for how in FIRST)]


@pytest.mark.parametrize(("action", "status", "strikes_after"), TWICE + the_rest(*THE_OTHERS))
async def test_a_stop_that_a_proxy_sent_twice_may_strike_after_the_start_and_is_made_good(
    tmp_path: Path, action: str, status: int, strikes_after: float
) -> None:
    faults = [] if status == 200 else [after_the_fact(action, status)]
    keys = {"on_stop_timeout": "hard_stop"} if action == "hard_stop" else {}
    if action == "hard_stop":
        faults.append(power("stop_never", "stop", times=None))
    one = Promise(tmp_path, *faults, **keys)
    one.way.doubled = {action: strikes_after}
    async with looked_after(one):
        await one.until(lambda: one.history.count("stopped") == 2)


@pytest.mark.search
@pytest.mark.parametrize("status", [200, *ERRORS[EACH - 1 :: EACH]])
async def test_a_start_that_a_proxy_sent_twice_changes_nothing(tmp_path: Path, status: int) -> None:
    one = Promise(tmp_path, *([] if status == 200 else [after_the_fact("start", status)]))
    one.way.doubled = {"start": 60.0}
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history)
    assert [ended.result for ended in one.watched.ended] == ["success"]


# -- a stop that strikes long after ---------------------------------------------------------------------------------

JUST_AFTER = 300.0 + 600.0 + 45.0
"""After `stop_timeout` and `start_timeout`."""

LATE = pytest.mark.parametrize("delay", [JUST_AFTER, 5 * HOUR, 23 * HOUR], ids=["45 s", "5 h", "23 h"])


@LATE
async def test_an_acknowledged_stop_that_strikes_when_nobody_waits_for_it_is_made_good(
    tmp_path: Path, delay: float
) -> None:
    one = Promise(tmp_path, power("slow_power", "stop", delay=delay))
    async with looked_after(one):
        await one.pass_long(delay + HOUR)
        assert one.history == ["active", "stopping", "stopped", "starting", "active"]


@pytest.mark.parametrize(
    ("delay", "killed"),
    [
        *((JUST_AFTER, True), (5 * HOUR, False), (23 * HOUR, True)),
        *the_rest((JUST_AFTER, False), (5 * HOUR, True), (23 * HOUR, False)),
    ],
)
async def test_an_acknowledged_stop_that_strikes_under_another_process_is_made_good(
    tmp_path: Path, delay: float, killed: bool
) -> None:
    one = Promise(tmp_path, power("slow_power", "stop", delay=delay))
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.pass_time(min(delay - 30, 40 * MINUTE))
    await (one.kill() if killed else one.end())
    await asyncio.sleep(20)
    async with looked_after(one):
        await one.pass_long(delay + HOUR)
        assert one.history == ["active", "stopping", "stopped", "starting", "active"]


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
async def test_an_acknowledged_stop_that_strikes_while_no_process_runs_is_made_good(
    tmp_path: Path, killed: bool
) -> None:
    one = Promise(tmp_path, power("slow_power", "stop", delay=5 * HOUR))
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.pass_time(HOUR)
    await (one.kill() if killed else one.end())
    await asyncio.sleep(5 * HOUR)
    assert one.status == "stopping"  # the simulated server goes on from where it was last looked at
    await asyncio.sleep(3 * HOUR)
    assert one.status == "stopped"
    async with looked_after(one):
        await one.pass_time(HOUR)


@LATE
async def test_an_old_stop_that_strikes_after_the_next_slot_has_stopped_the_server_too_is_made_good(
    tmp_path: Path, delay: float
) -> None:
    """Of two stops one was seen to strike. The other one may yet, for as long as an old stop may."""
    one = Promise(tmp_path, power("slow_power", "stop", delay=delay + HOUR), schedule="5 3,4 16 1 *")
    async with looked_after(one):
        await one.pass_time(2 * HOUR)
        await one.pass_hours(max(0, delay - HOUR))
        await one.pass_time(HOUR)
        assert one.history == ["active", *["stopping", "stopped", "starting", "active"] * 2]
    assert one.way.posts == ["stop", "stop", "start", "start"]


async def test_a_server_that_is_off_by_an_old_stop_is_in_the_metric_until_it_runs(tmp_path: Path) -> None:
    never = power("start_never", "start", times=None)
    one = Promise(tmp_path, power("slow_power", "stop", delay=5 * HOUR), never)
    async with looked_after(one):
        await one.until(lambda: "stopped" in one.history, 6 * HOUR)
        await asyncio.sleep(10 * MINUTE)
        assert one.watched.value("snaprotd_server_stopped_by_us", "web") == 1
        one.world.faults.remove(never)


@pytest.mark.parametrize("restarts", [False, True], ids=["one process", "a process a day"])
async def test_a_stop_that_never_struck_is_forgotten_after_a_day_and_a_person_may_switch_the_server_off(
    tmp_path: Path, restarts: bool
) -> None:
    one = Promise(tmp_path, power("stop_never", "stop"))
    await one.begin()
    for _ in range(3):
        await one.pass_time(HOUR)
        await one.pass_hours(DAY - HOUR)
        if restarts:
            assert await one.end() == 0
            await one.begin()
    one.world.set_status("12345", "stopped")
    await asyncio.sleep(HOUR)
    assert one.status == "stopped"
    assert one.way.posts == ["stop"]
    assert await one.end() == 0


async def test_what_a_person_switches_off_after_the_start_was_paid_stays_off(tmp_path: Path) -> None:
    one = Promise(tmp_path)
    await one.begin()
    await one.pass_time(30 * MINUTE)
    assert [ended.result for ended in one.watched.ended] == ["success"]
    one.world.set_status("12345", "stopped")
    await asyncio.sleep(2 * HOUR)
    await one.end()
    await one.begin()
    await asyncio.sleep(2 * HOUR)
    assert one.status == "stopped"
    assert one.way.posts == ["stop", "start"]
    assert await one.end() == 0


# -- the record of a rotation is lost, and its process with it --------------------------------------------------------


HARM = {
    "damaged": "UPDATE rotations SET body = substr(body, 1, 40) WHERE is_open",
    "newer": "UPDATE rotations SET needs = 99 WHERE is_open",
    "deleted": "DELETE FROM rotations WHERE is_open",
    "the record of its power damaged": "UPDATE powers SET body = 'x'",
    "both damaged": "UPDATE rotations SET body = 'x'; UPDATE powers SET body = 'x'",
}
MORE_HARM = {
    "empty": "UPDATE rotations SET body = '{}' WHERE is_open",
    "all deleted": "DELETE FROM rotations",
    "the record of its power deleted": "DELETE FROM powers",
}


@pytest.mark.parametrize("harm", [*HARM, *the_rest(*((name,) for name in MORE_HARM))])
async def test_a_row_that_is_damaged_newer_or_gone_leaves_no_server_off_and_stops_no_slot(
    tmp_path: Path, harm: str
) -> None:
    statements = (HARM | MORE_HARM)[harm].split("; ")
    one = Promise(tmp_path, schedule="5 3,9,15,21 16 1 *")
    one.world.snapshot_seconds = (900, 900)
    await one.begin()
    await one.until(lambda: "stopped" in one.history, 4 * HOUR)
    await asyncio.sleep(60)
    await one.kill()
    edit(tmp_path / "state.db", *statements)
    taken = len(one.world.created)
    async with looked_after(one):
        await one.until(lambda: one.history[-1] == "active", 40 * MINUTE)
    assert len(one.world.created) - taken >= 3
    assert [ended.result for ended in one.watched.ended][-3:] == ["success"] * 3


async def test_a_stop_that_strikes_hours_after_both_its_records_were_damaged_is_made_good(tmp_path: Path) -> None:
    """What cannot be read may be a stop that has not been seen to strike."""
    one = Promise(tmp_path, power("slow_power", "stop", delay=5 * HOUR))
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.kill()
    edit(tmp_path / "state.db", "UPDATE rotations SET body = 'x'", "UPDATE powers SET body = 'x'")
    async with looked_after(one):
        await asyncio.sleep(6 * HOUR)
        assert one.history == ["active", "stopping", "stopped", "starting", "active"]


@pytest.mark.parametrize("readable_by", [2, 99])
async def test_a_ledger_of_a_newer_version_leaves_no_server_off(tmp_path: Path, readable_by: int) -> None:
    """Where it may not be used it is told, after the server was started."""
    one = Promise(tmp_path)
    one.world.snapshot_seconds = (900, 900)
    await one.begin()
    await one.until(lambda: "stopped" in one.history)
    await one.kill()
    ledger = tmp_path / "state.db"
    edit(ledger, "UPDATE meta SET value = 99 WHERE key = 'schema'")
    edit(ledger, f"UPDATE meta SET value = {readable_by} WHERE key = 'readable_by'")
    if readable_by == 2:
        async with looked_after(one):
            return
    with pytest.raises(LedgerError, match="newer") as refused:
        await Watched(one.path, one.world, transport=one.way).daemon.run()
    paid = await pay_what_is_owed([ledger], {"VPS_API_TOKEN": one.world.token}, refused.value, transport=one.way)
    assert paid
    assert one.status == "active"
    assert one.way.posts == ["stop", "start"]


async def test_what_is_owed_in_one_account_outlives_a_while_with_another_one(tmp_path: Path) -> None:
    """The file names another account, with the same ledger: that is refused, and nothing is asked there."""
    one = Promise(tmp_path)
    one.world.snapshot_seconds = (900, 900)
    await one.begin()
    await one.until(lambda: "stopped" in one.history)
    await one.kill()
    own_file, own_way = one.path.read_text(), one.way
    other = World(email="other@account.invalid")
    other.add_server("other", ref=999)
    one.path.write_text(own_file.replace("vps.invalid", "other.invalid").replace("12345", "999"))
    one.way = Way(other)
    await one.begin()
    with pytest.raises(LedgerError, match="belongs to the account at vps"):
        await one.end()
    assert one.way.posts == []
    one.path.write_text(own_file)
    one.way = own_way
    async with looked_after(one):
        await one.until(lambda: one.status == "active")


# -- resumed too late -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [[], [power("stop_never", "stop")], [power("hang", "stop")]],
    ids=["switched on meanwhile", "never carried out", "never answered"],
)
async def test_a_server_that_runs_is_not_stopped_for_a_slot_that_is_long_past(
    tmp_path: Path, faults: list[Fault]
) -> None:
    one = Promise(tmp_path, *map(replace, faults))
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.kill()
    await asyncio.sleep(2 * DAY)
    one.world.set_status("12345", "active")
    async with looked_after(one):
        pass
    assert one.way.posts == ["stop"]
    assert one.world.created == []
    (ended,) = one.watched.ended
    assert ended.result == "failure"
    assert "resumed too late" in (ended.error or "")


async def test_a_server_that_is_still_off_days_later_is_started(tmp_path: Path) -> None:
    one = Promise(tmp_path)
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    await one.kill()
    await asyncio.sleep(2 * DAY)
    assert one.status == "stopped"
    async with looked_after(one):
        await one.until(lambda: one.history[-1] == "active", 10 * MINUTE)
    assert one.way.posts == ["stop", "start"]
    assert "resumed too late" in (one.watched.ended[0].error or "")


# -- frozen past its lease -------------------------------------------------------------------------------------------


MEANWHILE, LONG_AFTER = 5 * MINUTE, 2 * HOUR
"""Seconds: while the other process works, and when it has ended its rotation."""


@pytest.mark.parametrize(
    ("step", "thaws_after"),
    [
        *((Step.STOP, MEANWHILE), (Step.WAIT, LONG_AFTER), (Step.START, MEANWHILE)),
        *the_rest((Step.STOP, LONG_AFTER), (Step.WAIT, MEANWHILE), (Step.START, LONG_AFTER)),
    ],
)
async def test_a_process_that_was_frozen_with_a_server_off_finds_it_started_and_does_nothing_of_its_own(
    tmp_path: Path, step: Step, thaws_after: float
) -> None:
    one = Promise(tmp_path)
    one.world.snapshot_seconds = (600, 600)
    freezer = Freezer()
    one.way = FrozenWay(one.world, freezer)
    first = await one.begin()
    first_way, first_running = one.way, one._running
    freezable(first.daemon._tools.ledger, freezer)
    await first.reaches(step)
    freezer.thawed.clear()
    asked_before = list(first_way.posts)
    one.way = Way(one.world)
    async with looked_after(one):
        await asyncio.sleep(thaws_after)
        freezer.thawed.set()
        await asyncio.sleep(HOUR)
        first.daemon.stop()
        assert first_running is not None
        assert await first_running == 0
    assert set(first_way.posts[len(asked_before) :]) <= {"start"}
    assert len(one.world.created) == 1
    assert [*first_way.posts, *one.way.posts].count("stop") == 1
