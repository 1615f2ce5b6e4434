"""The queue of requests: evenly, by class and in order, and no pause without an end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise

import pytest

from snaprotd.core.errors import HeldBack
from snaprotd.provider.apart import About
from snaprotd.provider.pacing import Pace, Priority

ANY = About(kind="GET /", subject="*")


class Queue:
    """Who went out, and how many seconds after the beginning."""

    def __init__(self, rate: float = 1.0, *, places: int = 20, takes: float = 0.0) -> None:
        self.pace = Pace(rate, places=places)
        self.takes = takes
        self.began = asyncio.get_running_loop().time()
        self.went: list[tuple[float, str]] = []
        self.waiting: list[asyncio.Task[None]] = []

    def at(self, name: str) -> float:
        return next(at for at, who in self.went if who == name)

    def put_off(self, seconds: float | None) -> None:
        """Something is refused for now, with no word of too many."""
        self.pace.put_off(ANY, asyncio.get_running_loop().time(), seconds, too_many=False)

    def refused(self, sent_at: float) -> None:
        """There were too many requests; the provider does not mind if the next goes out at once."""
        self.pace.put_off(ANY, sent_at, 0, too_many=True)

    async def ask(self, *names: str, as_: Priority = Priority.OPEN) -> None:
        """Have them stand in the queue, in this order."""
        for name in names:
            self.waiting.append(asyncio.create_task(self._go(name, as_)))
        await asyncio.sleep(0)

    async def _go(self, name: str, as_: Priority) -> None:
        async with self.pace.turn(as_):
            self.went.append((round(asyncio.get_running_loop().time() - self.began, 3), name))
            await asyncio.sleep(self.takes)

    async def empty(self) -> list[tuple[float, str]]:
        await asyncio.gather(*self.waiting)
        return self.went


def many(number: int) -> Iterable[str]:
    return (f"get {one}" for one in range(number))


async def test_requests_go_out_evenly_and_in_order() -> None:
    queue = Queue(rate=2)
    await queue.ask("a", "b", "c")
    assert await queue.empty() == [(0, "a"), (0.5, "b"), (1, "c")]


async def test_a_queue_of_two_hundred_does_not_delay_what_is_urgent() -> None:
    queue = Queue()
    await queue.ask(*many(200))
    await asyncio.sleep(10.5)
    await queue.ask("look", "start", as_=Priority.START)
    await queue.empty()
    assert (queue.at("look"), queue.at("start"), queue.at("get 11"), queue.at("get 199")) == (11, 12, 13, 201)


async def test_what_is_urgent_needs_no_place() -> None:
    queue = Queue(rate=100, places=3, takes=30)
    await queue.ask(*many(5))
    await asyncio.sleep(1)
    await queue.ask("look", "start", as_=Priority.START)
    await queue.empty()
    assert (queue.at("look"), queue.at("start")) == (1, 1.01)
    assert (queue.at("get 2"), queue.at("get 3"), queue.at("get 4")) == (0.02, 30, 30.01)


async def test_the_classes_have_their_turns_in_their_order_and_within_one_who_came_first() -> None:
    queue = Queue()
    await queue.ask("first")
    for priority in reversed(Priority):
        await queue.ask(f"{priority.name} 1", f"{priority.name} 2", as_=priority)
    order = [f"{priority.name} {number}" for priority in Priority for number in (1, 2)]
    assert [who for _, who in await queue.empty()] == ["first", *order]


async def test_no_class_starves_behind_other_work() -> None:
    """Each has one turn in ten for certain, and they are its own: there is no saving up."""
    queue = Queue()
    await queue.ask(*(f"open {one}" for one in range(100)), as_=Priority.OPEN)
    await queue.ask(*(f"new {one}" for one in range(5)), as_=Priority.NEW)
    await queue.ask(*(f"page {one}" for one in range(5)), as_=Priority.INVENTORY)
    went = [who for _, who in await queue.empty()]
    assert [went.index(f"new {one}") for one in range(5)] == [10, 20, 30, 40, 50]
    assert [went.index(f"page {one}") for one in range(5)] == [11, 21, 31, 41, 51]


async def test_no_share_is_taken_from_starts_and_servers_that_are_off() -> None:
    queue = Queue()
    await queue.ask(*many(12), as_=Priority.INVENTORY)
    await queue.ask(*(f"poll {one}" for one in range(50)), as_=Priority.DOWNTIME)
    await queue.ask(*(f"start {one}" for one in range(50)), as_=Priority.START)
    went = [who.split()[0] for _, who in await queue.empty()]
    assert went == ["get"] + ["start"] * 50 + ["poll"] * 50 + ["get"] * 11


async def test_a_share_that_is_due_waits_for_starts_and_servers_that_are_off() -> None:
    queue = Queue()
    await queue.ask(*many(20))
    await queue.ask("page", as_=Priority.INVENTORY)
    await asyncio.sleep(9.5)
    await queue.ask("poll", as_=Priority.DOWNTIME)
    await queue.ask("start", as_=Priority.START)
    await queue.empty()
    assert (queue.at("start"), queue.at("poll"), queue.at("page"), queue.at("get 10")) == (10, 11, 12, 13)


@pytest.mark.parametrize("priority", Priority)
async def test_only_what_a_server_that_is_off_waits_for_needs_no_place(priority: Priority) -> None:
    queue = Queue(rate=100, places=1, takes=30)
    await queue.ask("get")
    await queue.ask("next", as_=priority)
    await queue.empty()
    assert queue.at("next") == (0.01 if priority in (Priority.START, Priority.DOWNTIME) else 30)


PAUSES = [
    # asked    urgent  others
    (None, 2, 5),
    (0, 0, 0),
    (1, 1, 1),
    (7, 2, 7),
    (899, 2, 899),
    (86400, 2, 900),
    (1771404540, 2, 900),
    (float("inf"), 2, 900),
]


@pytest.mark.parametrize(("asked", "urgent", "others"), PAUSES)
async def test_a_pause_has_an_end_and_a_near_one_for_what_is_urgent(
    asked: float | None, urgent: float, others: float
) -> None:
    queue = Queue(rate=1000)
    queue.put_off(asked)
    await queue.ask("get")
    await queue.ask("start", as_=Priority.START)
    await queue.empty()
    assert (queue.at("start"), queue.at("get")) == pytest.approx((urgent, others), abs=0.01)


async def test_who_waits_already_is_held_up_too() -> None:
    queue = Queue()
    await queue.ask("a", "b", "c")
    await asyncio.sleep(0.5)
    queue.put_off(30)
    assert await queue.empty() == [(0, "a"), (30.5, "b"), (31.5, "c")]


async def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    queue = Queue()
    queue.put_off(30)
    queue.put_off(1)
    await queue.ask("a")
    assert await queue.empty() == [(30, "a")]


async def test_pauses_that_follow_one_another_hold_nobody_up_for_longer_than_one() -> None:
    """The start of one server is refused every minute: neither the other starts nor the other looks wait for that."""
    queue = Queue()
    queue.put_off(86400)
    await queue.ask("get")
    await queue.ask("start", as_=Priority.START)
    for _ in range(40):
        await asyncio.sleep(50)
        queue.put_off(86400)
    assert await queue.empty() == [(2, "start"), (900, "get")]


async def test_each_refusal_in_a_row_holds_up_what_is_urgent_for_longer_up_to_a_minute() -> None:
    queue = Queue(rate=1000)
    for number in range(40):
        queue.put_off(86400)
        queue.put_off(86400)  # of those that went out together, each is refused
        await queue.ask(f"start {number}", as_=Priority.START)
        await queue.empty()
    out = [0.0] + [at for at, _ in queue.went]
    assert [later - earlier for earlier, later in pairwise(out)] == [min(2.0 * one, 60.0) for one in range(1, 41)]


async def test_an_answer_makes_the_pauses_of_what_is_urgent_short_again() -> None:
    queue = Queue(rate=1000)
    for number in range(10):
        queue.put_off(86400)
        await queue.ask(f"refused {number}", as_=Priority.START)
        await queue.empty()
    queue.pace.answered(ANY, 0)
    since = asyncio.get_running_loop().time() - queue.began
    queue.put_off(86400)
    await queue.ask("start", as_=Priority.START)
    await queue.empty()
    assert queue.at("start") - since == 2


async def test_a_second_urgent_request_does_not_wait_for_the_same_pause_again() -> None:
    queue = Queue()
    queue.put_off(86400)
    await queue.ask("look", as_=Priority.START)
    await queue.empty()
    await queue.ask("start", as_=Priority.START)
    assert await queue.empty() == [(2, "look"), (3, "start")]


async def test_who_is_not_wanted_any_more_leaves_the_queue() -> None:
    queue = Queue()
    queue.put_off(86400)
    wanted = asyncio.get_running_loop().time() + 100

    def still_wanted() -> None:
        if asyncio.get_running_loop().time() > wanted:
            raise LookupError

    with pytest.raises(LookupError):
        async with queue.pace.turn(Priority.OPEN, wanted=still_wanted):
            raise AssertionError("it had its turn")
    assert asyncio.get_running_loop().time() - wanted < 3
    await queue.ask("next")
    assert await queue.empty() == [(900, "next")]


async def test_who_gives_up_frees_the_place_that_it_had_and_none_that_it_had_not() -> None:
    queue = Queue(rate=100, places=1, takes=50)
    await queue.ask("a", "b", "c", "d")
    await asyncio.sleep(1)
    queue.waiting.pop(1).cancel()
    queue.waiting.pop(0).cancel()
    assert await queue.empty() == [(0, "a"), (1, "c"), (51, "d")]


# -- what is refused alone -------------------------------------------------------------------------------------

START = About(kind="start", subject="one", words="the start of one")


async def refuse_start(queue: Queue, times: int, *, seconds: float = 1.0) -> None:
    """Time and again, while others are answered."""
    for _ in range(times):
        await asyncio.sleep(100)
        queue.pace.put_off(START, asyncio.get_running_loop().time(), seconds, too_many=True)
        for number in range(6):
            await asyncio.sleep(1)
            other = About(kind="look", subject=f"other {number}")
            queue.pace.answered(other, asyncio.get_running_loop().time() - 0.5)


async def test_what_is_refused_alone_lowers_no_rate_and_what_it_has_done_to_all_is_taken_back() -> None:
    queue = Queue(rate=5)
    await refuse_start(queue, 1, seconds=86400)
    assert queue.pace.in_force.rate < 4
    await queue.ask("get")
    await refuse_start(queue, 3, seconds=86400)
    in_force = queue.pace.in_force
    assert (in_force.rate, in_force.refused, in_force.refused_alone) == (5, 4, 3)
    assert queue.pace.in_force.held_back == ("the start of one",)
    await queue.empty()
    assert queue.at("get") == pytest.approx(206, abs=1), "when it was refused again"
    assert queue.pace.in_force.rate == 5


async def test_what_others_were_refused_is_not_taken_back() -> None:
    queue = Queue(rate=5)
    queue.put_off(400)
    queue.refused(0)
    await refuse_start(queue, 1)
    lowered = queue.pace.in_force.rate
    await queue.ask("get")
    await refuse_start(queue, 1)
    assert lowered < queue.pace.in_force.rate < 5
    await queue.empty()
    assert queue.at("get") == pytest.approx(400, abs=1)


@pytest.mark.parametrize("waits", [True, False])
async def test_what_is_held_back_waits_outside_the_queue_or_is_told_so(waits: bool) -> None:
    queue = Queue(rate=5)
    await refuse_start(queue, 6)
    began = asyncio.get_running_loop().time()
    queue.pace.put_off(START, began, 1.0, too_many=True)

    async def start() -> float:
        async with queue.pace.turn_of(START, Priority.START, waits=waits) as at:
            return at

    starting = asyncio.create_task(start())
    await asyncio.sleep(0)
    await queue.ask("other start", as_=Priority.START)
    await queue.empty()
    assert queue.at("other start") == began - queue.began
    if waits:
        assert await starting - began == pytest.approx(60, abs=1)
    else:
        with pytest.raises(HeldBack, match="the start of one is refused") as told:
            await starting
        assert told.value.retry_after == 60


async def test_what_is_held_back_is_called_off_where_it_is_not_wanted_any_more() -> None:
    queue = Queue(rate=5)
    await refuse_start(queue, 9)
    queue.pace.put_off(START, asyncio.get_running_loop().time(), 1.0, too_many=True)

    def not_wanted() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        async with asyncio.timeout(3), queue.pace.turn_of(START, Priority.START, wanted=not_wanted, waits=True):
            raise AssertionError("it had its turn")


async def test_where_all_is_refused_all_wait() -> None:
    queue = Queue(rate=5)
    for number in range(20):
        about = About(kind="look", subject=f"{number % 4}")
        queue.pace.put_off(about, asyncio.get_running_loop().time(), 30, too_many=True)
        await asyncio.sleep(10)
    assert queue.pace.in_force.held_back == ()
    await queue.ask("get")
    await queue.empty()
    assert queue.at("get") == 220


# -- the rate that is learnt -----------------------------------------------------------------------------------


async def test_while_nothing_is_let_through_one_asks_at_a_time_whether_that_is_over_and_no_start_waits_for_it() -> None:
    queue = Queue(rate=10)
    await queue.ask("refused")
    queue.refused(queue.began)
    await queue.ask("get 1", "get 2", "get 3")
    await asyncio.sleep(7)
    await queue.ask("start 1", "start 2", as_=Priority.START)
    await asyncio.sleep(1)
    queue.pace.answered(ANY, queue.began + 7)
    await queue.ask("get 4")
    seventh = 1 / 7
    at, names = zip(*await queue.empty(), strict=True)
    assert names == ("refused", "get 1", "get 2", "start 1", "start 2", "get 3", "get 4")
    assert at == pytest.approx((0, seventh, 5 + seventh, 7, 7 + seventh, 8, 8 + seventh), abs=0.001)


async def test_starts_go_at_half_of_what_is_configured_whatever_was_refused() -> None:
    queue = Queue(rate=10)
    for _ in range(40):
        queue.refused(asyncio.get_running_loop().time())
        queue.pace.answered(ANY, asyncio.get_running_loop().time() + 0.001)
        await asyncio.sleep(0.01)
    assert queue.pace.in_force.rate == pytest.approx(0.2, abs=0.1)
    await queue.ask("get", "look 1", "look 2")
    await queue.ask("start 1", "start 2", as_=Priority.START)
    await queue.empty()
    assert queue.at("start 1") - queue.at("get") == pytest.approx(0.2, abs=0.001)
    assert queue.at("start 2") - queue.at("start 1") == pytest.approx(0.2, abs=0.001)
    assert queue.at("look 1") - queue.at("start 2") > 2


async def test_another_rate_is_in_force_for_who_waits_already() -> None:
    queue = Queue(rate=0.01)
    await queue.ask("a", "b", "c")
    await asyncio.sleep(5)
    queue.pace.set_rate(2)
    assert await queue.empty() == [(0, "a"), (5, "b"), (5.5, "c")]


async def test_refusals_are_told_for_an_hour() -> None:
    queue = Queue()
    for minute in (0, 30, 30, 59):
        await asyncio.sleep(queue.began + minute * 60 - asyncio.get_running_loop().time())
        queue.refused(asyncio.get_running_loop().time())
    assert queue.pace.in_force.refused == 4
    await asyncio.sleep(120)
    assert queue.pace.in_force.refused == 3
    await asyncio.sleep(3600)
    assert queue.pace.in_force.refused == 0


# -- several requests of one turn ------------------------------------------------------------------------------


async def in_a_series(queue: Queue, *names: str, requests: int = 3, as_: Priority = Priority.ACTION) -> None:
    async with queue.pace.series(as_, requests):
        for name in names:
            await queue._go(name, as_)


async def test_one_turn_pays_for_several_requests_and_the_next_comes_so_much_later() -> None:
    queue = Queue(takes=0.1)
    await queue.ask("a")
    bought = asyncio.create_task(in_a_series(queue, "look", "list", "delete"))
    await asyncio.sleep(0)
    await queue.ask("b", "c")
    await bought
    assert await queue.empty() == [(0, "a"), (1, "look"), (1.5, "list"), (2, "delete"), (4, "b"), (5, "c")]


async def test_what_is_urgent_does_not_wait_for_what_a_series_has_paid_and_others_do_the_longer() -> None:
    queue = Queue()
    bought = asyncio.create_task(in_a_series(queue, "look", "list", "delete"))
    await asyncio.sleep(0)
    await queue.ask("b")
    await queue.ask("poll", as_=Priority.DOWNTIME)
    await queue.ask("start", as_=Priority.START)
    await bought
    went = await queue.empty()
    assert sorted(went) == [(0, "look"), (0.5, "list"), (1, "delete"), (1, "start"), (2, "poll"), (5, "b")]


async def test_what_a_series_has_not_paid_for_and_what_comes_after_a_pause_has_a_turn_of_its_own() -> None:
    queue = Queue(places=1, takes=0.1)
    await in_a_series(queue, "one", "two", "three", requests=2)
    async with queue.pace.series(Priority.ACTION, 2) as series:
        await queue._go("four", Priority.ACTION)
        queue.put_off(30)
        assert not series.is_whole
        await queue._go("five", Priority.ACTION)
    assert queue.went == [(0, "one"), (0.5, "two"), (2, "three"), (3, "four"), (33.1, "five")]


async def test_a_series_that_is_given_up_leaves_its_place_to_others() -> None:
    queue = Queue(places=1, takes=50)
    await queue.ask("a")
    waits = asyncio.create_task(in_a_series(queue, "never"))
    await asyncio.sleep(1)
    waits.cancel()
    await queue.ask("b", "c")
    await queue.empty()
    await in_a_series(queue, "last")
    assert queue.went == [(0, "a"), (50, "b"), (100, "c"), (150, "last")]


async def test_who_has_no_part_of_the_rate_asks_what_is_urgent_alone() -> None:
    queue = Queue(rate=2)
    queue.pace.share(0.0)
    await queue.ask("page")
    await queue.ask("look", as_=Priority.START)
    await asyncio.sleep(10)
    queue.pace.share(1.0)
    await queue.ask("one more")
    await queue.empty()
    assert (queue.at("look"), queue.at("page"), queue.at("one more")) == (0, 10, 11)
