"""What stands where a file is expected, and is none: whoever opens it may wait for ever, or read without end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ("a pipe", "a socket", "a device")


@contextmanager
def standing_at(path: Path, kind: str) -> Iterator[None]:
    """One of `KINDS` stands at `path` meanwhile."""
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "a pipe":
            os.mkfifo(path)
        elif kind == "a socket":
            listener.bind(str(path))
        else:
            path.symlink_to("/dev/zero")
        yield
