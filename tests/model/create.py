"""The model of *create*: at most one snapshot of a slot, and each slot gets one.

A request is sent after a look that has shown no snapshot, and after its intent was saved. It may be carried out for
`settle` steps, whatever has become of its sender; its answer may be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from tests.model.leases import (
    EVIDENCE,
    FAILOVER,
    LATE,
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

IDLE, LOOKED, SAVED, SENT, MADE = range(5)
"""What a replica has done last; looked, and there was no snapshot; saved its intent to ask for one. No enumeration: its
hash would take most of the time."""


class Body(NamedTuple):
    open: int = UNKNOWN
    """Age of a request whose fate is open."""
    is_done: bool = False


class Memory(NamedTuple):
    phase: int = IDLE
    open: int = UNKNOWN
    looked: int = 0
    """How long ago, as far as it matters."""
    left: int = 0
    """For how long it waits for the answer."""


class World(NamedTuple):
    """The provider."""

    made: int = 0
    wire: int = 0
    """For how long the request that was sent may be carried out still."""


def _older(rules: Rules, age: int) -> int:
    """Further than that an open request need not be counted."""
    return age if age == UNKNOWN else min(age + 1, rules.longest)


def _remembered_older(rules: Rules, memory: Memory) -> Memory:
    phase, open_for = memory.phase, _older(rules, memory.open)
    looked = min(memory.looked + 1, EVIDENCE + 1) if phase in (LOOKED, SAVED) else 0
    if phase is SENT and memory.left == 1:
        return Memory(open=0)  # the answer is lost
    return Memory(phase, open_for, looked, max(memory.left - 1, 0))


def _newer(one: int, other: int) -> int:
    return min((age for age in (one, other) if age != UNKNOWN), default=UNKNOWN)


def _told(memory: Memory) -> Memory:
    return memory._replace(phase=IDLE) if memory.phase is SAVED else memory


def work(rules: Rules) -> Work:
    return Work(
        fresh=Memory(),
        older=lambda body: Body(_older(rules, body.open), body.is_done),
        remembered_older=partial(_remembered_older, rules),
        world_older=lambda state: World(state.world.made, max(state.world.wire - 1, 0)),
        taken=lambda body, _: Memory(open=body.open),
        lost=lambda _: Memory(),
        told=_told,
        renewed=lambda body, memory: body._replace(open=_newer(body.open, memory.open)) if rules.reasserts else body,
        is_over=lambda row: row.hold == NO_ROW or row.body.is_done,
    )


def beginning() -> State:
    nothing = Version(NO_ROW, 0, Body())
    replicas = Replica(line=0, memory=Memory()), Replica(line=0, memory=Memory())
    return State((nothing,), 0, True, replicas, 0, World())


def is_end(state: State) -> bool:
    row = state.versions[0]
    return bool(row.body.is_done and state.world.made == 1)


def steps(model: Model, state: State) -> Iterator[Step[State]]:
    if is_end(state) and not model.may_befall(state, FAILOVER):
        return
    for number, one in enumerate(state.replicas):
        yield from model.leases(state, number)
        if one.is_up:
            yield from _claims(model, state, number)
        if one.is_up and one.hold != NOBODY:
            yield from _ledger(model, state, number)
            yield from _requests(model, state, number)
    yield from _carried_out(model, state)
    yield from model.harms(state)
    yield from _time(model, state)


def _claims(model: Model, state: State, number: int) -> Iterator[Step[State]]:
    one = state.replicas[number]
    if one.is_cut or one.hold != NOBODY or state.versions[0].hold != NO_ROW or number > state.line:
        return  # whoever is the first to claim is called A
    after = model.told(state, number)
    if model.may_begin(after, number):
        event = f"{NAMES[number]} claims the slot"
        yield model.owned(event, model.taken(after, number, Body()))
        if model.may_befall(state, UNCLEAR):
            cut = model.taken(after, number, Body())
            cut = with_replica(cut, number, after.replicas[number]._replace(is_cut=True, seen=UNKNOWN))
            yield model.befallen(f"{event}, and hears nothing of the commit, which was done", cut, UNCLEAR)


def _ledger(model: Model, state: State, number: int) -> Iterator[Step[State]]:
    """What is saved, by who holds the rotation."""
    if state.replicas[number].is_cut:
        return
    before, name = state, NAMES[number]
    state = model.told(state, number)
    memory: Memory = state.replicas[number].memory
    if not model.holds(state, number):
        return
    if memory.phase is LOOKED:
        promised = memory._replace(phase=SAVED, open=0)
        body = Body(0) if model.rules.saves_first else state.versions[0].body
        yield model.owned(f"{name} saves its intent", model.saved(state, number, body, promised))
        if model.may_befall(state, UNCLEAR):
            yield from _unclear_intent(model, before, number, promised)
    if memory.phase is MADE:
        after = model.saved(state, number, Body(is_done=True), Memory())
        after = with_replica(after, number, after.replicas[number]._replace(hold=NOBODY, lease=0))
        yield Step(f"{name} saves the end", canonical(after))


def _unclear_intent(model: Model, state: State, number: int, promised: Memory) -> Iterator[Step[State]]:
    """The connection is cut at the commit: it was done, and counts as not; or it was not, and is believed to be."""
    event, one = f"{NAMES[number]} saves its intent, and hears nothing of the commit, which was", state.replicas[number]
    if model.rules.is_sceptical:
        after = model.written(state, Body(0), hold=state.versions[0].hold)
        its = after.replicas[number]._replace(is_cut=True, memory=one.memory._replace(phase=IDLE))
        yield model.befallen(f"{event} done", with_replica(after, number, its), UNCLEAR)
    else:
        its = one._replace(is_cut=True, memory=promised)
        yield model.befallen(f"{event} not done", with_replica(state, number, its), UNCLEAR)


def _requests(model: Model, state: State, number: int) -> Iterator[Step[State]]:
    one, name, world, rules = state.replicas[number], NAMES[number], state.world, model.rules
    memory: Memory = one.memory
    is_open = memory.open != UNKNOWN and memory.open < rules.settled
    if memory.phase is IDLE or (memory.phase is LOOKED and memory.looked):
        if world.made:
            found = memory._replace(phase=MADE, looked=0)
            yield Step(f"{name} looks, and finds the snapshot", with_replica(state, number, one._replace(memory=found)))
        elif not is_open:
            none = memory._replace(phase=LOOKED, looked=0)
            yield Step(f"{name} looks, and there is none", with_replica(state, number, one._replace(memory=none)))
    if memory.phase is not SAVED:
        return
    is_fresh = memory.looked <= EVIDENCE or not rules.is_fresh
    is_ours = one.lease >= REQUEST or not rules.guards
    if is_fresh and is_ours:
        sent = one._replace(memory=memory._replace(phase=SENT, looked=0, left=REQUEST))
        after = with_replica(state, number, sent)._replace(world=World(world.made, rules.settle))
        why = "a second snapshot is asked for" if world.made else "two requests are open" if world.wire else ""
        yield Step(f"{name} asks for the snapshot", after, broken=why)
    if not is_fresh:
        idle = one._replace(memory=memory._replace(phase=IDLE, open=UNKNOWN, looked=0))
        yield Step(f"{name} has looked too long ago", with_replica(state, number, idle))
    if not is_ours:
        yield Step(f"{name} finds its lease run out", canonical(model.let_go(state, number)))


def _carried_out(model: Model, state: State) -> Iterator[Step[State]]:
    world = state.world
    if not world.wire:
        return
    after = state._replace(world=World(world.made + 1, 0))
    sender = next((at for at, one in enumerate(state.replicas) if one.memory.phase is SENT), None)
    if sender is None:
        yield Step("the request is carried out late", after)
        return
    one = state.replicas[sender]
    made = one._replace(memory=Memory(phase=MADE))
    yield Step("the request is carried out and answered", with_replica(after, sender, made))
    if model.may_befall(state, LATE):
        lost = one._replace(memory=Memory(open=0))
        yield model.befallen(
            "the request is carried out, and its answer is lost", with_replica(after, sender, lost), LATE
        )


def _time(model: Model, state: State) -> Iterator[Step[State]]:
    """An answer that does not come in time is one that was lost: so often, and no oftener."""
    waits = any(one.memory.phase is SENT and one.is_up for one in state.replicas)
    if not waits:
        yield from model.passed(state)
    elif model.may_befall(state, LATE):
        for event, after, _, _ in model.passed(state._replace(spent=state.spent | LATE)):
            yield Step(f"{event}, and no answer has come", after, is_harm=True)
