"""The ledger is not as the daemon left it: a backup was put back, or somebody else has written in it.

No server stays off for that, or goes off for a slot that is long past; the slots after it are run.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from snaprotd.core.rotation import Step
from tests.support.daemons import Line, logged, look_around_less
from tests.support.harms import edit, lose_the_promise
from tests.support.promised import DAY, HOUR, MINUTE, Promise, looked_after

pytestmark = pytest.mark.usefixtures("one_clock")

FOUR_SLOTS = "5 3,9,15,21 16 1 *"


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    look_around_less(monkeypatch, tick=61.3, leases=24.1, file=3600.0, account=121.7)


def kept_copy(folder: Path) -> Path:
    """The ledger's files as they are now, as a backup of the machine has them."""
    copy = folder / "copy"
    copy.mkdir()
    for one in folder.glob("state.db*"):
        shutil.copy(one, copy)
    return copy


def put_back(copy: Path) -> None:
    for one in copy.parent.glob("state.db*"):
        one.unlink()
    for one in copy.iterdir():
        shutil.copy(one, copy.parent)


@pytest.mark.parametrize("ended", ["in order", "killed"])
async def test_an_old_copy_of_the_ledger_stops_no_server_for_the_slot_of_that_day(
    tmp_path: Path, silence: None, ended: str
) -> None:
    """The copy was made at the very moment of the stop; the rotation has ended well since, and days have passed."""
    one = Promise(tmp_path)
    await one.begin()
    await one.until(lambda: "stop" in one.way.posts)
    copy = kept_copy(tmp_path)
    await one.pass_time(2 * HOUR)
    assert [rotation.result for rotation in one.watched.ended] == ["success"]
    await (one.end() if ended == "in order" else one.kill())
    put_back(copy)
    await asyncio.sleep(2 * DAY)
    async with looked_after(one):
        pass
    assert one.way.posts == ["stop", "start"]
    assert len(one.world.created) == 1
    (again,) = one.watched.ended
    assert (again.result, "resumed too late" in (again.error or "")) == ("failure", True)


TAKEN = "UPDATE rotations SET owner = 'somebody', epoch = epoch + 1, lease_until = {} WHERE is_open"


@pytest.mark.parametrize("lease", ["0", "strftime('%s', 'now') + 300", "4102444800"], ids=["over", "short", "endless"])
async def test_a_rotation_whose_lease_was_lost_to_nobody_leaves_no_server_off_and_stops_no_slot(
    tmp_path: Path, log: list[Line], lease: str
) -> None:
    """Whoever has taken it does nothing with it."""
    one = Promise(tmp_path, schedule=FOUR_SLOTS)
    one.world.snapshot_seconds = (900, 900)
    async with looked_after(one):
        await one.watched.reaches(Step.WAIT)
        edit(tmp_path / "state.db", TAKEN.format(lease))
        await one.until(lambda: one.history[-1] == "active", 40 * MINUTE)
        assert logged(log, "this process does not hold the rotation any more")
    assert len(one.world.created) == 4
    assert [rotation.result for rotation in one.watched.ended][-3:] == ["success"] * 3


SET_ASIDE = "in the ledger cannot be understood, and was set aside as it is"
LEFT = "was begun by a newer snaprotd, and is left to one until the next slot"
NO_ROTATION = "a start is owed to the server, and no rotation sees to it"
NOT_WHOLE = "the record of a server's power cannot be read whole: what is owed is paid"


@pytest.mark.parametrize(
    ("harm", "on_the_page", "in_the_log"),
    [
        ("UPDATE rotations SET body = substr(body, 1, 40) WHERE is_open", SET_ASIDE, NO_ROTATION),
        ("UPDATE rotations SET body = '{}' WHERE is_open", SET_ASIDE, NO_ROTATION),
        ("UPDATE rotations SET needs = 99 WHERE is_open", LEFT, NO_ROTATION),
        ("DELETE FROM rotations", "", NO_ROTATION),
        ("UPDATE powers SET body = 'x'", "", NOT_WHOLE),
    ],
    ids=["damaged", "empty", "newer", "deleted", "the record of its power damaged"],
)
async def test_what_is_not_understood_is_told_and_so_is_a_start_that_no_rotation_sees_to(
    tmp_path: Path, log: list[Line], harm: str, on_the_page: str, in_the_log: str
) -> None:
    one = Promise(tmp_path, schedule=FOUR_SLOTS)
    one.world.snapshot_seconds = (900, 900)
    await one.begin()
    await one.watched.reaches(Step.WAIT)
    await one.kill()
    edit(tmp_path / "state.db", harm)
    await one.begin()
    await one.pass_time(30 * MINUTE)
    assert one.status == "active"
    assert [line["server"] for line in logged(log, in_the_log)][:1] == ["web"]
    report = await one.report()
    texts = " ".join(problem["text"] for problem in report["problems"])
    assert on_the_page in texts
    assert "None" not in texts  # what was set aside has no end that could be told
    assert (report["state"] == "alarm") == bool(on_the_page)
    assert await one.end() == 0


async def test_the_row_of_a_rotation_that_runs_is_deleted_and_its_server_is_started_and_the_next_slots_run(
    tmp_path: Path, silence: None
) -> None:
    one = Promise(tmp_path, schedule=FOUR_SLOTS)
    one.world.snapshot_seconds = (900, 900)
    async with looked_after(one):
        await one.watched.reaches(Step.WAIT)
        edit(tmp_path / "state.db", "DELETE FROM rotations")
        await one.until(lambda: one.history[-1] == "active", 40 * MINUTE)
    assert len(one.world.created) == 4
    assert [rotation.result for rotation in one.watched.ended][-3:] == ["success"] * 3


@pytest.mark.parametrize("lease", ["0", "strftime('%s', 'now') + 300"], ids=["nobody goes on", "somebody may"])
async def test_a_promise_that_the_ledger_has_lost_with_the_rotation_is_kept_by_who_made_it(
    tmp_path: Path, log: list[Line], lease: str
) -> None:
    """Neither the ledger nor a copy beside it tells of the stop: only the process does that has lost its lease."""
    one = Promise(tmp_path)
    one.world.snapshot_seconds = (900, 900)
    async with looked_after(one):
        await one.watched.reaches(Step.WAIT)
        assert one.status == "stopped"
        lose_the_promise(tmp_path, lease)
        await one.until(lambda: one.history[-1] == "active", 40 * MINUTE)
        assert logged(log, "this process does not hold the rotation any more")
        (told,) = logged(log, "the ledger lacks what this process owes to a server: it is written again")
        assert told["server"] == "web"
