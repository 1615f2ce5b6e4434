"""The power of a server, as far as we have touched it: what we asked of it, what was seen since, and what is owed.

Each function here is a transition: it takes the record and what happened, and answers with the next record. What is
promised must be on disk before the request that it is about goes out; that is for who carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from snaprotd.core.model import Server

SETTLE_MARGIN = 1.25
"""How much longer than `settle` we look before we believe that a lost request came to nothing: a snapshot that
was made at the very end of it still needs a moment to be listed."""

START_BACKOFF_CAP = 300.0
"""Seconds between two start requests at the most. There is no last one."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """What is remembered of one server's power while we hold it off, or may be about to. Ages are in seconds."""

    held_off: bool = False
    """The promise: we have asked this server to stop, or are about to, so we must see it running again."""
    held_off_since: datetime | None = None
    """When that promise was made, by the wall clock: for people, and never for a decision."""
    stop_acknowledged: bool = False
    """A stop has been acknowledged, and may not have been carried out yet."""
    hard_stop: bool = False
    """The stop timed out, and the policy's harder one has been asked for."""
    stop_timed_out: bool = False
    """The server did not switch off in time, and may yet."""
    power_open: float | None = None
    """Age of the last stop or start that may yet be carried out; None where none may."""
    starts: int = 0
    """Start requests sent."""
    start_age: float = 0.0
    """Age of the last of them."""
    went_off: bool = False
    """It was seen not to be running, after we had asked for that."""
    came_back: bool = False
    """It was seen running again since then, and is only watched."""
    went_off_at: datetime | None = None
    """When that was first seen, by the wall clock: for people, and never for a decision."""
    off_for: float = 0.0
    """Length of the time in which it was seen off because of us, until it was seen running."""
    missing_for: float | None = None
    """Age of the first answer that there is no such server, since it was last seen; None where there was none."""

    @property
    def is_off_because_of_us(self) -> bool:
        """As last seen."""
        return self.held_off and self.went_off and not self.came_back

    def is_unsettled(self, *, settle: float, start_timeout: float) -> bool:
        """A stop or start may still strike: watch the server. Both times are in seconds.

        A stop that the provider acknowledged, and has not carried out yet, is given longer than a lost one.
        """
        patience = settle * SETTLE_MARGIN
        if self.stop_timed_out or self.stop_acknowledged:
            patience = max(patience, start_timeout)
        return self.power_open is not None and self.power_open < patience

    def may_be_asked_to_start(self, poll_interval: float) -> bool:
        """The last start request is old enough for another: each waits twice as long as the one before it."""
        backoff = min(poll_interval * 2.0 ** min(self.starts, 30), START_BACKOFF_CAP)
        return not self.starts or self.start_age >= backoff


def aged(power: Power, seconds: float) -> Power:
    """After `seconds` more of a monotonic clock."""
    return replace(
        power,
        start_age=power.start_age + seconds,
        off_for=power.off_for + seconds if power.is_off_because_of_us else power.off_for,
        power_open=None if power.power_open is None else power.power_open + seconds,
        missing_for=None if power.missing_for is None else power.missing_for + seconds,
    )


# -- a stop ------------------------------------------------------------------------------------------------------------


def promised(power: Power, now: datetime) -> Power:
    """A stop is about to be asked for. What an earlier process has seen of the server counts no more."""
    return replace(
        power,
        held_off=True,
        held_off_since=now,
        power_open=0.0,
        went_off=False,
        went_off_at=None,
        came_back=False,
    )


def promised_harder(power: Power, now: datetime) -> Power:
    """The hard stop is about to be asked for, after one that did not strike in time."""
    return replace(power, held_off=True, held_off_since=power.held_off_since or now, hard_stop=True, power_open=0.0)


def acknowledged(power: Power) -> Power:
    """The provider has taken a stop, and may carry it out any time from now on."""
    return replace(power, stop_acknowledged=True)


def lost(power: Power) -> Power:
    """The answer to a stop or start was lost: it may have been carried out, or may yet be."""
    return replace(power, power_open=0.0)


def not_now(power: Power, *, owed: bool) -> Power:
    """The stop was not carried out, and may be asked for again. The promise stays: what keeps the server busy may be a
    stop of ours that was sent twice on its way. `owed`: an earlier one may have been carried out, or may yet be."""
    return power if owed else replace(power, power_open=None)


def refused(power: Power, *, owed: bool) -> Power:
    """The stop was certainly not carried out. `owed`: an earlier one may have been, or may yet be."""
    return power if owed else replace(power, held_off=False, held_off_since=None, power_open=None)


def hard_stop_undone(power: Power) -> Power:
    """The hard stop was certainly not carried out, and may be asked for again."""
    return replace(power, hard_stop=False)


def timed_out(power: Power) -> Power:
    """The stop did not strike in time. It may strike after we have turned away, so it is open anew."""
    return replace(power, power_open=0.0, stop_timed_out=True) if power.held_off else power


# -- what is seen ------------------------------------------------------------------------------------------------------


def seen(power: Power, server: Server, now: datetime) -> Power:
    """A look at the server: it is off, or on its way, after we had asked for that; or it runs again."""
    after = replace(power, missing_for=None)
    if power.held_off and not server.is_active:
        after = replace(after, went_off=True, came_back=False, went_off_at=power.went_off_at or now)
    elif power.went_off and not power.came_back:
        after = replace(after, came_back=True, off_for=_off_for(power, now))
    if server.is_stopped and power.stop_acknowledged and not power.hard_stop:
        # The stop that was acknowledged has struck, and no other is under way. Of two, one still may be.
        return replace(after, stop_acknowledged=False, power_open=None)
    return after


def missing(power: Power) -> Power:
    """The provider says that there is no such server. How long it has said so counts from the first time."""
    return power if power.missing_for is not None else replace(power, missing_for=0.0)


def _off_for(power: Power, now: datetime) -> float:
    """With the seconds in which no process was there to count them."""
    return power.off_for if power.went_off_at is None else max(power.off_for, (now - power.went_off_at).total_seconds())


# -- a start -----------------------------------------------------------------------------------------------------------


def start_promised(power: Power) -> Power:
    """A start is about to be asked for."""
    return replace(power, starts=power.starts + 1, start_age=0.0, power_open=0.0)


def start_answered(power: Power, still_open: float | None) -> Power:
    """The start was taken, or refused: what was open before it (`still_open`, an age) is open still."""
    return replace(power, power_open=still_open)


def released(power: Power) -> Power:
    """The server was seen running at a time when no request of ours can strike any more."""
    return replace(power, held_off=False, stop_acknowledged=False, power_open=None)


def given_up(power: Power) -> Power:
    """There is no server any more that could be started."""
    return replace(power, held_off=False)
