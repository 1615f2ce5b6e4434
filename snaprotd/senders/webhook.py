"""A webhook: each message is a POST of JSON, signed where a key is given."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence

import httpx

from snaprotd.core.telling import Message
from snaprotd.senders import Answer, failed
from snaprotd.senders.http import Exchange, NoAnswer, judged, why_unknown
from snaprotd.senders.secrets import SecretError, SecretFile


class Webhook:
    """A `Sender`."""

    def __init__(self, exchange: Exchange, url: SecretFile, key: SecretFile | None = None) -> None:
        self._exchange = exchange
        self._url = url
        self._key = key

    async def send(self, message: Message) -> Answer:
        body = json.dumps(message.as_json(), ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        try:
            if self._key is not None:
                headers["X-Snaprotd-Signature"] = signature(await self._key.password(), body)
            url = await self._url.url()
            reply = await self._exchange.ask("POST", url, body=body, headers=headers, by_status=True)
        except (SecretError, NoAnswer) as error:
            return failed(str(error))
        return judged(reply)

    async def look(self) -> Sequence[str]:
        found = await why_not_reached(self._url)
        if self._key is not None:
            try:
                await self._key.password()
            except SecretError as error:
                found = [*found, str(error)]
        return found


def signature(key: str, body: bytes) -> str:
    """As the header has it."""
    return f"sha256={hmac.new(key.encode(), body, hashlib.sha256).hexdigest()}"


async def why_not_reached(file: SecretFile) -> list[str]:
    """What is wrong with a file that holds a URL, or with the name in it."""
    try:
        url = httpx.URL(await file.url())
    except (SecretError, httpx.InvalidURL) as error:
        return [str(error) if isinstance(error, SecretError) else f"{file.path} holds no URL that can be used"]
    why = await why_unknown(url.host, url.port or (80 if url.scheme == "http" else 443))
    return [f"the receiver in {file.path}: {why}"] if why else []
