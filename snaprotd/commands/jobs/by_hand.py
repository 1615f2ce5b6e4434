"""What a person does to one snapshot: restore the server from it, or delete it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import structlog

from snaprotd.commands.jobs.deeds import deed_to, record
from snaprotd.config.settings import Config, Target, resolve
from snaprotd.core.errors import LedgerError, NotFound, Permanent, SnaprotdError, Temporary, Unclear
from snaprotd.core.holds import RELEASED, hold_in_words, hold_of, is_named
from snaprotd.core.model import Server, ServerState, Snapshot, SnapshotState
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.ledger.address import name_of
from snaprotd.ledger.files.folder_lock import FolderLock
from snaprotd.ledger.starts import RESTORE_LASTS
from snaprotd.ledger.store import Ledger
from snaprotd.provider import Doubtful, NullObserver, Provider
from snaprotd.report.assessment import is_ours
from snaprotd.report.rows import busy_words, forsaken_words
from snaprotd.wiring.access import open_cloud
from snaprotd.wiring.assembly import ledger_path, open_ledger_to_read

RESTORE_PATIENCE = RESTORE_LASTS.total_seconds()
NOT_SEEN = "interrupted before its end was seen"

Say = Callable[[str], None]

log = structlog.get_logger("snaprotd")


class Impossible(SnaprotdError):
    """What was asked for cannot be done as things stand. Nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A snapshot, its server, and what is to be known before either is touched."""

    snapshot: Snapshot
    server: Server | None
    label: str
    """Our name for the server, else the account's, else its id."""
    newer: Snapshot | None
    """The newest completed snapshot of the server, if that is another, newer one."""
    timezone: str
    """Of the server's policy, else UTC."""
    target: Target | None
    """The server with its policy; None where it has none."""
    beside: tuple[Snapshot, ...]
    """All snapshots of the server, as the ledger knows them, as far as it can be read."""
    is_ours: bool
    """Rotations may delete it, by the policy of its server."""
    now: datetime

    @property
    def hold(self) -> date | None:
        """The last day for which it is held; None where it is not, or no rotation would delete it anyway."""
        return hold_of(self.snapshot, self.now) if self.is_ours else None

    @property
    def server_ids(self) -> set[str]:
        """All that the server is known by."""
        return {self.snapshot.server_id, *self.snapshot.server_also, *(self.server.ids if self.server else ())}

    def is_named(self, text: str) -> bool:
        """Whether `text` is a name of the server."""
        names = {self.label, *self.server_ids} | ({self.server.name} if self.server else set())
        return text.strip() in names


async def is_forsaken(config: Config, ledger: Ledger | None, rotation: Rotation) -> bool:
    """No process runs an open rotation any more: none has the ledger open, or its lease has run out."""
    if FolderLock.is_free(ledger_path(config)):
        return True
    return ledger is not None and not await ledger.starts.seems_elsewhere(rotation.server_id)


class ByHand:
    """One snapshot, found, and what may be done with it."""

    def __init__(
        self, config: Config, cloud: Provider, ledger: Ledger | None, found: Found, *, why_unseen: str = ""
    ) -> None:
        self.found = found
        self.why_unseen = why_unseen
        """Why it cannot be known that no rotation of the server is open; empty where it can."""
        self._config = config
        self._cloud = cloud
        self._ledger = ledger

    async def refuse_if_busy(self) -> None:
        """Raise `Impossible` while a rotation of the server is open, as far as that can be known: see `why_unseen`."""
        try:
            rotations = await self._ledger.open_rotations() if self._ledger else []
        except LedgerError as error:  # what is lost with the ledger is what a restore may be needed for
            self.why_unseen = str(error)
            return
        busy = next((one for one in rotations if one.server_id in self.found.server_ids), None)
        if busy is not None:
            is_left = await is_forsaken(self._config, self._ledger, busy)
            raise Impossible(forsaken_words(busy) if is_left else busy_words(busy))

    async def being_taken(self) -> list[Snapshot]:
        """What open rotations of the server are to take, and the list does not show yet, as it will be shown."""
        rotations = await self._ledger.open_rotations() if self._ledger else []
        ours = [one for one in rotations if one.server_id in self.found.server_ids]
        unseen = [one for one in ours if not any(is_named(held, one.snapshot_name) for held in self.found.beside)]
        like = replace(self.found.snapshot, also=(), hold=None, in_ledger=True)
        return [replace(like, id=one.id, name=one.snapshot_name, created_at=one.started_at) for one in unseen]

    async def say_of_hold(self, until: date) -> None:
        """Note until when the snapshot is held, whatever was said of it before.

        Raises `Impossible` where there is no ledger, and `SnaprotdError` where it cannot be noted.
        """
        if self._ledger is None:
            raise Impossible(f"{self.why_unseen}: no rotation would know of it")
        found, entry = self.found, _of_hold(self.found, None if until == RELEASED else until)
        await self._ledger.holds.say(found.snapshot, found.server_ids, until, found.now, entry=entry)

    def refuse_unless_completed(self) -> None:
        """Raise `Impossible` for a snapshot that is not whole."""
        snapshot = self.found.snapshot
        if not snapshot.is_completed:
            raise Impossible(f"{snapshot.name} is {snapshot.status}: only a completed snapshot can be restored")

    async def restore(self, say: Say) -> None:
        """Overwrite the server, and wait until it is active again. Raises `SnaprotdError` where that fails."""
        if self.found.server is None:
            raise Impossible(f"the account has no server {self.found.snapshot.server_id}")
        self.refuse_unless_completed()
        is_noted = await self._keep_rotations_off(say)
        await self._record(Happened.RESTORE, "begun", say)
        try:
            await self._restore(say)
        except SnaprotdError as error:
            await self._record(Happened.RESTORE, "failed", say, error)
            if is_noted:
                await self._let_rotations_on(say)
            raise
        except asyncio.CancelledError:
            await self._record(Happened.RESTORE, "left", say, NOT_SEEN)
            raise
        await self._record(Happened.RESTORE, "done", say)
        if is_noted:
            await self._let_rotations_on(say)  # not where it was interrupted: the provider goes on with it

    async def _keep_rotations_off(self, say: Say) -> bool:
        """No rotation may delete the very snapshot, or make another: the server may be shown as active for a while.

        True where that was noted for this restore: another one of the server may be noted already.
        """
        try:
            if self._ledger is not None:
                return await self._ledger.starts.begin_restore(self.found.server_ids, datetime.now(UTC))
        except LedgerError as error:
            say(f"a rotation may begin meanwhile, for that cannot be noted: {error}")
        return False

    async def _let_rotations_on(self, say: Say) -> None:
        try:
            if self._ledger is not None:
                await self._ledger.starts.end_restore(self.found.server_ids)
        except LedgerError as error:
            say(f"no rotation of the server begins for an hour, for its end cannot be noted: {error}")

    async def _restore(self, say: Say) -> None:
        await self.refuse_if_busy()  # asked for after it was noted: whichever comes second, sees the other
        acknowledged = True
        try:
            await self._cloud.restore_snapshot(self.found.snapshot.id, guard=lambda: None)
        except Unclear as error:
            acknowledged = False
            say(f"the answer was lost ({error}): looking whether the restore has begun")
        await self._until_active(say, acknowledged=acknowledged)

    async def _until_active(self, say: Say, *, acknowledged: bool) -> None:
        clock = asyncio.get_running_loop().time
        began, seen_restoring = clock(), False
        while clock() - began < RESTORE_PATIENCE:
            try:
                server = await self._cloud.server(self.found.snapshot.server_id)
            except Temporary as error:
                say(f"the server cannot be looked at: {error}")
            else:
                # Where the answer was lost, some other state of the server is no sign of a restore.
                begun = not server.is_active if acknowledged else server.state is ServerState.RESTORING
                seen_restoring = seen_restoring or begun
                if server.is_active and seen_restoring:
                    return
                if not seen_restoring and clock() - began > self._config.api.settle:
                    _refuse_unless(acknowledged, server)
                    return
                say(f"{self.found.label}: {server.status if seen_restoring else 'the restore has not begun yet'}")
            await asyncio.sleep(self._config.poll_interval)
        raise SnaprotdError(
            f"{self.found.label} is not active after {RESTORE_PATIENCE / 60:.0f} minutes: look at it in the provider's "
            "panel. Nothing more was asked of it"
        )

    async def delete(self, say: Say) -> None:
        """Delete the snapshot. Raises `SnaprotdError` where that fails; one in progress is left alone."""
        self.refuse_to_delete_in_progress()
        await self._record(Happened.DELETE, "begun", say)
        try:
            await self._cloud.delete_snapshot(self.found.snapshot.id, guard=lambda: None)
        except SnaprotdError as error:
            await self._record(Happened.DELETE, "failed", say, error, is_refused=isinstance(error, Permanent))
            raise
        except asyncio.CancelledError:
            await self._record(Happened.DELETE, "left", say, NOT_SEEN)
            raise
        await self._record(Happened.DELETE, "done", say)

    async def _record(
        self, kind: Happened, state: str, say: Say, error: SnaprotdError | str = "", *, is_refused: bool = False
    ) -> None:
        """What a person does, and what came of it: begun, done, failed, or left before that. `is_refused`: for good."""
        found, why = self.found, f": {error}" if error else ""
        what = "restore from" if kind is Happened.RESTORE else "deletion of"
        text = f"{what} {found.snapshot.name} ({found.snapshot.id}): {state}{why}"
        more = {"is_refused": True} if is_refused else {}
        entry = deed_to(kind, found.snapshot, found.label, text, state=state, **more)
        await record(self._ledger or self.why_unseen, entry, say)

    def refuse_to_delete_in_progress(self) -> None:
        """Raise `Impossible` for a snapshot that is just being taken."""
        snapshot = self.found.snapshot
        if snapshot.state is SnapshotState.IN_PROGRESS:
            raise Impossible(f"{snapshot.name} is in progress: it cannot be deleted now")


def _of_hold(found: Found, until: date | None) -> Entry:
    kind, what = (Happened.UNHOLD, "let go of") if until is None else (Happened.HOLD, hold_in_words(until))
    snapshot = found.snapshot
    text = f"{snapshot.name} ({snapshot.id}) is {what}"
    return deed_to(kind, snapshot, found.label, text, until=None if until is None else str(until))


def _refuse_unless(acknowledged: bool, server: Server) -> None:
    """A restore may be too quick to be seen; but where its answer was lost as well it is not believed."""
    if not acknowledged:
        raise SnaprotdError(
            f"{server.name} was never seen restoring, so the request was most likely not carried out. Run it again"
        )


@asynccontextmanager
async def by_hand(config: Config, environ: Mapping[str, str], snapshot_id: str) -> AsyncIterator[ByHand]:
    """Find a snapshot of the account. Raises `Impossible` where there is none of that id.

    A ledger that cannot be used keeps nobody from restoring a server.
    """
    async with open_cloud(config, environ, NullObserver()) as cloud, AsyncExitStack() as stack:
        ledger, why = None, f"there is no ledger at {name_of(config.state)}"
        try:
            ledger = await stack.enter_async_context(open_ledger_to_read(config))
        except LedgerError as error:
            why = str(error)
        found = await _as_the_ledger_knows(config, await _find(config, cloud, snapshot_id), ledger)
        yield ByHand(config, cloud, ledger, found, why_unseen="" if ledger is not None else why)


async def _as_the_ledger_knows(config: Config, found: Found, ledger: Ledger | None) -> Found:
    """Where the ledger cannot be read, names alone tell whose snapshots are, and until when they are held."""
    if ledger is None:
        return found
    try:
        marked = (await ledger.recall(found.server_ids, found.beside, found.now)).marked(found.beside, config.instance)
    except LedgerError as error:
        log.warning("the ledger cannot be read: names alone tell what is held", error=str(error))
        return found
    snapshot = next(one for one in marked if one.id == found.snapshot.id)
    known_as_ours = found.target is not None and is_ours(config, found.target, snapshot)
    return replace(found, snapshot=snapshot, beside=marked, is_ours=known_as_ours)


async def _find(config: Config, cloud: Provider, snapshot_id: str) -> Found:
    doubt: Doubtful | None = None
    try:
        snapshots = await cloud.snapshots()
    except Doubtful as incomplete:
        doubt, snapshots = incomplete, list(incomplete.readable)  # what is wrong with the others does not matter here
    snapshot = next((one for one in snapshots if snapshot_id in (one.id, *one.also)), None)
    if snapshot is None and doubt is not None:
        raise Impossible(f"snapshot {snapshot_id} is not in what could be read: {doubt}")
    if snapshot is None:
        raise Impossible(f"the account has no snapshot {snapshot_id}: `snaprotd list` shows those that there are")
    server = await _server(cloud, snapshot.server_id)
    ids = server.ids if server else (snapshot.server_id,)
    target = next((one for one in resolve(config, None) if one.server_id in ids), None)
    if target is None and server is not None:
        target = next((one for one in resolve(config, [server]) if one.server_id == server.id), None)
    name = server.name if server else ""
    return Found(
        snapshot=snapshot,
        server=server,
        label=target.label if target else name or snapshot.server_id,
        newer=_newer(snapshot, snapshots),
        timezone=target.policy.timezone if target else "UTC",
        target=target,
        beside=tuple(one for one in snapshots if one.server_id == snapshot.server_id),
        is_ours=target is not None and is_ours(config, target, snapshot),
        now=datetime.now(UTC),
    )


async def _server(cloud: Provider, server_id: str) -> Server | None:
    try:
        return await cloud.server(server_id)
    except NotFound:
        return None


def _newer(snapshot: Snapshot, snapshots: list[Snapshot]) -> Snapshot | None:
    dated = [one for one in snapshots if one.server_id == snapshot.server_id and one.is_completed and one.created_at]
    newest = max(dated, key=lambda one: (one.created_at, one.id), default=None)
    return None if newest is None or newest.id == snapshot.id else newest
