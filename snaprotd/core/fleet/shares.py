"""What is whose part of that which all replicas have together: requests, rotations, servers."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256


def portion(number: int, id_: str, ids: Collection[str]) -> int:
    """How many of so many whole things are that replica's: they are dealt out, none is left or dealt twice."""
    each, more = divmod(number, len(ids))
    order = sorted(ids, key=lambda one: (_score(one, ""), one))
    return each + (order.index(id_) < more)


def rate_of(rate: float, id_: str, ids: Collection[str]) -> float:
    """Requests a second that are that replica's: whole ones, so that no second has more than all may send together.

    Where there are fewer than replicas, each has the same part of one.
    """
    whole = int(rate)
    if whole < len(ids):
        return rate / len(ids)
    has_the_rest = portion(1, id_, ids) == 1
    return portion(whole, id_, ids) + (rate - whole) * has_the_rest


def preferred(server_id: str, ids: Collection[str]) -> str:
    """The replica that begins that server's rotations: where one comes or goes, others keep theirs."""
    return max(ids, key=lambda one: (_score(one, server_id), one))


def _score(id_: str, of: str) -> bytes:
    return sha256(f"{id_} {of}".encode()).digest()
