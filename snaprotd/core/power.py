"""The power of a server, as far as we have touched it: what we asked of it, what was seen since, and what is owed.

The promise to start a server lives with the server, not with a rotation: whoever stopped it last owes the start. Each
function here is a transition: it takes the record and what happened, and answers with the next record. What is promised
must be on disk before the request that it is about goes out; that is for who carries it out.

Nothing ends a promise but two looks at a running server, a poll apart, when no request of ours can strike any more. One
look proves nothing, for a read may be stale; nor does an error answer, for a proxy may have sent a request twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from snaprotd.core.asking.settling import settled_after
from snaprotd.core.errors import LONGEST_PAUSE_WHILE_OFF
from snaprotd.core.model import Server

START_BACKOFF_CAP = 300.0
"""Seconds between two start requests at the most. There is no last one."""

UNSTRUCK_FOR = 86400.0
"""Seconds for which a server that is found off was switched off by our stop, where that was never seen to strike."""

GONE_FOR = 30 * 86400.0
"""Seconds for which a server that was gone while it was off because of us is started if it comes back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """What is remembered of one server's power. Ages are in seconds, and None where there was no such thing."""

    asked: int = 0
    """The number of our last stop: each one that is promised has the next."""
    released: int = 0
    """The highest number whose start was paid, or let go."""
    whose: str = ""
    """The e-mail of the account in which that stop was promised; empty where it could not be told."""
    held_off_since: datetime | None = None
    """When that stop was promised, by the clock or counted back: for people, and to tell an old copy of the ledger."""
    stop_acknowledged: bool = False
    """A stop has been acknowledged, and may not have been carried out yet."""
    hard_stop: bool = False
    """The stop timed out, and the policy's harder one has been asked for."""
    stop_timed_out: bool = False
    """The server did not switch off in time, and may yet."""
    power_open: float | None = None
    """Age of the last stop while it may yet be carried out; None where it may be asked for again."""
    request_age: float | None = None
    """Age of our last power request, of any kind."""
    stop_age: float | None = None
    """Age of our last stop."""
    starts: int = 0
    """Start requests sent."""
    start_age: float = 0.0
    """Age of the last of them."""
    went_off: bool = False
    """It was seen not to be running, after we had asked for that: the stop has struck."""
    unstruck: bool = False
    """A stop was sent, and has not been seen to strike."""
    earlier_age: float | None = None
    """Age of a stop before the last one that has not been seen to strike either: the next may strike before it."""
    waited_out: bool = False
    """The server was seen running at a time when that stop was no longer waited for."""
    came_back: bool = False
    """It was seen running again since then, once at least."""
    running_for: float | None = None
    """Age of the first of the looks, without a break, that showed it running; none of our requests came since."""
    running_since: datetime | None = None
    """When that was, by the wall clock as of the last look."""
    watched: bool = False
    """It was seen running in two looks a poll apart, and is only watched: nobody waits for it any more."""
    unwatched: bool = False
    """Then no process saw it for longer than a request of ours may take: if it is off, who knows by whom."""
    missing_for: float | None = None
    """Age of the first of the answers, without a break, that there is no such server."""
    gone_for: float | None = None
    """How long ago its start was given up because there was no such server; our stop is still the last word."""
    went_off_at: datetime | None = None
    """When it was first seen off, by the wall clock: for people, and never for a decision."""
    off_for: float = 0.0
    """Length of the time in which it was seen off because of us, until it was seen running."""
    in_doubt: bool = False
    """The server may be off by somebody's wish since, as far as this ledger can tell: a person is asked."""

    @property
    def held_off(self) -> bool:
        """The promise: we have asked this server to stop, or are about to, and it must be seen running again."""
        return self.asked > self.released

    @property
    def is_owed(self) -> bool:
        """A start is owed, as far as was seen: the promise stands, and the server is not only watched."""
        return self.held_off and not self.watched

    @property
    def is_payable(self) -> bool:
        """The start that is owed is to be made: nothing speaks against it."""
        return self.is_owed and not self.in_doubt

    @property
    def is_looked_for(self) -> bool:
        """Somebody is to look at the server: to start it, or to see whether it is gone."""
        return self.is_payable or (self.is_owed and self.missing_for is not None)

    @property
    def awaits_stop(self) -> bool:
        """A stop was sent, was not seen to strike, and is waited for."""
        return self.held_off and self.unstruck and not self.waited_out

    @property
    def is_off_because_of_us(self) -> bool:
        """As last seen."""
        return self.held_off and self.went_off and not self.came_back

    @property
    def is_followed(self) -> bool:
        """It is still looked after: something is owed or watched, or may turn out to be."""
        return self.held_off or self.may_have_struck or (self.gone_for is not None and self.gone_for < GONE_FOR)

    @property
    def may_have_struck(self) -> bool:
        """An old stop that was not seen to strike: if the server is off, it was that one."""
        return (self.unstruck and _may_yet(self.stop_age)) or _may_yet(self.earlier_age)

    def stop_is_open(self, *, settle: float, start_timeout: float) -> bool:
        """The last stop was not seen to strike, and may yet: no other is sent, and who asked for it waits for it.

        Both times are in seconds. One that the provider acknowledged is given longer than a lost one.
        """
        patience = settled_after(settle)
        if self.stop_timed_out or self.stop_acknowledged:
            patience = max(patience, start_timeout)
        return self.unstruck and self.power_open is not None and self.power_open < patience

    def may_be_asked_to_start(self, poll_interval: float) -> bool:
        """The last start request is old enough for another: each waits twice as long as the one before it.

        At the limit it is one look before it, for the next one may come a little later.
        """
        to_next_look = min(poll_interval, LONGEST_PAUSE_WHILE_OFF)
        backoff = min(poll_interval * 2.0 ** min(self.starts, 30), START_BACKOFF_CAP - to_next_look)
        return not self.starts or self.start_age >= backoff


def _may_yet(age: float | None) -> bool:
    """A stop of that age that was not seen to strike may still turn out to have struck."""
    return age is not None and age < UNSTRUCK_FOR


def aged(power: Power, seconds: float) -> Power:
    """After `seconds` more of a monotonic clock."""

    def older(age: float | None) -> float | None:
        return None if age is None else age + seconds

    return replace(
        power,
        start_age=power.start_age + seconds,
        off_for=power.off_for + seconds if power.is_off_because_of_us and not power.in_doubt else power.off_for,
        power_open=older(power.power_open),
        request_age=older(power.request_age),
        stop_age=older(power.stop_age),
        earlier_age=older(power.earlier_age),
        running_for=older(power.running_for),
        missing_for=older(power.missing_for),
        gone_for=older(power.gone_for),
    )


# -- a stop ------------------------------------------------------------------------------------------------------------


def promised(power: Power, now: datetime, *, whose: str = "") -> Power:
    """A stop is about to be asked for, in this account. What was seen of the server before counts no more."""
    return replace(
        _stop_promised(power),
        earlier_age=_earlier(power),
        asked=max(power.asked, power.released) + 1,
        whose=whose,
        held_off_since=now,
        stop_acknowledged=False,
        hard_stop=False,
        stop_timed_out=False,
        went_off=False,
        went_off_at=None,
        came_back=False,
        starts=0,
        off_for=0.0,
    )


def _earlier(power: Power) -> float | None:
    """Age of what may strike besides the stop that is promised now.

    One whose answer was lost too: the provider may have taken it, and who died before the answer cannot know.
    """
    age = power.stop_age if power.unstruck else power.earlier_age
    return age if _may_yet(age) else None


def promised_harder(power: Power, now: datetime) -> Power:
    """The hard stop is about to be asked for, after one that did not strike in time."""
    asked = power.asked if power.held_off else power.asked + 1
    return replace(_stop_promised(power), asked=asked, held_off_since=now, hard_stop=True)


def _stop_promised(power: Power) -> Power:
    return replace(_requested(power), power_open=0.0, stop_age=0.0, unstruck=True, waited_out=False, in_doubt=False)


def _requested(power: Power) -> Power:
    """Something is about to be asked of the server: looks before that prove nothing about it."""
    return replace(power, request_age=0.0, running_for=None, watched=False, unwatched=False, gone_for=None)


def acknowledged(power: Power) -> Power:
    """The provider has taken a stop, and may carry it out any time from now on."""
    return replace(power, stop_acknowledged=True)


def lost(power: Power) -> Power:
    """The answer to a stop was lost, or was an error: it may have been carried out, or may yet be."""
    return replace(power, power_open=0.0, request_age=0.0, stop_age=0.0)


def not_now(power: Power, *, owed: bool) -> Power:
    """The stop was answered that it is not carried out now, and may be asked for again. The promise stays.

    `owed`: an earlier one may have been carried out, or may yet be.
    """
    return power if owed else replace(power, power_open=None)


def not_sent(power: Power, *, owed: bool) -> Power:
    """The stop never left this machine. `owed`: an earlier one may have been carried out, or may yet be."""
    return power if owed else replace(power, released=power.asked, held_off_since=None, power_open=None, unstruck=False)


def timed_out(power: Power) -> Power:
    """The stop did not strike in time. It may strike after we have turned away, unless every answer was that it is not
    carried out now.
    """
    if not power.held_off:
        return power
    return replace(power, power_open=None if power.power_open is None else 0.0, stop_timed_out=True)


# -- what is seen ------------------------------------------------------------------------------------------------------


def seen(power: Power, server: Server, now: datetime, *, apart: float) -> Power:
    """A look at the server. `apart` is how many seconds two looks must lie apart to prove that it runs."""
    if server.is_active:
        return _seen_running(power, now, apart)
    after = replace(power, running_for=None, watched=False, missing_for=None)
    if not power.held_off and not (power.is_followed and server.is_stopped):
        return after  # off, or on its way, and not by us
    asked = power.asked if power.held_off else power.asked + 1  # our stop is the last word after all: it is owed again
    off = replace(
        after,
        asked=asked,
        held_off_since=power.held_off_since or now - timedelta(seconds=power.stop_age or 0.0),
        went_off=True,
        unstruck=power.unstruck and (power.hard_stop or not server.is_stopped),  # of two stops one may still strike
        earlier_age=power.earlier_age if power.held_off or power.unstruck else None,  # else it was that one
        came_back=False,
        went_off_at=power.went_off_at or now,
        gone_for=None,
    )
    return doubted(off) if power.unwatched and server.is_stopped else off


def _seen_running(power: Power, now: datetime, apart: float) -> Power:
    since = power.running_for or 0.0
    proven = power.running_for is not None and since >= apart
    after = replace(
        power,
        running_for=since,
        running_since=now - timedelta(seconds=since),
        watched=proven or power.watched,
        unwatched=power.unwatched and not proven,
        missing_for=None,
        gone_for=None if proven else power.gone_for,
    )
    if power.went_off and not power.came_back:
        return replace(after, came_back=True, off_for=_off_for(power, now))
    return after


def _off_for(power: Power, now: datetime) -> float:
    """With the seconds in which no process was there to count them."""
    if power.went_off_at is None or power.in_doubt:
        return power.off_for
    return max(power.off_for, (now - power.went_off_at).total_seconds())


def waited_out(power: Power) -> Power:
    """The server runs, and the stop that was not seen to strike is no longer waited for: it is only followed."""
    return replace(power, waited_out=True)


def missing(power: Power) -> Power:
    """The provider has said that there is no such server."""
    return replace(power, missing_for=power.missing_for or 0.0, running_for=None, watched=False)


# -- a start -----------------------------------------------------------------------------------------------------------


def start_promised(power: Power) -> Power:
    """A start is about to be asked for."""
    return replace(_requested(power), starts=power.starts + 1, start_age=0.0)


def start_put_off(power: Power) -> Power:
    """The start was not asked for after all, for the provider wants to be left alone: the next need not wait longer."""
    return replace(power, start_age=START_BACKOFF_CAP)


def doubted(power: Power) -> Power:
    """Something may have been done with the server that the ledger does not know: a person is asked.

    How long it has been off because of us, if at all, nobody knows either.
    """
    return replace(power, in_doubt=True, off_for=0.0)


def released(power: Power) -> Power:
    """The promise is kept, or let go: the server was seen running when no request of ours can strike any more."""
    return replace(
        power, released=power.asked, stop_acknowledged=False, power_open=None, in_doubt=False, unwatched=False
    )


def given_up(power: Power) -> Power:
    """A person has let go of the start, or of one that may turn out to be owed: no record of before is later."""
    return over(power if power.held_off else replace(power, asked=power.asked + 1))


def over(power: Power) -> Power:
    """Somebody has paid the start, or let go of it: nothing is watched. The next number is a promise's to come."""
    return replace(released(power), unstruck=False, earlier_age=None, gone_for=None)


def gone(power: Power) -> Power:
    """There is no server that could be started. If it comes back, its start is owed, or in doubt, as it was."""
    return replace(given_up(power), gone_for=0.0, in_doubt=power.in_doubt)
