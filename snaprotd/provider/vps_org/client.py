"""What can be asked of VPS.org: its calls, its lists page by page, its errors in our words.

A request that only reads, or that may be carried out twice (GET, DELETE), is repeated here, and nowhere else. A POST
is never repeated: where its answer is lost the caller gets `Unclear`, looks, and decides.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

import httpx
import structlog

from snaprotd.core.errors import Busy, CloudError, HeldBack, NotFound, Refused, Temporary, told_in_log
from snaprotd.core.model import PROVIDER_LIMIT, Server, Snapshot
from snaprotd.logs import redactor
from snaprotd.provider import Capabilities, Doubtful, Guard, NullObserver, Priority, RequestObserver, TokenOwner
from snaprotd.provider.clock import OtherClock
from snaprotd.provider.identity import Identities
from snaprotd.provider.rate import RateInForce
from snaprotd.provider.token import TokenSource
from snaprotd.provider.vps_org import answers, refusals
from snaprotd.provider.vps_org.body import UnreadableError, read_json, said
from snaprotd.provider.vps_org.calls import SNAPSHOTS, Call, Line, Reply, Transport
from snaprotd.provider.vps_org.one_server import Incomplete, Listed, OneServer, answered, because, by_any_id

MAX_PAGES = 1000
MAX_LIST = 64 * 1024 * 1024
"""Bytes of all pages together."""
ATTEMPTS = 4
SHORTEST_PAUSE, LONGEST_PAUSE, JITTER = 0.5, 8.0, 1.0
"""Seconds between two attempts: the first and doubled each time, the most, and what chance adds."""
RETRY_FOR = 45.0
"""Seconds after which no further attempt of one request begins."""
LONGEST_RETRY_AFTER = 60.0
"""Seconds that one call waits between attempts; what is to wait longer is the caller's to plan."""

CAPABILITIES = Capabilities(
    snapshot_limit=PROVIDER_LIMIT,
    page_size=100,
    power_words=frozenset({"start", "stop", "restart", "hard_stop"}),
)

T = TypeVar("T")

log = structlog.get_logger("snaprotd.provider")


class VpsOrg:
    """An account at VPS.org: a `Provider`."""

    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        base_url: str,
        token: TokenSource,
        requests_per_second: float = 5.0,
        timeout: float = 30.0,
        attempts: int = ATTEMPTS,
        observer: RequestObserver | None = None,
        transport: Transport | None = None,
    ) -> None:
        """`timeout` is for one whole attempt in seconds, the body included; `attempts` are for what may be repeated."""
        self._base = httpx.URL(base_url.rstrip("/"))
        self._token = token
        redactor.hide(token.secrets)
        self._attempts = attempts
        self._observer: RequestObserver = observer or NullObserver()
        self.identities = Identities()
        self._one = OneServer(self.identities, self._server, self.servers, self._snapshots)
        self._line = Line(
            self._base,
            requests_per_second=requests_per_second,
            timeout=timeout,
            observer=self._observer,
            transport=transport,
        )
        self.in_one_turn, self.share = self._line.in_one_turn, self._line.share

    @property
    def clock(self) -> OtherClock:
        return self._line.clock

    @property
    def rate(self) -> RateInForce:
        return self._line.rate

    async def __aenter__(self) -> VpsOrg:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._line.aclose()

    def adjust(self, *, token: TokenSource, requests_per_second: float, timeout: float) -> None:
        """Go on with other settings. Requests in flight end under the old ones."""
        self._token = token
        redactor.hide(token.secrets)
        self._line.adjust(requests_per_second=requests_per_second, timeout=timeout)

    # -- what can be asked ---------------------------------------------------------------------------------------

    async def servers(self, *, priority: Priority = Priority.INVENTORY) -> list[Server]:
        """All servers of the account. Raises `Doubtful` where an entry cannot be read or the list is not complete."""
        servers, doubts, complaint = await self._list(
            "/servers/", {}, lambda entry, call: answers.read_server(entry, seen_at=call.sent_at), priority=priority
        )
        self.identities.learn_listed(servers)
        await asyncio.sleep(0)  # of thousands this takes a while, and so does what is made of them
        if doubts or complaint:
            raise Doubtful(because("the list of servers", doubts, complaint), readable=tuple(servers))
        return servers

    async def server(self, server_id: str, *, priority: Priority = Priority.INVENTORY) -> Server:
        """The server, asked for by any of its ids. Raises `NotFound` where the account has it by none.

        Raises `Anothers` where the id is another server's by now.
        """
        return await self._one.server(server_id, priority=priority)

    async def _server(self, server_id: str, *, priority: Priority) -> Server:
        call = self._call("GET", "/servers/{id}/", server_id, priority=priority)
        known_as = self.identities.of(server_id)

        def read(body: Any) -> Server:
            return answers.read_server(body, asked=server_id, known_as=known_as, seen_at=call.sent_at)

        return await self._retried(call, read)

    async def snapshots(
        self, server_id: str | None = None, *, priority: Priority = Priority.INVENTORY
    ) -> list[Snapshot]:
        """The snapshots of one server, or of the whole account. Raises `Doubtful` as `servers` does."""
        if server_id is None:
            return answered(await self._snapshots(None, asked=None, priority=priority), "the list of snapshots")
        listed = await self._one.snapshots(_checked(server_id), priority=priority)
        return answered(listed, f"the list of server {server_id}'s snapshots")

    async def create_snapshot(
        self, server: Server, name: str, description: str = "", *, guard: Guard, priority: Priority = Priority.INVENTORY
    ) -> Snapshot:
        """Ask for a snapshot; it is in progress when this returns.

        Raises `Unclear` where it may have been carried out, or may yet be. After every other error it was not.
        """

        def create(ref: int | str) -> Awaitable[Snapshot]:
            body = {"server_id": ref, "name": name, "description": description}
            call = self._call("POST", SNAPSHOTS, body=body, guard=guard, priority=priority)
            return self._once(call, lambda answer: answers.read_created(answer, server, name))

        return await by_any_id(server, create)

    async def delete_snapshot(self, snapshot_id: str, *, guard: Guard, before: Guard | None = None) -> None:
        """A snapshot that does not exist is success. `before`: as `guard`, until its bytes have gone out once."""
        call = self._call("DELETE", "/snapshots/{id}/", snapshot_id, guard=guard, priority=Priority.ACTION)
        call.before = before
        try:
            await self._retried(call, lambda _: None)
        except NotFound:
            return

    async def power(self, server: Server, action: str, *, guard: Guard) -> None:
        """Ask for `start`, `stop`, `restart` or `hard_stop`. Whether it has happened shows in the server's status.

        A start goes before all else.
        """

        def switch(ref: int | str) -> Awaitable[None]:
            body, priority = {"action": action}, Priority.START if action == "start" else Priority.ACTION
            call = self._call("POST", "/servers/{id}/power/", str(ref), body=body, guard=guard, priority=priority)
            return self._once(call, lambda _: None)

        await by_any_id(server, switch)

    async def restore_snapshot(self, snapshot_id: str, *, guard: Guard) -> None:
        """Overwrite the server with the snapshot."""
        call = self._call("POST", "/snapshots/{id}/restore/", snapshot_id, body={}, guard=guard)
        await self._once(call, lambda _: None)

    async def token_owner(self, *, priority: Priority = Priority.INVENTORY) -> TokenOwner:
        """Whose token it is. Any token that works can ask this."""
        return await self._retried(self._call("GET", "/account/me/", priority=priority), answers.read_token_owner)

    # -- lists ---------------------------------------------------------------------------------------------------

    async def _snapshots(self, by: str | None, *, asked: str | None, priority: Priority) -> Listed[Snapshot]:
        query = {} if by is None else {"server_id": by}

        def read(entry: Any, call: Call) -> Snapshot:
            return answers.read_snapshot(entry, asked=asked, listed_at=call.dated, seen_at=call.sent_at)

        return await self._list(SNAPSHOTS, query, read, priority=priority)

    async def _list(
        self, endpoint: str, query: dict[str, str], read: Callable[[Any, Call], T], *, priority: Priority
    ) -> Listed[T]:
        """All entries of a list by their ids, the entries that could not be read, and why the list is not complete.

        `read` is given each entry, and the call that was answered with it.
        """
        entries: dict[str, T] = {}
        doubts: list[UnreadableError] = []
        counts: list[object] = []
        dates: list[datetime | None] = []
        async for page, call in self._pages(endpoint, query, priority=priority):
            dates.append(call.dated)
            counts += [page.count] if page.has_count else []
            for entry in page.entries:
                try:
                    one = read(entry, call)
                except UnreadableError as error:
                    doubts.append(error)
                else:
                    # An entry can come twice when the list shifts between two pages; another was then left out,
                    # which shows in the count.
                    entries.setdefault(one.id, one)  # type: ignore[attr-defined]
            if len(entries) + len(doubts) > answers.MOST_ENTRIES:
                raise Doubtful(f"the list at {endpoint} is incomplete: it has more than {answers.MOST_ENTRIES} entries")
        gathered = len(entries) + len(doubts)
        wrong = [count for count in counts if count != gathered]
        if not wrong:
            return list(entries.values()), doubts, None
        first = counts[0] if len(counts) == len(dates) > 1 and type(counts[0]) is int else None
        words = f"it is incomplete, {gathered} of {said(str(wrong[0]))} entries"
        return list(entries.values()), doubts, Incomplete(words=words, count=first, began=dates[0])

    async def _pages(
        self, endpoint: str, query: dict[str, str], *, priority: Priority
    ) -> AsyncIterator[tuple[answers.Page, Call]]:
        """The pages of a list, each with its call, following `next` wherever it appears.

        But never to another place with the token.
        """
        call = self._call("GET", endpoint, priority=priority)
        call.url = call.url.copy_merge_params({**query, "page_size": str(CAPABILITIES.page_size)})
        seen: set[httpx.URL] = set()
        size = 0
        while call.url not in seen and len(seen) < MAX_PAGES and size <= MAX_LIST:
            seen.add(call.url)
            try:
                page = await self._retried(call, answers.read_page)
            except NotFound:
                if len(seen) == 1:
                    raise
                # It has become so short meanwhile that it has no such page any more, and counts what was there before.
                yield answers.Page(entries=[], next=None, has_count=True, count="more"), call
                return
            size += call.size
            yield page, call
            if page.next is None:
                return
            call = self._call("GET", endpoint, priority=priority)
            call.url = answers.followed(call.url, page.next, base=self._base)
        raise Doubtful(f"the list at {endpoint} is incomplete: its pages go round in a circle or never end")

    # -- one request ---------------------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        endpoint: str,
        ref: str | None = None,
        *,
        body: dict[str, Any] | None = None,
        guard: Guard | None = None,
        priority: Priority = Priority.INVENTORY,
    ) -> Call:
        path = endpoint if ref is None else endpoint.replace("{id}", _checked(ref))
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        return Call(method=method, endpoint=endpoint, url=url, ref=ref, body=body, guard=guard, priority=priority)

    async def _retried(self, call: Call, read: Callable[[Any], T]) -> T:
        """Ask until there is an answer; only for what may be carried out twice."""
        loop = asyncio.get_running_loop()
        began, attempt = loop.time(), 1
        while True:
            try:
                return await self._once(call, read)
            except Temporary as error:
                if error is call.refused:
                    raise
                pause = _pause_after(error, attempt, urgent=call.priority.is_urgent)
                if attempt >= self._attempts or pause is None or loop.time() - began >= RETRY_FOR:
                    raise
            await asyncio.sleep(pause)
            attempt += 1
            self._observer.retry(call.code)

    async def _once(self, call: Call, read: Callable[[Any], T]) -> T:
        """Ask, and read the answer. A 401 means that nothing was carried out: a token that was rotated gets a turn."""
        token = self._token.get()
        reply = await self._line.exchange(call, token)
        if reply.status == 401:
            self._token.refresh()
            if self._token.get() != token:
                token = self._token.get()
                reply = await self._line.exchange(call, token)
        try:
            if not 200 <= reply.status <= 299:
                raise self._refusal(call, reply)
            # Only what changes something may answer without a word, as 204 does.
            empty = call.changes and not reply.body.strip()
            return read(None if empty else read_json(reply.body))
        except CloudError:
            raise
        except Exception as error:
            call.code, why = "unreadable", str(error)
            if not isinstance(error, UnreadableError):  # a mistake of ours is not to be worse than an answer's
                log.exception("internal error", call=str(call))
                why = told_in_log(error)
            raise call.lost(f"the answer to {call} ({reply.status}) cannot be read: {why}") from error

    def _refusal(self, call: Call, reply: Reply) -> CloudError:
        """The word for an answer that is not 2xx."""
        message = refusals.message_of(call, reply, self._base.host)
        if reply.status not in (401, 403):
            return refusals.without_token(call, reply, message)
        self._observer.auth_failure()
        of = f"the token of {self._token.origin} is not accepted"
        return Refused(f"{message} ({of if reply.status == 401 else 'the token lacks the permission'})")


def _checked(ref: str) -> str:
    """An id that can stand in a URL: one path segment, and not a step up in the path."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]*", ref):
        return ref
    raise NotFound(f"{said(repr(ref))} is not an id of the provider's")


def _pause_after(error: Temporary, attempt: int, *, urgent: bool) -> float | None:
    """Seconds until the next attempt; None where the next one is the caller's to plan, or the queue's."""
    if isinstance(error, Busy | HeldBack):
        return None
    if error.retry_after is None or urgent:
        jitter = random.uniform(0, JITTER)  # noqa: S311 - nothing secret
        return min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** (attempt - 1) + jitter)
    return max(SHORTEST_PAUSE, error.retry_after) if error.retry_after <= LONGEST_RETRY_AFTER else None
