"""A file names another ledger, or another account: what the one before owes is paid all the same, and once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from snaprotd.commands.jobs.leave_off import read_owed
from snaprotd.config.file import load
from snaprotd.config.remains import remains_of
from snaprotd.core.errors import ConfigError, LedgerError
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Step
from snaprotd.daemon.last_resort import ledgers_named, pay_what_is_owed
from snaprotd.ledger.address import IN_FORCE
from snaprotd.ledger.salvage import salvaged
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, Request, World
from snaprotd.wiring.assembly import account_at
from tests.support.daemons import Watched, power
from tests.support.promised import DAY, HOUR, Promise, Way, have_few_ticks

pytestmark = pytest.mark.usefixtures("one_clock", "silence")


@pytest.fixture(autouse=True)
def _few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    have_few_ticks(monkeypatch)


class Addressed(Way):
    """Knows to whom the requests went that switch a server."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.asked: set[str] = set()

    def _before(self, request: Request) -> None:
        super()._before(request)
        if request.method == "POST":
            self.asked.add(request.origin)


def no_start() -> Fault:
    return power("start_never", "start", times=None)


def another_account() -> World:
    """At the same address: the token is another one's now."""
    other = World(email="other@account.invalid")
    other.add_server("other", ref=999)
    return other


class Moved(Promise):
    """A daemon that was killed while its server was off; the file names another ledger since."""

    def __init__(self, folder: Path, **keys: str) -> None:
        super().__init__(folder, **keys)
        self.way = self.addressed = Addressed(self.world)
        self.var = folder / "var"
        self.var.mkdir()
        self.environ = {"STATE_DIRECTORY": str(self.var)}
        self.old, self.new = folder / "state.db", folder / "elsewhere" / "new.db"
        self.new.parent.mkdir()

    async def is_left_off(self) -> None:
        watched = await self.begin()
        await watched.reaches(Step.WAIT)
        assert self.status == "stopped"
        await self.kill()
        self.way.posts.clear()

    def names_the_new_ledger(self) -> None:
        self.path.write_text(self.path.read_text().replace(str(self.old), str(self.new)))

    @property
    def listed(self) -> list[str]:
        return (self.var / IN_FORCE).read_text().split()


async def test_a_good_file_that_names_another_ledger_pays_what_the_old_one_owes(tmp_path: Path) -> None:
    one = Moved(tmp_path)
    await one.is_left_off()
    assert one.listed == [str(one.old)]
    one.names_the_new_ledger()
    await one.begin()
    await one.until(lambda: one.status == "active", 120)
    assert one.listed == [str(one.new)]  # what the old one owed is owed by this one
    assert salvaged(one.old) == []
    await asyncio.sleep(HOUR)
    assert await one.end() == 0
    assert one.way.posts == ["start"]
    assert one.listed == []


async def test_who_comes_back_to_the_old_ledger_starts_nothing_that_a_person_switched_off(tmp_path: Path) -> None:
    one = Moved(tmp_path)
    await one.is_left_off()
    before = one.path.read_text()
    one.names_the_new_ledger()
    await one.begin()
    await asyncio.sleep(HOUR)
    await one.end()
    one.world._switch(one.world.servers["12345"], "stop")
    await asyncio.sleep(HOUR)
    one.path.write_text(before)
    await one.begin()
    await asyncio.sleep(HOUR)
    assert one.status == "stopped"
    assert one.way.posts == ["start"]
    await one.end()


async def test_the_old_debt_is_shown_until_it_is_paid(tmp_path: Path) -> None:
    one = Moved(tmp_path)
    await one.is_left_off()
    one.world.faults.append(no_start())
    one.names_the_new_ledger()
    watched = await one.begin()
    await asyncio.sleep(HOUR)
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 1
    assert (await one.report())["state"] == "alarm"
    one.world.faults.clear()
    await one.until(lambda: one.status == "active")
    await one.end()


async def test_what_the_new_ledger_has_paid_before_does_not_hide_what_the_old_one_owes(tmp_path: Path) -> None:
    """The stops of two ledgers are numbered each for itself."""
    one = Moved(tmp_path)
    paid = ServerPower(account="vps.invalid", server_id="12345", label="web", power=Power(asked=40, released=40))
    async with await Ledger.open(one.new, owner="before") as ledger:
        await ledger.starts.save(paid)
    await one.is_left_off()
    one.names_the_new_ledger()
    await one.begin()
    await one.until(lambda: one.status == "active", 120)
    await one.end()


async def test_a_ledger_that_is_not_there_is_asked_again_when_it_is(tmp_path: Path) -> None:
    """As on a volume that is mounted late."""
    one = Moved(tmp_path)
    await one.is_left_off()
    one.names_the_new_ledger()
    name = one.old.name
    files = [one.old.with_name(each) for each in (name, f"{name}-wal", f"{name}-shm", f"owed-by-{name}")]
    away = {file: file.with_name(f"away-{file.name}") for file in files if file.exists()}
    for file, place in away.items():
        file.rename(place)
    await one.begin()
    await asyncio.sleep(HOUR)
    assert one.status == "stopped"
    assert one.listed == [str(one.new), str(one.old)]
    for file, place in away.items():
        place.rename(file)
    await one.until(lambda: one.status == "active")
    await one.end()


async def test_a_refused_file_that_names_another_ledger_pays_what_the_old_one_owes(tmp_path: Path) -> None:
    one = Moved(tmp_path)
    await one.is_left_off()
    one.names_the_new_ledger()
    places = ledgers_named(one.path, remains_of(one.path), one.environ)
    assert one.old in places
    assert await pay_what_is_owed(places, {"VPS_API_TOKEN": one.world.token}, ConfigError([]), one.way)
    assert one.status == "active"


async def test_what_is_owed_to_another_account_is_paid_by_what_is_kept_beside_the_promise(tmp_path: Path) -> None:
    """The file names another provider's address, and another ledger; the servers of this account wait for nothing."""
    one = Moved(tmp_path)
    await one.is_left_off()
    one.names_the_new_ledger()
    one.path.write_text(one.path.read_text().replace("vps.invalid", "other.invalid"))
    one.world.faults.append(no_start())
    watched = await one.begin()
    await asyncio.sleep(HOUR)
    assert watched.value("snaprotd_server_stopped_by_us", "web") == 1
    (problem,) = [each for each in (await one.report())["problems"] if each["server"] is None]
    assert "the account at vps.invalid" in problem["text"]
    assert one.addressed.asked == {"https://vps.invalid"}
    one.world.faults.clear()
    await one.until(lambda: one.status == "active")
    await asyncio.sleep(HOUR)
    assert [each for each in (await one.report())["problems"] if each["server"] is None] == []
    assert await one.end() == 0


async def test_a_server_that_another_account_does_not_show_is_not_taken_for_gone(tmp_path: Path) -> None:
    """The address was kept, but the token may be another account's now: its answers say nothing of this server."""
    one = Moved(tmp_path)
    await one.is_left_off()
    other = another_account()
    environ = {"VPS_API_TOKEN": one.world.token}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3 * HOUR):
            await pay_what_is_owed([one.old], environ, ConfigError([]), Way(other))
    async with asyncio.timeout(HOUR):
        assert await pay_what_is_owed([one.old], environ, ConfigError([]), one.way)
    assert one.status == "active"


async def refused(one: Moved) -> LedgerError:
    with pytest.raises(LedgerError, match="a ledger of its own, with `state`") as refusal:
        async with asyncio.timeout(HOUR):
            await Watched(one.path, one.world, environ=one.environ, transport=one.way).daemon.run()
    return refusal.value


async def test_a_ledger_of_the_account_at_another_address_is_refused_and_what_it_owes_is_paid_there(
    tmp_path: Path,
) -> None:
    one = Moved(tmp_path)
    await one.is_left_off()
    one.path.write_text(one.path.read_text().replace("vps.invalid", "other.invalid"))
    why = await refused(one)
    assert "belongs to the account at vps.invalid, and `api.base_url` names other.invalid" in str(why)
    assert one.way.posts == []
    assert await pay_what_is_owed([one.old], {"VPS_API_TOKEN": one.world.token}, why, one.way)
    assert (one.status, one.addressed.asked) == ("active", {"https://vps.invalid"})


async def test_a_ledger_is_refused_with_another_account_s_token_and_no_start_is_given_up(tmp_path: Path) -> None:
    """The file is good, the ledger is the same: only the token's account is not."""
    one = Moved(tmp_path)
    await one.is_left_off()
    own, one.way = one.way, Way(another_account())
    why = await refused(one)
    assert "the token is one of other@account.invalid, which has none of its servers" in str(why)
    assert one.way.posts == []
    one.way = own
    await one.begin()
    await one.until(lambda: one.status == "active")
    assert await one.end() == 0


async def test_an_account_whose_e_mail_was_changed_keeps_its_ledger(tmp_path: Path) -> None:
    one = Moved(tmp_path)
    await one.is_left_off()
    one.world.email = "new@account.invalid"
    await one.begin()
    await one.until(lambda: one.status == "active")
    assert await one.end() == 0


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("https://vps.org/api/v1", "vps.org"),
        ("https://VPS.org/api/v1/", "vps.org"),
        ("https://vps.org:443/api/v1", "vps.org"),
        ("http://localhost:8321/api/v1", "localhost:8321"),
        ("http://LOCALHOST:80/api/v1", "localhost"),
        ("https://vps.org:80/api/v1", "vps.org:80"),
    ],
)
def test_an_account_is_the_same_however_its_address_is_written(written: str, host: str) -> None:
    assert account_at(written) == host


async def test_a_ledger_that_was_moved_starts_nothing_that_a_person_switched_off(tmp_path: Path) -> None:
    """Its copies stay behind, and know less than it does."""
    one = Moved(tmp_path)
    await one.is_left_off()
    await one.begin()
    await one.until(lambda: one.status == "active")
    await asyncio.sleep(30)
    await one.kill()  # within the time in which it is watched: the copy is there still
    one.world._switch(one.world.servers["12345"], "stop")
    one.way.posts.clear()
    for end in ("", "-wal", "-shm"):
        if (file := one.old.with_name(one.old.name + end)) in set(one.old.parent.iterdir()):
            file.rename(one.new.with_name(one.new.name + end))
    one.names_the_new_ledger()
    found = read_owed(one.path, one.environ, load(one.path))
    assert [row["server_id"] for row in found.rows] == [12345]
    await asyncio.sleep(DAY)
    await one.begin()
    await asyncio.sleep(HOUR)
    assert (one.status, one.way.posts) == ("stopped", [])
    await one.end()
