"""Who keeps a ledger from being written, as far as the kernel tells."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from snaprotd.core.words import printable

LOCKS = Path("/proc/locks")
WRITES = 120
"""The byte of the shared memory that who writes has locked: https://www.sqlite.org/walformat.html#wal_locks"""


def who_writes(path: Path) -> str:
    """Another process that has the write lock of the ledger at `path`, by name and number; empty if nobody knows."""
    try:
        node = os.stat(path.with_name(f"{path.name}-shm")).st_ino
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        with suppress(ValueError, IndexError):
            if (pid := _writer(line.split(), node)) and pid != os.getpid():
                return _called(pid)
    return ""


def _writer(fields: list[str], node: int) -> int:
    """The process of a line such as `1: POSIX ADVISORY WRITE 4711 fe:00:1234 120 120`; 0 where that is another lock."""
    kind, access, pid, where, first, last = fields[1], *fields[3:8]
    is_it = kind == "POSIX" and access == "WRITE" and where.rpartition(":")[2] == str(node)
    return int(pid) if is_it and int(first) <= WRITES <= int(last) else 0


def _called(pid: int) -> str:
    name = ""
    with suppress(OSError):
        name = printable(Path(f"/proc/{pid}/comm").read_text(errors="replace").strip())
    return f"{name or 'a program'} (process {pid})"
