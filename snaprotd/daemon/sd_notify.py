"""What systemd is told of the service: ready, reloading, stopping, alive, and how it stands in words.

The protocol is a datagram of `KEY=value` lines to the socket that $NOTIFY_SOCKET names: sd_notify(3). Without that
variable nothing is sent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress


class ServiceNotifier:
    """Tells systemd. A socket that does not answer is no reason to stop: a failure to send is passed over."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog_seconds(environ)
        self._status = ""

    def ready(self, status: str) -> None:
        """Configured, and the ledger is open. Ends a reload too, whatever became of it."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """How it stands, in words; sent only where that has changed."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """`ready` must follow. Without the time of the monotonic clock `systemctl reload` would wait for ever."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def extend(self, seconds: int, status: str) -> None:
        """Ask for so much more time to begin; to be asked again before it is over."""
        self._status = status
        self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        self._status = status
        self._send("STOPPING=1", f"STATUS={status}")

    async def feed_watchdog(self, is_well: Callable[[], bool]) -> None:
        """Say that we are alive, twice in each of the watchdog's intervals, as long as `is_well`; for ever.

        It runs on the loop that does the work, so that a loop that hangs is noticed.
        """
        if self._watchdog is None:
            return
        while True:
            if is_well():
                self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 2)

    def _send(self, *lines: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), address)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """The watchdog's interval, where there is one and it is meant for this process."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6 or None
