"""The provider asks to be left alone for a day, or till the year 2100. The patience is our own: no server stays off."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.rotation import Rotation, Step
from snaprotd.engine.loop import run_rotation
from snaprotd.engine.run import Run
from snaprotd.engine.tools import Tools
from snaprotd.ledger.claims import Claimed
from snaprotd.simulator import Fault, World
from tests.scenarios.test_power import SLOT, Night
from tests.support.daemons import Watched, a_world, configure, daemon_on, entry, power
from tests.support.searches import IS_LONG, the_rest

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_ticks")

MINUTE, HOUR = 60.0, 3600.0
POLL = 15.0
STARTS_APART = 300.0

WITHOUT_END = {"a day": "86400", "an epoch": "1771404540", "a date": "Fri, 31 Dec 2100 23:59:59 GMT"}
"""An epoch is the time of the reset, as a provider has sent it: 56 years."""
FOR_EVER = pytest.mark.parametrize("retry_after", WITHOUT_END.values(), ids=WITHOUT_END.keys())
SHORT = [(429, "a day"), (503, "an epoch"), (429, "a date")]
LONG = [(status, text) for status in (429, 503) for text in WITHOUT_END]
PAIRS = LONG if IS_LONG else SHORT

REQUESTS: dict[str, dict[str, Any]] = {
    "start": {"method": "POST", "path": "/servers/*/power/", "action": "start"},
    "stop": {"method": "POST", "path": "/servers/*/power/", "action": "stop"},
    "look": {"method": "GET", "path": "/servers/*/"},
    "list": {"method": "GET", "path": "/snapshots/"},
    "create": {"method": "POST", "path": "/snapshots/"},
}


def refused(request: str, status: int, retry_after: str, **more: Any) -> Fault:
    """A request is refused, once if nothing else is said, and the provider asks to be left alone."""
    return Fault(kind="status", status=status, retry_after=retry_after, **REQUESTS[request], **more)


class LongNight(Night):
    """A night that may be long: its lease is renewed. The snapshot takes half a minute: what is long is the waiting."""

    def __init__(self, folder: Path, *faults: Fault) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder, *faults, world=World(snapshot_seconds=(30, 30)))

    async def end(self) -> Rotation:
        async with self.story.life() as tools:
            rotation = self.story.rotation(SLOT)
            assert isinstance(await tools.ledger.claim(rotation), Claimed)
            renewing = asyncio.create_task(renew(tools))
            try:
                async with asyncio.timeout(86400):
                    return await run_rotation(Run(rotation, tools, self.story.records.append))
            finally:
                renewing.cancel()

    @property
    def history(self) -> list[tuple[datetime, str]]:
        self.world.now()
        return self.world.servers[self.server_id].history

    @property
    def downtime(self) -> float:
        """Seconds from the first moment in which the server did not run to the last."""
        back, status = self.history[-1]
        assert status == "active"
        first_off = next((at for at, status in self.history if status != "active"), back)
        return (back - first_off).total_seconds()


async def renew(tools: Tools) -> None:
    while True:
        await asyncio.sleep(20)
        await tools.ledger.renew()


# -- a server that is off ---------------------------------------------------------------------------------------------

SOON, SETTLED = MINUTE + POLL, 150 + POLL
"""After a 503 it is looked for, for so long, whether the snapshot was asked for after all."""
LONGER = [
    # the request that is refused, after so many that are not; how much longer the server may be off
    *(("stop", 0, status, text, 0) for status, text in PAIRS),
    *(("create", 0, status, text, SOON if status == 429 else SETTLED) for status, text in PAIRS),
    *(("start", 0, status, text, SOON) for status, text in LONG),
    *(("look", 5, status, text, SOON) for status, text in PAIRS),
    *(("list", 3, status, text, SOON) for status, text in PAIRS),
    # while it stops
    *(("look", skip, 429, "a day", SOON) for skip in range(5)),
    # while it is to start
    *(("look", skip, 429, "a day", SOON) for skip in (6, 7)),
    *(("list", skip, 429, "a day", SOON) for skip in (0, 1, 2, 4)),
]


@pytest.mark.search
@pytest.mark.parametrize(("request_", "skip", "status", "text", "longer"), LONGER)
async def test_a_server_runs_again_soon_whatever_was_refused_and_for_how_long(
    tmp_path: Path, request_: str, skip: int, status: int, text: str, longer: float
) -> None:
    fault = refused(request_, status, WITHOUT_END[text], skip=skip)
    undisturbed, one = LongNight(tmp_path / "undisturbed"), LongNight(tmp_path / "refused", fault)
    await undisturbed.rotate()
    await one.rotate()
    assert fault.times == 0
    assert one.downtime <= undisturbed.downtime + longer


@pytest.mark.parametrize(("status", "text"), SHORT + the_rest(*(pair for pair in LONG if pair not in SHORT)))
async def test_a_start_that_is_refused_for_hours_is_asked_again_every_five_minutes(
    tmp_path: Path, status: int, text: str
) -> None:
    one = LongNight(tmp_path, refuses := refused("start", status, WITHOUT_END[text], times=None))
    rotating = asyncio.create_task(one.end())
    await asyncio.sleep(2 * HOUR)
    refuses.times, normal_again = 0, one.world.now()
    rotation = await rotating
    waits = [(later - earlier).total_seconds() for earlier, later in pairwise(one.times("start"))]
    assert len(waits) > 20
    assert max(waits) <= STARTS_APART
    assert one.times("start")[-1] - normal_again <= timedelta(seconds=STARTS_APART)
    await one.see_off(rotation)


SENSELESS = [("look", "a day"), ("everything", "an epoch"), ("list", "a date"), ("create", "a day")]
MORE_SENSELESS = [("everything", "a day"), ("look", "an epoch"), ("everything", "a date"), ("create", "an epoch")]


@pytest.mark.parametrize(("refuses", "text"), SENSELESS + the_rest(*MORE_SENSELESS))
async def test_a_server_is_started_soon_after_the_provider_has_come_to_its_senses(
    tmp_path: Path, refuses: str, text: str
) -> None:
    one = LongNight(tmp_path)
    rotating = asyncio.create_task(one.end())
    while one.status != "stopped":  # noqa: ASYNC110
        await asyncio.sleep(1)
    only = REQUESTS.get(refuses, {})
    one.world.faults.append(Fault(kind="status", status=429, retry_after=WITHOUT_END[text], times=None, **only))
    await asyncio.sleep(3 * HOUR)
    one.world.faults.clear()
    normal_again = one.world.now()
    rotation = await rotating
    await one.see_off(rotation)
    assert one.history[-1][0] - normal_again <= timedelta(seconds=STARTS_APART)


# -- a server that nothing holds off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a day", *the_rest(("an epoch",), ("a date",))])
async def test_the_later_slots_of_a_server_are_not_in_flight_for_a_day(tmp_path: Path, text: str) -> None:
    """The rotation that is refused at every turn ends by its own patience."""
    world = a_world()
    path = configure(tmp_path, entry("10 * * * *", "snapshot_timeout: 30m", "start_timeout: 5m"))
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(9 * MINUTE)
        world.faults.append(refused("create", 429, WITHOUT_END[text], times=None))
        await asyncio.sleep(HOUR)
        world.faults.clear()
        await asyncio.sleep(3 * HOUR)
        assert [one.result for one in watched.ended] == ["failure", "success", "success", "success"]


async def test_the_time_of_a_step_is_over_while_a_request_waits_for_its_turn(tmp_path: Path) -> None:
    """One answer puts everything off for a quarter of an hour: the slot fails in time, and says why."""
    world = a_world()
    world.faults.append(refused("create", 429, WITHOUT_END["a day"]))
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", "snapshot_timeout: 3m")), world) as watched:
        await asyncio.sleep(13 * MINUTE + 35)
        assert [(one.result, one.failed_step) for one in watched.ended] == [("failure", "snapshot")]
        assert "gave up after" in str(watched.ended[0].error)
        assert "answered 429" in str(watched.ended[0].error)


# -- the end of the process -------------------------------------------------------------------------------------------


async def begin(path: Path, world: World) -> tuple[Watched, asyncio.Task[int]]:
    """A daemon whose end is the test's."""
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.daemon.started.wait()
    return watched, running


ASKING: list[tuple[str, Fault, str]] = [
    # what is refused, and what the process is then waiting to ask when it is to end
    ("first look", refused("list", 429, "86400", skip=1, times=None), ""),
    ("look", refused("look", 429, "86400", times=None), ""),
    ("stop", refused("stop", 429, "86400", times=None), "stop_first: true"),
    ("create", refused("create", 429, "86400", times=None), ""),
    (
        "nothing, and another is",
        Fault(kind="status", status=429, retry_after="86400", path="/servers/", times=None),
        "",
    ),
    ("the snapshot", refused("list", 429, "86400", skip=4, times=None), ""),
]


@pytest.mark.parametrize(("fault", "key"), [row[1:] for row in ASKING], ids=[row[0] for row in ASKING])
@pytest.mark.parametrize("minutes", [1, 11])
async def test_a_process_that_holds_nothing_off_ends_at_once(
    tmp_path: Path, fault: Fault, key: str, minutes: int
) -> None:
    world = a_world()
    watched, running = await begin(configure(tmp_path, entry("10 3 * * *", *filter(None, [key]))), world)
    await asyncio.sleep(9.5 * MINUTE)
    world.faults.append(fault)
    await asyncio.sleep(minutes * MINUTE)
    assert watched.daemon.board.running
    asked, requests = world.now(), len(world.created)
    watched.daemon.stop()
    assert await running == 0
    # That a stop was refused proves nothing: its server is to be seen running twice, when the pause of a 429 is over.
    patience = MINUTE + 2 * POLL if fault.action == "stop" else 10
    assert world.now() - asked <= timedelta(seconds=patience)
    assert len(world.created) == requests
    assert world.status_of("12345") == "active"


async def test_the_hurry_of_an_end_starts_a_server_whatever_its_rotation_waits_for(tmp_path: Path) -> None:
    """The snapshot is looked for, and that is refused for a day: a start waits for a minute of that at the most."""
    world = a_world(snapshot_seconds=(3600, 3600))
    path = configure(tmp_path, entry("10 3 * * *", "stop_first: true"), more="drain_timeout: 2m")
    watched, running = await begin(path, world)
    await watched.reaches(Step.WAIT)
    world.faults.append(refused("list", 429, "86400", times=None))
    await asyncio.sleep(5 * MINUTE)
    asked = world.now()
    watched.daemon.stop()
    assert await running == 0
    history = world.servers["12345"].history
    assert history[-1][1] == "active"
    assert history[-1][0] - asked <= timedelta(seconds=3 * MINUTE + world.start_seconds + POLL)


@FOR_EVER
@pytest.mark.parametrize("request_", ["start", "look"])
async def test_a_process_that_is_to_end_starts_a_server_whose_start_was_put_off_for_a_day(
    tmp_path: Path, request_: str, retry_after: str
) -> None:
    """The first start came to nothing. The process is asked to end right after the answer that puts off the next."""
    world = a_world(faults=[power("start_never", "start")])
    watched, running = await begin(configure(tmp_path, entry("10 3 * * *", "stop_first: true")), world)
    while not any(one.power.starts for one in watched.daemon.board.running.values()):  # noqa: ASYNC110
        await asyncio.sleep(1)
    world.faults.append(fault := refused(request_, 429, retry_after))
    while fault.times:  # noqa: ASYNC110
        await asyncio.sleep(1)
    assert world.status_of("12345") == "stopped"
    asked = world.now()
    watched.daemon.stop()
    assert await running == 0
    history = world.servers["12345"].history
    assert history[-1][1] == "active"
    assert history[-1][0] - asked <= timedelta(seconds=MINUTE + world.start_seconds + 2 * POLL)


async def test_a_stop_that_waited_for_its_turn_is_not_sent_by_a_process_that_is_to_end(tmp_path: Path) -> None:
    world = a_world()
    path = configure(tmp_path, entry("10 3 * * *", "stop_first: true"), more="drain_timeout: 20m")
    path.write_text(path.read_text().replace("requests_per_second: 100", "requests_per_second: 0.2"))
    watched, running = await begin(path, world)
    while not any(one.held_off for one in watched.daemon.board.running.values()):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    assert world.status_of("12345") == "active"
    watched.daemon.stop()
    assert await running == 0
    await asyncio.sleep(HOUR)
    assert [status for _, status in world.servers["12345"].history] == ["active"]
