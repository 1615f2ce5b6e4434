"""One HTTP exchange with a receiver: bounded in time and in size, and never led elsewhere."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import httpx

from snaprotd import __version__
from snaprotd.core.errors import SnaprotdError
from snaprotd.senders import Answer, failed, given_up, sent, shown
from snaprotd.way import proxy_to, trusted

PATIENCE = 10.0
"""Seconds for a whole exchange."""
PATIENCE_FOR_WORDS = 5.0
"""The same for the body of an answer, where its status says it all."""
LARGEST = 64 * 1024
"""Bytes of an answer that are read; whatever follows is left."""
NEVER = frozenset({413, 415, 422})
"""By these a receiver says of just this body that it will not take it."""

Transport = httpx.AsyncBaseTransport


class NoAnswer(Exception):
    """There was none that could be read. Its text may be shown."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer, whatever its status."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Exchange:
    """The way to all receivers that speak HTTP."""

    def __init__(self, environ: Mapping[str, str], transport: Transport | None = None) -> None:
        """Another `transport` stands in where there is no network."""
        self._environ = environ
        self._transport = transport

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        return trusted(self._environ)

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        by_status: bool = False,
    ) -> Reply:
        """Raises `NoAnswer`. `by_status`: that says it all, and a body is not waited for to its end."""
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                return await self._ask(method, url, body, headers or {}, limit if by_status else None)
        except TimeoutError:
            raise NoAnswer(f"no answer within {PATIENCE:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict) as error:
            raise NoAnswer(_in_words(error)) from error
        except (OSError, ValueError, SnaprotdError) as error:
            raise NoAnswer(shown(str(error)) or type(error).__name__) from error

    async def _ask(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], limit: asyncio.Timeout | None
    ) -> Reply:
        """`limit` ends with the head of the answer; None where it does not."""
        given = {
            "User-Agent": f"snaprotd/{__version__}",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        transport = self._transport or self._way_to(httpx.URL(url))
        async with (
            httpx.AsyncClient(
                transport=transport,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(None, connect=PATIENCE / 2),
            ) as client,
            client.stream(method, url, content=body or None, headers=given) as response,
        ):
            read = bytearray()
            if limit is None:
                await _read_into(read, response)
            else:
                limit.reschedule(None)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_FOR_WORDS):
                        await _read_into(read, response)
            return Reply(status=response.status_code, body=bytes(read[:LARGEST]))

    def _way_to(self, url: httpx.URL) -> Transport:
        if url.scheme == "http":
            return httpx.AsyncHTTPTransport(verify=False, trust_env=False)  # there is no certificate to be verified
        named = proxy_to(url.host, url.port or 443, self._environ)
        through = httpx.Proxy(named.url) if named else None
        if through is not None and through.url.scheme == "https":
            through.ssl_context = self._certificates
        return httpx.AsyncHTTPTransport(verify=self._certificates, trust_env=False, proxy=through)


async def _read_into(read: bytearray, response: httpx.Response) -> None:
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) >= LARGEST:
            return


def judged(reply: Reply) -> Answer:
    """What a status means, for a receiver that says nothing else."""
    if 200 <= reply.status < 300:
        return sent(f"HTTP {reply.status}")
    if 300 <= reply.status < 400:
        return failed(f"HTTP {reply.status}: it redirects to another address, which is not followed")
    words = f"HTTP {reply.status}: {reply.text}" if reply.body else f"HTTP {reply.status}"
    return given_up(words) if reply.status in NEVER else failed(words)


async def why_unknown(host: str, port: int) -> str:
    """Why a name leads nowhere, in words; empty where it leads somewhere."""
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return f"its name was not found within {PATIENCE:g} s"
    except (OSError, UnicodeError) as error:
        return f"its name is not known: {getattr(error, 'strerror', None) or error}"
    return ""


def _in_words(error: Exception) -> str:
    """httpx says little of what ended a connection, and h11 quotes what it was sent."""
    why = shown(str(error)) or type(error).__name__
    return f"no connection: {why}" if isinstance(error, httpx.ConnectError) else f"no answer that can be read: {why}"
