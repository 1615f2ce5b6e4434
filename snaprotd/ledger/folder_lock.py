"""A lock beside the ledger's file: tells whether another process, here or on another host, has it open.

SQLite's write-ahead log needs memory that all its users share, so a folder that two hosts mount must not be used
by both. Two processes on one host may: the leases in the ledger keep them apart.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaprotd.core.errors import LedgerError


@dataclass(frozen=True)
class FolderLock:
    """A shared lock, held until `release`. The kernel lets go of it when the process dies, however it dies."""

    descriptor: int
    was_alone: bool
    """No other process held the lock when this one came."""

    @classmethod
    def acquire(cls, path: Path) -> FolderLock:
        """Lock `path` + ".lock". Raises `LedgerError` where a process on another host holds it."""
        if not path.name or os.path.isdir(path):
            raise LedgerError(f"{path} is a folder: `state` must name a file, such as {path / 'state.db'}")
        lock = path.with_name(path.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(
                f"cannot open {lock}: {error.strerror}. `state` must name a file in a folder that exists and that "
                f"{_user()} may write to"
            ) from error
        try:
            return cls(descriptor, _take(descriptor, lock))
        except BaseException:
            os.close(descriptor)
            raise

    def release(self) -> None:
        os.close(self.descriptor)


def _take(descriptor: int, lock: Path) -> bool:
    """Take the shared lock; True if nobody else had it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _refuse_another_host(_read(descriptor), lock)
        return False
    except OSError:
        return False  # a file system without locks: it cannot be told, and the leases must do
    with suppress(OSError):  # on a full disk the lock holds all the same; only another host's message is poorer
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_here()).encode(), 0)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return True


def _refuse_another_host(holder: dict[str, Any], lock: Path) -> None:
    if holder.get("boot") not in (None, _here()["boot"]):
        raise LedgerError(
            f"{lock} is held by snaprotd on another host ({holder.get('host')}, process {holder.get('pid')}): "
            "an SQLite ledger must not be shared between hosts. Stop that one, or give this one its own `state`"
        )


def _read(descriptor: int) -> dict[str, Any]:
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
