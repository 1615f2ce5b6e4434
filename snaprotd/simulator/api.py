"""The simulated REST API: a request to an answer, with the faults that strike it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from snaprotd.simulator.faults import Fault
from snaprotd.simulator.world import SimServer, SimSnapshot, World

ROOT = "/api/v1"
LOCATION = "Frankfurt"
NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
HUGE = 17 * 1024 * 1024
OTHER_HOST = "https://elsewhere.invalid"


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    path: str
    """With the API's root."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    origin: str = "http://127.0.0.1"
    """Scheme, host and port by which the client came here: for links."""

    @property
    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer. `effect` says how it travels: `cut`, `hang`, `truncated`, `trickle`, or plainly."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    effect: str = ""
    delay: float = 0.0


class _Error(Exception):
    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


Route = tuple[str, re.Pattern[str], Callable[[World, Request, "re.Match[str]", Fault | None], Reply]]


def answer(world: World, request: Request) -> Reply:
    """Carry the request out, or not, and say what the client gets."""
    world.now()
    path = request.path.removeprefix(ROOT)
    fault = _fault(world, request)
    if fault is None:
        return _carry_out(world, request, None)
    kind = fault.kind
    if kind in ("cut", "hang"):
        return Reply(status=0, effect=kind)
    if kind == "late":
        world.late.append(
            (request.method, path, world.later(fault.delay, lambda: _ignore(_carry_out(world, request, None))))
        )
        return Reply(status=0, effect="cut")
    if kind in ("status", "html", "redirect", "huge", "proxy"):
        return _wrong_answer(world, request, fault)
    if kind == "doubled":
        return _done_twice(world, request, fault)
    reply = _carry_out(world, request, fault)
    if kind in ("lost", "hang_done"):
        return Reply(status=0, effect="cut" if kind == "lost" else "hang")
    if kind in ("truncated", "trickle"):
        return Reply(status=reply.status, body=reply.body, headers=reply.headers, effect=kind, delay=fault.delay)
    return _bent_list(reply, fault)


def _ignore(_: Reply) -> None:
    """Nobody is there any more to be answered."""


def _fault(world: World, request: Request) -> Fault | None:
    path = request.path.removeprefix(ROOT)
    body = request.json
    server_id = str(body.get("server_id", request.query.get("server_id", "")))
    if found := re.match(r"/servers/([^/]+)/", path):
        server_id = found[1]
    action = str(body.get("action", ""))
    return next((fault for fault in world.faults if fault.strikes(request.method, path, action, server_id)), None)


def _wrong_answer(world: World, request: Request, fault: Fault) -> Reply:
    if fault.done:
        _carry_out(world, request, None)
    if fault.kind == "redirect":
        return Reply(status=302, headers={"location": f"{OTHER_HOST}{request.path}"})
    if fault.kind == "huge":
        return Reply(status=200, body=b'{"count": 0, "results": []' + b" " * HUGE + b"}")
    if fault.kind == "html":
        return Reply(
            status=fault.status, body=b"<html><h1>We will be back</h1></html>", headers={"content-type": "text/html"}
        )
    headers = {"retry-after": fault.retry_after} if fault.retry_after else {}
    if fault.kind == "proxy":
        return _json(fault.status, {"code": fault.status, "message": "no upstream"}, headers)
    return _json(fault.status, {"detail": f"simulated {fault.status}"}, headers)


def _done_twice(world: World, request: Request, fault: Fault) -> Reply:
    """What a proxy does that sends a request again; it answers with what came last before its client was answered."""
    reply = _carry_out(world, request, None)

    def again() -> Reply:
        made = len(world.created)
        second = _carry_out(world, request, None)
        world.doubled += world.created[made:]
        return second

    if fault.delay:
        world.later(fault.delay, lambda: _ignore(again()))
    else:
        reply = again()
    return reply if fault.status < 400 else _json(fault.status, {"detail": f"simulated {fault.status}"})


def _bent_list(reply: Reply, fault: Fault) -> Reply:
    """An answer to a list request that is complete in form and not in fact."""
    if fault.kind not in ("empty", "short", "foreign_next") or reply.status != 200:
        return reply
    listed = json.loads(reply.body)
    if "results" not in listed:
        return reply
    if fault.kind == "empty":
        listed |= {"count": 0, "next": None, "results": []}
    elif fault.kind == "short":
        listed |= {"count": listed["count"] + 2}
    else:
        listed |= {"next": f"{OTHER_HOST}{ROOT}/snapshots/?page=2"}
    return _json(200, listed)


def _carry_out(world: World, request: Request, fault: Fault | None) -> Reply:
    try:
        return _route(world, request, fault)
    except _Error as error:
        return _json(error.status, error.body)


def _route(world: World, request: Request, fault: Fault | None) -> Reply:
    if request.headers.get("authorization") != f"Bearer {world.token}":
        raise _Error(401, {"detail": "Invalid token."})
    path = request.path.removeprefix(ROOT)
    fitting = [(method, found, act) for method, shape, act in ROUTES if (found := shape.fullmatch(path))]
    if not fitting or not request.path.startswith(ROOT):
        raise _Error(404, {"detail": "Not found."})
    for method, found, act in fitting:
        if method == request.method:
            if world.read_only and method != "GET":
                raise _Error(403, {"detail": "You do not have permission to perform this action."})
            return act(world, request, found, fault)
    raise _Error(405, {"detail": f'Method "{request.method}" not allowed.'})


# -- the calls ---------------------------------------------------------------------------------------------------


def _list_servers(world: World, request: Request, _: re.Match[str], fault: Fault | None) -> Reply:
    servers = [
        _server(world, server, fault)
        for server in world.servers.values()
        if request.query.get("status") in (None, server.status) and request.query.get("location") in (None, LOCATION)
    ]
    return _page(request, servers, world.page_size, "/servers/")


def _get_server(world: World, _: Request, found: re.Match[str], fault: Fault | None) -> Reply:
    return _json(200, _server(world, _known(world, found[1]), fault))


def _power(world: World, request: Request, found: re.Match[str], fault: Fault | None) -> Reply:
    server = _known(world, found[1])
    action = request.json.get("action")
    if action not in ("start", "stop", "restart", "hard_stop"):
        raise _Error(400, {"action": [f'"{action}" is not a valid choice.']})
    if server.status in ("restoring", "suspended"):
        raise _Error(400, {"detail": f"The server is {server.status}."})
    world.power(server, action, fault)
    return _json(200, {"status": "success", "message": f"Server {action} has been requested."})


def _list_snapshots(world: World, request: Request, _: re.Match[str], __: Fault | None) -> Reply:
    rows = [_snapshot(world, one) for one in world.listed(request.query.get("server_id"))]
    if "page" in request.query or "page_size" in request.query:
        return _page(request, rows, world.page_size, "/snapshots/")
    return _json(200, {"count": len(rows), "results": rows})


def _create_snapshot(world: World, request: Request, _: re.Match[str], fault: Fault | None) -> Reply:
    body = request.json
    missing = {key: ["This field is required."] for key in ("server_id", "name") if key not in body}
    empty = {key: ["This field may not be null."] for key in ("server_id", "name") if body.get(key, "") is None}
    if missing or empty:
        raise _Error(400, missing | empty)
    if not NAME.fullmatch(str(body["name"])):
        raise _Error(400, {"name": ["Only letters, numbers, hyphens and underscores are allowed."]})
    server = _known(world, str(body["server_id"]))
    if server.status in ("restoring", "suspended"):
        raise _Error(400, {"detail": f"The server is {server.status}."})
    if len(world.snapshots_of(server.id)) >= world.limit:
        raise _Error(400, {"detail": f"Snapshot limit reached (maximum {world.limit} per server)."})
    snapshot = world.take_snapshot(server.id, str(body["name"]), str(body.get("description", "")), fault)
    message = "Snapshot creation has started. This may take 3-10 minutes."
    return _json(201, {**_snapshot(world, snapshot), "message": message})


def _delete_snapshot(world: World, _: Request, found: re.Match[str], fault: Fault | None) -> Reply:
    world.delete(_known_snapshot(world, found[1]), fault)
    return Reply(status=204)


def _restore(world: World, _: Request, found: re.Match[str], __: Fault | None) -> Reply:
    snapshot = _known_snapshot(world, found[1])
    server = _known(world, snapshot.server_id)
    if snapshot.status != "completed" or server.status not in ("active", "stopped"):
        raise _Error(400, {"detail": "Server is not in a valid state for restore."})
    world.restore(snapshot)
    return _json(
        200,
        {
            "status": "success",
            "message": "Server is being restored from snapshot. This may take 5-15 minutes.",
            "snapshot": {"id": snapshot.id, "name": snapshot.name, "created_at": snapshot.created_at},
            "server": {"id": server.ref, "name": server.name, "status": server.status},
        },
    )


def _me(world: World, _: Request, __: re.Match[str], ___: Fault | None) -> Reply:
    permissions = ["read"] if world.read_only else ["read", "write"]
    token = {"name": "simulated", "permissions": permissions}
    return _json(200, {"account": {"email": world.email}, "token": token})


ROUTES: tuple[Route, ...] = (
    ("GET", re.compile(r"/servers/"), _list_servers),
    ("GET", re.compile(r"/servers/([^/]+)/"), _get_server),
    ("POST", re.compile(r"/servers/([^/]+)/power/"), _power),
    ("GET", re.compile(r"/snapshots/"), _list_snapshots),
    ("POST", re.compile(r"/snapshots/"), _create_snapshot),
    ("DELETE", re.compile(r"/snapshots/([^/]+)/"), _delete_snapshot),
    ("POST", re.compile(r"/snapshots/([^/]+)/restore/"), _restore),
    ("GET", re.compile(r"/account/me/"), _me),
)


# -- what is shown -----------------------------------------------------------------------------------------------


def _known(world: World, server_id: str) -> SimServer:
    if server_id not in world.servers:
        raise _Error(404, {"detail": "Not found."})
    return world.servers[server_id]


def _known_snapshot(world: World, snapshot_id: str) -> SimSnapshot:
    found = world.snapshots.get(int(snapshot_id)) if snapshot_id.isdecimal() else None
    if found is None:
        raise _Error(404, {"detail": "Not found."})
    return found


def _server(world: World, server: SimServer, fault: Fault | None) -> dict[str, Any]:
    stale_by = fault.delay if fault and fault.kind == "stale" else 0.0
    key = "uuid" if world.id_kind == "uuid_key" else "id"
    return {
        key: server.ref,
        "name": server.name,
        "hostname": server.hostname,
        "status": world.status_before(server, stale_by) if stale_by else server.status,
        "ip_address": server.ip_address,
        "location": LOCATION,
        "plan": "4 GB",
        "os": "Debian 12",
        "created_at": server.created_at.isoformat(),
        "updated_at": server.history[-1][0].isoformat(),
    }


def _snapshot(world: World, snapshot: SimSnapshot) -> dict[str, Any]:
    server = world.servers.get(snapshot.server_id)
    key = "uuid" if world.id_kind == "uuid_key" else "id"
    return {
        "id": snapshot.id,
        "server": {key: server.ref if server else snapshot.server_id, "name": server.name if server else ""},
        "name": snapshot.name,
        "status": snapshot.status,
        "size_mb": snapshot.size_mb,
        "created_at": snapshot.created_at,
        "description": snapshot.description,
    }


def _page(request: Request, rows: list[dict[str, Any]], page_size: int, path: str) -> Reply:
    page = _number(request, "page", 1)
    size = min(_number(request, "page_size", page_size), 100)
    if page > 1 and (page - 1) * size >= len(rows):
        raise _Error(404, {"detail": "Invalid page."})

    def link(number: int) -> str:
        others = {key: value for key, value in request.query.items() if key != "page"}
        query = "&".join(f"{key}={value}" for key, value in {**others, "page": str(number)}.items())
        return f"{request.origin}{ROOT}{path}?{query}"

    following = link(page + 1) if page * size < len(rows) else None
    previous = link(page - 1) if page > 1 else None
    shown = rows[(page - 1) * size : page * size]
    return _json(200, {"count": len(rows), "next": following, "previous": previous, "results": shown})


def _number(request: Request, key: str, default: int) -> int:
    text = request.query.get(key, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise _Error(404, {"detail": "Invalid page."})
    return int(text)


def _json(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(
        status=status,
        body=json.dumps(value).encode(),
        headers={"content-type": "application/json", **(headers or {})},
    )
