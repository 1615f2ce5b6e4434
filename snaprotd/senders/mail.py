"""Mail: TLS at once on port 465, else STARTTLS, always verified; in the clear to this machine only."""

from __future__ import annotations

import asyncio
import quopri
import re
import socket
from base64 import b64encode
from collections.abc import Mapping, Sequence
from email.utils import format_datetime

import aiosmtplib

from snaprotd.core.errors import SnaprotdError
from snaprotd.core.telling import Message
from snaprotd.core.words import in_one_line, is_loopback, plain_id, printable
from snaprotd.senders import Answer, failed, given_up, sent
from snaprotd.senders.http import why_unknown
from snaprotd.senders.secrets import SecretError, SecretFile
from snaprotd.way import trusted

LONGEST_TEXT = 5000
"""Letters of one line of a mail."""
MOST_REMEMBERED = 1000
PATIENCE = 30.0
"""Seconds for a whole message: servers greet late on purpose."""
TLS_AT_ONCE = 465


class Mail:
    """A `Sender`."""

    def __init__(
        self,
        *,
        to: Sequence[str],
        sender: str,
        host: str,
        port: int,
        user: str = "",
        password: SecretFile | None = None,
        environ: Mapping[str, str],
    ) -> None:
        self._to = tuple(to)
        self._sender = sender
        self._host, self._port = host, port
        self._user, self._password = user, password
        self._environ = environ
        self._taken: dict[str, set[str]] = {}
        """By the id of each of the last messages, those for whom it was taken, though not for all."""

    async def send(self, message: Message) -> Answer:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._send(message)
        except aiosmtplib.SMTPDataError as error:
            words = f"{self._host} refuses the message: {error.code} {error.message}"
            return given_up(words) if error.code >= 500 else failed(words)
        except (aiosmtplib.SMTPException, OSError, ValueError, SnaprotdError) as error:
            why = str(error) and _in_words(error)  # a time-out of ours has no words
            return failed(f"{self._host}: {why or f'the message was not taken within {PATIENCE:g} s'}")

    async def _send(self, message: Message) -> Answer:
        is_here = is_loopback(self._host)
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            local_hostname=_our_name(),
            use_tls=self._port == TLS_AT_ONCE,
            start_tls=self._port != TLS_AT_ONCE and not is_here,
            tls_context=None if is_here and self._port != TLS_AT_ONCE else trusted(self._environ),
            timeout=PATIENCE / 2,
        )
        try:
            await client.connect()
            if self._password is not None:
                await client.login(self._user, await self._password.password())
            left = [one for one in self._to if one not in self._taken.get(message.id, ())]
            refused, said = await client.sendmail(self._sender, left, written(message, self._sender, self._to))
            return self._answer(message, refused, said)
        finally:
            client.close()

    def _answer(self, message: Message, refused: Mapping[str, tuple[int, str]], said: str) -> Answer:
        """Who is refused for now only is asked for again, and nobody else with him."""
        words = ", ".join(f"{who}: {code} {why}" for who, (code, why) in refused.items())
        if any(code < 500 for code, _ in refused.values()):
            not_yet = {who for who, (code, _) in refused.items() if code < 500}
            self._taken[message.id] = set(self._to) - not_yet
            for old in list(self._taken)[:-MOST_REMEMBERED]:
                del self._taken[old]
            return failed(f"not taken for {words}")
        self._taken.pop(message.id, None)
        return sent(f"{said}, but not to {words}" if refused else said)

    async def look(self) -> Sequence[str]:
        why = await why_unknown(self._host, self._port)
        found = [f"the mail server {self._host}: {why}"] if why else []
        try:
            if self._password is not None:
                await self._password.password()
        except SecretError as error:
            found.append(str(error))
        return found


def written(message: Message, sender: str, to: Sequence[str]) -> bytes:
    """The mail as it goes out. Its Message-ID is the message's own, so that a double can be told.

    Written by us to its last byte: the library takes what looks like an encoded word in a name for one, and puts the
    line ends that stand in it between the headers. Raises `ValueError` where an address, or the id, is no plain text.
    """
    header = {
        "From": sender,
        "To": ",\r\n ".join(to),
        "Subject": _encoded(in_one_line(f"[snaprotd] {message.kind.replace('_', ' ')}: {message.text}", 150)),
        "Date": format_datetime(message.at),
        "Message-ID": f"<{message.id}@snaprotd.invalid>",
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "quoted-printable",
    }
    if not all(_IS_PLAIN.fullmatch(value) for value in header.values()):
        raise ValueError("an address or the id of a message is no plain text")
    server = f"server: {message.server.name} ({plain_id(message.server.id)})" if message.server else ""
    lines = [message.text, "", message.do, "", server, f"at: {message.at:%Y-%m-%d %H:%M:%S} UTC", message.url]
    body = "\n".join(printable(line, LONGEST_TEXT) for line in lines).strip() + "\n"
    head = "".join(f"{name}: {value}\r\n" for name, value in header.items())
    return head.encode("ascii") + b"\r\n" + quopri.encodestring(body.encode()).replace(b"\n", b"\r\n")


_IS_PLAIN = re.compile(r"[ -~]+(\r\n [ -~]+)*")
"""A header's value: printable ASCII, and a line end only where the next line is its own still."""


def _encoded(text: str) -> str:
    """A text as words of RFC 2047, so that nothing in it is read as one; a plain one as it is."""
    if text.isascii() and "=?" not in text:
        return text
    words = (b64encode(text[at : at + 10].encode()).decode() for at in range(0, len(text), 10))  # of 75 letters at most
    return "\r\n ".join(f"=?utf-8?b?{word}?=" for word in words)


def _our_name() -> str:
    """For the greeting. It is not looked up: that could take long."""
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,200}", name) else "localhost"


def _in_words(error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return "; ".join(f"{one.recipient}: {one.code} {one.message}" for one in error.recipients)
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{error.code} {error.message}"
    return str(error)
