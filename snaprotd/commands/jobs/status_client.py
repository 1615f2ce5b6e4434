"""Reads a running daemon's status report over HTTP."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from snaprotd.config.settings import Config
from snaprotd.core.errors import SnaprotdError
from snaprotd.core.words import LONGEST_TEXT, in_one_line, printable
from snaprotd.ledger.address import name_of
from snaprotd.report.status import VERSION

TIMEOUT = 10.0
"""Seconds."""
QUICKLY = 3.0
LARGEST = 64 * 1024 * 1024
"""Bytes of a report."""

DEFAULT = ("127.0.0.1", 9877)
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address to ask, not one to listen on


class Unreachable(SnaprotdError):
    """No daemon answers, or what answers is none."""


def default_url(config: Config | None) -> str:
    """Where the daemon of this configuration listens. Raises `Unreachable` where it does not."""
    listen = config.listen if config else DEFAULT
    if listen is None:
        raise Unreachable("the daemon does not listen (`listen: off`): `snaprotd history` shows what it has done")
    host, port = EVERYWHERE.get(listen[0], listen[0]), listen[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def refuse_another_ledger(config: Config) -> None:
    """Raise `SnaprotdError` where a daemon of this very configuration runs here and has another ledger.

    That is so where `state` is left to the folder or the environment: the two would not know of each other.
    """
    try:
        running = read_status(default_url(config), timeout=QUICKLY)
    except Unreachable:
        return
    theirs, ours = str(running.get("ledger")), name_of(config.state)
    is_same = os.path.realpath(str(running["config"]["path"])) == os.path.realpath(config.path)
    if is_same and os.path.realpath(theirs) != os.path.realpath(ours):
        raise SnaprotdError(
            f"the daemon that runs here has its ledger in {theirs}, and this command would use {ours}: "
            f"nothing was done. Name that ledger with `state`, or set STATE_DIRECTORY={os.path.dirname(theirs)}"
        )


def read_status(url: str, *, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Raises `Unreachable` with a sentence for the user."""
    address = url.rstrip("/").removesuffix("/api/status") + "/api/status"
    if not _is_address(address):
        raise Unreachable(f"{url} is no address: write it as http://HOST:PORT")
    try:
        # Without the environment's proxies: the daemon is near.
        with build_opener(ProxyHandler({})).open(address, timeout=timeout) as answer:
            report = _fit(json.loads(answer.read(LARGEST)))
    except HTTPError as error:
        raise Unreachable(f"what answers at {url} tells no status: {_answer(error)}") from error
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise Unreachable(
            f"no daemon answers at {url}: {reason}. Is it running? Name its address with --url"
        ) from error
    except (OSError, ValueError, RecursionError, HTTPException) as error:
        raise Unreachable(f"what answers at {url} is no snaprotd: {in_one_line(str(error))}") from error
    if not isinstance(report, dict) or report.get("version") != VERSION:
        raise Unreachable(f"what answers at {url} is no snaprotd of this version")
    return report


def _fit(value: Any) -> Any:
    """What somebody says on that address, who may be anybody, as it may be shown."""
    if isinstance(value, str):
        return printable(value, len(value))
    if isinstance(value, dict):
        return {printable(key): _fit(inner) for key, inner in value.items()}
    return list(map(_fit, value)) if isinstance(value, list) else value


def _answer(error: HTTPError) -> str:
    """Its status, and the first line of what it says: a daemon whose ledger cannot be read says so."""
    said = ""
    with suppress(OSError, HTTPException):
        said = error.read(300).decode(errors="replace").partition("\n")[0]
    is_sentence = bool(said) and not said.startswith("<")
    return in_one_line(f"{error.code} {error.reason}" + (f": {said}" if is_sentence else ""), 2 * LONGEST_TEXT)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
