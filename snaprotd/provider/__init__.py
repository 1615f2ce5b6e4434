"""A provider of servers: what the house may ask of one, what it can do, and what it does not tell for certain.

Everything outside this room knows a provider by this module alone; which one it is, only `wiring` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from snaprotd.core.errors import CloudError, Refused, Temporary
from snaprotd.core.model import Server, Snapshot
from snaprotd.provider.clock import OtherClock
from snaprotd.provider.identity import Identities
from snaprotd.provider.pacing import Priority as Priority
from snaprotd.provider.rate import RateInForce
from snaprotd.provider.series import Series as Series
from snaprotd.provider.token import TokenSource

Guard = Callable[[], None]
"""Is called right before the bytes of a changing request go out. What it raises stops the request."""


class Doubtful(Temporary):
    """An answer arrived, but what it does not show cannot be taken for absent: incomplete, or partly unreadable.

    `readable` are the entries that could be read. `about` are the servers that the doubt is limited to; None where
    it may be about any.
    """

    cause = "doubt"

    def __init__(self, message: str, *, readable: tuple[Any, ...] = (), about: frozenset[str] | None = None) -> None:
        super().__init__(message)
        self.readable = readable
        self.about = about


class Shifted(Doubtful):
    """A list of several pages has changed while it was read: what it does not show may have moved between two of them.

    `count` entries were there when the first page was read, at `began` by the provider's clock, where it tells.
    """

    def __init__(self, message: str, *, readable: tuple[Any, ...], count: int, began: datetime | None) -> None:
        super().__init__(message, readable=readable)
        self.count = count
        self.began = began


FEW_IN_DOUBT = 3
"""Servers whose lists may be in doubt before it is the account that is."""


def are_of_few(errors: Mapping[str, Exception], *, among: int) -> bool:
    """Whether these, by the ids of the servers whose lists were read, are some servers' own and not the account's."""
    are_doubts = all(isinstance(one, Doubtful) for one in errors.values())
    are_own = all(isinstance(one, CloudError) and not isinstance(one, Refused) for one in errors.values())
    return len(errors) <= FEW_IN_DOUBT and are_own and (are_doubts or len(errors) < among)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a provider can do, and within which limits."""

    snapshot_limit: int
    """Snapshots that a server may hold, whoever made them."""
    page_size: int
    """Entries on one page of a list: so many servers are asked for one by one at the price of one page."""
    power_words: frozenset[str]
    """The actions that `Provider.power` takes."""
    has_labels: bool = False
    """A snapshot can carry whose it is beside its name."""
    can_rename: bool = False
    """A snapshot's name can be changed after it was taken."""


@dataclass(frozen=True, kw_only=True)
class TokenOwner:
    """Whose token it is, and what it may do."""

    email: str
    token_name: str
    permissions: tuple[str, ...] | None
    """None where the provider shows none, or in a shape that we do not know."""


class Share(Protocol):
    """Have this process use so many requests a second of those that are configured; with 0 it asks what is urgent.

    `heard`: the part of theirs at which others ask that were just refused.
    """

    def __call__(self, rate: float, *, heard: float = 1.0) -> None: ...


class Provider(Protocol):
    """One account. Every error that leaves it is a `CloudError`, or the guard's own.

    `NotFound` is only the provider's own word. What a proxy on the way does not find proves nothing.

    What changes something raises `Busy` where it was not carried out for now, and may be asked again.

    A `guard` is called after every wait, and every few seconds while one lasts; what it raises reaches the caller as it
    is, and nothing is sent.

    Each request stands in a queue, in the class that its `priority` names; every start is a `START`.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def identities(self) -> Identities:
        """Which ids are one server's: what its answers have shown, and what it was told of before."""

    @property
    def clock(self) -> OtherClock:
        """What the dates of its answers say of ours."""

    @property
    def rate(self) -> RateInForce:
        """How fast it is asked now: as configured, or slower where it has refused requests."""

    def in_one_turn(self, requests: int, *, guard: Guard, priority: Priority) -> AbstractAsyncContextManager[Series]:
        """Wait for a turn for so many requests: what this task asks within goes out one after the other.

        `guard` is called now and then while the turn is waited for. A pause that the provider asks for ends it.
        """

    async def servers(self, *, priority: Priority = Priority.INVENTORY) -> list[Server]:
        """All servers of the account. Raises `Doubtful` where an entry cannot be read or the list is not complete."""

    async def server(self, server_id: str, *, priority: Priority = Priority.INVENTORY) -> Server:
        """The server that has this id among others. Raises `NotFound` where the account has it by none of them.

        Raises `Anothers` where the id is another server's by now.
        """

    async def snapshots(
        self, server_id: str | None = None, *, priority: Priority = Priority.INVENTORY
    ) -> list[Snapshot]:
        """The snapshots of one server, or of the whole account. Raises `Doubtful` as `servers` does."""

    async def create_snapshot(
        self, server: Server, name: str, description: str = "", *, guard: Guard, priority: Priority = Priority.INVENTORY
    ) -> Snapshot:
        """Ask for a snapshot; it is in progress when this returns.

        Raises `Unclear` where it may have been carried out, or may yet be. After every other error it was not:
        `Full` where the server may have no free slot.
        """

    async def delete_snapshot(self, snapshot_id: str, *, guard: Guard, before: Guard | None = None) -> None:
        """A snapshot that does not exist is success. `before`: as `guard`, until its bytes have gone out once."""

    async def power(self, server: Server, action: str, *, guard: Guard) -> None:
        """Ask for one of `Capabilities.power_words`. Whether it has happened shows in the server's state."""

    async def restore_snapshot(self, snapshot_id: str, *, guard: Guard) -> None:
        """Overwrite the server with the snapshot."""

    async def token_owner(self, *, priority: Priority = Priority.INVENTORY) -> TokenOwner:
        """Whose token it is. Any token that works can ask this."""

    def adjust(self, *, token: TokenSource, requests_per_second: float, timeout: float) -> None:
        """Go on with other settings. Requests in flight end under the old ones."""

    @property
    def share(self) -> Share: ...

    async def aclose(self) -> None:
        """Close the connections; nothing can be asked any more."""


class RequestObserver(Protocol):
    """Who is told of every request: the metrics."""

    def request(self, method: str, endpoint: str, code: str, seconds: float) -> None:
        """One attempt. `code` is the HTTP status, or `timeout`, `connection` or `unreadable` where there was none."""

    def retry(self, reason: str) -> None:
        """A further attempt begins, because the last one ended with this `code`."""

    def throttled(self, seconds: float) -> None:
        """A request was held back by our own pacing, or by the provider's 429."""

    def auth_failure(self) -> None:
        """The provider did not accept the token."""


class NullObserver:
    """For the commands, which keep no metrics."""

    def request(self, method: str, endpoint: str, code: str, seconds: float) -> None: ...

    def retry(self, reason: str) -> None: ...

    def throttled(self, seconds: float) -> None: ...

    def auth_failure(self) -> None: ...
