"""How a process of ours is asked to end, from the terminal or by the service manager."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from snaprotd import logs


def on_end_asked(begin: Callable[[str], None], at_once: Callable[[], None] = lambda: None) -> None:
    """At SIGTERM or SIGINT `begin` an orderly end, told the signal's name. A second one ends the process at once.

    `at_once` is called right before that. The exit code is then 128 and the signal's number, as shells have it.
    """
    asked = False

    def ask(number: signal.Signals) -> None:
        nonlocal asked
        if asked:
            at_once()
            logs.flush()
            os._exit(128 + number)
        asked = True
        begin(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ask, number)
