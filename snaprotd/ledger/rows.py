"""How a rotation is written in its row: one flat object of JSON, whatever records it is made of in memory.

The form is older than those records: a ledger that an earlier snaprotd wrote is read, and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import structlog
from pydantic import AwareDatetime, TypeAdapter

from snaprotd.core.creation import Creation, Life, Trace
from snaprotd.core.holds import hold_named
from snaprotd.core.policy import Policy, Retention, Retry, Rules
from snaprotd.core.power import Power
from snaprotd.core.rotation import Result, Rotation
from snaprotd.core.words import printable
from snaprotd.logs import redactor

log = structlog.get_logger("snaprotd.ledger")

_ROTATION = TypeAdapter(Rotation)
_RULES = TypeAdapter(Rules)
_CREATIONS = TypeAdapter(Creation)
_INSTANT = TypeAdapter(AwareDatetime | None)
_LIVES = TypeAdapter(tuple[Life, ...])

_POWER = frozenset(field.name for field in fields(Power))
_CREATION = frozenset(field.name for field in fields(Creation))
_POLICY = frozenset(field.name for field in fields(Policy))

_EMPTY = {
    field.name: [] if field.default == () else field.default
    for kind in (Rotation, Power, Creation)
    for field in fields(kind)
    if field.default is not MISSING and not field.default
}
"""What is not written, half of a row's bytes: none, no, or nothing, where that is what a row without it means.

So these defaults are never to change: the rows that were written rely on them.
"""


FORMAT = 2
"""The number of this form. A row that needs a higher one asks for a snaprotd that knows more."""

_Names = Mapping[str, "_Names"]
"""The names in an object of JSON, each with those in the object that it names, if that is one."""


def _names(*several: Iterable[str], **within: _Names) -> _Names:
    return dict.fromkeys((name for names in several for name in names), _NONE) | within


_NONE: _Names = {}
_KEEP, _RETRY = (_names(field.name for field in fields(kind)) for kind in (Retention, Retry))
_KNOWN = _names(
    (field.name for field in fields(Rotation)),
    _POWER,
    _CREATION,
    ("instance", "limit", "held_off"),
    policy=_names(_POLICY, ("timezone", "window"), keep=_KEEP, retry=_RETRY),
)


class UnreadableRow(ValueError):
    """The row of a rotation holds none: it is damaged, or was written by something else."""


def written_rotation(rotation: Rotation, unknown: Mapping[str, Any] | None = None) -> str:
    """The body of a rotation's row, with what of it is `unknown` to us."""
    nested: dict[str, Any] = _without_secrets(_ROTATION.dump_python(rotation, mode="json"))
    rules, power, creation = (nested.pop(part) for part in ("rules", "power", "creation"))
    schedule: dict[str, Any] = rules["policy"].pop("schedule")
    policy = {"schedule": schedule.pop("expressions"), **schedule, **rules["policy"]}
    flat = {**nested, "policy": policy, "instance": rules["instance"], "limit": rules["limit"], **power, **creation}
    flat = {name: value for name, value in flat.items() if name not in _EMPTY or value != _EMPTY[name]}
    flat["held_off"] = rotation.held_off  # all that a version before the records of power knows of a promise
    return json.dumps(_joined(flat, unknown or {}), separators=(",", ":"), ensure_ascii=False)


def _joined(known: Mapping[str, Any], unknown: Mapping[str, Any]) -> dict[str, Any]:
    """Both, in each object in them too."""
    both = {name: (_joined(known[name], unknown[name]) if name in unknown else known[name]) for name in known}
    return {**unknown, **both}


def needs_of(rotation: Rotation) -> int:
    """The form that a snaprotd must know to go on with the rotation.

    One that knows of no window would begin outside it; one that knows of no second attempt would send another request
    where the first has left one open; one that knows of no hold would not know its snapshot by its name, and ask again.
    """
    is_new = rotation.policy.window or rotation.attempt > 1 or hold_named(rotation.snapshot_name)
    return FORMAT if is_new else 1


def read_rotation(body: str) -> Rotation:
    """The rotation in a row. What an earlier version did not write has its default. Raises `UnreadableRow`."""
    try:
        return _ROTATION.validate_python(_without_secrets(_nested(json.loads(body))))
    except (ValueError, RecursionError) as error:
        raise UnreadableRow(str(error)) from error


def _nested(flat: Any) -> dict[str, Any]:
    if not isinstance(flat, dict) or not isinstance(flat.get("policy"), dict):
        raise UnreadableRow("no rotation: an object with a policy is missing")
    policy = flat["policy"]
    schedule = _taken(policy, {"timezone", "window"}) | {"expressions": policy.get("schedule")}
    rules = {"policy": {**_taken(policy, _POLICY), "schedule": schedule}, **_taken(flat, {"instance", "limit"})}
    power = {"asked": int(flat.get("held_off") is True), **_taken(flat, _POWER)}
    parts = {"power": _UNTOUCHED if power == _ASKED_NOTHING else power, "creation": _taken(flat, _CREATION)}
    at = {name: _instant_in(flat[name]) for name in _INSTANTS & flat.keys()}
    return {**flat, **at, "rules": _rules_in(json.dumps(rules)), **parts}


_UNTOUCHED, _ASKED_NOTHING = Power(), {"asked": 0}
"""Of most servers: it is kept once."""
_INSTANTS = frozenset({"slot", "started_at", "finished_at"})


def _instant_in(text: Any) -> Any:
    """In the one UTC of the library: from pydantic each instant has a zone of its own, and there are thousands."""
    with suppress(ValueError, TypeError):
        instant = datetime.fromisoformat(text)
        return instant if instant.tzinfo is UTC else text
    return text


@lru_cache(maxsize=256)
def _rules_in(text: str) -> Rules:
    """Thousands of rows have the same ones: they are read once, and kept once."""
    return _RULES.validate_python(json.loads(text))


_WORDS = frozenset({"error", "note"})
"""What others may have said of a rotation: all else in a row is our own, or was made fit where it was read."""


def _without_secrets(rotation: dict[str, Any]) -> dict[str, Any]:
    """On the way in, and on the way out: an earlier version may have written one, and a file is handed on."""
    words = {key: rotation[key] for key in _WORDS & rotation.keys() if isinstance(rotation[key], str)}
    return rotation | {key: printable(redactor.clean(said), len(said)) for key, said in words.items()}


def readable(body: str) -> list[Rotation]:
    """The rotation in a row; none where the row cannot be read, which must not hold up all the others."""
    try:
        return [read_rotation(body)]
    except UnreadableRow as error:
        log.error("a rotation in the ledger cannot be read, and is left out", body=body[:200], error=str(error))
        return []


def unknown_in(body: str) -> dict[str, Any]:
    """What a row has that this version does not know: a newer one wrote it, and will want it back."""
    try:
        flat = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return _beyond(flat, _KNOWN) if isinstance(flat, dict) else {}


def _beyond(given: Mapping[str, Any], known: _Names) -> dict[str, Any]:
    """What is not `known`, of the objects in it too."""
    beyond = {name: value for name, value in given.items() if name not in known}
    within = {
        name: _beyond(value, known[name])
        for name, value in given.items()
        if name in known and known[name] and isinstance(value, dict)
    }
    return beyond | {name: value for name, value in within.items() if value}


_NOBODY = frozenset[str]()


def read_trace(row: str, slot: datetime, body: str, *, is_open: bool) -> Trace:
    """What a row tells of its snapshot. One that cannot be read may have made any of its slot."""
    try:
        flat = json.loads(body)
        creation = _CREATIONS.validate_python(_taken(flat, _CREATION))
        ended = _INSTANT.validate_python(flat.get("finished_at"))
    except (ValueError, RecursionError, AttributeError):
        return Trace(row=row, slot=slot, is_open=is_open)
    return Trace(
        row=row,
        slot=slot,
        is_open=is_open,
        snapshot_id=creation.snapshot_id,
        has_more=creation.was_asked and (creation.snapshot_id is None or creation.creates > 1),
        passed_over=frozenset(creation.passed_over) if creation.passed_over else _NOBODY,
        taken_at=creation.taken_at,
        ended_at=ended,
        has_succeeded=flat.get("result") in (Result.SUCCESS, Result.PARTIAL),
        hold=hold_named(str(flat.get("snapshot_name"))),
    )


def read_ids(text: Any) -> frozenset[str]:
    """The ids of one server; none where they cannot be read."""
    try:
        return frozenset(one for one in json.loads(text) if isinstance(one, str))
    except (ValueError, TypeError, RecursionError):
        return frozenset()


def read_lives(text: Any) -> tuple[Life, ...]:
    """The times in which a process could write; none where they cannot be read."""
    try:
        return tuple(_LIVES.validate_json(text or "[]"))
    except ValueError:
        return ()


def written_lives(lives: tuple[Life, ...]) -> str:
    return _LIVES.dump_json(lives).decode()


def _taken(given: Mapping[str, Any], names: frozenset[str] | set[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}
