"""What the ledger tells a daemon of rotations that others run."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from snaprotd.core.policy import Rules
from snaprotd.core.rotation import Result, Rotation, Step
from snaprotd.daemon.ledger_watch import Ends
from snaprotd.ledger.store import Ledger
from tests.support.policies import a_policy
from tests.support.rotations import changed
from tests.support.virtual_time import START

MINUTE = timedelta(minutes=1)


async def ended(ledger: Ledger, at: datetime) -> str:
    rules = Rules(policy=a_policy())
    begun = Rotation.begin(id=f"{at}", server_id="1", label="web", slot=at, rules=rules, now=at, settle=120.0)
    await ledger.claim(begun)
    await ledger.save(changed(begun, step=Step.DONE, result=Result.FAILURE, finished_at=at))
    return begun.id


def ids(found: list[Rotation]) -> list[str]:
    return [one.id for one in found]


async def test_each_end_is_news_once_and_what_ended_before_the_first_look_is_none(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        await ended(ledger, START - MINUTE)
        ends = Ends(START)
        assert await ends.news(ledger, START + MINUTE) == []
        one = await ended(ledger, START + 2 * MINUTE)
        assert ids(await ends.news(ledger, START + 2 * MINUTE)) == [one]
        other = await ended(ledger, START + 3 * MINUTE)
        assert ids(await ends.news(ledger, START + 3 * MINUTE)) == [other]
        assert await ends.news(ledger, START + 4 * MINUTE) == []


async def test_what_a_clock_that_was_ahead_has_ended_is_no_news_and_hides_none(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="a") as ledger:
        await ended(ledger, START + 90 * MINUTE)
        ends = Ends(START)
        assert await ends.news(ledger, START + MINUTE) == []
        later = await ended(ledger, START + 2 * MINUTE)
        assert ids(await ends.news(ledger, START + 3 * MINUTE)) == [later]
