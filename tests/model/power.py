"""The model of *power*: a server that we stopped runs in the end, and nobody starts it in the middle of a snapshot.

The promise is saved before the stop goes out, with the row and apart from it: a number for each stop that is asked
for, and the highest one whose start was paid. A stop may be carried out for `settle` steps, whatever has become of
its sender. Whoever runs no rotation keeps the promises that nobody living sees to.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from tests.model.leases import (
    EVIDENCE,
    FAILOVER,
    NAMES,
    NO_ROW,
    NOBODY,
    REQUEST,
    UNCLEAR,
    UNKNOWN,
    Model,
    Replica,
    Rules,
    State,
    Version,
    Work,
    canonical,
    with_replica,
)
from tests.model.search import Step

BEGUN, PROMISED, OFF, STARTING, DONE = range(5)
"""The steps of a rotation."""


class Record(NamedTuple):
    """What is owed to the server."""

    asked: int = 0
    released: int = 0
    age: int = UNKNOWN
    """Of the last stop, as far as it matters."""

    @property
    def is_owed(self) -> bool:
        return self.asked > self.released


class Body(NamedTuple):
    step: int = BEGUN
    record: Record = Record()


class Memory(NamedTuple):
    step: int = BEGUN
    record: Record = Record()
    ready: int = UNKNOWN
    """How long ago the server was seen running and a stop was promised that was not sent yet."""
    insists: bool = False
    """It has lost a rotation, and is to see that its promise stands."""


class World(NamedTuple):
    """The provider, and what is known of the whole only here."""

    is_on: bool = True
    wire: int = 0
    """For how long the stop that was sent may be carried out still."""
    snapshot: int = 0
    """1: in progress. 2: completed."""
    sent: int = 0
    """The number of the last stop that was sent."""
    is_excused: bool = False
    """A failover lost the promise of a stop that may have gone out: if who sent it dies before it has written again,
    nobody knows of it. So much is not promised where commits are not waited for."""


def merged(one: Record, other: Record) -> Record:
    asked, released = max(one.asked, other.asked), max(one.released, other.released)
    return Record(asked, released, max(one, other).age if asked > released else UNKNOWN)


def _older(rules: Rules, record: Record) -> Record:
    return record if record.age in (UNKNOWN, rules.longest) else record._replace(age=record.age + 1)


def _remembered_older(rules: Rules, memory: Memory) -> Memory:
    ready = memory.ready if memory.ready == UNKNOWN else min(memory.ready + 1, EVIDENCE + 1)
    return memory._replace(record=_older(rules, memory.record), ready=ready)


def _lost(rules: Rules, memory: Memory) -> Memory:
    insists = rules.insists and memory.record.is_owed
    return Memory(record=memory.record, insists=True) if insists else Memory()


def _told(memory: Memory) -> Memory:
    return memory if memory.ready == UNKNOWN else memory._replace(step=BEGUN, ready=UNKNOWN)


def _renewed(rules: Rules, body: Body, memory: Memory) -> Body:
    return body._replace(record=merged(body.record, memory.record)) if rules.reasserts else body


def work(rules: Rules) -> Work:
    return Work(
        fresh=Memory(),
        older=lambda body: body._replace(record=_older(rules, body.record)),
        remembered_older=partial(_remembered_older, rules),
        world_older=lambda state: state.world._replace(wire=max(state.world.wire - 1, 0)),
        taken=lambda body, memory: Memory(body.step, merged(body.record, memory.record)),
        lost=partial(_lost, rules),
        told=_told,
        renewed=partial(_renewed, rules),
        is_over=lambda row: row.hold == NO_ROW or row.body.step == DONE,
    )


def beginning(rules: Rules, *, is_first: bool = True) -> State:
    """Nothing is known of the server; or, not at first, B keeps a promise of an earlier night whose end is near."""
    record = Record() if is_first else Record(asked=1, released=0, age=rules.longest)
    replicas = Replica(line=0, memory=Memory()), Replica(line=0, memory=Memory(record=record))
    return State((Version(NO_ROW, 0, Body(record=record)),), 0, True, replicas, 0, World(sent=record.asked))


def is_end(state: State) -> bool:
    row, world = state.versions[0], state.world
    owed = (row.body.record, *(one.memory.record for one in state.replicas))
    return bool(row.body.step == DONE and world.is_on and not world.wire and not any(one.is_owed for one in owed))


def steps(model: Model, state: State) -> Iterator[Step[State]]:
    if is_end(state) and not model.may_befall(state, FAILOVER):
        return
    for number, one in enumerate(state.replicas):
        yield from model.leases(state, number)
        if not one.is_up:
            continue
        if one.hold == NOBODY:
            yield from _claims(model, state, number)
            yield from _kept(model, state, number)
        else:
            yield from _ledger(model, state, number)
            yield from _requests(model, state, number)
            yield from _starts(model, state, number)
    if state.world.wire:
        yield Step("the stop is carried out", _in_world(state, is_on=False, wire=0))
    if state.world.snapshot == 1:
        yield Step("the snapshot is completed", _in_world(state, snapshot=2))
    yield from filter(partial(_is_to_be_borne, state), map(partial(_excused, state), model.harms(state)))
    yield from model.passed(state)


def _in_world(state: State, **changes: int) -> State:
    return state._replace(world=state.world._replace(**changes))


def _remembering(state: State, number: int, memory: Memory) -> State:
    return with_replica(state, number, state.replicas[number]._replace(memory=memory))


def _excused(before: State, step: Step[State]) -> Step[State]:
    loses = step.after.versions[0].body.record.asked < before.versions[0].body.record.asked
    return step._replace(after=_in_world(step.after, is_excused=True)) if loses else step


def _is_to_be_borne(before: State, step: Step[State]) -> bool:
    """Not so where a stop is known to nobody any more, which is excused. Who has written since could have told it."""
    state, sent = step.after, step.after.world.sent
    known = max(one.asked for one in (state.versions[0].body.record, *(one.memory.record for one in state.replicas)))
    hold, line = before.versions[0].hold, before.line
    has_written = any(
        (one.hold, one.line) == (hold, line) and one.memory.record.asked >= sent for one in before.replicas
    )
    return known >= sent or has_written or not state.world.is_excused


def _claims(model: Model, state: State, number: int) -> Iterator[Step[State]]:
    if state.replicas[number].is_cut or state.versions[0].hold != NO_ROW or number > state.line:
        return  # whoever is the first to claim is called A
    after = model.told(state, number)
    if model.may_begin(after, number):
        body = state.versions[0].body._replace(step=BEGUN)
        yield model.owned(f"{NAMES[number]} claims the slot", model.taken(after, number, body))


# -- a rotation --------------------------------------------------------------------------------------------------------


def _ledger(model: Model, before: State, number: int) -> Iterator[Step[State]]:
    """What is saved, by who holds the rotation."""
    if before.replicas[number].is_cut:
        return
    state, name, world = model.told(before, number), NAMES[number], before.world
    memory: Memory = state.replicas[number].memory
    if not model.holds(state, number):
        return
    if memory.step == BEGUN and world.is_on and not world.snapshot:
        body = state.versions[0].body
        known = merged(body.record, memory.record)
        record = Record(max(known.asked, known.released) + 1, known.released, 0)
        promised = Memory(PROMISED, record, ready=0)
        written = Body(PROMISED, record) if model.rules.saves_first else body
        yield model.owned(f"{name} saves its promise", model.saved(state, number, written, promised))
        if model.may_befall(before, UNCLEAR):
            yield _unclear_promise(model, before, number, promised)
    is_done = world.snapshot == 2 or _has_come_to_nothing(model, memory)
    if is_done and (world.is_on or not memory.record.is_owed):
        record = merged(state.versions[0].body.record, memory.record)
        after = model.saved(state, number, Body(DONE, record), Memory(record=record))
        after = with_replica(after, number, after.replicas[number]._replace(hold=NOBODY, lease=0))
        yield Step(f"{name} saves the end of the rotation", canonical(after))


def _has_come_to_nothing(model: Model, memory: Memory) -> bool:
    """The server still runs, and the stop is not waited for any more."""
    is_waited_for = memory.ready != UNKNOWN or (memory.record.is_owed and memory.record.age < model.rules.settled)
    return memory.step != BEGUN and not is_waited_for


def _unclear_promise(model: Model, state: State, number: int, promised: Memory) -> Step[State]:
    """The connection is cut at the commit: it was done, and counts as not; or it was not, and is believed to be."""
    event, one = (
        f"{NAMES[number]} saves its promise, and hears nothing of the commit, which was",
        state.replicas[number],
    )
    if model.rules.is_sceptical:
        after = model.written(state, Body(PROMISED, promised.record), hold=state.versions[0].hold)
        its = after.replicas[number]._replace(is_cut=True)
        return model.befallen(f"{event} done", with_replica(after, number, its), UNCLEAR)
    its = one._replace(is_cut=True, memory=promised)
    return model.befallen(f"{event} not done", with_replica(state, number, its), UNCLEAR)


def _requests(model: Model, state: State, number: int) -> Iterator[Step[State]]:
    one, name, world, rules = state.replicas[number], NAMES[number], state.world, model.rules
    memory: Memory = one.memory
    is_ours = one.lease >= REQUEST or not rules.guards
    if memory.ready != UNKNOWN and is_ours and (memory.ready <= EVIDENCE or not rules.is_fresh):
        sent = {"wire": rules.settle, "sent": memory.record.asked}
        is_excused = world.is_excused and one.line != state.line
        after = _in_world(state, **sent, is_excused=is_excused)
        yield Step(f"{name} asks for the stop", _remembering(after, number, memory._replace(ready=UNKNOWN)))
    elif memory.ready > EVIDENCE:
        late = memory._replace(step=STARTING, ready=UNKNOWN)
        yield Step(f"{name} has looked too long ago", _remembering(state, number, late))
    if not is_ours and not one.is_cut:
        yield Step(f"{name} finds its lease run out", canonical(model.let_go(state, number)))
    if is_ours and memory.step in (BEGUN, PROMISED, OFF) and not world.is_on and not world.snapshot:
        after = _in_world(state, snapshot=1)
        off = memory._replace(step=OFF, ready=UNKNOWN)
        yield Step(f"{name} asks for the snapshot", _remembering(after, number, off))


def _starts(model: Model, state: State, number: int) -> Iterator[Step[State]]:
    """By who holds the rotation, or believes so: from memory, where the database cannot be asked."""
    one, world = state.replicas[number], state.world
    memory: Memory = one.memory
    is_over = world.snapshot == 2 or memory.step == STARTING
    if world.is_on or not memory.record.is_owed or not is_over:
        return
    if one.is_cut:
        if world.snapshot != 1 or not model.rules.looks_at_snapshots:
            yield _start(state, number, "from memory")
    elif model.holds(told := model.told(state, number), number):
        body = told.versions[0].body._replace(record=merged(told.versions[0].body.record, memory.record))
        yield _start(model.saved(told, number, body, memory), number, "")


def _start(state: State, number: int, how: str) -> Step[State]:
    other = state.replicas[1 - number]
    is_held_off = other.hold == state.versions[0].hold and other.lease > 0 and state.world.snapshot == 1
    broken = "the server is started in the middle of a living rotation's snapshot" if is_held_off else ""
    after = canonical(_in_world(state, is_on=True))
    return Step(f"{NAMES[number]} starts the server {how}".strip(), after, broken=broken)


# -- promises without a rotation ---------------------------------------------------------------------------------------


def _kept(model: Model, before: State, number: int) -> Iterator[Step[State]]:
    one, name, world = before.replicas[number], NAMES[number], before.world
    memory: Memory = one.memory
    if one.is_cut:
        looks = model.rules.looks_at_snapshots
        if memory.record.is_owed and not world.is_on and not (looks and world.snapshot == 1):
            yield _start(before, number, "from memory")
        return
    state = model.told(before, number)
    known: Record = state.versions[0].body.record
    if memory.insists or (model.rules.reasserts and memory.record.asked > known.asked):
        yield _insists(model, state, number)
        return
    if known.released >= memory.record.asked > memory.record.released:
        yield Step(f"{name} learns that the start is paid", _remembering(state, number, Memory()))
        return
    is_elsewhere = model.rules.asks_who_lives and _is_elsewhere(model, state, number)
    if known.asked > memory.record.asked and known.is_owed and not is_elsewhere:
        learnt = memory._replace(record=merged(known, memory.record))
        yield Step(f"{name} takes the promise up", _remembering(state, number, learnt))
    if not memory.record.is_owed:
        return
    if not world.is_on and not is_elsewhere:
        yield _start(state, number, "")
    if world.is_on and memory.record.age >= model.rules.settled:
        yield _released(model, state, number)


def _is_elsewhere(model: Model, state: State, number: int) -> bool:
    """A living rotation sees to the server, as far as this replica can tell."""
    return not model.work.is_over(state.versions[0]) and not model.is_abandoned(
        state.versions[0], state.replicas[number], number
    )


def _insists(model: Model, state: State, number: int) -> Step[State]:
    row, memory = state.versions[0], state.replicas[number].memory
    event = f"{NAMES[number]} insists on its promise"
    if row.body.record.asked >= memory.record.asked:
        return Step(f"{event}, which stands", _remembering(state, number, Memory()))
    after = model.written(state, row.body._replace(record=merged(row.body.record, memory.record)), hold=row.hold)
    return Step(event, canonical(_remembering(after, number, Memory(record=memory.record))))


def _released(model: Model, state: State, number: int) -> Step[State]:
    row, record = state.versions[0], state.replicas[number].memory.record
    paid = Record(record.asked, released=record.asked)
    written = merged(row.body.record, paid) if model.rules.merges else paid
    after = model.written(state, row.body._replace(record=written), hold=row.hold)
    return Step(f"{NAMES[number]} notes that the start is paid", canonical(_remembering(after, number, Memory())))
