"""How a rotation is written in its row: one flat object of JSON, whatever records it is made of in memory.

The form is older than those records: a ledger that an earlier snaprotd wrote is read, and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter

from snaprotd.core.creation import Creation
from snaprotd.core.policy import Policy
from snaprotd.core.power import Power
from snaprotd.core.rotation import Rotation

_ROTATION = TypeAdapter(Rotation)

_POWER = frozenset(field.name for field in fields(Power))
_CREATION = frozenset(field.name for field in fields(Creation))
_POLICY = frozenset(field.name for field in fields(Policy))


class UnreadableRow(ValueError):
    """The row of a rotation holds none: it is damaged, or was written by something else."""


def written_rotation(rotation: Rotation) -> str:
    """The body of a rotation's row."""
    nested: dict[str, Any] = _ROTATION.dump_python(rotation, mode="json")
    rules, power, creation = (nested.pop(part) for part in ("rules", "power", "creation"))
    schedule: dict[str, Any] = rules["policy"].pop("schedule")
    policy = {"schedule": schedule["expressions"], "timezone": schedule["timezone"], **rules["policy"]}
    flat = {**nested, "policy": policy, "instance": rules["instance"], "limit": rules["limit"], **power, **creation}
    return json.dumps(flat, separators=(",", ":"), ensure_ascii=False)


def read_rotation(body: str) -> Rotation:
    """The rotation in a row. What an earlier version did not write has its default. Raises `UnreadableRow`."""
    try:
        return _ROTATION.validate_python(_nested(json.loads(body)))
    except (ValueError, RecursionError) as error:
        raise UnreadableRow(str(error)) from error


def _nested(flat: Any) -> dict[str, Any]:
    if not isinstance(flat, dict) or not isinstance(flat.get("policy"), dict):
        raise UnreadableRow("no rotation: an object with a policy is missing")
    policy = flat["policy"]
    schedule = _taken(policy, {"timezone"}) | {"expressions": policy.get("schedule")}
    rules = {"policy": {**_taken(policy, _POLICY), "schedule": schedule}, **_taken(flat, {"instance", "limit"})}
    return {**flat, "rules": rules, "power": _taken(flat, _POWER), "creation": _taken(flat, _CREATION)}


def _taken(given: Mapping[str, Any], names: frozenset[str] | set[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}
