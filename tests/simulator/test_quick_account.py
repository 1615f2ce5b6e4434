"""The account that answers fast says what the simulator says, in the same shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from snaprotd.simulator import ROOT, Request, World, answer
from tests.support.quick_account import FIRST_SERVER, FIRST_SNAPSHOT, TOKEN, QuickAccount

Ask = Callable[..., Any]

SERVERS = 150
ORIGIN = "https://vps.invalid"
MADE = FIRST_SNAPSHOT
"""What the first create makes."""


def ask_the_simulator() -> Ask:
    world = World(token=TOKEN, page_size=20)
    for number in range(SERVERS):
        world.add_server(f"s{FIRST_SERVER + number}")

    def ask(method: str, target: str, body: Any = None, token: str = TOKEN) -> Any:
        path, _, query = target.partition("?")
        asked = Request(
            method=method,
            path=path,
            query=dict(parse_qsl(query)),
            headers={"authorization": f"Bearer {token}"},
            body=json.dumps(body).encode() if body is not None else b"",
            origin=ORIGIN,
        )
        reply = answer(world, asked)
        return reply.status, reply.headers.get("content-type"), json.loads(reply.body or b"null")

    return ask


def ask_the_quick_account() -> Ask:
    account = QuickAccount(SERVERS, origin=ORIGIN)

    def ask(method: str, target: str, body: Any = None, token: str = TOKEN) -> Any:
        told = account.ask(method, target, json.dumps(body).encode() if body is not None else b"", token=token)
        return told.status, told.headers.get("content-type"), json.loads(told.body or b"null")

    return ask


def create(server: int, name: str) -> tuple[str, str, Any]:
    return "POST", f"{ROOT}/snapshots/", {"server_id": server, "name": name, "description": 'a "quoted" one'}


REQUESTS: tuple[tuple[Any, ...], ...] = (
    ("GET", f"{ROOT}/account/me/"),
    ("GET", f"{ROOT}/servers/?page_size=100"),
    ("GET", f"{ROOT}/servers/?page_size=100&page=2"),
    ("GET", f"{ROOT}/servers/?page_size=100&page=3"),
    ("GET", f"{ROOT}/servers/{FIRST_SERVER}/"),
    ("GET", f"{ROOT}/servers/1/"),
    ("GET", f"{ROOT}/snapshots/?page_size=100"),
    *(create(FIRST_SERVER, f"snapshot-{number}") for number in range(6)),
    create(1, "of-no-server"),
    create(FIRST_SERVER + 1, "of-another"),
    ("GET", f"{ROOT}/snapshots/?page_size=4"),
    ("GET", f"{ROOT}/snapshots/?page_size=4&page=2"),
    ("GET", f"{ROOT}/snapshots/?server_id={FIRST_SERVER}&page_size=100"),
    ("GET", f"{ROOT}/snapshots/?server_id=1&page_size=100"),
    ("DELETE", f"{ROOT}/snapshots/{MADE + 1}/"),
    ("DELETE", f"{ROOT}/snapshots/{MADE + 1}/"),
    ("GET", f"{ROOT}/snapshots/?server_id={FIRST_SERVER}&page_size=100"),
    ("POST", f"{ROOT}/servers/{FIRST_SERVER}/power/", {"action": "stop"}),
    ("GET", f"{ROOT}/servers/{FIRST_SERVER}/"),
    ("POST", f"{ROOT}/servers/{FIRST_SERVER}/power/", {"action": "start"}),
    ("GET", f"{ROOT}/nowhere/"),
    ("GET", f"{ROOT}/account/me/", None, "another"),
)

DIFFER = {"created_at", "updated_at", "ip_address"}
"""What is said of a server or a snapshot, and need not be the same in both: only of the same kind."""


def compared(told: Any) -> Any:
    """An answer as the two are compared."""
    if isinstance(told, dict):
        return {key: type(value) if key in DIFFER else compared(value) for key, value in told.items()}
    return [compared(one) for one in told] if isinstance(told, list | tuple) else told


def test_what_the_program_asks_is_answered_as_by_the_simulator() -> None:
    real, quick = ask_the_simulator(), ask_the_quick_account()
    for asked in REQUESTS:
        assert compared(quick(*asked)) == compared(real(*asked)), asked


def test_time_makes_the_same_of_snapshots_and_servers() -> None:
    now = 1000.0
    account = QuickAccount(1, clock=lambda: now, snapshot_seconds=300, power_seconds=30)

    def status(path: str) -> str:
        told = json.loads(account.ask("GET", ROOT + path).body)
        return str(told["results"][0]["status"] if "results" in told else told["status"])

    account.ask("POST", f"{ROOT}/servers/{FIRST_SERVER}/power/", b'{"action": "stop"}')
    account.ask("POST", f"{ROOT}/snapshots/", b'{"server_id": 12345, "name": "one"}')

    def seen_at(moment: float) -> tuple[str, str]:
        nonlocal now
        now = moment
        return status("/snapshots/"), status(f"/servers/{FIRST_SERVER}/")

    assert [seen_at(moment) for moment in (1029.0, 1030.0, 1299.0, 1300.0)] == [
        ("in_progress", "stopping"),
        ("in_progress", "stopped"),
        ("in_progress", "stopped"),
        ("completed", "stopped"),
    ]
    account.ask("POST", f"{ROOT}/servers/{FIRST_SERVER}/power/", b'{"action": "start"}')
    assert (account.off_now(), account.downtimes) == ([FIRST_SERVER], [(FIRST_SERVER, 330.0)])


def test_more_than_is_allowed_in_a_second_is_refused() -> None:
    now = 1000.0
    account = QuickAccount(1, clock=lambda: now, allowed=3)
    asked = [account.ask("GET", f"{ROOT}/account/me/").status for _ in range(4)]
    now += 1
    assert [*asked, account.ask("GET", f"{ROOT}/account/me/").status] == [200, 200, 200, 429, 200]
