"""A server in the keeper's care: a debtor without a rotation."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from snaprotd.core import power
from snaprotd.core.errors import LedgerError
from snaprotd.core.model import Server
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower, merged, taken_up
from snaprotd.engine.run import Transition
from snaprotd.engine.starts.paying import let_go
from snaprotd.engine.tools import Tools
from snaprotd.provider import Priority

log = structlog.get_logger("snaprotd.keeper")


class Kept:
    """The record of the server, which grows older, and what may be done with it."""

    def __init__(self, record: ServerPower, tools: Tools) -> None:
        self._record = replace(record, power=taken_up(record.power, tools.now(), settle=record.terms.settle))
        self._clock = asyncio.get_running_loop().time
        self._aged_at = self._since = self._clock()
        self.tools = tools
        self.server_id, self.instance = record.server_id, record.terms.instance
        self.left = asyncio.Event()
        """Somebody else sees to the server now."""
        self.is_cut_off = False
        """As of every `Debtor`."""
        self.is_abandoned = False
        """Whoever holds a lease of its rotation is dead."""

    @property
    def record(self) -> ServerPower:
        """The record as of now."""
        moment = self._clock()
        aged = power.aged(self._record.power, moment - self._aged_at)
        self._record, self._aged_at = replace(self._record, power=aged), moment
        return self._record

    def merge(self, record: ServerPower) -> None:
        """What else is known of the server."""
        self._record = replace(record, power=merged(self.record.power, record.power)).known_by(self.ids)

    async def is_let_go(self) -> bool:
        """Whether a person has let go of the start meanwhile, as the ledger has it. Raises `LedgerError`."""
        if (record := await let_go(self, self._record.account)) is None:
            return False
        self.merge(record)
        self.update_power(power.over)
        return True

    @property
    def power(self) -> Power:
        return self.record.power

    @property
    def start_timeout(self) -> float:
        return self._record.terms.start_timeout

    @property
    def start_is_overdue(self) -> bool:
        return self._clock() - self._since > self.start_timeout

    def look(self, server: Server | None) -> None:
        """None: it was not found."""
        was_in_doubt, now, apart = self.power.in_doubt, self.tools.now(), self.tools.poll_interval
        self.update_power(lambda known: power.seen(known, server, now, apart=apart) if server else power.missing(known))
        if self.power.in_doubt and not was_in_doubt:
            log.error("not started: no process saw the server; who has switched it off?", server=self._record.label)

    def update_power(self, transition: Transition) -> ServerPower:
        self._record = replace(self.record, power=transition(self.power))
        return self._record

    async def save_power_if_possible(self, transition: Transition = lambda known: known) -> bool:
        self.update_power(transition)
        try:
            await self.tools.ledger.starts.save(self.record.known_by(self.ids))
        except LedgerError as error:
            log.error("the ledger cannot be written: going on from memory", error=str(error))
            return False
        return True

    def guard(self) -> None:
        """A start too many does no harm: there is nothing to guard."""

    def start_failed(self) -> None:
        """Told by the log; no rotation has failed."""

    @property
    def ids(self) -> frozenset[str]:
        return self._record.ids | self.tools.inventory.ids_of(self.server_id)

    async def look_for(self, server_id: str) -> Server:
        is_due = self.power.is_payable and self.power.may_be_asked_to_start(self.tools.poll_interval)
        priority = Priority.START if is_due else Priority.DOWNTIME
        return await self.tools.inventory.server(server_id, priority=priority)
