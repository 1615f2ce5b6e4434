"""The text of the commands: the same facts as their JSON, for people. Everything fits 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from snaprotd.commands.text.columns import Block, Columns, Line
from snaprotd.core.policy import Kind
from snaprotd.core.rotation import Rotation
from snaprotd.core.telling.entries import Entry, Happened
from snaprotd.core.words import ago, clock, count, duration, free_slots, until
from snaprotd.logs import redactor
from snaprotd.report.rows import lives_words

Json = Mapping[str, Any]

BAD = (
    Happened.FAILURE,
    Happened.HELD_OFF,
    Happened.LAPSED,
    Happened.LEDGER_EXCHANGED,
    Happened.RELOAD_REFUSED,
    Happened.VANISHED,
)
"""What has happened and should not have."""

STYLES = {
    "alarm": "bold red",
    "attention": "yellow",
    "ok": "green",
    "paused": "dim",
    "success": "green",
    "failure": "bold red",
    "partial": "yellow",
    "interrupted": "yellow",
    "delete": "red",
    "keep": "",
}


# -- plan ----------------------------------------------------------------------------------------------------------


def plan_text(plans: Sequence[Json], now: datetime, limit: int) -> RenderableType:
    """`plans` are entries of the plan with what only people read: see `rows.people_plan_of`."""
    parts: list[RenderableType] = []
    for plan in plans:
        parts += [*_plan_of(plan, now, limit), ""]
    return Group(*parts[:-1]) if parts else Text("no server is configured")


def _plan_of(plan: Json, now: datetime, limit: int) -> list[RenderableType]:
    held = len(plan["snapshots"])
    slots = f"  server {plan['id']}" + (f", {free_slots(held, limit)}" if plan["is_known"] else "")
    parts: list[RenderableType] = [Text.assemble((plan["name"], "bold"), slots)]
    if plan["paused"]:
        parts.append(Text("  paused: no runs"))
    parts += [Text(f"  {line}") for line in _next_lines(plan, now)]
    if plan["window"]:
        parts.append(Padding(Text(f"window  {plan['window']}"), (0, 0, 0, 2)))
    if plan["retry"]:
        parts.append(Padding(Text(f"retry  {plan['retry']}"), (0, 0, 0, 2)))
    if plan.get("group"):
        parts.append(Padding(Text(f"group  {plan['group']}"), (0, 0, 0, 2)))
    if plan["blocked"]:
        parts.append(Padding(Text(plan["blocked"], style=STYLES["alarm"]), (0, 0, 0, 2)))
    if plan["snapshots"]:
        parts.append(_plan_table(plan, now))
    return parts


def _next_lines(plan: Json, now: datetime) -> list[str]:
    zone, later = plan["timezone"], f", begins {plan['delay']} later" if plan["delay"] else ""
    return [f"next  {clock(slot, zone)}{_in_utc(slot, zone)}, {until(slot, now)}{later}" for slot in plan["next"]]


def _in_utc(slot: str, zone: str) -> str:
    """The time in UTC too, with its date where that is another one."""
    if zone == "UTC":
        return ""
    local, utc = clock(slot, zone), clock(slot, "UTC")
    return f" ({utc[15:] if local[:14] == utc[:14] else utc[4:]})"


def _plan_table(plan: Json, now: datetime) -> RenderableType:
    table = Columns("snapshot", "age", "now", "if it ran now", indent=2)
    for one in plan["snapshots"]:
        later = one["after_next_run"]
        table.add_row(
            one["name"],
            _age(one["created_at"], now),
            (one["reason"], STYLES[one["decision"]]),
            ("the same" if later["reason"] == one["reason"] else later["reason"], STYLES[later["decision"]]),
        )
    return table


# -- list ----------------------------------------------------------------------------------------------------------


def list_text(
    rows: Sequence[Json], now: datetime, headings: Mapping[str, str], notes: Mapping[object, str] = MappingProxyType({})
) -> RenderableType:
    """`headings`: the servers' names, by their ids as text; `notes`: what is told below them, by the snapshots' ids."""
    parts: list[Line | Columns] = []
    of_server: dict[str, list[Json]] = {}
    for row in rows:
        of_server.setdefault(str(row["server_id"]), []).append(row)
    for server_id, name in headings.items():
        own = of_server.get(server_id, [])
        held = count(len(own), "snapshot") if own else "no snapshots"
        parts.append(Line((name, "bold"), f"  server {server_id}, {held}"))
        parts += [_list_table(own, now)] if own else []
        parts += [Line(f"  {row['id']}: {notes[row['id']]}") for row in own if row["id"] in notes]
        parts.append(Line())
    return Block(*parts[:-1]) if parts else Text("no snapshots")


def _list_table(rows: Sequence[Json], now: datetime) -> Columns:
    table = Columns("id", "name", "owner", "status", "size", "age", indent=2)
    for row in rows:
        size = f"{row['size_mb']} MB" if row["size_mb"] is not None else "-"
        style = "" if row["owner"] == "managed" else "dim"
        table.add_row(
            str(row["id"]), row["name"], row["owner"], row["status"], size, _age(row["created_at"], now), style=style
        )
    return table


# -- now, history --------------------------------------------------------------------------------------------------


def refusal_text(label: str, why: str) -> Text:
    """`now` of a server of several for which nothing was done."""
    return Text.assemble(("failure", STYLES["failure"]), f": {label}: {redactor.clean(why)}")


def sum_text(results: Mapping[str, str]) -> Text:
    """`now` of several in one line. `results`: in a word, how each server's rotation ended, by its label."""
    good = sum(result == "success" for result in results.values())
    parts: list[Any] = [f"{good} of {count(len(results), 'server')} done"]
    for result in ("failure", "partial", "interrupted"):
        if names := [label for label, one in results.items() if one == result]:
            parts += ["; ", (result, STYLES[result]), f": {', '.join(names)}"]
    return Text.assemble(*parts)


def now_text(rotation: Rotation) -> RenderableType:
    deleted = f", deleted {', '.join(rotation.deleted)}" if rotation.deleted else ""
    if not rotation.is_finished:
        return Text(
            f"interrupted: {rotation.label} at step {rotation.step}; the next start of snaprotd goes on with it"
        )
    if rotation.error is None:
        was = "was last seen off, after" if _is_last_seen_off(rotation) else "was off for"
        off = f", {was} {duration(rotation.power.off_for)}" if rotation.power.off_for > 0 else ""
        what = f"{rotation.snapshot_name} (id {rotation.snapshot_id}), {lives_words(rotation)}"
        text = f": {rotation.label} has {what}{off}{deleted}"
    else:
        error = redactor.clean(rotation.error)
        text = f": {rotation.label}: at step {rotation.failed_step}: {error}{deleted}"
    return Text.assemble((str(rotation.result), STYLES[str(rotation.result)]), text)


def history_text(rotations: Sequence[Rotation]) -> RenderableType:
    if not rotations:
        return Text("no rotations yet")
    zones = {one.policy.timezone for one in rotations}
    zone = zones.pop() if len(zones) == 1 else "UTC"
    table = Columns("began", "server", "kind", "result", "took", "what")
    for one in rotations:
        seconds = None if one.finished_at is None else (one.finished_at - one.started_at).total_seconds()
        result = str(one.result or "open")
        table.add_row(
            clock(one.started_at.isoformat(), zone)[4:20],
            one.label,
            f"{one.kind} {one.attempt}" if one.kind is Kind.RETRY else str(one.kind),
            (result, STYLES.get(result, "bold")),
            duration(seconds),
            "; ".join(filter(None, (_what(one), _off(one, zone), _slot(one, zone)))),
        )
    return Group(table, Text(f"Times are those of {zone}.", style="dim"))


def events_text(entries: Sequence[Entry]) -> RenderableType:
    """Newest first, in UTC: they are of servers of any zone."""
    if not entries:
        return Text("no events yet")
    table = Columns("at", "server", "kind", "by", "what")
    for one in entries:
        server = str(one.details.get("label") or one.server_id or "")
        at = f"{one.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        style = STYLES.get(_mood(one), "")
        table.add_row(at, server, (str(one.kind), style), one.by or "", one.text)
    return Group(table, Text("Times are UTC.", style="dim"))


def _mood(entry: Entry) -> str:
    """The word by which it is coloured."""
    if entry.kind in (Happened.ROTATION, Happened.RECOVERY):
        return str(entry.details.get("result") or "success")
    return "failure" if entry.kind in BAD else ""


def _off(rotation: Rotation, zone: str) -> str:
    """When the server was off because of it."""
    since, seconds = rotation.power.went_off_at, rotation.power.off_for
    if since is None or seconds <= 0:
        return f"off for {duration(seconds)}" if seconds > 0 else ""
    begin, end = (clock(at.isoformat(), zone)[15:20] for at in (since, since + timedelta(seconds=seconds)))
    return f"off since {begin}, as last seen" if _is_last_seen_off(rotation) else f"off {begin}-{end}"


def _is_last_seen_off(rotation: Rotation) -> bool:
    """As where a person has let go of its start: for how long it was off in all is not known."""
    return rotation.is_finished and rotation.power.went_off and not rotation.power.came_back


def _slot(rotation: Rotation, zone: str) -> str:
    """Where it was begun at another time."""
    if abs(rotation.started_at - rotation.slot) < timedelta(minutes=1):
        return ""
    slot, began = (clock(at.isoformat(), zone) for at in (rotation.slot, rotation.started_at))
    return f"slot {slot[15:20] if slot[:14] == began[:14] else slot[4:20]}"


def _what(rotation: Rotation) -> str:
    if rotation.error is not None:
        return f"at {rotation.failed_step}: {redactor.clean(rotation.error)}"
    if not rotation.is_finished:
        return f"at {rotation.step}: {redactor.clean(rotation.note)}" if rotation.note else f"at {rotation.step}"
    deleted = f", deleted {', '.join(rotation.deleted)}" if rotation.deleted else ""
    return f"took snapshot {rotation.snapshot_id}{deleted}"


# -- status --------------------------------------------------------------------------------------------------------


def status_text(report: Json) -> RenderableType:
    now = datetime.fromisoformat(report["generated_at"])
    parts: list[RenderableType] = [_verdict(report)]
    for problem in sorted(report["problems"], key=lambda one: str(one["severity"])):
        sign = ("✕ " if problem["severity"] == "alarm" else "! ", STYLES[problem["severity"]])
        server = (f"{problem['server']}: " if problem["server"] else "", "bold")
        parts.append(Padding(Text.assemble(sign, server, problem["text"]), (0, 0, 0, 2)))
        if do := problem.get("do"):  # a daemon of an older version tells of none
            parts.append(Padding(Text(do, style="dim"), (0, 0, 0, 4)))
    if note := report.get("api", {}).get("note"):
        parts.append(Padding(Text(f"snaprotd {note}", style="dim"), (0, 0, 0, 2)))
    at_work = [server for server in (*report["servers"], *report["departed"]) if server["running"]]
    parts += [_running_line(server, now) for server in at_work]
    parts += ["", _replicas_table(report["replicas"])] if len(report.get("replicas", ())) > 1 else []
    return Group(*parts, "", _status_table(report, now))


def _replicas_table(replicas: Sequence[Json]) -> Columns:
    table = Columns("replica", "version", "configuration", "what it does")
    for one in replicas:
        does = ["answers here"] if one["is_me"] else []
        does += ["tells the metrics"] if one["is_reporter"] else []
        does += ["tells people"] if one["is_teller"] else []
        does += [f"begins no rotations: {one['why_none']}"] if one["why_none"] else []
        table.add_row(f"{one['host']} {one['id'][:8]}", one["snaprotd"], one["config"], ", ".join(does) or "-")
    return table


def _verdict(report: Json) -> Text:
    alarms = sum(problem["severity"] == "alarm" for problem in report["problems"])
    others = len(report["problems"]) - alarms
    words = "all is well"
    if alarms:
        words = f"{count(alarms, 'thing')} {'needs' if alarms == 1 else 'need'} you"
    elif others:
        words = f"{count(others, 'thing')} to look at"
    about = f"  {count(len(report['servers']), 'server')}, snaprotd {report['snaprotd']}"
    return Text.assemble((words, STYLES[report["state"]]), about)


def _running_line(server: Json, now: datetime) -> RenderableType:
    running, since = server["running"], server["stopped_by_us_since"]
    text = f"{running['step']}, {running['note'] or 'at work'}"
    text += f", for {duration(running['seconds'])}" if running["seconds"] else ""
    off = f"; off because of us, since {ago(since, now)}" if since else ""
    where = f", on {its['host']}" if (its := running.get("replica")) else ""
    line = Text.assemble("▶ ", (f"{server['name']}: ", "bold"), text, where, (off, STYLES["alarm"]))
    return Padding(line, (0, 0, 0, 2))


def _status_table(report: Json, now: datetime) -> Columns:
    table = Columns("server", "state", "newest", "slots", "last rotation", "next")
    for server in report["servers"]:
        newest, last = server["newest_completed"], server["last"]
        table.add_row(
            server["name"],
            (server["state"], STYLES[server["state"]]),
            ago(newest["created_at"], now) if newest else "-",
            _dots(server["slots"]),
            f"{last['result']} {ago(last['finished_at'], now)}" if last else "-",
            "paused" if server["paused"] else until(server["next_run"], now),
        )
    return table


def _dots(slots: Json | None) -> str:
    """Ours, those of others, and free ones."""
    return "-" if slots is None else "●" * slots["managed"] + "■" * slots["foreign"] + "○" * slots["free"]


# -- common --------------------------------------------------------------------------------------------------------


def _age(created_at: str | None, now: datetime) -> str:
    return "unknown" if created_at is None else duration((now - datetime.fromisoformat(created_at)).total_seconds())
