"""What both models share: two replicas on one database, their leases, time, and what may befall them.

Time is counted in small whole steps, and only as far as it matters, so that the states are finitely many. Of the
counter in the row, of epochs and owners is kept only what they are asked for: whether the row is still the one that
was seen, and whether it is still held by who took it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.model.search import Step

REQUEST = 1
"""How long a request may take. All times are in steps of the model."""
LEASE = 2
MARGIN = 1
EVIDENCE = LEASE - REQUEST
"""How old a look, and what was saved after it, may be when the bytes of a request go out."""
NAMES = "AB"

NO_ROW, NOBODY = -2, -1
LOST = 9
"""The hold of a replica that stands in no row any more."""
UNKNOWN = -1

FREEZE, CUT, KILL, FAILOVER, UNCLEAR, LATE, FAST = (1 << bit for bit in range(7))
ALL_HARM = 2**7 - 1


@dataclass(frozen=True)
class Rules:
    """The rules that a model can switch off, one at a time; as they stand, all are kept."""

    settle: int = 4
    """No rule: how late a request may be carried out. By default longer than a lease."""
    observes: bool = True
    """1: who is taken over has left the row unchanged for a lease and a margin, by the observer's own clock."""
    compares: bool = True
    """1: it is taken over only if it is unchanged still."""
    has_margin: bool = True
    """1: and the margin outweighs a clock that is a little fast."""
    guards: bool = True
    """1: right before its bytes go out, a lease must be good for as long as a request may take."""
    is_fresh: bool = True
    """The same, for the look by which it is asked, and what was saved after it."""
    outlives: bool = True
    """3: a request is given up after `settle`, and a margin of lease less request."""
    waits: bool = True
    """5: who learns of a failover claims and takes over nothing for lease and settle."""
    notes: bool = True
    """5: the timeline stands in the database, so that who comes after a failover learns of it too."""
    asks_each_time: bool = True
    """5: it is read with each claim and take-over, and not with renewals only."""
    looks_anew: bool = True
    """5: what was observed under another timeline counts no more."""
    lapses: bool = True
    """5: a lease that has run out by its holder's own clock is not renewed under another timeline."""
    reasserts: bool = True
    """2: a renewal writes again what is promised."""
    saves_again: bool = True
    """5: what was saved under the old timeline is saved again before its request goes out."""
    is_sceptical: bool = True
    """8: a commit of unknown result counts as not written."""
    is_shared: bool = True
    """4: who finds the ledger in use, and who does not know, takes nothing that somebody may hold."""
    saves_first: bool = True
    """Promises are on disk before requests go out."""
    settles: bool = True
    """While the fate of a request is open none is sent, and no promise is let go."""
    insists: bool = True
    """6: who has lost its lease adds what it has promised."""
    merges: bool = True
    """6: records merge by maximum."""
    asks_who_lives: bool = True
    """6: nobody starts what a living rotation holds off."""
    looks_at_snapshots: bool = True
    """7: who cannot ask the database starts nothing of which a snapshot is in progress."""

    @property
    def observed(self) -> int:
        return LEASE + MARGIN * self.has_margin

    @property
    def longest(self) -> int:
        """After so long, by rule 3, a request is given up."""
        return self.settle + max(self.settle // 4, LEASE - REQUEST)

    @property
    def settled(self) -> int:
        return (self.longest if self.outlives else self.settle) if self.settles else 0

    @property
    def quiet(self) -> int:
        return LEASE + self.longest if self.waits else 0


class Version(NamedTuple):
    """The ledger after a commit: the row of one rotation, and what else is written with it."""

    hold: int
    """Who holds it, a number for each time that it was taken; or `NOBODY`, or `NO_ROW`."""
    until: int
    """What is left of the lease by the clock of who wrote it; of use only where the clocks are compared."""
    body: Any


class Replica(NamedTuple):
    is_up: bool = True
    is_cut: bool = False
    hold: int = NOBODY
    lease: int = 0
    """What is left of it by its own clock."""
    seen: int = UNKNOWN
    """The version that it saw last, if that may be there still: how many commits ago."""
    stood: int = 0
    """For how long, as far as it matters."""
    quiet: int = UNKNOWN
    """How long it still waits after a failover."""
    line: int = UNKNOWN
    """The timeline as of its last transaction."""
    memory: Any = None


class State(NamedTuple):
    versions: tuple[Version, ...]
    """The newest first; older ones as far as a failover may bring them back."""
    line: int
    is_noted: bool
    """The timeline stands in the database as it is."""
    replicas: tuple[Replica, ...]
    """Two."""
    spent: int
    """What has befallen them, each of it once."""
    world: Any


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a rotation is about: how it is remembered."""

    fresh: Any
    """The memory of a process that begins."""
    older: Callable[[Any], Any]
    """What is written, a step of time later."""
    remembered_older: Callable[[Any], Any]
    """A replica's memory, a step of time later."""
    world_older: Callable[[State], Any]
    taken: Callable[[Any, Any], Any]
    """The memory of who takes over what is written."""
    lost: Callable[[Any], Any]
    """The memory of who has lost it."""
    told: Callable[[Any], Any]
    """The memory of who learns of another timeline."""
    renewed: Callable[[Any, Any], Any]
    """What a renewal leaves written: from that, and from memory."""
    is_over: Callable[[Any], bool]
    """Nothing is left to be done for the rotation that is written."""


@dataclass(frozen=True, kw_only=True)
class Model:
    rules: Rules
    work: Work
    harm: int = ALL_HARM
    """What may befall them."""
    most: int = 2
    """How much of it, at the most."""
    loses: int = 1
    """Commits that a failover may lose."""

    # -- the database ------------------------------------------------------------------------------------------------

    def may_befall(self, state: State, harm: int) -> bool:
        return bool(self.harm & harm & ~state.spent) and state.spent.bit_count() < self.most

    def written(self, state: State, body: Any, *, hold: int) -> State:
        """After a commit."""
        kept = self.loses if self.may_befall(state, FAILOVER) else 0
        versions = (Version(hold, 0 if self.rules.observes else LEASE, body), *state.versions[:kept])
        seen = [one.seen + 1 if 0 <= one.seen < len(versions) - 1 else UNKNOWN for one in state.replicas]
        replicas = tuple(one._replace(seen=its) for one, its in zip(state.replicas, seen, strict=True))
        return state._replace(versions=versions, replicas=replicas)

    def told(self, state: State, number: int, *, renews: bool = False) -> State:
        """As a transaction of this replica finds it, which tells the timeline."""
        one = state.replicas[number]
        if not (self.rules.asks_each_time or renews) or one.line == state.line:
            return state
        changed, has_run_out = one.line != UNKNOWN, one.hold != NOBODY and one.lease == 0
        is_new = not state.is_noted and (changed or self.rules.notes)
        quiet = (self.rules.quiet if is_new else 0) or UNKNOWN
        if changed and self.rules.looks_anew:
            one = one._replace(seen=UNKNOWN, stood=0)
        if changed and has_run_out and self.rules.lapses:
            one = self._let_go(one)
        memory = self.work.told(one.memory) if changed and self.rules.saves_again else one.memory
        return with_replica(state, number, one._replace(line=state.line, quiet=quiet, memory=memory))

    def may_begin(self, state: State, number: int) -> bool:
        """It may claim and take over, as far as it knows of failovers."""
        return state.is_noted or state.replicas[number].quiet == UNKNOWN

    @staticmethod
    def holds(state: State, number: int) -> bool:
        return state.replicas[number].hold == state.versions[0].hold

    def _let_go(self, one: Replica) -> Replica:
        return one._replace(hold=NOBODY, lease=0, memory=self.work.lost(one.memory))

    def let_go(self, state: State, number: int) -> State:
        return with_replica(state, number, self._let_go(state.replicas[number]))

    def saved(self, state: State, number: int, body: Any, memory: Any) -> State:
        """After a save of who holds it, which renews its lease."""
        after = self.written(state, body, hold=state.versions[0].hold)
        return with_replica(after, number, after.replicas[number]._replace(lease=LEASE, memory=memory))

    def taken(self, state: State, number: int, body: Any) -> State:
        """After a claim or a take-over."""
        hold = 1 + max(0, *(one.hold for one in state.versions))
        after = self.written(state, body, hold=hold)
        one = after.replicas[number]
        its = one._replace(hold=hold, lease=LEASE, memory=self.work.taken(body, one.memory))
        return with_replica(after, number, its)

    # -- what replicas do with leases ----------------------------------------------------------------------------------

    def leases(self, state: State, number: int) -> Iterator[Step[State]]:
        """What this replica may do that every work has."""
        one, name = state.replicas[number], NAMES[number]
        if not one.is_up or one.is_cut:
            return
        if one.hold != NOBODY:
            yield from self._renewals(state, number)
        elif not self.work.is_over(state.versions[0]):
            yield from self._take_overs(state, number)
        if one.quiet == 0:
            replicas = tuple(its._replace(quiet=UNKNOWN) for its in state.replicas)
            yield Step(f"{name} has waited, and notes the timeline", state._replace(is_noted=True, replicas=replicas))

    def _renewals(self, state: State, number: int) -> Iterator[Step[State]]:
        before, name = state.replicas[number], NAMES[number]
        state = self.told(state, number, renews=True)
        one = state.replicas[number]
        if not self.holds(state, number):
            after = state if one.hold == NOBODY else self.let_go(state, number)
            yield Step(f"{name} learns that it has lost the rotation", canonical(after))
        elif before.lease < LEASE or before.line != state.line:
            body = self.work.renewed(state.versions[0].body, one.memory)
            yield self.owned(f"{name} renews its lease", self.saved(state, number, body, one.memory))

    def _take_overs(self, state: State, number: int) -> Iterator[Step[State]]:
        after = self.told(state, number)
        row, its = state.versions[0], after.replicas[number]
        if self.may_begin(after, number) and self.is_abandoned(row, its, number):
            event = f"{NAMES[number]} takes over"
            yield self.owned(event, self.taken(after, number, row.body))
            if self.may_befall(state, UNCLEAR) and self.rules.is_sceptical:
                cut = self.taken(after, number, row.body)
                cut = with_replica(cut, number, its._replace(is_cut=True, seen=UNKNOWN))
                yield self.befallen(f"{event}, and hears nothing of the commit, which was done", cut, UNCLEAR)

    def is_abandoned(self, row: Version, one: Replica, number: int) -> bool:
        """Whether it is anybody's, as far as this replica can tell."""
        if row.hold == NOBODY or not self.rules.is_shared:
            return True
        if not self.rules.observes:  # the clock of the second one is ahead
            return row.until <= number
        return one.stood >= self.rules.observed and (one.seen == 0 or not self.rules.compares)

    def owned(self, event: str, after: State) -> Step[State]:
        one, other = after.replicas
        both = one.hold != NOBODY and other.hold != NOBODY and one.lease and other.lease
        return Step(event, canonical(after), broken="both replicas hold the rotation" if both else "")

    # -- what may befall them ------------------------------------------------------------------------------------------

    def harms(self, state: State) -> Iterator[Step[State]]:
        for number, one in enumerate(state.replicas):
            yield from self._harms_of(state, number, one)
        if self.may_befall(state, FAILOVER):
            for lost in range(min(self.loses, len(state.versions) - 1) + 1):
                seen = (0 if one.seen == lost else UNKNOWN for one in state.replicas)
                replicas = tuple(one._replace(seen=its) for one, its in zip(state.replicas, seen, strict=True))
                versions = state.versions[lost : lost + 1]
                after = state._replace(versions=versions, line=1, is_noted=False, replicas=replicas)
                yield self.befallen(f"the database fails over, and loses {lost} commits", after, FAILOVER)

    def _harms_of(self, state: State, number: int, one: Replica) -> Iterator[Step[State]]:
        name = NAMES[number]
        if not one.is_up:
            yield Step(f"{name} thaws", with_replica(state, number, one._replace(is_up=True)))
        elif self.may_befall(state, FREEZE):
            yield self.befallen(f"{name} is frozen", with_replica(state, number, one._replace(is_up=False)), FREEZE)
        if one.is_cut:
            healed = with_replica(state, number, one._replace(is_cut=False))
            yield Step(f"{name} has the database back", healed)
        elif self.may_befall(state, CUT):
            cut = with_replica(state, number, one._replace(is_cut=True))
            yield self.befallen(f"{name} is cut off from the database", cut, CUT)
        if self.may_befall(state, KILL):
            fresh = with_replica(state, number, Replica(memory=self.work.fresh))
            yield self.befallen(f"{name} is killed, and begins anew", fresh, KILL)

    def befallen(self, event: str, after: State, harm: int) -> Step[State]:
        after = after._replace(spent=after.spent | harm)
        if len(after.versions) > 1 and not self.may_befall(after, FAILOVER):
            replicas = tuple(one._replace(seen=UNKNOWN) if one.seen > 0 else one for one in after.replicas)
            after = after._replace(versions=after.versions[:1], replicas=replicas)
        return Step(event, canonical(after), is_harm=True)

    def passed(self, state: State) -> Iterator[Step[State]]:
        """A step of time, by all clocks; one of them may be a little fast. Who can renews its lease in time."""
        if any(one.lease == 1 and one.is_up and not one.is_cut for one in state.replicas):
            return
        yield Step("time passes", self._later(state, fast=UNKNOWN))
        if self.may_befall(state, FAST):
            for number, name in enumerate(NAMES):
                fast = self._later(state, fast=number)
                yield self.befallen(f"time passes, and the clock of {name} is fast", fast, FAST)

    def _later(self, state: State, *, fast: int) -> State:
        """Who holds nothing has looked at the row before."""
        older, state = self.work.older, self._looked_at(self._looked_at(state, 0), 1)
        versions = tuple(Version(hold, max(until - 1, 0), older(body)) for hold, until, body in state.versions)
        replicas = []
        for number, one in enumerate(state.replicas):
            stood = 0 if one.seen == UNKNOWN else min(one.stood + 1 + (fast == number), LEASE + MARGIN)
            lease, quiet = max(one.lease - 1, 0), one.quiet - (one.quiet > 0)
            memory = self.work.remembered_older(one.memory)
            replicas.append(one._replace(stood=stood, lease=lease, quiet=quiet, memory=memory))
        world = self.work.world_older(state)
        return canonical(state._replace(versions=versions, replicas=tuple(replicas), world=world))

    def _looked_at(self, state: State, number: int) -> State:
        one = state.replicas[number]
        if not one.is_up or one.is_cut or one.hold != NOBODY:
            return state
        after = self.told(state, number)
        its = after.replicas[number]
        seen = UNKNOWN if self.work.is_over(state.versions[0]) else 0
        return after if its.seen == seen else with_replica(after, number, its._replace(seen=seen, stood=0))


def with_replica(state: State, number: int, one: Replica) -> State:
    first, second = state.replicas
    return state._replace(replicas=(first, one) if number else (one, second))


def canonical(state: State) -> State:
    """The same, with its holds numbered in the order in which they stand in the ledger."""
    numbers: dict[int, int] = {NO_ROW: NO_ROW, NOBODY: NOBODY}
    for row in state.versions:
        numbers.setdefault(row.hold, len(numbers) - 1)
    one, other = state.replicas
    holds = numbers.get(one.hold, LOST), numbers.get(other.hold, LOST)
    if holds == (one.hold, other.hold) and all(numbers[row.hold] == row.hold for row in state.versions):
        return state
    versions = tuple(row._replace(hold=numbers[row.hold]) for row in state.versions)
    return state._replace(versions=versions, replicas=(one._replace(hold=holds[0]), other._replace(hold=holds[1])))
