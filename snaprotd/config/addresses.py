"""The forms of addresses in the file: of the provider, the pages, the ledger, a mail server; and paths of files."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from snaprotd.core.words import is_loopback, without_user

Listen = tuple[str, int] | Path | None
"""Host and port, the path of a Unix socket, or None for nowhere."""

LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path: what the kernel has room for."""

_EXPECTED = 'should be host:port, such as 127.0.0.1:9877 or "[::1]:9877", or unix:/path, or off'
_NAME = r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*"


def read_listen(value: object) -> Listen:
    """Host and port of `host:port`, an IPv6 address in brackets; the path of `unix:/path`; None for `off`."""
    if value == "off":
        return None
    text = value if isinstance(value, str) else ""
    if text.startswith("unix:"):
        return _socket(text.removeprefix("unix:"))
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise ValueError(_EXPECTED)
    if found[1]:
        try:
            ipaddress.IPv6Address(found[1])
        except ValueError:
            raise ValueError(_EXPECTED) from None
    return found[1] or found[2], int(found[3])


def _socket(path: str) -> Path:
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ValueError("should be unix: and the whole path of a socket, such as unix:/run/snaprotd/http.sock")
    if len(os.fsencode(path)) > LONGEST_SOCKET:
        raise ValueError(f"should be a path of {LONGEST_SOCKET} bytes at the most: no socket's may be longer")
    return Path(path)


def written_listen(listen: tuple[str, int] | Path) -> str:
    """As a user would write it."""
    if isinstance(listen, Path):
        return f"unix:{listen}"
    host, port = listen
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_host(text: str) -> str:
    """A name that may stand in the header Host, in lower case, as it is compared."""
    if re.fullmatch(r"[0-9.]+|\[.*\]|.*:.*:.*", text):
        raise ValueError("should be a name: every IP address is allowed")
    if not re.fullmatch(_NAME, text):
        raise ValueError("should be a host's name, such as snaprotd.example.org: no scheme, no port, no `*`")
    return text.lower()


def is_open_beyond(listen: Listen) -> bool:
    """Whether other machines may reach it, as far as the address alone tells."""
    return isinstance(listen, tuple) and not is_loopback(listen[0])


def read_base_url(text: object) -> str:
    """The URL without a slash at its end."""
    if not isinstance(text, str):
        raise ValueError("should be a URL such as https://admin.vps.org/api/v1")
    if re.search(r"[^\x21-\x7e]", text):
        raise ValueError("should be a URL without spaces or special characters")
    if "@" in text:
        raise ValueError("should hold no user name or password: the token goes with each request")
    if "?" in text or "#" in text:
        raise ValueError("should end with its path: no `?` and no `#`")
    if not _is_safe_url(text):
        raise ValueError("should be an https:// URL; http:// only to this machine (127.0.0.1, [::1], localhost)")
    return text.rstrip("/")


def _is_safe_url(text: str) -> bool:
    """Whether the token may be sent there: encrypted, or without leaving this machine."""
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:  # a broken [address] or port
        return False
    return bool(host) and (url.scheme == "https" or (url.scheme == "http" and is_loopback(host or "")))


def read_state(value: object) -> str:
    """The path of a ledger, or its URL."""
    text = value if isinstance(value, str) else ""
    url: SplitResult | None = urlsplit(text) if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) else None
    if re.match(r"\s*(host|hostaddr|port|dbname|user|password|service|sslmode)\s*=", text):
        raise ValueError("write it as a URL: postgresql://HOST/DATABASE, with `state_password_file`")
    if url is None and text and text.isprintable():
        return text
    if url is not None and url.scheme == "postgresql" and "@" in text and without_user(text) is None:
        raise ValueError("in user, password and parameters write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #")
    if url is not None and url.scheme == "postgresql" and text.isprintable() and " " not in text:
        return text  # libpq knows where, if the URL does not say
    raise ValueError("should be the path of a file, or postgresql://HOST/DATABASE")


def read_path(value: object) -> Path:
    """Of a file, as it is written."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("should be the path of a file")
    return Path(value)


def read_smtp(value: object) -> tuple[str, int]:
    """Host and port of a mail server."""
    text = value if isinstance(value, str) else ""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]{1,253})):([0-9]{1,5})", text)
    if found is None or not 0 < int(found[3]) < 65536:
        raise ValueError("should be host:port, such as mail.example.org:587")
    return found[1] or found[2], int(found[3])


def read_mailbox(value: object) -> str:
    """A mail address, and no name before it."""
    text = value if isinstance(value, str) else ""
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@" + _NAME.replace("(?=.{1,253}$)", ""), text):
        raise ValueError("should be a mail address, such as ops@example.org")
    return text
