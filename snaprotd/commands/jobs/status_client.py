"""Asks a running daemon over HTTP: how it stands, and which ledger it has."""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlencode, urlsplit

import structlog

from snaprotd.config.settings import Config
from snaprotd.config.web_file import read_web_file
from snaprotd.core.errors import ConfigError, SnaprotdError
from snaprotd.core.words import LONGEST_TEXT, in_one_line, is_loopback, printable
from snaprotd.ledger.address import name_of
from snaprotd.report.status import VERSION
from snaprotd.wiring.identity import proven_ledger

log = structlog.get_logger("snaprotd")

TIMEOUT = 10.0
"""Seconds for the whole of it."""
QUICKLY = 3.0
LARGEST = 64 * 1024 * 1024
"""Bytes of a report."""

DEFAULT = ("127.0.0.1", 9877)
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address to ask, not one to listen on

T = TypeVar("T")


class Unreachable(SnaprotdError):
    """No daemon answers, or what answers is none."""


@dataclass(frozen=True)
class Place:
    """Where a daemon is asked."""

    url: str
    """http://HOST:PORT, https://HOST:PORT or unix:/PATH; it may hold a user and a password."""
    certificate: Path | None = None
    """The very one that is expected there; None where any will do that this machine trusts for the host."""

    def __str__(self) -> str:
        """Without user and password."""
        return re.sub("(?<=//)[^/]*@", "", self.url)


def default_place(config: Config | None) -> Place:
    """Where the daemon of this configuration listens. Raises `Unreachable` where it does not."""
    listen = config.listen if config else DEFAULT
    if listen is None:
        raise Unreachable("the daemon does not listen (`listen: off`): `snaprotd history` shows what it has done")
    if isinstance(listen, Path):
        return Place(f"unix:{listen}")
    host, port = EVERYWHERE.get(listen[0], listen[0]), listen[1]
    certificate = None
    if config is not None and config.web_config is not None:
        certificate = read_web_file(config.web_config).cert_file
    return Place(f"{'https' if certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}", certificate)


# -- which ledger it has -----------------------------------------------------------------------------------------------


def refuse_another_ledger(config: Config) -> None:
    """Raise `SnaprotdError` where a daemon of this very configuration runs here and has another ledger.

    That is so where `state` is left to the folder or the environment: the two would not know of each other. What does
    not prove itself to be that daemon is not believed, whatever it says.
    """
    try:
        theirs = _ledger_of_daemon(config)
    except (Unreachable, ConfigError):
        return
    if theirs is not None and os.path.realpath(theirs) != os.path.realpath(config.ledger):
        raise SnaprotdError(
            f"the daemon that runs here has its ledger in {printable(theirs, len(theirs))}, and this command would use "
            f"{name_of(config.state)}: nothing was done. Name that ledger with `state`, or set "
            f"STATE_DIRECTORY={printable(os.path.dirname(theirs), len(theirs))}"
        )


def _ledger_of_daemon(config: Config) -> str | None:
    """The ledger of the daemon of this configuration; None where none proves to be it."""
    place, challenge = default_place(config), secrets.token_hex(16)
    asked = {"config": os.path.abspath(config.path), "challenge": challenge}
    answer = _ask(place, f"/api/identity?{urlencode(asked)}", {}, timeout=QUICKLY)
    if answer.status != 200:
        return None  # a daemon of another configuration
    told = answer.json(place)
    ledger = proven_ledger(told, challenge, config) if isinstance(told, dict) else None
    if ledger is None:
        log.warning("what answers for the daemon does not prove to be it, and is not believed", place=str(place))
    return ledger


# -- how it stands -----------------------------------------------------------------------------------------------------


def read_status(place: Place, environ: Mapping[str, str], *, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Raises `Unreachable` with a sentence for the user. Nothing in the report moves a terminal."""
    if not _is_address(place.url):
        raise Unreachable(f"{place} is no address: write it as http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    answer = _ask(place, "/api/status", _authorization(place, environ), timeout=timeout)
    if answer.status == 401:
        raise Unreachable(f"{place} asks for a user and a password: set SNAPROTD_STATUS_AUTH to USER:PASSWORD")
    if answer.status != 200:
        raise Unreachable(f"what answers at {place} tells no status: {answer.in_words()}")
    report = answer.json(place)
    if not isinstance(report, dict) or report.get("version") != VERSION:
        raise Unreachable(f"what answers at {place} is no snaprotd of this version")
    fit: dict[str, Any] = _fit(report)
    return fit


def _fit(value: Any) -> Any:
    """What somebody says on that address, who may be anybody, as it may be shown."""
    if isinstance(value, str):
        return printable(value, len(value))
    if isinstance(value, dict):
        return {printable(key): _fit(inner) for key, inner in value.items()}
    return list(map(_fit, value)) if isinstance(value, list) else value


def _authorization(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    """User and password of the URL, else of the environment, which go over no network as they are."""
    parts = urlsplit(place.url)
    if parts.username is not None:
        known = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    elif known := environ.get("SNAPROTD_STATUS_AUTH", ""):
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise Unreachable(f"$SNAPROTD_STATUS_AUTH is not sent to {place}: it would go over the network as it is")
    else:
        return {}
    return {"Authorization": f"Basic {b64encode(known.encode(errors='replace')).decode()}"}


# -- one request -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    reason: str
    body: bytes

    def json(self, place: Place) -> Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"what answers at {place} is no snaprotd: {in_one_line(str(error))}") from error

    def in_words(self) -> str:
        """Its status, and the first line of what it says: a daemon whose ledger cannot be read says so."""
        said = self.body[:300].decode(errors="replace").partition("\n")[0]
        is_sentence = bool(said) and not said.startswith("<")
        return in_one_line(f"{self.status} {self.reason}" + (f": {said}" if is_sentence else ""), 2 * LONGEST_TEXT)


class _SocketConnection(HTTPConnection):
    """To a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(place: Place, path: str, headers: Mapping[str, str], *, timeout: float) -> Answer:
    """The environment's proxies are not used: the daemon is near. No redirection is followed."""

    def ask() -> Answer:
        with closing(_connection(place, timeout)) as connection:
            prefix = "" if place.url.startswith("unix:") else urlsplit(place.url).path
            whole = prefix.rstrip("/").removesuffix("/api/status") + path
            connection.request("GET", whole, headers={**headers, "Connection": "close"})
            answer = connection.getresponse()
            return Answer(answer.status, answer.reason, answer.read(LARGEST))

    try:
        return _within(timeout, ask)
    except (ValueError, HTTPException, ssl.SSLError, ConnectionResetError) as error:
        raise Unreachable(f"what answers at {place} is no snaprotd: {in_one_line(str(error))}") from error
    except OSError as error:
        reason = error.strerror or error
        raise Unreachable(
            f"no daemon answers at {place}: {reason}. Is it running? Name its address with --url"
        ) from error


def _connection(place: Place, timeout: float) -> HTTPConnection:
    if place.url.startswith("unix:"):
        return _SocketConnection(place.url.removeprefix("unix:"), timeout)
    parts = urlsplit(place.url)
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    context = ssl.create_default_context()
    if place.certificate is not None:
        context.check_hostname = False
        context.load_verify_locations(place.certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=context)


def _within(timeout: float, work: Callable[[], T]) -> T:
    """Of a time-out of the socket each byte would have its own, and who trickles would be waited for without end."""
    results: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError("timed out") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _is_address(text: str) -> bool:
    if text.startswith("unix:"):
        return text.startswith("unix:/") and "\0" not in text
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
