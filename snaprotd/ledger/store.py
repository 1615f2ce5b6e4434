"""The ledger: what must survive a crash. Open rotations with their leases, history, how far each schedule was seen.

The database holds the invariants, not this code: one rotation for a server and slot is a unique key, one open
rotation for a server is a partial unique index. A rotation belongs to the process that *claimed* it, under a lease
that the process renews; an expired lease may be taken over by any process. Each take-over raises the epoch, and
every write names the owner and epoch it believes in, so that whoever lost a rotation learns of it at the next write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from snaprotd.core.errors import CalledOff, LeaseLost, LedgerError
from snaprotd.core.power import Power
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Deletion, of_exchange
from snaprotd.ledger.claiming import Answered, Asked, Claiming
from snaprotd.ledger.claims import Claim, Claimed, Lease, Mark, uptime
from snaprotd.ledger.events.desk import Desk
from snaprotd.ledger.events.matched import MatchedServers
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.events.seen import Seen
from snaprotd.ledger.files.aside import Aside
from snaprotd.ledger.files.copies import Copies, Lives
from snaprotd.ledger.files.exchange import TABLE_LOST, WRITTEN_BACK, Exchange
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.files.place import FilePlace
from snaprotd.ledger.files.turns import Together
from snaprotd.ledger.history import History
from snaprotd.ledger.holds import Holds
from snaprotd.ledger.leases.changeover import Changeover, quiet_for
from snaprotd.ledger.leases.others import Others
from snaprotd.ledger.leases.reassertion import ask_again, owe_again
from snaprotd.ledger.leases.saving import Saving, ToSave
from snaprotd.ledger.leases.taking import Taking
from snaprotd.ledger.set_aside import SetAside
from snaprotd.ledger.sql import statements
from snaprotd.ledger.sql.connection import Connection, Place
from snaprotd.ledger.sql.copying import write_all
from snaprotd.ledger.sql.replicas import Replicas
from snaprotd.ledger.sql.schema import is_short
from snaprotd.ledger.sqlite import open_database
from snaprotd.ledger.starts import Starts

log = structlog.get_logger("snaprotd.ledger")


class _TableLost(Exception):
    """Nothing is to be written before it is there again."""


class Ledger(History):
    """One process's view of the ledger. `async with await Ledger.open(...)`.

    Every method raises `LedgerError` where the database cannot be read or written, and `LeaseLost` where a
    rotation turns out to belong to somebody else.
    """

    def __init__(self, place: Place, beside: Path, *, owner: str, lease: float) -> None:
        """`beside`: what else is kept of it on this host has names that are made from this one."""
        self._place = place
        self.name = self._place.name
        """What it is called wherever it is shown; without what may be secret of its address."""
        self._owner = self.owner = owner
        self.replicas: Replicas | None = None
        """Those that share it; None where nobody does, on a file."""
        self.lease = lease
        """Length of a lease, in seconds."""
        self._held: dict[str, Lease] = {}
        self.events = Events(self._transaction, lambda: self.starts.account)
        others = Others(owner, lease=lambda: self.lease, uptime=lambda: uptime(), origin=lambda: place.origin)
        self._changeover = Changeover(
            place, quiet=lambda: quiet_for(self.lease, self.starts.terms.settle), uptime=lambda: uptime()
        )
        self.starts = Starts(self._transaction, Copies(beside), self.events, others)
        """What is owed to servers."""
        self.desk = Desk(self._transaction, self.events, Aside(beside))
        self.seen = Seen(self._transaction, lambda: self.starts.account, self.events)
        self.matched = MatchedServers(self._transaction, lambda: self.starts.account, self.events)
        self._lives = Lives(beside, self.events)
        holding = (self.events, self._lives, self._place.settle)
        self.holds = Holds(self._transaction, lambda: self.starts.account, *holding)
        self._said: Sequence[Mapping[str, Any]] = ()  # by persons of holds, as of the last look
        self._marks = 0  # of life, which it had then; 0 where that is not known
        self._aside = SetAside(self.starts)
        self.set_aside = self._aside.why
        """The servers with a rotation that nobody here goes on with, and what is told of each."""
        parts = (self._transaction, self.starts, self.events, self._lives)
        kept: dict[str, Any] = {"aside": self._aside, "changeover": self._changeover}
        claiming = Claiming(*parts, **kept, tenure=self._tenure_until)
        self._claims: Together[Asked, Answered] = Together(claiming.claim_all)
        saved: dict[str, Any] = {"lives": self._lives, "holds": self.holds, "marks": lambda: self._marks}
        self._saving = Saving(*parts[:3], place=place, **saved, tenure=self._tenure_until)
        self._taking = Taking(self._transaction, self.starts, others, **kept, tenure=self._tenure)
        self._unknown: dict[str, dict[str, Any]] = {}
        """What a newer snaprotd wrote into a row that we hold, and we do not know: it survives our saves."""

    @classmethod
    async def open(cls, path: Path, *, owner: str, lease: float = 60.0, lock: bool = True) -> Ledger:
        """Open, create or migrate the SQLite ledger at `path`. `lease` is in seconds. Without `lock`: rather to read.

        Raises `LedgerError` where the folder cannot be written, or is in use by a daemon on another host.
        """
        folder_lock = FolderLock.acquire(path) if lock else None
        try:
            database = await open_database(path, alone=bool(folder_lock and folder_lock.was_alone), to_read=not lock)
        except BaseException:
            if folder_lock is not None:
                folder_lock.release()
            raise
        return await cls.ready(cls(FilePlace(path, database, folder_lock), path, owner=owner, lease=lease))

    @classmethod
    async def ready(cls, ledger: Ledger) -> Ledger:
        """It, with what only the copies of its promises tell, where nobody else uses it. Closed, where that fails."""
        try:
            if ledger.is_sole_user:
                with suppress(LedgerError):  # a ledger that can only be read
                    await ledger.starts.take_in(at_once=True)
        except BaseException:
            await ledger.close()
            raise
        return ledger

    async def __aenter__(self) -> Ledger:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._place.close()

    @property
    def is_sole_user(self) -> bool:
        """No other process had the ledger open when this one came: whoever holds a lease in it is dead."""
        return self._place.is_sole_user

    # -- one rotation ------------------------------------------------------------------------------------------

    async def claim(self, rotation: Rotation, mark: Mark | None = None, *, reopens: bool = False) -> Claim:
        """Make `rotation` ours, unless its slot is taken or its server is busy, by whichever id; set `mark` with it.

        `reopens`: it has failed, and goes on unless others do so.
        """
        claim, lease = await self._claims.ask(Asked(rotation, mark, reopens))
        if isinstance(claim, Claimed) and lease is not None:
            self._aside.forget(self.starts.ids_of(rotation.server_id))
            self._held[rotation.id] = lease
        return claim

    async def save(self, rotation: Rotation, *, over: Power | None = None, deletion: Deletion | None = None) -> None:
        """Write the rotation and renew its lease. Raises `LeaseLost` if it is another's now, as `promises.demand` does
        where a start is owed from now on (`over`), and `HeldSince` where what it is to delete is held by now.
        """
        lease = self._held.get(rotation.id)
        if lease is None:
            raise LeaseLost(f"rotation {rotation.id} is not held by this process")
        record, unknown = self.starts.record_of(rotation), self._unknown.get(rotation.id)
        asked = ToSave(rotation=rotation, record=record, unknown=unknown, lease=lease, over=over, deletion=deletion)
        try:
            lease = await self._saving.save(asked)
        except LeaseLost:
            self._held.pop(rotation.id, None)
            raise
        if rotation.power.asked:
            await self.starts.copies.keep(record, told=True)
        if rotation.is_finished:
            self._held.pop(rotation.id, None)
        else:
            self._held[rotation.id] = lease

    def guard(self, rotation_id: str, seconds: float = 0.0, *, as_saved: bool = False) -> None:
        """Raise `LeaseLost` unless the lease is good for `seconds` more, by a clock that no one sets.

        `as_saved`: raise `CalledOff` where what was saved last of it may be lost: another server has the ledger now.
        """
        if (lease := self._held.get(rotation_id)) is None or uptime() + seconds > lease.valid_until:
            self._held.pop(rotation_id, None)
            raise LeaseLost(f"the lease of rotation {rotation_id} has run out")
        if as_saved and lease.origin != self._place.origin:
            raise CalledOff(
                "another server is in the place of the ledger's: what was promised there is saved again first"
            )

    async def release(self, rotation_id: str) -> None:
        """Leave an open rotation to whoever comes next, at once."""
        if (lease := self._held.pop(rotation_id, None)) is None:
            return
        async with self._transaction() as connection:
            await connection.execute(statements.release(rotation_id, owner=self._owner, epoch=lease.epoch))

    def step_back(self) -> bool:
        """Renew no lease that is held, as if frozen now: others go on when those have run out. True if any was."""
        held, self._held = self._held, {}
        return bool(held)

    # -- all of them -------------------------------------------------------------------------------------------

    async def renew(self, rotations: Iterable[Rotation] = ()) -> None:
        """Renew the lease of every rotation this process holds. Those that it has lost are let go.

        What `rotations`, as they run here, have promised is written again where the ledger has lost it.
        """
        if not self._held:
            return
        began = uptime()
        async with self._transaction() as connection:
            await self._changeover.left(connection)
            rows = await connection.execute(statements.renew(self._held, self._tenure()))
            ours = {(row.id, row.epoch) for row in rows}
            await self._assert_again(connection, rotations, ours)
        for rotation_id, lease in list(self._held.items()):
            if (rotation_id, lease.epoch) in ours:
                lease.valid_until = began + self.lease

    async def _assert_again(
        self, connection: Connection, rotations: Iterable[Rotation], ours: set[tuple[str, int]]
    ) -> None:
        async def write(rotation: Rotation) -> None:
            epoch, unknown = self._held[rotation.id].epoch, self._unknown.get(rotation.id)
            await connection.execute(statements.save(rotation, self._tenure(), epoch=epoch, unknown=unknown))

        held = [(one, self._held[one.id]) for one in rotations if one.id in self._held]
        for rotation, lease in held:
            if (rotation.id, lease.epoch) not in ours and await self._claimed_again(connection, rotation) == 1:
                lease.epoch = 1  # its row was gone, and is nobody else's
                ours.add((rotation.id, 1))
        still = [rotation for rotation, lease in held if (rotation.id, lease.epoch) in ours]
        await owe_again(connection, self.starts, still)
        await ask_again(connection, still, write)

    async def take_over(self, *, everything: bool = False, server_id: str | None = None) -> list[Rotation]:
        """Make the open rotations ours whose lease has run out, or (`everything`) that are not ours already."""
        began = uptime()
        taken = await self._taking.take_over(self._held, everything=everything, server_id=server_id)
        for one in taken:
            if one.unknown:
                self._unknown[one.rotation.id] = dict(one.unknown)
            self._hold(one.rotation.id, epoch=one.epoch, since=began)
        return [one.rotation for one in taken]

    async def mend(self, rotations: Iterable[Rotation], *, mark: bool = False) -> bool:
        """Where the files were lost or exchanged under us, or a table: write again what this process holds. True then.

        Else `probe`. Raises what that raises.
        """
        await self._place.see_to()
        self._lives.is_known_old |= any(one.is_old for one in self._place.exchanges)
        if not await self.probe(mark=mark):
            log.error("a table of the ledger was lost: it is written again from memory", ledger=self.name)
            await self._place.open_anew()
            self._place.exchanges.append(Exchange(TABLE_LOST))
        elif not self._place.exchanges:
            return False
        self.starts.copies.forget()
        self._marks = 0
        if any(one.is_old for one in self._place.exchanges):
            await self.holds.write_again(self._said)
        for rotation in rotations:
            await self._write_again(rotation)
        told = [of_exchange(one.text, datetime.now(UTC)) for one in self._place.exchanges if not one.is_fellows]
        await self.events.write(told)
        self._place.exchanges.clear()
        return True

    async def _write_again(self, rotation: Rotation) -> None:
        """Have its row be there, under a lease of ours. What an old copy has for its server is over."""
        began, is_elsewhere = uptime(), await self.starts.seems_elsewhere(rotation.server_id)
        async with self._transaction() as connection:
            if not is_elsewhere:
                ids, account = self.starts.ids_of(rotation.server_id), self.starts.account
                others = await connection.execute(statements.in_the_way_of(rotation, ids, account=account))
                await connection.execute(statements.set_aside([row.id for row in others if row.is_open]))
            epoch = await self._claimed_again(connection, rotation)
        if epoch is not None:
            self._hold(rotation.id, epoch=epoch, since=began)
        await self.starts.save(self.starts.record_of(rotation))

    async def _claimed_again(self, connection: Connection, rotation: Rotation) -> int | None:
        """The epoch of a row that is written anew; None where there is one, of its slot or of its server."""
        account = self.starts.account
        return await connection.scalar(statements.claim(rotation, self._tenure(), account=account))  # type: ignore[no-any-return]

    async def probe(self, *, mark: bool = True) -> bool:
        """Whether all tables are there, which is asked where anybody has written since. With `mark` a mark of life is
        left then, in one row, and what stands in the log alone is brought into the file.

        Raises `LedgerError` where the ledger, or what is to stand beside it, cannot be written.
        """
        try:
            if mark or self._place.was_written:
                await self._look(mark=mark)
        except _TableLost:
            return False
        await asyncio.to_thread(self.starts.copies.demand)
        return True

    async def _look(self, *, mark: bool) -> None:
        async with self._transaction() as connection:
            if is_short(await connection.scalars(statements.TABLE_NAMES())):
                raise _TableLost  # a commit writes too, into a table that may be the one
            await self._changeover.left(connection)
            marks = await (self._lives.mark if mark else self._lives.marks)(connection)
            said = await self.holds.written(connection)
        if marks < self._marks + mark and not self._place.exchanges:
            self._place.exchanges.append(Exchange(WRITTEN_BACK, is_old=True))
        if not self._place.exchanges:
            self._marks, self._said = marks, said
        if mark:
            await self._place.share()
            await self._place.settle()
        self._place.looked()

    async def fill(self, contents: Mapping[str, list[dict[str, Any]]]) -> Mapping[str, int]:
        """Have it hold these rows, where it holds none. How many of each table it has then."""
        async with self._transaction() as connection:
            written = await write_all(connection, contents, self.name)
            await self._place.count_on(connection)
        return written

    def _tenure(self) -> dict[str, Any]:
        """`lease_until` is for older versions, and for words: who takes over does not go by it."""
        return {"owner": self._owner, "lease_until": time.time() + self.lease, "lease": self.lease}

    def _tenure_until(self) -> tuple[dict[str, Any], float]:
        return self._tenure(), uptime() + self.lease

    def _hold(self, rotation_id: str, *, epoch: int, since: float, origin: str = "") -> None:
        """`since`: the uptime before the lease was written; it may have taken a while."""
        self._held[rotation_id] = Lease(epoch=epoch, valid_until=since + self.lease, origin=origin)

    def _transaction(
        self, *, writes: bool = True, urgent: bool = False, lasting: bool = True
    ) -> AbstractAsyncContextManager[Connection]:
        return self._place.begin(writes=writes, urgent=urgent, lasting=lasting)
