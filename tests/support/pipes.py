"""A pipe whose reader does not read, as a shipper of logs that hangs, or `less` at the end of its first page."""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import suppress

SMALLEST = 4096
"""Bytes that the kernel lets wait in a pipe, at the least."""


class StuckPipe:
    """Full from the start; nobody reads until `come_back`. What was in it first is not shown."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe()
        fcntl.fcntl(self.theirs, fcntl.F_SETPIPE_SZ, SMALLEST)
        os.set_blocking(self._ours, False)
        os.set_blocking(self.theirs, False)
        self._read = bytearray()
        self._filled = 0
        with suppress(BlockingIOError):
            while True:
                self._filled += os.write(self.theirs, b"." * SMALLEST)
        os.set_blocking(self.theirs, True)

    @property
    def said(self) -> str:
        """What has been read."""
        return self._read[self._filled :].decode()

    def come_back(self) -> None:
        """Read all there is, from now on."""
        asyncio.get_running_loop().add_reader(self._ours, self.read)

    def read(self) -> str:
        """Read what there is at this moment; all that has been read."""
        with suppress(BlockingIOError):
            while piece := os.read(self._ours, 65536):
                self._read += piece
        return self.said

    def leave(self) -> None:
        """Whoever writes from now on is told that nobody will read it."""
        if self._ours >= 0:
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._ours)
            os.close(self._ours)
            self._ours = -1

    def close(self) -> None:
        self.leave()
        os.close(self.theirs)
