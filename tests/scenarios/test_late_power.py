"""A stop that the provider has acknowledged strikes late, when the rotation has long been on its way to something else.

The server runs again in the end, and nothing says that it is well before it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from snaprotd.core.rotation import Rotation
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault
from tests.support.daemons import Watched, daemon_on, kill, look_around_less, power
from tests.support.promised import Stopped

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

MINUTE = 60.0


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon looks around less often, for hours that pass quickly."""
    look_around_less(monkeypatch, tick=31.3, leases=14.1, file=600.0, account=301.7)


def reading(status: int) -> Fault:
    """The next look at the server is answered with an error."""
    return Fault(kind="status", status=status, method="GET", path="/servers/12345/")


class Night(Stopped):
    """A server that is switched off at five past three, and daemons that look after it."""

    def __init__(self, folder: Path, *faults: Fault, more: str = "", **keys: str) -> None:
        super().__init__(folder, *faults, schedule="5 3 * * *", seconds=200, more=more, **keys)

    @asynccontextmanager
    async def daemon_that_has_asked(self) -> AsyncIterator[Watched]:
        """A daemon, from when the provider has acknowledged a stop."""
        async with daemon_on(self.path, self.world) as watched:
            await has_asked(watched)
            yield watched

    async def begin(self) -> tuple[Watched, asyncio.Task[int]]:
        """The same, where its end is the test's."""
        watched = Watched(self.path, self.world)
        running = asyncio.create_task(watched.daemon.run())
        await has_asked(watched)
        return watched, running

    async def last_rotation(self) -> Rotation:
        async with await Ledger.open(self.folder / "state.db", owner="reader", lock=False) as ledger:
            return (await ledger.history())[0]


async def has_asked(watched: Watched) -> None:
    while not any(one.power.stop_acknowledged for one in watched.daemon.board.running.values()):  # noqa: ASYNC110
        await asyncio.sleep(1)


OFF_AND_ON = ["active", "stopping", "stopped", "starting", "active"]


# -- the step that waits for the stop fails for another reason -----------------------------------------------------


def is_forbidden(one: Night) -> None:
    one.world.faults.append(reading(403))


def is_refused(one: Night) -> None:
    one.world.faults.append(reading(401))


def is_not_found(one: Night) -> None:
    one.world.faults.append(reading(404))


def is_suspended_for_a_while(one: Night) -> None:
    one.world.set_status("12345", "suspended")
    one.world.later(40, lambda: one.world.set_status("12345", "active"))


REASONS = pytest.mark.parametrize(
    ("happens", "error"),
    [
        (is_forbidden, "answered 403"),
        (is_refused, "answered 401"),
        (is_not_found, "answered 404"),
        (is_suspended_for_a_while, "the server is suspended"),
    ],
)


@REASONS
async def test_a_stop_that_strikes_after_its_step_has_failed_is_waited_for_and_made_good(
    tmp_path: Path, happens: Callable[[Night], None], error: str
) -> None:
    one = Night(tmp_path, power("slow_power", "stop", delay=270.0))
    async with one.daemon_that_has_asked() as watched:
        await asyncio.sleep(200)
        happens(one)
        await asyncio.sleep(60)
        assert (one.status, watched.ended) == ("active", [])
        await asyncio.sleep(20 * MINUTE)
        (ended,) = watched.ended
        assert (ended.result, ended.failed_step) == ("failure", "stop")
        assert error in (ended.error or "")
        assert watched.value("snaprotd_server_stopped_by_us", "web") == 0
    assert [status for status in one.history if status != "suspended"][-5:] == OFF_AND_ON
    assert one.world.created == []


async def test_a_stop_that_strikes_after_its_step_has_failed_is_made_good_by_the_next_process(tmp_path: Path) -> None:
    one = Night(tmp_path, power("slow_power", "stop", delay=270.0))
    watched, _ = await one.begin()
    await asyncio.sleep(200)
    is_forbidden(one)
    await asyncio.sleep(30)
    await kill(watched)
    assert (await one.last_rotation()).step == "start"
    async with daemon_on(one.path, one.world) as after:
        await asyncio.sleep(20 * MINUTE)
        assert [ended.result for ended in after.ended] == ["failure"]
    assert one.history == OFF_AND_ON


async def test_a_stop_that_strikes_after_the_provider_was_silent_for_long_is_made_good(tmp_path: Path) -> None:
    one = Night(tmp_path, power("slow_power", "stop", delay=15 * MINUTE), start_timeout="20m")
    async with one.daemon_that_has_asked() as watched:
        silence = Fault(kind="status", status=500, times=None)
        one.world.faults.append(silence)
        await asyncio.sleep(14 * MINUTE)
        one.world.faults.remove(silence)
        await asyncio.sleep(20 * MINUTE)
        assert "gave up after" in (watched.ended[0].error or "")
    assert one.history == OFF_AND_ON


async def test_a_stop_that_never_strikes_is_waited_for_as_long_as_a_start_may_take_and_no_longer(
    tmp_path: Path,
) -> None:
    one = Night(tmp_path, power("stop_never", "stop"), start_timeout="7m")
    async with one.daemon_that_has_asked() as watched:
        is_forbidden(one)
        await asyncio.sleep(6.5 * MINUTE)
        assert watched.ended == []
        assert watched.value("snaprotd_server_stopped_by_us", "web") == 0  # as seen, it runs
        await asyncio.sleep(MINUTE)
        assert [ended.result for ended in watched.ended] == ["failure"]
        assert watched.value("snaprotd_server_stopped_by_us", "web") == 0
    assert one.history == ["active"]


async def test_a_stop_that_has_struck_in_time_makes_nobody_wait(tmp_path: Path) -> None:
    one = Night(tmp_path)
    async with one.daemon_that_has_asked() as watched:
        one.world.faults.append(Fault(kind="status", status=403, method="POST", path="/snapshots/"))
        await asyncio.sleep(2 * MINUTE)
        assert [ended.failed_step for ended in watched.ended] == ["snapshot"]
    assert one.history == OFF_AND_ON


# -- the harder stop is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True], ids=["not killed", "killed"])
@pytest.mark.parametrize("status", [400, 403])
async def test_where_the_hard_stop_is_refused_the_stop_before_it_may_strike_and_is_made_good(
    tmp_path: Path, status: int, killed: bool
) -> None:
    refusal = power("status", "hard_stop", status=status, times=None)
    one = Night(tmp_path, power("slow_power", "stop", delay=9 * MINUTE), refusal, on_stop_timeout="hard_stop")
    watched, running = await one.begin()
    await asyncio.sleep(6 * MINUTE)
    record = await one.last_rotation()
    assert (record.step, record.failed_step, record.held_off) == ("start", "stop", True)
    if killed:
        await kill(watched)
        watched = Watched(one.path, one.world)
        running = asyncio.create_task(watched.daemon.run())
        await watched.daemon.started.wait()
    await asyncio.sleep(20 * MINUTE)
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 0
    watched.daemon.stop()
    assert await running == 0
    assert (await one.last_rotation()).result == "failure"
    assert one.history == OFF_AND_ON
    assert one.world.created == []


@pytest.mark.parametrize("delay", [330.0, 500.0])
async def test_where_both_stops_are_slow_the_second_one_may_strike_after_the_start_and_is_made_good(
    tmp_path: Path, delay: float
) -> None:
    """The provider carries out both of them late: the hard one when the server has been started again."""
    late = [power("slow_power", action, delay=delay) for action in ("stop", "hard_stop")]
    one = Night(tmp_path, *late, on_stop_timeout="hard_stop", stop_timeout="5m")
    one.world.snapshot_seconds = (60, 60)
    async with one.daemon_that_has_asked() as watched:
        await asyncio.sleep(40 * MINUTE)
        assert [ended.result for ended in watched.ended] == ["success"]
    assert one.history == [*OFF_AND_ON, *OFF_AND_ON[1:]]
    assert [made.server_status_when_taken for made in one.world.created] == ["stopped"]


# -- a process that ends starts the server ahead of its turn ----------------------------------------------------------

PATIENT = {"more": "drain_timeout: 1m", "stop_timeout": "15m"}
"""The end comes while the stop is still waited for."""


@asynccontextmanager
async def ended_while_it_waits(one: Night) -> AsyncIterator[None]:
    """After a daemon that was asked to end 200 s after its stop, in the time that it takes."""
    watched, running = await one.begin()
    await asyncio.sleep(200)
    assert one.status == "active"
    watched.daemon.stop()
    assert await running == 0
    yield


@pytest.mark.parametrize("delay", [230.0, 290.0, 400.0, 590.0])
async def test_a_process_that_ends_waits_for_the_stop_that_it_asked_for_and_leaves_the_server_on(
    tmp_path: Path, delay: float
) -> None:
    """The stop strikes within `drain_timeout`, or later."""
    one = Night(tmp_path, power("slow_power", "stop", delay=delay), **PATIENT)
    async with ended_while_it_waits(one):
        assert one.status == "active"
        assert one.history == OFF_AND_ON
        await asyncio.sleep(20 * MINUTE)  # while no process looks after it
        assert one.status == "active"


async def test_the_process_after_one_that_started_the_server_ahead_of_its_turn_asks_for_a_stop_of_its_own(
    tmp_path: Path,
) -> None:
    one = Night(tmp_path, power("slow_power", "stop", delay=290.0), **PATIENT)
    async with ended_while_it_waits(one):
        await asyncio.sleep(20 * MINUTE)  # while no process looks after it
        async with daemon_on(one.path, one.world) as after:
            await asyncio.sleep(20 * MINUTE)
            (ended,) = after.ended
    assert ended.result == "success"
    assert 200 < ended.power.off_for < 10 * MINUTE  # off twice, and not in between
    assert one.history == [*OFF_AND_ON, *OFF_AND_ON[1:]]
    assert [made.server_status_when_taken for made in one.world.created] == ["stopped"]


async def test_the_stop_of_the_next_process_is_waited_for_as_the_first_one_was(tmp_path: Path) -> None:
    """That the server was seen off before says nothing of the stop that is asked for now."""
    late = [power("slow_power", "stop", delay=290.0), power("slow_power", "stop", delay=270.0)]
    one = Night(tmp_path, *late, **PATIENT)
    async with ended_while_it_waits(one), one.daemon_that_has_asked() as after:
        await asyncio.sleep(200)
        assert one.status == "active"
        assert (await after.daemon.view.status())["servers"][0]["stopped_by_us_since"] is None
        is_forbidden(one)
        await asyncio.sleep(20 * MINUTE)
        assert [ended.result for ended in after.ended] == ["failure"]
    assert one.history == [*OFF_AND_ON, *OFF_AND_ON[1:]]


async def test_a_process_whose_stop_never_strikes_ends_all_the_same_and_the_next_one_goes_on(tmp_path: Path) -> None:
    one = Night(tmp_path, power("stop_never", "stop"), **PATIENT)
    began = asyncio.get_running_loop().time()
    async with ended_while_it_waits(one):
        assert one.history == ["active"]
        assert asyncio.get_running_loop().time() - began < 20 * MINUTE
        async with daemon_on(one.path, one.world) as after:
            await asyncio.sleep(20 * MINUTE)
            assert [ended.result for ended in after.ended] == ["success"]
    assert one.history == OFF_AND_ON
