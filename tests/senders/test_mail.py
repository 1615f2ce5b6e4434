"""Mail, against a real SMTP server: by TLS at once, by STARTTLS, in the clear to this machine only."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from snaprotd.core.telling import Kind, Message, Who
from snaprotd.core.words import in_one_line
from snaprotd.logs import redactor
from snaprotd.senders import Answer, Outcome
from snaprotd.senders import mail as sending
from snaprotd.senders.mail import Mail, written
from tests.support.receivers import certified, receiver, secret, secrets_in

pytestmark = pytest.mark.real_time

HOST = "mail.invalid"
PASSWORD = "Kq8-of-the-mailbox-9Zt"
MESSAGE = Message(
    id="5f0c",
    at=datetime(2025, 1, 16, 3, 31, tzinfo=UTC),
    kind=Kind.HELD_OFF,
    severity="alarm",
    server=Who(id="12345", name="wéb-01"),
    text="wéb-01: held off for too long",
    do="Start it in the provider's panel.",
)


class Box:
    """What a server has taken, and what it says."""

    def __init__(self, says: str = "250 taken") -> None:
        self.says = says
        self.refused: dict[str, str] = {}
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.tls: list[bool] = []
        self.users: list[str] = []

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.says.startswith("2"):
            assert isinstance(envelope.content, bytes)
            mail = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
            self.envelopes.append(envelope)
            self.tls.append(server.transport is not None and server.transport.get_extra_info("ssl_object") is not None)
        return self.says

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.users.append(data.login.decode())
        return AuthResult(success=data.password.decode() == PASSWORD, handled=False)


@asynccontextmanager
async def served(box: Box, *, at_once: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    """The server's port."""
    loop = asyncio.get_running_loop()
    connections: list[SMTP] = []

    def connected() -> SMTP:
        connections.append(SMTP(box, hostname=HOST, loop=loop, **options))
        return connections[-1]

    server = await loop.create_server(connected, "127.0.0.1", 0, ssl=at_once)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for one in connections:
            if isinstance(one.transport, asyncio.Transport):
                one.transport.abort()
            if one._handler_coroutine is not None:
                one._handler_coroutine.cancel()
                await asyncio.gather(one._handler_coroutine, return_exceptions=True)


@pytest.fixture
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's name leads to this machine, as a remote one's would elsewhere."""
    ask = socket.getaddrinfo

    def told(host: Any, *arguments: Any, **more: Any) -> Any:
        return ask("127.0.0.1" if host in (HOST, "other.invalid") else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", told)


def mailer(folder: Path, port: int, *, host: str = HOST, password: str = PASSWORD, trusts: Path | None = None) -> Mail:
    return Mail(
        to=["ops@example.org", "other@example.org"],
        sender="snaprotd@example.org",
        host=host,
        port=port,
        user="snaprotd",
        password=secrets_in(folder).file(secret(folder, "password", password)) if password else None,
        environ={"SSL_CERT_FILE": str(trusts)} if trusts else {},
    )


async def test_to_this_machine_it_goes_in_the_clear(tmp_path: Path) -> None:
    box = Box()
    async with served(box) as port:
        came_back = await mailer(tmp_path, port, host="127.0.0.1", password="").send(MESSAGE)
    assert (came_back.outcome, came_back.said) == (Outcome.SENT, "taken")
    ((mail,), (envelope,)) = box.mails, box.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("snaprotd@example.org", ["ops@example.org", "other@example.org"])
    assert mail["Subject"] == "[snaprotd] held off: wéb-01: held off for too long"
    assert (mail["Message-ID"], mail["Auto-Submitted"]) == ("<5f0c@snaprotd.invalid>", "auto-generated")
    assert mail["Date"].datetime == MESSAGE.at
    assert "Start it in the provider's panel.\n\nserver: wéb-01 (12345)" in mail.get_content().replace("\r\n", "\n")


@pytest.mark.usefixtures("by_name")
async def test_elsewhere_it_goes_by_starttls_and_the_password_only_after_that(tmp_path: Path) -> None:
    box = Box()
    trusted, context = certified(tmp_path, HOST)
    options: dict[str, Any] = {"tls_context": context, "require_starttls": True, "authenticator": box.authenticate}
    async with served(box, auth_require_tls=True, auth_required=True, **options) as port:
        came_back = await mailer(tmp_path, port, trusts=trusted).send(MESSAGE)
    assert came_back.outcome is Outcome.SENT, came_back
    assert (box.tls, box.users) == ([True], ["snaprotd"])


@pytest.mark.usefixtures("by_name")
async def test_on_the_port_of_smtps_it_is_tls_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box()
    trusted, context = certified(tmp_path, HOST)
    async with served(box, at_once=context) as port:
        monkeypatch.setattr(sending, "TLS_AT_ONCE", port)
        came_back = await mailer(tmp_path, port, password="", trusts=trusted).send(MESSAGE)
    assert (came_back.outcome, box.tls) == (Outcome.SENT, [True])


@pytest.mark.usefixtures("by_name")
async def test_a_server_without_starttls_gets_neither_the_password_nor_the_mail(tmp_path: Path) -> None:
    box = Box()
    async with served(box, authenticator=box.authenticate, auth_require_tls=False) as port:
        came_back = await mailer(tmp_path, port).send(MESSAGE)
    assert (came_back.outcome, box.mails, box.users) == (Outcome.FAILED, [], [])


@pytest.mark.usefixtures("by_name")
@pytest.mark.parametrize("trusted", [False, True], ids=["of nobody", "of another host"])
async def test_a_certificate_that_does_not_verify_ends_it(tmp_path: Path, trusted: bool) -> None:
    box = Box()
    path, context = certified(tmp_path, "other.invalid")
    async with served(box, tls_context=context, authenticator=box.authenticate) as port:
        came_back = await mailer(tmp_path, port, trusts=path if trusted else None).send(MESSAGE)
    assert (came_back.outcome, box.mails, box.users) == (Outcome.FAILED, [], [])


Refuses = Callable[[Box], None]


@pytest.mark.parametrize(
    ("says", "outcome"),
    [("451 greylisted", Outcome.FAILED), ("554 this is spam", Outcome.GIVEN_UP), ("250 yes", Outcome.SENT)],
)
async def test_what_the_server_says_of_the_mail_has_a_word(tmp_path: Path, says: str, outcome: Outcome) -> None:
    async with served(Box(says)) as port:
        came_back = await mailer(tmp_path, port, host="127.0.0.1", password="").send(MESSAGE)
    assert (came_back.outcome, says[4:] in came_back.said) == (outcome, True), came_back


async def _refusing(folder: Path, *addresses: str) -> Answer:
    box = Box()
    box.refused = dict.fromkeys(addresses, "550 no such mailbox")
    async with served(box) as port:
        return await mailer(folder, port, host="127.0.0.1", password="").send(MESSAGE)


async def test_one_recipient_who_is_refused_is_told_of_and_keeps_nobody_else_from_it(tmp_path: Path) -> None:
    one = await _refusing(tmp_path, "ops@example.org")
    assert (one.outcome, "but not to ops@example.org: 550 no such mailbox" in one.said) == (Outcome.SENT, True)
    all_of_them = await _refusing(tmp_path, "ops@example.org", "other@example.org")
    assert (all_of_them.outcome, "no such mailbox" in all_of_them.said) == (Outcome.FAILED, True)


async def test_who_is_refused_for_now_is_asked_for_again_and_nobody_else_with_him(tmp_path: Path) -> None:
    box = Box()
    box.refused = {"ops@example.org": "451 greylisted"}
    async with served(box) as port:
        mails = mailer(tmp_path, port, host="127.0.0.1", password="")
        first = await mails.send(MESSAGE)
        box.refused = {}
        second = await mails.send(MESSAGE)
    assert (first.outcome, "ops@example.org: 451" in first.said) == (Outcome.FAILED, True)
    assert second.outcome is Outcome.SENT
    assert [list(one.rcpt_tos) for one in box.envelopes] == [["other@example.org"], ["ops@example.org"]]


async def test_a_wrong_password_is_told_of_without_it(tmp_path: Path) -> None:
    box = Box()
    async with served(box, authenticator=box.authenticate, auth_require_tls=False) as port:
        wrong = mailer(tmp_path, port, host="127.0.0.1", password="Another-of-mine-77")
        came_back = await wrong.send(MESSAGE)
    assert (came_back.outcome, box.mails) == (Outcome.FAILED, [])
    assert "535" in came_back.said
    assert "Another-of-mine" not in f"{came_back}{vars(wrong)}{redactor.known('Another-of-mine-77')}"


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_a_whole_message_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PATIENCE", 0.2)
    async with receiver() as there:
        came_back = await mailer(tmp_path, there.port, host="127.0.0.1", password="").send(MESSAGE)
    assert came_back.outcome is Outcome.FAILED


HEADERS = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
]


@pytest.mark.parametrize(
    "name",
    [
        "=?utf-8?q?web=0D=0AFrom:_ceo@corp.example=0D=0A=0D=0A<a href=3Dx>?=",
        "=?utf-8?b?DQpCY2M6IHg=?=",
        "=?utf-8?q?a?= =?utf-8?q?=0A=0Ab?=",
        "a\r\nBcc: all@example.org\r\n\r\nwords",
        "\r\n.\r\nQUIT",
        "\u2028\u0085x",
        "wéb \U0001f600" * 40,
        "=?utf-16?q?=0A=00?=é\ud800",
        "=?",
        "From x",
    ],
    ids=ascii,
)
def test_no_name_of_a_server_makes_a_header_or_a_body(name: str) -> None:
    odd = replace(MESSAGE, server=Who(id="1", name=name), text=f"{name}: failed\nBcc: x", do=name, url=f"http://{name}")
    mail = written(odd, "a@example.org", ["b@example.org", "c@example.org"])
    head, _, body = mail.partition(b"\r\n\r\n")
    lines = re.sub(rb"\r\n (?=\S)", b" ", head).split(b"\r\n")
    assert [line.partition(b": ")[0].decode() for line in lines] == HEADERS
    assert re.fullmatch(rb"([ -~]*\r\n)+", mail), "plain ASCII, every line ended as lines are"
    assert max(map(len, mail.split(b"\r\n"))) < 200
    read = message_from_bytes(mail)  # as an old reader has it: it decodes nothing by itself
    assert read.get_payload(decode=True).decode().count("\n") == body.count(b"\r\n") - body.count(b"=\r\n")  # type: ignore[union-attr]
    subject = str(make_header(decode_header(read["Subject"].replace("\r\n", ""))))
    assert subject == in_one_line(f"[snaprotd] held off: {odd.text}", 150)


def test_a_subject_names_the_server_once_and_is_read_as_it_was_written() -> None:
    mail = message_from_bytes(written(MESSAGE, "a@example.org", ["b@example.org"]), policy=policy.default)
    assert mail["Subject"] == "[snaprotd] held off: wéb-01: held off for too long"
    assert (mail["To"], mail["Date"].datetime, mail["Message-ID"]) == (
        "b@example.org",
        MESSAGE.at,
        "<5f0c@snaprotd.invalid>",
    )


@pytest.mark.parametrize("id_", ["x\r\nBcc: all@example.org", "é", ""])
def test_an_id_that_a_damaged_ledger_has_makes_no_header_either(id_: str) -> None:
    with pytest.raises(ValueError, match="plain text"):
        written(replace(MESSAGE, id=id_ + "\n"), "a@example.org", ["b@example.org"])


async def test_the_mail_servers_name_is_looked_up_without_sending(tmp_path: Path) -> None:
    found = await mailer(tmp_path, 587, host="nowhere.invalid").look()
    assert ["the mail server nowhere.invalid" in one for one in found] == [True]
