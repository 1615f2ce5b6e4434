"""What a process that forks into others has loaded: what snaprotd needs to run, and nothing of a test's."""

import gc

import snaprotd.commands.cli
import snaprotd.daemon.life  # noqa: F401

gc.collect()
gc.freeze()  # so that a fork's collector need not copy what it shares
