"""`now` holds what it takes, `hold` and `unhold` what is there: what they tell, what they refuse, and what remains."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from snaprotd.config.file import load
from snaprotd.config.settings import resolve
from snaprotd.core.holds import FOREVER
from snaprotd.core.rotation import Result, Step
from snaprotd.ledger.claims import Claimed
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import World
from snaprotd.wiring.assembly import account_of, new_rotation
from tests.support.processes import TOKEN, Ended, provider, run, write_config

pytestmark = pytest.mark.real_time


class Account:
    """An account of one server, and commands on it."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = path

    async def __call__(self, *words: str) -> Ended:
        return await run(*words, "--config", str(self.path))

    async def now(self, *words: str) -> Ended:
        """A rotation of the server at once; another second, where it has had one in this."""
        while "in this very second" in (ended := await self("now", "web", *words)).out + ended.err:
            continue
        return ended

    async def reasons(self) -> dict[int, str]:
        (plan,) = (await self("plan", "web", "--json")).json["servers"]
        return {one["id"]: one["reason"] for one in plan["snapshots"]}

    @property
    def last(self) -> tuple[int, str]:
        made = self.world.created[-1]
        return int(made.id), made.name


@asynccontextmanager
async def account(folder: Path, *keys: str) -> AsyncIterator[Account]:
    world = World(speed=2000, token=TOKEN)
    world.add_server("web")
    async with provider(world) as web:
        entry = ", ".join(["id: 12345", "name: web", 'schedule: "@yearly"', *keys])
        yield Account(world, write_config(folder, web.base_url, f"listen: off\nservers: [{{{entry}}}]\n"))


def days(number: int) -> str:
    return f"{datetime.now(UTC) + timedelta(days=number):%Y-%m-%d}"


async def test_what_is_taken_by_hand_is_held_as_far_as_two_slots_are_left_to_rotation(tmp_path: Path) -> None:
    async with account(tmp_path) as web:
        first = await web.now("--json")
        assert (first.code, first.json["snapshot"]["name"]) == (0, web.last[1])
        assert web.last[1].endswith(f"Z-until-{days(3).replace('-', '')}")
        taken = {days(3): web.last[0]}
        for wish, told in (("14d", f"held until {days(14)}"), ("forever", "held for ever")):
            ended = await web.now("--hold", wish)
            assert (ended.code, ended.out) == (0, f"success: web has {web.last[1]} (id {web.last[0]}), {told}\n")
            taken[wish] = web.last[0]
        refused = await web.now("--hold", "1d", "--json")
        assert (refused.code, len(web.world.created)) == (1, 3)
        assert refused.json["result"] == "failure"
        assert refused.json["error"] == (
            "web: nothing was done: 3 held: one more that is held would leave rotation fewer than 2 of 5 slots: "
            f"`snaprotd unhold` can let go of {taken[days(3)]} (held until {days(3)}), "
            f"{taken['14d']} (held until {days(14)}), {taken['forever']} (held for ever)"
        )
        without = await web.now()
        assert without.code == 0
        assert "web: the snapshot will not be held: 3 held: one more" in without.err
        assert without.out.endswith("not held, so that it stays as `keep` says: 4\n")
        assert web.last[1].endswith("Z")
        assert await web.reasons() == {
            web.last[0]: "keep: last 1 of 4",
            taken["forever"]: "keep: held for ever",
            taken["14d"]: f"keep: held until {days(14)}",
            taken[days(3)]: f"keep: held until {days(3)}",
        }
        assert f"  {taken['14d']}: held until {days(14)}\n" in (await web("list", "web")).out


async def test_a_snapshot_that_is_there_is_held_and_let_go_whatever_its_name_says(tmp_path: Path) -> None:
    async with account(tmp_path, "hold_manual: 0s") as web:
        web.world.add_snapshot("12345", "by-hand")
        await web.now("--hold", "2d")
        (by_name, name) = web.last
        await web.now()
        (bare, bare_name) = web.last
        assert bare_name.endswith("Z")
        told = await web("hold", str(bare))
        assert (told.code, told.out) == (0, f"{bare_name} of web is held for ever.\n")
        full = await web("hold", str(bare), "--for", "7d")
        assert (full.code, full.out) == (0, f"{bare_name} of web is held until {days(7)}.\n")
        told = await web("unhold", str(by_name))
        assert (told.code, told.out) == (
            0,
            f"{name} of web is not held any more; `snaprotd plan web` shows what becomes of it.\n",
        )
        assert (await web.reasons())[by_name] == "keep: last 1 of 4"
        assert (await web.reasons())[bare] == f"keep: held until {days(7)}"
        again = await web("unhold", str(by_name))
        assert (again.code, again.out) == (0, f"{name} of web is not held: there was nothing to let go of.\n")
        foreign = next(one for one in web.world.snapshots.values() if one.name == "by-hand")
        refused = await web("hold", str(foreign.id))
        assert (refused.code, refused.err) == (1, "snaprotd: by-hand is not made by snaprotd: no rotation deletes it\n")
        restored = await web("restore", str(bare))
        assert f"\n  hold    held until {days(7)}: no rotation deletes the snapshot before that\n" in restored.out


async def test_a_command_that_is_told_can_be_pasted_whatever_the_server_is_called(tmp_path: Path) -> None:
    world = World(speed=2000, token=TOKEN)
    world.add_server("web; $(id)")
    async with provider(world) as api:
        config = write_config(tmp_path, api.base_url, "listen: off\nservers: [{match: '*', schedule: '@yearly'}]\n")
        await run("now", "web; $(id)", "--hold", "2d", "--config", str(config))
        told = await run("unhold", str(world.created[-1].id), "--config", str(config))
    assert "; `snaprotd plan 'web; $(id)'` shows what becomes of it." in told.out


async def test_what_a_rotation_is_about_to_hold_is_counted_before_the_list_shows_it(tmp_path: Path) -> None:
    async with account(tmp_path, "hold_manual: 0s") as web:
        web.world.add_snapshot("12345", "by-hand")
        await web.now("--hold", "2d")
        await web.now()
        config = load(web.path, {"VPS_API_TOKEN": TOKEN})
        (target,), now = resolve(config, None), datetime.now(UTC)
        coming = new_rotation(config, target, slot=now + timedelta(hours=1), now=now, hold=FOREVER)
        async with await Ledger.open(Path(config.state), owner="another") as ledger:
            ledger.starts.account = account_of(config)
            assert isinstance(await ledger.claim(coming), Claimed)
            refused = await web("hold", str(web.last[0]))
            assert (refused.code, "a rotation that is under way takes one that is held" in refused.err) == (1, True)
            await ledger.save(replace(coming, step=Step.DONE, result=Result.FAILURE, finished_at=now))
        assert (await web("hold", str(web.last[0]))).code == 0


async def test_where_no_rotation_would_know_of_it_nothing_is_said_to_be_held(tmp_path: Path) -> None:
    async with account(tmp_path) as web:
        made = web.world.add_snapshot("12345", "snaprotd-main-20250101T000000Z")
        refused = await web("hold", str(made.id))
        assert refused.code == 1
        assert "there is no ledger at " in refused.err
        assert "no rotation would know of it" in refused.err
