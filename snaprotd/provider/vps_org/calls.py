"""One request to VPS.org: signed, sent in its turn, within its time, and only while the guard allows it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from snaprotd import __version__
from snaprotd.core.errors import Accepted, NotSent, Temporary, Unclear
from snaprotd.core.model import EARLIEST
from snaprotd.provider import Guard, Priority, RequestObserver
from snaprotd.provider.apart import About
from snaprotd.provider.clock import OtherClock
from snaprotd.provider.pacing import Pace
from snaprotd.provider.rate import RateInForce
from snaprotd.provider.series import Series
from snaprotd.provider.vps_org import answers
from snaprotd.provider.vps_org.body import MAX_BODY, UnreadableError, said
from snaprotd.way import Proxy, proxy_to, trusted

SNAPSHOTS = "/snapshots/"
_NOTHING_MORE = httpx.ByteStream(b"")
MAX_CONCURRENT = 20
CONNECT_SHARE = 3
"""The part of a time-out that each of connecting and the TLS handshake may take: a third."""
NOT_WORTH_TELLING = 0.001
"""Seconds that a request without any waiting takes to get its turn."""

MOST_PIECES, AT_ONCE = 20_000, 100
"""Chunks of one body, which is 800 bytes of the largest for each; and how many of them before others have a turn."""

OF_AN_ANSWER = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict, OSError, ValueError)
"""What an attempt ends with that was not answered as it should be. Not all that httpx makes of a header is its own."""

Transport = httpx.AsyncBaseTransport
"""How bytes reach the provider; another one stands in where there is no network."""


@dataclass(kw_only=True)
class Call:
    """One request, and what became of its latest attempt."""

    method: str
    endpoint: str
    url: httpx.URL
    ref: str | None = None
    """The id in its path."""
    body: dict[str, Any] | None = None
    guard: Guard | None = None
    before: Guard | None = None
    """Is asked as well, until an attempt has gone out: another one is the same request."""
    has_gone_out: bool = False
    sent_at: float | None = None
    """When the latest attempt went out, by the loop's clock."""
    priority: Priority = Priority.INVENTORY
    code: str = ""
    traced: bool = False
    tunnelled: bool = False
    """A proxy was reached, and asked for the way."""
    sent: bool = False
    status: int = 0
    """Of the answer, as soon as it begins to arrive."""
    size: int = 0
    """Bytes of its body."""
    dated: datetime | None = None
    """When it was given, by the provider's own clock."""
    refused: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.method} {said(self.url.path)}"  # which may be the next page's, as the provider wrote it

    @property
    def about(self) -> About:
        """By what it may be refused while others are answered."""
        body = self.body or {}
        action, server = body.get("action", ""), body.get("server_id") or self.url.params.get("server_id")
        words = f"{self} ({action})" if action else f"{self} of server {server}" if server else str(self)
        return About(kind=f"{self.method} {self.endpoint} {action}", subject=self._subject(server), words=words)

    def _subject(self, server: object) -> str:
        if server:
            return f"server {server}"
        return f"{self.endpoint.split('/')[1].removesuffix('s')} {self.ref}" if self.ref else "*"

    @property
    def changes(self) -> bool:
        return self.method != "GET"

    @property
    def creates(self) -> bool:
        return (self.method, self.endpoint) == ("POST", SNAPSHOTS)

    def ask_guard(self) -> None:
        """Raises what the guard raises, and remembers it, so that nothing takes it for an error of the network."""
        try:
            if self.guard is not None:
                self.guard()
            if self.before is not None and not self.has_gone_out:
                self.before()
        except BaseException as error:
            self.refused = error
            raise

    async def trace(self, event: str, details: dict[str, Any]) -> None:
        """httpcore tells here what it is about to do; raising stops it. A proxy's CONNECT is not the request."""
        self.traced = True
        if event != "http11.send_request_headers.started":
            return
        if details["request"].method == b"CONNECT":
            self.tunnelled = True
            return
        self.ask_guard()
        self.sent = self.has_gone_out = True
        self.sent_at = asyncio.get_running_loop().time()

    def lost(self, message: str, *, retry_after: float | None = None) -> Temporary:
        """The error for an attempt that was sent and got no usable answer."""
        if self.creates and self.status == httpx.codes.CREATED:
            return Accepted(f"{message}; it has been carried out")
        if self.changes:
            return Unclear(f"{message}; it may have been carried out", retry_after=retry_after)
        return Temporary(message, retry_after=retry_after)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer, whatever its status."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def retry_after(self) -> float | None:
        """Seconds that the provider asks to wait, where it does. A date is counted from the answer's own: the provider
        and we need not have the same time."""
        return answers.retry_after(self.headers.get("Retry-After"), self.dated or datetime.now(UTC))

    @property
    def dated(self) -> datetime | None:
        """When it was given, by the provider's own clock; None where it says nothing that can be."""
        at = answers.http_date(self.headers.get("Date"))
        return at if at is not None and at >= EARLIEST else None


class Line:
    """The line to the API: it carries one attempt of a call at a time for each of `MAX_CONCURRENT` callers.

    What is urgent is carried besides; the rate and the time-out bound how many of those there can be.
    """

    def __init__(
        self,
        base: httpx.URL,
        *,
        requests_per_second: float,
        timeout: float,
        observer: RequestObserver,
        transport: Transport | None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Raises `BadEnvironment` where a variable of `environ` names no way, or no certificates, that can be used."""
        self.clock = OtherClock()
        self._host = base.netloc.decode()
        self._proxy = None if transport is not None else proxy_to(base.host, base.port or 443, environ)
        self._timeout = timeout
        self._observer = observer
        self._pace = Pace(requests_per_second, places=MAX_CONCURRENT)
        self.share = self._pace.share
        self._client = _client(base, timeout, transport or _transport(base, self._proxy, environ))

    @property
    def rate(self) -> RateInForce:
        return self._pace.in_force

    async def aclose(self) -> None:
        await self._client.aclose()

    def adjust(self, *, requests_per_second: float, timeout: float) -> None:
        self._timeout = timeout
        self._pace.set_rate(requests_per_second)

    def in_one_turn(self, requests: int, *, guard: Guard, priority: Priority) -> AbstractAsyncContextManager[Series]:
        """As `Provider.in_one_turn`."""
        return self._pace.series(priority, requests, wanted=guard)

    async def exchange(self, call: Call, token: str) -> Reply:
        """One attempt, whatever its status. Waits for its turn first, then has `timeout` seconds in all."""
        wanted = call.ask_guard if call.guard is not None else None
        asked_at = asyncio.get_running_loop().time()
        # What may be repeated is asked again anyway; what may not is worth waiting for.
        waits = call.method == "POST"
        async with self._pace.turn_of(call.about, call.priority, wanted=wanted, waits=waits) as sent_at:
            if (waited := sent_at - asked_at) > NOT_WORTH_TELLING:
                self._observer.throttled(waited)
            call.traced, call.tunnelled, call.sent, call.status = False, False, False, 0
            call.ask_guard()
            reply = await self._attempt(call, token)
            self._learn(call, reply, sent_at)
            return reply

    def _learn(self, call: Call, reply: Reply, sent_at: float) -> None:
        """What the answer says of when, and how fast, one may go on."""
        asked, too_many = reply.retry_after, reply.status == 429
        if too_many or (reply.status == 503 and asked is not None):
            self._pace.put_off(call.about, sent_at, asked, too_many=too_many)
        else:
            self._pace.answered(call.about, sent_at)

    async def _attempt(self, call: Call, token: str) -> Reply:
        began, sent = asyncio.get_running_loop().time(), datetime.now(UTC)
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._send(call, token)
        except OF_AN_ANSWER as error:
            if error is call.refused:
                raise
            call.code = _code(error)
            self._observe(call, began)
            raise self._failure(call, error) from error
        call.code, call.dated = str(reply.status), reply.dated
        self._observe(call, began)
        if httpx.codes.is_success(reply.status):  # what is none may be a proxy's
            self.clock.note(reply.dated, sent=sent, received=datetime.now(UTC))
        return reply

    async def _send(self, call: Call, token: str) -> Reply:
        def sign(request: httpx.Request) -> httpx.Request:
            # As `auth` and not as a header: httpx lets a name and password within a URL replace the header.
            request.headers["Authorization"] = f"Bearer {token}"
            return request

        extensions = {"trace": call.trace}
        async with self._client.stream(
            call.method, call.url, json=call.body, auth=sign, extensions=extensions
        ) as response:
            call.status = response.status_code
            body = await _body(response)
            call.size = len(body)
            reply = Reply(status=response.status_code, headers=response.headers, body=body)
        response.stream = _NOTHING_MORE  # its own holds it in turn: what a request is made of would be a circle
        return reply

    def _observe(self, call: Call, began: float) -> None:
        elapsed = asyncio.get_running_loop().time() - began
        self._observer.request(call.method, call.endpoint, call.code, elapsed)

    def _failure(self, call: Call, error: Exception) -> Temporary:
        """The word for an attempt without an answer."""
        message = self._failure_in_words(call, error)
        never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError)
        if never_sent or (call.traced and not call.sent):
            return NotSent(message)
        return call.lost(message)

    def _failure_in_words(self, call: Call, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer to {call} from {self._host} within {self._timeout:g} s"
        if isinstance(error, UnreadableError):
            return f"the answer to {call} from {self._host} cannot be read: {error}"
        reason = said(str(error))  # h11 quotes there what it got
        if self._proxy is not None and isinstance(error, httpx.ConnectError | httpx.ProxyError):
            first = "cannot be reached" if not call.tunnelled else f"does not lead to {self._host}"
            return f"{self._proxy} {first} for {call}: {reason or type(error).__name__}"
        if isinstance(error, httpx.ConnectError):
            reason = reason or "no connection (is it the right scheme, http or https?)"
            return f"{self._host} cannot be reached for {call}: {reason}"
        return f"the connection to {self._host} was lost at {call}: {reason or type(error).__name__}"


async def _body(response: httpx.Response) -> bytes:
    """The body as it was sent. Encoded otherwise than was asked for it could be of any size, and is not read at all:
    what is no success tells enough by its status.
    """
    encoding = response.headers.get("Content-Encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        if response.is_success:
            raise UnreadableError(f"it is encoded as {encoding}, which was not asked for")
        return b""
    body, pieces = bytearray(), 0
    async for chunk in response.aiter_bytes():
        body += chunk
        pieces += 1
        if len(body) > MAX_BODY:
            raise UnreadableError(f"it has more than {MAX_BODY} bytes")
        if pieces > MOST_PIECES:
            raise UnreadableError(f"it comes in more than {MOST_PIECES} pieces")
        if pieces % AT_ONCE == 0:  # thousands of chunks of a byte may have come together
            await asyncio.sleep(0)
    return bytes(body)


def _transport(base: httpx.URL, proxy: Proxy | None, environ: Mapping[str, str]) -> Transport:
    # What comes on a connection unasked for would be taken for the next answer: each request has its own.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    if base.scheme == "http":  # to this machine: no certificate is asked for
        return httpx.AsyncHTTPTransport(verify=False, trust_env=False, limits=limits)
    certificates = trusted(environ)
    through = None if proxy is None else httpx.Proxy(proxy.url)
    if through is not None and through.url.scheme == "https":
        through.ssl_context = certificates
    return httpx.AsyncHTTPTransport(verify=certificates, trust_env=False, limits=limits, proxy=through)


def _client(base: httpx.URL, timeout: float, transport: Transport) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=transport,
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            # What comes after an answer, or before the next request, could be taken for the next one's answer. And a
            # connection that the other end is just giving up makes a request that may have been carried out.
            "Connection": "close",
            "Content-Type": "application/json",
            "User-Agent": f"snaprotd/{__version__}",
        },
        # Django takes a session's cookie for another way to sign in; the token is to be the only one.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        # The time-outs of httpx are for each read, so the whole attempt has one of its own. To connect has one here
        # besides: httpcore leaves the socket open where a TLS handshake is cancelled from outside.
        timeout=httpx.Timeout(None, connect=timeout / CONNECT_SHARE),
        trust_env=False,
    )


def _code(error: Exception) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "timeout"
    return "unreadable" if isinstance(error, UnreadableError | httpx.DecodingError) else "connection"
