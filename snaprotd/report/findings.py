"""What `check --online` finds: the token, every server and its slots, what a configuration leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from snaprotd.config.settings import Config, ServerEntry, Target
from snaprotd.core.holds import SURELY_SHORT, longest_name
from snaprotd.core.model import NO_SERVER, PROVIDER_LIMIT, Machine, Server
from snaprotd.core.room import make_room
from snaprotd.core.schedule import share_in_window, spread_delay
from snaprotd.core.words import free_slots
from snaprotd.provider.identity import by_any_id
from snaprotd.provider.inventory import ServerHoldings
from snaprotd.report.assessment import assess
from snaprotd.report.rows import blocked_words

READING = frozenset({"read", "read_only", "read-only", "readonly"})
"""Permissions that change nothing. The provider does not publish its words; what is not known is taken for enough."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `check --online`."""

    ok: bool
    text: str
    note: bool = False
    """Worth knowing, and nothing wrong."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The account as it was listed, beside the configuration."""

    config: Config
    targets: Sequence[Target]
    servers: Mapping[str, Server]
    """All that the account has, by id."""
    known: Mapping[str, ServerHoldings]
    doubt: str | None
    """What of the list cannot be relied on."""
    in_doubt: Mapping[str, str]
    """The servers whose own lists cannot be relied on, and why."""
    now: datetime
    machine: Machine
    """The one that asks: hardly another than the daemon's."""
    published_limit: int = PROVIDER_LIMIT
    """Snapshots of one server that the provider allows, as it says itself."""


def remarks_on_policies(entries: Sequence[ServerEntry]) -> list[str]:
    """What somebody should know of policies that are sound, each thing once."""
    return list(dict.fromkeys(remark for entry in entries for remark in (*_on_window(entry), *_on_group(entry))))


def remarks_on_names(config: Config) -> list[str]:
    """Where names get longer than any that a provider is known to take."""
    held = any(entry.policy.hold_manual for entry in config.entries)
    longest = longest_name(config.instance, held=held)
    if longest <= SURELY_SHORT:
        return []
    what = "what `snaprotd now` takes" if held else "snapshots"
    text = f"the names of {what} have {longest} characters with it: a provider may refuse more than {SURELY_SHORT}"
    return [f"instance: {text}"]


def _on_group(entry: ServerEntry) -> Iterator[str]:
    if entry.policy.one_at_a_time and not entry.policy.stop_first:
        yield f"{entry.origins['one_at_a_time']}.one_at_a_time: has no effect where `stop_first` is false"


def _on_window(entry: ServerEntry) -> Iterator[str]:
    """Slots that are not run because they lie outside it."""
    schedule = entry.policy.schedule
    if not schedule.window:
        return
    origin, written = entry.origins["window"], " | ".join(schedule.expressions)
    share = share_in_window(schedule, _longest_delay(entry))
    if outside := share.slots - share.inside:
        text = f"{outside} of {share.slots} slots of `{written}` in 400 days lie outside it: they are not run"
        yield f"{origin}.window: {text}"
    if late := share.inside - share.begun:
        whose = f"{entry.name or entry.key} begins" if entry.key else "some servers may begin"
        text = f"{whose} after it has closed, {late} times in 400 days, by `spread`: those slots are not run"
        yield f"{origin}.window: {text}"


def _longest_delay(entry: ServerEntry) -> timedelta:
    """After its slot, as far as it is known which server it is."""
    return spread_delay(entry.key, entry.policy.spread) if entry.key else entry.policy.spread


def findings_of(found: Found) -> Iterator[Finding]:
    """Every server that is configured, and what the configuration leaves out or names in vain."""
    yield from _limit(found)
    if found.doubt:
        yield Finding(ok=False, text=found.doubt)
    else:
        yield from _unmatched(found)
        yield from _own_server(found)
    yield from _named_twice(found)
    for target in found.targets:
        yield _of_target(found, target)
        yield from _notes_on(found, target)
        yield from _names_on(found, target)
    yield from _uncovered(found)


def token_finding(*, name: str, email: str, permissions: Sequence[str] | None) -> Finding:
    """`permissions` is None where the provider shows none, or in a shape that is not known."""
    words = {word.rpartition(":")[2].strip() for word in permissions or ()}
    may_change = not words or not words <= READING
    shown = ", ".join(permissions) if permissions is not None else "not told"
    lacking = "" if may_change else "; that is not enough to take snapshots, or to stop and start servers"
    return Finding(ok=may_change, text=f"token {name} of {email}; permissions: {shown}{lacking}")


def _unmatched(found: Found) -> Iterator[Finding]:
    """A pattern that names no server is no mistake in the file, but hardly what was meant."""
    used = {id(target.entry) for target in found.targets}
    for entry in found.config.entries:
        if entry.match is not None and id(entry) not in used:
            yield Finding(ok=False, text=f"match {entry.match}: no server of the account has such a name")


def _limit(found: Found) -> Iterator[Finding]:
    """Each rotation beyond the provider's own limit would fail, with a stop and a start for nothing."""
    most, limit = found.published_limit, found.config.limit
    if limit > most and all(len(held.snapshots) <= most for held in found.known.values()):
        text = f"limit: {limit} is more than the {most} snapshots that the provider allows: one beyond them is refused"
        yield Finding(ok=False, text=text)


def _own_server(found: Found) -> Iterator[Finding]:
    """A wrong id would leave the machine without its protection."""
    named = found.config.own_server
    if named is not None and named != NO_SERVER and named not in by_any_id(found.servers.values()):
        yield Finding(ok=False, text=f"own_server: the account has no server {named}")


def _named_twice(found: Found) -> Iterator[Finding]:
    """Two ids in the file may be one server's, which only the account can tell."""
    for server in found.servers.values():
        for other in found.config.server_ids.intersection(server.ids) - {server.id}:
            text = f"{other} is another id of server {server.id}, which is configured too: its entry is left out"
            yield Finding(ok=False, text=text)


def _notes_on(found: Found, target: Target) -> Iterator[Finding]:
    server = found.servers.get(target.server_id)
    sign = found.machine.sign_in(server) if server else ""
    if sign and not target.policy.stop_first:
        text = (
            f"{target.label}: this looks like the machine that snaprotd runs on ({sign}); its policy does not stop it"
        )
        yield Finding(ok=True, note=True, text=text)


def _names_on(found: Found, target: Target) -> Iterator[Finding]:
    held = found.known.get(target.server_id)
    if held is not None and (names := assess(found.config, target, held, found.now).strange_names):
        yield Finding(ok=False, text=f"{target.label}: {names}")


def _of_target(found: Found, target: Target) -> Finding:
    config, server, held = found.config, found.servers.get(target.server_id), found.known.get(target.server_id)
    if server is None:
        text = "not in what could be read" if found.doubt else f"the account has no server {target.server_id}"
        return Finding(ok=False, text=f"{target.label}: {text}")
    if (doubt := found.in_doubt.get(target.server_id)) is not None:
        return Finding(ok=False, text=f"{target.label}: {server.name} is {server.status}; {doubt}")
    if held is None:
        return Finding(ok=False, text=f"{target.label}: {server.name} is {server.status}, its snapshots are not known")
    room = make_room(held.snapshots, config.rules_of(target), now=found.now)
    slots = free_slots(len(held.snapshots), config.limit)
    text = f"{target.label}: {server.name} is {server.status}, {slots}"
    blocked = blocked_words(room, target.policy, server, found.machine)
    return Finding(ok=not blocked, text=f"{text}; {blocked}" if blocked else text)


def _uncovered(found: Found) -> Iterator[Finding]:
    covered = {target.server_id for target in found.targets}
    for one in found.servers.values():
        if one.id not in covered:
            text = f"{one.name} ({one.id}) is in no entry: no snapshots are taken of it"
            yield Finding(ok=True, note=True, text=text)
