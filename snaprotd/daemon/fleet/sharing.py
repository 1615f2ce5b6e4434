"""What all replicas have together is dealt out: the rate of requests, and the rotations that run at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snaprotd.config.settings import Config
from snaprotd.core.fleet.looks import Fleet
from snaprotd.daemon.fleet.membership import Membership
from snaprotd.engine.board import Board
from snaprotd.engine.tools import Permits
from snaprotd.provider import Provider

RATE = "rate"
"""What a replica says of its own: how often it was lowered, and the part of its share that it is now."""


class Sharing:
    """Of one daemon. Who sees the others no more keeps its part."""

    def __init__(self, config: Config, cloud: Provider, permits: Permits, board: Board, membership: Membership) -> None:
        self._config = config
        self._cloud = cloud
        self._permits = permits
        self._board = board
        self._lowered: dict[str, int] = {}
        """How often the rate of each other replica had been lowered."""
        membership.says.append(self.says)
        membership.seen = self.see
        self.see(membership.fleet)

    def says(self) -> Mapping[str, Any]:
        rate = self._cloud.rate
        return {RATE: {"lowered": rate.lowered, "part": rate.rate / rate.configured}}

    def apply(self, config: Config) -> None:
        self._config = config
        self.see(self._board.fleet)

    def see(self, fleet: Fleet | None) -> None:
        """Use the part that is this one's by now; None while no other was seen yet: what is urgent goes on."""
        if fleet is None:
            self._permits.set_number(0)
            self._cloud.share(0.0)
            return
        heard = self._heard(fleet)
        # What was taken over from one that is gone goes on, whoever's part it is.
        least = 1 if self._board.running else 0
        self._permits.set_number(max(fleet.portion(self._config.max_concurrent), least) if fleet.has_joined else least)
        self._cloud.share(fleet.rate_of(self._config.api.requests_per_second), heard=heard)

    def _heard(self, fleet: Fleet) -> float:
        """The least part at which another one asks that was refused since the last look, or before this one came."""
        said = {one.id: _said(one.body.get(RATE)) for one in fleet.living if one.id != fleet.me.id}
        news = [part for id_, (lowered, part) in said.items() if lowered > self._lowered.get(id_, 0)]
        self._lowered = {id_: lowered for id_, (lowered, _) in said.items()}
        return min(news, default=1.0)


def _said(row: Any) -> tuple[int, float]:
    """What cannot be understood says nothing."""
    lowered, part = (row.get("lowered"), row.get("part")) if isinstance(row, Mapping) else (None, None)
    if isinstance(lowered, int) and isinstance(part, int | float) and 0 < part <= 1:
        return lowered, float(part)
    return 0, 1.0
