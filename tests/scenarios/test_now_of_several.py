"""`now` of several servers: each by itself, so many at a time, in turns within a group, and an end at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx
import pytest

from snaprotd.commands.jobs.now import Ending, rotate_now
from snaprotd.commands.jobs.outlook import Wish, look_ahead
from snaprotd.config.file import load
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault
from snaprotd.wiring.access import open_cloud
from snaprotd.wiring.assembly import open_ledger_to_read
from tests.ledger.test_store import LEASE, claimed, rotation
from tests.support.daemons import a_world, configure, daemon_on, entry
from tests.support.harms import lose_the_promise
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "few_ticks")

THREE = ("12345", "12346", "12347")
Shown = Callable[[Rotation], None]


class Story:
    """An account of three servers, each of which is stopped for its snapshot, and commands on it."""

    def __init__(self, folder: Path, *keys: str, more: str = "", faults: tuple[Fault, ...] = ()) -> None:
        self.world = a_world("web-01", "web-02", "web-03", snapshot_seconds=(60, 60), faults=faults)
        entries = [entry("@yearly", "stop_first: true", *keys, server_id=one) for one in THREE]
        self.path = configure(folder, *entries, more=more)
        self.environ = {"VPS_API_TOKEN": self.world.token}

    async def now(self, wish: Wish, shown: Shown = lambda _: None) -> dict[str, Ending]:
        """What became of each server by its id, in the order of the answer."""
        settings = load(self.path, {})
        prospect = await look_ahead(settings, self.environ, wish, looks_at_servers=False)
        endings = await rotate_now(
            *(settings, self.environ, [one.target for one in prospect.outlooks]),
            description=wish.description,
            show=lambda rotation, usual: shown(rotation),
            say=lambda text, *, is_last=False: None,
            mends=wish.failed,
        )
        return {one.target.server_id: one for one in endings}

    async def recorded(self) -> list[tuple[str, Result | None]]:
        """The rotations in the ledger: of which server, and how they have ended."""
        async with open_ledger_to_read(load(self.path, {})) as ledger:
            assert ledger is not None
            return sorted((one.server_id, one.result) for one in await ledger.history())

    def times_off(self) -> list[tuple[datetime, datetime]]:
        """From when until when each server was off, in order of time."""
        found = []
        for server in self.world.servers.values():
            off = [at for at, status in server.history if status == "stopping"]
            on = [at for at, status in server.history[1:] if status == "active"]
            found += list(zip(off, on, strict=True))
        return sorted(found)

    @property
    def most_off(self) -> int:
        times = self.times_off()
        return max(sum(begin <= at < end for begin, end in times) for at, _ in times)


@pytest.fixture
def reach(
    commands_reach: Callable[[httpx.AsyncBaseTransport], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Story], Story]:
    def to(story: Story) -> Story:
        way = WorldTransport(story.world)
        commands_reach(way)
        reached = partial(open_cloud, transport=way)
        monkeypatch.setattr("snaprotd.wiring.access.open_cloud", lambda *parts, **more: reached(*parts[:3], **more))
        return story

    return to


Reach = Callable[[Story], Story]


@pytest.mark.parametrize(
    ("more", "keys", "at_once"), [("", (), 3), ("max_concurrent: 2", (), 2), ("", ("one_at_a_time: db",), 1)]
)
async def test_so_many_servers_are_held_off_at_once_as_the_file_allows(
    tmp_path: Path, reach: Reach, more: str, keys: tuple[str, ...], at_once: int
) -> None:
    story = reach(Story(tmp_path, *keys, more=more))
    endings = await story.now(Wish(servers=("s12346", "s12345", "12346", "s12347")))
    assert [*endings] == ["12346", "12345", "12347"], "each once, as they were named"
    assert {one.result for one in endings.values()} == {Result.SUCCESS}
    assert story.most_off == at_once


async def test_what_goes_wrong_with_one_server_stops_no_other(tmp_path: Path, reach: Reach) -> None:
    """One is at work elsewhere, one fails; the third is done."""
    story = reach(Story(tmp_path, faults=(Fault(kind="ends", method="POST", path="/snapshots/", server_id="12346"),)))
    story.path.write_text(
        story.path.read_text().replace(
            'id: 12345, name: s12345, schedule: "@yearly"', 'id: 12345, name: s12345, schedule: "10 3 * * *"'
        )
    )
    async with daemon_on(story.path, story.world) as watched:
        await watched.reaches(Step.WAIT)
        endings = await story.now(Wish(servers=THREE))
    results = {server_id: one.result for server_id, one in endings.items()}
    assert results == {"12345": Result.FAILURE, "12346": Result.FAILURE, "12347": Result.SUCCESS}
    assert endings["12345"].rotation is None
    assert "a rotation of s12345 is open already" in endings["12345"].refused


async def test_a_promise_that_the_ledger_has_lost_with_the_rotation_is_kept_before_the_command_ends(
    tmp_path: Path, reach: Reach
) -> None:
    """There may be no daemon that would find it."""
    story = reach(Story(tmp_path))
    harmed: list[Rotation] = []

    def harm(rotation: Rotation) -> None:
        if rotation.step is Step.WAIT and not harmed:
            harmed.append(rotation)
            lose_the_promise(tmp_path)

    endings = await story.now(Wish(servers=("12345",)), harm)
    assert harmed[0].held_off
    assert "taken over" in endings["12345"].refused
    assert story.world.status_of("12345") == "active"


@pytest.mark.parametrize(("dead_for", "waits"), [(61.0, True), (1.0, False)], ids=["long enough", "just now"])
async def test_what_a_dead_process_has_left_is_gone_on_with_when_it_was_looked_at_for_a_lease(
    tmp_path: Path, reach: Reach, dead_for: float, waits: bool
) -> None:
    """Another process has the ledger open: that the one which began it is dead nobody knows at once."""
    story, shown = reach(Story(tmp_path)), set()
    async with await Ledger.open(tmp_path / "state.db", owner="a bystander"):
        async with await Ledger.open(tmp_path / "state.db", owner="the dead") as ledger:
            begun = await claimed(ledger, rotation("12345"))
        await asyncio.sleep(dead_for)
        began = asyncio.get_running_loop().time()
        endings = await story.now(Wish(servers=("12345",)), lambda rotation: shown.add(rotation.note))
        took = asyncio.get_running_loop().time() - began
    assert any("waits to see whether" in note for note in shown) == waits
    if waits:
        assert endings["12345"].result is Result.SUCCESS
        assert took > LEASE
        assert len(await story.recorded()) == 2
    else:
        assert "is open already" in endings["12345"].refused
        assert await story.recorded() == [("12345", begun.result)]


@pytest.fixture
def ask_to_end(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As Ctrl-C does, once a command runs."""
    told: list[Callable[[str], None]] = []
    monkeypatch.setattr("snaprotd.commands.jobs.now.on_end_asked", lambda begin, _: told.append(begin))
    return lambda: told[-1]("SIGINT")


async def test_an_end_in_the_middle_begins_nothing_and_starts_what_is_off(
    tmp_path: Path, reach: Reach, ask_to_end: Callable[[], None]
) -> None:
    """What had not begun leaves no trace, for a daemon to go on with."""
    story = reach(Story(tmp_path, more="max_concurrent: 1"))

    def shown(rotation: Rotation) -> None:
        if rotation.step is Step.WAIT:
            ask_to_end()

    endings = await story.now(Wish(servers=THREE), shown)
    assert [server.status for server in story.world.servers.values()] == ["active"] * 3
    assert len(story.times_off()) == 1
    assert await story.recorded() == [("12345", None)], "its snapshot is there: the next start prunes"
    assert {one.refused for one in endings.values()} == {
        "",
        "it was asked to end before this one began: nothing was done",
    }
    assert all(one.result is Result.FAILURE for one in endings.values())


async def test_a_rotation_that_is_interrupted_before_it_asks_for_anything_is_over(
    tmp_path: Path, reach: Reach, ask_to_end: Callable[[], None]
) -> None:
    """A daemon would stop the server, though somebody has just said that nothing is to begin."""
    story = reach(Story(tmp_path))
    story.world.set_status("12345", "stopping")
    endings = await story.now(Wish(servers=("12345",)), lambda rotation: ask_to_end() if rotation.note else None)
    assert endings["12345"].rotation is not None
    assert endings["12345"].rotation.error == "interrupted before anything was done"
    assert await story.recorded() == [("12345", Result.FAILURE)]


async def test_those_whose_last_rotation_failed_are_found_and_a_paused_one_is_told_of(
    tmp_path: Path, reach: Reach
) -> None:
    faults = tuple(Fault(kind="ends", method="POST", path="/snapshots/", server_id=one) for one in THREE[1:])
    story = reach(Story(tmp_path, faults=faults))
    wish = Wish(failed=True)
    settings = load(story.path, {})
    await story.now(Wish(servers=THREE))
    paused = tmp_path / "paused.yaml"
    paused.write_text(story.path.read_text().replace("name: s12347", "name: s12347, paused: true"))
    prospect = await look_ahead(load(paused, {}), story.environ, wish, looks_at_servers=False)
    assert [one.target.label for one in prospect.outlooks] == ["s12346"]
    assert prospect.left_out == ("paused, and left out: s12347. Name them to have snapshots of them",)
    await asyncio.sleep(1)
    assert {one.result for one in (await story.now(wish)).values()} == {Result.SUCCESS}
    assert (await look_ahead(settings, story.environ, wish, looks_at_servers=False)).outlooks == ()
    del story.world.servers["12347"]
    await story.now(Wish(servers=("12347",)))
    await asyncio.sleep(1)
    (gone,) = (await story.now(wish)).values()
    assert "12347" in gone.refused + str(gone.rotation and gone.rotation.error)


async def test_what_was_interrupted_is_gone_on_with_in_place_of_another_snapshot(
    tmp_path: Path, reach: Reach, ask_to_end: Callable[[], None]
) -> None:
    """Nobody else goes on with it, so it counts as failed; and the server is stopped once."""
    story, failed = reach(Story(tmp_path)), Wish(failed=True)
    await story.now(Wish(servers=("12345",)), lambda rotation: ask_to_end() if rotation.step is Step.WAIT else None)
    assert await story.recorded() == [("12345", None)]
    endings = await story.now(failed)
    assert {server_id: one.result for server_id, one in endings.items()} == {"12345": Result.SUCCESS}
    assert await story.recorded() == [("12345", Result.SUCCESS)]
    assert (len(story.world.created), len(story.times_off())) == (1, 1)
    assert await story.now(failed) == {}


async def test_one_at_which_a_rotation_is_at_work_is_told_of_and_left_to_it(tmp_path: Path, reach: Reach) -> None:
    """What failed before it is no news, and nobody knows yet what it becomes."""
    story = reach(Story(tmp_path, faults=(Fault(kind="ends", method="POST", path="/snapshots/", server_id="12345"),)))
    await story.now(Wish(servers=("12345",)))
    story.path.write_text(story.path.read_text().replace('schedule: "@yearly"', 'schedule: "10 3 * * *"', 1))
    async with daemon_on(story.path, story.world) as watched:
        await watched.reaches(Step.WAIT)
        settings = load(story.path, {})
        prospect = await look_ahead(settings, story.environ, Wish(failed=True), looks_at_servers=False)
    assert prospect.outlooks == ()
    ((target, why),) = prospect.at_work
    assert target.server_id == "12345"
    assert why.startswith("a rotation of s12345 is open already (slot 2025-01-16 03:10:00Z, at step wait): nothing was")
