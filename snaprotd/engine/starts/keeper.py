"""The keeper of starts: sees to every server that a start is owed to and no living rotation, and watches it afterwards.

A start is owed to a server, not by a rotation. Where a rotation runs it sees to its server itself; where it has ended,
cannot be read or is gone, where its lease has run out or the configuration was refused, the keeper does. What runs
again is followed in lists that are read anyway, until no request of ours can strike any more; nobody waits for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import structlog

from snaprotd.core import power
from snaprotd.core.errors import CloudError, LedgerError, NotFound
from snaprotd.core.model import Server, is_one_server
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import Done, Failed, Outcome, Rotation, Waiting
from snaprotd.engine.board import Board
from snaprotd.engine.starts.kept import Kept
from snaprotd.engine.starts.paying import found, pay
from snaprotd.engine.tools import Tools, until_tick
from snaprotd.provider.identity import found_among

log = structlog.get_logger("snaprotd.keeper")

TAKEN_UP_WITHIN = 30.0
"""Seconds after its lease has run out in which a rotation is taken up again, if at all: two ticks of a daemon."""

LONGEST_WAIT = 60.0
"""Seconds between two looks at a server that a start is owed to, whatever `poll_interval` is."""


Leases = Literal["go by", "ask", "wait for", "ignore"]
"""`go by`: leave the server, which is taken up again at a tick after the lease has run out. `wait for`: where no tick
comes, until it has run out. `ask`: where it seems to have run out until that is known, else leave the server to whoever
holds it. `ignore`: whoever does is dead."""


class Keeper:
    """All servers in care of this process."""

    def __init__(self, tools: Tools, board: Board, *, serves: Callable[[str], bool], leases: Leases = "go by") -> None:
        """`serves`: whether a rotation of this process sees to the server.

        `leases`: what is done about a server whose rotation another process holds under a lease.
        """
        self._tools = tools
        self._board = board
        self._serves = serves
        self._leases = leases
        self._kept: dict[str, Kept] = {}
        self._paying: set[str] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._doubted: list[ServerPower] = []
        """What is told of servers that rotations of this process see to."""

    @property
    def owes(self) -> bool:
        """A start is to be made for some server, as far as was seen."""
        return any(kept.power.is_payable for kept in self._kept.values())

    @property
    def has_promises(self) -> bool:
        """Something is owed, or runs and is watched; but for what a person is asked about."""
        return any(kept.power.is_payable or kept.power.watched for kept in self._kept.values() if kept.power.held_off)

    @property
    def is_following(self) -> bool:
        return bool(self._kept)

    async def take_up(self) -> None:
        """Take care of every server that the ledger names and nobody else sees to. Raises `LedgerError`."""
        grace = TAKEN_UP_WITHIN if self._leases == "go by" else 0.0
        followed = await self._tools.ledger.starts.followed(grace=grace)
        for record in followed:
            self.keep(record)
        self._tell_of_doubts(followed)
        told = {one for record in followed for one in record.ids}
        for kept in [one for one in self._kept.values() if told.isdisjoint(one.ids)]:
            if await kept.is_let_go():
                self._attend(kept)

    def _tell_of_doubts(self, followed: Iterable[ServerPower]) -> None:
        """A server that is off, perhaps because of us, is so while a rotation of it runs: that does not start it."""
        for record in self._doubted:
            self._board.clear_debt(record)
        self._doubted = [one for one in followed if one.power.in_doubt and self._serves(one.server_id)]
        for record in self._doubted:
            self._board.show_debt(record)

    def keep(self, record: ServerPower, *, is_abandoned: bool = False) -> None:
        """Take care of one server, unless a rotation of this process does.

        `is_abandoned`: whoever holds a lease of its rotation is dead.
        """
        if self._serves(record.server_id) or not record.power.is_followed:
            return
        kept = self._keeping(record.ids)
        if kept is None:
            kept = self._kept[record.server_id] = Kept(record, self._tools)
        else:
            kept.merge(replace(record, server_id=kept.server_id).known_by(record.ids))
        kept.is_abandoned = kept.is_abandoned or is_abandoned
        self._attend(kept)

    async def insist(self, rotation: Rotation) -> None:
        """Another process has the rotation now: what this one has promised is owed all the same, whoever pays it.

        The ledger may have lost it, with the row or with the last that was written. Promises only grow.
        """
        record = self._tools.ledger.starts.record_of(rotation)
        if not record.power.asked:
            return
        try:
            if not await self._tools.ledger.starts.insist(record):
                return
        except LedgerError as error:  # its copy beside the ledger tells of it
            log.error("what is owed to a server could not be saved", server=record.label, error=str(error))
            return
        self.keep(record)

    def _keeping(self, ids: Collection[str]) -> Kept | None:
        near = [self._kept[one] for one in ids if one in self._kept]
        return next((kept for kept in near if is_one_server(kept.ids, ids)), None)

    async def save_all(self) -> None:
        """Write every record again: the ledger has lost them."""
        for kept in list(self._kept.values()):
            await kept.save_power_if_possible()

    def cede(self, server_id: str) -> None:
        """A rotation of this process sees to the server from now on."""
        if (kept := self._keeping(self._tools.inventory.ids_of(server_id))) is not None:
            self._drop(kept.server_id)

    def follow(self, servers: Mapping[str, Server]) -> None:
        """What a list of the account shows of the servers that are watched, as soon as it was read.

        One that it does not show is looked for by itself: it may be gone.
        """
        for kept in list(self._kept.values()):
            if kept.server_id in self._paying:
                continue
            server = found_among((servers[one] for one in kept.ids if one in servers), kept.ids)
            if server is None or server.is_active or kept.power.is_owed:
                self._note(kept, server)
            else:
                self._in_background(self._note_unless_elsewhere(kept, server))

    def _note(self, kept: Kept, server: Server | None) -> None:
        kept.look(server)
        self._attend(kept, has_looked=True)

    async def _note_unless_elsewhere(self, kept: Kept, server: Server) -> None:
        """It is off: where another process runs a rotation of it by now, that is why, and that one starts it."""
        is_elsewhere = await self._is_seen_to_elsewhere(kept)
        if not is_elsewhere and self._kept.get(kept.server_id) is kept and kept.server_id not in self._paying:
            self._note(kept, server)

    async def settle(self, *, watched_too: bool) -> None:
        """Return when nothing is owed; with `watched_too`, when no stop that was not seen to strike can any more."""
        await self._go_on_while(
            lambda: self.owes or (watched_too and any(self._may_strike_late(kept) for kept in self._kept.values()))
        )

    async def until_paid(self) -> None:
        """Return when every start is paid: each server ran in two looks, and nothing of ours can strike any more."""
        await self._go_on_while(lambda: self.has_promises)

    async def drain(self, timeout: float) -> bool:
        """Go on until nothing is owed, for `timeout` seconds at the most. True if nothing is."""
        try:
            async with asyncio.timeout(timeout):
                await self.settle(watched_too=False)
        except TimeoutError:
            return False
        return True

    async def aclose(self) -> None:
        """Leave everything to the next process. What is being written or asked for is ended first."""
        for server_id, kept in list(self._kept.items()):
            self._in_background(kept.save_power_if_possible())  # with the ages: else followed anew
            self._drop(server_id)
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    # -- inside ------------------------------------------------------------------------------------------------

    @staticmethod
    def _may_strike_late(kept: Kept) -> bool:
        return kept.power.unstruck and kept.record.may_strike()

    async def _go_on_while(self, holds: Callable[[], bool]) -> None:
        """Look at what is watched at every poll. What is owed looks for itself."""
        while holds():
            if not self.owes:
                await self._look_at_all()
            await asyncio.sleep(self._tools.poll_interval)

    async def _look_at_all(self) -> None:
        for kept in list(self._kept.values()):
            try:
                kept.look(await found(kept))
            except NotFound:
                kept.look(None)
            except CloudError as error:
                log.warning("a server that is watched cannot be looked at", server=kept.record.label, error=str(error))
                continue
            self._attend(kept, has_looked=True)

    def _attend(self, kept: Kept, *, has_looked: bool = False) -> None:
        """Pay what is owed, let go of what is paid, watch the rest.

        `has_looked`: just now. What was seen while a stop could still strike releases nobody after that.
        """
        if kept.power.is_owed:
            self._board.show_debt(kept.record)
            if kept.power.is_looked_for and kept.server_id not in self._paying:
                self._paying.add(kept.server_id)
                self._in_background(self._pay(kept))
            return
        self._board.clear_debt(kept.record)
        ran_for = kept.power.running_for or 0.0
        if has_looked and kept.power.held_off and ran_for >= self._tools.poll_interval and not kept.record.may_strike():
            # The server ran in two looks, and no request of ours can strike any more.
            kept.update_power(power.released)
            log.info("the server runs, and stays on: its start is paid", server=kept.record.label)
            self._in_background(kept.save_power_if_possible())
        if not kept.power.is_followed:
            self._in_background(kept.save_power_if_possible())  # else it is taken up again
            self._drop(kept.server_id)

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pay(self, kept: Kept) -> None:
        """See one server running again. There is no last attempt."""
        record = kept.record
        log.warning("a start is owed to the server, and no rotation sees to it", server=record.label)
        try:
            while kept.power.is_looked_for and not kept.left.is_set() and not await self._is_let_go(kept):
                if await self._is_seen_to_elsewhere(kept):
                    if self._leases == "go by" or (self._leases == "ask" and await self._seems_alive(kept)):
                        self._drop(kept.server_id)
                    else:
                        await _wait(kept.left, self._tools.poll_interval)
                    continue
                outcome = await self._visit(kept)
                if isinstance(outcome, Failed):
                    log.error("the start is given up", server=record.label, error=outcome.error)
                await kept.save_power_if_possible()
                if self._kept.get(kept.server_id) is kept:
                    self._board.show_debt(kept.record)
                if kept.power.is_looked_for:
                    await _wait(kept.left, _pause(outcome, self._tools.poll_interval))
        finally:
            self._paying.discard(kept.server_id)
        if kept.power.watched:
            self._tools.observer.back_on(kept.server_id, kept.power.off_for)
        if self._kept.get(kept.server_id) is kept:
            self._attend(kept)

    async def _is_let_go(self, kept: Kept) -> bool:
        """A person has let go of the start."""
        try:
            return await kept.is_let_go()
        except LedgerError:
            return False

    async def _is_seen_to_elsewhere(self, kept: Kept) -> bool:
        """Another process runs a rotation of the server, which may need it off; where not, this one goes on."""
        if self._leases == "ignore" or kept.is_abandoned:
            return False
        try:
            return await self._tools.ledger.starts.is_elsewhere(kept.server_id)
        except LedgerError:
            return False

    async def _seems_alive(self, kept: Kept) -> bool:
        """Whoever runs that rotation."""
        try:
            return await self._tools.ledger.starts.seems_elsewhere(kept.server_id)
        except LedgerError:
            return False

    async def _visit(self, kept: Kept) -> Outcome:
        try:
            return await pay(kept)
        except CloudError as error:
            log.error("the server that is held off cannot be started yet", server=kept.record.label, error=str(error))
            return Waiting(str(error), retry_after=getattr(error, "retry_after", None))
        except Exception as error:
            log.exception("internal error")
            return Waiting(f"internal error ({type(error).__name__})")

    def _drop(self, server_id: str) -> None:
        kept = self._kept.pop(server_id, None)
        if kept is not None:
            kept.left.set()
            self._board.clear_debt(kept.record)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Sleep for so long, or until the event."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _pause(outcome: Outcome, poll_interval: float) -> float:
    to_tick = until_tick(poll_interval)
    match outcome:
        case Done():
            return 0.0
    return min(to_tick, LONGEST_WAIT)
