"""Whole rotations on servers on which something is held: no rotation deletes it before its day is over."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.errors import DeletionUnderWay
from snaprotd.core.holds import FOREVER
from snaprotd.core.policy import Retention
from snaprotd.core.retention import refuse_deletion
from snaprotd.core.rotation import Result
from snaprotd.engine.loop import run_rotation
from snaprotd.engine.run import Run
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Request, SimSnapshot, World
from tests.scenarios.test_retention import NEW, Scene, at, error_of, ours
from tests.support.lives import night
from tests.support.nouns import a_snapshot

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

UNTIL = "-until-20250131"
NIGHTS = {day: at(day) for day in range(10, 20)}


async def test_what_is_held_by_its_name_outlives_every_rotation_until_its_day_is_over(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold(f"{ours(10)}-until-20250117", created_at=NIGHTS[10])
    scene.hold_ours(11)
    for number in range(3):
        assert (await scene.night(number)).result is Result.SUCCESS
    assert scene.deleted == [ours(11), ours(16), f"{ours(10)}-until-20250117", ours(17)]


async def test_a_full_server_gives_up_its_oldest_that_is_not_held(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold(f"{ours(10)}{UNTIL}", created_at=NIGHTS[10])
    scene.hold(f"{ours(11)}-held", created_at=NIGHTS[11])
    scene.hold_ours(12, 13, 14)
    assert (await scene.night()).result is Result.SUCCESS
    assert scene.asked[0] == f"delete {ours(12)}"
    assert scene.held("completed") == [f"{ours(10)}{UNTIL}", f"{ours(11)}-held", ours(14), NEW]


async def test_a_server_that_holds_fill_is_left_as_it_is_and_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stop_first=True)
    for day in range(10, 15):
        scene.hold(f"{ours(day)}-held", created_at=NIGHTS[day])
    ended = await scene.night()
    assert ended.result is Result.FAILURE
    assert error_of(ended).startswith("blocked: 5 of 5 snapshots, 5 ours: ")
    assert error_of(ended).count("held for ever") == 5
    assert scene.asked == []


async def test_a_clock_of_ours_that_is_days_ahead_ends_no_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold(f"{ours(10)}-until-20250114", created_at=at(10))
    take = scene.world.take_snapshot

    def taken_days_ago(*request: Any) -> SimSnapshot:
        made = take(*request)
        made.created_at = (made.made_at - timedelta(days=4)).isoformat()
        return made

    monkeypatch.setattr(scene.world, "take_snapshot", taken_days_ago)
    assert (await scene.night()).result is Result.SUCCESS
    assert scene.deleted == []


@pytest.mark.parametrize("days", [(10, 14), (10, 11, 12, 13, 14)], ids=["prune", "make room"])
async def test_a_hold_is_over_when_the_providers_clock_says_so_too(tmp_path: Path, days: tuple[int, ...]) -> None:
    world = World(clock=lambda: datetime.now(UTC) - timedelta(days=1))
    scene = Scene(tmp_path, keep=Retention(last=1), world=world)
    held, *others = days
    scene.hold(f"{ours(held)}-until-20250115", created_at=at(held))
    scene.hold_ours(*others)
    assert (await scene.night()).result is Result.SUCCESS
    assert scene.deleted == [ours(day) for day in others]


async def test_what_a_person_holds_between_the_look_and_its_deletion_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(13, 14)
    ((victim, _)) = sorted(scene.world.snapshots_of(scene.server_id), key=lambda one: one.name)

    def held_after_the_look(snapshot_id: str, *args: Any, **more: Any) -> None:
        refuse_deletion(snapshot_id, *args, **more)
        if snapshot_id == str(victim.id):
            row = ("", snapshot_id, scene.server_id, victim.name, f'["{snapshot_id}"]', str(date(2025, 1, 31)))
            with closing(sqlite3.connect(scene.story.ledger_path)) as ledger, ledger:
                ledger.execute("INSERT OR IGNORE INTO holds VALUES (?, ?, ?, ?, ?, ?)", tuple(map(str, row)))

    monkeypatch.setattr("snaprotd.engine.deleting.refuse_deletion", held_after_the_look)
    assert (await scene.night()).result is Result.SUCCESS
    assert scene.deleted == [ours(14)]
    assert scene.held("completed") == [ours(13), NEW]


async def test_a_snapshot_of_the_slot_is_adopted_whatever_its_name_says_of_a_hold(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold(f"{NEW}-until-20250120", created_at=NIGHTS[16] + timedelta(minutes=1))
    assert (await scene.night()).result is Result.SUCCESS
    assert "create" not in scene.asked
    assert scene.held() == [f"{NEW}-until-20250120"]


async def test_a_name_that_is_cut_within_its_hold_is_known_again_after_a_lost_answer(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.faulty("truncated", times=1, method="POST", path="/snapshots/")
    story, name = scene.story, f"{NEW}-until-20250120"
    story.bend = lambda _, reply: replace(reply, body=reply.body.replace(name.encode(), f"{NEW}-unt".encode()))
    async with story.life() as tools:
        claim = await tools.ledger.claim(replace(story.rotation(night(0)), snapshot_name=name))
        assert isinstance(claim, Claimed)
        assert (await run_rotation(Run(claim.rotation, tools))).result is Result.SUCCESS
    assert scene.asked == ["create"]


async def test_a_refusal_that_may_be_for_the_length_of_the_name_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path, instance="a_long_name_of_an_instance_indee")
    scene.faulty("status", status=400, method="POST", path="/snapshots/")
    assert error_of(await scene.night()).endswith(
        "; perhaps for its name, which has 58 characters: a shorter `instance` makes it shorter"
    )
    plain = Scene(tmp_path)
    plain.faulty("status", status=400, method="POST", path="/snapshots/")
    assert "perhaps" not in error_of(await plain.night())


class Person:
    """Somebody who holds a snapshot when a rotation has come to one of the moments in which it could be stopped."""

    def __init__(self, folder: Path, days: tuple[int, ...], moment: int | None) -> None:
        """`moment`: its number; None for none."""
        folder.mkdir()
        self.scene = Scene(folder, keep=Retention(last=1))
        self.scene.hold_ours(*days)
        self.scene.on_request = self._on_request
        self.victim = self.scene.world.snapshots_of(self.scene.server_id)[0]
        self.held: bool | None = None
        """Whether it was done; None where the snapshot was gone by then, or it never came to that."""
        self.passed = 0
        self.deleted_at = 0
        """How many moments had passed when its deletion was asked for."""
        self._moment = moment

    @property
    def is_there(self) -> bool:
        return self.victim in self.scene.world.snapshots_of(self.scene.server_id)

    def _on_request(self, request: Request) -> None:
        if request.method == "DELETE" and request.path.split("/")[-2] == str(self.victim.id):
            self.deleted_at = self.passed

    async def gate(self) -> None:
        self.passed += 1
        if self.passed != self._moment or not self.is_there:
            return
        one, ids = self.victim, (self.scene.server_id,)
        snapshot = a_snapshot(one.id, one.name, one.made_at, server_id=self.scene.server_id)
        async with await Ledger.open(self.scene.story.ledger_path, owner="person", lock=False) as ledger:
            try:
                await ledger.holds.say(snapshot, ids, FOREVER, datetime.now(UTC))
            except DeletionUnderWay:
                self.held = False
            else:
                self.held = True

    async def see(self) -> Person:
        """One night, to its end."""
        story = self.scene.story
        async with story.life(gate=self.gate) as tools:
            claim = await tools.ledger.claim(story.rotation(night(0)))
            assert isinstance(claim, Claimed)
            assert (await run_rotation(Run(claim.rotation, tools))).result is Result.SUCCESS
        return self


@pytest.mark.parametrize("days", [(14, 15), (11, 12, 13, 14, 15)], ids=["prune", "make room"])
async def test_at_whatever_moment_a_person_holds_a_snapshot_it_stays_or_is_not_said_to_be_held(
    tmp_path: Path, days: tuple[int, ...]
) -> None:
    """From before the look at which it is found to go, until after it is gone."""
    at = (await Person(tmp_path / "undisturbed", days, None).see()).deleted_at
    met = set()
    for moment in range(at - 8, at + 4):
        person = await Person(tmp_path / str(moment), days, moment).see()
        met.add(person.held)
        assert person.held is not True or person.is_there, moment
    assert met == {True, False, None}
