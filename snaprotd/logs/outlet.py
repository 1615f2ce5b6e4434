"""Standard error for those who must not wait: a queue, and one thread that waits for the reader in their place.

A pipe that is full, a terminal that Ctrl-S has stopped and a disk that hangs make a write wait for as long as they
like. On the event loop that would be every rotation, and the start of every server that is held off.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

MOST_LINES = 10_000
MOST_BYTES = 4 * 1024 * 1024
"""What may wait. Of what comes then, the first is kept and not the last: it tells how things began to go wrong."""

BATCH = 64 * 1024
"""Bytes that are written at once, and a line. A busy loop lets the thread run every 5 ms; line by line it would lag."""

NOT_READY = 0.05
"""Seconds until a descriptor that somebody has made non-blocking is tried again."""

PATIENCE = 1.0
"""Seconds that an end waits for the reader."""
NO_MORE_PATIENCE = 0.1
"""The same, where it has been waited for in vain."""

Entry = bytes | int
"""A line; or, in the place of those that were dropped there, how many."""


class Outlet:
    """Lines on their way to a descriptor, in order. `put` never waits; what finds no room is dropped and counted.

    `tell` makes the line that stands where some were dropped, from their number.
    """

    def __init__(self, descriptor: int, tell: Callable[[int], bytes], *, most_lines: int, most_bytes: int) -> None:
        self.dropped = 0
        self._descriptor = os.dup(descriptor)  # ours, whatever becomes of the other
        self._tell = tell
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._start_empty()
        # In a fork's child there is no thread, a lock may be held for ever, and the lines are the parent's to write.
        os.register_at_fork(after_in_child=self._start_empty)

    def _start_empty(self) -> None:
        self._changed = threading.Condition()  # its lock may be taken twice: a collected object may log in here
        self._waiting: deque[Entry] = deque()
        self._bytes = 0
        self._untold = 0
        self._busy = False
        self._failed = False
        self._torn = False
        self._gave_up = False
        self._thread: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Have it written, or dropped where too much waits already."""
        with self._changed:
            if len(self._waiting) >= self._most_lines or self._bytes + len(line) > self._most_bytes:
                self._drop(1)
                return
            self._note_dropped()
            self._waiting.append(line)
            self._bytes += len(line)
            if self._thread is None:
                self._begin()
            self._changed.notify_all()

    def flush(self, patience: float = PATIENCE) -> bool:
        """Wait until all is written, for so many seconds at the most; whether it is. The second time less is waited."""
        with self._changed:
            seconds = min(patience, NO_MORE_PATIENCE) if self._gave_up else patience
            self._gave_up = not self._changed.wait_for(lambda: not self._waiting and not self._busy, seconds)
            return not self._gave_up

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._write_all, name="standard error", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # there may be no more threads; the next line asks again
            self._thread = None

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._untold += lines

    def _note_dropped(self) -> None:
        if self._untold:
            self._waiting.append(self._untold)
            self._untold = 0

    # -- in the thread -----------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while True:
            batch = self._next()
            pieces = [self._tell(entry) if isinstance(entry, int) else entry for entry in batch]
            self._judge(batch, pieces, self._write(b"".join(pieces)))

    def _next(self) -> list[Entry]:
        """What is written next. While nothing is, this waits."""
        batch: list[Entry] = []
        size = 0
        with self._changed:
            self._busy = False
            if not self._waiting and not self._failed:
                self._note_dropped()  # the reader is back, and nobody may have anything more to say
            while not self._waiting:
                self._changed.notify_all()
                self._changed.wait()
            self._busy = True
            while self._waiting and size < BATCH:
                entry = self._waiting.popleft()
                batch.append(entry)
                size += len(entry) if isinstance(entry, bytes) else 0
            self._bytes -= size
        return batch

    def _write(self, text: bytes) -> int:
        """The number of bytes that were written: fewer where the reader is gone, or the disk full."""
        rest = memoryview(b"\n" + text if self._torn else text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                time.sleep(NOT_READY)
            except OSError:
                break
        return len(text) - min(len(rest), len(text))

    def _judge(self, batch: list[Entry], pieces: list[bytes], written: int) -> None:
        """Count what was not written to its end."""
        end = sum(map(len, pieces))
        with self._changed:
            self._failed = written < end
            while end > written:
                entry = batch.pop()
                end -= len(pieces.pop())
                if isinstance(entry, int):
                    self._untold += entry
                else:
                    self._drop(1)
            self._torn = end < written or (self._torn and written == 0)


class Aside(io.RawIOBase):
    """An outlet as a file, which tells of itself what the descriptor tells."""

    def __init__(self, descriptor: int, outlet: Outlet) -> None:
        self._descriptor = descriptor
        self._outlet = outlet

    def write(self, line: Any) -> int:
        self._outlet.put(bytes(line))
        return len(line)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor
