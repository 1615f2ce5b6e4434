"""What is owed to servers, as the ledger has it: the part of a ledger that outlives its rotations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from snaprotd.core.errors import LedgerError
from snaprotd.core.power import given_up
from snaprotd.core.promise import ServerPower, Terms, as_one, goes_beyond, joined, merged
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Entry
from snaprotd.ledger import promises
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.files.copies import Copies
from snaprotd.ledger.files.turns import Take, Together
from snaprotd.ledger.leases.others import Others
from snaprotd.ledger.promises import Key
from snaprotd.ledger.rows import read_ids
from snaprotd.ledger.sql import notes, past, statements
from snaprotd.ledger.sql.connection import Connection

log = structlog.get_logger("snaprotd.ledger")

TOLD_WITHIN = 10.0
"""Seconds in which a process that lives has written its promises again into a ledger that was lost."""


RESTORE_LASTS = timedelta(hours=1)
"""Longer than any restore takes: the provider says 5 to 15 minutes. Whoever has begun it may have been killed."""


@dataclass(frozen=True, kw_only=True)
class Possession:
    """Whose a ledger is. Empty where it does not tell."""

    account: str
    """The host of the provider's address."""
    email: str
    servers: frozenset[str]
    """The ids of the account's servers that the ledger knows."""


class Starts:
    """Every method raises `LedgerError` where the database cannot be read or written."""

    def __init__(
        self,
        transaction: Callable[..., AbstractAsyncContextManager[Connection]],
        copies: Copies,
        events: Events,
        others: Others,
    ) -> None:
        self._transaction = transaction
        self._events = events
        self.copies = copies
        self._untold: dict[Key, float] = {}
        """What only a copy tells, and since when that is known, by the loop's clock."""
        self.others = others
        """Which rotations live that are not of this process."""
        self.account = ""
        """Whose servers they are: the host of the provider's address."""
        self.terms = Terms()
        """What is kept beside a promise, so that it can be paid without any configuration."""
        self.ids_of: Callable[[str], frozenset[str]] = lambda one: frozenset({one})
        """Every id of a server, as far as is known: it may be called by another one than when a row was written."""
        self._ever: dict[str, frozenset[str]] = {}
        """The ids of servers with which a promise was kept."""
        self._unnoted: set[frozenset[str]] = set()
        self._asked: Together[Key, ServerPower | None] = Together(self._kept_of_all)

    def is_ours(self, account: str) -> bool:
        """What was written before accounts were told apart is this account's."""
        return account in ("", self.account)

    async def whose(self) -> Possession:
        """The account that the ledger belongs to, as far as it tells."""
        async with self._transaction(writes=False) as connection:
            noted = {row.key: row.value for row in await connection.execute(notes.possession())}
            rows = await connection.execute(past.touched())
            powers = [promises.read_power(row) for row in await connection.execute(promises.followed())]
        account = noted.get("account") or next((row.account for row in rows if row.account), "")
        email = noted.get("email") or next((one.power.whose for one in powers if one.power.whose), "")
        servers = frozenset(row.server_id for row in rows if row.account in ("", account))
        return Possession(account=account, email=email or "", servers=servers)

    async def take_possession(self, email: str, *, known: Possession) -> bool:
        """The ledger is this account's from now on. False where it has become another one's since it was `known`."""
        async with self._transaction() as connection:
            noted = {row.key: row.value for row in await connection.execute(notes.possession())}
            is_as_known = not email or noted.get("email", "") in ("", email, known.email)
            if not is_as_known or not self.is_ours(noted.get("account", "")):
                return False
            for key, value in (("account", self.account), ("email", email)):
                if value:
                    await connection.execute(notes.note(key, value))
        return True

    def record_of(self, rotation: Rotation) -> ServerPower:
        """The record of a rotation's server, as it is kept."""
        record = promises.record_of(rotation, self.account, self.terms)
        return record.known_by(self.ids_of(record.server_id) | self._ever.get(record.server_id, frozenset()))

    # -- by which ids servers are known --------------------------------------------------------------------------

    async def ids_noted(self) -> list[frozenset[str]]:
        """The ids that are one server's each, as far as was noted, and as they are kept with promises."""
        async with self._transaction(writes=False) as connection:
            noted = await connection.execute(notes.ids_noted())
            powers = [promises.read_power(row) for row in await connection.execute(promises.followed())]
        return [*(read_ids(row.value) for row in noted), *(one.ids for one in powers if one.also)]

    async def go_by_noted_ids(self) -> None:
        """For whoever asks no provider."""
        groups = {one: ids for ids in await self.ids_noted() for one in ids}
        self.ids_of = lambda one: groups.get(one, frozenset({one}))

    def learn_ids(self, ids: frozenset[str]) -> None:
        """They are one server's: to be noted with whatever is written next."""
        self._unnoted.add(ids)

    async def note_learnt(self, connection: Connection) -> None:
        """Write down what was learnt of servers' ids."""
        noted = set(self._unnoted)
        if noted:
            await connection.execute(notes.NOTE.for_each(notes.ids_row(ids) for ids in noted))
        self._unnoted -= noted

    async def note_ids(self) -> None:
        if self._unnoted:
            async with self._transaction() as connection:
                await self.note_learnt(connection)

    # -- what is owed ----------------------------------------------------------------------------------------------

    async def followed(self, *, grace: float = 0.0) -> list[ServerPower]:
        """The servers that something is owed to or that are watched, but for those with a living rotation elsewhere.

        A rotation of another process that holds its lease sees to its server itself. Until `grace` seconds after that
        it is left to whoever takes it up: it may still need the server off.
        """
        async with self._transaction(writes=False) as connection:
            elsewhere = await self.others.living(connection, self.account, grace=grace)
            rows = await connection.execute(promises.followed())
        # Another account's server is not found in this one: its promise would be given up as if it were gone.
        ours = as_one(promises.read_power(row) for row in rows if self.is_ours(row.account))
        return [record for record in map(self._known, ours) if elsewhere.isdisjoint(record.ids)]

    def _known(self, record: ServerPower) -> ServerPower:
        return record.known_by(self.ids_of(record.server_id))

    async def is_elsewhere(self, server_id: str) -> bool:
        """Whether another process runs a rotation of the server, as far as this one has seen since it came."""
        async with self._transaction(writes=False) as connection:
            return not self.ids_of(server_id).isdisjoint(await self.others.living(connection, self.account))

    async def seems_elsewhere(self, server_id: str) -> bool:
        """The same by the wall clock, for who has seen nothing yet, and does no harm where that was set."""
        async with self._transaction(writes=False) as connection:
            return not self.ids_of(server_id).isdisjoint(await self.others.seem_living(connection, self.account))

    async def held_off_in(self, group: str, *, but: str) -> str | None:
        """The label of a server of the group, another than `but`, that a start is owed to; None where none is."""
        async with self._transaction(writes=False) as connection:
            return await promises.held_off_in(connection, self.account, group, but=self.ids_of(but))

    async def slots_of(self, server_id: str) -> set[datetime]:
        """The slots that the ledger knows of a server."""
        async with self._transaction(writes=False) as connection:
            slots = await connection.scalars(statements.slots_of(self.account, self.ids_of(server_id)))
            return {instant for slot in slots if (instant := statements.instant_of(slot)) is not None}

    async def begin_restore(self, server_ids: Collection[str], now: datetime) -> bool:
        """A person restores the server that has these ids: no rotation of it may begin before that is over.

        False where another restore of it is noted, which this one must not end.
        """
        async with self._transaction() as connection:
            if await self._restored_since(connection, server_ids, now):
                return False
            for one in server_ids:
                await connection.execute(notes.note(notes.restore_of(one), statements.text_of(now)))
        return True

    async def end_restore(self, server_ids: Collection[str]) -> None:
        async with self._transaction() as connection:
            await connection.execute(notes.forget_restores(server_ids))

    async def is_restored(self, server_ids: Collection[str], now: datetime) -> bool:
        """Whether a person has begun to restore it, and it is not known to be over; for `RESTORE_LASTS` at the most."""
        async with self._transaction(writes=False) as connection:
            return await self._restored_since(connection, server_ids, now)

    async def _restored_since(self, connection: Connection, server_ids: Collection[str], now: datetime) -> bool:
        begun = map(statements.instant_of, await connection.scalars(notes.restored_since(server_ids)))
        return any(at is not None and abs(now - at) < RESTORE_LASTS for at in begun)

    async def save(self, kept: ServerPower) -> None:
        """Write what is known of a server's power outside of any rotation."""
        try:
            async with self._transaction(urgent=kept.power.is_payable) as connection:
                await promises.put(connection, kept)
                await self.note_learnt(connection)
        except LedgerError:
            await self.copies.keep(kept, told=False)
            raise
        await self.copies.keep(kept, told=True)

    async def insist(self, record: ServerPower) -> bool:
        """Have the ledger owe what this process knows to be owed, whatever has become of it there. False where it does.

        What others know of that very stop stays as they have written it.
        """
        known = await self.kept(record.account, record.server_id)
        record = _joined(record, known)
        if known is not None and not goes_beyond(record.power, known.power):
            return False
        log.error("the ledger lacks what this process owes to a server: it is written again", server=record.label)
        await self.save(record)
        return True

    async def kept(self, account: str, server_id: str) -> ServerPower | None:
        """What is kept of one server's power as of now, whoever wrote it. All that wait for a turn share one."""
        return await self._asked.ask((account, server_id))

    async def _kept_of_all(self, take: Take[Key]) -> list[ServerPower | None]:
        async with self._transaction(writes=False, urgent=True) as connection:  # a server may be off until then
            return await self.kept_by_each(connection, take())

    async def kept_by(self, connection: Connection, account: str, server_id: str) -> ServerPower | None:
        """As `kept`, in a transaction that is open."""
        record = await promises.kept(connection, account, self.ids_of(server_id))
        if record is not None:
            self._ever[server_id] = record.ids
        return record

    async def kept_by_each(self, connection: Connection, servers: Sequence[Key]) -> list[ServerPower | None]:
        """As `kept_by`, of each of these servers."""
        asked = [(account, self.ids_of(server_id)) for account, server_id in servers]
        found = [record async for record in promises.kept_of_each(connection, asked)]
        told = zip(servers, found, strict=True)
        self._ever |= {server_id: record.ids for (_, server_id), record in told if record is not None}
        return found

    async def with_power(self, connection: Connection, rotations: Sequence[Rotation]) -> list[Rotation]:
        """The rotations with what is remembered of their servers' power, whatever became of earlier ones."""
        known = await self.kept_by_each(connection, [(self.account, one.server_id) for one in rotations])
        both = zip(rotations, known, strict=True)
        return [one if its is None else replace(one, power=merged(one.power, its.power)) for one, its in both]

    async def owed(self) -> list[ServerPower]:
        """The servers that a start is owed to as far as was seen, whoever sees to it."""
        async with self._transaction(writes=False) as connection:
            rows = await connection.execute(promises.followed())
        return [kept for kept in as_one(map(promises.read_power, rows)) if kept.power.is_owed]

    async def let_go(self, server_id: str, words: str, *, entry: Entry | None = None) -> ServerPower | None:
        """Let go of what is owed to a server; `words` say who does, when and why. None where nothing is."""
        try:
            async with self._transaction() as connection:
                record = await promises.let_go(connection, self.account, self.ids_of(server_id), words)
                if record is not None and entry is not None:
                    await self._events.add(connection, [entry])
        except LedgerError:
            if (copy := await self._let_go_of_copy(server_id, words)) is None:
                raise
            return copy
        if record is None:
            return await self._let_go_of_copy(server_id, words)
        await self.copies.keep(record, told=True)
        return record

    async def _let_go_of_copy(self, server_id: str, words: str) -> ServerPower | None:
        """What only a copy tells of; None where none does."""
        for copy in await asyncio.to_thread(self.copies.read):
            if server_id in copy.ids and self.is_ours(copy.account) and copy.power.is_followed:
                record = replace(copy, power=given_up(copy.power), let_go=words)
                await self.copies.keep(record, told=False)
                return record
        return None

    async def inherit(self, owed: ServerPower) -> None:
        """Owe what another ledger owes, and this one does not know of.

        It is for the caller to see that the other one does not owe it any more.
        """
        async with self._transaction() as connection:
            record = await promises.inherit(connection, self.account, owed)
        if record is not None:
            await self.copies.keep(record, told=True)

    async def take_in(self, *, at_once: bool = False) -> list[ServerPower]:
        """Have the ledger tell what only a copy tells: its file was lost, or put back as it was once.

        Not before `TOLD_WITHIN` seconds, unless `at_once`: another process may be writing it again just now. Answers
        with what is waited for.
        """
        untold = []
        now, before, self._untold = asyncio.get_running_loop().time(), self._untold, {}
        copies = await self._readable_copies()
        for copy, known in zip(copies, await self._kept_of_each(copies), strict=True):
            key, found, copy = (copy.account, copy.server_id), copy, _joined(copy, known)
            if known is not None and not goes_beyond(copy.power, known.power):
                await self.copies.keep(known.known_by({copy.server_id}), told=True, found=found)
            elif at_once or now - before.get(key, now) >= TOLD_WITHIN:
                log.error(
                    "the ledger lacks what a copy beside it tells of a server: it is written again", server=copy.label
                )
                await self.save(copy)
            else:
                self._untold[key] = before.get(key, now)
                untold.append(copy)
        return untold

    async def joined(self, copy: ServerPower) -> ServerPower:
        """What a copy tells, whose process may be dead for long, with what the ledger knows, which others write."""
        return _joined(copy, await self.kept(copy.account, copy.server_id))

    async def _kept_of_each(self, copies: Sequence[ServerPower]) -> list[ServerPower | None]:
        """What the ledger keeps of the servers that the copies are of."""
        if not copies:
            return []
        async with self._transaction(writes=False) as connection:
            return await self.kept_by_each(connection, [(copy.account, copy.server_id) for copy in copies])

    async def _readable_copies(self) -> list[ServerPower]:
        try:
            return await asyncio.to_thread(self.copies.read)
        except LedgerError as error:  # told by whoever asks whether the ledger can be written
            log.error("what is owed to servers cannot be read from its copies", error=str(error))
            return []

    async def adopt(self) -> None:
        """What was written before accounts were told apart is this account's."""
        async with self._transaction() as connection:
            for statement in statements.adopt(self.account):
                await connection.execute(statement)


def _joined(record: ServerPower, known: ServerPower | None) -> ServerPower:
    """It, with what the ledger knows of that server."""
    return record if known is None else replace(record, power=joined(known.power, record.power))
