"""The status report: what it says in each situation, and the shape that others rely on."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from snaprotd.core.errors import SnaprotdError
from snaprotd.core.holds import snapshot_name
from snaprotd.core.power import Power
from snaprotd.core.promise import ServerPower
from snaprotd.core.rotation import STEPS, Step
from snaprotd.core.telling.entries import Happened
from snaprotd.ledger.store import Ledger
from snaprotd.simulator import Fault, World
from snaprotd.web.certificate import Certificate
from tests.support.daemons import Watched, daemon_on, kill, power, write_config

MINUTE, HOUR = 60.0, 3600.0

INSTANT = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
MAYBE_INSTANT = {"anyOf": [INSTANT, {"type": "null"}]}
KIND = {"enum": ["scheduled", "late", "retry", "manual"]}
MAYBE_TEXT = {"type": ["string", "null"]}
ID = {"type": ["integer", "string"]}


def shape(required: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **more},
        "required": list(required),
        "additionalProperties": False,
    }


def maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def many(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


STEP = shape({"step": {"type": "string"}, "seconds": {"type": "integer"}})
DECIDED = shape({"decision": {"enum": ["keep", "delete"]}, "reason": {"type": "string"}})
PROBLEM = shape(
    {
        "severity": {"enum": ["alarm", "attention"]},
        "text": {"type": "string"},
        "do": {"type": "string"},
        "runbook": {"type": "string"},
    }
)
SNAPSHOT = shape(
    {
        "id": ID,
        "name": {"type": "string"},
        "owner": {"enum": ["managed", "foreign"]},
        "status": {"type": "string"},
        "created_at": MAYBE_INSTANT,
        "decision": {"enum": ["keep", "delete"]},
        "reason": {"type": "string"},
        "size_mb": {"type": ["integer", "null"]},
        "description": {"type": "string"},
        "after_next_run": DECIDED,
    }
)
_HISTORY = {
    "id": {"type": "string"},
    "server_id": ID,
    "slot": INSTANT,
    "kind": KIND,
    "attempt": {"type": "integer"},
    "started_at": INSTANT,
    "finished_at": MAYBE_INSTANT,
    "result": {"enum": ["success", "failure", "partial", None]},
    "step": {"type": "string"},
    "snapshot_id": maybe(ID),
    "deleted": many(ID),
    "error": MAYBE_TEXT,
}
HISTORY = shape(_HISTORY)
"""A row of `snaprotd history --json`."""
PAST = shape(
    {
        **_HISTORY,
        "failed_step": MAYBE_TEXT,
        "seconds": {"type": ["integer", "null"]},
        "off_since": MAYBE_INSTANT,
        "off_seconds": {"type": "integer"},
        "steps": many(STEP),
    }
)
RUNNING = shape(
    {
        "rotation": {"type": "string"},
        "replica": maybe(shape({"id": {"type": "string"}, "host": {"type": "string"}})),
        "slot": INSTANT,
        "kind": KIND,
        "attempt": {"type": "integer"},
        "started_at": INSTANT,
        "step": {"type": "string"},
        "seconds": {"type": "integer"},
        "note": {"type": "string"},
        "error": MAYBE_TEXT,
        "held_off": {"type": "boolean"},
        "steps": many(STEP),
    }
)
SERVER = {
    "id": ID,
    "name": {"type": "string"},
    "server_name": MAYBE_TEXT,
    "power": MAYBE_TEXT,
    "paused": {"type": "boolean"},
    "schedule": many({"type": "string"}),
    "timezone": {"type": "string"},
    "expected_interval_seconds": {"type": ["number", "null"]},
    "next_run": MAYBE_INSTANT,
    "retry_at": MAYBE_INSTANT,
    "running": maybe(RUNNING),
    "stopped_by_us_since": MAYBE_INSTANT,
    "last": maybe(PAST),
    "newest_completed": maybe(
        shape({"id": ID, "name": {"type": "string"}, "created_at": INSTANT, "size_mb": {"type": ["integer", "null"]}})
    ),
    "slots": maybe(shape({key: {"type": "integer"} for key in ("managed", "foreign", "free")})),
    "blocked": MAYBE_TEXT,
    "prune_pending": {"type": ["integer", "null"]},
    "snapshots": maybe(many(SNAPSHOT)),
    "state": {"enum": ["ok", "attention", "alarm", "paused"]},
    "problems": many(PROBLEM),
}
DEPARTED = shape({key: SERVER[key] for key in ("id", "name", "running", "stopped_by_us_since", "problems")})
"""Of a server that is not configured."""
REPORT = shape(
    {
        "version": {"const": 1},
        "snaprotd": {"type": "string"},
        "instance": {"type": "string"},
        "ledger": {"type": "string"},
        "generated_at": INSTANT,
        "started_at": INSTANT,
        "state": {"enum": ["ok", "attention", "alarm"]},
        "problems": many(
            shape({"server": MAYBE_TEXT, "server_id": maybe(ID), **PROBLEM["properties"]}),
        ),
        "config": shape({"path": {"type": "string"}, "loaded_at": INSTANT, "mistakes": many({"type": "string"})}),
        "api": shape(
            {
                "rate": {"type": "number"},
                "configured_rate": {"type": "number"},
                "refused_last_hour": {"type": "integer"},
                "note": MAYBE_TEXT,
            }
        ),
        "inventory": shape({"listed_at": MAYBE_INSTANT, "error": MAYBE_TEXT}),
        "ledger_error": MAYBE_TEXT,
        "limit": {"type": "integer"},
        "remarks": many({"type": "string"}),
        "replicas": many(
            shape(
                {
                    **{key: {"type": "string"} for key in ("id", "host", "snaprotd", "config", "why_none")},
                    "generation": {"type": "integer"},
                    **{key: {"type": "boolean"} for key in ("begins_rotations", "is_me", "is_reporter", "is_teller")},
                }
            )
        ),
        "steps": many({"type": "string"}),
        "servers": many(shape(SERVER)),
        "departed": many(DEPARTED),
    }
)
EVENT = shape(
    {
        "id": {"type": "integer"},
        "at": INSTANT,
        "kind": {"enum": [str(kind) for kind in Happened]},
        "server_id": maybe(ID),
        "text": {"type": "string"},
        "by": MAYBE_TEXT,
        "details": {"type": "object"},
    }
)
POLICY = shape({"value": {}, "from": {"type": "string"}})
ONE_SERVER = shape(
    {
        **SERVER,
        "policy": {"type": "object", "additionalProperties": POLICY},
        "history": many(PAST),
        "events": many(EVENT),
        "let_go": {"type": ["string", "null"]},
    }
)


def held_to(schema: dict[str, Any], value: Any) -> Any:
    jsonschema.validate(value, schema)
    return value


async def report_of(watched: Watched) -> Any:
    report = await watched.daemon.view.status()
    return held_to(REPORT, {**report, "servers": [*report["servers"]]})


def a_server(world: World, *, days: int = 3) -> str:
    """A server with a snapshot of ours for each of the last nights."""
    server_id = world.add_server("web-01")
    for ago in range(days):
        made = world.clock() - timedelta(days=ago, minutes=30)
        world.add_snapshot(server_id, snapshot_name("main", made), created_at=made)
    return server_id


NIGHTLY = "schedule: '30 2 * * *', keep: 3"


async def test_all_is_well_where_every_newest_snapshot_is_in_time(tmp_path: Path) -> None:
    world = World()
    server_id = a_server(world)
    async with daemon_on(write_config(tmp_path, f"[{{id: {server_id}, {NIGHTLY}}}]"), world) as watched:
        await asyncio.sleep(MINUTE)
        report = await report_of(watched)
        assert (report["state"], report["problems"]) == ("ok", [])
        assert report["steps"] == [*STEPS[:-1]]
        (server,) = report["servers"]
        assert server["slots"] == {"managed": 3, "foreign": 0, "free": 2}
        assert [one["reason"] for one in server["snapshots"]] == [f"keep: last {n} of 3" for n in (1, 2, 3)]
        oldest = server["snapshots"][-1]["after_next_run"]
        assert oldest == {"decision": "delete", "reason": "delete: over keep 3"}


async def test_a_newest_snapshot_that_is_older_than_the_schedule_allows_is_an_alarm(tmp_path: Path) -> None:
    world = World()
    server_id = world.add_server("web-01")
    made = world.clock() - timedelta(hours=26)
    world.add_snapshot(server_id, snapshot_name("main", made), created_at=made)
    async with daemon_on(write_config(tmp_path, f"[{{id: {server_id}, {NIGHTLY}}}]"), world) as watched:
        await asyncio.sleep(5)
        assert (await report_of(watched))["state"] == "alarm"
        assert "older than the schedule allows" in (await report_of(watched))["problems"][0]["text"]


async def test_a_rotation_under_way_shows_its_step_and_since_when_its_server_is_off(tmp_path: Path) -> None:
    world = World()
    server_id = a_server(world)
    config = write_config(tmp_path, f"[{{id: {server_id}, name: web, {NIGHTLY}, stop_first: true}}]")
    async with daemon_on(config, world) as watched:
        await watched.daemon.rotate(server_id)
        began = datetime.now(UTC)
        await asyncio.sleep(2 * MINUTE)
        (server,) = (await report_of(watched))["servers"]
        assert server["running"]["step"] == "wait"
        assert [one["step"] for one in server["running"]["steps"]] == ["look", "make_room", "stop", "snapshot"]
        since = datetime.fromisoformat(server["stopped_by_us_since"])
        assert timedelta(0) <= since - began.replace(microsecond=0) < timedelta(seconds=30)
        await asyncio.sleep(15 * MINUTE)
        (server,) = (await report_of(watched))["servers"]
        assert server["running"] is None
        assert server["stopped_by_us_since"] is None
        assert server["last"]["result"] == "success"
        assert server["last"]["off_seconds"] > 0
        assert server["last"]["off_since"] == since.strftime("%Y-%m-%dT%H:%M:%SZ")
        one = held_to(ONE_SERVER, await watched.daemon.view.server_status(server_id))
        assert [step["step"] for step in one["history"][0]["steps"]] == [*STEPS[:-1]]
        assert sum(step["seconds"] for step in one["history"][0]["steps"]) > 3 * MINUTE
        assert one["policy"]["keep"] == {"value": 3, "from": "servers[0]"}
        assert one["policy"]["stop_timeout"] == {"value": "5m", "from": "default"}


async def test_a_failure_is_an_alarm_in_words_until_the_next_success(tmp_path: Path) -> None:
    world = World()
    server_id = a_server(world)
    world.faults.append(Fault(kind="ends", method="POST", path="/snapshots/"))
    async with daemon_on(write_config(tmp_path, f"[{{id: {server_id}, {NIGHTLY}}}]"), world) as watched:
        await watched.daemon.rotate(server_id)
        await asyncio.sleep(20 * MINUTE)
        report = await report_of(watched)
        texts = [problem["text"] for problem in report["problems"]]
        assert any("the last rotation ended as failure, at step wait" in text for text in texts), texts
        await watched.daemon.rotate(server_id)
        await asyncio.sleep(20 * MINUTE)
        assert (await report_of(watched))["problems"] == []


async def test_a_server_that_the_account_does_not_have_is_an_alarm_and_the_others_go_on(tmp_path: Path) -> None:
    world = World()
    server_id = a_server(world)
    config = write_config(tmp_path, f"[{{id: {server_id}, {NIGHTLY}}}, {{id: 999, name: gone, {NIGHTLY}}}]")
    async with daemon_on(config, world) as watched:
        await asyncio.sleep(MINUTE)
        there, gone = (await report_of(watched))["servers"]
        assert there["state"] == "ok"
        assert gone["state"] == "alarm"
        assert gone["problems"][0]["text"] == "the account has no server 999"


async def test_what_is_wrong_with_the_protection_of_the_pages_is_on_them(tmp_path: Path) -> None:
    world = World()
    async with daemon_on(write_config(tmp_path, f"[{{id: {a_server(world)}, {NIGHTLY}}}]"), world) as watched:
        pages = watched.daemon._pages
        pages.certificate = Certificate(tmp_path / "pages.crt", why_not="has expired")
        pages.refused = SnaprotdError(f"its key is that of another one, says {world.token}\nand more")
        told = [(one["severity"], one["text"]) for one in (await report_of(watched))["problems"]]
        assert ("alarm", f"the certificate of the pages has expired: {tmp_path}/pages.crt") in told
        (why,) = [text for severity, text in told if severity == "attention" and "refused as it now is" in text]
        assert why.endswith("its key is that of another one, says [token]")


async def test_an_account_that_cannot_be_listed_is_an_alarm_with_the_reason(tmp_path: Path) -> None:
    world = World()
    server_id = a_server(world)
    world.faults.append(Fault(kind="status", method="GET", status=500, times=None))
    async with daemon_on(write_config(tmp_path, f"[{{id: {server_id}, {NIGHTLY}}}]"), world) as watched:
        assert (await report_of(watched))["problems"][0]["text"] == "the account has not been listed yet"
        await asyncio.sleep(HOUR)
        report = await report_of(watched)
        assert report["state"] == "alarm"
        assert "answered 500" in report["inventory"]["error"]
        assert report["servers"][0]["snapshots"] is None


async def test_a_server_that_left_the_configuration_while_it_was_off_is_shown_until_it_is_on(tmp_path: Path) -> None:
    world = World()
    server_id, other = a_server(world), world.add_server("db-01")
    config = write_config(
        tmp_path, f"[{{id: {server_id}, name: web, {NIGHTLY}, stop_first: true}}, {{id: {other}, {NIGHTLY}}}]"
    )
    async with daemon_on(config, world) as watched:
        await watched.daemon.rotate(server_id)
        await asyncio.sleep(2 * MINUTE)
        write_config(tmp_path, f"[{{id: {other}, {NIGHTLY}}}]")
        await asyncio.sleep(10)
        (departed,) = (await report_of(watched))["departed"]
        assert departed["name"] == "web"
        assert departed["stopped_by_us_since"] is not None
        await asyncio.sleep(15 * MINUTE)
        assert (await report_of(watched))["departed"] == []
        assert world.status_of(server_id) == "active"


async def test_a_server_that_left_the_configuration_and_does_not_start_is_an_alarm_still(tmp_path: Path) -> None:
    world = World()
    server_id, other = a_server(world), world.add_server("db-01")
    world.faults = [Fault(kind="start_never", action="start", times=None)]
    rest = f"[{{id: {other}, {NIGHTLY}}}]"
    config = write_config(tmp_path, f"[{{id: {server_id}, name: web, {NIGHTLY}, stop_first: true}}, {rest[1:]}")
    async with daemon_on(config, world) as watched:
        await watched.daemon.rotate(server_id)
        await asyncio.sleep(2 * MINUTE)
        write_config(tmp_path, rest)
        await asyncio.sleep(HOUR)
        report = await report_of(watched)
        assert report["state"] == "alarm"
        assert [one["severity"] for one in report["departed"][0]["problems"]] == ["attention", "alarm"]
        world.faults = []
        await asyncio.sleep(15 * MINUTE)
        assert (await report_of(watched))["departed"] == []


async def owe_a_start(folder: Path, server_id: str, since: datetime) -> None:
    """As a rotation leaves it that has ended, or that nobody can read any more."""
    owed = Power(asked=1, went_off=True, went_off_at=since, held_off_since=since, request_age=3600.0)
    async with await Ledger.open(folder / "state.db", owner="before", lock=False) as ledger:
        await ledger.starts.save(ServerPower(account="vps.invalid", server_id=server_id, label="web", power=owed))


@pytest.mark.parametrize("is_configured", [True, False])
async def test_a_start_that_no_rotation_sees_to_is_told_until_the_server_runs(
    tmp_path: Path, is_configured: bool
) -> None:
    world = World()
    other, server_id = a_server(world), world.add_server("web", status="stopped")
    world.faults.append(power("start_never", "start", times=3))
    owed_since = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    await owe_a_start(tmp_path, server_id, owed_since)
    label = "www" if is_configured else "web"
    more = f", {{id: {server_id}, name: www, {NIGHTLY}}}" if is_configured else ""
    async with daemon_on(write_config(tmp_path, f"[{{id: {other}, {NIGHTLY}}}{more}]"), world) as watched:
        for _ in range(3):
            await asyncio.sleep(10)
            report = await report_of(watched)
            found = [one for one in report["servers"] + report["departed"] if str(one["id"]) == server_id]
            (shown,) = found
            assert (shown["name"], shown["running"]) == (label, None)
            assert datetime.fromisoformat(shown["stopped_by_us_since"]) == owed_since
            assert shown["problems"][0]["text"].startswith("a start is owed to the server: ")
            assert shown["problems"][0]["do"].endswith(f"`snaprotd leave-off {label}` lets go of it.")
            assert report["state"] == "alarm"
            assert watched.value("snaprotd_server_stopped_by_us", label) == 1
            page = (await watched.get("/")).text
            assert "off because of us since" in page
            assert "No server is off" not in page
            assert "held off: web" in watched.daemon.view.in_words()
        await asyncio.sleep(15 * MINUTE)
        report = await report_of(watched)
        assert "owed" not in str(report)
        assert report["departed"] == []
        assert watched.value("snaprotd_server_stopped_by_us", label) == (0 if is_configured else None)
    assert world.status_of(server_id) == "active"


async def test_a_start_that_a_rotation_sees_to_is_told_by_the_rotation_alone(tmp_path: Path) -> None:
    """The promise of a rotation that runs is the rotation's to tell."""
    world = World()
    server_id = a_server(world)
    config = write_config(tmp_path, f"[{{id: {server_id}, name: web, {NIGHTLY}, stop_first: true}}]")
    async with daemon_on(config, world) as watched:
        await watched.daemon.rotate(server_id)
        await asyncio.sleep(2 * MINUTE)
        assert watched.value("snaprotd_server_stopped_by_us", "web") == 1
        assert "owed" not in str(await report_of(watched))


async def test_a_rotation_that_was_set_aside_is_an_alarm(tmp_path: Path) -> None:
    world = World()
    server_id = a_server(world)
    config = write_config(tmp_path, f"[{{id: {server_id}, name: web, {NIGHTLY}}}]")
    async with daemon_on(config, world) as watched:
        await asyncio.sleep(MINUTE)
        why = watched.daemon.view._tools.ledger.set_aside
        why |= {server_id: "its rotation r1 was set aside", "999": "its rotation r2 was set aside"}
        await asyncio.sleep(2)
        report = await report_of(watched)
        told = {(one["server"], one["severity"], one["text"]) for one in report["problems"]}
        assert ("web", "alarm", "its rotation r1 was set aside") in told
        assert ("999", "alarm", "its rotation r2 was set aside") in told


async def test_a_rotation_that_was_set_aside_is_an_alarm_after_a_restart_too(tmp_path: Path) -> None:
    world = World()
    server_id = a_server(world)
    config = write_config(tmp_path, f"[{{id: {server_id}, name: web, {NIGHTLY}}}]")
    watched = Watched(config, world)
    running = asyncio.create_task(watched.daemon.run())
    await watched.daemon.started.wait()
    await watched.daemon.rotate(server_id)
    await watched.reaches(Step.WAIT)
    await kill(watched)
    await asyncio.gather(running, return_exceptions=True)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE rotations SET body = '{' WHERE is_open")
    for _ in range(2):
        async with daemon_on(config, world) as watched:
            await asyncio.sleep(MINUTE)
            found = [one for one in (await report_of(watched))["problems"] if "set aside" in one["text"]]
            assert [(one["server"], one["severity"]) for one in found] == [("web", "alarm")]


async def test_a_paused_server_is_neither_late_nor_has_it_a_next_run(tmp_path: Path) -> None:
    world = World()
    server_id = world.add_server("web-01")
    made = world.clock() - timedelta(days=30)
    world.add_snapshot(server_id, snapshot_name("main", made), created_at=made)
    config = write_config(tmp_path, f"[{{id: {server_id}, {NIGHTLY}, paused: true}}]")
    async with daemon_on(config, world) as watched:
        await asyncio.sleep(MINUTE)
        (server,) = (await report_of(watched))["servers"]
        assert (server["state"], server["next_run"]) == ("paused", None)


async def test_a_rotation_of_another_process_is_shown_too(tmp_path: Path) -> None:
    """`snaprotd now` beside the daemon holds the rotation; the ledger knows of it."""
    world = World()
    server_id = a_server(world)
    config = write_config(tmp_path, f"[{{id: {server_id}, {NIGHTLY}}}]")
    async with daemon_on(config, world) as other, daemon_on(config, world) as watched:
        await other.daemon.rotate(server_id)
        await asyncio.sleep(MINUTE)
        (server,) = (await report_of(watched))["servers"]
        assert server["running"]["step"] == "wait"


async def test_a_refused_configuration_is_an_alarm_with_its_mistakes(tmp_path: Path) -> None:
    world = World()
    server_id = a_server(world)
    async with daemon_on(write_config(tmp_path, f"[{{id: {server_id}, {NIGHTLY}}}]"), world) as watched:
        await asyncio.sleep(MINUTE)
        write_config(tmp_path, f"[{{id: {server_id}, schedule: never}}]")
        await asyncio.sleep(10)
        report = await report_of(watched)
        assert report["state"] == "alarm"
        assert "servers[0].schedule" in report["config"]["mistakes"][0]
