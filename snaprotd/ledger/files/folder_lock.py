"""A lock beside the ledger's file: tells whether another process, here or on another host, has it open.

The folder itself is locked too: somebody may remove the file of the lock under a living process, and a new one would be
another. Ledgers that share a folder are then not told apart, which costs the patience of a lease at the most.

SQLite's write-ahead log needs memory that all its users share, so a folder that two hosts mount must not be used
by both. Two processes on one host may: the leases in the ledger keep them apart.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from snaprotd.core.errors import LedgerError
from snaprotd.ledger.address import open_private

LONGEST = 10.0
"""Seconds for which one waits for another process to put the ledger back."""
ASK_AGAIN = 0.05


@dataclass(frozen=True)
class FolderLock:
    """A shared lock, held until `release`. The kernel lets go of it when the process dies, however it dies."""

    descriptor: int
    was_alone: bool
    """No other process held the lock when this one came."""
    folder: Path

    @classmethod
    def acquire(cls, path: Path) -> FolderLock:
        """Lock `path` + ".lock". Raises `LedgerError` where a process on another host holds it."""
        if not path.name or os.path.isdir(path):
            raise LedgerError(f"{path} is a folder: `state` must name a file, such as {path / 'state.db'}")
        lock = path.with_name(path.name + ".lock")
        try:
            descriptor = open_private(lock)
        except OSError as error:
            raise LedgerError(
                f"cannot open {lock}: {error.strerror}. `state` must name a file in a folder that exists and that "
                f"{_user()} may write to"
            ) from error
        try:
            was_alone = _take(descriptor, lock)
            return cls(descriptor, _Folders.join(lock.parent) and was_alone, lock.parent)
        except BaseException:
            os.close(descriptor)
            raise

    @staticmethod
    def is_free(path: Path) -> bool:
        """Whether no process has the ledger at `path` open, for certain: whoever holds a lease in it is dead.

        Nothing is made for it, and nothing stays locked.
        """
        return _is_free(path.with_name(path.name + ".lock")) and _is_free(path.absolute().parent)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Only one process at a time puts the ledger back. Raises `LedgerError`.

        Another kind of lock on the same file, which has nothing to do with the shared one.
        """
        for attempts_left in range(round(LONGEST / ASK_AGAIN), -1, -1):
            if self._begins_work():
                break
            if not attempts_left:
                raise LedgerError("another process is at work on the ledger's files")
            await asyncio.sleep(ASK_AGAIN)
        try:
            yield
        finally:
            _Folders.at_work.discard(self.folder)
            with suppress(OSError):
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def _begins_work(self) -> bool:
        """Not while another ledger of this process is at it: the lock would not keep that out."""
        if self.folder in _Folders.at_work:
            return False
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, (BlockingIOError, PermissionError)):
                return False  # else it is a file system without locks
        _Folders.at_work.add(self.folder)
        return True

    def release(self) -> None:
        os.close(self.descriptor)
        _Folders.leave(self.folder)


class _Folders:
    """The folders that this process has locked, each once however many ledgers are in it."""

    held: ClassVar[dict[Path, tuple[int, int]]] = {}
    """The descriptor, and how many ledgers of ours there are."""
    at_work: ClassVar[set[Path]] = set()
    """Where a ledger of ours is being put back."""

    @classmethod
    def join(cls, folder: Path) -> bool:
        """Lock it; False if another process has it too. Where that cannot be told, the lock beside the file must do."""
        folder = folder.absolute()
        try:
            descriptor, users = cls.held.get(folder) or (os.open(folder, os.O_RDONLY | os.O_CLOEXEC), 0)
        except OSError:
            return True
        cls.held[folder] = (descriptor, users + 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        except OSError as error:
            is_alone = not isinstance(error, BlockingIOError)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        return is_alone

    @classmethod
    def leave(cls, folder: Path) -> None:
        descriptor, users = cls.held.pop(folder.absolute(), (None, 0))
        if descriptor is not None and users > 1:
            cls.held[folder.absolute()] = (descriptor, users - 1)
        elif descriptor is not None:
            os.close(descriptor)


def _is_free(place: Path) -> bool:
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _take(descriptor: int, lock: Path) -> bool:
    """Take the shared lock; True if nobody else had it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _refuse_another_host(_read_holder(descriptor), lock)
        return False
    except OSError:
        return False  # a file system without locks: it cannot be told, and the leases must do
    if _is_a_locks(descriptor):
        with suppress(OSError):  # on a full disk the lock holds all the same; only another host's message is poorer
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_here()).encode(), 0)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return True


def _is_a_locks(descriptor: int) -> bool:
    """Whether what the file holds was written as below, or is nothing, as after a crash: else it is not cut."""
    content = os.pread(descriptor, 4096, 0)
    return content.startswith(b'{"boot"') or not content.strip(b"\0")


def _refuse_another_host(holder: dict[str, Any], lock: Path) -> None:
    if holder.get("boot") not in (None, _here()["boot"]):
        raise LedgerError(
            f"{lock} is held by snaprotd on another host ({holder.get('host')}, process {holder.get('pid')}): "
            "an SQLite ledger must not be shared between hosts. Stop that one, or give this one its own `state`"
        )


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _here() -> dict[str, Any]:
    # The boot id is the kernel's: containers on one host share it, though not their host names.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = socket.gethostname()
    return {"boot": boot, "host": socket.gethostname(), "pid": os.getpid()}


def _user() -> str:
    return f"user {os.getuid()}"
