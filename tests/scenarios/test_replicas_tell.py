"""Of several daemons on one PostgreSQL one tells people, once, whichever of them ends how."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from snaprotd.core.errors import LedgerError
from snaprotd.core.fleet import LIVES_FOR, LOST_AFTER, TELLER
from snaprotd.simulator import Fault
from tests.daemon.test_teller import BEAT, CHECK, HOOK, Outside
from tests.daemon.test_teller import outside as outside
from tests.scenarios.test_replicas import NAMES, Site, cut_off, entries
from tests.support.daemons import Watched, a_world
from tests.support.databases import Server
from tests.support.receivers import secret

pytestmark = pytest.mark.usefixtures("one_clock", "silence", "few_ticks", "few_marks")


@pytest.fixture
def site(tmp_path: Path, postgresql: Server) -> Site:
    """The first rotation of web-01 fails."""
    world = a_world(*NAMES)
    world.faults = [Fault(kind="ends", word="failed", server_id="12345", method="POST", path="/snapshots/")]
    return Site(tmp_path, postgresql, world)


def told_to(folder: Path) -> str:
    for name in (HOOK, BEAT, CHECK):
        secret(folder, name, f"https://receiver.invalid/{name}")
    return f"""\
notify: [{{webhook: {{url_file: {folder}/{HOOK}}}}}, {{ping: {{url_file: {folder}/{CHECK}}}}}]
heartbeat: {{url_file: {folder}/{BEAT}, every: 1m}}
"""


SERVERS = entries("5 3 * * *", more=", retry: {times: 0}")
LOST = "has gone and did not end in order"
FAILURE = "the last rotation ended as failure, at step wait"


def teller_of(daemons: list[Watched]) -> tuple[Watched, list[Watched]]:
    (one,) = [watched for watched in daemons if watched.daemon._membership.has(TELLER)]
    return one, [watched for watched in daemons if watched is not one]


async def test_a_failure_is_told_once_whoever_ran_the_rotation(site: Site, outside: Outside, tmp_path: Path) -> None:
    async with site.daemons("a", "b", "c", servers=SERVERS, more=told_to(tmp_path)):
        await asyncio.sleep(20 * 60)
    assert [FAILURE in one["text"] for one in outside.told] == [True]
    assert (outside.pings.count("/fail"), outside.pings[-1]) == (1, "/fail")
    assert len(outside.pings) <= 3, "the other servers may have succeeded before, once each"
    assert len(outside.asked[BEAT]) in range(19, 23), "one heartbeat a minute, and not three"


async def test_what_waits_is_told_by_the_next_where_the_one_that_tells_is_lost(
    site: Site, outside: Outside, tmp_path: Path
) -> None:
    """It comes back later, frozen meanwhile, with a letter in its hands that was sent long ago."""
    outside.is_away = True
    async with site.daemons("a", "b", servers=SERVERS, more=told_to(tmp_path)) as daemons:
        await asyncio.sleep(15 * 60)
        lost, (other,) = teller_of(daemons)
        look = lost.daemon._membership.look
        cut_off(lost)
        await asyncio.sleep(LIVES_FOR + 60)
        assert (lost.daemon._membership.has(TELLER), other.daemon._membership.has(TELLER)) == (False, True)
        outside.is_away = False
        await asyncio.sleep(10 * 60)
        lost.daemon._membership.look = look  # type: ignore[method-assign]
        await asyncio.sleep(10 * 60)
    texts = [one["text"] for one in outside.told]
    assert [LOST in one for one in texts].count(True) == 1
    assert [FAILURE in one for one in texts if LOST not in one] == [True]


async def test_a_replica_that_is_lost_is_told_once_and_shown_until_one_comes_in_its_place(
    site: Site, outside: Outside, tmp_path: Path
) -> None:
    async with site.daemons("a", "b", "c", servers=entries(), more=told_to(tmp_path)) as daemons:
        await asyncio.sleep(60)
        teller, (lost, other) = teller_of(daemons)
        cut_off(lost)
        await asyncio.sleep(LOST_AFTER + LIVES_FOR)
        assert await shown(other) == [LOST]
        cut_off(teller)
        await asyncio.sleep(LIVES_FOR + 60)
        assert other.daemon._membership.has(TELLER)
        async with site.daemons("d", servers=entries(), more=told_to(tmp_path)):
            await asyncio.sleep(60)
            assert await shown(other) == []
            events = (await other.get("/api/events")).json()
            assert [one["kind"] for one in events].count("replica_lost") == 1
    (told,) = outside.told
    assert told["text"].startswith("the replica on ")
    assert told["text"].endswith("and none has come in its place: 2 replicas left")
    assert "start it again" in told["do"]


async def shown(watched: Watched) -> list[str]:
    report = (await watched.get("/api/status")).json()
    return [LOST for one in report["problems"] if LOST in one["text"]]


async def test_what_another_replica_alone_sees_is_told_too_and_what_all_see_once(
    site: Site, outside: Outside, tmp_path: Path
) -> None:
    async with site.daemons("a", "b", servers=entries(), more=told_to(tmp_path)) as daemons:
        await asyncio.sleep(60)
        one, (other,) = teller_of(daemons)
        other.path.write_text("servers: what?")
        other.daemon._watch.ask()
        await asyncio.sleep(240)
        (told,) = outside.told
        assert ": the configuration file is refused" in told["text"]
        assert told["text"].startswith("on ")
        one.path.write_text("servers: what?")
        one.daemon._watch.ask()
        await asyncio.sleep(240)
    assert len(outside.told) == 1


async def test_who_has_no_database_says_so_itself(site: Site, outside: Outside, tmp_path: Path) -> None:
    async with site.daemons("a", "b", servers=entries(), more=told_to(tmp_path)) as daemons:
        await asyncio.sleep(60)
        _, (other,) = teller_of(daemons)
        watch = other.daemon._ledger_watch
        probe = watch._probe

        async def fails() -> None:
            raise LedgerError("the ledger cannot be used: no route to host")

        watch._probe = fails
        cut_off(other)
        await asyncio.sleep(15 * 60)
        told = [one for one in outside.told if LOST not in one["text"]]
        assert [("no route to host" in one["text"]) for one in told] == [True]
        watch._probe = probe
        await asyncio.sleep(5 * 60)
        assert [one["kind"] for one in outside.told if LOST not in one["text"]] == ["failure", "recovery"]
