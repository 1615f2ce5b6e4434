"""Reads a running daemon's status report over HTTP."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from snaprotd.config import Config
from snaprotd.errors import SnaprotdError
from snaprotd.status import VERSION

TIMEOUT = 10.0
"""Seconds."""
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


def read_status(url: str) -> dict[str, Any]:
    """Raises `Unreachable` with a sentence for the user."""
    address = url.rstrip("/").removesuffix("/api/status") + "/api/status"
    if not _is_address(address):
        raise Unreachable(f"{url} is no address: write it as http://HOST:PORT")
    try:
        # Without the environment's proxies: the daemon is near.
        with build_opener(ProxyHandler({})).open(address, timeout=TIMEOUT) as answer:
            report = json.loads(answer.read(LARGEST))
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise Unreachable(
            f"no daemon answers at {url}: {reason}. Is it running? Name its address with --url"
        ) from error
    except (OSError, ValueError, HTTPException) as error:
        raise Unreachable(f"what answers at {url} is no snaprotd: {error}") from error
    if not isinstance(report, dict) or report.get("version") != VERSION:
        raise Unreachable(f"what answers at {url} is no snaprotd of this version")
    return report


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
