"""What is kept with a server: its power, and what it takes to pay its start without any configuration.

How two such records are one, and what one of them is worth after a time in which no process counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from snaprotd.core.asking.settling import settled_after
from snaprotd.core.errors import SnaprotdError
from snaprotd.core.model import is_one_server
from snaprotd.core.power import Power, aged

UNACCOUNTED = 300.0
"""Seconds without a process after which it is asked whether the record of a stop is of an old copy of the ledger."""

CLOCKS_ARE_SET = 300.0
"""Seconds of a time that no process has counted which are not believed: the wall clock may have been set meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is needed to pay a start without any configuration; kept beside the promise. Never the token itself."""

    base_url: str = ""
    token_file: str = ""
    """Empty where the token comes from the environment."""
    request_timeout: float = 30.0
    settle: float = 120.0
    stop_timeout: float = 300.0
    start_timeout: float = 600.0
    poll_interval: float = 15.0
    instance: str = ""
    """Whose snapshots of the server are ours; empty where a record does not say."""
    group: str = ""
    """The group of servers of which no other may be stopped meanwhile; empty for none."""


@dataclass(frozen=True, kw_only=True)
class ServerPower:
    """The power of one server of an account, as the ledger keeps it."""

    account: str
    server_id: str
    label: str
    power: Power
    terms: Terms = field(default_factory=Terms)
    let_go: str = ""
    """Who let go of a start that was owed, when and why; empty where nobody has."""
    also: tuple[str, ...] = ()
    """Every other id that the server was ever known by."""

    @property
    def ids(self) -> frozenset[str]:
        return frozenset({self.server_id, *self.also})

    def known_by(self, ids: Iterable[str]) -> ServerPower:
        """The same, of a server that has these ids too."""
        return replace(self, also=tuple(sorted({*self.also, *ids} - {self.server_id})))

    def may_strike(self) -> bool:
        """A request of ours may still change the server's power.

        A stop that was seen to strike is over, and only what was sent twice on its way may follow within `settle`. One
        that was not may strike for as long as the server may take for anything, counted from its time-out.
        """
        power, settled = self.power, settled_after(self.terms.settle)
        late = power.stop_age if power.unstruck else None
        return (power.request_age is not None and power.request_age < settled) or (
            late is not None and late < 2 * self.terms.stop_timeout + self.terms.start_timeout + settled
        )

    def lets_go_of(self, owing: Power) -> bool:
        """Whether the start that is owed by `owing` was let go of, as this record has it."""
        known = self.power
        return not known.is_followed and known.released >= owing.asked and not is_later(owing, known)


class Overtaken(SnaprotdError):
    """A stop was to be promised, and somebody has numbered another meanwhile, or let go of one: nothing was saved.

    What is done about that one, under the same number, would seem to be done about this one too.
    """

    def __init__(self, known: Power) -> None:
        """`known`: what is kept of the server now."""
        super().__init__("somebody else has written what is owed to the server meanwhile")
        self.known = known


def goes_beyond(one: Power, than: Power) -> bool:
    """Whether the one tells of a later stop, or that one was paid, or let go, of which the other does not know that."""
    return one.asked > than.asked or one.released > than.released


def merged(one: Power, other: Power) -> Power:
    """Two records of one server: the later stop counts, and what was paid for stays paid.

    Which of two tells more of the same stop does not go by what an earlier one was paid: who learns of that late has
    not seen more of this one.
    """
    later = other if (other.asked, not other.held_off) > (one.asked, not one.held_off) else one
    doubted = any(known.in_doubt for known in (one, other) if known.asked == later.asked)
    return replace(later, released=max(one.released, other.released), in_doubt=doubted)


def joined(known: Power, other: Power) -> Power:
    """As `merged`, where the two may have been numbered apart: by the clock, too, the later stop counts.

    A ledger that was lost counts from one again, and an old copy of it may have been put back since.
    """
    if other.held_off and other.asked <= known.asked and is_later(other, known):
        return inherited(known, other)
    return merged(known, other)


def as_one(records: Iterable[ServerPower]) -> list[ServerPower]:
    """The records, one of each server: there is one under each id that it was called by when something was promised."""
    found: dict[int, ServerPower] = {}
    having: dict[tuple[str, str], list[int]] = {}
    for number, record in enumerate(records):
        near = {at for one in record.ids for at in having.get((record.account, one), ())}
        for at in sorted(near & found.keys()):
            if is_one_server(found[at].ids, record.ids):
                record = _of_one(found.pop(at), record)
        found[number] = record
        for one in record.ids:
            having.setdefault((record.account, one), []).append(number)
    return list(found.values())


def _of_one(one: ServerPower, other: ServerPower) -> ServerPower:
    later = one if (one.power.asked, one.power.released) > (other.power.asked, other.power.released) else other
    both = replace(later, power=joined(one.power, other.power), let_go=one.let_go or other.let_go)
    return both.known_by(one.ids | other.ids)


def is_later(one: Power, than: Power) -> bool:
    """Whether the last stop of one record was promised after that of the other; not where either does not say when."""
    return (
        one.held_off_since is not None and than.held_off_since is not None and one.held_off_since > than.held_off_since
    )


def inherited(known: Power, owed: Power) -> Power:
    """What another ledger owes, owed from now on by the one that knows `known`: the numbers of its stops go on."""
    return replace(owed, asked=max(known.asked, known.released) + 1, released=known.released)


def suspected(power: Power, since: datetime) -> Power:
    """The server is off, and may be so because of a stop of ours that is in no record: a person is asked."""
    asked = max(power.asked, power.released) + 1
    return replace(
        power, asked=asked, held_off_since=since, went_off=True, went_off_at=since, came_back=False, in_doubt=True
    )


def is_unaccounted_for(power: Power, now: datetime) -> bool:
    """Since the stop more time has passed than processes have counted: nobody knows what was done meanwhile."""
    if power.held_off_since is None or power.stop_age is None:
        return False
    return (now - power.held_off_since).total_seconds() - power.stop_age > UNACCOUNTED


def taken_up(power: Power, now: datetime, *, settle: float) -> Power:
    """The record as it is when it is read: what was seen to run has aged while no process counted. `settle` in seconds.

    What is owed has not: the less time it seems to have taken, the longer a late stop is waited for. What ran, and was
    then seen by nobody for longer than a request of ours may be late, is `unwatched`: looks before that prove nothing.
    """
    if power.is_owed or power.running_for is None or power.running_since is None:
        return power
    alone = (now - power.running_since).total_seconds() - power.running_for
    if alone <= 0:
        return power
    older = aged(power, max(alone - CLOCKS_ARE_SET, 0.0))
    if not power.held_off or alone < settled_after(settle) or older.may_have_struck:
        return older
    return replace(older, unwatched=True, running_for=None)
