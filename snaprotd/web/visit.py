"""One connection, from its first byte to its end: HTTP by uvicorn, bounds and manners by us."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import structlog
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from snaprotd.web.hosts import is_ours
from snaprotd.web.site import TEXT
from snaprotd.web.turns import OneAtATime, Turns

if TYPE_CHECKING:
    from snaprotd.web.door import Door

log = structlog.get_logger("snaprotd.web")

HEAD = 10.0
"""Seconds for a whole head of a request."""
IDLE = 60.0
"""Seconds between two requests."""
ANSWER = 120.0
"""Seconds until an answer is ready, the wait for one's turn included."""
READING = 30.0
"""Seconds in which an answer that was written is to be read."""
CLOSING = 5.0
"""Seconds for the end of a connection."""
AT_ONCE = 1024
"""Bytes that are looked at before it is asked whether a body has begun."""
BLOCKED = 2.0
"""Seconds without reading after which somebody gives way to a newcomer."""

PROBE = "/healthz"
"""Waits for no turn, and is the last of its connection, so that it is bounded as connections are: whoever floods us is
not to have us killed for it."""
OPEN = (PROBE, "/api/identity")
"""Ask for no password: a probe has none and learns no more than whether we live; a command proves itself otherwise."""

LONG_TO_MAKE = ("/servers/", "/api/status")
"""And the page of the fleet: they ask the ledger and the threads, which a start needs too."""

NOSNIFF = (b"x-content-type-options", b"nosniff")
CLOSE = (b"connection", b"close")

_SILENT = logging.Logger("snaprotd.web.silent", logging.CRITICAL + 1)
"""Nobody who speaks bad HTTP fills the log with it."""


class Visit(H11Protocol):
    """A visitor's connection. `since`: when it began what it does now, by the loop's clock."""

    def __init__(self, door: Door, peer: str) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(door.settings, door.state, {}, loop)
        self.peer = peer
        self.coming: asyncio.Future[None] | None = None
        """Done when the connection is made, TLS and all."""
        self.since = loop.time()
        self.logger = _SILENT
        self.app = self._answer
        self._is_in = False
        self._door = door
        self._has_begun = True
        """A head is due: at first, and from its first byte on."""
        self._unwritten = 0
        """Bytes of the answer that is being given."""
        self._has_said_all = False
        self._unread_since: float | None = None
        self._closing_since: float | None = None
        self._ticket: tuple[Turns | OneAtATime, asyncio.Future[bool]] | None = None
        self._is_making = False

    # -- what the door asks --------------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Bytes of an answer that is made, and that the visitor has not taken."""
        return self._unwritten + self.transport.get_write_buffer_size() if self._is_in else 0

    @property
    def holds(self) -> Mapping[object, int]:
        """The bytes that its answer keeps in memory, each text by what it is known by: many may read the same one."""
        text = self.cycle.scope.get("state", {}).get(TEXT) if self._is_answering else None
        return {self: self.unread - self._unwritten} | ({} if text is None else dict([text]))

    @property
    def is_idle(self) -> bool:
        """It has asked for nothing that was not answered."""
        return not self._is_answering and not self.unread

    @property
    def is_blocked(self) -> bool:
        """It does not read."""
        return self._unread_since is not None and self.loop.time() - self._unread_since > BLOCKED

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _has_body(self) -> bool:
        """It is being answered, and has sent a body, or is about to: we read none."""
        return self._is_answering and _has_body(self.scope)

    def is_overdue(self, now: float) -> bool:
        """Whether it has had its time. To be asked every second or so."""
        self._unread_since = (self._unread_since or now) if self.unread else None
        if self._unread_since is not None and now - self._unread_since > READING:
            return True
        if self._is_in and self.transport.is_closing():
            self._closing_since = self._closing_since or now
            return self._unread_since is None and now - self._closing_since > CLOSING
        patience = ANSWER if self._is_answering else HEAD if self._has_begun else IDLE
        return now - self.since > patience and (self._is_answering or not self.unread)

    def turn_out(self) -> None:
        """At once, whatever it does."""
        self._door.inside.discard(self)
        if self._is_in:
            self.transport.abort()
        elif self.coming is not None:
            self.coming.cancel()

    def see_off(self) -> None:
        """After the answer that is being given, where there is one."""
        if not self._is_in:
            self.turn_out()
        elif not self.transport.is_closing():
            self.shutdown()

    # -- what comes from the network -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_in = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.inside.discard(self)
        super().connection_lost(exc)
        if self._ticket is not None:
            turns, ticket = self._ticket
            turns.leave(ticket)

    def data_received(self, data: bytes) -> None:
        if not self._is_answering and not self._has_begun:
            self._has_begun, self.since = True, self.loop.time()
        try:
            for start in range(0, len(data), AT_ONCE):
                if self._has_body:
                    break  # not looked at: who sends a byte at a time would have us count them all
                super().data_received(data[start : start + AT_ONCE])
        except Exception:
            log.exception("internal error")
            self.turn_out()
        if self._is_answering:
            self._has_begun = False

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who has said all that he will may read all the same what is being written."""
        self._has_said_all = bool(self._unwritten) and self.transport.get_extra_info("sslcontext") is None
        return self._has_said_all

    def on_response_complete(self) -> None:
        self._has_begun, self.since = False, self.loop.time()
        super().on_response_complete()
        if self._has_said_all:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP."""
        if not self._is_answering:
            text = f"{msg}\n".encode()
            head = [b"content-type: text/plain; charset=utf-8", b"%b: %b" % NOSNIFF, b"%b: %b" % CLOSE]
            head = [b"HTTP/1.1 400 Bad Request", *head, b"content-length: %d" % len(text), b"", text]
            self.transport.write(b"\r\n".join(head))
        self.transport.close()

    # -- what is answered ----------------------------------------------------------------------------------------

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.since = self.loop.time()
        is_begun = False

        async def sealed(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                self._made()  # how long it takes to send it is up to the visitor
                headers = self._headers(scope, message["headers"])
                message = {**message, "headers": headers}
                self._unwritten = 0 if scope["method"] == "HEAD" else int(dict(headers).get(b"content-length", 0))
            await send(message)
            self._unwritten -= min(self._unwritten, len(message.get("body", b"")))

        try:
            answer = await self._who_answers(scope)
            if answer is not None:
                await answer(scope, receive, sealed)
        except Exception:
            log.exception("internal error", path=scope["path"][:200])
            if is_begun:
                self.transport.abort()
            else:
                await _said(500, "internal error: the log says more")(scope, receive, sealed)
        finally:
            self._made()

    async def _who_answers(self, scope: Scope) -> ASGIApp | None:
        """The pages, or a refusal; None where the visitor has gone meanwhile."""
        door, headers = self._door, Headers(scope=scope)
        is_probe = scope["path"] == PROBE
        if not is_probe and door.is_overrun:
            return _said(503, "too many ask at the same time", {"Retry-After": "5"})
        turns = door.requests.of(self.peer)
        if not is_probe and not await self._turn(turns, turns.queue()):
            return None
        if not scope["raw_path"].startswith(b"/"):
            return _said(400, "this is no proxy: ask for a path")
        if (refusal := self._refuse_host(headers)) is not None:
            return refusal
        if scope["path"] not in OPEN and (refusal := await self._refuse_user(headers)) is not None:
            return refusal
        if scope["path"].startswith(LONG_TO_MAKE) or scope["path"] == "/":
            if not await self._turn(door.making, door.making.queue(self.peer, self.since)):
                return None
            self._is_making = True
        door.bound_unread()
        return door.settings.loaded_app  # type: ignore[no-any-return]

    def _made(self) -> None:
        if self._is_making:
            self._is_making = False
            self._door.making.end()

    async def _turn(self, turns: Turns | OneAtATime, ticket: asyncio.Future[bool]) -> bool:
        self._ticket = (turns, ticket)
        try:
            return await ticket
        finally:
            self._ticket = None

    def _refuse_host(self, headers: Headers) -> ASGIApp | None:
        names = self._door.names()
        if names is None or is_ours(headers.get("host", ""), names):
            return None
        return _said(421, "not by this name: use an IP address or localhost, or name it in the key `allowed_hosts`")

    async def _refuse_user(self, headers: Headers) -> ASGIApp | None:
        users, authorization = self._door.protection.users, headers.get("authorization", "")
        if users is None or users.knows(authorization):
            return None
        guesses = self._door.guesses.of(self.peer)
        if authorization and await self._turn(guesses, guesses.queue()) and await users.check(authorization):
            return None
        return _said(401, "user and password, please", {"WWW-Authenticate": 'Basic realm="snaprotd"'})

    def _headers(self, scope: Scope, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """What each answer has, whoever gives it. What somebody has written down goes before what we would say."""
        headers = {NOSNIFF[0]: NOSNIFF[1], b"date": formatdate(usegmt=True).encode()}
        headers |= {name.lower(): value for name, value in given}
        headers |= dict(self._door.protection.headers)
        is_last = scope["path"] == PROBE or self._door.is_crowded
        if is_last or _has_body(scope) or scope["method"] not in ("GET", "HEAD"):  # we read no bodies
            headers |= dict([CLOSE])
        return list(headers.items())


def _has_body(scope: Any) -> bool:
    asked = dict(scope["headers"])
    return b"transfer-encoding" in asked or asked.get(b"content-length", b"0") != b"0"


def _said(status: int, text: str, headers: dict[str, str] | None = None) -> ASGIApp:
    answer: Any = PlainTextResponse(f"{text}\n", status_code=status, headers=headers)
    return answer  # type: ignore[no-any-return]
