"""An account that answers fast: many servers, snapshots that take so long and no longer, a limit to the rate.

The simulator shows what can go wrong; this shows what thousands of requests cost whoever makes them. It knows as much
of the API as a rotation asks for, in the simulator's own shapes, and keeps a journal of all that it is asked.
"""

from __future__ import annotations

import json
import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from urllib.parse import parse_qs

ROOT = "/api/v1"
FIRST_SERVER, FIRST_SNAPSHOT = 12345, 801
LONGEST_PAGE = 100
TOKEN = "made-up-q7w2"
_ONE = re.compile(r"/(servers|snapshots)/([0-9]+)/(power/)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request, in the journal."""

    at: float
    kind: str
    """`servers` and `snapshots` for a page of those lists, `server` and `snapshots of one`, `create`, `delete`, `stop`,
    `start`, `account`, `other`."""
    server: int | None
    status: int
    is_first: bool = True
    """Not for the pages of a list after its first."""


@dataclass(kw_only=True, slots=True, eq=False)
class QuickSnapshot:
    id: int
    server: int
    name: str
    description: str
    made_at: float
    done_at: float
    shown: bytes = b""
    """As it is listed when it is done."""


@dataclass(kw_only=True, slots=True, eq=False)
class QuickServer:
    id: int
    name: str
    status: str = "active"
    then: str = ""
    """What it becomes, at `then_at`."""
    then_at: float = 0.0
    off_since: float | None = None
    snapshots: list[QuickSnapshot] = field(default_factory=list)


class QuickAccount:
    """`clock`: seconds of Unix time. `allowed`: requests a second, and so many at once; None for any number."""

    def __init__(
        self,
        servers: int,
        *,
        clock: Callable[[], float] = time.time,
        origin: str = "https://vps.invalid",
        snapshot_seconds: float = 300.0,
        power_seconds: float = 30.0,
        allowed: float | None = None,
        limit: int = 5,
    ) -> None:
        self.clock = clock
        self.origin = origin
        self.snapshot_seconds = snapshot_seconds
        self.power_seconds = power_seconds
        self.allowed = allowed
        self.limit = limit
        self.refuses: Callable[[str, int | None], bool] = lambda kind, server: False
        """Whether there are too many requests of that kind for that server, for the provider's taste."""
        self.servers = {one: QuickServer(id=one, name=f"s{one}") for one in range(FIRST_SERVER, FIRST_SERVER + servers)}
        self._servers = list(self.servers.values())
        self.journal: list[Asked] = []
        self.downtimes: list[tuple[int, float]] = []
        """Of each time that a server was off: which, and for how many seconds, from its stop until it ran again."""
        self._snapshots: dict[int, QuickSnapshot] = {}
        self._order: list[QuickSnapshot] = []
        self._next_id = FIRST_SNAPSHOT
        self._credit, self._credited_at = allowed or 0.0, clock()

    # -- what is in it -------------------------------------------------------------------------------------------

    def add_snapshot(self, server: int, name: str, *, made_at: float, done_at: float, description: str = "") -> int:
        """As if it had been asked for at `made_at`; its id."""
        made = QuickSnapshot(
            id=self._next_id, server=server, name=name, description=description, made_at=made_at, done_at=done_at
        )
        self._next_id += 1
        self._snapshots[made.id] = made
        self._order.append(made)
        self.servers[server].snapshots.append(made)
        return made.id

    def off_now(self) -> list[int]:
        """The servers that do not run."""
        return [one.id for one in self.servers.values() if self._settled(one).status != "active"]

    def finish(self, number: int) -> None:
        """Have so many snapshots be done now that are in progress, the oldest of them."""
        now = self.clock()
        for one in [one for one in self._order if one.done_at > now][:number]:
            one.done_at = now

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind of request was carried out, or at least answered otherwise than with an error."""
        return Counter(one.kind for one in self.journal if one.status < 400)

    # -- what is asked -------------------------------------------------------------------------------------------

    def ask(self, method: str, target: str, body: bytes = b"", *, token: str | None = TOKEN) -> Answer:
        """Carry the request out; `target` is its path and its query."""
        now = self.clock()
        path, _, text = target.partition("?")
        path = path.removeprefix(ROOT)
        query = {key: values[0] for key, values in parse_qs(text).items()} if text else {}
        if token != TOKEN:
            kind, server, answer = "other", None, _told(401, {"detail": "Invalid token."})
        elif self._is_too_fast(now):
            kind, server, answer = self._kind(method, path, query, body)[0], None, THROTTLED
        else:
            kind, server, act = self._kind(method, path, query, body)
            answer = THROTTLED if self.refuses(kind, server) else act(now)
        is_first = query.get("page", "1") == "1"
        self.journal.append(Asked(at=now, kind=kind, server=server, status=answer.status, is_first=is_first))
        return answer

    def _is_too_fast(self, now: float) -> bool:
        if self.allowed is None:
            return False
        self._credit = min(self.allowed, self._credit + (now - self._credited_at) * self.allowed)
        self._credited_at = now
        if self._credit < 1:
            return True
        self._credit -= 1
        return False

    def _kind(
        self, method: str, path: str, query: Mapping[str, str], body: bytes
    ) -> tuple[str, int | None, Callable[[float], Answer]]:
        """What kind of request it is, for which server, and what does it."""
        if found := _ONE.fullmatch(path):
            what, its_id, is_power = found[1], int(found[2]), bool(found[3])
            if what == "snapshots" and method == "DELETE":
                held = self._snapshots.get(its_id)
                return "delete", held.server if held else None, lambda now: self._delete(its_id)
            if is_power:
                action = json.loads(body)["action"]
                return action, its_id, lambda now: self._power(its_id, action, now)
            return "server", its_id, lambda now: self._get_server(its_id, now)
        if path == "/servers/":
            return "servers", None, lambda now: self._list_servers(query, now)
        if path == "/snapshots/" and method == "POST":
            asked = json.loads(body)
            return "create", int(asked["server_id"]), lambda now: self._create(asked, now)
        if path == "/snapshots/":
            of = query.get("server_id")
            kind = "snapshots" if of is None else "snapshots of one"
            return kind, None if of is None else int(of), lambda now: self._list_snapshots(query, now)
        if path == "/account/me/":
            return "account", None, lambda now: _told(200, OWNER)
        return "other", None, lambda now: NOT_FOUND

    # -- servers -------------------------------------------------------------------------------------------------

    def _settled(self, server: QuickServer, now: float | None = None) -> QuickServer:
        """The server as it is by now."""
        now = self.clock() if now is None else now
        if server.then and server.then_at <= now:
            server.status, server.then = server.then, ""
        return server

    def _list_servers(self, query: Mapping[str, str], now: float) -> Answer:
        rows = self._servers
        return self._page(query, len(rows), "/servers/", lambda a, b: [self._server(one, now) for one in rows[a:b]])

    def _get_server(self, its_id: int, now: float) -> Answer:
        server = self.servers.get(its_id)
        return NOT_FOUND if server is None else Answer(status=200, body=self._server(server, now), headers=JSON)

    def _server(self, server: QuickServer, now: float) -> bytes:
        status, number = self._settled(server, now).status, server.id - FIRST_SERVER
        text = (
            f'{{"id": {server.id}, "name": "{server.name}", "hostname": "{server.name}.account.invalid", '
            f'"status": "{status}", "ip_address": "198.18.{number // 250 % 250}.{number % 250 + 1}", '
            '"location": "Frankfurt", "plan": "4 GB", "os": "Debian 12", "created_at": "2025-01-01T00:00:00+00:00", '
            '"updated_at": "2025-01-01T00:00:00+00:00"}'
        )
        return text.encode()

    def _power(self, its_id: int, action: str, now: float) -> Answer:
        server = self._settled(self.servers[its_id], now)
        if action == "stop" and server.status == "active":
            server.off_since = now
            server.status, server.then, server.then_at = "stopping", "stopped", now + self.power_seconds
        elif action == "start" and server.status == "stopped" and server.off_since is not None:
            server.status, server.then, server.then_at = "starting", "active", now + self.power_seconds
            self.downtimes.append((its_id, server.then_at - server.off_since))
        return _told(200, {"status": "success", "message": f"Server {action} has been requested."})

    # -- snapshots -----------------------------------------------------------------------------------------------

    def _list_snapshots(self, query: Mapping[str, str], now: float) -> Answer:
        server = self.servers.get(int(query.get("server_id", 0)))
        own = [] if server is None else server.snapshots
        rows = own if "server_id" in query else self._order
        count = len(rows)

        def shown(first: int, last: int) -> list[bytes]:  # the newest first
            part = rows[max(count - last, 0) : count - first]
            return [self._snapshot(one, now) for one in reversed(part)]

        return self._page(query, count, "/snapshots/", shown)

    def _create(self, asked: Mapping[str, Any], now: float) -> Answer:
        server = self.servers.get(int(asked["server_id"]))
        if server is None:
            return NOT_FOUND
        if len(server.snapshots) >= self.limit:
            return _told(400, {"detail": f"Snapshot limit reached (maximum {self.limit} per server)."})
        made = self.add_snapshot(
            server.id,
            asked["name"],
            description=asked.get("description", ""),
            made_at=now,
            done_at=now + self.snapshot_seconds,
        )
        message = "Snapshot creation has started. This may take 3-10 minutes."
        told = json.loads(self._snapshot(self._snapshots[made], now)) | {"message": message}
        return _told(201, told)

    def _delete(self, its_id: int) -> Answer:
        held = self._snapshots.pop(its_id, None)
        if held is None:
            return NOT_FOUND
        self.servers[held.server].snapshots.remove(held)
        del self._order[bisect_left(self._order, its_id, key=attrgetter("id"))]
        return Answer(status=204)

    def _snapshot(self, one: QuickSnapshot, now: float) -> bytes:
        if one.done_at > now:
            return self._rendered(one, "in_progress", "null")
        one.shown = one.shown or self._rendered(one, "completed", "5120")
        return one.shown

    def _rendered(self, one: QuickSnapshot, status: str, size: str) -> bytes:
        made = datetime.fromtimestamp(one.made_at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        text = (
            f'{{"id": {one.id}, "server": {{"id": {one.server}, "name": "{self.servers[one.server].name}"}}, '
            f'"name": {json.dumps(one.name)}, "status": "{status}", "size_mb": {size}, "created_at": "{made}", '
            f'"description": {json.dumps(one.description)}}}'
        )
        return text.encode()

    # -- pages ---------------------------------------------------------------------------------------------------

    def _page(
        self, query: Mapping[str, str], count: int, path: str, shown: Callable[[int, int], list[bytes]]
    ) -> Answer:
        page, size = int(query.get("page", 1)), min(int(query.get("page_size", 20)), LONGEST_PAGE)
        if page > 1 and (page - 1) * size >= count:
            return _told(404, {"detail": "Invalid page."})
        following = json.dumps(self._link(query, path, page + 1) if page * size < count else None)
        previous = json.dumps(self._link(query, path, page - 1) if page > 1 else None)
        head = f'{{"count": {count}, "next": {following}, "previous": {previous}, "results": ['
        body = head.encode() + b", ".join(shown((page - 1) * size, page * size)) + b"]}"
        return Answer(status=200, body=body, headers=JSON)

    def _link(self, query: Mapping[str, str], path: str, page: int) -> str:
        others = "&".join(f"{key}={value}" for key, value in {**query, "page": page}.items())
        return f"{self.origin}{ROOT}{path}?{others}"


JSON = {"content-type": "application/json"}
OWNER = {
    "account": {"email": "owner@account.invalid"},
    "token": {"name": "simulated", "permissions": ["read", "write"]},
}


def _told(status: int, value: Any, **headers: str) -> Answer:
    return Answer(status=status, body=json.dumps(value).encode(), headers={**JSON, **headers})


NOT_FOUND = _told(404, {"detail": "Not found."})
THROTTLED = _told(429, {"detail": "Request was throttled. Expected available in 1 second."}, **{"retry-after": "1"})
