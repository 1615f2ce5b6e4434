"""What is whose part of that which all replicas have together: requests, rotations, servers."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256


def portion(number: int, id_: str, ids: Collection[str]) -> int:
    """How many of so many whole things are that replica's: they are dealt out, none is left or dealt twice."""
    each, more = divmod(number, len(ids))
    order = sorted(ids, key=lambda one: (_score(one, ""), one))
    return each + (order.index(id_) < more)


def preferred(server_id: str, ids: Collection[str]) -> str:
    """The replica that begins that server's rotations: where one comes or goes, others keep theirs."""
    return max(ids, key=lambda one: (_score(one, server_id), one))


def _score(id_: str, of: str) -> bytes:
    return sha256(f"{id_} {of}".encode()).digest()
