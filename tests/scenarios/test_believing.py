"""Words and answers of the provider that are not so: what was deleted on them is gone, what was waited for is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaprotd.commands.jobs.account import check_online, read_account
from snaprotd.commands.text.tables import list_text, plan_text
from snaprotd.commands.text.terminal import show
from snaprotd.config import file as config
from snaprotd.core.admission import resumed
from snaprotd.core.policy import Retention
from snaprotd.core.rotation import Result, Step
from snaprotd.engine.loop import _visit_and_save, run_rotation
from snaprotd.engine.run import Run
from snaprotd.ledger.claims import Claimed
from snaprotd.provider.vps_org.calls import Reply
from snaprotd.report.rows import people_plan_of, snapshot_rows
from snaprotd.simulator import Fault, SimSnapshot, World, api
from tests.scenarios.test_retention import CREATE, NEW, Scene, error_of, ours
from tests.support.daemons import Watched, configure, daemon_on, entry
from tests.support.lives import night
from tests.support.policies import a_policy
from tests.support.virtual_time import START
from tests.support.world_transport import WorldTransport

MINUTE = 60.0


def a_full_one(*, size_mb: int | None = 5120) -> World:
    """Four completed ones of ours; a fifth is due in ten minutes."""
    world = World(snapshot_seconds=(90, 120))
    world.add_server("web-01")
    for days in (4, 3, 2, 1):
        at = START + timedelta(minutes=10) - timedelta(days=days)
        world.add_snapshot("12345", f"snaprotd-main-{at:%Y%m%dT%H%M%SZ}", created_at=at, size_mb=size_mb)
    return world


# -- a word for a moment ---------------------------------------------------------------------------------------


async def shown_as(watched: Watched, word: str, seconds: float, *, of: int) -> None:
    """The oldest are shown by another word from shortly before the prune on, for so long."""
    world = watched.world
    await asyncio.sleep(10 * MINUTE)
    while not world.created or world.created[-1].status != "completed":
        await asyncio.sleep(0.05)
        world.now()  # what is due happens
    victims = world.snapshots_of("12345")[:of]
    for one in victims:
        one.status = word
    await asyncio.sleep(seconds)
    for one in victims:
        one.status = "completed"


@pytest.mark.usefixtures("few_ticks")
@pytest.mark.parametrize("word", ["failed", "error", "unreachable", "in_progress"])
@pytest.mark.parametrize("size_mb", [5120, None])
async def test_a_momentary_word_for_what_was_completed_deletes_nothing(
    tmp_path: Path, word: str, size_mb: int | None
) -> None:
    world = a_full_one(size_mb=size_mb)
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", "keep: 4")), world) as watched:
        await shown_as(watched, word, 40.0, of=3)
        await asyncio.sleep(30 * MINUTE)
        (ended,) = watched.ended
    assert (ended.result, len(ended.deleted)) == (Result.SUCCESS, 0)
    assert len(world.snapshots_of("12345")) == 5


@pytest.mark.usefixtures("few_ticks")
async def test_on_a_full_server_a_momentary_word_lets_no_other_one_go_in_its_place(tmp_path: Path) -> None:
    world = a_full_one()
    world.add_snapshot("12345", "by-hand", created_at=START)
    oldest = world.snapshots_of("12345")[0]
    async with daemon_on(configure(tmp_path, entry("10 3 * * *", "keep: 4")), world) as watched:
        await asyncio.sleep(9 * MINUTE)
        oldest.status = "failed"
        await asyncio.sleep(9 * MINUTE)
        assert world.deleted == []
        oldest.status = "completed"
        await asyncio.sleep(30 * MINUTE)
        assert [one.result for one in watched.ended] == [Result.SUCCESS]
    assert world.deleted[0].snapshot is oldest


async def test_what_the_ledger_knows_as_completed_is_no_failed_one_to_a_process_that_never_saw_it_so(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=2))
    scene.world.snapshot_seconds = (400, 500)
    await scene.night(0)
    (taken,) = scene.world.snapshots_of(scene.server_id)
    taken.status, taken.size_mb = "failed", None
    for number in (1, 2, 3):
        await scene.night(number)
    assert taken.id in scene.world.snapshots


async def test_what_has_stayed_failed_goes_one_in_a_rotation_and_one_of_another_word_never(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(11, 12, status="failed", size_mb=None)
    scene.hold_ours(13, status="error", size_mb=None)
    scene.hold_ours(14, status="failed", size_mb=120)
    scene.world.snapshot_seconds = (400, 500)
    first = await scene.night(0)
    assert (first.result, scene.deleted) == (Result.SUCCESS, [ours(11)])
    second = await scene.night(1)
    assert (second.result, scene.deleted) == (Result.SUCCESS, [ours(11), ours(12), ours(16)])
    for number in (2, 3):
        await scene.night(number)
    assert scene.held() == [ours(13), ours(14), ours(19)]


async def test_one_that_is_failed_at_the_first_look_is_watched_for_minutes_before_it_goes(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(11, 12, 13, 14)
    scene.hold_ours(15, status="failed", size_mb=None)
    rotation = await scene.night()
    assert (rotation.result, scene.asked[0]) == (Result.SUCCESS, f"delete {ours(15)}")
    room = next(passed for passed in rotation.trail if passed.step is Step.MAKE_ROOM)
    assert room.seconds >= 300.0


# -- deletions that do nothing ---------------------------------------------------------------------------------


def refuses(scene: Scene, snapshot_id: int, status: int) -> None:
    scene.faulty("status", status=status, method="DELETE", path=f"/snapshots/{snapshot_id}/")


@pytest.mark.parametrize("status", [400, 403, 409, 423, 500])
async def test_one_that_cannot_be_deleted_costs_no_other_night_its_snapshot(tmp_path: Path, status: int) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(12, 13, 14, 15)
    refuses(scene, 801, status)
    for number in range(4):
        rotation = await scene.night(number)
        assert (rotation.result, rotation.failed_step) == (Result.PARTIAL, Step.PRUNE)
        assert f"answered {status} to DELETE /api/v1/snapshots/801/" in error_of(rotation)
        assert ours(16 + number) in scene.held("completed")
        assert "801" not in rotation.deleted
    assert scene.held() == [ours(12), ours(17), ours(18), ours(19)]


async def test_a_refusal_of_all_deletions_costs_nothing_but_new_snapshots(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(11, 12, 13, 14, 15)
    scene.faulty("status", status=400, method="DELETE")
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation).startswith("blocked: could not delete ")
    assert ours(15) not in scene.deleted, "our newest is not even tried"
    assert len(scene.deleted) == 4


async def test_a_deletion_that_is_answered_as_done_and_does_nothing_is_told_by_the_next_rotation(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(12, 13, 14, 15)
    scene.world.snapshot_seconds = (20, 30)
    refuses(scene, 801, 204)
    first = await scene.night()
    assert (first.result, first.deleted) == (Result.SUCCESS, ("801",))
    soon = await scene.story.rotate(datetime.now(UTC).replace(microsecond=0))
    assert soon.result is Result.PARTIAL
    assert ours(12) in error_of(soon)
    assert ("801" in soon.deleted, scene.deleted.count(ours(12))) == (False, 1), "not again within minutes"
    for number in (1, 2):
        later = await scene.night(number)
        assert (later.result, later.failed_step) == (Result.PARTIAL, Step.PRUNE)
        assert f"{ours(12)} is listed still" in error_of(later)
        assert "801" not in later.deleted
        assert ours(16 + number) in scene.held("completed")


@pytest.mark.usefixtures("few_ticks")
async def test_a_plan_of_a_fresh_process_names_what_could_not_be_deleted_and_what_gives_way_for_it(
    tmp_path: Path, commands_reach: Callable[..., None]
) -> None:
    world = a_full_one()
    world.faults.append(Fault(kind="status", status=423, method="DELETE", path="/snapshots/801/", times=None))
    path = configure(tmp_path, entry("10 3 * * *", "keep: 4"))
    commands_reach(WorldTransport(world))

    async def planned() -> dict[object, str]:
        settings = config.load(path, {})
        account = await read_account(settings, {"VPS_API_TOKEN": world.token}, [])
        (target,), known = account.targets, account.known
        shown = people_plan_of(settings, target, known["12345"], now=account.now, machine=account.machine, count=1)
        return {row["id"]: row["reason"] for row in shown["snapshots"] if row["decision"] == "delete"}

    assert await planned() == {}
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(22 * MINUTE)
        assert [one.result for one in watched.ended] == [Result.PARTIAL]
    assert await planned() == {
        801: "delete: over keep 4; the last rotation could not delete it",
        802: "delete: over keep 3 (keep 4, less 1: 1 cannot be deleted)",
    }


async def test_a_deletion_that_shows_late_is_no_failure_of_the_next_rotation(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(12, 13, 14, 15)
    scene.faulty("slow_delete", times=1, delay=60.0, method="DELETE")
    await scene.night()
    soon = await scene.story.rotate(datetime.now(UTC).replace(microsecond=0))
    assert soon.result is Result.SUCCESS
    assert len(scene.deleted) == len(set(scene.deleted))


# -- words before the beginning --------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["pending", "queued", "creating", "being_conceived"])
async def test_a_snapshot_that_is_not_in_progress_yet_is_waited_for_and_its_server_stays_off(
    tmp_path: Path, word: str
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    take = scene.world.take_snapshot

    def take_in_turn(*args: Any) -> SimSnapshot:
        made = take(*args)
        made.status = word
        scene.world.later(400.0, lambda: setattr(made, "status", "in_progress"))
        return made

    scene.world.take_snapshot, scene.world.snapshot_seconds = take_in_turn, (600, 700)  # type: ignore[assignment,method-assign]
    rotation = await scene.night()
    assert (rotation.result, scene.asked) == (Result.SUCCESS, ["stop", "create", "start"])
    (wait,) = [passed for passed in rotation.trail if passed.step is Step.WAIT]
    assert wait.seconds >= 590.0


@pytest.mark.parametrize("word", ["pending", "being_conceived"])
async def test_a_snapshot_that_never_gets_in_progress_is_given_up_after_its_time(tmp_path: Path, word: str) -> None:
    scene = Scene(tmp_path, stop_first=True, snapshot_timeout=timedelta(minutes=10))
    scene.faulty("ends", word=word, **CREATE)
    scene.world.snapshot_seconds = (0, 0)
    rotation = await scene.night()
    assert (rotation.result, rotation.failed_step) == (Result.FAILURE, Step.WAIT)
    assert error_of(rotation).startswith("gave up after 6" if word == "pending" else f"{NEW} ended as")
    assert scene.asked == ["stop", "create", "start"]


# -- odd values ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_ticks")
@pytest.mark.parametrize(
    ("odd", "is_doubtful"),
    [
        ({"size_mb": int("9" * 400)}, False),
        ({"size_mb": int("9" * 4000)}, False),
        ({"id": int("9" * 4000)}, True),
        ({"id": int("9" * 400)}, True),
        ({"id": "x" * 5000}, True),
        ({"created_at": "0001-01-01T00:00:00Z"}, False),
        ({"created_at": "9999-12-31T23:59:59Z"}, False),
        ({"created_at": "9999-12-31T23:59:59-14:00"}, False),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_one_odd_value_blinds_neither_the_metrics_nor_a_page_nor_a_command(
    tmp_path: Path,
    odd: dict[str, Any],
    is_doubtful: bool,
    commands_reach: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = a_full_one()
    world.add_server("db-01")
    victim = world.snapshots_of("12345")[-1]
    shown = api._snapshot

    def bent(world: World, one: SimSnapshot) -> dict[str, Any]:
        return {**shown(world, one), **(odd if one is victim else {})}

    monkeypatch.setattr(api, "_snapshot", bent)
    path = configure(
        tmp_path,
        entry("10 17 * * *"),
        entry("10 17 * * *", server_id="12346"),
        more="defaults: {timezone: Pacific/Kiritimati}",
    )
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(30 * MINUTE)
        assert len({labels[0] for labels in watched.series("snaprotd_snapshots")}) == (1 if is_doubtful else 2)
        for page in ("/", "/servers/12345", "/servers/12346", "/api/status", "/metrics"):
            assert (await watched.get(page)).status_code == 200
        assert {one.label for one in watched.ended if one.result is Result.SUCCESS} >= {"s12346"}
        assert is_doubtful is not ("s12345" in {one.label for one in watched.ended if one.result is Result.SUCCESS})
    assert victim.id in world.snapshots
    commands_reach(WorldTransport(world))
    settings = config.load(path, {})
    account = await read_account(settings, {"VPS_API_TOKEN": world.token}, [])
    rows = snapshot_rows(settings, account.targets, account.known, account.wanted)
    json.dumps(rows)
    show(list_text(rows, account.now, account.headings))
    shown_to = partial(people_plan_of, settings, now=account.now, machine=account.machine, count=3)
    plans = [shown_to(one, account.known.get(one.server_id)) for one in account.targets]
    show(plan_text(plans, account.now, settings.limit))
    assert (account.doubt, "12345" in account.in_doubt) == (None, is_doubtful)
    assert "s12346" in capsys.readouterr().out


# -- the provider's own limit ----------------------------------------------------------------------------------


async def test_a_limit_that_the_provider_does_not_have_is_learnt_at_its_first_refusal(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stop_first=True, keep=Retention(last=9))
    scene.story.limit = 10
    scene.hold_ours(11, 12, 13, 14, 15)
    first = await scene.night(0)
    assert (first.result, scene.asked) == (Result.FAILURE, ["stop", "create", "start"])
    assert "no more than 5 of this server, and not `limit: 10`" in error_of(first)
    for number in (1, 2):
        later = await scene.night(number)
        assert (later.result, later.failed_step) == (Result.FAILURE, Step.LOOK)
        assert "no more than 5 of this server, and not `limit: 10`" in error_of(later)
    assert scene.asked == ["stop", "create", "start"], "no stop each night for nothing, and nothing deleted"
    scene.story.limit, scene.story.policy = 5, a_policy(stop_first=True)
    assert (await scene.night(3)).result is Result.SUCCESS


async def test_a_limit_that_was_lowered_deletes_as_many_as_it_takes_at_once_and_then_takes_the_snapshot(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, stop_first=True, keep=Retention(last=2), world=World(limit=3, snapshot_seconds=(90, 120)))
    scene.story.limit = 3
    scene.hold_ours(11, 12, 13, 14, 15)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked[:4] == [*(f"delete {ours(day)}" for day in (11, 12, 13)), "stop"]
    assert scene.held() == [ours(15), NEW]


async def test_a_limit_that_the_provider_lowered_costs_one_night_and_one_snapshot_at_the_most(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stop_first=True, world=World(limit=3, snapshot_seconds=(90, 120)))
    scene.hold_ours(11, 12, 13, 14, 15)
    for number in range(3):
        assert (await scene.night(number)).result is Result.FAILURE
    assert scene.asked == [f"delete {ours(11)}", "stop", "create", "start"]
    assert scene.held() == [ours(12), ours(13), ours(14), ours(15)]


async def test_a_refusal_without_words_stops_a_server_twice_and_not_each_night(tmp_path: Path) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(15)
    scene.faulty("status", status=400, **CREATE)
    for number in range(4):
        assert (await scene.night(number)).result is Result.FAILURE
    assert scene.asked.count("stop") == 2
    await asyncio.sleep(8 * 86400)
    scene.world.faults.clear()
    assert (await scene.night(13)).result is Result.SUCCESS


async def test_a_limit_above_the_providers_own_is_told_by_the_online_check(
    tmp_path: Path, commands_reach: Callable[..., None]
) -> None:
    commands_reach(WorldTransport(world := a_full_one()))
    path = configure(tmp_path, entry(), more="limit: 10")
    findings = await check_online(config.load(path, {}), {"VPS_API_TOKEN": world.token})
    assert [one.text for one in findings if not one.ok] == [
        "limit: 10 is more than the 5 snapshots that the provider allows: one beyond them is refused"
    ]


# -- another clock ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-1, 0, 26])
def test_a_date_to_wait_for_is_counted_from_the_answers_own(hours: int) -> None:
    """Whatever our own clock shows."""
    theirs = datetime.now(UTC) + timedelta(hours=hours)
    headers = {"Date": format_datetime(theirs, usegmt=True)}
    until = format_datetime(theirs + timedelta(seconds=90), usegmt=True)
    reply = Reply(status=429, headers=httpx.Headers({**headers, "Retry-After": until}), body=b"")
    assert reply.retry_after == 90.0
    assert replace(reply, headers=httpx.Headers({"Date": "today", "Retry-After": "90"})).retry_after == 90.0


# -- long after its slot ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [2, 5])
async def test_a_server_that_runs_is_not_stopped_days_after_its_slot(tmp_path: Path, held: int) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(*range(16 - held, 16))
    await asyncio.sleep(30 * MINUTE)
    async with scene.story.life() as tools:
        claim = await tools.ledger.claim(scene.story.rotation(night(0)))
        assert isinstance(claim, Claimed)
        one = Run(claim.rotation, tools)
        while one.rotation.step is not Step.STOP:
            await _visit_and_save(one)
    scene.asked.clear()
    await asyncio.sleep(3 * 86400)
    async with scene.story.life() as tools:
        (left,) = await tools.ledger.take_over(everything=True)
        ended = await run_rotation(Run(resumed(left, tools.now()), tools))
    assert (ended.result, scene.asked) == (Result.FAILURE, [])
    assert error_of(ended) == "interrupted before anything was done, and resumed too late"
