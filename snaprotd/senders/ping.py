"""A check that waits for pings, and tells somebody where none comes: Healthchecks, Uptime Kuma, or any other.

Where every ping counts as success nothing else is sent: silence is what such a check waits for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from uuid import UUID

import httpx

from snaprotd.core.telling import Kind, Message, Style
from snaprotd.senders import Answer, failed, sent
from snaprotd.senders.http import Exchange, NoAnswer, Reply, judged
from snaprotd.senders.secrets import SecretError, SecretFile
from snaprotd.senders.webhook import why_not_reached

NOT_COUNTED = re.compile(r"\s*OK\s*\(", re.IGNORECASE)
LONGEST_MESSAGE = 250
"""Letters of what stands in a URL."""


class Ping:
    """A `Sender`. A `RECOVERY` is success, anything else a failure with its reason."""

    def __init__(self, exchange: Exchange, url: SecretFile, style: Style) -> None:
        self._exchange = exchange
        self._url = url
        self._style = style

    async def send(self, message: Message) -> Answer:
        is_test = message.kind is Kind.TEST
        is_success = message.kind is Kind.RECOVERY
        if is_test and self._style is not Style.HEALTHCHECKS:
            found = await self.look()
            words = "nothing was sent: any ping counts as success there; its file and its name are good"
            return failed("; ".join(found)) if found else sent(words)
        if self._style is Style.PLAIN:
            return await self.beat() if is_success else sent("nothing: only success is sent")
        try:
            url = httpx.URL(await self._url.url())
            if self._style is Style.UPTIME_KUMA:
                return _judged_by_kuma(await self._exchange.ask("GET", _for_kuma(url, message, is_success=is_success)))
            part = "log" if is_test else "" if is_success else "fail"
            body = message.text.encode()
            return _judged_by_healthchecks(
                await self._exchange.ask("POST", _for_healthchecks(url, part, message.rotation), body=body)
            )
        except (SecretError, NoAnswer, httpx.InvalidURL) as error:
            return failed(str(error))

    async def beat(self) -> Answer:
        """Success, and nothing more: a GET of the URL as it is."""
        try:
            return _judged_by_any(await self._exchange.ask("GET", await self._url.url()))
        except (SecretError, NoAnswer) as error:
            return failed(str(error))

    async def look(self) -> Sequence[str]:
        return await why_not_reached(self._url)


def _for_healthchecks(url: httpx.URL, part: str, rotation: str) -> str:
    """`rid` ties the pings of one run together; it must be a UUID."""
    if part:
        url = url.copy_with(path=f"{url.path.rstrip('/')}/{part}")
    return str(url.copy_merge_params({"rid": str(UUID(rotation))}) if _is_uuid(rotation) else url)


def _is_uuid(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False


def _judged_by_any(reply: Reply) -> Answer:
    """Whoever it is: Healthchecks says `OK (not found)`, or `OK (rate limited)`, of what it has not counted."""
    if 200 <= reply.status < 300 and NOT_COUNTED.match(reply.text):
        return failed(f"HTTP {reply.status}, but not OK: {reply.text}")
    return judged(reply)


def _judged_by_healthchecks(reply: Reply) -> Answer:
    """It answers 200 to a ping of a check that is not there, and to one too many: only OK alone is success."""
    if 200 <= reply.status < 300 and reply.text.strip() != "OK":
        return failed(f"HTTP {reply.status}, but not OK: {reply.text}")
    return judged(reply)


def _for_kuma(url: httpx.URL, message: Message, *, is_success: bool) -> str:
    """What stands in the query of the URL that it shows is replaced: it says `up` there."""
    words = "OK" if is_success else message.text[:LONGEST_MESSAGE]
    return str(url.copy_with(params={"status": "up" if is_success else "down", "msg": words, "ping": ""}))


def _judged_by_kuma(reply: Reply) -> Answer:
    try:
        answer = json.loads(reply.body)
        is_taken = isinstance(answer, dict) and answer.get("ok") is True
    except (ValueError, RecursionError):
        is_taken = False
    if 200 <= reply.status < 300 and not is_taken:
        return failed(f"HTTP {reply.status}, but not taken: {reply.text}")
    return judged(reply)
