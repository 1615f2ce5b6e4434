"""From events to what is sent: on virtual time, with receivers that are away, hang, refuse, or break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from snaprotd.core.errors import LedgerError
from snaprotd.core.telling import Event, Kind, Letter, Message, Who
from snaprotd.core.telling.entries import Entry
from snaprotd.core.telling.troubles import Told
from snaprotd.observe.delivery import Channel, Delivery, heirs_of
from snaprotd.observe.metrics import NotificationMetrics
from snaprotd.observe.notify import Notify
from snaprotd.observe.outbox import Desk, Outbox
from snaprotd.senders import Answer, Outcome, failed, given_up, sent
from tests.support.daemons import Line, logged
from tests.support.virtual_time import VirtualLoop

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def moment() -> float:
    return asyncio.get_running_loop().time()


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Receiver:
    """A `Sender` that answers as it is told, and remembers when it was asked for what."""

    answers: Callable[[Message], Answer] = lambda _: sent("yes")
    hangs: bool = False
    tried: list[tuple[float, str]] = field(default_factory=list)
    taken: list[Message] = field(default_factory=list)

    async def send(self, message: Message) -> Answer:
        self.tried.append((moment(), message.id))
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.answers(message)
        if answer.outcome is Outcome.SENT:
            self.taken.append(message)
        return answer

    async def look(self) -> Sequence[str]:
        return []

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.taken]


@dataclass
class InMemory:
    """A `Desk` that outlives what writes on it, and cannot be written for a while."""

    told: Told | None = None
    cursor: int = 0
    entries: list[Entry] = field(default_factory=list)
    letters: dict[tuple[str, str], Letter] = field(default_factory=dict)
    full_until: float = 0.0
    writes: int = 0

    async def keep(self, told: Told, cursor: int, *, entries: Iterable[Entry], letters: Sequence[Letter]) -> None:
        self._write()
        self.told, self.cursor = told, cursor
        self.entries += entries
        self.letters = {one.key: one for one in letters} | self.letters

    async def remove(self, letters: Collection[Letter]) -> None:
        self._write()
        for letter in letters:
            self.letters.pop(letter.key, None)

    def _write(self) -> None:
        if moment() < self.full_until:
            raise LedgerError("no space left on the device")
        self.writes += 1


@dataclass
class Post:
    """A delivery, and what it counts."""

    delivery: Delivery
    outbox: Outbox
    registry: CollectorRegistry

    def counted(self, channel: str, result: str) -> float:
        labels = {"channel": channel, "result": result}
        return self.registry.get_sample_value("snaprotd_notifications_total", labels) or 0.0

    @property
    def pending(self) -> float | None:
        return self.registry.get_sample_value("snaprotd_notifications_pending")

    async def post(self, channel: str, *ids: str) -> None:
        self.delivery.post([letter(channel, one) for one in ids], are_kept=False)


def channel(name: str, sender: Receiver, **more: object) -> Channel:
    return Channel(name=name, kind=name.partition("-")[0], sender=sender, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def delivering(*channels: Channel, desk: Desk | None = None) -> AsyncIterator[Post]:
    registry = CollectorRegistry()
    outbox = Outbox(desk or InMemory())
    delivery = Delivery(outbox, NotificationMetrics(registry), now)
    delivery.begin(channels)
    try:
        yield Post(delivery, outbox, registry)
    finally:
        await delivery.aclose()


def letter(channel: str, id_: str) -> Letter:
    message = Message(id=id_, at=now(), kind=Kind.FAILURE, severity="alarm", server=None, text="", do="")
    return Letter(channel=channel, message=message, since=now())


async def test_a_letter_is_sent_at_once_and_counted() -> None:
    there = Receiver()
    async with delivering(channel("webhook", there)) as post:
        assert (post.counted("webhook", "sent"), post.counted("webhook", "given_up")) == (0, 0)
        began = moment()
        await post.post("webhook", "a", "b")
        await asyncio.sleep(1)
        assert [(at - began < 1, id_) for at, id_ in there.tried] == [(True, "a"), (True, "b")]
        assert (post.counted("webhook", "sent"), post.pending) == (2, 0)


async def test_through_an_hour_without_its_receiver_every_letter_arrives_once_and_few_are_tried() -> None:
    away_until = moment() + HOUR
    there = Receiver(lambda _: sent("yes") if moment() > away_until else failed("away"))
    names = [f"m{number}" for number in range(40)]
    async with delivering(channel("webhook", there)) as post:
        for name in names:
            await post.post("webhook", name)
            await asyncio.sleep(MINUTE)
        assert post.pending == 40
        began = there.tried[0][0]
        pauses = [round(later - sooner) for sooner, later in pairwise(dict.fromkeys(at for at, _ in there.tried))]
        assert pauses[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
        await asyncio.sleep(began + HOUR + 6 * MINUTE - moment())
        assert there.ids == names, "in the order in which it happened: no end comes before its beginning"
        assert (post.pending, post.counted("webhook", "sent"), post.counted("webhook", "given_up")) == (0, 40, 0)
        assert post.counted("webhook", "failed") < 25


async def test_however_many_wait_none_waits_for_longer_than_a_day() -> None:
    there = Receiver(lambda _: failed("away"))
    async with delivering(channel("webhook", there)) as post:
        await post.post("webhook", *(f"m{number}" for number in range(100)))
        await asyncio.sleep(DAY + 10 * MINUTE)
        assert (post.pending, post.counted("webhook", "given_up")) == (0, 100)


async def test_a_clock_that_is_set_ahead_gives_up_nothing_that_was_hardly_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = Receiver(lambda _: failed("away"))
    async with delivering(channel("webhook", there)) as post:
        await asyncio.sleep(HOUR)
        await post.post("webhook", "before", *(f"m{number}" for number in range(100)))
        await asyncio.sleep(MINUTE)
        monkeypatch.setattr(post.delivery, "_now", lambda: now() + 2 * timedelta(days=1))
        await asyncio.sleep(20 * MINUTE)
        assert (post.pending, post.counted("webhook", "given_up")) == (101, 0)


async def test_what_nobody_takes_for_a_day_is_given_up_counted_and_logged(log: list[Line]) -> None:
    there = Receiver(lambda _: failed("away"))
    async with delivering(channel("email", there)) as post:
        await post.post("email", "a")
        await asyncio.sleep(DAY - MINUTE)
        assert (post.pending, post.counted("email", "given_up")) == (1, 0)
        await asyncio.sleep(10 * MINUTE)
        assert (post.pending, post.counted("email", "given_up")) == (0, 1)
    assert 280 <= len(there.tried) <= 300
    assert [line["why"] for line in logged(log, "a message was given up")] == ["tried for 24 h"]
    told = logged(log, "a message was not taken: it is tried again")
    assert [line["log_level"] for line in told].count("warning") == 1


async def test_a_receiver_that_hangs_keeps_no_other_channel() -> None:
    hanging, well = Receiver(hangs=True), Receiver()
    async with delivering(channel("webhook", hanging), channel("webhook-2", well)) as post:
        await post.post("webhook", "a")
        await post.post("webhook-2", "a")
        await asyncio.sleep(1)
        assert (well.ids, hanging.ids) == (["a"], [])
        await asyncio.sleep(10 * MINUTE)
        assert len(hanging.tried) > 2, "its time is bounded"


async def test_one_letter_that_is_refused_again_and_again_keeps_no_other_one() -> None:
    there = Receiver(lambda message: failed("500") if message.id == "poison" else sent("yes"))
    async with delivering(channel("webhook", there)) as post:
        await post.post("webhook", "poison", "a", "b")
        await asyncio.sleep(MINUTE)
        assert there.ids == ["a", "b"]


async def test_a_letter_that_is_refused_by_itself_keeps_none_that_comes_after_an_outage_either() -> None:
    away_until = moment() + HOUR
    there = Receiver(
        lambda message: sent("yes") if moment() > away_until and not message.id.startswith("poison") else failed("500")
    )
    names = [f"m{number}" for number in range(10)]
    async with delivering(channel("webhook", there)) as post:
        await post.post("webhook", "poison-1", "m0", "poison-2", *names[1:])
        await asyncio.sleep(HOUR + 20 * MINUTE)
        assert sorted(there.ids) == names
        assert there.ids.index("m8") < there.ids.index("m9")
        await post.post("webhook", "later")
        await asyncio.sleep(15 * MINUTE)
        assert there.ids[-1] == "later"


async def test_what_will_never_be_taken_is_not_tried_again() -> None:
    there = Receiver(lambda message: given_up("HTTP 413") if message.id == "large" else sent("yes"))
    async with delivering(channel("webhook", there)) as post:
        await post.post("webhook", "large", "small")
        await asyncio.sleep(HOUR)
        assert [id_ for _, id_ in there.tried] == ["large", "small"]
        assert (post.counted("webhook", "given_up"), post.counted("webhook", "sent"), post.pending) == (1, 1, 0)


async def test_a_sender_that_breaks_is_tried_again() -> None:
    broken = [True]

    def breaks_once(_: Message) -> Answer:
        if broken.pop() if broken else False:
            raise RuntimeError("a mistake of ours")
        return sent("yes")

    there = Receiver(breaks_once)
    async with delivering(channel("webhook", there)) as post:
        await post.post("webhook", "a")
        await asyncio.sleep(MINUTE)
        assert there.ids == ["a"]


async def test_of_pings_only_the_newest_is_sent_and_not_too_often() -> None:
    there = Receiver()
    async with delivering(channel("ping", there, is_check=True)) as post:
        await post.post("ping", "a")
        await asyncio.sleep(1)
        for number in range(60):
            await post.post("ping", f"b{number}")
            await asyncio.sleep(1)
        await asyncio.sleep(MINUTE)
        assert there.ids[0] == "a"
        assert there.ids[-1] == "b59"
        times = [at for at, _ in there.tried]
        assert all(later - sooner >= 12 for sooner, later in pairwise(times))
        assert post.pending == 0


async def test_too_many_letters_for_one_channel_are_bounded_and_counted() -> None:
    there = Receiver(lambda _: failed("away"))
    async with delivering(channel("webhook", there)) as post:
        await post.post("webhook", *(f"m{number}" for number in range(1100)))
        await asyncio.sleep(MINUTE)
        assert (post.pending, post.counted("webhook", "given_up")) == (1000, 100)
        assert [one.message.id for one in post.outbox.waiting("webhook")][:1] == ["m100"]


async def test_a_clock_that_jumps_a_week_ahead_gives_nothing_up_untried() -> None:
    there = Receiver()
    async with delivering(channel("webhook", there)) as post:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        early = replace(letter("webhook", "a"), since=now())
        loop.set_wall_clock(7 * DAY)
        post.delivery.post([early], are_kept=False)
        await asyncio.sleep(1)
        loop.set_wall_clock(0)
        assert there.ids == ["a"]


# -- from events -----------------------------------------------------------------------------------------------------


def event(kind: Kind, name: str = "web-01", **more: object) -> Event:
    at = now()
    server = Who(id=name, name=name)
    return Event(id=f"{name}-{at}", at=at, kind=kind, server=server, text="words", rotation="r", **more)  # type: ignore[arg-type]


@asynccontextmanager
async def notifying(*channels: Channel, desk: InMemory | None = None) -> AsyncIterator[Notify]:
    desk = desk or InMemory()
    async with delivering(desk=desk) as post:
        notify = Notify(post.delivery, post.outbox, desk, now)
        notify.begin(channels)
        if desk.told is None:
            notify.begin_anew()
        else:
            notify.go_on(desk.told, desk.cursor, list(desk.letters.values()))

        async def look() -> None:
            while True:
                await notify.post_due()
                await asyncio.sleep(5)

        looking = asyncio.create_task(look())
        try:
            yield notify
        finally:
            looking.cancel()


async def test_each_channel_is_told_what_it_asked_for() -> None:
    everything, some = Receiver(), Receiver()
    channels = (channel("webhook", everything), channel("email", some, on=frozenset({Kind.BLOCKED, Kind.RECOVERY})))
    async with notifying(*channels) as notify:
        notify.tell(event(Kind.FAILURE))
        notify.tell(event(Kind.BLOCKED, "web-02"))
        await asyncio.sleep(5 * MINUTE)
        notify.tell(event(Kind.RECOVERY))
        await asyncio.sleep(5 * MINUTE)
    assert sorted(one.kind for one in everything.taken) == [Kind.BLOCKED, Kind.FAILURE, Kind.RECOVERY]
    assert sorted(one.kind for one in some.taken) == [Kind.BLOCKED, Kind.RECOVERY]


async def test_a_check_is_told_of_each_success_while_all_is_well_and_of_each_failure() -> None:
    fleet, own = Receiver(), Receiver()
    channels = (channel("ping", fleet, is_check=True), channel("ping-2", own, is_check=True))
    async with notifying(*channels) as notify:
        notify.look_after({"ping-2": {"web-02"}})
        for kind, name in (
            (Kind.RECOVERY, "web-01"),
            (Kind.FAILURE, "web-01"),
            (Kind.RECOVERY, "web-02"),
            (Kind.RECOVERY, "web-01"),
        ):
            notify.tell(event(kind, name))
            await asyncio.sleep(MINUTE)
    assert [one.kind for one in fleet.taken] == [Kind.RECOVERY, Kind.FAILURE, Kind.RECOVERY]
    assert [one.server and one.server.name for one in own.taken] == ["web-02"]


async def test_a_check_is_told_once_of_what_a_look_shows_again_and_again() -> None:
    there = Receiver()
    async with notifying(channel("ping", there, is_check=True)) as notify:
        off = event(Kind.HELD_OFF)
        for _ in range(10):
            notify.show(Kind.HELD_OFF, [off])
            await asyncio.sleep(MINUTE)
    assert [one.kind for one in there.taken] == [Kind.HELD_OFF]


async def test_500_servers_that_fail_at_once_are_a_handful_of_messages_and_no_work_for_who_tells() -> None:
    there = Receiver()
    async with notifying(channel("webhook", there)) as notify:
        before = moment()
        for number in range(500):
            notify.tell(event(Kind.FAILURE, f"s{number}"))
        assert moment() == before
        await asyncio.sleep(5 * MINUTE)
    assert len(there.taken) <= 3
    assert "500 servers" in there.taken[0].text


async def test_what_cannot_be_written_down_is_sent_all_the_same_and_written_when_it_can_be() -> None:
    there, desk = Receiver(), InMemory()
    desk.full_until = moment() + HOUR
    async with notifying(channel("webhook", there), desk=desk) as notify:
        notify.tell(event(Kind.FAILURE))
        notify.show(Kind.HELD_OFF, [replace(event(Kind.HELD_OFF, "web-02"), rotation="")])
        await asyncio.sleep(HOUR - MINUTE)
        assert sorted(one.kind for one in there.taken) == [Kind.FAILURE, Kind.HELD_OFF]
        assert (desk.told, desk.entries) == (None, [])
        await asyncio.sleep(2 * MINUTE)
    assert [one.kind for one in desk.entries] == ["held_off"]
    assert desk.told is not None
    assert len(desk.told.troubles) == 2
    assert (len(there.taken), desk.letters) == (2, {})


async def test_what_was_not_sent_before_a_crash_is_sent_by_the_next_process_under_the_same_id() -> None:
    away, there, desk = Receiver(lambda _: failed("away")), Receiver(), InMemory()
    async with notifying(channel("webhook", away), desk=desk) as notify:
        notify.tell(event(Kind.FAILURE))
        await asyncio.sleep(10 * MINUTE)
    assert len(away.tried) > 3
    async with notifying(channel("webhook", there), desk=desk) as notify:
        notify.tell(event(Kind.RECOVERY))
        await asyncio.sleep(10 * MINUTE)
    assert [one.kind for one in there.taken] == [Kind.FAILURE, Kind.RECOVERY]
    assert there.ids[0] == away.tried[0][1]
    assert desk.letters == {}


async def test_a_letter_that_was_not_written_before_it_was_sent_is_not_written_for_ever_after() -> None:
    there, desk = Receiver(), InMemory()
    async with notifying(channel("webhook", there), desk=desk) as notify:
        await asyncio.sleep(MINUTE)
        desk.full_until = moment() + 10 * MINUTE
        notify.tell(event(Kind.FAILURE))
        await asyncio.sleep(HOUR)
    assert (len(there.taken), desk.letters) == (1, {})


def ways(*names: str, sender: Receiver | None = None) -> list[Channel]:
    """Channels by names such as `email ann`."""
    there = sender or Receiver()
    return [
        Channel(name=one, kind=one.partition(" ")[0], sender=there, is_check=one.startswith("ping")) for one in names
    ]


@pytest.mark.parametrize(
    ("before", "after", "heirs"),
    [
        ("webhook a", "webhook b", ["webhook b"]),
        ("webhook a", "email b", ["email b"]),
        ("webhook a", "ping b", []),
        ("webhook a,email b", "email b,webhook c", ["webhook c"]),
        ("webhook a,webhook b", "webhook b", []),
        ("webhook a,webhook b", "webhook c,webhook d", ["webhook c"]),
        ("webhook b,webhook a", "webhook c,webhook d", ["webhook d"]),
        ("webhook b,webhook a,email c", "webhook b,run d,email c", ["run d"]),
        ("webhook a", "", []),
        ("webhook x", "webhook c,webhook d,email e", ["webhook c", "webhook d"]),
        ("", "webhook c", ["webhook c"]),
    ],
)
def test_what_waits_for_a_channel_goes_to_the_one_that_replaces_it(before: str, after: str, heirs: list[str]) -> None:
    lists = [ways(*filter(None, names.split(","))) for names in (before, after)]
    assert [one.name for one in heirs_of("webhook a", *lists)] == heirs


async def test_what_a_wrong_address_has_kept_waiting_is_told_by_the_corrected_one() -> None:
    away, desk = Receiver(lambda _: failed("401")), InMemory()
    there = Receiver(lambda message: failed("away") if moment() < HOUR / 2 else sent("yes"))
    async with notifying(*ways("webhook old", sender=away), desk=desk) as notify:
        notify.tell(event(Kind.FAILURE))
        notify.tell(event(Kind.VANISHED, "web-02"))
        await asyncio.sleep(10 * MINUTE)
        notify.begin(ways("webhook new", sender=there))
        await asyncio.sleep(5 * MINUTE)
        assert {channel for channel, _ in desk.letters} == {"webhook new"}
        await asyncio.sleep(HOUR)
    assert sorted(one.kind for one in there.taken) == [Kind.FAILURE, Kind.VANISHED]
    assert set(there.ids) == {id_ for _, id_ in away.tried}
    assert desk.letters == {}


async def test_what_a_wrong_address_has_kept_waiting_is_told_after_a_restart_with_the_corrected_one() -> None:
    desk, there = InMemory(), Receiver()
    async with notifying(*ways("email old", sender=Receiver(lambda _: failed("401"))), desk=desk) as notify:
        notify.tell(event(Kind.FAILURE))
        await asyncio.sleep(10 * MINUTE)
    async with notifying(*ways("email new", sender=there), desk=desk):
        await asyncio.sleep(MINUTE)
    assert [one.kind for one in there.taken] == [Kind.FAILURE]
    assert desk.letters == {}


async def test_what_is_inherited_while_nothing_can_be_written_down_is_lost_by_no_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def is_busy(*_: object, **__: object) -> None:
        raise LedgerError("busy")

    desk = InMemory()
    hopeless = Receiver(lambda _: failed("401"))
    async with notifying(*ways("email old", sender=hopeless), desk=desk) as notify:
        notify.tell(event(Kind.FAILURE))
        await asyncio.sleep(10 * MINUTE)
        monkeypatch.setattr(desk, "keep", is_busy)
        notify.begin(ways("email new", sender=hopeless))
        await asyncio.sleep(MINUTE)
    assert [name for name, _ in desk.letters] == ["email old"]


async def test_what_waits_for_a_channel_that_nobody_replaces_is_given_up_counted_logged_and_shown(
    log: list[Line],
) -> None:
    away, desk, there = Receiver(lambda _: failed("away")), InMemory(), Receiver()
    async with delivering(desk=desk) as post:
        notify = Notify(post.delivery, post.outbox, desk, now)
        notify.begin(ways("webhook old", sender=away))
        notify.begin_anew()
        notify.tell(event(Kind.FAILURE))
        for _ in range(20):
            await notify.post_due()
            await asyncio.sleep(30)
        assert len(desk.letters) == 1
        notify.begin(ways("ping new", sender=there))
        await notify.post_due()
        why = "this channel is no longer in the configuration"
        assert post.delivery.given_up == {"webhook old": (1, why)}
        assert (desk.letters, post.counted("webhook", "given_up"), post.pending) == ({}, 1, 0)
        assert [line["why"] for line in logged(log, "a message was given up")] == [why]
        notify.tell(event(Kind.FAILURE, "web-02"))
        await notify.post_due()
        await asyncio.sleep(1)
        assert (len(there.taken), post.delivery.given_up) == (1, {})


async def test_who_is_told_from_now_on_hears_of_what_lasts() -> None:
    there = Receiver()
    async with notifying() as notify:
        notify.tell(event(Kind.FAILURE))
        notify.tell(event(Kind.FAILURE, "web-02"))
        await asyncio.sleep(10 * MINUTE)
        notify.tell(event(Kind.RECOVERY, "web-02"))
        await asyncio.sleep(10 * MINUTE)
        notify.begin([channel("webhook", there)])
        await asyncio.sleep(2 * MINUTE)
    assert [(one.kind, one.server and one.server.name) for one in there.taken] == [(Kind.FAILURE, "web-01")]


async def test_an_idle_look_writes_nothing() -> None:
    desk = InMemory()
    async with notifying(channel("webhook", Receiver()), desk=desk) as notify:
        await asyncio.sleep(HOUR)
        assert desk.writes == 1
        notify.tell(event(Kind.RECOVERY))
        await asyncio.sleep(HOUR)
    assert desk.writes == 1


@pytest.mark.parametrize("patience", [timedelta(0), timedelta(minutes=10)])
async def test_a_trouble_that_may_pass_keeps_no_success_from_a_check(patience: timedelta) -> None:
    there = Receiver()
    async with notifying(channel("ping", there, is_check=True)) as notify:
        notify.show(
            Kind.FAILURE, [replace(event(Kind.FAILURE, patience=patience, cause="api"), server=None, rotation="")]
        )
        await asyncio.sleep(2 * MINUTE)
        notify.tell(event(Kind.RECOVERY, "web-02"))
        await asyncio.sleep(MINUTE)
    assert [one.kind for one in there.taken] == ([Kind.RECOVERY] if patience else [Kind.FAILURE])


def of_all(cause: str, *, minutes: float = 10) -> Event:
    """As a look finds it: of no one server, and worth a word only when it has lasted."""
    patience = timedelta(minutes=minutes)
    return replace(event(Kind.FAILURE, patience=patience, cause=cause), server=None, rotation="")


@pytest.mark.parametrize(
    ("ends_after", "others", "fleet", "plain"),
    [
        (5, [], [], []),
        (30, [], [Kind.FAILURE, Kind.RECOVERY], []),
        (30, [(25, Kind.RECOVERY)], [Kind.FAILURE, Kind.RECOVERY], [Kind.RECOVERY]),
        (5, [(2, Kind.RECOVERY)], [Kind.RECOVERY], [Kind.RECOVERY]),
        (30, [(2, Kind.FAILURE)], [Kind.FAILURE, Kind.FAILURE], []),
        (30, [(2, Kind.FAILURE), (25, Kind.RECOVERY)], [Kind.FAILURE, Kind.FAILURE, Kind.RECOVERY], [Kind.RECOVERY]),
        (
            30,
            [(2, Kind.FAILURE), (45, Kind.RECOVERY)],
            [Kind.FAILURE, Kind.FAILURE, Kind.RECOVERY],
            [Kind.RECOVERY],
        ),
    ],
    ids=[
        "what passes is no ping",
        "what lasts is a failure, and its end a success",
        "a success meanwhile is told when all is well",
        "a success before it is worth a word is told at once",
        "its end is no success while a rotation has failed",
        "the last thing to be well again is the look",
        "the last thing to be well again is a rotation",
    ],
)
async def test_a_check_hears_of_what_a_look_has_found_when_it_is_told_and_of_its_end(
    ends_after: int, others: list[tuple[int, Kind]], fleet: list[Kind], plain: list[Kind]
) -> None:
    one, other = Receiver(), Receiver()
    channels = (
        channel("ping", one, is_check=True),
        channel("ping-2", other, is_check=True, on=frozenset({Kind.RECOVERY})),
    )
    async with notifying(*channels) as notify:
        away, began = of_all("api"), moment()
        for minute in range(60):
            await asyncio.sleep(began + minute * MINUTE - moment())
            notify.show(Kind.FAILURE, [away] if minute < ends_after else [])
            for at, kind in others:
                if at == minute:
                    notify.tell(event(kind))
    assert [message.kind for message in one.taken] == fleet
    assert [message.kind for message in other.taken] == plain
    assert all(message.text for message in one.taken)


async def test_the_check_of_a_policy_hears_of_what_is_wrong_with_all_and_with_its_own_servers() -> None:
    own, others = Receiver(), Receiver()
    async with notifying(channel("ping", own, is_check=True), channel("ping-2", others, is_check=True)) as notify:
        notify.look_after({"ping": {"web-01"}, "ping-2": {"web-02"}})
        off = replace(event(Kind.HELD_OFF), rotation="")
        for there in ([off], []):
            notify.show(Kind.HELD_OFF, there)
            await asyncio.sleep(5 * MINUTE)
        assert [one.kind for one in own.taken] == [Kind.HELD_OFF, Kind.RECOVERY]
        assert others.taken == []
        for wrong in ([of_all("ledger_unusable", minutes=1)], []):
            notify.show(Kind.FAILURE, wrong)
            await asyncio.sleep(5 * MINUTE)
        assert [one.kind for one in others.taken] == [Kind.FAILURE, Kind.RECOVERY]


async def test_a_check_hears_of_a_ledger_that_cannot_be_written_and_of_its_end() -> None:
    there, desk = Receiver(), InMemory()
    async with notifying(channel("ping", there, is_check=True), desk=desk) as notify:
        await asyncio.sleep(MINUTE)
        desk.full_until = moment() + HOUR
        notify.show(Kind.FAILURE, [of_all("ledger_unusable", minutes=1)])
        await asyncio.sleep(HOUR)
        assert [one.kind for one in there.taken] == [Kind.FAILURE]
        notify.show(Kind.FAILURE, [])
        await asyncio.sleep(5 * MINUTE)
    assert [one.kind for one in there.taken] == [Kind.FAILURE, Kind.RECOVERY]
    assert desk.letters == {}


async def test_a_clock_that_is_days_ahead_gives_up_no_letter_that_was_hardly_tried() -> None:
    there = Receiver(lambda _: failed("away") if len(there.tried) < 4 else sent("yes"))
    async with delivering(channel("webhook", there)) as post:
        await post.post("webhook", "a")
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.set_wall_clock(2 * DAY)
        await asyncio.sleep(10 * MINUTE)
        loop.set_wall_clock(0)
    assert there.ids == ["a"]


async def test_what_is_found_before_the_last_process_is_known_is_what_that_has_told_of() -> None:
    desk, there = InMemory(), Receiver()
    off, other = (replace(event(Kind.HELD_OFF, name), rotation="") for name in ("web-01", "web-02"))
    async with notifying(channel("webhook", there), desk=desk) as notify:
        notify.show(Kind.HELD_OFF, [off])
        await asyncio.sleep(5 * MINUTE)
    assert desk.told is not None
    async with delivering(desk=desk) as post:
        notify = Notify(post.delivery, post.outbox, desk, now)
        notify.begin([channel("webhook", there)])
        notify.show(Kind.HELD_OFF, [replace(off, id="as it is found anew"), replace(other, id="another")])
        notify.go_on(desk.told, desk.cursor, list(desk.letters.values()))
        await asyncio.sleep(5 * MINUTE)
        await notify.post_due()
        await asyncio.sleep(MINUTE)
    assert [one.server and one.server.name for one in there.taken] == ["web-01", "web-02"]
