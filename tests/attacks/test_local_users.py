"""Other users of the machine: they may write to a folder that we write to, and are not to get anything by it.

No test needs root, or a second user: who owns what is told to the code, where that is what counts.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from snaprotd.config.file import parse
from snaprotd.core.errors import LedgerError
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.ledger.address import make_folder, note_in_force, write_anew
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.files.copies import Lives
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.salvage import salvaged
from snaprotd.ledger.store import Ledger

SERVERS = 'servers: [{id: 1, schedule: "@daily"}]\n'
OWED = ServerPower(account="vps.invalid", server_id="1", label="web", power=Power(asked=1, went_off=True))


def modes_below(folder: Path) -> dict[Path, int]:
    return {one: stat.S_IMODE(one.stat().st_mode) for one in folder.rglob("*")}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


async def test_what_we_make_is_for_us_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with umask(0):
        async with await Ledger.open(path, owner="us") as ledger:
            await ledger.starts.save(OWED)
            note_in_force(tmp_path, [path])
            made = modes_below(tmp_path)
    assert {"state.db", "state.db-wal", "state.db.lock", "owed-by-state.db"} <= {one.name for one in made}
    assert {mode for one, mode in made.items() if one.name != "owed-by-state.db"} == {0o600}
    assert made[tmp_path / "owed-by-state.db"] == 0o700


@pytest.mark.parametrize("name", ["state.db", "state.db.lock"])
@pytest.mark.parametrize("there", [True, False])
async def test_a_link_in_place_of_ledger_or_lock_is_not_followed(tmp_path: Path, name: str, there: bool) -> None:
    victim = tmp_path / "victim"
    if there:
        victim.write_text("precious")
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(LedgerError, match=f"{name} is a symbolic link"):
        await Ledger.open(tmp_path / "state.db", owner="us")
    assert (victim.read_text() if victim.exists() else None) == ("precious" if there else None)


@pytest.mark.parametrize("name", ["state.db", "state.db.lock"])
async def test_a_pipe_in_place_of_ledger_or_lock_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(LedgerError, match="is a pipe, not a file"):
        await Ledger.open(tmp_path / "state.db", owner="us")


def owned_by(monkeypatch: pytest.MonkeyPatch, path: Path, owner: int) -> None:
    """Have the file look like another user's, by whichever call it is looked at."""

    def changed(look: Any) -> Any:
        def told(what: Any, *more: Any, **options: Any) -> os.stat_result:
            status = look(what, *more, **options)
            if status.st_ino != inode:
                return os.stat_result(status)
            return os.stat_result((*status[:4], owner, *status[5:10]))

        return told

    inode = os.lstat(path).st_ino
    for name in ("lstat", "fstat"):
        monkeypatch.setattr(os, name, changed(getattr(os, name)))


@pytest.mark.parametrize("name", ["state.db-wal", "state.db-journal"])
async def test_what_another_user_puts_beside_the_ledger_is_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="before") as ledger:
        await ledger.starts.save(OWED)
    (tmp_path / name).write_bytes(b"")
    with monkeypatch.context() as patched:
        owned_by(patched, tmp_path / name, 4242)
        with pytest.raises(LedgerError, match=f"{name} belongs to user 4242"):
            await Ledger.open(tmp_path / "state.db", owner="us")
        (copy,) = (tmp_path / "owed-by-state.db").iterdir()
        assert [one.server_id for one in salvaged(tmp_path / "state.db")] == [OWED.server_id]
        owned_by(patched, copy, 4242)
        with pytest.raises(LedgerError):
            salvaged(tmp_path / "state.db")


async def test_a_count_beside_the_ledger_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.get_native_id", lambda: 7)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"counted-by-state.db.{os.getpid()}.7").symlink_to(victim)
    await Lives(tmp_path / "state.db", cast(Events, None)).note(1)
    assert victim.read_text() == "precious"
    assert modes_below(tmp_path)[tmp_path / "counted-by-state.db"] == 0o600


@pytest.mark.parametrize("name", ["state.db", "state.db.lock"])
async def test_a_ledger_or_lock_of_another_user_is_neither_believed_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="before"):
        pass
    (tmp_path / "state.db.lock").write_text("{}")
    with monkeypatch.context() as patched:
        owned_by(patched, tmp_path / name, 4242)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(LedgerError, match=rf"{name} belongs to user 4242, and snaprotd runs as user \d+"):
            await Ledger.open(tmp_path / "state.db", owner="us")
    assert (tmp_path / name).read_bytes() == before


def test_what_a_lock_never_held_is_not_cut(tmp_path: Path) -> None:
    """Another name of a file of ours, such as ~/.ssh/authorized_keys, may have been put in the lock's place."""
    keys = tmp_path / "authorized_keys"
    keys.write_text("ssh-ed25519 AAAA\n")
    os.link(keys, tmp_path / "state.db.lock")
    FolderLock.acquire(tmp_path / "state.db").release()
    assert keys.read_text() == "ssh-ed25519 AAAA\n"


def test_a_link_where_a_note_is_written_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.get_native_id", lambda: 7)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (f"note.{os.getpid()}.7", "note"):
        (tmp_path / name).symlink_to(victim)
    write_anew(tmp_path / "note", "ours")
    assert (victim.read_text(), (tmp_path / "note").read_text()) == ("precious", "ours")
    assert not (tmp_path / "note").is_symlink()


# -- root in the folder of the daemon's user -----------------------------------------------------------------------


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """We seem to be root, and the folder another user's; what is given to whom, in order."""
    gifts: list[tuple[str, int]] = []
    look = os.stat

    def told(what: Any, *more: Any, **options: Any) -> os.stat_result:
        status = look(what, *more, **options)
        is_theirs = isinstance(what, Path) and what.is_relative_to(tmp_path)
        return os.stat_result((*status[:4], 4242, 4243, *status[6:10])) if is_theirs else status

    def fchown(descriptor: int, user: int, _: int) -> None:
        gifts.append((os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), user))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "stat", told)
    monkeypatch.setattr(os, "fchown", fchown)
    return gifts


async def test_what_root_makes_in_the_folder_of_the_daemons_user_is_the_daemons(
    tmp_path: Path, given: list[tuple[str, int]]
) -> None:
    async with await Ledger.open(tmp_path / "state.db", owner="root") as ledger:
        await ledger.starts.save(OWED)
        note_in_force(tmp_path, [tmp_path / "state.db"])
        (copy,) = (tmp_path / "owed-by-state.db").glob("*.json")
    names = {re.sub(rf"\.{os.getpid()}\.[0-9]+$", "", name) for name, user in given if user == 4242}
    assert names == {"state.db", "state.db.lock", "owed-by-state.db", copy.name, "ledgers-in-force"}
    assert {user for _, user in given} == {4242}


def test_the_folders_that_root_makes_there_are_the_daemons(tmp_path: Path, given: list[tuple[str, int]]) -> None:
    make_folder(tmp_path / "of-config" / "abc")
    assert given == [("of-config", 4242), ("abc", 4242)]


@pytest.mark.parametrize(("owner", "refused"), [(4242, False), (0, False), (1001, True)])
async def test_root_uses_the_ledger_of_the_folders_owner_and_of_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[tuple[str, int]], owner: int, refused: bool
) -> None:
    FolderLock.acquire(tmp_path / "state.db").release()
    owned_by(monkeypatch, tmp_path / "state.db.lock", owner)
    if refused:
        with pytest.raises(LedgerError, match="belongs to user 1001"):
            FolderLock.acquire(tmp_path / "state.db")
    else:
        FolderLock.acquire(tmp_path / "state.db").release()


# -- the default place ---------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def default_ledger(home: Path) -> str:
    return parse(SERVERS, "c.yaml", {"XDG_STATE_HOME": str(home)}).state


def test_a_ledger_of_ours_where_it_was_by_default_once_goes_on_being_used(here: Path) -> None:
    (here / "snaprotd-state.db").touch()
    assert default_ledger(here) == "./snaprotd-state.db"


@pytest.mark.parametrize("kind", ["a link", "another user's", "a pipe"])
def test_what_anybody_may_have_put_into_the_folder_is_passed_over(
    here: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "a link":
        (here / "planted").touch()
        (here / "snaprotd-state.db").symlink_to("planted")
    elif kind == "a pipe":
        os.mkfifo(here / "snaprotd-state.db")
    else:
        (here / "snaprotd-state.db").touch()
        owned_by(monkeypatch, here / "snaprotd-state.db", 4242)
    assert default_ledger(here) != "./snaprotd-state.db"
