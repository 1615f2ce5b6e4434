"""The way out, as the environment has it: through which proxy, and whose certificates are trusted.

httpx would read these variables itself; but it ends with a traceback, or without a name, at what it does not know.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import structlog

from snaprotd.core.errors import SnaprotdError
from snaprotd.core.words import is_loopback

log = structlog.get_logger("snaprotd")


class BadEnvironment(SnaprotdError):
    """A variable of the environment leads nowhere. The text names it, and what it names."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names."""

    variable: str
    url: str
    """As it is to be used; it may hold a name and a password."""

    def __str__(self) -> str:
        return f"the proxy {_without_user(self.url).partition('://')[2].rstrip('/')} ({self.variable})"


def proxy_to(host: str, port: int, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy through which a host is reached, over https; None for the direct way.

    Raises `BadEnvironment` where a variable names none that we know how to use.
    """
    # A proxy is for the world outside: on loopback it would only be handed the token.
    if is_loopback(host) or _is_excepted(host, port, environ):
        return None
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        if value := environ.get(name, "").strip():
            return Proxy(name, _checked(name, value))
    return None


def _checked(variable: str, value: str) -> str:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    else:
        if parts.scheme.startswith("socks"):
            raise BadEnvironment(f"{variable} names a SOCKS proxy: snaprotd knows http and https proxies")
        if parts.scheme not in ("http", "https"):
            shown = _without_user(value)
            raise BadEnvironment(f"{variable} names the proxy {shown}: snaprotd knows http and https proxies")
    if not host or not url.isprintable() or " " in url:
        raise BadEnvironment(f"{variable} names no proxy: it should be http://HOST:PORT, not {_without_user(value)}")
    return url


def _without_user(url: str) -> str:
    """An address without the name and the password in it."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _is_excepted(host: str, port: int, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names the host: by name or domain, by address or network, with a port or without."""
    variable = next((name for name in ("no_proxy", "NO_PROXY") if environ.get(name)), "")
    judged = [_excepts(one, host, port, variable) for one in environ.get(variable, "").replace(",", " ").split()]
    return any(judged)  # of all of them, so that each that cannot be read is told


def _excepts(entry: str, host: str, port: int, variable: str) -> bool:
    if entry == "*":
        return True
    try:
        if "/" in entry:
            return _is_within(host, entry)
        named, asked = _place(entry)
    except ValueError:
        log.warning("an entry of a variable cannot be read: it is passed over", variable=variable, entry=entry)
        return False
    domain = named.lower().removeprefix("*").strip(".")
    fits = bool(domain) and (host == domain or host.endswith(f".{domain}"))
    return fits and asked in (None, port)


def _is_within(host: str, network: str) -> bool:
    addresses = ip_network(network.replace("[", "").replace("]", ""), strict=False)
    try:
        return ip_address(host) in addresses
    except ValueError:  # a name: what it stands for is not looked up
        return False


def _place(entry: str) -> tuple[str, int | None]:
    """Host and port of an entry. Raises `ValueError` where it is neither a name nor an address."""
    try:
        return str(ip_address(entry)), None  # an IPv6 address has colons of its own
    except ValueError:
        place = urlsplit(f"//{entry}")
    if not place.hostname:
        raise ValueError(entry)
    return place.hostname, place.port


# -- certificates --------------------------------------------------------------------------------------------------


def trusted(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Trusts whom $SSL_CERT_FILE names, else $SSL_CERT_DIR, else the authorities that certifi lists.

    Raises `BadEnvironment` where a variable names what cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificates, and host names
    # Not `ssl.create_default_context`: it writes down the keys of each connection where $SSLKEYLOGFILE says.
    if named := environ.get("SSL_CERT_FILE"):
        _load(context, "SSL_CERT_FILE", Path(named))
    elif named := environ.get("SSL_CERT_DIR"):
        _demand_folder("SSL_CERT_DIR", Path(named))
        context.load_verify_locations(capath=named)
    else:
        context.load_verify_locations(cafile=certifi.where())
    return context


def _load(context: ssl.SSLContext, variable: str, path: Path) -> None:
    try:
        if not path.is_file():
            why = "a directory, not a file" if path.is_dir() else "not a file" if path.exists() else "no such file"
            raise BadEnvironment(f"{variable} names {path}: {why}")
        if not path.stat().st_size:  # as the kernel's own files have it, some of which OpenSSL would wait for
            raise ssl.SSLError
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise BadEnvironment(f"{variable} names {path}: it holds no certificates that can be read") from error
    except (OSError, ValueError) as error:
        raise BadEnvironment(f"{variable} names {path}: {getattr(error, 'strerror', None) or error}") from error


def _demand_folder(variable: str, path: Path) -> None:
    try:
        names = os.listdir(path)
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower().replace("file or directory", "folder")
        raise BadEnvironment(f"{variable} names {path}: {why}") from error
    if not any(_is_hashed(name) for name in names):
        log.warning("a variable names a folder without certificates named by their hash", variable=variable)


def _is_hashed(name: str) -> bool:
    """`5ed36f99.0`, as `openssl rehash` names them; nothing else in the folder is looked at."""
    head, _, number = name.partition(".")
    return len(head) == 8 and number.isdecimal() and set(head) <= set("0123456789abcdef")
