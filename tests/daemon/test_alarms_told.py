"""A whole daemon tells people of what the page shows as an alarm and no event tells of: its beginning, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snaprotd.core.errors import SnaprotdError
from snaprotd.core.telling import edges
from snaprotd.report.happenings import LISTED
from snaprotd.report.kinds import ALARM, KINDS
from snaprotd.simulator import Fault, World
from tests.daemon.test_events import events, kinds
from tests.daemon.test_teller import HOUR, MINUTE, Outside, configured, outside
from tests.scenarios.test_power import LedgerOnABadDisk
from tests.support.daemons import Watched, a_world, daemon_on, kill

__all__ = ["outside"]

pytestmark = pytest.mark.usefixtures("silence", "few_ticks")

Spoil = Callable[[World, Watched], Callable[[], Any]]
"""Brings an alarm about; what it answers ends it."""


OF_THE_WHOLE = {"config_refused", "ledger_unusable", "account_not_listed"}
OF_POWER = {"held_off_too_long", "not_starting", "start_owed", "start_in_doubt", "start_owed_elsewhere"}
OF_A_ROTATION = {"failed", "failed_untouchable", "failed_own_server", "blocked", "untouchable", "own_server"}
"""The rotation that begins at the slot fails for it."""


def test_each_alarm_of_the_page_has_somebody_who_tells_of_it() -> None:
    alarms = {name for name, kind in KINDS.items() if kind.severity == ALARM}
    by_itself = LISTED.keys() | {"set_aside", "certificate_bad", "pages_away", "vanished", "renamed", "ledger_old"}
    assert alarms == by_itself | OF_THE_WHOLE | OF_POWER | OF_A_ROTATION


def two_servers() -> World:
    world = a_world("web-01", "web-02")
    for one in world.servers:
        world.add_snapshot(one, "snaprotd-main-20250115T030000Z", created_at=datetime(2025, 1, 15, 3, tzinfo=UTC))
    return world


def is_gone(world: World, watched: Watched) -> Callable[[], Any]:
    kept = world.servers.pop("12346")
    return lambda: world.servers.update({"12346": kept})


def has_a_strangers(world: World, watched: Watched) -> Callable[[], Any]:
    name = f"snaprotd-main-{world.clock():%Y%m%dT%H%M%SZ}"
    added = world.add_snapshot("12346", name, created_at=world.clock())
    return lambda: world.snapshots.pop(added.id)


def is_in_doubt(world: World, watched: Watched) -> Callable[[], Any]:
    added = world.add_snapshot("12346", None)  # type: ignore[arg-type]
    return lambda: world.snapshots.pop(added.id)


@dataclass
class BadCertificate:
    file: Path = Path("/etc/snaprotd/pages.crt")
    ends_at: datetime | None = None
    why_not: str = "does not fit its key"


def has_a_bad_certificate(world: World, watched: Watched) -> Callable[[], Any]:
    pages = watched.daemon._pages
    pages.certificate = BadCertificate()  # type: ignore[assignment]
    return lambda: setattr(pages, "certificate", None)


def has_no_pages(world: World, watched: Watched) -> Callable[[], Any]:
    pages = watched.daemon._pages
    pages.why_away = SnaprotdError("127.0.0.1:9877 is taken")
    return lambda: setattr(pages, "why_away", None)


CASES = {
    "missing": (is_gone, "web-02: the account has no server 12346"),
    "another snaprotd": (has_a_strangers, "web-02: not all that bears our name was taken here"),
    "in doubt": (is_in_doubt, "web-02: what snapshots it has is not known for certain"),
    "certificate": (has_a_bad_certificate, "the certificate of the pages does not fit its key"),
    "no pages": (has_no_pages, "the pages cannot be served, and so there are no metrics and no probes: 127.0.0.1"),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_alarm_that_lasts_is_told_with_a_reminder_and_its_end(
    tmp_path: Path, outside: Outside, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "REMIND", timedelta(minutes=40))  # a day takes long
    monkeypatch.setattr(edges, "TOGETHER", timedelta(minutes=1))
    spoil, words = CASES[case]
    world = two_servers()
    path = configured(tmp_path, world, schedule="@yearly")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(7 * MINUTE)
        mend = spoil(world, watched)
        await asyncio.sleep(5 * MINUTE)
        assert outside.told == [], "it may pass"
        await asyncio.sleep(35 * MINUTE)
        (told,) = outside.told
        assert (told["kind"], told["severity"]) == ("failure", "alarm")
        assert told["text"].startswith(words)
        assert outside.pings == ["/fail"]
        await asyncio.sleep(40 * MINUTE)
        assert [one["text"].startswith("still, after ") for one in outside.told] == [False, True]
    world.faults = [Fault(kind="status", status=503, times=None)]
    async with daemon_on(path, world) as watched:
        if case in ("certificate", "no pages"):
            mend = spoil(world, watched)
        await asyncio.sleep(4 * MINUTE)
        world.faults = []
        await asyncio.sleep(4 * MINUTE)
        assert len(outside.told) == 2, "a restart ends nothing"
        mend()
        await asyncio.sleep(20 * MINUTE)
    assert [one["kind"] for one in outside.told if "still, after" not in one["text"]] == ["failure", "recovery"]
    assert "over" in outside.told[-1]["text"]


@pytest.mark.parametrize("case", CASES)
async def test_an_alarm_that_passes_is_not_told(tmp_path: Path, outside: Outside, case: str) -> None:
    spoil, _ = CASES[case]
    world = two_servers()
    async with daemon_on(configured(tmp_path, world, schedule="@yearly"), world) as watched:
        await asyncio.sleep(7 * MINUTE)
        mend = spoil(world, watched)
        await asyncio.sleep(2 * MINUTE)
        mend()
        await asyncio.sleep(HOUR)
    assert outside.told == []


@contextmanager
def no_rotation_takes_any(world: World) -> Iterator[None]:
    world.faults = [Fault(kind="ends", word="failed", method="POST", path="/snapshots/", times=None)]
    yield
    world.faults = []


@pytest.mark.parametrize("fails", [False, True])
async def test_a_snapshot_that_is_too_old_is_told_once_where_no_failure_says_so_already(
    tmp_path: Path, outside: Outside, fails: bool
) -> None:
    world = a_world("web-01")
    old = datetime(2025, 1, 15, 3, 5, tzinfo=UTC) if fails else datetime(2025, 1, 14, 3, 5, tzinfo=UTC)
    world.add_snapshot("12345", f"snaprotd-main-{old:%Y%m%dT%H%M%SZ}", created_at=old)
    path = configured(tmp_path, world, schedule="5 4 * * *")
    async with daemon_on(path, world):
        if fails:
            with no_rotation_takes_any(world):
                await asyncio.sleep(2.5 * HOUR)
            assert [one["kind"] for one in outside.told] == ["failure"], outside.words
            assert "the last rotation ended as failure" in outside.told[0]["text"]
            return
        await asyncio.sleep(30 * MINUTE)
        assert outside.words == ["failure: web-01: the newest snapshot is older than the schedule allows"]
        await asyncio.sleep(HOUR)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"], outside.words


async def test_a_certificate_that_is_bad_is_not_over_where_nobody_can_look_at_it(
    tmp_path: Path, outside: Outside
) -> None:
    world = two_servers()
    path = configured(tmp_path, world, schedule="@yearly")
    async with daemon_on(path, world) as watched:
        has_a_bad_certificate(world, watched)
        await asyncio.sleep(15 * MINUTE)
    async with daemon_on(path, world) as watched:
        mend = has_no_pages(world, watched)
        await asyncio.sleep(15 * MINUTE)
        assert [one["kind"] for one in outside.told] == ["failure", "failure"], outside.words
        mend()
        await asyncio.sleep(5 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "failure", "recovery", "recovery"], outside.words


async def test_what_is_too_old_is_not_over_because_the_last_snapshot_has_gone(tmp_path: Path, outside: Outside) -> None:
    world, old = a_world("web-01"), datetime(2025, 1, 14, 3, 5, tzinfo=UTC)
    last = world.add_snapshot("12345", f"snaprotd-main-{old:%Y%m%dT%H%M%SZ}", created_at=old)
    async with daemon_on(configured(tmp_path, world, schedule="5 6 * * *"), world):
        await asyncio.sleep(30 * MINUTE)
        world.remove_snapshot(last.id)
        await asyncio.sleep(2 * HOUR)
        assert [one["kind"] for one in outside.told] == ["failure", "vanished"], outside.words
        await asyncio.sleep(HOUR)
    assert [one["kind"] for one in outside.told] == ["failure", "vanished", "recovery"], outside.words


async def test_what_is_too_old_is_not_told_to_be_over_where_its_server_is_paused(
    tmp_path: Path, outside: Outside
) -> None:
    world, old = a_world("web-01"), datetime(2025, 1, 14, 3, 5, tzinfo=UTC)
    world.add_snapshot("12345", f"snaprotd-main-{old:%Y%m%dT%H%M%SZ}", created_at=old)
    path = configured(tmp_path, world, schedule="5 12 * * *")
    async with daemon_on(path, world):
        await asyncio.sleep(30 * MINUTE)
        path.write_text(path.read_text().replace("stop_first: true", "stop_first: true, paused: true"))
        await asyncio.sleep(15 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"], outside.words
    assert outside.told[1]["text"].startswith("web-01: its policy is paused, and nothing more is told of it; what was")


async def test_a_rotation_that_was_set_aside_is_told_and_the_next_success_is_its_end(
    tmp_path: Path, outside: Outside
) -> None:
    world = a_world("web-01")
    path = configured(tmp_path, world, schedule="25 3 * * *")
    async with daemon_on(path, world) as watched:
        await asyncio.sleep(5 * MINUTE)
        watched.daemon._tools.ledger.set_aside["12345"] = "its rotation r1 was set aside"
        await asyncio.sleep(5 * MINUTE)
        assert outside.words == ["failure: web-01: its rotation r1 was set aside"]
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
        assert len(outside.told) == 1, "a restart ends nothing"
        await asyncio.sleep(30 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"], outside.words


# -- the ledger itself -------------------------------------------------------------------------------------------------


@pytest.fixture
def bad_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What the ledger's disk is like from then on; nothing is noted outside the test's own folders."""
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", LedgerOnABadDisk)
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "run"))
    return lambda disk: monkeypatch.setattr(LedgerOnABadDisk, "disk", disk)


def old_notes(folder: Path) -> list[str]:
    return [one.name for one in folder.rglob("*told-*")]


@asynccontextmanager
async def killed_in_the_end(path: Path, world: World) -> AsyncIterator[Watched]:
    watched = Watched(path, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.daemon.started.wait()
    yield watched
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("folder", ["RUNTIME_DIRECTORY", "CACHE_DIRECTORY"])
async def test_where_no_temporary_folder_outlives_a_restart_systemds_own_folders_for_the_service_do(
    tmp_path: Path, outside: Outside, bad_disk: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    world = a_world("web-01")
    path = configured(tmp_path, world, schedule="@yearly")
    (tmp_path / "told-of-state.db").mkdir()
    (tmp_path / "own").mkdir()
    monkeypatch.setenv(folder, f"{tmp_path}/own:{tmp_path}/another")
    async with killed_in_the_end(path, world):
        await asyncio.sleep(3 * MINUTE)
        bad_disk("read-only")
        await asyncio.sleep(5 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure"], outside.words
    (tmp_path / "anew").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "anew"))
    bad_disk("")
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"], outside.words
    assert old_notes(tmp_path) == ["told-of-state.db"]


@pytest.mark.parametrize("beside", [True, False], ids=["beside the ledger", "in another folder"])
@pytest.mark.parametrize("disk", ["full", "read-only"])
async def test_that_the_ledger_can_be_written_again_is_told_by_the_process_that_follows(
    tmp_path: Path, outside: Outside, bad_disk: Callable[[str], None], disk: str, beside: bool
) -> None:
    world = a_world("web-01")
    path = configured(tmp_path, world, schedule="@yearly")
    if not beside:
        (tmp_path / "told-of-state.db").mkdir()
    async with killed_in_the_end(path, world):
        await asyncio.sleep(3 * MINUTE)
        bad_disk(disk)
        await asyncio.sleep(10 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure"], outside.words
    bad_disk("")
    for _ in range(2):
        async with daemon_on(path, world) as watched:
            await asyncio.sleep(5 * MINUTE)
            assert kinds(await events(watched)) == ["failure", "recovery"]
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"], outside.words
    assert outside.pings == ["/fail", ""]
    assert old_notes(tmp_path) == [] if beside else ["told-of-state.db"]


async def test_what_a_receiver_did_not_take_before_a_restart_is_sent_after_it(
    tmp_path: Path, outside: Outside, bad_disk: Callable[[str], None]
) -> None:
    world = a_world("web-01")
    path = configured(tmp_path, world, schedule="@yearly")
    async with killed_in_the_end(path, world):
        await asyncio.sleep(3 * MINUTE)
        bad_disk("full")
        outside.is_away = True
        await asyncio.sleep(10 * MINUTE)
    outside.is_away = False
    bad_disk("")
    for _ in range(2):
        async with daemon_on(path, world):
            await asyncio.sleep(5 * MINUTE)
    assert [one["kind"] for one in outside.told] == ["failure", "recovery"], outside.words


@pytest.mark.parametrize("note", ["", "{}", "[" * 5000, '{"trouble": {"event": 1}}', "\udcff"])
async def test_a_note_that_makes_no_sense_is_left_out(
    tmp_path: Path, outside: Outside, bad_disk: Callable[[str], None], note: str
) -> None:
    world = a_world("web-01")
    path = configured(tmp_path, world, schedule="@yearly")
    (tmp_path / "told-of-state.db").write_bytes(note.encode(errors="surrogateescape"))
    async with daemon_on(path, world):
        await asyncio.sleep(5 * MINUTE)
    assert outside.told == []
