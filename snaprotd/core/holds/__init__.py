"""What a name of ours says (`names`), and until when a snapshot is held (`held`): no rotation deletes it before."""

from __future__ import annotations

from snaprotd.core.holds.held import RELEASED, Hold, HoldFor, end_of, hold_in_words, hold_of, last_day, told_by_ledger
from snaprotd.core.holds.names import (
    FOREVER,
    SURELY_SHORT,
    NameRead,
    bears_our_name,
    hold_named,
    identity_in,
    is_alike,
    is_named,
    length_in_doubt,
    longest_name,
    maker_of,
    name_read,
    says_so_itself,
    snapshot_name,
)

__all__ = [
    "FOREVER",
    "RELEASED",
    "SURELY_SHORT",
    "Hold",
    "HoldFor",
    "NameRead",
    "bears_our_name",
    "end_of",
    "hold_in_words",
    "hold_named",
    "hold_of",
    "identity_in",
    "is_alike",
    "is_named",
    "last_day",
    "length_in_doubt",
    "longest_name",
    "maker_of",
    "name_read",
    "says_so_itself",
    "snapshot_name",
    "told_by_ledger",
]
