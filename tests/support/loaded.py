"""What a process that forks into others has loaded: what snaprotd needs to run, and nothing of a test's."""

import gc

import snaprotd.commands.cli
import snaprotd.daemon.life  # noqa: F401
from snaprotd.core.asking import settling

settling.LEAST_MARGIN = 0.0  # else half a minute passes for real after each of hundreds of kills

gc.collect()
gc.freeze()  # so that a fork's collector need not copy what it shares
