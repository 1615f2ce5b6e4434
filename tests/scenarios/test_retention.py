"""Whole rotations against the simulated provider: what is deleted, what is never deleted, and what the user is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.errors import ConfigError
from snaprotd.core.model import Owner, Snapshot
from snaprotd.core.policy import Retention, WhenFull
from snaprotd.core.retention import Decision, RetentionPlan
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.simulator import Fault, Request, SimSnapshot, World
from tests.support.daemons import Watched, daemon_on, write_config
from tests.support.lives import Story, night
from tests.support.policies import a_policy
from tests.support.promises import Witnessed
from tests.support.virtual_time import run_virtually

NEW = "snaprotd-main-20250116T033000Z"
LONG_AGO = "snaprotd-main-20241201T033000Z"
CREATE: dict[str, Any] = {"method": "POST", "path": "/snapshots/"}
LIST: dict[str, Any] = {"method": "GET", "path": "/snapshots/"}

TOO_MANY = 5000
"""Requests after which a rotation is taken for one that never ends."""


def ours(day: int) -> str:
    return f"snaprotd-main-202501{day:02}T033000Z"


def at(day: int) -> datetime:
    return datetime(2025, 1, day, 3, 30, tzinfo=UTC)


def is_create(request: Request) -> bool:
    return request.method == "POST" and request.path.endswith("/snapshots/")


def error_of(rotation: Rotation) -> str:
    assert rotation.error is not None
    return rotation.error


class Scene:
    """One server with its policy, the changes that were asked of the provider, and the promises that hold throughout.

    `asked` is what went out, in order: `create`, `stop`, `start`, or `delete` with the snapshot's name. `requests` are
    all that reached the provider, each with its time.
    """

    def __init__(self, folder: Path, *, world: World | None = None, instance: str = "main", **policy: Any) -> None:
        self.world = world or World(token="opens-nothing", snapshot_seconds=(90, 120))
        self.server_id = next(iter(self.world.servers), None) or self.world.add_server("web-01")
        self.story = Story(
            world=self.world,
            ledger_path=folder / f"{instance}.db",
            policy=a_policy(**policy),
            server_id=self.server_id,
            instance=instance,
            poll_interval=60.0,
        )
        self.witnessed = Witnessed(self.story)
        self.story.before_request = self._before
        self.asked: list[str] = []
        self.requests: list[tuple[float, Request]] = []
        self.on_request: Callable[[Request], None] = lambda _: None

    def _before(self, request: Request) -> None:
        self.requests.append((asyncio.get_running_loop().time(), request))
        if len(self.requests) > TOO_MANY:
            pytest.fail("it never ends")
        if request.method == "POST":
            self.asked.append(str(request.json.get("action", "create")))
        if request.method == "DELETE":
            self.asked.append(f"delete {self.name_of(request.path.split('/')[-2])}")
        self.witnessed.before(request)
        self.on_request(request)

    def name_of(self, snapshot_id: str) -> str:
        """The name of a snapshot that the server holds; else its id."""
        return next((one.name for one in self.world.snapshots.values() if str(one.id) == snapshot_id), snapshot_id)

    def hold_ours(self, *days: int, **more: Any) -> None:
        for day in days:
            self.hold(ours(day), created_at=at(day), **more)

    def hold(self, *names: str, **more: Any) -> None:
        for name in names:
            self.world.add_snapshot(self.server_id, name, **more)

    def held(self, status: str | None = None) -> list[str]:
        found = self.world.snapshots_of(self.server_id)
        return sorted(one.name for one in found if status in (None, one.status))

    def faulty(self, kind: str, *, times: int | None = None, **more: Any) -> None:
        self.world.faults.append(Fault(kind=kind, times=times, **more))

    @property
    def deleted(self) -> list[str]:
        """Names of what was asked to be deleted, in order."""
        return [one.removeprefix("delete ") for one in self.asked if one.startswith("delete ")]

    async def night(self, number: int = 0) -> Rotation:
        """The rotation of the numbered night, at its time; the promises are judged after it."""
        slot = night(number)
        await asyncio.sleep(max(0.0, (slot - datetime.now(UTC)).total_seconds()))
        ended = await self.story.rotate(slot)
        self.witnessed.judge_rotation(ended, was_active=True)
        assert self.witnessed.broken == []
        return ended


# -- unready ones do not count ---------------------------------------------------------------------------------


async def test_five_nights_that_end_badly_push_no_completed_snapshot_out(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=2))
    scene.hold_ours(14, 15)
    scene.faulty("ends", times=5, **CREATE)
    for number in range(5):
        rotation = await scene.night(number)
        assert rotation.result is Result.FAILURE
        assert rotation.error == f"{rotation.snapshot_name} ended as `failed`"
        assert scene.held("completed") == [ours(14), ours(15)]
    assert [one.status for one in scene.world.deleted] == ["failed", "failed"]
    rotation = await scene.night(5)
    assert rotation.result is Result.SUCCESS
    assert scene.held() == [ours(15), ours(19), ours(20), ours(21)]


@pytest.mark.parametrize("fault", [{"kind": "stuck"}, {"kind": "ends", "word": "archived"}])
async def test_snapshots_that_never_complete_hold_their_slots_and_no_completed_one_goes_for_another_such(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=2))
    scene.hold_ours(14, 15)
    scene.faulty(**fault, **CREATE)
    for number in range(6):
        rotation = await scene.night(number)
        assert rotation.result is Result.FAILURE
    assert error_of(rotation).startswith("blocked: 5 of 5 snapshots, 5 ours: ")
    assert f"3 have not ended within 30 min, so nothing goes for one more: {ours(18)}, " in error_of(rotation)
    assert scene.deleted == []
    assert scene.held("completed") == [ours(14), ours(15)]


async def test_one_in_progress_of_an_earlier_night_is_neither_kept_instead_of_a_completed_one_nor_deleted(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=2))
    scene.hold_ours(13, 14)
    scene.hold_ours(15, status="in_progress")
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.deleted == [ours(13)]
    assert scene.held() == [ours(14), ours(15), NEW]


# -- a snapshot that came to nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["failed", "error", "archived", "COMPLETED", ""])
async def test_nothing_is_deleted_after_a_snapshot_that_did_not_complete(tmp_path: Path, word: str) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(12, 13, 14)
    scene.faulty("ends", word=word, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert rotation.error == f"{NEW} ended as `{word}`"
    assert rotation.failed_step is Step.WAIT
    assert scene.asked == ["stop", "create", "start"]


async def test_nothing_is_deleted_after_a_snapshot_that_vanished(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(12, 13, 14)

    def vanish() -> None:
        scene.world.remove_snapshot(scene.world.created[-1].id)

    def on_request(request: Request) -> None:
        if is_create(request):
            scene.world.later(60, vanish)

    scene.on_request = on_request
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert rotation.error == f"{NEW} has vanished"
    assert scene.asked == ["stop", "create", "start"]


async def test_nothing_is_deleted_where_the_completed_snapshot_vanishes_before_the_old_ones_go(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(12, 13, 14)

    def on_request(request: Request) -> None:
        if request.json.get("action") == "start":
            scene.world.remove_snapshot(scene.world.created[-1].id)

    scene.on_request = on_request
    rotation = await scene.night()
    assert rotation.result is Result.PARTIAL
    assert error_of(rotation).endswith(
        "the list does not show the new snapshot as completed: nothing is deleted on such a list"
    )
    assert scene.asked == ["stop", "create", "start"]
    assert scene.held() == [ours(12), ours(13), ours(14)]


async def test_a_snapshot_stuck_in_progress_deletes_nothing_and_does_not_keep_the_server_off(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(12, 13, 14)
    scene.faulty("stuck", **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation).endswith("the snapshot is in progress")
    assert rotation.power.off_for < timedelta(minutes=35).total_seconds()
    assert scene.asked == ["stop", "create", "start"]


# -- a create that failed --------------------------------------------------------------------------------------

REFUSALS = [
    ({"kind": "status", "status": 500}, 3, "asked 3 times for the snapshot, no answer and no snapshot"),
    ({"kind": "status", "status": 503}, 3, "asked 3 times for the snapshot, no answer and no snapshot"),
    ({"kind": "html", "status": 502}, 3, "asked 3 times for the snapshot, no answer and no snapshot"),
    ({"kind": "cut"}, 3, "asked 3 times for the snapshot, no answer and no snapshot"),
    ({"kind": "hang"}, 3, "asked 3 times for the snapshot, no answer and no snapshot"),
    ({"kind": "status", "status": 400}, 1, "vps.invalid answered 400 to POST /api/v1/snapshots/: simulated 400"),
    ({"kind": "status", "status": 401}, 1, "(the token of the environment variable VPS_API_TOKEN is not accepted)"),
    ({"kind": "status", "status": 403}, 1, "simulated 403 (the token lacks the permission)"),
    ({"kind": "status", "status": 404}, 1, "vps.invalid answered 404 to POST /api/v1/snapshots/: simulated 404"),
    ({"kind": "redirect"}, 1, "(a redirect, not followed: check api.base_url)"),
]


@pytest.mark.parametrize(("fault", "creates", "words"), REFUSALS)
async def test_nothing_is_deleted_where_the_create_fails(
    tmp_path: Path, fault: dict[str, Any], creates: int, words: str
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(12, 13, 14)
    scene.faulty(**fault, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation).endswith(words)
    assert rotation.failed_step is Step.SNAPSHOT
    assert scene.asked == ["stop", *["create"] * creates, "start"]
    assert scene.held() == [ours(12), ours(13), ours(14)]


async def test_nothing_is_deleted_where_the_create_is_put_off_for_too_long(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(12, 13, 14)
    scene.faulty("status", status=429, retry_after="300", **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation).startswith("gave up after ")
    assert error_of(rotation).endswith("vps.invalid answered 429 to POST /api/v1/snapshots/: simulated 429")
    assert scene.asked.count("create") <= 30 * 60 / 300 + 1
    assert scene.deleted == []


# -- a full server ---------------------------------------------------------------------------------------------


async def test_on_a_full_server_our_oldest_goes_then_the_new_one_is_taken_then_room_is_made_for_the_next(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, stop_first=True)
    scene.hold_ours(12, 13, 14, 15)
    scene.hold("by-hand")
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.asked == [f"delete {ours(12)}", "stop", "create", "start", f"delete {ours(13)}"]
    assert scene.held() == ["by-hand", ours(14), ours(15), NEW]
    scene.asked.clear()
    await scene.night(1)
    assert scene.asked == ["stop", "create", "start", f"delete {ours(14)}"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 400},
        {"kind": "status", "status": 403},
        {"kind": "cut"},
        {"kind": "ends", "word": "failed"},
        {"kind": "ends", "word": "archived"},
        {"kind": "stuck"},
    ],
)
async def test_on_a_full_server_one_is_deleted_for_the_create_and_none_after_it_failed(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    scene = Scene(tmp_path)
    scene.hold_ours(12, 13, 14, 15)
    scene.hold("by-hand")
    scene.faulty(**fault, **CREATE)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert scene.asked[0] == f"delete {ours(12)}"
    assert scene.deleted == [ours(12)]
    assert scene.held("completed") == ["by-hand", ours(13), ours(14), ours(15)]


@pytest.mark.parametrize("when_full", WhenFull)
async def test_a_server_full_of_others_snapshots_is_not_touched_and_says_whose_they_are(
    tmp_path: Path, when_full: WhenFull
) -> None:
    scene = Scene(tmp_path, stop_first=True, when_full=when_full)
    scene.hold("pre-migration-snapshot", created_at=datetime(2025, 1, 15, 18, 30, tzinfo=UTC))
    scene.hold("a", "b", "c", "d", created_at=datetime(2025, 1, 2, tzinfo=UTC))
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    refused = "; when_full is refuse" if when_full is WhenFull.REFUSE else ""
    assert rotation.error == (
        "blocked: 5 of 5 snapshots, 5 not made by snaprotd: a (2025-01-02), b (2025-01-02), c (2025-01-02), "
        f"d (2025-01-02), pre-migration-snapshot (2025-01-15){refused}"
    )
    assert scene.asked == []


@pytest.mark.parametrize("when_full", WhenFull)
@pytest.mark.parametrize("status", ["in_progress", "failed", "archived"])
@pytest.mark.parametrize("age", [timedelta(days=3), timedelta(minutes=1)])
async def test_our_only_completed_snapshot_stays_where_the_others_could_restore_nothing(
    tmp_path: Path, when_full: WhenFull, status: str, age: timedelta
) -> None:
    scene = Scene(tmp_path, stop_first=True, when_full=when_full)
    scene.hold_ours(15)
    scene.hold("a", "b", "c", "d", status=status, created_at=night(0) - age)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation).startswith("blocked: 5 of 5 snapshots, 4 not made by snaprotd: a (2025-01-1")
    assert f"; 1 ours: {ours(15)} (2025-01-15, the only completed one)" in error_of(rotation)
    assert scene.asked == []


@pytest.mark.parametrize(
    ("when_full", "asked"),
    [
        (WhenFull.REPLACE, []),
        (WhenFull.REFUSE, []),
        (WhenFull.REPLACE_LAST, [f"delete {ours(15)}", "create"]),
    ],
)
async def test_our_only_one_goes_only_where_the_policy_says_so_and_somebody_elses_remains(
    tmp_path: Path, when_full: WhenFull, asked: list[str]
) -> None:
    scene = Scene(tmp_path, when_full=when_full)
    scene.hold_ours(15)
    scene.hold("a", "b", "c", status="failed")
    scene.hold("d", created_at=datetime(2025, 1, 2, tzinfo=UTC))
    rotation = await scene.night()
    assert (rotation.result is Result.SUCCESS) is bool(asked)
    assert scene.asked == asked


# -- a policy that makes no sense ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("keep: 0", "keep: should be a whole number from 1 to 4"),
        ("keep: null", "keep: "),
        ('keep: ""', 'not `""`'),
        ("keep: -1", "not `-1`"),
        ("keep: true", "not `true`"),
        ("keep: 5", "one slot stays free"),
        ("keep: {last: 0}", "keeps nothing: at least one count must be 1 or more"),
        ("keep_weakly: 4", "keep_weakly: unknown key, did you mean `keep`?"),
        ("keep: 4, keep: 1", "keep: repeated key"),
    ],
)
async def test_a_retention_that_makes_no_sense_is_refused_and_nothing_is_deleted(
    tmp_path: Path, keys: str, words: str
) -> None:
    entry = '[{id: 12345, name: web-01, schedule: "1 3 * * *", KEYS}]'
    path = write_config(tmp_path, entry.replace("KEYS", "keep: 4"))
    world = World(snapshot_seconds=(60, 60))
    server_id = world.add_server("web-01")
    for day in (13, 14, 15):
        world.add_snapshot(server_id, ours(day), created_at=datetime(2025, 1, day, 3, 30, tzinfo=UTC))
    async with daemon_on(path, world) as watched:
        write_config(tmp_path, entry.replace("KEYS", keys))
        await asyncio.sleep(300)
        assert any(words in remark for remark in watched.daemon.view.remarks())
        assert watched.value("snaprotd_config_last_reload_successful") == 0
    assert [rotation.result for rotation in watched.ended] == [Result.SUCCESS]
    assert len(world.created) == 1
    assert world.deleted == []
    with pytest.raises(ConfigError, match=r"config\.yaml:[0-9]+:[0-9]+: "):
        Watched(path, world)


# -- the one just taken ----------------------------------------------------------------------------------------


class DatedWorld(World):
    """A provider that gives the date of its choice to a new snapshot, and lists them in either order."""

    def __init__(self, date: str | None, *, oldest_first: bool = False) -> None:
        super().__init__(token="opens-nothing", snapshot_seconds=(90, 120))
        self.date = date
        self.oldest_first = oldest_first

    def take_snapshot(self, server_id: str, name: str, description: str, fault: Fault | None) -> SimSnapshot:
        made = super().take_snapshot(server_id, name, description, fault)
        made.created_at = self.date
        return made

    def listed(self, server_id: str | None = None) -> list[SimSnapshot]:
        found = super().listed(server_id)
        return found[::-1] if self.oldest_first else found


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize(
    ("keep", "timezone", "old", "new"),
    [
        (Retention(daily=1), "UTC", "2025-01-15T23:59:59Z", "2025-01-16T00:00:00Z"),
        (Retention(daily=1), "UTC", "2025-01-15T23:59:58Z", "2025-01-15T23:59:59Z"),
        (Retention(daily=1), "UTC", "2025-01-16T00:00:00Z", "2025-01-16T00:00:01Z"),
        (Retention(daily=1), "Europe/Berlin", "2025-01-15T22:59:59Z", "2025-01-15T23:00:00Z"),
        (Retention(hourly=1), "UTC", "2025-01-16T01:59:59Z", "2025-01-16T02:00:00Z"),
        (Retention(weekly=1), "UTC", "2025-01-12T23:59:59Z", "2025-01-13T00:00:00Z"),
        (Retention(monthly=1), "UTC", "2024-12-31T23:59:59Z", "2025-01-01T00:00:00Z"),
        (Retention(yearly=1), "UTC", "2024-12-31T23:59:59Z", "2025-01-01T00:00:00Z"),
        (Retention(last=1), "UTC", "2025-01-16T03:00:00Z", "2025-01-16T03:00:00Z"),
        (Retention(daily=1), "UTC", "2025-01-16T03:00:00Z", "2025-01-16T03:00:00Z"),
        (Retention(last=1), "UTC", "2025-01-16T02:00:00.000001Z", "2025-01-16T04:00:00.000002+02:00"),
    ],
)
async def test_the_one_just_taken_is_kept_and_the_older_one_goes(
    tmp_path: Path, keep: Retention, timezone: str, old: str, new: str, oldest_first: bool
) -> None:
    scene = Scene(tmp_path, world=DatedWorld(new, oldest_first=oldest_first), keep=keep, timezone=timezone)
    scene.hold(LONG_AGO, created_at=old)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.deleted == [LONG_AGO]
    assert scene.held() == [NEW]


# -- after an outage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [Retention(last=1), Retention(daily=2, weekly=2)])
async def test_after_six_months_of_outage_nothing_goes_before_a_new_one_is_completed(
    tmp_path: Path, keep: Retention
) -> None:
    scene = Scene(tmp_path, keep=keep)
    scene.hold_ours(12, 13, 14, 15)
    scene.faulty("status", status=400, times=1, **CREATE)
    scene.faulty("ends", times=1, **CREATE)

    def on_request(request: Request) -> None:
        if request.method == "DELETE" and ours(1) < scene.name_of(request.path.split("/")[-2]) < ours(16):
            assert scene.world.created[-1].status == "completed"

    scene.on_request = on_request
    assert (await scene.night(181)).result is Result.FAILURE
    assert (await scene.night(182)).result is Result.FAILURE
    assert scene.held("completed") == [ours(12), ours(13), ours(14), ours(15)]
    rotation = await scene.night(183)
    assert rotation.result is Result.SUCCESS
    assert rotation.snapshot_name in scene.held("completed")
    assert (ours(15) in scene.held()) is (keep.daily == 2)
    assert not {ours(12), ours(13), ours(14)} & set(scene.held())


# -- dates that cannot be trusted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "date",
    [None, "", "soon", "2025-01-15", "2025-01-15T03:30:00", "2025-01-18T03:30:00Z", "1970-01-01T00:00:00Z"],
)
async def test_a_snapshot_without_a_date_to_trust_is_kept_and_never_taken_for_the_newest(
    tmp_path: Path, date: str | None
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold(ours(15), created_at=date)
    scene.hold_ours(13, 14)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert scene.deleted == [ours(13), ours(14)]
    assert scene.held() == [ours(15), NEW]


async def test_a_provider_that_stops_giving_dates_makes_us_delete_nothing_and_say_why(tmp_path: Path) -> None:
    scene = Scene(tmp_path, world=DatedWorld(None), keep=Retention(last=2))
    scene.hold_ours(14, 15)
    results = [(await scene.night(number)).result for number in range(3)]
    assert results == [Result.SUCCESS] * 3
    assert set(scene.deleted) <= {ours(14)}
    for number in range(3, 6):
        rotation = await scene.night(number)
    assert rotation.result is Result.FAILURE
    assert error_of(rotation).startswith("blocked: 5 of 5 snapshots, 5 ours: ")
    assert "(date unknown)" in error_of(rotation)
    assert set(scene.deleted) == {ours(14)}
    assert ours(15) in scene.held()


# -- whose they are --------------------------------------------------------------------------------------------

LOOKALIKES = [
    "snaprotd-main2-20250110T033000Z",
    "snaprotd-mai-20250110T033000Z",
    "snaprotd-main-old",
    "snaprotd-main-20250110T033000Z-copy",
    "x-snaprotd-main-20250116T033000Z",
    "snaprotd-main-20250116T033000Z2",
    "Snaprotd-main-20250116T033000Z",
]


@pytest.mark.parametrize("name", LOOKALIKES)
async def test_a_name_that_only_resembles_ours_is_neither_deleted_nor_taken_for_the_slots_own(
    tmp_path: Path, name: str
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold(name)
    scene.hold_ours(14, 15)
    rotation = await scene.night()
    assert rotation.result is Result.SUCCESS
    assert [one.name for one in scene.world.created] == [NEW]
    assert scene.deleted == [ours(14), ours(15)]
    assert scene.held() == sorted([name, NEW])


async def test_a_server_full_of_names_that_resemble_ours_is_blocked(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.hold(*LOOKALIKES[:5])
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert error_of(rotation).startswith("blocked: 5 of 5 snapshots, 5 not made by snaprotd: ")
    assert all(name in error_of(rotation) for name in LOOKALIKES[:5])
    assert scene.asked == []


def test_adopted_snapshots_go_by_their_instant_where_the_clock_was_set_back(tmp_path: Path) -> None:
    """On 2025-10-26 the hour from two to three came twice in Berlin: the later snapshot has the earlier local time."""

    async def story() -> None:
        scene = Scene(tmp_path, keep=Retention(last=2), adopt=("auto-*",), timezone="Europe/Berlin")
        scene.hold("auto-0250", created_at="2025-10-26T02:50:00+02:00")
        scene.hold("auto-0210", created_at="2025-10-26T02:10:00+01:00")
        rotation = await scene.night(284)
        assert rotation.result is Result.SUCCESS
        assert scene.held() == ["auto-0210", rotation.snapshot_name]

    run_virtually(story(), start=night(284))


# -- exactly so many -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
async def test_after_each_night_exactly_as_many_are_kept_as_the_policy_says(tmp_path: Path, keep: int) -> None:
    scene = Scene(tmp_path, keep=Retention(last=keep))
    fewest: list[int] = []

    def on_request(request: Request) -> None:
        if scene.world.created[keep:]:
            fewest.append(len(scene.held("completed")))

    scene.on_request = on_request
    for number in range(7):
        await scene.night(number)
        assert scene.held() == [ours(16 + one) for one in range(max(0, number + 1 - keep), number + 1)]
    assert min(fewest) == keep


async def test_two_days_and_two_weeks_are_three_snapshots_on_a_thursday_and_two_on_a_monday(tmp_path: Path) -> None:
    scene = Scene(tmp_path, keep=Retention(daily=2, weekly=2))
    held = {}
    for number in range(12):
        await scene.night(number)
        held[number] = scene.held()
    assert held[7] == [ours(19), ours(22), ours(23)]
    assert held[11] == [ours(26), ours(27)]


# -- two daemons on one account --------------------------------------------------------------------------------


def two_instances(folder: Path, **policy: Any) -> tuple[Scene, Scene]:
    first = Scene(folder, instance="main", **policy)
    return first, Scene(folder, world=first.world, instance="main2", **policy)


async def test_two_instances_on_one_server_share_its_slots_and_delete_only_their_own(tmp_path: Path) -> None:
    first, second = two_instances(tmp_path)
    for number in range(8):
        assert (await first.night(number)).result is Result.SUCCESS
        assert (await second.night(number)).result is Result.SUCCESS
    assert first.deleted
    assert second.deleted
    assert all(name.startswith("snaprotd-main-") for name in first.deleted)
    assert all(name.startswith("snaprotd-main2-") for name in second.deleted)
    assert len(first.held()) == 4


@pytest.mark.parametrize("stop_first", [False, True])
async def test_two_instances_at_the_same_moment_leave_the_server_on_and_each_others_snapshots_alone(
    tmp_path: Path, stop_first: bool
) -> None:
    first, second = two_instances(tmp_path, stop_first=stop_first, keep=Retention(last=2))
    for number in range(4):
        await asyncio.sleep(max(0.0, (night(number) - datetime.now(UTC)).total_seconds()))
        await asyncio.gather(first.story.rotate(night(number)), second.story.rotate(night(number)))
        await asyncio.sleep(600)
        assert first.world.status_of(first.server_id) == "active"
    assert first.witnessed.broken + second.witnessed.broken == []
    assert all(name.startswith("snaprotd-main-") for name in first.deleted)
    assert all(name.startswith("snaprotd-main2-") for name in second.deleted)
    assert [name for name in first.held() if name.startswith("snaprotd-main-")]
    assert [name for name in first.held() if name.startswith("snaprotd-main2-")]


# -- what is not known -----------------------------------------------------------------------------------------

BLIND = [
    ({"kind": "status", "status": 500}, "answered 500 to GET /api/v1/snapshots/: simulated 500"),
    ({"kind": "status", "status": 403}, "simulated 403 (the token lacks the permission)"),
    ({"kind": "status", "status": 401}, "is not accepted)"),
    ({"kind": "status", "status": 404}, "answered 404 to GET /api/v1/snapshots/: simulated 404"),
    ({"kind": "cut"}, "the connection was cut"),
    ({"kind": "hang"}, "no answer to GET /api/v1/snapshots/ from vps.invalid within 30 s"),
    ({"kind": "html"}, "cannot be read: HTML instead of JSON"),
    ({"kind": "truncated"}, "without sending complete message body"),
    ({"kind": "short"}, "it is incomplete, 3 of 5 entries"),
    ({"kind": "foreign_next"}, "the next page points to another host"),
    ({"kind": "redirect"}, "(a redirect, not followed: check api.base_url)"),
    ({"kind": "empty"}, "is empty, and was not when last seen: not believed for 900 s"),
]


@pytest.mark.parametrize(("fault", "words"), BLIND)
async def test_where_the_list_fails_after_a_deletion_no_other_follows_and_the_result_is_partial(
    tmp_path: Path, fault: dict[str, Any], words: str
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold_ours(13, 14, 15)

    def on_request(request: Request) -> None:
        if not scene.world.faults and scene.story.records and scene.story.records[-1].step is Step.PRUNE:
            scene.faulty(**fault, **LIST)

    scene.on_request = on_request
    rotation = await scene.night()
    assert rotation.result is Result.PARTIAL
    assert rotation.failed_step is Step.PRUNE
    assert error_of(rotation).endswith(words)
    assert scene.asked == ["create", f"delete {ours(13)}"]
    assert scene.held() == [ours(14), ours(15), NEW]
    scene.world.faults.clear()
    scene.on_request = lambda _: None
    assert (await scene.night(1)).result is Result.SUCCESS
    assert scene.held() == [ours(17)]


@pytest.mark.parametrize("path", ["/snapshots/", "/servers/*"])
@pytest.mark.parametrize("status", [500, 403, 404])
async def test_where_the_first_look_fails_nothing_at_all_is_asked_of_the_provider(
    tmp_path: Path, path: str, status: int
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1), stop_first=True)
    scene.hold_ours(12, 13, 14, 15)
    scene.hold("by-hand")
    scene.faulty("status", status=status, method="GET", path=path)
    rotation = await scene.night()
    assert rotation.result is Result.FAILURE
    assert f"simulated {status}" in error_of(rotation)
    assert scene.asked == []


# -- the last door -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "victim", ["by-hand", ours(14), ours(13)], ids=["somebody else's", "one in progress", "only our name"]
)
async def test_a_mistake_of_ours_in_the_plan_deletes_nothing_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    scene = Scene(tmp_path, keep=Retention(last=1))
    scene.hold(ours(14), status="in_progress", created_at=datetime(2025, 1, 14, 3, 30, tzinfo=UTC))
    scene.hold("by-hand", ours(13), created_at=datetime(2025, 1, 10, tzinfo=UTC))

    def mistaken(snapshots: Sequence[Snapshot], *_: Any, **__: Any) -> RetentionPlan:
        chosen = next(one for one in snapshots if one.name == victim)
        wrong = Decision(snapshot=chosen, owner=Owner.MANAGED, delete=True, reason="delete: a mistake")
        return RetentionPlan(decisions=(wrong,))

    monkeypatch.setattr("snaprotd.engine.deleting.plan_retention", mistaken)
    ended = await scene.night()
    assert scene.deleted == []
    assert (ended.result, ended.error) == (Result.PARTIAL, "internal error (ForbiddenDeletion): see the log")
    assert scene.story.witness.deletions == [False]
