"""What must hold whatever happens, checked from the provider's side: against what is really there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from snaprotd.core.model import Owner, Snapshot, SnapshotState
from snaprotd.core.ownership import owner_of
from snaprotd.core.policy import WhenFull
from snaprotd.core.retention import plan_retention
from snaprotd.core.room import make_room
from snaprotd.core.rotation import Result, Rotation
from snaprotd.simulator import Reply, Request, SimSnapshot
from tests.support.lives import Story
from tests.support.nouns import a_snapshot


def true_snapshots(story: Story) -> list[Snapshot]:
    """The server's snapshots as they are, listed or not."""
    made = {one.id for one in story.world.created}
    held = story.world.snapshots_of(story.server_id)
    return [replace(_as_model(one), in_ledger=one.id in made or None) for one in held]


def _as_model(one: SimSnapshot) -> Snapshot:
    try:
        created = datetime.fromisoformat(one.created_at or "")
    except ValueError:
        created = None
    dated = created if created and created.tzinfo else None
    return a_snapshot(one.id, one.name, dated, server_id=one.server_id, status=one.status, size_mb=one.size_mb)


class Witnessed:
    """Watches every request of a story, and judges it when it is made."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.broken: list[str] = []
        self.creates = 0
        self._tried: set[str] = set()
        """Whose deletion was asked for before. What is there still does not go: another may give way."""
        self.forgives: set[str] = set()
        """The promises that cannot be kept in this story, after what befell it."""
        story.before_request = self.before
        story.after_request = self.after

    def before(self, request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/snapshots/"):
            self._create(str(request.json["name"]))
        if request.method == "DELETE":
            self._delete(request.path.split("/")[-2])

    def say(self, broken: str) -> None:
        """A promise is broken."""
        if broken.partition(":")[0] not in self.forgives:
            self.broken.append(broken)

    def after(self, request: Request, reply: Reply) -> None:
        """Nothing is judged by the answer: the client may never see it."""

    def _create(self, name: str) -> None:
        self.creates += 1
        world = self.story.world
        pending = [due for method, path, due in world.late if (method, path) == ("POST", "/snapshots/")]
        if any(due > world.now() for due in pending):
            self.say(f"P4: {name} was asked for while another request for it was still open")
        if any(one.name == name for one in world.created):
            self.say(f"P4: {name} was asked for again although it had been made")

    def _delete(self, snapshot_id: str) -> None:
        held = true_snapshots(self.story)
        victim = next((one for one in held if one.id == snapshot_id), None)
        if victim is None:
            return  # gone already: a repeated request
        story, policy = self.story, self.story.policy
        if owner_of(victim, instance=story.instance, adopt=policy.adopt) is not Owner.MANAGED:
            self.say(f"P2: {victim.name} is not ours and was deleted")
        if victim.state not in (SnapshotState.COMPLETED, SnapshotState.FAILED):
            self.say(f"P5: {victim.name} was deleted while {victim.status}")
        self._judge_loss(victim, held)
        now = datetime.now(UTC)
        allowed: set[str] = set()
        for stays in (set(), self._tried - {victim.id}):
            plan = plan_retention(held, story.rules, now=now, immovable=stays)
            room = make_room(held, story.rules, now=now, immovable=stays)
            allowed |= {one.id for one in (*plan.deletions, *(gone.snapshot for gone in room.deletions))}
        self._tried.add(victim.id)
        if victim.id not in allowed:
            self.say(f"P6: {victim.name} was deleted, which the true list does not allow")

    def _judge_loss(self, victim: Snapshot, held: list[Snapshot]) -> None:
        completed = [one for one in held if one.is_completed]
        if victim.is_completed and len(completed) == 1:
            self.say(f"P3: {victim.name} was the only completed snapshot and was deleted")
        dated = [one for one in completed if one.created_at is not None]
        ours = [
            one
            for one in dated
            if owner_of(one, instance=self.story.instance, adopt=self.story.policy.adopt) is Owner.MANAGED
        ]
        newest = max(ours, key=lambda one: (one.created_at, int(one.id)), default=None)
        if victim == newest and self.story.policy.when_full is not WhenFull.REPLACE_LAST:
            self.say(f"P3: {victim.name}, our newest, was deleted")

    def judge_rotation(self, rotation: Rotation, *, was_active: bool) -> None:
        """After a rotation has ended, and all that could come late has come."""
        self.judge_result(rotation)
        self.judge_power(was_active=was_active)

    def judge_result(self, rotation: Rotation) -> None:
        """What a rotation says of itself, and what it made."""
        world, name = self.story.world, rotation.snapshot_name
        made = [one for one in world.created if one.name == name]
        if len(made) > 1:
            self.say(f"P4: {len(made)} snapshots for one slot")
        if rotation.result in (Result.SUCCESS, Result.PARTIAL) and not any(one.status == "completed" for one in made):
            self.say(f"P7: {rotation.result}, and {name} is not completed")
        if rotation.result is not Result.SUCCESS and not rotation.error:
            self.say("P7: a failure without a reason")
        if self.story.policy.stop_first and self.story.policy.on_stop_timeout != "snapshot_anyway":
            for one in made:
                if one.server_status_when_taken != "stopped":
                    self.say(f"P4: {name} was taken of a server that was {one.server_status_when_taken}")

    def judge_power(self, *, was_active: bool, is_known: bool = True) -> None:
        """The server is as it was before we came. `is_known`: somebody can know that it is off because of us."""
        status = self.story.world.status_of(self.story.server_id)
        if was_active and is_known and status != "active":
            self.say(f"P1: the server was running and is {status}")
        if not was_active and status != "stopped":
            self.say(f"P1: the server was off and is {status}")

    def judge_last_resort(self, *, paid: bool, was_active: bool) -> None:
        """After what was owed was paid by a process that could not begin."""
        status = self.story.world.status_of(self.story.server_id)
        if was_active and (not paid or status != "active"):
            self.say(f"P1: the process ended, paid: {paid}, and the server is {status}")
