"""What the provider shows: servers and snapshots. No input, no output, no clock."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

PROVIDER_LIMIT = 5
"""Snapshots a server may hold at VPS.org, whoever made them (the provider's published figure)."""

NO_SERVER = "none"
"""In place of an id: the machine that snaprotd runs on is no server of the account."""

SLOT_FORMAT = "%Y%m%dT%H%M%SZ"

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""A date before this is a placeholder (the year 1, the Unix epoch), not the day a snapshot was taken."""

DOUBT = 900.0
"""Seconds of whole lists for which one that has lost everything is not believed."""

LASTING = 300.0
"""Seconds after which a word for a snapshot is taken for more than a moment's: storage that cannot be reached shows
every snapshot on it as failed, and is back."""

DELETE_AGAIN_AFTER = timedelta(minutes=5)
"""How long after a deletion that did not show it is asked for again, at the least."""


class Owner(StrEnum):
    """Whose a snapshot is, told by its name and by our ledger: the provider knows no labels."""

    MANAGED = "managed"
    FOREIGN = "foreign"


class ServerState(StrEnum):
    """A provider's status words for a server, as the things they can mean to us."""

    RUNNING = "running"
    STOPPED = "stopped"
    RESTORING = "restoring"
    SUSPENDED = "suspended"
    BETWEEN = "between"
    """On its way from one to another, or in a state that we do not know."""


class SnapshotState(StrEnum):
    """A provider's status words for a snapshot, as the four things they can mean to us."""

    COMPLETED = "completed"
    IN_PROGRESS = "in_progress"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server as the provider shows it."""

    id: str
    """The id as text: the provider uses integers in one place and UUIDs in another, so it is opaque."""
    ref: int | str
    """An id exactly as the provider gave it, to be sent back: the one by which it was asked for, or its first."""
    name: str
    state: ServerState
    status: str
    """The provider's own word, to be shown."""
    hostname: str = ""
    """As the account has it, empty where it shows none; so is the address."""
    ip_address: str = ""
    also: tuple[int | str, ...] = ()
    """Its further ids, exactly as the provider gave them: it is one server by any of them."""
    beside: tuple[str, ...] = ()
    """What was shown as its ids too, and tells no server from another."""
    seen_at: float | None = field(default=None, compare=False)
    """When the request went out that shows it, by the clock of the process's loop."""

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.id, *map(str, self.also)) if self.also else (self.id,)

    @property
    def is_plain(self) -> bool:
        """It is shown with one id only, and called by that."""
        return not (self.also or self.beside) and self.id == str(self.ref)

    def called(self, server_id: str) -> Server:
        """The same server under another of its ids, which the provider may not show any more."""
        if server_id == self.id == str(self.ref) and server_id not in map(str, self.also):
            return self
        refs = {str(ref): ref for ref in self.refs}
        others = tuple(ref for text, ref in refs.items() if text != server_id)
        return replace(self, id=server_id, ref=refs.get(server_id, self.ref), also=others)

    @property
    def refs(self) -> tuple[int | str, ...]:
        """Its ids as the provider gave them, first the one that is to be sent back."""
        if not self.also:
            return (self.ref,)
        return tuple({str(ref): ref for ref in (self.ref, *self.also)}.values())

    @property
    def is_active(self) -> bool:
        return self.state is ServerState.RUNNING

    @property
    def is_stopped(self) -> bool:
        return self.state is ServerState.STOPPED

    @property
    def is_untouchable(self) -> bool:
        """Being restored, or suspended by the provider: nothing may be asked of it."""
        return self.state in (ServerState.RESTORING, ServerState.SUSPENDED)


def is_one_server(ids: Collection[str], others: Collection[str]) -> bool:
    """Whether these are ids of one server. They share one; and where both have one that is no number, one of those.

    A number may have been given to another server since; a text, such as a UUID, is not given twice.
    """
    texts = [{one for one in known if not one.isdigit()} for known in (ids, others)]
    return not set(ids).isdisjoint(others) and not (all(texts) and texts[0].isdisjoint(texts[1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A snapshot as the provider lists it."""

    id: str
    server_id: str
    server_name: str
    name: str
    state: SnapshotState
    status: str
    """The provider's own word, to be shown."""
    size_mb: int | None = None
    created_at: datetime | None = None
    """An instant with its zone, or None where the provider's text could not be read as one."""
    description: str = ""
    also: tuple[str, ...] = ()
    """Its further ids."""
    server_also: tuple[str, ...] = ()
    """Further ids of its server."""
    in_ledger: bool | None = None
    """Whether a row of our ledger names it. None where the ledger cannot know: its name is believed then."""
    was_completed: bool = False
    """An earlier list, or the ledger, knows it as completed, whatever it is shown as now."""
    hold: date | None = None
    """The last day, in UTC, for which the ledger tells that it is held; None where it tells nothing but its name."""
    listed_at: datetime | None = field(default=None, compare=False)
    """The provider's own time when it listed this one, where it has said so: our clock may be ahead."""
    resists: bool = False
    """The last rotation could not delete it, where whoever looks has asked the ledger for that."""
    seen_at: float | None = field(default=None, compare=False)
    """When the request went out that shows it, by the clock of the process's loop."""
    unchanged_for: float = field(default=0.0, compare=False)
    """Seconds for which whole lists have shown it in this state, where that is not completed. It is the same still."""

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.id, *self.also)

    def of_server(self, server_id: str) -> Snapshot:
        """The same, with that id for its server's."""
        return self if server_id == self.server_id else replace(self, server_id=server_id)

    def is_among(self, ids: Collection[str]) -> bool:
        """Whether it is named by one of its ids: a list may show it under another than the one before."""
        return self.id in ids or (bool(self.also) and any(one in ids for one in self.also))

    @property
    def is_completed(self) -> bool:
        return self.state is SnapshotState.COMPLETED

    @property
    def has_turned(self) -> bool:
        """It was completed once, and is shown as something else: it may be whole again at any moment."""
        has_ended = self.state in (SnapshotState.FAILED, SnapshotState.UNKNOWN)
        return not self.is_completed and (self.was_completed or (has_ended and bool(self.size_mb)))

    @property
    def is_failed_for_good(self) -> bool:
        """It restores nothing, and never did: not a moment's word for one that was completed."""
        return self.state is SnapshotState.FAILED and not self.has_turned and self.unchanged_for >= LASTING


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that snaprotd runs on, as it shows itself from inside: in a container, that may be very little."""

    names: tuple[str, ...] = ()
    """Its host name, with its domain or without."""
    addresses: tuple[str, ...] = ()
    own_server: str | None = None
    """What the configuration says of it: the id of its server, or `NO_SERVER`. It wins over all the rest."""

    def sign_in(self, server: Server) -> str:
        """By what `server` looks like this machine, such as `host name web-01`; empty where it does not."""
        if self.own_server is not None:
            return "own_server names it" if self.own_server in {*server.ids} - {NO_SERVER} else ""
        theirs = [_host_name(text) for text in (server.hostname, server.name)]
        for name in self.names:
            if any(_is_one_host(_host_name(name), their) for their in theirs):
                return f"host name {name}"
        address = _address(server.ip_address)
        return f"address {address}" if address and address in map(_address, self.addresses) else ""


def _host_name(text: str) -> list[str]:
    """The labels of a host's name; none where it would be the name of any machine, or is an address."""
    labels = text.strip().rstrip(".").lower().split(".")
    return [] if labels[0] == "localhost" or _address(text) or not all(labels) else labels


def _is_one_host(ours: list[str], theirs: list[str]) -> bool:
    """A name without its domain is that of each host whose first label it is; two whole names must be the same."""
    either_is_short = len(ours) == 1 or len(theirs) == 1
    return ours[:1] == theirs[:1] != [] and (either_is_short or ours == theirs)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address that can tell one machine from another; an IPv4 address in the form of IPv6 is what it stands for."""
    try:
        address = ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    means_any = address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
    return None if means_any else address
