"""snaprotd, with a watch on its loop: `python -m bench.watched FILE run --config ...`.

Each time that the loop was late for more than `WORTH` is a line in FILE: when that ended, by the wall clock, for how
long it stood, and how much of the processor the process used meanwhile. What is less than the time that it stood was
another process's share of the machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from snaprotd import __main__
from snaprotd.daemon.life import Daemon

EVERY, WORTH = 0.01, 0.005
"""Seconds between two looks, and by which one is late that is told."""


async def watch(path: Path) -> None:
    """Look every few milliseconds, for ever."""
    with path.open("a", buffering=1) as told:
        while True:
            began, used = time.monotonic(), time.process_time()
            await asyncio.sleep(EVERY)
            stood = time.monotonic() - began - EVERY
            if stood >= WORTH:
                print(json.dumps([time.time(), stood, time.process_time() - used]), file=told)


def main() -> None:
    path, run = Path(sys.argv.pop(1)), Daemon.run

    async def watched(daemon: Daemon) -> int:
        watching = asyncio.create_task(watch(path))
        try:
            return await run(daemon)
        finally:
            watching.cancel()

    setattr(Daemon, "run", watched)  # noqa: B010 - for a name that is no variable, mypy has no objection
    __main__.main()


if __name__ == "__main__":
    main()
