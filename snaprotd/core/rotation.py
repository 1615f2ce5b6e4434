"""The machine: what is remembered of one rotation, and how what happens moves it on.

A rotation is one server's snapshot for one slot. Its steps are the tuple `STEPS`; a failure on the way goes to
`START`, and never to `PRUNE`. Nothing here does input or output or reads a clock: `steps.py` acts, reports an
`Outcome`, and `advance` answers with the next record, which is saved before anything else is done.

Time is counted, not read. Every age here is in seconds of a monotonic clock, added up over the lives of the
processes that held the rotation (`aged`). While none ran, nothing is added, so an age is never larger than the
time that has really passed: what must wait long enough (`settle`) always does, and a jump of the wall clock or a
restart cannot cut it short.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import StrEnum

from snaprotd.core import creation, power
from snaprotd.core.creation import Creation
from snaprotd.core.errors import CloudError, Permanent, Refused
from snaprotd.core.holds import snapshot_name
from snaprotd.core.policy import Kind, Policy, Rules
from snaprotd.core.power import Power

MAX_CREATES = 3
"""Requests for one snapshot, each sent only after the one before it has settled. A server may be off meanwhile."""

PRUNE_PATIENCE = 600.0
"""Seconds that a prune waits for a list it can trust before it leaves the rest to the next rotation."""


class Step(StrEnum):
    LOOK = "look"
    MAKE_ROOM = "make_room"
    STOP = "stop"
    SNAPSHOT = "snapshot"
    WAIT = "wait"
    START = "start"
    PRUNE = "prune"
    DONE = "done"


STEPS = (Step.LOOK, Step.MAKE_ROOM, Step.STOP, Step.SNAPSHOT, Step.WAIT, Step.START, Step.PRUNE, Step.DONE)
"""The whole of a rotation, in order."""


class Result(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    PARTIAL = "partial"
    """The snapshot was taken, but something that retention no longer keeps could not be deleted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passed:
    """A step that a rotation has left, and the seconds it stood there."""

    step: Step
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """All that is remembered of one rotation. It is saved after every step, and before every request that counts."""

    id: str
    server_id: str
    label: str
    """The server's name in metrics and logs."""
    slot: datetime
    snapshot_name: str
    rules: Rules
    """The rules it began with, and ends under, whatever becomes of the configuration meanwhile."""
    started_at: datetime
    kind: Kind = Kind.SCHEDULED
    attempt: int = 1
    """Of those at its slot, from 1."""
    settle: float = 120.0
    """Seconds for which a request whose answer was lost may still be carried out."""
    description: str = ""

    step: Step = Step.LOOK
    waited: float = 0.0
    """Age of the present step."""
    note: str = ""
    """What it is waiting for, in words."""
    trail: tuple[Passed, ...] = ()
    """The steps before the present one, in order."""
    running_allowed: bool = False
    """The stop timed out, and the policy says to take the snapshot anyway."""
    stop_number: int = 0
    """The number of the stop that it has promised itself, as `Power.asked` has it; 0 for none."""

    power: Power = field(default_factory=Power)
    creation: Creation = field(default_factory=Creation)

    begun: bool = False
    """A stop, a create or a delete of it has gone out: no window holds it any more."""
    skipped: str = ""
    """What kept it from beginning, as the metrics have it: `window`."""

    deleting: tuple[str, ...] = ()
    """The ids of the one whose deletion is being asked for: who is to hold it is told so."""
    deleted: tuple[str, ...] = ()
    undeletable: tuple[str, ...] = ()
    """Snapshots whose deletion was tried in this rotation and failed."""
    stubborn: tuple[str, ...] = ()
    """Listed still at the look, though an earlier rotation has tried to delete them."""
    ghosts: tuple[str, ...] = ()
    """Those of them whose deletion was answered as done."""
    immovable: tuple[str, ...] = ()
    """Cannot be deleted, as far as is known: each holds its slot, and another gives way."""
    to_free: int = 0
    """Snapshots that must go before the new one can be taken."""
    one_failed_went: bool = False
    """One that had failed was deleted: no other such one goes in this rotation."""
    complaint: str = ""
    """What could not be deleted, and why: the rotation goes on, and ends as `partial`."""
    refused_with: int | None = None
    """Snapshots that the server held when the provider took no further one, though our limit is higher."""
    limit_is_said: bool = False
    """That it was for their number is the provider's own word, or its published limit."""
    was_in_progress: bool = False
    """Its snapshot was seen in progress: a word that nobody knows is no longer one from before that."""

    error: str | None = None
    failed_step: Step | None = None
    may_pass: bool = False
    """What it failed for may have passed in a while."""
    cause: str = ""
    """What it failed for, as `errors` has it; empty where it is this server's own, and `error` says all of it."""
    result: Result | None = None
    finished_at: datetime | None = None

    @staticmethod
    def begin(
        *,
        id: str,  # noqa: A002 - the field's own name
        server_id: str,
        label: str,
        slot: datetime,
        rules: Rules,
        now: datetime,
        settle: float,
        description: str = "",
        kind: Kind = Kind.SCHEDULED,
        hold: date | None = None,
    ) -> Rotation:
        """A rotation that has not done anything yet. `hold`: the last day, in UTC, for which its snapshot is held."""
        return Rotation(
            id=id,
            server_id=server_id,
            label=label,
            slot=slot,
            snapshot_name=snapshot_name(rules.instance, slot, hold),
            rules=rules,
            started_at=now,
            settle=settle,
            description=description,
            kind=kind,
        )

    @property
    def policy(self) -> Policy:
        return self.rules.policy

    @property
    def snapshot_id(self) -> str | None:
        return self.creation.snapshot_id

    @property
    def held_off(self) -> bool:
        """The promise: the server must be seen running again."""
        return self.power.held_off

    @property
    def is_owed(self) -> bool:
        """A start is owed, as far as was seen."""
        return self.power.is_owed

    @property
    def is_payable(self) -> bool:
        """That start is to be made."""
        return self.power.is_payable

    @property
    def is_to_start(self) -> bool:
        """That is what it is at."""
        return self.step is Step.START and self.is_payable

    @property
    def is_finished(self) -> bool:
        return self.step is Step.DONE

    @property
    def create_is_unsettled(self) -> bool:
        """A request for the snapshot may still be carried out: look for it, and send no other."""
        return self.creation.is_unsettled(self.settle)

    @property
    def stop_is_open(self) -> bool:
        """A stop of ours may yet strike: send no other, and wait for it."""
        return self.power.stop_is_open(settle=self.settle, start_timeout=self.policy.start_timeout.total_seconds())

    @property
    def needs_its_process(self) -> bool:
        """A start is owed, or a stop of ours may yet strike: a process that ends waits for that."""
        return self.is_payable or self.power.awaits_stop

    @property
    def is_refused_its_stop(self) -> bool:
        """It has asked for a stop, and was told each time that it is not carried out now: it is to ask again."""
        return self.step is Step.STOP and self.is_owed and self.power.power_open is None and not self.power.went_off

    @property
    def start_is_overdue(self) -> bool:
        """It has stood at its start for longer than `start_timeout`: one ahead of its turn has another step's age."""
        return self.step is Step.START and self.waited > self.policy.start_timeout.total_seconds()


@dataclass(frozen=True)
class Done:
    """The step is complete, or was so already."""


@dataclass(frozen=True)
class Waiting:
    """The step is not complete; visit it again.

    `soon` asks for the next visit at once instead of at the next poll; `retry_after` (seconds) for a later one.
    """

    reason: str
    soon: bool = False
    retry_after: float | None = None
    cause: str = ""


@dataclass(frozen=True)
class Failed:
    """The step cannot be completed. `may_pass`: perhaps in a while it can. `cause`: as the rotation's."""

    error: str
    may_pass: bool = False
    cause: str = ""


Outcome = Done | Waiting | Failed


def aged(rotation: Rotation, seconds: float) -> Rotation:
    """The rotation after `seconds` more of a monotonic clock."""
    return replace(
        rotation,
        waited=rotation.waited + seconds,
        power=power.aged(rotation.power, seconds),
        creation=creation.aged(rotation.creation, seconds),
    )


def advance(rotation: Rotation, outcome: Outcome) -> Rotation:
    """The rotation after `outcome` happened at its present step."""
    match outcome:
        case Waiting(reason=reason, cause=cause) if out_of_patience(rotation):
            why = Failed(f"gave up after {rotation.waited:.0f} s: {reason}", may_pass=True, cause=cause)
            return _fail(rotation, why)
        case Waiting(reason=reason):
            return replace(rotation, note=reason)
        case Failed():
            return _fail(rotation, outcome)
        case Done():
            return _enter(rotation, _after(rotation))


def judge(rotation: Rotation, error: CloudError) -> Outcome:
    """What an error of the provider means at the present step: wait and look again, or fail."""
    text = str(error)
    # A token may be refused for the moment in which it is being replaced; what is under way survives that.
    refused_meanwhile = isinstance(error, Refused) and rotation.step in (Step.WAIT, Step.PRUNE)
    insists = rotation.step is Step.START or rotation.create_is_unsettled or refused_meanwhile
    if insists or not isinstance(error, Permanent):
        return Waiting(text, retry_after=getattr(error, "retry_after", None), cause=error.cause)
    return Failed(text, may_pass=isinstance(error, Refused), cause=error.cause)


def out_of_patience(rotation: Rotation) -> bool:
    """The present step has waited for as long as its policy allows. A start is never given up."""
    return patience_left(rotation) < 0


def patience_left(rotation: Rotation) -> float:
    """Seconds that the present step may go on waiting; less than none where it has waited too long already.

    Whatever it waits for counts: an answer, the next poll, or its turn to ask.
    """
    return float("inf") if rotation.create_is_unsettled else _patience(rotation) - rotation.waited


def _patience(rotation: Rotation) -> float:
    policy = rotation.policy
    match rotation.step:
        case Step.LOOK:
            # A snapshot that somebody else is taking, or a server between two states, is waited for here.
            return (policy.snapshot_timeout + policy.start_timeout).total_seconds()
        case Step.STOP:
            # The step has its own time-out, with three answers; this is for an API that says nothing at all.
            return 2 * policy.stop_timeout.total_seconds() + rotation.settle
        case Step.MAKE_ROOM | Step.SNAPSHOT | Step.WAIT:
            return policy.snapshot_timeout.total_seconds()
        case Step.PRUNE:
            return PRUNE_PATIENCE
        case Step.START | Step.DONE:
            return float("inf")


def _after(rotation: Rotation) -> Step:
    """Where a completed step leads."""
    if rotation.step is Step.LOOK and rotation.snapshot_id is not None:
        return Step.WAIT  # the slot's snapshot exists already: there is nothing to create
    if rotation.step is Step.START and rotation.error is not None:
        return Step.DONE
    return STEPS[STEPS.index(rotation.step) + 1]


def _fail(rotation: Rotation, why: Failed) -> Rotation:
    """The first failure counts; what a later one says would be about its consequences."""
    failed = rotation
    if rotation.error is None:
        failed = replace(rotation, **vars(why), failed_step=rotation.step)
    return _enter(failed, Step.DONE if rotation.step is Step.PRUNE else Step.START)


def _enter(rotation: Rotation, step: Step) -> Rotation:
    if step is Step.DONE and rotation.error is None and rotation.complaint:
        rotation = replace(rotation, error=rotation.complaint, failed_step=Step.PRUNE)
    result = _result(rotation) if step is Step.DONE else None
    trail = (*rotation.trail, Passed(step=rotation.step, seconds=round(rotation.waited, 3)))
    return replace(rotation, step=step, waited=0.0, note="", trail=trail, result=result)


def _result(rotation: Rotation) -> Result:
    if rotation.error is None:
        return Result.SUCCESS
    return Result.PARTIAL if rotation.failed_step is Step.PRUNE else Result.FAILURE


def ended(rotation: Rotation, now: datetime) -> Rotation:
    """With the time of its end, if this is its end."""
    return replace(rotation, finished_at=now) if rotation.is_finished else rotation
