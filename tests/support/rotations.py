"""Rotations told in few words: any field by its name, in whichever of a rotation's records it stands."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from snaprotd.core.creation import Creation
from snaprotd.core.policy import Rules
from snaprotd.core.power import Power
from snaprotd.core.rotation import Rotation

_RECORDS: dict[str, type] = {"power": Power, "creation": Creation, "rules": Rules}


def changed(rotation: Rotation, **values: Any) -> Rotation:
    """The rotation with these values; `asked` stands in its power, `snapshot_id` in its creation, and so on.

    `held_off` is short for a stop that was asked for, and whose start is owed.
    """
    if "held_off" in values:
        values["asked"] = int(values.pop("held_off"))
    for name, record in _RECORDS.items():
        own = {each.name: values.pop(each.name) for each in fields(record) if each.name in values}
        rotation = replace(rotation, **{name: replace(getattr(rotation, name), **own)}) if own else rotation
    return replace(rotation, **values)


def flat(rotation: Rotation) -> dict[str, Any]:
    """Every value by its name, in whichever record it stands."""
    own = {each.name: getattr(rotation, each.name) for each in fields(rotation) if each.name not in _RECORDS}
    records = [getattr(rotation, record) for record in _RECORDS]
    return own | {each.name: getattr(record, each.name) for record in records for each in fields(record)}
