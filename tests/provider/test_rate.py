"""How many requests a second the provider lets through is learnt: refusals lower the rate, and it feels its way up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
import pytest

from snaprotd.core.errors import CloudError
from snaprotd.core.model import Server
from snaprotd.provider import Priority
from snaprotd.provider.rate import CLIMB, LOWERED_TO, SLOWEST, UNUSED, Rate
from snaprotd.provider.token import token_source
from snaprotd.provider.vps_org.client import VpsOrg
from snaprotd.simulator import World
from tests.support.limits import Bucket, Limit, Limited, Window

# -- the decision ----------------------------------------------------------------------------------------------

FIVE = Rate(configured=5)
LOWERED = Rate(configured=5, lowered_to=2, lowered_at=100, climbs_since=None)
CLIMBING = Rate(configured=5, lowered_to=2, lowered_at=100, climbs_since=110)


def busy(rate: Rate, since: float, seconds: float) -> Rate:
    """It is used all the time."""
    for tenth in range(int(seconds * 10) + 1):
        rate = rate.sent(since + tenth / 10)
    return rate


RATES: list[tuple[str, Rate, float, float]] = [
    # what has happened                                                                             at   in force
    ("nothing", FIVE, 0, 5),
    ("a refusal", FIVE.refused(100, sent_at=99), 100, 3.5),
    ("a refusal, and nothing since", FIVE.refused(100, sent_at=99), 9999, 3.5),
    ("one of what was under way when it was lowered", CLIMBING.refused(111, sent_at=100), 110, 2),
    ("one more while nothing is let through", LOWERED.refused(150, sent_at=149), 150, 2),
    ("one after something was let through", CLIMBING.refused(110, sent_at=109), 110, 1.4),
    ("one at the slowest", Rate(configured=5, lowered_to=0.2, climbs_since=100).refused(100, sent_at=99), 100, SLOWEST),
    ("one where less than the slowest is configured", Rate(configured=0.01).refused(100, sent_at=99), 100, 0.01),
    ("an answer to what was under way", LOWERED.let_through(120, sent_at=100), 9999, 2),
    ("an answer to what was sent since", LOWERED.let_through(120, sent_at=101), 120, 2),
    ("a tenth of the climb, while it is not used", CLIMBING, 110 + CLIMB / 10, 2 + 0.5 * UNUSED),
    ("a tenth of the climb, in use", busy(CLIMBING, 110, CLIMB / 10), 110 + CLIMB / 10, 2.5),
    ("a second answer: it does not begin anew", CLIMBING.let_through(130, sent_at=129), 110, 2),
    ("the whole climb", busy(CLIMBING, 110, CLIMB), 110 + CLIMB, 5),
    ("far more than the whole climb", CLIMBING, 110 + 9 * CLIMB, 5),
    ("more is configured", FIVE.configured_as(10, 50), 50, 10),
    ("less is configured", FIVE.configured_as(1, 50), 50, 1),
    ("more, while it is lowered", CLIMBING.configured_as(10, 110), 110, 2),
    ("more, while it is lowered: it climbs to that", CLIMBING.configured_as(10, 110), 110 + 9 * CLIMB, 10),
    ("less than it is lowered to", CLIMBING.configured_as(1, 110), 110, 1),
    ("more, while nothing is let through", LOWERED.configured_as(10, 110), 9999, 2),
    ("half of it is another replica's", FIVE.shared(0.5, 50), 50, 2.5),
    ("half of it, while it is lowered: what was learnt is dealt out too", CLIMBING.shared(0.5, 110), 110, 1),
    ("all of it again", CLIMBING.shared(0.5, 110).shared(2, 110), 110, 2),
    ("another replica was refused", FIVE.heard(0.4, 50), 50, 2),
    ("another one, and it climbs", FIVE.heard(0.4, 50), 50 + 9 * CLIMB, 5),
    ("another one, at a higher part than this one's", CLIMBING.heard(0.7, 110), 110, 2),
    ("another one, while nothing is let through", LOWERED.heard(0.2, 110), 9999, 1),
]


@pytest.mark.parametrize(("rate", "at", "in_force"), [row[1:] for row in RATES], ids=[row[0] for row in RATES])
def test_refusals_lower_the_rate_by_a_factor_and_time_raises_it_by_a_sum(
    rate: Rate, at: float, in_force: float
) -> None:
    assert rate.at(at) == pytest.approx(in_force, abs=0.05)


def test_twenty_refusals_of_what_was_under_way_together_lower_it_once() -> None:
    rate = FIVE
    for late in range(20):
        rate = rate.refused(100 + late / 10, sent_at=99).let_through(100.05 + late / 10, sent_at=99.5)
    assert rate.at(102) == pytest.approx(5 * LOWERED_TO)


# -- through the client, against the simulated provider --------------------------------------------------------

POLL = 15.0


@dataclass(kw_only=True)
class Night:
    """More work than the provider lets through: reads all the time, and now and then a few starts at once."""

    api: VpsOrg
    limited: Limited
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    """Seconds that each took until it was carried out."""

    def begin(self) -> None:
        reads = [Priority.DOWNTIME] * 3 + [Priority.OPEN] * 10 + [Priority.INVENTORY] * 5
        self.tasks = [asyncio.create_task(self._read(priority)) for priority in reads]
        self.tasks.append(asyncio.create_task(self._start_some()))

    async def look(self, priority: Priority) -> None:
        with suppress(CloudError):
            await self.api.server("12345", priority=priority)

    async def _read(self, priority: Priority) -> None:
        while True:
            await self.look(priority)

    async def _start_some(self) -> None:
        while True:
            await asyncio.sleep(30)
            began = asyncio.get_running_loop().time()
            with suppress(CloudError):
                server = await self.api.server("12346", priority=Priority.START)
                await asyncio.gather(*(self._start(server, began) for _ in range(5)))

    async def _start(self, server: Server, began: float) -> None:
        while True:
            with suppress(CloudError):
                await self.api.power(server, "start", guard=lambda: None)
                self.starts.append(asyncio.get_running_loop().time() - began)
                return
            await asyncio.sleep(POLL)


@asynccontextmanager
async def night(
    limit: Limit, *, retry_after: str = "", latency: float = 0.05, works: bool = True
) -> AsyncIterator[Night]:
    world = World()
    for name in ("web-01", "web-02"):
        world.add_server(name)
    limited = Limited(world, limit, retry_after=retry_after, latency=latency)
    token = token_source(None, {"VPS_API_TOKEN": world.token})
    async with VpsOrg(base_url="https://vps.invalid/api/v1", token=token, transport=limited) as api:
        going = Night(api=api, limited=limited)
        if works:
            going.begin()
        yield going
        for task in going.tasks:
            task.cancel()
        await asyncio.gather(*going.tasks, return_exceptions=True)


THREE_A_SECOND: list[tuple[str, Limit, str, float]] = [
    ("each second", Window(most=3, seconds=1), "", 0.05),
    ("each minute", Window(most=180, seconds=60), "", 0.05),
    ("each minute, and it says when", Window(most=180, seconds=60), "10", 0.05),
    ("each minute, far away", Window(most=180, seconds=60), "", 0.4),
    ("a bucket of one", Bucket(rate=3, size=1), "", 0.4),
]


@pytest.mark.parametrize(
    ("limit", "retry_after", "latency"), [row[1:] for row in THREE_A_SECOND], ids=[row[0] for row in THREE_A_SECOND]
)
async def test_of_a_provider_that_lets_three_a_second_through_one_in_fifty_is_refused_at_the_most(
    limit: Limit, retry_after: str, latency: float
) -> None:
    began = asyncio.get_running_loop().time()
    async with night(limit, retry_after=retry_after, latency=latency) as going:
        await asyncio.sleep(400)
        refused, of = going.limited.refused(since=began + 60)
    assert refused * 50 <= of
    assert of >= 340 * 2.3, "it is used, too"
    assert sorted(going.starts)[len(going.starts) // 2] < 5
    assert max(going.starts) < 30


async def test_what_was_met_in_one_burst_is_not_met_anew_in_each_that_follows() -> None:
    """Twenty rotations in step ask for a moment every five minutes."""
    async with night(Window(most=3, seconds=1), works=False) as going:
        began = asyncio.get_running_loop().time()
        for _ in range(10):
            for priority in (Priority.OPEN, *[Priority.DOWNTIME] * 5, Priority.OPEN):
                await asyncio.gather(*(going.look(priority) for _ in range(20)))
                await asyncio.sleep(20)
            await asyncio.sleep(140)
        refused, of = going.limited.refused(since=began + 60)
    assert of >= 9 * 7 * 20
    assert refused * 50 <= of


async def test_a_start_is_before_all_that_waits_at_the_lower_rate_too() -> None:
    async with night(Window(most=3, seconds=1)) as going:
        await asyncio.sleep(330)
    assert len(going.starts) >= 5 * 9
    assert sum(one < 4 for one in going.starts) >= 0.95 * len(going.starts), "five of them, at three a second"
    assert max(going.starts) < POLL + 4, "what is refused is asked for again"


async def test_the_configured_rate_is_back_a_few_minutes_after_the_provider_lets_all_through_again() -> None:
    async with night(Window(most=3, seconds=1)) as going:
        await asyncio.sleep(300)
        assert going.api.rate.rate < 3.5
        assert going.api.rate.refused > 0
        going.limited.limit = None
        await asyncio.sleep(270)
        assert going.api.rate.rate == going.api.rate.configured == 5


async def test_one_that_is_refused_while_twenty_are_answered_lowers_the_rate_once() -> None:
    async with night(Bucket(rate=5, size=9999, filled=9999), latency=3) as going:
        await asyncio.sleep(60)
        going.limited.limit = Bucket(rate=0, size=0)
        await asyncio.sleep(0.25)  # one or two
        going.limited.limit = None
        await asyncio.sleep(10)
        refused, _ = going.limited.refused()
        assert 1 <= refused <= 2
        assert going.api.rate.rate == pytest.approx(5 * LOWERED_TO, abs=0.2)


@pytest.mark.parametrize("retry_after", ["0", "-5", "nonsense", "1, 86400", "Thu, 01 Jan 1970 00:00:00 GMT", "1e9"])
async def test_what_stands_in_a_retry_after_does_not_matter_to_the_rate(retry_after: str) -> None:
    async with night(Bucket(rate=0, size=0), retry_after=retry_after) as going:
        await asyncio.sleep(0.15)
        going.limited.limit = None
        assert going.api.rate.rate == pytest.approx(5 * LOWERED_TO)


async def test_a_rate_that_is_configured_anew_takes_effect() -> None:
    async with night(Window(most=1000, seconds=1)) as going:
        await asyncio.sleep(10)
        going.api.adjust(token=going.api._token, requests_per_second=50, timeout=30)
        before = len(going.limited.asked)
        await asyncio.sleep(10)
        assert len(going.limited.asked) - before == pytest.approx(500, abs=20)


async def test_what_is_refused_for_now_with_another_word_than_too_many_does_not_lower_the_rate() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, headers={"Retry-After": "1"})

    token = token_source(None, {"VPS_API_TOKEN": "vps_of_tests"})
    async with VpsOrg(
        base_url="https://vps.invalid", token=token, attempts=1, transport=httpx.MockTransport(answer)
    ) as api:
        with pytest.raises(CloudError):
            await api.servers()
        assert (api.rate.rate, api.rate.refused) == (5, 0)
