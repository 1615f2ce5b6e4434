"""What must hold whatever happens, checked from the provider's side: against what is really there."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import product

from snaprotd.core.admission import why_shut
from snaprotd.core.policy import WhenFull
from snaprotd.core.retention import plan_retention
from snaprotd.core.room import make_room
from snaprotd.core.rotation import Result, Rotation
from snaprotd.simulator import Reply, Request, SimSnapshot
from tests.support.lives import Story
from tests.support.truths import Whose, bare, has_date, held_until, readings, whose


class Witnessed:
    """Watches every request of a story, and judges it when it is made."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.broken: list[str] = []
        self.creates = 0
        self._tried: set[str] = set()
        """Whose deletion was asked for before. What is there still does not go: another may give way."""
        self._judged: set[int] = set()
        self._begun: set[str] = set()
        """The rotations that have begun in their window."""
        self.unclear: set[str] = set()
        """Names that were asked for without a plain answer: what bears one may be our doing."""
        self._blindly: set[str] = set()
        """What no list would show: one that was empty when it was asked for, or in which nobody could know it again."""
        self.forgives: set[str] = set()
        """The promises that cannot be kept in this story, after what befell it."""
        story.before_request = self.before
        story.after_request = self.after

    def before(self, request: Request) -> None:
        self._judge_time(request)
        if request.method == "POST" and request.path.endswith("/snapshots/"):
            self._create(str(request.json["name"]))
        if request.method == "DELETE":
            self._delete(request.path.split("/")[-2])

    def _judge_time(self, request: Request) -> None:
        """The first stop, create or delete of a rotation lies in its window."""
        rotation = self.story.at_work()
        if rotation is None or request.method == "GET" or request.json.get("action") == "start":
            return
        if not why_shut(rotation.policy, self.story.world.now()):
            self._begun.add(rotation.id)
        elif rotation.id not in self._begun:
            self.say(f"P11: {request.method} {request.path} at {self.story.world.now()} begins a rotation")

    def say(self, broken: str) -> None:
        """A promise is broken."""
        if broken.partition(":")[0] not in self.forgives:
            self.broken.append(broken)

    def after(self, request: Request, reply: Reply) -> None:
        """Nothing is judged by the answer, which the client may never see; but what it leaves open is noted."""
        is_create = request.method == "POST" and request.path.endswith("/snapshots/")
        if is_create and (reply.status != 201 or reply.effect):
            self.unclear.add(str(request.json["name"]))

    def _create(self, name: str) -> None:
        self.creates += 1
        world = self.story.world
        pending = [due for method, path, due in world.late if (method, path) == ("POST", "/snapshots/")]
        if any(due > world.now() for due in pending):
            self.say(f"P4: {name} was asked for while another request for it was still open")
        if name in self.unclear and self.story.hides_names():
            self._blindly.add(name)
        if name not in self._blindly and any(one.name == name for one in world.created if one.status != "failed"):
            self.say(f"P4: {name} was asked for again although it had been made")
        if self.story.shows_nothing():
            self._blindly.add(name)

    def _delete(self, snapshot_id: str) -> None:
        story = self.story
        victim = next((one for one in story.world.snapshots_of(story.server_id) if str(one.id) == snapshot_id), None)
        if victim is None:
            return  # gone already: a repeated request
        self._judged.add(victim.id)
        if whose(story, victim) is Whose.THEIRS:
            self.say(f"P2: {victim.name} is not ours and was deleted")
        if (until := held_until(story, victim)) is not None and story.world.now().date() <= until:
            self.say(f"P10: {victim.name} is held and was deleted")
        if victim.status not in ("completed", "failed"):
            self.say(f"P5: {victim.name} was deleted while {victim.status}")
        self._judge_loss(victim)
        allowed = self._allowed(snapshot_id)
        self._tried.add(snapshot_id)
        if snapshot_id not in allowed:
            self.say(f"P6: {victim.name} was deleted, which the true list does not allow")

    def _allowed(self, victim: str) -> set[str]:
        """What retention deletes now of what is really there, and what makes room for one more."""
        now, rules = self.story.world.now(), self.story.rules
        limits = range(max(2, rules.limit - self.story.doubtful()), rules.limit + 1)
        allowed: set[str] = set()
        for held, limit in product(readings(self.story), limits):
            rules = replace(rules, limit=limit)
            for stays in (set(), self._tried - {victim}):
                plan = plan_retention(held, rules, now=now, immovable=stays)
                room = make_room(held, rules, now=now, immovable=stays)
                allowed |= {one.id for one in (*plan.deletions, *(gone.snapshot for gone in room.deletions))}
        return allowed

    def _judge_loss(self, victim: SimSnapshot) -> None:
        story = self.story
        completed = [one for one in story.world.snapshots_of(story.server_id) if one.status == "completed"]
        if completed == [victim]:
            self.say(f"P3: {victim.name} was the only completed snapshot and was deleted")
        self._judge_newest(completed, [victim], "was deleted")

    def _judge_newest(self, completed: Iterable[SimSnapshot], gone: Collection[SimSnapshot], what: str) -> None:
        """Of those whose date can be read: of others nobody knows when they were made. Two of one name are as good."""
        may_be_ours = [one for one in completed if whose(self.story, one) is not Whose.THEIRS and has_date(one)]
        newest = max(may_be_ours, key=lambda one: (one.made_at, one.id), default=None)
        remain = {bare(one.name) for one in may_be_ours if one not in gone}
        may_go = self.story.policy.when_full is WhenFull.REPLACE_LAST
        if newest is not None and newest in gone and bare(newest.name) not in remain and not may_go:
            self.say(f"P3: {newest.name}, our newest, {what}")

    def judge_what_is_gone(self) -> None:
        """At the end, of all that ever was: what is gone was judged as it went, and the best that there was remains."""
        story = self.story
        gone = [one.snapshot for one in story.world.deleted]
        for one in gone:
            if one.id not in self._judged:
                self.say(f"P6: {one.name} is gone, and nobody has asked for it")
        held = story.world.snapshots_of(story.server_id)
        completed = [one for one in (*held, *gone) if one.status == "completed"]
        self._judge_newest(completed, gone, "is gone in the end")

    def judge_rotation(self, rotation: Rotation, *, was_active: bool) -> None:
        """After a rotation has ended, and all that could come late has come."""
        self.judge_result(rotation)
        self.judge_power(was_active=was_active)

    def judge_result(self, rotation: Rotation) -> None:
        """What a rotation says of itself, and what it made."""
        world, name = self.story.world, rotation.snapshot_name
        made = [one for one in world.created if bare(one.name) == bare(name)]
        asked = [one for one in made if one not in world.doubled and one.status != "failed"]
        if len(asked) > 1 and name not in self._blindly:
            self.say(f"P4: {len(asked)} snapshots for one slot")
        others = [one for one in world.snapshots.values() if bare(one.name) == bare(name)]
        believed = [one for one in others if whose(self.story, one) is not Whose.THEIRS]
        is_done = any(one.status == "completed" for one in (*made, *believed))
        if rotation.result in (Result.SUCCESS, Result.PARTIAL) and not is_done:
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
