"""What stands beside the ledger's file: a copy of each promise, and how much the ledger has counted.

The ledger's file may be deleted, cut short or written over while a server is off because of us. What is owed stands in
a second place, which shares nothing with the first: it is on disk before the stop goes out, and is deleted when the
ledger has it that nothing is owed any more. Where the two differ they merge by maximum, as any two records do.

A ledger that has counted less than is noted beside it is an old copy that was put back, be it of half a minute ago.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import quote

import structlog
from sqlalchemy import delete

from snaprotd.core.creation import Life, cut_off, mark_of_life
from snaprotd.core.errors import LedgerError
from snaprotd.core.promise import ServerPower, merged
from snaprotd.core.telling.entries import Entry, of_old_copy
from snaprotd.ledger.address import demand_ours, make_folder, write_anew
from snaprotd.ledger.events.record import Events
from snaprotd.ledger.promises import Key, read_power, row_of
from snaprotd.ledger.rows import read_lives, written_lives
from snaprotd.ledger.sql import notes
from snaprotd.ledger.sql.connection import Connection
from snaprotd.ledger.sql.schema import SEEN

log = structlog.get_logger("snaprotd.ledger")

LONGEST = 1024 * 1024
"""Bytes of a copy that are read."""

ONE_BLOCK = 4096
"""Bytes: what a small file takes of a disk."""

LONGEST_COUNT = 20
"""Digits of a count, and one more."""

A_WHILE = 1.0
"""Seconds after which a change to a file shows in its times, however coarse they are."""

_State = tuple[int, int, int, int]


class Copies:
    """The copies of one ledger's promises, as one process keeps them. What cannot be written is told, and no more."""

    def __init__(self, ledger: Path) -> None:
        self._folder = ledger.with_name(f"owed-by-{ledger.name}")
        self._kept: dict[Key, tuple[object, ...] | None] = {}
        """What was written last of each server; None where there is no copy."""
        self._understood_as: dict[Path, tuple[_State, ServerPower]] = {}
        """What was read last in each file, and how that was then."""

    def read(self) -> list[ServerPower]:
        """All that can be read. One that cannot is told. Raises `LedgerError` where nobody knows what there is."""
        return [record for file in self._files() if (record := self._read(file)) is not None]

    def demand(self) -> None:
        """Raise `LedgerError` where a copy cannot be read, or none can be written.

        A database has its files open: that nothing can be put beside them any more it may not notice for days.
        """
        for file in self._files():
            self._understood(file)
        folder = self._folder if self._folder.exists() else self._folder.parent
        try:
            with TemporaryFile(dir=folder) as trial:
                trial.write(bytes(ONE_BLOCK))
        except OSError as error:
            raise LedgerError(f"{folder} cannot be written: {error.strerror}") from error

    def _files(self) -> list[Path]:
        try:
            files = sorted(one for one in self._folder.iterdir() if one.suffix == ".json")
            for gone in self._understood_as.keys() - set(files):
                self._understood_as.pop(gone, None)
            return files
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LedgerError(
                f"{self._folder}, the copies of what is owed to servers, cannot be read: {error.strerror}"
            ) from error

    def forget(self) -> None:
        """The copies may be gone: each is written again when it is kept."""
        self._kept.clear()

    async def keep(self, record: ServerPower, *, told: bool, found: ServerPower | None = None) -> None:
        """Have the copy say what the record does. `told`: the ledger says it too, so it may go where that is over.

        `found`: what was just read in it.
        """
        is_over = told and not record.power.is_followed
        wanted = None if is_over else _what_counts(record)
        key = (record.account, record.server_id)
        if key not in self._kept and found is not None and found.server_id == record.server_id:
            self._kept[key] = _what_counts(found)
        if key in self._kept and self._kept[key] == wanted:
            return
        try:
            await asyncio.to_thread(self._write, record, told)
        except OSError as error:
            log.warning("a promise has no copy beside the ledger", server=record.label, error=str(error))
        else:
            self._kept[key] = wanted

    def _write(self, record: ServerPower, told: bool) -> None:
        file, *others = (self._file(record.account, one) for one in (record.server_id, *record.also))
        for one in (file, *others):
            before = self._read(one) if one.exists() else None
            if before is not None:  # another process may know of more
                record = replace(record, power=merged(record.power, before.power)).known_by(before.ids)
        if told and not record.power.is_followed:
            file.unlink(missing_ok=True)
        else:
            make_folder(self._folder)
            write_anew(file, json.dumps(row_of(record)))
        for one in others:  # it was called by another id then
            one.unlink(missing_ok=True)
        with suppress(OSError):  # others are owed something
            self._folder.rmdir()

    def _file(self, account: str, server_id: str) -> Path:
        """Named so that a person sees of which server it is; the rest keeps the servers of two accounts apart."""
        whose = hashlib.sha256(f"{account}\0{server_id}".encode()).hexdigest()[:16]
        return self._folder / f"{quote(server_id, safe='')[:80]}-{whose}.json"

    def _read(self, file: Path) -> ServerPower | None:
        try:
            return self._understood(file)
        except LedgerError as error:
            log.error(
                "the copy of a promise cannot be read: look whether its server runs",
                file=file.name,
                error=str(error.__cause__),
            )
            return None

    def _understood(self, file: Path) -> ServerPower:
        try:
            demand_ours(file)
            state, known = _state_of(file), self._understood_as.get(file)
            if known is not None and known[0] == state:
                return known[1]
            with file.open("rb") as opened:
                record = read_power(dict(json.loads(opened.read(LONGEST))))
            if time.time() - state[-1] / 1e9 > A_WHILE:  # else it may change once more, and look as it did
                self._understood_as[file] = state, record
            return record
        except (OSError, LedgerError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise LedgerError(f"{file} cannot be read: look whether its server runs, then delete it") from error


def _what_counts(record: ServerPower) -> tuple[object, ...]:
    """Of a record, whatever makes another copy of it worth writing."""
    power = record.power
    seen = (power.went_off, power.came_back, power.watched, power.unstruck, power.in_doubt, power.unwatched)
    return (power.asked, power.released, power.is_followed, record.let_go, record.also, *seen)


def _state_of(file: Path) -> _State:
    """Another one where the file was changed, or exchanged."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Lives:
    """When the ledger was there to know of whatever was taken, and how much it has counted.

    Counted is each claim, and each request for a snapshot: whoever has all of those knows which snapshots are ours. And
    each hold, and each that was let go.
    """

    def __init__(self, ledger: Path, events: Events) -> None:
        self._events = events
        self._file = ledger.with_name(f"counted-by-{ledger.name}")
        self._counted = 0
        """By this process."""
        self._stands = 0
        """What was noted beside the ledger last."""
        self._noting = asyncio.Lock()
        self.is_known_old = False
        """That what stands there was put over the ledger under this process is told by whoever saw it."""

    async def known(self, connection: Connection, now: datetime) -> tuple[Life, ...]:
        """The lives as of `now`: those of an old copy are cut off there."""
        return (await self._read(connection, now))[0]

    async def mark(self, connection: Connection) -> int:
        """Leave a mark of life. How many there are of all processes, by now: no clock has a part in that."""
        now = datetime.fromtimestamp(time.time(), UTC)
        lives, count, lacks = await self._read(connection, now)
        await self._write(connection, mark_of_life(lives, now), count, lacks=lacks)
        marks = await self.marks(connection) + 1
        await connection.execute(notes.note("marks", str(marks)))
        return marks

    @staticmethod
    async def marks(connection: Connection) -> int:
        """How many marks of life were left in it: fewer than there were where it was put back to what it was once."""
        return _number(await connection.scalar(notes.MARKS))

    async def count(self, connection: Connection, more: int = 1) -> int:
        """Count so many more. The answer is for `note`, when the transaction is over."""
        lives, count, lacks = await self._read(connection, datetime.fromtimestamp(time.time(), UTC))
        await self._write(connection, lives, count + more, lacks=lacks)
        return count + more

    async def _read(self, connection: Connection, now: datetime) -> tuple[tuple[Life, ...], int, Entry | None]:
        """The lives, the count, and what is told of an old copy, which is to count on from ours."""
        beside = await asyncio.to_thread(self._beside)
        noted = {row.key: row.value for row in await connection.execute(notes.LIVES)}
        lives, count = read_lives(noted.get("lives")), _number(noted.get("count"))
        if count >= beside:
            return lives, count, None
        return cut_off(lives, now), beside, of_old_copy(count, beside, now)

    async def _write(self, connection: Connection, lives: tuple[Life, ...], count: int, *, lacks: Entry | None) -> None:
        rows = {"lives": written_lives(lives), "count": str(count)}
        await connection.execute(notes.NOTE.for_each({"key": key, "value": value} for key, value in rows.items()))
        if lacks is not None:
            await connection.execute(delete(SEEN))  # what has gone since then may be our own doing
            await self._events.add(connection, [] if self.is_known_old else [lacks])
            self.is_known_old = False
            log.error("what the ledger lacks is ours by the names of snapshots", what=lacks.text)

    def claimed(self, count: int) -> None:
        """A mere claim has asked for nothing yet: it stands beside the ledger with what is noted next."""
        self._counted = max(self._counted, count)

    async def note(self, count: int) -> None:
        """Have it stand beside the ledger too, if there is any. Where that fails, no copy of a moment ago is told."""
        if not count:
            return
        self._counted = max(self._counted, count)
        async with self._noting:
            if self._stands >= count:
                return  # many were counted at once, and one note was for all
            counted = self._counted
            try:
                await asyncio.to_thread(write_anew, self._file, str(counted))
            except OSError as error:
                log.warning("what the ledger has counted cannot be noted beside it", error=str(error))
            else:
                self._stands = counted

    def _beside(self) -> int:
        try:
            noted = self._file.read_bytes()[:LONGEST_COUNT] if self._file.is_file() else b""
        except OSError:
            noted = b""
        return max(self._counted, _number(noted.decode(errors="replace")))


def _number(text: object) -> int:
    """What was counted; none where that cannot be read."""
    written = str(text)
    return int(written) if written.isascii() and written.isdigit() and len(written) < LONGEST_COUNT else 0
