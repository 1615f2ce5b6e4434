"""What is owed by ledgers that were in force before this one, and to servers of another account.

A configuration that names another `state`, or another provider's address, says nothing of a server that is off because
of us: its start is owed all the same. What another ledger owes to a server of this account is brought over into ours:
from then on one ledger tells it, and one keeper pays it. What is owed to another account's server is paid as where
there is no configuration, by what is kept beside the promise. Nothing waits for either.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog

from snaprotd.config.remains import Remains
from snaprotd.config.settings import Config, notes_directory
from snaprotd.core.errors import LedgerError
from snaprotd.core.promise import ServerPower
from snaprotd.daemon.last_resort import Cashier, debts_of
from snaprotd.engine.board import Board
from snaprotd.engine.starts.keeper import Keeper
from snaprotd.engine.tools import Tools
from snaprotd.ledger.address import called, ledgers_in_force, note_in_force
from snaprotd.ledger.leases.observed import Observed
from snaprotd.ledger.store import Ledger
from snaprotd.wiring.access import Transport
from snaprotd.wiring.assembly import ledger_or_none, terms_of

log = structlog.get_logger("snaprotd.daemon")


class Inheritance:
    """Taken up at the start, and looked at again until nothing of it is left."""

    def __init__(
        self, config: Config, environ: Mapping[str, str], tools: Tools, board: Board, transport: Transport | None
    ) -> None:
        self._environ = environ
        self._transport = transport
        self._tools = tools
        self._board = board
        self._terms = terms_of(config)
        self._remains = Remains(base_urls=(config.api.base_url,))
        self._folder = notes_directory(config.path, environ)
        self._own = config.ledger.absolute()
        self._left = list(dict.fromkeys([self._own, *ledgers_in_force(self._folder)]))
        self._keepers: list[Keeper] = []
        self._paying: dict[Path, asyncio.Task[None]] = {}
        self._observed: defaultdict[Path, Observed] = defaultdict(Observed)
        """What was seen of the leases in each of them, which is opened anew at each look."""
        self._missed: set[Path] = set()
        self._complaints: dict[str, str] = {}

    async def take_up(self) -> None:
        """Take up what is left. Raises `LedgerError` where our own ledger cannot be written: it is tried again."""
        failure: Exception | None = None
        for place in list(self._left):
            try:
                is_done = await self._is_done_with(place)
            except Exception as error:  # the other ledgers are none the worse for it
                failure = failure or error
                continue
            if is_done:
                self._left.remove(place)
                note_in_force(self._folder, [self._own, *self._left])
        if isinstance(failure, LedgerError):
            raise failure
        if failure is not None:
            raise LedgerError(f"what a ledger before owes cannot be taken up: {failure!r}") from failure

    async def drain(self, timeout: float) -> bool:
        """Go on until nothing is owed to another account's server. True if nothing is."""
        return all(await asyncio.gather(*(keeper.drain(timeout) for keeper in self._keepers)))

    async def aclose(self) -> None:
        """Leave the rest to the next process. Where nothing is left at all, it need not ask this ledger."""
        for task in self._paying.values():
            task.cancel()
        await asyncio.gather(*self._paying.values(), return_exceptions=True)
        with suppress(LedgerError):
            if not await self._tools.ledger.starts.followed() and not await self._tools.ledger.open_rotations():
                note_in_force(self._folder, [place for place in self._left if place != self._own])

    async def _is_done_with(self, place: Path) -> bool:
        """Whether nothing is owed by that ledger any more that would not be seen to otherwise."""
        try:
            owed = await asyncio.to_thread(debts_of, place)
        except LedgerError as error:
            if place not in self._missed:
                self._missed.add(place)
                log.warning("nobody knows what a ledger owes that was in force before", reason=str(error))
            return False
        is_ours = self._tools.ledger.starts.is_ours
        ours = [record for record in owed if is_ours(record.account)]
        theirs = [record for record in owed if not is_ours(record.account)]
        brought = place == self._own or not ours or await self._bring_over(place, ours)
        if theirs and (place not in self._paying or self._paying[place].done()):
            if place not in self._paying:
                names = ", ".join(record.label for record in theirs)
                log.error("a start is owed to servers of another account", servers=names, ledger=called(place))
            self._paying[place] = asyncio.create_task(self._pay(place, theirs))
        return brought and not theirs

    async def _bring_over(self, place: Path, owed: Sequence[ServerPower]) -> bool:
        """Owe it from now on. False where a process that uses the other ledger sees to a server itself."""
        words = f"snaprotd: the ledger {self._tools.ledger.name} owes it since"
        async with ledger_or_none(place, self._terms) as other:
            other.starts.account = self._tools.ledger.starts.account
            other.starts.others.observed = self._observed[place]
            with suppress(LedgerError):
                await other.starts.adopt()
            unattended = [record for record in owed if not await _is_seen_to(other, record)]
            for record in unattended:
                await self._tools.ledger.starts.inherit(record)
                log.warning("a start that another ledger owes is taken up", server=record.label, ledger=called(place))
                with suppress(LedgerError):
                    await other.starts.let_go(record.server_id, words)
        return len(unattended) == len(owed)

    async def _pay(self, place: Path, owed: Sequence[ServerPower]) -> None:
        for record in owed:
            self._board.show_debt(record)
        async with AsyncExitStack() as stack:
            parts = (self._board, self._environ, self._transport, self._remains)
            cashier = Cashier(stack, *parts, keepers=self._keepers, complaints=self._complaints)
            await cashier.pay([(place, record) for record in owed], asyncio.Event())


async def _is_seen_to(ledger: Ledger, record: ServerPower) -> bool:
    """Another process is alive that runs a rotation of the server: it may need it off."""
    if ledger.is_sole_user:
        return False
    try:
        return await ledger.starts.is_elsewhere(record.server_id)
    except LedgerError:
        return False
