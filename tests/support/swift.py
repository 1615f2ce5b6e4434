"""A replica as a real process, in which all that waits for signs of life is six times as quick, and nothing else.

Leases, beats, looks and silences keep their proportions. So what takes the product two minutes takes a test twenty
seconds; each length that the configuration knows is left to that.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from snaprotd.core.asking.settling import LEASE_BEYOND_REQUEST

TIMES = 6.0
USUAL_LEASE = LEASE_BEYOND_REQUEST + 1.0
"""Seconds of a lease, where a request may take one."""
LEASE = LEASE_BEYOND_REQUEST / TIMES + 1.0
"""The same in a hurry."""

_LENGTHS = {
    "core.asking.settling": ["LEASE_BEYOND_REQUEST"],
    "core.fleet.looks": ["LIVES_FOR", "JOINS_WITHIN"],
    "daemon.fleet.membership": ["BEAT_EVERY", "LIVES_FOR", "WHILE_JOINING", "TRUSTED_FOR"],
    "daemon.life": ["TICK", "INVENTORY_EVERY", "LEASE_RENEWAL", "LEDGER_EVERY"],
    "daemon.slots.turns": ["AFTER_PREFERRED", "AFTER_A_ROUND", "LOOKED_EVERY", "AT_MOST"],
    "engine.starts.keeper": ["TAKEN_UP_WITHIN"],
    "engine.rotations": ["TAKEN_UP_WITHIN", "AHEAD_OF_ALL", "MARK_EVERY"],
    "ledger.leases.changeover": ["UNTOLD"],
    "ledger.leases.others": ["MARGIN", "UNTOLD"],
    "ledger.server.place": ["RESTS", "ASK_AGAIN"],
}


def usual() -> None:
    """As users have it: processes that tests start elsewhere know no margin."""
    settling: Any = import_module("snaprotd.core.asking.settling")
    settling.LEAST_MARGIN = settling.LEASE_BEYOND_REQUEST


def hurry() -> None:
    for name, lengths in _LENGTHS.items():
        module = import_module(f"snaprotd.{name}")
        for length in lengths:
            setattr(module, length, getattr(module, length) / TIMES)
    usual()
    session: Any = import_module("snaprotd.ledger.server.session")
    session.bounded.__kwdefaults__["within"] /= TIMES
    place: Any = import_module("snaprotd.ledger.server.place")
    for name in ("_TO_WRITE", "_TO_READ"):
        text = getattr(place, name)
        for seconds in (place.LONGEST, 2 * place.LONGEST):
            assert f"'{seconds:g}s'" in text or seconds == place.LONGEST
            text = text.replace(f"'{seconds:g}s'", f"'{1000 * seconds / TIMES:.0f}ms'")
        setattr(place, name, text)
