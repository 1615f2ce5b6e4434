"""What is owed to servers, as the ledger has it: the part of a ledger that outlives its rotations."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from snaprotd.core.promise import ServerPower, Terms
from snaprotd.core.rotation import Rotation
from snaprotd.ledger import promises, statements


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
        transaction: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        *,
        owner: str,
        lease: Callable[[], float],
    ) -> None:
        self._transaction = transaction
        self._owner = owner
        self._lease = lease
        self.account = ""
        """Whose servers they are: the host of the provider's address."""
        self.terms = Terms()
        """What is kept beside a promise, so that it can be paid without any configuration."""

    def is_ours(self, account: str) -> bool:
        """What was written before accounts were told apart is this account's."""
        return account in ("", self.account)

    async def whose(self) -> Possession:
        """The account that the ledger belongs to, as far as it tells."""
        async with self._transaction() as connection:
            noted = {row.key: row.value for row in await connection.execute(statements.possession())}
            rows = (await connection.execute(statements.touched())).all()
            powers = [promises.read_power(row) for row in (await connection.execute(promises.followed())).all()]
        account = noted.get("account") or next((row.account for row in rows if row.account), "")
        email = noted.get("email") or next((one.power.whose for one in powers if one.power.whose), "")
        servers = frozenset(row.server_id for row in rows if row.account in ("", account))
        return Possession(account=account, email=email or "", servers=servers)

    async def take_possession(self, email: str) -> None:
        """The ledger belongs to this account from now on."""
        async with self._transaction() as connection:
            for key, value in (("account", self.account), ("email", email)):
                if value:
                    await connection.execute(statements.note(key, value))

    def record_of(self, rotation: Rotation) -> ServerPower:
        """The record of a rotation's server, as it is kept."""
        return promises.record_of(rotation, self.account, self.terms)

    async def followed(self, *, grace: float = 0.0) -> list[ServerPower]:
        """The servers that something is owed to or that are watched, but for those with a living rotation elsewhere.

        A rotation of another process that holds its lease sees to its server itself. Until `grace` seconds after that
        it is left to whoever takes it up: it may still need the server off.
        """
        async with self._transaction() as connection:
            rows = (await connection.execute(promises.followed())).all()
            elsewhere = await self._elsewhere(connection, grace)
        # Another account's server is not found in this one: its promise would be given up as if it were gone.
        ours = [row for row in rows if self.is_ours(row.account)]
        return [promises.read_power(row) for row in ours if row.server_id not in elsewhere]

    async def is_elsewhere(self, server_id: str) -> bool:
        """Whether another process runs a rotation of the server, under a lease that has not run out."""
        async with self._transaction() as connection:
            return server_id in await self._elsewhere(connection)

    async def _elsewhere(self, connection: AsyncConnection, grace: float = 0.0) -> set[str]:
        """The servers that another process runs a rotation of."""
        living = statements.living(self.account, time.time(), self._lease(), grace=grace)
        rows = (await connection.execute(living)).all()
        return {row.server_id for row in rows if row.owner != self._owner}

    async def slots_of(self, server_id: str) -> set[datetime]:
        """The slots that the ledger knows of a server."""
        async with self._transaction() as connection:
            slots = await connection.scalars(statements.slots_of(self.account, server_id))
            return {statements.instant_of(slot) for slot in slots}

    async def save(self, kept: ServerPower) -> None:
        """Write what is known of a server's power outside of any rotation."""
        async with self._transaction() as connection:
            await connection.execute(promises.save_power(), [promises.row_of(kept)])

    async def kept(self, account: str, server_id: str) -> ServerPower | None:
        """What is kept of one server's power, whoever wrote it."""
        async with self._transaction() as connection:
            row = (await connection.execute(promises.power_of(account, server_id))).first()
        return None if row is None else promises.read_power(row)

    async def owed(self) -> list[ServerPower]:
        """The servers that a start is owed to as far as was seen, whoever sees to it."""
        async with self._transaction() as connection:
            rows = (await connection.execute(promises.followed())).all()
        return [kept for kept in map(promises.read_power, rows) if kept.power.is_owed]

    async def let_go(self, server_id: str, words: str) -> ServerPower | None:
        """Let go of what is owed to a server; `words` say who does, when and why. None where nothing is."""
        async with self._transaction() as connection:
            return await promises.let_go(connection, self.account, server_id, words)

    async def inherit(self, owed: ServerPower) -> None:
        """Owe what another ledger owes. It is for the caller to see that the other one does not any more."""
        async with self._transaction() as connection:
            await promises.inherit(connection, self.account, owed)

    async def adopt(self) -> None:
        """What was written before accounts were told apart is this account's."""
        async with self._transaction() as connection:
            for statement in statements.adopt(self.account):
                await connection.execute(statement)
