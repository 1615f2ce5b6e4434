"""The promise to start a server again, under whole daemons: one random history in fifty of `test_crash_anywhere`.

The real daemon with its schedule, its file, its ledger and its page, on virtual time. What befalls it is a sequence of
events: it is killed and the ledger harmed, it cannot begin, it is ended in order, it is frozen while another one is
started, its ledger is deleted under it. The server and the page are looked at every few minutes, and a day later.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from snaprotd.core.errors import ConfigError, LedgerError, SnaprotdError
from snaprotd.daemon.last_resort import pay_what_is_owed
from snaprotd.simulator import Fault
from tests.support.drawn_faults import fair, faults
from tests.support.harms import (
    BEFORE_THE_DAEMON,
    Harm,
    befall,
    delete_ledger,
    disk_is_read_only,
    is_promise_known,
    put_right,
    told_by,
)
from tests.support.lives import MortalLedger
from tests.support.promised import DAY, HOUR, Freezer, FrozenWay, Promise, freezable, have_few_ticks
from tests.support.searches import SCRATCH, histories
from tests.support.virtual_time import run_virtually

EXAMPLES = histories(3, 20)
UNSAID_FOR = 3
"""Looks at the page in a row in which a server that is off because of us may be untold: it is looked at once a minute
or two, and one look may be stale."""
NOTICED_AFTER = 75.0
"""Seconds in which a daemon with such ticks has noticed that its ledger is gone."""

pytestmark = pytest.mark.usefixtures("one_clock", "silence")

ENDED, FROZEN, LEDGER_DELETED = "ended in order", "frozen beside another one", "its ledger is deleted under it"
EVENTS = [*Harm, *Harm, ENDED, FROZEN, LEDGER_DELETED]


@dataclass(frozen=True, kw_only=True)
class Example:
    faults: tuple[Fault, ...]
    events: tuple[tuple[int, str], ...]
    """So many seconds after the one before it: a harm after a kill, or one of the other three."""
    on_stop_timeout: str
    snapshot_seconds: int


examples = st.builds(
    Example,
    faults=st.lists(faults, max_size=3).map(tuple),
    # The slot is five minutes after the beginning.
    events=st.lists(
        st.tuples(st.integers(0, 900).map(lambda seconds: seconds + 200), st.sampled_from(EVENTS)), max_size=3
    ).map(tuple),
    on_stop_timeout=st.sampled_from(["abort", "hard_stop", "snapshot_anyway"]),
    snapshot_seconds=st.sampled_from([100, 900]),
)


class Watch(Promise):
    """A promise whose breaches are written down."""

    def __init__(self, folder: Path, example: Example) -> None:
        super().__init__(folder, *fair(example.faults), on_stop_timeout=example.on_stop_timeout)
        self.world.snapshot_seconds = (example.snapshot_seconds, example.snapshot_seconds)
        self.ledger = folder / "state.db"
        self.broken: list[str] = []
        self.is_known = True
        """Somebody can know that a start is owed."""
        self._unsaid = {"the page": 0, "the metric": 0}

    async def look(self) -> None:
        """All is well is only said when it is. That there is no snapshot yet is said anyway, and tells nothing."""
        report = await self.report()
        metric = self.watched.value("snaprotd_server_stopped_by_us", "web")
        is_in_doubt = bool(report["inventory"]["error"] or report["ledger_error"])
        told = {
            "the page": report["servers"][0]["stopped_by_us_since"] is not None or is_in_doubt,
            "the metric": metric == 1 or is_in_doubt,
        }
        for who, says in told.items():
            self._unsaid[who] = 0 if says or self.status != "stopped" or not self.is_known else self._unsaid[who] + 1
            if self._unsaid[who] == UNSAID_FOR:
                self.broken.append(f"P8: the server is {self.status}, and {who} says that all is well: {report}")

    async def befalls(self, what: str) -> None:
        if what == ENDED:
            await self.end()
            await asyncio.sleep(20)
            await self.begin()
        elif what == LEDGER_DELETED:
            delete_ledger(self.ledger)
            await asyncio.sleep(NOTICED_AFTER)
        elif what == FROZEN:
            await self._freeze()
        else:
            await self._is_killed(Harm(what))

    async def _freeze(self) -> None:
        """It is thawed when the other one has gone on for a while, and ended in order."""
        assert isinstance(self.way, FrozenWay)
        first, running, freezer = self.watched, self._running, self.way.freezer
        freezable(first.daemon._tools.ledger, freezer)
        freezer.thawed.clear()
        self.way = FrozenWay(self.world, Freezer())
        await self.begin()
        await self.pass_time(1200)
        freezer.thawed.set()
        await self.pass_time(600)
        first.daemon.stop()
        assert running is not None
        await running

    async def _is_killed(self, harm: Harm) -> None:
        await self.kill()
        before = told_by(self.ledger)
        befall(self.ledger, harm)
        self.is_known = self.is_known and is_promise_known(before, told_by(self.ledger))
        await asyncio.sleep(20)
        if harm in BEFORE_THE_DAEMON:
            await self._cannot_begin(harm)
        MortalLedger.is_disk_full = harm is Harm.DISK_FULL
        await self.begin()
        if harm is Harm.DISK_FULL:
            await self.pass_time(900)
            MortalLedger.is_disk_full = False
            self.watched.daemon._tools.ledger.is_disk_full = False  # type: ignore[attr-defined]

    async def _cannot_begin(self, harm: Harm) -> None:
        is_read_only = harm is Harm.DISK_READ_ONLY
        why: SnaprotdError = LedgerError("the disk is read-only") if is_read_only else ConfigError([])
        with disk_is_read_only(self.ledger, really=is_read_only):
            await pay_what_is_owed([self.ledger], {"VPS_API_TOKEN": self.world.token}, why, transport=self.way)
        await asyncio.sleep(HOUR)
        put_right(self.ledger, harm)

    async def pass_time(self, seconds: float, *, every: float = 211.0) -> None:
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(every, left))
            await self.look()


async def live(example: Example, folder: Path) -> list[str]:
    """The broken promises of one example."""
    one = Watch(folder, example)
    one.way = FrozenWay(one.world, Freezer())
    await one.begin()
    for seconds, what in example.events:
        await one.pass_time(seconds)
        await one.befalls(what)
    await one.pass_time(2 * HOUR)
    await one.pass_hours(DAY - HOUR)
    if one.is_known and one.status != "active":
        one.broken.append(f"P1: a day later the server is {one.status}")
    one.watched.daemon.stop()
    await asyncio.wait_for(one.end(), DAY)
    return one.broken


@pytest.mark.search
def test_no_server_is_left_off_and_nothing_says_that_all_is_well_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    have_few_ticks(monkeypatch)
    monkeypatch.setattr("snaprotd.wiring.assembly.Ledger", MortalLedger)

    @seed(1)
    @settings(max_examples=EXAMPLES, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(example=examples)
    def law(example: Example) -> None:
        monkeypatch.setattr(MortalLedger, "is_disk_full", False)
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            assert run_virtually(live(example, Path(folder))) == []

    law()
