"""Policy keys come in layers, `defaults` under a policy under the server's own: laying them, and checking the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from datetime import timedelta
from itertools import islice
from typing import Any, cast

from snaprotd.config.channels import lacking, mistakes_in_channels
from snaprotd.config.mistakes import Findings, keep_expected, nearest
from snaprotd.config.shape import LARGEST_LIMIT, FileKeys, PolicyKeys, RetentionKeys, ServerKeys
from snaprotd.config.text.document import KeyPath
from snaprotd.core.model import PROVIDER_LIMIT
from snaprotd.core.policy import Policy, Retention
from snaprotd.core.schedule import (
    DEFAULT_TIMEZONE,
    Schedule,
    ScheduleError,
    begins_in_its_window,
    spread_delay,
)
from snaprotd.core.words import duration

MOST_NAMED = 20
"""Policies that are named where an unknown one is."""

IDENTITY = frozenset(ServerKeys.__annotations__) - frozenset(PolicyKeys.__annotations__)
"""The keys of a server that are no policy keys: which one it is, and the policy that it names."""

Layer = tuple[KeyPath, PolicyKeys]
"""Where a mapping of policy keys stands, and the mapping."""


def layers_of(keys: FileKeys, path: KeyPath, own: PolicyKeys) -> tuple[Layer, ...]:
    """The layers of a policy or a server, the lowest first."""
    layers: list[Layer] = [(("defaults",), keys.get("defaults", {}))]
    policy: Any = own.get("policy")
    if policy is not None:
        layers.append((("policies", policy), keys.get("policies", {}).get(policy, {})))
    return (*layers, (path, own))


def merged_layers(layers: Sequence[Layer]) -> dict[str, tuple[Any, KeyPath]]:
    """Each policy key with its value and the layer that gave it."""
    return {
        key: (value, path)
        for path, layer in layers
        for key, value in layer.items()
        if key in PolicyKeys.__annotations__
    }


def retention_of(keep: int | RetentionKeys) -> Retention:
    return Retention(last=keep) if isinstance(keep, int) else Retention(**keep)


def texts_of(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def schedule_of(given: dict[str, Any]) -> Schedule:
    """Take out of a policy's keys those that its schedule is made of."""
    timezone, window = given.pop("timezone", DEFAULT_TIMEZONE), given.pop("window", ())
    return Schedule(expressions=given.pop("schedule"), timezone=timezone, window=window)


def defaults_of(record: type) -> dict[str, Any]:
    """The default of each field of a dataclass that has one."""
    defaults = {}
    for each in fields(record):
        if each.default_factory is not MISSING:
            defaults[each.name] = each.default_factory()
        elif each.default is not MISSING:
            defaults[each.name] = each.default
    return defaults


# --- Checks of the whole -----------------------------------------------------------------------------------------


def check_layers(keys: FileKeys, findings: Findings) -> None:
    """Find what is wrong with the file as a whole, though each value by itself is sound."""
    servers = keys.get("servers", [])
    if not servers and findings.trusts("servers"):
        findings.add(("servers",), "no server: list at least one, as in `servers: [{id: 12345, policy: nightly}]`")
    for index, own in enumerate(servers):
        if findings.trusts("servers", index):
            _check_identity(("servers", index), own, findings)
            _check_policy(("servers", index), own, keys, findings)
    _check_twice(servers, findings)
    _check_keep(keys, findings)
    _check_default_keep(keys, findings)
    _check_schedules(keys, findings)


def check_channels(keys: FileKeys, findings: Findings) -> None:
    """Find what is wrong with who is told, though each value by itself is sound."""
    pings = [((*path, "ping"), layer["ping"]) for path, layer in _all_layers(keys) if "ping" in layer]
    heartbeat = [(("heartbeat",), keys["heartbeat"])] if "heartbeat" in keys else []
    found = [*mistakes_in_channels(keys.get("notify", []))]
    for path, given in (*pings, *heartbeat):
        found += lacking(path, given, ["url_file"])
    for path, message in found:
        if findings.trusts(*path):
            findings.add(path, message)


def _check_identity(path: KeyPath, own: Mapping[str, Any], findings: Findings) -> None:
    if "id" in own and "match" in own:
        findings.add(path, "has both `id` and `match`: make two entries of it")
    elif "name" in own and "match" in own:
        findings.add((*path, "name"), "not allowed with `match`: those servers go by their names in the account")
    elif not ({"id", "match"} & own.keys()) and findings.trusts(*path, "id") and findings.trusts(*path, "match"):
        findings.add(path, 'needs an `id`, such as 12345, or a `match`, such as "web-*"')


def _check_policy(path: KeyPath, own: Mapping[str, Any], keys: FileKeys, findings: Findings) -> None:
    policy, policies = own.get("policy"), keys.get("policies", {})
    if policy is None or policy in policies or not findings.trusts("policies", policy):
        return
    meant = None if findings.is_full else nearest(policy, policies)
    some = ", ".join(islice(policies, MOST_NAMED)) + (", ..." if len(policies) > MOST_NAMED else "")
    there = f" (there are: {some})" if policies else ": there are no `policies` in this file"
    hint = f", did you mean `{meant}`?" if meant else ""
    findings.add((*path, "policy"), f"unknown policy `{policy}`{hint}{there}")


def _check_twice(servers: Sequence[Mapping[str, Any]], findings: Findings) -> None:
    """No server, label or pattern may stand there twice, and no label may be the id of another server."""
    for key, what in (("id", "server"), ("name", "name"), ("match", "pattern")):
        seen: dict[str, int] = {}
        for index, own in enumerate(servers):
            if key in own and seen.setdefault(own[key], index) != index:
                findings.add(("servers", index, key), f"the same {what} as servers[{seen[own[key]]}]: `{own[key]}`")
    ids = {own["id"]: index for index, own in enumerate(servers) if "id" in own}
    for index, own in enumerate(servers):
        if ids.get(own.get("name", ""), index) != index:
            message = f"`{own['name']}` is the id of servers[{ids[own['name']]}]: take another name"
            findings.add(("servers", index, "name"), message)


def _all_layers(keys: FileKeys) -> Iterator[Layer]:
    yield ("defaults",), keys.get("defaults", {})
    yield from ((("policies", name), layer) for name, layer in keys.get("policies", {}).items())
    yield from ((("servers", index), own) for index, own in enumerate(keys.get("servers", [])))


def _check_keep(keys: FileKeys, findings: Findings) -> None:
    limit = keys.get("limit", PROVIDER_LIMIT) if findings.trusts("limit") else LARGEST_LIMIT
    for path, layer in _all_layers(keys):
        if "keep" not in layer:
            continue
        keep = layer["keep"]
        total = retention_of(keep).total
        if total > limit - 1 and isinstance(keep, int):
            findings.add((*path, "keep"), f"{keep_expected(limit)}, not `{keep}`: one slot stays free")
        elif total > limit - 1:
            most = f"{limit - 1} at most may be kept (`limit` less 1): one slot stays free"
            findings.add((*path, "keep"), f"the counts add up to {total}, but {most}")
        elif total == 0:
            findings.add((*path, "keep"), "keeps nothing: at least one count must be 1 or more")


def _check_default_keep(keys: FileKeys, findings: Findings) -> None:
    """A lower `limit` may leave no room for what is kept where the file does not say how much."""
    default, limit = defaults_of(Policy)["keep"].total, keys.get("limit", PROVIDER_LIMIT)
    if default < limit or not findings.trusts("limit"):
        return
    for path, layer in _all_layers(keys):
        layers = layers_of(keys, path, layer)
        trusted = all(findings.trusts(*place, "keep") for place, _ in layers)
        if path[0] == "servers" and trusted and "keep" not in merged_layers(layers):
            message = (
                f"leaves no room for the default `keep` of {default}: set `keep` in `defaults`, {limit - 1} at most"
            )
            findings.add(("limit",), message)
            return


def _check_schedules(keys: FileKeys, findings: Findings) -> None:
    """Find the schedules that cannot be read, and those of which their window leaves nothing."""
    read: dict[tuple[KeyPath, str], Schedule | None] = {}
    settled: set[str | None] = set()
    """Policies with which a server without policy keys of its own has nothing to be found wrong."""
    for path, layer in _all_layers(keys):
        is_plain = path[0] == "servers" and layer.keys() <= IDENTITY
        if is_plain and layer.get("policy") in settled:
            continue
        layers = layers_of(keys, path, layer)
        merged = merged_layers(layers)
        if "schedule" not in merged:
            if path[0] == "servers" and all(findings.trusts(*place, "schedule") for place, _ in layers):
                _miss_schedule(path, layer, findings)
            continue
        schedule, origin = merged["schedule"]
        timezone, _ = merged.get("timezone", (DEFAULT_TIMEZONE, ()))
        if (origin, timezone) not in read:
            read[origin, timezone] = _read_schedule((*origin, "schedule"), schedule, timezone, findings)
        if is_plain and "window" not in merged:
            settled.add(cast("str | None", layer.get("policy")))
        if path[0] == "servers" and (sound := read[origin, timezone]) is not None and "window" in merged:
            _check_window(path, layer, sound, merged, findings)


def _miss_schedule(path: KeyPath, own: Mapping[str, Any], findings: Findings) -> None:
    if findings.trusts(*path, "policy"):
        findings.add((*path, "schedule"), "missing: give it here, in the server's policy or in `defaults`")


def _read_schedule(path: KeyPath, schedule: str | list[str], timezone: str, findings: Findings) -> Schedule | None:
    """The schedule that is written there; None where one of its expressions is a mistake."""
    are_sound = True
    for index, text in enumerate(texts_of(schedule)):
        try:
            Schedule.parse((text,), timezone)
        except ScheduleError as error:
            are_sound = False
            findings.add(path if isinstance(schedule, str) else (*path, index), str(error))
    return Schedule(expressions=texts_of(schedule), timezone=timezone) if are_sound else None


def _check_window(
    path: KeyPath,
    own: Mapping[str, Any],
    schedule: Schedule,
    merged: Mapping[str, tuple[Any, KeyPath]],
    findings: Findings,
) -> None:
    """The server is to have slots in its window, and to begin there by its own share of `spread`."""
    window, origin = merged["window"]
    schedule = replace(schedule, window=texts_of(window))
    if not begins_in_its_window(schedule):
        written = " | ".join(schedule.expressions)
        findings.add((*origin, "window"), f"no slot of the schedule `{written}` lies in it: nothing would ever run")
        return
    delay = spread_delay(own["id"], merged["spread"][0]) if "id" in own and "spread" in merged else timedelta(0)
    if not begins_in_its_window(schedule, delay):
        after = f"this server begins {duration(delay.total_seconds())} after each slot"
        findings.add((*path, "id"), f"by its share of `spread` {after}, outside its window: it would never run")
