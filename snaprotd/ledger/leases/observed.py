"""For how long the rows of open rotations have stood as they are, as one process has seen it.

Whoever holds a rotation changes its row with each renewal. Who would take it over counts by a clock of its own for how
long nothing has changed: no two clocks are compared, not those of two hosts, nor the wall clock before and after it was
set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Token = tuple[str, ...]


def token_of(row: Any) -> Token:
    """What changes with each renewal, to be asked for equality alone. An older snaprotd moves the end of its lease."""
    return tuple(str(one) for one in (row.owner, row.epoch, row.renewals, row.lease_until))


@dataclass(frozen=True)
class _Sight:
    token: Token
    since: float
    until: float


class Observed:
    """What was seen of rows, and between which two looks they were the same."""

    def __init__(self) -> None:
        self._sights: dict[str, _Sight] = {}

    def see(self, rows: Iterable[Any], *, began: float, ended: float) -> None:
        """All open rotations, as a look has shown them that lasted from `began` to `ended`, in seconds of one clock.

        When in that time they were read nobody knows: at its end, where they are new, and where they have stood, at its
        beginning. So a slow answer makes nothing older than it is.
        """
        self._sights = {row.id: self._sight(row.id, token_of(row), began, ended) for row in rows}

    def _sight(self, row_id: str, token: Token, began: float, ended: float) -> _Sight:
        before = self._sights.get(row_id)
        if before is None or before.token != token:
            return _Sight(token, since=ended, until=ended)
        return _Sight(token, since=before.since, until=max(before.until, began))

    def stood(self, row_id: str) -> float:
        """Seconds for which the row has not changed for certain, up to the last look; 0 where it was new to that."""
        sight = self._sights.get(row_id)
        return 0.0 if sight is None else sight.until - sight.since
