"""Loaded by the Python of each real process that tests start, before anything else: see `tests/support/loaded.py`."""

from snaprotd.core.asking import settling

settling.LEAST_MARGIN = 0.0
