"""Which events are worth a message: as tables of what happens and what is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from snaprotd.core.telling import Event, Kind, Message, Who
from snaprotd.core.telling.edges import messages_due, ping_of
from snaprotd.core.telling.troubles import (
    KEPT_OF_LEFT,
    Told,
    Trouble,
    kept_for_anybody,
    key_of,
    levelled,
    noted,
    renamed,
    set_apart,
)

START = datetime(2025, 1, 16, 3, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def of(name: str) -> Who:
    return Who(id=f"id-{name}", name=name)


def event(kind: Kind, name: str = "", at: timedelta = timedelta(0), **more: object) -> Event:
    """`name` is the server's; none is the fleet's."""
    text = {Kind.RECOVERY: "its rotation has succeeded"}.get(kind, f"{kind} it is")
    given: dict[str, object] = {
        "text": text,
        "do": "Look.",
        "rotation": "r",
        "once": kind is Kind.VANISHED,
    } | more
    return Event(
        id=f"{name}-{kind}-{at}",
        at=START + at,
        kind=kind,
        server=of(name) if name else None,
        **given,  # type: ignore[arg-type]
    )


def fails(name: str, at: timedelta = timedelta(0), **more: object) -> Event:
    return event(Kind.FAILURE, name, at, **more)


def succeeds(name: str, at: timedelta = timedelta(0), **more: object) -> Event:
    return event(Kind.RECOVERY, name, at, **more)


def lived(
    *events: Event, until: timedelta = HOUR, told: Told | None = None, begins: timedelta = timedelta(0)
) -> tuple[Told, list[Message]]:
    """What is told of events at their times, looked at twice a minute from `begins` on."""
    told, messages, waiting, at = told or Told(), [], sorted(events, key=lambda one: one.at), begins
    while at <= until:
        while waiting and waiting[0].at <= START + at:
            told = noted(told, waiting.pop(0), START + at)
        told, some = messages_due(told, START + at)
        messages += some
        at += MINUTE / 2
    assert not waiting
    return told, messages


def known_before(told: Told, event: Event) -> Told:
    """After another process has told of it."""
    trouble = Trouble(event=event, since=event.at, told_at=event.at, tells=1)
    return replace(told, troubles={**told.troubles, key_of(event): trouble})


def words(*events: Event, until: timedelta = HOUR) -> list[str]:
    return [f"{one.kind}: {one.text}" for one in lived(*events, until=until)[1]]


@pytest.mark.parametrize(
    ("events", "until", "expected"),
    [
        ([], HOUR, []),
        ([succeeds("a")], HOUR, []),
        ([fails("a")], HOUR, ["failure: a: failure it is"]),
        ([fails("a"), fails("a", HOUR)], 2 * HOUR, ["failure: a: failure it is"]),
        (
            [fails("a"), succeeds("a", HOUR)],
            2 * HOUR,
            ["failure: a: failure it is", "recovery: a: its rotation has succeeded (after 60 min)"],
        ),
        ([fails("a"), succeeds("a", MINUTE / 2)], HOUR, []),
        (
            [fails("a")],
            2 * DAY + 2 * HOUR,
            [
                "failure: a: failure it is",
                "failure: still, after 24 h: a: failure it is",
                "failure: still, after 2 d: a: failure it is",
            ],
        ),
        (
            [fails("a"), event(Kind.BLOCKED, "a", HOUR), succeeds("a", 2 * HOUR)],
            3 * HOUR,
            [
                "failure: a: failure it is",
                "blocked: a: blocked it is",
                "recovery: a: its rotation has succeeded (after 2 h)",
            ],
        ),
        (
            [fails("a", severity="attention"), fails("a", HOUR, severity="alarm"), fails("a", 2 * HOUR)],
            3 * HOUR,
            ["failure: a: failure it is", "failure: a: failure it is"],
        ),
        ([event(Kind.VANISHED, "a"), succeeds("a", HOUR)], 2 * DAY, ["vanished: a: vanished it is"]),
        (
            [fails("a"), event(Kind.RECOVERY, "a", HOUR, text="found again", once=True, rotation="", about="dropped")],
            2 * HOUR,
            ["failure: a: failure it is", "recovery: a: found again"],
        ),
        (
            [event(Kind.HELD_OFF, "a"), succeeds("a", HOUR)],
            2 * HOUR,
            ["held_off: a: held_off it is"],
        ),
        (
            [event(Kind.HELD_OFF, "a"), succeeds("a", HOUR, text="it runs", ends=frozenset({Kind.HELD_OFF}))],
            2 * HOUR,
            ["held_off: a: held_off it is", "recovery: a: it runs (after 60 min)"],
        ),
    ],
    ids=[
        "nothing",
        "a success ends nothing",
        "the first failure",
        "the second is no news",
        "recovery",
        "over before it was told",
        "a reminder each day",
        "of another kind it is news",
        "worse is news, the same again is none",
        "vanished is told once",
        "an end that is told once ends nothing else",
        "a rotation's success starts no server",
        "a server that runs again",
    ],
)
def test_what_is_told_of_one_server(events: list[Event], until: timedelta, expected: list[str]) -> None:
    assert words(*events, until=until) == expected


def test_few_are_told_one_by_one_and_many_in_a_digest_with_names_and_number() -> None:
    assert len(words(*map(fails, "abc"))) == 3
    (digest,) = lived(*map(fails, "abcdefghijklmn"))[1]
    assert digest.text.startswith("14 servers: a, b, c, d, e, f, g, h, i, j and 4 more. The first: a: ")
    assert (digest.server, digest.kind, digest.severity) == (None, Kind.FAILURE, "alarm")
    assert "snaprotd status" in digest.do


def test_500_servers_that_fail_over_half_an_hour_and_recover_the_next_night_are_a_handful_of_messages() -> None:
    names = [f"s{number}" for number in range(500)]
    apart = timedelta(minutes=30) / 500
    night = [fails(name, apart * number) for number, name in enumerate(names)]
    next_night = [succeeds(name, DAY + apart * number) for number, name in enumerate(names)]
    messages = lived(*night, *next_night, until=DAY + 2 * HOUR)[1]
    assert 4 <= len(messages) <= 14
    failed = [one.text for one in messages if one.kind is Kind.FAILURE and not one.text.startswith("still")]
    assert sum(int(text.split()[0]) if " servers: " in text else 1 for text in failed) == 500


def test_one_cause_is_told_once_with_the_number_of_its_servers_and_so_is_its_end() -> None:
    refused = [fails(name, MINUTE * number, cause="token") for number, name in enumerate("abcdef", start=2)]
    all_of_it = fails("", cause="token", text="the token is refused", rotation="")
    story = [all_of_it, *refused, *(succeeds(name, 2 * HOUR + MINUTE * n) for n, name in enumerate("abcdef"))]
    by_itself = replace(succeeds("", 90 * MINUTE), cause="token", text="the token is accepted")
    first, last = words(*story, by_itself, until=4 * HOUR)
    assert first == "failure: the token is refused"
    assert last.startswith("recovery: over after ")
    assert ": the token is refused; it concerned 6 servers: a, b, c, d, e, f; still without a success: all" in last


def whole(cause: str, at: timedelta = timedelta(0), **more: object) -> Event:
    """Of no one server, as a look finds it."""
    return event(Kind.FAILURE, "", at, cause=cause, text=f"{cause} fails", rotation="", **more)


def works(cause: str, at: timedelta) -> Event:
    return replace(succeeds("", at), cause=cause, rotation="")


def test_the_end_of_a_cause_is_told_at_once_whatever_becomes_of_the_servers_that_it_has_hit() -> None:
    hit = [fails(name, 2 * MINUTE, cause="token") for name in "abcdefghijklm"]
    told, (_, end) = lived(whole("token"), *hit, works("token", HOUR), until=HOUR + 2 * MINUTE)
    assert end.text.startswith(
        "over after 60 min: token fails; it concerned 13 servers: a, b, c, d, e, f, g, h, i, j and 3"
    )
    assert not told.is_well()
    made_good = [succeeds(one, 20 * HOUR) for one in "abcdefghijklm"]
    told, messages = lived(*made_good, told=told, begins=2 * HOUR, until=DAY)
    assert (told.is_well(), messages) == (True, []), "its end was told already"


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ([], ["failure: still, after 25 h: a: failure it is"]),
        ([succeeds("a", 2 * HOUR)], []),
        ([fails("a", 2 * HOUR)], ["failure: a: failure it is"]),
        ([fails("a", 2 * HOUR, cause="token")], ["failure: failure it is; it concerns a"]),
        ([whole("token", 2 * HOUR)], ["failure: token fails"]),
        (
            [fails("a", 2 * HOUR), succeeds("a", 4 * HOUR)],
            ["failure: a: failure it is", "recovery: a: its rotation has succeeded (after 4 h)"],
        ),
    ],
    ids=["is reminded of", "succeeds", "fails by itself", "has the cause again", "the cause is back", "its own end"],
)
def test_a_server_that_a_cause_has_hit_has_its_own_messages_after_it(later: list[Event], expected: list[str]) -> None:
    story = [whole("token"), fails("a", cause="token"), works("token", HOUR), *later]
    until = 20 * HOUR if later else 26 * HOUR
    assert words(*story, until=until)[2:] == expected


def test_a_cause_that_becomes_another_is_told_as_that_and_ends_once() -> None:
    story = [
        *(whole("token"), fails("a", MINUTE, cause="token")),
        *(whole("api", HOUR, patience=10 * MINUTE), fails("b", HOUR, cause="api")),
        fails("c", 2 * HOUR, cause="api"),
    ]
    assert words(*story, until=6 * HOUR) == ["failure: token fails; it concerns a", "failure: api fails; it concerns b"]
    *_, end = words(*story, works("api", 3 * HOUR), until=6 * HOUR)
    assert end == (
        "recovery: over after 3 h: api fails; it concerned 3 servers: a, b, c; still without a success: all of them"
    )


def test_a_cause_that_changes_to_and_fro_is_told_more_and_more_rarely() -> None:
    flapping = [whole(("token", "api")[number % 2], MINUTE * number * 2) for number in range(12 * 30)]
    messages = words(*flapping, until=12 * HOUR)
    assert 5 <= len(messages) <= 18
    assert all(one.startswith("failure: ") for one in messages)


def apart(told: Told, at: timedelta, *, paused: str = "", left: str = "", at_work: str = "ab") -> Told:
    named = {key: {of(name).id for name in names} for key, names in (("paused", paused), ("left", left))}
    return set_apart(told, START + at, **named, at_work={of(name).id for name in at_work} - named["left"])


@pytest.mark.parametrize("how", ["paused", "left"])
def test_nobody_waits_for_the_success_of_a_server_that_is_paused_or_taken_out_and_its_own_is_told(how: str) -> None:
    told, _ = lived(fails("a", cause="token"), fails("b", cause="token"), succeeds("a", HOUR), until=2 * HOUR)
    assert lived(told=told, begins=2 * HOUR, until=3 * HOUR)[1] == [], "there is none to wait for"
    told, messages = lived(told=apart(told, 2 * HOUR, **{how: "b"}), begins=2 * HOUR, until=3 * HOUR)
    (end,) = [one for one in messages if one.kind is Kind.RECOVERY]
    assert end.text.endswith("it concerned 1 server: a")
    told, messages = lived(fails("c", 4 * HOUR, cause="token"), told=told, begins=3 * HOUR, until=5 * HOUR)
    assert [one.text for one in messages] == ["failure it is; it concerns c"], "that of b is its own by now"
    _, (end,) = lived(succeeds("b", 6 * HOUR), told=apart(told, 6 * HOUR), begins=6 * HOUR, until=7 * HOUR)
    assert end.text == "b: its rotation has succeeded (after 6 h)"


def test_a_digest_counts_servers_and_not_messages() -> None:
    gone = [event(Kind.VANISHED, "a", MINUTE * number / 10) for number in range(5)]
    (digest,) = lived(*gone)[1]
    assert digest.text.startswith("5 messages in one, of 1 server: a. The first: a: vanished it is")
    (digest,) = lived(*gone, event(Kind.VANISHED, "b"))[1]
    assert digest.text.startswith("6 messages in one, of 2 servers: a, b. The first: ")


def test_a_server_that_has_had_a_cause_twice_is_counted_once() -> None:
    twice = [
        one(name, at * MINUTE, cause="token") for name in "ab" for one, at in ((fails, 1), (succeeds, 5), (fails, 9))
    ]
    *_, end = words(whole("token"), *twice, works("token", 30 * MINUTE))
    assert "it concerned 2 servers: a, b; still" in end


def test_the_end_of_a_cause_is_not_told_while_one_server_still_has_it() -> None:
    events = [*(fails(name, cause="api") for name in "abcd"), *(succeeds(name, HOUR) for name in "abc")]
    told, (first,) = lived(*events, until=3 * HOUR)
    assert "it concerns 4 servers: a, b, c, d" in first.text
    assert not told.is_well()
    _, (end,) = lived(succeeds("d", 4 * HOUR), told=told, begins=4 * HOUR, until=5 * HOUR)
    assert end.kind is Kind.RECOVERY


def test_the_reminder_of_a_cause_is_one_with_those_that_came_to_it_later() -> None:
    events = [fails(name, HOUR * number, cause="api") for number, name in enumerate("abcdef")]
    messages = lived(*events, until=2 * DAY)[1]
    assert ["still" in one.text for one in messages] == [False, True]
    assert "6 servers" in messages[1].text


def test_what_must_last_to_be_worth_a_message_is_told_after_that_and_not_before() -> None:
    away = fails("", cause="api", patience=10 * MINUTE, rotation="")
    assert words(away, until=10 * MINUTE) == []
    assert words(away, until=15 * MINUTE) == ["failure: failure it is"]
    assert words(away, replace(succeeds("", 5 * MINUTE), cause="api")) == []


def test_what_a_look_no_longer_shows_is_over() -> None:
    off = event(Kind.HELD_OFF, "a", rotation="")
    told = levelled(Told(), Kind.HELD_OFF, [off], START)
    told, (first,) = messages_due(told, START + 2 * MINUTE)
    assert levelled(told, Kind.HELD_OFF, [off], START + HOUR) == told
    told, (last,) = messages_due(levelled(told, Kind.HELD_OFF, [], START + HOUR), START + 2 * HOUR)
    assert (first.kind, last.kind, told.is_well()) == (Kind.HELD_OFF, Kind.RECOVERY, True)


def test_what_is_over_and_begins_once_more_at_once_is_told_in_that_order() -> None:
    off = event(Kind.HELD_OFF, "a", rotation="")
    told, _ = messages_due(levelled(Told(), Kind.HELD_OFF, [off], START), START + 2 * MINUTE)
    told = levelled(told, Kind.HELD_OFF, [], START + HOUR)
    told = levelled(told, Kind.HELD_OFF, [event(Kind.HELD_OFF, "a", HOUR, rotation="")], START + HOUR)
    assert [one.kind for one in messages_due(told, START + HOUR + 2 * MINUTE)[1]] == [Kind.RECOVERY, Kind.HELD_OFF]


def test_a_look_at_the_whole_ends_no_servers_own_failure() -> None:
    told = noted(Told(), fails("a"), START)
    assert not levelled(told, Kind.FAILURE, [], START).is_well()


def test_what_was_told_before_a_restart_is_not_told_again_and_its_end_is() -> None:
    told = known_before(Told(), fails("a"))
    told, messages = lived(fails("a", HOUR), told=told, until=2 * HOUR)
    assert messages == []
    _, (end,) = lived(succeeds("a", 3 * HOUR), told=told, begins=3 * HOUR, until=4 * HOUR)
    assert end.kind is Kind.RECOVERY


def test_what_has_vanished_is_kept_for_whoever_is_told_within_a_day_and_ends_are_not() -> None:
    told = noted(noted(known_before(Told(), fails("a")), succeeds("a"), START), event(Kind.VANISHED, "a"), START)
    _, messages = lived(told=kept_for_anybody(told, START + DAY - HOUR), begins=DAY, until=DAY + HOUR)
    assert [one.kind for one in messages] == [Kind.VANISHED]
    assert lived(told=kept_for_anybody(told, START + DAY), begins=DAY, until=DAY + HOUR)[1] == []


def test_that_a_failing_server_is_taken_out_is_told_once_and_who_is_off_because_of_us_stays_so() -> None:
    told, _ = lived(fails("a"), fails("b"), event(Kind.HELD_OFF, "a", rotation=""), until=2 * MINUTE)
    told, (leaves,) = lived(told=apart(told, HOUR, left="a"), begins=HOUR, until=2 * HOUR)
    assert (leaves.kind, leaves.severity, leaves.server) == (Kind.FAILURE, "attention", of("a"))
    assert leaves.text == (
        "a: it is not looked after any more, and nothing more is told of it; what stands is: failure it is"
    )
    assert apart(told, 3 * HOUR, left="a") is told
    assert (told.is_well({"id-a"}), told.is_well({"id-b"})) == (False, False), "it is off"
    messages = lived(told=told, begins=DAY, until=DAY + HOUR)[1]
    assert sorted((one.kind, one.server and one.server.name) for one in messages) == [
        (Kind.FAILURE, "b"),
        (Kind.HELD_OFF, "a"),
    ]


def test_a_failing_server_that_is_put_back_is_reminded_of_and_has_its_end() -> None:
    told, _ = lived(fails("a"), until=2 * MINUTE)
    told, (_leaves,) = lived(told=apart(told, HOUR, left="a"), begins=HOUR, until=2 * DAY)
    assert told.is_well({"id-a"}), "a check of it has nothing to wait for"
    told, (still,) = lived(told=apart(told, 2 * DAY), begins=2 * DAY, until=2 * DAY + HOUR)
    assert still.text == "still, after 2 d: a: failure it is"
    _, (end,) = lived(succeeds("a", 3 * DAY - HOUR), told=told, begins=3 * DAY - HOUR, until=3 * DAY)
    assert end.text.startswith("a: its rotation has succeeded (after ")


def lost(name: str, at: timedelta = timedelta(0)) -> Event:
    return replace(fails(name, at), id=f"lost {name}", about="slots_lost", text="slots were lost", severity="attention")


TAKEN = frozenset({"slots_lost"})


def test_a_failure_and_slots_that_were_lost_have_each_an_end_of_their_own() -> None:
    told, begun = lived(lost("a"), fails("a", MINUTE * 10), until=HOUR)
    assert len(begun) == 2
    told, (failure,) = lived(succeeds("a", HOUR), told=told, begins=HOUR, until=2 * HOUR)
    assert failure.text == "a: its rotation has succeeded (after 50 min)", "it has not said that a snapshot was taken"
    told, ends = lived(succeeds("a", 2 * HOUR, also_ends=TAKEN), told=told, begins=2 * HOUR, until=3 * HOUR)
    assert [one.text for one in ends] == ["a: it is over: slots were lost (after 2 h)"]
    both = lived(lost("a"), fails("a"), succeeds("a", HOUR, also_ends=TAKEN), until=2 * HOUR)[1][2:]
    assert sorted(one.text.partition(" (")[0] for one in both) == [
        "a: it is over: slots were lost",
        "a: its rotation has succeeded",
    ]
    assert len({one.id for one in both}) == 2, "a receiver drops doubles"


def test_a_partial_rotation_ends_lost_slots_and_no_failure() -> None:
    told, messages = lived(lost("a"), fails("a", HOUR, also_ends=TAKEN, severity="attention"), until=2 * HOUR)
    assert [(one.kind, one.severity) for one in messages] == [
        (Kind.FAILURE, "attention"),
        (Kind.RECOVERY, "ok"),
        (Kind.FAILURE, "attention"),
    ]
    assert told.about("slots_lost") == {}
    assert told.fails("id-a")


def test_what_was_set_aside_and_a_failure_have_each_an_end_of_their_own() -> None:
    aside = replace(fails("a"), id="set aside a", about="set_aside", text="set aside")
    ends = lived(aside, fails("a"), succeeds("a", HOUR), until=2 * HOUR)[1][2:]
    assert sorted(one.text.partition(" (")[0] for one in ends) == [
        "a: it is over: set aside",
        "a: its rotation has succeeded",
    ]
    assert len({one.id for one in ends}) == 2


def drops(name: str, at: timedelta, **more: object) -> Event:
    return event(
        Kind.FAILURE, name, at, text="nobody finds it", rotation="", about="dropped", once=True, leaves=True, **more
    )


def test_that_a_failing_server_is_dropped_is_one_message_that_says_both_whatever_a_channel_has_chosen() -> None:
    blocked, lost = event(Kind.BLOCKED, "a"), replace(fails("a"), about="slots_lost", text="slots lost")
    told, _ = lived(blocked, lost, fails("b"), until=2 * MINUTE)
    told, (leaves,) = lived(drops("a", HOUR, severity="attention"), told=told, begins=HOUR, until=HOUR + 2 * MINUTE)
    assert leaves.text == "a: nobody finds it; what stands is: blocked it is; slots lost"
    assert (leaves.kind, leaves.kinds) == (Kind.FAILURE, frozenset({Kind.FAILURE, Kind.BLOCKED}))
    assert leaves.severity == "attention", "the alarm was told"
    told = set_apart(told, START + HOUR, paused=set(), left={"id-a"}, at_work={"id-b"}, dropped={"id-a"})
    assert [one.server for one in lived(told=told, begins=HOUR, until=2 * DAY)[1]] == [of("b")]
    told = noted(told, succeeds("b", 2 * DAY), START + 2 * DAY)
    assert any(
        one.text.startswith("still, after 2 d: a: ")
        for one in lived(told=apart(told, 2 * DAY), begins=2 * DAY, until=2 * DAY + HOUR)[1]
    )


def test_a_failure_that_was_not_told_when_its_server_is_dropped_is_told_by_that() -> None:
    untold = noted(noted(Told(), fails("a"), START), drops("a", timedelta(0), severity="attention"), START)
    assert noted(untold, drops("a", timedelta(0)), START) == untold, "told again it is one"
    (both,) = lived(told=untold)[1]
    assert (both.text, both.severity) == ("a: nobody finds it; what stands is: failure it is", "alarm")


def test_a_digest_goes_to_whoever_has_chosen_anything_in_it() -> None:
    told, _ = lived(*(event(Kind.BLOCKED, name) for name in "ab"), until=2 * MINUTE)
    (digest,) = lived(*(drops(name, HOUR) for name in "abcd"), told=told, begins=HOUR, until=2 * HOUR)[1]
    assert digest.kinds == {Kind.FAILURE, Kind.BLOCKED}


def test_those_that_are_taken_out_are_in_no_digest_of_what_a_channel_may_not_have_chosen() -> None:
    told, _ = lived(fails("a"), fails("b"), until=2 * MINUTE)
    told = apart(told, HOUR, left="ab")
    gone = [event(Kind.VANISHED, name, HOUR) for name in "cdef"]
    messages = lived(*gone, told=told, begins=HOUR, until=2 * HOUR)[1]
    assert [one.kind for one in messages] == [Kind.FAILURE, Kind.FAILURE, Kind.VANISHED]


def test_what_stands_of_a_server_that_was_taken_out_is_not_kept_for_ever() -> None:
    told, _ = lived(fails("a"), until=2 * MINUTE)
    told = apart(told, HOUR, left="a")
    assert apart(told, HOUR + KEPT_OF_LEFT, at_work="b").troubles
    assert not apart(told, HOUR + KEPT_OF_LEFT + MINUTE, at_work="b").troubles


def test_a_server_that_has_another_id_has_its_end() -> None:
    told, _ = lived(fails("a"), event(Kind.HELD_OFF, "a", rotation=""), until=2 * MINUTE)
    told = renamed(told, lambda one: f"{one}-now" if one == "id-a" else one)
    success = replace(succeeds("a", HOUR), server=Who(id="id-a-now", name="a"))
    told, (end,) = lived(success, told=told, begins=HOUR, until=2 * HOUR)
    assert (end.kind, [one.event.kind for one in told.troubles.values()]) == (Kind.RECOVERY, [Kind.HELD_OFF])


def test_a_clock_that_was_set_back_a_year_keeps_no_change_waiting() -> None:
    told, _ = lived(fails("", cause="token"), until=2 * MINUTE)
    told = noted(told, fails("", 2 * MINUTE, cause="api"), START + 2 * MINUTE)
    back = START - 365 * DAY
    told, messages = messages_due(told, back)
    for minutes in range(1, 90):
        told, more = messages_due(told, back + minutes * MINUTE)
        messages += more
    assert len(messages) == 1


def test_a_clock_that_was_set_back_a_year_keeps_no_message_waiting() -> None:
    told = noted(Told(), fails("a"), START + 365 * DAY)
    assert [one.text for one in lived(told=told, until=HOUR)[1]] == ["a: failure it is"]
    ended = noted(known_before(Told(), fails("a")), succeeds("a"), START + 365 * DAY)
    assert [one.kind for one in lived(told=ended, until=HOUR)[1]] == [Kind.RECOVERY]


def test_the_same_events_have_the_same_ids_whoever_tells_them_and_each_telling_has_its_own() -> None:
    story = [fails("a"), *map(fails, "bcdef"), fails("x", cause="api"), succeeds("a", 30 * HOUR)]
    ids = [one.id for one in lived(*story, until=2 * DAY)[1]]
    assert ids == [one.id for one in lived(*story, until=2 * DAY)[1]]
    assert len(set(ids)) == len(ids) >= 5


def test_a_check_of_several_servers_is_well_only_while_all_of_them_are() -> None:
    told = noted(Told(), fails("b"), START)
    assert not told.is_well()
    assert (told.is_well({"id-a"}), told.is_well({"id-a", "id-b"})) == (True, False)
    assert not noted(Told(), fails("", cause="api"), START).is_well({"id-a"})
    assert ping_of(succeeds("a"), is_well=False) is None
    well, bad = ping_of(succeeds("a"), is_well=True), ping_of(fails("a"), is_well=True)
    assert well is not None
    assert bad is not None
    assert (well.kind, well.rotation, bad.kind, bad.text) == (Kind.RECOVERY, "r", Kind.FAILURE, "a: failure it is")
    assert ping_of(succeeds("a", rotation=""), is_well=True) is None, "no rotation has succeeded"


def test_what_was_over_before_anybody_could_tell_it_is_told_all_the_same() -> None:
    told = noted(noted(Told(), fails("web"), START), succeeds("web", 9 * MINUTE), START + 9 * MINUTE)
    _, messages = messages_due(told, START + DAY)
    assert [one.kind for one in messages] == [Kind.FAILURE, Kind.RECOVERY]
    (live, *_) = lived(fails("web"))[1]
    assert messages[0].id == live.id  # it may have been sent before a crash
