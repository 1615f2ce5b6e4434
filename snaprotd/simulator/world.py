"""The simulated account: servers, snapshots, and what happens to them in time. No input, no output.

Time is a callable. Whatever takes time is an entry of the agenda, and is carried out when the world is next looked
at after it has come due, in the order of the times.
"""

from __future__ import annotations

import heapq
import itertools
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from snaprotd.simulator.faults import Fault

Clock = Callable[[], datetime]

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(kw_only=True)
class SimServer:
    id: str
    ref: int | str
    name: str
    status: str
    created_at: datetime
    hostname: str
    ip_address: str
    history: list[tuple[datetime, str]] = field(default_factory=list)
    plans: int = 0
    """Raised by everything that changes what is to become of the server, so that an older plan for it is dropped."""


@dataclass(kw_only=True)
class SimSnapshot:
    id: int
    server_id: str
    name: str
    description: str
    status: str
    size_mb: int | None
    created_at: str | None
    """As it is listed: the text may be anything."""
    made_at: datetime
    listed_from: datetime | None = None
    listed_until: datetime | None = None
    """Set when it is deleted."""
    server_status_when_taken: str = ""


@dataclass(frozen=True, kw_only=True)
class Deletion:
    at: datetime
    snapshot: SimSnapshot
    status: str


class World:
    """One account. `speed` divides every length of time."""

    def __init__(
        self,
        *,
        clock: Clock = lambda: datetime.now(UTC),
        speed: float = 1.0,
        seed: int = 1,
        limit: int = 5,
        token: str = "made-up-q7w2",  # noqa: S107 - it opens nothing
        email: str = "owner@account.invalid",
        id_kind: str = "integer",
        page_size: int = 20,
        snapshot_seconds: tuple[float, float] = (180, 600),
        stop_seconds: float = 20,
        start_seconds: float = 20,
        restore_seconds: tuple[float, float] = (300, 900),
        read_only: bool = False,
    ) -> None:
        """`id_kind`: `integer`; `uuid` (a text in `id`); `uuid_key` (a text under the key `uuid`)."""
        self.clock = clock
        self.speed = speed
        self.limit = limit
        self.token = token
        self.email = email
        self.id_kind = id_kind
        self.page_size = page_size
        self.read_only = read_only
        self.snapshot_seconds = snapshot_seconds
        self.stop_seconds = stop_seconds
        self.start_seconds = start_seconds
        self.restore_seconds = restore_seconds
        self.servers: dict[str, SimServer] = {}
        self.snapshots: dict[int, SimSnapshot] = {}
        self.deleted: list[Deletion] = []
        self.created: list[SimSnapshot] = []
        """Every snapshot that a request made, whatever became of it."""
        self.doubled: list[SimSnapshot] = []
        """Those of them that nobody asked for: a proxy sent the request again."""
        self.late: list[tuple[str, str, datetime]] = []
        """Method and path of every request that is carried out late, and when."""
        self.faults: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311 - lengths of time
        self._agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._server_ids = itertools.count(12345)
        self._snapshot_ids = itertools.count(801)

    # -- time --------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The time, after everything that is due has been carried out."""
        now = self.clock()
        while self._agenda and self._agenda[0][0] <= now:
            heapq.heappop(self._agenda)[2]()
        return now

    def later(self, seconds: float, work: Callable[[], None]) -> datetime:
        """Put `work` on the agenda; answers with its time."""
        due = self.clock() + timedelta(seconds=seconds / self.speed)
        heapq.heappush(self._agenda, (due, next(self._order), work))
        return due

    @property
    def pending(self) -> int:
        """Entries of the agenda that are still to come."""
        self.now()
        return len(self._agenda)

    # -- seeding, and what a person may do -----------------------------------------------------------------------

    def add_server(
        self,
        name: str,
        *,
        status: str = "active",
        ref: int | str | None = None,
        hostname: str | None = None,
        ip_address: str | None = None,
    ) -> str:
        """A server; answers with its id as text."""
        if ref is None and self.id_kind == "integer":
            ref = next(self._server_ids)
        elif ref is None:
            ref = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        server = SimServer(
            id=str(ref),
            ref=ref,
            name=name,
            status=status,
            created_at=EPOCH,
            hostname=f"{name}.account.invalid" if hostname is None else hostname,
            ip_address=f"203.0.113.{len(self.servers) % 254 + 1}" if ip_address is None else ip_address,
        )
        server.history.append((self.clock(), status))
        self.servers[server.id] = server
        return server.id

    def remove_server(self, server_id: str) -> None:
        del self.servers[server_id]

    def add_snapshot(
        self,
        server_id: str,
        name: str,
        *,
        status: str = "completed",
        created_at: datetime | str | None = EPOCH,
        size_mb: int | None = 5120,
        description: str = "",
    ) -> SimSnapshot:
        text = created_at if isinstance(created_at, str | None) else _iso(created_at)
        snapshot = SimSnapshot(
            id=next(self._snapshot_ids),
            server_id=server_id,
            name=name,
            description=description,
            status=status,
            size_mb=size_mb,
            created_at=text,
            made_at=created_at if isinstance(created_at, datetime) else self.clock(),
            server_status_when_taken=self.servers[server_id].status,
        )
        self.snapshots[snapshot.id] = snapshot
        return snapshot

    def remove_snapshot(self, snapshot_id: int) -> None:
        """As if a person had deleted it in the provider's panel."""
        del self.snapshots[snapshot_id]

    def set_status(self, server_id: str, status: str) -> None:
        """As if it had happened at the provider: whatever was under way for the server is dropped."""
        server = self.servers[server_id]
        server.plans += 1
        server.status = status
        server.history.append((self.clock(), status))

    def status_of(self, server_id: str) -> str:
        self.now()
        return self.servers[server_id].status

    def status_before(self, server: SimServer, seconds: float) -> str:
        """The status that the server had so many seconds ago, or had first."""
        moment = self.clock() - timedelta(seconds=seconds / self.speed)
        return next((status for at, status in reversed(server.history) if at <= moment), server.history[0][1])

    def snapshots_of(self, server_id: str) -> list[SimSnapshot]:
        """What the server really holds, listed or not, oldest first."""
        self.now()
        held = [one for one in self.snapshots.values() if one.server_id == server_id]
        return sorted(held, key=lambda one: (one.made_at, one.id))

    def listed(self, server_id: str | None = None) -> list[SimSnapshot]:
        """What the provider's list shows."""
        now = self.now()
        ghosts = [one.snapshot for one in self.deleted if one.snapshot.listed_until is not None]
        return [
            one
            for one in sorted([*self.snapshots.values(), *ghosts], key=lambda one: -one.id)
            if server_id in (None, one.server_id)
            and (one.listed_from is None or one.listed_from <= now)
            and (one.listed_until is None or one.listed_until > now)
        ]

    # -- what requests do ----------------------------------------------------------------------------------------

    def take_snapshot(self, server_id: str, name: str, description: str, fault: Fault | None) -> SimSnapshot:
        now = self.clock()
        snapshot = self.add_snapshot(
            server_id, name, status="in_progress", created_at=now, size_mb=None, description=description
        )
        self.created.append(snapshot)
        kind = fault.kind if fault else ""
        if fault and kind == "late_listing":
            snapshot.listed_from = now + timedelta(seconds=fault.delay / self.speed)
        if kind != "stuck":
            word = fault.word if fault and kind == "ends" else "completed"
            self.later(self._random.uniform(*self.snapshot_seconds), lambda: self._complete(snapshot, word))
        return snapshot

    def _complete(self, snapshot: SimSnapshot, word: str) -> None:
        snapshot.status = word
        if word == "completed":
            snapshot.size_mb = self._random.randint(2000, 9000)

    def delete(self, snapshot: SimSnapshot, fault: Fault | None) -> None:
        now = self.clock()
        if fault and fault.kind == "slow_delete":
            snapshot.listed_until = now + timedelta(seconds=fault.delay / self.speed)
        del self.snapshots[snapshot.id]
        self.deleted.append(Deletion(at=now, snapshot=snapshot, status=snapshot.status))

    def restore(self, snapshot: SimSnapshot) -> None:
        self._become(
            self.servers[snapshot.server_id], "restoring", "active", self._random.uniform(*self.restore_seconds)
        )

    def power(self, server: SimServer, action: str, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        stops = action in ("stop", "hard_stop", "restart")
        if (kind == "stop_never" and stops) or (kind == "start_never" and action == "start"):
            return
        if fault and kind == "slow_power":
            self.later(fault.delay, lambda: self._switch(server, action))
        else:
            self._switch(server, action)

    def _switch(self, server: SimServer, action: str) -> None:
        if action == "start" and server.status == "stopped":
            self._become(server, "starting", "active", self.start_seconds)
        elif action == "stop" and server.status in ("active", "starting"):
            self._become(server, "stopping", "stopped", self.stop_seconds)
        elif action == "hard_stop" and server.status in ("active", "starting", "stopping"):
            self._become(server, "stopping", "stopped", 1.0)
        elif action == "restart" and server.status == "active":
            self._become(server, "restarting", "active", self.stop_seconds + self.start_seconds)

    def _become(self, server: SimServer, meanwhile: str, finally_: str, seconds: float) -> None:
        self.set_status(server.id, meanwhile)
        plan = server.plans

        def arrive() -> None:
            if server.plans == plan and server.id in self.servers:
                self.set_status(server.id, finally_)

        self.later(seconds, arrive)


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


NAMES = ("web", "db", "mail", "app", "cache", "build")


def sample_world(*, servers: int = 3, speed: float = 1.0, clock: Clock = lambda: datetime.now(UTC)) -> World:
    """An account as it may be found: some servers, one of them with a snapshot made by hand."""
    world = World(clock=clock, speed=speed)
    ids = [world.add_server(f"{NAMES[n % len(NAMES)]}-{n // len(NAMES) + 1:02}") for n in range(servers)]
    world.add_snapshot(
        ids[0],
        "pre-migration-snapshot",
        created_at=datetime(2025, 1, 15, 18, 30, tzinfo=UTC),
        description="Before major migration",
    )
    return world
