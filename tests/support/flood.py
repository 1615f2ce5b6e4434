"""Hostile visitors, as a process: `python -m tests.support.flood PORT [PATH=CONNECTIONS ...]`, until it is killed.

Each connection asks for PATH, reads the answer and asks again, as fast as it gets them; for `idle` it says nothing, for
`half` it says half a head, for `junk` what is no HTTP. One that is cut comes again. Prints `flooding` when all have
come once, and the number of answers in the end.
"""

from __future__ import annotations

import selectors
import signal
import socket
import sys
import time
from heapq import heappop, heappush
from typing import Any

AGAIN, STUBBORN = 1.0, 10.0
"""Seconds until one that was cut comes again; who says nothing, or half, hangs on for longer."""

SAID = {
    "idle": b"",
    "half": b"GET /metrics HTTP/1.1\r\nHost: 127",
    "junk": b"\x16\x03\x01" + bytes(range(256)) + b"\r\n\r\n",
}


class Flood:
    def __init__(self, port: int) -> None:
        self.port = port
        self.selector = selectors.DefaultSelector()
        self.cut: list[tuple[float, bytes]] = []
        self.answers = 0

    def come(self, said: bytes) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", self.port))
        self.selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, said)

    def attend(self, key: selectors.SelectorKey, mask: int) -> None:
        connection: Any = key.fileobj
        try:
            if mask & selectors.EVENT_READ:
                got = connection.recv(65536)
                if not got:
                    raise ConnectionError
                if got.startswith(b"HTTP/1.1"):
                    self.answers += 1
                    connection.send(key.data)
            elif mask & selectors.EVENT_WRITE:
                connection.send(key.data)
                self.selector.modify(connection, selectors.EVENT_READ, key.data)
        except OSError:
            self.selector.unregister(connection)
            connection.close()
            later = AGAIN if key.data.endswith(b"\r\n\r\n") else STUBBORN
            heappush(self.cut, (time.monotonic() + later, key.data))

    def turn(self) -> None:
        for key, mask in self.selector.select(0.05):
            self.attend(key, mask)
        now = time.monotonic()
        while self.cut and self.cut[0][0] <= now:
            self.come(heappop(self.cut)[1])


def main(port: str, *kinds: str) -> None:
    flood = Flood(int(port))

    def end(*_: object) -> None:
        print(flood.answers, flush=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    for kind in kinds:
        path, _, count = kind.rpartition("=")
        said = SAID.get(path, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        for _ in range(int(count)):
            flood.come(said)
            flood.turn()
    print("flooding", flush=True)
    while True:
        flood.turn()


if __name__ == "__main__":
    main(*sys.argv[1:])
