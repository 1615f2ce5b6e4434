"""That this process is one of the replicas that share a ledger: it beats, and sees who else does.

On a file there is one replica, which has every role, and nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from snaprotd.config.settings import Config
from snaprotd.core.errors import LedgerError
from snaprotd.core.fleet import ANSWERED, BEAT_EVERY, LIVES_FOR, ON_TIME, REPORTER, Replica
from snaprotd.core.fleet.looks import Fleet, looked
from snaprotd.engine.board import Board
from snaprotd.ledger.claims import uptime
from snaprotd.ledger.store import Ledger
from snaprotd.wiring.replica import this_replica

log = structlog.get_logger("snaprotd.replicas")

WHILE_JOINING = 2.0
"""Seconds between two beats until all know of it."""
TRUSTED_FOR = LIVES_FOR - BEAT_EVERY
"""Seconds after its last look in which a replica relies on it: others wait for longer until they take a role."""


class Membership:
    """Of one daemon."""

    def __init__(self, config: Config, decides: str, ledger: Ledger, board: Board) -> None:
        """`decides`: the `hash_of` that configuration."""
        self._config = config
        self._replicas = ledger.replicas
        self._me = this_replica(decides, ledger.owner)
        self.says: list[Callable[[], Mapping[str, Any]]] = [
            lambda: {ANSWERED: board.is_answered, ON_TIME: board.is_on_time()}
        ]
        """What is written beside the beat for the others."""
        self.seen: Callable[[Fleet], None] = lambda _: None
        """Told after each look."""
        self._fleet = Fleet.alone(self._me) if self._replicas is None else None
        self._is_changed = asyncio.Event()
        self._is_cut_off = False
        self._may_claim = True
        self._board = board
        board.reports = lambda: self.has(REPORTER)
        board.fleet = self._fleet

    @property
    def is_shared(self) -> bool:
        """There may be others."""
        return self._replicas is not None

    @property
    def fleet(self) -> Fleet | None:
        """As it was seen last; None before the first look."""
        return self._fleet

    @property
    def me(self) -> Replica:
        return self._me if self._fleet is None else self._fleet.me

    @property
    def may_claim(self) -> bool:
        """It has leave to run some, and no replica that lives has a newer configuration, as far as was seen.

        Nor has another one the right time where this one has not, which it may have learnt since it said so.
        """
        fleet, number = self._fleet, self._config.max_concurrent
        if fleet is None or (not self._board.is_on_time() and fleet.is_another_on_time):
            return False
        return fleet.portion(number) > 0 and fleet.me.config == self._me.config

    def prefers(self, server_id: str) -> bool:
        """Whether this one is to begin that server's rotations. Who has seen nobody yet is none's."""
        return self._fleet is not None and self._fleet.prefers(server_id, self._config.max_concurrent)

    def has(self, role: str) -> bool:
        """Whether it does that for all. Who cannot see the others any more has no role: one of them may have it."""
        fleet = self._fleet
        if fleet is None or not fleet.has(role):
            return False
        return len(fleet.living) == 1 or uptime() - fleet.looked_at < TRUSTED_FOR

    def apply(self, config: Config, *, decides: str) -> None:
        """Another configuration is in force: its generation is told with the next beat, which is now."""
        self._config, self._me = config, replace(self._me, config=decides)
        if self._replicas is None:
            self._fleet = self._board.fleet = Fleet.alone(self._me)
        self._is_changed.set()

    async def look(self) -> None:
        """Beat once, and see the others. Raises `LedgerError`."""
        if self._replicas is None:
            return
        body = {key: value for says in self.says for key, value in says().items()}
        me, before = replace(self._me, body=body), self._fleet

        def found(rows: Sequence[Replica], roles: Mapping[str, str], newest: int, now: float) -> Fleet:
            return looked(before, me, rows, roles, newest=newest, now=now)

        self._fleet = await self._replicas.beat(found)
        self._tell(before, self._fleet)
        self._board.fleet = self._fleet
        self.seen(self._fleet)

    async def begin(self) -> None:
        """The first look, before anything else is done. Where it fails the next one is the first."""
        with suppress(LedgerError):
            await self.look()

    async def keep(self) -> None:
        """Beat, for ever."""
        while True:
            joining = self._fleet is None or not self._fleet.has_joined
            with suppress(TimeoutError):
                async with asyncio.timeout(WHILE_JOINING if joining else BEAT_EVERY):
                    await self._is_changed.wait()
            self._is_changed.clear()
            try:
                await self.look()
            except LedgerError as error:
                if not self._is_cut_off:
                    log.error("the other replicas cannot be seen: this one keeps its part", error=str(error))
                self._is_cut_off = True
            else:
                self._is_cut_off = False

    async def leave(self) -> None:
        """It is no more: the others need not wait until it stands still. Where that cannot be written, they do."""
        if self._replicas is not None:
            with suppress(LedgerError):
                await self._replicas.leave(self._me.id)

    def _tell(self, before: Fleet | None, now: Fleet) -> None:
        """In the log: who came and went, and that this one may claim no slots, once."""
        known = {} if before is None else {one.id: one for one in before.living}
        seen = {one.id: one for one in now.living}
        for one in (known | seen).values():
            if one.id != now.me.id and (one.id in known) != (one.id in seen):
                event = "a replica has joined" if one.id in seen else "a replica has gone"
                log.info(event, replica=one.id, host=one.host, living=len(seen))
        if self._may_claim and not now.may_claim:
            log.warning("another replica has a newer configuration: this one begins no rotations", config=now.me.config)
        elif now.may_claim and not self._may_claim:
            log.info("no replica has a newer configuration any more: this one begins rotations", config=now.me.config)
        self._may_claim = now.may_claim
