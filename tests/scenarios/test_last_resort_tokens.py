"""No configuration is in force, and starts are owed: each is paid by itself, with whatever token is accepted."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snaprotd.config.remains import NOTHING, Remains
from snaprotd.core.errors import ConfigError, LedgerError
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower, Terms
from snaprotd.daemon.last_resort import debts_of, ledgers_named, pay_what_is_owed
from snaprotd.engine.starts.keeper import Keeper
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Request, World
from tests.support.daemons import Line, a_world, logged, power
from tests.support.promised import HOUR, MINUTE
from tests.support.world_transport import WorldTransport

pytestmark = pytest.mark.usefixtures("one_clock", "log")

GOOD, BAD = "vps_the_accounts_own", "vps_revoked_long_ago"
BASE_URL = "https://vps.invalid/api/v1"


class Left:
    """Servers that were left off, the ledger that owes their starts, and files with tokens."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.ledger = folder / "state.db"
        self.world: World = a_world(*names, token=GOOD)
        self.signed: set[str] = set()
        self.way = WorldTransport(self.world, before=self._note)
        for server in self.world.servers:
            self.world.set_status(server, "stopped")

    def _note(self, request: Request) -> None:
        self.signed.add(request.headers["authorization"].removeprefix("Bearer "))

    def file(self, name: str, token: str = "") -> Path:
        path = self.folder / name
        if token:
            path.write_text(token)
        return path

    async def owes(self, server_id: str, token_file: Path | None = None, base_url: str = BASE_URL) -> None:
        terms = Terms(base_url=base_url, token_file=str(token_file or ""))
        owed = Power(asked=1, went_off=True, request_age=HOUR, stop_age=HOUR)
        record = ServerPower(account="vps.invalid", server_id=server_id, label=f"s{server_id}", power=owed, terms=terms)
        async with await Ledger.open(self.ledger, owner="before") as ledger:
            await ledger.starts.save(record)

    async def is_paid(self, remains: Remains = NOTHING, *, within: float = HOUR, **environ: str) -> bool:
        async with asyncio.timeout(within):
            return await pay_what_is_owed([self.ledger], environ, ConfigError([]), self.way, remains=remains)

    @property
    def statuses(self) -> list[str]:
        return [self.world.status_of(server) for server in self.world.servers]


async def test_a_token_that_is_gone_keeps_no_other_server_off(tmp_path: Path, log: list[Line]) -> None:
    one = Left(tmp_path, "web-01", "web-02")
    await one.owes("12345", one.file("gone"))
    await one.owes("12346", one.file("there", GOOD))
    assert not await one.is_paid()
    assert one.statuses == ["stopped", "active"]
    told = logged(log, "what is owed cannot be paid from here")
    assert {line["server"] for line in told} == {"s12345"}


async def test_a_token_that_comes_back_while_others_are_paid_is_used(tmp_path: Path) -> None:
    one = Left(tmp_path, "web-01", "web-02")
    await one.owes("12345", one.file("late"))
    await one.owes("12346", one.file("there", GOOD))
    one.world.faults.append(power("start_never", "start", server_id="12346", times=None))
    asyncio.get_running_loop().call_later(MINUTE, one.file, "late", GOOD)
    with pytest.raises(TimeoutError):
        await one.is_paid(within=5 * MINUTE)
    assert one.statuses == ["active", "stopped"]


async def test_where_nothing_can_be_paid_it_is_told_at_once_by_the_servers_names(
    tmp_path: Path, log: list[Line]
) -> None:
    one = Left(tmp_path, "web-01", "web-02")
    await one.owes("12345", one.file("gone"))
    await one.owes("12346")
    assert not await one.is_paid(within=1)
    told = logged(log, "what is owed cannot be paid from here")
    assert [line["server"] for line in told] == ["s12345", "s12346"]
    assert one.signed == set()


PLACES = pytest.mark.parametrize("place", ["the file's", "the environment's", "its file's", "systemd's"])


def elsewhere(one: Left, place: str) -> tuple[Remains, dict[str, Any]]:
    """The good token, where it was not when the stop was asked for."""
    path = one.file("token", GOOD)
    if place == "the file's":
        return Remains(token_files=(str(path),), base_urls=(BASE_URL,)), {}
    variables = {"the environment's": ("VPS_API_TOKEN", GOOD), "its file's": ("SNAPROTD_TOKEN_FILE", str(path))}
    return NOTHING, dict([variables.get(place, ("CREDENTIALS_DIRECTORY", str(one.folder)))])


@PLACES
@pytest.mark.parametrize("kept", ["gone", "revoked"])
async def test_a_token_that_is_elsewhere_now_pays(tmp_path: Path, place: str, kept: str) -> None:
    one = Left(tmp_path)
    await one.owes("12345", one.file("kept", BAD if kept == "revoked" else ""))
    remains, environ = elsewhere(one, place)
    assert await one.is_paid(remains, **environ)
    assert one.statuses == ["active"]


async def test_a_token_of_the_environment_that_is_revoked_gives_way_to_the_file_s(tmp_path: Path) -> None:
    one = Left(tmp_path)
    await one.owes("12345")
    assert await one.is_paid(Remains(token_files=(str(one.file("new", GOOD)),)), VPS_API_TOKEN=BAD)


async def test_the_token_for_another_host_is_not_sent_to_this_one(tmp_path: Path) -> None:
    """The file that is refused names another provider's address: its token and the environment's are for that one."""
    one = Left(tmp_path)
    await one.owes("12345", one.file("kept", BAD))
    other = Remains(token_files=(str(one.file("other", GOOD)),), base_urls=("https://other.invalid/api/v1",))
    with pytest.raises(TimeoutError):
        await one.is_paid(other, within=5 * MINUTE, VPS_API_TOKEN=GOOD)
    assert one.signed == {BAD}


async def test_an_address_that_is_none_keeps_no_other_server_off(tmp_path: Path) -> None:
    one = Left(tmp_path, "web-01", "web-02")
    await one.owes("12345", base_url="https://[no address")
    await one.owes("12346")
    assert not await one.is_paid(VPS_API_TOKEN=GOOD)
    assert one.statuses == ["stopped", "active"]


async def test_what_fails_unforeseen_is_not_taken_for_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Left(tmp_path, "web-01", "web-02")
    await one.owes("12345")
    await one.owes("12346")
    until_paid = Keeper.until_paid

    async def fails_for_one(keeper: Keeper) -> None:
        if "12345" in keeper._kept:
            raise ValueError
        await until_paid(keeper)

    monkeypatch.setattr(Keeper, "until_paid", fails_for_one)
    assert not await one.is_paid(VPS_API_TOKEN=GOOD)
    assert one.statuses[1] == "active"


# -- the ledgers --------------------------------------------------------------------------------------------------


def test_a_word_of_the_file_is_a_place_where_it_names_a_database(tmp_path: Path) -> None:
    base, text = tmp_path / "state.db", tmp_path / "text.db"
    with closing(sqlite3.connect(base)) as connection:
        connection.execute("CREATE TABLE t (c)")
    text.write_text("state")
    found = ledgers_named(tmp_path / "c.yaml", Remains(words=(str(base), str(text), str(tmp_path), "\0")), {})
    assert (base in found, text in found, tmp_path in found) == (True, False, False)


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a directory"])
def test_a_place_that_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "state.db"
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a device":
        place.symlink_to("/dev/zero")
    else:
        place.mkdir()
    what = "a symbolic link" if kind == "a device" else f"{kind}, not a file"
    with pytest.raises(LedgerError, match=f"is {what}"):
        debts_of(place)


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "?"), ValueError(), MemoryError()])
async def test_a_ledger_that_cannot_be_read_for_whatever_reason_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    one = Left(tmp_path)
    await one.owes("12345")
    (tmp_path / "damaged.db").write_bytes(os.urandom(4096))
    (owed,) = debts_of(one.ledger)

    def salvaged(place: Path) -> list[ServerPower]:
        if place != one.ledger:
            raise error
        return [replace(owed)]

    monkeypatch.setattr("snaprotd.daemon.last_resort.salvaged", salvaged)
    places = [tmp_path / "damaged.db", one.ledger]
    assert await pay_what_is_owed(places, {"VPS_API_TOKEN": GOOD}, ConfigError([]), one.way)
    assert one.statuses == ["active"]
